//! What does a program want that speaks the wire format to us as if we were one server, and what is it told?
//!
//! * [`RequestParser`](request::Look): requests as they arrive, in every form a server takes.
//! * [`Session`]: one such client. It takes requests, hands those for the nodes to a [`RawPipeline`](crate::plan::Relay), answers
//!   those about the connection itself, and says what [`Action`] needs more than a round of requests and answers.
//! * [`ClientInfo`]: what is told of a client to others. `limits`: how much one client may have waiting.
//!
//! Nothing here touches a socket, a clock or a lock.

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

pub(crate) use auth::Auth;
pub(crate) use client_command::{RegistryRequest, Unblocked};
pub(crate) use client_info::{ClientFilter, ClientInfo};
pub(crate) use hello::Hello;
pub(crate) use limits::{ClientLimits, OutputDecision, OutputWatch, QUERY_BYTES_MIN};
pub use limits::{OutputLimit, OutputLimitError, REQUEST_BYTES_MAX, parse_bytes};
pub use net::{DEFAULT_MEMORY_LIMIT, Proxy};
pub(crate) use pause::Pause;
pub(crate) use session::{Action, NextStep, Session};
pub(crate) use transaction::QueuedTransaction;
