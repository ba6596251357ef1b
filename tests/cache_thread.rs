//! The thread that probes: a process has it while a cache has seen a failure, and no longer. One test, as it counts the
//! threads of its process.
#![cfg(all(target_os = "linux", feature = "testing"))]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{Ejection, ShardedClient};

const PATIENCE: Duration = Duration::from_secs(20);

/// Number of threads with the name of the one that probes, of which the kernel keeps 15 bytes.
fn monitors() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim_end() == "redis-sharding")
        .count()
}

fn until(what: &str, mut is_done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn thread_that_probes_exists_from_the_first_failure_of_a_cache_until_its_last_handle_is_dropped() {
    let nodes = TestNode::start_many(2).unwrap();
    let builder = || {
        (0..)
            .zip(&nodes)
            .fold(ShardedClient::builder(), |builder, (number, node)| {
                builder.node(format!("node-{number}"), node.url())
            })
    };
    let use_all = |client: &mut ShardedClient| {
        for key in 0..100 {
            let _ = client.set::<_, _, ()>(key, "value");
        }
    };
    let mut store = builder().build().unwrap();
    let mut cache = builder().cache(Ejection::new()).build().unwrap();
    use_all(&mut store);
    use_all(&mut cache);
    assert_eq!(monitors(), 0, "nothing has failed");
    nodes[0].stop();
    use_all(&mut store);
    assert_eq!(monitors(), 0, "a store ejects nothing");
    use_all(&mut cache);
    until("a probe", || monitors() > 0);
    let clone = cache.clone();
    drop(cache);
    until("the node is out", || {
        let out = clone.topology().out().len();
        let _ = clone.clone().get::<_, Option<String>>("key");
        out == 1
    });
    drop(clone);
    until("the threads have ended", || monitors() == 0);
    let heartbeat = Ejection::new().with_heartbeat(Some(Duration::from_millis(50)));
    let cache = builder().cache(heartbeat).build().unwrap();
    until("the heartbeat", || monitors() > 0);
    until("the heartbeat has found the node", || {
        cache.topology().out().len() == 1
    });
    drop(cache);
    until("the threads have ended", || monitors() == 0);
}
