//! Copies a running Redis to the nodes that replace it, key by key, with DUMP and RESTORE:
//! `cargo run --release --example from_one_redis redis://old/ redis://10.0.0.1/ redis://10.0.0.2/`.
//!
//! Without URLs it starts five servers of its own, fills the first, and copies it to the other four. The old server is
//! only read. Programs that write to it must be stopped first: a change during the copy may be missed.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

#[path = "support/fleet.rs"]
#[allow(dead_code, reason = "shared with the quickstart, which uses all of it")]
mod fleet;

use std::error::Error;
use std::process::ExitCode;

use redis_sharding::redis::{self, Client, Connection, Pipeline, cmd, pipe};
use redis_sharding::{NODES_MAX, ShardedClient};

use fleet::Fleet;

/// Number of keys that are copied at a time, so that memory is bounded by their values.
const BATCH: usize = 100;
const ABOUT: &str = "\
Copies all keys of a running Redis to the nodes that replace it.

The first URL is the old server, which is only read; the others are the nodes.
Keys that a node has already are overwritten. Stop the programs that write to
the old server first. Without URLs, five servers are started for a trial.";

fn main() -> ExitCode {
    let program = cli::Program {
        name: "from_one_redis",
        operands: "[OLD_URL NODE_URL ...]",
        most: NODES_MAX + 1,
        about: ABOUT,
    };
    program.run(|urls| match &cli::texts(urls)?[..] {
        [] => trial(),
        [_] => Err("give the URL of the old server, and of the nodes".into()),
        [old, nodes @ ..] => copy_all(old, nodes),
    })
}

/// Copies a server that was filled for the purpose.
fn trial() -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::find(Vec::new(), 5)?;
    if let Fleet::InProcess(_) = fleet {
        println!(
            "There is neither redis-server nor valkey-server here, so there is nothing to copy."
        );
        return Ok(());
    }
    let urls = fleet.urls();
    let mut old = connect(&urls[0])?;
    let mut fill = pipe();
    for user in 0..1_000 {
        fill.set_ex(format!("user:{user}"), user, 3_600).ignore();
        fill.rpush(format!("{{user:{user}}}:orders"), &[1, 2, 3])
            .ignore();
    }
    fill.exec(&mut old)?;
    copy_all(&urls[0], &urls[1..])
}

fn copy_all(old: &str, nodes: &[String]) -> Result<(), Box<dyn Error>> {
    let mut old = connect(old)?;
    let mut client = ShardedClient::open(nodes.iter().map(String::as_str))?;
    let (mut cursor, mut copied) = (0_u64, 0);
    loop {
        let mut scan = cmd("SCAN");
        let (next, keys): (u64, Vec<Vec<u8>>) =
            scan.arg(cursor).arg("COUNT").arg(BATCH).query(&mut old)?;
        for batch in keys.chunks(BATCH) {
            copied += copy(batch, &mut old, &mut client)?;
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    println!("copied {copied} keys; SCAN may return a key more than once");
    for mut node in client.nodes() {
        let keys: u64 = cmd("DBSIZE").query(&mut node)?;
        println!("  {} has {keys} keys", node.name());
    }
    Ok(())
}

/// Connects to the old server. redis-rs' error does not name it.
fn connect(url: &str) -> Result<Connection, String> {
    let client = Client::open(url).map_err(|error| error.to_string())?;
    let connection = client.get_connection();
    connection.map_err(|error| format!("{}: {error}", client.get_connection_info().addr()))
}

/// Copies some keys with their expiry, and returns how many of them were still there.
fn copy(
    keys: &[Vec<u8>],
    old: &mut Connection,
    client: &mut ShardedClient,
) -> redis::RedisResult<usize> {
    let mut read = pipe();
    for key in keys {
        read.cmd("DUMP").arg(key).cmd("PTTL").arg(key);
    }
    let values: Vec<redis::Value> = read.query(old)?;

    let mut write = Pipeline::new();
    for (key, value) in keys.iter().zip(values.chunks(2)) {
        let dump: Option<Vec<u8>> = redis::from_redis_value(value[0].clone())?;
        let expires_in: i64 = redis::from_redis_value(value[1].clone())?;
        // It has expired or was deleted since SCAN saw it.
        let Some(dump) = dump else { continue };
        // PTTL is -1 for a key that does not expire, and RESTORE takes 0 for that; 0 is a key that expires now.
        let expires_in = match expires_in {
            -1 => 0,
            left => left.max(1),
        };
        write
            .cmd("RESTORE")
            .arg(key)
            .arg(expires_in)
            .arg(dump)
            .arg("REPLACE");
    }
    write.exec(client)?;
    Ok(write.len())
}
