//! Keys as messages show them.

use std::fmt;

use crate::error::KEY_TEXT_MAX;

/// A key in a message: escaped, and cut if it is long.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyText<'k>(pub(super) &'k [u8]);

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..KEY_TEXT_MAX).unwrap_or(self.0);
        let cut = if shown.len() < self.0.len() { ".." } else { "" };
        write!(f, "\"{}\"{cut}", shown.escape_ascii())
    }
}

/// A pattern or a prefix as text, whole.
pub(super) fn pattern_of(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The time, in milliseconds since 1970.
pub(super) fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
