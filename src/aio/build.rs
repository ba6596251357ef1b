//! Building the client on tokio.

use std::sync::Arc;

use crate::aio::{Executor, ShardedClient, Shared, WriteCoalescing};
use crate::config::Builder;
use crate::endpoint::tls::Runtime;
use crate::error::Error;

impl Builder {
    /// The client on tokio. Nothing is contacted, and no runtime is needed, before its first command.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_async(self) -> Result<ShardedClient, Error> {
        let config = self.config(Runtime::Tokio)?;
        let users = config.settings.blocking_pool_size;
        let executor = Executor::new(
            config.endpoints,
            &config.settings,
            users,
            WriteCoalescing::Off,
        );
        Ok(ShardedClient::from_shared(Shared {
            router: config.router,
            executor,
            scripts: Arc::default(),
            db: config.db,
        }))
    }
}
