//! The replies that stand for those of missing nodes are those of a real server without the keys, byte for byte, for every
//! command that has one. Each request is sent to an empty server, and through a proxy and both clients whose only node
//! is down.
#![cfg(all(feature = "testing", feature = "tokio-comp"))]

mod support;

use std::collections::BTreeSet;

use redis::{Cmd, Value};
use redis_sharding::{Builder, ReadsAs, ShardedClient};
use support::Servers;
use support::local_proxy::{LocalProxy, RawClient};

/// For each command with a reply to missing keys, all forms that it has.
const REQUESTS: &[&str] = &[
    "BITCOUNT k",
    "BITCOUNT k 0 -1 BIT",
    "BITFIELD_RO k GET u8 0 GET u8 8",
    "BITFIELD_RO k",
    "BITPOS k 0",
    "BITPOS k 1",
    "BITPOS k 0 1",
    "BITPOS k 1 0 -1 BIT",
    "DUMP k",
    "EXISTS k",
    "EXISTS k l m",
    "EXPIRETIME k",
    "GEODIST k a b",
    "GEOHASH k",
    "GEOHASH k a b",
    "GEOPOS k",
    "GEOPOS k a b",
    "GEORADIUSBYMEMBER_RO k a 1 m",
    "GEORADIUS_RO k 1 1 1 m",
    "GEOSEARCH k FROMLONLAT 1 1 BYRADIUS 1 m ASC",
    "GET k",
    "GETBIT k 7",
    "GETRANGE k 0 -1",
    "HEXISTS k f",
    "HEXPIRETIME k FIELDS 2 f g",
    "HGET k f",
    "HGETALL k",
    "HKEYS k",
    "HLEN k",
    "HMGET k f g",
    "HPEXPIRETIME k FIELDS 1 f",
    "HPTTL k FIELDS 2 f g",
    "HRANDFIELD k",
    "HRANDFIELD k 2",
    "HRANDFIELD k 2 WITHVALUES",
    "HSCAN k 0",
    "HSCAN k 5 COUNT 10",
    "HSTRLEN k f",
    "HTTL k FIELDS 2 f g",
    "HVALS k",
    "LCS k l",
    "LCS k l LEN",
    "LCS k l IDX",
    "LCS k l idx MINMATCHLEN 2 WITHMATCHLEN",
    "LINDEX k 0",
    "LLEN k",
    "LPOS k e",
    "LPOS k COUNT",
    "LPOS k e RANK 1",
    "LPOS k e COUNT 2",
    "LPOS k e RANK 1 count 0",
    "LRANGE k 0 -1",
    "MGET k",
    "MGET k l m",
    "PEXPIRETIME k",
    "PTTL k",
    "SCARD k",
    "SDIFF k l",
    "SINTER k l",
    "SINTERCARD 2 k l",
    "SISMEMBER k m",
    "SMEMBERS k",
    "SMISMEMBER k m n",
    "SORT_RO k",
    "SORT_RO k LIMIT 0 5 GET #",
    "SRANDMEMBER k",
    "SRANDMEMBER k -2",
    "SSCAN k 0",
    "STRLEN k",
    "SUBSTR k 0 -1",
    "SUNION k l",
    "TOUCH k l",
    "TTL k",
    "TYPE k",
    "VCARD k",
    "VEMB k e",
    "VGETATTR k e",
    "VINFO k",
    "VISMEMBER k e",
    "VLINKS k e",
    "VRANDMEMBER k",
    "VRANDMEMBER k 2",
    "VSIM k ELE e",
    "XLEN k",
    "XRANGE k - +",
    "XRANGE k - + COUNT 0",
    "XREAD STREAMS k l 0 0",
    "XREAD COUNT 1 STREAMS k 0",
    "XREVRANGE k + -",
    "ZCARD k",
    "ZCOUNT k 0 1",
    "ZDIFF 2 k l",
    "ZDIFF 2 k l WITHSCORES",
    "ZINTER 2 k l",
    "ZINTER 2 k l WITHSCORES",
    "ZINTERCARD 2 k l",
    "ZLEXCOUNT k - +",
    "ZMSCORE k a b",
    "ZRANDMEMBER k",
    "ZRANDMEMBER k 2",
    "ZRANDMEMBER k 2 WITHSCORES",
    "ZRANGE k 0 -1",
    "ZRANGE k 0 -1 WITHSCORES",
    "ZRANGEBYLEX k - +",
    "ZRANGEBYSCORE k 0 1 WITHSCORES",
    "ZRANK k a",
    "ZRANK k a WITHSCORE",
    "ZREVRANGE k 0 -1",
    "ZREVRANGEBYLEX k + -",
    "ZREVRANGEBYSCORE k 1 0",
    "ZREVRANK k a",
    "ZREVRANK k a WITHSCORE",
    "ZSCAN k 0",
    "ZSCORE k a",
    "ZUNION 2 k l",
    "ZUNION 2 k l WITHSCORES",
];

/// Of servers newer than 7.0, or of their vector sets. Only these may be unknown to the server of the test.
const NEWER: &[&str] = &[
    "HEXPIRETIME",
    "HPEXPIRETIME",
    "HPTTL",
    "HTTL",
    "VCARD",
    "VEMB",
    "VGETATTR",
    "VINFO",
    "VISMEMBER",
    "VLINKS",
    "VRANDMEMBER",
    "VSIM",
];

/// Reads by key that fail: a server's reply to them is an error, is about the server, or is made by a script.
const WITHOUT: &[&str] = &[
    "EVAL_RO return(1) 1 k",
    "MEMORY USAGE k",
    "OBJECT ENCODING k",
    "XINFO STREAM k",
    "XPENDING k g",
    "XREAD BLOCK 1 STREAMS k 0",
];

/// The commands that have a reply to missing keys, by `docs/commands.md`, which is printed from the table.
fn with_reply() -> BTreeSet<&'static str> {
    let lines = include_str!("../docs/commands.md").lines();
    let cells = lines.map(|line| line.split(" | ").collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells.len() == 9 && !cells[0].contains("command"));
    let replies = rows.filter(|cells| !cells[5].trim().is_empty());
    replies
        .map(|cells| cells[0].trim_start_matches("| "))
        .collect()
}

fn name(request: &str) -> &str {
    request.split(' ').next().unwrap()
}

fn command(request: &str) -> Cmd {
    let mut words = request.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command
}

/// True for the reply of a server that does not know the request.
fn is_unknown(request: &str, reply: &str) -> bool {
    let is_newer = NEWER.contains(&name(request)) && reply.starts_with("-ERR unknown command");
    let is_option =
        request.ends_with(" WITHSCORE") && reply.starts_with("-ERR wrong number of arguments");
    is_newer || is_option
}

#[test]
fn miss_replies_are_tested_for_every_command_that_has_one() {
    let tested: BTreeSet<&str> = REQUESTS.iter().map(|request| name(request)).collect();
    assert_eq!(with_reply(), tested);
}

#[test]
fn miss_replies_are_those_of_a_real_server_in_resp2_and_resp3() {
    let (Some(empty), Some(dead)) = (Servers::start(1), Servers::start(1)) else {
        return;
    };
    dead.kill(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let misses = |url: String| -> Builder {
        ShardedClient::builder()
            .node("a", url)
            .missing_nodes(ReadsAs::Miss)
    };
    let front = LocalProxy::open(misses(dead.url(0)));
    let mut compared = 0;
    for (number, option) in [("2", "resp2"), ("3", "resp3")] {
        let mut server = RawClient::connect(&empty.addr(0));
        let mut proxy = front.talk();
        for talker in [&mut server, &mut proxy] {
            assert!(!talker.ask(&format!("HELLO {number}")).starts_with('-'));
        }
        let url = |servers: &Servers| format!("{}?protocol={option}", servers.url(0));
        let reference = redis::Client::open(url(&empty)).unwrap();
        let mut reference = reference.get_connection().unwrap();
        let mut blocking = misses(url(&dead)).build().unwrap();
        let mut tokio = misses(url(&dead)).build_async().unwrap();
        for request in REQUESTS {
            let expected = server.ask(request);
            if is_unknown(request, &expected) {
                continue;
            }
            assert!(!expected.starts_with('-'), "{request}: {expected}");
            assert_eq!(proxy.ask(request), expected, "{request} in RESP{number}");
            let cmd = command(request);
            let expected: Value = cmd.query(&mut reference).unwrap();
            assert_eq!(
                cmd.query::<Value>(&mut blocking).unwrap(),
                expected,
                "{request}"
            );
            let reply = runtime.block_on(cmd.query_async::<Value>(&mut tokio));
            assert_eq!(reply.unwrap(), expected, "{request}");
            compared += 1;
        }
        for request in WITHOUT {
            let error = proxy.ask(request);
            assert!(error.starts_with("-NODEDOWN"), "{request}: {error}");
            let cmd = command(request);
            cmd.query::<Value>(&mut blocking).unwrap_err();
            runtime
                .block_on(cmd.query_async::<Value>(&mut tokio))
                .unwrap_err();
        }
    }
    assert!(compared > 180, "{compared} of {}", 2 * REQUESTS.len());
}
