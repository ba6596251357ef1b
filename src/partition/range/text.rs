//! Tables of ranges as text.

use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use super::super::line::{Line, Name, SyntaxError, lines, without_mark};
use super::table::{BytesTable, NumericTable, RangeTable};
use super::{Range, RangeError};
use crate::partition::password::Shown;

impl Range {
    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// A table begins with its kind and its prefix, then come its ranges, each with the name of its node.
    /// `default` before the first table is the overall default node, within a table that table's. Prefixes
    /// and bounds of bytes stand in double quotes, and so do names with white space; there `\"`, `\\`, `\n`,
    /// `\r`, `\t` and `\xff` stand for one byte each. `#` starts a comment. A byte-order mark at the start is
    /// passed over.
    ///
    /// ```
    /// use redis_sharding::partition::Range;
    ///
    /// let rule = Range::parse(r#"
    ///     default spare              # keys of no table
    ///
    ///     numeric "user:"
    ///         0..=10000      a
    ///         10001..=20000  b
    ///         20001..        c       # no end
    ///         default        d       # keys such as user:anonymous
    ///
    ///     bytes "city:"
    ///         .."n"          a
    ///         "n"..          b
    /// "#)?;
    /// assert_eq!(Range::parse(&rule.to_string())?, rule);
    ///
    /// let refusal = Range::parse("numeric \"user:\"\n0..=10 a\n5.. b").unwrap_err();
    /// let message = r#"numeric "user:", 0..=10 a (line 2) and numeric "user:", 5.. b (line 3) overlap"#;
    /// assert_eq!(refusal.to_string(), message);
    /// # Ok::<(), redis_sharding::partition::RangeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When a line cannot be read, or as [`RangeBuilder::build`](super::RangeBuilder::build).
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let mut builder = Self::builder();
        for mut line in lines(without_mark(text)) {
            if let Some(table) = table(&mut line)? {
                builder.tables.push(table);
            } else if line.keyword("default") {
                let default = match builder.tables.last_mut() {
                    None => &mut builder.default,
                    Some(RangeTable::Bytes(BytesTable(table))) => &mut table.default,
                    Some(RangeTable::Numeric(NumericTable(table))) => &mut table.default,
                };
                if default.is_some() {
                    return Err(line.error("there is a default here already").into());
                }
                *default = Some(line.last_name()?);
            } else {
                match builder.tables.last_mut() {
                    Some(RangeTable::Bytes(table)) => bytes(&mut line, table)?,
                    Some(RangeTable::Numeric(table)) => numeric(&mut line, table)?,
                    None => {
                        return Err(line
                            .error("a table must begin before this: numeric or bytes")
                            .into());
                    }
                }
            }
        }
        builder.build()
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        Self::parse(text)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = self.default_node() {
            writeln!(f, "default {}", Name(node))?;
        }
        for table in self.tables() {
            writeln!(f, "{}", table.title())?;
            table
                .lines()
                .iter()
                .try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        Ok(())
    }
}

/// The first line of a table, if this is one.
fn table(line: &mut Line<'_>) -> Result<Option<RangeTable>, SyntaxError> {
    let new: fn(&[u8]) -> RangeTable = if line.keyword("numeric") {
        |prefix| NumericTable::new(prefix).into()
    } else if line.keyword("bytes") {
        |prefix| BytesTable::new(prefix).into()
    } else {
        return Ok(None);
    };
    let prefix = line
        .quoted()?
        .ok_or_else(|| line.error("the prefix in quotes is missing"))?;
    line.end()?;
    Ok(Some(new(&prefix)))
}

fn bytes(line: &mut Line<'_>, table: &mut BytesTable) -> Result<(), SyntaxError> {
    let start = line.quoted()?;
    if !line.symbol("..") {
        return Err(line
            .error("this is no range of bytes such as \"a\"..\"n\", nor a table, nor a default"));
    }
    let inclusive = line.symbol("=");
    let start = start.map_or(Bound::Unbounded, Bound::Included);
    let end = match line.quoted()? {
        None if inclusive => return Err(line.error("the end in quotes is missing after ..=")),
        None => Bound::Unbounded,
        Some(end) if inclusive => Bound::Included(end),
        Some(end) => Bound::Excluded(end),
    };
    table.add((start, end), line.last_name()?, Some(line.number));
    Ok(())
}

fn numeric(line: &mut Line<'_>, table: &mut NumericTable) -> Result<(), SyntaxError> {
    let word = line.word().unwrap_or_default();
    let range = numbers(word).ok_or_else(|| {
        line.error(format!(
            "{} is no range of numbers such as 0..=10000, nor a table, nor a default",
            Shown(word)
        ))
    })?;
    table.add(range, line.last_name()?, Some(line.number));
    Ok(())
}

fn numbers(word: &str) -> Option<(Bound<u64>, Bound<u64>)> {
    let (start, end) = word.split_once("..")?;
    let start = if start.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Included(number(start)?)
    };
    let end = match end.strip_prefix('=') {
        Some(last) => Bound::Included(number(last)?),
        None if end.is_empty() => Bound::Unbounded,
        None => Bound::Excluded(number(end)?),
    };
    Some((start, end))
}

/// Digits only: `str::parse` takes a plus sign too.
fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn range_text_is_parsed_back() {
        let rule = Range::builder()
            .table(
                NumericTable::new("user:")
                    .range(..10, "a")
                    .range(10..=u64::MAX, "with space"),
            )
            .table(
                NumericTable::new([0xff, b'"'])
                    .range(5..6, "#")
                    .range(8..9, "default")
                    .default_node("\"quoted\""),
            )
            .table(
                BytesTable::new("")
                    .range(..="n", "")
                    .range::<&[u8]>((Bound::Excluded(&b"n"[..]), Bound::Unbounded), "é"),
            )
            .default_node("..")
            .build()
            .unwrap();
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn range_text_may_have_any_order_and_spacing() {
        let written =
            Range::parse("bytes \"c:\"\n\"n\"..\tb\n\"\"..\"n\" \"a\" # comment").unwrap();
        let built = Range::builder()
            .table(BytesTable::new("c:").range(.."n", "a").range("n".., "b"))
            .build()
            .unwrap();
        assert_eq!(written, built);
    }

    #[test]
    fn range_parse_error_names_the_line() {
        let refusal = |text: &str| Range::parse(text).unwrap_err().to_string();
        assert_eq!(
            refusal("0..=9 a"),
            "line 1: a table must begin before this: numeric or bytes"
        );
        assert_eq!(
            refusal("numeric user:"),
            "line 1: the prefix in quotes is missing"
        );
        assert_eq!(
            refusal("numeric \"a\" b"),
            "line 1: \"b\" is unexpected here"
        );
        assert_eq!(refusal("numeric \"a"), "line 1: the quotes are not closed");
        assert_eq!(
            refusal("default a\n\ndefault b"),
            "line 3: there is a default here already"
        );
        let wrong = |range| refusal(&format!("numeric \"a\"\n# comment\n{range} a"));
        for range in [
            "5",
            "0-9",
            "0..=",
            "-1..5",
            "+1..5",
            "..=x",
            "0..=99999999999999999999",
            "else",
        ] {
            let cause = "is no range of numbers such as 0..=10000, nor a table, nor a default";
            assert_eq!(wrong(range), format!("line 3: {range:?} {cause}"));
        }
        assert_eq!(wrong("0..=9 b"), "line 3: \"a\" is unexpected here");
        let wrong = |range| refusal(&format!("bytes \"a\"\n{range}"));
        let cause =
            "line 2: this is no range of bytes such as \"a\"..\"n\", nor a table, nor a default";
        assert_eq!(wrong("a..b c"), cause);
        assert_eq!(wrong("\"a\" .. c"), cause);
        assert_eq!(
            wrong("..= a"),
            "line 2: the end in quotes is missing after ..="
        );
        assert_eq!(wrong("\"a\".."), "line 2: the name of a node is missing");
        assert_eq!(refusal("# nothing"), "there is no table of ranges");
    }

    #[test]
    fn range_builder_errors_name_the_lines_of_the_text() {
        let refusal = |text: &str| Range::parse(text).unwrap_err().to_string();
        let gap = refusal("numeric \"a\"\n5.. b\n0..=3 a");
        assert!(
            gap.starts_with(
                "numeric \"a\", 0..=3 a (line 3) and numeric \"a\", 5.. b (line 2) leave a gap"
            ),
            "{gap}"
        );
    }

    proptest! {
        #[test]
        fn range_parse_never_panics_on_arbitrary_text(
            text in prop::collection::vec(
                prop::sample::select(vec!["numeric", "bytes", "default", "\"a", "\"", " ", "\n", "..", "=", "0", "9", "#"]),
                0..30,
            ),
        ) {
            if let Ok(rule) = Range::parse(&text.concat()) {
                prop_assert_eq!(Range::parse(&rule.to_string()), Ok(rule));
            }
        }
    }
}
