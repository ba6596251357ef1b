//! Predis' `PredisCluster`.

use std::sync::Arc;

use super::super::catalogue::PartitionerInfo;
use super::super::{
    Direction, Partitioner, Placement, PlacementError, PointLabel, Ring, RingSpec, Shares, Ties,
};
use crate::hash::KeyHash;
use crate::partition::NodeSpec;

/// The placement of Predis' `PredisCluster`.
///
/// - **Equals**: Predis 0.8 to 3.6, without a distributor or a replicas argument of the user's own.
/// - **Nodes**: `host:port`, or the path of a unix socket; an alias does not count. Give as name what Predis
///   connects to.
/// - **Weights**: relative. Predis takes 100 for a node without a weight, so where *some* of its nodes have
///   weights, give the others 100; where none has, leave all at one.
/// - **Tag**: Redis Cluster's ([`Braces`](crate::hash::HashTag::Braces)), not to be turned off.
/// - **Skew**: [`hash_ring`](Self::hash_ring) on average 1.33 times its share for the largest of eight nodes,
///   at worst 1.88; [`ketama_ring`](Self::ketama_ring) 1.11 and 1.25.
/// - **While nodes are out**: Predis goes on to ask a dead node. Here the keys of nodes that are out belong
///   to the point that comes next, going backwards under `hash_ring`, of a living node; no other key moves.
/// - **Undefined in the original**: `hash_ring`, where a node should have exactly a half point more, which
///   takes a sum of weights that 256 divides: PHP rounds such numbers differently before 8.4. Here up.
/// - **Source**: `Cluster/Distributor/HashRing.php` and `KetamaRing.php`, `Cluster/PredisStrategy.php`
///   (1.1.10, 2.4.0, 3.6.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predis {
    distributor: Distributor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distributor {
    HashRing,
    KetamaRing,
}

impl Predis {
    /// `HashRing`, the default: 128 points per node of average weight, CRC32 throughout.
    pub const fn hash_ring() -> Self {
        let distributor = Distributor::HashRing;
        Self { distributor }
    }

    /// `KetamaRing`: 160 points per node of average weight, MD5 throughout.
    pub const fn ketama_ring() -> Self {
        let distributor = Distributor::KetamaRing;
        Self { distributor }
    }

    pub(in super::super) const HASH_RING: PartitionerInfo = PartitionerInfo {
        name: "predis-hash-ring/1",
        summary: "Predis by default: CRC32 ring over addresses",
        options: &[],
        make: |_| Ok(Arc::new(Self::hash_ring())),
    };

    pub(in super::super) const KETAMA_RING: PartitionerInfo = PartitionerInfo {
        name: "predis-ketama-ring/1",
        summary: "Predis with KetamaRing: MD5 ring over addresses",
        options: &[],
        make: |_| Ok(Arc::new(Self::ketama_ring())),
    };
}

impl Partitioner for Predis {
    fn name(&self) -> &str {
        match self.distributor {
            Distributor::HashRing => Self::HASH_RING.name,
            Distributor::KetamaRing => Self::KETAMA_RING.name,
        }
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let spec = RingSpec::new().with_ties(Ties::LastNode);
        let spec = match self.distributor {
            Distributor::HashRing => spec
                .with_points_per_weight(128)
                .with_shares(Shares::RelativeF64Rounded)
                .with_label(PointLabel::NameColonIndex)
                .with_label_hash(KeyHash::Crc32)
                .with_key_hash(KeyHash::Crc32)
                .with_direction(Direction::AtOrBefore),
            Distributor::KetamaRing => spec
                .with_shares(Shares::RelativeF64)
                .with_md5_words()
                .with_key_hash(KeyHash::Md5),
        };
        Ring::with_spec(spec).place(nodes)
    }
}
