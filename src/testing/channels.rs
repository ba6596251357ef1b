//! Subscriptions of all connections of one node, and the delivery of messages.

use std::sync::mpsc::Sender;

use super::protocol::{Protocol, Reply};
use crate::plan::glob_matches;

/// The subscriptions of a node, in the order in which they were made, which is that of delivery.
#[derive(Debug, Default)]
pub(super) struct Channels {
    subscriptions: Vec<Subscription>,
    /// Number of each connection, and its queue of bytes to be written.
    writers: Vec<(u64, Sender<Vec<u8>>)>,
}

/// One subscription of one connection.
#[derive(Debug)]
struct Subscription {
    session: u64,
    /// Protocol of the connection when it subscribed: messages are pushes in RESP3, and arrays in RESP2.
    protocol: Protocol,
    topic: Topic,
}

/// A channel, or a pattern of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Channel(Vec<u8>),
    Pattern(Vec<u8>),
}

impl Channels {
    /// Adds a connection, to which messages can be delivered from now on.
    pub(super) fn connect(&mut self, session: u64, writer: Sender<Vec<u8>>) {
        self.writers.push((session, writer));
    }

    /// Removes a connection with its subscriptions.
    pub(super) fn disconnect(&mut self, session: u64) {
        self.writers.retain(|(id, _)| *id != session);
        // Or a message would count as received by a connection that is gone.
        self.unsubscribe_all(session);
    }

    /// Removes all subscriptions of a connection.
    pub(super) fn unsubscribe_all(&mut self, session: u64) {
        self.subscriptions
            .retain(|subscription| subscription.session != session);
    }

    /// Adds a subscription, unless the connection has it.
    pub(super) fn subscribe(&mut self, session: u64, protocol: Protocol, topic: Topic) {
        // A second SUBSCRIBE to a channel is confirmed, and changes nothing.
        if !self.topics(session).any(|known| *known == topic) {
            self.subscriptions.push(Subscription {
                session,
                protocol,
                topic,
            });
        }
    }

    /// Removes a subscription, if the connection has it.
    pub(super) fn unsubscribe(&mut self, session: u64, topic: &Topic) {
        self.subscriptions
            .retain(|subscription| subscription.session != session || subscription.topic != *topic);
    }

    /// Iterates over the subscriptions of a connection.
    pub(super) fn topics(&self, session: u64) -> impl Iterator<Item = &Topic> {
        let mine = self
            .subscriptions
            .iter()
            .filter(move |subscription| subscription.session == session);
        mine.map(|subscription| &subscription.topic)
    }

    /// Delivers a message to every subscription that matches. Returns their number: a connection with a
    /// channel and a pattern gets the message twice, as from a real server.
    pub(super) fn publish(&self, channel: &[u8], message: &[u8]) -> usize {
        let mut receivers = 0;
        let bulk = |bytes: &[u8]| Reply::Bulk(bytes.to_vec());
        for subscription in &self.subscriptions {
            let push = match &subscription.topic {
                Topic::Channel(name) if name == channel => {
                    vec![bulk(b"message"), bulk(channel), bulk(message)]
                }
                Topic::Pattern(pattern) if glob_matches(pattern, channel) => {
                    vec![
                        bulk(b"pmessage"),
                        bulk(pattern),
                        bulk(channel),
                        bulk(message),
                    ]
                }
                _ => continue,
            };
            receivers += 1;
            // In the protocol of each subscriber.
            let bytes = Reply::Push(push).encode(subscription.protocol);
            if let Some((_, writer)) = self
                .writers
                .iter()
                .find(|(id, _)| *id == subscription.session)
            {
                // A connection that is closing has no reader any more: its message is lost, as on a real
                // server.
                let _ = writer.send(bytes);
            }
        }
        receivers
    }
}
