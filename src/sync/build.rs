//! Building the blocking client: `Builder::build`.

use std::sync::Arc;

use crate::config::Builder;
use crate::endpoint::tls::Runtime;
use crate::error::Error;
use crate::snapshot::{Publisher, SnapshotHandle};
#[cfg(feature = "tokio-comp")]
use crate::sync::async_client::AsyncClient;
use crate::sync::executor::Executor;
use crate::sync::{ShardedClient, Shared};

impl Builder {
    /// Builds the client. Nothing is contacted before its first command.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) when a URL cannot be parsed, nodes share a name or an address,
    /// databases differ, a name, an address or an option of the partitioner contains a password, a number is
    /// out of range, a command is declared twice, the partitioner refuses the nodes, or a node needs TLS and
    /// its feature is not enabled or its certificates cannot be read.
    pub fn build(self) -> Result<ShardedClient, Error> {
        let publisher = Publisher::new(self.config(Runtime::Blocking)?)?;
        #[cfg(feature = "tokio-comp")]
        let async_client = Arc::new(AsyncClient::new(Arc::clone(&publisher)));
        let shared = SnapshotHandle::open(&publisher, |config| {
            let latest = Arc::default();
            let executor = Executor::new(config, &latest);
            let router = Arc::new(config.router.clone());
            latest.set(&router, executor.clone());
            Shared {
                executor,
                router,
                latest,
                scripts: Arc::default(),
                db: config.db,
                identity: Arc::clone(&config.identity),
                #[cfg(feature = "tokio-comp")]
                async_client,
            }
        });
        Ok(ShardedClient::from_shared(shared))
    }
}
