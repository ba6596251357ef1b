//! Asynchronous clients: 64 tasks, each with one GET after another.

use fred::interfaces::{ClientLike, KeysInterface};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis_sharding::aio::ShardedClient;
use rustis::commands::StringCommands;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::data::{Keys, VALUE};
use super::fleet::{Fleet, builder, open};
use super::measure::{Row, Spent, compare};

/// A client that many tasks share. To add one, say how it gets, and give it a row in [`compare_all`].
trait Client: Clone + Send + 'static {
    /// The length of the value.
    fn get(&mut self, key: &str) -> impl Future<Output = usize> + Send;
}

/// Clients of one node and of many in one table.
pub fn compare_all(fleet: &Fleet, cluster: &Cluster) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for tasks in TASKS {
        let row = Rows {
            runtime: &runtime,
            tasks,
        };
        let rows = vec![
            row.of("redis-rs, one node", multiplexed(fleet)),
            row.of("redis-sharding, four nodes", ours(fleet)),
            row.of("redis-rs cluster, four masters", cluster_async(cluster)),
            row.of("fred cluster, four masters", fred_cluster(cluster)),
            row.of("rustis cluster, four masters", rustis_cluster(cluster)),
        ];
        compare(
            &format!("asynchronous, one thread, {tasks} tasks, per GET"),
            1,
            rows,
        );
    }
}

/// What the rows of a table have in common.
struct Rows<'r> {
    runtime: &'r Runtime,
    tasks: usize,
}

impl<'r> Rows<'r> {
    fn of<C: Client>(&self, name: &'static str, connect: impl Future<Output = C>) -> Row<'r> {
        let Self { runtime, tasks } = *self;
        let client = runtime.block_on(connect);
        Row::timed(name, move |count| {
            let each = count.div_ceil(tasks as u64);
            let keys = (0..tasks as u64).map(Keys::from_anywhere).collect();
            let spent = Spent::on(|| runtime.block_on(work(&client, keys, each)));
            spent.scaled(count as f64 / (each * tasks as u64) as f64)
        })
    }
}

async fn work<C: Client>(client: &C, keys: Vec<Keys>, each: u64) {
    let mut tasks = JoinSet::new();
    for mut keys in keys {
        let mut client = client.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                assert_eq!(client.get(keys.next()).await, VALUE.len());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every GET is answered");
    }
}

async fn multiplexed(fleet: &Fleet) -> MultiplexedConnection {
    let client = open(&fleet.servers.url(0));
    client
        .get_multiplexed_async_connection()
        .await
        .expect("the server listens")
}

async fn ours(fleet: &Fleet) -> ShardedClient {
    let client = builder(fleet.urls()).build_async();
    client.expect("the servers make a valid client")
}

async fn cluster_async(cluster: &Cluster) -> redis::cluster_async::ClusterConnection {
    let client = ClusterClient::new(cluster.urls()).expect("addresses");
    client
        .get_async_connection()
        .await
        .expect("the masters listen")
}

async fn fred_cluster(cluster: &Cluster) -> fred::clients::Client {
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

async fn rustis_cluster(cluster: &Cluster) -> rustis::client::Client {
    let url = format!("redis+cluster://{}", cluster.addrs().join(","));
    rustis::client::Client::connect(url)
        .await
        .expect("the masters listen")
}

impl Client for MultiplexedConnection {
    async fn get(&mut self, key: &str) -> usize {
        let value: Vec<u8> = AsyncCommands::get(self, key).await.expect("a GET");
        value.len()
    }
}

impl Client for ShardedClient {
    async fn get(&mut self, key: &str) -> usize {
        let value: Vec<u8> = AsyncCommands::get(self, key).await.expect("a GET");
        value.len()
    }
}

impl Client for redis::cluster_async::ClusterConnection {
    async fn get(&mut self, key: &str) -> usize {
        let value: Vec<u8> = AsyncCommands::get(self, key).await.expect("a GET");
        value.len()
    }
}

impl Client for fred::clients::Client {
    async fn get(&mut self, key: &str) -> usize {
        let value: fred::bytes_utils::Str = KeysInterface::get(self, key).await.expect("a GET");
        value.len()
    }
}

impl Client for rustis::client::Client {
    async fn get(&mut self, key: &str) -> usize {
        let value: rustis::resp::BulkString =
            StringCommands::get(&*self, key).await.expect("a GET");
        value.len()
    }
}

const TASKS: [usize; 2] = [1, 64];
