//! One list of scenarios, run through the blocking and the async client over real servers: the same values, and the same
//! errors, word for word; and the values and error codes of a single server, to which redis-rs speaks by itself. The same
//! over Redis Clusters, through the proxy as well.
#![cfg(all(feature = "tokio-comp", feature = "testing"))]

mod support;

use std::time::Duration;

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, ErrorKind, ShardedClient, aio};
use support::all_clients::{AllClients, AnyClient, KINDS, Kind};
use support::clusters::servers;
use support::{Cluster, Servers, servers as single};

/// One thing a user does.
enum Step {
    Cmd(Cmd),
    Pipe(Pipeline),
}

use Step::Pipe;

fn words(words: &[&str]) -> Step {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    Step::Cmd(command)
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

/// Everything that the two clients must do alike.
fn scenarios() -> Vec<Step> {
    let mut steps = vec![words(&["FLUSHALL"])];
    let all = keys(60);
    let mut mset = vec!["MSET"];
    for key in &all {
        mset.extend([key.as_str(), "v"]);
    }
    let with = |name: &'static str| {
        let mut words = vec![name];
        words.extend(all.iter().map(String::as_str));
        words
    };
    steps.push(words(&mset));
    for name in [
        "MGET",
        "EXISTS",
        "TOUCH",
        "UNLINK",
        "DEL",
        "SUNION",
        "PFCOUNT",
        "MSETNX",
        "WATCH",
        "SSUBSCRIBE",
    ] {
        steps.push(words(&with(name)));
    }
    // What the clients refused to watch makes no later EXEC fail.
    steps.push(words(&["UNWATCH"]));
    for line in [
        "SET k 1",
        "GET k",
        "GET missing",
        "INCR k",
        "INCR",
        "LPUSH k x",
        "RPUSH list a b c",
        "LRANGE list 0 -1",
        "BLPOP list 1",
        "BLPOP list missing 1",
        "BLPOP nothing 0.01",
        "BLMOVE list list LEFT RIGHT 1",
        "HSET h f 1 g 2",
        "HGETALL h",
        "ZADD z 1 a 2 b",
        "ZRANGE z 0 -1 WITHSCORES",
        "XADD s 1-1 f v",
        "XREAD COUNT 1 STREAMS s 0",
        "XREAD COUNT 1 STREAMS s k 0 0",
        "XREAD BLOCK 10 STREAMS s 5",
        "EVAL return{KEYS[1],ARGV[1]} 1 k x",
        "EVAL return{KEYS[1]} 0",
        "EVAL return{KEYS[1]} -1",
        "EVAL return{KEYS[1]} x",
        "EVAL return(redis.call('GET','k')) 0",
        "EVALSHA ffff 1 k",
        "EVALSHA ffff 0",
        "EVALSHA 8f0732537dcef5e06b4e8371446724937f2bc51f 1 k",
        "SCRIPT LOAD return{}",
        "EVALSHA 8f0732537dcef5e06b4e8371446724937f2bc51f 0",
        "SCRIPT EXISTS 8f0732537dcef5e06b4e8371446724937f2bc51f",
        "FCALL nosuch 1 k",
        "FCALL nosuch 0",
        "FUNCTION LOAD nonsense",
        "SORT list ALPHA",
        "SORT list BY w_* ALPHA",
        "OBJECT ENCODING k",
        "OBJECT NOSUCH k",
        "CONFIG GET maxmemory",
        "CONFIG SET nosuch 1",
        "DBSIZE",
        "KEYS *",
        "RANDOMKEY extra",
        "PING",
        "PING hello",
        "ECHO hello",
        "SCAN 0 COUNT 1000",
        "SCAN nonsense",
        "SCAN 18446744073709551615",
        "TYPE k",
        "EXPIRE k 100",
        "PERSIST k",
        "WAIT 0 1",
        "PUBLISH channel message",
        "PUBSUB CHANNELS",
        "PUBSUB NUMSUB a b",
        "SCRIPT EXISTS ffff",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "LASTSAVE x",
        "SUBSCRIBE c",
        "MULTI",
        "EXEC",
        "SELECT 1",
        "CLIENT REPLY OFF",
        "MONITOR",
        "SHUTDOWN",
        "CLUSTER INFO",
        "NOSUCH k",
        "CONFIG NOSUCH",
        "GETEX k EX nonsense",
        "SET k v EX",
        "MSET a 1 b",
        "COPY k {k}2",
        "COPY k j",
        "SINTERCARD 2 k j",
        "SINTERCARD 0 k",
        "LMPOP 2 a b LEFT",
    ] {
        steps.push(words(&line.split(' ').collect::<Vec<_>>()));
    }
    let mut long = pipe();
    for key in &all {
        long.cmd("SET")
            .arg(key)
            .arg(key)
            .ignore()
            .cmd("GET")
            .arg(key);
    }
    steps.push(Pipe(long));
    steps.push(Pipe(
        pipe()
            .get("k")
            .cmd("MGET")
            .arg(&all)
            .cmd("DBSIZE")
            .cmd("LPUSH")
            .arg("k")
            .arg(1)
            .get("h")
            .clone(),
    ));
    steps.push(Pipe(
        pipe()
            .get("k")
            .cmd("LPUSH")
            .arg("k")
            .arg(1)
            .get("key:1")
            .ignore_errors()
            .clone(),
    ));
    steps.push(Pipe(pipe().get("k").cmd("NOSUCH").get("j").clone()));
    steps.push(Pipe(pipe().atomic().incr("{t}n", 1).get("{t}n").clone()));
    steps.push(Pipe(
        pipe()
            .atomic()
            .incr("a", 1)
            .incr("b", 1)
            .incr("c", 1)
            .clone(),
    ));
    steps.push(Pipe(pipe().atomic().cmd("ECHO").arg("x").clone()));
    steps.push(Pipe(
        pipe()
            .atomic()
            .set("{t}n", "x")
            .incr("{t}n", 1)
            .get("{t}n")
            .clone(),
    ));
    steps.push(Pipe(
        pipe()
            .atomic()
            .set("{t}n", 1)
            .cmd("OBJECT")
            .arg("FREQ")
            .arg("{t}n")
            .clone(),
    ));
    steps.push(Pipe(pipe()));
    steps
}

fn flat<T>(result: RedisResult<T>) -> Result<T, (Option<String>, String)> {
    result.map_err(|error: RedisError| (error.code().map(str::to_owned), error.to_string()))
}

type Outcome = Result<Value, (Option<String>, String)>;

fn blocking(client: &mut ShardedClient, steps: &[Step]) -> Vec<Outcome> {
    let run = |step: &Step| match step {
        Step::Cmd(cmd) => flat(cmd.query(client)),
        Pipe(pipeline) => flat(pipeline.query(client)),
    };
    steps.iter().map(run).collect()
}

async fn asynchronous(client: &mut aio::ShardedClient, steps: &[Step]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for step in steps {
        outcomes.push(match step {
            Step::Cmd(cmd) => flat(cmd.query_async(client).await),
            Pipe(pipeline) => flat(pipeline.query_async(client).await),
        });
    }
    outcomes
}

fn sorted(outcome: &Outcome) -> Vec<String> {
    let Ok(Value::Array(keys)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
    keys.sort();
    keys
}

fn compare(steps: &[Step], one: &[Outcome], other: &[Outcome]) {
    assert_eq!((one.len(), other.len()), (steps.len(), steps.len()));
    for ((step, one), other) in steps.iter().zip(one).zip(other) {
        if let Step::Cmd(cmd) = step
            && cmd.args_iter().next() == Some(redis::Arg::Simple(b"KEYS"))
        {
            // A server names its keys in any order it likes.
            assert_eq!(sorted(one), sorted(other));
            continue;
        }
        let what = match step {
            Step::Cmd(cmd) => format!("{cmd:?}"),
            Pipe(pipeline) => format!("{pipeline:?}"),
        };
        assert_eq!(one, other, "{what}");
    }
}

/// Commands about the servers rather than the data: many servers have another answer than one.
const ABOUT_SERVERS: [&str; 2] = ["SCAN", "SCRIPT"];

/// A single server that is sent all that the clients have not refused: it gives the same values, and errors of the same code.
fn compare_with_one_server(truth: &Servers, protocol: &str, steps: &[Step], ours: &[Outcome]) {
    let url = format!("{}?protocol={protocol}", truth.url(0));
    let mut truth = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut compared = 0;
    for (step, ours) in steps.iter().zip(ours) {
        if is_refused(ours) {
            continue;
        }
        let (theirs, what) = match step {
            Step::Cmd(cmd) => (flat(cmd.query(&mut truth)), format!("{cmd:?}")),
            Pipe(pipeline) => (flat(pipeline.query(&mut truth)), format!("{pipeline:?}")),
        };
        let name = name(step);
        compared += 1;
        match (ours, &theirs) {
            (_, Ok(_)) if ABOUT_SERVERS.contains(&name.as_str()) => {}
            (Ok(_), Ok(_)) if name == "KEYS" => assert_eq!(sorted(ours), sorted(&theirs)),
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{what}");
            }
            (Err((ours, _)), Err((theirs, _))) => assert_eq!(ours, theirs, "{what}"),
            (ours, theirs) => panic!("{what}: {ours:?}, but one server {theirs:?}"),
        }
    }
    assert!(
        compared > 60,
        "only {compared} of {} were compared",
        steps.len()
    );
}

#[tokio::test]
async fn both_clients_give_the_same_replies() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    for protocol in ["resp2", "resp3"] {
        let describe = || {
            (0..)
                .zip(servers.urls())
                .fold(ShardedClient::builder(), |builder, (number, url)| {
                    builder.node(
                        format!("node-{number}"),
                        format!("{url}?protocol={protocol}"),
                    )
                })
        };
        let steps = scenarios();
        let mut client = describe().build().unwrap();
        let one = blocking(&mut client, &steps);
        let mut client = describe().build_async().unwrap();
        let other = asynchronous(&mut client, &steps).await;
        compare(&steps, &one, &other);
        compare_with_one_server(&Servers::start(1).unwrap(), protocol, &steps, &one);
        let good = one.iter().filter(|outcome| outcome.is_ok()).count();
        assert!(good > 40, "only {good} of {} do something", steps.len());
    }
}

fn through(client: &mut AnyClient, steps: &[Step]) -> Vec<Outcome> {
    let run = |step: &Step| match step {
        Step::Cmd(cmd) => flat(client.command(cmd)),
        Pipe(pipeline) => flat(client.query(pipeline)),
    };
    steps.iter().map(run).collect()
}

#[test]
fn clients_and_proxy_over_a_cluster_give_the_replies_of_one_server() {
    for server in servers() {
        let cluster = Cluster::start(&server, 3, 0);
        for protocol in ["resp2", "resp3"] {
            let clients = AllClients::open(|| {
                let seeds = cluster.urls().into_iter();
                let seeds = seeds.map(|url| format!("{url}?protocol={protocol}"));
                ShardedClient::builder().cluster(seeds)
            });
            let mut steps = scenarios();
            // A server that is no node of a cluster has nothing to say about it.
            steps.retain(|step| name(step) != "CLUSTER");
            let run = |kind| through(&mut clients.of_protocol(kind, protocol), &steps);
            let [blocking, tokio] = [Kind::Blocking, Kind::Async].map(run);
            compare(&steps, &blocking, &tokio);
            let truth = single::Builder::default().server(&server.path);
            compare_with_one_server(
                &truth.clone().start(1).unwrap(),
                protocol,
                &steps,
                &blocking,
            );
            // What changes the state of a connection, the proxy does, and the next steps would be answered otherwise.
            let (steps, _): (Vec<Step>, Vec<_>) = steps
                .into_iter()
                .zip(&blocking)
                .filter(|(_, outcome)| !is_refused(outcome))
                .unzip();
            let mut proxy = clients.of_protocol(Kind::Proxy, protocol);
            let proxy = through(&mut proxy, &steps);
            compare_with_one_server(&truth.start(1).unwrap(), protocol, &steps, &proxy);
        }
    }
}

/// The first word of a command.
fn name(step: &Step) -> String {
    match step {
        Step::Cmd(cmd) => match cmd.args_iter().next() {
            Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
            other => panic!("{other:?}"),
        },
        Pipe(_) => String::new(),
    }
}

/// Whether the client has sent nothing.
fn is_refused(outcome: &Outcome) -> bool {
    let code = outcome.as_ref().err().and_then(|(code, _)| code.as_deref());
    matches!(code, Some("CROSSNODE" | "STATEFUL" | "UNROUTABLE"))
}

/// The same faults at the same commands, before each client.
#[tokio::test]
async fn both_clients_fail_alike_under_the_same_faults() {
    let faults = [
        Fault::CloseAfter,
        Fault::CloseBefore,
        Fault::HalfReplyThenClose,
        Fault::HalfReplyThenHang,
        Fault::HangAfter,
        Fault::HangBefore,
        Fault::Error("OOM command not allowed when used memory > 'maxmemory'.".into()),
        Fault::Garbage(b"?\r\n".to_vec()),
        Fault::Delay(Duration::from_millis(50)),
    ];
    // The fault is armed at the first node, so that is where the key of a single command must live.
    let nodes = TestNode::start_many(3).unwrap();
    let client = describe(&nodes).build().unwrap();
    let is_first = |key: &String| client.node_for(key).unwrap().name() == "node-0";
    let key = keys(12).into_iter().find(is_first).unwrap();
    let counter = format!("{{{key}}}n");
    let steps = || {
        let mut mset = cmd("MSET");
        for key in keys(12) {
            mset.arg(key).arg("v");
        }
        let mut mget = cmd("MGET");
        mget.arg(keys(12));
        let mut pipeline = pipe();
        for key in keys(12) {
            pipeline.get(&key).ignore_errors();
        }
        vec![
            ("SET", words(&["SET", &key, "v"])),
            ("GET", words(&["GET", &key])),
            ("MSET", Step::Cmd(mset)),
            ("MGET", Step::Cmd(mget)),
            ("DBSIZE", words(&["DBSIZE"])),
            ("GET", Pipe(pipeline)),
            ("EXEC", Pipe(pipe().atomic().incr(&counter, 1).clone())),
        ]
    };
    let outcomes = |nodes: &[TestNode]| -> Vec<usize> {
        nodes.iter().map(|node| node.received().len()).collect()
    };
    for fault in faults {
        for at in 0..steps().len() {
            let mut both = Vec::new();
            for asynchronously in [false, true] {
                let nodes = TestNode::start_many(3).unwrap();
                let builder = describe(&nodes);
                let (name, _) = steps()[at];
                let step = vec![steps().remove(at).1];
                let warm: Vec<Step> = keys(12)
                    .iter()
                    .map(|key| words(&["SET", key, "0"]))
                    .collect();
                let arm = || {
                    for node in &nodes {
                        node.clear_received();
                    }
                    nodes[0].fail(name, fault.clone(), 1);
                };
                let result = if asynchronously {
                    let mut client = builder.build_async().unwrap();
                    while asynchronous(&mut client, &warm)
                        .await
                        .iter()
                        .any(Result::is_err)
                    {}
                    arm();
                    asynchronous(&mut client, &step).await
                } else {
                    let mut client = builder.build().unwrap();
                    while blocking(&mut client, &warm).iter().any(Result::is_err) {}
                    arm();
                    blocking(&mut client, &step)
                };
                assert_eq!(
                    nodes[0].faults_left(),
                    0,
                    "{fault:?} did not happen at {name}"
                );
                both.push((result, outcomes(&nodes)));
            }
            let (one, other) = (&both[0], &both[1]);
            assert_eq!(one, other, "{fault:?} at {}", steps()[at].0);
        }
    }
}

fn describe(nodes: &[TestNode]) -> Builder {
    (0..)
        .zip(nodes)
        .fold(ShardedClient::builder(), |builder, (number, node)| {
            builder.node(format!("node-{number}"), node.url())
        })
        .response_timeout(Duration::from_millis(250))
}

/// Typed errors, too: the kind and what each node did.
#[tokio::test]
async fn both_clients_give_the_same_typed_errors() {
    let nodes = TestNode::start_many(3).unwrap();
    let blocking = describe(&nodes).build().unwrap();
    let asynchronous = describe(&nodes).build_async().unwrap();
    let mut mset = cmd("MSET");
    for key in keys(12) {
        mset.arg(key).arg("v");
    }
    nodes[1].fail("MSET", Fault::Error("OOM no".into()), 2);
    let one = blocking.execute(&mset).unwrap_err();
    let other = asynchronous.execute(&mset).await.unwrap_err();
    assert_eq!(nodes[1].faults_left(), 0);
    assert_eq!(one.kind(), ErrorKind::Partial);
    assert_eq!(
        (one.kind(), one.to_string(), one.parts()),
        (other.kind(), other.to_string(), other.parts())
    );
    let explained = blocking.explain(&mset).unwrap().to_string();
    assert_eq!(explained, asynchronous.explain(&mset).unwrap().to_string());
}

/// A server that is demoted ends its blocked commands with UNBLOCKED and then closes their connections. What is sent on
/// one of them before that is seen would have an unknown outcome.
#[test]
fn connection_that_a_demoted_server_closes_is_not_used_again() {
    let demoted = "UNBLOCKED force unblock from blocking operation, instance state changed";
    let by_client = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
    let node = TestNode::start().unwrap();
    let describe = || ShardedClient::builder().node("node-0", node.url());
    let clients = AllClients::open(describe);
    for (error, is_kept) in [(demoted, false), (by_client, true)] {
        for kind in KINDS {
            let mut client = clients.of(kind);
            let _: i64 = client.ask(&["RPUSH", "{k}", "x", "y"]).unwrap();
            node.clear_received();
            node.fail("BLPOP", Fault::Error(error.into()), 1);
            let refused: RedisResult<Value> = client.ask(&["BLPOP", "{k}", "1"]);
            assert_eq!(refused.unwrap_err().code(), Some("UNBLOCKED"), "{kind:?}");
            let popped: RedisResult<Vec<String>> = client.ask(&["BLPOP", "{k}", "1"]);
            assert_eq!(popped, Ok(vec!["{k}".into(), "x".into()]), "{kind:?}");
            let used: Vec<u64> = node
                .received()
                .iter()
                .filter(|command| command.name() == "BLPOP")
                .map(|command| command.connection())
                .collect();
            assert_eq!(used.len(), 2);
            assert_eq!(used[0] == used[1], is_kept, "{kind:?}, {error}");
            let _: i64 = client.ask(&["DEL", "{k}"]).unwrap();
        }
    }
}
