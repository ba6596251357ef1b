//! Spreads data over many Redis or Valkey servers from the client side.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

pub mod builder;
pub mod command;
mod error;
mod handshake;
pub mod hash;
mod health;
pub mod node;
pub mod partition;
pub mod plan;
mod resp;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod topology;

pub use builder::Builder;
pub use error::{Error, ErrorKind, KEY_TEXT_MAX, PartOutcome, PartStatus};
pub use node::{NODES_MAX, NodeIndex, NodeSpec};
pub use plan::SplitWrites;
pub use redis;
pub use sync::{Dedicated, Node, Scan, ScanPosition, ShardedClient, TRANSACTION_ATTEMPTS_MAX};
pub use topology::Topology;
