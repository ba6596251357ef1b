//! Decisions over time: when may a node be tried again?
//!
//! * `backoff`: [`Backoff`], the pause between attempts to connect to a node that could not be reached.
//!
//! Time comes in as an argument; nothing here reads a clock, sleeps or connects.

mod backoff;

#[cfg(feature = "tokio-comp")]
pub(crate) use backoff::BACKOFF_MIN;
pub(crate) use backoff::{Admission, BACKOFF_MAX, Backoff};
