//! Integers in requests and commands, in the only form that a server accepts.

/// Parses an integer in its canonical form, as `string2ll` of a server: no plus sign, no leading zero, no
/// blank, no `-0`.
///
/// Returns `None` for any other text, and for a number that does not fit into 64 bits.
pub(crate) fn canonical_integer(digits: &[u8]) -> Option<i64> {
    let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
    match magnitude {
        [b'0'] if digits.len() == 1 => Some(0),
        // More than 19 digits do not fit. `parse` alone would accept a plus sign and leading zeros.
        [b'1'..=b'9', ..] if magnitude.len() <= 19 => str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_integer_refuses_other_forms() {
        for number in [0, 1, -1, 9, 10, i64::MAX, i64::MIN, 1_000_000] {
            assert_eq!(
                canonical_integer(number.to_string().as_bytes()),
                Some(number)
            );
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
        ] {
            assert_eq!(canonical_integer(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(canonical_integer(b"1\xff"), None);
    }
}
