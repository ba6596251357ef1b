//! Requests of one client that take more than one exchange with a node: WATCH, EXEC, HELLO, SUBSCRIBE, BLPOP,
//! CLIENT PAUSE and the like. Which steps carry such a request out, in which order, and what does the client
//! get when one of them fails?
//!
//! * [`Action`]: one such request, as read by [`Session`](super::Session).
//! * [`ActionStep`], [`ActionOutcome`]: what the executor does next, and what came of it.
//! * `task`: [`ActionTask`], the state machine between the two. `lease`: its steps for WATCH, UNWATCH, EXEC,
//!   HELLO and RESET, which need or keep an exclusive connection; `subscribe`: those for SUBSCRIBE and its
//!   relatives.
//! * `server_version`: the version of the servers, for HELLO, from a reply to INFO.
//! * `simulation`: tables of what the nodes reply, and when they fail, against the steps and the bytes to the
//!   client.
//!
//! For example, `WATCH k` on node 0, and then an EXEC while its connection breaks:
//!
//! ```text
//! WATCH k                                  EXEC (MULTI, SET k v)
//!   Lease(0)            ─▶ Leased(Ok)        Exec { on_lease: true }  ─▶ Executed: connection broke
//!   SendOnLease(WATCH)  ─▶ Answered(+OK)     DropLease
//!   +OK                                      an error: the transaction may have run
//!   Done(Continue)                           Done(Continue)
//! ```
//!
//! If node 0 cannot be reached, the steps are `Lease(0)` and `Done`; the client gets an error, and its next
//! EXEC replies nil.
//!
//! The executor takes the steps one by one and decides nothing; a task never waits, and knows no connection.

mod lease;
mod server_version;
#[cfg(test)]
mod simulation;
mod subscribe;
mod task;

use std::ops::ControlFlow;
use std::time::Duration;

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::pubsub::{SubscriptionChange, SubscriptionKind};
use crate::plan::{Answers, Cause, ExpectedEnd, RawReplies, Router};
use crate::proxy::client_command::{RegistryRequest, Unblocked};
use crate::proxy::hello::Hello;
use crate::proxy::pause::Pause;
use crate::proxy::session::Session;
use crate::proxy::transaction::QueuedTransaction;

pub(crate) use task::ActionTask;

/// A request that takes more than one exchange with a node. Byte vectors are whole requests in the usual
/// form.
#[derive(Debug)]
pub(crate) enum Action {
    /// A command that may wait, such as BLPOP or WAIT, or one that a pause may hold back. On an exclusive
    /// connection.
    RunBlocking(Vec<u8>),
    /// A command about scripts or functions: EVALSHA, FCALL, SCRIPT LOAD. Its reply decides what is sent next
    /// (NOSCRIPT) and what is recorded in the script cache. Also SCAN over a Redis Cluster, which takes several exchanges.
    Script(Vec<u8>),
    /// CLIENT PAUSE: what the nodes hold back from now on, and for how long. `packed` is sent to all nodes.
    Pause {
        pause: Pause,
        length: Duration,
        packed: Vec<u8>,
    },
    /// CLIENT UNPAUSE.
    Unpause(Vec<u8>),
    /// WATCH, on an exclusive connection that is kept until EXEC, DISCARD, UNWATCH or RESET.
    Watch { node: NodeIndex, packed: Vec<u8> },
    /// UNWATCH, or a DISCARD or EXEC that was answered locally: the node forgets the watched keys.
    Unwatch,
    /// EXEC, on the connection of WATCH if there is one.
    Exec(QueuedTransaction),
    /// SUBSCRIBE, UNSUBSCRIBE and their relatives for patterns and shard channels.
    Subscribe(SubscriptionRequest),
    /// CLIENT LIST, KILL, UNBLOCK and INFO.
    Registry(RegistryRequest),
    /// INFO, whose reply is changed where it speaks of a cluster.
    Info(Vec<u8>),
    /// HELLO, whose reply contains the version of the servers.
    Hello(Hello),
    /// RESET. The lease is returned before the state is reset.
    Reset,
    /// QUIT, and requests after which the connection is closed without a reply.
    Close,
}

/// Names of one kind that a client subscribes to or unsubscribes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionRequest {
    pub(crate) change: SubscriptionChange,
    pub(crate) kind: SubscriptionKind,
    /// Never empty.
    pub(crate) names: Vec<Vec<u8>>,
}

/// The executor's next step. Each variant names its [`ActionOutcome`]; those that name none have
/// [`Done`](ActionOutcome::Done).
#[derive(Debug)]
pub(crate) enum ActionStep {
    /// Writes the output to the client.
    Flush,
    /// Yields to other tasks on the thread.
    Yield,
    /// Takes an exclusive connection to this node and keeps it: [`Leased`](ActionOutcome::Leased).
    Lease(NodeIndex),
    /// Takes an exclusive connection to the server of a Redis Cluster that serves the keys of this WATCH, by its map this
    /// node, sends it and keeps the connection: [`Watched`](ActionOutcome::Watched).
    LeaseInCluster { node: NodeIndex, packed: Vec<u8> },
    /// Sends requests on the exclusive connection, and reads this many replies:
    /// [`Answered`](ActionOutcome::Answered).
    SendOnLease {
        packed: Vec<u8>,
        replies: usize,
        expected_end: ExpectedEnd,
    },
    /// Gives the exclusive connection back to its pool. Its state must be that of a new one.
    ReleaseLease,
    /// Closes the exclusive connection, whose state is not known or must not be seen by others.
    DropLease,
    /// Sends one command to the node of its keys, or to all nodes: [`Reply`](ActionOutcome::Reply). A node
    /// that lacks a script in the script cache gets it.
    Call { packed: Vec<u8> },
    /// Sends one command to this node: [`Reply`](ActionOutcome::Reply).
    CallNode { node: NodeIndex, packed: Vec<u8> },
    /// Sends one command that may wait, while the client's bytes and messages are still read:
    /// [`Reply`](ActionOutcome::Reply), [`Unblocked`](ActionOutcome::Unblocked) or
    /// [`Closed`](ActionOutcome::Closed).
    CallBlocking { packed: Vec<u8> },
    /// Sets if CLIENT UNBLOCK applies to this client, and if CLIENT LIST shows it as blocked.
    SetBlocked(bool),
    /// Sends MULTI ... EXEC, on the exclusive connection or on a shared one:
    /// [`Executed`](ActionOutcome::Executed), or [`Moved`](ActionOutcome::Moved).
    Exec {
        transaction: QueuedTransaction,
        on_lease: bool,
    },
    /// Changes subscriptions at the nodes and waits for their confirmation:
    /// [`Subscribed`](ActionOutcome::Subscribed).
    Subscribe(SubscriptionRequest),
    /// Writes all messages that have arrived: [`Done`](ActionOutcome::Done), or
    /// [`Closed`](ActionOutcome::Closed) when some were missed.
    PassOnMessages,
    /// Closes the pub/sub connections of this client.
    DropSubscriber,
    /// Records that the nodes hold commands back from now on: what they may hold back is sent on exclusive
    /// connections.
    BeginPause { pause: Pause, length: Duration },
    /// Records that the nodes hold nothing back any more.
    EndPause,
    /// Lists, kills or unblocks clients: [`Reply`](ActionOutcome::Reply).
    Registry(RegistryRequest),
    /// Reads the version of the servers, if it was found out before: [`Version`](ActionOutcome::Version).
    ServerVersion,
    /// Records the version of the servers for all clients.
    SetServerVersion(String),
    /// The action is finished. With `Break`, the client's connection is closed once the output has been
    /// written.
    Done(ControlFlow<()>),
}

/// Outcome of an [`ActionStep`].
#[derive(Debug)]
pub(crate) enum ActionOutcome {
    /// The step was taken.
    Done,
    /// The connection was taken, or the reason why not.
    Leased(Result<(), Cause>),
    /// The replies to what was sent on the lease, and the failure if there are fewer than expected.
    Answered(Answers<RawReplies>),
    /// A reply in the client's protocol, or an error of this crate as one.
    Reply(Vec<u8>),
    /// CLIENT UNBLOCK ended the command.
    Unblocked(Unblocked),
    /// The client is gone, was killed, or has missed messages. Nothing more is written to it.
    Closed,
    /// The reply to WATCH, and the name of the server that replied, to which a connection is held unless there was no
    /// reply.
    Watched {
        server: String,
        answers: Answers<RawReplies>,
    },
    /// A server of a Redis Cluster has discarded the transaction of a connection that watches keys: it does not serve their
    /// slot any more.
    Moved,
    /// The replies to MULTI ... EXEC.
    Executed {
        /// The node that replied last: a transaction without keys may have moved on to another.
        node: NodeIndex,
        answers: Answers<RawReplies>,
    },
    /// The nodes have confirmed, or one could not be reached.
    Subscribed(Result<(), Error>),
    /// The version of the servers, or `None` if no client has asked for it yet.
    Version(Option<String>),
}

/// State that a task may read and change while it decides.
pub(crate) struct ActionContext<'c> {
    pub(crate) session: &'c mut Session,
    pub(crate) router: &'c Router,
    /// The pause in force now.
    pub(crate) pause: Pause,
    /// Output to the client, not written to its socket yet.
    pub(crate) out: &'c mut Vec<u8>,
}
