//! What a user of redis-rs does, done over four servers.

mod support;

use std::collections::{BTreeSet, HashMap};

use redis::{Commands, ConnectionLike, RedisResult, Value, cmd, pipe};
use redis_sharding::{ErrorKind, ShardedClient, SplitWrites};
use support::{Servers, client};

fn kind<T: std::fmt::Debug>(result: RedisResult<T>) -> ErrorKind {
    ErrorKind::of(&result.expect_err("an error"))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

#[test]
fn get_and_set_spread_keys_over_the_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    for number in 0..200 {
        let _: () = client.set(format!("key:{number}"), number).unwrap();
    }
    for number in 0..200 {
        let found: Option<i64> = client.get(format!("key:{number}")).unwrap();
        assert_eq!(found, Some(number));
    }
    let sizes: Vec<usize> = (0..4)
        .map(|index| cmd("DBSIZE").query(&mut servers.connection(index)).unwrap())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 200);
    assert!(sizes.iter().all(|&size| size > 10), "{sizes:?}");
}

#[test]
fn node_for_names_the_node_that_stores_the_key() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    for key in names(50) {
        let _: () = client.set(&key, "v").unwrap();
        let mut node = client.node_for(&key).unwrap();
        assert!(node.exists::<_, bool>(&key).unwrap());
        let elsewhere = client.nodes().filter(|other| other.name() != node.name());
        for mut other in elsewhere {
            assert!(!other.exists::<_, bool>(&key).unwrap());
        }
    }
}

#[test]
fn typed_commands_of_redis_rs_work_on_the_client() {
    use redis::TypedCommands;

    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    TypedCommands::set(&mut client, "name", "Ada").unwrap();
    assert_eq!(
        TypedCommands::get(&mut client, "name").unwrap().as_deref(),
        Some("Ada")
    );
    assert_eq!(TypedCommands::incr(&mut client, "count", 2).unwrap(), 2);
    assert_eq!(
        TypedCommands::del(&mut client, &["name", "count", "nothing"]).unwrap(),
        2
    );
}

#[test]
fn client_works_as_a_dyn_connection_like() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let connection: &mut dyn ConnectionLike = &mut client;
    cmd("SET").arg("k").arg(1).exec(connection).unwrap();
    let connection: &mut dyn ConnectionLike = &mut client;
    let (one, two): (i64, i64) = pipe().get("k").incr("k", 1).query(connection).unwrap();
    assert_eq!((one, two), (1, 2));
}

#[test]
fn mget_over_nodes_keeps_the_order_of_the_keys() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let keys = names(10_000);
    let pairs: Vec<(&String, usize)> = keys.iter().zip(0..).collect();
    let _: () = client.mset(&pairs).unwrap();
    let mut asked = keys.clone();
    asked.reverse();
    asked.insert(5_000, "missing".into());
    asked.push("key:7".into());
    let found: Vec<Option<usize>> = client.mget(&asked).unwrap();
    let expected: Vec<Option<usize>> = asked
        .iter()
        .map(|key| {
            key.strip_prefix("key:")
                .and_then(|number| number.parse().ok())
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn exists_del_unlink_and_touch_add_the_counts_of_all_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let keys = names(100);
    for key in &keys {
        let _: () = client.set(key, 1).unwrap();
    }
    let mut some = keys[..40].to_vec();
    some.push("missing".into());
    assert_eq!(
        cmd("EXISTS")
            .arg(&some)
            .query::<usize>(&mut client)
            .unwrap(),
        40
    );
    assert_eq!(
        cmd("TOUCH").arg(&some).query::<usize>(&mut client).unwrap(),
        40
    );
    assert_eq!(
        cmd("EXISTS")
            .arg("key:1")
            .arg("key:1")
            .query::<usize>(&mut client)
            .unwrap(),
        2
    );
    assert_eq!(
        cmd("DEL").arg(&some).query::<usize>(&mut client).unwrap(),
        40
    );
    assert_eq!(
        cmd("UNLINK")
            .arg(&keys)
            .query::<usize>(&mut client)
            .unwrap(),
        60
    );
}

#[test]
fn split_writes_refused_rejects_mset_over_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let builder = support::builder(&servers);
    let mut client = builder.split_writes(SplitWrites::Refused).build().unwrap();
    assert_eq!(
        kind(client.mset::<_, _, ()>(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)])),
        ErrorKind::CrossNode
    );
    let _: () = client.mset(&[("{t}a", 1), ("{t}b", 2)]).unwrap();
    let read: Vec<Option<i64>> = client.mget(&["a", "{t}a", "b", "c"]).unwrap();
    assert_eq!(read, [None, Some(1), None, None]);
}

#[test]
fn rename_and_sinter_need_all_keys_on_one_node() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let keys = names(50);
    let owner = |key: &str| client.node_for(key).unwrap().name().to_owned();
    let home = owner(&keys[0]);
    let beside = keys[1..]
        .iter()
        .find(|key| owner(key) == home)
        .unwrap()
        .clone();
    let apart = keys[1..]
        .iter()
        .find(|key| owner(key) != home)
        .unwrap()
        .clone();

    let _: () = client.sadd(&keys[0], "x").unwrap();
    let _: () = client.sadd(&beside, "y").unwrap();
    let union: BTreeSet<String> = client.sunion(&[&keys[0], &beside]).unwrap();
    assert_eq!(union.len(), 2, "no common tag, but a common node");

    let error = client
        .sunion::<_, Vec<String>>(&[&keys[0], &apart])
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    let text = error.to_string();
    assert!(
        text.contains(&keys[0]) && text.contains(&apart) && text.contains(&home),
        "{text}"
    );
    let (a, b) = (keys[0].as_str(), apart.as_str());
    for words in [
        ["RENAME", a, b].as_slice(),
        &["MSETNX", a, "1", b, "2"],
        &["COPY", a, b],
        &["SMOVE", a, b, "x"],
        &["PFMERGE", a, b],
        &["LMOVE", a, b, "LEFT", "RIGHT"],
        &["BITOP", "AND", a, b],
        &["SORT", a, "STORE", b],
        &["SORT", a, "BY", "weight:*"],
        &["ZUNIONSTORE", a, "1", b],
        &["EVAL", "return 1", "2", a, b],
        &["XREAD", "STREAMS", a, b, "0", "0"],
    ] {
        let result = cmd(words[0]).arg(&words[1..]).query::<Value>(&mut client);
        assert_eq!(kind(result), ErrorKind::CrossNode, "{words:?}");
    }
    assert!(
        !client.exists::<_, bool>(&apart).unwrap(),
        "nothing was sent"
    );
}

#[test]
fn unroutable_and_stateful_commands_are_refused_with_a_way_out() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let mut refused = |words: &[&str]| {
        let error = cmd(words[0])
            .arg(&words[1..])
            .query::<Value>(&mut client)
            .unwrap_err();
        (ErrorKind::of(&error), error.to_string())
    };
    for (words, expected, hint) in [
        (
            vec!["NOSUCH.COMMAND", "k"],
            ErrorKind::Unroutable,
            "CommandSpec",
        ),
        (
            vec!["CONFIG", "NOSUCH"],
            ErrorKind::Unroutable,
            "CommandSpec",
        ),
        (vec!["SHUTDOWN"], ErrorKind::Unroutable, "client.node(name)"),
        (
            vec!["EVAL", "return redis.call('GET', ARGV[1])", "0", "k"],
            ErrorKind::Unroutable,
            "client.node(name)",
        ),
        (vec!["MULTI"], ErrorKind::Stateful, "transaction"),
        (vec!["SUBSCRIBE", "news"], ErrorKind::Stateful, "dedicated"),
        (vec!["SELECT", "1"], ErrorKind::Stateful, "dedicated"),
        (
            vec!["CLIENT", "REPLY", "OFF"],
            ErrorKind::Stateful,
            "redis-rs",
        ),
        (vec!["MONITOR"], ErrorKind::Stateful, "redis-rs"),
    ] {
        let (kind, text) = refused(&words);
        assert_eq!(kind, expected, "{words:?}: {text}");
        assert!(text.contains(hint), "{words:?}: {text}");
    }
    let (_, text) = refused(&["GET"]);
    assert!(
        text.contains("wrong number of arguments for 'get' command"),
        "{text}"
    );
}

#[test]
fn watch_in_a_pipeline_or_on_a_node_is_refused_with_a_way_out() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let mut watch = redis::pipe();
    watch.cmd("WATCH").arg("k").get("k");
    let mut node = client.node("node-0").unwrap();
    for result in [
        watch.exec(&mut client),
        cmd("WATCH").arg("k").exec(&mut node),
    ] {
        let error = result.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Stateful);
        assert!(
            error.to_string().contains("client.transaction(keys, ..)"),
            "{error}"
        );
    }
}

#[test]
fn pipeline_replies_come_in_command_order() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let mut pipeline = pipe();
    for number in 0..500 {
        pipeline.set(format!("key:{number}"), number).ignore();
        pipeline.get(format!("key:{number}"));
    }
    let found: Vec<usize> = pipeline.query(&mut client).unwrap();
    assert_eq!(found, (0..500).collect::<Vec<_>>());
}

#[test]
fn mset_mget_and_del_are_split_inside_a_pipeline() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    type Answer = (Vec<Option<i64>>, i64, usize, Option<i64>);
    let answer: Answer = pipe()
        .cmd("MSET")
        .arg(&["a", "1", "b", "2", "c", "3", "d", "4"])
        .ignore()
        .mget(&["d", "none", "a", "b"])
        .incr("c", 10)
        .del(&["a", "b", "none"])
        .get("a")
        .query(&mut client)
        .unwrap();
    assert_eq!(answer, (vec![Some(4), None, Some(1), Some(2)], 13, 2, None));
}

#[test]
fn pipeline_errors_behave_as_in_redis_rs() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let _: () = client.set("text", "abc").unwrap();
    let mut pipeline = pipe();
    pipeline
        .set("one", 1)
        .incr("text", 1)
        .set("two", 2)
        .ignore()
        .get("two");

    let error = pipeline.query::<Value>(&mut client).unwrap_err();
    let errors = error.into_server_errors().unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].0, 1, "the error has the number of its command");
    assert_eq!(
        errors[0].1.details(),
        Some("value is not an integer or out of range"),
        "as the server wrote it"
    );

    let all: Vec<RedisResult<Value>> = pipeline.ignore_errors().query(&mut client).unwrap();
    assert_eq!(all.len(), 3);
    assert!(all[0].is_ok() && all[1].is_err());
    assert_eq!(all[2], Ok(Value::BulkString(b"2".to_vec())));
}

#[test]
fn pipeline_with_a_refused_command_is_not_sent_at_all() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let result = pipe()
        .set("a", 1)
        .cmd("NOSUCH")
        .arg("k")
        .set("b", 2)
        .query::<Value>(&mut client);
    let error = result.unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable);
    assert!(
        error.to_string().contains("command 2 of the pipeline"),
        "{error}"
    );
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 0);
}

#[test]
fn empty_pipeline_is_the_error_of_redis_rs_and_an_empty_atomic_one_is_ok() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let error = pipe().query::<Vec<Value>>(&mut client).unwrap_err();
    assert_eq!(error.kind(), redis::ErrorKind::Client);
    let nothing: Vec<Value> = pipe().atomic().query(&mut client).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn pipeline_of_100000_commands_is_executed() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let mut pipeline = pipe();
    for number in 0..100_000_usize {
        pipeline
            .cmd("SET")
            .arg(format!("key:{number}"))
            .arg(number)
            .ignore();
    }
    pipeline.query::<()>(&mut client).unwrap();
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 100_000);
    let mut pipeline = pipe();
    for number in (0..100_000_usize).rev() {
        pipeline.get(format!("key:{number}"));
    }
    let found: Vec<usize> = pipeline.query(&mut client).unwrap();
    assert!(found.into_iter().eq((0..100_000).rev()));
}

#[test]
fn atomic_pipeline_runs_on_one_node_or_is_refused_with_crossnode() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let answer: (i64, i64) = pipe()
        .atomic()
        .set("{t}a", 1)
        .ignore()
        .incr("{t}a", 1)
        .incr("{t}b", 5)
        .query(&mut client)
        .unwrap();
    assert_eq!(answer, (2, 5));

    let apart = pipe()
        .atomic()
        .incr("a", 1)
        .incr("b", 1)
        .incr("c", 1)
        .incr("d", 1)
        .query::<Value>(&mut client);
    assert_eq!(kind(apart), ErrorKind::CrossNode);
    let keyless = pipe()
        .atomic()
        .cmd("ECHO")
        .arg("x")
        .query::<Value>(&mut client);
    assert_eq!(kind(keyless), ErrorKind::Unroutable);
    assert_eq!(
        cmd("DBSIZE").query::<usize>(&mut client).unwrap(),
        2,
        "nothing of the refused ones was sent"
    );
}

#[test]
fn atomic_pipeline_error_names_the_failed_command() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    // The server refuses an option that only it can know.
    let error = pipe()
        .atomic()
        .set("{t}a", 1)
        .cmd("EVAL")
        .arg("return 1")
        .arg(1)
        .arg("{t}a")
        .cmd("OBJECT")
        .arg("FREQ")
        .arg("{t}a")
        .query::<Value>(&mut client)
        .unwrap_err();
    assert!(error.to_string().contains("LFU"), "{error}");
}

#[cfg(feature = "script")]
#[test]
fn script_is_loaded_on_every_node_and_runs_where_its_keys_live() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for key in names(20) {
        let value: i64 = script.key(&key).arg(3).invoke(&mut client).unwrap();
        assert_eq!(value, 3);
    }
    let exists: Vec<bool> = cmd("SCRIPT")
        .arg("EXISTS")
        .arg(script.get_hash())
        .query(&mut client)
        .unwrap();
    assert_eq!(exists, [true]);
    let two = script
        .key("a")
        .key("b")
        .key("c")
        .key("d")
        .arg(1)
        .invoke::<i64>(&mut client);
    assert_eq!(kind(two), ErrorKind::CrossNode);
    cmd("SCRIPT").arg("FLUSH").exec(&mut client).unwrap();
    let value: i64 = script.key("key:1").arg(1).invoke(&mut client).unwrap();
    assert_eq!(value, 4, "loaded again after a flush");
}

#[test]
fn scan_and_scan_match_visit_all_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let keys: BTreeSet<String> = names(1_000).into_iter().collect();
    for key in &keys {
        let _: () = client.set(key, 1).unwrap();
    }
    let _: () = client.hset_multiple("hash", &[("f", 1), ("g", 2)]).unwrap();
    let all: BTreeSet<String> = client
        .scan_match("key:*")
        .unwrap()
        .collect::<RedisResult<_>>()
        .unwrap();
    assert_eq!(all, keys);
    let fields: HashMap<String, i64> = client
        .hscan::<_, (String, i64)>("hash")
        .unwrap()
        .collect::<RedisResult<_>>()
        .unwrap();
    assert_eq!(fields.len(), 2);
    let listed: BTreeSet<String> = client.keys("key:*").unwrap();
    assert_eq!(listed, keys);
}

#[test]
fn scan_all_can_be_interrupted_and_resumed() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    let keys: BTreeSet<Vec<u8>> = names(500).into_iter().map(String::into_bytes).collect();
    for key in &keys {
        let _: () = client.set(key, 1).unwrap();
    }
    let _: () = client.sadd("a set", 1).unwrap();
    let mut found = BTreeSet::new();
    let mut scan = client.scan_all().with_type("string").with_count(20);
    found.extend(scan.by_ref().take(170).map(Result::unwrap));
    let position = scan.position().to_string();
    drop(scan);
    let rest = client
        .resume_scan(position.parse().unwrap())
        .unwrap()
        .with_type("string");
    found.extend(rest.map(Result::unwrap));
    assert_eq!(found, keys);

    let mut other = ShardedClient::open(servers.urls()).unwrap();
    assert!(
        other.resume_scan(position.parse().unwrap()).is_err(),
        "other names, another topology"
    );
    assert!(other.check_connection());
}

#[test]
fn ping_randomkey_dbsize_and_flushall_give_one_reply_of_all_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    assert_eq!(cmd("PING").query::<String>(&mut client).unwrap(), "PONG");
    assert_eq!(
        cmd("RANDOMKEY")
            .query::<Option<String>>(&mut client)
            .unwrap(),
        None
    );
    let _: () = client.set("only", 1).unwrap();
    assert_eq!(
        cmd("RANDOMKEY")
            .query::<Option<String>>(&mut client)
            .unwrap()
            .as_deref(),
        Some("only")
    );
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 1);
    let _: () = cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory-samples")
        .arg(7)
        .query(&mut client)
        .unwrap();
    let set: HashMap<String, String> = cmd("CONFIG")
        .arg("GET")
        .arg("maxmemory-samples")
        .query(&mut client)
        .unwrap();
    assert_eq!(set["maxmemory-samples"], "7");
    let info: redis::InfoDict = cmd("INFO").arg("server").query(&mut client).unwrap();
    assert_eq!(
        info.get::<String>("redis_mode").as_deref(),
        Some("standalone")
    );
    assert_eq!(
        cmd("WAIT")
            .arg(0)
            .arg(10)
            .query::<i64>(&mut client)
            .unwrap(),
        0
    );
    cmd("FLUSHALL").exec(&mut client).unwrap();
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 0);
}

#[test]
fn keys_and_values_may_be_arbitrary_bytes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let keys: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\r\n".to_vec(),
        b"\x00\xff{".to_vec(),
        b"{}".to_vec(),
        b"*3\r\n$3\r\nSET".to_vec(),
        (0..=255).collect(),
        vec![b'k'; 100_000],
    ];
    let pairs: Vec<(&Vec<u8>, &Vec<u8>)> = keys.iter().zip(&keys).collect();
    let _: () = client.mset(&pairs).unwrap();
    let found: Vec<Vec<u8>> = client.mget(&keys).unwrap();
    assert_eq!(found, keys);
    for key in &keys {
        assert_eq!(client.get::<_, Vec<u8>>(key).unwrap(), *key);
    }
}

#[test]
fn values_of_16_mib_are_stored_and_read() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    let big: Vec<u8> = (0..16 << 20).map(|number| (number % 251) as u8).collect();
    for key in names(3) {
        let _: () = client.set(&key, &big).unwrap();
    }
    let found: Vec<Vec<u8>> = client.mget(names(3)).unwrap();
    assert!(found.iter().all(|value| *value == big));
    let found: (Vec<u8>, Vec<u8>) = pipe().get("key:0").get("key:1").query(&mut client).unwrap();
    assert!(found.0 == big && found.1 == big);
}

#[test]
fn resp3_and_another_database_work() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let urls = servers
        .urls()
        .into_iter()
        .map(|url| format!("{}/2?protocol=resp3", url.trim_end_matches('/')));
    let mut client = ShardedClient::open(urls).unwrap();
    assert_eq!(client.get_db(), 2);
    let _: () = client.mset(&[("a", 1), ("b", 2), ("c", 3)]).unwrap();
    let found: Vec<Option<i64>> = client.mget(&["c", "x", "a"]).unwrap();
    assert_eq!(found, [Some(3), None, Some(1)]);
    let _: () = client.hset("h", "f", "v").unwrap();
    let hash: HashMap<String, String> = client.hgetall("h").unwrap();
    assert_eq!(hash["f"], "v");
    let set: HashMap<String, String> = cmd("CONFIG")
        .arg("GET")
        .arg("maxmemory")
        .query(&mut client)
        .unwrap();
    assert_eq!(set["maxmemory"], "0");
    assert_eq!(cmd("DBSIZE").query::<usize>(&mut client).unwrap(), 4);
    let keys = client.scan_all().count();
    assert_eq!(keys, 4);
}

#[test]
fn unix_socket_nodes_work() {
    let Some(servers) = Servers::builder().unix().start(3) else {
        return;
    };
    let mut client = client(&servers);
    let _: () = client.mset(&[("a", 1), ("b", 2), ("c", 3)]).unwrap();
    let found: Vec<Option<i64>> = client.mget(&["c", "x", "a"]).unwrap();
    assert_eq!(found, [Some(3), None, Some(1)]);
}

#[test]
fn explain_shows_the_plan_without_sending() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    let mut mget = cmd("MGET");
    mget.arg(names(9));
    let explanation = client.explain(&mget).unwrap();
    let table = explanation.to_string();
    assert!(
        table.starts_with("MGET: split over 3 nodes, answers in the order of the keys\n"),
        "{table}"
    );
    let shown: usize = explanation.parts().iter().map(|(_, keys)| keys.len()).sum();
    assert_eq!(shown, 9);
    let one = client.explain(cmd("GET").arg("key:1")).unwrap().to_string();
    assert!(one.starts_with("GET: one node\n"), "{one}");
    assert_eq!(
        client.explain(&cmd("NOSUCH")).unwrap_err().kind(),
        ErrorKind::Unroutable
    );
}
