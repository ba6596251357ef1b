//! Lengths, strings and numbers as they stand in RDB bytes: read from a slice with [`Cursor`], written by `write_*`.
//!
//! ```text
//! length   00xxxxxx | 01xxxxxx xxxxxxxx | 0x80 and 4 bytes | 0x81 and 8 bytes, big-endian
//! string   a length and as many bytes
//!          0xc0, 0xc1, 0xc2 and an integer of 1, 2, 4 bytes, little-endian: its decimal digits
//!          0xc3, length of the LZF bytes, length of the text, LZF bytes
//! ```
//!
//! Nothing is reserved for a length before it is known that the bytes can hold it.

use std::ops::Deref;

use thiserror::Error;

/// The most bytes that LZF makes of one: 264 of a reference of three bytes.
const LZF_RATIO_MAX: u64 = 88;

/// Number of digits and sign of the longest 64-bit integer.
const DIGITS_MAX: usize = 20;

/// Bytes that do not have the form that is expected of them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{what} at byte {at}")]
pub(crate) struct Malformed {
    /// Offset of the first byte that does not fit. For bytes inside of a compressed string, the offset of that string.
    pub(crate) at: u64,
    /// What is wrong with it.
    pub(crate) what: &'static str,
}

/// A length, or the kind of a string that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// A length, or another number.
    Plain(u64),
    /// The low six bits of a byte whose upper bits are 11: 0 to 2 an integer, 3 an LZF string.
    Special(u8),
}

/// A string that was read: borrowed if it stands in the bytes as it is.
#[derive(Clone, Debug)]
pub(crate) enum Text<'b> {
    /// Plain bytes.
    Borrowed(&'b [u8]),
    /// The digits of an integer, and how many they are.
    Digits([u8; DIGITS_MAX], u8),
    /// Bytes that were compressed.
    Inflated(Vec<u8>),
}

/// Reads bytes from a slice, and knows the offset for errors.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'b> {
    bytes: &'b [u8],
    /// Number of bytes that were read.
    at: usize,
    /// Offset of the slice in what it is a part of.
    base: u64,
    /// True if the slice does not stand in there, but was compressed: then all its bytes have one offset.
    is_inflated: bool,
}

impl Text<'_> {
    /// Makes the digits of an integer.
    pub(crate) fn of_integer(number: i64) -> Self {
        let mut digits = [0; DIGITS_MAX];
        let mut start = DIGITS_MAX;
        let mut rest = number.unsigned_abs();
        let mut put = |digit: u8| {
            start = start.saturating_sub(1);
            if let Some(place) = digits.get_mut(start) {
                *place = digit;
            }
        };
        loop {
            put(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            put(b'-');
        }
        digits.rotate_left(start);
        Self::Digits(digits, (DIGITS_MAX - start) as u8)
    }

    /// True if the string was compressed.
    pub(crate) fn is_inflated(&self) -> bool {
        matches!(self, Self::Inflated(_))
    }

    /// Returns the bytes as a vector.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Inflated(bytes) => bytes,
            other => other.to_vec(),
        }
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Digits(digits, count) => digits.get(..usize::from(*count)).unwrap_or_default(),
            Self::Inflated(bytes) => bytes,
        }
    }
}

impl<'b> Cursor<'b> {
    /// Starts at the first byte of a slice.
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self::inside(bytes, 0, false)
    }

    /// Starts at the first byte of a slice that was found at an offset of other bytes; `is_inflated` if it was
    /// compressed there.
    pub(crate) fn inside(bytes: &'b [u8], base: u64, is_inflated: bool) -> Self {
        Self {
            bytes,
            at: 0,
            base,
            is_inflated,
        }
    }

    /// Returns the offset of the next byte, for errors.
    pub(crate) fn offset(&self) -> u64 {
        if self.is_inflated {
            return self.base;
        }
        self.base.saturating_add(self.at as u64)
    }

    /// Returns the number of bytes that were read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Returns the bytes that were not read.
    pub(crate) fn rest(&self) -> &'b [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// True if all bytes were read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Makes an error with the offset of the next byte.
    pub(crate) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            at: self.offset(),
            what,
        }
    }

    /// Fails unless all bytes were read.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            return Ok(());
        }
        Err(self.malformed("bytes behind the end"))
    }

    /// Reads as many bytes as they are.
    pub(crate) fn take(&mut self, count: u64) -> Result<&'b [u8], Malformed> {
        let rest = self.rest();
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count));
        let Some(taken) = taken else {
            return Err(self.malformed("the bytes end too early"));
        };
        self.at += taken.len();
        Ok(taken)
    }

    /// Reads as many bytes as an array has.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((taken, _)) = self.rest().split_first_chunk::<N>() else {
            return Err(self.malformed("the bytes end too early"));
        };
        self.at += N;
        Ok(*taken)
    }

    /// Reads one byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Reads an unsigned integer of two bytes, little-endian.
    pub(crate) fn u16_le(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads an unsigned integer of four bytes, little-endian.
    pub(crate) fn u32_le(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads a signed integer of eight bytes, little-endian: most often a time in ms.
    pub(crate) fn i64_le(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Reads an unsigned integer of eight bytes, big-endian.
    pub(crate) fn u64_be(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Reads a signed integer of one to eight bytes, little-endian.
    pub(crate) fn signed_le<const N: usize>(&mut self) -> Result<i64, Malformed> {
        let bytes = self.array::<N>()?;
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) {
            0xff
        } else {
            0
        };
        let mut wide = [fill; 8];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(i64::from_le_bytes(wide))
    }

    /// Reads a floating-point number of eight bytes, little-endian.
    pub(crate) fn f64_le(&mut self) -> Result<f64, Malformed> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Reads a floating-point number as old servers write it: one byte with the number of characters, and these; or
    /// 253 for not-a-number, 254 for infinity, 255 for its negative.
    pub(crate) fn f64_text(&mut self) -> Result<f64, Malformed> {
        let at = self.clone();
        match self.byte()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            count => {
                let text = self.take(u64::from(count))?;
                parse_f64(text).ok_or_else(|| at.malformed("no floating-point number"))
            }
        }
    }

    /// Reads a length, or the kind of a string without one.
    pub(crate) fn length_or_special(&mut self) -> Result<Length, Malformed> {
        let at = self.clone();
        let first = self.byte()?;
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(u64::from(first)),
            (1, _) => Length::Plain(u64::from(u16::from_be_bytes([first & 0x3f, self.byte()?]))),
            (2, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            (2, 0x81) => Length::Plain(self.u64_be()?),
            (3, _) => Length::Special(first & 0x3f),
            _ => return Err(at.malformed("no length")),
        })
    }

    /// Reads a length.
    pub(crate) fn length(&mut self) -> Result<u64, Malformed> {
        let at = self.clone();
        match self.length_or_special()? {
            Length::Plain(length) => Ok(length),
            Length::Special(_) => Err(at.malformed("a string in place of a length")),
        }
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Text<'b>, Malformed> {
        let at = self.clone();
        match self.length_or_special()? {
            Length::Plain(length) => self.take(length).map(Text::Borrowed),
            Length::Special(0) => self.signed_le::<1>().map(Text::of_integer),
            Length::Special(1) => self.signed_le::<2>().map(Text::of_integer),
            Length::Special(2) => self.signed_le::<4>().map(Text::of_integer),
            Length::Special(3) => {
                let (packed, plain) = (self.length()?, self.length()?);
                let packed = self.take(packed)?;
                let inflated = inflate(packed, plain);
                let inflated = inflated.ok_or_else(|| at.malformed("no LZF string"))?;
                Ok(Text::Inflated(inflated))
            }
            Length::Special(_) => Err(at.malformed("no string")),
        }
    }

    /// Passes over a string without looking at its text.
    pub(crate) fn skip_string(&mut self) -> Result<(), Malformed> {
        let at = self.clone();
        let count = match self.length_or_special()? {
            Length::Plain(length) => length,
            Length::Special(kind @ 0..=2) => 1 << kind,
            Length::Special(3) => {
                let packed = self.length()?;
                self.length()?;
                packed
            }
            Length::Special(_) => return Err(at.malformed("no string")),
        };
        self.take(count).map(drop)
    }
}

/// Decompresses LZF bytes, if they are the number of bytes that they should be. Memory is reserved only for as many as
/// the compressed ones can become.
pub(crate) fn inflate(packed: &[u8], plain: u64) -> Option<Vec<u8>> {
    if plain > LZF_RATIO_MAX.saturating_mul(packed.len() as u64) {
        return None;
    }
    let plain = usize::try_from(plain).ok()?;
    let mut out = Vec::with_capacity(plain);
    #[cfg(any(test, fuzzing))]
    crate::fuzzing::steps::reserve(out.capacity());
    let mut cursor = Cursor::new(packed);
    while !cursor.is_empty() {
        let control = usize::from(cursor.byte().ok()?);
        let room = plain.checked_sub(out.len())?;
        if control < 32 {
            let literal = cursor.take(control as u64 + 1).ok()?;
            if literal.len() > room {
                return None;
            }
            out.extend_from_slice(literal);
            continue;
        }
        let mut count = (control >> 5) + 2;
        if count == 9 {
            count += usize::from(cursor.byte().ok()?);
        }
        let back = ((control & 0x1f) << 8) + usize::from(cursor.byte().ok()?) + 1;
        let start = out.len().checked_sub(back)?;
        if count > room {
            return None;
        }
        if count <= back {
            out.extend_from_within(start..start + count);
        } else {
            // The reference reaches into what it makes: its first bytes are repeated.
            for from in start..start + count {
                let byte = *out.get(from)?;
                out.push(byte);
            }
        }
    }
    (out.len() == plain).then_some(out)
}

/// Parses a floating-point number as servers write it. Not-a-number is none.
pub(crate) fn parse_f64(text: &[u8]) -> Option<f64> {
    let number: f64 = str::from_utf8(text).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// Appends a length.
pub(crate) fn write_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..=0x3f => out.push(length as u8),
        0x40..=0x3fff => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// Appends a string with its plain bytes.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    write_length(out, text.len() as u64);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let text = cursor.string()?.into_vec();
        let mut skipped = Cursor::new(bytes);
        skipped.skip_string()?;
        assert_eq!(skipped.position(), cursor.position());
        cursor.end()?;
        Ok(text)
    }

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for length in [
            0,
            1,
            63,
            64,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::from(u32::MAX) + 1,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            write_length(&mut bytes, length);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.length(), Ok(length));
            assert!(cursor.is_empty());
            for end in 0..bytes.len() {
                assert!(Cursor::new(&bytes[..end]).length().is_err());
            }
        }
        assert!(Cursor::new(&[0x82, 0, 0, 0, 0]).length().is_err());
        assert!(Cursor::new(&[0xc0, 1]).length().is_err());
    }

    #[test]
    fn strings_of_every_form_are_read() {
        assert_eq!(string(b"\x03abc"), Ok(b"abc".to_vec()));
        assert_eq!(string(b"\xc0\x0c"), Ok(b"12".to_vec()));
        assert_eq!(string(b"\xc0\x80"), Ok(b"-128".to_vec()));
        assert_eq!(string(b"\xc1\x39\x30"), Ok(b"12345".to_vec()));
        assert_eq!(string(b"\xc2\0\0\0\x80"), Ok(b"-2147483648".to_vec()));
        // "a", and a reference of 9 + 255 bytes to it: 265 in all.
        assert_eq!(
            string(b"\xc3\x05\x41\x09\x00a\xe0\xff\x00"),
            Ok(vec![b'a'; 265])
        );
        assert!(string(b"\xc4\x00").is_err());
        assert!(string(b"\x05abc").is_err());
    }

    #[test]
    fn integers_of_all_lengths_have_their_digits() {
        for number in [0, 1, -1, 9, 10, -10, 12_345, i64::MAX, i64::MIN] {
            assert_eq!(&Text::of_integer(number)[..], number.to_string().as_bytes());
        }
        assert_eq!(
            Cursor::new(&[0xff, 0xff, 0x7f]).signed_le::<3>(),
            Ok(0x7f_ffff)
        );
        assert_eq!(Cursor::new(&[0, 0, 0x80]).signed_le::<3>(), Ok(-0x80_0000));
    }

    #[test]
    fn lzf_bytes_never_become_more_than_is_said() {
        assert_eq!(inflate(b"\x01ab\x20\x01", 5), Some(b"ababa".to_vec()));
        for plain in [0, 4, 6, 1000, u64::MAX] {
            assert_eq!(inflate(b"\x01ab\x20\x01", plain), None, "{plain}");
        }
        // A reference to before the first byte, and bytes that end early.
        assert_eq!(inflate(b"\x01ab\x20\x02", 5), None);
        assert_eq!(inflate(b"\x05ab", 6), None);
        assert_eq!(inflate(b"\x01ab\xe0\x01", 12), None);
        assert_eq!(inflate(b"", 0), Some(Vec::new()));
    }

    #[test]
    fn errors_have_the_offset_of_what_does_not_fit() {
        let mut cursor = Cursor::inside(b"\x01a\xc4", 10, false);
        assert_eq!(&*cursor.string().unwrap(), b"a");
        assert_eq!(cursor.string().unwrap_err().at, 12);
        let mut cursor = Cursor::inside(b"\x01a\xc4", 10, true);
        assert_eq!(&*cursor.string().unwrap(), b"a");
        assert_eq!(cursor.string().unwrap_err().at, 10);
    }

    #[test]
    fn floating_point_text_is_read() {
        assert_eq!(Cursor::new(b"\x031.5").f64_text(), Ok(1.5));
        assert_eq!(Cursor::new(b"\xff").f64_text(), Ok(f64::NEG_INFINITY));
        assert!(Cursor::new(b"\x01x").f64_text().is_err());
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"nan"), None);
    }
}
