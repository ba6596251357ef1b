//! The part of a key that is hashed.

use std::fmt;
use std::sync::Arc;

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
    Custom(
        &'static str,
        Arc<dyn for<'k> Fn(&'k [u8]) -> &'k [u8] + Send + Sync>,
    ),
}

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

fn braces(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(length) => &key[open + 1..open + 1 + length],
    }
}
