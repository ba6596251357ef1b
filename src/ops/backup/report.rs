//! [`BackupReport`]: what a backup has taken, and how.

use std::fmt;
use std::time::Duration;

/// How the keys of all nodes were taken, from the best kind to the poorest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CutKind {
    /// One moment at all nodes: writes are paused for some milliseconds, and each server sends what it had then.
    Stream,
    /// As for `Stream`, but servers that do not let their configuration be changed save to their own disk first.
    Disk,
    /// One moment at all nodes: writes are paused while all keys are read one by one. For small data only.
    PausedScan,
    /// No moment: each key is as it was when it was read.
    Scan,
}

impl CutKind {
    /// All kinds, the best first.
    pub const ALL: [Self; 4] = [Self::Stream, Self::Disk, Self::PausedScan, Self::Scan];

    /// The name, as archives and the command line have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "cut",
            Self::Disk => "disk",
            Self::PausedScan => "paused-scan",
            Self::Scan => "scan",
        }
    }

    /// The kind of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// True if the archive has what all nodes had at one moment.
    pub const fn is_consistent(self) -> bool {
        !matches!(self, Self::Scan)
    }

    /// True if servers send a stream of all keys.
    pub(super) const fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Disk)
    }
}

impl fmt::Display for CutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a backup has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// How the keys were taken.
    pub cut: CutKind,
    /// Number of cuts that were tried, with the last one.
    pub attempts: u32,
    /// For how long writes were paused, from the first request to the last reply. Zero without a pause.
    pub pause: Duration,
    /// Time of the cut, in milliseconds since 1970.
    pub cut_at: i64,
    /// What was taken of each node, in the order of the nodes.
    pub nodes: Vec<NodeBackup>,
    /// Number of functions' libraries.
    pub functions: u64,
    /// Number of bytes of the archive; zero for files of servers.
    pub archive_bytes: u64,
    /// What a reader of the archive should know.
    pub warnings: Vec<String>,
}

impl BackupReport {
    /// Number of keys.
    pub fn keys(&self) -> u64 {
        self.nodes.iter().map(|node| node.keys).sum()
    }

    /// Number of bytes that the servers have sent.
    pub fn bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.bytes).sum()
    }

    /// Number of keys that had expired.
    pub fn expired(&self) -> u64 {
        self.nodes.iter().map(|node| node.expired).sum()
    }
}

/// What was taken of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeBackup {
    /// The name of the node.
    pub node: String,
    /// The address that was read: that of the node or of its replica.
    pub address: String,
    /// Name and version of the server, such as `redis 7.0.15`.
    pub server: String,
    /// Number of keys that were taken.
    pub keys: u64,
    /// Number of keys that had expired and were left out.
    pub expired: u64,
    /// Number of bytes that the server has sent.
    pub bytes: u64,
    /// The replication offset at the cut. `None` if keys were read one by one.
    pub offset: Option<u64>,
}
