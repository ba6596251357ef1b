//! Decisions over time: when may a node be tried again?
//!
//! * `backoff`: [`Backoff`], the pause between attempts to connect to a node that could not be reached.
//!
//! Time comes in as an argument; nothing here reads a clock, sleeps or connects.

mod backoff;

pub(crate) use backoff::{
    Admission, AttemptId, BACKOFF_MAX, BACKOFF_MIN, Backoff, Down, OVERDUE_SLACK, pause,
};
