//! RESP3 push messages, and where they go: [`PushSender`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;

use redis::{ConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value};

use crate::error::Error;

/// Receives the RESP3 push messages of all nodes; set by
/// [`Builder::push_sender`](crate::Builder::push_sender).
///
/// Implemented for closures that take the node's name and the message, and for the channels that redis-rs accepts:
/// the senders of `std::sync::mpsc` and `tokio::sync::mpsc`, and that of `tokio::sync::broadcast`. If a bounded channel
/// is full, the message is dropped; an unbounded one keeps every message until it is received.
pub trait PushSender: Send + Sync + 'static {
    /// Receives a push message from a connection to `node`. Must not block: the connection is not read until this
    /// returns. If it panics, the panic is caught after the panic hook has printed it, and the message is lost.
    fn send(&self, node: &str, push: PushInfo);
}

impl<F: Fn(&str, PushInfo) + Send + Sync + 'static> PushSender for F {
    fn send(&self, node: &str, push: PushInfo) {
        self(node, push);
    }
}

// Failures are ignored, here and below: the receiver was dropped, or a bounded channel is full.
impl PushSender for mpsc::Sender<PushInfo> {
    fn send(&self, _: &str, push: PushInfo) {
        let _ = self.send(push);
    }
}

impl PushSender for mpsc::SyncSender<PushInfo> {
    fn send(&self, _: &str, push: PushInfo) {
        let _ = self.try_send(push);
    }
}

#[cfg(feature = "tokio-comp")]
impl PushSender for tokio::sync::mpsc::UnboundedSender<PushInfo> {
    fn send(&self, _: &str, push: PushInfo) {
        let _ = self.send(push);
    }
}

#[cfg(feature = "tokio-comp")]
impl PushSender for tokio::sync::mpsc::Sender<PushInfo> {
    fn send(&self, _: &str, push: PushInfo) {
        let _ = self.try_send(push);
    }
}

#[cfg(feature = "tokio-comp")]
impl PushSender for tokio::sync::broadcast::Sender<PushInfo> {
    fn send(&self, _: &str, push: PushInfo) {
        let _ = self.send(push);
    }
}

/// The receiver of one node's push messages.
#[derive(Clone)]
pub(crate) struct PushTarget {
    node: Arc<str>,
    sender: Arc<dyn PushSender>,
}

impl PushTarget {
    /// Sends the push messages of this node to `sender`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the connections to the node do not use RESP3, and so have no push
    /// messages.
    pub(crate) fn new(
        sender: &Arc<dyn PushSender>,
        node: &str,
        info: &ConnectionInfo,
    ) -> Result<Self, Error> {
        if info.redis_settings().protocol() != ProtocolVersion::RESP3 {
            let text = format!(
                "node {node:?}: Builder::push_sender needs RESP3, as RESP2 has no push messages; \
                 add ?protocol=resp3 to the node's URL"
            );
            return Err(Error::config(text).at_node(node));
        }
        Ok(Self {
            node: node.into(),
            sender: Arc::clone(sender),
        })
    }

    /// Passes on a push message, whose first item is its kind. Ignores anything else.
    pub(crate) fn message(&self, items: &[Value]) {
        let kind = match items.first() {
            Some(Value::BulkString(kind)) => kind,
            Some(Value::SimpleString(kind)) => kind.as_bytes(),
            _ => return,
        };
        let kind = push_kind(kind);
        let data = items[1..].to_vec();
        self.send(PushInfo { kind, data });
    }

    /// Sends redis-rs' message for a lost connection.
    pub(crate) fn disconnected(&self) {
        let push = PushInfo {
            kind: PushKind::Disconnection,
            data: Vec::new(),
        };
        self.send(push);
    }

    /// Hands a message to the receiver.
    fn send(&self, push: PushInfo) {
        // A panic would end the connection of everyone, and the process if the message is sent while the task
        // of the connection is dropped because of it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.sender.send(&self.node, push)));
    }
}

/// The kind with this name. redis-rs parses it, from a message without data, so that the kinds are its own.
fn push_kind(name: &[u8]) -> PushKind {
    let mut packed = format!(">1\r\n${}\r\n", name.len()).into_bytes();
    packed.extend_from_slice(name);
    packed.extend_from_slice(b"\r\n");
    match redis::parse_redis_value(&packed) {
        Ok(Value::Push { kind, .. }) => kind,
        _ => PushKind::Other(String::from_utf8_lossy(name).into_owned()),
    }
}

impl fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushTarget")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_message_keeps_its_node_kind_and_data() {
        let (sender, receiver) = mpsc::channel();
        let sender = move |node: &str, push: PushInfo| {
            sender.send((node.to_owned(), push)).unwrap();
        };
        let target = PushTarget {
            node: "a".into(),
            sender: Arc::new(sender),
        };
        let text = |text: &str| Value::BulkString(text.into());
        target.message(&[text("invalidate"), Value::Array(vec![text("k")])]);
        target.message(&[Value::SimpleString("MOVING".into()), Value::Int(1)]);
        target.message(&[]);
        target.message(&[Value::Int(1)]);
        target.disconnected();
        let received: Vec<_> = receiver.try_iter().collect();
        let push = |kind, data| ("a".to_owned(), PushInfo { kind, data });
        let keys = vec![Value::Array(vec![text("k")])];
        assert_eq!(
            received,
            [
                push(PushKind::Invalidate, keys),
                push(PushKind::Other("MOVING".into()), vec![Value::Int(1)]),
                push(PushKind::Disconnection, Vec::new()),
            ]
        );
    }
}
