//! What the integration tests share: real servers, and a proxy that makes the way to them longer.
#![allow(dead_code, unused_imports, reason = "every test uses another part")]

pub mod authority;
pub mod clients;
pub mod delay_proxy;
#[cfg(feature = "tokio-comp")]
pub mod example_proxy;
#[cfg(feature = "tokio-comp")]
pub mod examples;
#[cfg(feature = "tokio-comp")]
pub mod local_proxy;
pub mod relay;
pub mod servers;

pub use clients::{builder, builder_over, client};
pub use servers::Servers;
