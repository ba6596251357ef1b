//! Requests of one client that are more than bytes to a node and a reply back: WATCH, EXEC, HELLO, SUBSCRIBE, BLPOP, CLIENT PAUSE
//! and the like. Which steps carry such a request out, in which order, and what the client is told when one of them fails.
//!
//! * [`Action`]: one such request, as [`TlsSession`](super::Session) has read it.
//! * [`ActionStep`], [`ActionOutcome`]: what the network part has to do next, and what came of it.
//! * `task`: [`ActionTask`], the state machine between the two. `lease`: its steps for WATCH, UNWATCH, EXEC, HELLO and RESET, which
//!   need or keep an exclusive connection; `subscribe`: those for SUBSCRIBE and its relatives.
//! * `server_version`: the version of the servers, for HELLO, out of a reply to INFO.
//! * `simulation`: tables of what nodes answer, and when they fail, against the steps and the bytes to the client.
//!
//! `WATCH k` is the steps *lease node 0*, *send WATCH on the lease*, *done*; if the node cannot be reached, *lease node 0*, *done*, with an
//! error for the client and the keys not watched. The network part takes these steps and decides nothing.

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

/// A request that is more than bytes to a node and a reply back.
#[derive(Debug)]
pub(crate) enum Action {
    /// A command that may wait, on an exclusive connection.
    RunBlocking(Vec<u8>),
    /// A command about scripts, whose reply must be looked at.
    Script(Vec<u8>),
    /// CLIENT PAUSE: what the nodes hold back from now on, and for how long.
    Pause {
        pause: Pause,
        length: Duration,
        packed: Vec<u8>,
    },
    /// CLIENT UNPAUSE.
    Unpause(Vec<u8>),
    /// WATCH, on an exclusive connection that is kept until EXEC, DISCARD, UNWATCH or RESET.
    Watch {
        node: NodeIndex,
        packed: Vec<u8>,
    },
    /// UNWATCH, or DISCARD or EXEC that ends without the nodes: nothing is watched any more.
    Unwatch,
    /// EXEC, on the connection of WATCH if there is one.
    Exec(QueuedTransaction),
    /// SUBSCRIBE, UNSUBSCRIBE and their relatives for patterns and shard channels.
    Subscribe(SubscriptionRequest),
    /// CLIENT LIST, KILL, UNBLOCK and INFO.
    Registry(RegistryRequest),
    Hello(Hello),
    Reset,
    /// QUIT.
    Close,
}

/// Which names of which kind a client subscribes to, or unsubscribes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionRequest {
    pub(crate) change: SubscriptionChange,
    pub(crate) kind: SubscriptionKind,
    pub(crate) names: Vec<Vec<u8>>,
}

/// What the network part does next. Each says which [`ActionOutcome`] it has; those that say nothing have
/// [`Done`](ActionOutcome::Done).
#[derive(Debug)]
pub(crate) enum ActionStep {
    /// Writes out the replies that are there.
    Flush,
    /// Lets other clients have their turn.
    Yield,
    /// Takes an exclusive connection to this node and keeps it: [`Leased`](ActionOutcome::Leased).
    Lease(NodeIndex),
    /// Sends requests on the exclusive connection: [`Answered`](ActionOutcome::Answered).
    SendOnLease {
        packed: Vec<u8>,
        replies: usize,
        expected_end: ExpectedEnd,
    },
    /// Gives the exclusive connection back for others to use.
    ReleaseLease,
    /// Closes the exclusive connection.
    DropLease,
    /// Sends one command where its keys say, or to all nodes: [`Reply`](ActionOutcome::Reply). A node that lacks a script
    /// which the proxy remembers gets it.
    Call { packed: Vec<u8> },
    /// Sends one command to this node: [`Reply`](ActionOutcome::Reply).
    CallNode { node: NodeIndex, packed: Vec<u8> },
    /// Sends one command that may wait, and goes on reading from the client meanwhile: [`Reply`](ActionOutcome::Reply),
    /// [`Unblocked`](ActionOutcome::Unblocked) or [`Closed`](ActionOutcome::Closed).
    CallBlocking { packed: Vec<u8> },
    /// Whether CLIENT UNBLOCK may end what the client waits for, and CLIENT LIST shows that it waits.
    SetBlocked(bool),
    /// Sends MULTI ... EXEC, on the exclusive connection or on a shared one: [`Executed`](ActionOutcome::Executed).
    Exec {
        transaction: QueuedTransaction,
        on_lease: bool,
    },
    /// Changes subscriptions at the nodes: [`Subscribed`](ActionOutcome::Subscribed).
    Subscribe(SubscriptionRequest),
    /// Passes on all messages that have come: [`Done`](ActionOutcome::Done), or [`Closed`](ActionOutcome::Closed) behind a gap in them.
    PassOnMessages,
    /// Closes the connections of the subscriptions.
    DropSubscriber,
    /// The nodes hold commands back from now on: what is sent meanwhile has to go on exclusive connections.
    BeginPause { pause: Pause, length: Duration },
    /// They do not any more.
    EndPause,
    /// Looks at the other clients, or does something to them: [`Reply`](ActionOutcome::Reply).
    Registry(RegistryRequest),
    /// Asks for the version of the servers, as far as somebody has found it out: [`Version`](ActionOutcome::Version).
    ServerVersion,
    /// Keeps the version of the servers for everybody.
    SetServerVersion(String),
    /// All is done; whether the client's connection goes on.
    Done(ControlFlow<()>),
}

/// What came of an [`ActionStep`].
#[derive(Debug)]
pub(crate) enum ActionOutcome {
    Done,
    Leased(Result<(), Cause>),
    Answered(Answers<RawReplies>),
    /// The reply as the client has to see it, an error of ours included.
    Reply(Vec<u8>),
    /// Somebody has ended the waiting by CLIENT UNBLOCK.
    Unblocked(Unblocked),
    /// The client is gone, was killed, or must not go on.
    Closed,
    Executed {
        /// The node that was asked last.
        node: NodeIndex,
        answers: Answers<RawReplies>,
    },
    Subscribed(Result<(), Error>),
    Version(Option<String>),
}

/// What an action may look at and change while it decides.
pub(crate) struct ActionContext<'c> {
    pub(crate) session: &'c mut Session,
    pub(crate) router: &'c Router,
    /// What the nodes hold back now.
    pub(crate) pause: Pause,
    /// Bytes to the client.
    pub(crate) out: &'c mut Vec<u8>,
}
