//! twemproxy (nutcracker).

use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::living::place_over_living;
use super::super::{
    EmptyKey, HashMod, NodeOrder, NodeText, OutNodes, Partitioner, Placement, PlacementError, Ring,
    RingSpec, Shares, Ties,
};
use super::{check_lengths, words};
use crate::hash::{HashTag, KeyHash, named};
use crate::partition::NodeSpec;

/// The placement of a pool of twemproxy.
///
/// - **Equals**: twemproxy 0.4 and 0.5. Before 0.4 an empty tag counted, and the order of the servers under
///   [`modula`](Self::modula) was left to chance. `random` is out: it asks no key, so nothing can agree with
///   it.
/// - **Nodes**: a server with a name in its line of the pool is known by it: give it the same. One without is
///   known by `host:port`, or by `host` alone if the port is 11211, or by the path of its unix socket with a
///   colon behind it: leave such a node unnamed, and what is hashed comes from its address. twemproxy sorts
///   the servers, shorter names first and then by bytes; the order given does not count.
/// - **Weights**: [`ketama`](Self::ketama) relative, in 32-bit floating point; `modula` that many entries in
///   a row.
/// - **Tag**: none, unless the pool has a `hash_tag`: [`with_hash_tag`](Self::with_hash_tag). A key without
///   bytes has the hash zero.
/// - **Skew**: with `md5`, at eight nodes the largest has on average 1.11 times its share, at worst 1.25.
///   `crc32` with `ketama` sends nearly every key to one node. `fnv1a_64`, the default, puts keys that differ
///   in their last bytes close together: of 2000 such keys the largest of 16 nodes had 2.16 times its share.
/// - **While nodes are out**: as with `auto_eject_hosts: true` while servers are ejected: all is computed again
///   over the living servers. Under `ketama` with equal weights that moves the keys of those that are out (and a
///   few more at numbers of servers at which the rounding differs); under `modula` nearly every key moves.
/// - **Undefined in the original**: which server has a point on which two fall (here the first in twemproxy's
///   order), and names of more than 269 bytes, which are refused (82 in 0.4). Several hashes read bytes as
///   signed: for keys that are not ASCII, ARM builds differ from this.
/// - **Source**: `src/hashkit/` (`nc_ketama.c`, `nc_modula.c`), `src/nc_server.c`, `src/nc_conf.c` (0.5.0).
///
/// ```
/// use redis_sharding::hash::HashTag;
/// use redis_sharding::partition::peers::{Twemproxy, TwemproxyHash};
/// use redis_sharding::partition::Partitioner;
/// use redis_sharding::NodeSpec;
///
/// // hash: md5, distribution: ketama, hash_tag: "{}"
/// let pool = Twemproxy::ketama().with_hash(TwemproxyHash::Md5).with_hash_tag(HashTag::AnyTwo(b'{', b'}'));
/// let servers = [1, 2, 3].map(|i| NodeSpec::unnamed(format!("10.0.0.{i}:6379")));
/// let placement = pool.place(&servers)?;
/// assert_eq!(placement.locate(b"foo").map(|node| node.get()), Some(2));
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Twemproxy {
    distribution: Distribution,
    hash: TwemproxyHash,
    tag: HashTag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distribution {
    Ketama,
    Modula,
}

named! {
    /// The `hash` of a twemproxy pool, by its own names. Several deviate from what their names promise, see
    /// [`KeyHash`].
    pub enum TwemproxyHash {
        /// `one_at_a_time`.
        OneAtATime = "one_at_a_time",
        /// `md5`.
        Md5 = "md5",
        /// `crc16`, not cut to 16 bits.
        Crc16 = "crc16",
        /// `crc32`, of fifteen bits.
        Crc32 = "crc32",
        /// `crc32a`, the usual CRC32.
        Crc32a = "crc32a",
        /// `fnv1_64`.
        Fnv1_64 = "fnv1_64",
        /// `fnv1a_64`, the default.
        Fnv1a64 = "fnv1a_64",
        /// `fnv1_32`.
        Fnv1_32 = "fnv1_32",
        /// `fnv1a_32`.
        Fnv1a32 = "fnv1a_32",
        /// `hsieh`.
        Hsieh = "hsieh",
        /// `murmur`.
        Murmur = "murmur",
        /// `jenkins`.
        Jenkins = "jenkins",
    }
}

impl TwemproxyHash {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::OneAtATime => KeyHash::OneAtATime,
            Self::Md5 => KeyHash::Md5,
            Self::Crc16 => KeyHash::Crc16Wide,
            Self::Crc32 => KeyHash::Crc32Upper,
            Self::Crc32a => KeyHash::Crc32,
            Self::Fnv1_64 => KeyHash::Fnv1Cut,
            Self::Fnv1a64 => KeyHash::Fnv1aCut,
            Self::Fnv1_32 => KeyHash::Fnv1Signed,
            Self::Fnv1a32 => KeyHash::Fnv1aSigned,
            Self::Hsieh => KeyHash::Hsieh,
            Self::Murmur => KeyHash::Murmur2,
            Self::Jenkins => KeyHash::Jenkins,
        }
    }
}

impl Twemproxy {
    /// `distribution: ketama`, the default: a ring of 160 points per server of average weight, four from each
    /// MD5.
    pub const fn ketama() -> Self {
        Self::of(Distribution::Ketama)
    }

    /// `distribution: modula`: the hash modulo the servers.
    pub const fn modula() -> Self {
        Self::of(Distribution::Modula)
    }

    const fn of(distribution: Distribution) -> Self {
        Self {
            distribution,
            hash: TwemproxyHash::Fnv1a64,
            tag: HashTag::None,
        }
    }

    /// The `hash` of the pool. Defaults to [`TwemproxyHash::Fnv1a64`].
    #[must_use]
    pub fn with_hash(mut self, hash: TwemproxyHash) -> Self {
        self.hash = hash;
        self
    }

    /// The `hash_tag` of the pool: [`HashTag::AnyTwo`] with its two characters. Defaults to
    /// [`HashTag::None`].
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    const OPTIONS: &'static [OptionInfo] = &[
        OptionInfo {
            name: "hash",
            meaning: "the hash of the keys, by twemproxy's names",
            default: Some("fnv1a_64"),
            values: OptionValues::OneOf(TwemproxyHash::NAMES),
        },
        OptionInfo::hash_tag("none"),
    ];

    pub(in super::super) const KETAMA: PartitionerInfo = PartitionerInfo {
        name: "twemproxy-ketama/1",
        summary: "twemproxy ketama, its default: MD5 ring over names or addresses",
        options: Self::OPTIONS,
        make: |given| Self::ketama().given(given),
    };

    pub(in super::super) const MODULA: PartitionerInfo = PartitionerInfo {
        name: "twemproxy-modula/1",
        summary: "twemproxy modula: hash modulo sorted servers",
        options: Self::OPTIONS,
        make: |given| Self::modula().given(given),
    };

    fn given(self, given: &GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError> {
        let hash = given.read("hash", TwemproxyHash::from_name)?;
        Ok(Arc::new(
            self.with_hash(hash).with_hash_tag(given.hash_tag()?),
        ))
    }
}

impl Partitioner for Twemproxy {
    fn name(&self) -> &str {
        match self.distribution {
            Distribution::Ketama => Self::KETAMA.name,
            Distribution::Modula => Self::MODULA.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        words([("hash", self.hash.name()), ("hash-tag", &self.tag.name())])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let hash = self.hash.key_hash();
        match self.distribution {
            Distribution::Ketama => {
                check_lengths(nodes, NodeText::Twemproxy, LABEL_MAX)?;
                let spec = RingSpec::new()
                    .with_shares(Shares::RelativeF32)
                    .with_node_text(NodeText::Twemproxy)
                    .with_md5_words()
                    .with_key_hash(hash)
                    .with_empty_key(EmptyKey::Zero)
                    .with_ties(Ties::ShortestText);
                Ring::with_spec(spec).place(nodes)
            }
            Distribution::Modula => HashMod::new(hash)
                .with_empty_key(EmptyKey::Zero)
                .with_order(NodeOrder::Twemproxy)
                .place(nodes),
        }
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        place_over_living(self, nodes, out)
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}

/// The longest label that twemproxy 0.5 keeps whole.
const LABEL_MAX: usize = 272;
