//! Building the client on tokio: `Builder::build_async`.

use std::sync::Arc;

use crate::aio::{Executor, ShardedClient, Shared, WriteCoalescing};
use crate::config::{Builder, ClientConfig};
use crate::endpoint::tls::Runtime;
use crate::error::Error;

impl Builder {
    /// Builds the client on tokio. Nothing is contacted, and no runtime is needed, before its first command.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_async(self) -> Result<ShardedClient, Error> {
        Ok(ShardedClient::from_config(self.config(Runtime::Tokio)?))
    }
}

impl ShardedClient {
    /// A client of this description.
    pub(crate) fn from_config(config: ClientConfig) -> Self {
        // As many users as connections are kept. The proxy allows more, as its clients must not queue for a
        // BLPOP connection.
        let users = config.settings.blocking_pool_size;
        let executor = Executor::new(
            config.endpoints,
            &config.settings,
            users,
            WriteCoalescing::Off,
        );
        Self::from_shared(Shared {
            router: Arc::new(config.router),
            executor,
            scripts: Arc::default(),
            db: config.db,
            identity: config.identity,
        })
    }
}
