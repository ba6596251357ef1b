//! The patterns of KEYS, SCAN and PSUBSCRIBE, as servers match them.

use crate::hash::{HashTag, slot};

/// Depth of `*` behind which a server gives up; the key does not match then.
const NESTING_MAX: usize = 1000;

/// True if `text` matches `pattern` as a server sees it: `*`, `?`, `[a-z]`, `[^a]`, and `\` as an escape.
///
/// The ends of a range are compared as signed bytes, as on x86-64. A lone `*` matches everything, which servers decide
/// before they compare; any other pattern of stars does not match an empty text.
pub(crate) fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern == b"*" {
        return true;
    }
    let mut skips_longer = false;
    matches_from(pattern, text, &mut skips_longer, 0)
}

/// The slot that all keys matching a pattern share, if the pattern shows it: its hash tag has no wildcard in it or before
/// it, or there is no wildcard at all.
pub(in crate::plan) fn slot_of_pattern(pattern: &[u8]) -> Option<u16> {
    let is_special = |byte: &u8| b"*?[\\".contains(byte);
    let open = pattern.iter().position(|&byte| byte == b'{');
    let tag = open.and_then(|open| {
        let length = pattern[open + 1..].iter().position(|&byte| byte == b'}')?;
        // Empty braces are no tag: the whole key counts.
        (length > 0).then(|| &pattern[..open + 1 + length])
    });
    match tag {
        Some(until_tag) if !until_tag.iter().any(is_special) => {
            Some(slot(&until_tag[open.unwrap_or(0) + 1..]))
        }
        _ if pattern.iter().any(is_special) => None,
        _ => Some(slot(HashTag::Braces.of(pattern))),
    }
}

/// The comparison of `stringmatchlen` of Redis 7.0.9 and later. `skips_longer` is set when the rest of the pattern matches
/// nowhere in the rest of the text: then the stars before it need not be tried with more characters, which keeps the time
/// polynomial.
fn matches_from(
    mut pattern: &[u8],
    mut text: &[u8],
    skips_longer: &mut bool,
    nesting: usize,
) -> bool {
    if nesting > NESTING_MAX {
        return false;
    }
    while let ([first, rest @ ..], [byte, rest_of_text @ ..]) = (pattern, text) {
        match first {
            b'*' => return matches_star(rest, text, skips_longer, nesting),
            b'?' => pattern = rest,
            b'[' => {
                let (is_member, behind) = class(rest, *byte);
                if !is_member {
                    return false;
                }
                pattern = behind;
            }
            b'\\' if !rest.is_empty() => {
                if rest[0] != *byte {
                    return false;
                }
                pattern = &rest[1..];
            }
            literal => {
                if literal != byte {
                    return false;
                }
                pattern = rest;
            }
        }
        text = rest_of_text;
        if text.is_empty() {
            while let [b'*', rest @ ..] = pattern {
                pattern = rest;
            }
        }
    }
    pattern.is_empty() && text.is_empty()
}

/// Matches what follows a star, `rest`, with each rest of the text.
fn matches_star(mut rest: &[u8], text: &[u8], skips_longer: &mut bool, nesting: usize) -> bool {
    while let [b'*', behind @ ..] = rest {
        rest = behind;
    }
    if rest.is_empty() {
        return true;
    }
    for skipped in 0..text.len() {
        if matches_from(rest, &text[skipped..], skips_longer, nesting + 1) {
            return true;
        }
        if *skips_longer {
            return false;
        }
    }
    *skips_longer = true;
    false
}

/// True if `byte` is a member of the class at the beginning of `pattern`, and the pattern behind the class.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (is_negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut is_member = false;
    loop {
        rest = match rest {
            // A class without `]` ends with the pattern.
            [] => return (is_member != is_negated, rest),
            [b'\\', escaped, rest @ ..] => {
                is_member |= *escaped == byte;
                rest
            }
            [b']', rest @ ..] => return (is_member != is_negated, rest),
            [from, b'-', to, rest @ ..] => {
                let [from, to, byte] = [*from, *to, byte].map(u8::cast_signed);
                is_member |= (from.min(to)..=from.max(to)).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                is_member |= *one == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("*", ""),
            ("user:*:x", "user:12:x"),
            ("h?llo", "hello"),
            ("h[a-e]llo", "hello"),
            ("h[e-a]llo", "hello"),
            ("h[^a]llo", "hello"),
            ("h\\*llo", "h*llo"),
            ("h[\\]]llo", "h]llo"),
            ("a**b*", "ab"),
            ("*a*", "xa"),
            ("[^", "x"),
            ("[a-]", "b]"),
            ("a\\", "a\\"),
            ("[abc", "c"),
        ] {
            let is_open_range = pattern == "[a-]";
            assert_eq!(
                glob_matches(pattern.as_bytes(), text.as_bytes()),
                !is_open_range,
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "a"),
            ("**", ""),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("h\\*llo", "hello"),
            ("*a", "ab"),
            ("[", "["),
            ("[]a]", "a"),
        ] {
            assert!(
                !glob_matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        // Signed bytes: 0x80 is less than 0.
        assert!(glob_matches(b"[\x80-a]", b"\x90"));
        assert!(!glob_matches(b"[\x00-\xff]", b"a"));
    }

    #[test]
    fn scan_pattern_of_many_stars_takes_little_time() {
        let pattern = b"*a".repeat(200);
        let text = [&b"a".repeat(5000)[..], b"b"].concat();
        assert!(!glob_matches(&pattern, &text));
        assert!(!glob_matches(&b"*?".repeat(2000), &b"a".repeat(5000)));
    }

    #[test]
    fn scan_pattern_with_a_whole_tag_shows_its_slot() {
        for (pattern, key) in [
            (&b"{user}*"[..], Some(&b"{user}1"[..])),
            (b"a{user}?[x", Some(b"a{user}1x")),
            (b"plain", Some(b"plain")),
            (b"{}plain", Some(b"{}plain")),
            (b"{user", Some(b"{user")),
            (b"*{user}", None),
            (b"{us*er}", None),
            (b"{us\\er}x", None),
            (b"{}{user}*", None),
            (b"*", None),
        ] {
            let expected = key.map(|key| slot(HashTag::Braces.of(key)));
            assert_eq!(
                slot_of_pattern(pattern),
                expected,
                "{}",
                pattern.escape_ascii()
            );
        }
    }
}
