//! Building the client on tokio: `Builder::build_async`.

use std::sync::Arc;

use crate::aio::{ConnectionPurpose, ShardedClient, Shared};
use crate::config::Builder;
use crate::endpoint::tls::Runtime;
use crate::error::Error;
use crate::snapshot::{Publisher, SnapshotHandle};

impl Builder {
    /// Builds the client on tokio. Nothing is contacted, and no runtime is needed, before its first command.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_async(self) -> Result<ShardedClient, Error> {
        let publisher = Publisher::new(self.config(Runtime::Tokio)?)?;
        Ok(ShardedClient::from_publisher(&publisher))
    }
}

impl ShardedClient {
    /// A client that receives the topologies of `publisher`.
    pub(crate) fn from_publisher(publisher: &Arc<Publisher>) -> Self {
        Self::from_shared(SnapshotHandle::open(publisher, |config| {
            Shared::new(config, Arc::default(), ConnectionPurpose::Client)
        }))
    }
}
