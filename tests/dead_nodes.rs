//! One of four nodes is down: what the others answer for all, and what they do not. Through both clients and the proxy.
#![cfg(all(feature = "testing", feature = "tokio-comp"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::{Cmd, Commands, ConnectionLike, RedisResult, Value, cmd};
use redis_sharding::command::{CommandSpec, MissReply};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{
    Builder, ErrorKind, PartStatus, PartialReads, ReadsAs, RetryPolicy, ScanPosition,
    ShardedClient, TemporaryErrors, aio,
};
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
    with_a_dead_node_of(|builder| {
        builder
            .partial_reads(partial)
            .connect_timeout(Duration::from_secs(2))
    })
}

/// The same, with clients that are configured so.
fn with_a_dead_node_of(
    configure: impl Fn(Builder) -> Builder,
) -> Option<(Servers, Doors, BTreeSet<String>)> {
    let (servers, doors, living) = with_keys(configure)?;
    servers.kill(DEAD);
    // Connections that were used a moment ago are taken for open, and a script on one of them is UNKNOWN.
    std::thread::sleep(Duration::from_millis(100));
    Some((servers, doors, living))
}

/// Four servers with the keys `key:0` to `key:99`, and those of the keys that do not live on the node to die.
fn with_keys(configure: impl Fn(Builder) -> Builder) -> Option<(Servers, Doors, BTreeSet<String>)> {
    let servers = Servers::start(NODES)?;
    let mut doors = Doors::open(|| configure(builder(&servers)));
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

/// Does not wait for a node that is loading its data.
fn at_once() -> RetryPolicy {
    RetryPolicy::READS.with_temporary_errors(TemporaryErrors::Returned)
}

#[test]
fn error_reply_of_a_node_is_not_treated_as_unreachable() {
    let (nodes, urls) = test_nodes();
    let describe = || {
        builder_over(urls.clone())
            .partial_reads(PartialReads::Allowed)
            .retry(at_once())
    };
    let mut doors = Doors::open(describe);
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

/// Clients that take missing nodes for misses.
fn misses(builder: Builder) -> Builder {
    let declared = CommandSpec::declare("MY.SIZE").arity(2).key(1).read();
    builder
        .missing_nodes(ReadsAs::Miss)
        .command(declared.missing_keys(MissReply::Int(-7)))
        .connect_timeout(Duration::from_secs(2))
}

/// Two keys that are not among the living, and one that is.
fn lost_and_living(living: &BTreeSet<String>) -> (String, String, String) {
    let mut lost = (0..100)
        .map(|number| format!("key:{number}"))
        .filter(|key| !living.contains(key));
    let first = living.first().cloned().unwrap();
    (lost.next().unwrap(), lost.next().unwrap(), first)
}

#[test]
fn missing_nodes_as_misses_mget_exists_and_get_go_on_while_a_node_is_down() {
    let Some((servers, mut doors, living)) = with_a_dead_node_of(misses) else {
        return;
    };
    let (lost, other, kept) = lost_and_living(&living);
    // What the two clients return in RESP2, and what the proxy writes in RESP2 and in RESP3.
    let all = |request: &str, decoded: &str, resp2: &str, resp3: &str| {
        (
            request.to_owned(),
            [decoded, decoded, resp2, resp3].map(str::to_owned),
        )
    };
    let of_lost = [
        all(
            &format!("MGET {lost} {other}"),
            "nil nil",
            "*2 $-1 $-1",
            "*2 _ _",
        ),
        all(&format!("EXISTS {lost} {other}"), "int(0)", ":0", ":0"),
        all(&format!("GET {lost}"), "nil", "$-1", "_"),
        all(&format!("HGET {lost} f"), "nil", "$-1", "_"),
        all(&format!("HGETALL {lost}"), "", "*0", "%0"),
        all(&format!("SMEMBERS {lost}"), "", "*0", "~0"),
        all(&format!("TTL {lost}"), "int(-2)", ":-2", ":-2"),
        all(&format!("STRLEN {lost}"), "int(0)", ":0", ":0"),
        all(
            &format!("TYPE {lost}"),
            "simple-string(\"none\")",
            "+none",
            "+none",
        ),
        all(&format!("XREAD STREAMS {lost} 0"), "nil", "*-1", "_"),
        all(&format!("MY.SIZE {lost}"), "int(-7)", ":-7", ":-7"),
    ];
    let with_kept = [
        all(
            &format!("MGET {lost} {kept} {other}"),
            "nil v nil",
            "*3 $-1 v $-1",
            "*3 _ v _",
        ),
        all(
            &format!("EXISTS {lost} {kept} {kept}"),
            "int(2)",
            ":2",
            ":2",
        ),
        all(&format!("TOUCH {lost} {kept}"), "int(1)", ":1", ":1"),
        all(&format!("GET {kept}"), "v", "v", "v"),
    ];
    for (request, expected) in of_lost.iter().chain(&with_kept) {
        assert_eq!(&doors.answers(request), expected, "{request}");
    }
    for request in [
        format!("SET {lost} x"),
        format!("GETDEL {lost}"),
        format!("GETEX {lost}"),
        format!("PFCOUNT {lost}"),
        format!("OBJECT ENCODING {lost}"),
        format!("EVAL_RO return(1) 1 {lost}"),
        format!("XREAD BLOCK 10 STREAMS {lost} 0"),
        format!("XINFO STREAM {lost}"),
    ] {
        for error in doors.errors(&request) {
            assert!(error.contains("NODEDOWN"), "{request}: {error}");
        }
    }
    for request in [
        format!("DEL {lost} {kept}"),
        format!("MSET {lost} x {kept} v"),
        "DBSIZE".into(),
    ] {
        for error in doors.errors(&request) {
            assert!(error.contains("PARTIAL"), "{request}: {error}");
        }
    }
    for index in [0, 1, 3] {
        servers.kill(index);
    }
    std::thread::sleep(Duration::from_millis(100));
    for (request, expected) in &of_lost {
        assert_eq!(&doors.answers(request), expected, "{request}");
    }
}

#[test]
fn missing_nodes_as_misses_pipelines_are_answered_command_by_command() {
    let Some((_servers, mut doors, living)) = with_a_dead_node_of(misses) else {
        return;
    };
    let (lost, other, kept) = lost_and_living(&living);
    let mut pipe = redis::pipe();
    pipe.get(&lost)
        .get(&kept)
        .strlen(&other)
        .mget(&[&kept, &lost]);
    type Replies = (Option<String>, String, i64, Vec<Option<String>>);
    let expected: Replies = (None, "v".into(), 0, vec![Some("v".into()), None]);
    assert_eq!(
        pipe.query::<Replies>(&mut doors.blocking).unwrap(),
        expected
    );
    let replies = pipe.query_async::<Replies>(&mut doors.tokio);
    assert_eq!(doors.runtime.block_on(replies).unwrap(), expected);
    for (talker, nil) in doors.talkers.iter_mut().zip(["$-1", "_"]) {
        for request in [
            format!("GET {lost}"),
            format!("SET {lost} x"),
            format!("GET {kept}"),
            format!("MGET {kept} {lost}"),
            format!("LLEN {other}"),
        ] {
            talker.say(&request);
        }
        assert_eq!(talker.hear(), nil);
        assert!(talker.hear().starts_with("-NODEDOWN"));
        assert_eq!(talker.hear(), "v");
        assert_eq!(talker.hear(), format!("*2 v {nil}"));
        assert_eq!(talker.hear(), ":0");
    }
}

#[test]
fn missing_nodes_as_misses_transactions_watch_and_node_handles_fail_all_the_same() {
    let Some((_servers, mut doors, living)) = with_a_dead_node_of(misses) else {
        return;
    };
    let (lost, _, kept) = lost_and_living(&living);
    let is_down = |error: redis::RedisError| assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
    let mut atomic = redis::pipe();
    atomic.atomic().get(&lost);
    is_down(atomic.exec(&mut doors.blocking).unwrap_err());
    is_down(
        doors
            .runtime
            .block_on(atomic.exec_async(&mut doors.tokio))
            .unwrap_err(),
    );
    let mut node = doors.blocking.node_for(&lost).unwrap();
    is_down(node.get::<_, ()>(&lost).unwrap_err());
    let mut pipe = redis::pipe();
    is_down(pipe.get(&lost).exec(&mut node).unwrap_err());
    let error = doors.blocking.dedicated(&lost).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NodeDown);
    let read = doors.blocking.transaction(&[&lost], |connection, pipe| {
        let _: Option<i64> = connection.get(&lost)?;
        pipe.set(&lost, 1).query::<Option<()>>(connection)
    });
    is_down(read.unwrap_err());

    let get = format!("GET {lost}");
    for (talker, nil) in doors.talkers.iter_mut().zip(["$-1", "_"]) {
        assert_eq!(talker.ask("MULTI"), "+OK");
        assert_eq!(talker.ask(&get), "+QUEUED");
        assert!(talker.ask("EXEC").starts_with("-NODEDOWN"));
        // What is read while keys are watched decides what is written.
        assert_eq!(talker.ask(&format!("WATCH {kept}")), "+OK");
        assert!(talker.ask(&get).starts_with("-NODEDOWN"));
        assert!(
            talker
                .ask(&format!("MGET {kept} {lost}"))
                .starts_with("-PARTIAL")
        );
        assert_eq!(talker.ask("UNWATCH"), "+OK");
        assert_eq!(talker.ask(&get), nil);
        assert!(talker.ask(&format!("WATCH {lost}")).starts_with('-'));
        assert!(talker.ask(&get).starts_with("-NODEDOWN"));
        assert_eq!(talker.ask("UNWATCH"), "+OK");
        assert_eq!(talker.ask(&get), nil);
    }
}

#[test]
fn missing_nodes_as_misses_a_node_that_hangs_costs_at_most_the_response_timeout() {
    let timeout = Duration::from_millis(500);
    let configure = |builder| {
        misses(builder)
            .response_timeout(timeout)
            .connect_timeout(timeout)
    };
    let Some((servers, mut doors, living)) = with_keys(configure) else {
        return;
    };
    let (lost, _, kept) = lost_and_living(&living);
    let mget = format!("MGET {lost} {kept}");
    assert_eq!(doors.answers(&mget), ["v v", "v v", "*2 v v", "*2 v v"]);
    servers.pause(DEAD);
    let start = Instant::now();
    for round in 0..3 {
        let expected = ["nil v", "nil v", "*2 $-1 v", "*2 _ v"];
        assert_eq!(doors.answers(&mget), expected, "round {round}");
    }
    // Twelve requests, each with a deadline of its own.
    assert!(start.elapsed() < timeout * 12 + Duration::from_secs(6));
    servers.resume(DEAD);
    let back = Instant::now();
    while doors.answers(&mget) != ["v v", "v v", "*2 v v", "*2 v v"] {
        assert!(
            back.elapsed() < Duration::from_secs(20),
            "it never came back"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn missing_nodes_as_misses_error_replies_of_a_node_are_not_hidden() {
    let (nodes, urls) = test_nodes();
    let describe = || {
        misses(builder_over(urls.clone()))
            .partial_reads(PartialReads::Allowed)
            .retry(at_once())
    };
    let mut doors = Doors::open(describe);
    let key = (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| doors.blocking.node_for(key).unwrap().index().get() == 1)
        .unwrap();
    for text in [
        "LOADING Redis is loading the dataset in memory",
        "NOAUTH Authentication required.",
        "WRONGTYPE Operation against a key",
    ] {
        nodes[1].fail("GET", Fault::Error(text.into()), 4);
        let (_, details) = text.split_once(' ').unwrap();
        for error in doors.errors(&format!("GET {key}")) {
            assert!(error.contains(details), "{error}");
        }
        assert_eq!(nodes[1].faults_left(), 0, "one for each of four who asked");
    }
}

#[test]
fn node_that_refuses_the_password_is_neither_a_miss_nor_left_out_of_keys_and_dbsize() {
    let (Some(open), Some(locked)) = (
        Servers::start(1),
        Servers::builder().password("right").start(1),
    ) else {
        return;
    };
    let url = locked.url(0).replace(":right@", ":wrong@");
    assert!(url.contains(":wrong@"), "{url}");
    let configure =
        || misses(builder_over([open.url(0), url.clone()])).partial_reads(PartialReads::Allowed);
    let mut doors = Doors::open(configure);
    let owned_by = |index: usize| {
        let mut keys = (0..).map(|number| format!("key:{number}"));
        keys.find(|key| doors.blocking.node_for(key).unwrap().index().get() == index)
            .unwrap()
    };
    let (kept, refused) = (owned_by(0), owned_by(1));
    for error in doors.errors(&format!("GET {refused}")) {
        assert!(error.contains("AUTH"), "{error}");
    }
    for request in [
        format!("MGET {kept} {refused}"),
        "DBSIZE".into(),
        "KEYS *".into(),
    ] {
        for error in doors.errors(&request) {
            assert!(error.contains("PARTIAL"), "{request}: {error}");
        }
    }
    for text in doors.answers("INFO server") {
        assert!(text.contains("node_node-1:status=unreachable"), "{text}");
    }
}

#[test]
fn error_of_a_split_read_carries_the_replies_of_the_parts_that_were_done() {
    let Some((_servers, doors, living)) = with_a_dead_node(PartialReads::Refused) else {
        return;
    };
    let (lost, other, kept) = lost_and_living(&living);
    let second = living.last().unwrap();
    let keys = [&lost, second, &kept, &other];
    let execute = |cmd: &Cmd| {
        let blocking = doors.blocking.execute(cmd).unwrap_err();
        let tokio = doors
            .runtime
            .block_on(doors.tokio.execute(cmd))
            .unwrap_err();
        assert_eq!(blocking.parts(), tokio.parts());
        blocking
    };
    let error = execute(cmd("MGET").arg(&keys));
    assert_eq!(error.kind(), ErrorKind::Partial);
    let mut found = Vec::new();
    for part in error.parts() {
        match &part.value {
            Some(Value::Array(values)) => {
                assert_eq!(part.status, PartStatus::Done);
                assert_eq!(values.len(), part.keys.len());
                found.extend(part.keys.iter().zip(values.iter().cloned()));
            }
            value => {
                assert_eq!((part.status, value), (PartStatus::Failed, &None));
                assert_eq!(part.keys, [lost.as_bytes(), other.as_bytes()]);
            }
        }
    }
    found.sort_by_key(|(key, _)| key.to_vec());
    let value = || Value::BulkString(b"v".into());
    let mut expected = [(kept.as_bytes(), value()), (second.as_bytes(), value())];
    expected.sort_by_key(|(key, _)| key.to_vec());
    let found: Vec<_> = found
        .iter()
        .map(|(key, value)| (&key[..], value.clone()))
        .collect();
    assert_eq!(found, expected);
    let shown = format!("{:?}", error.parts());
    assert!(!shown.contains("BulkString"), "a value in a log: {shown}");

    let error = execute(cmd("EXISTS").arg(&keys));
    let counts = error.parts().iter().map(|part| &part.value);
    let sum: i64 = counts
        .flatten()
        .map(|value| redis::from_redis_value_ref::<i64>(value).unwrap())
        .sum();
    assert_eq!(sum, 2);
    let error = execute(&cmd("DBSIZE"));
    let done = error.parts().iter().filter(|part| part.value.is_some());
    assert_eq!(done.count(), NODES - 1);
}

#[test]
fn check_connection_is_true_while_any_node_answers_and_dbsize_needs_all() {
    let timeout = Duration::from_millis(500);
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let mut client = builder(&servers).response_timeout(timeout).build().unwrap();
    assert!(client.check_connection());
    servers.pause(DEAD);
    let mut hanging = client.nodes().nth(DEAD).unwrap();
    assert!(!hanging.check_connection(), "it hangs");
    assert!(client.check_connection(), "three of four answer");
    servers.resume(DEAD);
    servers.kill(DEAD);
    assert!(client.check_connection());
    assert!(client.is_open());
    let error = client.execute(&cmd("DBSIZE")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Partial);
    let up: Vec<bool> = client
        .nodes()
        .map(|mut node| node.check_connection())
        .collect();
    assert_eq!(up, [true, true, false, true]);
    for index in [0, 1, 3] {
        servers.kill(index);
    }
    assert!(!client.check_connection());
}
