//! Keys and values: 10,000 keys of 16 bytes, 64-byte values.

use std::sync::OnceLock;

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
    keys: &'static [String],
    next: usize,
}

impl Keys {
    pub fn new() -> Self {
        Self {
            keys: shuffled(),
            next: 0,
        }
    }

    /// From another place on: number `number` of many who ask for keys.
    pub fn from_anywhere(number: u64) -> Self {
        let next = SmallRng::seed_from_u64(number).random_range(0..KEYS);
        Self {
            next,
            ..Self::new()
        }
    }

    pub fn next(&mut self) -> &'static str {
        self.next = (self.next + 1) % KEYS;
        &self.keys[self.next]
    }

    /// [`BATCH`] keys in a row.
    pub fn batch(&mut self) -> &'static [String] {
        self.next = match self.next + BATCH {
            next if next + BATCH <= KEYS => next,
            _ => 0,
        };
        &self.keys[self.next..self.next + BATCH]
    }
}

fn shuffled() -> &'static [String] {
    static SHUFFLED: OnceLock<Vec<String>> = OnceLock::new();
    SHUFFLED.get_or_init(|| {
        let mut keys: Vec<String> = (0..KEYS).map(key).collect();
        keys.shuffle(&mut SmallRng::seed_from_u64(1));
        keys
    })
}
