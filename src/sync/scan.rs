//! [`Scan`]: the keys of all nodes, one node after another.

use crate::error::Error;
use crate::plan::{ScanPosition, ScanState, ScanStep};
use crate::snapshot::SnapshotHandle;
use crate::sync::Shared;

/// An iterator over the keys of all nodes, made by
/// [`ShardedClient::scan_all`](crate::ShardedClient::scan_all).
///
/// Has the guarantees of SCAN: a key that exists from beginning to end is returned at least once, others may
/// be. The keys of one node come before those of the next. After an error, the failed page is requested
/// again. Over a [Redis Cluster](crate::guide::cluster#scan) the keys of one slot come before those of the next, and each
/// is returned exactly once, also while slots move.
///
/// ```no_run
/// # fn f(client: &redis_sharding::ShardedClient) -> Result<(), redis_sharding::Error> {
/// for key in client.scan_all().with_pattern("user:*").with_count(1000) {
///     println!("{}", String::from_utf8_lossy(&key?));
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Scan {
    shared: SnapshotHandle<Shared>,
    /// The position, and the keys of the current page.
    pages: ScanState,
}

impl Scan {
    pub(super) fn new(shared: SnapshotHandle<Shared>, position: ScanPosition) -> Self {
        Self {
            shared,
            pages: ScanState::new(position),
        }
    }

    /// Returns only keys that match a glob-style pattern. Defaults to all.
    #[must_use]
    pub fn with_pattern(mut self, pattern: impl AsRef<[u8]>) -> Self {
        self.pages.set("MATCH", pattern.as_ref());
        self
    }

    /// Returns only keys of one type, as TYPE names it. Defaults to all.
    #[must_use]
    pub fn with_type(mut self, name: &str) -> Self {
        self.pages.set("TYPE", name.as_bytes());
        self
    }

    /// Number of keys that a node examines per request, approximately: from 1 to
    /// [`SCAN_COUNT_MAX`](crate::builder::SCAN_COUNT_MAX); any other number is returned as an error in place
    /// of the first key. Defaults to the server's own, 10.
    #[must_use]
    pub fn with_count(mut self, keys: usize) -> Self {
        self.pages.set_count(keys);
        self
    }

    /// The position to resume from. Keys of a page that has been begun are returned again.
    pub fn position(&self) -> ScanPosition {
        self.pages.position()
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut planned_again = 0;
        loop {
            // One snapshot for a request and its reply.
            let shared = match self.shared.ready() {
                Ok(shared) => shared,
                Err(error) => return Some(Err(error)),
            };
            match self.pages.next_step(&shared.router) {
                ScanStep::Yield(key) => return Some(key),
                ScanStep::Done => return None,
                ScanStep::Fetch(cmd) => {
                    let answer = shared.request(&cmd.get_packed_command());
                    if let Err(error) =
                        answer.and_then(|answer| self.pages.answer(answer, &shared.router))
                    {
                        planned_again += 1;
                        if !self.pages.goes_on_after(&error, planned_again) {
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
    }
}
