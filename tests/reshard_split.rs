//! Four nodes become eight by replication: each new node is a replica of the one whose keys it takes, until all of them
//! move at once. With clients of all kinds, and with a mover that is stopped before each step.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use redis_sharding::hash::KeyHash;
use redis_sharding::ops::reshard::{
    Reshard, ReshardEvent, ReshardMethod, ReshardOptions, ReshardOutcome, ReshardPlan,
};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::partition::HashMod;
use redis_sharding::{Builder, ShardedClient, Topology};

use self::support::Servers;
use self::support::all_clients::{AllClients, End, KINDS};
use self::support::reshard_fleet::{over, seed_of_now, topology};
use self::support::reshard_model::{Worker, bystanders, check_servers, wait_until_followed};

/// By this rule a node of twice as many takes keys from one node alone.
fn halved(servers: &Servers, count: usize) -> Arc<Topology> {
    topology(servers, count, HashMod::new(KeyHash::Crc32))
}

/// A description of a client that places keys so.
fn halving(servers: &Servers, count: usize) -> Builder {
    over(servers, count).partitioner(HashMod::new(KeyHash::Crc32))
}

/// Servers whose replicas are sent their keys at once.
fn start(count: usize) -> Option<Servers> {
    Servers::builder()
        .option(["--repl-diskless-sync-delay", "0"])
        .start(count)
}

fn publish(servers: &Servers, count: usize) -> Arc<Topology> {
    let first = halved(servers, count);
    let record = FleetRecord::new(over(servers, count)).unwrap();
    record.publish(&first, PublishOptions::default()).unwrap();
    first
}

fn mover(servers: &Servers, to: &Topology, options: ReshardOptions) -> Reshard {
    // A loaded machine keeps clients from saying in time what they know.
    let options = options
        .with_administrator("test")
        .with_fence_bound(Duration::from_secs(10));
    Reshard::new(over(servers, 1), to.clone(), options).unwrap()
}

fn finish(servers: &Servers, to: &Topology, options: ReshardOptions) -> Vec<ReshardEvent> {
    let mut events = Vec::new();
    let outcome = mover(servers, to, options).run(|event| events.push(event));
    assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    events
}

fn copying() -> ReshardOptions {
    ReshardOptions::new().with_method(ReshardMethod::Copy)
}

/// The pairs that a plan moves by replication.
fn splits(plan: &ReshardPlan) -> Vec<(&str, &str)> {
    let splits = plan.splits.iter();
    splits
        .map(|split| (&*split.source, &*split.target))
        .collect()
}

/// The times for which units were closed, and the number of keys, of the pairs that moved by replication.
fn closures(events: &[ReshardEvent]) -> (Vec<Duration>, u64) {
    let mut closures = Vec::new();
    let mut all = 0;
    for event in events {
        if let ReshardEvent::Split { closed, keys, .. } = event {
            closures.push(*closed);
            all += keys;
        }
    }
    closures.sort();
    (closures, all)
}

fn given_up(events: &[ReshardEvent]) -> Vec<String> {
    let events = events.iter().filter_map(|event| match event {
        ReshardEvent::SplitGivenUp { target, cause, .. } => Some(format!("{target}: {cause}")),
        _ => None,
    });
    events.collect()
}

/// Nothing of a split is left at any server.
fn check_nothing_left(servers: &Servers, when: &str) {
    for index in 0..servers.len() {
        let mut connection = servers.connection(index);
        let info: String = cmd("INFO")
            .arg("replication")
            .query(&mut connection)
            .unwrap();
        let is_alone = info.contains("role:master") && info.contains("connected_slaves:0");
        assert!(is_alone, "{when}: {index}: {info}");
        let script = "redis.call('SELECT', 15) return redis.call('KEYS', 'redis-sharding:*')";
        let keys: Vec<String> = cmd("EVAL")
            .arg(script)
            .arg(0)
            .query(&mut connection)
            .unwrap();
        let is_known =
            |key: &String| ["redis-sharding:record", "redis-sharding:topology"].contains(&&**key);
        assert!(keys.iter().all(is_known), "{when}: {index}: {keys:?}");
    }
}

#[test]
fn four_nodes_become_eight_by_replication_while_clients_lose_nothing() {
    let Some(servers) = start(8) else {
        return;
    };
    let is_long = std::env::var("REDIS_SHARDING_LONG").is_ok();
    let (count, keys, others) = match is_long {
        true => (16, 400, 100_000),
        false => (6, 60, 1_000),
    };
    let seed = std::env::var("REDIS_SHARDING_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(seed_of_now);
    println!("seed {seed}: REDIS_SHARDING_SEED={seed} repeats it");
    publish(&servers, 4);
    let clients = AllClients::open(|| halving(&servers, 4).agreed());
    let mut expected = bystanders(&clients.blocking, others);
    let (ended, operations) = (AtomicBool::new(false), AtomicU64::new(0));
    let worker = |number: usize| {
        let client = clients.of(KINDS[number % KINDS.len()]);
        Worker::new(format!("w{number}"), client, seed + number as u64, keys)
    };
    let mut workers: Vec<Worker> = (0..count).map(worker).collect();
    let eight = halved(&servers, 8);
    thread::scope(|scope| {
        let end = End(&ended);
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        worker.step();
                        operations.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let plan = mover(&servers, &eight, ReshardOptions::new())
            .plan()
            .unwrap();
        assert!(plan.is_possible(), "{plan}");
        let pairs = [0, 1, 2, 3].map(|node| (format!("node-{node}"), format!("node-{}", node + 4)));
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(one, two)| (&**one, &**two)).collect();
        assert_eq!(splits(&plan), pairs, "{plan}");
        // There and back, and there again: a node that was retired comes back. Then movers are stopped.
        let four = halved(&servers, 4);
        for to in [&eight, &four, &eight, &four] {
            let before = operations.load(Ordering::Relaxed);
            let events = finish(&servers, to, ReshardOptions::new());
            assert_eq!(given_up(&events), Vec::<String>::new());
            let (closures, keys) = closures(&events);
            assert_eq!(closures.len(), if to.nodes().len() == 8 { 4 } else { 0 });
            wait_until_followed(&clients, to);
            println!(
                "{} nodes: {keys} keys by replication, closed {:?} median, {:?} longest; {} operations",
                to.nodes().len(),
                closures.get(closures.len() / 2),
                closures.last(),
                operations.load(Ordering::Relaxed) - before
            );
            let is_over = threads.iter().any(|thread| thread.is_finished());
            assert!(!is_over, "a worker has failed");
        }
        let stops = [
            "fence",
            "publish-source",
            "record",
            "catch-up",
            "publish-target",
            "sweep",
        ];
        for stop in stops.into_iter().take(if is_long { 6 } else { 2 }) {
            let stop = format!("split-{stop}");
            let options = ReshardOptions::new().with_step_observer(move |step| {
                !step.starts_with(&stop) || step.contains("node-0")
            });
            let stopped = mover(&servers, &eight, options).run(|_| {}).unwrap_err();
            println!("{stopped}");
            finish(&servers, &eight, ReshardOptions::new());
            wait_until_followed(&clients, &eight);
            finish(&servers, &four, ReshardOptions::new());
            wait_until_followed(&clients, &four);
        }
        finish(&servers, &eight, ReshardOptions::new());
        drop(end);
        for thread in threads {
            thread.join().expect("no worker has met a fault");
        }
    });
    for worker in &mut workers {
        worker.check_all();
        let keys = worker.model.keys.iter();
        expected.extend(keys.map(|(key, (_, expiry))| (key.clone(), *expiry)));
    }
    check_servers(&servers, &eight, &expected);
    check_nothing_left(&servers, "at the end");
    let dbsize = Cmd::new().arg("DBSIZE").to_owned();
    let count: usize = dbsize.query(&mut clients.blocking.clone()).unwrap();
    assert_eq!(count, expected.len());
}

/// The steps before which movers are stopped in the short form.
const SHORT: [&str; 7] = [
    "split-record",
    "split-fence",
    "split-detach",
    "split-publish-target",
    "split-publish-source",
    "split-sweep",
    "split-unlink",
];

#[test]
fn split_that_is_stopped_before_any_step_is_finished_by_another_run() {
    let Some(servers) = start(4) else {
        return;
    };
    let two = publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 300);
    let is_long = std::env::var("REDIS_SHARDING_LONG").is_ok();
    let mut stops: BTreeMap<String, usize> = BTreeMap::new();
    let mut stop_at = 0;
    loop {
        let count = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(Mutex::new(None::<String>));
        let seen = Arc::clone(&stopped);
        // Steps that are not of the split have a test of their own.
        let options = ReshardOptions::new().with_step_observer(move |step| {
            let is_counted = step.starts_with("split") || step.starts_with("announce");
            // Of the second pair, as the first one has been split by then.
            let is_second = step.contains("node-1") || step.contains("node-3");
            let name = step.split(' ').next().unwrap_or_default();
            let is_counted = is_counted && (is_long || is_second && SHORT.contains(&name));
            let mut seen = seen.lock().unwrap();
            if is_counted && count.fetch_add(1, Ordering::SeqCst) == stop_at && seen.is_none() {
                *seen = Some(step.to_owned());
            }
            seen.is_none()
        });
        let outcome = mover(&servers, &four, options).run(|_| {});
        let step = stopped.lock().unwrap().clone();
        match &step {
            None => assert_eq!(outcome.unwrap(), ReshardOutcome::Finished),
            Some(step) => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains("stopped before"), "{step}: {error}");
                finish(&servers, &four, ReshardOptions::new());
            }
        }
        let when = format!("stopped before {step:?}");
        println!("{when}");
        check_nothing_left(&servers, &when);
        check_servers(&servers, &four, &expected);
        let Some(step) = step else {
            break;
        };
        let name = step.split(' ').next().unwrap_or_default().to_owned();
        *stops.entry(name).or_default() += 1;
        finish(&servers, &two, copying());
        check_servers(&servers, &two, &expected);
        stop_at += 1;
    }
    for step in SHORT {
        assert!(
            stops.contains_key(step),
            "never stopped before {step}: {stops:?}"
        );
    }
}

#[test]
fn split_is_aborted_before_anything_has_moved() {
    let Some(servers) = start(4) else {
        return;
    };
    let two = publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 300);
    for stop in ["split-close", "split-catch-up", "split-publish-target"] {
        let options = ReshardOptions::new().with_step_observer(move |step| !step.starts_with(stop));
        mover(&servers, &four, options).run(|_| {}).unwrap_err();
        mover(&servers, &four, ReshardOptions::new())
            .abort()
            .unwrap();
        check_servers(&servers, &two, &expected);
        check_nothing_left(&servers, stop);
    }
    // One of the two pairs has been published.
    let options =
        ReshardOptions::new().with_step_observer(|step| !step.starts_with("split-publish-source"));
    mover(&servers, &four, options).run(|_| {}).unwrap_err();
    let refusal = mover(&servers, &four, ReshardOptions::new()).abort();
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("keys have moved already"), "{refusal}");
    finish(&servers, &four, ReshardOptions::new());
    check_servers(&servers, &four, &expected);
    check_nothing_left(&servers, "at the end");
}

#[test]
fn keys_are_copied_where_a_node_cannot_become_a_replica() {
    let Some(servers) = start(4) else {
        return;
    };
    let two = publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 500);
    let plan = mover(&servers, &four, copying()).plan().unwrap();
    assert_eq!(splits(&plan), [], "{plan}");
    let events = finish(&servers, &four, copying());
    assert_eq!(closures(&events).0.len(), 0);
    check_servers(&servers, &four, &expected);
    finish(&servers, &two, copying());

    // Its source has other data besides, or it has too little memory.
    let mut other = servers.connection(0);
    let set = "redis.call('SELECT', 3) return redis.call('SET', 'other', 'data')";
    let _: redis::Value = cmd("EVAL").arg(set).arg(0).query(&mut other).unwrap();
    drop(other);
    let limit = |bytes: &str| {
        let mut connection = servers.connection(3);
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        set.exec(&mut connection).unwrap();
    };
    limit("2300000");
    let plan = mover(&servers, &four, ReshardOptions::new())
        .plan()
        .unwrap();
    assert_eq!(splits(&plan), [], "{plan}");
    let text = plan.to_string();
    assert!(
        text.contains("database 3") && text.contains("maxmemory"),
        "{text}"
    );
    limit("0");
    let plan = mover(&servers, &four, ReshardOptions::new())
        .plan()
        .unwrap();
    assert_eq!(splits(&plan), [("node-1", "node-3")], "{plan}");
    let events = finish(&servers, &four, ReshardOptions::new());
    assert_eq!((closures(&events).0.len(), given_up(&events).len()), (1, 0));
    check_nothing_left(&servers, "at the end");
    let mut connection = servers.connection(0);
    let flush = "redis.call('SELECT', 3) return redis.call('FLUSHDB')";
    let _: redis::Value = cmd("EVAL")
        .arg(flush)
        .arg(0)
        .query(&mut connection)
        .unwrap();
    check_servers(&servers, &four, &expected);
}

#[test]
fn replica_that_is_lost_before_it_owns_keys_is_given_up() {
    let Some(servers) = start(4) else {
        return;
    };
    let two = publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 500);
    let address = servers.addr(3);
    for at in ["split-close", "split-catch-up", "split-compare"] {
        // Somebody takes the replica away from its source, or its keys.
        let address = address.clone();
        let is_done = AtomicBool::new(false);
        let options = ReshardOptions::new().with_step_observer(move |step| {
            let is_it =
                step.starts_with(at) && (step.ends_with("node-3") || step == "split-close node-1");
            if is_it && !is_done.swap(true, Ordering::SeqCst) {
                let client = redis::Client::open(format!("redis://{address}/")).unwrap();
                let mut connection = client.get_connection().unwrap();
                match at {
                    "split-compare" => cmd("FLUSHDB").exec(&mut connection).unwrap(),
                    _ => cmd("REPLICAOF")
                        .arg("127.0.0.1")
                        .arg(1)
                        .exec(&mut connection)
                        .unwrap(),
                }
            }
            true
        });
        let events = finish(&servers, &four, options);
        let lost = given_up(&events);
        assert!(
            lost.len() == 1 && lost[0].starts_with("node-3"),
            "{at}: {lost:?}"
        );
        check_servers(&servers, &four, &expected);
        check_nothing_left(&servers, at);
        finish(&servers, &two, copying());
    }
}

#[test]
fn fleet_that_is_emptied_during_a_split_is_empty_and_keeps_its_records() {
    let Some(servers) = start(4) else {
        return;
    };
    publish(&servers, 2);
    let four = halved(&servers, 4);
    let client = halving(&servers, 2).agreed().build().unwrap();
    for at in ["announce-fence", "split-close node-0", "split-close node-1"] {
        bystanders(&client, 300);
        let (emptier, is_done) = (client.clone(), AtomicBool::new(false));
        let options = ReshardOptions::new().with_step_observer(move |step| {
            if step == at && !is_done.swap(true, Ordering::SeqCst) {
                cmd("FLUSHALL").exec(&mut emptier.clone()).unwrap();
                let mut set = cmd("MSET");
                for number in 0..100 {
                    set.arg(format!("new:{number}")).arg(number);
                }
                set.exec(&mut emptier.clone()).unwrap();
            }
            true
        });
        let events = finish(&servers, &four, options);
        let expected = (0..100)
            .map(|number| (format!("new:{number}"), None))
            .collect();
        check_servers(&servers, &four, &expected);
        check_nothing_left(&servers, at);
        println!("{at}: {:?}", given_up(&events));
        finish(&servers, &halved(&servers, 2), copying());
        cmd("FLUSHALL").exec(&mut client.clone()).unwrap();
    }
}

#[test]
fn source_with_a_password_is_split() {
    let servers = Servers::builder()
        .password("secret")
        .option(["--repl-diskless-sync-delay", "0"])
        .start(4);
    let Some(servers) = servers else {
        return;
    };
    publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 200);
    let with_password = || {
        let fleet = over(&servers, 1).password("secret");
        Reshard::new(fleet, Topology::clone(&four), ReshardOptions::new()).unwrap()
    };
    let plan = with_password().plan().unwrap();
    assert_eq!(plan.splits.len(), 2, "{plan}");
    let mut events = Vec::new();
    with_password().run(|event| events.push(event)).unwrap();
    assert_eq!((closures(&events).0.len(), given_up(&events).len()), (2, 0));
    check_servers(&servers, &four, &expected);
    for index in 2..4 {
        for name in ["masterauth", "replica-read-only"] {
            let mut get = cmd("CONFIG");
            get.arg("GET").arg(name);
            let found: Vec<String> = get.query(&mut servers.connection(index)).unwrap();
            let expected = if name == "masterauth" { "" } else { "yes" };
            assert_eq!(found[1], expected, "{name}");
        }
    }
}

/// What a client sees of the fleet: the keys that it finds, and their number.
fn seen(client: &ShardedClient) -> (BTreeSet<String>, i64) {
    let mut client = client.clone();
    let mut keys = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("COUNT").arg(500);
        let (next, page): (String, Vec<String>) = scan.query(&mut client).unwrap();
        keys.extend(page);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    let size = cmd("DBSIZE").query(&mut client).unwrap();
    (keys, size)
}

#[test]
fn programs_see_no_keys_that_a_node_has_for_others() {
    let Some(servers) = start(4) else {
        return;
    };
    publish(&servers, 2);
    let four = halved(&servers, 4);
    let client = halving(&servers, 2).agreed().build().unwrap();
    let all = Arc::new(Mutex::new(bystanders(&client, 300)));
    let looked = Arc::new(AtomicUsize::new(0));
    let (expected, count) = (Arc::clone(&all), Arc::clone(&looked));
    let options = ReshardOptions::new().with_step_observer(move |step| {
        let is_moment = ["split-", "announce-", "publish-source", "end"];
        if !is_moment.iter().any(|moment| step.starts_with(moment)) {
            return true;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let mut all = expected.lock().unwrap();
        let expected: BTreeSet<String> = all.keys().cloned().collect();
        // The client hears of what has just been published.
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let (keys, size) = seen(&client);
            if keys == expected && size == expected.len() as i64 {
                break;
            }
            let wrong: Vec<_> = keys.symmetric_difference(&expected).take(5).collect();
            assert!(Instant::now() < end, "{step}: {size} keys, {wrong:?}");
        }
        if step.starts_with("split-sweep") || step.starts_with("split-unlink") {
            let gone: Vec<String> = all.keys().take(20).cloned().collect();
            all.retain(|key, _| !gone.contains(key));
            cmd("DEL").arg(&gone).exec(&mut client.clone()).unwrap();
            let mut set = cmd("MSET");
            for number in 0..20 {
                let key = format!("{step}:{number}");
                set.arg(&key).arg(number);
                all.insert(key, None);
            }
            set.exec(&mut client.clone()).unwrap();
        }
        true
    });
    let events = finish(&servers, &four, options);
    assert_eq!((closures(&events).0.len(), given_up(&events).len()), (2, 0));
    assert!(looked.load(Ordering::Relaxed) > 20);
    check_servers(&servers, &four, &all.lock().unwrap());
    check_nothing_left(&servers, "at the end");
}

#[test]
fn nodes_that_are_killed_during_a_split_come_back_and_it_is_finished() {
    let servers = Servers::builder().keeps_data();
    let servers = servers
        .option(["--repl-diskless-sync-delay", "0"])
        .option(["--appendonly", "yes"])
        .option(["--appendfsync", "always"]);
    let Some(servers) = servers.start(4) else {
        return;
    };
    let is_long = std::env::var("REDIS_SHARDING_LONG").is_ok();
    let two = publish(&servers, 2);
    let four = halved(&servers, 4);
    let expected = bystanders(&halving(&servers, 2).build().unwrap(), 200);
    let servers = Arc::new(servers);
    for (at, node) in [
        ("split-compare node-1", 3),
        ("split-publish-source node-1", 1),
        ("split-fence node-1", 1),
        ("split-sweep node-1", 3),
        ("split-record node-1", 1),
        ("split-record node-1", 3),
        ("split-fence node-1", 3),
        ("split-compare node-1", 1),
        ("split-publish-source node-1", 3),
        ("split-sweep node-1", 1),
    ]
    .into_iter()
    .take(if is_long { 10 } else { 2 })
    {
        let (victims, is_done) = (Arc::clone(&servers), AtomicBool::new(false));
        let options = ReshardOptions::new().with_step_observer(move |step| {
            if step.starts_with(at) && !is_done.swap(true, Ordering::SeqCst) {
                victims.kill(node);
                victims.restart(node);
            }
            true
        });
        let outcome = mover(&servers, &four, options).run(|event| {
            if let ReshardEvent::SplitGivenUp { cause, .. } = event {
                println!("   given up: {cause}");
            }
        });
        println!("{at}, {node}: {outcome:?}");
        // Whatever the mover has made of it.
        finish(&servers, &four, ReshardOptions::new());
        check_servers(&servers, &four, &expected);
        check_nothing_left(&servers, at);
        finish(&servers, &two, copying());
    }
}
