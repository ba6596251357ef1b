//! How is Sentinel asked for the primaries of nodes, and how does it announce new ones?
//!
//! * [`SentinelGroup`]: the Sentinels that one client asks for the primaries of one or several nodes.
//! * `asker`: the thread that asks them in rounds; `listener`: a thread that is subscribed to one of
//!   them; there are several.
//! * `connection`: a connection to one Sentinel.
//!
//! ```text
//!  PrimaryCell ── ask ──▶ SentinelGroup ──▶ Signal ──▶ asker ──▶ every Sentinel
//!       ▲                                     ▲          │
//!       └────────────── publish ──────────────┼──────────┘
//!                                          listener ◀── +switch-master
//! ```
//!
//! All are plain threads with blocking sockets, for clients of every kind and on every runtime. They are started when
//! a primary is first needed, keep no client alive, and end soon after the last node of the group is gone. What the
//! replies mean, and when the next round is due, is decided by `topology::sentinel`.

mod asker;
mod connection;
mod group;
mod listener;

pub(crate) use self::group::{AddressMap, GroupSettings, SentinelGroup};
