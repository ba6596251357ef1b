//! [`Fence`]: when no connection of an older epoch is left at a node, and what is done about those that stay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

/// Time after which a connection that is blocked again is taken out of its command again. Its client may not have known of
/// this record yet, but of that of another node.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(20);

/// One connection of a server, as CLIENT LIST shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerClient {
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) name: String,
    pub(super) user: String,
    flags: String,
}

/// Who need not follow the record.
#[derive(Clone, Debug, Default)]
pub(super) struct Exempt<'a> {
    /// The id of this mover.
    pub(super) mover: &'a str,
    /// Names, users and addresses that the operator vouches for.
    pub(super) administrators: &'a [String],
}

/// A wait until each connection of a node has acknowledged an epoch.
#[derive(Debug)]
pub(super) struct Fence {
    started: Instant,
    /// After this time those that are left are killed.
    bound: Duration,
    /// Connections that have been taken out of a blocking command, and when.
    unblocked: BTreeMap<u64, Instant>,
}

/// What a fence needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FenceStep {
    /// No connection of an older epoch is left.
    Done,
    /// These are blocked: CLIENT UNBLOCK with an error, then look again.
    Unblock(Vec<u64>),
    /// Look at these again after a short while.
    Poll(Vec<u64>),
    /// The time is up: CLIENT KILL. Nothing that they have sent is run after its reply.
    Kill(Vec<u64>),
}

impl ServerClient {
    /// Reads the reply to CLIENT LIST.
    pub(super) fn list(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut client = Self::default();
        // No value has a space: neither names nor users may.
        for (field, value) in line.split(' ').filter_map(|field| field.split_once('=')) {
            let text = match field {
                "id" => {
                    client.id = value.parse().ok()?;
                    continue;
                }
                "addr" => &mut client.address,
                "name" => &mut client.name,
                "user" => &mut client.user,
                "flags" => &mut client.flags,
                _ => continue,
            };
            *text = value.trim_end().to_owned();
        }
        (client.id != 0).then_some(client)
    }

    /// True if it waits in a command such as BLPOP.
    fn is_blocked(&self) -> bool {
        self.flags.contains('b')
    }

    /// True for a replica or a primary of the server.
    fn is_replication(&self) -> bool {
        self.flags.contains(['S', 'M'])
    }

    /// The id of the mover that the connection is of, if it is of one.
    fn mover(&self) -> Option<&str> {
        let (id, suffix) = NameSuffix::split(&self.name)?;
        (suffix.role == ConnectionRole::Mover).then_some(id)
    }

    /// True for a connection of another mover than the one with this id.
    pub(super) fn is_of_other_mover(&self, mover: &str) -> bool {
        self.mover().is_some_and(|id| id != mover)
    }

    /// True for a connection of a mover that has claimed a term: not of one that only looks.
    pub(super) fn has_term(&self) -> bool {
        NameSuffix::of(&self.name).is_some_and(|suffix| suffix.epoch.term > 0)
    }

    /// The address without the port.
    pub(super) fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// True if the connection says nothing of a record that it follows, and need not.
    pub(super) fn is_foreign(&self, exempt: &Exempt<'_>) -> bool {
        !self.is_exempt(exempt) && NameSuffix::of(&self.name).is_none()
    }

    /// True if the connection may have sent something under an older epoch than this.
    fn is_behind(&self, epoch: RecordEpoch, exempt: &Exempt<'_>) -> bool {
        if self.is_exempt(exempt) {
            return false;
        }
        // Without a name it may know anything.
        NameSuffix::of(&self.name).is_none_or(|suffix| match suffix.role {
            ConnectionRole::Subscriptions | ConnectionRole::Monitor => false,
            ConnectionRole::Commands | ConnectionRole::Mover => suffix.epoch < epoch,
        })
    }

    fn is_exempt(&self, exempt: &Exempt<'_>) -> bool {
        let words = [&*self.name, &*self.user, &*self.address, self.host()];
        let is_named = |word: &String| !word.is_empty() && words.contains(&&**word);
        self.is_replication()
            || self.mover() == Some(exempt.mover)
            || exempt.administrators.iter().any(is_named)
    }
}

/// The connections that hold a fence for this epoch up.
pub(super) fn behind<'c>(
    clients: &'c [ServerClient],
    epoch: RecordEpoch,
    exempt: &Exempt<'_>,
) -> Vec<&'c ServerClient> {
    let behind = |client: &&ServerClient| client.is_behind(epoch, exempt);
    clients.iter().filter(behind).collect()
}

impl Fence {
    pub(super) fn new(now: Instant, bound: Duration) -> Self {
        Self {
            started: now,
            bound,
            unblocked: BTreeMap::new(),
        }
    }

    /// Decides about the connections that are behind.
    ///
    /// A connection that is made later is never among them: it reads the record after it has shown its name.
    pub(super) fn next(&mut self, now: Instant, behind: &[&ServerClient]) -> FenceStep {
        if behind.is_empty() {
            return FenceStep::Done;
        }
        let ids = |clients: &mut dyn Iterator<Item = &&ServerClient>| -> Vec<u64> {
            clients.map(|client| client.id).collect()
        };
        if now.saturating_duration_since(self.started) >= self.bound {
            return FenceStep::Kill(ids(&mut behind.iter()));
        }
        let is_due = |client: &&&ServerClient| {
            let before = self.unblocked.get(&client.id);
            let is_due = |before: &Instant| now.saturating_duration_since(*before) >= UNBLOCK_AGAIN;
            client.is_blocked() && before.is_none_or(is_due)
        };
        let blocked = ids(&mut behind.iter().filter(is_due));
        match blocked.is_empty() {
            false => {
                self.unblocked.extend(blocked.iter().map(|id| (*id, now)));
                FenceStep::Unblock(blocked)
            }
            true => FenceStep::Poll(ids(&mut behind.iter())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
id=3 addr=10.0.0.9:4711 laddr=10.0.0.1:6379 fd=8 name=web#rs.c.3.7 age=1 idle=0 flags=N db=0 multi=-1 user=default resp=3\n\
id=4 addr=10.0.0.9:4712 laddr=10.0.0.1:6379 fd=9 name=#rs.c.3.8 age=1 idle=0 flags=N db=0 user=default resp=3\n\
id=5 addr=10.0.0.8:1 fd=9 name= age=1 flags=b db=0 user=default\n\
id=6 addr=10.0.0.2:6379 fd=9 name= age=1 flags=S db=0 user=default\n\
id=7 addr=10.0.0.8:2 fd=9 name=#rs.s.1.1 flags=P user=default\n\
id=8 addr=10.0.0.8:3 fd=9 name=m-1#rs.m.3.0 flags=N user=default\n\
id=9 addr=10.0.0.8:4 fd=9 name=m-0#rs.m.2.0 flags=N user=default\n\
id=10 addr=10.0.0.7:4 fd=9 name=cron flags=N user=backup\n";

    fn exempt(administrators: &[String]) -> Exempt<'_> {
        Exempt {
            mover: "m-1",
            administrators,
        }
    }

    fn ids(clients: &[&ServerClient]) -> Vec<u64> {
        clients.iter().map(|client| client.id).collect()
    }

    #[test]
    fn fence_waits_for_every_connection_that_is_not_exempt() {
        let clients = ServerClient::list(LIST);
        assert_eq!(clients.len(), 8);
        let behind_of = |number, administrators: &[String]| {
            let epoch = RecordEpoch::new(3, number);
            ids(&behind(&clients, epoch, &exempt(administrators)))
        };
        assert_eq!(behind_of(8, &[]), [3, 5, 9, 10]);
        assert_eq!(behind_of(7, &[]), [5, 9, 10]);
        for administrator in ["cron", "backup", "10.0.0.7", "10.0.0.7:4"] {
            assert_eq!(behind_of(7, &[administrator.to_owned()]), [5, 9]);
        }
        // An empty word exempts nobody.
        assert_eq!(behind_of(7, &[String::new()]), [5, 9, 10]);
    }

    #[test]
    fn fence_names_connections_without_a_record_and_those_of_other_movers() {
        let clients = ServerClient::list(LIST);
        let foreign = clients
            .iter()
            .filter(|client| client.is_foreign(&exempt(&[])));
        assert_eq!(ids(&foreign.collect::<Vec<_>>()), [5, 10]);
        let movers = clients
            .iter()
            .filter(|client| client.is_of_other_mover("m-1"));
        assert_eq!(ids(&movers.collect::<Vec<_>>()), [9]);
    }

    #[test]
    fn fence_unblocks_at_once_and_again_after_a_pause_and_kills_last() {
        let clients = ServerClient::list(LIST);
        let (now, bound) = (Instant::now(), Duration::from_millis(500));
        let mut fence = Fence::new(now, bound);
        let behind = behind(&clients, RecordEpoch::new(3, 8), &exempt(&[]));
        assert_eq!(fence.next(now, &behind), FenceStep::Unblock(vec![5]));
        assert_eq!(fence.next(now, &behind), FenceStep::Poll(vec![3, 5, 9, 10]));
        let again = fence.next(now + UNBLOCK_AGAIN, &behind);
        assert_eq!(again, FenceStep::Unblock(vec![5]));
        assert_eq!(
            fence.next(now + bound, &behind[..1]),
            FenceStep::Kill(vec![3])
        );
        assert_eq!(fence.next(now + bound, &[]), FenceStep::Done);
    }
}
