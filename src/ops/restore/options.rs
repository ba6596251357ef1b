//! [`RestoreOptions`]: what is restored, and what is done about what stands in the way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::select::{KeyType, Selection};

/// What is done about keys that exist at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ExistingKeys {
    /// The restore ends at the first one. What was restored before stays.
    #[default]
    Fail,
    /// They stay as they are, and are counted.
    Skip,
    /// They are replaced.
    Replace,
}

/// Settings of a [`Restore`](super::Restore).
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub(super) existing: ExistingKeys,
    pub(super) selection: Selection,
    pub(super) loads_functions: bool,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) element_bytes: Option<u64>,
    pub(super) warning_bytes: u64,
    pub(super) batch_bytes: usize,
    pub(super) workers: Option<usize>,
    pub(super) outage_timeout: Duration,
    pub(super) reply_within: Duration,
    pub(super) takes_damaged: bool,
    pub(super) takes_evicting: bool,
    pub(super) takes_little_memory: bool,
    pub(super) takes_restarted: bool,
    pub(super) drops_field_expiries: bool,
    pub(super) progress: Option<PathBuf>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            existing: ExistingKeys::default(),
            selection: Selection::default(),
            loads_functions: true,
            bytes_per_second: None,
            element_bytes: None,
            warning_bytes: 32 << 20,
            batch_bytes: 256 << 10,
            workers: None,
            outage_timeout: Duration::from_secs(60),
            reply_within: Duration::from_secs(120),
            takes_damaged: false,
            takes_evicting: false,
            takes_little_memory: false,
            takes_restarted: false,
            drops_field_expiries: false,
            progress: None,
        }
    }
}

impl RestoreOptions {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is done about keys that exist at the target. Defaults to [`ExistingKeys::Fail`].
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingKeys) -> Self {
        self.existing = existing;
        self
    }

    /// Restores only keys that match this pattern, as `KEYS` has it, or another one that was given. It is compared with
    /// the key before a prefix is replaced. Defaults to all keys.
    #[must_use]
    pub fn with_pattern(mut self, pattern: impl Into<Vec<u8>>) -> Self {
        self.selection.patterns.push(pattern.into());
        self
    }

    /// Restores only keys of this type, or another one that was given. Defaults to all types.
    #[must_use]
    pub fn with_type(mut self, key_type: KeyType) -> Self {
        self.selection.types.push(key_type);
        self
    }

    /// Restores keys that begin with `from` under names that begin with `to` instead. Of several prefixes the first one
    /// that fits counts. Keys without such a prefix keep their names.
    #[must_use]
    pub fn with_prefix(mut self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> Self {
        self.selection.prefixes.push((from.into(), to.into()));
        self
    }

    /// Restores the keys of a database to another one. Defaults to the same database.
    #[must_use]
    pub fn with_database(mut self, from: u32, to: u32) -> Self {
        self.selection.databases.push((from, to));
        self
    }

    /// Sets whether libraries of functions are loaded on all nodes. What is done about libraries that exist follows
    /// [`with_existing`](Self::with_existing). Defaults to true.
    #[must_use]
    pub fn with_functions(mut self, loads: bool) -> Self {
        self.loads_functions = loads;
        self
    }

    /// Limits how many bytes of values are sent in a second, to all nodes together. Defaults to no limit.
    #[must_use]
    pub fn with_bytes_per_second(mut self, limit: impl Into<Option<u64>>) -> Self {
        self.bytes_per_second = limit.into().filter(|limit| *limit > 0);
        self
    }

    /// Sets the size in bytes from which on a value is made element by element, so that it does not block its server.
    /// While that lasts, readers see a part of it. Defaults to `None`: only values that are longer than the server's
    /// `proto-max-bulk-len`.
    #[must_use]
    pub fn with_element_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.element_bytes = bytes.into();
        self
    }

    /// Sets the size in bytes from which on a value is [warned](super::RestoreEvent::LargeValue) about. Defaults to
    /// 32 MiB, which block a server for half a second or more.
    #[must_use]
    pub fn with_warning_bytes(mut self, bytes: u64) -> Self {
        self.warning_bytes = bytes;
        self
    }

    /// Sets the number of threads that send keys. Defaults to two for each node, 16 at most.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// Sets for how long a node that cannot be reached, or refuses for the time being, is waited for. Defaults to 60
    /// seconds.
    #[must_use]
    pub fn with_outage_timeout(mut self, timeout: Duration) -> Self {
        self.outage_timeout = timeout;
        self
    }

    /// Sets the maximum duration of a batch, which may hold a large value. Defaults to 120 seconds.
    #[must_use]
    pub fn with_reply_within(mut self, limit: Duration) -> Self {
        self.reply_within = limit;
        self
    }

    /// Sets whether a damaged archive is restored as far as it is good. Defaults to false: it is refused.
    #[must_use]
    pub fn with_damaged(mut self, takes: bool) -> Self {
        self.takes_damaged = takes;
        self
    }

    /// Sets whether nodes are accepted that evict keys when their memory is full. Defaults to false: keys would vanish
    /// without an error.
    #[must_use]
    pub fn with_evicting(mut self, takes: bool) -> Self {
        self.takes_evicting = takes;
        self
    }

    /// Sets whether nodes are accepted whose free memory seems too little. Defaults to false.
    #[must_use]
    pub fn with_little_memory(mut self, takes: bool) -> Self {
        self.takes_little_memory = takes;
        self
    }

    /// Sets whether a restore goes on although a server was restarted after it had acknowledged keys: right if all
    /// servers keep their data on disk at each write. Defaults to false.
    #[must_use]
    pub fn with_restarted(mut self, takes: bool) -> Self {
        self.takes_restarted = takes;
        self
    }

    /// Sets whether fields of hashes that expire are kept forever by servers that cannot hold such a time. Defaults to
    /// false: these hashes are not restored.
    #[must_use]
    pub fn with_dropped_field_expiries(mut self, drops: bool) -> Self {
        self.drops_field_expiries = drops;
        self
    }

    /// Keeps in a file how far all nodes have acknowledged. If the file exists, the restore of the same input goes on
    /// from there. It is removed at the end. Defaults to none.
    #[must_use]
    pub fn with_progress(mut self, file: impl AsRef<Path>) -> Self {
        self.progress = Some(file.as_ref().to_owned());
        self
    }
}
