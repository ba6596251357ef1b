//! What would be sent where? `explain` shows the plan of a command without sending it.
//!
//! Run it with `cargo run --example explain`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;

use redis_sharding::redis::{Cmd, cmd};
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient};

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "explain",
        "What would be sent where? Explains commands without sending anything. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .node("c", nodes[2].url())
        .build()?;

    for line in [
        "GET user:7",
        "MGET user:1 user:2 user:3 user:4 user:5 user:6 user:7",
        "MSET {cart}:items 3 {cart}:total 1999",
        "DBSIZE",
        "INFO memory",
    ] {
        println!("{line}\n  {}\n", indented(client.explain(&command(line))?));
    }

    for (line, kind) in [
        ("RENAME user:1 user:2", ErrorKind::CrossNode),
        ("WATCH user:1", ErrorKind::Stateful),
        ("SHUTDOWN", ErrorKind::Unroutable),
        ("BF.NEW shiny", ErrorKind::Unroutable),
    ] {
        let refusal = client.explain(&command(line)).expect_err(line);
        println!("{line}\n  refused, {}: {refusal}\n", refusal.kind().code());
        assert_eq!(refusal.kind(), kind);
    }

    // A plan is also available as data: the nodes, each with its keys.
    let plan = client.explain(&command("DEL user:1 user:2 user:3 user:4"))?;
    let keys: usize = plan.parts().iter().map(|(_, keys)| keys.len()).sum();
    assert_eq!(keys, 4);

    assert!(nodes.iter().all(|node| node.accepted() == 0));
    println!("The nodes saw no connection.");
    Ok(())
}

/// Makes a command from a line of words.
fn command(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    command.arg(words.collect::<Vec<_>>());
    command
}

fn indented(table: impl ToString) -> String {
    table.to_string().replace('\n', "\n  ")
}
