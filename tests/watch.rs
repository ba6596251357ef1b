//! EXEC does not run behind a WATCH that did not hold: in the proxy, and on dedicated connections of both clients.
#![cfg(feature = "tokio-comp")]

mod support;

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::{ErrorKind, ShardedClient, aio};
use support::local_proxy::LocalProxy;
use support::{Servers, builder};

/// Two keys of one node, and one of another.
fn keys(client: &ShardedClient) -> (String, String) {
    let owner = |key: &str| client.node_for(key).unwrap().index();
    let mut others = (1..).map(|number| format!("key:{number}"));
    let there = others.find(|key| owner(key) != owner("here")).unwrap();
    ("here".into(), there)
}

#[test]
fn exec_after_a_refused_watch_is_not_run_by_the_proxy() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let door = LocalProxy::open(builder(&servers));
    let (here, there) = keys(&builder(&servers).build().unwrap());
    for protocol in ["2", "3"] {
        let nil = if protocol == "2" { "*-1" } else { "_" };
        let mut other = door.talk();
        let mut talker = door.talk();
        talker.ask(&format!("HELLO {protocol}"));
        for watch in [
            // Of two nodes; the same behind one that held; without keys, which watches nothing.
            vec![format!("WATCH {here} {there}")],
            vec![format!("WATCH {here}"), format!("watch {there}")],
            vec!["WATCH".to_owned()],
        ] {
            other.ask(&format!("SET {here} theirs"));
            let replies: Vec<String> = watch.iter().map(|request| talker.ask(request)).collect();
            assert!(replies.last().unwrap().starts_with('-'), "{replies:?}");
            let attempt = |talker: &mut support::local_proxy::RawClient| {
                assert_eq!(talker.ask("MULTI"), "+OK");
                assert_eq!(talker.ask(&format!("SET {here} mine")), "+QUEUED");
                talker.ask("EXEC")
            };
            assert_eq!(attempt(&mut talker), nil, "{watch:?}");
            assert_eq!(other.ask(&format!("GET {here}")), "theirs");
            // The attempt has ended, so the next one is like any other.
            assert_eq!(attempt(&mut talker), "*1 +OK", "{watch:?}");
            for end in ["UNWATCH", "MULTI DISCARD", "RESET"] {
                for request in &watch {
                    talker.ask(request);
                }
                for word in end.split(' ') {
                    talker.ask(word);
                }
                talker.ask(&format!("HELLO {protocol}"));
                assert_eq!(attempt(&mut talker), "*1 +OK", "{watch:?}, {end}");
            }
        }
        // It holds across another protocol as well.
        talker.ask("WATCH");
        talker.ask("HELLO 3");
        talker.ask("MULTI");
        talker.ask(&format!("SET {here} mine"));
        assert_eq!(talker.ask("EXEC"), "_");
        // A WATCH that is refused while the client listens.
        talker.ask("HELLO 2");
        talker.ask("SUBSCRIBE news");
        assert!(
            talker
                .ask(&format!("WATCH {here}"))
                .starts_with("-ERR Can't execute")
        );
        talker.ask("UNSUBSCRIBE");
        talker.ask("MULTI");
        talker.ask(&format!("SET {here} mine"));
        assert_eq!(talker.ask("EXEC"), "*-1");
    }
}

#[test]
fn exec_after_a_watch_whose_node_failed_is_not_run_by_the_proxy() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let door = LocalProxy::open(builder(&servers));
    let client = builder(&servers).build().unwrap();
    let (here, there) = keys(&client);
    let node = client.node_for(&there).unwrap().index().get();
    let mut talker = door.talk();
    // The node refuses it, as one does that has not the right.
    let mut direct = servers.connection(node);
    let rights = ["on", "nopass", "~*", "&*", "+@all", "-watch"];
    cmd("ACL")
        .arg("SETUSER")
        .arg("default")
        .arg(&rights)
        .exec(&mut direct)
        .unwrap();
    assert!(talker.ask(&format!("WATCH {there}")).starts_with("-NOPERM"));
    talker.ask("MULTI");
    talker.ask(&format!("SET {there} mine"));
    assert_eq!(talker.ask("EXEC"), "*-1");
    cmd("ACL")
        .arg("SETUSER")
        .arg("default")
        .arg("+watch")
        .exec(&mut direct)
        .unwrap();
    assert_eq!(talker.ask(&format!("WATCH {there}")), "+OK");
    // The connection of WATCH is lost.
    cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal"])
        .exec(&mut direct)
        .unwrap();
    talker.ask("MULTI");
    talker.ask(&format!("SET {there} mine"));
    let reply = talker.ask("EXEC");
    assert!(
        reply.starts_with("-UNKNOWN") || reply.starts_with("-NODEDOWN"),
        "{reply}"
    );
    assert_eq!(talker.ask(&format!("EXISTS {there}")), ":0");
    // The node is down.
    servers.kill(node);
    let reply = talker.ask(&format!("WATCH {there}"));
    assert!(reply.starts_with('-'), "{reply}");
    talker.ask("MULTI");
    talker.ask(&format!("SET {here} mine"));
    assert_eq!(talker.ask("EXEC"), "*-1");
    assert_eq!(talker.ask(&format!("EXISTS {here}")), ":0");
}

fn aborted<T: std::fmt::Debug>(result: RedisResult<T>, how: &str) {
    let error = result.expect_err(how);
    assert_eq!(error.code(), Some("EXECABORT"), "{how}: {error}");
}

#[test]
fn exec_after_a_refused_watch_is_not_run_on_dedicated_connections() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    for resp3 in [false, true] {
        let builder = || {
            let urls = servers.urls().into_iter();
            support::builder_over(urls.map(|url| match resp3 {
                false => url,
                true => format!("{url}?protocol=resp3"),
            }))
        };
        let client = builder().build().unwrap();
        let (here, there) = keys(&client);
        blocking(&client, &here, &there);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = builder().build_async().unwrap();
        runtime.block_on(tokio_client(&client, &here, &there));
    }
}

fn blocking(client: &ShardedClient, here: &str, there: &str) {
    let mut shared = client.clone();
    let mut connection = client.dedicated(here).unwrap();
    let watch = |connection: &mut redis_sharding::Dedicated| {
        cmd("SET")
            .arg(here)
            .arg("theirs")
            .exec(&mut shared.clone())
            .unwrap();
        cmd("WATCH").arg(here).arg(there).exec(connection)
    };
    let error = watch(&mut connection).unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    let mut attempt = pipe();
    attempt.atomic().set(here, "mine").ignore();
    aborted(
        attempt.query::<Option<()>>(&mut connection),
        "atomic pipeline",
    );
    attempt
        .exec(&mut connection)
        .expect("the attempt has ended");
    // Command by command.
    watch(&mut connection).unwrap_err();
    cmd("MULTI").exec(&mut connection).unwrap();
    cmd("SET")
        .arg(here)
        .arg("mine")
        .exec(&mut connection)
        .unwrap();
    aborted(cmd("EXEC").query::<Value>(&mut connection), "EXEC");
    let value: String = cmd("GET").arg(here).query(&mut connection).unwrap();
    assert_eq!(
        value, "theirs",
        "no transaction is open, and nothing was set"
    );
    // In a pipeline that was refused, and without keys, which a server refuses.
    let mut refused = pipe();
    refused.cmd("WATCH").arg(here).get(here).get(there);
    refused.exec(&mut connection).unwrap_err();
    aborted(attempt.exec(&mut connection), "a pipeline");
    cmd("WATCH").exec(&mut connection).unwrap_err();
    aborted(attempt.exec(&mut connection), "WATCH without keys");
    // UNWATCH ends it, and a WATCH that holds guards as before.
    watch(&mut connection).unwrap_err();
    cmd("UNWATCH").exec(&mut connection).unwrap();
    attempt.exec(&mut connection).unwrap();
    cmd("WATCH").arg(here).exec(&mut connection).unwrap();
    cmd("SET")
        .arg(here)
        .arg("theirs")
        .exec(&mut shared)
        .unwrap();
    assert_eq!(attempt.query::<Option<()>>(&mut connection).unwrap(), None);
    // On a connection that does not check keys, and in a transaction of the client.
    let mut node = client.node_for(here).unwrap().dedicated().unwrap();
    cmd("WATCH").exec(&mut node).unwrap_err();
    aborted(attempt.exec(&mut node), "a node's connection");
    let end = client.transaction(&[here], |connection, pipe| {
        let refused: RedisResult<()> = cmd("WATCH").arg(there).query(connection);
        refused.unwrap_err();
        pipe.set(here, "mine")
            .ignore()
            .query::<Option<()>>(connection)
    });
    aborted(end, "transaction");
}

async fn tokio_client(client: &aio::ShardedClient, here: &str, there: &str) {
    let mut shared = client.clone();
    let mut connection = client.dedicated(here).await.unwrap();
    let mut watch = cmd("WATCH");
    watch.arg(here).arg(there);
    let mut theirs = cmd("SET");
    theirs.arg(here).arg("theirs");
    theirs.exec_async(&mut shared).await.unwrap();
    let error = watch.exec_async(&mut connection).await.unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    let mut attempt = pipe();
    attempt.atomic().set(here, "mine").ignore();
    let end = attempt.query_async::<Option<()>>(&mut connection).await;
    aborted(end, "atomic pipeline");
    attempt
        .exec_async(&mut connection)
        .await
        .expect("the attempt has ended");
    theirs.exec_async(&mut shared).await.unwrap();
    watch.exec_async(&mut connection).await.unwrap_err();
    cmd("MULTI").exec_async(&mut connection).await.unwrap();
    let mut mine = cmd("SET");
    mine.arg(here)
        .arg("mine")
        .exec_async(&mut connection)
        .await
        .unwrap();
    let end = cmd("EXEC").query_async::<Value>(&mut connection).await;
    aborted(end, "EXEC");
    let value: String = cmd("GET")
        .arg(here)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(
        value, "theirs",
        "no transaction is open, and nothing was set"
    );
    let mut refused = pipe();
    refused.cmd("WATCH").arg(here).get(here).get(there);
    refused.exec_async(&mut connection).await.unwrap_err();
    aborted(attempt.exec_async(&mut connection).await, "a pipeline");
    cmd("WATCH").exec_async(&mut connection).await.unwrap_err();
    aborted(
        attempt.exec_async(&mut connection).await,
        "WATCH without keys",
    );
    watch.exec_async(&mut connection).await.unwrap_err();
    cmd("UNWATCH").exec_async(&mut connection).await.unwrap();
    attempt.exec_async(&mut connection).await.unwrap();
    cmd("WATCH")
        .arg(here)
        .exec_async(&mut connection)
        .await
        .unwrap();
    theirs.exec_async(&mut shared).await.unwrap();
    let end = attempt.query_async::<Option<()>>(&mut connection).await;
    assert_eq!(end.unwrap(), None);
    let end = client
        .transaction(&[here], async |connection, pipe| {
            let refused: RedisResult<()> = cmd("WATCH").arg(there).query_async(connection).await;
            refused.unwrap_err();
            let pipe = pipe.set(here, "mine").ignore();
            pipe.query_async::<Option<()>>(connection).await
        })
        .await;
    aborted(end, "transaction");
}
