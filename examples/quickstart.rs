//! A tour of the crate over four real servers: `cargo run --release --example quickstart`.
//!
//! Starts `redis-server` or `valkey-server` processes and stops them in the end; without either it uses
//! in-process nodes. With the URLs of your own servers it uses those instead, under keys of its own that it
//! deletes in the end: `cargo run --release --example quickstart redis://10.0.0.1/ redis://10.0.0.2/`.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

mod support;

use std::error::Error;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use redis_sharding::redis::{Commands, Pipeline, RedisError, Value, cmd, pipe};
use redis_sharding::{ErrorKind, NODES_MAX, ShardedClient};

use support::fleet::Fleet;
use support::shop::{Item, KEPT_FOR, Shop};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const NODES: usize = 4;
const BATCH: usize = 1_000;
const ABOUT: &str = "\
A tour of the crate over four servers.

Without URLs, servers are started for the tour and stopped afterwards.
With the URLs of two servers or more, such as redis://127.0.0.1:6379/, those are
used: only keys of the tour's own are written, and they are deleted in the end.";

fn main() -> ExitCode {
    let program = cli::Program {
        name: "quickstart",
        operands: "[URL URL ...]",
        most: NODES_MAX,
        about: ABOUT,
    };
    program.run(|urls| match &cli::texts(urls)?[..] {
        [_] => Err("one server is nothing to spread over; give two or more".into()),
        urls => run(urls.to_vec()).map_err(|error| format!("the tour ends here: {error}").into()),
    })
}

fn run(urls: Vec<String>) -> Outcome {
    let start = Instant::now();
    let fleet = Fleet::find(urls, NODES)?;
    let client = connect(&fleet)?;
    let shop = Shop::new(prefix(&fleet)?);
    println!("{}:", fleet.describe());
    for node in client.nodes() {
        println!("  {}  {}", node.name(), node.address());
    }
    if let Fleet::Given(_) = fleet {
        println!(
            "Every key of the tour starts with {:?} and expires after {KEPT_FOR} s.",
            shop.prefix()
        );
    }

    let mut tour = Tour {
        fleet,
        client,
        shop,
    };
    // Keys on the user's own servers are deleted even when the reader of standard output has closed it.
    let shown = panic::catch_unwind(AssertUnwindSafe(|| tour.show()));
    // The keys of servers started for the tour vanish with them.
    if matches!(shown, Ok(Ok(()))) || matches!(tour.fleet, Fleet::Given(_)) {
        tour.clean_up()?;
    }
    shown.unwrap_or_else(|cause| panic::resume_unwind(cause))?;
    println!("\nDone in {:.1} s.", start.elapsed().as_secs_f64());
    Ok(())
}

/// The names decide where keys are placed, so every run shows the same chart, whatever the ports.
fn connect(fleet: &Fleet) -> Outcome<ShardedClient> {
    let mut builder = ShardedClient::builder();
    for (number, url) in (1..).zip(fleet.urls()) {
        builder = builder.node(format!("node-{number}"), url);
    }
    Ok(builder.build()?)
}

/// Prefix of the tour's keys. On the user's own servers it is unique to this run, so that no key collides.
fn prefix(fleet: &Fleet) -> Outcome<String> {
    match fleet {
        Fleet::Given(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            Ok(format!("tour-{:x}:", now.as_nanos()))
        }
        Fleet::InProcess(_) | Fleet::Processes(_) => Ok(String::new()),
    }
}

struct Tour {
    fleet: Fleet,
    client: ShardedClient,
    shop: Shop,
}

impl Tour {
    fn show(&mut self) -> Outcome {
        let before = self.sizes()?;
        self.load()?;
        self.chart(&before)?;
        self.split_a_command()?;
        self.pipeline()?;
        self.transaction()?;
        match self.fleet {
            Fleet::Given(_) => {
                title("A node stops (left out: these servers are yours)");
                Ok(())
            }
            _ => self.stop_a_node(),
        }
    }

    fn load(&mut self) -> Outcome {
        let items = self.shop.items();
        title(&format!("{} keys, in pipelines of {BATCH}", items.len()));
        let bar = ProgressBar::new(items.len() as u64)
            .with_style(ProgressStyle::with_template("  {bar:40} {pos}/{len}")?);
        let start = Instant::now();
        for batch in items.chunks(BATCH) {
            let mut pipe = pipe();
            for &item in batch {
                self.shop.store(item, &mut pipe);
            }
            pipe.exec(&mut self.client).map_err(first_failure)?;
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "  {:.2} s, {:.0} keys/s",
            seconds,
            items.len() as f64 / seconds
        );
        Ok(())
    }

    fn chart(&self, before: &[u64]) -> Outcome {
        title("Where they went");
        let gained: Vec<u64> = self
            .sizes()?
            .iter()
            .zip(before)
            .map(|(after, before)| after.saturating_sub(*before))
            .collect();
        let most = gained.iter().copied().max().unwrap_or(0).max(1);
        for (node, keys) in self.client.nodes().zip(gained) {
            let bar = "█".repeat((40 * keys / most) as usize);
            println!("  {}  {keys:6}  {bar}", node.name());
        }
        Ok(())
    }

    /// Shows how many keys each server reports.
    fn sizes(&self) -> Outcome<Vec<u64>> {
        let size = |mut node| Ok(cmd("DBSIZE").query(&mut node)?);
        self.client.nodes().map(size).collect()
    }

    fn split_a_command(&mut self) -> Outcome {
        title("One MGET over all nodes");
        let keys: Vec<String> = (0..8)
            .map(|number| self.shop.key(Item::Session(number)))
            .collect();
        println!(
            "  {}",
            indented(self.client.explain(cmd("MGET").arg(&keys))?)
        );
        let sessions: Vec<Option<String>> = self.client.mget(&keys)?;
        check(
            sessions.iter().flatten().count() == keys.len(),
            "every session is found",
        )?;
        println!(
            "  {} answers, in the order of the keys; the first is",
            sessions.len()
        );
        println!("  {}", sessions[0].as_deref().unwrap_or("nil"));
        Ok(())
    }

    fn pipeline(&mut self) -> Outcome {
        title("A pipeline: one round trip per node");
        let names: Vec<String> = (0..BATCH)
            .map(|user| self.shop.key(Item::User(user)))
            .collect();

        let start = Instant::now();
        let one_by_one = names
            .iter()
            .map(|key| self.client.hget(key, "name"))
            .collect::<Result<Vec<String>, _>>()?;
        println!(
            "  {BATCH} HGET one by one     {:7.2} ms",
            milliseconds(start)
        );

        let start = Instant::now();
        let mut pipe = Pipeline::with_capacity(BATCH);
        for key in &names {
            pipe.hget(key, "name");
        }
        let piped: Vec<String> = pipe.query(&mut self.client).map_err(first_failure)?;
        println!(
            "  {BATCH} HGET in a pipeline  {:7.2} ms",
            milliseconds(start)
        );
        check(piped == one_by_one, "both give the same names")
    }

    /// Changes the items of a cart and its total together, or not at all.
    fn transaction(&mut self) -> Outcome {
        title("A transaction: the keys of one cart share a hash tag");
        let items = self.shop.key(Item::CartItems(7));
        let total = self.shop.key(Item::CartTotal(7));
        println!(
            "  {items} and {total} live on {}",
            self.client.node_for(&items)?.name()
        );
        let (teas, cents): (u32, u32) =
            self.client
                .transaction(&[&items, &total], |connection, pipe| {
                    let teas: u32 = connection.hget(&items, "tea")?;
                    let price = if teas < 3 { 450 } else { 400 };
                    pipe.hincr(&items, "tea", 1)
                        .incr(&total, price)
                        .query(connection)
                })?;
        println!("  one more tea: {teas} in the cart, {cents} cents in all");

        let others = [
            self.shop.key(Item::CartTotal(1)),
            self.shop.key(Item::CartTotal(2)),
        ];
        match pipe()
            .atomic()
            .get(&others[0])
            .get(&others[1])
            .exec(&mut self.client)
        {
            Ok(()) => println!(
                "  two other carts happen to share a node, so one transaction may hold both"
            ),
            Err(error) => println!("  over two carts it is refused:\n  {error}"),
        }
        Ok(())
    }

    fn stop_a_node(&mut self) -> Outcome {
        let victim = self.client.node_for(self.shop.key(Item::User(0)))?;
        title(&format!("{} stops", victim.name()));
        self.fleet.stop(victim.index().get())?;

        let error = self
            .read(Item::User(0))
            .err()
            .ok_or("a stopped node answered")?;
        println!("  {:?}: {error}", error.kind());
        check(
            error.kind() == ErrorKind::NodeDown,
            "the error says that the node is down",
        )?;

        let elsewhere: Vec<Item> = (0..4 * BATCH)
            .map(Item::User)
            .filter(|&item| self.owner(item) != victim.name())
            .collect();
        let answered = elsewhere
            .iter()
            .filter(|&&item| self.read(item).is_ok())
            .count();
        println!(
            "  {answered} of {} reads on the other nodes succeed",
            elsewhere.len()
        );
        check(answered == elsewhere.len(), "the other nodes go on")?;

        self.write_in_part()?;
        self.start_again(victim.index().get())
    }

    /// Shows the error of a split write, which has the outcome of each node.
    fn write_in_part(&self) -> Outcome {
        let mut mset = cmd("MSET");
        for cart in 0..8 {
            mset.arg(self.shop.key(Item::CartTotal(cart))).arg(0);
        }
        let error = self
            .client
            .execute(&mset)
            .err()
            .ok_or("a stopped node was written to")?;
        println!("  {:?}: MSET of 8 keys", error.kind());
        for part in error.parts() {
            println!(
                "    {}  {:7}  {} keys",
                part.node,
                part.status.to_string(),
                part.keys.len()
            );
        }
        check(error.kind() == ErrorKind::Partial, "a part of it was done")
    }

    fn start_again(&mut self, index: usize) -> Outcome {
        self.fleet.restart(index)?;
        let start = Instant::now();
        while let Err(error) = self.read(Item::User(0)) {
            check(
                start.elapsed() < Duration::from_secs(5),
                &format!("the node is back: {error}"),
            )?;
            thread::sleep(Duration::from_millis(5));
        }
        println!(
            "  started again: back after {:.0} ms, and empty, for nothing was saved",
            milliseconds(start)
        );
        Ok(())
    }

    /// Uses `execute`, which returns the crate's own error with the outcome of each node.
    fn read(&self, item: Item) -> Result<Value, redis_sharding::Error> {
        self.client.execute(cmd("TTL").arg(self.shop.key(item)))
    }

    fn owner(&self, item: Item) -> String {
        let owner = self.client.node_for(self.shop.key(item));
        owner.map(|node| node.name().to_owned()).unwrap_or_default()
    }

    /// Deletes the keys of the tour, and no others. A node that fails is skipped.
    fn clean_up(&self) -> Outcome {
        title("Cleaning up");
        let mut by_node = vec![Vec::new(); self.client.nodes().len()];
        for item in self.shop.items() {
            let key = self.shop.key(item);
            by_node[self.client.node_for(&key)?.index().get()].push(key);
        }
        for (mut node, keys) in self.client.nodes().zip(by_node) {
            let unlink = |batch: &[String]| cmd("UNLINK").arg(batch).query::<usize>(&mut node);
            let deleted: Result<usize, RedisError> = keys.chunks(BATCH).map(unlink).sum();
            match deleted {
                Ok(count) => println!("  {}  {count:6} keys deleted", node.name()),
                Err(error) => println!("  {error}; what is left there expires within {KEPT_FOR} s"),
            }
        }
        Ok(())
    }
}

/// Names the first failed command of a pipeline and counts the others.
fn first_failure(error: RedisError) -> Box<dyn Error> {
    match error.clone().into_server_errors().as_deref() {
        Some([(number, first), rest @ ..]) if !rest.is_empty() => format!(
            "command {} of the pipeline failed ({first}) and {} others",
            number + 1,
            rest.len()
        )
        .into(),
        _ => error.into(),
    }
}

fn title(text: &str) {
    println!("\n{text}");
}

fn indented(table: impl ToString) -> String {
    table.to_string().replace('\n', "\n  ")
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn check(holds: bool, what: &str) -> Outcome {
    match holds {
        true => Ok(()),
        false => Err(format!("this should be so, but is not: {what}").into()),
    }
}
