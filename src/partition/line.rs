//! Lines of the small text files that tables are written in.
//!
//! One statement a line, words between white space, `#` before a comment. Text in double quotes may hold any
//! byte: `\"`, `\'`, `\\`, `\n`, `\r`, `\t` and `\xff` stand for one each.

use std::fmt;

use crate::partition::password::{ADVICE, Shown, holds_password};

/// A line of text that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
#[non_exhaustive]
pub struct SyntaxError {
    /// The number of the line, from one.
    pub line: usize,
    /// Description of the error.
    pub cause: String,
}

/// How a word is written: bare or in quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Bare,
    Quoted,
}

/// The rest of one line.
#[derive(Clone, Debug)]
pub(crate) struct Line<'t> {
    pub(crate) number: usize,
    rest: &'t str,
}

/// A text without the byte-order mark that some editors put in front of it.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The lines that say something.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let lines = (1..).zip(text.lines()).map(|(number, rest)| Line {
        number,
        rest: skip(rest),
    });
    lines.filter(|line| !line.rest.is_empty())
}

impl<'t> Line<'t> {
    /// The next word, if there is one, and the white space after it.
    pub(crate) fn word(&mut self) -> Option<&'t str> {
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = skip(rest);
        (!word.is_empty()).then_some(word)
    }

    /// Takes this word, if it is the next one.
    pub(crate) fn keyword(&mut self, keyword: &str) -> bool {
        let mut ahead = self.clone();
        let found = ahead.word() == Some(keyword);
        if found {
            *self = ahead;
        }
        found
    }

    /// Takes these characters, if they come next. White space after them stays.
    pub(crate) fn symbol(&mut self, symbol: &str) -> bool {
        let rest = self.rest.strip_prefix(symbol);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Any bytes, if quotes come next. White space after them stays.
    pub(crate) fn quoted(&mut self) -> Result<Option<Vec<u8>>, SyntaxError> {
        let mut bytes = Vec::new();
        match unquote(self.rest, |part| bytes.extend_from_slice(part)) {
            Quotes::None => Ok(None),
            Quotes::UpTo(rest) => {
                self.rest = rest;
                Ok(Some(bytes))
            }
            Quotes::Open => Err(self.error("the quotes are not closed")),
            Quotes::UnknownEscape => Err(self.error("the escape after \\ is unknown")),
        }
    }

    /// The last thing on the line: a name, in quotes or not.
    pub(crate) fn last_name(&mut self) -> Result<String, SyntaxError> {
        self.rest = skip(self.rest);
        let name = match self.quoted()? {
            Some(bytes) => {
                String::from_utf8(bytes).map_err(|_| self.error("the name is not UTF-8"))?
            }
            None => self
                .word()
                .ok_or_else(|| self.error("the name of a node is missing"))?
                .to_owned(),
        };
        if holds_password(&name) {
            return Err(self.error(format!("the name of a node {ADVICE}")));
        }
        self.end()?;
        Ok(name)
    }

    /// Text, if quotes come next. White space after them stays.
    pub(crate) fn quoted_text(&mut self) -> Result<Option<String>, SyntaxError> {
        let text = self.quoted()?.map(String::from_utf8).transpose();
        text.map_err(|_| self.error("the text in quotes is not UTF-8"))
    }

    /// The next word or text in quotes, and the white space after it.
    pub(crate) fn token(&mut self) -> Result<Option<(String, Written)>, SyntaxError> {
        let token = match self.quoted_text()? {
            Some(text) => Some((text, Written::Quoted)),
            None => self.word().map(|word| (word.to_owned(), Written::Bare)),
        };
        self.space();
        Ok(token)
    }

    /// Everything up to a comment, if there is anything.
    pub(crate) fn statement(&mut self) -> Option<&'t str> {
        let comment = |(at, _): &(usize, char)| {
            self.rest[..*at].ends_with(char::is_whitespace) && self.rest[*at..].starts_with('#')
        };
        let end = self.rest.char_indices().find(comment);
        let (statement, _) = self
            .rest
            .split_at(end.map_or(self.rest.len(), |(at, _)| at));
        self.rest = "";
        let statement = statement.trim_end();
        (!statement.is_empty()).then_some(statement)
    }

    /// The text behind a bar at the start of the line, a space after it left out.
    pub(crate) fn block(&self) -> Option<&'t str> {
        let text = self.rest.strip_prefix('|')?;
        Some(text.strip_prefix(' ').unwrap_or(text))
    }

    /// Passes over white space and a comment.
    pub(crate) fn space(&mut self) {
        self.rest = skip(self.rest);
    }

    /// Refuses whatever is left.
    pub(crate) fn end(&self) -> Result<(), SyntaxError> {
        match skip(self.rest) {
            "" => Ok(()),
            rest => Err(self.error(format!("{} is unexpected here", Shown(rest)))),
        }
    }

    pub(crate) fn error(&self, cause: impl Into<String>) -> SyntaxError {
        SyntaxError {
            line: self.number,
            cause: cause.into(),
        }
    }
}

/// The statements of one line, which commas separate, each on a line of its own.
///
/// A comma followed by a space separates unless it stands in quotes, and whatever has white space stands in
/// quotes. A text of several lines has a statement on each already.
pub(crate) fn split(text: &str) -> String {
    if text.contains('\n') {
        return text.to_owned();
    }
    let mut lines = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(comma) = end_of_statement(rest) {
        let (statement, after) = rest.split_at(comma);
        lines.push_str(statement);
        lines.push('\n');
        rest = &after[SEPARATOR.len()..];
    }
    lines + rest
}

/// Separates two statements of one line.
const SEPARATOR: &str = ", ";

/// Where the first separator is that does not stand in quotes.
///
/// A statement is a range, of which either end may stand in quotes, and a name, which may stand in quotes
/// too; quotes elsewhere are characters as any other. Every character is looked at a bounded number of times,
/// whatever the text is.
fn end_of_statement(text: &str) -> Option<usize> {
    let position = |rest: &str| text.len() - rest.len();
    let separator = |rest: &str| Some(position(rest) + rest.find(SEPARATOR)?);
    let mut rest = text.trim_start();
    if rest.starts_with('#') {
        return separator(rest);
    }
    rest = behind_quotes(rest)?;
    if let Some(end) = rest.strip_prefix("..") {
        rest = behind_quotes(end.strip_prefix('=').unwrap_or(end))?;
    }
    let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(word);
    if word.ends_with(',') && behind.starts_with(' ') {
        return Some(position(behind) - 1);
    }
    separator(behind_quotes(behind.trim_start())?)
}

/// Returns the rest after text in quotes; all of the text if it does not start with a quote, and `None` if
/// the quotes are broken.
fn behind_quotes(text: &str) -> Option<&str> {
    match unquote(text, |_| ()) {
        Quotes::None => Some(text),
        Quotes::UpTo(rest) => Some(rest),
        Quotes::Open | Quotes::UnknownEscape => None,
    }
}

/// The quotes at the start of a text.
enum Quotes<'t> {
    None,
    /// They are closed, and this follows.
    UpTo(&'t str),
    Open,
    UnknownEscape,
}

/// Hands over the bytes between the quotes at the start of a text, piece by piece.
fn unquote(text: &str, mut take: impl FnMut(&[u8])) -> Quotes<'_> {
    let Some(mut rest) = text.strip_prefix('"') else {
        return Quotes::None;
    };
    loop {
        let Some(plain) = rest.find(['"', '\\']) else {
            return Quotes::Open;
        };
        take(&rest.as_bytes()[..plain]);
        if let Some(after) = rest[plain..].strip_prefix('"') {
            return Quotes::UpTo(after);
        }
        let escape = &rest[plain + 1..];
        let Some((byte, length)) = unescape(escape) else {
            return Quotes::UnknownEscape;
        };
        take(&[byte]);
        rest = &escape[length..];
    }
}

/// Bytes in quotes, as [`Line::quoted`] reads them.
pub(crate) struct Quoted<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A name as [`Line::last_name`] reads it: in quotes only where it must be.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if self.0.is_empty() || self.0.starts_with(['"', '#']) || self.0.contains(odd) {
            Quoted(self.0.as_bytes()).fmt(f)
        } else {
            f.write_str(self.0)
        }
    }
}

/// Skips white space, and all of the rest if that is a comment.
fn skip(text: &str) -> &str {
    let text = text.trim();
    if text.starts_with('#') { "" } else { text }
}

/// The byte of an escape, and how long the escape is after its backslash.
fn unescape(escape: &str) -> Option<(u8, usize)> {
    let byte = match escape.as_bytes().first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'x' => {
            let digits = escape
                .get(1..3)
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
            return Some((u8::from_str_radix(digits, 16).ok()?, 3));
        }
        &byte @ (b'"' | b'\'' | b'\\') => byte,
        _ => return None,
    };
    Some((byte, 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Line<'_> {
        lines(text).next().unwrap()
    }

    #[test]
    fn comments_and_empty_lines_are_skipped_by_the_line_reader() {
        let text = "# comment\n\n  one two # comment\n \t\nthree#four";
        let said: Vec<_> = lines(text).map(|line| (line.number, line.rest)).collect();
        assert_eq!(said, [(3, "one two # comment"), (5, "three#four")]);
        let mut line = line(text);
        assert_eq!(
            [line.word(), line.word(), line.word()],
            [Some("one"), Some("two"), None]
        );
    }

    #[test]
    fn quoted_text_with_broken_quotes_is_refused() {
        for text in [
            "\"abc",
            "\"\\q\"",
            "\"\\x+1\"",
            "\"\\x1\"",
            "\"\\",
            "\"\\xé\"",
        ] {
            assert!(line(text).quoted().is_err(), "{text}");
        }
    }

    /// The definition: the first separator before which all quotes are closed.
    fn naive_split(text: &str) -> String {
        fn closed(statement: &str) -> bool {
            let mut line = Line {
                number: 1,
                rest: skip(statement),
            };
            let mut read = || {
                line.quoted()?;
                if line.symbol("..=") || line.symbol("..") {
                    line.quoted()?;
                }
                line.word();
                line.quoted()
            };
            read().is_ok()
        }
        if text.contains('\n') {
            return text.to_owned();
        }
        let mut lines = String::new();
        let mut rest = text;
        loop {
            let ends: Vec<usize> = rest.match_indices(SEPARATOR).map(|(at, _)| at).collect();
            // Overlapping separators there are none.
            let Some(&end) = ends.iter().find(|&&end| closed(&rest[..end])) else {
                return lines + rest;
            };
            lines += &rest[..end];
            lines.push('\n');
            rest = &rest[end + SEPARATOR.len()..];
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn statements_are_split_as_a_naive_splitter_does(text in "[\"\\\\., #=xa\t]{0,24}") {
            prop_assert_eq!(split(&text), naive_split(&text));
        }
    }

    proptest! {
        #[test]
        fn quoted_bytes_are_parsed_back(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let text = Quoted(&bytes).to_string();
            let mut line = line(&text);
            prop_assert_eq!(line.quoted().unwrap(), Some(bytes));
            prop_assert!(line.end().is_ok());
        }

        #[test]
        fn node_names_in_a_line_are_parsed_back(name in any::<String>()) {
            prop_assume!(!holds_password(&name));
            prop_assert_eq!(line(&Name(&name).to_string()).last_name().unwrap(), name);
        }

        #[test]
        fn joined_statements_are_split_at_the_same_places(
            statements in prop::collection::vec(
                (any::<String>(), prop::collection::vec(any::<u8>(), 0..9), "[\"., \\\\a]{0,8}"),
                1..5,
            ),
        ) {
            let statements: Vec<_> = statements
                .iter()
                .flat_map(|(name, bound, odd)| [
                    format!("0-7 {}", Name(odd)),
                    format!("default {}", Name(name)),
                    format!("{}..={} {}", Quoted(bound), Quoted(odd.as_bytes()), Name(odd)),
                    format!("..{} {}", Quoted(bound), Name(odd)),
                ])
                .collect();
            prop_assert_eq!(split(&statements.join(", ")), statements.join("\n"));
        }

        #[test]
        fn line_reader_never_panics_on_arbitrary_text(text in "[\"\\\\#x0aé .]{0,20}") {
            for mut line in lines(&text) {
                let _ = line.quoted();
                let _ = line.last_name();
                let _ = split(&text);
            }
        }
    }
}
