//! Walks over the bytes of a record by their lengths.

use std::io::{self, Read};

use super::RdbError;
use super::bytes::Length;
use super::input::Input;
use super::kinds::Layout;

/// What takes the bytes of a value, in pieces.
pub(crate) type Sink<'s> = dyn FnMut(&[u8]) -> io::Result<()> + 's;

/// The forms of strings that are not stored as they are.
pub(super) mod special {
    /// An integer of one byte.
    pub(crate) const INT8: u8 = 0;
    /// An integer of two bytes.
    pub(crate) const INT16: u8 = 1;
    /// An integer of four bytes.
    pub(crate) const INT32: u8 = 2;
    /// Compressed.
    pub(crate) const LZF: u8 = 3;
}

/// A walk from where an input stands. With a sink, it gets all bytes that pass.
pub(super) struct Walk<'w, R> {
    input: &'w mut Input<R>,
    sink: Option<&'w mut Sink<'w>>,
    /// Offset in the buffer of the first byte that the sink has not got.
    from: usize,
}

impl<'w, R: Read> Walk<'w, R> {
    /// Starts a walk whose bytes nobody wants.
    pub(super) fn new(input: &'w mut Input<R>) -> Self {
        let from = input.position();
        Self {
            input,
            sink: None,
            from,
        }
    }

    /// Starts a walk whose bytes go to a sink. It must be [finished](Self::finish).
    pub(super) fn with_sink(input: &'w mut Input<R>, sink: &'w mut Sink<'w>) -> Self {
        let from = input.position();
        Self {
            input,
            sink: Some(sink),
            from,
        }
    }

    /// Gives the sink what it has not got.
    pub(super) fn finish(mut self) -> Result<(), RdbError> {
        self.give()
    }

    /// Returns how many bytes of the stream have passed.
    pub(super) fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Makes the error for bytes that contradict each other here.
    pub(super) fn malformed(&self, what: &'static str) -> RdbError {
        RdbError::Malformed {
            offset: self.offset(),
            what,
        }
    }

    /// Passes one byte.
    pub(super) fn byte(&mut self) -> Result<u8, RdbError> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    /// Passes a few bytes.
    #[inline]
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        loop {
            if let Some(&bytes) = self.input.rest().first_chunk::<N>() {
                self.input.consume(N);
                return Ok(bytes);
            }
            self.more()?;
        }
    }

    /// Passes a length.
    #[inline]
    pub(super) fn length(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(low)),
            1 => Length::Plain(u64::from(u16::from_be_bytes([low, self.byte()?]))),
            2 if low == 0 => Length::Plain(u64::from(u32::from_be_bytes(self.bytes()?))),
            2 if low == 1 => Length::Plain(u64::from_be_bytes(self.bytes()?)),
            2 => return Err(self.malformed("a length has an unknown form")),
            _ => Length::Special(low),
        })
    }

    /// Passes a length that must be a number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, RdbError> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Special(_) => Err(self.malformed("a number is expected, not a string")),
        }
    }

    /// Passes any number of bytes.
    #[inline]
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), RdbError> {
        loop {
            let there = self.input.rest().len();
            match usize::try_from(count) {
                Ok(count) if count <= there => {
                    self.input.consume(count);
                    return Ok(());
                }
                _ => {}
            }
            self.input.consume(there);
            count -= there as u64;
            self.more()?;
        }
    }

    /// Passes a string.
    #[inline]
    pub(super) fn string(&mut self) -> Result<(), RdbError> {
        let length = match self.length()? {
            Length::Plain(length) => length,
            Length::Special(special::INT8) => 1,
            Length::Special(special::INT16) => 2,
            Length::Special(special::INT32) => 4,
            Length::Special(special::LZF) => {
                let compressed = self.number()?;
                self.number()?;
                compressed
            }
            Length::Special(_) => return Err(self.malformed("a string has an unknown form")),
        };
        self.skip(length)
    }

    /// Passes bytes and returns them. The memory grows as they come.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<u8>, RdbError> {
        let mut taken = Vec::new();
        loop {
            let wanted = count - taken.len();
            let rest = self.input.rest();
            let piece = rest.get(..wanted).unwrap_or(rest);
            let length = piece.len();
            taken.extend_from_slice(piece);
            self.input.consume(length);
            if length == wanted {
                return Ok(taken);
            }
            self.more()?;
        }
    }

    /// Passes a value.
    pub(super) fn value(&mut self, layout: Layout) -> Result<(), RdbError> {
        match layout {
            Layout::String => self.string(),
            Layout::Strings { each } => {
                let count = self.number()?;
                for _ in 0..count {
                    for _ in 0..each {
                        self.string()?;
                    }
                }
                Ok(())
            }
            Layout::NumberedStrings => self.each(|walk| {
                walk.number()?;
                walk.string()
            }),
            Layout::Scored => self.each(|walk| {
                walk.string()?;
                walk.skip(8)
            }),
            Layout::TextScored => self.each(|walk| {
                walk.string()?;
                walk.text_score()
            }),
            Layout::ExpiringPairs => {
                self.skip(8)?;
                self.each(Self::expiring_pair)
            }
            Layout::EarlyExpiringPairs => self.each(Self::expiring_pair),
            Layout::PairsExpiring => self.each(|walk| {
                walk.string()?;
                walk.string()?;
                walk.skip(8)
            }),
            Layout::ExpiringString => {
                self.skip(8)?;
                self.string()
            }
            Layout::Module => {
                self.number()?;
                self.module()
            }
            Layout::Stream { generation } => self.stream(generation),
        }
    }

    /// Passes what a module has written, up to its end.
    pub(super) fn module(&mut self) -> Result<(), RdbError> {
        loop {
            match self.number()? {
                0 => return Ok(()),
                1 | 2 => drop(self.number()?),
                3 => self.skip(4)?,
                4 => self.skip(8)?,
                5 => self.string()?,
                _ => return Err(self.malformed("a module's value has an unknown part")),
            }
        }
    }

    /// Passes a number of elements, and the elements.
    fn each(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), RdbError>,
    ) -> Result<(), RdbError> {
        let count = self.number()?;
        for _ in 0..count {
            element(self)?;
        }
        Ok(())
    }

    /// Passes a time, a field and its value.
    fn expiring_pair(&mut self) -> Result<(), RdbError> {
        self.number()?;
        self.string()?;
        self.string()
    }

    /// Passes a score as text; the longest lengths stand for what is no number, without text.
    fn text_score(&mut self) -> Result<(), RdbError> {
        match self.byte()? {
            253..=255 => Ok(()),
            length => self.skip(u64::from(length)),
        }
    }

    /// Passes a stream of the first generation (15), the second (19) or the third (21).
    fn stream(&mut self, generation: u8) -> Result<(), RdbError> {
        self.each(|walk| {
            walk.string()?;
            walk.string()
        })?;
        // Length and last ID; then first ID, largest deleted ID, and the number of entries ever added.
        self.numbers(if generation >= 2 { 8 } else { 3 })?;
        self.each(|group| {
            group.string()?;
            // Last ID; then the number of entries read.
            group.numbers(if generation >= 2 { 3 } else { 2 })?;
            group.each(|pending| {
                pending.skip(16 + 8)?;
                pending.numbers(1)
            })?;
            group.each(|consumer| {
                consumer.string()?;
                // Time seen; then time active.
                consumer.skip(if generation >= 3 { 16 } else { 8 })?;
                let pending = consumer.number()?;
                let bytes = pending
                    .checked_mul(16)
                    .ok_or_else(|| consumer.malformed("a consumer has too many entries"))?;
                consumer.skip(bytes)
            })
        })
    }

    /// Passes some numbers.
    fn numbers(&mut self, count: usize) -> Result<(), RdbError> {
        for _ in 0..count {
            self.number()?;
        }
        Ok(())
    }

    /// Reads more bytes, and makes room for them first if there is none.
    #[cold]
    fn more(&mut self) -> Result<(), RdbError> {
        if self.input.is_full() {
            self.give()?;
            self.input.compact();
            self.from = 0;
        }
        self.input.fill()
    }

    /// Gives the sink what has passed since the last time.
    fn give(&mut self) -> Result<(), RdbError> {
        let passed = self.input.passed(self.from);
        if let Some(sink) = &mut self.sink
            && !passed.is_empty()
        {
            sink(passed).map_err(RdbError::Write)?;
        }
        self.from = self.input.position();
        Ok(())
    }
}
