//! The proxy where connections break, readers are slow, and requests are made to deceive.
#![cfg(feature = "tokio-comp")]

mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use support::local_proxy::{LocalProxy, RawClient};
use support::{Servers, builder};

/// So many servers behind a proxy.
fn open(count: usize) -> Option<(Servers, LocalProxy)> {
    let servers = Servers::start(count)?;
    let door = LocalProxy::open(builder(&servers));
    Some((servers, door))
}

/// A name that begins so and lives on this node.
fn name_at(door: &LocalProxy, node: usize, begin: &str) -> String {
    let topology = door.proxy.topology();
    let wanted = topology.indices().nth(node);
    let names = (0..).map(|number| format!("{begin}{number}"));
    let found = names
        .into_iter()
        .find(|name| topology.locate(name.as_bytes()) == wanted);
    found.unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// Breaks all connections of this kind to one server.
fn cut(servers: &Servers, index: usize, kind: &str) {
    let mut connection = servers.connection(index);
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL")
        .arg("TYPE")
        .arg(kind)
        .arg("SKIPME")
        .arg("yes");
    kill.query::<i64>(&mut connection).unwrap();
}

fn eval(talker: &mut RawClient, script: &str) -> String {
    talker.say_words(&[b"EVAL", script.as_bytes(), b"0"]);
    talker.hear()
}

#[test]
fn client_reply_skip_suppresses_the_reply_of_blpop() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    talker.write(b"PING\r\nPING\r\nPING\r\nPING\r\nPING\r\nPING\r\nCLIENT REPLY SKIP\r\nBLPOP list 0\r\nECHO behind\r\n");
    for _ in 0..6 {
        assert_eq!(talker.hear(), "+PONG");
    }
    other.ask("RPUSH list x");
    assert_eq!(talker.hear(), "behind");
}

#[test]
fn failed_subscribe_leaves_earlier_subscriptions_in_place() {
    let Some((servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    let (living, dead) = (name_at(&door, 0, "ch"), name_at(&door, 1, "ch"));
    talker.ask(&format!("SUBSCRIBE {living}"));
    servers.kill(1);
    assert!(
        talker
            .ask(&format!("SUBSCRIBE {living} {dead}"))
            .starts_with('-')
    );
    assert_eq!(other.ask(&format!("PUBLISH {living} hello")), ":1");
    assert_eq!(talker.hear(), format!("*3 message {living} hello"));
}

#[test]
fn subscriber_is_disconnected_after_a_gap_that_follows_queued_messages() {
    let Some((servers, door)) = open(3) else {
        return;
    };
    let mut talker = door.talk();
    talker.ask("HELLO 3");
    talker.ask("PSUBSCRIBE p*");
    let key = name_at(&door, 2, "key");
    talker.ask(&format!("GET {key}"));
    servers.pause(2);
    talker.say(&format!("GET {key}"));
    sleep(Duration::from_millis(200));
    let publish = |text: &str| {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg("p1").arg(text);
        publish.query::<i64>(&mut servers.connection(0)).unwrap()
    };
    assert_eq!(publish("before"), 1);
    // It comes over another connection than the gap, so nothing but time says which is first.
    sleep(Duration::from_millis(500));
    cut(&servers, 1, "pubsub");
    sleep(Duration::from_secs(2));
    servers.resume(2);
    assert_eq!(talker.hear(), "_");
    assert_eq!(talker.hear(), ">4 pmessage p* p1 before");
    until("it is hung up on", || door.proxy.client_count() == 0);
}

#[test]
fn client_kill_ends_a_client_that_does_not_read_a_large_reply() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    let value = vec![b'x'; 64 << 20];
    other.say_words(&[b"SET", b"large", &value]);
    assert_eq!(other.hear(), "+OK");
    let id = talker.ask("CLIENT ID").replace(':', "");
    talker.say("GET large");
    sleep(Duration::from_millis(500));
    assert_eq!(other.ask(&format!("CLIENT KILL ID {id}")), ":1");
    until("it has gone", || door.proxy.client_count() == 1);
}

#[test]
fn eval_without_keys_in_multi_runs_on_the_node_of_the_keys_in_its_text() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let mut talker = door.talk();
    let (here, there) = (name_at(&door, 0, "key"), name_at(&door, 1, "key"));
    talker.ask(&format!("SET {there} 5"));
    talker.ask("MULTI");
    let script = format!("return redis.call('GET', '{there}')");
    assert_eq!(eval(&mut talker, &script), "+QUEUED");
    assert_eq!(talker.ask("EXEC"), "*1 5");
    talker.ask("MULTI");
    talker.ask(&format!("SET {here} 1"));
    assert!(eval(&mut talker, &script).starts_with("-CROSSNODE"));
    assert!(talker.ask("EXEC").starts_with("-EXECABORT"));
    talker.ask("MULTI");
    let any = eval(&mut talker, "return redis.call('GET', ARGV[1])");
    assert!(any.starts_with("-UNROUTABLE"), "{any}");
    assert!(talker.ask("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn keys_read_from_a_script_text_are_those_the_server_uses() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let mut talker = door.talk();
    for number in 1..40 {
        talker.ask(&format!("SET k{number} v"));
        let script = format!("return redis.call('GET', [[\nk{number}]])");
        let said = eval(&mut talker, &script);
        assert!(said == "v" || said.starts_with("-UNROUTABLE"), "{said}");
        talker.ask(&format!("SET {number} v"));
        let said = eval(
            &mut talker,
            &format!("return redis.call('GET', 00{number})"),
        );
        assert!(said == "v" || said.starts_with("-UNROUTABLE"), "{said}");
    }
    talker.ask("SET 1.2345678901234567e+19 v");
    let said = eval(
        &mut talker,
        "return redis.call('GET', 12345678901234567890)",
    );
    assert!(said == "v" || said.starts_with("-UNROUTABLE"), "{said}");
}

#[test]
fn client_reply_skip_ends_after_one_command_as_on_a_server() {
    let Some((_servers, door)) = open(1) else {
        return;
    };
    let mut talker = door.talk();
    talker.say("CLIENT REPLY SKIP");
    assert_eq!(talker.ask("CLIENT REPLY ON"), "+OK");
    talker.say("CLIENT REPLY SKIP");
    assert_eq!(talker.ask("SUBSCRIBE a"), "*3 subscribe a :1");
    assert_eq!(talker.ask("RESET"), "+RESET");
    talker.say("CLIENT REPLY SKIP");
    talker.write(b"*0\r\n");
    assert_eq!(talker.ask("PING"), "+PONG");
    talker.say("CLIENT REPLY SKIP");
    talker.say("RESET");
    talker.say("CLIENT REPLY OFF");
    assert_eq!(talker.ask("RESET"), "+RESET");
    assert_eq!(talker.ask("PING"), "+PONG");
}

#[test]
fn exec_after_a_lost_watch_is_not_run() {
    let Some((servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    let key = name_at(&door, 0, "key");
    assert_eq!(talker.ask(&format!("WATCH {key}")), "+OK");
    cut(&servers, 0, "normal");
    sleep(Duration::from_millis(300));
    assert!(talker.ask(&format!("WATCH {key}")).starts_with('-'));
    assert_eq!(other.ask(&format!("SET {key} theirs")), "+OK");
    talker.ask("MULTI");
    talker.ask(&format!("SET {key} ours"));
    let exec = talker.ask("EXEC");
    assert_eq!(other.ask(&format!("GET {key}")), "theirs", "{exec}");
    assert_eq!(exec, "*-1");
    // And then all is as in the beginning.
    assert_eq!(talker.ask(&format!("WATCH {key}")), "+OK");
    talker.ask("MULTI");
    talker.ask(&format!("SET {key} ours"));
    assert_eq!(talker.ask("EXEC"), "*1 +OK");
}

#[test]
fn watch_survives_hello_3() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    other.ask("HSET {t}h f v");
    for _ in 0..3 {
        talker.ask("WATCH {t}k");
        talker.ask("HELLO 3");
        talker.ask("MULTI");
        talker.ask("HGETALL {t}h");
        assert_eq!(talker.ask("EXEC"), "*1 %1 f v");
        talker.ask("WATCH {t}k");
        other.ask("INCR {t}k");
        talker.ask("MULTI");
        talker.ask("HGETALL {t}h");
        assert_eq!(talker.ask("EXEC"), "_");
        talker.ask("WATCH {t}k");
        talker.ask("HELLO 2");
        talker.ask("UNWATCH");
        talker.ask("MULTI");
        talker.ask("HGETALL {t}h");
        assert_eq!(talker.ask("EXEC"), "*1 *2 f v");
    }
}

#[test]
fn blpop_of_a_disconnected_client_with_much_input_takes_no_element() {
    let Some((_servers, door)) = open(2) else {
        return;
    };
    let (mut talker, mut other) = (door.talk(), door.talk());
    talker.say("BLPOP list 0");
    sleep(Duration::from_millis(100));
    talker.write(&b"PING\r\n".repeat(400_000));
    talker.hang_up();
    until("it has gone", || door.proxy.client_count() == 1);
    assert_eq!(other.ask("RPUSH list x"), ":1");
    assert_eq!(other.ask("LPOP list"), "x");
}

#[test]
fn subscribe_behind_many_queued_messages_is_confirmed() {
    let Some((servers, door)) = open(2) else {
        return;
    };
    let mut talker = door.talk();
    talker.ask("HELLO 3");
    let (channel, other) = (name_at(&door, 0, "ch"), name_at(&door, 0, "other"));
    let key = name_at(&door, 1, "key");
    talker.ask(&format!("SUBSCRIBE {channel}"));
    talker.ask(&format!("GET {key}"));
    servers.pause(1);
    talker.write(format!("GET {key}\r\nSUBSCRIBE {other}\r\n").as_bytes());
    let mut publish = redis::pipe();
    for _ in 0..20_000 {
        publish.cmd("PUBLISH").arg(&channel).arg("x").ignore();
    }
    let mut connection = servers.connection(0);
    for _ in 0..4 {
        publish.query::<()>(&mut connection).unwrap();
    }
    sleep(Duration::from_millis(500));
    servers.resume(1);
    assert_eq!(talker.hear(), "_");
    let mut messages = 0;
    let said = loop {
        match talker.hear() {
            message if message.starts_with(">3 message") => messages += 1,
            said => break said,
        }
    };
    assert_eq!(said, format!(">3 subscribe {other} :2"));
    while messages < 80_000 {
        assert!(talker.hear().starts_with(">3 message"));
        messages += 1;
    }
}

#[test]
fn blpop_of_the_proxy_is_not_limited_by_the_blocking_pool_size() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let door = LocalProxy::open(builder(&servers).blocking_pool_size(2));
    let mut waiting: Vec<RawClient> = (0..20).map(|_| door.talk()).collect();
    for (number, talker) in waiting.iter_mut().enumerate() {
        talker.say(&format!("BLPOP list:{number} 0"));
    }
    let (mut watching, mut other) = (door.talk(), door.talk());
    assert_eq!(watching.ask("WATCH k"), "+OK");
    for (number, talker) in waiting.iter_mut().enumerate().rev() {
        other.ask(&format!("RPUSH list:{number} x"));
        assert_eq!(talker.hear(), format!("*2 list:{number} x"));
    }
    let clients = || {
        let mut list = redis::cmd("CLIENT");
        let list: String = list.arg("LIST").query(&mut servers.connection(0)).unwrap();
        list.lines().count()
    };
    until("those that are not needed are closed", || clients() < 8);
}

#[test]
fn subscriber_is_disconnected_as_soon_as_its_node_goes_down() {
    let Some((servers, door)) = open(2) else {
        return;
    };
    let (mut lost, mut kept) = (door.talk(), door.talk());
    lost.ask(&format!("SUBSCRIBE {}", name_at(&door, 0, "news")));
    kept.ask(&format!("SUBSCRIBE {}", name_at(&door, 1, "news")));
    // And it stays down.
    servers.kill(0);
    assert!(lost.is_hung_up_on());
    assert_eq!(kept.ask("PING"), "*2 pong ");
}
