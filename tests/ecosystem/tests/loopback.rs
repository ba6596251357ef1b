//! Crates that know one server work with many nodes through `Builder::proxy_on_loopback`: pools, locks, caches.
//! `docs/ecosystem.md` has the table.

#[path = "../../support/authority.rs"]
#[allow(dead_code, reason = "no TLS here")]
mod authority;
#[path = "../../support/servers.rs"]
#[allow(
    dead_code,
    reason = "what the tests of the crate share has more than is needed here"
)]
mod servers;

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{AsyncCommands, Commands};
use redis_sharding::ShardedClient;
use redis_sharding::proxy::LoopbackProxy;

use servers::Servers;

type Outcome = Result<(), Box<dyn Error>>;

const NODES: usize = 4;

/// Servers and the proxy in front of them, which is stopped first.
struct Fleet {
    proxy: LoopbackProxy,
    servers: Servers,
}

impl Fleet {
    fn start() -> Option<Self> {
        let servers = Servers::start(NODES)?;
        let nodes = servers.urls().into_iter().enumerate();
        let builder = nodes.fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        });
        Some(Self {
            proxy: builder.proxy_on_loopback().unwrap(),
            servers,
        })
    }

    /// How many keys each server has.
    fn keys(&self) -> Vec<usize> {
        let size = |server| redis::cmd("DBSIZE").query(&mut self.servers.connection(server));
        (0..NODES).map(|server| size(server).unwrap()).collect()
    }

    /// All servers have keys, so many together.
    #[track_caller]
    fn check_spread(&self, expected: usize) {
        let keys = self.keys();
        assert_eq!(keys.iter().sum::<usize>(), expected, "{keys:?}");
        assert!(keys.iter().all(|&keys| keys > 0), "{keys:?}");
    }
}

#[tokio::test]
async fn bb8_redis_pools_connections_to_all_nodes() -> Outcome {
    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let manager = bb8_redis::RedisConnectionManager::new(fleet.proxy.url())?;
    let pool = bb8_redis::bb8::Pool::builder()
        .max_size(4)
        .build(manager)
        .await?;
    let tasks = (0..40).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut connection = pool.get().await.unwrap();
            let () = connection
                .set(format!("key:{number}"), number)
                .await
                .unwrap();
            let keys = [format!("key:{number}"), "none".to_owned()];
            let found: Vec<Option<u32>> = connection.mget(&keys).await.unwrap();
            assert_eq!(found, [Some(number), None]);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await?;
    }
    fleet.check_spread(40);
    assert!(pool.state().connections <= 4);
    Ok(())
}

#[tokio::test]
async fn deadpool_redis_pools_connections_to_all_nodes_and_recycles_them() -> Outcome {
    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let config = deadpool_redis::Config::from_url(fleet.proxy.url());
    let pool = config.create_pool(Some(deadpool_redis::Runtime::Tokio1))?;
    // Recycling sends UNWATCH and PING in one pipeline.
    for number in 0..40 {
        let mut connection = pool.get().await?;
        let () = connection.set(format!("key:{number}"), number).await?;
    }
    fleet.check_spread(40);
    assert_eq!(pool.status().size, 1);
    let mut connection = pool.get().await?;
    let mut pipeline = redis::pipe();
    for number in 0..40 {
        pipeline.incr(format!("key:{number}"), 1);
    }
    let sums: Vec<u32> = pipeline.query_async(&mut *connection).await?;
    assert!(sums.into_iter().eq(1..41));
    Ok(())
}

#[tokio::test]
async fn rslock_locks_extends_and_frees() -> Outcome {
    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let mut locks = rslock::LockManager::new(vec![fleet.proxy.url()]);
    locks.set_retry(1, Duration::from_millis(10));
    let ttl = Duration::from_secs(60);
    for name in (0..20).map(|number| format!("lock:{number}")) {
        let lock = locks.lock(name.as_bytes(), ttl).await.unwrap();
        assert!(locks.lock(name.as_bytes(), ttl).await.is_err());
        let lock = locks.extend(&lock, 2 * ttl).await.unwrap();
        assert!(!locks.is_freed(&lock).await.unwrap());
        locks.unlock(&lock).await;
        // Its own way to report that the key is gone, whatever the server.
        let freed = locks.is_freed(&lock).await;
        assert!(
            matches!(freed, Err(rslock::LockError::RedisKeyNotFound)),
            "{freed:?}"
        );
        locks.lock(name.as_bytes(), ttl).await.unwrap();
    }
    fleet.check_spread(20);
    Ok(())
}

#[test]
fn cached_keeps_results_of_a_blocking_program() -> Outcome {
    use cached::{ConcurrentCached, RedisCache};

    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let cache: RedisCache<u32, String> = RedisCache::builder("squares")
        .ttl(Duration::from_secs(60))
        .connection_string(fleet.proxy.url())
        .build()?;
    for number in 0..40 {
        assert_eq!(cache.cache_get(&number)?, None);
        cache.cache_set(number, (number * number).to_string())?;
        assert_eq!(
            cache.cache_get(&number)?,
            Some((number * number).to_string())
        );
    }
    fleet.check_spread(40);
    assert_eq!(cache.cache_remove(&7)?, Some("49".to_owned()));
    fleet.check_spread(39);
    // By SCAN and DEL.
    cache.cache_clear()?;
    assert_eq!(fleet.keys().iter().sum::<usize>(), 0);
    Ok(())
}

#[tokio::test]
async fn cached_keeps_results_of_an_async_program() -> Outcome {
    use cached::{AsyncRedisCache, ConcurrentCachedAsync};

    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let cache: AsyncRedisCache<u32, String> = AsyncRedisCache::builder("squares")
        .ttl(Duration::from_secs(60))
        .connection_string(fleet.proxy.url())
        .build()
        .await?;
    for number in 0..40 {
        assert_eq!(cache.async_cache_get(&number).await?, None);
        cache
            .async_cache_set(number, (number * number).to_string())
            .await?;
        assert_eq!(
            cache.async_cache_get(&number).await?,
            Some((number * number).to_string())
        );
    }
    fleet.check_spread(40);
    cache.async_cache_clear().await?;
    assert_eq!(fleet.keys().iter().sum::<usize>(), 0);
    Ok(())
}

#[test]
fn r2d2_pools_connections_of_a_blocking_program() -> Outcome {
    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let client = redis::Client::open(fleet.proxy.url())?;
    let pool = r2d2::Pool::builder().max_size(4).build(client)?;
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pool, failed) = (&pool, &failed);
            scope.spawn(move || {
                for number in 0..10 {
                    let mut connection = pool.get().unwrap();
                    let set: redis::RedisResult<()> =
                        connection.set(format!("key:{thread}:{number}"), number);
                    failed.fetch_add(usize::from(set.is_err()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0);
    fleet.check_spread(40);
    Ok(())
}

#[test]
fn redis_rs_itself_runs_scripts_transactions_and_subscriptions_on_a_plain_client() -> Outcome {
    let Some(fleet) = Fleet::start() else {
        return Ok(());
    };
    let client = redis::Client::open(fleet.proxy.url())?;
    let mut connection = client.get_connection()?;
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let sum: u32 = script.key("counter").arg(5).invoke(&mut connection)?;
    assert_eq!(sum, 5);
    let keys = ["{cart}:a", "{cart}:b"];
    let (sum,): (u32,) = redis::transaction(&mut connection, &keys, |connection, pipe| {
        let old: Option<u32> = connection.get("{cart}:a")?;
        pipe.set("{cart}:a", old.unwrap_or(1) + 1)
            .ignore()
            .incr("{cart}:b", 3)
            .query(connection)
    })?;
    assert_eq!(sum, 3);
    assert_eq!(connection.get::<_, u32>("{cart}:a")?, 2);

    let mut listener = client.get_connection()?;
    listener.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut channels = listener.as_pubsub();
    channels.subscribe("news")?;
    assert_eq!(connection.publish::<_, _, u32>("news", "hello")?, 1);
    assert_eq!(channels.get_message()?.get_payload::<String>()?, "hello");
    Ok(())
}
