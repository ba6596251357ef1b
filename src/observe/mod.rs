//! Who is told what happens to the nodes and to the requests, and what is known of each node?
//!
//! * `event`: [`ClientEvent`], what happened to a node, for [`Builder::on_event`](crate::Builder::on_event).
//! * `health`: [`ClientHealth`] and [`NodeHealth`], what a client knows of its nodes without asking them.
//! * `observer`: [`NodeObserver`], told the facts by the executors; passes them on.
//! * `pool_guard`: guards that count the open connections of a pool, and those in use.
//!
//! Nothing is decided here, and nothing here may hold a lock of the client: an event is delivered after the
//! locks that were held when it occurred are released.

mod event;
mod health;
mod observer;
mod pool_guard;

pub use event::{ClientEvent, PoolKind};
pub use health::{ClientHealth, NodeHealth, PoolHealth};

pub(crate) use observer::{Listeners, NodeObserver};
pub(crate) use pool_guard::OpenConnection;
