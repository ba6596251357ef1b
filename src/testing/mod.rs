//! Nodes in this process, for unit tests: how does code behave when a node is slow, broken or gone?
//!
//! * [`TestNode`]: a small server on the loopback interface that speaks RESP2 and RESP3, keeps data in memory, and writes
//!   down what it received.
//! * [`Fault`]: what a test can make go wrong, for the next command, for commands of one name, or always.
//! * [`ReceivedCommand`]: one line of what a node received.
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
//! // The write happens, but its answer never comes.
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
//! # What it is not
//!
//! Not a Redis server. It knows strings, counters, expiry, hashes, a few commands for lists and sets, transactions with
//! WATCH, SCAN, PUBLISH and SUBSCRIBE, and says so when a command is unknown to it. There is one database, no persistence,
//! no script, no sorted set, no stream, no access list. Hashes and sets are sorted; floats have 64 bits; clients that are
//! blocked on one list are not served in the order they came. Nothing is tuned for speed or bounded in memory. It never
//! uses any other part of this crate, so that it can be the judge of it.

mod channels;
mod commands;
mod connection;
mod database;
mod faults;
mod glob;
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
