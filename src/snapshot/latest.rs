//! [`Latest`]: the newest snapshot of a set of connections, for requests that were begun by an older one.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::plan::Router;

/// The newest router of one set of connections of a client, and its executor. The executors themselves refer to it, without
/// keeping it.
pub(crate) struct Latest<E> {
    current: ArcSwapOption<Newer<E>>,
}

/// Router and executor of one topology.
pub(crate) struct Newer<E> {
    /// Where each command goes.
    pub(crate) router: Arc<Router>,
    /// The connections.
    pub(crate) executor: E,
}

impl<E> Latest<E> {
    /// Sets the newest.
    pub(crate) fn set(&self, router: &Arc<Router>, executor: E) {
        let router = Arc::clone(router);
        self.current
            .store(Some(Arc::new(Newer { router, executor })));
    }

    /// The newest; `None` before the first.
    pub(crate) fn load(&self) -> Option<Arc<Newer<E>>> {
        self.current.load_full()
    }
}

impl<E> Default for Latest<E> {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
        }
    }
}

impl<E> fmt::Debug for Latest<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").finish_non_exhaustive()
    }
}
