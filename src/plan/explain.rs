//! A plan as a table that people can read.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, KeyText};
use crate::partition::{NodeIndex, OutNodes};
use crate::plan::{CacheSnapshot, Plan, Router};
use crate::topology::Topology;

/// Maximum number of keys shown per node; an ellipsis stands for the others.
const KEYS_SHOWN: usize = 4;

/// The plan of a command with the names of its nodes. `Display` prints a small table: one line per node with
/// its keys.
///
/// ```text
/// MGET: split over 2 nodes, answers in the order of the keys
///   cache-a  2 keys  "user:1", "user:4"
///   cache-c  1 key   "user:2"
/// ```
///
/// While nodes are out, and the command is for them too, or for their keys, the last line names them: `out:
/// cache-b`.
///
/// In a Redis Cluster each key is followed by its slot, and a command that is split is cut by slot:
///
/// ```text
/// MGET: split over 2 nodes by 3 slots, answers in the order of the keys
///   10.0.0.1:6379  2 keys  "user:2" (slot 2921), "user:3" (slot 7048)
///   10.0.0.3:6379  1 key   "user:1" (slot 10778)
/// ```
#[derive(Clone, Debug)]
pub struct Explanation {
    plan: Plan,
    topology: Arc<Topology>,
    name: String,
    keys: Vec<Vec<u8>>,
}

impl Router {
    /// Plans `args` and describes the plan with the names of keys and nodes.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    pub(crate) fn explain(
        &self,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<Explanation, Error> {
        let plan = self.route(args, snapshot)?.plan;
        let at = self.keys(self.lookup(args)?, args)?;
        Ok(Explanation::new(
            plan,
            Arc::clone(self.topology()),
            args,
            &at.keys,
        ))
    }
}

impl Explanation {
    /// Explains `plan` for the command `args`, whose keys are the arguments at `positions`.
    pub(crate) fn new(
        plan: Plan,
        topology: Arc<Topology>,
        args: &[&[u8]],
        positions: &[u32],
    ) -> Self {
        // Copied: an explanation is for people, outlives the request, and need not be fast.
        let key = |&at: &u32| args[at as usize].to_vec();
        Self {
            plan,
            topology,
            name: args
                .first()
                .map(|name| name.escape_ascii().to_string().to_ascii_uppercase())
                .unwrap_or_default(),
            keys: positions.iter().map(key).collect(),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The names of the nodes that are [out](Topology::without) and matter here, in node order: all of them if the
    /// command concerns all nodes or any, and those that own one of its keys when they are not out.
    ///
    /// Also all of them if a key moves between living nodes, as by the rules of some
    /// [peers](crate::partition::peers).
    pub fn out(&self) -> Vec<&str> {
        let out = self.topology.out();
        let names = |nodes: &OutNodes| {
            let names = nodes.iter().map(|node| self.topology.node(node).name());
            names.collect()
        };
        // Does not fail: no node is out there.
        let Ok(all) = self.topology.without(&OutNodes::none()) else {
            return Vec::new();
        };
        if let Plan::Any | Plan::All(_) | Plan::Scan { .. } | Plan::ScanSlots { .. } = self.plan {
            return names(out);
        }
        let owners = |key: &Vec<u8>| (all.locate(key), self.topology.locate(key));
        let moved = self.keys.iter().map(owners).filter(|(own, now)| own != now);
        let moved = moved.filter_map(|(own, _)| own).collect::<OutNodes>();
        match moved.iter().all(|own| out.contains(own)) {
            true => names(&moved),
            false => names(out),
        }
    }

    /// The names of the nodes that would receive the command, in node order, each with its keys.
    ///
    /// Empty for [`Plan::Any`]: which node receives such a command is decided when it is sent. The keys are
    /// empty for a command that goes to all nodes.
    pub fn parts(&self) -> Vec<(&str, Vec<&[u8]>)> {
        let name = |node: NodeIndex| self.topology.node(node).name();
        match &self.plan {
            // A scan that ends here: the node went out, and there is none after it.
            Plan::Scan { node, .. } if self.topology.out().contains(*node) => Vec::new(),
            Plan::One(node) | Plan::Scan { node, .. } | Plan::ScanSlots { node, .. } => {
                vec![(name(*node), self.keys.iter().map(Vec::as_slice).collect())]
            }
            Plan::Any => Vec::new(),
            Plan::All(_) => self
                .topology
                .living()
                .map(|node| (name(node), Vec::new()))
                .collect(),
            Plan::Split(split) => {
                let mut nodes: Vec<(NodeIndex, Vec<u32>)> = Vec::new();
                for part in split.parts() {
                    match nodes.last_mut() {
                        // Another slot of the same node.
                        Some((node, keys)) if *node == part.node => keys.extend(part.keys),
                        _ => nodes.push((part.node, part.keys.to_vec())),
                    }
                }
                let part = |(node, mut keys): (NodeIndex, Vec<u32>)| {
                    keys.sort_unstable();
                    let keys = keys.iter().map(|&key| self.keys[key as usize].as_slice());
                    (name(node), keys.collect())
                };
                nodes.into_iter().map(part).collect()
            }
        }
    }

    /// The slot of a key in a Redis Cluster; `None` over plain nodes.
    pub fn slot(&self, key: &[u8]) -> Option<u16> {
        Some(self.topology.cluster()?.slot(key))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts();
        let name = &self.name;
        match &self.plan {
            Plan::One(_) => write!(f, "{name}: one node")?,
            Plan::Any => write!(f, "{name}: any one node")?,
            Plan::Scan { .. } => write!(f, "{name}: the next step of a scan over all nodes")?,
            Plan::ScanSlots { slot, .. } => {
                write!(
                    f,
                    "{name}: the next step of a scan over all slots, from slot {slot} on"
                )?;
            }
            Plan::All(merge) => write!(f, "{name}: all {} nodes, {}", parts.len(), merge.words())?,
            Plan::Split(split) => {
                write!(
                    f,
                    "{name}: split over {} node{}",
                    parts.len(),
                    if parts.len() == 1 { "" } else { "s" }
                )?;
                if self.topology.cluster().is_some() {
                    write!(f, " by {} slots", split.parts().len())?;
                }
                write!(f, ", {}", split.merge.words())?;
            }
        }
        // Characters, not bytes: the padding of `{node:width$}` counts characters too.
        let width = parts
            .iter()
            .map(|(node, _)| node.chars().count())
            .max()
            .unwrap_or(0);
        for (node, keys) in parts {
            write!(f, "\n  {node:width$}")?;
            match keys.len() {
                0 => {}
                1 => write!(f, "  1 key   ")?,
                count => write!(f, "  {count} keys  ")?,
            }
            let shown: Vec<String> = keys
                .iter()
                .take(KEYS_SHOWN)
                .map(|key| match self.slot(key) {
                    Some(slot) => format!("{} (slot {slot})", KeyText(key)),
                    None => KeyText(key).to_string(),
                })
                .collect();
            f.write_str(&shown.join(", "))?;
            if keys.len() > KEYS_SHOWN {
                f.write_str(", ...")?;
            }
        }
        match self.out()[..] {
            [] => Ok(()),
            ref out => write!(f, "\n  out: {}", out.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, from_fn};
    use crate::plan::{Router, ScriptCache, SplitWrites};

    /// Nodes a, b, c and d, of which b and d are out. Keys live where their first letter says.
    fn explain(args: &[&[u8]]) -> Explanation {
        let nodes = ["a", "b", "c", "d"].map(NodeSpec::unnamed).to_vec();
        let letter = from_fn("letters/1", |key, _| usize::from(key[0] - b'a'));
        let topology = Topology::new(nodes, Arc::new(letter)).unwrap();
        let out = [1, 3].map(NodeIndex::new).into_iter().collect();
        let topology = Arc::new(topology.without(&out).unwrap());
        let table = Cow::Borrowed(CommandTable::built_in());
        let router = Router::new(topology, table, SplitWrites::Allowed);
        router.explain(args, &ScriptCache::empty).unwrap()
    }

    #[test]
    fn explanation_names_the_nodes_that_are_out_where_they_matter() {
        for (args, out) in [
            (&[&b"DBSIZE"[..]][..], &["b", "d"][..]),
            (&[b"ECHO", b"x"], &["b", "d"]),
            (&[b"SCAN", b"0"], &["b", "d"]),
            (&[b"GET", b"a1"], &[]),
            (&[b"GET", b"d1"], &["d"]),
            (&[b"MGET", b"a1", b"b1", b"c1"], &["b"]),
            (&[b"MGET", b"a1", b"c1"], &[]),
        ] {
            let explanation = explain(args);
            assert_eq!(explanation.out(), out, "{explanation}");
            let parts = explanation.parts();
            assert!(
                parts.iter().all(|(node, _)| ["a", "c"].contains(node)),
                "{explanation}"
            );
        }
        let text = explain(&[b"DBSIZE"]).to_string();
        assert!(text.starts_with("DBSIZE: all 2 nodes, "), "{text}");
        assert!(text.ends_with("\n  a\n  c\n  out: b, d"), "{text}");
    }

    #[test]
    fn explanation_shows_the_slots_of_a_cluster() {
        let router = crate::plan::location::tests::cluster(2);
        let explain = |args: &[&[u8]]| router.explain(args, &ScriptCache::empty).unwrap();
        let mget = explain(&[b"MGET", b"a", b"b", b"c", b"{a}"]);
        assert_eq!(
            mget.to_string(),
            "MGET: split over 2 nodes by 3 slots, answers in the order of the keys\n  \
             10.0.0.1:7000  1 key   \"b\" (slot 3300)\n  \
             10.0.0.1:7001  3 keys  \"a\" (slot 15495), \"c\" (slot 7365), \"{a}\" (slot 15495)"
        );
        let parts = mget.parts();
        assert_eq!(parts[1].1, [&b"a"[..], b"c", b"{a}"]);
        assert_eq!(mget.slot(b"c"), Some(7365));
        let get = explain(&[b"GET", b"b"]).to_string();
        assert_eq!(
            get,
            "GET: one node\n  10.0.0.1:7000  1 key   \"b\" (slot 3300)"
        );
        let one_node = explain(&[b"DEL", b"a", b"c"]).to_string();
        assert!(
            one_node.starts_with("DEL: split over 1 node by 2 slots, "),
            "{one_node}"
        );
    }
}
