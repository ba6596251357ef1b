//! The built-in placements as data: their names, their options, and how to make one from its name.
//!
//! [`catalogue`] lists every built-in rule with its options, [`by_name`] makes one from the frozen words that
//! [`Partitioner::name`] and [`Partitioner::options`] write: for tools, configuration files and fingerprints.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::peers::{
    Codis, DjangoRedis, Envoy, GoRedis, Jedis, Libmemcached, Nginx, NodeHashring, PhpRedis, Predis,
    PyHashring, RedisRb, Twemproxy, Uhashring,
};
use super::{HashMod, Partitioner, PlacementError, Range, Rendezvous, Ring, SlotMap};
use crate::hash::{HashTag, KeyHash};
use crate::partition::password::{holds_password, option_holds_password};

/// A built-in placement and its options.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionerInfo {
    /// The frozen name, as in [`Partitioner::name`].
    pub name: &'static str,
    /// A description in one line.
    pub summary: &'static str,
    /// Everything that can be chosen, in the order of [`Partitioner::options`].
    pub options: &'static [OptionInfo],
    pub(super) make: fn(&GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError>,
}

/// One choice that a built-in placement leaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OptionInfo {
    /// The frozen name, as in [`Partitioner::options`]. `PREFIX` in a name stands for text of the user's.
    pub name: &'static str,
    /// A description of what the option decides, in one line.
    pub meaning: &'static str,
    /// The value that holds when the option is left out; none when nothing holds then.
    pub default: Option<&'static str>,
    /// The values that are accepted.
    pub values: OptionValues,
}

/// The values an option may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionValues {
    /// A whole number within these limits, both included.
    Number {
        /// The smallest number.
        min: u64,
        /// The largest number.
        max: u64,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text of this form.
    Text(&'static str),
}

impl fmt::Display for OptionValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max } => write!(f, "{min}..={max}"),
            Self::OneOf(words) => f.write_str(&words.join(", ")),
            Self::Text(form) => f.write_str(form),
        }
    }
}

/// Every built-in placement, sorted by name.
///
/// ```
/// use redis_sharding::partition::catalogue;
///
/// let ring = catalogue().iter().find(|entry| entry.name == "ring/1").expect("it is built in");
/// assert_eq!(ring.options[0].name, "points-per-weight");
/// assert_eq!(ring.options[0].default, Some("160"));
/// assert_eq!(ring.options[0].values.to_string(), "1..=1024");
/// ```
pub fn catalogue() -> &'static [PartitionerInfo] {
    ENTRIES
}

/// The built-in placement of this name, with these options; options that are left out have their defaults.
///
/// For every built-in partitioner `p`, `by_name(p.name(), &p.options())` places every key where `p` does.
/// Names, options and values are frozen; [`catalogue`] lists them.
///
/// ```
/// use redis_sharding::partition::{by_name, Partitioner};
///
/// let ring = by_name("ring/1", &[("points-per-weight".into(), "100".into())])?;
/// assert_eq!(by_name(ring.name(), &ring.options())?.options(), ring.options());
///
/// let refusal = by_name("rign/1", &[]).unwrap_err();
/// assert_eq!(refusal.to_string(), "no placement is called \"rign/1\"; did you mean \"ring/1\"?");
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
///
/// # Errors
///
/// [`Password`](PlacementError::Password), [`UnknownPlacement`](PlacementError::UnknownPlacement),
/// [`UnknownOption`](PlacementError::UnknownOption), [`OptionTwice`](PlacementError::OptionTwice),
/// [`OptionValue`](PlacementError::OptionValue), and whatever tables of ranges and slot maps refuse. Numbers
/// outside of their limits are refused when nodes are placed.
pub fn by_name(
    name: &str,
    options: &[(String, String)],
) -> Result<Arc<dyn Partitioner>, PlacementError> {
    check_words(name, options)?;
    let entry = ENTRIES
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| PlacementError::UnknownPlacement {
            name: name.to_owned(),
            nearest: nearest(name, ENTRIES.iter().map(|entry| entry.name)),
        })?;
    (entry.make)(&GivenOptions::new(entry, options)?)
}

/// Refuses the name of a placement, or options of one, that hold a password.
pub(crate) fn check_words(name: &str, options: &[(String, String)]) -> Result<(), PlacementError> {
    if holds_password(name) {
        let place = "the name of the placement".to_owned();
        return Err(PlacementError::Password { place });
    }
    let place = |(number, (option, value)): (usize, &(String, String))| {
        if option_holds_password(option) {
            return Some(format!("the name of option number {number}"));
        }
        option_holds_password(value).then(|| format!("the value of option number {number}"))
    };
    match (1..).zip(options).find_map(place) {
        None => Ok(()),
        Some(place) => Err(PlacementError::Password { place }),
    }
}

/// The options given for an entry, each known and given once.
pub(super) struct GivenOptions<'a> {
    entry: &'static PartitionerInfo,
    pub(super) options: &'a [(String, String)],
}

impl<'a> GivenOptions<'a> {
    fn new(
        entry: &'static PartitionerInfo,
        options: &'a [(String, String)],
    ) -> Result<Self, PlacementError> {
        let mut seen = HashSet::new();
        for (option, _) in options {
            if !entry.options.iter().any(|known| known.is(option)) {
                let names = || entry.options.iter().map(|known| known.name);
                return Err(PlacementError::UnknownOption {
                    placement: entry.name,
                    option: option.clone(),
                    known: names().collect(),
                });
            }
            if !seen.insert(option) {
                return Err(PlacementError::OptionTwice {
                    placement: entry.name,
                    option: option.clone(),
                });
            }
        }
        Ok(Self { entry, options })
    }

    /// The value of an option, or its default, as `read` understands it.
    pub(super) fn read<T>(
        &self,
        option: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, PlacementError> {
        let known = self.entry.options.iter().find(|known| known.is(option));
        let given = self.options.iter().find(|(name, _)| name == option);
        let value = match given {
            Some((_, value)) => value,
            None => known.and_then(|known| known.default).unwrap_or_default(),
        };
        read(value).ok_or_else(|| PlacementError::OptionValue {
            placement: self.entry.name,
            option: option.to_owned(),
            value: value.to_owned(),
            allowed: known.map_or_else(String::new, |known| known.values.to_string()),
        })
    }

    pub(super) fn number(&self, option: &str) -> Result<u32, PlacementError> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        self.read(option, |text| digits(text).then(|| text.parse().ok())?)
    }

    pub(super) fn hash(&self, option: &str) -> Result<KeyHash, PlacementError> {
        self.read(option, |name| name.parse().ok())
    }

    pub(super) fn hash_tag(&self) -> Result<HashTag, PlacementError> {
        self.read("hash-tag", HashTag::from_name)
    }
}

impl OptionInfo {
    /// An option whose value is the name of a hash.
    pub(super) const fn hash(
        name: &'static str,
        meaning: &'static str,
        default: Option<&'static str>,
    ) -> Self {
        Self {
            name,
            meaning,
            default,
            values: OptionValues::OneOf(KeyHash::NAMES),
        }
    }

    /// The tag rule, where the peer lets its users choose.
    pub(super) const fn hash_tag(default: &'static str) -> Self {
        Self {
            name: "hash-tag",
            meaning: "which part of a key is hashed",
            default: Some(default),
            values: OptionValues::Text(
                "braces, none, any-two:{}, braces-even-empty, jedis-pattern, last-braces, line-start:{} or phpredis; other \
                 characters may stand in place of {}",
            ),
        }
    }

    fn is(&self, option: &str) -> bool {
        match self.name.split_once(" \"PREFIX\"") {
            None => self.name == option,
            Some((kind, _)) => option
                .strip_prefix(kind)
                .is_some_and(|rest| rest.starts_with(" \"")),
        }
    }
}

/// Longer words get no suggestion: the time to find the nearest name grows with their length.
const NAME_BYTES_MAX: usize = 64;

/// Returns the name that was probably intended.
fn nearest(word: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if word.len() > NAME_BYTES_MAX {
        return None;
    }
    let distance = |name: &'static str| {
        // A word that is a part of a name stands for it, such as the name without its version.
        let part = !word.is_empty() && name.contains(word);
        (if part { 0 } else { edits(word, name) }, name)
    };
    let (distance, name) = names.map(distance).min()?;
    (distance <= 1 + name.len() / 4).then_some(name)
}

/// Number of characters that must be inserted, deleted or replaced (V. I. Levenshtein, 1966).
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

static ENTRIES: &[PartitionerInfo] = &[
    Codis::ENTRY,
    DjangoRedis::ENTRY,
    Envoy::MAGLEV,
    Envoy::RING_HASH,
    GoRedis::V3,
    GoRedis::V8,
    HashMod::ENTRY,
    Jedis::V2_0,
    Jedis::V2_10,
    Jedis::V4,
    Libmemcached::KETAMA_WEIGHTED,
    Libmemcached::KETAMA,
    Libmemcached::MODULA,
    Nginx::CONSISTENT,
    Nginx::PLAIN,
    NodeHashring::ENTRY,
    PhpRedis::CONSISTENT,
    PhpRedis::RANGE,
    Predis::HASH_RING,
    Predis::KETAMA_RING,
    PyHashring::ENTRY,
    Range::ENTRY,
    RedisRb::V4,
    RedisRb::V5,
    Rendezvous::ENTRY,
    Ring::ENTRY,
    SlotMap::ENTRY,
    Twemproxy::KETAMA,
    Twemproxy::MODULA,
    Uhashring::KETAMA,
    Uhashring::ENTRY,
];

#[cfg(test)]
mod tests {
    use super::super::peers::{
        EnvoyPointHash, JedisHashing, LibmemcachedHash, NodeHashringAlgorithm, NodeHashringWeights,
        PhpAlgorithm, TwemproxyHash,
    };
    use super::super::testing::weighted;
    use super::super::{BytesTable, Direction, NumericTable, PointLabel, RingSpec};
    use super::*;

    fn made(name: &str, options: &[(&str, &str)]) -> Result<Arc<dyn Partitioner>, PlacementError> {
        let options: Vec<_> = options
            .iter()
            .map(|&(option, value)| (option.to_owned(), value.to_owned()))
            .collect();
        by_name(name, &options)
    }

    fn refusal(name: &str, options: &[(&str, &str)]) -> String {
        made(name, options).unwrap_err().to_string()
    }

    #[test]
    fn every_partitioner_is_rebuilt_by_name_from_its_options() {
        let odd = "a, \"b\"";
        let all: [Arc<dyn Partitioner>; 8] = [
            Arc::new(Rendezvous::new().with_slot_bits(10)),
            Arc::new(Ring::with_spec(
                RingSpec::new()
                    .with_points_per_weight(7)
                    .with_label(PointLabel::IndexName)
                    .with_label_hash(KeyHash::Crc32)
                    .with_key_hash(KeyHash::Fnv1a32)
                    .with_direction(Direction::AtOrBefore),
            )),
            Arc::new(Ring::new()),
            Arc::new(HashMod::new(KeyHash::Crc16)),
            Arc::new(SlotMap::even()),
            Arc::new(
                SlotMap::from_ranges([(0..=7, odd), (8..=8, "b,"), (9..=16383, "c")]).unwrap(),
            ),
            Arc::new(
                Range::builder()
                    .table(
                        NumericTable::new("user:")
                            .range(..100, odd)
                            .default_node("b,"),
                    )
                    .table(
                        BytesTable::new("\", ")
                            .range::<&str>(..", ", "c")
                            .range(", ".., odd),
                    )
                    .default_node(odd)
                    .build()
                    .unwrap(),
            ),
            Arc::new(
                Range::builder()
                    .table(NumericTable::new("").range(.., "c"))
                    .build()
                    .unwrap(),
            ),
        ];
        let mut nodes = weighted(&[1, 2, 1]);
        for (node, name) in nodes.iter_mut().zip([odd, "b,", "c"]) {
            *node = crate::NodeSpec::new(name, node.address()).with_weight(node.weight());
        }
        for partitioner in all {
            let again = by_name(partitioner.name(), &partitioner.options()).unwrap();
            assert_eq!(again.options(), partitioner.options());
            assert_eq!(again.hash_tag().name(), partitioner.hash_tag().name());
            let placements = [&partitioner, &again].map(|rule| rule.place(&nodes).unwrap());
            for i in 0..1000 {
                let key = format!("user:{i}");
                let [owner, again] = placements
                    .each_ref()
                    .map(|placement| placement.locate(key.as_bytes()));
                assert_eq!(owner, again, "{partitioner:?}");
            }
        }
    }

    #[test]
    fn every_option_value_in_the_catalogue_is_accepted_by_name() {
        for entry in catalogue() {
            let required = entry
                .options
                .iter()
                .filter(|option| option.default.is_none());
            let required: Vec<_> = required
                .filter_map(|option| Some((option.name, sample(option)?)))
                .collect();
            for option in entry.options {
                let values = match option.values {
                    OptionValues::OneOf(values) => values.to_vec(),
                    OptionValues::Number { .. } => vec!["17"],
                    OptionValues::Text(_) if option.name == "hash-tag" => {
                        vec!["any-two:<>", "none", "line-start:$$"]
                    }
                    OptionValues::Text(_) => continue,
                };
                for value in values {
                    let mut options = required.clone();
                    options.retain(|&(name, _)| name != option.name);
                    options.push((option.name, value));
                    let made = made(entry.name, &options).unwrap();
                    let words = made.options();
                    assert!(
                        words.contains(&(option.name.to_owned(), value.to_owned())),
                        "{words:?}"
                    );
                    let again = by_name(made.name(), &words).unwrap();
                    assert_eq!((again.name(), again.options()), (entry.name, words));
                    assert_eq!(again.hash_tag().name(), made.hash_tag().name());
                }
            }
        }
    }

    /// Something for an option that has no default.
    fn sample(option: &OptionInfo) -> Option<&'static str> {
        match option.values {
            OptionValues::OneOf(values) => values.first().copied(),
            OptionValues::Number { .. } | OptionValues::Text(_) => None,
        }
    }

    #[test]
    fn every_peer_preset_is_rebuilt_by_name_from_its_options() {
        let tag = || HashTag::AnyTwo(b'<', b'>');
        let all: Vec<Arc<dyn Partitioner>> = vec![
            Arc::new(Codis::from_ranges([(0..=511, "node-0"), (512..=1023, "node-1")]).unwrap()),
            Arc::new(DjangoRedis::new()),
            Arc::new(Envoy::maglev().with_table_size(251).with_hash_tag(tag())),
            Arc::new(
                Envoy::ring_hash()
                    .with_point_hash(EnvoyPointHash::MurmurHash2)
                    .with_minimum_ring_size(64)
                    .with_maximum_ring_size(100),
            ),
            Arc::new(GoRedis::v3()),
            Arc::new(GoRedis::v8()),
            Arc::new(Jedis::v2_0().with_hash_tag(HashTag::JedisPattern)),
            Arc::new(Jedis::v2_10().with_hashing(JedisHashing::Md5)),
            Arc::new(Jedis::v4()),
            Arc::new(Libmemcached::modula().with_hash(LibmemcachedHash::Murmur3)),
            Arc::new(Libmemcached::ketama().with_hash(LibmemcachedHash::Jenkins)),
            Arc::new(Libmemcached::ketama_weighted().with_hash(LibmemcachedHash::Crc)),
            Arc::new(Nginx::consistent()),
            Arc::new(Nginx::plain()),
            Arc::new(
                NodeHashring::new()
                    .with_algorithm(NodeHashringAlgorithm::Sha1)
                    .with_labels(50)
                    .with_replicas(5)
                    .with_weights(NodeHashringWeights::Labels)
                    .with_default_port(6379),
            ),
            Arc::new(PhpRedis::range().with_hash_tag(HashTag::None)),
            Arc::new(PhpRedis::consistent().with_algorithm(PhpAlgorithm::Sha1)),
            Arc::new(Predis::hash_ring()),
            Arc::new(Predis::ketama_ring()),
            Arc::new(PyHashring::new()),
            Arc::new(RedisRb::v4().with_points(40)),
            Arc::new(RedisRb::v5().with_hash_tag(tag())),
            Arc::new(
                Twemproxy::ketama()
                    .with_hash(TwemproxyHash::Hsieh)
                    .with_hash_tag(tag()),
            ),
            Arc::new(Twemproxy::modula().with_hash(TwemproxyHash::Crc16)),
            Arc::new(Uhashring::ketama()),
            Arc::new(Uhashring::with_points(40)),
        ];
        let nodes = weighted(&[1; 5]);
        for preset in all {
            let again = by_name(preset.name(), &preset.options()).unwrap();
            assert_eq!(again.hash_tag().name(), preset.hash_tag().name());
            let placements = [&preset, &again].map(|rule| rule.place(&nodes).unwrap());
            for key in 0..1000_u32 {
                let [owner, again] = placements
                    .each_ref()
                    .map(|placement| placement.locate(&key.to_le_bytes()));
                assert_eq!(owner, again, "{preset:?}");
            }
        }
    }

    #[test]
    fn catalogue_defaults_are_those_of_the_partitioners() {
        for entry in catalogue() {
            let required = entry.options.iter().any(|option| option.default.is_none());
            let Ok(partitioner) = by_name(entry.name, &[]) else {
                assert!(required, "{} can be made without options", entry.name);
                continue;
            };
            assert_eq!(partitioner.name(), entry.name);
            let listed = entry
                .options
                .iter()
                .filter_map(|option| option.default.map(|default| (option.name, default)));
            let listed: Vec<_> = listed
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(partitioner.options(), listed, "{}", entry.name);
        }
    }

    #[test]
    fn catalogue_is_sorted_by_name() {
        assert!(catalogue().is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn by_name_refuses_unknown_names_and_options_with_a_suggestion() {
        assert_eq!(
            refusal("rendezvous", &[]),
            "no placement is called \"rendezvous\"; did you mean \"rendezvous/1\"?"
        );
        assert_eq!(
            refusal("by-tenant/1", &[]),
            "no placement is called \"by-tenant/1\""
        );
        assert_eq!(
            refusal("hash-mod/1", &[("hash", "crc32")]),
            "hash-mod/1 has no option \"hash\"; it has: key-hash, empty-key, reduction, order"
        );
        let twice = [("map", "even"), ("map", "even")];
        assert_eq!(
            refusal("slot-map/1", &twice),
            "the option \"map\" of slot-map/1 is given twice"
        );
        assert_eq!(
            refusal("ring/1", &[("direction", "left")]),
            "direction of ring/1 is \"left\", but must be at-or-after, at-or-before, after"
        );
        for value in ["", "+1", "1.0", "99999999999999999999"] {
            assert_eq!(
                refusal("ring/1", &[("points-per-weight", value)]),
                format!("points-per-weight of ring/1 is {value:?}, but must be 1..=1024")
            );
        }
        assert_eq!(
            refusal("range/1", &[("numeric \"user:\"", "0..=9 a, 5.. b")]),
            "numeric \"user:\", 0..=9 a (line 2) and numeric \"user:\", 5.. b (line 3) overlap"
        );
        assert_eq!(
            refusal("slot-map/1", &[("map", "0-1 a, 2-3 \"b")]),
            "line 2: the quotes are not closed"
        );
    }

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!(
            [
                edits("", "abc"),
                edits("kitten", "sitting"),
                edits("rign", "ring")
            ],
            [3, 3, 2]
        );
    }
}
