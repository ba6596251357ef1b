//! The options of a SCAN that is carried out here instead of by a server.

use crate::error::{Error, server_error};
use crate::plan::scan::glob::{glob_matches, slot_of_pattern};

/// Number of keys that a step examines at least, unless COUNT says otherwise: a server's own default.
const COUNT_DEFAULT: usize = 10;

/// COUNT, MATCH and TYPE of a SCAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) struct ScanOptions {
    /// Number of keys to examine, approximately.
    pub(in crate::plan) count: usize,
    /// The pattern of keys to return. `None` for all.
    pub(in crate::plan) pattern: Option<Vec<u8>>,
    /// The type of keys to return. `None` for all.
    pub(in crate::plan) type_name: Option<Vec<u8>>,
}

impl ScanOptions {
    /// Parses the arguments behind the cursor, as a server does. Of an option that occurs twice the last counts.
    ///
    /// # Errors
    ///
    /// [`Redis`](crate::ErrorKind::Redis) with the server's own text.
    pub(in crate::plan) fn parse(args: &[&[u8]]) -> Result<Self, Error> {
        let mut options = Self {
            count: COUNT_DEFAULT,
            pattern: None,
            type_name: None,
        };
        for option in args.chunks(2) {
            let &[name, value] = option else {
                return Err(refused("syntax error"));
            };
            if name.eq_ignore_ascii_case(b"COUNT") {
                let count: Option<i64> = str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                let count =
                    count.ok_or_else(|| refused("value is not an integer or out of range"))?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                options.count = count.ok_or_else(|| refused("syntax error"))?;
            } else if name.eq_ignore_ascii_case(b"MATCH") {
                options.pattern = (value != b"*").then(|| value.to_vec());
            } else if name.eq_ignore_ascii_case(b"TYPE") {
                options.type_name = Some(value.to_vec());
            } else {
                return Err(refused("syntax error"));
            }
        }
        Ok(options)
    }

    /// True if a key matches the pattern.
    pub(in crate::plan) fn matches(&self, key: &[u8]) -> bool {
        let pattern = self.pattern.as_ref();
        pattern.is_none_or(|pattern| glob_matches(pattern, key))
    }

    /// The only slot that can have a key that matches, if the pattern shows it.
    pub(in crate::plan) fn slot(&self) -> Option<u16> {
        slot_of_pattern(self.pattern.as_ref()?)
    }

    /// The pattern, if servers match it as it is matched here: they take `{}` for a part of a hash tag.
    pub(in crate::plan) fn pattern_of_servers(&self) -> Option<&[u8]> {
        let pattern = self.pattern.as_deref()?;
        (!pattern.windows(2).any(|pair| pair == b"{}")).then_some(pattern)
    }
}

/// An error of a server.
fn refused(text: &str) -> Error {
    Error::from_server(&server_error("ERR", text), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ScanOptions, String> {
        let args: Vec<&[u8]> = text.split_whitespace().map(str::as_bytes).collect();
        ScanOptions::parse(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn scan_options_are_parsed_as_by_a_server() {
        let options = parsed("count 5 MATCH a* Type string MATCH b* COUNT 7").unwrap();
        let expected = (7, Some(&b"b*"[..]), Some(&b"string"[..]));
        let found = (
            options.count,
            options.pattern.as_deref(),
            options.type_name.as_deref(),
        );
        assert_eq!(found, expected);
        assert_eq!(parsed("MATCH *").unwrap().pattern, None);
        for (text, error) in [
            ("COUNT", "syntax error"),
            ("COUNT 0", "syntax error"),
            ("COUNT -1", "syntax error"),
            ("COUNT x", "value is not an integer or out of range"),
            ("NOVALUES", "syntax error"),
            ("LIMIT 1", "syntax error"),
        ] {
            let found = parsed(text).unwrap_err();
            assert!(found.contains(error), "{text}: {found}");
        }
    }
}
