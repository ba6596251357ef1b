//! What one client listens to, and what it is told of that.

use std::collections::BTreeSet;

use crate::reply::{Protocol, write_bulk, write_int};
use crate::subscribe::{Change, Message, Subscription};

/// Channels and patterns of one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions {
    names: BTreeSet<(Subscription, Vec<u8>)>,
}

impl Subscriptions {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn has(&self, kind: Subscription, name: &[u8]) -> bool {
        self.names.contains(&(kind, name.to_vec()))
    }

    pub(super) fn count(&self, kind: Subscription) -> usize {
        self.names.iter().filter(|(of, _)| *of == kind).count()
    }

    /// All of a kind.
    pub(super) fn of(&self, kind: Subscription) -> Vec<Vec<u8>> {
        let names = self.names.iter().filter(|(of, _)| *of == kind);
        names.map(|(_, name)| name.clone()).collect()
    }

    /// Notes a change, and confirms each name of it.
    pub(super) fn change(
        &mut self,
        change: Change,
        kind: Subscription,
        names: &[Vec<u8>],
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        for name in names {
            match change {
                Change::Begin => drop(self.names.insert((kind, name.clone()))),
                Change::End => drop(self.names.remove(&(kind, name.clone()))),
            }
            self.confirm(change, kind, Some(name), protocol, out);
        }
        if names.is_empty() {
            self.confirm(change, kind, None, protocol, out);
        }
    }

    fn confirm(
        &self,
        change: Change,
        kind: Subscription,
        name: Option<&Vec<u8>>,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        let left = match kind {
            Subscription::Shard => self.count(Subscription::Shard),
            _ => self.count(Subscription::Channel) + self.count(Subscription::Pattern),
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

/// A message, as a server passes it on.
pub(super) fn write_message(message: &Message, protocol: Protocol, out: &mut Vec<u8>) {
    let (word, items): (&[u8], _) = match message.kind {
        Subscription::Channel => (b"message", 3),
        Subscription::Pattern => (b"pmessage", 4),
        Subscription::Shard => (b"smessage", 3),
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
    fn every_name_is_confirmed_with_what_is_left() {
        let mut all = Subscriptions::default();
        let mut out = Vec::new();
        let names = [b"a".to_vec(), b"b".to_vec()];
        all.change(
            Change::Begin,
            Subscription::Channel,
            &names,
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            Change::Begin,
            Subscription::Pattern,
            &names[..1],
            Protocol::Resp3,
            &mut out,
        );
        all.change(
            Change::Begin,
            Subscription::Shard,
            &names[..1],
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            Change::End,
            Subscription::Shard,
            &names[..1],
            Protocol::Resp2,
            &mut out,
        );
        all.change(
            Change::End,
            Subscription::Shard,
            &[],
            Protocol::Resp2,
            &mut out,
        );
        let expected = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n\
            >3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:3\r\n*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n\
            *3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(all.of(Subscription::Channel), names);
    }
}
