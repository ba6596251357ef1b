//! The errors of a change of subscriptions.

use super::{SubscriptionChange, SubscriptionKind};
use crate::error::{Error, ErrorKind};
use crate::policy::ConnectError;

/// Error for a change without a channel or pattern, in the words with which a server refuses SUBSCRIBE without names.
/// UNSUBSCRIBE without names would end all subscriptions.
pub(crate) fn nothing_to_do(change: SubscriptionChange, kind: SubscriptionKind) -> Error {
    const TEXT: &str = "the request names no channel and no pattern; name at least one";
    let command = match (change, kind) {
        (SubscriptionChange::Unsubscribe, _) => return Error::new(ErrorKind::Unroutable, TEXT),
        (SubscriptionChange::Subscribe, SubscriptionKind::Channel) => "subscribe",
        (SubscriptionChange::Subscribe, SubscriptionKind::Pattern) => "psubscribe",
        (SubscriptionChange::Subscribe, SubscriptionKind::Shard) => "ssubscribe",
    };
    let text = format!("wrong number of arguments for '{command}' command");
    let reply = crate::error::server_error("ERR", &text);
    Error::new(ErrorKind::Redis, TEXT).caused_by(std::sync::Arc::new(reply.into()))
}

/// Error for a node whose pub/sub connection cannot be read because the operating system refused a thread.
pub(crate) fn no_thread(node: &str, error: &std::io::Error) -> Error {
    let text = format!(
        "node {node}: no thread could be started to receive its messages: {error}; raise the limit on threads"
    );
    Error::new(ErrorKind::NodeDown, text).at_node(node)
}

/// Error for a subscription without a confirmation in time. `why` is the outage of the node; without one it
/// is only slow.
///
/// The subscription stays desired, and the text says so: calling again is not needed.
pub(crate) fn not_confirmed(node: &str, why: Option<&ConnectError>) -> Error {
    if let Some(refusal) = why.and_then(ConnectError::refusal) {
        return Error::from_server(&refusal, Some(node));
    }
    let (kind, text) = match why {
        // No outage is known, so the node may only be slow: the kind is that of any other reply that is late.
        None => (
            ErrorKind::Timeout,
            "timed out: no confirmation in time".to_owned(),
        ),
        Some(error @ (ConnectError::Auth(_) | ConnectError::Certificate(_))) => {
            (ErrorKind::Auth, error.to_string())
        }
        Some(error @ ConnectError::Stale(_)) => (ErrorKind::Stale, error.to_string()),
        Some(error @ ConnectError::NoSuchMaster(_)) => (ErrorKind::Config, error.to_string()),
        Some(
            error @ (ConnectError::FailedBefore
            | ConnectError::PrimaryChanged
            | ConnectError::Superseded
            | ConnectError::Unreachable(_)
            | ConnectError::Refused(_)),
        ) => (ErrorKind::NodeDown, error.to_string()),
    };
    let text =
        format!("node {node}: {text}; the subscription is made as soon as the node can be reached");
    Error::new(kind, text)
        .at_node(node)
        .with_io(why.and_then(ConnectError::io_kind))
}
