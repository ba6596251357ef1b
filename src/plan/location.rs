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

use crate::command::{CommandSpec, KeyPositions};
use crate::error::{Error, ErrorKind, KeyText};
use crate::hash::HashTag;
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::plan::refusal::{key_moved, typed_name};

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyLocation {
    /// The node that owns the key.
    pub(crate) node: NodeIndex,
    /// The key's slot in a Redis Cluster; `None` over plain nodes.
    pub(crate) slot: Option<u16>,
}

impl KeyLocation {
    /// True if two keys may be used in one indivisible request. They may have been located by different maps of a cluster,
    /// in which one slot has different owners.
    fn is_together_with(self, other: Self) -> bool {
        match (self.slot, other.slot) {
            (Some(slot), Some(other)) => slot == other,
            _ => self == other,
        }
    }
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
                let node = map.target(slot).ok_or_else(|| self.no_owner(key))?;
                Ok(KeyLocation {
                    node,
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
        if !first.1.is_together_with(key.1) {
            return Err(self.cross_node(what, first, key));
        }
        self.check_tag(what, first, key.0)
    }

    /// Checks a pattern from which the server makes keys (SORT ... BY and GET): all of them must live at
    /// `location`.
    ///
    /// The server replaces the first `*` by each element, so the keys are not known. They are on one node, and in one
    /// slot, exactly if the text before the `*` contains a complete hash tag:
    ///
    /// ```text
    /// {user}:*->name     every key has the tag "user": checked like a key
    /// weight_*           the keys are spread over all nodes: refused
    /// *{user}            an element may contain a tag of its own, which would come first: refused
    /// ```
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when one of the keys may live on another node, or in another slot.
    pub(crate) fn check_pattern(
        &self,
        command: &CommandSpec,
        pattern: &[u8],
        location: KeyLocation,
    ) -> Result<(), Error> {
        let star = pattern
            .iter()
            .position(|&byte| byte == b'*')
            .unwrap_or(pattern.len());
        let fixed = &pattern[..star];
        // Whatever replaces the star, the first complete pair of braces stays the first.
        let rule = self.topology().hash_tag();
        let pinned = matches!(rule, HashTag::Braces) && rule.of(fixed).len() < fixed.len();
        if pinned && self.location(fixed).ok() == Some(location) {
            return Ok(());
        }
        Err(self.unpinned_pattern(command, pattern, location))
    }

    /// Checks the keys of a command over a dedicated connection: see [`route_private`](Self::route_private).
    pub(super) fn check_private(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        at: &KeyPositions,
        (node, first): (NodeIndex, Option<&[u8]>),
    ) -> Result<(), Error> {
        const WHAT: &str = "this connection";
        let first = match first {
            Some(first) => Some((first, self.location(first)?)),
            None => None,
        };
        // Without a slot the node alone decides.
        let mut all = KeyLocation {
            node,
            slot: first.and_then(|(_, location)| location.slot),
        };
        for &at in &at.keys {
            let key = args[at as usize];
            let location = self.location(key)?;
            // The connection of keys in a cluster is bound to their slot. Any other is bound to its node alone.
            if let Some(first) = first.filter(|first| first.1.slot != location.slot) {
                return Err(self.cross_node(WHAT, first, (key, location)));
            }
            // The server that imports a slot is not its owner.
            let is_of_slot = first.is_some() && location.slot.is_some();
            if location.node != node && self.is_moving() {
                return Err(key_moved(self.name(node), key, self.name(location.node)));
            }
            if location.node != node && !is_of_slot {
                return Err(self.wrong_node(command, key, location.node, node));
            }
            all.slot = location.slot;
        }
        for &at in &at.patterns {
            self.check_pattern(command, args[at as usize], all)?;
        }
        if let Some(first) = first {
            for &at in at.keys.iter().chain(&at.patterns) {
                self.check_tag(WHAT, first, args[at as usize])?;
            }
        }
        Ok(())
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
    pub(super) fn unpinned_pattern(
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

#[cfg(test)]
pub(super) mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, from_fn};
    use crate::plan::{HashTags, KeyCheck, Plan, PlannedTransaction, ScriptCache, SplitWrites};
    use crate::topology::cluster::ClusterMap;
    use crate::topology::{HostPort, Topology};

    /// A router over a cluster of so many nodes, of which slot `n` belongs to node `n % nodes`.
    pub(in crate::plan) fn cluster(nodes: u16) -> Router {
        let address = |number| HostPort {
            host: "10.0.0.1".to_owned(),
            port: 7000 + number,
        };
        let owner = |slot| Some(NodeIndex::new(slot % nodes));
        let map = ClusterMap::new((0..nodes).map(address).collect(), owner);
        let topology = Arc::new(map).topology().expect("a topology");
        Router::new(Arc::new(topology), table(), SplitWrites::Allowed)
    }

    fn table() -> Cow<'static, CommandTable> {
        Cow::Borrowed(CommandTable::built_in())
    }

    /// A router over plain nodes of which the first owns all keys.
    fn plain() -> Router {
        let nodes = ["a:1", "b:1"].map(NodeSpec::unnamed).to_vec();
        let first = Arc::new(from_fn("first/1", |_, _| 0));
        let topology = Topology::new(nodes, first).expect("a topology");
        Router::new(Arc::new(topology), table(), SplitWrites::Allowed)
    }

    fn plan(router: &Router, command: &str) -> Result<Plan, Error> {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        router.plan(&args)
    }

    /// Two keys of one node and different slots: 3300 and 15495 for a cluster of one node.
    const A: &str = "a";
    const B: &str = "b";

    #[test]
    fn keys_of_one_command_must_share_a_slot_of_the_cluster_whatever_node_they_are_on() {
        let one = cluster(1);
        for command in [
            "RENAME a b",
            "SINTER {a}1 {a}2 {b}3",
            "EVAL s 2 a b x",
            "FCALL f 2 a b",
            "MSETNX a 1 b 2",
            "MSETEX 2 a 1 b 2",
            "COPY a b",
            "XREAD STREAMS a b 0 0",
            "BLPOP a b 0",
            "LMOVE a b LEFT RIGHT",
            "ZUNIONSTORE {t}d 2 {t}a u",
            "BITOP AND {t}d {t}a u",
            "SORT {t}a STORE u",
            "SORT {t}a BY {u}*",
            "SORT {t}a GET weight_*",
            "PFMERGE {t}a {u}a",
            "SMOVE a b x",
        ] {
            let error = plan(&one, command).expect_err(command);
            assert_eq!(error.kind(), ErrorKind::CrossNode, "{command}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("slot") && text.contains("{tag}"),
                "{command}: {text}"
            );
        }
        for command in [
            "RENAME a {a}b",
            "EVAL s 2 {t}a {t}b x",
            "SORT {t}a BY {t}*->x GET {t}* STORE {t}d",
            "MSETNX a 1 {a} 2",
        ] {
            assert!(matches!(plan(&one, command), Ok(Plan::One(_))), "{command}");
        }
        let error = plan(&one, "RENAME a b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the keys \"a\" (slot 15495) and \"b\" (slot 3300) of RENAME are in different slots of the cluster, and it \
             cannot be split; put them under one hash tag, such as {tag}a and {tag}b"
        );
        assert_eq!(error.keys(), [&b"a"[..], b"b"]);
        // The same keys on one plain node.
        plan(&plain(), "RENAME a b").unwrap();
    }

    #[test]
    fn keys_of_transactions_scripts_watch_and_dedicated_connections_must_share_a_slot() {
        let one = cluster(1);
        let mut transaction = PlannedTransaction::default();
        let mut add = |args: &[&[u8]]| transaction.add(&one, args, &ScriptCache::empty);
        add(&[b"SET", b"{t}a", b"1"]).unwrap();
        add(&[b"MGET", b"{t}b", b"t"]).unwrap();
        // A channel is no key here: any node passes the message on to all.
        add(&[b"PUBLISH", b"a", b"x"]).unwrap();
        let error = add(&[b"GET", b"a"]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("of the transaction are in different slots"),
            "{error}"
        );
        add(&[b"MGET", b"{t}a", b"a"]).unwrap_err();
        add(&[b"SORT", b"{t}a", b"GET", b"{u}*"]).unwrap_err();

        let script = "redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)";
        let error = one.plan(&[b"EVAL", script.as_bytes(), b"0"]).unwrap_err();
        assert!(error.to_string().contains("different slots"), "{error}");
        let script = "redis.call('SET', '{t}a', 1) redis.call('PUBLISH', 'b', 1)";
        one.plan(&[b"EVAL", script.as_bytes(), b"0"]).unwrap();

        let keys = |keys: &'static [&'static [u8]]| one.dedicated_owner(keys.iter().copied());
        assert_eq!(
            keys(&[b"a", b"b"]).unwrap_err().kind(),
            ErrorKind::CrossNode
        );
        let (node, check) = keys(&[b"{t}a", b"{t}b"]).unwrap();
        let route = |args: &[&[u8]]| one.route_private(node, args, check.first_key()).map(drop);
        route(&[b"WATCH", b"{t}c", b"t"]).unwrap();
        route(&[b"PING"]).unwrap();
        let error = route(&[b"GET", b"other"]).unwrap_err();
        assert_eq!(error.keys(), [&b"{t}a"[..], b"other"]);
        assert!(
            error
                .to_string()
                .contains("of this connection are in different slots"),
            "{error}"
        );
        route(&[b"SORT", b"{t}a", b"GET", b"{u}*"]).unwrap_err();

        let watched = |args: &[&[u8]]| one.watched_node(args).map(|(_, check)| check);
        let check = watched(&[b"WATCH", b"{t}a", b"{t}b"]).unwrap();
        assert_eq!(check, KeyCheck::Together(b"{t}a"[..].into()));
        watched(&[b"WATCH", b"a", b"b"]).unwrap_err();
        let second = |key: &[u8]| one.check_second_watch((b"{t}a", node), key, node);
        second(b"t").unwrap();
        second(b"a").unwrap_err();
    }

    #[test]
    fn hash_tags_required_refuses_two_tags_of_one_slot_too() {
        // "a" and a number in its slot, which only chance has put there.
        let map = cluster(1);
        let map = map.topology().cluster().unwrap();
        let other = (0_u32..).map(|number| number.to_string());
        let mut other = other.filter(|key| map.slot(key.as_bytes()) == map.slot(b"a"));
        let rename = format!("RENAME a {}", other.next().unwrap());
        plan(&cluster(1), &rename).unwrap();
        let required = cluster(1).with_hash_tags(HashTags::Required);
        let error = plan(&required, &rename).unwrap_err();
        let text = "are in one slot (slot 15495) only by chance: they share no hash tag; put them under one hash tag";
        assert!(error.to_string().contains(text), "{error}");
        plan(&required, "RENAME a {a}b").unwrap();
    }

    #[test]
    fn writes_that_may_not_be_split_must_share_a_slot() {
        let topology = Arc::clone(cluster(1).topology());
        let refused = Router::new(topology, table(), SplitWrites::Refused);
        let error = plan(&refused, "MSET a 1 {a}b 2 b 3").unwrap_err();
        assert!(
            error.to_string().contains("of MSET are in different slots"),
            "{error}"
        );
        for command in ["DEL a b", "UNLINK a b", "JSON.MSET a $ 1 b $ 2"] {
            plan(&refused, command).expect_err(command);
        }
        assert!(matches!(
            plan(&refused, "MSET a 1 {a}b 2"),
            Ok(Plan::One(_))
        ));
        assert!(matches!(plan(&refused, "MGET a b"), Ok(Plan::Split(_))));
    }

    #[test]
    fn dedicated_connection_of_keys_stays_as_long_as_their_slot_does() {
        let (before, same) = (cluster(3), cluster(3));
        let (node, check) = before.dedicated_owner([A.as_bytes()]).unwrap();
        let handle = before.node_ref(node);
        let located = |router: &Router| router.locate_dedicated(&handle, (&check, false), |_| true);
        assert_eq!(located(&same).unwrap(), node);
        // The slot of `a` goes to another node, and that of `b` does.
        let moved = |key: &str| {
            let map = before.topology().cluster().unwrap();
            let slot = map.slot(key.as_bytes());
            let owner = |number| match number == slot {
                true => Some(NodeIndex::new((slot + 1) % 3)),
                false => map.target(number),
            };
            let addresses = (0..3).filter_map(|node| map.address(NodeIndex::new(node)).cloned());
            let map = Arc::new(ClusterMap::new(addresses.collect(), owner));
            let topology = Arc::new(map.topology().unwrap());
            Router::new(topology, table(), SplitWrites::Allowed)
        };
        assert_eq!(located(&moved(B)).unwrap(), node);
        let error = located(&moved(A)).unwrap_err();
        assert!(
            error.to_string().contains("may live on another node"),
            "{error}"
        );
    }

    #[test]
    fn commands_about_the_cluster_go_to_any_node_or_to_the_owner_of_their_slot() {
        let router = cluster(3);
        for command in [
            "CLUSTER INFO",
            "CLUSTER KEYSLOT a",
            "CLUSTER SHARDS",
            "CLUSTER NODES",
        ] {
            assert_eq!(plan(&router, command).unwrap(), Plan::Any, "{command}");
        }
        for slot in [0_u16, 1, 16382, 16383] {
            for command in [
                format!("CLUSTER COUNTKEYSINSLOT {slot}"),
                format!("cluster getkeysinslot {slot} 10"),
            ] {
                let owner = NodeIndex::new(slot % 3);
                assert_eq!(
                    plan(&router, &command).unwrap(),
                    Plan::One(owner),
                    "{command}"
                );
            }
        }
        for slot in ["16384", "-1", "x", "99999999999999999999"] {
            let command = format!("CLUSTER COUNTKEYSINSLOT {slot}");
            assert_eq!(plan(&router, &command).unwrap(), Plan::Any, "{command}");
        }
        for command in [
            "CLUSTER MYID",
            "CLUSTER FORGET x",
            "CLUSTER COUNTKEYSINSLOT",
            "READONLY",
        ] {
            plan(&router, command).expect_err(command);
        }
        for command in ["CLUSTER INFO", "CLUSTER COUNTKEYSINSLOT 1"] {
            let error = plan(&plain(), command).expect_err(command);
            assert_eq!(error.kind(), ErrorKind::Unroutable);
        }
    }

    #[test]
    fn publish_prefers_the_node_of_its_channel_and_spublish_goes_there() {
        let router = cluster(3);
        for channel in ["a", "b", "news.{a}"] {
            let owner = router.owner(channel.as_bytes()).unwrap();
            let publish: [&[u8]; 3] = [b"PUBLISH", channel.as_bytes(), b"x"];
            let routed = router.route_by_keys(&publish).unwrap();
            assert_eq!((routed.plan, routed.preferred), (Plan::Any, Some(owner)));
            let sharded: [&[u8]; 3] = [b"SPUBLISH", channel.as_bytes(), b"x"];
            assert_eq!(router.plan(&sharded).unwrap(), Plan::One(owner));
        }
        let plain = plain().plan(&[b"PUBLISH", b"a", b"x"]).unwrap();
        assert_eq!(plain, Plan::One(NodeIndex::new(0)));
    }
}
