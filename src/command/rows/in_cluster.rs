//! How commands are routed in a Redis Cluster, where that differs from plain nodes.
//!
//! Each row stands for the one with its name in the other files. What is not here is the same: MGET is split, though by
//! slot; DBSIZE goes to every node, though the nodes are the primaries. `docs/cluster.md` has both.

use super::*;

const OWN_VIEW: &str = "what one node knows of the cluster; the nodes agree within moments";
const OF_SLOT: &str =
    "a node answers for the keys that it has itself, so the owner of the slot is asked";
const BY_MODULE: &str =
    "whether a node answers for the keys of all is up to the set-up of the module";

pub(in crate::command) static ROWS: &[CommandSpec] = &[
    for_slot("CLUSTER|COUNTKEYSINSLOT", 3).because(OF_SLOT),
    for_slot("CLUSTER|GETKEYSINSLOT", 4).because(OF_SLOT),
    about_cluster("CLUSTER|INFO", 2).because(OWN_VIEW),
    about_cluster("CLUSTER|KEYSLOT", 3),
    about_cluster("CLUSTER|NODES", 2).because(OWN_VIEW),
    about_cluster("CLUSTER|REPLICAS", 3).because(OWN_VIEW),
    about_cluster("CLUSTER|SHARDS", 2).because(OWN_VIEW),
    about_cluster("CLUSTER|SLAVES", 3).because(OWN_VIEW),
    about_cluster("CLUSTER|SLOTS", 2).because(OWN_VIEW),
    row("PUBLISH", 3, NONE, Route::AnyFor { at: 1 }, Access::Write).because(
        "the nodes pass it on to each other; the number counts the subscribers of one node",
    ),
    ask_all("PUBSUB|NUMPAT", 2, Merge::Sum)
        .allow_partial()
        .because("a pattern is listened to on one node; one on several nodes counts for each"),
    named_read("TS.MGET", -3).because(BY_MODULE),
    named_read("TS.QUERYINDEX", -2).because(BY_MODULE),
];

/// Sent to any node, since each knows the cluster.
const fn about_cluster(name: &'static str, arity: i16) -> CommandSpec {
    any(name, arity).proxied(ProxyRole::ClusterOnly)
}

/// Sent to the owner of the slot in argument 2.
const fn for_slot(name: &'static str, arity: i16) -> CommandSpec {
    row(name, arity, NONE, Route::Slot { at: 2 }, Access::Read).proxied(ProxyRole::ClusterOnly)
}
