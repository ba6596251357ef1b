//! Integers as a server reads them.

/// An integer in its canonical form, the only one a server accepts: no plus sign, no leading zero, no blank, no `-0`.
pub(crate) fn canonical_integer(digits: &[u8]) -> Option<i64> {
    let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
    match magnitude {
        [b'0'] if digits.len() == 1 => Some(0),
        // 19 digits are the most that fit.
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
