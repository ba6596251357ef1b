//! What does a program want that speaks the wire format to us as if we were one server, and what is it told?
//!
//! * [`RequestParser`](crate::resp::RequestParser): requests as they arrive, in every form a server takes.
//! * [`Session`]: one such client. It takes requests, hands those for the nodes to a [`RawPipeline`](crate::plan::RawPipeline), answers
//!   those about the connection itself, and says which [`Action`] is more than that.
//! * `action`: the steps of an action, in their order, and what the client is told when one of them fails.
//! * [`ClientInfo`]: what is told of a client to others. `limits`: how much one client may have waiting.
//!
//! Nothing here touches a socket, a clock or a lock.

mod action;
mod auth;
mod build;
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
pub(crate) use limits::{ClientLimits, OutputVerdict, OutputWatch, QUERY_BYTES_MIN};
pub use limits::{OutputLimit, OutputLimitError, REQUEST_BYTES_MAX, parse_bytes};
pub use net::{DEFAULT_MEMORY_LIMIT, Proxy};
pub(crate) use pause::Pause;
pub(crate) use session::{NextStep, Session};
pub(crate) use transaction::QueuedTransaction;
