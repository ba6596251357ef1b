//! The blocking clients that are compared.

use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};
use redis::{Commands, Connection, ConnectionLike, Pipeline, Value, from_redis_value, pipe};
use redis_sharding::ShardedClient;
use redis_sharding::ops::{FleetRecord, PublishOptions};

use super::cluster::Cluster;
use super::data::{BATCH, Keys, VALUE};
use super::fleet::{Fleet, builder, client, connect, owner, places};
use super::measure::{Row, Spent};

/// A client in a table.
pub trait Contender {
    fn get(&mut self, key: &str);
    /// A pipeline of GETs.
    fn pipeline(&mut self, keys: &[String]);
    fn mget(&mut self, keys: &[String]);
}

/// What a contender is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Get,
    Pipeline,
    MGet,
}

impl Shape {
    pub const ALL: [Self; 3] = [Self::Get, Self::Pipeline, Self::MGet];

    pub fn title(self) -> &'static str {
        match self {
            Self::Get => "(a) GET after GET, per GET",
            Self::Pipeline => "(b) pipeline of 100 GETs, per GET",
            Self::MGet => "(c) MGET of 100, per key",
        }
    }

    /// Keys of one operation.
    pub fn units(self) -> usize {
        match self {
            Self::Get => 1,
            Self::Pipeline | Self::MGet => BATCH,
        }
    }

    /// One operation.
    pub fn run(self, contender: &mut dyn Contender, keys: &mut Keys) {
        match self {
            Self::Get => contender.get(keys.next()),
            Self::Pipeline => contender.pipeline(keys.batch()),
            Self::MGet => contender.mget(keys.batch()),
        }
    }
}

/// The contenders of every table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    OneNode,
    ByHand,
    Ours,
    /// With a record on the nodes, which the client follows.
    OursAgreed,
    OursCluster,
    Cluster,
}

impl Name {
    pub const ALL: [Self; 6] = [
        Self::OneNode,
        Self::ByHand,
        Self::Ours,
        Self::OursAgreed,
        Self::OursCluster,
        Self::Cluster,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::OneNode => "redis-rs, one node",
            Self::ByHand => "redis-rs, four connections by hand",
            Self::Ours => "redis-sharding, four nodes",
            Self::OursAgreed => "redis-sharding, four nodes with a record",
            Self::OursCluster => "redis-sharding, cluster of four",
            Self::Cluster => "redis-rs cluster, four masters",
        }
    }

    /// True if it is a client of a cluster; the others use plain servers.
    pub fn is_of_cluster(self) -> bool {
        matches!(self, Self::OursCluster | Self::Cluster)
    }

    /// `urls` are those of a cluster or of plain servers, as it [needs](Self::is_of_cluster).
    pub fn connect(self, urls: Vec<String>) -> Box<dyn Contender> {
        match self {
            Self::OneNode => Box::new(Plain(connect(&urls[0]))),
            Self::ByHand => Box::new(ByHand::connect(urls)),
            Self::Ours => Box::new(Plain(client(urls))),
            Self::OursAgreed => Box::new(Plain(agreed(urls))),
            Self::OursCluster => {
                let client = ShardedClient::cluster(urls);
                Box::new(Plain(client.expect("seeds of a cluster")))
            }
            Self::Cluster => Box::new(Masters::connect(urls)),
        }
    }
}

/// A client that follows the record of the nodes, which is published if there is none.
fn agreed(urls: Vec<String>) -> ShardedClient {
    let topology = client(urls.clone()).topology();
    let record = FleetRecord::new(builder(urls.clone())).expect("plain servers");
    let published = record.publish(&topology, PublishOptions::default());
    published.expect("servers with this topology, or without any");
    builder(urls).agreed().build().expect("plain servers")
}

/// A row for every contender.
pub fn rows(fleet: &Fleet, cluster: &Cluster, shape: Shape) -> Vec<Row<'static>> {
    let row = |name: Name| match name.is_of_cluster() {
        true => row(name, shape, cluster.urls()),
        false => row(name, shape, fleet.urls()),
    };
    Name::ALL.map(row).into()
}

/// What a contender takes.
pub fn row(name: Name, shape: Shape, urls: Vec<String>) -> Row<'static> {
    let (mut contender, mut keys) = (name.connect(urls), Keys::new());
    Row::timed(name.title(), move |count| {
        Spent::on_this_thread(|| {
            for _ in 0..count {
                shape.run(&mut *contender, &mut keys);
            }
        })
    })
}

/// Anything that redis-rs' traits reach.
struct Plain<C>(C);

impl<C: ConnectionLike> Contender for Plain<C> {
    fn get(&mut self, key: &str) {
        get(&mut self.0, key);
    }

    fn pipeline(&mut self, keys: &[String]) {
        let values: Vec<Vec<u8>> = gets(keys).query(&mut self.0).expect("a pipeline");
        check(&values);
    }

    fn mget(&mut self, keys: &[String]) {
        mget(&mut self.0, keys);
    }
}

/// redis-rs' cluster client. It sends a pipeline only if it is one of its own.
struct Masters {
    connection: ClusterConnection,
}

impl Masters {
    fn connect(urls: Vec<String>) -> Self {
        let client = ClusterClient::new(urls).expect("addresses");
        Self {
            connection: client.get_connection().expect("the masters listen"),
        }
    }
}

impl Contender for Masters {
    fn get(&mut self, key: &str) {
        get(&mut self.connection, key);
    }

    fn pipeline(&mut self, keys: &[String]) {
        let mut pipe = cluster_pipe();
        for key in keys {
            pipe.get(key);
        }
        let values: Vec<Vec<u8>> = pipe.query(&mut self.connection).expect("a pipeline");
        check(&values);
    }

    fn mget(&mut self, keys: &[String]) {
        mget(&mut self.connection, keys);
    }
}

/// Four bare connections of redis-rs, and the node of every key picked by hand: what one would write without this crate.
struct ByHand {
    /// For its topology.
    placement: ShardedClient,
    connections: Vec<Connection>,
}

impl ByHand {
    fn connect(urls: Vec<String>) -> Self {
        Self {
            connections: urls.iter().map(|url| connect(url)).collect(),
            placement: client(urls),
        }
    }
}

impl Contender for ByHand {
    fn get(&mut self, key: &str) {
        let owner = owner(&self.placement.topology(), key);
        get(&mut self.connections[owner], key);
    }

    /// One pipeline per node, written to all before the first answer is read.
    fn pipeline(&mut self, keys: &[String]) {
        let places = places(&self.placement.topology(), keys);
        for (connection, places) in self.connections.iter_mut().zip(&places) {
            let pipe = gets(places.iter().map(|&place| &keys[place]));
            send(connection, &pipe.get_packed_pipeline());
        }
        let mut values = vec![Vec::new(); keys.len()];
        for (connection, places) in self.connections.iter_mut().zip(&places) {
            for &place in places {
                values[place] = convert(receive(connection));
            }
        }
        check(&values);
    }

    /// One MGET per node, in the same way.
    fn mget(&mut self, keys: &[String]) {
        let places = places(&self.placement.topology(), keys);
        for (connection, places) in self.connections.iter_mut().zip(&places) {
            let mut mget = redis::cmd("MGET");
            for &place in places {
                mget.arg(&keys[place]);
            }
            send(connection, &mget.get_packed_command());
        }
        let mut values = vec![Vec::new(); keys.len()];
        for (connection, places) in self.connections.iter_mut().zip(&places) {
            let Value::Array(items) = receive(connection) else {
                panic!("MGET answers with an array");
            };
            for (&place, item) in places.iter().zip(items) {
                values[place] = convert(item);
            }
        }
        check(&values);
    }
}

/// A GET over any connection.
pub fn get(connection: &mut impl ConnectionLike, key: &str) {
    let value: Vec<u8> = connection.get(key).expect("a GET");
    assert_eq!(value.len(), VALUE.len());
}

fn mget(connection: &mut impl ConnectionLike, keys: &[String]) {
    let values: Vec<Vec<u8>> = connection.mget(keys).expect("an MGET");
    check(&values);
}

pub fn gets<'k>(keys: impl IntoIterator<Item = &'k String>) -> Pipeline {
    let mut pipe = pipe();
    for key in keys {
        pipe.get(key);
    }
    pipe
}

fn check(values: &[Vec<u8>]) {
    assert!(values.len() == BATCH && values.iter().all(|value| value.len() == VALUE.len()));
}

fn send(connection: &mut Connection, packed: &[u8]) {
    connection
        .send_packed_command(packed)
        .expect("the server listens");
}

fn receive(connection: &mut Connection) -> Value {
    connection.recv_response().expect("the server answers")
}

fn convert(value: Value) -> Vec<u8> {
    from_redis_value(value).expect("a string")
}
