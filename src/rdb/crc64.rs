//! The checksum of RDB files and payloads: CRC-64 "Jones".
//!
//! Polynomial `0xad93d23594c935a9`, reflected in and out, start and final XOR zero. Sixteen bytes at a time by tables.

/// The polynomial, reflected.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// The bytes that are taken at a time.
const LANES: usize = 16;

/// For each lane, the checksum of each byte with as many zero bytes behind it.
static TABLES: [[u64; 256]; LANES] = tables();

/// A checksum of bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crc64(u64);

impl Crc64 {
    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<LANES>();
        let mut crc = self.0;
        for block in blocks {
            crc = advance_block(crc, block);
        }
        for &byte in rest {
            crc = lane(0, crc as u8 ^ byte) ^ (crc >> 8);
        }
        self.0 = crc;
    }

    /// Returns the checksum of the bytes so far.
    pub(super) fn value(self) -> u64 {
        self.0
    }
}

/// Returns the checksum of these bytes.
pub(super) fn crc64(bytes: &[u8]) -> u64 {
    let mut crc = Crc64::default();
    crc.update(bytes);
    crc.value()
}

/// Adds one block.
#[inline]
fn advance_block(crc: u64, block: &[u8; LANES]) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *block;
    let [c0, c1, c2, c3, c4, c5, c6, c7] =
        (crc ^ u64::from_le_bytes([a, b, c, d, e, f, g, h])).to_le_bytes();
    let first = lane(15, c0)
        ^ lane(14, c1)
        ^ lane(13, c2)
        ^ lane(12, c3)
        ^ lane(11, c4)
        ^ lane(10, c5)
        ^ lane(9, c6)
        ^ lane(8, c7);
    let second = lane(7, i)
        ^ lane(6, j)
        ^ lane(5, k)
        ^ lane(4, l)
        ^ lane(3, m)
        ^ lane(2, n)
        ^ lane(1, o)
        ^ lane(0, p);
    first ^ second
}

/// Looks a byte up. The lane is a constant below [`LANES`] at every call.
#[inline(always)]
fn lane(lane: usize, byte: u8) -> u64 {
    TABLES[lane][usize::from(byte)]
}

/// Makes the tables.
const fn tables() -> [[u64; 256]; LANES] {
    let mut tables = [[0; 256]; LANES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut lane = 1;
    while lane < LANES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[lane - 1][byte];
            tables[lane][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        lane += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_has_the_check_value_of_its_definition() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(b""), 0);
        let text = b"This is a test of the emergency broadcast system.";
        assert_eq!(crc64(text), bitwise(text));
    }

    #[test]
    fn crc64_of_pieces_is_that_of_the_whole_at_every_length() {
        let bytes: Vec<u8> = (0..100_u32).map(|at| (at * 167 + 13) as u8).collect();
        for end in 0..bytes.len() {
            let whole = bitwise(&bytes[..end]);
            assert_eq!(crc64(&bytes[..end]), whole, "{end} bytes");
            for middle in 0..end {
                let mut crc = Crc64::default();
                crc.update(&bytes[..middle]);
                crc.update(&bytes[middle..end]);
                assert_eq!(crc.value(), whole, "{middle} of {end} bytes");
            }
        }
    }

    /// The definition, one bit at a time.
    fn bitwise(bytes: &[u8]) -> u64 {
        let mut crc = 0_u64;
        for &byte in bytes {
            crc ^= u64::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        crc
    }
}
