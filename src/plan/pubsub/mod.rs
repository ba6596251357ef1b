//! The subscriptions of a subscriber: on which nodes they are made, which of them are confirmed, and how they
//! are restored on a new connection. No I/O.
//!
//! * `places`: [`NamesByNode`] groups channels and patterns by the nodes on which they must be subscribed;
//!   [`SubscriptionPlaces`], what is known of them besides the topology.
//! * `tracker`: [`SubscriptionTracker`], the subscriptions on one node, desired and confirmed. `change_request`:
//!   [`ChangeRequest`] packs a change of them.
//! * [`Event`], [`Message`], [`SubscriptionKind`]: what the user of a subscriber receives. `event_queue`: the
//!   bounded queue in between.
//! * `messages`: events in the form of redis-rs' `PubSub`. `moves`: where subscriptions belong after the topology
//!   has changed. `worker`: the connections of one node. `errors`: what a change may end with.
//!
//! **Where.** A channel is subscribed on the node that owns its name, which is also the node that PUBLISH
//! goes to. Patterns are subscribed on every node, and so are the channels of keyspace notifications, which
//! are published by whichever node has the key.
//!
//! A script publishes on the node it runs on, which its keys decide: its messages only arrive on channels
//! with the hash tag of those keys. Subscribing every channel on every node would lift that restriction, but
//! a single node that is down would then delay all subscriptions.
//!
//! **In a Redis Cluster** the servers hand each PUBLISH on to each other, so channels and patterns are subscribed on
//! one node; only keyspace events are subscribed on every primary. A shard channel belongs to the owner of its slot, and
//! the server says when that is another one: by `sunsubscribe` that nobody has asked for, or MOVED in reply to SSUBSCRIBE.
//!
//! ```text
//! sunsubscribe, unasked     SSUBSCRIBE again, as the reply to it is the newest map there is
//! MOVED                     RedirectedNames: the names of the slot leave this node, for the server that MOVED names
//! ASK, CLUSTERDOWN, ...     SSUBSCRIBE again after a pause
//! ```
//!
//! ASK is not followed: ASKING is refused on a subscribed RESP2 connection, and while a slot is on its way its source
//! serves SSUBSCRIBE and SPUBLISH, and the target does not hear what is published there.
//!
//! **The life of a subscription** on one node. `desired` changes when the user calls, `confirmed` when the
//! node replies:
//!
//! ```text
//!                 subscribe()               SUBSCRIBE confirmed
//!   (unknown) ────────────────▶ desired ─────────────────────────▶ desired, confirmed
//!       ▲                        │   ▲                                │          │
//!       │  refused: roll_back()  │   │     connection broke:          │          │ unsubscribe()
//!       ├────────────────────────┘   └──── begin_restore() ───────────┘          ▼
//!       │                                                                    confirmed
//!       └──────────────────────── UNSUBSCRIBE confirmed, or connection broke ────┘
//! ```
//!
//! **A new connection** first restores all desired subscriptions, before any other request is written to it:
//!
//! ```text
//! connection broke      Event::Disconnected
//! connected again       begin_restore(); restore() until it returns None; then the changes queued by then
//! replies               handle_reply(): Nothing, Nothing, ..., Restored ──▶ Event::Missed
//! ```
//!
//! Nothing here acknowledges messages or fills gaps: pub/sub loses what is published while a connection is
//! down, and the events say when that may have happened.

mod change_request;
mod errors;
mod event_queue;
mod messages;
mod moves;
mod places;
mod tracker;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use change_request::ChangeRequest;
pub(crate) use errors::{no_thread, not_confirmed, nothing_to_do};
pub(crate) use event_queue::EventQueue;
pub(crate) use messages::{SubscribedNames, into_msg};
pub(crate) use moves::{DesiredNames, SubscriptionMoves};
pub(crate) use places::{NamesByNode, SubscriptionPlaces};
pub(crate) use tracker::{PubSubReply, RedirectedNames, Resubscribe, SubscriptionTracker};
pub(crate) use worker::{ChangeProgress, ClusterSignals, ConnectionEnd, Loss, SubscriptionWorker};

/// Maximum number of events queued for the user of a subscriber; twice as many while it waits for a change to
/// be confirmed.
///
/// When the queue is full, nothing more is read from the servers, and their own limits apply: a server
/// disconnects a subscriber that does not read, which shows as [`Event::Disconnected`] and [`Event::Missed`].
pub const EVENTS_MAX: usize = 65_536;

/// Default maximum size, in bytes, of the events queued for the user of a subscriber; `with_event_bytes_max`
/// changes it.
///
/// It equals what a server keeps for a subscriber by default (`client-output-buffer-limit pubsub`). When it
/// is reached, nothing more is read from the servers until events are taken.
pub const EVENT_BYTES_MAX: usize = 32 << 20;

/// A connection that has been silent this long is sent a PING, and is closed when it stays silent for as long
/// again.
///
/// Without it a subscriber would never notice that its node, or the network in between, is gone: it only
/// reads. Shorter in unit tests.
pub(crate) const KEEPALIVE_AFTER: Duration =
    Duration::from_millis(if cfg!(test) { 300 } else { 15_000 });

/// How often a change of subscriptions over a cluster looks whether its names have to go elsewhere.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum number of channels or patterns processed at once, with the lock held and without yielding to other
/// tasks.
pub(crate) const NAMES_AT_ONCE: usize = 512;

/// An event that a subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was published.
    Message(Message),
    /// The connection to a node broke.
    ///
    /// Messages published on this node from now on are missed, until [`Missed`](Self::Missed) shows that its
    /// subscriptions are restored. Sent at once, and once for every connection that breaks.
    Disconnected {
        /// The node's name.
        node: String,
    },
    /// The subscriptions on a node are restored after its connection broke.
    ///
    /// Messages published on this node in between have been missed; those published from now on are received.
    /// A program that reads the current data after this event has no gap.
    Missed {
        /// The node's name.
        node: String,
    },
}

impl Event {
    /// Approximate size in memory, in bytes. Counts the enum itself, so that empty messages are not free.
    fn bytes(&self) -> usize {
        let text = match self {
            Self::Message(message) => {
                let pattern = message.pattern.as_ref().map_or(0, Vec::len);
                message.channel.len() + message.payload.len() + pattern
            }
            Self::Disconnected { node } | Self::Missed { node } => node.len(),
        };
        size_of::<Self>() + text
    }
}

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The channel it was published to.
    pub channel: Vec<u8>,
    /// The pattern that matched, for a subscription by PSUBSCRIBE.
    pub pattern: Option<Vec<u8>>,
    /// The published message.
    pub payload: Vec<u8>,
    /// The kind of subscription by which the message was received.
    pub kind: SubscriptionKind,
}

/// The kind of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SubscriptionKind {
    /// A channel: SUBSCRIBE.
    Channel,
    /// All channels that match a pattern, on every node: PSUBSCRIBE.
    Pattern,
    /// A shard channel: SSUBSCRIBE, which exists since Redis 7.0.
    Shard,
}

impl SubscriptionKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];
}

impl SubscriptionKind {
    /// The command that makes this change.
    pub(crate) fn command(self, change: SubscriptionChange) -> &'static [u8] {
        match (self, change) {
            (Self::Channel, SubscriptionChange::Subscribe) => b"SUBSCRIBE",
            (Self::Channel, SubscriptionChange::Unsubscribe) => b"UNSUBSCRIBE",
            (Self::Pattern, SubscriptionChange::Subscribe) => b"PSUBSCRIBE",
            (Self::Pattern, SubscriptionChange::Unsubscribe) => b"PUNSUBSCRIBE",
            (Self::Shard, SubscriptionChange::Subscribe) => b"SSUBSCRIBE",
            (Self::Shard, SubscriptionChange::Unsubscribe) => b"SUNSUBSCRIBE",
        }
    }
}

/// The direction of a change of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionChange {
    Subscribe,
    Unsubscribe,
}

/// The name of a channel or pattern. Shared, because a pattern is kept once for each node.
pub(crate) type ChannelName = Arc<[u8]>;
