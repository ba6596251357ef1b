//! The connection, and transactions.

use super::*;

const ITS_OWN: &str = "says something about one connection, and a shared handle has many";
const SINCE: &str = "counts every write acknowledged before: a PUBLISH to nobody goes ahead of it (a server counts one connection's)";

pub(super) static ROWS: &[CommandSpec] = &[
    stateful("AUTH", -2, NONE),
    stateful("CLIENT|CACHING", 3, NONE),
    stateful("CLIENT|CAPA", -3, NONE),
    stateful("CLIENT|GETNAME", 2, NONE).because(ITS_OWN),
    stateful("CLIENT|GETREDIR", 2, NONE).because(ITS_OWN),
    any("CLIENT|HELP", 2),
    stateful("CLIENT|ID", 2, NONE).because(ITS_OWN),
    stateful("CLIENT|IMPORT-SOURCE", 3, NONE),
    stateful("CLIENT|INFO", 2, NONE).because(ITS_OWN),
    named("CLIENT|KILL", -3).because("ids and addresses are the node's own"),
    ask_all("CLIENT|LIST", -2, Merge::Lines)
        .allow_partial()
        .because("ids are the node's own: two nodes may have the same"),
    stateful("CLIENT|NO-EVICT", 3, NONE),
    stateful("CLIENT|NO-TOUCH", 3, NONE),
    tell_all("CLIENT|PAUSE", -3, Merge::AllSucceeded),
    refused("CLIENT|REPLY", 3).because("answers would go missing"),
    stateful("CLIENT|SETINFO", 4, NONE),
    stateful("CLIENT|SETNAME", 3, NONE),
    stateful("CLIENT|TRACKING", -3, NONE),
    stateful("CLIENT|TRACKINGINFO", 2, NONE).because(ITS_OWN),
    named("CLIENT|UNBLOCK", -3).because("ids are the node's own"),
    tell_all("CLIENT|UNPAUSE", 2, Merge::AllSucceeded),
    stateful("DISCARD", 1, NONE),
    any("ECHO", 2),
    stateful("EXEC", 1, NONE),
    stateful("HELLO", -1, NONE),
    stateful("MULTI", 1, NONE),
    ask_all("PING", -1, Merge::AllSucceeded).allow_partial(),
    refused("QUIT", -1),
    stateful("RESET", 1, NONE),
    stateful("SELECT", 2, NONE),
    stateful("UNWATCH", 1, NONE).because("nothing is watched on a shared handle"),
    tell_all("WAIT", 3, Merge::Min)
        .waits_millis(ArgAt::Index(2))
        .because(SINCE),
    tell_all("WAITAOF", 4, Merge::Min)
        .waits_millis(ArgAt::Index(3))
        .because(SINCE),
    stateful("WATCH", -2, ALL_KEYS),
];
