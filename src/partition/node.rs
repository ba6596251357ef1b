//! One server: its name, its address, its weight.

use std::fmt;
use std::num::NonZeroU32;

use crate::partition::password::Shown;

/// The largest number of nodes one topology may have.
///
/// A SCAN cursor carries the node's position in its top twelve bits.
pub const NODES_MAX: usize = 4096;

/// The position of a node in its topology.
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

/// What a placement may know of a node: its name, its address, its weight.
///
/// The name is the identity. It is what gets hashed, so a server can move to another address without moving a key.
///
/// Names and addresses are shown, so neither may hold a password: partitioners, topologies and clients refuse a node
/// with one. The password of a node stands in its URL, or is given with [`Builder::password`](crate::Builder::password).
#[derive(Clone, PartialEq, Eq)]
pub struct NodeSpec {
    name: Box<str>,
    address: Box<str>,
    named: bool,
    weight: NonZeroU32,
}

impl NodeSpec {
    /// A node of weight one with a name of its own.
    ///
    /// `address` is `host:port` or the path of a unix socket; it never carries a password.
    pub fn new(name: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            name: name.into().into_boxed_str(),
            address: address.into().into_boxed_str(),
            named: true,
            weight: NonZeroU32::MIN,
        }
    }

    /// A node of weight one that is named after its address.
    pub fn unnamed(address: impl Into<String>) -> Self {
        let address = address.into().into_boxed_str();
        Self {
            name: address.clone(),
            address,
            named: false,
            weight: NonZeroU32::MIN,
        }
    }

    /// The same node with another weight: how many shares of the keys it should own. Defaults to one.
    #[must_use]
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }

    /// The stable identity of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` or the path of a unix socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the name was given, or is only the address again.
    ///
    /// Some peers hash other bytes for a node without a name of its own.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// How many shares of the keys the node should own.
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
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_does_not_show_a_password_that_it_was_given_as_a_name() {
        let node = NodeSpec::new("redis://:SECRET@h:99999", "u:SECRET@h:1");
        let shown = format!("{node:?}");
        assert!(
            !shown.contains("SECRET") && shown.contains("not shown"),
            "{shown}"
        );
        let plain = format!("{:?}", NodeSpec::new("a", "h:1"));
        assert!(plain.contains("name: \"a\", address: \"h:1\""), "{plain}");
    }
}
