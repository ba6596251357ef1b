//! [`KeyLocation`]: where a key lives, and whether two keys may be used in one indivisible request.
//!
//! Over plain nodes they may if they live on one node. In a Redis Cluster they must share a *slot*: the servers refuse
//! other keys (CROSSSLOT), and a slot may move to another node at any time. [`HashTags::Required`](crate::HashTags::Required) comes on top of
//! either.
//!
//! ```text
//! RENAME a b      plain nodes: locate(a) == locate(b)        cluster: slot(a) == slot(b)
//! ```
//!
//! The slot of a key is computed once, when the key is located: it is what the owner is looked up by.

use crate::command::CommandSpec;
use crate::error::{Error, ErrorKind, KeyText};
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::plan::refusal::typed_name;

/// Where a key lives. Two keys may be used in one indivisible request only if they are equal here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyLocation {
    /// The node that owns the key.
    pub(crate) node: NodeIndex,
    /// The key's slot in a Redis Cluster; `None` over plain nodes.
    pub(crate) slot: Option<u16>,
}

impl Router {
    /// Where `key` lives.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when the placement does not cover the key.
    #[inline]
    pub(crate) fn location(&self, key: &[u8]) -> Result<KeyLocation, Error> {
        match self.topology().cluster() {
            None => Ok(KeyLocation {
                node: self.owner(key)?,
                slot: None,
            }),
            Some(map) => {
                let slot = map.slot(key);
                Ok(KeyLocation {
                    node: map.target(slot),
                    slot: Some(slot),
                })
            }
        }
    }

    /// Checks that `key` may be used together with `first` in an indivisible request, which `what` names.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when they live on different nodes, in a cluster when they are in different
    /// slots, and when they must share a hash tag and do not.
    pub(super) fn check_together(
        &self,
        what: &str,
        first: (&[u8], KeyLocation),
        key: (&[u8], KeyLocation),
    ) -> Result<(), Error> {
        if first.1 != key.1 {
            return Err(self.cross_node(what, first, key));
        }
        self.check_tag(what, first, key.0)
    }

    /// Error for two keys of one indivisible request that live on different nodes or, in a cluster, are in different
    /// slots. `what` names the request.
    pub(super) fn cross_node(
        &self,
        what: &str,
        a: (&[u8], KeyLocation),
        b: (&[u8], KeyLocation),
    ) -> Error {
        let text = match (a.1.slot, b.1.slot) {
            (Some(first), Some(second)) => format!(
                "the keys {} (slot {first}) and {} (slot {second}) of {what} are in different slots of the cluster, and \
                 it cannot be split; put them under one hash tag, such as {{tag}}a and {{tag}}b",
                KeyText(a.0),
                KeyText(b.0),
            ),
            _ => format!(
                "the keys {} (node {}) and {} (node {}) of {what} live on different nodes, and it cannot be split; put \
                 them under one hash tag, such as {{tag}}a and {{tag}}b",
                KeyText(a.0),
                self.name(a.1.node),
                KeyText(b.0),
                self.name(b.1.node),
            ),
        };
        Error::new(ErrorKind::CrossNode, text).about_keys([a.0, b.0])
    }

    /// Error for a pattern that stands for keys of which some may live elsewhere.
    pub(super) fn spread_pattern(
        &self,
        command: &CommandSpec,
        pattern: &[u8],
        location: KeyLocation,
    ) -> Error {
        let node = self.name(location.node);
        let elsewhere = match location.slot {
            Some(slot) => format!("be in slots other than {slot}"),
            None => format!("live on nodes other than {node}"),
        };
        Error::new(
            ErrorKind::CrossNode,
            format!(
                "{}: the pattern {} expands to keys that may {elsewhere}; give it a hash tag that keeps them there, such as \
                 {{tag}}*",
                typed_name(command),
                KeyText(pattern),
            ),
        )
        .at_node(node)
        .about_keys([pattern])
    }
}
