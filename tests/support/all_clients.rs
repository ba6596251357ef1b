//! Both clients and a proxy of one description, for tests that do the same through all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value, cmd};
use redis_sharding::proxy::Proxy;
use redis_sharding::{Builder, Error, ShardedClient, Topology, aio};
use tokio::runtime::{Handle, Runtime};

use super::local_proxy::LocalProxy;

/// How long a client of the proxy waits for a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Blocking,
    Async,
    Proxy,
}

pub const KINDS: [Kind; 3] = [Kind::Blocking, Kind::Async, Kind::Proxy];

pub struct AllClients {
    pub blocking: ShardedClient,
    pub tokio: aio::ShardedClient,
    pub runtime: Runtime,
    pub proxy: LocalProxy,
}

/// A handle of one of them, for one thread.
pub enum AnyClient {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Handle),
    /// A connection to the proxy.
    Proxy(redis::Connection, Proxy),
}

impl AllClients {
    pub fn open(describe: impl Fn() -> Builder) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        Self {
            blocking: describe().build().unwrap(),
            tokio: describe().build_async().unwrap(),
            proxy: LocalProxy::open(describe()),
            runtime,
        }
    }

    pub fn of(&self, kind: Kind) -> AnyClient {
        self.of_protocol(kind, "resp2")
    }

    /// With a connection to the proxy by this protocol.
    pub fn of_protocol(&self, kind: Kind, protocol: &str) -> AnyClient {
        match kind {
            Kind::Blocking => AnyClient::Blocking(self.blocking.clone()),
            Kind::Async => AnyClient::Async(self.tokio.clone(), self.runtime.handle().clone()),
            Kind::Proxy => {
                let url = format!("redis://{}/?protocol={protocol}", self.proxy.address());
                let client = redis::Client::open(url);
                let connection = client.unwrap().get_connection().unwrap();
                connection.set_read_timeout(Some(REPLY_WITHIN)).unwrap();
                AnyClient::Proxy(connection, self.proxy.proxy.clone())
            }
        }
    }

    /// One of each kind.
    pub fn each(&self) -> [AnyClient; 3] {
        KINDS.map(|kind| self.of(kind))
    }

    pub fn set_topology(&self, topology: &Topology) -> Result<(), Error> {
        self.blocking.set_topology(topology)?;
        self.tokio.set_topology(topology)?;
        self.proxy.proxy.set_topology(topology)
    }

    pub fn topologies(&self) -> [Arc<Topology>; 3] {
        [
            self.blocking.topology(),
            self.tokio.topology(),
            self.proxy.proxy.topology(),
        ]
    }

    /// As many keys as wished of every node, in node order, each with the number of its node.
    pub fn keys(&self, prefix: &str, count: usize) -> Vec<(usize, String)> {
        let topology = &self.blocking.topology();
        let owner = |key: &str| topology.locate(key.as_bytes()).map(|node| node.get());
        let of_node = |node: usize| {
            let keys = (0..).map(|number| format!("{prefix}:{number}"));
            let own = keys.filter(move |key| owner(key) == Some(node));
            own.take(count).map(move |key| (node, key))
        };
        (0..topology.nodes().len()).flat_map(of_node).collect()
    }
}

impl AnyClient {
    pub fn topology(&self) -> Arc<Topology> {
        match self {
            Self::Blocking(client) => client.topology(),
            Self::Async(client, _) => client.topology(),
            Self::Proxy(_, proxy) => proxy.topology(),
        }
    }

    pub fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => command.query(client),
            Self::Async(client, runtime) => runtime.block_on(command.query_async(client)),
            Self::Proxy(connection, _) => command.query(connection),
        }
    }

    /// A command in words.
    pub fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        self.command(cmd(words[0]).arg(&words[1..]))
    }

    pub fn pipeline(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        self.query(pipeline)
    }

    /// A pipeline, whose EXEC may be nil.
    pub fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => pipeline.query(client),
            Self::Async(client, runtime) => runtime.block_on(pipeline.query_async(client)),
            Self::Proxy(connection, _) => pipeline.query(connection),
        }
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Tells workers to end, also after a panic of the thread that would tell them.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
