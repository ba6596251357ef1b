//! How is a Redis Cluster asked for its map?
//!
//! * [`ClusterMonitor`]: knows the map of one client's cluster, and is told what is wrong with it.
//! * `watcher`: the thread that mends the map, and decides when it is asked for; `question`: how one server is asked.
//!
//! ```text
//!  executors ── moved, suspect ──▶ ClusterMonitor ──▶ Signal ──▶ watcher ──▶ MapPublisher
//!  handles ───── wait ────────────────┘                 ▲           │
//!                                                       └─ answers ─┴─▶ a thread for each question
//! ```
//!
//! All are plain threads with blocking sockets, for clients of every kind and on every runtime. The watcher is started
//! when the map is first needed, keeps no client alive, and ends with the last handle. It never waits for a server: a
//! question has a thread of its own, so that a slot is mended while servers are silent. What the answers mean is decided
//! by `topology::cluster`, and when to ask by [`MapRefresh`](crate::policy::MapRefresh).

mod monitor;
mod question;
mod watcher;

pub(crate) use self::monitor::{ClusterMonitor, ClusterSettings, MapPublisher, mapped};
