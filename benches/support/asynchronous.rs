//! The asynchronous clients that are compared.

use fred::interfaces::{ClientLike, KeysInterface};
use futures_util::future::{join_all, try_join_all};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncCommands, Pipeline, RedisResult};
use redis_sharding::aio::ShardedClient;
use rustis::client::BatchPreparedCommand;
use rustis::commands::StringCommands;
use rustis::resp::BulkString;

use super::blocking::{Shape, gets};
use super::cluster::Cluster;
use super::data::{BATCH, Keys, VALUE};
use super::fleet::{Fleet, builder, open, owner, places};

/// A client that many tasks share.
pub trait Client: Clone + Send + 'static {
    fn get(&mut self, key: &'static str) -> impl Future<Output = Answer> + Send;
    /// A pipeline of GETs.
    fn pipeline(&mut self, keys: &'static [String]) -> impl Future<Output = Answer> + Send;
    fn mget(&mut self, keys: &'static [String]) -> impl Future<Output = Answer> + Send;
}

/// All values have come, or the client refuses to ask for them.
pub type Answer = Result<(), String>;

/// One operation.
pub async fn run<C: Client>(shape: Shape, client: &mut C, keys: &mut Keys) -> Answer {
    match shape {
        Shape::Get => client.get(keys.next()).await,
        Shape::Pipeline => client.pipeline(keys.batch()).await,
        Shape::MGet => client.mget(keys.batch()).await,
    }
}

pub async fn one_node(fleet: &Fleet) -> Plain<MultiplexedConnection> {
    Plain(multiplexed(&fleet.servers.url(0)).await)
}

pub async fn by_hand(fleet: &Fleet) -> ByHand {
    let urls = fleet.urls();
    ByHand {
        connections: join_all(urls.iter().map(|url| multiplexed(url))).await,
        placement: ours(fleet).0,
    }
}

pub fn ours(fleet: &Fleet) -> Plain<ShardedClient> {
    let client = builder(fleet.urls()).build_async();
    Plain(client.expect("the servers make a valid client"))
}

pub fn ours_cluster(cluster: &Cluster) -> Plain<ShardedClient> {
    Plain(ShardedClient::cluster(cluster.urls()).expect("seeds of a cluster"))
}

pub async fn redis_rs_cluster(cluster: &Cluster) -> Plain<ClusterConnection> {
    let client = ClusterClient::new(cluster.urls()).expect("addresses");
    let connection = client.get_async_connection().await;
    Plain(connection.expect("the masters listen"))
}

pub async fn fred_cluster(cluster: &Cluster) -> fred::clients::Client {
    use fred::types::config::{Config, ConnectionConfig, TcpConfig};
    let url = format!("redis-cluster://{}", cluster.addrs()[0]);
    let config = Config::from_url(&url).expect("an address");
    let connection = ConnectionConfig {
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    let client = fred::clients::Client::new(config, None, Some(connection), None);
    client.init().await.expect("the masters listen");
    client
}

pub async fn rustis_cluster(cluster: &Cluster) -> rustis::client::Client {
    let url = format!("redis+cluster://{}", cluster.addrs().join(","));
    rustis::client::Client::connect(url)
        .await
        .expect("the masters listen")
}

async fn multiplexed(url: &str) -> MultiplexedConnection {
    open(url)
        .get_multiplexed_async_connection()
        .await
        .expect("the server listens")
}

/// Anything that redis-rs' traits reach.
#[derive(Clone)]
pub struct Plain<C>(C);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Client for Plain<C> {
    async fn get(&mut self, key: &'static str) -> Answer {
        get(&mut self.0, key).await
    }

    async fn pipeline(&mut self, keys: &'static [String]) -> Answer {
        values(gets(keys).query_async(&mut self.0).await)
    }

    async fn mget(&mut self, keys: &'static [String]) -> Answer {
        values(self.0.mget(keys).await)
    }
}

/// Four multiplexed connections of redis-rs, and the node of every key picked by hand.
#[derive(Clone)]
pub struct ByHand {
    /// For its topology.
    placement: ShardedClient,
    connections: Vec<MultiplexedConnection>,
}

impl ByHand {
    /// Asks all nodes at once, and puts their values in the order of the keys.
    async fn ask<F>(
        &mut self,
        keys: &'static [String],
        ask: impl Fn(MultiplexedConnection, Vec<&'static String>) -> F,
    ) -> Answer
    where
        F: Future<Output = RedisResult<Vec<Vec<u8>>>>,
    {
        let places = places(&self.placement.topology(), keys);
        let asked = self.connections.iter().zip(&places);
        let asked = asked.map(|(connection, places)| {
            let keys = places.iter().map(|&place| &keys[place]).collect();
            ask(connection.clone(), keys)
        });
        let answers = try_join_all(asked).await.map_err(said)?;
        let mut merged = vec![Vec::new(); keys.len()];
        for (places, answers) in places.iter().zip(answers) {
            for (&place, value) in places.iter().zip(answers) {
                merged[place] = value;
            }
        }
        values(Ok(merged))
    }
}

impl Client for ByHand {
    async fn get(&mut self, key: &'static str) -> Answer {
        let owner = owner(&self.placement.topology(), key);
        get(&mut self.connections[owner], key).await
    }

    async fn pipeline(&mut self, keys: &'static [String]) -> Answer {
        self.ask(keys, async |mut connection, keys| {
            let pipe: Pipeline = gets(keys);
            pipe.query_async(&mut connection).await
        })
        .await
    }

    async fn mget(&mut self, keys: &'static [String]) -> Answer {
        self.ask(keys, async |mut connection, keys| {
            connection.mget(keys).await
        })
        .await
    }
}

/// A client whose GETs are sent at once in place of a pipeline: it refuses one over several slots, or is slow at it.
#[derive(Clone)]
pub struct AtOnce<C>(C);

pub async fn at_once<C>(connect: impl Future<Output = C>) -> AtOnce<C> {
    AtOnce(connect.await)
}

impl<C: Client + Sync> Client for AtOnce<C> {
    async fn get(&mut self, key: &'static str) -> Answer {
        self.0.get(key).await
    }

    async fn pipeline(&mut self, keys: &'static [String]) -> Answer {
        let gets = keys.iter().map(|key| {
            let mut client = self.0.clone();
            async move { client.get(key).await }
        });
        try_join_all(gets).await.map(drop)
    }

    async fn mget(&mut self, keys: &'static [String]) -> Answer {
        self.0.mget(keys).await
    }
}

impl Client for fred::clients::Client {
    async fn get(&mut self, key: &'static str) -> Answer {
        let value: fred::bytes_utils::Str = KeysInterface::get(self, key).await.map_err(said)?;
        lengths([value.len()], 1)
    }

    async fn pipeline(&mut self, keys: &'static [String]) -> Answer {
        let pipeline = fred::clients::Client::pipeline(self);
        for key in keys {
            let () = pipeline.get(key.as_str()).await.map_err(said)?;
        }
        let values: Vec<fred::bytes_utils::Str> = pipeline.all().await.map_err(said)?;
        lengths(values.iter().map(|value| value.len()), BATCH)
    }

    async fn mget(&mut self, keys: &'static [String]) -> Answer {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let values: Vec<fred::bytes_utils::Str> =
            KeysInterface::mget(self, keys).await.map_err(said)?;
        lengths(values.iter().map(|value| value.len()), BATCH)
    }
}

impl Client for rustis::client::Client {
    async fn get(&mut self, key: &'static str) -> Answer {
        let value: BulkString = StringCommands::get(&*self, key).await.map_err(said)?;
        lengths([value.len()], 1)
    }

    async fn pipeline(&mut self, keys: &'static [String]) -> Answer {
        let mut pipeline = self.create_pipeline();
        for key in keys {
            pipeline.get::<()>(key).queue();
        }
        let values: Vec<BulkString> = pipeline.execute().await.map_err(said)?;
        lengths(values.iter().map(|value| value.len()), BATCH)
    }

    async fn mget(&mut self, keys: &'static [String]) -> Answer {
        let values: Vec<BulkString> = StringCommands::mget(&*self, keys).await.map_err(said)?;
        lengths(values.iter().map(|value| value.len()), BATCH)
    }
}

async fn get(connection: &mut (impl ConnectionLike + Send + Sync), key: &str) -> Answer {
    let value: Vec<u8> = connection.get(key).await.map_err(said)?;
    lengths([value.len()], 1)
}

fn values(values: RedisResult<Vec<Vec<u8>>>) -> Answer {
    lengths(values.map_err(said)?.iter().map(Vec::len), BATCH)
}

/// Panics at a wrong answer, for that is no refusal.
fn lengths(values: impl IntoIterator<Item = usize>, count: usize) -> Answer {
    let right = values
        .into_iter()
        .inspect(|&length| assert_eq!(length, VALUE.len()));
    assert_eq!(right.count(), count);
    Ok(())
}

fn said(error: impl ToString) -> String {
    error.to_string()
}
