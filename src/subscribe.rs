//! Publish and subscribe over many nodes, as far as it has nothing to do with how bytes move.
//!
//! A channel belongs to the node that owns its name: there it is listened to, and there PUBLISH goes. Patterns are listened
//! to on every node, and so are the channels of keyspace notifications, which tell of keys wherever these live.
//!
//! A script publishes at the node it runs on, which its keys decide: only a channel with the hash tag of those keys is
//! listened to there. Listening to every channel on every node would mend that, and let one node that is down stop all
//! subscriptions.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::Value;

use crate::command::write_command;
use crate::error::{Error, ErrorKind};
use crate::node::NodeIndex;
use crate::plan::Router;

/// So many events wait for the user of a subscriber at most. When they are not taken, the servers' own limits come to bear:
/// a server drops a subscriber that does not listen, and [`Event::Missed`] tells of it.
pub const EVENTS_MAX: usize = 65_536;

/// A silent connection is asked with PING after so long, and given up when it stays silent for as long again.
pub(crate) const SILENCE: Duration = Duration::from_secs(15);

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was published.
    Message(Message),
    /// The connection to a node broke and its subscriptions have been made again: messages that were published at this
    /// node in between have been missed.
    Missed {
        /// The node's name.
        node: String,
    },
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
    pub kind: Subscription,
}

/// How one listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Subscription {
    /// To a channel: SUBSCRIBE.
    Channel,
    /// To all channels that match a pattern, on every node: PSUBSCRIBE.
    Pattern,
    /// To a shard channel: SSUBSCRIBE. Servers have it from Redis 7.0 on.
    Shard,
}

impl Subscription {
    pub(crate) fn command(self, change: Change) -> &'static [u8] {
        match (self, change) {
            (Self::Channel, Change::Begin) => b"SUBSCRIBE",
            (Self::Channel, Change::End) => b"UNSUBSCRIBE",
            (Self::Pattern, Change::Begin) => b"PSUBSCRIBE",
            (Self::Pattern, Change::End) => b"PUNSUBSCRIBE",
            (Self::Shard, Change::Begin) => b"SSUBSCRIBE",
            (Self::Shard, Change::End) => b"SUNSUBSCRIBE",
        }
    }
}

/// To begin or to end to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Begin,
    End,
}

/// A node, and the names that concern it.
pub(crate) type NamesOfNode = (NodeIndex, Vec<Vec<u8>>);

/// Which nodes must hear of these names, in node order, and which of the names each.
pub(crate) fn spread(
    router: &Router,
    kind: Subscription,
    names: &[Vec<u8>],
) -> Result<Vec<NamesOfNode>, Error> {
    let mut by_node: Vec<Vec<Vec<u8>>> = vec![Vec::new(); router.topology().nodes().len()];
    for name in names {
        match is_everywhere(kind, name) {
            true => by_node.iter_mut().for_each(|node| node.push(name.clone())),
            false => by_node[router.owner(name)?.get()].push(name.clone()),
        }
    }
    let nodes = router.topology().indices().zip(by_node);
    Ok(nodes.filter(|(_, names)| !names.is_empty()).collect())
}

/// Whether every node may have something to say. A server publishes what happens to its keys by itself, under names that
/// say nothing of which node that is.
fn is_everywhere(kind: Subscription, name: &[u8]) -> bool {
    match kind {
        Subscription::Pattern => true,
        Subscription::Channel => {
            name.starts_with(b"__keyspace@") || name.starts_with(b"__keyevent@")
        }
        Subscription::Shard => false,
    }
}

/// What is listened to at one node, and what the node has confirmed.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    wanted: BTreeSet<(Subscription, Vec<u8>)>,
    confirmed: BTreeSet<(Subscription, Vec<u8>)>,
    refused: Option<Error>,
    /// What the last change was about, which is what a refusal refuses.
    changed: Vec<(Subscription, Vec<u8>)>,
    /// How many subscriptions of a new connection the node has yet to answer.
    restoring: usize,
}

/// What a node said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(Message),
    /// A subscription began or ended, or was refused.
    Settled,
    /// The same, and it was the last of those that a new connection makes again.
    Restored,
    /// Something that does not matter.
    Nothing,
}

impl Listening {
    /// Changes what is wanted; the request that tells the node.
    pub(crate) fn change(
        &mut self,
        change: Change,
        kind: Subscription,
        names: &[Vec<u8>],
    ) -> Vec<u8> {
        self.refused = None;
        self.changed = names.iter().map(|name| (kind, name.clone())).collect();
        for entry in &self.changed {
            match change {
                Change::Begin => drop(self.wanted.insert(entry.clone())),
                Change::End => drop(self.wanted.remove(entry)),
            }
        }
        request(kind, change, names)
    }

    /// The connection is new: nothing is confirmed. The requests that make all subscriptions again, one for each, so that
    /// one that is refused does not take the others with it.
    pub(crate) fn restore(&mut self) -> Vec<u8> {
        self.confirmed.clear();
        self.restoring = self.wanted.len();
        let mut packed = Vec::new();
        for (kind, name) in &self.wanted {
            packed.extend_from_slice(&request(*kind, Change::Begin, std::slice::from_ref(name)));
        }
        packed
    }

    /// Whether the node has answered all that [`restore`](Self::restore) asked for.
    pub(crate) fn is_restored(&self) -> bool {
        self.restoring == 0
    }

    /// Whether the node listens to what is wanted, and to nothing else.
    pub(crate) fn is_settled(&self) -> bool {
        self.wanted == self.confirmed
    }

    /// Why the node does not do what is wanted, if it said so. The names it refused are not wanted any more.
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        let refused = self.refused.take();
        if refused.is_some() {
            for entry in self.changed.drain(..) {
                match self.confirmed.contains(&entry) {
                    true => drop(self.wanted.insert(entry)),
                    false => drop(self.wanted.remove(&entry)),
                }
            }
        }
        refused
    }

    /// Takes what the node said.
    pub(crate) fn hear(&mut self, value: Value, node: &str) -> Heard {
        let mut items = match value {
            Value::Array(items) => items.into_iter(),
            Value::ServerError(error) => {
                self.refused = Some(Error::said(&crate::error::named_server_error(&error, node)));
                return self.settled();
            }
            _ => return Heard::Nothing,
        };
        let word = text(items.next());
        let (kind, said) = match word.as_slice() {
            b"message" => (Subscription::Channel, Said::Message),
            b"pmessage" => (Subscription::Pattern, Said::Message),
            b"smessage" => (Subscription::Shard, Said::Message),
            b"subscribe" => (Subscription::Channel, Said::Begun),
            b"psubscribe" => (Subscription::Pattern, Said::Begun),
            b"ssubscribe" => (Subscription::Shard, Said::Begun),
            b"unsubscribe" => (Subscription::Channel, Said::Ended),
            b"punsubscribe" => (Subscription::Pattern, Said::Ended),
            b"sunsubscribe" => (Subscription::Shard, Said::Ended),
            _ => return Heard::Nothing,
        };
        match said {
            Said::Message => {
                let pattern = (kind == Subscription::Pattern).then(|| text(items.next()));
                return Heard::Message(Message {
                    channel: text(items.next()),
                    pattern,
                    payload: text(items.next()),
                    kind,
                });
            }
            Said::Begun => drop(self.confirmed.insert((kind, text(items.next())))),
            Said::Ended => drop(self.confirmed.remove(&(kind, text(items.next())))),
        }
        self.settled()
    }

    /// Answers come in the order of the requests, and those of [`restore`](Self::restore) are the first of a connection.
    fn settled(&mut self) -> Heard {
        let before = self.restoring;
        self.restoring = before.saturating_sub(1);
        match before {
            1 => Heard::Restored,
            _ => Heard::Settled,
        }
    }
}

enum Said {
    Message,
    Begun,
    Ended,
}

fn request(kind: Subscription, change: Change, names: &[Vec<u8>]) -> Vec<u8> {
    let mut args: Vec<&[u8]> = vec![kind.command(change)];
    args.extend(names.iter().map(Vec::as_slice));
    let mut packed = Vec::new();
    write_command(&mut packed, &args);
    packed
}

fn text(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes,
        Some(Value::SimpleString(text)) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// This node is not reached over a plain socket.
pub(crate) fn not_plain(node: &str) -> Error {
    Error::config(format!(
        "node {node}: a subscriber listens over plain TCP and unix sockets; for TLS or special socket options open a \
         connection for it with redis-rs"
    ))
}

/// No name was given.
pub(crate) fn nothing_to_do() -> Error {
    Error::new(ErrorKind::Unroutable, "no channel or pattern was named")
}

/// The node did not confirm in time.
pub(crate) fn not_confirmed(node: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::NodeDown,
        format!("node {node}: {why}; the subscription is made as soon as the node can be reached"),
    )
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

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn subscriptions_settle_when_the_node_confirms_each() {
        let mut listening = Listening::default();
        let packed = listening.change(Change::Begin, Subscription::Channel, &names(&["a", "b"]));
        assert_eq!(packed, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n");
        assert!(!listening.is_settled());
        listening.hear(array(&["subscribe", "a"]), "n");
        assert!(!listening.is_settled());
        listening.hear(array(&["subscribe", "b"]), "n");
        assert!(listening.is_settled());
        listening.change(Change::End, Subscription::Channel, &names(&["a"]));
        assert!(!listening.is_settled());
        listening.hear(array(&["unsubscribe", "a"]), "n");
        assert!(listening.is_settled());
    }

    #[test]
    fn a_new_connection_hears_of_everything_again() {
        let mut listening = Listening::default();
        listening.change(Change::Begin, Subscription::Channel, &names(&["a"]));
        listening.change(Change::Begin, Subscription::Pattern, &names(&["p*"]));
        listening.hear(array(&["subscribe", "a"]), "n");
        listening.hear(array(&["psubscribe", "p*"]), "n");
        let packed = listening.restore();
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\np*\r\n"
        );
        assert!(!listening.is_settled() && !listening.is_restored());
        assert_eq!(
            listening.hear(array(&["subscribe", "a"]), "n"),
            Heard::Settled
        );
        assert!(!listening.is_restored());
        assert_eq!(
            listening.hear(array(&["psubscribe", "p*"]), "n"),
            Heard::Restored
        );
        assert!(listening.is_settled() && listening.is_restored());
    }

    #[test]
    fn a_refusal_takes_nothing_from_what_was_wanted_before() {
        let mut listening = Listening::default();
        listening.change(Change::Begin, Subscription::Channel, &names(&["a", "b"]));
        listening.hear(array(&["subscribe", "a"]), "n");
        listening.hear(array(&["subscribe", "b"]), "n");
        listening.change(Change::Begin, Subscription::Channel, &names(&["x"]));
        listening.hear(
            Value::ServerError(crate::error::server_error("NOPERM", "no")),
            "n",
        );
        // The connection breaks before the refusal is taken: nothing is confirmed.
        listening.restore();
        assert!(listening.take_refusal().is_some());
        let packed = listening.restore();
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n"
        );
    }

    #[test]
    fn messages_say_how_they_came() {
        let mut listening = Listening::default();
        let heard = listening.hear(array(&["pmessage", "p*", "pub", "hello"]), "n");
        let expected = Message {
            channel: b"pub".to_vec(),
            pattern: Some(b"p*".to_vec()),
            payload: b"hello".to_vec(),
            kind: Subscription::Pattern,
        };
        assert_eq!(heard, Heard::Message(expected));
        assert_eq!(listening.hear(array(&["pong", ""]), "n"), Heard::Nothing);
    }

    #[test]
    fn a_refusal_is_told_once_and_wanted_no_more() {
        let mut listening = Listening::default();
        listening.change(Change::Begin, Subscription::Shard, &names(&["a"]));
        listening.hear(
            Value::ServerError(crate::error::server_error("NOPERM", "no")),
            "n",
        );
        let error = listening.take_refusal().expect("a refusal");
        assert!(error.to_string().contains("NOPERM") && error.to_string().contains("node n"));
        assert!(listening.take_refusal().is_none() && listening.is_settled());
    }
}
