//! One node at a time, for commands about a server instead of keys.
//!
//! Run it with `cargo run --example per_node`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;

use redis_sharding::redis::{Commands, ConnectionLike, InfoDict, cmd};
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient};

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "per_node",
        "One node at a time: INFO, DBSIZE, the owner of a key. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let mut client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .node("c", nodes[2].url())
        .build()?;
    for number in 0..300 {
        let () = client.set(format!("user:{number}"), number)?;
    }

    ask_every_node(&mut client)?;
    ask_all_at_once(&mut client)?;
    ask_the_owner_of_a_key(&client)?;
    a_node_checks_no_keys(&mut client)?;
    Ok(())
}

fn ask_every_node(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let mut total = 0;
    for mut node in client.nodes() {
        let keys: u64 = cmd("DBSIZE").query(&mut node)?;
        println!("node {} at {} has {keys} keys", node.name(), node.address());
        total += keys;
    }
    assert_eq!(total, 300);
    Ok(())
}

/// Commands about servers that make sense for all of them give one reply: a sum, or one text that names the
/// nodes where they differ.
fn ask_all_at_once(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let keys: u64 = cmd("DBSIZE").query(client)?;
    assert_eq!(keys, 300);
    let info: InfoDict = cmd("INFO").query(client)?;
    assert_eq!(info.get("redis_version"), Some("7.0.15".to_owned()));
    let ports: String = info.get("tcp_port").ok_or("no tcp_port")?;
    assert!(ports.starts_with("a=") && ports.contains(",b="));
    println!("all nodes listen at {ports}");

    // SHUTDOWN of all nodes is hardly ever intended: it is refused, and the message explains how to send it
    // to one.
    let refusal = cmd("SHUTDOWN").exec(client).expect_err("about one server");
    assert_eq!(ErrorKind::of(&refusal), ErrorKind::Unroutable);
    println!("refused: {refusal}");
    Ok(())
}

fn ask_the_owner_of_a_key(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    let mut owner = client.node_for("user:7")?;
    let value: u32 = owner.get("user:7")?;
    assert_eq!(value, 7);
    let by_name = client.node(owner.name()).ok_or("the node is gone")?;
    assert_eq!(by_name.index(), owner.index());
    assert!(client.node("nobody").is_none());
    assert!(owner.check_connection());
    Ok(())
}

/// A key that is written to the wrong node stays there, and the client does not find it.
fn a_node_checks_no_keys(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let home = client.node_for("lost")?.index();
    let mut stranger = client
        .nodes()
        .find(|node| node.index() != home)
        .ok_or("there is one node only")?;
    let () = stranger.set("lost", "here")?;
    let found: Option<String> = client.get("lost")?;
    assert_eq!(found, None);
    println!(
        "\"lost\" was written to node {}, and the client does not find it",
        stranger.name()
    );
    Ok(())
}
