//! What the integration tests share: real servers, replicas and Sentinels, and proxies that stand for the network.
#![allow(dead_code, unused_imports, reason = "every test uses another part")]

#[cfg(feature = "tokio-comp")]
pub mod all_clients;
pub mod authority;
pub mod children;
pub mod clients;
pub mod cluster_bus;
#[cfg(feature = "tokio-comp")]
pub mod cluster_clients;
pub mod clusters;
pub mod cut;
pub mod delay_proxy;
#[cfg(feature = "tokio-comp")]
pub mod example_proxy;
#[cfg(feature = "tokio-comp")]
pub mod examples;
#[cfg(all(feature = "tokio-comp", feature = "testing"))]
pub mod held_reshard;
#[cfg(feature = "tokio-comp")]
pub mod local_proxy;
pub mod relay;
pub mod replicas;
#[cfg(feature = "tokio-comp")]
pub mod reshard_fleet;
#[cfg(feature = "tokio-comp")]
pub mod reshard_model;
pub mod sentinels;
pub mod servers;

pub use clients::{builder, builder_over, client};
pub use clusters::Cluster;
pub use replicas::ReplicaSet;
pub use sentinels::Sentinels;
pub use servers::Servers;
