//! One of four nodes is down: what the others answer for all, and what they do not. Through both clients and the proxy.
#![cfg(all(feature = "testing", feature = "tokio-comp"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::{Cmd, RedisResult, Value, cmd};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, ErrorKind, PartialReads, ScanPosition, ShardedClient, aio};
use support::local_proxy::{LocalProxy, RawClient};
use support::{Servers, builder, builder_over};

const NODES: usize = 4;
const DEAD: usize = 2;

/// Both clients, and a proxy that is asked in both protocols.
struct Doors {
    blocking: ShardedClient,
    tokio: aio::ShardedClient,
    runtime: tokio::runtime::Runtime,
    _front: LocalProxy,
    talkers: [RawClient; 2],
}

impl Doors {
    fn open(builder: impl Fn() -> Builder) -> Self {
        let front = LocalProxy::open(builder());
        let talkers = ["2", "3"].map(|protocol| {
            let mut talker = front.talk();
            talker.ask(&format!("HELLO {protocol}"));
            talker
        });
        Self {
            blocking: builder().build().unwrap(),
            tokio: builder().build_async().unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            _front: front,
            talkers,
        }
    }

    /// The answers of the two clients, and of the proxy in RESP2 and in RESP3, as text.
    fn ask(&mut self, request: &str) -> [Result<String, String>; 4] {
        let cmd = command(request);
        let blocking = cmd.query::<Value>(&mut self.blocking);
        let tokio = self
            .runtime
            .block_on(cmd.query_async::<Value>(&mut self.tokio));
        let text = |result: RedisResult<Value>| match result {
            Ok(value) => Ok(readable(&value)),
            Err(error) => Err(format!("-{} {error}", ErrorKind::of(&error).code())),
        };
        let [two, three] = &mut self.talkers;
        let [two, three] = [two, three].map(|talker| match talker.ask(request) {
            error if error.starts_with('-') => Err(error),
            reply => Ok(reply),
        });
        [text(blocking), text(tokio), two, three]
    }

    #[track_caller]
    fn answers(&mut self, request: &str) -> [String; 4] {
        self.ask(request)
            .map(|answer| answer.unwrap_or_else(|error| panic!("{request}: {error}")))
    }

    #[track_caller]
    fn errors(&mut self, request: &str) -> [String; 4] {
        self.ask(request).map(|answer| match answer {
            Err(error) => error,
            Ok(answer) => panic!("{request} was answered: {answer}"),
        })
    }
}

fn command(request: &str) -> Cmd {
    let mut words = request.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command
}

/// All texts and numbers of a value.
fn readable(value: &Value) -> String {
    match value {
        Value::Array(items) | Value::Set(items) => {
            let items: Vec<String> = items.iter().map(readable).collect();
            items.join(" ")
        }
        Value::Map(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| format!("{} {}", readable(key), readable(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        other => format!("{other:?}"),
    }
}

/// Four servers, of which one is killed after keys were written to all.
fn with_a_dead_node(partial: PartialReads) -> Option<(Servers, Doors, BTreeSet<String>)> {
    let servers = Servers::start(NODES)?;
    let open = || {
        builder(&servers)
            .partial_reads(partial)
            .connect_timeout(Duration::from_secs(2))
    };
    let mut doors = Doors::open(open);
    let mut living = BTreeSet::new();
    for number in 0..100 {
        let key = format!("key:{number}");
        command(&format!("SET {key} v"))
            .exec(&mut doors.blocking)
            .unwrap();
        if doors.blocking.node_for(&key).unwrap().index().get() != DEAD {
            living.insert(key);
        }
    }
    servers.kill(DEAD);
    // Connections that were used a moment ago are taken for open, and a script on one of them is UNKNOWN.
    std::thread::sleep(Duration::from_millis(100));
    Some((servers, doors, living))
}

#[test]
fn info_ping_and_slowlog_are_answered_by_the_reachable_nodes() {
    let Some((_servers, mut doors, _)) = with_a_dead_node(PartialReads::Refused) else {
        return;
    };
    for request in [
        "PING",
        "INFO server",
        "CLIENT LIST",
        "CONFIG GET maxmemory",
        "SLOWLOG GET",
        "SLOWLOG LEN",
        "LATENCY LATEST",
        "LATENCY HISTORY command",
        "LATENCY HISTOGRAM",
        "MEMORY MALLOC-STATS",
        "PUBSUB CHANNELS",
        "PUBSUB NUMSUB a",
        "PUBSUB NUMPAT",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB a",
        "ROLE",
        "FUNCTION STATS",
        "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        "MODULE LIST",
    ] {
        doors.answers(request);
    }
    for request in [
        "INFO",
        "INFO server",
        "INFO everything",
        "INFO nosuchsection",
    ] {
        for text in doors.answers(request) {
            assert!(text.contains("node_node-2:status=unreachable"), "{text}");
            assert!(text.contains("unreachable_nodes:1"), "{text}");
            assert!(!text.contains("node_node-1:status"), "{text}");
        }
    }
    for text in doors.answers("MEMORY STATS") {
        assert!(text.contains("nodes.unreachable node-2"), "{text}");
    }
    for request in ["LATENCY DOCTOR", "MEMORY DOCTOR"] {
        for text in doors.answers(request) {
            assert!(text.contains("# Node node-2\nNODEDOWN "), "{text}");
        }
    }
}

#[test]
fn keys_dbsize_and_writes_for_all_nodes_fail_while_a_node_is_down() {
    let Some((_servers, mut doors, _)) = with_a_dead_node(PartialReads::Refused) else {
        return;
    };
    for request in [
        "KEYS *",
        "DBSIZE",
        "RANDOMKEY",
        "LASTSAVE",
        "CONFIG SET maxmemory 0",
        "CONFIG RESETSTAT",
        "SCRIPT LOAD return(1)",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "SLOWLOG RESET",
        "FLUSHALL",
    ] {
        for error in doors.errors(request) {
            assert!(error.contains("PARTIAL"), "{request}: {error}");
            assert!(error.contains("node-2 failed"), "{request}: {error}");
        }
    }
    let mut cursor = "0".to_owned();
    let refused = loop {
        let answer: RedisResult<(String, Vec<String>)> =
            cmd("SCAN").arg(&cursor).query(&mut doors.blocking);
        match answer {
            Ok((next, _)) => cursor = next,
            Err(error) => break error,
        }
        assert_ne!(cursor, "0", "SCAN ended as if nothing were missing");
    };
    assert_eq!(ErrorKind::of(&refused), ErrorKind::NodeDown);
}

#[test]
fn partial_reads_allow_keys_scan_and_dbsize_while_a_node_is_down() {
    let Some((servers, mut doors, living)) = with_a_dead_node(PartialReads::Allowed) else {
        return;
    };
    let count = living.len();
    for (number, text) in doors.answers("DBSIZE").iter().enumerate() {
        assert!(text.contains(&count.to_string()), "{number}: {text}");
    }
    for text in doors.answers("KEYS *") {
        let keys = text.split(' ').filter(|word| word.starts_with("key:"));
        assert_eq!(keys.map(str::to_owned).collect::<BTreeSet<_>>(), living);
    }
    doors.answers("RANDOMKEY");
    for error in doors.errors("FLUSHALL") {
        assert!(error.contains("PARTIAL"), "{error}");
    }
    for error in doors.errors("LASTSAVE") {
        assert!(error.contains("PARTIAL"), "{error}");
    }

    let scanned = doors.blocking.scan_all().with_count(7);
    let scanned = scanned.map(|key| String::from_utf8(key.unwrap()).unwrap());
    // FLUSHALL has reached the living.
    assert_eq!(scanned.count(), 0);
    for key in &living {
        cmd("SET")
            .arg(key)
            .arg("v")
            .exec(&mut doors.blocking)
            .unwrap();
    }
    let scanned = doors.blocking.scan_all().with_count(7);
    let scanned = scanned.map(|key| String::from_utf8(key.unwrap()).unwrap());
    assert_eq!(scanned.collect::<BTreeSet<_>>(), living);
    let mut stream = doors.tokio.scan_all().with_count(7);
    let found = doors.runtime.block_on(async {
        let mut found = BTreeSet::new();
        while let Some(key) = stream.next_key().await {
            found.insert(String::from_utf8(key.unwrap()).unwrap());
        }
        found
    });
    assert_eq!(found, living);
    for talker in &mut doors.talkers {
        assert_eq!(scan_by_hand(talker), living);
    }

    for index in [0, 1, 3] {
        servers.kill(index);
    }
    for error in doors.errors("KEYS *") {
        assert!(error.contains("NODEDOWN"), "{error}");
    }
    let mut scan = doors.blocking.scan_all();
    let end = scan.find_map(|key| key.err()).map(|error| error.kind());
    assert_eq!(end, Some(ErrorKind::NodeDown), "no node has answered");
}

fn scan_by_hand(talker: &mut RawClient) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let page = talker.ask(&format!("SCAN {cursor} COUNT 7"));
        let words: Vec<&str> = page.split(' ').collect();
        found.extend(words[3..].iter().map(|&key| key.to_owned()));
        cursor = words[1].to_owned();
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn every_command_is_an_error_while_all_nodes_are_down() {
    let Some((servers, mut doors, _)) = with_a_dead_node(PartialReads::Allowed) else {
        return;
    };
    for index in [0, 1, 3] {
        servers.kill(index);
    }
    for request in [
        "INFO",
        "CONFIG GET *",
        "SLOWLOG LEN",
        "PUBSUB NUMPAT",
        "MEMORY DOCTOR",
        "DBSIZE",
        "TIME",
        "ACL LIST",
        "FUNCTION LIST",
    ] {
        for error in doors.errors(request) {
            assert!(error.contains("NODEDOWN"), "{request}: {error}");
        }
    }
    let mut ping = cmd("PING");
    ping.exec(&mut doors.blocking).unwrap_err();
    let ping = ping.arg("x").exec_async(&mut doors.tokio);
    doors.runtime.block_on(ping).unwrap_err();
}

#[test]
fn time_acl_list_and_scripts_without_keys_go_to_a_reachable_node() {
    let Some((servers, mut doors, _)) = with_a_dead_node(PartialReads::Refused) else {
        return;
    };
    for _ in 0..25 {
        for request in ["TIME", "ACL LIST", "COMMAND COUNT", "FUNCTION LIST"] {
            doors.answers(request);
        }
        let eval = ["EVAL", "return 1", "0"];
        let mut script = cmd(eval[0]);
        script.arg(eval[1]).arg(eval[2]);
        script.exec(&mut doors.blocking).unwrap();
        doors
            .runtime
            .block_on(script.exec_async(&mut doors.tokio))
            .unwrap();
        // By its sum, as it may be on another node than the one that ran it.
        let mut by_sum = cmd("EVALSHA");
        by_sum
            .arg("e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
            .arg(0);
        by_sum.exec(&mut doors.blocking).unwrap();
        doors
            .runtime
            .block_on(by_sum.exec_async(&mut doors.tokio))
            .unwrap();
        for talker in &mut doors.talkers {
            talker.say_words(&eval.map(str::as_bytes));
            assert_eq!(talker.hear(), ":1");
            let sum = "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0";
            assert_eq!(talker.ask(sum), ":1");
            // In one round with others, and in a transaction without a key.
            for request in ["TIME", sum, "TIME", "MULTI", "TIME", sum, "EXEC"] {
                talker.say(request);
            }
            let replies: [String; 7] = std::array::from_fn(|_| talker.hear());
            assert!(replies[0].starts_with("*2 "), "{replies:?}");
            assert_eq!(replies[1], ":1");
            assert!(replies[6].starts_with("*2 *2 "), "{replies:?}");
        }
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("TIME")
            .cmd("EVALSHA")
            .arg("e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
            .arg(0);
        pipeline.exec(&mut doors.blocking).unwrap();
        doors
            .runtime
            .block_on(pipeline.exec_async(&mut doors.tokio))
            .unwrap();
    }
    for index in (0..NODES).filter(|&index| index != DEAD) {
        let stats: String = cmd("INFO")
            .arg("commandstats")
            .query(&mut servers.connection(index))
            .unwrap();
        for name in [
            "cmdstat_time:",
            "cmdstat_acl|list:",
            "cmdstat_function|list:",
        ] {
            assert!(
                stats.contains(name),
                "node {index} was not asked for {name}"
            );
        }
    }
}

#[test]
fn info_names_a_node_that_does_not_reply_in_time() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let mut doors = Doors::open(|| builder(&servers).response_timeout(Duration::from_millis(700)));
    doors.answers("INFO");
    servers.pause(DEAD);
    let start = Instant::now();
    for text in doors.answers("INFO server") {
        assert!(text.contains("node_node-2:status=unreachable"), "{text}");
        assert!(text.contains("unreachable_nodes:1\r\n"), "{text}");
    }
    // Four answers, each within its deadline.
    assert!(start.elapsed() < Duration::from_secs(8));
    servers.resume(DEAD);
}

fn test_nodes() -> (Vec<TestNode>, Vec<String>) {
    let nodes = TestNode::start_many(3).unwrap();
    let urls = nodes.iter().map(TestNode::url).collect();
    (nodes, urls)
}

#[test]
fn error_reply_of_a_node_is_not_treated_as_unreachable() {
    let (nodes, urls) = test_nodes();
    let mut doors = Doors::open(|| builder_over(urls.clone()).partial_reads(PartialReads::Allowed));
    doors.answers("INFO");
    for (request, name) in [
        ("INFO server", "INFO"),
        ("KEYS *", "KEYS"),
        ("DBSIZE", "DBSIZE"),
    ] {
        nodes[1].fail(name, Fault::Error("LOADING Redis is loading".into()), 4);
        for error in doors.errors(request) {
            assert!(
                error.contains("PARTIAL") && error.contains("LOADING"),
                "{error}"
            );
        }
        assert_eq!(nodes[1].faults_left(), 0, "one for each of four who asked");
        doors.answers(request);
    }
}

#[test]
fn eval_without_keys_is_not_repeated_when_its_reply_was_lost() {
    let (nodes, urls) = test_nodes();
    let mut doors = Doors::open(|| builder_over(urls.clone()));
    doors.answers("TIME");
    for fault in [Fault::CloseBefore, Fault::CloseAfter] {
        for node in &nodes {
            node.fail("EVAL", fault.clone(), usize::MAX);
            node.clear_received();
        }
        let sent = || {
            nodes
                .iter()
                .map(|node| node.count_of("EVAL"))
                .sum::<usize>()
        };
        for error in doors.errors("EVAL return(1) 0") {
            assert!(error.contains("UNKNOWN"), "{error}");
        }
        assert_eq!(sent(), 4, "once for each of four who asked");
    }
    // What changes nothing is asked of the others.
    for node in &nodes[..2] {
        node.fail("TIME", Fault::CloseBefore, usize::MAX);
        node.clear_received();
    }
    for _ in 0..10 {
        doors.answers("TIME");
    }
    assert!(nodes[0].count_of("TIME") > 0 && nodes[1].count_of("TIME") > 0);
}

#[test]
fn eval_without_keys_goes_to_the_next_node_when_it_was_not_sent() {
    let (nodes, urls) = test_nodes();
    nodes[0].stop();
    nodes[1].refuse_connections();
    nodes[2].fail("EVAL", Fault::Error("ERR by the third".into()), usize::MAX);
    let mut doors = Doors::open(|| builder_over(urls.clone()));
    for _ in 0..10 {
        for error in doors.errors("EVAL return(1) 0") {
            assert!(error.contains("by the third"), "{error}");
        }
    }
}

#[test]
fn scan_cursors_survive_as_doubles_and_altered_ones_are_refused() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let mut doors = Doors::open(|| builder(&servers));
    let mut fill = redis::pipe();
    for number in 0..3000 {
        fill.set(format!("key:{number}"), "v").ignore();
    }
    fill.exec(&mut doors.blocking).unwrap();
    let mut cursor = 0_u64;
    let mut found = 0;
    let mut given = Vec::new();
    loop {
        let (next, keys): (u64, Vec<String>) = cmd("SCAN")
            .arg(cursor as f64 as u64)
            .arg("COUNT")
            .arg(100)
            .query(&mut doors.blocking)
            .unwrap();
        assert!(next < 1 << 53);
        found += keys.len();
        cursor = next;
        if cursor == 0 {
            break;
        }
        given.push(cursor);
    }
    assert!(found >= 3000, "{found}");
    let mut taken = 0;
    for cursor in &given {
        let altered = cursor + 1;
        for answer in doors.ask(&format!("SCAN {altered}")) {
            match answer {
                Err(error) => assert!(error.to_lowercase().contains("invalid cursor"), "{error}"),
                Ok(_) => taken += 1,
            }
        }
    }
    assert!(taken <= 4, "{taken} altered cursors were taken");
    let mut scan = doors.blocking.scan_all();
    let _ = scan.by_ref().take(1000).count();
    let kept = scan.position().to_string();
    let words: Vec<&str> = kept.split(':').collect();
    let state: u64 = words[2].parse().unwrap();
    let altered = [words[0], words[1], &(state ^ 4).to_string(), words[3]].join(":");
    let error = altered.parse::<ScanPosition>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(doors.blocking.resume_scan(kept.parse().unwrap()).is_ok());
}
