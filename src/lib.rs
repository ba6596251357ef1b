//! Spreads data over many Redis or Valkey servers from the client side.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

#[cfg(feature = "tokio-comp")]
pub mod aio;
pub mod builder;
pub mod command;
mod error;
mod handshake;
pub mod hash;
mod health;
mod inbox;
pub mod node;
pub mod partition;
pub mod plan;
mod resp;
mod scan;
mod subscribe;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod topology;

pub use builder::Builder;
pub use error::{Error, ErrorKind, KEY_TEXT_MAX, PartOutcome, PartStatus};
pub use node::{NODES_MAX, NodeIndex, NodeSpec};
pub use plan::{SplitWrites, TRANSACTION_ATTEMPTS_MAX};
pub use redis;
pub use scan::ScanPosition;
pub use subscribe::{EVENTS_MAX, Event, Message, Subscription};
pub use sync::{Dedicated, Node, Scan, ShardedClient, Subscriber};
pub use topology::Topology;
