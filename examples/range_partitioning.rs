//! Ranges: users 0 to 9999 on one node, the next ten thousand on another, without a gap.
//!
//! The table is text, so it can live in a file under version control. Run it with
//! `cargo run --example range_partitioning`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;

use redis_sharding::partition::Range;
use redis_sharding::redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient};

const TABLE: &str = r#"
numeric "user:"
    0..=9999        a
    10000..=19999   b
    20000..=29999   c

bytes "city:"
    .."n"           a       # athens, lima
    "n"..           b       # oslo, tokyo
"#;

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "range_partitioning",
        "Ranges of keys from a table in text. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let mut client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .node("c", nodes[2].url())
        .partitioner(Range::parse(TABLE)?)
        .build()?;

    neighbours_live_together(&client)?;
    numbers_are_read_not_compared_as_text(&client)?;
    a_key_outside_of_the_table_is_refused(&mut client)?;
    a_table_with_a_mistake_is_refused();
    Ok(())
}

fn neighbours_live_together(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    for (key, node) in [
        ("user:7", "a"),
        ("user:9999", "a"),
        ("user:10000", "b"),
        ("user:29999", "c"),
        ("city:lima", "a"),
        ("city:oslo", "b"),
    ] {
        println!("{key:12} lives on node {}", client.node_for(key)?.name());
        assert_eq!(client.node_for(key)?.name(), node);
    }
    Ok(())
}

fn numbers_are_read_not_compared_as_text(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    // One user, whatever the leading zeros and whatever follows the next colon.
    for key in ["user:12345", "user:0012345", "user:12345:name"] {
        assert_eq!(client.node_for(key)?.name(), "b");
    }
    Ok(())
}

/// Without a default node, a key outside of all ranges has no owner. It never falls to a neighbouring range.
fn a_key_outside_of_the_table_is_refused(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    for key in ["user:30000", "user:anonymous", "order:1"] {
        let refusal = client.set::<_, _, ()>(key, "x").expect_err("no owner");
        println!("refused: {refusal}");
        assert_eq!(ErrorKind::of(&refusal), ErrorKind::Unroutable);
    }
    Ok(())
}

fn a_table_with_a_mistake_is_refused() {
    let mistake = TABLE.replace("10000..=19999", "9000..=19999");
    let refusal = Range::parse(&mistake).expect_err("the ranges overlap");
    println!("refused: {refusal}");
    assert!(refusal.to_string().contains("overlap"));
}
