//! The events of a subscriber in the form of redis-rs' `PubSub`: a message, or an error where messages may have
//! been missed.

use std::collections::BTreeSet;

use redis::{Msg, PushInfo, PushKind, Value};

use super::{Event, Message, SubscriptionChange, SubscriptionKind};
use crate::error::{Error, ErrorKind};

/// The names to which a `PubSub` has subscribed, for UNSUBSCRIBE and PUNSUBSCRIBE without names, which end them
/// all.
#[derive(Debug, Default)]
pub(crate) struct SubscribedNames {
    channels: BTreeSet<Vec<u8>>,
    patterns: BTreeSet<Vec<u8>>,
    shard_channels: BTreeSet<Vec<u8>>,
}

impl SubscribedNames {
    /// Records a change, and returns the names to be changed. `None` if all subscriptions are to end and there are
    /// none.
    pub(crate) fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: Vec<Vec<u8>>,
    ) -> Option<Vec<Vec<u8>>> {
        let subscribed = match kind {
            SubscriptionKind::Channel => &mut self.channels,
            SubscriptionKind::Pattern => &mut self.patterns,
            SubscriptionKind::Shard => &mut self.shard_channels,
        };
        match change {
            // Including those that a node refuses: to unsubscribe from them does no harm.
            SubscriptionChange::Subscribe => subscribed.extend(names.iter().cloned()),
            SubscriptionChange::Unsubscribe if names.is_empty() => {
                let all: Vec<_> = std::mem::take(subscribed).into_iter().collect();
                return (!all.is_empty()).then_some(all);
            }
            SubscriptionChange::Unsubscribe => {
                names.iter().for_each(|name| drop(subscribed.take(name)));
            }
        }
        Some(names)
    }
}

/// Returns the message of an event.
///
/// # Errors
///
/// [`NodeDown`](ErrorKind::NodeDown) for an event that marks a gap, with its node.
pub(crate) fn into_msg(event: Event) -> Result<Msg, Error> {
    let (node, text) = match event {
        Event::Message(message) => {
            // redis-rs makes a `Msg` of every message with these parts.
            let unreadable = || Error::new(ErrorKind::Redis, "redis-rs could not read a message");
            return msg(message).ok_or_else(unreadable);
        }
        Event::Disconnected { node } => {
            let text = format!(
                "node {node}: its pub/sub connection was lost; messages published there are missed until its \
                 subscriptions are restored"
            );
            (node, text)
        }
        Event::Missed { node } => {
            let text = format!(
                "node {node}: its subscriptions are restored; messages published there since its pub/sub \
                 connection was lost were missed"
            );
            (node, text)
        }
    };
    Err(Error::new(ErrorKind::NodeDown, text).at_node(&node))
}

/// A message as redis-rs' type, which is made from the push message of RESP3.
fn msg(message: Message) -> Option<Msg> {
    let kind = match message.kind {
        SubscriptionKind::Channel => PushKind::Message,
        SubscriptionKind::Pattern => PushKind::PMessage,
        SubscriptionKind::Shard => PushKind::SMessage,
    };
    let parts = message.pattern.into_iter();
    let parts = parts.chain([message.channel, message.payload]);
    let data = parts.map(Value::BulkString).collect();
    Msg::from_push_info(PushInfo { kind, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: SubscriptionKind, pattern: Option<&[u8]>) -> Event {
        Event::Message(Message {
            channel: b"news".to_vec(),
            pattern: pattern.map(<[u8]>::to_vec),
            payload: b"\xff\x00".to_vec(),
            kind,
        })
    }

    #[test]
    fn event_message_becomes_a_redis_rs_msg_of_each_kind_of_subscription() {
        for (kind, pattern) in [
            (SubscriptionKind::Channel, None),
            (SubscriptionKind::Pattern, Some(&b"n*"[..])),
            (SubscriptionKind::Shard, None),
        ] {
            let msg = into_msg(message(kind, pattern)).unwrap();
            assert_eq!(msg.get_channel_name(), "news");
            assert_eq!(msg.get_payload_bytes(), b"\xff\x00");
            let found: Option<Vec<u8>> = msg.get_pattern().unwrap();
            assert_eq!(found.as_deref(), pattern, "{kind:?}");
        }
    }

    #[test]
    fn unsubscribe_without_names_ends_every_subscription_of_its_kind() {
        use SubscriptionChange::{Subscribe, Unsubscribe};
        use SubscriptionKind::{Channel, Pattern};
        let names =
            |all: &[&str]| -> Vec<Vec<u8>> { all.iter().map(|&name| name.into()).collect() };
        let mut subscribed = SubscribedNames::default();
        subscribed.change(Subscribe, Channel, names(&["a", "b", "c"]));
        subscribed.change(Subscribe, Pattern, names(&["p*"]));
        let ended = subscribed.change(Unsubscribe, Channel, names(&["b"]));
        assert_eq!(ended, Some(names(&["b"])));
        let ended = subscribed.change(Unsubscribe, Channel, Vec::new());
        assert_eq!(ended, Some(names(&["a", "c"])));
        assert_eq!(subscribed.change(Unsubscribe, Channel, Vec::new()), None);
        let ended = subscribed.change(Unsubscribe, Pattern, Vec::new());
        assert_eq!(ended, Some(names(&["p*"])));
        assert_eq!(
            subscribed.change(Subscribe, Channel, Vec::new()),
            Some(Vec::new()),
            "a subscription without names is refused, not skipped"
        );
    }
}
