//! Spreads data over many Redis or Valkey servers from the client side.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

pub mod command;
pub mod hash;
pub mod node;
pub mod partition;
#[cfg(feature = "testing")]
pub mod testing;

pub use node::{NodeIndex, NodeSpec};
pub use redis;
