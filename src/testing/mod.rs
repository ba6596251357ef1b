//! How does code behave when a node is slow, broken or gone? Servers inside the test process answer that.
//!
//! * [`TestNode`]: a small server on the loopback interface with RESP2 and RESP3. It keeps data in memory,
//!   and records the commands that it receives.
//! * [`Fault`]: a failure that a test injects, for the next command, for commands of one name, or for all.
//! * [`ReceivedCommand`]: one recorded command.
//!
//! ```
//! use redis_sharding::redis::{self, Commands};
//! use redis_sharding::testing::{Fault, TestNode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = TestNode::start()?;
//! let client = redis::Client::open(node.url())?;
//! let mut connection = client.get_connection()?;
//! let () = connection.set("user:1", "Ada")?;
//!
//! // The write happens, but its reply never comes.
//! node.fail("SET", Fault::CloseAfter, 1);
//! let unknown: redis::RedisResult<()> = connection.set("user:1", "Grace");
//! assert!(unknown.is_err());
//!
//! let mut connection = client.get_connection()?;
//! let name: String = connection.get("user:1")?;
//! assert_eq!(name, "Grace");
//! assert_eq!(node.count_of("SET"), 2);
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//!
//! Each node has one thread that accepts, and two for each connection: one reads, applies commands and
//! injects faults, the other writes replies.
//!
//! ```text
//!  client ──▶ connection ──▶ faults: which fault, if any (a lock of its own)
//!                │      └──▶ session ──▶ commands ──▶ store, channels (one lock for the node)
//!                ▼
//!             writer ──▶ client
//! ```
//!
//! # What it is not
//!
//! Not a Redis server. It implements strings, counters, expiry, hashes, a few commands for lists and sets,
//! transactions with WATCH, SCAN, PUBLISH and SUBSCRIBE, and replies with an error that names the command to
//! any other. There is one database, no persistence, no script, no sorted set, no stream, no access list.
//! Hashes and sets are sorted; floats have 64 bits; clients that are blocked on one list are not served in
//! the order of their arrival. Nothing is tuned for speed or bounded in memory. It never uses any other part
//! of this crate but one constant, so that it can judge the rest.

mod channels;
mod commands;
mod connection;
mod database;
mod faults;
mod listener;
mod node;
mod protocol;
mod received;
mod session;
mod shared;
mod store;

pub use faults::Fault;
pub use node::{TestNode, TestNodeBuilder};
pub use received::ReceivedCommand;
