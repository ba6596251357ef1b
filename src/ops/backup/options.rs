//! [`BackupOptions`]: how the cut is taken, and what may be used for it.

use std::fmt;
#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::Duration;

use super::report::CutKind;
use crate::archive::LEVEL_DEFAULT;

/// Called before each step with its name.
#[cfg(feature = "testing")]
type StepObserver = Arc<dyn Fn(&str) + Send + Sync>;

/// Settings of a [`Backup`](super::Backup).
#[derive(Clone)]
pub struct BackupOptions {
    pub(super) cut: Option<CutKind>,
    pub(super) pause: Duration,
    pub(super) attempts: u32,
    pub(super) child_wait: Duration,
    pub(super) level: i32,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) replicas: bool,
    pub(super) stall: Option<Duration>,
    pub(super) recipients: Option<String>,
    #[cfg(feature = "testing")]
    observer: Option<StepObserver>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            cut: None,
            pause: Duration::from_secs(1),
            attempts: 5,
            child_wait: Duration::from_secs(600),
            level: LEVEL_DEFAULT,
            bytes_per_second: None,
            replicas: false,
            stall: None,
            recipients: None,
            #[cfg(feature = "testing")]
            observer: None,
        }
    }
}

impl BackupOptions {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands a kind of cut: if the servers do not allow it, the backup fails. Defaults to the best kind that they allow.
    #[must_use]
    pub fn with_cut(mut self, cut: impl Into<Option<CutKind>>) -> Self {
        self.cut = cut.into();
        self
    }

    /// Sets for how long writes are paused at most. As a rule it is some milliseconds; a cut that takes longer than this is
    /// given up, and tried again. If the program is killed meanwhile, the pause ends by itself after this time. Defaults to
    /// one second, and is at least 50 ms.
    #[must_use]
    pub fn with_pause_limit(mut self, limit: Duration) -> Self {
        self.pause = limit.max(Duration::from_millis(50));
        self
    }

    /// Sets how often a cut is tried. Defaults to 5.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets for how long saves that servers are busy with are waited for, before writes are paused. Defaults to 10 minutes.
    #[must_use]
    pub fn with_save_wait(mut self, limit: Duration) -> Self {
        self.child_wait = limit;
        self
    }

    /// Sets the level of zstd. Defaults to 1, which costs less than what the servers do.
    #[must_use]
    pub fn with_compression_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Limits how many bytes are read from all nodes in a second. Servers copy the memory pages that are written meanwhile,
    /// so a slow backup costs them memory. Defaults to no limit.
    #[must_use]
    pub fn with_bytes_per_second(mut self, limit: impl Into<Option<u64>>) -> Self {
        self.bytes_per_second = limit.into().filter(|limit| *limit > 0);
        self
    }

    /// Reads the keys of each node that has replicas from one of them. Writes are paused at the primaries, until the replicas
    /// have received all of what was written before. Defaults to false.
    #[must_use]
    pub fn with_replicas(mut self, replicas: bool) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets for how long the archive may take nothing before the backup fails. Defaults to half of the smallest
    /// `repl-timeout` of the servers, which drop those that do not read for that time.
    #[must_use]
    pub fn with_stall_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.stall = limit.into();
        self
    }

    /// Encrypts the archive with age for these recipients: public keys that begin with `age1`, one in a line. Empty lines and
    /// those that begin with `#` are left out. Defaults to none.
    #[cfg(feature = "backup-encryption")]
    #[must_use]
    pub fn with_recipients(mut self, recipients: impl Into<String>) -> Self {
        self.recipients = Some(recipients.into());
        self
    }

    /// Calls `observer` before each step with its name.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_step_observer(mut self, observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Tells the observer of a step.
    pub(super) fn step(&self, step: &str) {
        #[cfg(feature = "testing")]
        if let Some(observer) = &self.observer {
            observer(step);
        }
        #[cfg(not(feature = "testing"))]
        let _ = step;
    }
}

impl fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupOptions")
            .field("cut", &self.cut)
            .field("pause", &self.pause)
            .field("attempts", &self.attempts)
            .field("child_wait", &self.child_wait)
            .field("level", &self.level)
            .field("bytes_per_second", &self.bytes_per_second)
            .field("replicas", &self.replicas)
            .field("stall", &self.stall)
            .field("is_encrypted", &self.recipients.is_some())
            .finish_non_exhaustive()
    }
}
