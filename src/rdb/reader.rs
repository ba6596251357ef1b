//! The records of an RDB, one at a time.

use std::io::Read;

use super::bytes::{self, Length};
use super::input::Input;
use super::kinds::{self, Layout, opcode};
use super::version::{Family, HEAD_LENGTH, RdbVersion};
use super::walk::{Sink, Walk, special};
use super::{Access, KeyInfo, RdbError};

/// The longest string that is held in memory: keys, libraries of functions, facts. Servers take none that is longer.
const STRING_MAX: u64 = 512 << 20;

/// One record of an RDB. Records that come before a key and concern that key alone are in its [`KeyInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RdbItem {
    /// A fact of the server, such as `redis-ver`, `valkey-ver`, `ctime` or `repl-offset`.
    Aux {
        /// Its name.
        name: Vec<u8>,
        /// The fact.
        value: Vec<u8>,
    },
    /// The following keys are in this database.
    Database(u32),
    /// How many keys the database has; expired ones that are not deleted yet are among them.
    Sizes {
        /// All keys.
        keys: u64,
        /// Those that expire.
        expiring: u64,
    },
    /// The source text of a library of functions.
    Function(Vec<u8>),
    /// A key. Its value comes next: [`RdbReader::value`] or [`RdbReader::skip_value`].
    Key(KeyInfo),
    /// What a module keeps beside its keys. It can only be loaded from an RDB, and is skipped.
    ModuleAux {
        /// The name of the module's type.
        module: String,
    },
    /// How many keys a slot of a cluster has.
    Slot {
        /// The slot.
        slot: u64,
        /// All keys.
        keys: u64,
        /// Those that expire.
        expiring: u64,
    },
    /// Slots that another node of a cluster was sending to this one. What has come of them may follow.
    SlotImport {
        /// The name of the import.
        name: Vec<u8>,
        /// The first and the last slot of each range.
        ranges: Vec<(u64, u64)>,
    },
}

/// Reads an RDB record by record.
///
/// The memory grows with bytes that have come, whatever lengths the stream claims: a value passes through a buffer, and
/// only a key, a library of functions or a fact is held whole, up to 512 MiB.
///
/// It reads ahead, but never waits for bytes behind the end of the RDB.
pub(crate) struct RdbReader<R> {
    input: Input<R>,
    version: RdbVersion,
    db: u32,
    pending: Pending,
    state: State,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a record.
    Record,
    /// Before the value of a key.
    Value(Layout),
    /// Behind the end and the checksum.
    End,
    /// In the middle of what could not be read.
    Failed,
}

/// What stands before a key and concerns it alone.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    expires_at: Option<i64>,
    access: Access,
}

impl<R: Read> RdbReader<R> {
    /// Reads the head. A version of which some records are not known is refused.
    ///
    /// # Errors
    ///
    /// If the head is not one of an RDB, if its version is newer than those that are known, or if it cannot be read.
    pub(crate) fn new(read: R) -> Result<Self, RdbError> {
        let reader = Self::allowing_newer(read)?;
        reader.version.require_known()?;
        Ok(reader)
    }

    /// Reads the head, of any version. Records that are not known are refused when they come.
    ///
    /// # Errors
    ///
    /// If the head is not one of an RDB, or if it cannot be read.
    pub(crate) fn allowing_newer(read: R) -> Result<Self, RdbError> {
        let mut input = Input::new(read);
        let head: [u8; HEAD_LENGTH] = Walk::new(&mut input).bytes()?;
        Ok(Self {
            input,
            version: RdbVersion::of_head(&head)?,
            db: 0,
            pending: Pending::default(),
            state: State::Record,
        })
    }

    /// Returns the version of the format.
    pub(crate) fn version(&self) -> RdbVersion {
        self.version
    }

    /// Returns how many bytes were read as records.
    pub(crate) fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Reads the next record. A value that was not taken is skipped. Returns `None` behind the end, if the checksum fits.
    ///
    /// Keys come before the checksum is known: what was made of them is to be thrown away when an error follows.
    ///
    /// # Errors
    ///
    /// If the RDB is damaged, cut off, or has what cannot be read; or if the reader fails. The same again after that.
    pub(crate) fn next(&mut self) -> Result<Option<RdbItem>, RdbError> {
        if let State::Value(_) = self.state {
            self.skip_value()?;
        }
        match self.state {
            State::End => return Ok(None),
            State::Failed => return Err(self.failed()),
            _ => self.state = State::Failed,
        }
        let item = self.record()?;
        if self.state == State::Failed {
            self.state = State::Record;
        }
        Ok(item)
    }

    /// Gives the bytes of the value of the key that has just been read to a sink, as they stand in the RDB behind the
    /// key, in pieces of at most 256 KiB. Returns their number.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next); if the sink fails; and if no key has just been read.
    pub(crate) fn value(&mut self, sink: &mut Sink<'_>) -> Result<u64, RdbError> {
        let State::Value(layout) = self.state else {
            return Err(self.failed());
        };
        self.state = State::Failed;
        let start = self.input.offset();
        let mut sink = |piece: &[u8]| sink(piece);
        let mut walk = Walk::with_sink(&mut self.input, &mut sink);
        walk.value(layout)?;
        walk.finish()?;
        self.state = State::Record;
        Ok(self.input.offset() - start)
    }

    /// Skips the value of the key that has just been read. Returns the number of its bytes.
    ///
    /// # Errors
    ///
    /// As for [`value`](Self::value).
    pub(crate) fn skip_value(&mut self) -> Result<u64, RdbError> {
        self.value(&mut |_| Ok(()))
    }

    /// Returns the reader, and the bytes that were read from it behind the last record.
    #[cfg(test)]
    pub(crate) fn into_inner(self) -> (R, Vec<u8>) {
        self.input.into_inner()
    }

    fn walk(&mut self) -> Walk<'_, R> {
        Walk::new(&mut self.input)
    }

    /// Reads opcodes up to one that is a record by itself, or a key. What concerns the next key is kept, whatever stands
    /// between.
    fn record(&mut self) -> Result<Option<RdbItem>, RdbError> {
        loop {
            let offset = self.input.offset();
            let code = self.walk().byte()?;
            match code {
                opcode::EXPIRES_MS => {
                    let time = i64::from_le_bytes(self.walk().bytes()?);
                    self.pending.expires_at = Some(time);
                }
                opcode::EXPIRES_S => {
                    let time = i32::from_le_bytes(self.walk().bytes()?);
                    self.pending.expires_at = Some(i64::from(time) * 1000);
                }
                opcode::IDLE => self.pending.access = Access::Idle(self.walk().number()?),
                opcode::FREQUENCY => self.pending.access = Access::Frequency(self.walk().byte()?),
                // A head that was changed to a version without checksums is told by this: they are older.
                opcode::AUX if !self.version.has_checksum() => {
                    return Err(self.walk().malformed("a fact, which this version has not"));
                }
                opcode::AUX => {
                    let name = self.string("a fact's name")?;
                    let value = self.string("a fact")?;
                    return Ok(Some(RdbItem::Aux { name, value }));
                }
                opcode::DATABASE => return self.database().map(Some),
                opcode::SIZES => {
                    let (keys, expiring) = self.pair()?;
                    return Ok(Some(RdbItem::Sizes { keys, expiring }));
                }
                opcode::FUNCTION => {
                    let source = self.string("a library of functions")?;
                    return Ok(Some(RdbItem::Function(source)));
                }
                opcode::MODULE_AUX => return self.module_aux().map(Some),
                opcode::SLOT_INFO => {
                    let slot = self.walk().number()?;
                    let (keys, expiring) = self.pair()?;
                    return Ok(Some(RdbItem::Slot {
                        slot,
                        keys,
                        expiring,
                    }));
                }
                opcode::SLOT_IMPORT if self.version.family() == Family::Valkey => {
                    return self.slot_import().map(Some);
                }
                opcode::END => return self.end(),
                value_type => {
                    let layout = kinds::layout(value_type, self.version, offset)?;
                    return self.key(value_type, layout).map(Some);
                }
            }
        }
    }

    fn key(&mut self, value_type: u8, layout: Layout) -> Result<RdbItem, RdbError> {
        let key = self.string("a key")?;
        let Pending { expires_at, access } = std::mem::take(&mut self.pending);
        self.state = State::Value(layout);
        Ok(RdbItem::Key(KeyInfo {
            db: self.db,
            key,
            expires_at,
            access,
            value_type,
        }))
    }

    fn database(&mut self) -> Result<RdbItem, RdbError> {
        let mut walk = self.walk();
        let number = walk.number()?;
        let db = u32::try_from(number)
            .map_err(|_| walk.malformed("the number of a database is too large"))?;
        self.db = db;
        Ok(RdbItem::Database(db))
    }

    fn module_aux(&mut self) -> Result<RdbItem, RdbError> {
        let mut walk = self.walk();
        let id = walk.number()?;
        // When it is to be loaded, as a number that is written as modules write theirs.
        if walk.number()? != 2 {
            return Err(walk.malformed("a module's data has an unknown beginning"));
        }
        walk.number()?;
        walk.module()?;
        Ok(RdbItem::ModuleAux {
            module: module_name(id),
        })
    }

    fn slot_import(&mut self) -> Result<RdbItem, RdbError> {
        let name = self.string("the name of an import")?;
        let count = self.walk().number()?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            ranges.push(self.pair()?);
        }
        Ok(RdbItem::SlotImport { name, ranges })
    }

    /// Reads what stands behind the end.
    fn end(&mut self) -> Result<Option<RdbItem>, RdbError> {
        if self.version.has_checksum() {
            let computed = self.input.checksum();
            let found = u64::from_le_bytes(self.walk().bytes()?);
            // Zero: the server was told not to compute it.
            if found != 0 && found != computed {
                return Err(RdbError::Checksum { found, computed });
            }
        }
        self.state = State::End;
        Ok(None)
    }

    fn pair(&mut self) -> Result<(u64, u64), RdbError> {
        let mut walk = self.walk();
        Ok((walk.number()?, walk.number()?))
    }

    /// Reads a string and decodes it.
    fn string(&mut self, what: &'static str) -> Result<Vec<u8>, RdbError> {
        let offset = self.input.offset();
        let bounded = |length: u64| match usize::try_from(length) {
            Ok(bytes) if length <= STRING_MAX => Ok(bytes),
            _ => Err(RdbError::TooLong {
                offset,
                what,
                length,
            }),
        };
        let mut walk = self.walk();
        let integer = match walk.length()? {
            Length::Plain(length) => return walk.take(bounded(length)?),
            Length::Special(special::INT8) => i32::from(i8::from_le_bytes(walk.bytes()?)),
            Length::Special(special::INT16) => i32::from(i16::from_le_bytes(walk.bytes()?)),
            Length::Special(special::INT32) => i32::from_le_bytes(walk.bytes()?),
            Length::Special(special::LZF) => {
                let compressed = bounded(walk.number()?)?;
                let length = walk.number()?;
                bounded(length)?;
                let packed = walk.take(compressed)?;
                return bytes::inflate(&packed, length)
                    .ok_or_else(|| walk.malformed("a compressed string does not unpack"));
            }
            Length::Special(_) => return Err(walk.malformed("a string has an unknown form")),
        };
        Ok(integer.to_string().into_bytes())
    }

    fn failed(&self) -> RdbError {
        RdbError::Malformed {
            offset: self.input.offset(),
            what: "reading goes on behind an error, or takes a value without a key",
        }
    }
}

/// Returns the name in a module's ID: nine characters of six bits; below them is a version.
fn module_name(id: u64) -> String {
    const CHARACTERS: &[u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |at: u32| {
        let index = (id >> (10 + 6 * at)) & 63;
        let byte = CHARACTERS.get(index as usize).copied().unwrap_or(b'?');
        char::from(byte)
    };
    (0..9).rev().map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::super::payload;
    use super::*;

    /// An RDB of these records, with a checksum of zero: unchecked.
    fn rdb(head: &[u8], records: &[u8]) -> Vec<u8> {
        [head, records, &[opcode::END], &[0; 8]].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<RdbItem>, RdbError> {
        let mut reader = RdbReader::new(bytes)?;
        let mut items = Vec::new();
        while let Some(item) = reader.next()? {
            items.push(item);
        }
        Ok(items)
    }

    fn key(key: &[u8], value_type: u8) -> KeyInfo {
        KeyInfo {
            db: 0,
            key: key.to_vec(),
            expires_at: None,
            access: Access::Unknown,
            value_type,
        }
    }

    #[test]
    fn values_of_every_type_end_where_their_bytes_do() {
        const REDIS: &[u8] = b"REDIS0012";
        const VALKEY: &[u8] = b"VALKEY080";
        let time = 0x0102_0304_0506_0708_u64.to_le_bytes();
        let id = [7; 16];
        let stream = |generation: u8| {
            let mut value = [&[1, 16][..], &id, b"\x02lp", &[6, 9, 0]].concat();
            value.extend_from_slice(if generation > 1 {
                &[1, 0, 2, 0, 7]
            } else {
                &[]
            });
            value.extend_from_slice(b"\x01\x05group\x09\x00");
            value.extend_from_slice(if generation > 1 { &[6] } else { &[] });
            value.extend([&[1][..], &id, &time, &[3]].concat());
            value.extend([&b"\x01\x03ann"[..], &time].concat());
            value.extend_from_slice(if generation > 2 { &time } else { &[] });
            value.extend([&[1][..], &id].concat());
            value
        };
        let cases: &[(&[u8], u8, Vec<u8>)] = &[
            (REDIS, 0, b"\x04text".to_vec()),
            (REDIS, 0, b"\xc0\x07".to_vec()),
            (REDIS, 0, b"\xc1\x07\x07".to_vec()),
            (REDIS, 0, b"\xc2\x07\x07\x07\x07".to_vec()),
            (REDIS, 0, b"\xc3\x05\x41\x09\x00a\xe0\xff\x00".to_vec()),
            (REDIS, 0, [&b"\x40\x50"[..], &[1; 80]].concat()),
            (REDIS, 0, [&b"\x80\x00\x00\x00\x50"[..], &[1; 80]].concat()),
            (REDIS, 0, b"\x81\0\0\0\0\0\0\0\x02ab".to_vec()),
            (REDIS, 1, b"\x02\x01a\xc0\x07".to_vec()),
            (REDIS, 2, b"\x01\x01a".to_vec()),
            (
                REDIS,
                3,
                b"\x04\x01a\x031.5\x01b\xfd\x01c\xfe\x01d\xff".to_vec(),
            ),
            (REDIS, 4, b"\x01\x01a\x01b".to_vec()),
            (REDIS, 5, [&b"\x01\x01a"[..], &time].concat()),
            (
                REDIS,
                7,
                [
                    &[0x81, 1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 2, 6, 3, 0, 0, 0, 0, 4][..],
                    &time,
                    b"\x05\x02ab\x00",
                ]
                .concat(),
            ),
            (REDIS, 9, b"\x03zip".to_vec()),
            (REDIS, 10, b"\x03zip".to_vec()),
            (REDIS, 11, b"\x03int".to_vec()),
            (REDIS, 12, b"\x03zip".to_vec()),
            (REDIS, 13, b"\x03zip".to_vec()),
            (REDIS, 14, b"\x02\x01a\x01b".to_vec()),
            (REDIS, 15, stream(1)),
            (REDIS, 16, b"\x02lp".to_vec()),
            (REDIS, 17, b"\x02lp".to_vec()),
            (REDIS, 18, b"\x02\x02\x02lp\x01\x05plain".to_vec()),
            (REDIS, 19, stream(2)),
            (REDIS, 20, b"\x02lp".to_vec()),
            (REDIS, 21, stream(3)),
            (
                REDIS,
                22,
                b"\x02\x00\x01a\x01b\x80\x01\x02\x03\x04\x01c\x01d".to_vec(),
            ),
            (
                VALKEY,
                22,
                [&b"\x02\x01a\x01b"[..], &time, b"\x01c\x01d", &[255; 8]].concat(),
            ),
            (REDIS, 23, b"\x02lp".to_vec()),
            (
                REDIS,
                24,
                [&time[..], b"\x02\x00\x01a\x01b\x01\x01c\x01d"].concat(),
            ),
            (REDIS, 25, [&time[..], b"\x02lp"].concat()),
        ];
        for (head, value_type, value) in cases {
            let mut records = vec![*value_type, 1, b'k'];
            records.extend_from_slice(value);
            // Were the end found too early or too late, the next key would not be there.
            records.extend_from_slice(b"\x00\x04next\x01x");
            let bytes = rdb(head, &records);
            let expected = [key(b"k", *value_type), key(b"next", 0)].map(RdbItem::Key);
            assert_eq!(read(&bytes).unwrap(), expected, "type {value_type}");
            let mut reader = RdbReader::new(&bytes[..]).unwrap();
            reader.next().unwrap();
            let mut taken = Vec::new();
            let mut take = |piece: &[u8]| {
                taken.extend_from_slice(piece);
                Ok(())
            };
            assert_eq!(reader.value(&mut take).unwrap(), value.len() as u64);
            assert_eq!(taken, *value, "type {value_type}");
        }
    }

    #[test]
    fn records_of_every_kind_are_read() {
        let bytes = rdb(
            b"VALKEY080",
            b"\xfa\x0avalkey-ver\x059.1.2\xfa\x05ctime\xc2\x01\x02\x03\x04\xf5\x03lib\
              \xf7\x81\x20\xc7\x5a\x79\xe7\x5d\x60\x01\x02\x02\x01\x07\x05\x01a\x00\
              \xf3\x02id\x02\x00\x05\x40\x64\x40\xc8\xfe\x03\xfb\x04\x01\xf4\x07\x02\x01\
              \xfd\x01\x00\x00\x00\xf8\x40\x64\x00\x02k1\x01v\
              \xfc\xff\xff\xff\xff\xff\xff\xff\xff\xf9\x05\x00\xc0\x0c\x01v\
              \xfe\x00\x00\xc3\x05\x41\x09\x00a\xe0\xff\x00\x01v",
        );
        let expected = [
            RdbItem::Aux {
                name: b"valkey-ver".to_vec(),
                value: b"9.1.2".to_vec(),
            },
            RdbItem::Aux {
                name: b"ctime".to_vec(),
                value: b"67305985".to_vec(),
            },
            RdbItem::Function(b"lib".to_vec()),
            RdbItem::ModuleAux {
                module: module_name(0x20c7_5a79_e75d_6001),
            },
            RdbItem::SlotImport {
                name: b"id".to_vec(),
                ranges: vec![(0, 5), (100, 200)],
            },
            RdbItem::Database(3),
            RdbItem::Sizes {
                keys: 4,
                expiring: 1,
            },
            RdbItem::Slot {
                slot: 7,
                keys: 2,
                expiring: 1,
            },
            RdbItem::Key(KeyInfo {
                db: 3,
                expires_at: Some(1000),
                access: Access::Idle(100),
                ..key(b"k1", 0)
            }),
            RdbItem::Key(KeyInfo {
                db: 3,
                expires_at: Some(-1),
                access: Access::Frequency(5),
                ..key(b"12", 0)
            }),
            RdbItem::Database(0),
            RdbItem::Key(key(&[b'a'; 265], 0)),
        ];
        assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_stands_before_a_key_is_kept_over_other_records_and_ends_with_it() {
        let bytes = rdb(
            b"REDIS0012",
            b"\xfd\x02\x00\x00\x00\xf4\x07\x02\x01\x00\x01a\x01v\x00\x01b\x01v",
        );
        let items = read(&bytes).unwrap();
        assert!(matches!(&items[1], RdbItem::Key(a) if a.expires_at == Some(2000)));
        assert_eq!(items[2], RdbItem::Key(key(b"b", 0)));
    }

    #[test]
    fn module_names_are_nine_characters_of_six_bits() {
        // "vectorset" of Redis 8, version 0.
        let index = |byte: u8| match byte {
            b'a'..=b'z' => u64::from(byte - b'a') + 26,
            _ => unreachable!(),
        };
        let name = b"vectorset"
            .iter()
            .fold(0, |id, &byte| id << 6 | index(byte));
        assert_eq!(module_name(name << 10), "vectorset");
        assert_eq!(module_name(u64::MAX), "_________");
    }

    #[test]
    fn versions_that_are_not_known_are_refused_before_any_record() {
        let bytes = rdb(b"REDIS0013", b"\x00\x01k\x01v");
        let error = RdbReader::new(&bytes[..]).err().unwrap();
        assert!(matches!(error, RdbError::NewerVersion { version: 13 }));
        let mut reader = RdbReader::allowing_newer(&bytes[..]).unwrap();
        let item = reader.next().unwrap().unwrap();
        assert_eq!(item, RdbItem::Key(key(b"k", 0)));
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn records_that_are_not_known_are_refused_with_their_offset() {
        for (number, name) in [(26, "Redis 8.6"), (242, "Redis 8.10"), (243, "Redis 8.6")] {
            let bytes = rdb(b"REDIS0012", &[0, 1, b'k', 1, b'v', number, 0, 0]);
            let mut reader = RdbReader::new(&bytes[..]).unwrap();
            reader.next().unwrap();
            let error = reader.next().unwrap_err();
            let RdbError::Unsupported { offset: 14, .. } = error else {
                panic!("{error}");
            };
            assert!(error.to_string().contains(name), "{error}");
            assert!(reader.next().is_err(), "still");
            assert!(reader.skip_value().is_err());
        }
        let bytes = rdb(b"REDIS0012", &[100]);
        let error = read(&bytes).unwrap_err();
        assert!(matches!(
            error,
            RdbError::Unknown {
                offset: 9,
                number: 100
            }
        ));
    }

    #[test]
    fn versions_without_a_checksum_end_without_one() {
        let bytes = b"REDIS0004\xfe\x00\x00\x01k\x01v\xff";
        assert_eq!(read(bytes).unwrap().len(), 2);
        let with_facts = b"REDIS0004\xfa\x01a\x01b\xff";
        assert!(read(with_facts).is_err());
    }

    #[test]
    fn lengths_that_are_claimed_reserve_nothing() {
        use crate::fuzzing::steps;

        let claim = |length: u32| [&[0x80][..], &length.to_be_bytes(), b"k"].concat();
        let long = RdbReader::new(&rdb(b"REDIS0012", &[&[0][..], &claim(600 << 20)].concat())[..])
            .unwrap()
            .next();
        assert!(matches!(long, Err(RdbError::TooLong { what: "a key", .. })));
        let (cut, spent) =
            steps::of(|| read(&rdb(b"REDIS0012", &[&[0][..], &claim(500 << 20)].concat())));
        assert!(matches!(cut, Err(RdbError::Truncated { .. })));
        assert!(spent.reserved < 1000, "{spent:?}");
        // Compressed: one byte cannot become as many.
        let (cut, spent) = steps::of(|| {
            let key = b"\x00\xc3\x03\x80\x10\x00\x00\x00\x00a\x00\x00";
            read(&rdb(b"REDIS0012", key))
        });
        assert!(matches!(cut, Err(RdbError::Malformed { .. })));
        assert!(spent.reserved < 1000, "{spent:?}");
        // A value is not held; more elements than bytes are the end of the bytes.
        for value in [
            &b"\x00\x01k\x81\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x04\x01k\x81\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let error = read(&rdb(b"REDIS0012", value)).unwrap_err();
            assert!(matches!(
                error,
                RdbError::Truncated { .. } | RdbError::Malformed { .. }
            ));
        }
    }

    #[test]
    fn large_values_come_in_pieces_and_the_checksum_is_of_all_bytes() {
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 / 3) as u8).collect();
        let mut value = Vec::new();
        bytes::write_string(&mut value, &large);
        let mut records = b"REDIS0010\x00\x01k".to_vec();
        records.extend_from_slice(&value);
        records.extend_from_slice(b"\x00\x04next\x01v\xff");
        let checksum = super::super::crc64::crc64(&records);
        records.extend_from_slice(&checksum.to_le_bytes());
        let mut reader = RdbReader::new(&records[..]).unwrap();
        reader.next().unwrap();
        let (mut taken, mut largest) = (Vec::new(), 0);
        let mut sink = |piece: &[u8]| {
            taken.extend_from_slice(piece);
            largest = largest.max(piece.len());
            Ok(())
        };
        assert_eq!(reader.value(&mut sink).unwrap(), value.len() as u64);
        assert!(taken == value && largest <= 1 << 20, "{largest}");
        assert_eq!(payload(0, &taken, reader.version()).len(), value.len() + 11);
        assert!(matches!(reader.next(), Ok(Some(RdbItem::Key(_)))));
        assert!(matches!(reader.next(), Ok(None)));
        records[1_000_000] ^= 1;
        assert!(matches!(read(&records), Err(RdbError::Checksum { .. })));
    }

    #[test]
    fn bytes_behind_the_end_are_given_back() {
        let mut bytes = rdb(b"REDIS0012", b"\x00\x01k\x01v");
        bytes.extend_from_slice(b"the mark");
        for piece in [3, 30] {
            let (first, second) = bytes.split_at(bytes.len() - 8 + piece % 8);
            let mut reader = RdbReader::new(first.chain(second)).unwrap();
            while reader.next().unwrap().is_some() {}
            assert_eq!(reader.offset(), bytes.len() as u64 - 8);
            let (mut left, mut mark) = reader.into_inner();
            left.read_to_end(&mut mark).unwrap();
            assert_eq!(mark, b"the mark");
        }
    }

    #[test]
    fn reader_and_sink_that_fail_are_told_apart() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::TimedOut.into())
            }
        }
        let bytes = rdb(b"REDIS0012", b"\x00\x01k\x01v");
        let mut reader = RdbReader::new(bytes[..13].chain(Broken)).unwrap();
        reader.next().ok();
        let error = reader.next().unwrap_err();
        assert!(
            matches!(error, RdbError::Read { offset: 13, .. }),
            "{error}"
        );
        let mut reader = RdbReader::new(&bytes[..]).unwrap();
        reader.next().unwrap();
        let error = reader.value(&mut |_| Err(std::io::ErrorKind::StorageFull.into()));
        assert!(matches!(error, Err(RdbError::Write(_))));
        assert!(reader.next().is_err(), "the value was not taken");
    }
}
