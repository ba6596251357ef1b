//! Keys of all nodes, one after another.

use std::sync::Arc;

use crate::error::Error;
use crate::plan::{ScanPosition, ScanState, ScanStep};
use crate::sync::Shared;

/// An iterator over the keys of all nodes, made by [`ShardedClient::scan_all`](crate::ShardedClient::scan_all).
///
/// Gives what SCAN gives: every key that is there from beginning to end at least once, others perhaps. Keys of one node
/// come before those of the next. After an error, the same page is asked for again.
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
    shared: Arc<Shared>,
    pages: ScanState,
}

impl Scan {
    pub(super) fn new(shared: Arc<Shared>, position: ScanPosition) -> Self {
        Self {
            shared,
            pages: ScanState::new(position),
        }
    }

    /// Only keys that match a glob-style pattern. Defaults to all.
    #[must_use]
    pub fn with_pattern(mut self, pattern: impl AsRef<[u8]>) -> Self {
        self.pages.set("MATCH", pattern.as_ref());
        self
    }

    /// Only keys of one type, as TYPE names it. Defaults to all.
    #[must_use]
    pub fn with_type(mut self, name: &str) -> Self {
        self.pages.set("TYPE", name.as_bytes());
        self
    }

    /// About how many keys a node looks at per request, from 1 to
    /// [`SCAN_COUNT_MAX`](crate::builder::SCAN_COUNT_MAX); another number is given as an error instead of the first key.
    /// Defaults to the server's own, 10.
    #[must_use]
    pub fn with_count(mut self, keys: usize) -> Self {
        self.pages.set_count(keys);
        self
    }

    /// Where to resume. Keys of a page that was begun come again.
    pub fn position(&self) -> ScanPosition {
        self.pages.position()
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.pages.next_step(&self.shared.router) {
                ScanStep::Yield(key) => return Some(key),
                ScanStep::Done => return None,
                ScanStep::Fetch(cmd) => {
                    let answer = self.shared.request(&cmd.get_packed_command());
                    if let Err(error) =
                        answer.and_then(|answer| self.pages.answer(answer, &self.shared.router))
                    {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}
