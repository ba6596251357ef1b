//! [`AsyncClient`]: the client on tokio that a blocking client keeps for programs that use both.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::snapshot::Publisher;

/// Where the topologies of both clients come from, and the client on tokio once it was made.
///
/// Its type is not known here, as the two clients do not know each other: the methods that return it are in
/// `connect`.
pub(crate) struct AsyncClient {
    publisher: Arc<Publisher>,
    made: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl AsyncClient {
    /// No client yet.
    pub(super) fn new(publisher: Arc<Publisher>) -> Self {
        Self {
            publisher,
            made: OnceLock::new(),
        }
    }

    /// Where the topologies of both clients come from.
    pub(crate) fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Returns the client, which the first call makes.
    pub(crate) fn made_by<C>(&self, make: impl Fn(&Arc<Publisher>) -> C) -> C
    where
        C: Clone + Send + Sync + 'static,
    {
        let made = self.made.get_or_init(|| Box::new(make(&self.publisher)));
        // There is only one type of client on tokio, so the downcast always succeeds.
        let found = made.downcast_ref::<C>().cloned();
        found.unwrap_or_else(|| make(&self.publisher))
    }
}

impl fmt::Debug for AsyncClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncClient")
            .field("is_made", &self.made.get().is_some())
            .finish_non_exhaustive()
    }
}
