//! What an archive is a backup of: its first frames, as text.

use std::fmt::Write;

use super::error::ArchiveError;
use super::format::{NO_NODE, check32};
use super::text::{Word, first_line, put_attribute, put_line, statements};

/// The name of the text.
const TEXT: &str = "manifest";

/// What an archive is a backup of, and how it was made. It holds no password and no user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// When the backup was begun, in milliseconds since 1970.
    pub(crate) created_at: u64,
    /// The program and its version.
    pub(crate) tool: String,
    /// How the moment of the backup was chosen.
    pub(crate) cut: CutKind,
    /// True if each write to several keys is in the archive as a whole or not at all; `None` if that is not known.
    pub(crate) whole_writes: Option<bool>,
    /// When writes were paused, in milliseconds since 1970.
    pub(crate) paused_at: Option<u64>,
    /// For how long writes were paused, in microseconds.
    pub(crate) paused_for: Option<u64>,
    /// The topology as text. User names and passwords of its URLs are not written.
    pub(crate) topology: Option<String>,
    /// The fingerprint of the topology.
    pub(crate) fingerprint: Option<u64>,
    /// The epoch of the record of the fleet.
    pub(crate) record_epoch: Option<u64>,
    /// The nodes; frames name them by their index here.
    pub(crate) nodes: Vec<ManifestNode>,
    /// What else a reader should know, one sentence each.
    pub(crate) remarks: Vec<String>,
    /// Lines of later versions, as they stand.
    pub(crate) unknown: Vec<String>,
}

/// A node of the fleet that was backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestNode {
    /// Its name.
    pub(crate) name: String,
    /// Its address, or the path of the RDB file that it was read from.
    pub(crate) address: Option<String>,
    /// `redis` or `valkey`.
    pub(crate) server: Option<String>,
    /// The version of the server.
    pub(crate) server_version: Option<String>,
    /// The version of RDB that the server writes.
    pub(crate) rdb_version: Option<u16>,
    /// The identity of the server's process.
    pub(crate) run_id: Option<String>,
    /// The identity of its replication stream.
    pub(crate) replication_id: Option<String>,
    /// The position in that stream.
    pub(crate) replication_offset: Option<u64>,
    /// The epoch of the record that it had.
    pub(crate) record_epoch: Option<u64>,
}

/// How the moment of a backup was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum CutKind {
    /// One cut through all nodes by replication, without a file on the servers' disks.
    #[default]
    Cut,
    /// One cut through all nodes by replication, over files on the servers' disks.
    Disk,
    /// One cut through all nodes: keys were read one after another while writes were paused.
    PausedScan,
    /// No cut: each key as it was when it was read.
    Scan,
    /// The moments of the RDB files that the archive was made from.
    Files,
    /// A kind of a later version.
    Other(String),
}

impl CutKind {
    /// Returns the kind of a name.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "cut" => Self::Cut,
            "disk" => Self::Disk,
            "paused-scan" => Self::PausedScan,
            "scan" => Self::Scan,
            "files" => Self::Files,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Returns the name of the kind.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Cut => "cut",
            Self::Disk => "disk",
            Self::PausedScan => "paused-scan",
            Self::Scan => "scan",
            Self::Files => "files",
            Self::Other(name) => name,
        }
    }

    /// True if all nodes are shown at one moment.
    pub(crate) fn is_consistent(&self) -> bool {
        matches!(self, Self::Cut | Self::Disk | Self::PausedScan)
    }
}

impl Manifest {
    /// Sets the text of the topology. User names and passwords of URLs are left out.
    pub(crate) fn set_topology(&mut self, text: &str) {
        self.topology = Some(without_users(text));
    }

    /// Returns the name of a node, or its number if the manifest has none.
    pub(crate) fn node_name(&self, node: u16) -> String {
        let known = self.nodes.get(usize::from(node));
        known.map_or_else(|| format!("#{node}"), |node| node.name.clone())
    }

    /// Writes the manifest.
    pub(crate) fn to_text(&self) -> String {
        let mut text = first_line(TEXT) + "\n";
        put_line(&mut text, "created_at", Some(self.created_at));
        put_line(&mut text, "tool", Some(&self.tool));
        put_line(&mut text, "cut", Some(self.cut.name()));
        let whole = self
            .whole_writes
            .map(|whole| if whole { "yes" } else { "no" });
        put_line(&mut text, "whole_writes", whole);
        put_line(&mut text, "paused_at", self.paused_at);
        put_line(&mut text, "paused_for", self.paused_for);
        let fingerprint = self.fingerprint.map(|value| format!("{value:016x}"));
        put_line(&mut text, "fingerprint", fingerprint);
        put_line(&mut text, "record_epoch", self.record_epoch);
        if let Some(topology) = &self.topology {
            for line in without_users(topology).split('\n') {
                put_line(&mut text, "topology", Some(line));
            }
        }
        for node in &self.nodes {
            node.put(&mut text);
        }
        for note in &self.remarks {
            put_line(&mut text, "note", Some(note));
        }
        text
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// With the number of the line, if it cannot be read, or if a later version has written something that must be known.
    pub(crate) fn parse(text: &str) -> Result<Self, ArchiveError> {
        let mut manifest = Self::default();
        for mut line in statements(TEXT, text)? {
            match line.word {
                "created_at" => manifest.created_at = line.number()?,
                "tool" => manifest.tool = line.value()?,
                "cut" => manifest.cut = CutKind::of(&line.value()?),
                "whole_writes" => {
                    manifest.whole_writes = match line.value()?.as_str() {
                        "yes" => Some(true),
                        "no" => Some(false),
                        _ => return Err(line.error("it is yes or no")),
                    }
                }
                "paused_at" => manifest.paused_at = Some(line.number()?),
                "paused_for" => manifest.paused_for = Some(line.number()?),
                "fingerprint" => {
                    let value = line.value()?;
                    let number = u64::from_str_radix(&value, 16).ok();
                    let number = number.filter(|number| format!("{number:016x}") == value);
                    let number = number.ok_or_else(|| line.error("this is no fingerprint"))?;
                    manifest.fingerprint = Some(number);
                }
                "record_epoch" => manifest.record_epoch = Some(line.number()?),
                "topology" => {
                    let next = line.value()?;
                    manifest.topology = Some(match manifest.topology.take() {
                        Some(lines) => lines + "\n" + &next,
                        None => next,
                    });
                }
                "node" => manifest.nodes.push(ManifestNode::read(&mut line)?),
                "note" => manifest.remarks.push(line.value()?),
                other => {
                    line.ignore(other)?;
                    manifest.unknown.push(line.line.to_owned());
                }
            }
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the number by which the frames of this archive name it.
    pub(super) fn archive_id(text: &str) -> u32 {
        check32(text.as_bytes())
    }

    /// Refuses more nodes than frames can name.
    pub(super) fn check(&self) -> Result<(), ArchiveError> {
        match self.nodes.len() <= usize::from(NO_NODE) {
            true => Ok(()),
            false => Err(ArchiveError::Limit(format!(
                "an archive has at most {NO_NODE} nodes"
            ))),
        }
    }
}

impl ManifestNode {
    fn put(&self, text: &mut String) {
        let _ = write!(text, "node {}", Word(&self.name));
        put_attribute(text, "address", self.address.as_ref());
        put_attribute(text, "server", self.server.as_ref());
        put_attribute(text, "version", self.server_version.as_ref());
        put_attribute(text, "rdb", self.rdb_version);
        put_attribute(text, "run_id", self.run_id.as_ref());
        put_attribute(text, "replication_id", self.replication_id.as_ref());
        put_attribute(text, "offset", self.replication_offset);
        put_attribute(text, "record_epoch", self.record_epoch);
        text.push('\n');
    }

    fn read(line: &mut super::text::Statement<'_>) -> Result<Self, ArchiveError> {
        let mut node = Self {
            name: line.value()?,
            ..Self::default()
        };
        while let Some((name, value)) = line.attribute()? {
            match name.as_str() {
                "address" => node.address = Some(value),
                "server" => node.server = Some(value),
                "version" => node.server_version = Some(value),
                "rdb" => node.rdb_version = Some(line.parsed(&value)?),
                "run_id" => node.run_id = Some(value),
                "replication_id" => node.replication_id = Some(value),
                "offset" => node.replication_offset = Some(line.parsed(&value)?),
                "record_epoch" => node.record_epoch = Some(line.parsed(&value)?),
                other => line.ignore(other)?,
            }
        }
        Ok(node)
    }
}

/// Parameters of URLs that name a user or hold a password.
const USER_PARAMETERS: [&str; 6] = [
    "user",
    "username",
    "pass",
    "password",
    "sentinel_user",
    "sentinel_password",
];

/// Returns a text whose URLs have no user, no password and no parameters that name one.
fn without_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        out.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || c == '"');
        let (url, after) = url.split_at(end.unwrap_or(url.len()));
        let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
        let (authority, tail) = url.split_at(authority);
        out.push_str(
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host),
        );
        push_tail(&mut out, tail);
        rest = after;
    }
    out + rest
}

/// Writes what follows the host of a URL, without the parameters that name a user.
fn push_tail(out: &mut String, tail: &str) {
    let (tail, fragment) = match tail.find('#') {
        Some(at) => tail.split_at(at),
        None => (tail, ""),
    };
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    out.push_str(path);
    let is_kept = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        !name.is_empty() && !USER_PARAMETERS.contains(&name)
    };
    for (parameter, mark) in query.split('&').filter(is_kept).zip(marks()) {
        out.push(mark);
        out.push_str(parameter);
    }
    out.push_str(fragment);
}

/// What stands before the first parameter, and before all others.
fn marks() -> impl Iterator<Item = char> {
    std::iter::once('?').chain(std::iter::repeat('&'))
}
