//! WATCH and EXEC over the servers of a Redis Cluster.

use super::*;
use crate::partition::NodeIndex;
use crate::topology::HostPort;
use crate::topology::cluster::ClusterMap;

/// A cluster of two nodes. The first owns all slots.
fn router() -> Router {
    let at = |host: &str| HostPort {
        host: host.into(),
        port: 1,
    };
    let map = ClusterMap::new(vec![at("a"), at("b")], |_| Some(NodeIndex::new(0)));
    let topology = Arc::new(map).topology().unwrap();
    let table = Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, SplitWrites::Allowed)
}

/// Steps and bytes to the client, with `/` for each end of a line.
#[track_caller]
fn check(requests: &[&str], network: &[&str], steps: &[&str], client: &str) {
    let network = network.iter().map(|said| (*said).to_owned()).collect();
    let mut simulation = Simulation::over(router(), Script(network));
    assert!(simulation.run(requests).is_continue());
    assert_eq!(simulation.steps, steps);
    let out = String::from_utf8_lossy(&simulation.out);
    assert_eq!(out.replace("\r\n", "/"), client);
}

#[test]
fn watch_finds_its_server_and_exec_checks_that_the_keys_have_not_left() {
    check(
        &[
            "WATCH {t}a {t}b",
            "WATCH {t}c",
            "MULTI",
            "SET {t}a 1",
            "EXEC",
        ],
        &["+OK", "+OK", "+OK, +QUEUED, +QUEUED, *2/:0/+OK"],
        &[
            "lease a WATCH {t}a {t}b",
            "send WATCH {t}c",
            "exec on lease MULTI EXISTS {t}a {t}b {t}c SET {t}a 1 EXEC",
            "release",
        ],
        "+OK/+OK/+OK/+QUEUED/*1/+OK/",
    );
    // The next transaction does not know the keys of the one before.
    check(
        &[
            "WATCH {t}a",
            "UNWATCH",
            "WATCH {t}b",
            "MULTI",
            "EXEC",
            "MULTI",
            "SET {t}a 1",
            "EXEC",
        ],
        &[
            "+OK",
            "+OK",
            "+OK",
            "+OK, +QUEUED, *1/:0",
            "+OK, +QUEUED, *1/+OK",
        ],
        &[
            "lease a WATCH {t}a",
            "send UNWATCH",
            "release",
            "lease a WATCH {t}b",
            "exec on lease MULTI EXISTS {t}b EXEC",
            "release",
            "exec MULTI SET {t}a 1 EXEC",
        ],
        "+OK/+OK/+OK/+OK/*0/+OK/+QUEUED/*1/+OK/",
    );
}

#[test]
fn watched_keys_that_have_left_are_as_changed_ones() {
    check(
        &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        &["+OK", "moved"],
        &[
            "lease a WATCH a",
            "exec on lease MULTI EXISTS a SET a 1 EXEC",
            "drop",
        ],
        "+OK/+OK/+QUEUED/*-1/",
    );
    check(
        &["WATCH a", "WATCH a", "MULTI", "SET a 1", "EXEC", "WATCH a"],
        &["+OK", "-MOVED 15495 b:1", "+OK"],
        &["lease a WATCH a", "send WATCH a", "drop", "lease a WATCH a"],
        "+OK/+OK/+OK/+QUEUED/*-1/+OK/",
    );
}

#[test]
fn watch_that_no_server_takes_makes_exec_nil() {
    check(
        &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        &["-CLUSTERDOWN Hash slot not served"],
        &["lease a WATCH a", "drop"],
        "-CLUSTERDOWN Hash slot not served/+OK/+QUEUED/*-1/",
    );
    check(
        &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        &["broken"],
        &["lease a WATCH a"],
        "-NODEDOWN node a:1: the connection broke: broken; nothing was changed, so it can be repeated when the node is \
         back/+OK/+QUEUED/*-1/",
    );
}

#[test]
fn keys_of_two_slots_are_not_watched_together() {
    let long = "x".repeat(1 << 20);
    let mut simulation = Simulation::over(router(), Script::default());
    let requests = ["WATCH a b", "EXEC", &format!("WATCH {long}x")];
    assert!(simulation.run(&requests).is_continue());
    assert!(simulation.steps.is_empty(), "{:?}", simulation.steps);
    let out = String::from_utf8_lossy(&simulation.out);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("-CROSSNODE the keys \"a\" (slot 15495)"),
        "{out}"
    );
    assert_eq!(lines[1], "-ERR EXEC without MULTI");
    assert!(
        lines[2].starts_with("-ERR WATCH of more than 1048576 bytes"),
        "{out}"
    );
}
