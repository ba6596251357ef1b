//! A hash tag for each slot of Redis Cluster: [`slot_tag`].
//!
//! CRC16 is linear: the CRC of the exclusive or of two texts of one length is the exclusive or of their CRCs. The tags are
//! four characters of the 16 from `@` to `O`, which are closed under exclusive or of their lower four bits. So each of the
//! 16 free bits of a tag flips certain bits of its slot, whatever the others are, and a tag for a given slot is found by
//! solving 14 equations, once, when this crate is compiled. That takes 28 bytes, where a table of all tags would take
//! 64 KiB.

use super::SLOTS;
use super::crc16::of_byte_at;

/// Number of bytes of a tag.
const TAG_BYTES: usize = 4;

/// The lowest of the characters of a tag.
const BASE: u8 = b'@';

/// Number of bits of a slot.
const SLOT_BITS: usize = SLOTS.ilog2() as usize;

/// For each bit of a slot, the free bits of a tag that flip this bit and no other.
const FLIPS: [u16; SLOT_BITS] = flips();

/// The slot of the tag whose free bits are all zero.
const BASE_SLOT: u16 = slot_of(0);

/// A hash tag, without its braces, whose keys are those of this slot: `slot_tag(0)` is `@@@@` with some characters changed.
///
/// The same tag for a slot in every version: it is part of the keys that a scan asks for.
pub(crate) fn slot_tag(slot: u16) -> [u8; TAG_BYTES] {
    let difference = (slot % SLOTS) ^ BASE_SLOT;
    let flipped = FLIPS
        .iter()
        .enumerate()
        .filter(|(bit, _)| difference >> bit & 1 == 1);
    tag(flipped.fold(0, |bits, (_, flips)| bits ^ flips))
}

/// The tag with these free bits, four for each character.
const fn tag(bits: u16) -> [u8; TAG_BYTES] {
    let mut tag = [BASE; TAG_BYTES];
    let mut at = 0;
    while at < TAG_BYTES {
        tag[at] |= (bits >> (4 * at) & 0xf) as u8;
        at += 1;
    }
    tag
}

/// The slot of the tag with these free bits.
const fn slot_of(bits: u16) -> u16 {
    let tag = tag(bits);
    let mut crc = 0;
    let mut at = 0;
    while at < TAG_BYTES {
        crc ^= of_byte_at(tag[at], TAG_BYTES - 1 - at);
        at += 1;
    }
    crc % SLOTS
}

/// Solves the equations by elimination.
const fn flips() -> [u16; SLOT_BITS] {
    // Each row: the free bits that are flipped, and the bits of the slot that this flips.
    let mut rows = [(0_u16, 0_u16); 16];
    let mut row = 0;
    while row < rows.len() {
        rows[row] = (1 << row, slot_of(1 << row) ^ slot_of(0));
        row += 1;
    }
    let mut bit = 0;
    while bit < SLOT_BITS {
        let mut pivot = bit;
        // Out of bounds, and an error of compilation, if some slot had no tag.
        while rows[pivot].1 >> bit & 1 == 0 {
            pivot += 1;
        }
        (rows[bit], rows[pivot]) = (rows[pivot], rows[bit]);
        let mut other = 0;
        while other < rows.len() {
            if other != bit && rows[other].1 >> bit & 1 == 1 {
                rows[other].0 ^= rows[bit].0;
                rows[other].1 ^= rows[bit].1;
            }
            other += 1;
        }
        bit += 1;
    }
    let mut flips = [0; SLOT_BITS];
    let mut bit = 0;
    while bit < SLOT_BITS {
        flips[bit] = rows[bit].0;
        bit += 1;
    }
    flips
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::slot;

    #[test]
    fn slot_tag_lies_in_its_slot_and_is_printable() {
        for number in 0..SLOTS {
            let tag = slot_tag(number);
            assert_eq!(slot(&tag), number);
            assert!(
                tag.iter().all(|byte| (b'@'..=b'O').contains(byte)),
                "{tag:?}"
            );
        }
    }
}
