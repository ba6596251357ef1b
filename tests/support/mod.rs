//! What the integration tests share: real servers, and a proxy that makes the way to them longer.
#![allow(dead_code, reason = "every test uses another part")]

pub mod delay_proxy;
pub mod servers;

pub use servers::Servers;
