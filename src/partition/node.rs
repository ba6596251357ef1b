//! One server: its name, its address, its weight, and what identifies it.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::partition::password::Shown;

/// The largest number of nodes one topology may have.
///
/// A SCAN cursor carries the node's position in its top twelve bits.
pub const NODES_MAX: usize = 4096;

/// The identity of a node: XXH3-64 of its name.
///
/// It is the same in every process and on every machine, whatever the node's address, its weight and its
/// place in the list are, and stays the same when other nodes come or go. A topology whose names have one id
/// twice is refused.
///
/// ```
/// use redis_sharding::{NodeId, NodeSpec};
///
/// let id = NodeSpec::new("cache-a", "10.0.0.1:6379").id();
/// assert_eq!(NodeSpec::new("cache-a", "10.0.7.9:6379").id(), id);
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The identity of the node called `name`.
    pub fn of_name(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()))
    }

    /// The identity as a number, such as for a table.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// Writes 16 hexadecimal digits.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// Reads the 16 hexadecimal digits that [`Display`](fmt::Display) writes.
impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or(NodeIdError(()))
    }
}

/// The text is not a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdError(());

impl fmt::Display for NodeIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of a node has 16 hexadecimal digits")
    }
}

impl std::error::Error for NodeIdError {}

/// The position of a node in one topology.
///
/// Positions shift when a node is added, removed or moved in the list, so a position means something only
/// together with the topology it belongs to, or its [`epoch`](crate::Topology::epoch). What outlives a
/// topology keeps the [`NodeId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(u16);

impl NodeIndex {
    /// The node at `position` in the topology's order.
    pub const fn new(position: u16) -> Self {
        Self(position)
    }

    /// The position, for indexing.
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The position as the narrow number it is stored as, for lookup tables.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A node as a placement sees it: its name, its address, its weight.
///
/// The name is the identity. It is what gets hashed, so a server can move to another address without moving a
/// key.
///
/// Names and addresses are shown, so neither may hold a password: partitioners, topologies and clients refuse
/// a node with one. The password of a node belongs in its URL, or is given with
/// [`Builder::password`](crate::Builder::password).
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSpec {
    name: Box<str>,
    address: Box<str>,
    named: bool,
    weight: NonZeroU32,
    id: NodeId,
}

impl NodeSpec {
    /// A node of weight one with a name of its own.
    ///
    /// `address` is `host:port` or the path of a unix socket; it never carries a password.
    pub fn new(name: impl Into<String>, address: impl Into<String>) -> Self {
        let name = name.into().into_boxed_str();
        Self {
            id: NodeId::of_name(&name),
            name,
            address: address.into().into_boxed_str(),
            named: true,
            weight: NonZeroU32::MIN,
        }
    }

    /// A node of weight one that is named after its address.
    pub fn unnamed(address: impl Into<String>) -> Self {
        let address = address.into().into_boxed_str();
        Self {
            id: NodeId::of_name(&address),
            name: address.clone(),
            address,
            named: false,
            weight: NonZeroU32::MIN,
        }
    }

    /// Sets the weight: how many shares of the keys the node should own. Defaults to one.
    #[must_use]
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }

    /// The node's name, which places its keys.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity of the node, made from its name.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// `host:port` or the path of a unix socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// True if the node was given a name; false if its name is its address.
    ///
    /// Some peers hash other bytes for a node without a name of its own.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Number of shares of the keys that the node should own.
    pub fn weight(&self) -> NonZeroU32 {
        self.weight
    }
}

impl fmt::Debug for NodeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeSpec")
            .field("name", &format_args!("{}", Shown(&self.name)))
            .field("address", &format_args!("{}", Shown(&self.address)))
            .field("named", &self.named)
            .field("weight", &self.weight)
            .field("id", &self.id)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_spec_debug_hides_a_password_given_as_a_name() {
        let node = NodeSpec::new("redis://:SECRET@h:99999", "u:SECRET@h:1");
        let shown = format!("{node:?}");
        assert!(
            !shown.contains("SECRET") && shown.contains("not shown"),
            "{shown}"
        );
        let plain = format!("{:?}", NodeSpec::new("a", "h:1"));
        assert!(plain.contains("name: \"a\", address: \"h:1\""), "{plain}");
    }

    #[test]
    fn node_id_is_a_frozen_hash_of_the_name_alone() {
        // XXH3-64 of "node-1", as `xxhsum -H3` gives it.
        let id = NodeSpec::new("node-1", "10.0.0.1:6379").id();
        assert_eq!(id.to_string(), "0db09edfd9458385");
        let moved = NodeSpec::new("node-1", "10.0.0.2:1").with_weight(NonZeroU32::MAX);
        assert_eq!(moved.id(), id);
        assert_eq!(NodeSpec::unnamed("node-1").id(), id);
        assert_ne!(NodeSpec::new("node-2", "10.0.0.1:6379").id(), id);
    }

    #[test]
    fn node_id_is_parsed_from_exactly_the_text_it_prints() {
        for name in ["", "a", "node-1", "10.0.0.1:6379"] {
            let id = NodeId::of_name(name);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "1",
            "+123456789abcdef",
            "0123456789abcdefg",
            "0x12345678901234",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
    }
}
