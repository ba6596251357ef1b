//! What the integration tests share: real servers, and a proxy that makes the way to them longer.
#![allow(dead_code, unused_imports, reason = "every test uses another part")]

pub mod clients;
pub mod delay_proxy;
pub mod servers;

pub use clients::{builder, client};
pub use servers::Servers;
