//! How does your code behave when a node is slow, broken or gone? In-process nodes show it in milliseconds.
//!
//! The application below counts page views. Every function of [`main`] would be a `#[test]` in a real project, with
//! `redis-sharding = { .., features = ["testing"] }` under `[dev-dependencies]`. Run it with
//! `cargo run --example unit_test_harness`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use redis_sharding::redis::{FromRedisValue, cmd};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{ErrorKind, ShardedClient};

/// The application.
struct PageViews {
    client: ShardedClient,
}

#[derive(Debug, PartialEq)]
enum Counted {
    /// Number of views, this one included.
    Views(u64),
    /// Certainly not counted; may be counted later.
    Missed,
    /// Perhaps counted; counting it again might count it twice.
    Unclear,
}

impl PageViews {
    fn count(&self, page: &str) -> Result<Counted, Box<dyn Error>> {
        let reply = self
            .client
            .execute(cmd("INCR").arg(format!("views:{page}")));
        match reply {
            Ok(value) => Ok(Counted::Views(u64::from_redis_value(value)?)),
            Err(error) => match error.kind() {
                ErrorKind::NodeDown | ErrorKind::PoolTimeout | ErrorKind::Timeout => {
                    Ok(Counted::Missed)
                }
                ErrorKind::Unknown => Ok(Counted::Unclear),
                _ => Err(error.into()),
            },
        }
    }
}

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "unit_test_harness",
        "Tests of one's own code with nodes in this process that fail on demand. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    views_are_counted()?;
    a_node_that_is_gone_counts_nothing()?;
    a_lost_answer_is_not_counted_twice()?;
    a_slow_node_is_given_up_in_time()?;
    a_server_that_refuses_is_an_error()?;
    println!("All five tests passed.");
    Ok(())
}

fn views_are_counted() -> Result<(), Box<dyn Error>> {
    let (nodes, views) = set_up()?;
    assert_eq!(views.count("home")?, Counted::Views(1));
    assert_eq!(views.count("home")?, Counted::Views(2));
    // The nodes record what they received: two INCRs, both on one node.
    let mut received: Vec<usize> = nodes.iter().map(|node| node.count_of("INCR")).collect();
    received.sort();
    assert_eq!(received, [0, 0, 2]);
    Ok(())
}

fn a_node_that_is_gone_counts_nothing() -> Result<(), Box<dyn Error>> {
    let (nodes, views) = set_up()?;
    let owner = owner(&nodes, &views, "home")?;
    owner.stop();
    assert_eq!(views.count("home")?, Counted::Missed);
    owner.restart()?;
    assert_eq!(views_once_it_is_back(&views, "home")?, Counted::Views(1));
    Ok(())
}

fn a_lost_answer_is_not_counted_twice() -> Result<(), Box<dyn Error>> {
    let (nodes, views) = set_up()?;
    let owner = owner(&nodes, &views, "home")?;
    owner.fail("INCR", Fault::CloseAfter, 1);
    assert_eq!(views.count("home")?, Counted::Unclear);
    assert_eq!(owner.count_of("INCR"), 1, "nobody repeats a write");
    assert_eq!(owner.faults_left(), 0, "the fault was not just armed");
    assert_eq!(views.count("home")?, Counted::Views(2));
    Ok(())
}

fn a_slow_node_is_given_up_in_time() -> Result<(), Box<dyn Error>> {
    let (nodes, views) = set_up()?;
    owner(&nodes, &views, "home")?.fail_next(Fault::Delay(Duration::from_secs(60)));
    assert_eq!(views.count("home")?, Counted::Unclear);
    Ok(())
}

fn a_server_that_refuses_is_an_error() -> Result<(), Box<dyn Error>> {
    let (nodes, views) = set_up()?;
    let full = "OOM command not allowed when used memory > 'maxmemory'.";
    owner(&nodes, &views, "home")?.fail_next(Fault::Error(full.into()));
    let error = views.count("home").expect_err("the server's own error");
    assert!(error.to_string().contains("OOM"), "{error}");
    Ok(())
}

/// Starts three nodes for one test, so that tests may run at the same time.
fn set_up() -> Result<(Vec<TestNode>, PageViews), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .node("c", nodes[2].url())
        .response_timeout(Duration::from_millis(200))
        .build()?;
    Ok((nodes, PageViews { client }))
}

fn owner<'n>(
    nodes: &'n [TestNode],
    views: &PageViews,
    page: &str,
) -> Result<&'n TestNode, Box<dyn Error>> {
    let index = views.client.node_for(format!("views:{page}"))?.index();
    Ok(&nodes[index.get()])
}

/// A node that was down is tried again after a short backoff.
fn views_once_it_is_back(views: &PageViews, page: &str) -> Result<Counted, Box<dyn Error>> {
    for _ in 0..100 {
        match views.count(page)? {
            Counted::Missed => std::thread::sleep(Duration::from_millis(20)),
            counted => return Ok(counted),
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut).into())
}
