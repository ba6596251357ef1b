//! Keys and values: 10,000 keys of 16 bytes, 64-byte values.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

pub const KEYS: usize = 10_000;
pub const VALUE: [u8; 64] = [b'v'; 64];
/// Keys of one pipeline and of one MGET.
pub const BATCH: usize = 100;

/// Key number `number`, as redis-benchmark writes it.
pub fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// Keys in an order that says nothing, given out without end.
pub struct Keys {
    keys: Vec<String>,
    next: usize,
}

impl Keys {
    pub fn new() -> Self {
        let mut keys: Vec<String> = (0..KEYS).map(key).collect();
        keys.shuffle(&mut SmallRng::seed_from_u64(1));
        Self { keys, next: 0 }
    }

    pub fn next(&mut self) -> &str {
        self.next = (self.next + 1) % KEYS;
        &self.keys[self.next]
    }

    /// [`BATCH`] keys in a row.
    pub fn batch(&mut self) -> &[String] {
        self.next = match self.next + BATCH {
            next if next + BATCH <= KEYS => next,
            _ => 0,
        };
        &self.keys[self.next..self.next + BATCH]
    }

    /// The same keys from another place on, for another thread.
    pub fn from_anywhere(number: u64) -> Self {
        let mut keys = Self::new();
        keys.next = SmallRng::seed_from_u64(number).random_range(0..KEYS);
        keys
    }
}
