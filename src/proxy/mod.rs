//! A RESP server in front of the nodes: what does a client's request ask for, and what is it answered?
//!
//! * `RequestParser` reads requests as they arrive, in every form a server takes.
//! * `TlsSession`: one client. It hands requests for the nodes to a `RawPipeline`, answers those
//!   about the connection itself, and emits an `Action` for what needs more than a round of requests and replies.
//! * `ClientInfo`: what CLIENT LIST shows of a client. `limits`: how much one client may have waiting.
//! * `net`: the sockets, on tokio: [`Proxy`].
//!
//! Outside of `net` nothing touches a socket, a clock or a lock.

mod action;
mod auth;
mod client_command;
mod client_info;
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
    //! What reads requests, for the properties that it must have.
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
pub(crate) use limits::{ClientLimits, OutputDecision, OutputWatch, QUERY_BYTES_MIN};
pub use limits::{OutputLimit, OutputLimitError, REQUEST_BYTES_MAX, parse_bytes};
pub use net::{DEFAULT_MEMORY_LIMIT, Proxy};
pub(crate) use pause::Pause;
pub(crate) use session::{NextStep, Session};
pub(crate) use transaction::QueuedTransaction;
