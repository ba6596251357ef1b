//! Four plain servers full of keys.

use redis::Commands;
use redis_sharding::{Builder, ShardedClient, Topology};

use super::data::{KEYS, VALUE, key};
use super::tests::Servers;

pub const NODES: usize = 4;

/// Plain servers with every key on its node, and server 0 with all of them.
pub struct Fleet {
    pub servers: Servers,
}

impl Fleet {
    pub fn start() -> Self {
        let servers = Servers::start(NODES).expect("a bench needs redis-server or valkey-server");
        fill(&mut client(servers.urls()));
        fill(&mut connect(&servers.url(0)));
        Self { servers }
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.urls()
    }
}

/// The description of a client over nodes called `node-0`, `node-1`, ...
pub fn builder(urls: impl IntoIterator<Item = String>) -> Builder {
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}

/// A blocking client over them.
pub fn client(urls: impl IntoIterator<Item = String>) -> ShardedClient {
    let client = builder(urls).build();
    client.expect("the servers make a valid client")
}

/// A connection as a careful user makes it.
pub fn connect(url: &str) -> redis::Connection {
    let connection = open(url).get_connection().expect("the server listens");
    connection
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .expect("five seconds are a timeout");
    connection
}

/// A client of redis-rs without Nagle's algorithm.
pub fn open(url: &str) -> redis::Client {
    use redis::IntoConnectionInfo;
    let info = url.into_connection_info().expect("an address");
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    redis::Client::open(info.set_tcp_settings(tcp)).expect("an address")
}

/// The node of a key, for who picks it by hand.
pub fn owner(topology: &Topology, key: &str) -> usize {
    let owner = topology.locate(key.as_bytes());
    owner.expect("every key has an owner").get()
}

/// Which keys go to each node. With 100 keys none of the four is left out.
pub fn places(topology: &Topology, keys: &[String]) -> Vec<Vec<usize>> {
    let mut places = vec![Vec::new(); topology.nodes().len()];
    for (place, key) in keys.iter().enumerate() {
        places[owner(topology, key)].push(place);
    }
    assert!(places.iter().all(|places| !places.is_empty()));
    places
}

/// Writes every key.
pub fn fill(connection: &mut impl redis::ConnectionLike) {
    for number in 0..KEYS {
        let () = connection
            .set(key(number), VALUE.as_slice())
            .expect("the server takes keys");
    }
}
