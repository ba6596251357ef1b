//! A map of a cluster as the placement of a topology.

use std::sync::Arc;

use crate::hash::{HashTag, slot};
use crate::partition::{NodeIndex, NodeSpec, Partitioner, Placement, PlacementError};
use crate::topology::cluster::ClusterMap;

/// Redis Cluster's slots, owned as its servers say: CRC16 of the hash tag modulo 16384, then the owner of the slot.
#[derive(Clone, Debug)]
pub(in crate::topology) struct ClusterPlacement {
    map: Arc<ClusterMap>,
}

/// The targets of the map.
#[derive(Debug)]
struct Placed {
    map: Arc<ClusterMap>,
}

impl ClusterPlacement {
    pub(in crate::topology) fn new(map: &Arc<ClusterMap>) -> Self {
        Self {
            map: Arc::clone(map),
        }
    }
}

impl Partitioner for ClusterPlacement {
    fn name(&self) -> &str {
        "cluster"
    }

    fn options(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn place(&self, _: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        Ok(Box::new(Placed {
            map: Arc::clone(&self.map),
        }))
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::Braces
    }
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.map.target(slot(key))
    }
}
