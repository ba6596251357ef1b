//! The subscriptions of one client, and how confirmations and messages are written.
//!
//! One set of names for each kind: channels, patterns, shard channels. As on a server, the count in a
//! confirmation covers channels and patterns together, and shard channels by themselves.

use std::collections::BTreeSet;

use crate::plan::pubsub::{Message, SubscriptionChange, SubscriptionKind};
use crate::resp::{Protocol, write_bulk, write_int};

/// Channels, patterns and shard channels of one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions {
    /// Names by kind; [`place`] gives the index. Ordered, so that UNSUBSCRIBE without names confirms in a
    /// fixed order.
    names: [BTreeSet<Vec<u8>>; 3],
}

/// Index of a kind in [`Subscriptions::names`].
fn place(kind: SubscriptionKind) -> usize {
    match kind {
        SubscriptionKind::Channel => 0,
        SubscriptionKind::Pattern => 1,
        SubscriptionKind::Shard => 2,
    }
}

impl Subscriptions {
    /// True if there is no subscription of any kind.
    pub(super) fn is_empty(&self) -> bool {
        self.names.iter().all(BTreeSet::is_empty)
    }

    /// True if this name is subscribed to.
    pub(super) fn has(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.names[place(kind)].contains(name)
    }

    /// Number of names of a kind.
    pub(super) fn count(&self, kind: SubscriptionKind) -> usize {
        self.names[place(kind)].len()
    }

    /// Returns all names of a kind, sorted.
    pub(super) fn of(&self, kind: SubscriptionKind) -> Vec<Vec<u8>> {
        self.names[place(kind)].iter().cloned().collect()
    }

    /// Adds or removes names, and writes one confirmation for each, with the count after it. A name that was
    /// subscribed before is confirmed again. Without names, writes one confirmation with nil for the name.
    pub(super) fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[Vec<u8>],
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        for name in names {
            let all = &mut self.names[place(kind)];
            match change {
                SubscriptionChange::Subscribe => drop(all.insert(name.clone())),
                SubscriptionChange::Unsubscribe => drop(all.remove(name)),
            }
            self.confirm(change, kind, Some(name), protocol, out);
        }
        if names.is_empty() {
            self.confirm(change, kind, None, protocol, out);
        }
    }

    /// Writes one confirmation.
    fn confirm(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        name: Option<&Vec<u8>>,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        // The count of a server: RESP2 clients leave subscribed mode when it is zero.
        let left = match kind {
            SubscriptionKind::Shard => self.count(SubscriptionKind::Shard),
            _ => self.count(SubscriptionKind::Channel) + self.count(SubscriptionKind::Pattern),
        };
        protocol.write_push(out, 3);
        write_bulk(out, &kind.command(change).to_ascii_lowercase());
        match name {
            Some(name) => write_bulk(out, name),
            None => protocol.write_nil(out),
        }
        write_int(out, left as i64);
    }
}

/// Writes a message: a push in RESP3, an array in RESP2.
pub(super) fn write_message(message: &Message, protocol: Protocol, out: &mut Vec<u8>) {
    let (word, items): (&[u8], _) = match message.kind {
        SubscriptionKind::Channel => (b"message", 3),
        SubscriptionKind::Pattern => (b"pmessage", 4),
        SubscriptionKind::Shard => (b"smessage", 3),
    };
    protocol.write_push(out, items);
    write_bulk(out, word);
    if let Some(pattern) = &message.pattern {
        write_bulk(out, pattern);
    }
    write_bulk(out, &message.channel);
    write_bulk(out, &message.payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribe_and_unsubscribe_confirm_each_name_with_the_remaining_count() {
        let mut all = Subscriptions::default();
        let mut out = Vec::new();
        let names = [b"a".to_vec(), b"b".to_vec()];
        all.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &names,
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            &names[..1],
            Protocol::Resp3,
            &mut out,
        );
        all.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Shard,
            &names[..1],
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Shard,
            &names[..1],
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Shard,
            &[],
            Protocol::Resp2,
            &mut out,
        );
        let expected = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n\
            >3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:3\r\n*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n\
            *3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(all.of(SubscriptionKind::Channel), names);
    }

    #[test]
    fn subscribe_to_100000_channels_takes_linear_time() {
        let mut all = Subscriptions::default();
        let names: Vec<Vec<u8>> = (0..100_000)
            .map(|number| format!("c:{number}").into_bytes())
            .collect();
        let mut out = Vec::new();
        let start = std::time::Instant::now();
        for change in [
            SubscriptionChange::Subscribe,
            SubscriptionChange::Unsubscribe,
        ] {
            let kind = SubscriptionKind::Channel;
            all.change(change, kind, &names, Protocol::Resp2, &mut out);
        }
        let taken = start.elapsed();
        assert!(taken < std::time::Duration::from_secs(10), "{taken:?}");
        assert!(all.is_empty() && out.ends_with(b"$7\r\nc:99999\r\n:0\r\n"));
    }
}
