//! [`ReadFrom`]: which server of a node is a read sent to, and which one next?
//!
//! A node is one primary, or a primary with replicas. For a read that a replica may serve, the executor lists the
//! servers of the node as [`Candidate`]s, and [`ReadFrom::order`] says which is asked first and which follow when it
//! fails:
//!
//! ```text
//!                  primary   replica 1   replica 2 (link broken)   replica 3     order
//! Primary          up                                                            primary
//! PreferReplica    up        usable      unusable                  usable        3, 1, primary
//! Replica          up        usable      unusable                  usable        1, 3
//! PreferPrimary    up        usable      unusable                  usable        primary, 3, 1
//! PreferPrimary    down      usable      unusable                  usable        1, 3, primary
//! Nearest          0.9 ms    0.2 ms      unusable                  1.5 ms        1, primary, 3
//! Random           up        usable      unusable                  usable        3, primary, 1
//! ```

use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

/// The servers that reads by key are sent to, if a node has replicas. The words are those of Lettuce.
///
/// Concerns reads by key only, alone, in a pipeline whose commands for the node are all such reads, or as the part of a
/// split MGET or EXISTS: the column *replicas* of `docs/commands.md` lists the commands. Everything else goes to the
/// primary: writes, scans, whatever blocks, and all that is sent in a transaction, after WATCH, or over a dedicated
/// connection.
///
/// Replication is asynchronous: a replica may not yet have a write that the primary has acknowledged. A replica is
/// *usable* when it is known to follow the primary: its link is up, and it is behind by no more than
/// [`Builder::max_replica_lag`](crate::Builder::max_replica_lag). One that is not usable is not read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The primary, always.
    #[default]
    Primary,
    /// A usable replica, chosen at random; the others, and then the primary, if it cannot be reached.
    PreferReplica,
    /// A usable replica, chosen at random, and never the primary: a read fails with
    /// [`NodeDown`](crate::ErrorKind::NodeDown) while no replica is usable.
    Replica,
    /// The primary; a usable replica only when the primary cannot be reached.
    PreferPrimary,
    /// The usable replica, or the primary, that has replied fastest of late.
    Nearest,
    /// A usable replica, or the primary, chosen at random.
    Random,
}

/// A replica within its node. Never reused for another server while the client lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReplicaId(pub(crate) u32);

/// The server of a node that a request is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Target {
    /// Whichever server is the primary now.
    #[default]
    Primary,
    /// One of the replicas.
    Replica(ReplicaId),
}

/// Why a replica is not read from. The texts have no numbers, so that errors with the same cause read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It has not been asked yet how far it is.
    Unchecked,
    /// It did not reply when it was asked, or no connection to it can be made.
    Unreachable,
    /// It is a primary itself.
    NotReplica,
    /// It follows another primary.
    OtherPrimary,
    /// Its link to the primary is broken.
    LinkBroken,
    /// It is loading the data of the primary.
    Syncing,
    /// It is behind by more bytes than allowed.
    BehindInBytes,
    /// It is behind by more time than allowed.
    BehindInTime,
}

/// A server of a node, as it is known when a read is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// The server.
    pub(crate) target: Target,
    /// Its address, for errors.
    pub(crate) address: &'a str,
    /// Whether it may be read from. The primary always may.
    pub(crate) usable: Result<(), Unusable>,
    /// How long it takes to reply, on average of late; `None` if that was not measured.
    pub(crate) latency: Option<Duration>,
    /// True if it could not be reached and no further attempt is due.
    pub(crate) is_down: bool,
}

/// The servers to ask, one after another. Most nodes have few replicas.
pub(crate) type TargetOrder = SmallVec<[Target; 4]>;

/// No server may be asked. `Display` names the replicas and why each of them is not read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoReplica(String);

impl ReadFrom {
    /// The servers to ask in turn, of which the first is the best. `entropy` is a random number.
    ///
    /// # Errors
    ///
    /// [`NoReplica`] under [`Replica`](Self::Replica), while no replica is usable.
    pub(crate) fn order(
        self,
        candidates: &[Candidate<'_>],
        entropy: u64,
    ) -> Result<TargetOrder, NoReplica> {
        let primary = candidates
            .iter()
            .find(|server| server.target == Target::Primary);
        let replicas = || candidates.iter().filter(|server| self.may_read(server));
        let shuffled = |servers: &mut dyn Iterator<Item = &Candidate<'_>>| {
            let mut order: TargetOrder = servers.map(|server| server.target).collect();
            shuffle(&mut order, entropy);
            order
        };
        let mut order = match self {
            Self::Primary => TargetOrder::new(),
            Self::PreferReplica | Self::Replica | Self::PreferPrimary => shuffled(&mut replicas()),
            Self::Random => {
                shuffled(&mut replicas().chain(primary.filter(|server| !server.is_down)))
            }
            Self::Nearest => {
                let mut servers: SmallVec<[&Candidate<'_>; 4]> =
                    replicas().chain(primary).collect();
                shuffle(&mut servers, entropy);
                // Stable, so what is equally near, or was not measured, stays shuffled. Unmeasured ones are last:
                // each server is measured in the background, so that passes.
                servers.sort_by_key(|server| {
                    (server.is_down, server.latency.unwrap_or(Duration::MAX))
                });
                servers.iter().map(|server| server.target).collect()
            }
        };
        match self {
            Self::Replica if order.is_empty() => return Err(NoReplica::of(candidates)),
            Self::Replica => {}
            Self::PreferPrimary if primary.is_none_or(|primary| !primary.is_down) => {
                order.insert(0, Target::Primary);
            }
            // The last resort is the server that has all data, even if it seems to be down.
            _ if !order.contains(&Target::Primary) => order.push(Target::Primary),
            _ => {}
        }
        Ok(order)
    }

    /// True if this replica may be read from. The primary is no replica.
    fn may_read(self, server: &Candidate<'_>) -> bool {
        let is_usable = match server.usable {
            Ok(()) => true,
            // The handshake of its connections makes sure that it is a replica in step; others wait for the
            // background check, since they have the primary to read from.
            Err(Unusable::Unchecked) => self == Self::Replica,
            Err(_) => false,
        };
        server.target != Target::Primary && is_usable && !server.is_down
    }
}

/// Puts the elements into a random order.
fn shuffle<T>(items: &mut [T], entropy: u64) {
    let mut state = entropy;
    for last in (1..items.len()).rev() {
        // The increment and the mixing of SplitMix64: a few bits of `entropy` are not enough for many elements.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(last, ((mixed ^ (mixed >> 31)) % (last as u64 + 1)) as usize);
    }
}

impl NoReplica {
    /// Describes why none of these servers may be asked.
    fn of(candidates: &[Candidate<'_>]) -> Self {
        use fmt::Write;
        let mut text = String::from("no replica can be read");
        let replicas = candidates
            .iter()
            .filter(|server| server.target != Target::Primary);
        let mut separator = ": ";
        for server in replicas {
            let reason = server.usable.err().unwrap_or(Unusable::Unreachable);
            let _ = write!(text, "{separator}{} {reason}", server.address);
            separator = ", ";
        }
        if separator == ": " {
            text.push_str(": none is known");
        }
        text.push_str("; `ReadFrom::PreferReplica` reads from the primary then");
        Self(text)
    }
}

impl fmt::Display for NoReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "has not been checked yet",
            Self::Unreachable => "cannot be reached",
            Self::NotReplica => "is not a replica",
            Self::OtherPrimary => "replicates another primary",
            Self::LinkBroken => "has lost its link to the primary",
            Self::Syncing => "is still loading the data of the primary",
            Self::BehindInBytes => "is too many bytes behind the primary",
            Self::BehindInTime => "is too long behind the primary",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PRIMARY: Candidate<'static> = Candidate {
        target: Target::Primary,
        address: "p:1",
        usable: Ok(()),
        latency: Some(Duration::from_micros(900)),
        is_down: false,
    };

    fn replica(id: u32, address: &'static str, usable: Result<(), Unusable>) -> Candidate<'static> {
        Candidate {
            target: Target::Replica(ReplicaId(id)),
            address,
            usable,
            latency: Some(Duration::from_micros(u64::from(id) * 500)),
            ..PRIMARY
        }
    }

    /// Primary, two usable replicas, one with a broken link.
    fn servers() -> [Candidate<'static>; 4] {
        [
            PRIMARY,
            replica(1, "r:1", Ok(())),
            replica(2, "r:2", Err(Unusable::LinkBroken)),
            replica(3, "r:3", Ok(())),
        ]
    }

    /// An order in letters: `p` for the primary, the number of each replica.
    fn letters(order: &TargetOrder) -> String {
        let letter = |target: &Target| match target {
            Target::Primary => "p".to_owned(),
            Target::Replica(id) => id.0.to_string(),
        };
        order.iter().map(letter).collect()
    }

    /// How often each order comes up in 6,000 draws.
    fn orders(read_from: ReadFrom, servers: &[Candidate<'_>]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for draw in 0..6_000_u64 {
            let entropy = draw.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let order = read_from.order(servers, entropy).unwrap();
            *counts.entry(letters(&order)).or_default() += 1;
        }
        counts
    }

    /// Asserts that these orders come up, and no others, each about as often as the others.
    fn assert_orders(read_from: ReadFrom, servers: &[Candidate<'_>], expected: &[&str]) {
        let counts = orders(read_from, servers);
        let found: Vec<&str> = counts.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{read_from:?}");
        let share = 6_000 / expected.len();
        for (order, &count) in &counts {
            assert!(
                count.abs_diff(share) < share / 4,
                "{read_from:?}: {order} came up {count} times"
            );
        }
    }

    #[test]
    fn read_from_orders_the_usable_servers_and_never_lists_an_unusable_one() {
        let servers = servers();
        assert_orders(ReadFrom::Primary, &servers, &["p"]);
        assert_orders(ReadFrom::PreferReplica, &servers, &["13p", "31p"]);
        assert_orders(ReadFrom::Replica, &servers, &["13", "31"]);
        assert_orders(ReadFrom::PreferPrimary, &servers, &["p13", "p31"]);
        assert_orders(ReadFrom::Nearest, &servers, &["1p3"]);
        let all = ["13p", "1p3", "31p", "3p1", "p13", "p31"];
        assert_orders(ReadFrom::Random, &servers, &all);
    }

    #[test]
    fn read_from_prefer_primary_begins_with_replicas_only_while_the_primary_is_down() {
        let mut servers = servers();
        servers[0].is_down = true;
        assert_orders(ReadFrom::PreferPrimary, &servers, &["13p", "31p"]);
        assert_orders(ReadFrom::Nearest, &servers, &["13p"]);
        assert_orders(ReadFrom::Random, &servers, &["13p", "31p"]);
        assert_orders(ReadFrom::Primary, &servers, &["p"]);
    }

    #[test]
    fn read_from_without_a_usable_replica_is_the_primary_except_under_replica() {
        let mut servers = servers();
        servers[1].usable = Err(Unusable::BehindInBytes);
        servers[3].is_down = true;
        for read_from in [
            ReadFrom::PreferReplica,
            ReadFrom::PreferPrimary,
            ReadFrom::Nearest,
            ReadFrom::Random,
        ] {
            assert_orders(read_from, &servers, &["p"]);
        }
        let error = ReadFrom::Replica.order(&servers, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no replica can be read: r:1 is too many bytes behind the primary, r:2 has lost its link to the primary, r:3 \
             cannot be reached; `ReadFrom::PreferReplica` reads from the primary then"
        );
        let error = ReadFrom::Replica.order(&[PRIMARY], 0).unwrap_err();
        assert!(error.to_string().contains("none is known"), "{error}");
    }

    #[test]
    fn read_from_replica_alone_reads_from_one_that_has_not_been_checked() {
        let servers = [PRIMARY, replica(1, "r:1", Err(Unusable::Unchecked))];
        assert_orders(ReadFrom::Replica, &servers, &["1"]);
        assert_orders(ReadFrom::PreferReplica, &servers, &["p"]);
        assert_orders(ReadFrom::Random, &servers, &["p"]);
    }

    #[test]
    fn read_from_nearest_puts_servers_without_a_measurement_last() {
        let mut servers = servers();
        servers[1].latency = None;
        assert_orders(ReadFrom::Nearest, &servers, &["p31"]);
        for server in &mut servers {
            server.latency = None;
        }
        let all = ["13p", "1p3", "31p", "3p1", "p13", "p31"];
        assert_orders(ReadFrom::Nearest, &servers, &all);
    }
}
