//! Requests while nodes are out: none is sent to them.

use std::time::Instant;

use proptest::prelude::*;
use redis::Value;

use super::play_all;
use super::world::{Nodes, Scripts, play, router, run, without};
use crate::command::{Args, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::operation::{CommandOperation, Request};
use crate::plan::{Answers, Attempt, Explanation, PartialReads, ReadsAs, Router, parse_one};

/// Commands for all nodes, for any, and for keys.
const ROWS: &[&str] = &[
    "
    out b
    > DBSIZE
    1 a DBSIZE -> :1
    1 c DBSIZE -> :2
    = :3
    ",
    "
    out a c
    > FLUSHALL
    1 b FLUSHALL -> +OK
    = +OK
    ",
    "
    out a
    > KEYS *
    1 b KEYS * -> [b1 | b2]
    1 c KEYS * -> [c1]
    = [b1 | b2 | c1]
    ",
    // Back again.
    "
    out a
    out b
    > DBSIZE
    1 a DBSIZE -> :1
    1 c DBSIZE -> :2
    = :3
    out
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> :4
    1 c DBSIZE -> :2
    = :7
    ",
    // If all are out, none is.
    "
    out a b c
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> :4
    1 c DBSIZE -> :2
    = :7
    ",
    // A living node that cannot be reached is still missed.
    "
    out b
    > DBSIZE
    1 a DBSIZE -> !refused
    1 c DBSIZE -> :2
    = !partial a:failed c:done
    ",
    "
    partial reads
    out b
    > DBSIZE
    1 a DBSIZE -> !refused
    1 c DBSIZE -> :2
    = :2
    ",
    // INFO and its kin list the nodes that were not asked with those that cannot be reached, in node order.
    "
    out b
    > MEMORY STATS
    1 a MEMORY STATS -> [x | :1]
    1 c MEMORY STATS -> !refused
    = [x | :1 | nodes.unreachable | b,c]
    ",
    "
    out b
    > MEMORY STATS
    1 a MEMORY STATS -> [x | :1]
    1 c MEMORY STATS -> [x | :2]
    = [x | :3 | nodes.unreachable | b]
    ",
    // Any node: the random one and the next ones live.
    "
    out b
    entropy 1
    > ECHO x
    1 c ECHO x -> !refused
    2 a ECHO x -> !refused
    = !down a
    ",
    "
    out a
    > ECHO x
    1 b ECHO x -> !refused
    2 c ECHO x -> x
    = x
    ",
    "
    out a b
    > ECHO x
    1 c ECHO x -> !refused
    = !down c
    ",
    // By key: the owner is another one, and the replies are in the order of the keys.
    "
    out b
    > GET a1
    1 a GET a1 -> v
    = v
    > GET b1
    1 c GET b1 -> v
    = v
    > MGET b1 a1 b2 c1
    1 a MGET a1 b2 -> [A | C]
    1 c MGET b1 c1 -> [B | D]
    = [B | A | C | D]
    ",
    // A node that the user named is asked all the same.
    "
    out b
    > at b: PING
    1 b PING -> +PONG
    = +PONG
    ",
    "
    out b
    > pipe: DBSIZE; ECHO x; GET a1
    1 a DBSIZE; ECHO x; GET a1 -> :1; x; v
    1 c DBSIZE -> :2
    = :3; x; v
    ",
    // The barrier and WAIT share a part on each living node.
    "
    out a
    > WAIT 1 100
    1 b PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :1
    1 c PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :2
    = :1
    ",
    // The libraries are listed by a living node.
    "
    out a
    > FCALL clock 0
    1 b FUNCTION LIST WITHCODE -> [[library_code | CLOCK]]
    2 b FCALL clock 0 -> !refused
    3 c FCALL clock 0 -> :5
    = :5
    ",
];

#[test]
fn commands_are_sent_to_no_node_that_is_out() {
    play_all(ROWS, play);
}

#[cfg(feature = "proxy")]
#[test]
fn commands_with_replies_as_they_came_are_sent_to_no_node_that_is_out() {
    let single = |row: &&&str| !["pipe:", "at b:"].iter().any(|how| row.contains(how));
    let rows: Vec<&str> = ROWS.iter().filter(single).copied().collect();
    play_all(&rows, super::world::play_as::<crate::plan::RawReplies>);
}

/// Nodes that have their keys on three pages each.
struct Pages {
    asked: Vec<NodeIndex>,
}

impl Nodes<Vec<Value>> for Pages {
    fn wave(
        &mut self,
        attempts: &[Attempt<'_>],
        _: &mut Instant,
        _: Option<Instant>,
    ) -> Vec<Answers<Vec<Value>>> {
        let answer = |attempt: &Attempt<'_>| {
            let node = attempt.request.node;
            self.asked.push(node);
            let mut args = Args::new();
            let parsed = PackedCommands::new(&attempt.request.packed).next(&mut args);
            parsed.expect("a command");
            let cursor: u64 = std::str::from_utf8(args[1]).unwrap().parse().unwrap();
            let text = |text: String| Value::BulkString(text.into_bytes());
            let next = text(((cursor + 1) % 3).to_string());
            let keys = Value::Array(vec![text(key(node, cursor))]);
            Answers {
                values: vec![Value::Array(vec![next, keys])],
                failure: None,
            }
        };
        attempts.iter().map(answer).collect()
    }
}

fn key(node: NodeIndex, page: u64) -> String {
    format!("{}-{page}", node.get())
}

/// One step of a scan: the next cursor, and the keys.
fn step(router: &Router, cursor: u64, pages: &mut Pages) -> (u64, Vec<String>) {
    let scripts = Scripts::default();
    let packed = redis::cmd("SCAN").arg(cursor).get_packed_command();
    let args = &parse_one(&packed).unwrap();
    let routed = router.route(args, &crate::plan::ScriptCache::empty);
    let request = Request {
        packed: &packed,
        args,
    };
    let operation: CommandOperation<'_, Vec<Value>> =
        CommandOperation::new(router, &scripts, request, routed, (), 0);
    let reply = run(operation, &mut super::world::beginning(), pages).unwrap();
    redis::from_redis_value(reply).unwrap()
}

proptest! {
    /// Nodes go out and come back between the steps.
    #[test]
    fn scan_returns_all_keys_of_the_nodes_that_lived_throughout_and_asks_none_that_is_out(
        history in prop::collection::vec(0..7_u8, 1..14),
    ) {
        let all = router(PartialReads::Refused);
        let mut pages = Pages { asked: Vec::new() };
        let (mut cursor, mut found, mut ever_out) = (0, Vec::new(), 0);
        // No node goes out or comes back after the history, so that the scan has an end.
        let last = *history.last().unwrap();
        let mut steps = history.into_iter().chain(std::iter::repeat(last)).take(14 + 9);
        loop {
            let bits = steps.next().expect("the scan ends");
            ever_out |= bits;
            let out = (0..3).filter(|node| bits >> node & 1 == 1).map(NodeIndex::new);
            let router = without(&all, out, PartialReads::Refused, ReadsAs::Error);
            let (next, keys) = step(&router, cursor, &mut pages);
            for asked in pages.asked.drain(..) {
                prop_assert!(!router.topology().out().contains(asked), "{:?} was asked", asked);
            }
            found.extend(keys);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        for node in (0..3).filter(|node| ever_out >> node & 1 == 0).map(NodeIndex::new) {
            for page in 0..3 {
                prop_assert!(found.contains(&key(node, page)), "{:?} lacks page {}", node, page);
            }
        }
    }
}

#[test]
fn scan_that_ends_at_a_node_that_went_out_sends_nothing() {
    let all = router(PartialReads::Refused);
    let without = |node: u16| {
        without(
            &all,
            [NodeIndex::new(node)],
            PartialReads::Refused,
            ReadsAs::Error,
        )
    };
    let mut pages = Pages { asked: Vec::new() };
    // Six pages of a and b, and the first of c.
    let mut cursor = 0;
    for _ in 0..7 {
        cursor = step(&all, cursor, &mut pages).0;
    }
    pages.asked.clear();
    assert_eq!(step(&without(2), cursor, &mut pages), (0, Vec::new()));
    assert_eq!(pages.asked, []);
    // Its own cursor is still good when it is back.
    let (next, keys) = step(&without(1), cursor, &mut pages);
    assert_eq!(keys, ["2-1"]);
    let args = format!("SCAN {next}");
    let args: Vec<&[u8]> = args.split(' ').map(str::as_bytes).collect();
    let explain = |router: &Router| -> Explanation {
        router
            .explain(&args, &crate::plan::ScriptCache::empty)
            .unwrap()
    };
    assert_eq!(explain(&all).parts()[0].0, "c");
    assert_eq!(explain(&without(2)).parts(), []);
    assert_eq!(explain(&without(2)).out(), ["c"]);
}

#[cfg(feature = "proxy")]
#[test]
fn scan_through_the_proxy_that_ends_at_a_node_that_went_out_has_a_reply() {
    use crate::plan::{RawPipeline, RawReplies, ScriptCache, WriteProgress};
    use crate::resp::Protocol;

    let all = router(PartialReads::Refused);
    let mut pages = Pages { asked: Vec::new() };
    let mut cursor = 0;
    for _ in 0..7 {
        cursor = step(&all, cursor, &mut pages).0;
    }
    let router = without(
        &all,
        [NodeIndex::new(2)],
        PartialReads::Refused,
        ReadsAs::Error,
    );
    let packed = redis::cmd("SCAN").arg(cursor).get_packed_command();
    let args = &parse_one(&packed).unwrap();
    let mut pipeline = RawPipeline::new(&router, &ScriptCache::empty, packed.len(), 0);
    let routed = router.route(args, &ScriptCache::empty).unwrap();
    pipeline.add(&packed, args, routed);
    let exchange: crate::plan::Exchange<RawReplies> = pipeline.exchange();
    assert_eq!(exchange.attempts().count(), 0);
    let mut out = Vec::new();
    let mut writer = pipeline.reply_writer(&exchange, Protocol::Resp2, 0);
    assert!(matches!(
        writer.write_next(&mut out, usize::MAX),
        WriteProgress::All
    ));
    assert_eq!(out, b"*2\r\n$1\r\n0\r\n*0\r\n");
}

#[test]
fn ping_nodes_pings_the_living() {
    let all = router(PartialReads::Refused);
    let router = without(
        &all,
        [NodeIndex::new(1)],
        PartialReads::Refused,
        ReadsAs::Error,
    );
    let exchange = router.ping_nodes();
    let asked: Vec<usize> = exchange
        .attempts()
        .map(|attempt| attempt.request.node.get())
        .collect();
    assert_eq!(asked, [0, 2]);
    let pings = router.pings(exchange);
    assert_eq!(
        pings
            .iter()
            .map(|ping| ping.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "c"]
    );
}

#[test]
fn patterns_are_subscribed_on_the_living_and_channels_on_their_owners() {
    use crate::plan::pubsub::{NamesByNode, SubscriptionKind, SubscriptionPlaces};

    let all = router(PartialReads::Refused);
    let router = without(
        &all,
        [NodeIndex::new(1)],
        PartialReads::Refused,
        ReadsAs::Error,
    );
    let nodes = |kind, name: &str| {
        let mut names = NamesByNode::new(kind);
        let places = SubscriptionPlaces::default();
        names
            .add(&router, &places, [name.as_bytes()], |_| None)
            .unwrap();
        let nodes = names.finish().into_keys();
        let mut nodes: Vec<usize> = nodes
            .map(|id| router.topology().index_of_id(id).unwrap().get())
            .collect();
        nodes.sort_unstable();
        nodes
    };
    assert_eq!(nodes(SubscriptionKind::Pattern, "*"), [0, 2]);
    assert_eq!(
        nodes(SubscriptionKind::Channel, "__keyspace@0__:b1"),
        [0, 2]
    );
    let owner = router.owner(b"b1").unwrap().get();
    assert_ne!(owner, 1);
    assert_eq!(nodes(SubscriptionKind::Channel, "b1"), [owner]);
}
