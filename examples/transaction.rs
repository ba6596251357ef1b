//! Transactions: all keys on one node, or refused before anything is sent.
//!
//! Run it with `cargo run --example transaction`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::process::ExitCode;
use std::thread;

use redis_sharding::redis::{Commands, RedisResult, pipe};
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient};

const CHECKING: &str = "{bank:7}:checking";
const SAVINGS: &str = "{bank:7}:savings";

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "transaction",
        "All or nothing on one node, and optimistic transactions between threads. It needs no server.",
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

    all_or_nothing(&mut client)?;
    read_then_write(&client)?;
    keys_that_live_apart(&mut client)?;
    Ok(())
}

/// MULTI and EXEC around a pipeline: no other client sees half of it.
fn all_or_nothing(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let (checking, savings): (i64, i64) = pipe()
        .atomic()
        .incr(CHECKING, 1_000)
        .incr(SAVINGS, 500)
        .query(client)?;
    println!("opened with {checking} and {savings}");
    Ok(())
}

/// Writes a value that depends on one that was read: the keys are watched, and the closure is called again
/// when another client has changed them.
fn read_then_write(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    let threads: Vec<RedisResult<()>> = thread::scope(|scope| {
        let tellers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..25).try_for_each(|_| transfer(client, 10))))
            .collect();
        let done = tellers.into_iter().map(|teller| teller.join());
        done.map(|result| result.expect("a teller panicked"))
            .collect()
    });
    threads.into_iter().collect::<RedisResult<()>>()?;

    let balances: Vec<i64> = client.clone().mget(&[CHECKING, SAVINGS])?;
    println!("after 100 transfers by four threads: {balances:?}");
    assert_eq!(balances, [0, 1_500]);
    Ok(())
}

fn transfer(client: &ShardedClient, amount: i64) -> RedisResult<()> {
    client.transaction(&[CHECKING, SAVINGS], |connection, pipe| {
        let balance: i64 = connection.get(CHECKING)?;
        if balance < amount {
            return Ok(Some(()));
        }
        // `query` returns `None` when a watched key has changed, which requests another attempt.
        let done: Option<()> = pipe
            .set(CHECKING, balance - amount)
            .ignore()
            .incr(SAVINGS, amount)
            .ignore()
            .query(connection)?;
        Ok(done)
    })
}

fn keys_that_live_apart(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let refusal = pipe()
        .atomic()
        .incr("visits:1", 1)
        .incr("visits:2", 1)
        .incr("visits:3", 1)
        .incr("visits:4", 1)
        .exec(client)
        .expect_err("the keys live apart");
    println!("refused: {refusal}");
    assert_eq!(ErrorKind::of(&refusal), ErrorKind::CrossNode);
    let written: Vec<Option<i64>> =
        client.mget(&["visits:1", "visits:2", "visits:3", "visits:4"])?;
    assert_eq!(written, [None; 4]);
    Ok(())
}
