//! Names of commands without regard to case, small enough to be compared in a few instructions.
//!
//! The table is looked up for every request. A [`NameKey`] is made without a branch per byte, and without
//! allocating: a name of up to 32 bytes is loaded as at most four words, whose loads may overlap, and all
//! eight bytes of a word are capitalized at once.

/// Maximum length in bytes of the name of a command or subcommand.
pub(super) const LONGEST: usize = 32;

/// A name in capitals, of up to [`LONGEST`] bytes. Two are equal exactly if the names are equal without
/// regard to ASCII case. A longer name gives a key that equals no stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameKey {
    /// Length of the name. With a longer name it exceeds [`LONGEST`], and so differs from that of each stored
    /// name.
    len: usize,
    /// Every byte of the name at least once, by overlapping loads.
    capitals: [u64; LONGEST / 8],
}

impl NameKey {
    /// Returns the key of this name.
    #[inline]
    pub(super) fn new(name: &[u8]) -> Self {
        let capitals = match name.len() {
            // The ranges differ in how the words overlap. That is no matter: only keys of one length are ever
            // equal.
            0..8 => [capitalized(short(name)), 0, 0, 0],
            8..=16 => [first_eight(name), last_eight(name), 0, 0],
            // Two words from either end cover up to 32 bytes, overlapping in the middle.
            17..=LONGEST => {
                let (head, tail) = (&name[8..], &name[..name.len() - 8]);
                [
                    first_eight(name),
                    first_eight(head),
                    last_eight(tail),
                    last_eight(name),
                ]
            }
            _ => [0; LONGEST / 8],
        };
        Self {
            len: name.len(),
            capitals,
        }
    }

    /// Returns a hash of 24 bits, salted with the row of the container: GET of CONFIG and GET of nothing
    /// differ. Fibonacci hashing (Knuth, volume 3, section 6.4): the high bits of a product with 2^64 divided
    /// by the golden ratio.
    #[inline]
    pub(super) fn hash(&self, parent: u16) -> usize {
        let [a, b, c, d] = self.capitals;
        // The rotations keep repeated words, as in a short name that was loaded twice, from cancelling out.
        let folded = a ^ b.rotate_left(13) ^ c.rotate_left(29) ^ d.rotate_left(43);
        let salt = u64::from(parent) << 32 ^ self.len as u64;
        ((folded ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize
    }
}

/// Loads up to seven bytes as a number, each at least once. With the length known, the result determines the
/// bytes.
#[inline]
fn short(bytes: &[u8]) -> u64 {
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32
    } else if let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) {
        u64::from(first) | u64::from(bytes[bytes.len() / 2]) << 8 | u64::from(last) << 16
    } else {
        0
    }
}

/// Loads and capitalizes the first eight bytes; 0 if there are fewer.
#[inline]
fn first_eight(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |eight| capitalized(u64::from_le_bytes(*eight)))
}

/// Loads and capitalizes the last eight bytes; 0 if there are fewer.
#[inline]
fn last_eight(bytes: &[u8]) -> u64 {
    bytes
        .last_chunk()
        .map_or(0, |eight| capitalized(u64::from_le_bytes(*eight)))
}

/// Capitalizes the ASCII letters of eight bytes at once; other bytes stay as they are.
#[inline]
fn capitalized(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Seven bits per byte, so that no addition carries into the next byte. The first sum has its top bit set
    // from `a` up, the second beyond `z`; they differ exactly for small letters. Bytes from 0x80 up are
    // masked out.
    let low = word & (0x7F * ONES);
    let from_a = low + (0x80 - u64::from(b'a')) * ONES;
    let past_z = low + (0x7F - u64::from(b'z')) * ONES;
    let small = (from_a ^ past_z) & !word & (0x80 * ONES);
    // The flag 0x80 moved by two is 0x20, the bit in which the cases differ.
    word ^ small >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn name_keys_are_equal_exactly_when_command_names_are_equal_ignoring_case(
            one in proptest::collection::vec(any::<u8>(), 0..=LONGEST),
            other in proptest::collection::vec(any::<u8>(), 0..=LONGEST),
        ) {
            prop_assert_eq!(NameKey::new(&one) == NameKey::new(&other), one.eq_ignore_ascii_case(&other));
            let small = one.to_ascii_lowercase();
            let big = one.to_ascii_uppercase();
            prop_assert_eq!(NameKey::new(&small), NameKey::new(&big));
            prop_assert_eq!(NameKey::new(&small).hash(7), NameKey::new(&big).hash(7));
        }
    }

    #[test]
    fn name_key_depends_on_every_byte_and_folds_ascii_case_only() {
        for byte in 0..=u8::MAX {
            for len in 1..=LONGEST {
                for at in 0..len {
                    let mut name = vec![b'.'; len];
                    name[at] = byte;
                    let capitals = name.to_ascii_uppercase();
                    assert_eq!(NameKey::new(&name), NameKey::new(&capitals), "{name:?}");
                    name[at] ^= 0x40;
                    assert_ne!(NameKey::new(&name), NameKey::new(&capitals), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn name_key_of_an_overlong_name_equals_no_stored_name() {
        assert_ne!(
            NameKey::new(&[b'A'; LONGEST + 1]),
            NameKey::new(&[b'A'; LONGEST])
        );
        assert_ne!(NameKey::new(&[0; LONGEST + 1]), NameKey::new(b""));
    }
}
