//! Which new nodes are filled by replication: those that take keys from one node alone, where both servers can do that.

use std::collections::BTreeMap;

use redis::ConnectionAddr;

use super::facts::ServerFacts;
use super::plan::{PlannedMove, PlannedSplit};

/// A target that gets less than this share of its source's keys is filled key by key: a replica would take in all of them.
const SHARE_MIN: u64 = 8;

/// By how much the memory of a replica may exceed that of its source.
const MEMORY_MARGIN: f64 = 1.1;

/// One side of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    pub(super) facts: &'a ServerFacts,
    pub(super) addr: &'a ConnectionAddr,
}

/// The pairs whose target takes keys from their source alone, by what a sample says; `keys_of` has the number of keys of a
/// node. A pair without keys in the sample does not count: what it gets later is copied.
pub(super) fn candidates(
    moves: &[PlannedMove],
    is_added: impl Fn(&str) -> bool,
    keys_of: impl Fn(&str) -> u64,
) -> Vec<PlannedSplit> {
    let mut by_target: BTreeMap<&str, Vec<&PlannedMove>> = BTreeMap::new();
    for planned in moves.iter().filter(|planned| planned.keys > 0) {
        by_target.entry(&planned.target).or_default().push(planned);
    }
    let split = |(target, moves): (&str, Vec<&PlannedMove>)| {
        let [only] = moves[..] else {
            return None;
        };
        let is_worth_it = only.keys.saturating_mul(SHARE_MIN) >= keys_of(&only.source);
        (is_added(target) && is_worth_it).then(|| PlannedSplit {
            source: only.source.clone(),
            target: only.target.clone(),
            keys: only.keys,
        })
    };
    by_target.into_iter().filter_map(split).collect()
}

/// Why the target cannot become a replica of the source. `db` is the database of the data, and `record_db` that of the
/// record.
pub(super) fn obstacle(source: Side<'_>, target: Side<'_>, databases: [i64; 2]) -> Option<String> {
    let other = source
        .facts
        .databases
        .iter()
        .find(|db| !databases.contains(*db));
    if let Some(other) = other {
        return Some(format!(
            "the source has keys in database {other} as well, which a replica would take along"
        ));
    }
    if source.facts.is_cluster || target.facts.is_cluster {
        return Some("a server has cluster-enabled set".into());
    }
    if target.facts.replicas > 0 {
        return Some("the target has replicas".into());
    }
    if target.facts.is_older_than(source.facts) {
        return Some("the target has an older version than the source".into());
    }
    let needed = target.facts.used_memory as f64 + source.facts.used_memory as f64 * MEMORY_MARGIN;
    if target.facts.max_memory > 0 && needed > target.facts.max_memory as f64 {
        return Some("the maxmemory of the target is too small for all keys of the source".into());
    }
    match host(source.addr) {
        None => Some("the source is reached by a unix socket".into()),
        Some(host) if is_loopback(host) && !self::host(target.addr).is_some_and(is_loopback) => {
            Some("the source has a loopback address, which is another server for the target".into())
        }
        Some(_) => None,
    }
}

/// The host and the port of an address. `None` for a unix socket.
pub(super) fn host_and_port(addr: &ConnectionAddr) -> Option<(&str, u16)> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host, *port))
        }
        _ => None,
    }
}

fn host(addr: &ConnectionAddr) -> Option<&str> {
    host_and_port(addr).map(|(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(source: &str, target: &str, keys: u64) -> PlannedMove {
        let mut sample = super::super::plan::Sample::new(keys.max(1));
        (0..keys.max(1)).for_each(|_| sample.add(b"k", 1, Some(0)));
        let mut moves = sample.moves(source, |_| target.to_owned());
        let mut planned = moves.remove(0);
        planned.keys = keys;
        planned
    }

    #[test]
    fn target_that_takes_from_one_node_alone_is_a_candidate() {
        let moves = [
            planned("a", "c", 50),
            planned("b", "c", 0),
            planned("a", "d", 40),
            planned("b", "d", 1),
            planned("b", "e", 5),
            planned("b", "a", 60),
        ];
        let found = candidates(&moves, |node| node > "b", |_| 100);
        let found: Vec<&str> = found.iter().map(|split| &*split.target).collect();
        assert_eq!(found, ["c"]);
    }

    #[test]
    fn servers_that_do_not_fit_together_are_refused_for_the_method() {
        let facts = |version: &str, more: &str| {
            let info = format!("redis_version:{version}\r\nused_memory:1000\r\n{more}");
            ServerFacts::new(&info, None)
        };
        let tcp = |host: &str| ConnectionAddr::Tcp(host.into(), 1);
        let check = |source: (&ServerFacts, &str), target: (&ServerFacts, &str)| {
            let (one, other) = (tcp(source.1), tcp(target.1));
            let side = |facts, addr| Side { facts, addr };
            obstacle(side(source.0, &one), side(target.0, &other), [0, 15])
        };
        let plain = facts(
            "7.0.15",
            "db0:keys=3,expires=0\r\ndb15:keys=2,expires=0\r\n",
        );
        assert_eq!(check((&plain, "h"), (&plain, "i")), None);
        assert_eq!(check((&plain, "127.0.0.1"), (&plain, "::1")), None);
        for (target, why) in [
            (facts("6.2.14", ""), "older version"),
            (facts("7.2.0", "cluster_enabled:1"), "cluster-enabled"),
            (facts("7.0.1", "maxmemory:2000"), "maxmemory"),
            (facts("7.0.1", "connected_slaves:1"), "replicas"),
        ] {
            let found = check((&plain, "h"), (&target, "i")).unwrap();
            assert!(found.contains(why), "{found}");
        }
        let more = facts("7.0.15", "db3:keys=3,expires=0");
        let found = check((&more, "h"), (&plain, "i")).unwrap();
        assert!(found.contains("database 3"), "{found}");
        let found = check((&plain, "localhost"), (&plain, "10.0.0.1")).unwrap();
        assert!(found.contains("loopback"), "{found}");
    }
}
