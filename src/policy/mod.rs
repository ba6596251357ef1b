//! Decisions over time: whether a node may be tried now, and how long to wait otherwise.
//!
//! * `backoff`: [`Backoff`], the pauses between attempts to connect to a node that could not be reached.
//! * `connect_error`: [`ConnectError`], why there is no connection, as the backoff remembers it.
//! * `ejection`: [`Ejection`], when the nodes of a cache are ejected and readmitted; `outlier_detector`:
//!   [`OutlierDetector`], which of them are out; `outlier_node`: one of them.
//! * `file_changes`: [`FileChanges`], whether a file that is read repeatedly has a new content.
//! * `flush_log`: [`FlushLog`], the flushes that nodes have missed because they were out.
//! * `hedge`: [`HedgeBudget`], how many reads may be sent to a second server.
//! * `map_refresh`: [`MapRefresh`], when the map of a cluster is asked for again.
//! * `options`: [`RequestOptions`], how long a request of one handle may take.
//! * `read_from`: [`ReadFrom`], which server of a node a read goes to.
//! * `retry`: [`RetryPolicy`], how often a request may be sent again, and the pauses between.
//!
//! Time and randomness are arguments; nothing here reads a clock, sleeps or connects.

mod backoff;
mod connect_error;
mod ejection;
mod file_changes;
mod flush_log;
mod hedge;
mod map_refresh;
mod options;
mod outlier_detector;
mod outlier_node;
mod read_from;
mod retry;

pub use ejection::{
    EJECTION_COUNT_MAX, EJECTION_TIME_MAX, EJECTION_TIME_MIN, Ejection, Readmission, Refusal,
};
pub use read_from::ReadFrom;
pub use retry::{
    RETRY_ATTEMPTS_MAX, RETRY_BACKOFF_MAX, RetryPolicy, TEMPORARY_ERRORS_WAIT_MAX, TemporaryErrors,
};

pub use backoff::NodeState;

#[cfg(feature = "tokio-comp")]
pub(crate) use backoff::OVERDUE_SLACK;
pub(crate) use backoff::{
    Admission, AttemptId, BACKOFF_MAX, BACKOFF_MIN, Backoff, Down, HandshakeScope, Recovery, pause,
    pause_between,
};
pub(crate) use connect_error::{CertificateRefused, ConnectError, IoFailure, is_timeout};
pub(crate) use ejection::{RAMP_STEPS, Refusals};
pub(crate) use file_changes::{FileChanges, FileContent};
pub(crate) use flush_log::FlushLog;
pub(crate) use hedge::HedgeBudget;
pub(crate) use map_refresh::{MapRefresh, RoundOutcome};
pub(crate) use options::RequestOptions;
pub(crate) use outlier_detector::{
    Actions, FailureKind, Flush, FlushCounts, OutSet, OutlierDetector, ProbeOutcome,
};
pub(crate) use read_from::{Candidate, ReplicaId, Target, TargetOrder, Unusable};
pub(crate) use retry::RETRY_BACKOFF_MIN;
