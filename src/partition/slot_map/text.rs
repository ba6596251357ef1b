//! A slot map as text.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::super::line::{lines, without_mark};
use super::{Numbering, SlotMap, SlotMapError};
use crate::partition::password::Shown;

impl SlotMap {
    /// Reads what [`Display`](fmt::Display) writes: a range and a name per line, or the single word `even`.
    ///
    /// Slots are written as Redis writes them, `0-5460` or `7`. Names with white space stand in double
    /// quotes, `#` starts a comment. A byte-order mark at the start is passed over.
    ///
    /// ```
    /// use redis_sharding::partition::SlotMap;
    ///
    /// let map = SlotMap::parse("
    ///     0-8191      a  # the lower half
    ///     8192-16383  b
    /// ")?;
    /// assert_eq!(SlotMap::parse(&map.to_string())?, map);
    /// # Ok::<(), redis_sharding::partition::SlotMapError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When a line cannot be read, or not every slot is in exactly one range.
    pub fn parse(text: &str) -> Result<Self, SlotMapError> {
        Self::parse_of(Numbering::Cluster, text)
    }

    pub(in super::super) fn parse_of(
        numbering: Numbering,
        text: &str,
    ) -> Result<Self, SlotMapError> {
        let text = without_mark(text);
        let mut ranges = Vec::new();
        for mut line in lines(text) {
            if ranges.is_empty() && line.keyword("even") {
                line.end()?;
                return match lines(text).nth(1) {
                    None => Ok(Self::even_of(numbering)),
                    Some(more) => Err(more.error("\"even\" must stand alone").into()),
                };
            }
            let word = line.word().unwrap_or_default();
            let slots = slots(word).ok_or_else(|| {
                line.error(format!(
                    "{} is no range of slots such as 0-5460",
                    Shown(word)
                ))
            })?;
            ranges.push((slots, line.last_name()?));
        }
        Self::from_ranges_of(numbering, ranges)
    }
}

impl FromStr for SlotMap {
    type Err = SlotMapError;

    fn from_str(text: &str) -> Result<Self, SlotMapError> {
        Self::parse(text)
    }
}

impl fmt::Display for SlotMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranges() {
            None => writeln!(f, "even"),
            Some(ranges) => ranges.iter().try_for_each(|range| writeln!(f, "{range}")),
        }
    }
}

fn slots(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(number(first)?..=number(last)?)
}

/// Digits only: `str::parse` takes a plus sign too.
fn number(digits: &str) -> Option<u16> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::weighted;
    use super::*;

    #[test]
    fn slot_map_text_is_parsed_back() {
        for map in [
            SlotMap::even(),
            SlotMap::even().over(&weighted(&[1, 2, 3])).unwrap(),
            SlotMap::from_ranges([
                (0..=0, "with space"),
                (1..=7, "\"#"),
                (8..=8, "é"),
                (9..=16383, ""),
            ])
            .unwrap(),
        ] {
            assert_eq!(map.to_string().parse(), Ok(map));
        }
    }

    #[test]
    fn slot_map_parse_error_names_the_line() {
        let refusal = |text| SlotMap::parse(text).unwrap_err().to_string();
        assert_eq!(
            refusal("\n0-x a"),
            "line 2: \"0-x\" is no range of slots such as 0-5460"
        );
        assert_eq!(
            refusal("0-70000 a"),
            "line 1: \"0-70000\" is no range of slots such as 0-5460"
        );
        assert_eq!(
            refusal("+1 a"),
            "line 1: \"+1\" is no range of slots such as 0-5460"
        );
        assert_eq!(refusal("0-16383"), "line 1: the name of a node is missing");
        assert_eq!(refusal("0-16383 a b"), "line 1: \"b\" is unexpected here");
        assert_eq!(
            refusal("even\n0-16383 a"),
            "line 2: \"even\" must stand alone"
        );
        assert_eq!(refusal("0-1 a"), "no node owns slots 2-16383");
    }
}
