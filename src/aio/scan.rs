//! [`Scan`]: the keys of all nodes as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use redis::Value;

use crate::aio::Shared;
use crate::error::Error;
use crate::plan::{ScanPosition, ScanState, ScanStep};
use crate::snapshot::SnapshotHandle;

/// A stream of the keys of all nodes, made by
/// [`ShardedClient::scan_all`](crate::aio::ShardedClient::scan_all).
///
/// Has the guarantees of SCAN: a key that exists from beginning to end is returned at least once, others may
/// be. The keys of one node come before those of the next. After an error, the failed page is requested
/// again. Over a [Redis Cluster](crate::guide::cluster#scan) the keys of one slot come before those of the next, and each
/// is returned exactly once, also while slots move.
///
/// ```no_run
/// # async fn f(client: &redis_sharding::aio::ShardedClient) -> Result<(), redis_sharding::Error> {
/// let mut scan = client.scan_all().with_pattern("user:*").with_count(1000);
/// while let Some(key) = scan.next_key().await {
///     println!("{}", String::from_utf8_lossy(&key?));
/// }
/// # Ok(()) }
/// ```
pub struct Scan {
    shared: SnapshotHandle<Shared>,
    /// The position, and the keys of the current page.
    pages: ScanState,
    /// The request for the next page. Kept here and not in `next_key`, so that dropping that future does not
    /// lose a page.
    asked: Option<BoxFuture<'static, Page>>,
}

/// A page, and the snapshot by which it was requested.
type Page = (Arc<Shared>, Result<Value, Error>);

impl Scan {
    pub(super) fn new(shared: SnapshotHandle<Shared>, position: ScanPosition) -> Self {
        Self {
            shared,
            pages: ScanState::new(position),
            asked: None,
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

    /// Returns the next key, without `StreamExt`. Dropping the future loses nothing.
    pub async fn next_key(&mut self) -> Option<Result<Vec<u8>, Error>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Scan {
    type Item = Result<Vec<u8>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut planned_again = 0;
        loop {
            if let Some(asked) = &mut self.asked {
                let (shared, answer) = ready!(asked.as_mut().poll(cx));
                self.asked = None;
                // Reborrowed, so that its fields can be borrowed separately behind the `Pin`.
                let this = &mut *self;
                let taken = answer.and_then(|answer| this.pages.answer(answer, &shared.router));
                if let Err(error) = taken {
                    planned_again += 1;
                    if !this.pages.goes_on_after(&error, planned_again) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            let this = &mut *self;
            // One snapshot for a request and its reply.
            let shared = this.shared.load_full();
            match this.pages.next_step(&shared.router) {
                ScanStep::Yield(key) => return Poll::Ready(Some(key)),
                ScanStep::Done => return Poll::Ready(None),
                ScanStep::Fetch(cmd) => {
                    self.asked = Some(Box::pin(async move {
                        let reply = shared.request(&cmd).await;
                        (shared, reply)
                    }));
                }
            }
        }
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}
