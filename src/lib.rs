//! Spreads data over many Redis or Valkey servers from the client side.
//!
//! A [`ShardedClient`] is a redis-rs connection over several plain servers that know nothing of each other.
//! Each key is owned by one of them; the client computes the owner and sends each command there.
//! `redis::Commands`, `redis::cmd`, `redis::pipe` and `redis::Script` work as they do over one server.
//! Commands with many keys are split by node and sent to all nodes at once. A command that cannot be split,
//! or whose keys are not known, is refused before anything is sent, with an error that names the remedy.
//!
//! ```
//! use redis_sharding::ShardedClient;
//! use redis_sharding::redis::Commands;
//! use redis_sharding::testing::TestNode; // stand-ins for servers, in this process; feature `testing`
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = TestNode::start_many(2)?;
//! let mut client = ShardedClient::builder()
//!     .node("a", servers[0].url()) // in production "redis://10.0.0.1/"
//!     .node("b", servers[1].url())
//!     .build()?;
//!
//! let () = client.mset(&[("user:1", "Ada"), ("user:2", "Grace")])?;
//! let names: Vec<Option<String>> = client.mget(&["user:2", "user:9", "user:1"])?;
//! assert_eq!(names, [Some("Grace".into()), None, Some("Ada".into())]);
//! # Ok(()) }
//! ```
//!
//! # What is given up
//!
//! * **A referee.** A plain server does not reject a key that another one owns. All clients must have the
//!   same nodes under the same names, and the same partitioner; [`Topology::fingerprint`] is a number to
//!   compare. Commands whose keys are not known are refused, never guessed.
//! * **Atomicity across nodes.** MSET, DEL, UNLINK and TOUCH are split by node, and other clients may see
//!   half of the change; [`SplitWrites::Refused`] turns splitting off. Transactions, scripts, RENAME, SINTER
//!   and the like need all their keys on one node.
//! * **Silent failover.** Commands for the keys of a node that is down fail with [`ErrorKind::NodeDown`] until it is
//!   back, or one of its replicas has been promoted ([`Builder::replica`], [`Builder::sentinel`]). Only for a cache,
//!   other nodes take over its keys ([`Builder::cache`]), or reads are misses ([`ReadsAs::Miss`]).
//! * **Moving data.** If you change the nodes, some keys get other owners, while their data stays where it was
//!   written. A store refuses such a topology ([`ShardedClient::set_topology`]).
//!
//! Not supported yet: online resharding.
//!
//! # Concepts
//!
//! | | |
//! |---|---|
//! | [`NodeSpec`] | a *node*: one server with a name, an address and a weight; the name places its keys |
//! | [`NodeId`] | a node's identity, derived from its name: the same in every process, and when other nodes come or go |
//! | [`hash::HashTag`] | the part of a key that is hashed: the bytes between braces, if there are any |
//! | [`partition::Partitioner`], [`partition::Placement`] | the rule that assigns keys to nodes; the rule applied to one set of nodes |
//! | [`Topology`] | the nodes and their placement; immutable, with a fingerprint |
//! | [`command::CommandTable`] | where the keys of each command are, and to which nodes it may be sent |
//! | [`plan::Plan`] | where one command goes: to one node, split, or to all nodes |
//! | [`Builder`], [`ShardedClient`] | the description of a client; the client, which is the connection |
//! | [`Node`], [`Dedicated`], [`Scan`] | one server, a private connection, the keys of all nodes |
//! | `aio` | the client on tokio, behind the feature `tokio-comp` |
//! | `proxy::Proxy` | the nodes as one server, for programs in other languages |
//! | [`Subscriber`], [`Event`] | channels and patterns of all nodes, in one stream; [`PubSub`] has the methods of redis-rs' |
//! | [`PushSender`] | the receiver of RESP3 push messages |
//! | [`Error`], [`ErrorKind`], [`PartOutcome`] | what went wrong, and the outcome on each node |
//! | [`RetryPolicy`], [`ReadsAs`], [`PartialReads`] | whether to wait for a node that is down, or to do without it |
//! | [`Ejection`], [`Readmission`] | when the nodes of a cache are left out because they fail, and when they are used again |
//! | [`ClientHealth`], [`NodePing`], [`ClientEvent`] | the state of the nodes: remembered, asked for, and as it changes |
//! | [`CredentialsProvider`] | usernames and passwords that change while the client runs |
//! | `testing::TestNode` | a server in this process that fails on demand |
//!
//! The module [`guide`] has longer pages: coming from redis-rs, moving the data of one server to several, errors,
//! caches, monitoring, placements, TLS, the proxy, limits, every command. CHANGELOG.md names every placement.
//!
//! # Cookbook
//!
//! These examples use a `client` like the one above.
//!
//! **Pipelines** are plain `redis::pipe()`. Each node gets one buffer, and the replies are in the order of
//! the commands.
//!
//! ```
//! # use redis_sharding::{ShardedClient, redis, testing::TestNode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! # let mut client = ShardedClient::open(servers.iter().map(TestNode::url))?;
//! let mut pipe = redis::pipe();
//! for user in 0..1_000 {
//!     pipe.set(format!("user:{user}"), user).ignore().get(format!("user:{user}"));
//! }
//! let users: Vec<u32> = pipe.query(&mut client)?;
//! assert!(users.into_iter().eq(0..1_000));
//! # Ok(()) }
//! ```
//!
//! **Transactions** run on one node: put their keys under one hash tag. `pipe().atomic()` is all or nothing;
//! [`ShardedClient::transaction`] also watches the keys that were read, and tries again if they changed.
//!
//! ```
//! # use redis_sharding::{ShardedClient, redis::{self, Commands}, testing::TestNode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! # let mut client = ShardedClient::open(servers.iter().map(TestNode::url))?;
//! let (stock, sold) = ("{tea}:stock", "{tea}:sold");
//! redis::pipe().atomic().set(stock, 5).set(sold, 0).exec(&mut client)?;
//!
//! let (left,): (u32,) = client.transaction(&[stock, sold], |connection, pipe| {
//!     let stocked: u32 = connection.get(stock)?;
//!     let bought = stocked.min(2);
//!     pipe.incr(sold, bought).ignore().decr(stock, bought).query(connection)
//! })?;
//! assert_eq!(left, 3);
//! # Ok(()) }
//! ```
//!
//! **Scans** visit all nodes, and can be interrupted and resumed.
//!
//! ```
//! # use redis_sharding::{ShardedClient, redis::Commands, testing::TestNode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! # let mut client = ShardedClient::open(servers.iter().map(TestNode::url))?;
//! # let () = client.mset(&[("user:1", 1), ("user:2", 2), ("other", 3)])?;
//! let users = client.scan_all().with_pattern("user:*").collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(users.len(), 2);
//!
//! let scan = client.scan_all();
//! let kept = scan.position().to_string();
//! let resumed = client.resume_scan(kept.parse()?)?;
//! assert_eq!(resumed.count(), 3);
//! # Ok(()) }
//! ```
//!
//! **One node** is itself a connection, for commands about a server. Keys are not checked there.
//!
//! ```
//! # use redis_sharding::{ShardedClient, redis, testing::TestNode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! # let client = ShardedClient::open(servers.iter().map(TestNode::url))?;
//! for mut node in client.nodes() {
//!     let keys: u64 = redis::cmd("DBSIZE").query(&mut node)?;
//!     println!("{} at {} has {keys} keys", node.name(), node.address());
//! }
//! let owner = client.node_for("user:1")?;
//! assert!(client.node(owner.name()).is_some());
//! # Ok(()) }
//! ```
//!
//! **Commands of modules**, or newer than this crate, are declared with the positions of their keys.
//!
//! ```
//! use redis_sharding::command::CommandSpec;
//! use redis_sharding::{ErrorKind, ShardedClient, redis};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let builder = || ShardedClient::builder().node("a", "redis://10.0.0.1/").node("b", "redis://10.0.0.2/");
//! let command = redis::cmd("CELL.THROTTLE").arg("user:1").arg(15).clone();
//!
//! let refusal = builder().build()?.explain(&command).unwrap_err();
//! assert_eq!(refusal.kind(), ErrorKind::Unroutable);
//!
//! let client = builder().command(CommandSpec::declare("CELL.THROTTLE").arity(-3).key(1)).build()?;
//! println!("{}", client.explain(&command)?);
//! # Ok(()) }
//! ```
//!
//! **Errors** list what was done, name the node and the keys, and know whether the call may be repeated
//! ([`Error::is_retryable`]). For an error from redis-rs' traits use [`ErrorKind::of`] and [`Error::of`];
//! [`ShardedClient::execute`] and [`ShardedClient::execute_pipeline`] return the whole error, or one for each
//! command of a pipeline.
//!
//! ```
//! use redis_sharding::{ErrorKind, PartStatus};
//! # use redis_sharding::{ShardedClient, redis, testing::TestNode};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! # let client = ShardedClient::builder().node("a", servers[0].url()).node("b", servers[1].url()).build()?;
//! servers[0].stop();
//! let error = client.execute(redis::cmd("DEL").arg(&["user:1", "user:2", "user:3"])).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Partial);
//! for part in error.parts().iter().filter(|part| part.status != PartStatus::Done) {
//!     println!("{} of {} keys: {}", part.node, part.keys.len(), part.status);
//! }
//! # Ok(()) }
//! ```
//!
//! **Timeouts, retries and nodes that are down** have settings for the client, and some for a single handle.
//!
//! ```
//! use std::time::Duration;
//!
//! use redis_sharding::{ReadsAs, RetryPolicy, ShardedClient, redis::Commands};
//! # use redis_sharding::testing::TestNode;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let servers = TestNode::start_many(2)?;
//! let client = ShardedClient::builder()
//!     .node("a", servers[0].url())
//!     .node("b", servers[1].url())
//!     .retry(RetryPolicy::attempts(3)) // waits for a node that is down, within the response timeout
//!     .missing_nodes(ReadsAs::Miss) // for a cache: then its keys read as missing
//!     .build()?;
//! let mut quick = client.with_timeout(Duration::from_millis(200)).with_retry(RetryPolicy::OFF);
//!
//! servers[0].stop();
//! let name: Option<String> = quick.get("user:2")?; // a key of node a
//! assert_eq!(name, None);
//! assert!(!client.health().is_up());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

#[cfg(feature = "tokio-comp")]
pub mod aio;
#[cfg(feature = "backup")]
mod archive;
mod blocking;
mod cluster;
pub mod command;
mod config;
mod connect;
mod endpoint;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
pub mod hash;
mod observe;
pub mod ops;
pub mod partition;
pub mod plan;
mod policy;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "backup")]
mod rdb;
mod record;
mod replication;
mod resp;
mod sentinel;
mod snapshot;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod topology;

pub use config::{Builder, Sentinel, SentinelMaster, builder};
pub use endpoint::push::PushSender;
pub use endpoint::tls::TlsBackend;
pub use endpoint::{Credentials, CredentialsError, CredentialsProvider, RotatingCredentials};
pub use error::{ERROR_KEYS_MAX, Error, ErrorKind, KEY_TEXT_MAX, PartOutcome, PartStatus};
pub use observe::{ClientEvent, ClientHealth, NodeHealth, PoolHealth, PoolKind, ReplicaHealth};
pub use partition::OutNodes;
pub use partition::node::{self, NODES_MAX, NodeId, NodeIndex, NodeSpec};
pub use plan::{
    EVENT_BYTES_MAX, EVENTS_MAX, Event, HashTags, Message, NodePing, PartialReads, ReadsAs,
    SCRIPT_BYTES_MAX, SCRIPTS_MAX, ScanPosition, SplitWrites, SubscriptionKind,
    TRANSACTION_ATTEMPTS_MAX,
};
pub use policy::{
    Ejection, NodeState, ReadFrom, Readmission, Refusal, RetryPolicy, TemporaryErrors,
};
pub use redis;
pub use sync::{Dedicated, DedicatedPubSub, Node, PubSub, Scan, ShardedClient, Subscriber};
pub use topology::Topology;

/// Compiles and runs the README's code with the doctests, if the features that it uses are enabled.
#[cfg(all(doctest, feature = "tokio-comp"))]
#[doc = include_str!("../README.md")]
struct Readme;
