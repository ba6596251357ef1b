//! What the benches share: data, servers, the method of measuring, and the clients that are compared.
#![allow(dead_code, reason = "every bench uses another part")]

pub mod asynchronous;
pub mod blocking;
pub mod cluster;
pub mod core;
pub mod data;
pub mod fleet;
pub mod joined;
pub mod measure;
pub mod proxies;
pub mod redis_benchmark;
pub mod tasks;
pub mod threads;

/// Servers and the delaying proxy, as the tests have them.
#[path = "../../tests/support/mod.rs"]
pub mod tests;
