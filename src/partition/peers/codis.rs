//! Codis.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::super::line::split;
use super::super::slot_map::{Numbering, SlotMap, SlotMapError};

/// The slots of Codis: CRC32 of the key modulo 1024, handed out by a table.
///
/// The result is a [`SlotMap`] whose slots go from 0 to 1023, with everything a slot map can do.
///
/// - **Equals**: Codis 1 to 3, all clients that go through its proxies.
/// - **Nodes**: Codis calls its servers groups, and its dashboard holds the table: write it down as ranges
///   with the names of your nodes. There is no rule by which Codis makes an even table; [`even`](Self::even)
///   is this crate's.
/// - **Tag**: from the first `{` to the next `}`, even if that is nothing
///   ([`BracesEvenEmpty`](crate::hash::HashTag::BracesEvenEmpty)).
/// - **While nodes are out**: Codis never takes a group out by itself. Here their slots go to other groups,
///   as [`SlotMap`] says.
/// - **Skew**: a table is as even as it is made, to one slot of 1024.
/// - **Source**: `pkg/proxy/mapper.go` (`hashSlot`), Codis 3. Read, not recorded.
///
/// ```
/// use redis_sharding::partition::peers::Codis;
/// use redis_sharding::partition::Partitioner;
///
/// let map = Codis::from_ranges([(0..=511, "group-1"), (512..=1023, "group-2")])?;
/// assert_eq!(map.name(), "codis/1");
/// # Ok::<(), redis_sharding::partition::SlotMapError>(())
/// ```
#[derive(Debug)]
pub struct Codis(());

impl Codis {
    /// The even map of whatever nodes there are, as [`SlotMap::even`].
    pub const fn even() -> SlotMap {
        SlotMap::even_of(Numbering::Codis)
    }

    /// The explicit map of these ranges, as [`SlotMap::from_ranges`].
    ///
    /// # Errors
    ///
    /// Unless every slot from 0 to 1023 is in exactly one range.
    pub fn from_ranges<N: Into<String>>(
        ranges: impl IntoIterator<Item = (RangeInclusive<u16>, N)>,
    ) -> Result<SlotMap, SlotMapError> {
        SlotMap::from_ranges_of(Numbering::Codis, ranges)
    }

    /// Reads a map as text, as [`SlotMap::parse`].
    ///
    /// # Errors
    ///
    /// When a line cannot be read, or not every slot is in exactly one range.
    pub fn parse(text: &str) -> Result<SlotMap, SlotMapError> {
        SlotMap::parse_of(Numbering::Codis, text)
    }

    pub(in super::super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "codis/1",
        summary: "Codis: a table of 1024 slots",
        options: &[OptionInfo {
            name: "map",
            meaning: "who owns which slots",
            default: Some("even"),
            values: OptionValues::Text("even, or ranges and nodes such as 0-511 a, 512-1023 b"),
        }],
        make: |given| {
            let map = given.read("map", |map| Some(Self::parse(&split(map))))??;
            Ok(Arc::new(map))
        },
    };
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::nodes;
    use super::super::super::{Partitioner, PlacementError};
    use super::*;

    #[test]
    fn codis_slot_is_crc32_modulo_1024() {
        let halves = Codis::from_ranges([(0..=0x281, "node-0"), (0x282..=1023, "node-1")]).unwrap();
        let placement = halves.place(&nodes(2)).unwrap();
        // CRC32: `user:1` 0x7ba5c282, `foo` 0x8c736521.
        assert_eq!(placement.locate(b"user:1").unwrap().get(), 1);
        assert_eq!(placement.locate(b"foo").unwrap().get(), 0);
        assert_eq!(halves.hash_tag().of(b"a{}b"), b"");
        assert_eq!(Codis::parse(&halves.to_string()), Ok(halves));
    }

    #[test]
    fn codis_slots_end_at_1023() {
        let refusal = Codis::from_ranges([(0..=1024, "a")]).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the range 0-1024 a goes beyond slot 1023"
        );
        let refusal = Codis::from_ranges([(0..=1000, "a")]).unwrap_err();
        assert_eq!(refusal.to_string(), "no node owns slots 1001-1023");
        assert_eq!(
            Codis::even().over(&nodes(2)).unwrap().to_string(),
            "0-511 node-0\n512-1023 node-1\n"
        );
        assert_eq!(
            Codis::even().place(&[]).unwrap_err(),
            PlacementError::NoNodes
        );
    }
}
