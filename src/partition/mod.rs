//! Which node owns these bytes?
//!
//! A [`Partitioner`] is the rule; [`Partitioner::place`] builds its answers for one set of nodes, a [`Placement`],
//! once per topology. The answers are asked per key: they are pure, allocate nothing, and are the same on every
//! machine for ever. Both traits are open: bring your own.
//!
//! Nothing here knows a command, a connection or a clock.

use std::fmt;

use crate::hash::HashTag;
use crate::node::{NodeIndex, NodeSpec};

/// Decides which node owns a key.
///
/// Pure: the same nodes and the same key give the same answer on every machine, for ever. A placement is a file
/// format: a rule whose answers change must change its [`name`](Self::name).
pub trait Partitioner: fmt::Debug + Send + Sync {
    /// A frozen name with a version, such as `by-tenant/1`. It goes into fingerprints.
    fn name(&self) -> &str;

    /// Everything besides the nodes and the tag rule that decides the answers, as `(option, value)` pairs in a fixed
    /// order. It goes into fingerprints. Defaults to none.
    fn options(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Builds the answers for these nodes. Called once per topology, never per command.
    ///
    /// # Errors
    ///
    /// When the rule cannot place keys over these nodes.
    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError>;

    /// Which bytes of a key are handed to [`Placement::locate`]. Defaults to Redis Cluster's rule, the part between
    /// braces.
    fn hash_tag(&self) -> HashTag {
        HashTag::Braces
    }
}

/// The answers of a [`Partitioner`] for one set of nodes.
pub trait Placement: fmt::Debug + Send + Sync {
    /// The owner of `key`, as a position in the nodes it was placed over, or `None` when the rule leaves the key
    /// without an owner. `key` is what the tag rule left of the user's key. Must not allocate.
    fn locate(&self, key: &[u8]) -> Option<NodeIndex>;
}

/// Why a partitioner refuses a set of nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// There is no node to place keys on.
    #[error("no nodes to place keys on")]
    NoNodes,
    /// A rule of the user's own refuses, in its own words.
    #[error("{0}")]
    Refused(String),
}
