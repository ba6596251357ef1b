//! CRC16/XMODEM, the hash of Redis Cluster.

use super::swar;

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
///
/// Slicing by eight (Kounavis and Berry, "Novel table lookup-based algorithms for high-performance CRC
/// generation", 2008). The initial value is zero, so leading zero bytes change nothing: the key is padded on
/// the left to whole blocks and there is no tail of single bytes.
#[inline]
pub(super) fn crc16(bytes: &[u8]) -> u16 {
    let (head, blocks) = bytes.split_at(bytes.len() % 8);
    let mut crc = match bytes.first_chunk::<8>() {
        _ if head.is_empty() => 0,
        // One load, and the bytes that belong to the next block are shifted out.
        Some(first) => fold(0, u64::from_be_bytes(*first) >> (64 - 8 * head.len())),
        None => fold(0, swar::short(head).swap_bytes() >> (64 - 8 * head.len())),
    };
    for block in blocks.as_chunks::<8>().0 {
        crc = fold(crc, u64::from_be_bytes(*block));
    }
    crc
}

/// Returns the CRC of a single byte.
pub(super) fn of_byte(byte: u8) -> u16 {
    TABLES[7][usize::from(byte)]
}

/// Returns the CRC of a byte with this many zero bytes behind it, less than 8.
pub(super) const fn of_byte_at(byte: u8, zeros: usize) -> u16 {
    TABLES[7 - zeros][byte as usize]
}

/// Returns the CRC after eight more bytes, given as a big-endian number.
#[inline]
fn fold(crc: u16, block: u64) -> u16 {
    // The CRC so far lies over the first two bytes of the block, since a CRC is linear; each byte then
    // contributes by itself.
    let bytes = (block ^ u64::from(crc) << 48).to_be_bytes();
    let mut crc = 0;
    for (table, byte) in TABLES.iter().zip(bytes) {
        crc ^= table[usize::from(byte)];
    }
    crc
}

/// `TABLES[i][b]` is the CRC of the byte `b` followed by `7 - i` zero bytes.
static TABLES: [[u16; 256]; 8] = tables();

/// Computes the tables, from the byte itself (the last) to the byte with seven zeros after it.
const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut position = 8;
        while position > 0 {
            position -= 1;
            crc = shift(crc);
            tables[position][byte] = crc;
        }
        byte += 1;
    }
    tables
}

/// The CRC after one more zero byte.
const fn shift(mut crc: u16) -> u16 {
    let mut bit = 0;
    while bit < 8 {
        crc = (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
        bit += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn crc16_matches_the_check_value_of_xmodem() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    proptest! {
        #[test]
        fn crc16_matches_the_crc16_crate(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(crc16(&bytes), ::crc16::State::<::crc16::XMODEM>::calculate(&bytes));
        }
    }
}
