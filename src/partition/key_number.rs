//! From what the tag rule left of a key to a number.

use crate::hash::{KeyHash, named};

named! {
    /// The number of a key without bytes.
    pub enum EmptyKey {
        /// The key hash of no bytes.
        Hashed = "hashed",
        /// Zero, as in twemproxy, which does not hash it.
        Zero = "zero",
    }
}

/// A key hash picked once and asked per key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyNumber {
    hash: fn(&[u8]) -> u64,
    empty: EmptyKey,
}

impl KeyNumber {
    pub(super) const fn new(hash: KeyHash, empty: EmptyKey) -> Self {
        Self {
            hash: hash.function(),
            empty,
        }
    }

    #[inline]
    pub(super) fn of(&self, key: &[u8]) -> u64 {
        if key.is_empty() && matches!(self.empty, EmptyKey::Zero) {
            return 0;
        }
        (self.hash)(key)
    }
}
