//! [`ArchiveItems`]: the keys of an archive.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::input::{InputKey, InputSummary, Item, Items, unreadable};
use super::inspect::{InspectedNode, Inspection};
use super::select::KeyType;
use crate::archive::{
    self, ArchiveError, ArchiveReader, Damage, EntryAssembler, Incomplete, IncompleteReason,
    Manifest, NodeTotals, Summary, Totals, Verification,
};
#[cfg(feature = "backup-encryption")]
use crate::archive::{Identities, MaybeEncrypted};
use crate::error::{Error, ErrorKind, KeyText};
use crate::rdb::RdbVersion;

/// The bytes of an archive.
pub(super) type ArchiveBytes = Box<dyn Read + Send>;

/// The most bytes of a key with its value.
const ENTRY_MAX: usize = isize::MAX as usize;

/// The most damaged places that are described.
const PLACES_MAX: usize = 100;

/// The keys of an archive.
pub(super) struct ArchiveItems {
    name: String,
    reader: ArchiveReader<ArchiveBytes>,
    assembler: EntryAssembler,
    items: VecDeque<Item>,
    takes_damaged: bool,
    is_done: bool,
}

impl ArchiveItems {
    /// Those of an archive. If `takes_damaged`, damage is an item, and an error otherwise.
    ///
    /// # Errors
    ///
    /// If it is no archive, or its beginning is damaged.
    pub(super) fn new(
        read: ArchiveBytes,
        name: String,
        identity: Option<&Path>,
        takes_damaged: bool,
    ) -> Result<Self, Error> {
        let read = decrypted(read, &name, identity)?;
        let reader = match takes_damaged {
            true => ArchiveReader::recover(read),
            false => ArchiveReader::new(read),
        };
        let reader = reader.map_err(|error| failed(&name, &error))?;
        Ok(Self {
            name,
            reader,
            assembler: EntryAssembler::new(ENTRY_MAX),
            items: VecDeque::new(),
            takes_damaged,
            is_done: false,
        })
    }

    /// Takes what a frame holds.
    fn take(&mut self, found: Vec<archive::Item>) -> Result<(), Error> {
        for item in found {
            let item = match item {
                archive::Item::Entry(entry) => Item::Key(InputKey {
                    info: entry.info,
                    version: entry.version,
                    value: entry.value,
                }),
                archive::Item::Function(function) => Item::Function(function.source),
                archive::Item::Incomplete(incomplete) => {
                    let text = format!("{}: {}", self.name, incomplete_text(&incomplete));
                    self.damaged(text)?
                }
            };
            self.items.push_back(item);
        }
        Ok(())
    }

    /// Damage, as an item or as an error.
    fn damaged(&self, text: String) -> Result<Item, Error> {
        match self.takes_damaged {
            true => Ok(Item::Lost(text)),
            false => Err(Error::new(ErrorKind::Archive, text)),
        }
    }

    /// Takes what is known at the end.
    fn end(&mut self) -> Result<(), Error> {
        self.is_done = true;
        for (_, item) in self.assembler.finish() {
            self.take(vec![item])?;
        }
        let lost = damage_texts(self.reader.damage(), self.reader.manifest());
        let lost = lost.into_iter();
        let lost = lost.map(|text| Item::Lost(format!("{}: {text}", self.name)));
        self.items.extend(lost);
        Ok(())
    }
}

impl Items for ArchiveItems {
    fn next(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            if self.is_done {
                return Ok(None);
            }
            let frame = self.reader.next();
            let Some(frame) = frame.map_err(|error| failed(&self.name, &error))? else {
                self.end()?;
                continue;
            };
            let decoded = frame.decode();
            match decoded.and_then(|frame| self.assembler.push(&frame)) {
                Ok(found) => self.take(found)?,
                Err(error) => {
                    let item = self.damaged(format!("{}: {error}", self.name))?;
                    self.items.push_back(item);
                }
            }
        }
    }
}

/// Counts the keys of an archive, and looks for damage: checksums alone, so that it takes little time.
///
/// # Errors
///
/// If it cannot be read, or is no archive.
pub(super) fn summary(file: &Path, identity: Option<&Path>) -> Result<InputSummary, Error> {
    let name = file.display().to_string();
    let read = decrypted(open(file)?, &name, identity)?;
    let mut reader = ArchiveReader::recover(read).map_err(|error| failed(&name, &error))?;
    let mut summary = InputSummary::default();
    while let Some(frame) = reader.next().map_err(|error| failed(&name, &error))? {
        summary.keys += u64::from(frame.entries());
        summary.bytes += frame.length();
    }
    let lost = damage_texts(reader.damage(), reader.manifest());
    summary.lost = lost
        .into_iter()
        .map(|text| format!("{name}: {text}"))
        .collect();
    if let Some(totals) = reader.totals().filter(|_| summary.lost.is_empty()) {
        let sum = totals.sum();
        summary.keys = sum.keys;
        summary.bytes = sum.value_bytes;
        summary.functions = sum.functions;
    }
    Ok(summary)
}

/// Says what an archive holds: by its beginning and its end, if it is a file that is not encrypted.
///
/// # Errors
///
/// If it cannot be read, or is no archive.
pub(super) fn inspect(
    file: Option<&Path>,
    stream: Option<ArchiveBytes>,
    identity: Option<&Path>,
) -> Result<Inspection, Error> {
    let name = file.map_or("the archive".to_owned(), |file| file.display().to_string());
    if let Some(file) = file.filter(|_| identity.is_none()) {
        let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
        if let Ok(summary) = Summary::of_file(opened) {
            return Ok(inspection(&summary.manifest, Some(&summary.totals)));
        }
    }
    let read = match (file, stream) {
        (Some(file), _) => open(file)?,
        (None, Some(stream)) => stream,
        (None, None) => return Err(Error::config("a stream can be read only once")),
    };
    let reader = ArchiveReader::recover(decrypted(read, &name, identity)?);
    let mut reader = reader.map_err(|error| failed(&name, &error))?;
    while reader
        .next()
        .map_err(|error| failed(&name, &error))?
        .is_some()
    {}
    let manifest = reader.manifest().cloned().unwrap_or_default();
    Ok(Inspection {
        damage: damage_texts(reader.damage(), Some(&manifest)),
        ..inspection(&manifest, reader.totals())
    })
}

/// Reads all of an archive. `check` looks at each key.
///
/// # Errors
///
/// If it cannot be read, or is no archive.
pub(super) fn verify(
    read: ArchiveBytes,
    name: &str,
    identity: Option<&Path>,
    check: &mut dyn FnMut(&archive::Entry) -> Result<(), String>,
) -> Result<Verification, Error> {
    let read = decrypted(read, name, identity)?;
    let verified = archive::verify(read, ENTRY_MAX, |_, item| match item {
        archive::Item::Entry(entry) => check(entry),
        _ => Ok(()),
    });
    verified.map_err(|error| failed(name, &error))
}

/// What a verification has found, in words.
pub(super) fn verification_texts(found: &Verification) -> Vec<String> {
    let mut texts = damage_texts(&found.damage, found.manifest.as_ref());
    let incomplete = found.incomplete.iter().take(PLACES_MAX);
    texts.extend(incomplete.map(|(_, incomplete)| incomplete_text(incomplete)));
    texts.extend(found.contradictions.iter().cloned());
    texts
}

/// Opens a file.
pub(super) fn open(file: &Path) -> Result<ArchiveBytes, Error> {
    let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
    Ok(Box::new(opened))
}

/// The bytes of an archive that may be encrypted.
#[cfg(feature = "backup-encryption")]
fn decrypted(
    read: ArchiveBytes,
    name: &str,
    identity: Option<&Path>,
) -> Result<ArchiveBytes, Error> {
    let identities = identity.map(|file| {
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        Identities::parse(&text).map_err(|error| failed(&file.display().to_string(), &error))
    });
    let identities = identities.transpose()?;
    let opened = MaybeEncrypted::open(read, identities.as_ref());
    Ok(Box::new(opened.map_err(|error| failed(name, &error))?))
}

/// The bytes of an archive. One that is encrypted is refused by its reader.
#[cfg(not(feature = "backup-encryption"))]
fn decrypted(read: ArchiveBytes, _: &str, _: Option<&Path>) -> Result<ArchiveBytes, Error> {
    Ok(read)
}

/// What is lost, in words.
fn damage_texts(damage: &Damage, manifest: Option<&Manifest>) -> Vec<String> {
    let lost = damage.lost.iter().map(|(node, lost)| {
        let name =
            manifest.map_or_else(|| format!("#{node}"), |manifest| manifest.node_name(*node));
        let at_least = if damage.is_exact() { "" } else { "at least " };
        format!(
            "node {}: {at_least}{} keys and functions are lost, in {} frames",
            name.escape_debug(),
            lost.entries,
            lost.frames
        )
    });
    let mut texts: Vec<String> = lost.collect();
    let places = damage.places.iter().take(PLACES_MAX);
    texts.extend(places.map(ToString::to_string));
    let more = damage.places.len().saturating_sub(PLACES_MAX) as u64 + damage.more_places;
    if more > 0 {
        texts.push(format!("{more} more places are damaged"));
    }
    texts
}

fn incomplete_text(incomplete: &Incomplete) -> String {
    let what = match &incomplete.info {
        Some(info) => format!("the key {} of database {}", KeyText(&info.key), info.db),
        None => "a key or a library of functions".to_owned(),
    };
    let why = match incomplete.reason {
        IncompleteReason::BeginningLost => "its beginning is lost",
        IncompleteReason::RestLost => "its rest is lost",
        IncompleteReason::TooLarge => "it is larger than this machine can hold",
    };
    format!("{what} is not whole: {why}")
}

fn failed(name: &str, error: &ArchiveError) -> Error {
    Error::new(ErrorKind::Archive, format!("{name}: {error}"))
}

fn inspection(manifest: &Manifest, totals: Option<&Totals>) -> Inspection {
    let nodes = manifest.nodes.iter().enumerate().map(|(index, node)| {
        let server = match (&node.server, &node.server_version) {
            (Some(server), Some(version)) => Some(format!("{server} {version}")),
            (server, version) => server.clone().or_else(|| version.clone()),
        };
        let inspected = InspectedNode {
            name: node.name.clone(),
            address: node.address.clone(),
            server,
            rdb_version: node.rdb_version,
            replication_offset: node.replication_offset,
            ..InspectedNode::default()
        };
        let version = RdbVersion(node.rdb_version.unwrap_or_default());
        match totals.and_then(|totals| totals.nodes.get(index)) {
            Some(totals) => counted(inspected, totals, version),
            None => inspected,
        }
    });
    let remarks = manifest.remarks.iter();
    let remarks = remarks.chain(totals.iter().flat_map(|totals| &totals.remarks));
    Inspection {
        created_at: Some(manifest.created_at),
        tool: Some(manifest.tool.clone()),
        cut: Some(manifest.cut.name().to_owned()),
        is_consistent: Some(manifest.cut.is_consistent()),
        has_whole_writes: manifest.whole_writes,
        paused_for: manifest.paused_for,
        topology: manifest.topology.clone(),
        fingerprint: manifest.fingerprint,
        nodes: nodes.collect(),
        remarks: remarks.cloned().collect(),
        damage: Vec::new(),
    }
}

fn counted(mut node: InspectedNode, totals: &NodeTotals, version: RdbVersion) -> InspectedNode {
    for (value_type, keys) in &totals.types {
        let key_type = KeyType::of(*value_type, version);
        *node.types.entry(key_type).or_default() += keys;
    }
    InspectedNode {
        keys: Some(totals.keys),
        bytes: Some(totals.value_bytes),
        largest: Some(totals.largest),
        functions: Some(totals.functions),
        expired: Some(totals.expired),
        databases: totals.databases.clone(),
        ..node
    }
}
