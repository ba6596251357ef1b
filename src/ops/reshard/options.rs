//! [`ReshardOptions`]: how fast keys are moved, and how long clients may wait for that.

use std::fmt;
#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::Duration;

/// Called before each step with its name; false stops the mover as if it were killed.
#[cfg(feature = "testing")]
type StepObserver = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How keys get to nodes that are new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReshardMethod {
    /// A node that takes keys from one node alone becomes a replica of that one first, and drops what is not its own later:
    /// its units are closed once, for the last bytes. All others are copied key by key.
    ///
    /// Until both nodes have dropped what is not their own, `DBSIZE`, `KEYS` and `SCAN` count such keys twice. The setting
    /// `masterauth` of a new node stays if the mover is killed. Not used with a limit of
    /// [bytes in a second](ReshardOptions::with_bytes_per_second), nor where the servers cannot do it: the plan says why.
    #[default]
    Auto,
    /// All keys are copied one by one, in small batches.
    Copy,
}

/// Settings of a [`Reshard`](super::Reshard).
#[derive(Clone)]
pub struct ReshardOptions {
    pub(super) closure_goal: Duration,
    pub(super) fence_bound: Duration,
    pub(super) announce_bound: Duration,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) index_bytes: usize,
    pub(super) large_key_bytes: u64,
    pub(super) sources_at_once: usize,
    pub(super) foreground_share: f64,
    pub(super) administrators: Vec<String>,
    pub(super) sample: usize,
    pub(super) method: ReshardMethod,
    #[cfg(feature = "testing")]
    observer: Option<StepObserver>,
}

impl Default for ReshardOptions {
    fn default() -> Self {
        Self {
            closure_goal: Duration::from_millis(50),
            fence_bound: Duration::from_millis(500),
            announce_bound: Duration::from_secs(5),
            bytes_per_second: None,
            index_bytes: 256 << 20,
            large_key_bytes: 8 << 20,
            sources_at_once: 2,
            foreground_share: 0.0,
            administrators: Vec::new(),
            sample: 10_000,
            method: ReshardMethod::Auto,
            #[cfg(feature = "testing")]
            observer: None,
        }
    }
}

impl ReshardOptions {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time for which the units of a batch are to be closed: the mover chooses the size of batches by it. Defaults
    /// to 50 ms.
    #[must_use]
    pub fn with_closure_goal(mut self, goal: Duration) -> Self {
        self.closure_goal = goal.max(Duration::from_millis(1));
        self
    }

    /// Sets the time after which connections that have not acknowledged a closure are killed. Defaults to 500 ms.
    #[must_use]
    pub fn with_fence_bound(mut self, bound: Duration) -> Self {
        self.fence_bound = bound;
        self
    }

    /// Sets the time after which connections that have not acknowledged the announcement of the reshard are killed. Nothing
    /// is closed meanwhile. Defaults to 5 seconds.
    #[must_use]
    pub fn with_announce_bound(mut self, bound: Duration) -> Self {
        self.announce_bound = bound;
        self
    }

    /// Limits how many bytes are copied in a second, for each source by itself. Defaults to no limit.
    #[must_use]
    pub fn with_bytes_per_second(mut self, limit: impl Into<Option<u64>>) -> Self {
        self.bytes_per_second = limit.into().filter(|limit| *limit > 0);
        self
    }

    /// Sets what programs are to have of each source: the share of the commands per second that they send while nothing is
    /// copied. The mover pauses between batches for that; where no program is, it does not. Zero switches it off, and more
    /// than 0.95 counts as 0.95. Defaults to 0: where mover and servers share few cores, pauses make a reshard longer and
    /// leave programs hardly more.
    #[must_use]
    pub fn with_foreground_share(mut self, share: f64) -> Self {
        self.foreground_share = match share.is_nan() {
            true => 0.0,
            false => share.clamp(0.0, 0.95),
        };
        self
    }

    /// Sets the memory for the names of the keys that move, for each source. A source with more is scanned several times.
    /// Defaults to 256 MiB.
    #[must_use]
    pub fn with_index_bytes(mut self, bytes: usize) -> Self {
        self.index_bytes = bytes;
        self
    }

    /// Sets the size in bytes from which on a key is copied element by element, so that it blocks neither server. Defaults
    /// to 8 MiB. Streams, and the types of modules, are copied whole.
    #[must_use]
    pub fn with_large_key_bytes(mut self, bytes: u64) -> Self {
        self.large_key_bytes = bytes.max(1);
        self
    }

    /// Sets from how many nodes keys are copied at a time. Defaults to 2.
    #[must_use]
    pub fn with_sources_at_once(mut self, sources: usize) -> Self {
        self.sources_at_once = sources.max(1);
        self
    }

    /// Lets connections alone that follow no record: those with this name, username, address or host. Such a client must not
    /// write to keys.
    #[must_use]
    pub fn with_administrator(mut self, who: impl Into<String>) -> Self {
        self.administrators.push(who.into());
        self
    }

    /// Sets how many keys of each node are looked at for the plan. Defaults to 10 000.
    #[must_use]
    pub fn with_sample(mut self, keys: usize) -> Self {
        self.sample = keys.max(1);
        self
    }

    /// Sets how keys get to new nodes. Defaults to [`Auto`](ReshardMethod::Auto).
    #[must_use]
    pub fn with_method(mut self, method: ReshardMethod) -> Self {
        self.method = method;
        self
    }

    /// Calls `observer` before each step with its name. If it returns false, the mover stops as if it were killed: it
    /// puts nothing back.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_step_observer(
        mut self,
        observer: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// True if the mover may do this step.
    #[cfg(feature = "testing")]
    pub(super) fn may_do(&self, step: &str) -> bool {
        self.observer.as_ref().is_none_or(|observer| observer(step))
    }

    /// True: nobody watches the steps.
    #[cfg(not(feature = "testing"))]
    pub(super) fn may_do(&self, _: &str) -> bool {
        true
    }
}

impl fmt::Debug for ReshardOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReshardOptions")
            .field("closure_goal", &self.closure_goal)
            .field("fence_bound", &self.fence_bound)
            .field("announce_bound", &self.announce_bound)
            .field("bytes_per_second", &self.bytes_per_second)
            .field("index_bytes", &self.index_bytes)
            .field("large_key_bytes", &self.large_key_bytes)
            .field("sources_at_once", &self.sources_at_once)
            .field("foreground_share", &self.foreground_share)
            .field("administrators", &self.administrators)
            .field("sample", &self.sample)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
