//! [`HashTags`]: must the keys of a request that cannot be split share a hash tag, or is it enough that they live on
//! one node?
//!
//! Keys with equal hashed bytes live on one node whatever the nodes are. Others may do so today, by chance, and
//! be separated when a node is added: a program that relies on it passes its tests on two nodes and fails on
//! three. [`HashTags::Required`] refuses such requests from the start.
//!
//! The check costs nothing for a request with one key, and one comparison for each further key.

use crate::error::{Error, ErrorKind, KeyText};
use crate::hash::HashTag;
use crate::partition::NodeIndex;
use crate::plan::{KeyCheck, KeyLocation, Router};

/// The condition under which an indivisible request may have several keys: a command that cannot be split
/// (RENAME, SINTER, EVAL, ...), a transaction, an atomic pipeline, WATCH, and a dedicated connection. A write
/// that may not be split because of [`SplitWrites::Refused`](crate::SplitWrites::Refused) is one too.
///
/// Commands that are split (MGET, DEL, ...) and requests with one key are not concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HashTags {
    /// All keys live on one node, if only by chance.
    #[default]
    Optional,
    /// All keys share a hash tag: the placement's tag rule ([`HashTag`]) picks the same bytes of each. `{user:1}:a`,
    /// `{user:1}:b` and `user:1` do. Otherwise the request is refused with
    /// [`CrossNode`](ErrorKind::CrossNode).
    ///
    /// With a placement that has no tags ([`HashTag::None`], as range partitioning), only a key and itself
    /// share one: neighbours of a range may be separated by a new boundary.
    Required,
}

impl Router {
    /// Sets whether the keys of one indivisible request must share a hash tag. Defaults to
    /// [`HashTags::Optional`].
    #[must_use]
    pub fn with_hash_tags(mut self, hash_tags: HashTags) -> Self {
        self.hash_tags = hash_tags;
        self
    }

    /// The node that owns all of `keys`, and the check of keys over a dedicated connection to it.
    ///
    /// # Errors
    ///
    /// Those of [`common_owner`](Self::common_owner).
    pub(crate) fn dedicated_owner<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k [u8]> + Clone,
    ) -> Result<(NodeIndex, KeyCheck), Error> {
        let node = self.common_owner(keys.clone())?.node;
        Ok((node, self.key_check(keys.into_iter().next())))
    }

    /// The check of keys over a connection that was opened for keys of which this is the first.
    pub(super) fn key_check(&self, first: Option<&[u8]>) -> KeyCheck {
        let is_bound = self.hash_tags == HashTags::Required || self.topology().cluster().is_some();
        match first {
            Some(first) if is_bound => KeyCheck::Together(first.into()),
            _ => KeyCheck::Owned,
        }
    }

    /// Checks that `key` shares its hash tag with `first`, if it must. They live on one node, and in a cluster in one
    /// slot. `what` names the request.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when they must share a hash tag and do not.
    pub(super) fn check_tag(
        &self,
        what: &str,
        first: (&[u8], KeyLocation),
        key: &[u8],
    ) -> Result<(), Error> {
        match self.hash_tags {
            HashTags::Optional => Ok(()),
            HashTags::Required if self.share_tag(first.0, key) => Ok(()),
            HashTags::Required => Err(self.no_shared_tag(what, first, key)),
        }
    }

    /// True if the placement's tag rule picks the same bytes of both keys.
    fn share_tag(&self, a: &[u8], b: &[u8]) -> bool {
        let tag = self.topology().hash_tag();
        tag.of(a) == tag.of(b)
    }

    /// Error for two keys of one indivisible request that live on one node, in a cluster in one slot, but share no hash
    /// tag.
    fn no_shared_tag(&self, what: &str, first: (&[u8], KeyLocation), key: &[u8]) -> Error {
        let (keys, advice) = ((KeyText(first.0), KeyText(key)), self.tag_advice());
        let text = match first.1.slot {
            Some(slot) => format!(
                "the keys {} and {} of {what} are in one slot (slot {slot}) only by chance: they share no hash tag; {advice}",
                keys.0, keys.1,
            ),
            None => format!(
                "the keys {} and {} of {what} live on one node (node {}) only by chance: they share no hash tag, and a new \
                 node may separate them; {advice}",
                keys.0,
                keys.1,
                self.name(first.1.node),
            ),
        };
        Error::new(ErrorKind::CrossNode, text).about_keys([first.0, key])
    }

    /// How two keys get a common tag.
    fn tag_advice(&self) -> String {
        match *self.topology().hash_tag() {
            HashTag::None => {
                "use a placement with hash tags, or one key, or allow it with `HashTags::Optional`".into()
            }
            HashTag::Custom(rule, _) => {
                format!("give them a common tag by the rule {rule}, or allow it with `HashTags::Optional`")
            }
            HashTag::AnyTwo(open, close) | HashTag::LineStart(open, close) => {
                let tag = format!("{}tag{}", open.escape_ascii(), close.escape_ascii());
                format!("put them under one hash tag, such as {tag}a and {tag}b, or allow it with `HashTags::Optional`")
            }
            HashTag::Braces
            | HashTag::BracesEvenEmpty
            | HashTag::JedisPattern
            | HashTag::LastBraces
            | HashTag::PhpRedis => {
                "put them under one hash tag, such as {tag}a and {tag}b, or allow it with `HashTags::Optional`".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::peers::Twemproxy;
    use crate::partition::{NodeSpec, Partitioner, Rendezvous, from_fn};
    use crate::plan::{PlannedTransaction, ScriptCache, SplitWrites};
    use crate::topology::Topology;

    /// A router over one node, where all keys live together by chance.
    fn router(partitioner: Arc<dyn Partitioner>, hash_tags: HashTags) -> Router {
        let nodes = vec![NodeSpec::new("a", "a:6379")];
        let topology = Topology::new(nodes, partitioner).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed).with_hash_tags(hash_tags)
    }

    fn required() -> Router {
        router(Arc::new(Rendezvous::default()), HashTags::Required)
    }

    fn plan(router: &Router, command: &str) -> Result<(), Error> {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        router.plan(&args).map(drop)
    }

    #[test]
    fn hash_tags_required_refuses_keys_of_one_command_that_share_a_node_only_by_chance() {
        for command in [
            "RENAME a b",
            "SINTER {a}1 {a}2 {b}3",
            "EVAL s 2 a b x",
            "FCALL f 2 a b",
            "MSETNX a 1 b 2",
            "XREAD STREAMS a b 0 0",
            "BLPOP a b 0",
            "LMOVE a b LEFT RIGHT",
            "ZUNIONSTORE {t}d 2 {t}a u",
            "BITOP AND {t}d {t}a u",
            "SORT {t}a STORE u",
            "SORT {t}a BY {u}*",
            "PFMERGE {t}a {u}a",
        ] {
            let error = plan(&required(), command).expect_err(command);
            assert_eq!(error.kind(), ErrorKind::CrossNode, "{command}: {error}");
            let optional = router(Arc::new(Rendezvous::default()), HashTags::Optional);
            plan(&optional, command).expect(command);
        }
        let error = plan(&required(), "RENAME user:1 user:2").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the keys \"user:1\" and \"user:2\" of RENAME live on one node (node a) only by chance: they share no hash \
             tag, and a new node may separate them; put them under one hash tag, such as {tag}a and {tag}b, or allow it \
             with `HashTags::Optional`"
        );
        assert_eq!(error.keys(), [&b"user:1"[..], b"user:2"]);
    }

    #[test]
    fn hash_tags_required_allows_common_tags_single_keys_and_commands_that_are_split() {
        for command in [
            "GET a",
            "RENAME {t}a {t}b",
            "RENAME t {t}b",
            "RENAME a a",
            "EVAL s 2 {t}a {t}b x",
            "SORT {t}a BY {t}*->x GET {t}* STORE {t}d",
            "MGET a b c",
            "DEL a b c",
            "MSET a 1 b 2",
            "DBSIZE",
            "ECHO x",
            "PUBLISH a b",
        ] {
            plan(&required(), command).expect(command);
        }
    }

    #[test]
    fn hash_tags_required_holds_for_writes_that_may_not_be_split() {
        let topology = Arc::clone(required().topology());
        let table = Cow::Borrowed(CommandTable::built_in());
        let router =
            Router::new(topology, table, SplitWrites::Refused).with_hash_tags(HashTags::Required);
        let error = plan(&router, "MSET a 1 b 2").unwrap_err();
        assert!(error.to_string().contains("only by chance"), "{error}");
        plan(&router, "MSET {t}a 1 {t}b 2").unwrap();
        plan(&router, "MGET a b").unwrap();
    }

    #[test]
    fn hash_tags_required_holds_for_transactions_scripts_without_keys_and_dedicated_connections() {
        let router = required();
        let mut transaction = PlannedTransaction::default();
        let mut add = |args: &[&[u8]]| transaction.add(&router, args, &ScriptCache::empty);
        add(&[b"SET", b"{t}a", b"1"]).unwrap();
        add(&[b"MGET", b"{t}b", b"t"]).unwrap();
        add(&[b"GET", b"a"]).unwrap_err();
        add(&[b"MGET", b"{t}a", b"a"]).unwrap_err();

        let script = "redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)";
        let eval = [b"EVAL", script.as_bytes(), b"0"];
        assert_eq!(router.plan(&eval).unwrap_err().kind(), ErrorKind::CrossNode);

        let keys = |keys: &'static [&'static [u8]]| router.dedicated_owner(keys.iter().copied());
        let (node, check) = keys(&[b"{t}a", b"{t}b"]).unwrap();
        assert_eq!(
            keys(&[b"a", b"b"]).unwrap_err().kind(),
            ErrorKind::CrossNode
        );
        let first = check.first_key();
        let route = |args: &[&[u8]]| router.route_private(node, args, first).map(drop);
        route(&[b"WATCH", b"{t}c", b"t"]).unwrap();
        route(&[b"PING"]).unwrap();
        let error = route(&[b"GET", b"other"]).unwrap_err();
        assert_eq!(error.keys(), [&b"{t}a"[..], b"other"]);
        route(&[b"SORT", b"{t}a", b"GET", b"{u}*"]).unwrap_err();
    }

    #[test]
    fn hash_tags_required_follows_the_tag_rule_of_the_placement() {
        let twemproxy = Twemproxy::ketama().with_hash_tag(HashTag::AnyTwo(b'<', b'>'));
        let tags = router(Arc::new(twemproxy), HashTags::Required);
        plan(&tags, "RENAME <t>a <t>b").unwrap();
        let error = plan(&tags, "RENAME {t}a {t}b").unwrap_err();
        assert!(error.to_string().contains("such as <tag>a"), "{error}");

        let whole = router(Arc::new(Twemproxy::ketama()), HashTags::Required);
        plan(&whole, "RENAME a a").unwrap();
        let error = plan(&whole, "RENAME {t}a {t}b").unwrap_err();
        assert!(
            error.to_string().contains("a placement with hash tags"),
            "{error}"
        );

        let by_letter = router(Arc::new(from_fn("letters/1", |_, _| 0)), HashTags::Required);
        plan(&by_letter, "RENAME {t}a {t}b").unwrap();
        plan(&by_letter, "RENAME a1 a2").unwrap_err();
    }
}
