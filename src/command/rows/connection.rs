//! The connection, and transactions.

use super::*;

const ITS_OWN: &str = "says something about one connection, and a shared handle has many";
const NAME: &str = "the client has one name for all its connections, and answers itself";
const WATCHED: &str =
    "a client has an exclusive connection from WATCH to its next atomic pipeline or UNWATCH";
const SINCE: &str = "counts every write acknowledged before: a PUBLISH to nobody goes ahead of it (a server counts one connection's)";

pub(super) static ROWS: &[CommandSpec] = &[
    stateful("AUTH", -2, NONE).proxied(ProxyRole::Connection(ConnectionCommand::Auth)),
    stateful("CLIENT|CACHING", 3, NONE).proxied(ProxyRole::Client),
    stateful("CLIENT|CAPA", -3, NONE).proxied(ProxyRole::Client),
    stateful("CLIENT|GETNAME", 2, NONE)
        .proxied(ProxyRole::Client)
        .because(NAME),
    stateful("CLIENT|GETREDIR", 2, NONE)
        .proxied(ProxyRole::Client)
        .because(ITS_OWN),
    any("CLIENT|HELP", 2),
    stateful("CLIENT|ID", 2, NONE)
        .proxied(ProxyRole::Client)
        .because(ITS_OWN),
    stateful("CLIENT|IMPORT-SOURCE", 3, NONE).proxied(ProxyRole::Client),
    any("CLIENT|INFO", 2)
        .proxied(ProxyRole::Client)
        .because("describes one of the client's connections to some node"),
    named("CLIENT|KILL", -3)
        .proxied(ProxyRole::Client)
        .because("ids and addresses are the node's own"),
    ask_all("CLIENT|LIST", -2, Merge::Lines)
        .proxied(ProxyRole::Client)
        .allow_partial()
        .because("ids are the node's own: two nodes may have the same"),
    stateful("CLIENT|NO-EVICT", 3, NONE).proxied(ProxyRole::Client),
    stateful("CLIENT|NO-TOUCH", 3, NONE).proxied(ProxyRole::Client),
    tell_all("CLIENT|PAUSE", -3, Merge::AllSucceeded).proxied(ProxyRole::Pause),
    refused("CLIENT|REPLY", 3)
        .proxied(ProxyRole::Client)
        .because("answers would go missing"),
    stateful("CLIENT|SETINFO", 4, NONE).proxied(ProxyRole::Client),
    stateful("CLIENT|SETNAME", 3, NONE)
        .proxied(ProxyRole::Client)
        .because(NAME),
    stateful("CLIENT|TRACKING", -3, NONE).proxied(ProxyRole::Client),
    stateful("CLIENT|TRACKINGINFO", 2, NONE)
        .proxied(ProxyRole::Client)
        .because(ITS_OWN),
    named("CLIENT|UNBLOCK", -3)
        .proxied(ProxyRole::Client)
        .because("ids are the node's own"),
    tell_all("CLIENT|UNPAUSE", 2, Merge::AllSucceeded).proxied(ProxyRole::Unpause),
    stateful("DISCARD", 1, NONE).proxied(ProxyRole::Transaction(TransactionCommand::Discard)),
    any("ECHO", 2).proxied(ProxyRole::Connection(ConnectionCommand::Echo)),
    stateful("EXEC", 1, NONE).proxied(ProxyRole::Transaction(TransactionCommand::Exec)),
    stateful("HELLO", -1, NONE).proxied(ProxyRole::Connection(ConnectionCommand::Hello)),
    stateful("MULTI", 1, NONE).proxied(ProxyRole::Transaction(TransactionCommand::Multi)),
    ask_all("PING", -1, Merge::AllSucceeded)
        .proxied(ProxyRole::Connection(ConnectionCommand::Ping))
        .allow_partial(),
    refused("QUIT", -1).proxied(ProxyRole::Connection(ConnectionCommand::Quit)),
    stateful("RESET", 1, NONE).proxied(ProxyRole::Connection(ConnectionCommand::Reset)),
    stateful("SELECT", 2, NONE).proxied(ProxyRole::Connection(ConnectionCommand::Select)),
    stateful("UNWATCH", 1, NONE)
        .proxied(ProxyRole::Transaction(TransactionCommand::Unwatch))
        .because(WATCHED),
    tell_all("WAIT", 3, Merge::Min)
        .waits_millis(ArgAt::Index(2))
        .because(SINCE),
    tell_all("WAITAOF", 4, Merge::Min)
        .waits_millis(ArgAt::Index(3))
        .because(SINCE),
    stateful("WATCH", -2, ALL_KEYS)
        .proxied(ProxyRole::Transaction(TransactionCommand::Watch))
        .because(WATCHED),
];
