//! The server: its users, settings, figures and files.

use super::*;

const ALIKE: &str = "users are set on every node alike";
const LOCKS_OUT: &str =
    "refused for what decides how nodes are reached: passwords, ports, addresses, TLS";
const OWN_USER: &str = "refused for the user that the client itself is";
const SOLE_PAIR: &str =
    "names no missing node: programs take the only pair for what they asked for";

pub(super) static ROWS: &[CommandSpec] = &[
    any("ACL|CAT", -2),
    tell_all("ACL|DELUSER", -3, Merge::AllSucceeded).because(OWN_USER),
    any("ACL|DRYRUN", -4).because(ALIKE),
    any("ACL|GENPASS", -2),
    any("ACL|GETUSER", 3).because(ALIKE),
    any("ACL|HELP", 2),
    any("ACL|LIST", 2).because(ALIKE),
    tell_all("ACL|LOAD", 2, Merge::AllSucceeded),
    tell_all("ACL|LOG", -2, Merge::LogEntries).because("ACL LOG RESET changes something"),
    tell_all("ACL|SAVE", 2, Merge::AllSucceeded),
    tell_all("ACL|SETUSER", -3, Merge::AllSucceeded).because(OWN_USER),
    any("ACL|USERS", 2).because(ALIKE),
    any("ACL|WHOAMI", 2).because(ALIKE),
    tell_all("BGREWRITEAOF", 1, Merge::AllSucceeded),
    tell_all("BGSAVE", -1, Merge::AllSucceeded),
    any("COMMAND", -1).proxied(ProxyRole::Container),
    any("COMMAND|COUNT", 2),
    any("COMMAND|DOCS", -2),
    any("COMMAND|GETKEYS", -3),
    any("COMMAND|GETKEYSANDFLAGS", -3),
    any("COMMAND|HELP", 2),
    any("COMMAND|INFO", -2),
    any("COMMAND|LIST", -2),
    ask_all("COMMANDLOG|GET", 4, Merge::LogEntries).allow_partial(),
    any("COMMANDLOG|HELP", 2),
    ask_all("COMMANDLOG|LEN", 3, Merge::Sum).allow_partial(),
    tell_all("COMMANDLOG|RESET", 3, Merge::AllSucceeded),
    ask_all("CONFIG|GET", -3, Merge::Settings)
        .allow_partial()
        .because(SOLE_PAIR),
    any("CONFIG|HELP", 2),
    tell_all("CONFIG|RESETSTAT", 2, Merge::AllSucceeded),
    tell_all("CONFIG|REWRITE", 2, Merge::AllSucceeded),
    tell_all("CONFIG|SET", -4, Merge::AllSucceeded).because(LOCKS_OUT),
    ask_all("DBSIZE", 1, Merge::Sum).allow_partial_on_request(),
    named("FAILOVER", -1),
    tell_all("FLUSHALL", -1, Merge::AllSucceeded),
    tell_all("FLUSHDB", -1, Merge::AllSucceeded),
    named("HOTKEYS|GET", -2),
    named("HOTKEYS|RESET", -2),
    named("HOTKEYS|START", -2),
    named("HOTKEYS|STOP", -2),
    ask_all("INFO", -1, Merge::Info)
        .allow_partial()
        .proxied(ProxyRole::Info),
    ask_all("LASTSAVE", 1, Merge::Min).because("every node has saved since"),
    ask_all("LATENCY|DOCTOR", 2, Merge::Texts).allow_partial(),
    ask_all("LATENCY|GRAPH", 3, Merge::Texts).allow_partial(),
    any("LATENCY|HELP", 2),
    ask_all("LATENCY|HISTOGRAM", -2, Merge::Histograms).allow_partial(),
    ask_all("LATENCY|HISTORY", 3, Merge::Samples).allow_partial(),
    ask_all("LATENCY|LATEST", 2, Merge::LatestEvents).allow_partial(),
    tell_all("LATENCY|RESET", -2, Merge::Sum),
    any("LOLWUT", -1),
    ask_all("MEMORY|DOCTOR", 2, Merge::Texts).allow_partial(),
    any("MEMORY|HELP", 2),
    ask_all("MEMORY|MALLOC-STATS", 2, Merge::Texts).allow_partial(),
    tell_all("MEMORY|PURGE", 2, Merge::AllSucceeded),
    ask_all("MEMORY|STATS", 2, Merge::Figures).allow_partial(),
    read("MEMORY|USAGE", -3, KEY_AT_2).primary_only(),
    any("MODULE|HELP", 2),
    ask_all("MODULE|LIST", 2, Merge::Union)
        .allow_partial()
        .because("modules are loaded on every node alike"),
    named("MODULE|LOAD", -3),
    named("MODULE|LOADEX", -3),
    named("MODULE|UNLOAD", 3),
    refused("MONITOR", 1).because("takes the connection away"),
    refused("PSYNC", -3).proxied(ProxyRole::NoMulti),
    refused("REPLCONF", -1),
    named("REPLICAOF", 3),
    ask_all("ROLE", 1, Merge::Role).allow_partial(),
    tell_all("SAVE", 1, Merge::AllSucceeded).proxied(ProxyRole::NoMulti),
    named("SHUTDOWN", -1).proxied(ProxyRole::NoMulti),
    named("SLAVEOF", 3),
    ask_all("SLOWLOG|GET", -2, Merge::LogEntries).allow_partial(),
    any("SLOWLOG|HELP", 2),
    ask_all("SLOWLOG|LEN", 2, Merge::Sum).allow_partial(),
    tell_all("SLOWLOG|RESET", 2, Merge::AllSucceeded),
    named("SWAPDB", 3).because("node after node, keys of both databases would be mixed"),
    refused("SYNC", 1).proxied(ProxyRole::NoMulti),
    any("TIME", 1).because("some node's clock"),
];
