//! From behind Envoy to the client side: what Envoy has written is found, and no key moves.
//!
//! Run it with `cargo run --example leaving_envoy`; it needs no server, and no Envoy. `docs/from-envoy.md` has the
//! configuration of Envoy.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;

use redis_sharding::redis::{Client, Commands};
use redis_sharding::testing::TestNode;
use redis_sharding::{ShardedClient, Topology};

/// The hosts of Envoy's cluster, by their `hash_key`, with their weights.
const HOSTS: [(&str, u32); 4] = [("delta", 1), ("alpha", 2), ("gamma", 1), ("beta", 3)];

/// Keys, and the hosts to which Envoy 1.40 has sent them.
const WRITTEN: [(&str, &str); 12] = [
    ("user:12", "beta"),
    ("user:30", "alpha"),
    ("user:120", "gamma"),
    ("user:156", "delta"),
    ("user:264", "beta"),
    ("user:462", "alpha"),
    ("user:588", "gamma"),
    ("{user:5}.following", "alpha"),
    ("{user:14}.following", "gamma"),
    ("{user:23}.following", "beta"),
    ("a{}{b}", "delta"),
    ("foo{{bar}}zap", "beta"),
];

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "leaving_envoy",
        "From behind Envoy to the client side, without moving a key. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let servers = TestNode::start_many(HOSTS.len())?;
    for (key, host) in WRITTEN {
        let at = HOSTS.iter().position(|&(name, _)| name == host);
        let server = at.and_then(|at| servers.get(at)).ok_or("no such host")?;
        let mut connection = Client::open(server.url())?.get_connection()?;
        let () = connection.set(key, "written through Envoy")?;
    }

    // The fleet as Envoy knows it.
    let mut text =
        "redis-sharding topology 1\nplacement envoy-maglev/1\noption hash-tag = braces\n"
            .to_owned();
    for ((name, weight), server) in HOSTS.iter().zip(&servers) {
        text += &format!("node {name} {} weight={weight}\n", server.url());
    }
    let topology: Topology = text.parse()?;
    print!("{topology}");

    let mut client = ShardedClient::builder().topology(&topology).build()?;
    for (key, host) in WRITTEN {
        let value: Option<String> = client.get(key)?;
        assert_eq!(value.as_deref(), Some("written through Envoy"), "{key}");
        assert_eq!(client.node_for(key)?.name(), host);
        println!("{key} is on {host}");
    }
    Ok(())
}
