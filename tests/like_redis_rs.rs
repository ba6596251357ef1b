//! What redis-rs' own connections answer to pipelines without commands, and what this crate refuses for all nodes.
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
