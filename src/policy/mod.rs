//! Decisions over time: whether a node may be tried now, and how long to wait otherwise.
//!
//! * `backoff`: [`Backoff`], the pauses between attempts to connect to a node that could not be reached.
//! * `connect_error`: [`ConnectError`], why there is no connection, as the backoff remembers it.
//!
//! Time and randomness are arguments; nothing here reads a clock, sleeps or connects.

mod backoff;
mod connect_error;

pub use backoff::NodeState;

pub(crate) use backoff::{Admission, AttemptId, BACKOFF_MAX, Backoff, Down, Recovery, pause};
#[cfg(feature = "tokio-comp")]
pub(crate) use backoff::{BACKOFF_MIN, OVERDUE_SLACK};
pub(crate) use connect_error::{CertificateRefused, ConnectError, IoFailure, is_timeout};
