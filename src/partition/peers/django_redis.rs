//! django-redis' `ShardClient`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::ring::of_points;
use super::super::{
    Direction, Partitioner, Placement, PlacementError, RingSpec, check_names, check_unweighted,
    indexed,
};
use super::words;
use crate::hash::{HashTag, KeyHash};
use crate::partition::NodeSpec;

/// The placement of django-redis' `ShardClient`.
///
/// - **Equals**: django-redis 7.0.0.
/// - **Nodes**: the connection string as it stands in `LOCATION`, to the letter: `redis://10.0.0.1:6379/1` and
///   `redis://10.0.0.1:6379/1/` are two nodes. Give it as the node's name: an address alone is never one. Their
///   order does not matter.
/// - **Passwords**: a password in the connection string is hashed too, so a changed one moves keys. Names are
///   shown and may hold none: leave `:PASSWORD` out of the name, with the `@` if no user is before it, and give it
///   to [`with_password`](Self::with_password).
/// - **Weights**: none.
/// - **Keys**: the key that is stored, which is `PREFIX:VERSION:KEY` unless there is a `KEY_FUNCTION`: `:1:foo`
///   for `foo`.
/// - **Tag**: [`LastBraces`](HashTag::LastBraces), not to be turned off.
/// - **Skew**: for eight nodes the largest has on average 1.13 times its share, at worst 1.21.
/// - **While nodes are out**: django-redis goes on to ask a dead node. Here the keys of nodes that are out
///   belong to the last point before them of a living node; no other key moves.
/// - **Undefined in the original**: nothing. It compares digests of 256 bits; here their first 64 bits are
///   compared, of which no two points and keys are known to be equal.
/// - **Source**: `django_redis/client/sharded.py`, `django_redis/hash_ring.py` (7.0.0).
///
/// ```
/// use redis_sharding::partition::peers::DjangoRedis;
/// use redis_sharding::partition::Partitioner;
/// use redis_sharding::NodeSpec;
///
/// let nodes = [1, 2, 3].map(|i| NodeSpec::new(format!("redis://10.0.0.{i}:6379/1"), format!("10.0.0.{i}:6379")));
/// let placement = DjangoRedis::new().place(&nodes)?;
/// assert!(placement.locate(b":1:foo").is_some());
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Default)]
pub struct DjangoRedis {
    password: Option<Box<str>>,
}

impl DjangoRedis {
    /// Connection strings without a password.
    pub const fn new() -> Self {
        Self { password: None }
    }

    /// The password that stands in every connection string: `s3cret` if they are `redis://:s3cret@10.0.0.1:6379/1`
    /// and the like, and the nodes' names `redis://10.0.0.1:6379/1`. What counts is the text as it stands there,
    /// such as `%20` for a space, and as it was when the keys were placed: a client may connect with another.
    ///
    /// [`options`](Partitioner::options) do not have it, only 16 bits of a hash of it, so that fingerprints of two
    /// passwords differ. So [`by_name`](crate::partition::by_name) cannot make this rule: a topology as text is read with
    /// [`Topology::parse_with`](crate::Topology::parse_with).
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into().into_boxed_str());
        self
    }

    pub(in super::super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "django-redis/1",
        summary: "django-redis ShardClient: SHA-256 ring over connection strings",
        options: &[OptionInfo {
            name: "password",
            meaning: "whether the connection strings have a password",
            default: Some(NO_PASSWORD),
            values: OptionValues::Text(
                "none: options are shown, so a password is given to peers::DjangoRedis::with_password, and a topology \
                 with one is read with Topology::parse_with",
            ),
        }],
        make: |given| Ok(Arc::new(Self::from_given(given)?)),
    };

    fn from_given(given: &GivenOptions<'_>) -> Result<Self, PlacementError> {
        given.read("password", |word| (word == NO_PASSWORD).then(Self::new))
    }

    /// What is hashed for a node.
    fn text<'n>(&self, node: &'n NodeSpec) -> Cow<'n, str> {
        let name = node.name();
        let (Some(password), Some((scheme, rest))) = (&self.password, name.split_once("://"))
        else {
            return name.into();
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        format!("{scheme}://{user}:{password}@{host}{path}").into()
    }
}

/// Hides the password.
impl fmt::Debug for DjangoRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "(not shown)");
        f.debug_struct("DjangoRedis")
            .field("password", &password)
            .finish()
    }
}

impl Partitioner for DjangoRedis {
    fn name(&self) -> &str {
        Self::ENTRY.name
    }

    fn options(&self) -> Vec<(String, String)> {
        let password = self.password.as_ref().map_or_else(
            || NO_PASSWORD.to_owned(),
            |password| {
                let hash =
                    KeyHash::Sha256Wide.hash(format!("django-redis/1 {password}").as_bytes());
                format!("given-{:04x}", hash >> 48)
            },
        );
        words([("password", &password)])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_names(nodes)?;
        check_unweighted(nodes)?;
        let hash = KeyHash::Sha256Wide;
        let mut points = Vec::new();
        for (index, node) in indexed(nodes) {
            let text = self.text(node);
            let point = |i: u32| (hash.hash(format!("{text}:{i}").as_bytes()), index);
            points.extend((0..POINTS).map(point));
        }
        let spec = RingSpec::new()
            .with_key_hash(hash)
            .with_direction(Direction::AtOrBefore);
        of_points(&spec, points)
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::LastBraces
    }
}

/// Number of points of a node.
const POINTS: u32 = 128;

/// The value of the option while there is no password.
const NO_PASSWORD: &str = "none";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::by_name;

    #[test]
    fn django_redis_password_stands_in_the_text_and_nowhere_else() {
        let rule = DjangoRedis::new().with_password("s3cret");
        for (name, text) in [
            ("redis://h:1/1", "redis://:s3cret@h:1/1"),
            ("redis://app@h:1/1", "redis://app:s3cret@h:1/1"),
            ("redis://h", "redis://:s3cret@h"),
            ("unix:///run/r.sock?db=1", "unix://:s3cret@/run/r.sock?db=1"),
            ("plain", "plain"),
        ] {
            assert_eq!(rule.text(&NodeSpec::new(name, "h:1")), text);
            assert_eq!(DjangoRedis::new().text(&NodeSpec::new(name, "h:1")), name);
        }
        let shown = format!("{rule:?} {:?}", rule.options());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert_ne!(
            rule.options(),
            DjangoRedis::new().with_password("other").options()
        );
        let refusal = by_name("django-redis/1", &rule.options())
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("peers::DjangoRedis::with_password"),
            "{refusal}"
        );
        // A name with a password is refused, as everywhere.
        let named = NodeSpec::new("redis://:s3cret@h:1/1", "h:1");
        assert!(matches!(
            DjangoRedis::new().place(&[named]).unwrap_err(),
            PlacementError::Password { .. }
        ));
    }
}
