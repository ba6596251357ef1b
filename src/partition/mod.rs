//! Which node owns these bytes?
//!
//! A [`Partitioner`] is the rule; [`Partitioner::place`] builds its answers for one set of nodes, a
//! [`Placement`], once per topology. The answers are asked per key: they are pure, allocate nothing, and are
//! the same on every machine for ever. Both traits are open: bring your own.
//!
//! | rule | owner of a key | when nodes change |
//! |---|---|---|
//! | [`Rendezvous`] | highest score wins, per slot; the default | only what must move; their order does not matter |
//! | [`Ring`] | the next point on a circle | only what must move; their order does not matter |
//! | [`SlotMap`] | a table of 16384 slots, which is data | what you move, as a list |
//! | [`HashMod`] | hash modulo nodes | nearly everything moves |
//! | [`Range`] | tables of ranges per kind of key | what you move |
//! | [`from_fn`] | a function of your own | |
//! | [`peers`] | where another client or proxy puts the key | |
//!
//! Every rule has a frozen name and frozen options: [`catalogue`] lists them, [`by_name`] makes a rule from
//! them.
//!
//! # While nodes are out
//!
//! A cache may go on without some of its nodes. Who owns a key then is a pure function of the key and the *set*
//! of nodes that are [out](OutNodes): two clients that see the same set agree, in whichever order the nodes
//! failed, and when all are back, every key is where it was. It is part of what the name of a rule freezes.
//!
//! - A key whose owner lives does not move.
//! - A key whose owner is out goes where [`Placement::locate_without`] says: on a [`Ring`] to the next point of
//!   a living node, by [`Rendezvous`] to the living node with the highest score, by [`HashMod`] and [`SlotMap`]
//!   to where its number belongs when it is hashed again.
//! - A rule that says nothing ([`Range`], [`from_fn`], and your own by default), or finds no living node, leaves
//!   the choice to *highest random weight*: of the living nodes the one with the largest `mix(XXH3(key) xor
//!   id)`, where `key` is what the tag rule left of the key, `id` is the [`NodeId`] and `mix` is as in
//!   [`Rendezvous`]. Weights do not count there.
//! - [`peers`] that take dead nodes out do what the peer does, even if that moves other keys too:
//!   [`Partitioner::place_without`].
//!
//! Nothing here knows a command, a connection or a clock.

mod catalogue;
mod from_fn;
mod hash_mod;
mod key_number;
pub(crate) mod line;
mod living;
mod mix;
pub mod node;
mod node_text;
mod out_nodes;
pub(crate) mod password;
pub mod peers;
mod range;
mod rendezvous;
mod ring;
mod slot_map;

use std::collections::HashMap;
use std::fmt;

use key_number::KeyNumber;

use crate::hash::HashTag;
use crate::partition::password::{ADVICE, Shown, holds_password};
pub use node::{NODES_MAX, NodeId, NodeIndex, NodeSpec};

pub(crate) use catalogue::check_words;
pub use catalogue::{OptionInfo, OptionValues, PartitionerInfo, by_name, catalogue};
pub use from_fn::{FromFn, from_fn};
pub use hash_mod::{HashMod, NodeOrder, Reduction};
pub use key_number::EmptyKey;
pub use line::SyntaxError;
pub(crate) use living::highest_random_weight;
pub use node_text::NodeText;
pub use out_nodes::OutNodes;
pub use range::{
    BytesTable, NumericTable, Range, RangeBuilder, RangeEntry, RangeError, RangeTable,
};
pub use rendezvous::Rendezvous;
pub use ring::{Direction, PointLabel, Ring, RingSpec, Shares, Ties};
pub use slot_map::{Rebalance, SlotMap, SlotMapError, SlotMove, SlotRange};

/// The largest sum of weights that the partitioners of this crate accept.
///
/// A weight is a number of shares, not of bytes: each is paid for when a placement is built. No share is
/// smaller than one slot of a [`SlotMap`].
pub const WEIGHTS_MAX: u32 = 16_384;

/// Decides which node owns a key.
///
/// Pure: the same nodes and the same key give the same answer on every machine, for ever. A placement is a
/// file format: a rule whose answers change must change its [`name`](Self::name).
///
/// ```
/// use redis_sharding::partition::{Partitioner, Placement, PlacementError, check_nodes};
/// use redis_sharding::{NodeIndex, NodeSpec, ShardedClient};
///
/// /// Everything lives on the first node.
/// #[derive(Debug)]
/// struct First;
///
/// impl Partitioner for First {
///     fn name(&self) -> &str {
///         "first/1"
///     }
///
///     fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
///         check_nodes(nodes)?;
///         Ok(Box::new(First))
///     }
/// }
///
/// impl Placement for First {
///     fn locate(&self, _key: &[u8]) -> Option<NodeIndex> {
///         Some(NodeIndex::new(0))
///     }
/// }
///
/// # fn main() -> Result<(), redis_sharding::Error> {
/// let client = ShardedClient::builder()
///     .node("a", "redis://10.0.0.1/")
///     .node("b", "redis://10.0.0.2/")
///     .partitioner(First)
///     .build()?;
/// assert_eq!(client.node_for("user:1")?.name(), "a");
/// # Ok(()) }
/// ```
pub trait Partitioner: fmt::Debug + Send + Sync {
    /// A frozen name with a version, such as `by-tenant/1`. It goes into fingerprints.
    fn name(&self) -> &str;

    /// Everything besides the nodes and the tag rule that decides the answers, as `(option, value)` pairs in
    /// a fixed order. It goes into fingerprints. Defaults to none.
    fn options(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Builds the placement over these nodes. Called once per topology, never per command.
    ///
    /// # Errors
    ///
    /// When the rule cannot place keys over these nodes.
    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError>;

    /// Builds the placement while these nodes are out, where it takes more than
    /// [`Placement::locate_without`]. For peers that rebuild their continuum over the living nodes, which moves
    /// keys of living nodes too. Its answers are positions in `nodes`, and never nodes that are out. Called once
    /// per set of nodes, never per command.
    ///
    /// Defaults to `None`: keys of living nodes stay, and those of others go where
    /// [`Placement::locate_without`] says.
    ///
    /// # Errors
    ///
    /// When the rule cannot place keys over the other nodes.
    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        let _ = (nodes, out);
        Ok(None)
    }

    /// Which bytes of a key are handed to [`Placement::locate`]. Defaults to Redis Cluster's rule, the part
    /// between braces.
    fn hash_tag(&self) -> HashTag {
        HashTag::Braces
    }
}

/// The owners of keys by a [`Partitioner`], for one set of nodes.
pub trait Placement: fmt::Debug + Send + Sync {
    /// The owner of `key`, as a position in the nodes it was placed over, or `None` when the rule leaves the
    /// key without an owner. `key` is what the tag rule left of the user's key. Must not allocate.
    fn locate(&self, key: &[u8]) -> Option<NodeIndex>;

    /// The owner of `key` while the nodes in `out` are out. It is asked when [`locate`](Self::locate) has said
    /// one of them. Like `locate` it is frozen, pure, and must not allocate; its answer depends on the set, not
    /// on an order in which the nodes went out.
    ///
    /// `None` leaves the choice to the topology, which takes the living node of the highest random weight: the
    /// largest `mix(XXH3(key) xor id)`, see the [module](self#while-nodes-are-out). So does an answer that is
    /// out itself. Defaults to `None`.
    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let _ = (key, out);
        None
    }
}

/// An error of placing keys over a set of nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Two nodes have one name.
    #[error("two nodes are named {name:?}; names must be unique")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// There is no node to place keys on.
    #[error("no nodes to place keys on")]
    NoNodes,
    /// No node has a point on the ring.
    #[error("no node has a point on the ring: points-per-weight is too small")]
    NoPoints,
    /// An option is given more than once.
    #[error("the option {option:?} of {placement} is given twice")]
    OptionTwice {
        /// The name of the built-in placement.
        placement: &'static str,
        /// The option.
        option: String,
    },
    /// An option has a value that it cannot have.
    #[error("{option} of {placement} is {value:?}, but must be {allowed}")]
    OptionValue {
        /// The name of the built-in placement.
        placement: &'static str,
        /// The option.
        option: String,
        /// The value that was given.
        value: String,
        /// The values that are accepted.
        allowed: String,
    },
    /// An option of the rule lies outside of what the rule can do.
    #[error("{option} is {value}, but must be in {min}..={max}")]
    OptionOutOfBounds {
        /// The option, as in [`Partitioner::options`].
        option: &'static str,
        /// The value that was given.
        value: u64,
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// The text that a peer would hash for a node does not fit into its buffer, and its hash is undefined
    /// then.
    #[error(
        "{name:?} has {length} bytes, and the peer is sound only up to {max}: give the node a shorter name"
    )]
    NameTooLong {
        /// The text that stands for the node in labels.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The largest length in bytes.
        max: usize,
    },
    /// A name, an address or an option holds a password, which is not repeated.
    #[error("{place} {ADVICE}")]
    Password {
        /// Where it stands, such as `the name of node number 2`.
        place: String,
    },
    /// A table of ranges does not fit the nodes.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A rule of the user's own refuses, in its own words.
    #[error("{0}")]
    Refused(String),
    /// A slot map does not fit the nodes.
    #[error(transparent)]
    SlotMap(#[from] SlotMapError),
    /// The weights add up to more than the rule can do, for most rules [`WEIGHTS_MAX`].
    #[error(
        "the weights of the nodes add up to {total}, more than {max}; divide them by a common number"
    )]
    TooHeavy {
        /// The sum of the weights.
        total: u64,
        /// The largest sum.
        max: u32,
    },
    /// A built-in placement has no option of this name.
    #[error("{placement} has no option {option:?}; it has: {}", .known.join(", "))]
    UnknownOption {
        /// The name of the built-in placement.
        placement: &'static str,
        /// The option.
        option: String,
        /// The options it has.
        known: Vec<&'static str>,
    },
    /// No built-in placement has this name.
    #[error("no placement is called {name:?}{}", suggestion(*.nearest))]
    UnknownPlacement {
        /// The name.
        name: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// There are more nodes than [`NODES_MAX`].
    #[error("{count} nodes, more than {NODES_MAX}")]
    TooManyNodes {
        /// Their number.
        count: usize,
    },
    /// A node has a weight, but the rule has none.
    #[error("{name:?} weighs {weight}, but this rule has no weights: every node must weigh one")]
    Weighted {
        /// The node.
        name: String,
        /// Its weight.
        weight: u32,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

/// Checks what every partitioner of this crate asks of its nodes. For partitioners of your own.
///
/// # Errors
///
/// [`NoNodes`](PlacementError::NoNodes), [`TooManyNodes`](PlacementError::TooManyNodes),
/// [`Password`](PlacementError::Password), [`DuplicateName`](PlacementError::DuplicateName),
/// [`TooHeavy`](PlacementError::TooHeavy).
pub fn check_nodes(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    check_names(nodes)?;
    check_weights(nodes)
}

fn check_names(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    if nodes.is_empty() {
        return Err(PlacementError::NoNodes);
    }
    if nodes.len() > NODES_MAX {
        return Err(PlacementError::TooManyNodes { count: nodes.len() });
    }
    check_passwords(nodes)?;
    let sorted = sorted_by_name(nodes);
    let twins = |pair: &&[(_, &NodeSpec)]| pair[0].1.name() == pair[1].1.name();
    match sorted.windows(2).find(twins) {
        None => Ok(()),
        Some(pair) => Err(PlacementError::DuplicateName {
            name: pair[0].1.name().to_owned(),
        }),
    }
}

/// Refuses nodes whose name or address holds a password.
pub(crate) fn check_passwords(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    let place = |(number, node): (usize, &NodeSpec)| {
        if holds_password(node.name()) {
            return Some(format!("the name of node number {number}"));
        }
        let found = holds_password(node.address());
        found.then(|| format!("the address of node {}", Shown(node.name())))
    };
    match (1..).zip(nodes).find_map(place) {
        None => Ok(()),
        Some(place) => Err(PlacementError::Password { place }),
    }
}

fn check_weights(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    check_total(nodes, WEIGHTS_MAX)
}

fn check_total(nodes: &[NodeSpec], max: u32) -> Result<(), PlacementError> {
    let weight = |node: &NodeSpec| u64::from(node.weight().get());
    let total = nodes.iter().map(weight).sum();
    if total > u64::from(max) {
        return Err(PlacementError::TooHeavy { total, max });
    }
    Ok(())
}

/// Refuses weights where the rule has none.
fn check_unweighted(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    check_passwords(nodes)?;
    match nodes.iter().find(|node| node.weight().get() != 1) {
        None => Ok(()),
        Some(node) => Err(PlacementError::Weighted {
            name: node.name().to_owned(),
            weight: node.weight().get(),
        }),
    }
}

/// The nodes with their positions, in node order.
fn indexed(nodes: &[NodeSpec]) -> impl Iterator<Item = (NodeIndex, &NodeSpec)> {
    (0..).map(NodeIndex::new).zip(nodes)
}

/// The nodes with their positions, in the order of their names, which is the same on every client.
fn sorted_by_name(nodes: &[NodeSpec]) -> Vec<(NodeIndex, &NodeSpec)> {
    let mut sorted: Vec<_> = indexed(nodes).collect();
    sorted.sort_by_key(|(_, node)| node.name());
    sorted
}

/// The position of every name. To ask, not to walk through: a hash map has no order.
fn positions(nodes: &[NodeSpec]) -> HashMap<&str, NodeIndex> {
    indexed(nodes)
        .map(|(index, node)| (node.name(), index))
        .collect()
}

#[cfg(test)]
mod testing {
    use std::num::NonZeroU32;

    use super::*;

    /// `node-0`, `node-1`, ... with these weights.
    pub(super) fn weighted(weights: &[u32]) -> Vec<NodeSpec> {
        let weight = |&weight| NonZeroU32::new(weight).unwrap();
        let node = |(i, w)| {
            NodeSpec::new(format!("node-{i}"), format!("10.0.0.{i}:6379")).with_weight(weight(w))
        };
        weights.iter().enumerate().map(node).collect()
    }

    /// `count` nodes of weight one.
    pub(super) fn nodes(count: usize) -> Vec<NodeSpec> {
        weighted(&vec![1; count])
    }

    /// Those of `nodes` that are out, by a bit each, but never all: the first one lives then.
    pub(super) fn out(nodes: &[NodeSpec], bits: u32) -> OutNodes {
        let out = indexed(nodes).map(|(index, _)| index);
        let mut out: Vec<_> = out.filter(|index| bits >> index.get() & 1 == 1).collect();
        if out.len() == nodes.len() {
            out.remove(0);
        }
        out.into_iter().collect()
    }

    /// The living nodes with their positions among all.
    pub(super) fn living(nodes: &[NodeSpec], out: &OutNodes) -> (Vec<usize>, Vec<NodeSpec>) {
        let living = indexed(nodes).filter(|(index, _)| !out.contains(*index));
        living
            .map(|(index, node)| (index.get(), node.clone()))
            .unzip()
    }

    /// The `round`th output of SplitMix64 with this seed, by arithmetic of 128 bits that is cut.
    pub(super) fn splitmix(seed: u64, round: u64) -> u64 {
        let times = |a: u64, b: u64| (u128::from(a) * u128::from(b)) as u64;
        let z = (u128::from(seed) + u128::from(times(round, 0x9e37_79b9_7f4a_7c15))) as u64;
        let z = times(z ^ (z >> 30), 0xbf58_476d_1ce4_e5b9);
        let z = times(z ^ (z >> 27), 0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The owners' names of `user:0`, `user:1`, ...
    pub(super) fn owners(
        partitioner: &dyn Partitioner,
        nodes: &[NodeSpec],
        keys: u32,
    ) -> Vec<String> {
        let placement = partitioner.place(nodes).unwrap();
        let owner = |key: u32| {
            placement
                .locate(format!("user:{key}").as_bytes())
                .unwrap()
                .get()
        };
        (0..keys)
            .map(|key| nodes[owner(key)].name().to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{nodes, weighted};
    use super::*;

    #[test]
    fn every_partitioner_refuses_invalid_lists_of_nodes() {
        let all: [&dyn Partitioner; 5] = [
            &Rendezvous::new(),
            &Ring::new(),
            &HashMod::new(crate::hash::KeyHash::Crc32),
            &SlotMap::even(),
            &from_fn("first/1", |_, _| 0),
        ];
        let twice = [
            NodeSpec::new("a", "x:1"),
            NodeSpec::new("b", "x:2"),
            NodeSpec::new("a", "x:3"),
        ];
        for partitioner in all {
            let refusal = |nodes: &[NodeSpec]| partitioner.place(nodes).unwrap_err();
            assert_eq!(refusal(&[]), PlacementError::NoNodes);
            assert_eq!(
                refusal(&twice),
                PlacementError::DuplicateName { name: "a".into() }
            );
            assert_eq!(
                refusal(&nodes(NODES_MAX + 1)),
                PlacementError::TooManyNodes { count: 4097 }
            );
            assert_eq!(
                refusal(&weighted(&[u32::MAX, 1])),
                PlacementError::TooHeavy {
                    total: 1 << 32,
                    max: WEIGHTS_MAX
                }
            );
        }
    }
}
