//! The part of a key that is hashed.

use std::fmt;
use std::sync::Arc;

use super::word;

/// Which bytes of a key decide where it lives.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum HashTag {
    /// Redis Cluster's rule: the bytes between the first `{` and the next `}`, or the whole key when there are none
    /// between them.
    #[default]
    Braces,
    /// The whole key, always.
    None,
    /// A rule of the user's own, with a frozen name.
    Custom(&'static str, Arc<TagRule>),
}

type TagRule = dyn for<'k> Fn(&'k [u8]) -> &'k [u8] + Send + Sync;

impl HashTag {
    /// The bytes of `key` that are hashed.
    #[inline]
    pub fn of<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match self {
            Self::Braces => braces(key),
            Self::None => key,
            Self::Custom(_, rule) => rule(key),
        }
    }

    /// The frozen name of the rule.
    pub fn name(&self) -> &str {
        match self {
            Self::Braces => "braces",
            Self::None => "none",
            Self::Custom(name, _) => name,
        }
    }
}

impl fmt::Debug for HashTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashTag({})", self.name())
    }
}

#[inline]
fn braces(key: &[u8]) -> &[u8] {
    // Most keys have no tag, and that is told sooner than where it would be.
    if contains(key, b'{') {
        between_braces(key)
    } else {
        key
    }
}

fn between_braces(key: &[u8]) -> &[u8] {
    let Some(open) = find(key, b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match find(rest, b'}') {
        None | Some(0) => key,
        Some(length) => &rest[..length],
    }
}

/// Whether there is such a byte, eight bytes at a time and without a branch for each. `byte` is not zero.
#[inline]
fn contains(bytes: &[u8], byte: u8) -> bool {
    let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return word::flags(word::short(bytes), byte) != 0;
    };
    // The first and the last eight bytes may overlap; between them lies what more than sixteen bytes have.
    let mut flags = word::flags(u64::from_le_bytes(*first), byte)
        | word::flags(u64::from_le_bytes(*last), byte);
    let middle = bytes.get(8..bytes.len() - 1).unwrap_or_default();
    for chunk in middle.as_chunks().0 {
        flags |= word::flags(u64::from_le_bytes(*chunk), byte);
    }
    flags != 0
}

/// The position of the first such byte, eight bytes at a time. `byte` is not zero.
fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    let (chunks, rest) = bytes.as_chunks();
    let words = chunks
        .iter()
        .map(|chunk| u64::from_le_bytes(*chunk))
        .chain([word::short(rest)]);
    let (chunk, flags) = words
        .map(|word| word::flags(word, byte))
        .enumerate()
        .find(|&(_, flags)| flags != 0)?;
    Some(8 * chunk + word::first(flags))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rule_is_that_of_redis_cluster() {
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
    fn a_rule_of_ones_own_is_asked() {
        let first = HashTag::Custom("first-byte/1", Arc::new(|key| &key[..key.len().min(1)]));
        assert_eq!(first.of(b"user"), b"u");
        assert_eq!(format!("{first:?}"), "HashTag(first-byte/1)");
    }

    proptest! {
        #[test]
        fn matches_naive(key in prop::collection::vec(prop::sample::select(b"{{}}ab\0\xfb".to_vec()), 0..40)) {
            prop_assert_eq!(braces(&key), naive(&key));
        }

        #[test]
        fn matches_naive_on_long_keys(
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
