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
/// It reads ahead, but never waits for bytes behind the end of the RDB: [`into_inner`](Self::into_inner) returns those
/// that came with it.
pub(crate) struct RdbReader<R> {
    input: Input<R>,
    version: RdbVersion,
    db: u32,
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
#[derive(Default)]
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
    pub(crate) fn into_inner(self) -> (R, Vec<u8>) {
        self.input.into_inner()
    }

    fn walk(&mut self) -> Walk<'_, R> {
        Walk::new(&mut self.input)
    }

    /// Reads opcodes up to one that is a record by itself, or a key.
    fn record(&mut self) -> Result<Option<RdbItem>, RdbError> {
        let mut pending = Pending::default();
        loop {
            let offset = self.input.offset();
            let code = self.walk().byte()?;
            match code {
                opcode::EXPIRES_MS => {
                    let time = i64::from_le_bytes(self.walk().bytes()?);
                    pending.expires_at = Some(time);
                }
                opcode::EXPIRES_S => {
                    let time = i32::from_le_bytes(self.walk().bytes()?);
                    pending.expires_at = Some(i64::from(time) * 1000);
                }
                opcode::IDLE => pending.access = Access::Idle(self.walk().number()?),
                opcode::FREQUENCY => pending.access = Access::Frequency(self.walk().byte()?),
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
                    return self.key(value_type, layout, pending).map(Some);
                }
            }
        }
    }

    fn key(
        &mut self,
        value_type: u8,
        layout: Layout,
        pending: Pending,
    ) -> Result<RdbItem, RdbError> {
        let key = self.string("a key")?;
        self.state = State::Value(layout);
        Ok(RdbItem::Key(KeyInfo {
            db: self.db,
            key,
            expires_at: pending.expires_at,
            access: pending.access,
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
