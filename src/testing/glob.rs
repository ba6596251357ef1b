//! Redis' glob patterns, for KEYS, SCAN and PSUBSCRIBE.

/// True if `text` matches `pattern`: `*`, `?`, `[a-z]`, `[^a]`, and `\` as an escape. Takes exponential time
/// in the number of `*` in the worst case, which tests do not reach.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    if first == b'*' {
        return (0..=text.len()).any(|skipped| matches(rest, &text[skipped..]));
    }
    let Some((&byte, text)) = text.split_first() else {
        return false;
    };
    match first {
        b'?' => matches(rest, text),
        b'[' => {
            let (found, rest) = class(rest, byte);
            found && matches(rest, text)
        }
        b'\\' if !rest.is_empty() => rest[0] == byte && matches(&rest[1..], text),
        literal => literal == byte && matches(rest, text),
    }
}

/// Matches `byte` against the class at the beginning of `pattern`. Returns the result and what follows the
/// class.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    loop {
        rest = match rest {
            // A class without `]` ends with the pattern, as in Redis.
            [] => return (found != negated, rest),
            [b']', rest @ ..] => return (found != negated, rest),
            [b'\\', escaped, rest @ ..] => {
                found |= *escaped == byte;
                rest
            }
            [from, b'-', to, rest @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("*", ""),
            ("user:*:x", "user:12:x"),
            ("h?llo", "hello"),
            ("h[a-e]llo", "hello"),
            ("h[^a]llo", "hello"),
            ("h\\*llo", "h*llo"),
            ("h[\\]]llo", "h]llo"),
        ] {
            assert!(
                matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "a"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("h\\*llo", "hello"),
            ("*a", "ab"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
    }
}
