//! The RESP server side of the proxy: what does a client's request become, and which bytes does the client
//! get back?
//!
//! A program that uses any Redis client connects to the proxy as if it were one server. The proxy parses its
//! requests, forwards them to the nodes that own their keys, answers those about the connection itself
//! (HELLO, MULTI, CLIENT, SUBSCRIBE, ...), and refuses what cannot be routed, with a server's own error
//! messages where a server has them.
//!
//! * `session`: the state of one client; reads a round of requests and decides for each what becomes of it.
//! * `action`: state machines for requests that take more than one exchange with a node (WATCH, EXEC, BLPOP,
//!   HELLO, SUBSCRIBE, CLIENT PAUSE, ...).
//! * `transaction`: the commands queued since MULTI. `subscriptions`: channels and patterns of one client,
//!   and how confirmations and messages are written.
//! * `client_command`: CLIENT and its subcommands. `client_info`: the line of CLIENT LIST, and the filters of
//!   CLIENT LIST and CLIENT KILL. `hello`: HELLO. `auth`: AUTH. `pause`: CLIENT PAUSE.
//! * `cluster_mode`: what programs are told that ask for a Redis Cluster.
//! * `refusal`: errors in the words of a server.
//! * `limits`: how much one client may have waiting: the output limits and the query buffer limit.
//! * `net`: sockets and shared state, on tokio: [`Proxy`].
//!
//! # One round
//!
//! A round is as many requests as can be sent at once. It ends at a request that must wait for the replies
//! before it.
//!
//! ```text
//! client's bytes ──▶ RequestParser ──▶ Session ──▶ RawPipeline ──▶ Exchange ──▶ nodes
//!  (net/input)       unusual forms      one of:     packed by        sent at       │
//!                    only; the usual    Queued      node             once          │
//!                    one is read        Answered ─▶ local reply                    │
//!                    without a copy     Act ──────▶ after the round                │
//!                                                                                  ▼
//! client's bytes ◀── ClientIo ◀── out ◀── ReplyWriter: replies in the order of the requests
//! ```
//!
//! For `SET a 1`, `PING`, `GET b` in one read, the SET and the GET are sent to their nodes at the same time.
//! The reply to PING is written here, and [`Proxy`] sends `+OK`, `+PONG`, and the value, in this order.
//!
//! # One action
//!
//! `WATCH k` with a free connection to its node; `outcome` is what came of each step:
//!
//! ```text
//! Session                     ActionTask                          net (executor)
//! ───────                     ──────────                          ──────────────
//! NextStep::Act(Watch) ─────▶ poll ─▶ Lease(node)           ────▶ takes an exclusive connection
//!                             handle ◀── outcome Leased     ◀────
//!                             poll ─▶ SendOnLease(WATCH k)  ────▶ writes it, reads one reply
//!                             handle ◀── outcome Answered   ◀────
//!                             appends `+OK` to `out`
//!                             poll ─▶ Done(Continue)        ────▶ goes on with the next round
//! ```
//!
//! Outside of `net`, nothing touches a socket, a clock or a lock: time, pause and entropy are arguments.
//! `net` in turn decides neither the order of steps nor the content of a reply.

mod action;
mod auth;
mod client_command;
mod client_info;
mod cluster_mode;
mod hello;
mod limits;
mod net;
mod pause;
mod refusal;
mod session;
mod subscriptions;
mod transaction;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    //! The request readers, for the properties in `crate::fuzzing`.
    pub(crate) use crate::resp::{
        LINE_BYTES_MAX, NormalizedEnd, Parsed, RequestParser, parse_prefix,
    };
}

pub(crate) use action::{
    Action, ActionContext, ActionOutcome, ActionStep, ActionTask, SubscriptionRequest,
};
pub(crate) use auth::Auth;
pub(crate) use client_command::{RegistryRequest, Unblocked};
pub(crate) use client_info::{ClientFilter, ClientInfo};
pub use cluster_mode::ClusterMode;
pub(crate) use cluster_mode::EmulatedNode;
pub(crate) use limits::{ClientLimits, OutputDecision, OutputWatch, QUERY_BYTES_MIN};
pub use limits::{OutputLimit, OutputLimitError, REQUEST_BYTES_MAX, parse_bytes};
#[cfg(feature = "cli")]
pub use net::serve_metrics;
pub use net::{DEFAULT_MEMORY_LIMIT, DEFAULT_SHUTDOWN_TIMEOUT, LoopbackProxy, Proxy, THREADS_MAX};
pub(crate) use pause::Pause;
pub(crate) use session::{NextStep, Session};
pub(crate) use transaction::QueuedTransaction;
