//! What does a program want that speaks the wire format to us as if we were one server, and what is it told?
//!
//! * [`Look`](request::Look): requests as they arrive, in every form a server takes.
//! * [`Session`]: one such client. It takes requests, hands those for the nodes to a [`Relay`](crate::plan::Relay), answers
//!   those about the connection itself, and says what [`Work`] needs more than a round of requests and answers.
//! * [`Client`]: what is told of a client to others. `limits`: how much one client may have waiting.
//!
//! Nothing here touches a socket, a clock or a lock.

mod client;
mod client_command;
mod door;
mod greeting;
mod limits;
mod pause;
mod refusal;
mod request;
mod session;
mod subscriptions;
mod transaction;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    //! What reads requests, for the properties that it must have.
    pub(crate) use super::request::{Arrived, LINE_BYTES_MAX, Look, NormalizedEnd, begun};
}

pub(crate) use client::{Client, Which};
pub(crate) use client_command::{Ask, Unblocked};
pub(crate) use door::Door;
pub(crate) use greeting::Hello;
pub(crate) use limits::{ClientLimits, OutputVerdict, OutputWatch, QUERY_BYTES_MIN};
pub use limits::{OutputLimit, OutputLimitError, REQUEST_BYTES_MAX, parse_bytes};
pub(crate) use pause::Pause;
pub(crate) use session::{Next, Session, Work};
pub(crate) use transaction::Ready;
