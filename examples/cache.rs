//! A cache over four servers: one dies, comes back, and another one joins. Run it with `cargo run --example cache`.
//!
//! It starts its own servers; without Redis or Valkey on the machine, nodes in this process stand in for them.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

#[path = "support/fleet.rs"]
#[allow(dead_code, reason = "shared with the quickstart, which uses all of it")]
mod fleet;

use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::redis::Commands;
use redis_sharding::{Builder, ClientEvent, Ejection, Readmission, ShardedClient};

use fleet::Fleet;

/// Number of pages that the application shows.
const PAGES: usize = 2_000;
/// Seconds for which a page is kept.
const KEPT_FOR: u64 = 600;
/// How long a step of the tour may take.
const STEP_WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "cache",
        "\
A cache over four servers: one dies, comes back, and another one joins.

It starts its own servers; without redis-server and valkey-server, nodes in this
process stand in for them.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    println!("A cache over three servers: one dies, comes back, and a fourth one joins.");
    let mut fleet = Fleet::find(Vec::new(), 4)?;
    println!("{}.\n", fleet.describe());
    let urls = fleet.urls();

    // A node is out when it has failed twice within half a second, and is probed from then on. It kept its values while
    // others changed the same keys elsewhere, so it is emptied before it is used again.
    let ejection = Ejection::new()
        .with_failures(2)
        .with_window(Duration::from_millis(500))
        .with_probe_interval(Duration::from_millis(100), Duration::from_secs(1))
        .with_readmission(Readmission::Flushed);
    let (sender, events) = mpsc::channel();
    let cache = nodes(&urls[..3])
        .cache(ejection)
        .connect_timeout(Duration::from_millis(200))
        .response_timeout(Duration::from_millis(200))
        .on_event(move |event| {
            // Called by threads of the client: it must not wait, or print.
            let _ = sender.send(event.clone());
        })
        .build()?;
    let mut application = Application { cache, events };

    println!("1. The first time, every page is made; then it is found.");
    application.show_pages();
    application.show_pages();

    println!(
        "\n2. cache-b dies. Its pages are made each time, until it is ejected and others keep them."
    );
    fleet.stop(1)?;
    application.until(|pages| pages.failed == 0 && pages.made == 0)?;

    println!("\n3. cache-b is started again. It is probed, emptied, and gets its keys back.");
    fleet.restart(1)?;
    application.until_event(|event| matches!(event, ClientEvent::Readmitted { .. }))?;
    application.until(|pages| pages.made == 0)?;

    println!(
        "\n4. cache-d joins while the application runs. A quarter of the pages move to it, and are made again."
    );
    let topology = nodes(&urls).build()?.topology();
    application.cache.set_topology(&topology)?;
    application.until(|pages| pages.made == 0)?;

    println!(
        "\nAs a data store (without `cache`), step 2 fails until the server is back, and step 4 is refused:"
    );
    let store = nodes(&urls[..3]).build()?;
    match store.set_topology(&topology) {
        Ok(()) => return Err("a store has taken another placement".into()),
        Err(refusal) => println!("{refusal}"),
    }
    Ok(())
}

/// Nodes called `cache-a`, `cache-b`, ...
fn nodes(urls: &[String]) -> Builder {
    let names = ('a'..='z').map(|letter| format!("cache-{letter}"));
    let nodes = names.zip(urls);
    nodes.fold(ShardedClient::builder(), |builder, (name, url)| {
        builder.node(name, url.as_str())
    })
}

/// Shows pages, which are expensive to make.
struct Application {
    cache: ShardedClient,
    events: Receiver<ClientEvent>,
}

/// How pages were shown.
#[derive(Default)]
struct Shown {
    found: usize,
    made: usize,
    /// Made as well, as the cache could not be asked.
    failed: usize,
}

impl Application {
    /// Shows every page once.
    fn show_pages(&mut self) -> Shown {
        let (start, mut shown) = (Instant::now(), Shown::default());
        for page in 0..PAGES {
            let key = format!("page:{page}");
            match self.cache.get::<_, Option<String>>(&key) {
                Ok(Some(_)) => shown.found += 1,
                Ok(None) => {
                    shown.made += 1;
                    // If this fails, the page is made again the next time.
                    let _ = self.cache.set_ex::<_, _, ()>(&key, make(page), KEPT_FOR);
                }
                // A cache that fails costs time, but no page.
                Err(_) => shown.failed += 1,
            }
        }
        println!(
            "   {} of {PAGES} pages found, {} made, {} made without the cache, in {:.1?}",
            shown.found,
            shown.made,
            shown.failed,
            start.elapsed()
        );
        for event in self.events.try_iter() {
            print_event(&event);
        }
        shown
    }

    fn until(&mut self, is_done: impl Fn(&Shown) -> bool) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        while !is_done(&self.show_pages()) {
            if start.elapsed() > STEP_WITHIN {
                return Err("the cache does not recover".into());
            }
        }
        Ok(())
    }

    fn until_event(&self, is_done: impl Fn(&ClientEvent) -> bool) -> Result<(), Box<dyn Error>> {
        loop {
            let event = self.events.recv_timeout(STEP_WITHIN)?;
            print_event(&event);
            if is_done(&event) {
                return Ok(());
            }
        }
    }
}

fn print_event(event: &ClientEvent) {
    let is_told = matches!(
        event,
        ClientEvent::Ejected { .. } | ClientEvent::Readmitted { .. }
    );
    if is_told {
        println!("   {event}");
    }
}

fn make(page: usize) -> String {
    thread::sleep(Duration::from_micros(50));
    format!("<h1>Page {page}</h1>")
}
