//! What redis-rs' own connections answer to empty commands and pipelines and to commands that are not queued, and what
//! this crate refuses for all nodes.
#![cfg(feature = "tokio-comp")]

mod support;

use redis::aio::ConnectionLike as AsyncConnectionLike;
use redis::{ConnectionLike, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::ErrorKind;
use support::{Servers, builder};

/// What may be compared of a result.
fn text<T: std::fmt::Debug>(result: RedisResult<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}

fn blocking(pipeline: &Pipeline, connection: &mut dyn ConnectionLike) -> [String; 4] {
    [
        text(pipeline.exec(connection)),
        text(pipeline.query::<()>(connection)),
        text(pipeline.query::<Vec<Value>>(connection)),
        text(pipeline.query::<Option<()>>(connection)),
    ]
}

async fn on_tokio(
    pipeline: &Pipeline,
    connection: &mut (impl AsyncConnectionLike + Send),
) -> [String; 4] {
    [
        text(pipeline.exec_async(connection).await),
        text(pipeline.query_async::<()>(connection).await),
        text(pipeline.query_async::<Vec<Value>>(connection).await),
        text(pipeline.query_async::<Option<()>>(connection).await),
    ]
}

#[test]
fn empty_pipelines_behave_as_in_redis_rs() {
    let (Some(servers), Some(single)) = (Servers::start(3), Servers::start(1)) else {
        return;
    };
    let mut atomic = pipe();
    atomic.atomic();
    let empty = pipe();
    for pipeline in [&empty, &atomic] {
        let what = if pipeline.is_transaction() {
            "atomic"
        } else {
            "plain"
        };
        let expected = blocking(pipeline, &mut single.connection(0));
        let mut client = builder(&servers).build().unwrap();
        let mut node = client.node("node-1").unwrap();
        let mut dedicated = client.dedicated("k").unwrap();
        assert_eq!(blocking(pipeline, &mut client), expected, "{what}");
        assert_eq!(blocking(pipeline, &mut node), expected, "{what}, a node");
        assert_eq!(
            blocking(pipeline, &mut dedicated),
            expected,
            "{what}, dedicated"
        );

        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let redis = redis::Client::open(single.url(0)).unwrap();
            let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
            let expected = on_tokio(pipeline, &mut redis).await;
            let mut client = builder(&servers).build_async().unwrap();
            let mut node = client.node("node-1").unwrap();
            let mut dedicated = client.dedicated("k").await.unwrap();
            assert_eq!(on_tokio(pipeline, &mut client).await, expected, "{what}");
            assert_eq!(
                on_tokio(pipeline, &mut node).await,
                expected,
                "{what}, a node"
            );
            assert_eq!(
                on_tokio(pipeline, &mut dedicated).await,
                expected,
                "{what}, dedicated"
            );
        });
    }
    atomic
        .exec(&mut builder(&servers).build().unwrap())
        .unwrap();
}

#[test]
fn config_set_and_acl_setuser_do_not_lock_the_clients_out() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = builder(&servers).build().unwrap();
    let mut tokio = builder(&servers).build_async().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for words in [
        &["CONFIG", "SET", "requirepass", "hidden"][..],
        &["config", "set", "maxmemory", "0", "RequirePass", "hidden"],
        &["CONFIG", "SET", "masterauth", "hidden"],
        &["CONFIG", "SET", "protected-mode", "yes"],
        &["CONFIG", "SET", "tls-auth-clients", "yes"],
        &["ACL", "SETUSER", "default", ">hidden"],
        &["ACL", "DELUSER", "other", "default"],
    ] {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        let pipeline = {
            let mut pipeline = pipe();
            pipeline.add_command(command.clone());
            pipeline
        };
        for error in [
            command.exec(&mut client).unwrap_err(),
            pipeline.exec(&mut client).unwrap_err(),
            runtime
                .block_on(command.exec_async(&mut tokio))
                .unwrap_err(),
            runtime
                .block_on(pipeline.exec_async(&mut tokio))
                .unwrap_err(),
        ] {
            assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable, "{words:?}");
            let text = error.to_string();
            assert!(
                text.contains("client.node(name)") && !text.contains("hidden"),
                "{text}"
            );
        }
    }
    for index in 0..servers.len() {
        servers.connection(index);
    }
    // By name it is the user's own decision; what was connected before stays so.
    let mut node = client.node("node-0").unwrap();
    let mut set = cmd("CONFIG");
    set.arg("SET")
        .arg("requirepass")
        .arg("x")
        .exec(&mut node)
        .unwrap();
}

/// What redis-rs' users may ask of an error, without texts.
fn answers(error: redis::RedisError) -> (redis::ErrorKind, Option<String>, Vec<usize>) {
    let (kind, code) = (error.kind(), error.code().map(str::to_owned));
    let errors = error.into_server_errors();
    let indices = errors.iter().flat_map(|errors| errors.iter());
    (kind, code, indices.map(|(index, _)| *index).collect())
}

/// The errors of `pipeline` over the three blocking handles and the three of tokio. The keys are those of `key`.
fn errors_of(servers: &Servers, key: &str, pipeline: &Pipeline) -> Vec<redis::RedisError> {
    let mut client = builder(servers).build().unwrap();
    let mut node = client.node_for(key).unwrap();
    let mut dedicated = client.dedicated(key).unwrap();
    let mut errors = vec![
        pipeline.exec(&mut client).unwrap_err(),
        pipeline.exec(&mut node).unwrap_err(),
        pipeline.exec(&mut dedicated).unwrap_err(),
    ];
    // The connection is still usable, so it was left outside of the transaction.
    cmd("GET").arg(key).exec(&mut dedicated).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = builder(servers).build_async().unwrap();
        let mut node = client.node_for(key).unwrap();
        let mut dedicated = client.dedicated(key).await.unwrap();
        errors.push(pipeline.exec_async(&mut client).await.unwrap_err());
        errors.push(pipeline.exec_async(&mut node).await.unwrap_err());
        errors.push(pipeline.exec_async(&mut dedicated).await.unwrap_err());
        cmd("GET")
            .arg(key)
            .exec_async(&mut dedicated)
            .await
            .unwrap();
    });
    errors
}

#[test]
fn empty_command_is_the_error_of_redis_rs_in_every_form() {
    let (Some(servers), Some(single)) = (Servers::start(3), Servers::start(1)) else {
        return;
    };
    let empty = redis::Cmd::new();
    let expected = text(empty.query::<Value>(&mut single.connection(0)));
    assert_eq!(expected, "Client: empty command - Client");
    let mut client = builder(&servers).build().unwrap();
    assert_eq!(text(empty.query::<Value>(&mut client)), expected);
    let mut node = client.node("node-1").unwrap();
    assert_eq!(text(empty.query::<Value>(&mut node)), expected);
    let mut dedicated = client.dedicated("k").unwrap();
    assert_eq!(text(empty.query::<Value>(&mut dedicated)), expected);
    let error = client.execute(&empty).unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Redis, false)
    );

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = builder(&servers).build_async().unwrap();
        assert_eq!(
            text(empty.query_async::<Value>(&mut client).await),
            expected
        );
        let mut node = client.node("node-1").unwrap();
        assert_eq!(text(empty.query_async::<Value>(&mut node).await), expected);
        let mut dedicated = client.dedicated("k").await.unwrap();
        assert_eq!(
            text(empty.query_async::<Value>(&mut dedicated).await),
            expected
        );
    });
    // A server has no reply to an empty command, so redis-rs waits for one; here the pipeline is refused.
    for atomic in [false, true] {
        let mut pipeline = pipe();
        pipeline.set("k", 1).add_command(redis::Cmd::new());
        if atomic {
            pipeline.atomic();
        }
        for error in errors_of(&servers, "k", &pipeline) {
            assert_eq!(text(Err::<(), _>(error)), expected, "atomic: {atomic}");
        }
        assert!(!cmd("EXISTS").arg("k").query::<bool>(&mut client).unwrap());
    }
}

#[test]
fn subscribe_without_a_channel_is_the_error_of_a_server() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let none: [&str; 0] = [];
    let mut subscriber = builder(&servers).build().unwrap().subscriber();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut tokio = builder(&servers).build_async().unwrap().subscriber();
    for (command, error) in [
        ("subscribe", subscriber.subscribe(&none)),
        ("psubscribe", subscriber.psubscribe(&none)),
        ("ssubscribe", subscriber.ssubscribe(&none)),
        ("subscribe", runtime.block_on(tokio.subscribe(&none))),
        ("psubscribe", runtime.block_on(tokio.psubscribe(&none))),
        ("ssubscribe", runtime.block_on(tokio.ssubscribe(&none))),
    ] {
        let error = redis::RedisError::from(error.unwrap_err());
        let expected = cmd(command).exec(&mut servers.connection(0)).unwrap_err();
        assert_eq!(error, expected);
        assert_eq!(error.code(), Some("ERR"), "{command}");
    }
}

#[test]
fn wrong_arity_in_a_transaction_is_execabort_with_the_index_of_each_command() {
    let (Some(servers), Some(single)) = (Servers::start(3), Servers::start(1)) else {
        return;
    };
    let mut pipeline = pipe();
    pipeline.atomic();
    pipeline.set("{t}a", 1).cmd("GET").set("{t}b", 2).ignore();
    pipeline.cmd("HSET").arg("{t}c").arg("field");
    let expected = answers(pipeline.exec(&mut single.connection(0)).unwrap_err());
    assert_eq!(expected.2, [1, 3]);
    for error in errors_of(&servers, "{t}a", &pipeline) {
        let shown = error.to_string();
        assert!(
            shown.contains("ERR wrong number of arguments for 'get' command"),
            "{shown}"
        );
        assert!(
            shown.contains("ERR wrong number of arguments for 'hset' command"),
            "{shown}"
        );
        assert_eq!(answers(error), expected);
    }
    let mut client = builder(&servers).build().unwrap();
    let set: u64 = cmd("EXISTS")
        .arg(&["{t}a", "{t}b"])
        .query(&mut client)
        .unwrap();
    assert_eq!(
        set, 0,
        "nothing of a transaction that is aborted is applied"
    );
}

#[test]
fn commands_that_a_server_does_not_queue_are_listed_with_their_indices() {
    let (Some(servers), Some(single)) = (Servers::start(2), Servers::start(1)) else {
        return;
    };
    let mut connections = vec![
        single.connection(0),
        servers.connection(0),
        servers.connection(1),
    ];
    for connection in &mut connections {
        cmd("REPLICAOF")
            .arg(&["127.0.0.1", "1"])
            .exec(connection)
            .unwrap();
    }
    let mut pipeline = pipe();
    pipeline
        .atomic()
        .get("{t}a")
        .set("{t}a", 1)
        .ignore()
        .get("{t}a")
        .set("{t}a", 2);
    let expected = answers(pipeline.exec(&mut connections[0]).unwrap_err());
    assert_eq!(expected.2, [1, 3]);
    for error in errors_of(&servers, "{t}a", &pipeline) {
        assert!(error.to_string().contains("READONLY"), "{error}");
        assert_eq!(ErrorKind::of(&error), ErrorKind::Redis);
        assert_eq!(answers(error), expected);
    }
}

#[test]
fn wrong_arity_in_a_pipeline_has_the_index_of_its_command() {
    let (Some(servers), Some(single)) = (Servers::start(3), Servers::start(1)) else {
        return;
    };
    let mut pipeline = pipe();
    pipeline
        .set("a", 1)
        .cmd("PING")
        .cmd("GET")
        .cmd("GET")
        .arg("a");
    let expected = pipeline.exec(&mut single.connection(0)).unwrap_err();
    for error in errors_of(&servers, "a", &pipeline) {
        assert_eq!(answers(error), answers(expected.clone()));
    }
}
