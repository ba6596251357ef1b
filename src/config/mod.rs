//! The user's choices: what a client is built from.
//!
//! * `builder`: [`Builder`], which collects them. `client_config`: [`ClientConfig`], the checked result for one
//!   topology, from which `sync`, `aio` and `proxy` build their handles.
//! * More of its setters: `cache` for [`Builder::cache`]; `cluster` for
//!   [`Builder::cluster`]; `database` for clients of other databases of the same nodes; `login` for usernames, credentials and the client name; `observe` for
//!   [`Builder::on_event`]; `push` for [`Builder::push_sender`]; `reads` for [`Builder::missing_nodes`]; `record` for the
//!   source of the nodes' records; `sentinel` for nodes behind Sentinel, and `sentinel_groups` for who asks for them; `replicas` for nodes with replicas, which
//!   `replica_options` keeps; `requests` for timeouts and retries, with the methods by which a handle overrides them;
//!   `watch` for [`Builder::watch_topology`].
//! * `cluster_handle`: who knows the map of a cluster, for those who are made before it.
//! * `topology_file`: a file with the topology of a client.
//! * `ejection`: the limits of the numbers of an [`Ejection`](crate::Ejection).
//! * `settings`: timeouts and sizes, and the limits of every number that can be set.
//!
//! Nothing here knows an executor: `build`, `build_async` and `build_proxy` are defined beside what they
//! build.

pub mod builder;
mod cache;
mod client_config;
mod cluster;
mod cluster_handle;
#[cfg(feature = "backup")]
mod database;
mod ejection;
mod login;
mod observe;
mod push;
mod reads;
mod record;
mod replica_options;
mod replicas;
mod requests;
mod sentinel;
mod sentinel_groups;
mod settings;
mod topology_file;
mod watch;

pub use builder::Builder;
pub use sentinel::{Sentinel, SentinelMaster};

#[cfg(feature = "tokio-comp")]
pub(crate) use builder::DEFAULT_RESPONSE_TIMEOUT;
pub(crate) use client_config::{ClientConfig, Purpose};
pub(crate) use requests::{bounded, set_request_options, with_request_options};
pub(crate) use settings::{PROBE_AFTER, Settings, limits};
pub(crate) use topology_file::{TopologyFile, hash_content, read_topology_file};
