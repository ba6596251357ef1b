//! How does a program see what happens to the nodes and to its requests?
//!
//! * `event`: [`ClientEvent`], what happened to a node, for [`Builder::on_event`](crate::Builder::on_event).
//! * `health`: [`ClientHealth`] and [`NodeHealth`], what a client knows of its nodes without asking them.
//! * `observer`: [`NodeObserver`], which the executors report facts to, and which passes them on to listeners,
//!   metrics and traces.
//! * `votes`: [`Votes`], the failures and successes of the nodes of a cache, and the decision which of them are out.
//! * `metrics`: the metrics of a node, with the feature `metrics`; without it, `no_metrics`. `stopwatch`:
//!   [`Stopwatch`], the duration of a request.
//! * `trace`: [`RequestSpan`] and log lines, with the feature `tracing`.
//! * `pool_guard`: guards that count the open connections of a pool, and those in use.
//!
//! What is decided from the votes is up to `policy`; nothing else is decided here, and nothing here may hold a lock of the client: an event is delivered after the
//! locks that were held when it occurred are released.

mod event;
mod health;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
mod no_metrics;
mod observer;
mod pool_guard;
mod stopwatch;
mod trace;
mod votes;

pub use event::{ClientEvent, PoolKind};
pub use health::{ClientHealth, NodeHealth, PoolHealth, ReplicaHealth};

pub(crate) use observer::{Listeners, NodeObserver};
#[cfg(feature = "tokio-comp")]
pub(crate) use pool_guard::ConnectionInUse;
pub(crate) use pool_guard::{OpenConnection, PoolWait};
pub(crate) use stopwatch::Stopwatch;
pub(crate) use trace::RequestSpan;
pub(crate) use votes::{NodeVotes, Votes};
