//! Publish and subscribe over many nodes, as far as it has nothing to do with how bytes move.
//!
//! A channel belongs to the node that owns its name: there it is listened to, and there PUBLISH goes. Patterns are listened
//! to on every node, and so are the channels of keyspace notifications, which tell of keys wherever these live.
//!
//! A script publishes at the node it runs on, which its keys decide: only a channel with the hash tag of those keys is
//! listened to there. Listening to every channel on every node would mend that, and let one node that is down stop all
//! subscriptions.

mod event_queue;
mod worker;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::policy::ConnectError;
use crate::resp::{write_arg, write_command, write_header};

pub(crate) use event_queue::EventQueue;
pub(crate) use worker::{ChangeProgress, ConnectionEnd, SubscriptionWorker};

/// At most so many events wait for the user of a subscriber, twice as many while it waits for a change to be confirmed.
/// When they are not taken, the servers' own limits come to bear: a server drops a subscriber that does not read, and
/// [`Event::Disconnected`] and [`Event::Missed`] tell of it.
pub const EVENTS_MAX: usize = 65_536;

/// At most so many bytes of events wait for the user of a subscriber, unless its `with_event_bytes_max` says otherwise: what a
/// server keeps for a subscriber (`client-output-buffer-limit pubsub`). As with [`EVENTS_MAX`], nothing is read from the
/// servers until some are taken.
pub const EVENT_BYTES_MAX: usize = 32 << 20;

/// A silent connection is asked with PING after so long, and given up when it stays silent for as long again.
/// Shorter for the unit tests.
pub(crate) const KEEPALIVE_AFTER: Duration =
    Duration::from_millis(if cfg!(test) { 300 } else { 15_000 });

/// Names that are dealt with in a row before other tasks get their turn.
pub(crate) const NAMES_AT_ONCE: usize = 512;

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was published.
    Message(Message),
    /// The connection to a node broke: messages that are published at this node from now on are missed, until
    /// [`Missed`](Self::Missed) says that its subscriptions have been made again. Comes at once, and once for every
    /// connection that breaks.
    Disconnected {
        /// The node's name.
        node: String,
    },
    /// The connection to a node broke and its subscriptions have been made again: messages that were published at this
    /// node in between have been missed.
    Missed {
        /// The node's name.
        node: String,
    },
}

impl Event {
    /// How much memory it takes, as good as.
    fn bytes(&self) -> usize {
        let text = match self {
            Self::Message(message) => {
                let pattern = message.pattern.as_ref().map_or(0, Vec::len);
                message.channel.len() + message.payload.len() + pattern
            }
            Self::Disconnected { node } | Self::Missed { node } => node.len(),
        };
        size_of::<Self>() + text
    }
}

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The channel it was published to.
    pub channel: Vec<u8>,
    /// The pattern that matched, when it came by PSUBSCRIBE.
    pub pattern: Option<Vec<u8>>,
    /// What was published.
    pub payload: Vec<u8>,
    /// How the channel is listened to.
    pub kind: SubscriptionKind,
}

/// How one listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SubscriptionKind {
    /// To a channel: SUBSCRIBE.
    Channel,
    /// To all channels that match a pattern, on every node: PSUBSCRIBE.
    Pattern,
    /// To a shard channel: SSUBSCRIBE. Servers have it from Redis 7.0 on.
    Shard,
}

impl SubscriptionKind {
    pub(crate) fn command(self, change: SubscriptionChange) -> &'static [u8] {
        match (self, change) {
            (Self::Channel, SubscriptionChange::Subscribe) => b"SUBSCRIBE",
            (Self::Channel, SubscriptionChange::Unsubscribe) => b"UNSUBSCRIBE",
            (Self::Pattern, SubscriptionChange::Subscribe) => b"PSUBSCRIBE",
            (Self::Pattern, SubscriptionChange::Unsubscribe) => b"PUNSUBSCRIBE",
            (Self::Shard, SubscriptionChange::Subscribe) => b"SSUBSCRIBE",
            (Self::Shard, SubscriptionChange::Unsubscribe) => b"SUNSUBSCRIBE",
        }
    }
}

/// To begin or to end to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionChange {
    Subscribe,
    Unsubscribe,
}

/// A name, shared by all that keep it.
pub(crate) type ChannelName = Arc<[u8]>;

/// Names by the nodes that must hear of them.
pub(crate) struct NamesByNode {
    kind: SubscriptionKind,
    by_node: Vec<Vec<ChannelName>>,
}

impl NamesByNode {
    pub(crate) fn new(router: &Router, kind: SubscriptionKind) -> Self {
        Self {
            kind,
            by_node: vec![Vec::new(); router.topology().nodes().len()],
        }
    }

    /// Adds names.
    pub(crate) fn add(&mut self, router: &Router, names: &[Vec<u8>]) -> Result<(), Error> {
        for name in names {
            let shared = ChannelName::from(name.as_slice());
            match is_everywhere(self.kind, name) {
                true => {
                    let nodes = self.by_node.iter_mut();
                    nodes.for_each(|node| node.push(Arc::clone(&shared)));
                }
                false => self.by_node[router.owner(name)?.get()].push(shared),
            }
        }
        Ok(())
    }

    /// The nodes that must hear of any, in node order, and the names for each.
    pub(crate) fn finish(self, router: &Router) -> Vec<(NodeIndex, Vec<ChannelName>)> {
        let nodes = router.topology().indices().zip(self.by_node);
        nodes.filter(|(_, names)| !names.is_empty()).collect()
    }
}

/// Whether every node may have something to say. A server publishes what happens to its keys by itself, under names that
/// say nothing of which node that is.
fn is_everywhere(kind: SubscriptionKind, name: &[u8]) -> bool {
    match kind {
        SubscriptionKind::Pattern => true,
        SubscriptionKind::Channel => {
            name.starts_with(b"__keyspace@") || name.starts_with(b"__keyevent@")
        }
        SubscriptionKind::Shard => false,
    }
}

/// What is listened to at one node, and what the node has confirmed. All that is done takes time that does not depend on how
/// much is listened to, or is done in steps of [`NAMES_AT_ONCE`].
#[derive(Debug, Default)]
pub(crate) struct SubscriptionTracker {
    /// By kind: see [`place`].
    names: [BTreeMap<ChannelName, NameState>; 3],
    /// How many of the names are wanted.
    desired_count: usize,
    /// How many of them the node listens to although it should not, or the other way around.
    unconfirmed: usize,
    /// The number of the connection.
    connection: u64,
    refused: Option<Error>,
    /// What the last change was about, which is what a refusal refuses, and whether it was wanted before.
    changed: Vec<(SubscriptionKind, ChannelName, bool)>,
    restore: Restore,
}

/// How it stands with a name.
#[derive(Clone, Copy, Debug, Default)]
struct NameState {
    desired: bool,
    /// The connection on which the node confirmed it last.
    confirmed_on: Option<u64>,
}

/// Making all subscriptions again on a new connection.
#[derive(Debug, Default)]
struct Restore {
    /// The first name not asked for yet is behind this one; `None` when all are asked for.
    behind: Option<(usize, Bound<ChannelName>)>,
    /// How many requests the node has yet to answer.
    unanswered: usize,
}

/// What a node said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PubSubReply {
    Message(Message),
    /// All subscriptions are as they should be, or one was refused.
    Confirmed,
    /// All subscriptions that a new connection makes again are made or refused.
    Restored,
    /// Something that changes nothing for those who wait.
    Nothing,
}

impl NameState {
    fn is_confirmed(self, connection: u64) -> bool {
        self.confirmed_on == Some(connection)
    }

    fn is_as_desired(self, connection: u64) -> bool {
        self.desired == self.is_confirmed(connection)
    }
}

impl SubscriptionTracker {
    /// Begins a change of what is wanted.
    pub(crate) fn begin_change(&mut self) {
        self.refused = None;
        self.changed.clear();
    }

    /// Changes what is wanted. The node must be told with a [`ChangeRequest`], if there is a connection.
    pub(crate) fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) {
        for name in names {
            let mut before = false;
            self.set(kind, name, |standing, _| {
                before = standing.desired;
                standing.desired = change == SubscriptionChange::Subscribe;
            });
            self.changed.push((kind, Arc::clone(name), before));
        }
    }

    /// The connection is new: nothing is confirmed. All is asked for again with [`restore`](Self::restore).
    pub(crate) fn begin_restore(&mut self) {
        self.connection += 1;
        self.unconfirmed = self.desired_count;
        self.restore = Restore {
            behind: Some((0, Bound::Unbounded)),
            unanswered: 0,
        };
    }

    /// The next requests that make the subscriptions again, one for each, so that one that is refused does not take the others
    /// with it; `None` when there are no more. They must be written before all others.
    pub(crate) fn restore(&mut self) -> Option<Vec<u8>> {
        let (place, behind) = self.restore.behind.take()?;
        let command = KINDS[place].command(SubscriptionChange::Subscribe);
        let range = (behind.as_ref().map(AsRef::as_ref), Bound::Unbounded);
        let next = self.names[place].range::<[u8], _>(range);
        let mut packed = Vec::new();
        let mut stale = Vec::new();
        let mut last = None;
        for (name, standing) in next.take(NAMES_AT_ONCE) {
            last = Some(Arc::clone(name));
            if standing.desired {
                self.restore.unanswered += 1;
                write_command(&mut packed, &[command, name]);
            } else if !standing.is_confirmed(self.connection) {
                stale.push(Arc::clone(name));
            }
        }
        for name in stale {
            self.names[place].remove(&name);
        }
        self.restore.behind = match last {
            Some(last) => Some((place, Bound::Excluded(last))),
            None if place + 1 < KINDS.len() => Some((place + 1, Bound::Unbounded)),
            None => None,
        };
        Some(packed)
    }

    /// Whether the node has answered all that [`restore`](Self::restore) asked for.
    pub(crate) fn is_restored(&self) -> bool {
        self.restore.behind.is_none() && self.restore.unanswered == 0
    }

    /// Whether the node listens to what is wanted, and to nothing else.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.unconfirmed == 0
    }

    /// Why the node does not do what is wanted, if it said so. The change must be taken back with
    /// [`roll_back`](Self::roll_back).
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// The change is confirmed: what it was about is not kept in mind any longer.
    pub(crate) fn end_change(&mut self) {
        self.changed = Vec::new();
    }

    /// Takes back a part of the change that was refused, the last name first. Whether it is taken back entirely.
    pub(crate) fn roll_back(&mut self) -> bool {
        let rest = self.changed.len().saturating_sub(NAMES_AT_ONCE);
        for (kind, name, before) in self.changed.split_off(rest).into_iter().rev() {
            self.set(kind, &name, |standing, _| standing.desired = before);
        }
        self.changed.is_empty()
    }

    /// Takes what the node said.
    pub(crate) fn handle_reply(&mut self, value: Value, node: &str) -> PubSubReply {
        let mut items = match value {
            Value::Array(items) => items.into_iter(),
            Value::ServerError(error) => {
                self.refused = Some(Error::from_server(&crate::error::named_server_error(
                    &error, node,
                )));
                return self.answered();
            }
            _ => return PubSubReply::Nothing,
        };
        let word = text(items.next());
        let (kind, said) = match word.as_slice() {
            b"message" => (SubscriptionKind::Channel, Confirmation::Message),
            b"pmessage" => (SubscriptionKind::Pattern, Confirmation::Message),
            b"smessage" => (SubscriptionKind::Shard, Confirmation::Message),
            b"subscribe" => (SubscriptionKind::Channel, Confirmation::Begun),
            b"psubscribe" => (SubscriptionKind::Pattern, Confirmation::Begun),
            b"ssubscribe" => (SubscriptionKind::Shard, Confirmation::Begun),
            b"unsubscribe" => (SubscriptionKind::Channel, Confirmation::Ended),
            b"punsubscribe" => (SubscriptionKind::Pattern, Confirmation::Ended),
            b"sunsubscribe" => (SubscriptionKind::Shard, Confirmation::Ended),
            _ => return PubSubReply::Nothing,
        };
        if said == Confirmation::Message {
            let pattern = (kind == SubscriptionKind::Pattern).then(|| text(items.next()));
            return PubSubReply::Message(Message {
                channel: text(items.next()),
                pattern,
                payload: text(items.next()),
                kind,
            });
        }
        self.set(kind, &text(items.next()), |standing, connection| {
            standing.confirmed_on = (said == Confirmation::Begun).then_some(connection);
        });
        self.answered()
    }

    /// Answers come in the order of the requests, and those of [`restore`](Self::restore) are the first of a connection.
    fn answered(&mut self) -> PubSubReply {
        let is_restored = self.is_restored();
        self.restore.unanswered = self.restore.unanswered.saturating_sub(1);
        match self.is_restored() {
            true if !is_restored => PubSubReply::Restored,
            _ if self.is_confirmed() || self.refused.is_some() => PubSubReply::Confirmed,
            _ => PubSubReply::Nothing,
        }
    }

    /// Changes how it stands with a name. One that is neither wanted nor confirmed is forgotten.
    fn set(&mut self, kind: SubscriptionKind, name: &[u8], set: impl FnOnce(&mut NameState, u64)) {
        let connection = self.connection;
        let names = &mut self.names[place(kind)];
        let before = names.get(name).copied().unwrap_or_default();
        let mut after = before;
        set(&mut after, connection);
        self.desired_count =
            self.desired_count + usize::from(after.desired) - usize::from(before.desired);
        self.unconfirmed = self.unconfirmed + usize::from(!after.is_as_desired(connection))
            - usize::from(!before.is_as_desired(connection));
        if !after.desired && !after.is_confirmed(connection) {
            names.remove(name);
        } else if let Some(standing) = names.get_mut(name) {
            *standing = after;
        } else {
            names.insert(name.into(), after);
        }
    }
}

const KINDS: [SubscriptionKind; 3] = [
    SubscriptionKind::Channel,
    SubscriptionKind::Pattern,
    SubscriptionKind::Shard,
];

fn place(kind: SubscriptionKind) -> usize {
    match kind {
        SubscriptionKind::Channel => 0,
        SubscriptionKind::Pattern => 1,
        SubscriptionKind::Shard => 2,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    Message,
    Begun,
    Ended,
}

/// The request that tells a node of a change, to be filled with its names.
pub(crate) struct ChangeRequest {
    packed: Vec<u8>,
}

impl ChangeRequest {
    /// For so many names.
    pub(crate) fn new(change: SubscriptionChange, kind: SubscriptionKind, names: usize) -> Self {
        let mut packed = Vec::new();
        write_header(&mut packed, names + 1);
        write_arg(&mut packed, kind.command(change));
        Self { packed }
    }

    pub(crate) fn add(&mut self, names: &[ChannelName]) {
        for name in names {
            write_arg(&mut self.packed, name);
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.packed
    }
}

fn text(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes,
        Some(Value::SimpleString(text)) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// No name was given.
pub(crate) fn nothing_to_do() -> Error {
    Error::new(
        ErrorKind::Unroutable,
        "the request names no channel and no pattern; name at least one",
    )
}

/// There is no thread that could read what `node` publishes.
pub(crate) fn no_thread(node: &str, error: &std::io::Error) -> Error {
    let text = format!(
        "node {node}: no thread to receive its messages: {error}; raise the limit of threads"
    );
    Error::new(ErrorKind::NodeDown, text).at_node(node)
}

/// The node did not confirm in time: it cannot be reached for this reason, or is slow.
pub(crate) fn not_confirmed(node: &str, why: Option<&ConnectError>) -> Error {
    let (kind, text) = match why {
        None => (ErrorKind::Timeout, "no confirmation in time".to_owned()),
        Some(error @ ConnectError::Auth(_)) => (ErrorKind::Auth, error.to_string()),
        Some(error @ (ConnectError::FailedBefore | ConnectError::Unreachable(_))) => {
            (ErrorKind::NodeDown, error.to_string())
        }
    };
    let text =
        format!("node {node}: {text}; the subscription is made as soon as the node can be reached");
    Error::new(kind, text).at_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(items: &[&str]) -> Value {
        Value::Array(
            items
                .iter()
                .map(|item| Value::BulkString(item.as_bytes().to_vec()))
                .collect(),
        )
    }

    fn names(names: &[&str]) -> Vec<ChannelName> {
        names.iter().map(|name| name.as_bytes().into()).collect()
    }

    /// Changes what is wanted; the request that tells the node.
    fn change(
        listening: &mut SubscriptionTracker,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        all: &[&str],
    ) -> Vec<u8> {
        let all = names(all);
        listening.begin_change();
        listening.change(change, kind, &all);
        let mut request = ChangeRequest::new(change, kind, all.len());
        request.add(&all);
        request.finish()
    }

    fn restore(listening: &mut SubscriptionTracker) -> Vec<u8> {
        listening.begin_restore();
        std::iter::from_fn(|| listening.restore())
            .flatten()
            .collect()
    }

    fn refuse(listening: &mut SubscriptionTracker) {
        let refusal = crate::error::server_error("NOPERM", "no");
        assert_eq!(
            listening.handle_reply(Value::ServerError(refusal), "n"),
            PubSubReply::Confirmed
        );
    }

    #[test]
    fn subscribe_is_confirmed_when_the_node_confirms_each_channel() {
        let mut listening = SubscriptionTracker::default();
        let packed = change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a", "b"],
        );
        assert_eq!(packed, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n");
        assert!(!listening.is_confirmed());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "a"]), "n"),
            PubSubReply::Nothing
        );
        assert!(!listening.is_confirmed());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "b"]), "n"),
            PubSubReply::Confirmed
        );
        assert!(listening.is_confirmed());
        change(
            &mut listening,
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            &["a"],
        );
        assert!(!listening.is_confirmed());
        listening.handle_reply(array(&["unsubscribe", "a"]), "n");
        assert!(listening.is_confirmed());
    }

    #[test]
    fn all_subscriptions_are_sent_again_over_a_new_connection() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a"],
        );
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            &["p*"],
        );
        listening.handle_reply(array(&["subscribe", "a"]), "n");
        listening.handle_reply(array(&["psubscribe", "p*"]), "n");
        let packed = restore(&mut listening);
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\np*\r\n"
        );
        assert!(!listening.is_confirmed() && !listening.is_restored());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "a"]), "n"),
            PubSubReply::Nothing
        );
        assert!(!listening.is_restored());
        assert_eq!(
            listening.handle_reply(array(&["psubscribe", "p*"]), "n"),
            PubSubReply::Restored
        );
        assert!(listening.is_confirmed() && listening.is_restored());
    }

    #[test]
    fn subscription_changes_during_a_resubscription_are_sent_separately() {
        let mut listening = SubscriptionTracker::default();
        let many: Vec<String> = (0..3 * NAMES_AT_ONCE)
            .map(|number| format!("{number:06}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &many,
        );
        for name in &many {
            listening.handle_reply(array(&["subscribe", name]), "n");
        }
        assert!(listening.is_confirmed());
        listening.begin_restore();
        listening.restore().unwrap();
        // One that was asked for already, one that will be, and a new one.
        change(
            &mut listening,
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            &[many[0], many[many.len() - 1], "none"],
        );
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["000000x"],
        );
        let rest: Vec<u8> = std::iter::from_fn(|| listening.restore())
            .flatten()
            .collect();
        let asked = rest.split(|&byte| byte == b'*').count() - 1;
        assert_eq!(asked, 2 * NAMES_AT_ONCE - 1);
        for name in &many[..many.len() - 1] {
            assert!(!listening.is_restored());
            listening.handle_reply(array(&["subscribe", name]), "n");
        }
        assert!(listening.is_restored() && !listening.is_confirmed());
        for name in [many[0], many[many.len() - 1], "none"] {
            listening.handle_reply(array(&["unsubscribe", name]), "n");
        }
        listening.handle_reply(array(&["subscribe", "000000x"]), "n");
        assert!(listening.is_confirmed());
        assert_eq!(listening.desired_count, many.len() - 1);
    }

    #[test]
    fn refused_subscribe_leaves_earlier_subscriptions_in_place() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a", "b"],
        );
        listening.handle_reply(array(&["subscribe", "a"]), "n");
        listening.handle_reply(array(&["subscribe", "b"]), "n");
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["x", "a", "x"],
        );
        refuse(&mut listening);
        // The connection breaks before the refusal is taken: nothing is confirmed.
        restore(&mut listening);
        assert!(listening.take_refusal().is_some());
        while !listening.roll_back() {}
        let packed = restore(&mut listening);
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n"
        );
    }

    #[test]
    fn message_and_pmessage_pushes_keep_their_channel_and_pattern() {
        let mut listening = SubscriptionTracker::default();
        let heard = listening.handle_reply(array(&["pmessage", "p*", "pub", "hello"]), "n");
        let expected = Message {
            channel: b"pub".to_vec(),
            pattern: Some(b"p*".to_vec()),
            payload: b"hello".to_vec(),
            kind: SubscriptionKind::Pattern,
        };
        assert_eq!(heard, PubSubReply::Message(expected));
        assert_eq!(
            listening.handle_reply(array(&["pong", ""]), "n"),
            PubSubReply::Nothing
        );
    }

    #[test]
    fn refused_subscribe_is_reported_once_and_not_repeated() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Shard,
            &["a"],
        );
        refuse(&mut listening);
        let error = listening.take_refusal().expect("a refusal");
        while !listening.roll_back() {}
        assert!(error.to_string().contains("NOPERM") && error.to_string().contains("node n"));
        assert!(listening.take_refusal().is_none() && listening.is_confirmed());
    }
}
