//! Publish and subscribe over many nodes: one stream of events.
//!
//! Run it with `cargo run --example pubsub`; it needs no server. With URLs of servers as arguments it uses those.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use redis_sharding::redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{Event, NODES_MAX, ShardedClient};

const CITIES: [&str; 6] = ["Bergen", "Lagos", "Lima", "Osaka", "Perth", "Quito"];
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let program = cli::Program {
        name: "pubsub",
        operands: "[URL ...]",
        most: NODES_MAX,
        about: "\
Publish and subscribe over many nodes: one stream of events.

Without URLs, nodes in this process stand in for servers. With the URLs of servers,
such as redis://127.0.0.1:6379/, those are used.",
    };
    program.run(|urls| example(cli::texts(urls)?))
}

fn example(urls: Vec<String>) -> Result<(), Box<dyn Error>> {
    let nodes = if urls.is_empty() {
        TestNode::start_many(3)?
    } else {
        Vec::new()
    };
    let urls = nodes.iter().map(TestNode::url).chain(urls);
    let client = ShardedClient::open(urls)?;

    // Each channel is subscribed at the node that owns its name, the pattern on all nodes. Both are confirmed
    // when the calls return.
    let mut subscriber = client.subscriber();
    let channels: Vec<String> = CITIES
        .iter()
        .map(|city| format!("weather:{city}"))
        .collect();
    subscriber.subscribe(&channels)?;
    subscriber.psubscribe("alarm:*")?;

    let publisher = thread::spawn({
        let mut client = client.clone();
        move || -> Result<(), redis_sharding::redis::RedisError> {
            for city in CITIES {
                let () = client.publish(format!("weather:{city}"), "sunny")?;
            }
            client.publish("alarm:Quito", "volcano")
        }
    });

    let mut heard = BTreeSet::new();
    while heard.len() < CITIES.len() + 1 {
        match subscriber.next_event(PATIENCE) {
            Some(Event::Message(message)) => {
                let channel = String::from_utf8_lossy(&message.channel).into_owned();
                let node = client.node_for(&channel)?.name().to_owned();
                println!(
                    "{channel}: {} (by {node})",
                    String::from_utf8_lossy(&message.payload)
                );
                heard.insert(channel);
            }
            // A connection broke and was replaced.
            Some(Event::Disconnected { node }) => println!("the connection to {node} broke"),
            Some(Event::Missed { node }) => println!("messages at {node} may have been missed"),
            Some(_) => {}
            None => return Err("no message within five seconds".into()),
        }
    }
    publisher.join().map_err(|_| "the publisher panicked")??;

    subscriber.unsubscribe(&channels)?;
    let listeners: i64 = client.clone().publish("weather:Lima", "rain")?;
    assert_eq!(listeners, 0);
    Ok(())
}
