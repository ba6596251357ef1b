//! The format of archives: one file with the keys of all nodes, whatever their number. `docs/archive.md` describes every
//! byte.
//!
//! * [`ArchiveWriter`]: one stream; [`FrameBuilder`]: the frames of one node, in a thread of its own.
//! * [`ArchiveReader`]: frames, each verified, strictly or with damage left out; [`EntryAssembler`]: the entries in them.
//! * [`Manifest`] and [`Totals`]: what stands at the beginning and at the end, as text.
//! * [`Summary`] and [`verify`]: what an archive contains, and whether all of it is good.
//! * `encrypted`: the stream around it, with age.
//!
//! Nothing here knows a connection or a server.

mod assembler;
mod builder;
mod damage;
#[cfg(feature = "backup-encryption")]
mod encrypted;
mod entries;
mod error;
mod format;
mod frame;
mod index;
mod manifest;
mod reader;
mod scanner;
mod seen;
mod summary;
mod text;
mod totals;
mod writer;

pub(crate) use self::assembler::{Entry, EntryAssembler, Incomplete, IncompleteReason, Item};
pub(crate) use self::builder::{FrameBuilder, LEVEL_DEFAULT};
pub(crate) use self::damage::Damage;
#[cfg(feature = "backup-encryption")]
pub(crate) use self::encrypted::{EncryptedWriter, Identities, MaybeEncrypted, Recipients};
pub(crate) use self::error::ArchiveError;
pub(crate) use self::frame::Frame;
pub(crate) use self::manifest::{CutKind, Manifest, ManifestNode};
pub(crate) use self::reader::ArchiveReader;
pub(crate) use self::summary::{Summary, Verification, verify};
pub(crate) use self::totals::{NodeTotals, Totals};
pub(crate) use self::writer::ArchiveWriter;

#[cfg(test)]
use self::{assembler::Function, builder::LEVEL_STORED, damage::Lost};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{frame::RawFrame, repair::repaired};

#[cfg(any(test, fuzzing))]
mod repair;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
