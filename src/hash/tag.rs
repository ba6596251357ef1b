//! Which part of a key is hashed?
//!
//! Keys with one hash tag live on one node, so that MULTI, Lua scripts and commands with several keys can use
//! them together. Peers agree on `{tag}` in ordinary keys and differ on odd ones; each rule here is that of a
//! peer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::swar;

/// The rule by which the bytes of a key are picked that decide where it lives.
///
/// A rule that finds nothing picks the whole key. The rules differ on odd keys only:
///
/// | key | [`Braces`](Self::Braces), [`AnyTwo`](Self::AnyTwo) of `{}` |
/// [`BracesEvenEmpty`](Self::BracesEvenEmpty), [`PhpRedis`](Self::PhpRedis) |
/// [`JedisPattern`](Self::JedisPattern) | [`LineStart`](Self::LineStart) of `{}` |
/// [`LastBraces`](Self::LastBraces) |
/// |---|---|---|---|---|---|
/// | `a{b}c` | `b` | `b` | `b` | whole | `b` |
/// | `{a}{b}` | `a` | `a` | `a` | `a` | `b` |
/// | `{}x` | whole | nothing | whole | whole | nothing |
/// | `{}{b}` | whole | nothing | `}{b` | `}{b` | `b` |
/// | `{{a}}` | `{a` | `{a` | `{a` | `{a` | `a}` |
/// | `{a` | whole | whole | whole | whole | whole |
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum HashTag {
    /// Redis Cluster's rule: the bytes between the first `{` and the next `}`, or the whole key if there are
    /// none between them. Also that of go-redis and Predis.
    #[default]
    Braces,
    /// Always the whole key.
    None,
    /// [`Braces`](Self::Braces) with two other bytes, which may be equal: `hash_tag` of twemproxy since 0.4.
    AnyTwo(u8, u8),
    /// The bytes between the first `{` and the next `}`, even if there are none. The rule of Codis.
    BracesEvenEmpty,
    /// Jedis' `DEFAULT_KEY_TAG_PATTERN`, the regular expression `\{(.+?)\}` found anywhere: at least one
    /// character, the first of which may be `}`, and no line terminator in between.
    JedisPattern,
    /// redis-rb's regular expression `^{(.+?)}`, or the same with two other bytes: like
    /// [`JedisPattern`](Self::JedisPattern), but only at the start of a line, and only `\n` ends a line.
    LineStart(u8, u8),
    /// [`BracesEvenEmpty`](Self::BracesEvenEmpty) up to the first zero byte, after which phpredis does not
    /// look.
    PhpRedis,
    /// The bytes between the last `}` and the last `{` before it, even if there are none, up to the first line
    /// feed: the regular expression `.*\{(.*)\}.*` of django-redis, at the start of the key.
    LastBraces,
    /// A rule of the application, with a frozen name.
    Custom(&'static str, Arc<TagRule>),
}

/// Returns the part of a key that is hashed.
type TagRule = dyn for<'k> Fn(&'k [u8]) -> &'k [u8] + Send + Sync;

impl HashTag {
    /// Returns the bytes of `key` that are hashed.
    #[inline]
    pub fn of<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match self {
            Self::Braces => braces(key),
            Self::None => key,
            Self::Custom(_, rule) => rule(key),
            // The common rules come first and are inlined; those of peers cost a call.
            peers => peers.of_peer(key).unwrap_or(key),
        }
    }

    /// Returns the bytes that a peer's rule picks; `None` for the whole key. Most keys lack the opening byte,
    /// which `contains` finds out without a branch per byte.
    fn of_peer<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        match *self {
            Self::AnyTwo(open, close) if contains(key, open) => between(key, open, close),
            Self::BracesEvenEmpty if contains(key, b'{') => even_empty(key),
            Self::JedisPattern if contains(key, b'{') => pattern(key),
            Self::LineStart(open, close) if contains(key, open) => line_start(key, open, close),
            Self::PhpRedis if contains(key, b'{') => {
                even_empty(&key[..find(key, 0).unwrap_or(key.len())])
            }
            Self::LastBraces if contains(key, b'{') => {
                last(&key[..find(key, b'\n').unwrap_or(key.len())])
            }
            _ => None,
        }
    }

    /// Returns the frozen name of the rule, which [`from_name`](Self::from_name) parses.
    pub fn name(&self) -> Cow<'_, str> {
        let two = |rule: &str, open: u8, close: u8| {
            format!("{rule}:{}{}", open.escape_ascii(), close.escape_ascii())
        };
        match *self {
            Self::Braces => "braces".into(),
            Self::None => "none".into(),
            Self::AnyTwo(open, close) => two("any-two", open, close).into(),
            Self::BracesEvenEmpty => "braces-even-empty".into(),
            Self::JedisPattern => "jedis-pattern".into(),
            Self::LineStart(open, close) => two("line-start", open, close).into(),
            Self::PhpRedis => "phpredis".into(),
            Self::LastBraces => "last-braces".into(),
            Self::Custom(name, _) => name.into(),
        }
    }

    /// Returns the rule of this name, unless it is a rule of the application: `braces`, `none`, `any-two:{}`,
    /// `braces-even-empty`, `jedis-pattern`, `line-start:{}`, `phpredis`, `last-braces`.
    ///
    /// Bytes that are not printable ASCII are escaped, as are quotes and the backslash: `\x00`, `\n`, `\'`,
    /// `\\`.
    ///
    /// ```
    /// use redis_sharding::hash::HashTag;
    ///
    /// let tag = HashTag::from_name("any-two:<>").expect("there is such a rule");
    /// assert_eq!(tag.of(b"cart<user:1>"), b"user:1");
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "braces" => Self::Braces,
            "none" => Self::None,
            "braces-even-empty" => Self::BracesEvenEmpty,
            "jedis-pattern" => Self::JedisPattern,
            "phpredis" => Self::PhpRedis,
            "last-braces" => Self::LastBraces,
            _ => {
                let (rule, bytes) = name.split_once(':')?;
                let (open, rest) = escaped(bytes)?;
                // Anything after the second byte makes it another name.
                let (close, "") = escaped(rest)? else {
                    return None;
                };
                match rule {
                    "any-two" => Self::AnyTwo(open, close),
                    "line-start" => Self::LineStart(open, close),
                    _ => return None,
                }
            }
        })
    }
}

impl fmt::Debug for HashTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashTag({})", self.name())
    }
}

/// Parses one byte in the form of `escape_ascii`. Returns it with the rest.
fn escaped(text: &str) -> Option<(u8, &str)> {
    (0..=u8::MAX).find_map(|byte| {
        let rest = text.strip_prefix(&byte.escape_ascii().to_string())?;
        Some((byte, rest))
    })
}

/// Redis Cluster's rule.
#[inline]
fn braces(key: &[u8]) -> &[u8] {
    // Most keys have no tag, and `contains` rules it out faster than `find` would.
    if contains(key, b'{') {
        between(key, b'{', b'}').unwrap_or(key)
    } else {
        key
    }
}

/// Returns the bytes between the first `open` and the next `close`; `None` if there are none.
fn between(key: &[u8], open: u8, close: u8) -> Option<&[u8]> {
    let rest = &key[find(key, open)? + 1..];
    // The next `close` after the first `open`: one before it does not count.
    let length = find(rest, close)?;
    (length > 0).then(|| &rest[..length])
}

/// Returns the bytes between the first `{` and the next `}`, even if there are none.
fn even_empty(key: &[u8]) -> Option<&[u8]> {
    let rest = &key[find(key, b'{')? + 1..];
    find(rest, b'}').map(|length| &rest[..length])
}

/// Group 1 of `.*\{(.*)\}.*` in a line: both parts before it take as much as they can.
fn last(line: &[u8]) -> Option<&[u8]> {
    let before = &line[..line.iter().rposition(|&byte| byte == b'}')?];
    let open = before.iter().rposition(|&byte| byte == b'{')?;
    Some(&before[open + 1..])
}

/// Group 1 of `\{(.+?)\}`, found anywhere.
fn pattern(key: &[u8]) -> Option<&[u8]> {
    let mut rest = key;
    while let Some(open) = find(rest, b'{') {
        let line = until_line_end(&rest[open + 1..]);
        if let Some(tag) = shortest(line, b'}') {
            return Some(tag);
        }
        // If the first brace of a line finds no end, neither does a later one: skipping the line keeps the
        // time linear.
        rest = &rest[open + 1 + line.len()..];
    }
    None
}

/// Group 1 of `^{(.+?)}`, where `^` is the start of any line.
fn line_start(key: &[u8], open: u8, close: u8) -> Option<&[u8]> {
    key.split(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_prefix(&[open]))
        .find_map(|line| shortest(line, close))
}

/// Returns the text up to the first `close` that is not its first character, which is `(.+?)` after the
/// opening byte.
fn shortest(text: &[u8], close: u8) -> Option<&[u8]> {
    // The search begins after the first character, which belongs to the tag whatever it is.
    let length = find(text.get(1..)?, close)? + 1;
    Some(&text[..length])
}

/// Returns the bytes before what Java's regular expressions take for a line terminator, in UTF-8.
fn until_line_end(text: &[u8]) -> &[u8] {
    let ends = |rest: &[u8]| {
        matches!(
            rest,
            [b'\n' | b'\r', ..] | [0xc2, 0x85, ..] | [0xe2, 0x80, 0xa8 | 0xa9, ..]
        )
    };
    let end = (0..text.len()).find(|&start| ends(&text[start..]));
    &text[..end.unwrap_or(text.len())]
}

/// True if `byte` is among `bytes`: eight bytes at a time, without a branch for each. If `byte` is zero, it
/// may be true wrongly, for the padding of a short key; callers then search with `find`.
#[inline]
fn contains(bytes: &[u8], byte: u8) -> bool {
    let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return swar::flags(swar::short(bytes), byte) != 0;
    };
    // The first and the last eight bytes may overlap; between them lies what more than sixteen bytes have.
    let mut flags = swar::flags(u64::from_le_bytes(*first), byte)
        | swar::flags(u64::from_le_bytes(*last), byte);
    let middle = bytes.get(8..bytes.len() - 1).unwrap_or_default();
    for chunk in middle.as_chunks().0 {
        flags |= swar::flags(u64::from_le_bytes(*chunk), byte);
    }
    flags != 0
}

/// Returns the index of the first such byte, eight bytes at a time.
fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    let (chunks, rest) = bytes.as_chunks();
    for (i, chunk) in chunks.iter().enumerate() {
        let flags = swar::flags(u64::from_le_bytes(*chunk), byte);
        if flags != 0 {
            return Some(8 * i + swar::first(flags));
        }
    }
    // The padding of the last word is zero, which may be the byte: such a position lies beyond the end.
    let position = 8 * chunks.len() + swar::first(swar::flags(swar::short(rest), byte));
    (position < bytes.len()).then_some(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hash_tag_braces_follow_redis_cluster() {
        let cases: [(&str, &str); 12] = [
            ("", ""),
            ("user:1", "user:1"),
            ("a{b}c", "b"),
            ("{user1000}.following", "user1000"),
            ("{a}{b}", "a"),
            ("{}x", "{}x"),
            ("{}{b}", "{}{b}"),
            ("foo{{bar}}zap", "{bar"),
            ("{a", "{a"),
            ("}a{b", "}a{b"),
            ("a}b{c}", "c"),
            ("a long key before the {tag}", "tag"),
        ];
        for (key, tag) in cases {
            assert_eq!(HashTag::Braces.of(key.as_bytes()), tag.as_bytes(), "{key}");
            assert_eq!(HashTag::None.of(key.as_bytes()), key.as_bytes());
        }
    }

    #[test]
    fn hash_tag_of_a_custom_rule_is_used() {
        let first = HashTag::Custom("first-byte/1", Arc::new(|key| &key[..key.len().min(1)]));
        assert_eq!(first.of(b"user"), b"u");
        assert_eq!(format!("{first:?}"), "HashTag(first-byte/1)");
    }

    #[test]
    fn hash_tag_rules_of_peers_differ_on_odd_keys() {
        let rules = [
            HashTag::Braces,
            HashTag::AnyTwo(b'{', b'}'),
            HashTag::BracesEvenEmpty,
            HashTag::PhpRedis,
            HashTag::JedisPattern,
            HashTag::LineStart(b'{', b'}'),
            HashTag::LastBraces,
        ];
        // As measured with the peers; the last ones as read in their sources.
        let cases = [
            ("a{b}c", ["b", "b", "b", "b", "b", "a{b}c", "b"]),
            ("{a}{b}", ["a", "a", "a", "a", "a", "a", "b"]),
            ("{}x", ["{}x", "{}x", "", "", "{}x", "{}x", ""]),
            ("{}{b}", ["{}{b}", "{}{b}", "", "", "}{b", "}{b", "b"]),
            ("{{a}}", ["{a", "{a", "{a", "{a", "{a", "{a", "a}"]),
            ("{a", ["{a"; 7]),
            ("a}b{c", ["a}b{c"; 7]),
            ("{}}", ["{}}", "{}}", "", "", "}", "}", "}"]),
            (
                "{\n}{b}",
                ["\n", "\n", "\n", "\n", "b", "{\n}{b}", "{\n}{b}"],
            ),
            (
                "{\u{2028}}",
                [
                    "\u{2028}",
                    "\u{2028}",
                    "\u{2028}",
                    "\u{2028}",
                    "{\u{2028}}",
                    "\u{2028}",
                    "\u{2028}",
                ],
            ),
            ("a\n{b}", ["b", "b", "b", "b", "b", "b", "a\n{b}"]),
            ("{a}\n{b}", ["a"; 7]),
            ("a\0{b}", ["b", "b", "b", "a\0{b}", "b", "a\0{b}", "b"]),
            ("{a\0}", ["a\0", "a\0", "a\0", "{a\0}", "a\0", "a\0", "a\0"]),
        ];
        for (key, tags) in cases {
            let found = rules.each_ref().map(|rule| rule.of(key.as_bytes()));
            assert_eq!(found, tags.map(str::as_bytes), "{key:?}");
        }
        assert_eq!(HashTag::AnyTwo(b'$', b'$').of(b"a$$b$c$"), b"a$$b$c$");
        assert_eq!(HashTag::AnyTwo(b'$', b'$').of(b"a$b$c$"), b"b");
        assert_eq!(HashTag::AnyTwo(0, b'}').of(b"abc"), b"abc");
        assert_eq!(HashTag::AnyTwo(0, b'}').of(b"a\0b}"), b"b");
    }

    #[test]
    fn hash_tag_names_are_parsed_back() {
        for rule in [
            HashTag::Braces,
            HashTag::None,
            HashTag::BracesEvenEmpty,
            HashTag::JedisPattern,
            HashTag::PhpRedis,
            HashTag::LastBraces,
        ] {
            assert_eq!(
                HashTag::from_name(&rule.name()).unwrap().name(),
                rule.name()
            );
        }
        for (open, close) in (0..=u8::MAX).flat_map(|open| [(open, b'\\'), (b'x', open)]) {
            let rule = HashTag::AnyTwo(open, close);
            let Some(HashTag::AnyTwo(again, too)) = HashTag::from_name(&rule.name()) else {
                panic!("{rule:?}");
            };
            assert_eq!((again, too), (open, close));
        }
        assert_eq!(HashTag::LineStart(b'{', b'}').name(), "line-start:{}");
        for name in [
            "",
            "any-two",
            "any-two:",
            "any-two:{",
            "any-two:{}}",
            "two:{}",
            "Braces",
        ] {
            assert!(HashTag::from_name(name).is_none(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn hash_tag_braces_match_a_naive_search(key in prop::collection::vec(prop::sample::select(b"{{}}ab\0\xfb".to_vec()), 0..40)) {
            prop_assert_eq!(braces(&key), naive(&key));
        }

        #[test]
        fn hash_tag_braces_match_a_naive_search_on_long_keys(
            mut key in prop::collection::vec(any::<u8>(), 0..100),
            open in 0..100_usize,
            close in 0..100_usize,
        ) {
            for (position, brace) in [(open, b'{'), (close, b'}')] {
                if let Some(byte) = key.get_mut(position) {
                    *byte = brace;
                }
            }
            prop_assert_eq!(braces(&key), naive(&key));
        }
    }

    fn naive(key: &[u8]) -> &[u8] {
        let Some(open) = key.iter().position(|&b| b == b'{') else {
            return key;
        };
        match key[open + 1..].iter().position(|&b| b == b'}') {
            None | Some(0) => key,
            Some(length) => &key[open + 1..open + 1 + length],
        }
    }
}
