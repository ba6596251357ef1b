//! Building the blocking client: `Builder::build`.

use std::sync::Arc;

use crate::config::{Builder, ClientConfig, Settings};
use crate::endpoint::Endpoint;
use crate::endpoint::tls::Runtime;
use crate::error::Error;
use crate::plan::PoolUse;
#[cfg(feature = "tokio-comp")]
use crate::sync::async_client::AsyncClient;
use crate::sync::connection::Connector;
use crate::sync::executor::{Executor, NodePools};
use crate::sync::pool::{Pool, PoolSettings};
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
        let config: ClientConfig = self.config(Runtime::Blocking)?;
        #[cfg(feature = "tokio-comp")]
        let async_client = AsyncClient::new(config.clone());
        Ok(ShardedClient::from_shared(Shared {
            executor: executor(config.endpoints, &config.settings),
            router: Arc::new(config.router),
            scripts: Arc::default(),
            db: config.db,
            identity: config.identity,
            #[cfg(feature = "tokio-comp")]
            async_client,
        }))
    }
}

/// Creates the pools of every node, without connecting.
fn executor(endpoints: Vec<Endpoint>, settings: &Settings) -> Executor {
    let pool = |connector: &Connector, endpoint: &Endpoint, size: usize, pool_use| {
        let settings = PoolSettings {
            size,
            connect_timeout: settings.connect_timeout,
            idle_check: settings.idle_check,
            pool_use,
        };
        Pool::new(connector.clone(), endpoint.address.clone(), settings)
    };
    let node = |endpoint: &Endpoint| {
        // One connector for both pools, so that they share the node's backoff.
        let connector = Connector::new(endpoint.clone());
        NodePools {
            observer: Arc::clone(&endpoint.observer),
            shared: pool(&connector, endpoint, settings.pool_size, PoolUse::Shared),
            exclusive: pool(
                &connector,
                endpoint,
                settings.blocking_pool_size,
                PoolUse::Exclusive,
            ),
        }
    };
    Executor {
        nodes: endpoints.iter().map(node).collect(),
        options: settings.request_options(),
    }
}
