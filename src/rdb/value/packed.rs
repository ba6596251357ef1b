//! Collections that stand in one string: listpacks, ziplists, zipmaps and intsets.
//!
//! ```text
//! listpack   4 bytes size, 2 bytes count, entries, 0xff     entry: encoding, data, its length backwards
//! ziplist    4 bytes size, 4 bytes offset of the last entry, 2 bytes count, entries, 0xff
//!                                                           entry: length of the one before, encoding, data
//! zipmap     1 byte count, entries, 0xff                    entry: length, field, length, 1 byte unused, value, unused
//! intset     4 bytes width, 4 bytes count, integers
//! ```
//!
//! All numbers are little-endian but the lengths of strings in ziplists. A count of 65535 is not known.

use super::super::bytes::{Cursor, Malformed, Text, parse_f64};

/// The byte behind the last entry.
const END: u8 = 0xff;

/// A count that does not fit into its two bytes.
const COUNT_UNKNOWN: u16 = u16::MAX;

/// A length that stands in the four bytes behind this one, in ziplists and zipmaps.
const LONG: u8 = 0xfe;

/// An entry: bytes as they stand there, or an integer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Packed<'b> {
    /// A string.
    Bytes(&'b [u8]),
    /// An integer, whose decimal digits are the string.
    Integer(i64),
}

/// The form of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of Redis 7.0 and later.
    Listpack,
    /// Of Redis up to 6.2.
    Ziplist,
    /// Of hashes in Redis 2.4.
    Zipmap,
    /// Of sets of integers.
    Intset,
}

/// The entries of a collection, one after the other.
#[derive(Debug)]
pub(super) struct Entries<'b> {
    form: Form,
    cursor: Cursor<'b>,
    /// Number of entries that are said to follow, if that is known.
    left: Option<u64>,
    /// In a ziplist the length of the last entry, and in an intset the width of integers.
    width: u64,
    /// In a zipmap, whether the next string is a value.
    is_value: bool,
}

impl<'b> Packed<'b> {
    /// Returns the string.
    pub(super) fn text(self) -> Text<'b> {
        match self {
            Self::Bytes(bytes) => Text::Borrowed(bytes),
            Self::Integer(number) => Text::of_integer(number),
        }
    }

    /// Returns the number, if it is an integer.
    pub(super) fn integer(self) -> Option<i64> {
        match self {
            Self::Bytes(digits) => str::from_utf8(digits).ok()?.parse().ok(),
            Self::Integer(number) => Some(number),
        }
    }

    /// Returns the number, if it is one.
    pub(super) fn score(self) -> Option<f64> {
        match self {
            Self::Bytes(text) => parse_f64(text),
            Self::Integer(number) => Some(number as f64),
        }
    }
}

impl<'b> Entries<'b> {
    /// Reads the head of the collection that is all that a cursor has left.
    pub(super) fn new(form: Form, mut cursor: Cursor<'b>) -> Result<Self, Malformed> {
        let size = cursor.rest().len() as u64;
        let mut width = 0;
        let left = match form {
            Form::Listpack | Form::Ziplist => {
                if u64::from(cursor.u32_le()?) != size {
                    return Err(cursor.malformed("a listpack or ziplist of another size"));
                }
                if form == Form::Ziplist {
                    cursor.u32_le()?;
                }
                let count = cursor.u16_le()?;
                (count != COUNT_UNKNOWN).then_some(u64::from(count))
            }
            Form::Zipmap => {
                let count = cursor.byte()?;
                (count < LONG).then_some(u64::from(count) * 2)
            }
            Form::Intset => {
                width = u64::from(cursor.u32_le()?);
                let count = u64::from(cursor.u32_le()?);
                if ![2, 4, 8].contains(&width) || cursor.rest().len() as u64 != count * width {
                    return Err(cursor.malformed("an intset of another size"));
                }
                Some(count)
            }
        };
        Ok(Self {
            form,
            cursor,
            left,
            width,
            is_value: false,
        })
    }

    /// Reads the next entry.
    pub(super) fn next(&mut self) -> Result<Option<Packed<'b>>, Malformed> {
        if self.is_at_end()? {
            return Ok(None);
        }
        if let Some(left) = &mut self.left {
            let Some(fewer) = left.checked_sub(1) else {
                return Err(self.malformed("more entries than are counted"));
            };
            *left = fewer;
        }
        match self.form {
            Form::Listpack => self.of_listpack(),
            Form::Ziplist => self.of_ziplist(),
            Form::Zipmap => self.of_zipmap(),
            Form::Intset => self.of_intset(),
        }
        .map(Some)
    }

    /// Reads the next entry, which must be there.
    pub(super) fn require(&mut self, what: &'static str) -> Result<Packed<'b>, Malformed> {
        let next = self.next()?;
        next.ok_or_else(|| self.malformed(what))
    }

    /// Reads the next entry, which must be an integer.
    pub(super) fn require_integer(&mut self, what: &'static str) -> Result<i64, Malformed> {
        let number = self.require(what)?.integer();
        number.ok_or_else(|| self.malformed(what))
    }

    /// Makes an error with the offset of the next entry.
    pub(super) fn malformed(&self, what: &'static str) -> Malformed {
        self.cursor.malformed(what)
    }

    fn is_at_end(&mut self) -> Result<bool, Malformed> {
        if self.form == Form::Intset {
            return Ok(self.cursor.is_empty());
        }
        match self.cursor.rest() {
            [END] => {}
            [END, ..] => return Err(self.malformed("bytes behind the end of a collection")),
            [] => return Err(self.malformed("a collection without an end")),
            _ => return Ok(false),
        }
        match self.left {
            None | Some(0) => Ok(true),
            Some(_) => Err(self.malformed("fewer entries than are counted")),
        }
    }

    fn of_listpack(&mut self) -> Result<Packed<'b>, Malformed> {
        let cursor = &mut self.cursor;
        let start = cursor.position();
        let first = cursor.byte()?;
        let entry = match first {
            0x00..=0x7f => Packed::Integer(i64::from(first)),
            0x80..=0xbf => Packed::Bytes(cursor.take(u64::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let bits = i64::from(u16::from_be_bytes([first & 0x1f, cursor.byte()?]));
                Packed::Integer(if bits < 1 << 12 {
                    bits
                } else {
                    bits - (1 << 13)
                })
            }
            0xe0..=0xef => {
                let length = u16::from_be_bytes([first & 0x0f, cursor.byte()?]);
                Packed::Bytes(cursor.take(u64::from(length))?)
            }
            0xf0 => {
                let length = cursor.u32_le()?;
                Packed::Bytes(cursor.take(u64::from(length))?)
            }
            0xf1 => Packed::Integer(cursor.signed_le::<2>()?),
            0xf2 => Packed::Integer(cursor.signed_le::<3>()?),
            0xf3 => Packed::Integer(cursor.signed_le::<4>()?),
            0xf4 => Packed::Integer(cursor.signed_le::<8>()?),
            _ => return Err(cursor.malformed("no entry of a listpack")),
        };
        let length = (cursor.position() - start) as u64;
        let (backwards, count) = backwards(length);
        let backwards = backwards.get(..count).unwrap_or_default();
        if cursor.take(count as u64)? != backwards {
            return Err(cursor.malformed("an entry of a listpack with another length"));
        }
        Ok(entry)
    }

    fn of_ziplist(&mut self) -> Result<Packed<'b>, Malformed> {
        let cursor = &mut self.cursor;
        let start = cursor.position();
        let before = match cursor.byte()? {
            LONG => u64::from(cursor.u32_le()?),
            length => u64::from(length),
        };
        if before != self.width {
            return Err(cursor.malformed("an entry of a ziplist behind one of another length"));
        }
        let first = cursor.byte()?;
        let entry = match first {
            0x00..=0x3f => Packed::Bytes(cursor.take(u64::from(first))?),
            0x40..=0x7f => {
                let length = u16::from_be_bytes([first & 0x3f, cursor.byte()?]);
                Packed::Bytes(cursor.take(u64::from(length))?)
            }
            0x80..=0xbf => {
                let length = u32::from_be_bytes(cursor.array()?);
                Packed::Bytes(cursor.take(u64::from(length))?)
            }
            0xc0 => Packed::Integer(cursor.signed_le::<2>()?),
            0xd0 => Packed::Integer(cursor.signed_le::<4>()?),
            0xe0 => Packed::Integer(cursor.signed_le::<8>()?),
            0xf0 => Packed::Integer(cursor.signed_le::<3>()?),
            0xfe => Packed::Integer(cursor.signed_le::<1>()?),
            0xf1..=0xfd => Packed::Integer(i64::from(first & 0x0f) - 1),
            _ => return Err(cursor.malformed("no entry of a ziplist")),
        };
        self.width = (cursor.position() - start) as u64;
        Ok(entry)
    }

    fn of_zipmap(&mut self) -> Result<Packed<'b>, Malformed> {
        let cursor = &mut self.cursor;
        let length = match cursor.byte()? {
            LONG => u64::from(cursor.u32_le()?),
            length => u64::from(length),
        };
        let unused = if self.is_value { cursor.byte()? } else { 0 };
        let bytes = cursor.take(length)?;
        cursor.take(u64::from(unused))?;
        self.is_value = !self.is_value;
        Ok(Packed::Bytes(bytes))
    }

    fn of_intset(&mut self) -> Result<Packed<'b>, Malformed> {
        let number = match self.width {
            2 => self.cursor.signed_le::<2>(),
            4 => self.cursor.signed_le::<4>(),
            _ => self.cursor.signed_le::<8>(),
        };
        number.map(Packed::Integer)
    }
}

/// Returns the length of a listpack's entry as it stands behind it, in groups of seven bits of which the first has no
/// mark, and the number of bytes that it takes. The limits are those of the servers: one below what would fit.
fn backwards(length: u64) -> ([u8; 5], usize) {
    let count = match length {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    for (at, byte) in bytes.iter_mut().take(count).enumerate() {
        let group = (length >> (7 * (count - 1 - at))) as u8 & 0x7f;
        *byte = if at == 0 { group } else { group | 0x80 };
    }
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(form: Form, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut entries = Entries::new(form, Cursor::new(bytes))?;
        let mut found = Vec::new();
        while let Some(entry) = entries.next()? {
            found.push(entry.text().into_vec());
        }
        Ok(found)
    }

    fn listpack(count: u16, entries: &[u8]) -> Vec<u8> {
        let size = (entries.len() + 7) as u32;
        [
            &size.to_le_bytes()[..],
            &count.to_le_bytes(),
            entries,
            &[END],
        ]
        .concat()
    }

    #[test]
    fn listpack_entries_of_every_encoding_are_read() {
        let long = [b'x'; 5000];
        let bytes = [
            &b"\x7f\x01"[..],
            b"\x82ab\x03",
            b"\xdf\xff\x02",
            b"\xcf\xff\x02",
            b"\xe0\x02cd\x04",
            b"\xf0\x88\x13\0\0",
            &long,
            b"\x27\x8d",
            b"\xf1\x00\x80\x03",
            b"\xf2\xff\xff\x7f\x04",
            b"\xf3\xff\xff\xff\xff\x05",
            b"\xf4\0\0\0\0\0\0\0\x80\x09",
        ]
        .concat();
        let expected: Vec<Vec<u8>> = [
            "127".into(),
            "ab".into(),
            "-1".into(),
            "4095".into(),
            "cd".into(),
            "x".repeat(5000),
            "-32768".into(),
            "8388607".into(),
            "-1".into(),
            i64::MIN.to_string(),
        ]
        .map(String::into_bytes)
        .to_vec();
        for count in [10, COUNT_UNKNOWN] {
            assert_eq!(
                entries(Form::Listpack, &listpack(count, &bytes)),
                Ok(expected.clone())
            );
        }
        for count in [9, 11] {
            assert!(entries(Form::Listpack, &listpack(count, &bytes)).is_err());
        }
        assert!(entries(Form::Listpack, &listpack(1, b"\x82ab\x04")).is_err());
        assert!(entries(Form::Listpack, &listpack(1, b"\xf5ab\x03")).is_err());
    }

    #[test]
    fn lengths_behind_listpack_entries_are_those_of_the_servers() {
        let of = |length| {
            let (bytes, count) = backwards(length);
            bytes[..count].to_vec()
        };
        assert_eq!(of(127), [127]);
        assert_eq!(of(128), [1, 0x80]);
        assert_eq!(of(16_382), [127, 0xfe]);
        assert_eq!(of(16_383), [0, 0xff, 0xff]);
        assert_eq!(of(268_435_455), [0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn ziplist_entries_of_every_encoding_are_read() {
        let body = [
            &b"\x00\x02ab"[..],
            b"\x04\xf1",
            b"\x02\xfd",
            b"\x02\xfe\x80",
            b"\xfe\x03\0\0\0\xc0\xff\x7f",
            b"\x08\xf0\x00\x00\x80",
            b"\x05\xd0\xff\xff\xff\xff",
            b"\x06\xe0\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x0a\x40\x03xyz",
            b"\x06\x80\0\0\0\x01z",
        ]
        .concat();
        let ziplist = |count: u16, body: &[u8]| {
            let size = (body.len() + 11) as u32;
            [
                &size.to_le_bytes()[..],
                &[0; 4],
                &count.to_le_bytes(),
                body,
                &[END],
            ]
            .concat()
        };
        let expected = [
            "ab",
            "0",
            "12",
            "-128",
            "32767",
            "-8388608",
            "-1",
            "9223372036854775807",
            "xyz",
            "z",
        ];
        let expected = expected.map(|text| text.as_bytes().to_vec()).to_vec();
        assert_eq!(entries(Form::Ziplist, &ziplist(10, &body)), Ok(expected));
        assert!(entries(Form::Ziplist, &ziplist(9, &body)).is_err());
        assert!(entries(Form::Ziplist, &ziplist(1, b"\x01\x02ab")).is_err());
        assert!(entries(Form::Ziplist, &ziplist(1, b"\x00\xff")).is_err());
    }

    #[test]
    fn zipmaps_and_intsets_are_read() {
        let zipmap = b"\x02\x03foo\x03\x02bar__\x05hello\xfe\x05\0\0\0\x00world\xff";
        let expected = ["foo", "bar", "hello", "world"].map(|text| text.as_bytes().to_vec());
        assert_eq!(entries(Form::Zipmap, zipmap), Ok(expected.to_vec()));
        let intset = b"\x02\0\0\0\x02\0\0\0\xff\xff\x07\0";
        let expected = ["-1", "7"].map(|text| text.as_bytes().to_vec());
        assert_eq!(entries(Form::Intset, intset), Ok(expected.to_vec()));
        assert!(entries(Form::Intset, &intset[..11]).is_err());
        assert!(entries(Form::Intset, b"\x03\0\0\0\0\0\0\0").is_err());
    }
}
