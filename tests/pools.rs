//! Clients lent by the pools of other crates, while one of four nodes is down or hangs.
#![cfg(all(feature = "bb8", feature = "deadpool", feature = "r2d2"))]

mod support;

use std::time::{Duration, Instant};

use redis::{AsyncCommands, Commands};
use redis_sharding::{Builder, ErrorKind, aio};
use support::{Servers, builder};

const DEAD: usize = 2;
/// How long a checkout may take. A request to a node that hangs takes [`RESPONSE_TIMEOUT`].
const CHECKOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Four servers, and a key of a node that will be lost and of one that will not.
fn servers() -> Option<(Servers, Builder, [String; 2])> {
    let servers = Servers::start(4)?;
    let builder = || builder(&servers).response_timeout(RESPONSE_TIMEOUT);
    let client = builder().build().unwrap();
    let owned = |is_dead: bool| {
        let mut keys = (0..).map(|number| format!("key:{number}"));
        keys.find(|key| (client.node_for(key).unwrap().index().get() == DEAD) == is_dead)
            .unwrap()
    };
    let keys = [owned(true), owned(false)];
    let builder = builder();
    Some((servers, builder, keys))
}

/// The two ways in which a node is lost.
const LOSSES: [fn(&Servers, usize); 2] = [Servers::kill, Servers::pause];

#[test]
fn r2d2_pool_lends_connections_while_a_node_is_down_or_hangs() {
    for lose in LOSSES {
        let Some((servers, builder, [lost, kept])) = servers() else {
            return;
        };
        let client = builder.build().unwrap();
        // Over an open connection, a request to a node that hangs takes the whole response timeout.
        redis::cmd("PING").exec(&mut client.clone()).unwrap();
        let pool = || {
            r2d2::Pool::builder()
                .max_size(2)
                .connection_timeout(CHECKOUT)
                .build(client.clone())
        };
        let before = pool().unwrap();
        lose(&servers, DEAD);
        // Made when all nodes were there, and made when one was missing.
        for pool in [before, pool().unwrap()] {
            let start = Instant::now();
            for _ in 0..4 {
                let mut connection = pool.get().unwrap();
                let () = connection.set(&kept, 1).unwrap();
                assert_eq!(connection.get::<_, i64>(&kept).unwrap(), 1);
            }
            assert!(start.elapsed() < CHECKOUT, "{:?}", start.elapsed());
        }
        servers.kill(DEAD);
        let mut connection = pool().unwrap().get().unwrap();
        let error = connection.get::<_, ()>(&lost).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
    }
}

/// Uses a client that a pool has lent.
async fn use_lent(client: &mut aio::ShardedClient, kept: &str) {
    let () = client.set(kept, 1).await.unwrap();
    assert_eq!(client.get::<_, i64>(kept).await.unwrap(), 1);
}

#[tokio::test]
async fn bb8_pool_lends_connections_while_a_node_is_down_or_hangs() {
    for lose in LOSSES {
        let Some((servers, builder, [lost, kept])) = servers() else {
            return;
        };
        let client = builder.build_async().unwrap();
        let ping = redis::cmd("PING");
        ping.exec_async(&mut client.clone()).await.unwrap();
        let pool = || {
            bb8::Pool::builder()
                .max_size(2)
                .connection_timeout(CHECKOUT)
                .build(client.clone())
        };
        let before = pool().await.unwrap();
        lose(&servers, DEAD);
        for pool in [before, pool().await.unwrap()] {
            let start = Instant::now();
            for _ in 0..4 {
                use_lent(&mut pool.get().await.unwrap(), &kept).await;
            }
            assert!(start.elapsed() < CHECKOUT, "{:?}", start.elapsed());
        }
        servers.kill(DEAD);
        let pool = pool().await.unwrap();
        let error = pool
            .get()
            .await
            .unwrap()
            .get::<_, ()>(&lost)
            .await
            .unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
    }
}

#[tokio::test]
async fn deadpool_pool_lends_clients_while_a_node_is_down_or_hangs() {
    use deadpool::managed::Pool;

    for lose in LOSSES {
        let Some((servers, builder, [lost, kept])) = servers() else {
            return;
        };
        let client = builder.build_async().unwrap();
        let ping = redis::cmd("PING");
        ping.exec_async(&mut client.clone()).await.unwrap();
        let pool = || -> Pool<aio::ShardedClient> {
            Pool::builder(client.clone()).max_size(2).build().unwrap()
        };
        let before = pool();
        lose(&servers, DEAD);
        for pool in [before, pool()] {
            let start = Instant::now();
            for _ in 0..4 {
                use_lent(&mut pool.get().await.unwrap(), &kept).await;
            }
            assert_eq!(pool.status().size, 1, "one was recycled");
            assert!(start.elapsed() < CHECKOUT, "{:?}", start.elapsed());
        }
        servers.kill(DEAD);
        let mut client = pool().get().await.unwrap();
        let error = client.get::<_, ()>(&lost).await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
    }
}
