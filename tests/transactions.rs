//! `redis::transaction`, `redis::aio::transaction_async`, and WATCH by hand through a client: nothing is lost, nothing is
//! done twice, and nothing runs unwatched.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::transaction_async;
use redis::{AsyncCommands, Commands, RedisResult, cmd, pipe};
use redis_sharding::{Builder, ErrorKind, HashTags, ReadsAs, ShardedClient, aio};
use support::{Servers, builder_over};
use tokio::runtime::Runtime;

/// A description for each version of the protocol.
fn each(servers: &Servers, check: impl Fn(&dyn Fn() -> Builder)) {
    for protocol in ["resp2", "resp3"] {
        let with = |url: String| format!("{url}?protocol={protocol}");
        check(&|| builder_over(servers.urls().into_iter().map(with)));
    }
}

/// Two keys of one node, and one of another.
fn keys(client: &ShardedClient) -> (String, String, String) {
    let owner = |key: &str| client.node_for(key).unwrap().index();
    let mut numbered = (1..).map(|number| format!("key:{number}"));
    let there = numbered.find(|key| owner(key) != owner("here"));
    ("here".into(), "{here}:2".into(), there.unwrap())
}

fn increment(client: &mut ShardedClient, key: &str, attempts: &AtomicU32) -> RedisResult<i64> {
    let (value,): (i64,) = redis::transaction(client, &[key], |client, pipe| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let old: Option<i64> = client.get(key)?;
        let pipe = pipe.set(key, old.unwrap_or(0) + 1).ignore().get(key);
        pipe.query(client)
    })?;
    Ok(value)
}

async fn increment_async(
    client: &aio::ShardedClient,
    key: &str,
    attempts: &AtomicU32,
) -> RedisResult<i64> {
    let (value,): (i64,) =
        transaction_async(client.clone(), &[key], |mut client, mut pipe| async move {
            attempts.fetch_add(1, Ordering::Relaxed);
            let old: Option<i64> = client.get(key).await?;
            let pipe = pipe.set(key, old.unwrap_or(0) + 1).ignore().get(key);
            pipe.query_async(&mut client).await
        })
        .await?;
    Ok(value)
}

#[test]
fn redis_rs_transactions_of_both_clients_that_race_on_a_counter_lose_and_repeat_nothing() {
    const EACH: i64 = 60;
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        let client = builder().build().unwrap();
        let on_tokio = builder().build_async().unwrap();
        let runtime = Runtime::new().unwrap();
        let attempts = AtomicU32::new(0);
        let () = client.clone().del("counter").unwrap();
        let mut values: Vec<i64> = std::thread::scope(|scope| {
            let blocking = [0, 1].map(|_| {
                let (mut client, attempts) = (client.clone(), &attempts);
                let run = move || increment(&mut client, "counter", attempts).unwrap();
                scope.spawn(move || (0..EACH).map(|_| run.clone()()).collect::<Vec<_>>())
            });
            let task = || async {
                let mut values = Vec::new();
                for _ in 0..EACH {
                    let done = increment_async(&on_tokio, "counter", &attempts).await;
                    values.push(done.unwrap());
                }
                values
            };
            let (one, other) = runtime.block_on(async { tokio::join!(task(), task()) });
            let threads = blocking
                .into_iter()
                .flat_map(|thread| thread.join().unwrap());
            threads.chain(one).chain(other).collect()
        });
        values.sort_unstable();
        assert!(
            values.into_iter().eq(1..=4 * EACH),
            "each value is reached once"
        );
        let attempts = i64::from(attempts.into_inner());
        assert!(
            attempts > 4 * EACH,
            "nothing was ever in the way: {attempts}"
        );
    });
}

#[test]
fn transactions_by_hand_give_their_connection_back_and_leave_nothing_watched() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        let mut client = builder().blocking_pool_size(1).build().unwrap();
        let (here, second, _) = keys(&client);
        let node = client.node_for(&here).unwrap().index().get();
        let mut direct = servers.connection(node);
        let connections = |direct: &mut redis::Connection| -> u64 {
            let stats: redis::InfoDict = cmd("INFO").arg("stats").query(direct).unwrap();
            stats.get("total_connections_received").unwrap()
        };
        let set = |value: i32| {
            let mut pipe = pipe();
            pipe.atomic().set("here", value).ignore().get("here");
            pipe
        };
        let mut before = None;
        for round in 0..20 {
            cmd("WATCH")
                .arg(&here)
                .arg(&second)
                .exec(&mut client)
                .unwrap();
            let done: Option<(i32,)> = set(round).query(&mut client).unwrap();
            assert_eq!(done, Some((round,)));
            cmd("WATCH").arg(&here).exec(&mut client).unwrap();
            let () = direct.set(&here, "theirs").unwrap();
            let done: Option<(i32,)> = set(-1).query(&mut client).unwrap();
            assert_eq!(done, None);
            cmd("WATCH").arg(&here).exec(&mut client).unwrap();
            let () = direct.set(&here, "theirs").unwrap();
            cmd("UNWATCH").exec(&mut client).unwrap();
            let done: Option<(i32,)> = set(round).query(&mut client).unwrap();
            assert_eq!(done, Some((round,)), "not watched any more");
            // There is one exclusive connection, and each attempt has given it back.
            let now = connections(&mut direct);
            assert_eq!(*before.get_or_insert(now), now);
        }
        // A handle that is dropped while it watches frees its place.
        for _ in 0..3 {
            cmd("WATCH").arg(&here).exec(&mut client.clone()).unwrap();
        }
        cmd("UNWATCH").exec(&mut client).unwrap();
    });
}

#[test]
fn transaction_whose_watching_connection_is_killed_fails_and_changes_nothing() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        let mut client = builder().build().unwrap();
        let node = client.node_for("here").unwrap().index().get();
        let mut direct = servers.connection(node);
        let kill = |direct: &mut redis::Connection| {
            let mut kill = cmd("CLIENT");
            let killed: i64 = kill.arg(&["KILL", "TYPE", "normal"]).query(direct).unwrap();
            assert!(killed > 0);
            let () = direct.set("here", "theirs").unwrap();
            // For the end of the connection to arrive.
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut calls = 0;
        let done = redis::transaction(&mut client, &["here"], |client, pipe| {
            calls += 1;
            kill(&mut direct);
            pipe.set("here", "mine").query::<Option<()>>(client)
        });
        let error = done.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
        assert_eq!(calls, 1);
        let value: String = direct.get("here").unwrap();
        assert_eq!(value, "theirs");
        let attempts = AtomicU32::new(0);
        let () = direct.set("here", 1).unwrap();
        assert_eq!(increment(&mut client, "here", &attempts).unwrap(), 2);

        let runtime = Runtime::new().unwrap();
        let client = builder().build_async().unwrap();
        let done = runtime.block_on(transaction_async(
            client.clone(),
            &["here"],
            |mut client, mut pipe| {
                kill(&mut direct);
                async move {
                    let done = pipe.set("here", "mine").query_async(&mut client).await;
                    done.map(|done: Option<()>| done)
                }
            },
        ));
        let error = done.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
        let value: String = direct.get("here").unwrap();
        assert_eq!(value, "theirs");
        let () = direct.set("here", 1).unwrap();
        let done = runtime.block_on(increment_async(&client, "here", &attempts));
        assert_eq!(done.unwrap(), 2);
    });
}

#[track_caller]
fn aborted<T: std::fmt::Debug>(result: RedisResult<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some("EXECABORT"), "{error}");
}

#[test]
fn watch_over_keys_of_two_nodes_is_refused_and_exec_after_it_is_not_run() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    each(&servers, |builder| {
        let mut client = builder().build().unwrap();
        let (here, second, there) = keys(&client);
        let nodes = [&here, &there].map(|key| client.node_for(key).unwrap().name().to_owned());
        let explains = |error: &redis::RedisError| {
            let text = error.to_string();
            assert_eq!(ErrorKind::of(error), ErrorKind::CrossNode, "{text}");
            for word in [&here, &there, &nodes[0], &nodes[1]] {
                assert!(text.contains(word.as_str()), "{word}: {text}");
            }
        };
        let mut set = pipe();
        set.atomic().set(&here, "mine");
        let watch = |keys: &[&String]| {
            let mut watch = cmd("WATCH");
            watch.arg(keys);
            watch
        };
        let () = client.set(&here, "theirs").unwrap();
        explains(&watch(&[&here, &there]).exec(&mut client).unwrap_err());
        aborted(set.exec(&mut client));
        let result = redis::transaction(&mut client, &[&here, &there], |_, _| Ok(Some(())));
        explains(&result.unwrap_err());
        // One after the other, on one attempt.
        watch(&[&here]).exec(&mut client).unwrap();
        watch(&[&second]).exec(&mut client).unwrap();
        let error = watch(&[&there]).exec(&mut client).unwrap_err();
        explains(&error);
        assert!(error.to_string().contains("UNWATCH"), "{error}");
        watch(&[&here]).exec(&mut client).unwrap();
        aborted(set.exec(&mut client));
        // A pipeline of another node than the watch.
        watch(&[&there]).exec(&mut client).unwrap();
        explains_pipeline(set.exec(&mut client), &nodes);
        let value: String = client.get(&here).unwrap();
        assert_eq!(value, "theirs");
        // A script whose key shows only in its text.
        watch(&[&there]).exec(&mut client).unwrap();
        let mut script = pipe();
        let text = format!("return redis.call('SET', '{here}', 'mine')");
        script.atomic().cmd("EVAL").arg(text).arg(0);
        explains_pipeline(script.exec(&mut client), &nodes);
        // FLUSHDB would be that of one node.
        watch(&[&here]).exec(&mut client).unwrap();
        let mut flush = pipe();
        flush.atomic().cmd("FLUSHDB").set(&here, "mine");
        let error = flush.exec(&mut client).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable, "{error}");
        // Each of these has ended its attempt.
        set.exec(&mut client).unwrap();

        let client = builder().build_async().unwrap();
        Runtime::new().unwrap().block_on(async {
            let mut client = client;
            let () = client.set(&here, "theirs").await.unwrap();
            let mut both = watch(&[&here, &there]);
            explains(&both.exec_async(&mut client).await.unwrap_err());
            aborted(set.exec_async(&mut client).await);
            watch(&[&here]).exec_async(&mut client).await.unwrap();
            let error = watch(&[&there]).exec_async(&mut client).await.unwrap_err();
            explains(&error);
            watch(&[&here]).exec_async(&mut client).await.unwrap();
            aborted(set.exec_async(&mut client).await);
            watch(&[&there]).exec_async(&mut client).await.unwrap();
            explains_pipeline(set.exec_async(&mut client).await, &nodes);
            let value: String = client.get(&here).await.unwrap();
            assert_eq!(value, "theirs");
            set.exec_async(&mut client).await.unwrap();
            both.clear();
        });
    });
}

#[track_caller]
fn explains_pipeline(result: RedisResult<()>, nodes: &[String; 2]) {
    let error = result.unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode, "{error}");
    let text = error.to_string();
    assert!(nodes.iter().all(|node| text.contains(node)), "{text}");
}

#[test]
fn only_the_first_atomic_pipeline_of_clones_that_share_a_watch_runs() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        let mut add = pipe();
        add.atomic().incr("here", 1);
        let mut watch = cmd("WATCH");
        watch.arg("here");

        let mut client = builder().build().unwrap();
        let () = client.set("here", 0).unwrap();
        let mut earlier = client.clone();
        watch.exec(&mut client).unwrap();
        let mut clone = client.clone();
        let mut third = clone.clone();
        add.exec(&mut clone).unwrap();
        aborted(add.exec(&mut client));
        add.exec(&mut client).expect("that has ended the attempt");
        cmd("UNWATCH").exec(&mut third).unwrap();
        add.exec(&mut third)
            .expect("it has ended its attempt itself");
        // A clone from before is a client of its own.
        watch.exec(&mut client).unwrap();
        add.exec(&mut earlier).unwrap();
        assert_eq!(add.query::<Option<()>>(&mut client).unwrap(), None);
        assert_eq!(client.get::<_, i32>("here").unwrap(), 4);

        // On one thread, so that no reply comes while a future is polled.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            let () = client.set("here", 0).await.unwrap();
            let mut earlier = client.clone();
            watch.exec_async(&mut client).await.unwrap();
            let mut clone = client.clone();
            add.exec_async(&mut clone).await.unwrap();
            aborted(add.exec_async(&mut client).await);
            watch.exec_async(&mut client).await.unwrap();
            add.exec_async(&mut earlier).await.unwrap();
            let done = add.query_async::<Option<()>>(&mut client).await;
            assert_eq!(done.unwrap(), None);
            assert_eq!(client.get::<_, i32>("here").await.unwrap(), 2);
            // A WATCH whose future is dropped has failed.
            let mut given_up = client.clone();
            {
                let mut watching = std::pin::pin!(watch.exec_async(&mut given_up));
                let polled = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(Future::poll(watching.as_mut(), cx))
                });
                let polled = polled.await;
                assert!(polled.is_pending(), "it waits for its reply: {polled:?}");
            }
            aborted(add.exec_async(&mut given_up).await);
            add.exec_async(&mut given_up).await.unwrap();
        });
    });
}

#[test]
fn watch_that_a_server_or_the_pool_refuses_fails_and_exec_after_it_is_not_run() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(&servers, |builder| {
        let limited = || {
            let timeout = Duration::from_millis(300);
            builder().blocking_pool_size(1).response_timeout(timeout)
        };
        let mut set = pipe();
        set.atomic().set("here", "mine");
        let mut watch = cmd("WATCH");
        watch.arg("here");
        let mut direct = servers.connection(0);
        let allow = |direct: &mut redis::Connection, rule: &str| {
            let mut acl = cmd("ACL");
            acl.arg(&["SETUSER", "default", rule]).exec(direct).unwrap();
        };
        let runtime = Runtime::new().unwrap();
        let mut client = limited().build().unwrap();
        let mut on_tokio = limited().build_async().unwrap();

        let held = client.dedicated("here").unwrap();
        let error = watch.exec(&mut client).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::PoolTimeout, "{error}");
        aborted(set.exec(&mut client));
        drop(held);
        let held = runtime.block_on(on_tokio.dedicated("here")).unwrap();
        let error = runtime
            .block_on(watch.exec_async(&mut on_tokio))
            .unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::PoolTimeout, "{error}");
        aborted(runtime.block_on(set.exec_async(&mut on_tokio)));
        drop(held);

        allow(&mut direct, "-watch");
        for _ in 0..2 {
            let error = watch.exec(&mut client).unwrap_err();
            assert_eq!(error.code(), Some("NOPERM"));
            aborted(set.exec(&mut client));
            let error = runtime
                .block_on(watch.exec_async(&mut on_tokio))
                .unwrap_err();
            assert_eq!(error.code(), Some("NOPERM"));
            aborted(runtime.block_on(set.exec_async(&mut on_tokio)));
        }
        watch.exec(&mut client).unwrap_err();
        runtime
            .block_on(watch.exec_async(&mut on_tokio))
            .unwrap_err();
        allow(&mut direct, "+watch");
        // A WATCH that succeeds begins another attempt.
        watch.exec(&mut client).unwrap();
        set.exec(&mut client).unwrap();
        runtime.block_on(watch.exec_async(&mut on_tokio)).unwrap();
        runtime.block_on(set.exec_async(&mut on_tokio)).unwrap();
    });
}

#[test]
fn transaction_async_tries_again_and_ends_as_over_redis_rs() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        Runtime::new().unwrap().block_on(async {
            let client = builder().build_async().unwrap();
            // The closure has no result twice, then one without a pipeline.
            let mut calls = 0;
            let done = transaction_async(client.clone(), &["here"], |_, _| {
                calls += 1;
                let done = (calls == 3).then_some(calls);
                async move { Ok(done) }
            });
            assert_eq!(done.await.unwrap(), 3);
            // An error of the closure.
            let failed = transaction_async::<_, _, (), _, _>(
                client.clone(),
                &["here"],
                |mut client, _| async move {
                    cmd("NOSUCH").exec_async(&mut client).await?;
                    Ok(None)
                },
            );
            assert_eq!(
                ErrorKind::of(&failed.await.unwrap_err()),
                ErrorKind::Unroutable
            );
            // Nothing is left watched by any connection.
            for node in 0..servers.len() {
                let list: String = cmd("CLIENT")
                    .arg("LIST")
                    .query(&mut servers.connection(node))
                    .unwrap();
                assert!(!list.contains("watch=1"), "{list}");
            }
        });
    });
}

#[cfg(feature = "r2d2")]
#[test]
fn r2d2_does_not_keep_a_client_that_still_watches() {
    use r2d2::ManageConnection;

    let Some(servers) = Servers::start(1) else {
        return;
    };
    let manager = support::client(&servers);
    let mut client = manager.connect().unwrap();
    assert!(!manager.has_broken(&mut client));
    cmd("WATCH").arg("here").exec(&mut client).unwrap();
    assert!(manager.has_broken(&mut client));
    cmd("UNWATCH").exec(&mut client).unwrap();
    assert!(!manager.has_broken(&mut client));
}

#[test]
fn read_of_a_missing_node_is_no_miss_while_the_handle_watches_keys() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(&servers, |builder| {
        let builder = || builder().missing_nodes(ReadsAs::Miss);
        let mut client = builder().build().unwrap();
        let (here, _, there) = keys(&client);
        let down = client.node_for(&there).unwrap().index().get();
        servers.kill(down);
        let missed = || Ok(None::<String>);
        assert_eq!(client.get(&there), missed());
        let () = cmd("WATCH").arg(&here).query(&mut client).unwrap();
        // Also of a clone, and of a handle with other options.
        for handle in [&client, &client.clone(), &client.with_timeout(None)] {
            let read: RedisResult<Option<String>> = handle.clone().get(&there);
            assert_eq!(ErrorKind::of(&read.unwrap_err()), ErrorKind::NodeDown);
        }
        let () = pipe().atomic().set(&here, 1).query(&mut client).unwrap();
        assert_eq!(client.get(&there), missed());
        let () = cmd("WATCH").arg(&here).query(&mut client).unwrap();
        let () = cmd("UNWATCH").query(&mut client).unwrap();
        assert_eq!(client.get(&there), missed());

        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            assert_eq!(client.get(&there).await, missed());
            let watch = cmd("WATCH").arg(&here).clone();
            let () = watch.query_async(&mut client).await.unwrap();
            let read: RedisResult<Option<String>> = client.get(&there).await;
            assert_eq!(ErrorKind::of(&read.unwrap_err()), ErrorKind::NodeDown);
            let mut pipe = pipe();
            let set = pipe.atomic().set(&here, 1);
            let () = set.query_async(&mut client).await.unwrap();
            assert_eq!(client.get(&there).await, missed());
        });
        servers.restart(down);
    });
}

#[test]
fn execute_pipeline_of_a_client_that_watches_keys_runs_no_transaction_unwatched() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(&servers, |builder| {
        let mut add = pipe();
        add.atomic().incr("here", 1);
        let mut read = pipe();
        read.get("here");
        let mut watch = cmd("WATCH");
        watch.arg("here");

        let mut client = builder().build().unwrap();
        let () = client.set("here", 0).unwrap();
        watch.exec(&mut client).unwrap();
        let () = client.set("here", 5).unwrap();
        let error = client.execute_pipeline(&add).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stateful, "{error}");
        assert_eq!(client.execute_pipeline(&read).unwrap().len(), 1);
        assert_eq!(add.query::<Option<()>>(&mut client).unwrap(), None);
        client.execute_pipeline(&add).unwrap();
        assert_eq!(client.get::<_, i32>("here").unwrap(), 6);

        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            watch.exec_async(&mut client).await.unwrap();
            let () = client.set("here", 5).await.unwrap();
            let error = client.execute_pipeline(&add).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stateful, "{error}");
            assert_eq!(client.execute_pipeline(&read).await.unwrap().len(), 1);
            let done = add.query_async::<Option<()>>(&mut client).await;
            assert_eq!(done.unwrap(), None);
            client.execute_pipeline(&add).await.unwrap();
            assert_eq!(client.get::<_, i32>("here").await.unwrap(), 6);
        });
    });
}

#[test]
fn watch_in_a_pipeline_is_refused_and_exec_after_it_is_not_run() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(&servers, |builder| {
        let mut watch = pipe();
        watch.cmd("WATCH").arg("here").get("here");
        let mut set = pipe();
        set.atomic().set("here", "mine");

        let mut client = builder().build().unwrap();
        for is_watching in [false, true] {
            if is_watching {
                cmd("WATCH").arg("{here}").exec(&mut client).unwrap();
            }
            let error = watch.exec(&mut client).unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Stateful, "{error}");
            aborted(set.exec(&mut client));
            set.exec(&mut client).unwrap();
        }

        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            for is_watching in [false, true] {
                if is_watching {
                    let mut first = cmd("WATCH");
                    let first = first.arg("{here}");
                    first.exec_async(&mut client).await.unwrap();
                }
                let error = watch.exec_async(&mut client).await.unwrap_err();
                assert_eq!(ErrorKind::of(&error), ErrorKind::Stateful, "{error}");
                aborted(set.exec_async(&mut client).await);
                set.exec_async(&mut client).await.unwrap();
            }
        });
    });
}

#[test]
fn transaction_of_a_client_that_watches_keys_has_the_timeout_of_its_handle() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(&servers, |builder| {
        let mut add = pipe();
        add.atomic().incr("here", 1);
        let mut watch = cmd("WATCH");
        watch.arg("here");
        let late = |error| assert_eq!(ErrorKind::of(&error), ErrorKind::Timeout, "{error}");

        let mut client = builder().build().unwrap();
        let () = client.set("here", 0).unwrap();
        watch.exec(&mut client).unwrap();
        let mut hasty = client.with_timeout(Duration::ZERO);
        late(watch.exec(&mut hasty).unwrap_err());
        aborted(add.exec(&mut client));
        watch.exec(&mut client).unwrap();
        let mut hasty = client.with_timeout(Duration::ZERO);
        late(add.exec(&mut hasty).unwrap_err());
        assert_eq!(client.get::<_, i32>("here").unwrap(), 0);

        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            watch.exec_async(&mut client).await.unwrap();
            let mut hasty = client.with_timeout(Duration::ZERO);
            late(watch.exec_async(&mut hasty).await.unwrap_err());
            aborted(add.exec_async(&mut client).await);
            watch.exec_async(&mut client).await.unwrap();
            let mut hasty = client.with_timeout(Duration::ZERO);
            late(add.exec_async(&mut hasty).await.unwrap_err());
            assert_eq!(client.get::<_, i32>("here").await.unwrap(), 0);
        });
    });
}

#[test]
fn hash_tags_required_holds_between_watch_and_the_transaction_of_a_client() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(&servers, |builder| {
        let builder = || builder().hash_tags(HashTags::Required);
        let watch = |key: &str| cmd("WATCH").arg(key).clone();
        let set = |key: &str| {
            let mut set = pipe();
            set.atomic().set(key, "mine");
            set
        };
        let refused = |error: redis::RedisError| {
            assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode, "{error}");
            assert!(error.to_string().contains("hash tag"), "{error}");
        };

        let mut client = builder().build().unwrap();
        watch("here").exec(&mut client).unwrap();
        refused(set("other").exec(&mut client).unwrap_err());
        watch("here").exec(&mut client).unwrap();
        refused(watch("other").exec(&mut client).unwrap_err());
        aborted(set("here").exec(&mut client));
        watch("here").exec(&mut client).unwrap();
        watch("{here}:2").exec(&mut client).unwrap();
        set("{here}:3").exec(&mut client).unwrap();

        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = builder().build_async().unwrap();
            watch("here").exec_async(&mut client).await.unwrap();
            refused(set("other").exec_async(&mut client).await.unwrap_err());
            watch("here").exec_async(&mut client).await.unwrap();
            refused(watch("other").exec_async(&mut client).await.unwrap_err());
            aborted(set("here").exec_async(&mut client).await);
            watch("here").exec_async(&mut client).await.unwrap();
            watch("{here}:2").exec_async(&mut client).await.unwrap();
            set("{here}:3").exec_async(&mut client).await.unwrap();
        });
    });
}

#[cfg(all(feature = "bb8", feature = "deadpool"))]
#[tokio::test]
async fn bb8_and_deadpool_do_not_keep_a_client_that_still_watches() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = builder_over(servers.urls()).build_async().unwrap();
    let watch = cmd("WATCH").arg("key").clone();
    let bb8 = bb8::Pool::builder()
        .max_size(1)
        .build(client.clone())
        .await
        .unwrap();
    let deadpool = deadpool::managed::Pool::<aio::ShardedClient>::builder(client)
        .max_size(1)
        .build()
        .unwrap();
    for _ in 0..2 {
        // An atomic pipeline of a clone that had been kept would fail, as the watched key has changed.
        let mut lent = bb8.get().await.unwrap();
        let () = pipe()
            .atomic()
            .set("key", 1)
            .query_async(&mut *lent)
            .await
            .unwrap();
        let () = watch.query_async(&mut *lent).await.unwrap();
        drop(lent);
        let mut lent = deadpool.get().await.unwrap();
        let () = pipe()
            .atomic()
            .set("key", 2)
            .query_async(&mut *lent)
            .await
            .unwrap();
        let () = watch.query_async(&mut *lent).await.unwrap();
    }
}
