//! The client on tokio: many tasks share one connection per node.
//!
//! Run it with `cargo run --example async_quickstart --features tokio-comp`; it needs no server. With URLs of
//! two or more servers as arguments it uses those: `... -- redis://127.0.0.1:6379/ redis://127.0.0.1:6380/`,
//! and deletes its keys in the end.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis_sharding::redis::{AsyncCommands, RedisResult, cmd, pipe};
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, NODES_MAX, aio::ShardedClient};

const TASKS: usize = 64;
const KEYS_PER_TASK: usize = 50;

fn main() -> ExitCode {
    let program = cli::Program {
        name: "async_quickstart",
        operands: "[URL ...]",
        most: NODES_MAX,
        about: "\
The client on tokio: many tasks share one connection per node.

Without URLs, nodes in this process stand in for servers. With the URLs of servers,
such as redis://127.0.0.1:6379/, those are used: only keys that begin with
async_quickstart: are written, and they are deleted in the end.",
    };
    program.run(|urls| example(cli::texts(urls)?))
}

#[tokio::main]
async fn example(urls: Vec<String>) -> Result<(), Box<dyn Error>> {
    let nodes = if urls.is_empty() {
        TestNode::start_many(4)?
    } else {
        Vec::new()
    };
    let urls = nodes.iter().map(TestNode::url).chain(urls);
    let client = ShardedClient::open(urls)?;
    println!("{} nodes", client.nodes().len());

    many_tasks(&client).await?;
    many_keys(&client).await?;
    read_then_write(&client).await?;
    if let Some(node) = nodes.first() {
        one_node_away(&client, node).await?;
    }
    clean_up(&client).await
}

/// One clone of the client per task: clones are cheap and share the connections.
async fn many_tasks(client: &ShardedClient) -> RedisResult<()> {
    let start = Instant::now();
    let tasks = (0..TASKS).map(|task| {
        let mut client = client.clone();
        async move {
            for number in 0..KEYS_PER_TASK {
                let () = client.set(key(task, number), number).await?;
            }
            RedisResult::Ok(())
        }
    });
    try_join_all(tasks).await?;
    println!(
        "{} keys by {TASKS} tasks in {:.0?}",
        TASKS * KEYS_PER_TASK,
        start.elapsed()
    );
    Ok(())
}

/// Commands over many keys and pipelines go to all nodes at once.
async fn many_keys(client: &ShardedClient) -> RedisResult<()> {
    let mut client = client.clone();
    let keys: Vec<String> = (0..TASKS).map(|task| key(task, 7)).collect();
    let found: Vec<usize> = client.mget(&keys).await?;
    assert_eq!(found, vec![7; TASKS]);

    let mut pipeline = pipe();
    for key in &keys {
        pipeline.incr(key, 1);
    }
    let counts: Vec<usize> = pipeline.query_async(&mut client).await?;
    assert_eq!(counts, vec![8; TASKS]);
    println!("MGET and a pipeline over {TASKS} keys, answers in order");
    Ok(())
}

/// The closure is called again when another client changed the key after WATCH.
async fn read_then_write(client: &ShardedClient) -> RedisResult<()> {
    let key = key(0, 0);
    let (value,): (i64,) = client
        .transaction(&key, async |connection, pipe| {
            let old: i64 = connection.get(&key).await?;
            pipe.set(&key, old + 42)
                .ignore()
                .get(&key)
                .query_async(connection)
                .await
        })
        .await?;
    assert_eq!(value, 42);
    println!("a transaction on node {}", client.node_for(&key)?.name());
    Ok(())
}

/// While a node is down, only commands for its keys fail, and they fail at once.
async fn one_node_away(client: &ShardedClient, node: &TestNode) -> RedisResult<()> {
    node.stop();
    let (mut there, mut away) = (0, 0);
    for task in 0..TASKS {
        match client.clone().get::<_, i64>(key(task, 1)).await {
            Ok(_) => there += 1,
            Err(error) if ErrorKind::of(&error) == ErrorKind::NodeDown => away += 1,
            Err(error) => return Err(error),
        }
    }
    println!("one node stopped: {there} keys found, {away} with NODEDOWN");
    assert!(there > 0 && away > 0);

    node.restart()?;
    // DBSIZE needs every node; PING is answered by those that can be reached.
    while cmd("DBSIZE").exec_async(&mut client.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("it came back, and was found again in the background");
    Ok(())
}

async fn clean_up(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    let mut scan = client
        .scan_all()
        .with_pattern("async_quickstart:*")
        .with_count(1000);
    let mut keys = Vec::new();
    while let Some(key) = scan.next_key().await {
        keys.push(key?);
    }
    let deleted: usize = client.clone().del(&keys).await?;
    println!("{deleted} keys deleted");
    Ok(())
}

fn key(task: usize, number: usize) -> String {
    format!("async_quickstart:{task}:{number}")
}
