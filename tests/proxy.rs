//! The proxy over real servers, told byte by byte what a program would tell one server.
#![cfg(feature = "tokio-comp")]

mod support;

use std::time::{Duration, Instant};

use redis_sharding::ShardedClient;

use support::local_proxy::{LocalProxy, RawClient};
use support::{Servers, builder};

/// Four servers behind a proxy.
fn open() -> Option<(Servers, LocalProxy)> {
    let servers = Servers::start(4)?;
    let door = LocalProxy::open(builder(&servers));
    Some((servers, door))
}

/// Two keys that live apart.
fn apart(door: &LocalProxy) -> (String, String) {
    let topology = door.proxy.topology();
    let owner = |key: &str| topology.locate(key.as_bytes());
    let other = (1..).map(|number| format!("key:{number}"));
    let other = other.into_iter().find(|key| owner(key) != owner("key:0"));
    ("key:0".into(), other.unwrap())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn proxy_replies_come_in_request_order() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    let mut expected = Vec::new();
    for number in 0..200 {
        talker.say(&format!("SET key:{number} {number}"));
        talker.say(&format!("GET key:{number}"));
        talker.say("NOSUCH a");
        talker.say(&format!("MGET key:{number} none key:0"));
        talker.say("PING");
        talker.say(&format!("LPUSH key:{number} x"));
        expected.extend([
            "+OK".to_owned(),
            number.to_string(),
            "-ERR unknown command 'NOSUCH', with args beginning with: 'a'".to_owned(),
            format!("*3 {number} $-1 0"),
            "+PONG".to_owned(),
            "-WRONGTYPE Operation against a key holding the wrong kind of value".to_owned(),
        ]);
    }
    for expected in expected {
        assert_eq!(talker.hear(), expected);
    }
    assert_eq!(talker.ask("DBSIZE"), ":200");
}

#[test]
fn proxy_serves_32_connections_at_a_time_with_their_own_replies() {
    let Some((_servers, door)) = open() else {
        return;
    };
    std::thread::scope(|scope| {
        for number in 0..32 {
            let mut talker = door.talk();
            scope.spawn(move || {
                for turn in 0..50 {
                    let key = format!("key:{number}:{turn}");
                    talker.say(&format!("SET {key} {turn}"));
                    talker.say(&format!("GET {key}"));
                    assert_eq!(
                        (talker.hear(), talker.hear()),
                        ("+OK".into(), turn.to_string())
                    );
                }
            });
        }
    });
}

#[test]
fn proxy_parses_inline_and_multibulk_requests_in_any_pieces() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    talker.write(b"*0\r\n\r\nSET k \"a\\x41 b\"\r\nGET k\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    assert_eq!(
        [talker.hear(), talker.hear(), talker.hear()],
        ["+OK", "aA b", "aA b"]
    );
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\nGET k\r\n" {
        talker.write(&[*byte]);
    }
    assert_eq!([talker.hear(), talker.hear()], ["+OK", "\r\n\r\n"]);
    for (bytes, said) in [
        (
            &b"*x\r\n"[..],
            "-ERR Protocol error: invalid multibulk length",
        ),
        (b"PING\r\n*1\r\n+PING\r\n", "+PONG"),
        (b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length"),
        (
            b"GET \"k\r\n",
            "-ERR Protocol error: unbalanced quotes in request",
        ),
    ] {
        let mut talker = door.talk();
        talker.write(bytes);
        assert_eq!(talker.hear(), said);
        assert!(talker.is_hung_up_on());
    }
}

#[test]
fn proxy_multi_exec_runs_on_one_node_or_not_at_all() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    assert_eq!(talker.ask("EXEC"), "-ERR EXEC without MULTI");
    for (request, reply) in [
        ("MULTI", "+OK"),
        ("SET {t}a 1", "+QUEUED"),
        ("INCR {t}a", "+QUEUED"),
        ("MULTI", "-ERR MULTI calls can not be nested"),
        ("LPUSH {t}a x", "+QUEUED"),
        ("PING", "+QUEUED"),
        (
            "EXEC",
            "*4 +OK :2 -WRONGTYPE Operation against a key holding the wrong kind of value +PONG",
        ),
        ("MULTI", "+OK"),
        ("SET {t}a 5", "+QUEUED"),
        ("DISCARD", "+OK"),
        ("MULTI", "+OK"),
        ("EXEC", "*0"),
        ("GET {t}a", "2"),
        ("MULTI", "+OK"),
        ("SET {t}a 7", "+QUEUED"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        (
            "EXEC",
            "-EXECABORT Transaction discarded because of previous errors.",
        ),
        ("GET {t}a", "2"),
    ] {
        assert_eq!(talker.ask(request), reply, "{request}");
    }
    let (here, there) = apart(&door);
    talker.ask("MULTI");
    talker.ask(&format!("SET {here} 1"));
    assert!(
        talker
            .ask(&format!("SET {there} 1"))
            .starts_with("-CROSSNODE")
    );
    assert!(talker.ask("EXEC").starts_with("-EXECABORT"));
    assert_eq!(talker.ask(&format!("EXISTS {here} {there}")), ":0");
}

#[test]
fn proxy_watch_fails_exec_when_a_watched_key_changes() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    for disturbed in [false, true] {
        assert_eq!(talker.ask("WATCH {t}a {t}b"), "+OK");
        if disturbed {
            other.ask("SET {t}b 1");
        }
        assert_eq!(talker.ask("MULTI"), "+OK");
        assert_eq!(talker.ask("SET {t}a 1"), "+QUEUED");
        let expected = if disturbed { "*-1" } else { "*1 +OK" };
        assert_eq!(talker.ask("EXEC"), expected);
    }
    // UNWATCH and DISCARD forget it.
    for forget in ["UNWATCH", "MULTI DISCARD"] {
        talker.ask("WATCH {t}a");
        other.ask("INCR {t}a");
        for word in forget.split(' ') {
            assert_eq!(talker.ask(word), "+OK");
        }
        talker.ask("MULTI");
        talker.ask("GET {t}b");
        assert_eq!(talker.ask("EXEC"), "*1 1");
    }
    let (here, there) = apart(&door);
    assert!(
        talker
            .ask(&format!("WATCH {here} {there}"))
            .starts_with("-CROSSNODE")
    );
    assert_eq!(talker.ask(&format!("WATCH {here}")), "+OK");
    assert_eq!(talker.ask("MULTI"), "+OK");
    assert!(
        talker
            .ask(&format!("GET {there}"))
            .starts_with("-CROSSNODE")
    );
    assert!(talker.ask("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn proxy_blpop_gets_its_element_and_does_not_delay_other_clients() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut waiter, mut other) = (door.talk(), door.talk());
    waiter.say("SET before 1");
    waiter.say("BLPOP list 0");
    waiter.say("GET before");
    assert_eq!(waiter.hear(), "+OK");
    assert!(waiter.hears_nothing());
    assert_eq!(other.ask("SET x 1"), "+OK");
    assert_eq!(other.ask("RPUSH list element"), ":1");
    assert_eq!([waiter.hear(), waiter.hear()], ["*2 list element", "1"]);
    assert_eq!(waiter.ask("BLPOP list 0.1"), "*-1");
    assert_eq!(waiter.ask("HELLO 3").split(' ').next(), Some("%7"));
    assert_eq!(waiter.ask("BLPOP list 0.1"), "_");
}

#[test]
fn proxy_blpop_of_a_disconnected_client_takes_no_element() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut other = door.talk();
    let mut waiter = door.talk();
    waiter.say("BLPOP list 0");
    until("it waits", || {
        other.ask("INFO clients").contains("blocked_clients:1")
    });
    waiter.hang_up();
    until("it is gone", || {
        other.ask("INFO clients").contains("blocked_clients:0")
    });
    assert_eq!(other.ask("RPUSH list element"), ":1");
    assert_eq!(other.ask("LLEN list"), ":1");
}

#[test]
fn proxy_client_unblock_ends_blpop_with_timeout_or_error() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut waiter, mut other) = (door.talk(), door.talk());
    let id = waiter.ask("CLIENT ID")[1..].to_owned();
    assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}")), ":0");
    for (how, reply) in [
        ("TIMEOUT", "*-1"),
        ("ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK"),
    ] {
        waiter.say("BLPOP list 0");
        until("it can be told", || {
            other.ask(&format!("CLIENT UNBLOCK {id} {how}")) == ":1"
        });
        assert_eq!(waiter.hear(), reply);
        assert_eq!(waiter.ask("PING"), "+PONG");
    }
}

fn subscribe(talker: &mut RawClient, mark: char) {
    talker.say("SUBSCRIBE news sport");
    assert_eq!(talker.hear(), format!("{mark}3 subscribe news :1"));
    assert_eq!(talker.hear(), format!("{mark}3 subscribe sport :2"));
    assert_eq!(
        talker.ask("PSUBSCRIBE n*"),
        format!("{mark}3 psubscribe n* :3")
    );
    assert_eq!(
        talker.ask("SSUBSCRIBE shard"),
        format!("{mark}3 ssubscribe shard :1")
    );
}

#[test]
fn proxy_subscribe_psubscribe_and_ssubscribe_receive_from_all_nodes() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut old, mut new, mut other) = (door.talk(), door.talk(), door.talk());
    subscribe(&mut old, '*');
    new.ask("HELLO 3");
    subscribe(&mut new, '>');
    assert!(old.ask("GET k").starts_with("-ERR Can't execute 'get'"));
    assert_eq!(old.ask("PING"), "*2 pong ");
    assert_eq!(new.ask("PING"), "+PONG");
    assert_eq!(new.ask("SET k v"), "+OK");
    assert_eq!(other.ask("PUBLISH news one"), ":4");
    assert_eq!(other.ask("SPUBLISH shard two"), ":2");
    for (talker, mark) in [(&mut old, '*'), (&mut new, '>')] {
        let mut heard = [talker.hear(), talker.hear(), talker.hear()];
        heard.sort();
        assert_eq!(
            heard,
            [
                format!("{mark}3 message news one"),
                format!("{mark}3 smessage shard two"),
                format!("{mark}4 pmessage n* news one"),
            ]
        );
    }
    assert_eq!(other.ask("PUBSUB NUMSUB news"), "*2 news :2");
    assert_eq!(other.ask("PUBSUB NUMPAT"), ":1");
    old.say("UNSUBSCRIBE");
    assert_eq!(
        [old.hear(), old.hear()],
        ["*3 unsubscribe news :2", "*3 unsubscribe sport :1"]
    );
    assert_eq!(old.ask("PUNSUBSCRIBE"), "*3 punsubscribe n* :0");
    assert_eq!(old.ask("SUNSUBSCRIBE"), "*3 sunsubscribe shard :0");
    assert_eq!(old.ask("UNSUBSCRIBE"), "*3 unsubscribe $-1 :0");
    assert_eq!(old.ask("GET k"), "v");
    assert_eq!(new.ask("RESET"), "+RESET");
    assert_eq!(new.ask("GET k"), "v");
    until("nobody listens", || other.ask("PUBLISH news three") == ":0");
}

#[test]
fn proxy_disconnects_a_subscriber_whose_node_restarts() {
    let Some((servers, door)) = open() else {
        return;
    };
    let mut listener = door.talk();
    listener.ask("PSUBSCRIBE *");
    servers.restart(2);
    assert!(
        listener.is_hung_up_on(),
        "it must learn that it may have missed something"
    );
}

#[test]
fn proxy_client_id_setname_list_and_kill() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut one, mut two) = (door.talk(), door.talk());
    assert_eq!(one.ask("CLIENT GETNAME"), "$-1");
    assert_eq!(one.ask("CLIENT SETNAME first"), "+OK");
    assert_eq!(one.ask("CLIENT GETNAME"), "first");
    let id = one.ask("CLIENT ID")[1..].to_owned();
    let list = two.ask("CLIENT LIST");
    assert_eq!(list.lines().count(), 2);
    assert!(list.contains(&format!("id={id} ")) && list.contains(" name=first "));
    assert!(list.contains(" cmd=client|list "), "{list}");
    assert_eq!(two.ask("CLIENT KILL ID 999"), ":0");
    assert_eq!(two.ask(&format!("CLIENT KILL ID {id}")), ":1");
    assert!(one.is_hung_up_on());
    until("it is gone", || two.ask("CLIENT LIST").lines().count() == 1);
    // Oneself is told before the end.
    let id = two.ask("CLIENT ID")[1..].to_owned();
    assert_eq!(two.ask(&format!("CLIENT KILL ID {id} SKIPME no")), ":1");
    assert!(two.is_hung_up_on());
}

#[test]
fn proxy_client_reply_off_and_skip_suppress_replies() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    for request in [
        "CLIENT REPLY OFF",
        "SET a 1",
        "NOSUCH",
        "BLPOP none 0.01",
        "PING",
    ] {
        talker.say(request);
    }
    assert_eq!(talker.ask("CLIENT REPLY ON"), "+OK");
    talker.say("CLIENT REPLY SKIP");
    talker.say("INCR a");
    assert_eq!(talker.ask("GET a"), "2");
}

#[test]
fn proxy_client_pause_write_delays_writes_only_and_runs_them_when_it_ends() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let door = LocalProxy::open(builder(&servers).response_timeout(Duration::from_millis(500)));
    let (mut boss, mut reader) = (door.talk(), door.talk());
    assert_eq!(boss.ask("MSET a 1 b 1 c 1 d 1"), "+OK");
    assert_eq!(
        boss.ask("CLIENT PAUSE x WRITE"),
        "-ERR timeout is not an integer or out of range"
    );
    assert_eq!(boss.ask("CLIENT PAUSE 60000 WRITE"), "+OK");
    let held = [
        ("INCR a", ":2"),
        ("MSET b 2 c 2", "+OK"),
        ("EVAL return(redis.call('incr',KEYS[1])) 1 d", ":2"),
        ("PUBLISH news x", ":0"),
    ];
    let mut writers = held.map(|(request, reply)| {
        let mut writer = door.talk();
        writer.say("GET a");
        writer.say(request);
        writer.say("GET a");
        assert_eq!(writer.hear(), "1");
        (writer, reply)
    });
    let mut transaction = door.talk();
    for request in ["MULTI", "INCR e", "EXEC"] {
        transaction.say(request);
    }
    // Longer than an answer may take.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(reader.ask("MGET a b c d e"), "*5 1 1 1 1 $-1");
    let blocked = reader.ask("INFO clients");
    // MSET is for one node or for two.
    let is_blocked = |clients: &&str| blocked.contains(&format!("blocked_clients:{clients}\r\n"));
    assert!(["5", "6"].iter().any(is_blocked), "{blocked}");
    assert_eq!(boss.ask("CLIENT UNPAUSE"), "+OK");
    for (writer, reply) in &mut writers {
        assert_eq!(writer.hear(), *reply);
        assert!(matches!(writer.hear().as_str(), "1" | "2"));
    }
    assert_eq!(transaction.hear(), "+OK");
    assert_eq!(transaction.hear(), "+QUEUED");
    assert_eq!(transaction.hear(), "*1 :1");
    assert_eq!(reader.ask("MGET a b c d e"), "*5 2 2 2 2 1");
    // And one that ends by itself.
    assert_eq!(boss.ask("CLIENT PAUSE 700"), "+OK");
    assert_eq!(reader.ask("GET a"), "2");
    assert_eq!(boss.ask("INCR a"), ":3");
}

#[test]
fn proxy_nodedown_concerns_only_the_keys_of_the_dead_node() {
    let Some((servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    let topology = door.proxy.topology();
    let keys: Vec<String> = (0..40).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert_eq!(talker.ask(&format!("SET {key} 1")), "+OK");
    }
    servers.kill(1);
    for key in &keys {
        let dead = topology.locate(key.as_bytes()).unwrap().get() == 1;
        until("its state is known", || {
            let reply = talker.ask(&format!("GET {key}"));
            match dead {
                true => reply.starts_with("-NODEDOWN"),
                false => reply == "1",
            }
        });
    }
    assert!(
        talker
            .ask(&format!("MGET {}", keys.join(" ")))
            .starts_with("-PARTIAL")
    );
    servers.restart(1);
    until("it is back", || talker.ask("DBSIZE").starts_with(':'));
}

#[test]
fn proxy_hello_switches_the_protocol_and_an_invalid_one_changes_nothing() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    assert_eq!(talker.ask("HSET hash field 1.5"), ":1");
    assert_eq!(talker.ask("HGETALL hash"), "*2 field 1.5");
    assert_eq!(
        talker.ask("HELLO 4"),
        "-NOPROTO unsupported protocol version"
    );
    let hello = talker.ask("HELLO 3 SETNAME me");
    assert!(hello.starts_with("%7 server redis version ") && hello.contains(" proto :3 id :1 "));
    assert_eq!(talker.ask("HGETALL hash"), "%1 field 1.5");
    assert_eq!(talker.ask("GET none"), "_");
    assert_eq!(talker.ask("ZADD z 1.5 a"), ":1");
    assert_eq!(talker.ask("ZSCORE z a"), ",1.5");
    assert_eq!(talker.ask("CLIENT GETNAME"), "me");
    assert!(talker.ask("HELLO 2").starts_with("*14 server redis"));
    assert_eq!(talker.ask("ZSCORE z a"), "1.5");
}

#[test]
fn proxy_max_clients_limits_connections_and_stop_ends_them() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let proxy = builder(&servers).build_proxy().unwrap().with_max_clients(2);
    let door = LocalProxy::open_for(proxy);
    let (mut one, mut two) = (door.talk(), door.talk());
    assert_eq!([one.ask("PING"), two.ask("PING")], ["+PONG", "+PONG"]);
    let mut three = door.talk();
    assert_eq!(three.hear(), "-ERR max number of clients reached");
    assert!(three.is_hung_up_on());
    assert_eq!(one.ask("QUIT"), "+OK");
    assert!(one.is_hung_up_on());
    until("there is room", || door.talk().ask("PING") == "+PONG");
    two.say("BLPOP list 0");
    door.proxy.stop();
    assert!(two.is_hung_up_on());
}

#[test]
fn proxy_refuses_shutdown_monitor_and_other_single_server_commands() {
    let nodes = ["redis://127.0.0.1:1/", "redis://127.0.0.1:2/"];
    let builder = nodes
        .into_iter()
        .fold(ShardedClient::builder(), |builder, url| {
            builder.unnamed_node(url)
        });
    let door = LocalProxy::open(builder);
    let mut talker = door.talk();
    for (request, word) in [
        ("SHUTDOWN NOSAVE", "-UNROUTABLE"),
        ("MONITOR", "-STATEFUL"),
        ("SWAPDB 0 1", "-UNROUTABLE"),
        ("SELECT 1", "-ERR DB index is out of range"),
        ("CLIENT TRACKING ON", "-STATEFUL"),
        ("GET k", "-NODEDOWN"),
    ] {
        let reply = talker.ask(request);
        assert!(reply.starts_with(word), "{request}: {reply}");
    }
}

#[test]
fn proxy_passes_values_of_40_mb_in_order() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    let value: Vec<u8> = (0..40_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    talker.say("SET before 1");
    talker.say_words(&[b"SET", b"large", &value]);
    talker.say("STRLEN large");
    assert_eq!(
        [talker.hear(), talker.hear(), talker.hear()],
        ["+OK", "+OK", ":40000000"]
    );
    talker.say("GET before");
    talker.say("GET large");
    talker.say("GET before");
    assert_eq!(talker.hear(), "1");
    assert!(
        talker.hear() == String::from_utf8_lossy(&value),
        "it is another value"
    );
    assert_eq!(talker.hear(), "1");
    // What cannot be asked for again is kept: a write, and one of several nodes.
    assert_eq!(
        other.ask("MGET before large").len(),
        talker.ask("MGET before large").len()
    );
    assert!(other.ask("GETSET large small").len() >= value.len());
    assert_eq!(other.ask("GET large"), "small");
}

#[test]
fn proxy_reports_the_failure_of_a_large_request() {
    let Some((servers, door)) = open() else {
        return;
    };
    let value = vec![b'x'; 20_000_000];
    let mut talker = door.talk();
    // A wrong type is the server's to say, and the connection goes on.
    talker.ask("LPUSH list x");
    talker.say_words(&[b"APPEND", b"list", &value]);
    assert!(talker.hear().starts_with("-WRONGTYPE"));
    assert_eq!(talker.ask("PING"), "+PONG");
    for number in 0..4 {
        servers.kill(number);
    }
    talker.say_words(&[b"SET", b"key", &value]);
    assert!(talker.hear().starts_with("-NODEDOWN"));
    assert_eq!(talker.ask("PING"), "+PONG");
}

#[test]
fn proxy_evalsha_and_fcall_work_on_every_node_after_restarts() {
    let Some((servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    let script: &[u8] = b"return redis.call('INCR', KEYS[1])";
    talker.say_words(&[b"SCRIPT", b"LOAD", script]);
    let sum = talker.hear();
    for number in 0..20 {
        assert_eq!(talker.ask(&format!("EVALSHA {sum} 1 key:{number}")), ":1");
    }
    for number in 0..4 {
        servers.restart(number);
    }
    until("the nodes are back", || talker.ask("DBSIZE") == ":0");
    // By itself, in a round, and in a transaction.
    assert_eq!(talker.ask(&format!("EVALSHA {sum} 1 key:1")), ":1");
    for number in 0..20 {
        talker.say(&format!("EVALSHA {sum} 1 key:{number}"));
        talker.say(&format!("GET key:{number}"));
    }
    for number in 0..20 {
        let count = if number == 1 { 2 } else { 1 };
        assert_eq!(talker.hear(), format!(":{count}"));
        assert_eq!(talker.hear(), format!("{count}"));
    }
    talker.ask("SCRIPT FLUSH");
    assert_eq!(talker.ask(&format!("SCRIPT EXISTS {sum}")), "*1 :0");
    assert!(
        talker
            .ask(&format!("EVALSHA {sum} 1 key:1"))
            .starts_with("-NOSCRIPT")
    );
    talker.say_words(&[b"EVAL", script, b"1", b"key:1"]);
    assert_eq!(talker.hear(), ":3");
    assert_eq!(talker.ask(&format!("SCRIPT EXISTS {sum}")), "*1 :1");
    talker.ask("MULTI");
    talker.ask(&format!("EVALSHA {sum} 1 key:2"));
    assert_eq!(talker.ask("EXEC"), "*1 :2");

    let library: &[u8] = b"#!lua name=lib\nredis.register_function('bump', function(k) return redis.call('INCR', k[1]) end)";
    talker.say_words(&[b"FUNCTION", b"LOAD", library]);
    assert_eq!(talker.hear(), "lib");
    servers.restart(1);
    servers.restart(2);
    until("the nodes are back", || {
        talker.ask("DBSIZE").starts_with(':')
    });
    for number in 100..120 {
        assert_eq!(talker.ask(&format!("FCALL bump 1 key:{number}")), ":1");
    }
    talker.ask("MULTI");
    talker.ask("FCALL bump 1 key:100");
    assert_eq!(talker.ask("EXEC"), "*1 :2");
}

#[test]
fn proxy_script_kill_and_function_kill_end_an_endless_script() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let (mut one, mut other) = (door.talk(), door.talk());
    assert_eq!(other.ask("CONFIG SET busy-reply-threshold 10"), "+OK");
    let library =
        "#!lua name=endless\nredis.register_function('endless', function() while true do end end)";
    other.say_words(&[b"FUNCTION", b"LOAD", library.as_bytes()]);
    assert_eq!(other.hear(), "endless");
    for (script, kill) in [
        ("EVAL while(true)do\nend 0", "SCRIPT KILL"),
        ("FCALL endless 0", "FUNCTION KILL"),
    ] {
        let begun = Instant::now();
        one.say(script);
        until("it is killed", || other.ask(kill) == "+OK");
        assert!(begun.elapsed() < Duration::from_secs(4));
        let killed = one.hear();
        assert!(killed.contains("Script killed by user"), "{killed}");
    }
}

#[test]
fn proxy_eval_without_keys_is_routed_by_the_keys_in_its_text() {
    let Some((_servers, door)) = open() else {
        return;
    };
    let mut talker = door.talk();
    talker.ask("SET key 5");
    for (script, reply) in [
        ("return 1", ":1"),
        ("return redis.call('GET', 'key')", "5"),
        (
            "return {1, {2}, 'x', redis.status_reply('fine')}",
            "*4 :1 *1 :2 x +fine",
        ),
        ("return redis.error_reply('MINE oh')", "-MINE oh"),
    ] {
        talker.say_words(&[b"EVAL", script.as_bytes(), b"0"]);
        assert_eq!(talker.hear(), reply, "{script}");
    }
    talker.say_words(&[b"EVAL", b"return redis.call('GET', ARGV[1])", b"0", b"key"]);
    assert!(talker.hear().starts_with("-UNROUTABLE"));
}

#[test]
fn proxy_with_a_password_requires_auth() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let proxy = builder(&servers)
        .build_proxy()
        .unwrap()
        .with_password("secret");
    let door = LocalProxy::open_for(proxy);
    let mut talker = door.talk();
    for request in [
        "GET k",
        "PING",
        "MULTI",
        "SUBSCRIBE c",
        "CLIENT LIST",
        "HELLO 3",
    ] {
        assert!(talker.ask(request).starts_with("-NOAUTH"), "{request}");
    }
    assert!(talker.ask("AUTH wrong").starts_with("-WRONGPASS"));
    assert!(
        talker
            .ask("HELLO 3 AUTH default wrong")
            .starts_with("-WRONGPASS")
    );
    assert!(talker.ask("HELLO 3 AUTH default secret").starts_with("%7"));
    assert_eq!(talker.ask("SET k v"), "+OK");
    assert_eq!(talker.ask("RESET"), "+RESET");
    assert!(talker.ask("GET k").starts_with("-NOAUTH"));
    assert_eq!(talker.ask("AUTH secret"), "+OK");
    assert_eq!(talker.ask("GET k"), "v");
    let mut stranger = door.talk();
    stranger.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n");
    assert_eq!(
        stranger.hear(),
        "-ERR Protocol error: unauthenticated bulk length"
    );
    assert!(stranger.is_hung_up_on());
}
