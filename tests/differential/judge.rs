//! The rules by which the replies of one server and of the fleet are compared.

use std::collections::BTreeSet;

use super::wire::Reply;

/// How two replies must be alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Byte for byte.
    Exact,
    /// The same items in any order: a server has its sets in the order of a hash table with a random seed.
    Unordered,
    /// The same pairs in any order.
    Pairs,
    /// Numbers may differ by [`LATER_MAX`] milliseconds, all else may not: the fleet is asked a little earlier.
    Close,
    /// Other numbers and texts of the same types: times, and the identity of a connection.
    Shape,
    /// What HELLO says, but for the number of the connection.
    Hello,
    /// What is drawn by chance: as much of it, and all of it there.
    Random,
    /// Members removed by chance: the same ones are then removed from the one server, which must have had them.
    Popped,
    /// A cursor: it is followed to its end, and the same must have been found, in any order.
    Loop,
}

/// How much later the one server may be asked, in milliseconds, also on a machine that is busy with something else.
pub const LATER_MAX: u64 = 5000;

impl Rule {
    /// Whether the two replies are alike, for the rules that need to see nothing else.
    pub fn allows(self, one: &Reply, fleet: &Reply) -> bool {
        one == fleet
            || match self {
                Self::Exact | Self::Random | Self::Popped | Self::Loop => false,
                Self::Unordered => sorted(one, 1) == sorted(fleet, 1),
                Self::Pairs => sorted(one, 2) == sorted(fleet, 2),
                Self::Close => same_but(one, fleet, &close),
                Self::Shape => same_but(one, fleet, &|one, fleet| mark(one) == mark(fleet)),
                Self::Hello => without_id(one) == without_id(fleet),
            }
    }

    /// Whether such a command can be sent among others.
    pub fn is_plain(self) -> bool {
        !matches!(self, Self::Random | Self::Popped | Self::Loop)
    }
}

/// A command of a transaction: how its reply is compared, and where its keys live.
pub type Queued = (Rule, BTreeSet<usize>);

/// What EXEC answers, compared by the rules of the commands in the transaction. Whatever was carried out must be about keys
/// of one place, the watched ones included.
pub fn exec_allows(
    queued: &[Queued],
    watched: &BTreeSet<usize>,
    one: &Reply,
    fleet: &Reply,
) -> bool {
    match (one, fleet) {
        (Reply::Many(b'*', Some(one)), Reply::Many(b'*', Some(fleet))) => {
            let mut nodes = watched.clone();
            let done = queued
                .iter()
                .zip(one)
                .filter(|(_, one)| one.error().is_none());
            nodes.extend(done.flat_map(|((_, nodes), _)| nodes));
            nodes.len() <= 1
                && one.len() == fleet.len()
                && one.len() == queued.len()
                && (queued.iter().zip(one).zip(fleet))
                    .all(|(((rule, _), one), fleet)| rule.allows(one, fleet))
        }
        _ => one == fleet,
    }
}

/// The mark of an aggregate, and its items sorted by groups of `size`.
fn sorted(reply: &Reply, size: usize) -> Option<(u8, Vec<&[Reply]>)> {
    match reply {
        Reply::Many(mark, Some(items)) => {
            let mut groups: Vec<&[Reply]> = items.chunks(size).collect();
            groups.sort_unstable();
            Some((*mark, groups))
        }
        _ => None,
    }
}

/// Whether two replies have the same structure, and leaves that are equal or `alike`.
fn same_but(one: &Reply, fleet: &Reply, alike: &dyn Fn(&Reply, &Reply) -> bool) -> bool {
    match (one, fleet) {
        (Reply::Many(one_mark, Some(one)), Reply::Many(fleet_mark, Some(fleet))) => {
            one_mark == fleet_mark
                && one.len() == fleet.len()
                && (one.iter().zip(fleet)).all(|(one, fleet)| same_but(one, fleet, alike))
        }
        _ => one == fleet || alike(one, fleet),
    }
}

fn close(one: &Reply, fleet: &Reply) -> bool {
    match (one.integer(), fleet.integer()) {
        // -1 and -2 are no times.
        (Some(one), Some(fleet)) => one >= 0 && fleet >= 0 && one.abs_diff(fleet) <= LATER_MAX,
        _ => false,
    }
}

fn mark(reply: &Reply) -> Option<u8> {
    match reply {
        Reply::Line(b'-', _) | Reply::Many(..) | Reply::Bulk(_, None) => None,
        Reply::Line(mark, _) | Reply::Bulk(mark, _) => Some(*mark),
    }
}

fn without_id(reply: &Reply) -> Option<(u8, Vec<&Reply>)> {
    match reply {
        Reply::Many(mark, Some(items)) => {
            let id = items.iter().position(|item| item.bytes() == Some(b"id"))?;
            let others = items.iter().enumerate().filter(|(at, _)| *at != id + 1);
            Some((*mark, others.map(|(_, item)| item).collect()))
        }
        _ => None,
    }
}
