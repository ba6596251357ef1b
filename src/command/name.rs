//! A name without regard to case, small enough to compare in a few instructions.

/// The longest name of a command or subcommand.
pub(super) const LONGEST: usize = 32;

/// The capitals of a name of up to [`LONGEST`] bytes; of a longer one, something that equals no stored name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameKey {
    len: usize,
    /// Together with the length they hold every byte, some of them twice.
    capitals: [u64; LONGEST / 8],
}

impl NameKey {
    #[inline]
    pub(super) fn new(name: &[u8]) -> Self {
        let capitals = match name.len() {
            0..8 => [capitalized(short(name)), 0, 0, 0],
            8..=16 => [first_eight(name), last_eight(name), 0, 0],
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

    #[inline]
    pub(super) fn hash(&self, parent: u16) -> usize {
        let [a, b, c, d] = self.capitals;
        let folded = a ^ b.rotate_left(13) ^ c.rotate_left(29) ^ d.rotate_left(43);
        let salt = u64::from(parent) << 32 ^ self.len as u64;
        ((folded ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize
    }
}

/// Up to seven bytes as a number.
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

#[inline]
fn first_eight(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |eight| capitalized(u64::from_le_bytes(*eight)))
}

#[inline]
fn last_eight(bytes: &[u8]) -> u64 {
    bytes
        .last_chunk()
        .map_or(0, |eight| capitalized(u64::from_le_bytes(*eight)))
}

/// ASCII capitals of eight bytes at once; other bytes stay as they are.
#[inline]
fn capitalized(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7F * ONES);
    let from_a = low + (0x80 - u64::from(b'a')) * ONES;
    let past_z = low + (0x7F - u64::from(b'z')) * ONES;
    let small = (from_a ^ past_z) & !word & (0x80 * ONES);
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
