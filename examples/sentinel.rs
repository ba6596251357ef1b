//! A data store behind Sentinel: a primary is killed while a program counts. Run it with `cargo run --example sentinel`.
//!
//! It starts two primaries, a replica of each, and three Sentinels. It needs Redis or Valkey on the machine, and says so
//! if there is none.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

#[path = "support/sentinel_group.rs"]
mod sentinel_group;

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use redis_sharding::redis::{self, Commands, RedisError, cmd, pipe};
use redis_sharding::{ClientEvent, ErrorKind, RetryPolicy, Sentinel, ShardedClient};

use sentinel_group::SentinelGroup;

const MASTERS: [&str; 2] = ["users-a", "users-b"];
const USERS: usize = 50;
/// How long a step of the tour may take.
const STEP_WITHIN: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "sentinel",
        "\
A data store behind Sentinel: a primary is killed while a program counts.

It starts two primaries, a replica of each, and three Sentinels, and needs
redis-server or valkey-server for that.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    println!("A data store behind Sentinel: a primary is killed while a program counts.");
    let Some(mut group) = SentinelGroup::start(&MASTERS)? else {
        println!(
            "There is neither redis-server nor valkey-server on this machine, so there is nothing to show."
        );
        return Ok(());
    };
    println!("Two primaries, a replica of each, and three Sentinels were started for this tour.\n");

    let (sender, events) = mpsc::channel();
    let client = ShardedClient::builder()
        // Every master is a node. Its name places its keys; where its primary is, Sentinel knows.
        .sentinel_nodes(Sentinel::new(group.sentinel_urls()), MASTERS)
        // Requests that were certainly not done wait for the new primary.
        .retry(RetryPolicy::attempts(100))
        .response_timeout(Duration::from_secs(20))
        .on_event(move |event| {
            // Called by threads of the client: it must not wait, or print.
            let _ = sender.send(event.clone());
        })
        .build()?;
    let mut program = Program {
        client,
        events,
        counted: 0,
        unknown: 0,
    };

    println!("1. Each of {USERS} users logs in.");
    program.count_logins()?;

    println!(
        "\n2. The primary of users-a is killed. Requests to it wait until Sentinel has promoted its replica."
    );
    group.kill_primary(MASTERS[0])?;
    let start = Instant::now();
    while !program.count_logins()? {
        if start.elapsed() > STEP_WITHIN {
            return Err("Sentinel promotes no replica".into());
        }
    }

    println!(
        "\n3. The former primary is started again. Sentinel makes it a replica of the new one."
    );
    group.restart_former(MASTERS[0], STEP_WITHIN)?;
    program.count_logins()?;
    // WAIT counts the writes of its own connection, so both go to the node in one pipeline.
    let (logins, replicas): (u64, u64) = pipe()
        .incr(user(0), 0)
        .add_command(cmd("WAIT").arg(1).arg(1_000).clone())
        .query(&mut program.client.node_for(user(0))?)?;
    println!(
        "   {} has logged in {logins} times; replicas that have this, too: {replicas}.",
        user(0)
    );

    let logins: u64 = program.sum()?;
    println!(
        "\n{} logins were acknowledged, {} are unknown, and {logins} are there.",
        program.counted, program.unknown
    );
    Ok(())
}

/// Counts the logins of users.
struct Program {
    client: ShardedClient,
    events: Receiver<ClientEvent>,
    counted: u64,
    unknown: u64,
}

impl Program {
    /// Logs every user in once. True if the primary of a node has changed meanwhile.
    fn count_logins(&mut self) -> Result<bool, Box<dyn Error>> {
        let mut longest = Duration::ZERO;
        let before = (self.counted, self.unknown);
        for number in 0..USERS {
            let start = Instant::now();
            match self.client.incr(user(number), 1) {
                Ok(()) => self.counted += 1,
                // The connection broke behind the command: it may have been done, and is never repeated.
                Err(error) if is_unknown(&error) => self.unknown += 1,
                Err(error) => return Err(error.into()),
            }
            longest = longest.max(start.elapsed());
        }
        println!(
            "   {} logins counted, {} unknown; the slowest took {longest:.1?}",
            self.counted - before.0,
            self.unknown - before.1,
        );
        let mut has_changed = false;
        for event in self.events.try_iter() {
            if let ClientEvent::PrimaryChanged { .. } = event {
                println!("   {event}");
                has_changed = true;
            }
        }
        Ok(has_changed)
    }

    fn sum(&mut self) -> Result<u64, RedisError> {
        let users: Vec<String> = (0..USERS).map(user).collect();
        let logins: Vec<u64> = self.client.mget(users)?;
        Ok(logins.iter().sum())
    }
}

fn is_unknown(error: &redis::RedisError) -> bool {
    ErrorKind::of(error) == ErrorKind::Unknown
}

fn user(number: usize) -> String {
    format!("logins:{number}")
}
