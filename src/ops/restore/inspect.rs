//! [`inspect`]: what an input says of itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::input::{RestoreInput, Source, unreadable};
use super::select::KeyType;
use crate::error::{Error, ErrorKind};
use crate::rdb::{RdbError, RdbItem, RdbReader};

/// What an archive or RDB files say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// When the backup was begun, in milliseconds since 1970.
    pub created_at: Option<u64>,
    /// The program that has made it, and its version.
    pub tool: Option<String>,
    /// How the moment of the backup was chosen, such as `replication`.
    pub cut: Option<String>,
    /// True if all nodes are shown at one moment.
    pub is_consistent: Option<bool>,
    /// True if each write to several keys is there as a whole or not at all.
    pub has_whole_writes: Option<bool>,
    /// For how long writes were paused, in microseconds.
    pub paused_for: Option<u64>,
    /// The topology of the fleet, as text.
    pub topology: Option<String>,
    /// The fingerprint of the topology.
    pub fingerprint: Option<u64>,
    /// The nodes that were backed up.
    pub nodes: Vec<InspectedNode>,
    /// What else a reader should know.
    pub remarks: Vec<String>,
    /// Parts that are missing or damaged, as far as that is seen without reading everything.
    pub damage: Vec<String>,
}

/// What is known of a node that was backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedNode {
    /// Its name, or that of the RDB file.
    pub name: String,
    /// Its address.
    pub address: Option<String>,
    /// The server and its version, such as `redis 7.0.15`.
    pub server: Option<String>,
    /// The version of RDB in which values are written.
    pub rdb_version: Option<u16>,
    /// The position in its replication stream.
    pub replication_offset: Option<u64>,
    /// Number of keys; `None` if the end of the archive is missing, where that stands.
    pub keys: Option<u64>,
    /// Bytes of values.
    pub bytes: Option<u64>,
    /// Bytes of the largest value.
    pub largest: Option<u64>,
    /// Number of libraries of functions.
    pub functions: Option<u64>,
    /// Number of keys that had expired and were left out.
    pub expired: Option<u64>,
    /// Number of keys by type.
    pub types: BTreeMap<KeyType, u64>,
    /// Number of keys by database.
    pub databases: BTreeMap<u32, u64>,
}

/// Says what an archive or RDB files hold. Of an archive, the beginning and the end are read; RDB files are read as a whole.
///
/// # Errors
///
/// If the input cannot be read, or is neither.
pub fn inspect(input: &mut RestoreInput) -> Result<Inspection, Error> {
    let identity = input.identity.clone();
    match &mut input.source {
        Source::RdbFiles(files) => {
            let mut inspection = Inspection::default();
            for file in files {
                let node = rdb_file(file, &mut inspection)?;
                inspection.nodes.push(node);
            }
            Ok(inspection)
        }
        Source::ArchiveFile(file) => {
            super::archive_items::inspect(Some(file), None, identity.as_deref())
        }
        Source::ArchiveStream(read) => {
            super::archive_items::inspect(None, read.take(), identity.as_deref())
        }
    }
}

/// Counts the keys of an RDB file.
fn rdb_file(file: &Path, inspection: &mut Inspection) -> Result<InspectedNode, Error> {
    let failed =
        |error: RdbError| Error::new(ErrorKind::Archive, format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
    let mut reader = RdbReader::new(opened).map_err(failed)?;
    let mut node = InspectedNode {
        name: file.display().to_string(),
        rdb_version: Some(reader.version().0),
        ..InspectedNode::default()
    };
    if let Err(error) = read_rdb(&mut reader, &mut node, inspection) {
        inspection.damage.push(failed(error).to_string());
    }
    Ok(node)
}

fn read_rdb(
    reader: &mut RdbReader<File>,
    node: &mut InspectedNode,
    inspection: &mut Inspection,
) -> Result<(), RdbError> {
    let version = reader.version();
    let (mut keys, mut bytes, mut largest, mut functions) = (0, 0, 0, 0);
    let result = loop {
        let item = match reader.next() {
            Ok(Some(item)) => item,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        match item {
            RdbItem::Key(info) => {
                let length = match reader.skip_value() {
                    Ok(length) => length,
                    Err(error) => break Err(error),
                };
                keys += 1;
                bytes += length;
                largest = largest.max(length);
                let key_type = KeyType::of(info.value_type, version);
                *node.types.entry(key_type).or_default() += 1;
                *node.databases.entry(info.db).or_default() += 1;
            }
            RdbItem::Function(_) => functions += 1,
            RdbItem::Aux { name, value } => {
                let value = String::from_utf8_lossy(&value).into_owned();
                match &*name {
                    b"redis-ver" => node.server = Some(format!("redis {value}")),
                    b"valkey-ver" => node.server = Some(format!("valkey {value}")),
                    b"repl-offset" => node.replication_offset = value.parse().ok(),
                    b"ctime" => {
                        let seconds: Option<u64> = value.parse().ok();
                        inspection.created_at = seconds.map(|seconds| seconds * 1000);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    };
    node.keys = Some(keys);
    node.bytes = Some(bytes);
    node.largest = Some(largest);
    node.functions = Some(functions);
    result
}
