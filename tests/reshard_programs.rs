//! What programs notice while their keys move: a test for each row of the table in `docs/resharding.md`, with a mover that is
//! held while the program acts.
#![cfg(all(feature = "tokio-comp", feature = "testing"))]

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::ops::reshard::{ReshardOptions, ReshardRefusalKind};
use redis_sharding::{ErrorKind, Event, ShardedClient, Subscriber, aio};

use self::support::all_clients::{AnyClient, KINDS, Kind};
use self::support::held_reshard::{A_WHILE, Fleet, over, wait_until_followed};
use self::support::local_proxy::{LocalProxy, RawClient};

/// All units of a pair are closed, and none has been copied.
const CLOSED: &str = "copy node-0 node-2";

/// The target has published them, and the source has not.
const AT_TARGET: &str = "publish-source node-0 node-2";

/// Those of the first source have moved; those of the second are not closed yet.
const BETWEEN: &str = "close node-1 node-2";

const CLOSED_LATER: &str = "copy node-1 node-2";

/// The keys have moved; the record says so at no node yet.
const BEFORE_END: &str = "end node-0";

fn text(value: &str) -> Value {
    Value::BulkString(value.into())
}

/// True for an error that says that nothing was sent and that the call may be repeated.
fn is_moving(error: &redis::RedisError) -> bool {
    ErrorKind::of(error) == ErrorKind::Moving || error.code() == Some("MOVING")
}

/// Waits until this many clients of a server are blocked.
fn wait_until_blocked(fleet: &Fleet, server: usize, count: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    let line = format!("blocked_clients:{count}\r\n");
    loop {
        let info: String = fleet.ask_server(server, &["INFO", "clients"]);
        if info.contains(&line) {
            return;
        }
        assert!(Instant::now() < end, "{info}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn request_for_a_closed_unit_waits_and_goes_on_at_the_target() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    let stays = fleet.key("stays", 0, 0);
    for kind in KINDS {
        let () = fleet
            .clients
            .of(kind)
            .ask(&["SET", &of(kind), "7"])
            .unwrap();
    }
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    // Other keys of the source are read and written.
    for mut client in fleet.clients.each() {
        let () = client.ask(&["SET", &stays, "here"]).unwrap();
        assert_eq!(client.ask::<String>(&["GET", &stays]).unwrap(), "here");
    }
    let numbers = fleet.while_held(&mover, |client, kind| {
        client.ask::<i64>(&["INCR", &of(kind)])
    });
    assert_eq!(numbers.map(Result::unwrap), [8; 3]);
    mover.finish();
    for kind in KINDS {
        assert_eq!(fleet.ask_server::<i64>(2, &["GET", &of(kind)]), 8);
        assert_eq!(fleet.ask_server::<i64>(0, &["EXISTS", &of(kind)]), 0);
    }
}

#[test]
fn read_of_a_closed_unit_waits_as_well() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let key = fleet.key("key", 0, 2);
    let () = fleet
        .clients
        .of(Kind::Async)
        .ask(&["SET", &key, "old"])
        .unwrap();
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let found = fleet.while_held(&mover, |client, _| client.ask::<String>(&["GET", &key]));
    assert_eq!(found.map(Result::unwrap), ["old"; 3]);
    mover.finish();
}

#[test]
fn request_for_a_closed_unit_whose_time_is_over_was_not_sent_and_may_be_repeated() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let short = Duration::from_millis(300);
    let key = fleet.key("key", 0, 2);
    let () = fleet
        .clients
        .of(Kind::Blocking)
        .ask(&["SET", &key, "old"])
        .unwrap();
    let proxy = LocalProxy::open(over(&fleet.servers, 2).agreed().response_timeout(short));
    let mut program = proxy.talk();
    assert_eq!(program.ask(&format!("GET {key}")), "old");
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);

    let mut set = cmd("SET");
    set.arg(&key).arg("new");
    let clients = &fleet.clients;
    let blocking = clients.blocking.with_timeout(short).execute(&set);
    let handle = clients.tokio.with_timeout(short);
    let on_tokio = clients
        .runtime
        .block_on(async { handle.execute(&set).await });
    for error in [blocking.unwrap_err(), on_tokio.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Moving, "{error}");
        assert!(error.is_retryable(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&key) && text.contains("on the way"), "{text}");
    }
    let reply = program.ask(&format!("SET {key} new"));
    assert!(reply.starts_with("-MOVING "), "{reply}");
    assert!(reply.contains("on the way"), "{reply}");
    mover.finish();
    wait_until_followed(&fleet.clients, &fleet.to);
    for mut client in fleet.clients.each() {
        assert_eq!(client.ask::<String>(&["GET", &key]).unwrap(), "old");
    }
    assert_eq!(program.ask(&format!("SET {key} new")), "+OK");
}

#[test]
fn commands_over_several_keys_find_them_on_both_sides() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let (moved, later, stays) = (
        fleet.key("m", 0, 2),
        fleet.key("l", 1, 2),
        fleet.key("s", 0, 0),
    );
    let keys = [&*moved, &later, &stays];
    let set = |client: &mut AnyClient, value: &str| {
        let pairs = keys.map(|key| [key, value]).concat();
        client.ask::<()>(&[&["MSET"], &pairs[..]].concat())
    };
    let get = |client: &mut AnyClient| -> RedisResult<Vec<Option<String>>> {
        client.ask(&[&["MGET"], &keys[..]].concat())
    };
    let delete = |client: &mut AnyClient| client.ask::<i64>(&[&["DEL"], &keys[..]].concat());
    let all = |value: &str| vec![Some(value.to_owned()); 3];
    set(&mut fleet.clients.of(Kind::Blocking), "before").unwrap();

    let mover = fleet.start_mover(&[AT_TARGET, BETWEEN, CLOSED_LATER]);
    for (stop, before) in [(AT_TARGET, "before"), (BETWEEN, "proxy")] {
        mover.wait_at(stop);
        let mut value = before.to_owned();
        for (mut client, name) in fleet
            .clients
            .each()
            .into_iter()
            .zip(["sync", "tokio", "proxy"])
        {
            assert_eq!(get(&mut client).unwrap(), all(&value), "{stop}");
            set(&mut client, "x").unwrap();
            assert_eq!(delete(&mut client).unwrap(), 3, "{stop}");
            assert_eq!(get(&mut client).unwrap(), [const { None }; 3]);
            set(&mut client, name).unwrap();
            value = name.to_owned();
        }
        mover.go_on();
    }
    mover.wait_at(CLOSED_LATER);
    // One of the keys is closed: what is split waits for its part.
    let found = fleet.while_held(&mover, |client, _| get(client));
    assert_eq!(found.map(Result::unwrap), [(); 3].map(|()| all("proxy")));
    mover.finish();
    assert_eq!(delete(&mut fleet.clients.of(Kind::Proxy)).unwrap(), 3);
    for server in 0..3 {
        assert_eq!(fleet.ask_server::<i64>(server, &["DBSIZE"]), 0);
    }
}

#[test]
fn commands_over_several_keys_wait_for_those_that_are_closed() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| {
        let name = format!("{kind:?}");
        [(0, 2), (1, 2), (0, 0)].map(|(from, to)| fleet.key(&name, from, to))
    };
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let set = fleet.while_held(&mover, |client, kind| {
        let [moves, later, stays] = of(kind);
        let () = client.ask(&["MSET", &moves, "1", &later, "2", &stays, "3"])?;
        let found: Vec<String> = client.ask(&["MGET", &stays, &later, &moves])?;
        let deleted: i64 = client.ask(&["DEL", &moves, &later])?;
        RedisResult::Ok((found.concat(), deleted))
    });
    assert_eq!(
        set.map(Result::unwrap),
        [(); 3].map(|()| ("321".to_owned(), 2))
    );
    mover.finish();
}

#[test]
fn pipeline_keeps_the_order_of_what_is_done_to_a_key() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| {
        let name = format!("{kind:?}");
        [(0, 2), (1, 2), (0, 0)].map(|(from, to)| fleet.key(&name, from, to))
    };
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let found = fleet.while_held(&mover, |client, kind| {
        let [moves, later, stays] = of(kind);
        let mut pipeline = pipe();
        for number in 0..20 {
            pipeline.cmd("RPUSH").arg(&moves).arg(number);
            pipeline.cmd("RPUSH").arg(&stays).arg(number);
            pipeline.cmd("RPUSH").arg(&later).arg(number);
        }
        pipeline.cmd("EXISTS").arg(&moves).arg(&later).arg(&stays);
        pipeline.cmd("DEL").arg(&moves).arg(&stays);
        pipeline.cmd("LLEN").arg(&moves);
        client.pipeline(&pipeline)
    });
    let lengths = (1..=20).flat_map(|length| [length; 3]).map(Value::Int);
    let expected: Vec<Value> = lengths.chain([3, 2, 0].map(Value::Int)).collect();
    for found in found {
        assert_eq!(found.unwrap(), expected);
    }
    mover.finish();
    for kind in KINDS {
        let [_, later, _] = of(kind);
        let list: Vec<usize> = fleet.ask_server(2, &["LRANGE", &later, "0", "-1"]);
        assert_eq!(list, (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn transaction_waits_as_a_whole_and_runs_at_the_target() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let tags = KINDS.map(|kind| (kind, fleet.key(&format!("{kind:?}"), 0, 2)));
    let tag = |kind: Kind| tags.iter().find(|(of, _)| *of == kind).unwrap().1.clone();
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let found = fleet.while_held(&mover, |client, kind| {
        let mut pipeline = pipe();
        pipeline.atomic();
        pipeline
            .cmd("SET")
            .arg(format!("{{{}}}:a", tag(kind)))
            .arg("1");
        pipeline.cmd("INCR").arg(format!("{{{}}}:a", tag(kind)));
        pipeline
            .cmd("RPUSH")
            .arg(format!("{{{}}}:b", tag(kind)))
            .arg("x");
        client.pipeline(&pipeline)
    });
    for found in found {
        assert_eq!(found.unwrap(), [Value::Okay, Value::Int(2), Value::Int(1)]);
    }
    mover.finish();
    for kind in KINDS {
        let key = format!("{{{}}}:a", tag(kind));
        assert_eq!(fleet.ask_server::<String>(2, &["GET", &key]), "2");
    }
}

#[test]
fn transaction_whose_keys_are_no_longer_on_one_node_is_refused_before_it_is_sent() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let (moves, stays) = (fleet.key("m", 0, 2), fleet.key("s", 0, 0));
    let mut both = pipe();
    both.atomic();
    both.cmd("SET").arg(&moves).arg("1");
    both.cmd("SET").arg(&stays).arg("1");
    // They share a node before.
    for mut client in fleet.clients.each() {
        client.pipeline(&both).unwrap();
    }
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let errors = fleet.while_held(&mover, |client, _| client.query::<Value>(&both));
    for (error, kind) in errors.into_iter().zip(KINDS) {
        let error = error.unwrap_err();
        assert!(is_moving(&error), "{kind:?}: {error:?} {:?}", error.code());
    }
    mover.finish();
}

#[test]
fn exec_after_the_move_of_a_watched_key_does_not_apply_an_old_view() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    let mut clients = fleet.clients.each();
    for (client, kind) in clients.iter_mut().zip(KINDS) {
        let () = client.ask(&["SET", &of(kind), "10"]).unwrap();
        let () = client.ask(&["WATCH", &of(kind)]).unwrap();
        assert_eq!(client.ask::<i64>(&["GET", &of(kind)]).unwrap(), 10);
    }
    fleet.start_mover(&[]).finish();
    wait_until_followed(&fleet.clients, &fleet.to);
    for (client, kind) in clients.iter_mut().zip(KINDS) {
        let mut other = fleet.clients.of(Kind::Blocking);
        let () = other.ask(&["SET", &of(kind), "20"]).unwrap();
        let mut old_view = pipe();
        old_view.atomic().cmd("SET").arg(of(kind)).arg(11);
        let applied: RedisResult<Value> = client.query(&old_view);
        match &applied {
            Ok(reply) => assert_eq!(*reply, Value::Nil, "{kind:?}"),
            Err(error) => println!("{kind:?}: {error} {:?}", ErrorKind::of(error)),
        }
        assert_eq!(other.ask::<i64>(&["GET", &of(kind)]).unwrap(), 20);
        // The next attempt succeeds.
        let () = client.ask(&["WATCH", &of(kind)]).unwrap();
        let applied: RedisResult<Value> = client.query(&old_view);
        assert_eq!(
            applied.unwrap(),
            Value::Array(vec![Value::Okay]),
            "{kind:?}"
        );
        assert_eq!(other.ask::<i64>(&["GET", &of(kind)]).unwrap(), 11);
    }
}

#[test]
fn exec_of_keys_that_are_watched_while_others_move_does_not_apply_an_old_view() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 1, 2);
    let mover = fleet.start_mover(&[AT_TARGET]);
    mover.wait_at(AT_TARGET);
    let mut clients = fleet.clients.each();
    for (client, kind) in clients.iter_mut().zip(KINDS) {
        let () = client.ask(&["SET", &of(kind), "10"]).unwrap();
        let () = client.ask(&["WATCH", &of(kind)]).unwrap();
        assert_eq!(client.ask::<i64>(&["GET", &of(kind)]).unwrap(), 10);
    }
    mover.finish();
    for (client, kind) in clients.iter_mut().zip(KINDS) {
        let mut other = fleet.clients.of(Kind::Async);
        let () = other.ask(&["SET", &of(kind), "20"]).unwrap();
        let mut old_view = pipe();
        old_view.atomic().cmd("SET").arg(of(kind)).arg(11);
        let applied: RedisResult<Value> = client.query(&old_view);
        match &applied {
            Ok(reply) => assert_eq!(*reply, Value::Nil, "{kind:?}"),
            Err(error) => println!("{kind:?}: {error} {:?}", ErrorKind::of(error)),
        }
        assert_eq!(other.ask::<i64>(&["GET", &of(kind)]).unwrap(), 20);
    }
}

#[test]
fn optimistic_transactions_lose_no_update_while_their_key_moves() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let key = fleet.key("counter", 0, 2);
    let (blocking, other) = (&fleet.clients.blocking, fleet.clients.blocking.clone());
    let increment = |client: &ShardedClient| -> RedisResult<i64> {
        client.transaction(&key, |connection, pipeline| {
            let number: Option<i64> = cmd("GET").arg(&key).query(connection)?;
            let next = number.unwrap_or(0) + 1;
            pipeline.cmd("SET").arg(&key).arg(next).ignore();
            let applied: Option<()> = pipeline.query(connection)?;
            Ok(applied.map(|()| next))
        })
    };
    let count = |client: &ShardedClient| {
        let mut done = 0;
        while done < 100 {
            match increment(client) {
                Ok(_) => done += 1,
                Err(error) => assert!(
                    redis_sharding::Error::of(&error)
                        .is_none_or(|error| { error.kind() != ErrorKind::Unknown }),
                    "{error}"
                ),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| count(blocking));
        scope.spawn(|| count(&other));
        fleet.start_mover(&[]).finish();
    });
    let total: i64 = fleet.clients.of(Kind::Proxy).ask(&["GET", &key]).unwrap();
    assert_eq!(total, 200);
}

#[test]
fn first_request_of_a_client_may_be_for_a_connection_of_its_own() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let describe = || over(&fleet.servers, 2).agreed();
    let ping = cmd("PING");
    let mut connection = describe().build().unwrap().dedicated("key").unwrap();
    let _: String = ping.query(&mut connection).unwrap();
    let node = describe().build().unwrap().node("node-0").unwrap();
    let _: String = ping.query(&mut node.dedicated().unwrap()).unwrap();
    let mut client = describe().build().unwrap();
    let () = cmd("WATCH").arg("key").query(&mut client).unwrap();
    fleet.clients.runtime.block_on(async {
        let client = describe().build_async().unwrap();
        let mut connection = client.dedicated("key").await.unwrap();
        let _: String = ping.query_async(&mut connection).await.unwrap();
    });
    let proxy = LocalProxy::open(describe());
    let mut program = proxy.talk();
    assert_eq!(program.ask("WATCH key"), "+OK");
    assert_eq!(program.ask("BLPOP list 0.1"), "*-1");
}

#[test]
fn dedicated_connection_goes_on_for_keys_that_stay_and_is_refused_for_those_that_have_moved() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let (moves, stays) = (fleet.key("m", 0, 2), fleet.key("s", 0, 0));
    let clients = &fleet.clients;
    let mut blocking = clients.blocking.dedicated(&moves).unwrap();
    let mut on_tokio = clients
        .runtime
        .block_on(clients.tokio.dedicated(&moves))
        .unwrap();
    let set = |key: &str, value: &str| {
        let mut set = cmd("SET");
        set.arg(key).arg(value);
        set
    };
    let () = set(&moves, "1").query(&mut blocking).unwrap();
    let () = clients
        .runtime
        .block_on(set(&moves, "2").query_async(&mut on_tokio))
        .unwrap();
    let mover = fleet.start_mover(&[CLOSED, AT_TARGET]);
    mover.wait_at(CLOSED);
    mover.go_on();
    mover.wait_at(AT_TARGET);
    let results: [RedisResult<()>; 2] = [
        set(&moves, "3").query(&mut blocking),
        clients
            .runtime
            .block_on(set(&moves, "4").query_async(&mut on_tokio)),
    ];
    for result in results {
        let error = result.unwrap_err();
        println!("{error}: {:?}", ErrorKind::of(&error));
    }
    mover.finish();
    let mut client = clients.of(Kind::Proxy);
    assert_eq!(client.ask::<String>(&["GET", &moves]).unwrap(), "2");
    // A new one is at the target.
    let mut blocking = clients.blocking.dedicated(&moves).unwrap();
    let () = set(&moves, "5").query(&mut blocking).unwrap();
    assert_eq!(fleet.ask_server::<String>(2, &["GET", &moves]), "5");
    let mut staying = clients.blocking.dedicated(&stays).unwrap();
    let () = set(&stays, "6").query(&mut staying).unwrap();
    assert_eq!(fleet.ask_server::<String>(0, &["GET", &stays]), "6");
}

#[test]
fn command_that_blocks_at_the_source_goes_on_at_the_target() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    thread::scope(|scope| {
        let threads = KINDS.map(|kind| {
            let (mut client, key) = (fleet.clients.of(kind), of(kind));
            scope.spawn(move || client.ask::<Option<(String, String)>>(&["BLPOP", &key, "60"]))
        });
        wait_until_blocked(&fleet, 0, 3);
        let mover = fleet.start_mover(&[CLOSED]);
        mover.wait_at(CLOSED);
        assert!(threads.iter().all(|thread| !thread.is_finished()));
        mover.finish();
        wait_until_blocked(&fleet, 2, 3);
        for (kind, thread) in KINDS.into_iter().zip(threads) {
            let mut client = fleet.clients.of(Kind::Blocking);
            let _: i64 = client.ask(&["RPUSH", &of(kind), "element"]).unwrap();
            let popped = thread.join().unwrap().unwrap();
            assert_eq!(popped, Some((of(kind), "element".into())), "{kind:?}");
        }
    });
}

#[test]
fn element_that_is_pushed_while_the_key_is_closed_reaches_the_command_that_blocks() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    thread::scope(|scope| {
        let threads = KINDS.map(|kind| {
            let (mut client, key) = (fleet.clients.of(kind), of(kind));
            scope.spawn(move || client.ask::<Option<(String, String)>>(&["BLPOP", &key, "60"]))
        });
        wait_until_blocked(&fleet, 0, 3);
        let mover = fleet.start_mover(&[CLOSED]);
        mover.wait_at(CLOSED);
        let pushed = fleet.while_held(&mover, |client, kind| {
            client.ask::<i64>(&["RPUSH", &of(kind), "element"])
        });
        assert_eq!(pushed.map(Result::unwrap), [1; 3]);
        for (kind, thread) in KINDS.into_iter().zip(threads) {
            let popped = thread.join().unwrap().unwrap();
            assert_eq!(popped, Some((of(kind), "element".into())), "{kind:?}");
        }
        mover.finish();
    });
}

#[test]
fn command_that_blocks_ends_within_its_own_time() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    let time = Duration::from_secs(4);
    thread::scope(|scope| {
        let threads = KINDS.map(|kind| {
            let (mut client, key) = (fleet.clients.of(kind), of(kind));
            scope.spawn(move || {
                let begun = Instant::now();
                let popped: RedisResult<Value> = client.ask(&["BLPOP", &key, "4"]);
                (popped, begun.elapsed())
            })
        });
        wait_until_blocked(&fleet, 0, 3);
        fleet.start_mover(&[]).finish();
        for thread in threads {
            let (popped, took) = thread.join().unwrap();
            assert_eq!(popped.unwrap(), Value::Nil);
            // Servers look at timeouts ten times in a second.
            assert!(
                time <= took && took < time + Duration::from_secs(3),
                "{took:?}"
            );
        }
    });
}

#[test]
fn scripts_and_functions_wait_and_run_at_the_target() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let of = |kind: Kind| fleet.key(&format!("{kind:?}"), 0, 2);
    let library = "#!lua name=counters\n\
                   redis.register_function('add', function(keys, args)\n\
                   return redis.call('INCRBY', keys[1], args[1]) end)";
    let mut loader = fleet.clients.of(Kind::Blocking);
    let loaded: String = loader.ask(&["FUNCTION", "LOAD", library]).unwrap();
    assert_eq!(loaded, "counters");
    let code = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
    let digest: String = loader.ask(&["SCRIPT", "LOAD", code]).unwrap();
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let numbers = fleet.while_held(&mover, |client, kind| {
        let (key, number) = (of(kind), |words: &[&str], client: &mut AnyClient| {
            client.ask::<i64>(words)
        });
        let first = number(&["EVAL", code, "1", &key, "1"], client)?;
        let second = number(&["FCALL", "add", "1", &key, "1"], client)?;
        let third = number(&["EVALSHA", &digest, "1", &key, "1"], client)?;
        RedisResult::Ok([first, second, third])
    });
    assert_eq!(numbers.map(Result::unwrap), [[1, 2, 3]; 3]);
    mover.finish();
    for kind in KINDS {
        assert_eq!(fleet.ask_server::<i64>(2, &["GET", &of(kind)]), 3);
    }
}

/// One step of SCAN.
fn scan(client: &mut AnyClient, cursor: &str, found: &mut BTreeSet<String>) -> RedisResult<String> {
    let (next, keys): (String, Vec<String>) = client.ask(&["SCAN", cursor, "COUNT", "10"])?;
    found.extend(keys);
    Ok(next)
}

fn fill(fleet: &Fleet) -> BTreeSet<String> {
    let all: BTreeSet<String> = (0..600).map(|number| format!("key:{number}")).collect();
    let mut pipeline = pipe();
    for key in &all {
        pipeline.cmd("SET").arg(key).arg("value").ignore();
    }
    let _: Vec<Value> = fleet
        .clients
        .of(Kind::Blocking)
        .pipeline(&pipeline)
        .unwrap();
    all
}

#[test]
fn scan_that_begins_before_the_reshard_and_ends_in_it_misses_no_key() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let all = fill(&fleet);
    let mut scans = fleet
        .clients
        .each()
        .map(|client| (client, "0".to_owned(), BTreeSet::new()));
    let mut go_on = |steps: usize| {
        for (client, cursor, found) in &mut scans {
            for _ in 0..steps {
                *cursor = scan(client, cursor, found).unwrap();
                if cursor == "0" {
                    break;
                }
            }
        }
    };
    go_on(12);
    let stops = [CLOSED, AT_TARGET, BETWEEN, CLOSED_LATER, BEFORE_END];
    let mover = fleet.start_mover(&stops);
    for (stop, steps) in stops.into_iter().zip([3, 20, 3, 3, 1000]) {
        mover.wait_at(stop);
        go_on(steps);
        mover.go_on();
    }
    for (_, cursor, found) in &scans {
        assert_eq!(
            (&**cursor, all.difference(found).collect::<Vec<_>>()),
            ("0", vec![])
        );
    }
    mover.finish();
}

#[test]
fn scan_that_ends_after_the_reshard_misses_no_key() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let all = fill(&fleet);
    let mut scans = fleet
        .clients
        .each()
        .map(|client| (client, "0".to_owned(), BTreeSet::new()));
    for (client, cursor, found) in &mut scans {
        for _ in 0..12 {
            *cursor = scan(client, cursor, found).unwrap();
        }
    }
    fleet.start_mover(&[]).finish();
    wait_until_followed(&fleet.clients, &fleet.to);
    for (client, cursor, found) in &mut scans {
        while cursor != "0" {
            *cursor = scan(client, cursor, found).unwrap();
        }
        assert_eq!(
            all.difference(found).collect::<Vec<_>>(),
            Vec::<&String>::new()
        );
    }
}

#[test]
fn scan_all_misses_no_key_while_keys_move() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let all = fill(&fleet);
    let mut iterator = fleet.clients.blocking.scan_all();
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut take = |count: usize| {
        let keys = iterator
            .by_ref()
            .take(count)
            .map(|key| String::from_utf8(key.unwrap()).unwrap());
        found.extend(keys);
    };
    take(100);
    let stops = [CLOSED, AT_TARGET, CLOSED_LATER, BEFORE_END];
    let mover = fleet.start_mover(&stops);
    for (stop, count) in stops.into_iter().zip([100, 300, 30, 10_000]) {
        mover.wait_at(stop);
        take(count);
        mover.go_on();
    }
    mover.finish();
    assert_eq!(
        all.difference(&found).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}

#[test]
fn keys_finds_every_key_and_dbsize_is_exact_again_at_the_end() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let all = fill(&fleet);
    let stops = [CLOSED, AT_TARGET, BETWEEN, BEFORE_END];
    let mover = fleet.start_mover(&stops);
    for stop in stops {
        mover.wait_at(stop);
        for mut client in fleet.clients.each() {
            let found: Vec<String> = client.ask(&["KEYS", "*"]).unwrap();
            assert_eq!(
                found.iter().cloned().collect::<BTreeSet<_>>(),
                all,
                "{stop}"
            );
            let count: usize = client.ask(&["DBSIZE"]).unwrap();
            // Those of a batch may be counted at both nodes until they are deleted at the source.
            assert!((600..1200).contains(&count), "{stop}: {count}");
        }
        mover.go_on();
    }
    mover.finish();
    wait_until_followed(&fleet.clients, &fleet.to);
    for mut client in fleet.clients.each() {
        assert_eq!(client.ask::<usize>(&["DBSIZE"]).unwrap(), 600);
        assert_eq!(
            client.ask::<Vec<String>>(&["KEYS", "*"]).unwrap().len(),
            600
        );
    }
}

#[test]
fn flushall_waits_while_units_are_closed_and_leaves_no_key() {
    for kind in KINDS {
        let Some(fleet) = Fleet::start() else {
            return;
        };
        fill(&fleet);
        let mover = fleet.start_mover(&[CLOSED, AT_TARGET]);
        mover.wait_at(CLOSED);
        thread::scope(|scope| {
            let mut client = fleet.clients.of(kind);
            let flush = scope.spawn(move || client.ask::<String>(&["FLUSHALL"]));
            thread::sleep(A_WHILE);
            assert!(!flush.is_finished(), "{kind:?}");
            let key = fleet.key("key", 0, 2);
            assert_eq!(fleet.ask_server::<i64>(0, &["EXISTS", &key]), 1);
            mover.go_on();
            mover.wait_at(AT_TARGET);
            flush.join().unwrap().unwrap();
            let counts = [0, 1, 2].map(|server| fleet.ask_server::<i64>(server, &["DBSIZE"]));
            assert_eq!(counts, [0; 3], "{kind:?}");
        });
        // The record is kept: the reshard goes on.
        mover.finish();
        wait_until_followed(&fleet.clients, &fleet.to);
        let mut client = fleet.clients.of(kind);
        assert_eq!(client.ask::<i64>(&["DBSIZE"]).unwrap(), 0);
    }
}

#[test]
fn function_load_waits_while_units_are_closed_and_is_on_all_nodes() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let mover = fleet.start_mover(&[CLOSED]);
    mover.wait_at(CLOSED);
    let loaded = fleet.while_held(&mover, |client, kind| {
        let name = format!("of_{kind:?}").to_lowercase();
        let library = format!(
            "#!lua name={name}\nredis.register_function('{name}', function() return 1 end)"
        );
        client.ask::<String>(&["FUNCTION", "LOAD", &library])
    });
    for (loaded, kind) in loaded.into_iter().zip(KINDS) {
        assert_eq!(loaded.unwrap(), format!("of_{kind:?}").to_lowercase());
    }
    mover.finish();
    for server in 0..3 {
        let libraries: Vec<Value> = fleet.ask_server(server, &["FUNCTION", "LIST"]);
        assert_eq!(libraries.len(), 3, "{server}");
    }
}

fn message(subscriber: &mut Subscriber, payload: &str) {
    loop {
        match subscriber.next_event(Duration::from_secs(20)) {
            Some(Event::Message(message)) if message.payload == payload.as_bytes() => return,
            Some(_) => {}
            None => panic!("no message {payload}"),
        }
    }
}

#[test]
fn subscriptions_go_on() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let channels = [(0, 2), (1, 2), (0, 0)].map(|(from, to)| fleet.key("channel", from, to));
    let mut subscriber = fleet.clients.blocking.subscriber();
    subscriber.subscribe(&channels[..]).unwrap();
    subscriber.ssubscribe(&channels[..]).unwrap();
    subscriber.psubscribe("pattern:*").unwrap();
    let mut program = fleet.clients.proxy.talk();
    program.ask(&format!("SUBSCRIBE {}", channels[0]));
    let mut publishers = fleet.clients.each();
    let mut publish = |subscriber: &mut Subscriber, program: &mut RawClient, when: &str| {
        for (number, client) in publishers.iter_mut().enumerate() {
            for channel in &channels {
                // A message of a sharded channel waits as every command for a key does.
                let is_closed = when == CLOSED && *channel == channels[0];
                let commands = ["PUBLISH", "SPUBLISH"].into_iter();
                for command in commands.take(if is_closed { 1 } else { 2 }) {
                    let payload = format!("{when} {command} {channel} {number}");
                    let _: i64 = client.ask(&[command, channel, &payload]).unwrap();
                    message(subscriber, &payload);
                }
            }
            let payload = format!("{when} pattern {number}");
            let _: i64 = client.ask(&["PUBLISH", "pattern:1", &payload]).unwrap();
            message(subscriber, &payload);
        }
        let payload = format!("{when} PUBLISH {}", channels[0]);
        for number in 0..3 {
            let expected = format!("{payload} {number}");
            loop {
                let heard = program.hear();
                if heard.ends_with(&expected) {
                    break;
                }
            }
        }
    };
    publish(&mut subscriber, &mut program, "before");
    let stops = [CLOSED, BETWEEN];
    let mover = fleet.start_mover(&stops);
    for stop in stops {
        mover.wait_at(stop);
        // Messages are missed until the subscriptions of channels that have moved are made again.
        thread::sleep(A_WHILE);
        publish(&mut subscriber, &mut program, stop);
        mover.go_on();
    }
    mover.finish();
    wait_until_followed(&fleet.clients, &fleet.to);
    thread::sleep(A_WHILE);
    publish(&mut subscriber, &mut program, "after");
}

#[test]
fn clients_that_start_during_and_after_the_reshard_know_it() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let key = fleet.key("key", 0, 2);
    let () = fleet
        .clients
        .of(Kind::Proxy)
        .ask(&["SET", &key, "value"])
        .unwrap();
    let get = |client: &ShardedClient| -> RedisResult<String> {
        cmd("GET").arg(&key).query(&mut client.clone())
    };
    let mover = fleet.start_mover(&[AT_TARGET]);
    mover.wait_at(AT_TARGET);
    // The topology of before leads to that of now.
    let old = over(&fleet.servers, 2).agreed().build().unwrap();
    assert_eq!(get(&old).unwrap(), "value");
    let found = ShardedClient::discover([fleet.servers.url(1)]).unwrap();
    assert_eq!(get(&found).unwrap(), "value");
    mover.finish();
    drop((old, found));

    let late = over(&fleet.servers, 2).agreed().build().unwrap();
    let mut get_key = cmd("GET");
    get_key.arg(&key);
    let error = late.execute(&get_key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    let text = error.to_string();
    for topology in [&fleet.from, &fleet.to] {
        let fingerprint = format!("{:016x}", topology.fingerprint());
        assert!(text.contains(&fingerprint), "{text}: {fingerprint}");
    }
    let seeds = [fleet.servers.url(2)];
    let found = ShardedClient::discover(seeds.clone()).unwrap();
    assert_eq!(found.topology().to_string(), fleet.to.to_string());
    assert_eq!(get(&found).unwrap(), "value");
    let runtime = &fleet.clients.runtime;
    let found = runtime
        .block_on(aio::ShardedClient::discover(seeds))
        .unwrap();
    let mut handle = found.clone();
    let value: RedisResult<String> = runtime.block_on(get_key.query_async(&mut handle));
    assert_eq!(value.unwrap(), "value");
}

#[test]
fn plan_refuses_while_a_client_is_connected_that_follows_no_record() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let mut program = fleet.servers.connection(1);
    let info: String = cmd("CLIENT").arg("INFO").query(&mut program).unwrap();
    let address = info
        .split(' ')
        .find_map(|field| field.strip_prefix("addr="))
        .unwrap();
    let reshard = fleet.reshard(ReshardOptions::new());
    let plan = reshard.plan().unwrap();
    let refusals: Vec<_> = plan
        .refusals
        .iter()
        .map(|refusal| (refusal.kind, &*refusal.node))
        .collect();
    assert_eq!(
        refusals,
        [(ReshardRefusalKind::Clients, "node-1")],
        "{plan}"
    );
    assert!(plan.refusals[0].text.contains(address), "{plan}");
    let error = reshard.run(|_| ()).unwrap_err();
    assert!(error.to_string().contains(address), "{error}");
    // Nothing has begun.
    assert_eq!(
        fleet
            .clients
            .of(Kind::Async)
            .ask::<String>(&["SET", "key", "value"])
            .unwrap(),
        "OK"
    );
    let options = ReshardOptions::new().with_administrator(address);
    let plan = fleet.reshard(options).plan().unwrap();
    assert!(plan.is_possible(), "{plan}");
    drop(program);
}
