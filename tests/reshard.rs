//! Keys that are moved to where another topology places them, between real servers without other clients.
#![cfg(unix)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redis::{Connection, Value, cmd};
use redis_sharding::ops::reshard::{
    PauseOutcome, Reshard, ReshardEvent, ReshardOptions, ReshardOutcome, ReshardRefusalKind,
    ReshardStage,
};
use redis_sharding::partition::{Partitioner, Rendezvous, by_name};
use redis_sharding::{NodeSpec, ShardedClient, Topology};
use support::Servers;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Some of the servers as nodes.
fn topology(servers: &Servers, nodes: &[usize], rule: Arc<dyn Partitioner>) -> Topology {
    let node = |index: &usize| NodeSpec::new(NAMES[*index], servers.addr(*index));
    Topology::new(nodes.iter().map(node).collect(), rule).unwrap()
}

fn rendezvous(servers: &Servers, nodes: &[usize]) -> Topology {
    topology(servers, nodes, Arc::new(Rendezvous::new()))
}

fn run_id(connection: &mut Connection) -> String {
    let info: String = cmd("INFO").arg("server").query(connection).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.unwrap().to_owned()
}

/// Writes the record of a fleet, as `redis-sharding topology publish` does.
fn publish(servers: &Servers, nodes: &[usize], topology: &Topology) {
    for index in nodes {
        let mut connection = servers.connection(*index);
        let record = format!(
            "redis-sharding record 1\nepoch 1.1\ntopology {:016x}\nseal \"{}\"\n",
            topology.fingerprint(),
            run_id(&mut connection)
        );
        redis::pipe()
            .cmd("SELECT")
            .arg(15)
            .cmd("SET")
            .arg("redis-sharding:record")
            .arg(record)
            .cmd("SET")
            .arg("redis-sharding:topology")
            .arg(topology.to_string())
            .exec(&mut connection)
            .unwrap();
    }
}

fn reshard(servers: &Servers, to: &Topology, options: ReshardOptions) -> Reshard {
    let seeds = ShardedClient::builder().node("a", servers.url(0));
    Reshard::new(seeds, to.clone(), options).unwrap()
}

fn finish(servers: &Servers, to: &Topology, options: ReshardOptions) -> Vec<ReshardEvent> {
    let mut events = Vec::new();
    let outcome = reshard(servers, to, options).run(|event| events.push(event));
    assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    events
}

/// The commands that make key number `number`, of all types in turn.
fn write(pipe: &mut redis::Pipeline, number: usize) {
    let key = format!("key:{number}");
    let elements = 1 + number % 40;
    for element in 0..elements {
        match number % 8 {
            0 => pipe
                .cmd("APPEND")
                .arg(&key)
                .arg(format!("{element},"))
                .ignore(),
            1 => pipe.cmd("RPUSH").arg(&key).arg(element).ignore(),
            2 => pipe
                .cmd("SADD")
                .arg(&key)
                .arg(format!("m{element}"))
                .ignore(),
            3 => pipe
                .cmd("ZADD")
                .arg(&key)
                .arg(f64::from(element as u32) / 3.0)
                .arg(format!("m{element}"))
                .ignore(),
            4 => pipe
                .cmd("HSET")
                .arg(&key)
                .arg(format!("f{element}"))
                .arg(element)
                .ignore(),
            5 => pipe
                .cmd("XADD")
                .arg(&key)
                .arg(format!("1-{}", element + 1))
                .arg("f")
                .arg(element)
                .ignore(),
            6 => pipe.cmd("PFADD").arg(&key).arg(element).ignore(),
            _ => pipe
                .cmd("SETBIT")
                .arg(&key)
                .arg(element * 7)
                .arg(1)
                .ignore(),
        };
    }
    if number % 8 == 5 {
        pipe.cmd("XGROUP")
            .arg("CREATE")
            .arg(&key)
            .arg("g")
            .arg("0")
            .ignore();
    }
    if number.is_multiple_of(3) {
        pipe.cmd("PEXPIRE")
            .arg(&key)
            .arg(3_600_000 + number)
            .ignore();
    }
}

/// Fills the nodes with keys where the topology places them.
fn fill(servers: &Servers, nodes: &[usize], topology: &Topology, count: usize) {
    let mut pipes: Vec<redis::Pipeline> = nodes.iter().map(|_| redis::pipe()).collect();
    for number in 0..count {
        let owner = topology.locate(format!("key:{number}").as_bytes()).unwrap();
        write(&mut pipes[owner.get()], number);
    }
    for (index, pipe) in nodes.iter().zip(pipes) {
        pipe.exec(&mut servers.connection(*index)).unwrap();
    }
}

/// What a key is: the digest of its value, and when it expires.
type Content = (String, i64);

/// All keys of a node.
fn keys(connection: &mut Connection) -> BTreeMap<String, Content> {
    let names: Vec<String> = cmd("KEYS").arg("*").query(connection).unwrap();
    let content = |key: String| {
        let digest: Vec<String> = cmd("DEBUG")
            .arg("DIGEST-VALUE")
            .arg(&key)
            .query(connection)
            .unwrap();
        let expires: i64 = cmd("PEXPIRETIME").arg(&key).query(connection).unwrap();
        (key, (digest.concat(), expires))
    };
    names.into_iter().map(content).collect()
}

/// The keys of all servers, after a check that each is where the topology places it, and nowhere else.
fn all_keys(servers: &Servers, nodes: &[usize], topology: &Topology) -> BTreeMap<String, Content> {
    let mut all = BTreeMap::new();
    for (index, name) in NAMES.iter().enumerate().take(servers.len()) {
        let found = keys(&mut servers.connection(index));
        let position = nodes.iter().position(|node| *node == index);
        for (key, content) in found {
            let owner = topology.locate(key.as_bytes()).map(|owner| owner.get());
            assert_eq!(owner, position, "{key} is at {}", name);
            assert!(all.insert(key, content).is_none());
        }
    }
    all
}

/// Compares all keys, and names some that differ.
fn assert_same(
    found: &BTreeMap<String, Content>,
    expected: &BTreeMap<String, Content>,
    when: &str,
) {
    let missing = expected.iter().filter(|(key, _)| !found.contains_key(*key));
    let missing: Vec<&String> = missing.map(|(key, _)| key).take(5).collect();
    assert!(missing.is_empty(), "{when}: missing {missing:?}");
    let wrong = found
        .iter()
        .filter(|(key, content)| expected.get(*key) != Some(content));
    let wrong: Vec<_> = wrong.take(5).collect();
    assert!(wrong.is_empty(), "{when}: wrong {wrong:?}");
}

fn start(count: usize) -> Option<Servers> {
    Servers::builder()
        .option(["--enable-debug-command", "yes"])
        .start(count)
}

/// The record of a node.
fn record(servers: &Servers, index: usize) -> String {
    let mut connection = servers.connection(index);
    let () = cmd("SELECT").arg(15).query(&mut connection).unwrap();
    cmd("GET")
        .arg("redis-sharding:record")
        .query(&mut connection)
        .unwrap()
}

/// The parameters that a mover changes, as servers have them by themselves.
const SETTINGS: [&str; 2] = ["", "yes"];

/// Those parameters of a server.
fn settings(servers: &Servers, index: usize) -> [String; 2] {
    ["notify-keyspace-events", "rdbcompression"].map(|name| {
        let mut reply: Vec<String> = cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query(&mut servers.connection(index))
            .unwrap();
        reply.remove(1)
    })
}

#[test]
fn reshard_moves_all_keys_of_all_types_with_their_expiries() {
    let Some(servers) = start(5) else {
        return;
    };
    const KEYS: usize = 3000;
    let four = [0, 1, 2, 3];
    let from = rendezvous(&servers, &four);
    publish(&servers, &four, &from);
    fill(&servers, &four, &from, KEYS);
    let before = all_keys(&servers, &four, &from);
    assert_eq!(before.len(), KEYS);

    // Four nodes become five.
    let five = [0, 1, 2, 3, 4];
    let to = rendezvous(&servers, &five);
    let plan = reshard(&servers, &to, ReshardOptions::new())
        .plan()
        .unwrap();
    assert!(plan.is_possible(), "{plan}");
    let planned = plan.keys();
    let events = finish(&servers, &to, ReshardOptions::new());
    assert_same(&all_keys(&servers, &five, &to), &before, "");
    let moved: usize = events
        .iter()
        .map(|event| match event {
            ReshardEvent::Batch { keys, .. } => *keys,
            _ => 0,
        })
        .sum();
    assert_eq!(planned, moved as u64);
    for index in five {
        let record = record(&servers, index);
        assert!(
            record.contains(&format!("topology {:016x}\n", to.fingerprint())),
            "{record}"
        );
        assert!(
            !record.contains("mover") && !record.contains("to "),
            "{record}"
        );
        assert_eq!(settings(&servers, index), SETTINGS);
    }
    // Once more, there is nothing to do.
    assert!(finish(&servers, &to, ReshardOptions::new()).is_empty());

    // Five become three, with little memory for names of keys, and everything from some size on element by element.
    let three = [0, 2, 4];
    let to = rendezvous(&servers, &three);
    let small = ReshardOptions::new()
        .with_index_bytes(4000)
        .with_large_key_bytes(600);
    finish(&servers, &to, small);
    // A key that was copied element by element may be encoded otherwise, which its digest does not show.
    assert_same(&all_keys(&servers, &three, &to), &before, "");
    for retired in [1, 3] {
        let record = record(&servers, retired);
        assert!(record.contains("\nretired\n"), "{record}");
    }

    // Another rule, and a node that was retired comes back.
    let four = [0, 1, 2, 4];
    let to = topology(&servers, &four, by_name("ring/1", &[]).unwrap());
    finish(
        &servers,
        &to,
        ReshardOptions::new().with_bytes_per_second(50_000_000),
    );
    assert_same(&all_keys(&servers, &four, &to), &before, "");
}

#[test]
fn reshard_that_is_stopped_before_any_step_is_finished_by_another_run() {
    let Some(servers) = start(3) else {
        return;
    };
    const KEYS: usize = 240;
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, KEYS);
    let before = all_keys(&servers, &two, &from);
    let (mut here, mut there) = ((two.to_vec(), from), (three.to_vec(), to));
    let mut stops = Vec::new();
    let mut stop_at = 0;
    loop {
        // Stopped before the step of this number, and then before the first step that differs from it, and so on.
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&steps);
        let stopped = Arc::new(AtomicBool::new(false));
        let last = Arc::clone(&stopped);
        let name = Arc::new(std::sync::Mutex::new(String::new()));
        let seen = Arc::clone(&name);
        let options = ReshardOptions::new()
            .with_sources_at_once(1)
            .with_step_observer(move |step| {
                let goes_on = counted.fetch_add(1, Ordering::SeqCst) < stop_at;
                if !goes_on && !last.swap(true, Ordering::SeqCst) {
                    *seen.lock().unwrap() = step.to_owned();
                }
                goes_on
            });
        let outcome = reshard(&servers, &there.1, options).run(|_| {});
        if !stopped.load(Ordering::SeqCst) {
            assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
            break;
        }
        let step = name.lock().unwrap().clone();
        assert!(
            outcome.unwrap_err().to_string().contains("stopped before"),
            "{step}"
        );
        finish(&servers, &there.1, ReshardOptions::new());
        let found = all_keys(&servers, &there.0, &there.1);
        assert_same(&found, &before, &format!("stopped before {step}"));
        for index in 0..3 {
            assert_eq!(settings(&servers, index), SETTINGS, "stopped before {step}");
        }
        stops.push(step.split(' ').next().unwrap_or_default().to_owned());
        std::mem::swap(&mut here, &mut there);
        stop_at += 1;
    }
    stops.sort();
    stops.dedup();
    for step in [
        "claim",
        "kill-former-mover",
        "announce",
        "announce-fence",
        "close",
        "fence",
        "settle",
        "clear",
        "copy",
        "compare",
        "publish-target",
        "publish-source",
        "sweep",
        "unlink",
        "end",
    ] {
        assert!(
            stops.iter().any(|stop| stop == step),
            "never stopped before {step}: {stops:?}"
        );
    }
}

#[test]
fn pairs_without_keys_are_closed_together_and_finished_by_another_run() {
    let Some(servers) = start(4) else {
        return;
    };
    const KEYS: usize = 300;
    let (three, four) = ([0, 1, 2], [0, 1, 2, 3]);
    let (from, to) = (rendezvous(&servers, &three), rendezvous(&servers, &four));
    publish(&servers, &three, &from);
    fill(&servers, &three, &from, KEYS);
    let before = all_keys(&servers, &three, &from);
    let sides = [(&three[..], &from), (&four[..], &to)];
    let mut side = 0;
    for (step, number) in [
        ("empty-close", 0),
        ("empty-fence", 1),
        ("empty-settle", 0),
        ("empty-clear", 1),
        ("empty-publish-target", 0),
        ("empty-publish-target", 1),
        ("empty-publish-source", 0),
        // Nowhere.
        ("empty", 0),
    ] {
        side = 1 - side;
        let (nodes, topology) = sides[side];
        let reached = AtomicUsize::new(0);
        let closures = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&closures);
        let stops = ReshardOptions::new()
            .with_sources_at_once(1)
            .with_step_observer(move |this| {
                let kind = this.split(' ').next().unwrap_or_default();
                if kind.ends_with("close") {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                kind != step || reached.fetch_add(1, Ordering::SeqCst) != number
            });
        let outcome = reshard(&servers, topology, stops).run(|_| {});
        assert_eq!(outcome.is_ok(), step == "empty", "{step}");
        if step == "empty" {
            // Three nodes to the other two at once, and the fourth to each of them.
            assert!(closures.load(Ordering::SeqCst) <= 6, "{closures:?}");
        }
        finish(&servers, topology, ReshardOptions::new());
        let found = all_keys(&servers, nodes, topology);
        assert_same(&found, &before, &format!("stopped before {step}"));
    }
}

#[test]
fn key_that_is_made_for_a_pair_without_keys_moves() {
    let Some(servers) = start(3) else {
        return;
    };
    // Keys may go from each node to each, and there is none yet.
    let all = [0, 1, 2];
    let from = rendezvous(&servers, &all);
    let to = topology(&servers, &all, by_name("ring/1", &[]).unwrap());
    publish(&servers, &all, &from);
    let url = servers.url(0);
    let key = (0..10_000)
        .map(|number| format!("late:{number}"))
        .find(|key| {
            let owner = |topology: &Topology| topology.locate(key.as_bytes()).unwrap().get();
            owner(&from) == 0 && owner(&to) == 2
        });
    let key = key.unwrap();
    let late = key.clone();
    // Behind the scan, and before the closure.
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step == "empty-close a" {
            let mut connection = redis::Client::open(&*url)
                .unwrap()
                .get_connection()
                .unwrap();
            let () = cmd("SET")
                .arg(&late)
                .arg("v")
                .query(&mut connection)
                .unwrap();
        }
        true
    });
    finish(&servers, &to, options);
    let found = all_keys(&servers, &all, &to);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&key]);
}

#[test]
fn aborted_reshard_leaves_everything_as_it_was() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 300);
    let before = all_keys(&servers, &two, &from);
    // Stopped when the first batch is copied, and not published: the units are closed, and there are copies.
    for stop in ["publish-target", "announce-fence"] {
        let options = ReshardOptions::new().with_step_observer(move |step| !step.starts_with(stop));
        reshard(&servers, &to, options).run(|_| {}).unwrap_err();
        let changed = [0, 1].map(|index| settings(&servers, index));
        let is_copied = stop == "publish-target";
        // Whoever is killed puts nothing back.
        let is_changed =
            |[events, compression]: &[String; 2]| !events.is_empty() && compression == "no";
        assert_eq!(changed.iter().any(is_changed), is_copied, "{changed:?}");
        let again = reshard(&servers, &to, ReshardOptions::new());
        assert_eq!(again.status().unwrap().stage, ReshardStage::UnderWay);
        again.abort().unwrap();
        assert_same(&all_keys(&servers, &two, &from), &before, "");
        assert_eq!([0, 1].map(|index| settings(&servers, index)), [SETTINGS; 2]);
        assert!(record(&servers, 2).contains("retired"));
        assert!(record(&servers, 0).contains(&format!("topology {:016x}\n", from.fingerprint())));
        assert_eq!(again.status().unwrap().stage, ReshardStage::NotBegun);
    }
    // Behind the point of no return it is refused.
    let options =
        ReshardOptions::new().with_step_observer(|step| !step.starts_with("publish-source"));
    reshard(&servers, &to, options).run(|_| {}).unwrap_err();
    let refusal = reshard(&servers, &to, ReshardOptions::new())
        .abort()
        .unwrap_err();
    assert!(
        refusal.to_string().contains("keys have moved already"),
        "{refusal}"
    );
    finish(&servers, &to, ReshardOptions::new());
    assert_same(&all_keys(&servers, &three, &to), &before, "");
}

#[test]
fn paused_reshard_goes_on_where_it_was() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 2000);
    let before = all_keys(&servers, &two, &from);
    let first = reshard(&servers, &to, ReshardOptions::new().with_sources_at_once(1));
    let pause = first.pause_handle();
    let outcome = first.run(|event| {
        if matches!(event, ReshardEvent::Batch { keys: 1.., .. }) {
            pause.pause();
        }
    });
    assert_eq!(outcome.unwrap(), ReshardOutcome::Paused);
    let status = first.status().unwrap();
    assert_eq!(status.stage, ReshardStage::UnderWay);
    assert!(status.pairs.iter().all(|pair| pair.closed == 0), "{status}");
    assert!(status.share() > 0.0 && status.share() < 1.0, "{status}");
    finish(&servers, &to, ReshardOptions::new());
    assert_same(&all_keys(&servers, &three, &to), &before, "");
}

#[test]
fn pause_that_was_requested_outlives_a_mover_that_is_killed_and_flushall() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 2000);
    let other = reshard(&servers, &to, ReshardOptions::new());
    let within = std::time::Duration::from_secs(20);
    let refusal = other.request_pause(within).unwrap_err().to_string();
    assert!(refusal.contains("under way"), "{refusal}");

    let killed = ReshardOptions::new()
        .with_sources_at_once(1)
        .with_step_observer(|step| !step.starts_with("sweep"));
    reshard(&servers, &to, killed).run(|_| {}).unwrap_err();
    assert_eq!(other.request_pause(within).unwrap(), PauseOutcome::NoMover);
    let status = other.status().unwrap();
    assert!(status.is_paused, "{status}");
    let nothing = reshard(&servers, &to, ReshardOptions::new()).run(|event| panic!("{event:?}"));
    assert_eq!(nothing.unwrap(), ReshardOutcome::Paused);
    // Emptied between two batches.
    let client = ShardedClient::builder().topology(&from).agreed();
    let mut client = client.build().unwrap();
    // The first learns of the nodes that join.
    let _: Option<String> = cmd("GET").arg("key:0").query(&mut client).unwrap();
    let () = cmd("FLUSHALL").query(&mut client).unwrap();
    assert!(other.status().unwrap().is_paused);
    for number in 0..500 {
        let mut set = cmd("SET");
        let () = set
            .arg(format!("key:{number}"))
            .arg(1)
            .query(&mut client)
            .unwrap();
    }
    drop(client);

    // Resumed, and paused again while it moves keys.
    let first = AtomicBool::new(true);
    let outcome = std::thread::scope(|scope| {
        let (sender, begun) = std::sync::mpsc::channel();
        let other = &other;
        let pause = scope.spawn(move || {
            begun.recv().unwrap();
            other.request_pause(within)
        });
        let moved = reshard(&servers, &to, ReshardOptions::new().with_sources_at_once(1));
        let outcome = moved.resume(|event| {
            let is_batch = matches!(event, ReshardEvent::Batch { .. });
            if is_batch && first.swap(false, Ordering::SeqCst) {
                sender.send(()).unwrap();
                // Until the request has arrived.
                let end = std::time::Instant::now() + within;
                while !other.status().unwrap().is_paused {
                    assert!(std::time::Instant::now() < end);
                }
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        drop(moved);
        assert_eq!(pause.join().unwrap().unwrap(), PauseOutcome::Paused);
        outcome
    });
    assert_eq!(outcome.unwrap(), ReshardOutcome::Paused);
    assert_eq!(other.resume(|_| {}).unwrap(), ReshardOutcome::Finished);
    assert!(!other.status().unwrap().is_paused);
    let found = all_keys(&servers, &three, &to);
    assert_eq!(found.len(), 500);
    for index in three {
        assert_eq!(settings(&servers, index), SETTINGS);
    }
}

#[test]
fn large_keys_are_copied_element_by_element() {
    let Some(servers) = start(2) else {
        return;
    };
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    let mut connection = servers.connection(0);
    let mut pipe = redis::pipe();
    for element in 0..20_000 {
        let text = format!("element {element} with some bytes that make it large");
        pipe.cmd("HSET")
            .arg("hash")
            .arg(element)
            .arg(&text)
            .ignore();
        pipe.cmd("SADD").arg("set").arg(&text).ignore();
        pipe.cmd("ZADD")
            .arg("zset")
            .arg(f64::from(element) / 7.0)
            .arg(&text)
            .ignore();
        pipe.cmd("RPUSH").arg("list").arg(&text).ignore();
        pipe.cmd("APPEND").arg("string").arg(&text).ignore();
        pipe.cmd("XADD")
            .arg("stream")
            .arg("*")
            .arg("f")
            .arg(&text)
            .ignore();
    }
    pipe.cmd("PEXPIRE").arg("hash").arg(3_600_000).ignore();
    pipe.exec(&mut connection).unwrap();
    let before = keys(&mut connection);
    let () = cmd("CONFIG")
        .arg("RESETSTAT")
        .query(&mut connection)
        .unwrap();
    drop(connection);
    finish(
        &servers,
        &other,
        ReshardOptions::new().with_large_key_bytes(100_000),
    );
    assert_eq!(keys(&mut servers.connection(1)), before);
    let mut connection = servers.connection(0);
    assert!(keys(&mut connection).is_empty());
    let stats: String = cmd("INFO")
        .arg("commandstats")
        .query(&mut connection)
        .unwrap();
    let calls = |command: &str| {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|line| line.split(',').next()?.parse::<u32>().ok())
            .unwrap_or(0)
    };
    // The stream alone was copied whole.
    assert_eq!(calls("dump"), 1);
    assert!(
        calls("hscan") > 10 && calls("sscan") > 10 && calls("zscan") > 10 && calls("lrange") > 10
    );
    assert!(calls("getrange") > 0);
}

#[test]
fn plan_names_what_stands_against_a_reshard() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    let plan = |to: &Topology| reshard(&servers, to, ReshardOptions::new()).plan();
    let missing = plan(&to).unwrap_err().to_string();
    assert!(missing.contains("topology publish"), "{missing}");
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 400);
    assert!(plan(&to).unwrap().is_possible());

    // A client that follows no record, unless it is exempt.
    let mut stranger = servers.connection(0);
    let () = cmd("CLIENT")
        .arg("SETNAME")
        .arg("cron")
        .query(&mut stranger)
        .unwrap();
    let mut new = servers.connection(2);
    let () = cmd("CLIENT")
        .arg("SETNAME")
        .arg("cron")
        .query(&mut new)
        .unwrap();
    let kinds = |options: ReshardOptions| -> Vec<(ReshardRefusalKind, String)> {
        let plan = reshard(&servers, &to, options).plan().unwrap();
        plan.refusals
            .into_iter()
            .map(|refusal| (refusal.kind, refusal.node))
            .collect()
    };
    use ReshardRefusalKind::{Clients, Eviction, ForeignData, Memory, Unreachable};
    let clients = [(Clients, "a".to_owned()), (Clients, "c".to_owned())];
    assert_eq!(kinds(ReshardOptions::new()), clients);
    let exempt = || ReshardOptions::new().with_administrator("cron");
    assert_eq!(kinds(exempt()), []);

    let config = |connection: &mut Connection, name: &str, value: &str| {
        let () = cmd("CONFIG")
            .arg("SET")
            .arg(name)
            .arg(value)
            .query(connection)
            .unwrap();
    };
    config(&mut new, "maxmemory-policy", "allkeys-lru");
    assert_eq!(kinds(exempt()), [(Eviction, "c".into())]);
    config(&mut new, "maxmemory-policy", "noeviction");
    let info: String = cmd("INFO").arg("memory").query(&mut new).unwrap();
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap();
    config(&mut new, "maxmemory", used);
    assert_eq!(kinds(exempt()), [(Memory, "c".into())]);
    config(&mut new, "maxmemory", "0");
    let () = cmd("SET").arg("theirs").arg(1).query(&mut new).unwrap();
    assert_eq!(kinds(exempt()), [(ForeignData, "c".into())]);
    let refusal = reshard(&servers, &to, exempt()).run(|_| {}).unwrap_err();
    assert!(refusal.to_string().contains("must be empty"), "{refusal}");
    servers.kill(2);
    assert_eq!(kinds(exempt()), [(Unreachable, "c".into())]);
    let _: Value = cmd("PING").query(&mut stranger).unwrap();
}

#[test]
fn mover_that_was_overtaken_stops_and_changes_nothing() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 500);
    let before = all_keys(&servers, &two, &from);
    let servers = Arc::new(servers);
    let (others, target) = (Arc::clone(&servers), to.clone());
    let is_done = Arc::new(AtomicBool::new(false));
    // Another mover does all of it while the first one is about to publish its first batch.
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("publish-target") && !is_done.swap(true, Ordering::SeqCst) {
            finish(&others, &target, ReshardOptions::new());
        }
        true
    });
    let error = reshard(&servers, &to, options).run(|_| {}).unwrap_err();
    assert!(error.to_string().contains("this mover stops"), "{error}");
    assert_same(&all_keys(&servers, &three, &to), &before, "");
}

/// A connection whose name says that it follows the record, whatever its epoch: what a client of the fleet is to the mover.
fn follower(servers: &Servers, index: usize) -> Connection {
    let mut connection = servers.connection(index);
    let name = "test#rs.c.4000000000.1";
    let () = cmd("CLIENT")
        .arg("SETNAME")
        .arg(name)
        .query(&mut connection)
        .unwrap();
    connection
}

#[test]
fn keys_that_are_made_and_deleted_until_the_fence_are_moved_as_they_are() {
    if let Some(servers) = start(2) {
        move_while_keys_change(servers);
    }
}

#[test]
fn keys_are_tracked_where_the_configuration_may_not_be_changed() {
    let builder = Servers::builder().option(["--enable-debug-command", "yes"]);
    if let Some(servers) = builder.option(["--rename-command", "CONFIG", ""]).start(2) {
        move_while_keys_change(servers);
    }
}

/// Moves all keys of one server to the other while keys are made and deleted.
fn move_while_keys_change(servers: Servers) {
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 400);
    let servers = Arc::new(servers);
    let source = std::sync::Mutex::new(follower(&servers, 0));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    // Before each closure, and between a closure and its fence, as clients do that have not heard of it yet. The third batch
    // is copied a second time, and one of its keys is deleted in between.
    let options = ReshardOptions::new().with_closure_goal(std::time::Duration::from_millis(1));
    let options = options.with_step_observer(move |step| {
        if step.starts_with("close") || step.starts_with("fence") {
            let number = counted.load(Ordering::SeqCst);
            if number == 12 {
                return true;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let mut pipe = redis::pipe();
            for key in 0..20 {
                pipe.cmd("SET")
                    .arg(format!("new:{number}:{key}"))
                    .arg(number)
                    .ignore();
                pipe.cmd("DEL")
                    .arg(format!("key:{}", 20 * number + key))
                    .ignore();
            }
            pipe.exec(&mut *source.lock().unwrap()).unwrap();
        }
        true
    });
    // What is deleted after it has moved would be a lost write; the source must not have it any more, so nothing happens.
    finish(&servers, &other, options);
    let found = keys(&mut servers.connection(1));
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls >= 2);
    let new = found.keys().filter(|key| key.starts_with("new:")).count();
    let left = keys(&mut servers.connection(0)).len();
    // Keys of units that had moved before stay where a client has wrongly written them; all others have moved.
    assert_eq!(new + left, 20 * calls, "{left} left");
    let first: Vec<&String> = found
        .keys()
        .filter(|key| key.starts_with("new:0:") || key.starts_with("new:1:"))
        .collect();
    assert_eq!(first.len(), 40);
    let deleted = (0..40)
        .filter(|key| found.contains_key(&format!("key:{key}")))
        .count();
    assert_eq!(deleted, 0);
}

#[test]
fn batch_whose_connections_are_killed_at_any_step_is_copied_again() {
    let Some(servers) = start(3) else {
        return;
    };
    let servers = Arc::new(servers);
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 300);
    let before = all_keys(&servers, &two, &from);
    let (mut here, mut there) = ((two.to_vec(), from), (three.to_vec(), to));
    for step in [
        "close",
        "fence",
        "settle",
        "clear",
        "copy",
        "compare",
        "replicate",
        "publish-target",
        "publish-source",
        "persist",
        "sweep",
    ] {
        for victim in [0, 2] {
            let killed = Arc::new(AtomicBool::new(false));
            let (fired, others) = (Arc::clone(&killed), Arc::clone(&servers));
            let options = ReshardOptions::new()
                .with_administrator("killer")
                .with_step_observer(move |now| {
                    let is_it = now.starts_with(&format!("{step} a c"))
                        || now.starts_with(&format!("{step} c a"));
                    if is_it && !fired.swap(true, Ordering::SeqCst) {
                        let mut connection = others.connection(victim);
                        let () = cmd("CLIENT")
                            .arg("SETNAME")
                            .arg("killer")
                            .query(&mut connection)
                            .unwrap();
                        let _: i64 = cmd("CLIENT")
                            .arg("KILL")
                            .arg("TYPE")
                            .arg("normal")
                            .query(&mut connection)
                            .unwrap();
                        let _: i64 = cmd("CLIENT")
                            .arg("KILL")
                            .arg("TYPE")
                            .arg("pubsub")
                            .query(&mut connection)
                            .unwrap();
                    }
                    true
                });
            finish(&servers, &there.1, options);
            assert!(killed.load(Ordering::SeqCst), "{step} was not reached");
            let found = all_keys(&servers, &there.0, &there.1);
            assert_same(
                &found,
                &before,
                &format!("killed at {victim} before {step}"),
            );
            std::mem::swap(&mut here, &mut there);
        }
    }
}

#[test]
fn target_that_takes_no_more_keys_ends_the_run_and_closes_nothing() {
    let Some(servers) = start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 300);
    let before = all_keys(&servers, &[0], &one);
    let others = Arc::clone(&servers);
    let limit = move |bytes: &str| {
        let mut connection = follower(&others, 1);
        let () = cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(bytes)
            .query(&mut connection)
            .unwrap();
    };
    let full = limit.clone();
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("copy") {
            full("1");
        }
        true
    });
    let error = reshard(&servers, &other, options).run(|_| {}).unwrap_err();
    assert!(error.to_string().contains("give it more memory"), "{error}");
    let status = reshard(&servers, &other, ReshardOptions::new())
        .status()
        .unwrap();
    assert!(
        status
            .pairs
            .iter()
            .all(|pair| (pair.moved, pair.closed) == (0, 0)),
        "{status}"
    );
    assert_same(&all_keys(&servers, &[0], &one), &before, "full");
    limit("0");
    finish(&servers, &other, ReshardOptions::new());
    assert_same(&all_keys(&servers, &[1], &other), &before, "more memory");
}

#[test]
fn target_that_is_emptied_before_it_was_told_gets_the_keys_again() {
    let Some(servers) = start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 300);
    let before = all_keys(&servers, &[0], &one);
    let (others, fired) = (Arc::clone(&servers), AtomicBool::new(false));
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("publish-target") && !fired.swap(true, Ordering::SeqCst) {
            others.restart(1);
        }
        true
    });
    let error = reshard(&servers, &other, options).run(|_| {}).unwrap_err();
    assert!(error.to_string().contains("its record is gone"), "{error}");
    finish(&servers, &other, ReshardOptions::new());
    assert_same(&all_keys(&servers, &[1], &other), &before, "emptied");
}

#[test]
fn keys_are_deleted_at_the_source_once_a_target_with_a_file_has_them() {
    let builder = Servers::builder().option(["--enable-debug-command", "yes"]);
    let Some(servers) = builder.option(["--appendonly", "yes"]).start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 100);
    let before = all_keys(&servers, &[0], &one);
    let published = Arc::new(std::sync::Mutex::new(None));
    let swept = Arc::new(std::sync::Mutex::new(None));
    let (first, second) = (Arc::clone(&published), Arc::clone(&swept));
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("publish-source") {
            *first.lock().unwrap() = Some(std::time::Instant::now());
        }
        if step.starts_with("unlink a b") {
            second
                .lock()
                .unwrap()
                .get_or_insert_with(std::time::Instant::now);
        }
        true
    });
    finish(&servers, &other, options);
    assert_same(&all_keys(&servers, &[1], &other), &before, "durable");
    let waited = swept.lock().unwrap().unwrap() - published.lock().unwrap().unwrap();
    assert!(waited.as_millis() >= 1900, "{waited:?}");
}

/// Where a server has its files.
fn folder(servers: &Servers, index: usize) -> PathBuf {
    let mut reply: Vec<String> = cmd("CONFIG")
        .arg("GET")
        .arg("dir")
        .query(&mut servers.connection(index))
        .unwrap();
    PathBuf::from(reply.remove(1)).join("appendonlydir")
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Kills a server, and starts it with what was on its disk when `saved` was copied: the rest was not synced.
fn lose_power(servers: &Servers, index: usize, folder: &Path, saved: &Path) {
    servers.kill(index);
    fs::remove_dir_all(folder).unwrap();
    copy_files(saved, folder);
    servers.restart(index);
}

/// Moves the keys of one server to another one, of which one loses power before the step `killed`: it keeps what its file has
/// had before the step `synced`. Returns the outcome of the run, and what it was about.
fn power_lost(
    index: usize,
    synced: &'static str,
    killed: &'static str,
) -> Option<(Result<ReshardOutcome, redis_sharding::Error>, PowerLost)> {
    let builder = Servers::builder().option(["--enable-debug-command", "yes"]);
    let builder = builder.keeps_data().option(["--appendonly", "yes"]);
    // The server writes to its file before it replies, and what is synced is chosen here.
    let servers = Arc::new(builder.option(["--appendfsync", "no"]).start(2)?);
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    // One batch.
    fill(&servers, &[0], &one, 60);
    let before = all_keys(&servers, &[0], &one);
    let home = Arc::new(tempfile::tempdir().unwrap());
    let (saves, kills) = (AtomicBool::new(true), AtomicBool::new(true));
    let (shared, saved) = (Arc::clone(&servers), Arc::clone(&home));
    let folder = folder(&servers, index);
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with(synced) && saves.swap(false, Ordering::SeqCst) {
            copy_files(&folder, &saved.path().join("synced"));
        }
        if step.starts_with(killed) && kills.swap(false, Ordering::SeqCst) {
            copy_files(&folder, &saved.path().join("newest"));
            lose_power(&shared, index, &folder, &saved.path().join("synced"));
        }
        true
    });
    let outcome = reshard(&servers, &other, options).run(|_| {});
    let lost = PowerLost {
        servers,
        to: other,
        before,
        home,
    };
    Some((outcome, lost))
}

/// What was moved when a server lost power.
struct PowerLost {
    servers: Arc<Servers>,
    to: Topology,
    before: BTreeMap<String, Content>,
    /// Has the files that were synced, and the newest.
    home: Arc<tempfile::TempDir>,
}

#[test]
fn keys_that_a_target_has_on_disk_outlive_its_power_and_others_stay_at_the_source() {
    // As soon as the source is told, the target has written the keys; the mover does not delete them before they are synced.
    let Some((outcome, lost)) = power_lost(1, "sweep a b", "unlink a b") else {
        return;
    };
    assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    let found = all_keys(&lost.servers, &[1], &lost.to);
    assert_same(&found, &lost.before, "synced");

    // Nothing of the batch was synced: the source has all keys still, and nobody is told that they are gone.
    let (outcome, lost) = power_lost(1, "copy a b", "publish-source a b").unwrap();
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("older data"), "{error}");
    let at_source = keys(&mut lost.servers.connection(0));
    assert_same(&at_source, &lost.before, "not synced");
    let refused = reshard(&lost.servers, &lost.to, ReshardOptions::new()).run(|_| {});
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("restore its newest data"), "{refused}");
    let folder = folder(&lost.servers, 1);
    lose_power(&lost.servers, 1, &folder, &lost.home.path().join("newest"));
    finish(&lost.servers, &lost.to, ReshardOptions::new());
    let found = all_keys(&lost.servers, &[1], &lost.to);
    assert_same(&found, &lost.before, "restored");
}

#[test]
fn keys_that_have_moved_are_not_taken_from_a_source_that_has_lost_power() {
    // What it has says that nothing has moved.
    for synced in ["close a b", "copy a b", "publish-source a b"] {
        let Some((outcome, lost)) = power_lost(0, synced, "sweep a b") else {
            return;
        };
        println!("{synced}: {outcome:?}");
        finish(&lost.servers, &lost.to, ReshardOptions::new());
        let found = all_keys(&lost.servers, &[1], &lost.to);
        assert_same(&found, &lost.before, synced);
    }
}

/// A server whose clock is ahead by so many seconds, or behind. `None` without a C compiler.
fn with_other_clock(seconds: i64) -> Option<(Servers, tempfile::TempDir)> {
    const SOURCE: &str = "
        #include <sys/syscall.h>
        #include <sys/time.h>
        #include <time.h>
        #include <unistd.h>
        int clock_gettime(clockid_t id, struct timespec *at) {
          int failed = syscall(SYS_clock_gettime, id, at);
          if (!failed && id == CLOCK_REALTIME) at->tv_sec += AHEAD;
          return failed;
        }
        int gettimeofday(struct timeval *restrict at, void *restrict zone) {
          struct timespec now;
          if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
          at->tv_sec = now.tv_sec;
          at->tv_usec = now.tv_nsec / 1000;
          return 0;
        }";
    let home = tempfile::tempdir().unwrap();
    let [source, library, server] =
        ["clock.c", "clock.so", "server"].map(|name| home.path().join(name));
    fs::write(&source, SOURCE).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DAHEAD={seconds}"), "-o"])
        .args([&library, &source])
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("left out: there is no C compiler");
        return None;
    }
    let binary = std::env::var("REDISRS_SERVER_BIN").unwrap_or_else(|_| "redis-server".into());
    let script = format!(
        "#!/bin/sh\nexec env LD_PRELOAD={} {binary} \"$@\"\n",
        library.display()
    );
    fs::write(&server, script).unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Servers::builder().option(["--enable-debug-command", "yes"]);
    Some((builder.server(&server).start(1)?, home))
}

#[test]
fn expiries_are_kept_where_the_clock_of_the_target_differs() {
    // Ahead: a key that has expired by that clock is gone there at once. Behind: one that has expired at the source while it
    // was copied does not come back.
    for seconds in [60, -60] {
        let Some(servers) = start(1) else {
            return;
        };
        let Some((other, _home)) = with_other_clock(seconds) else {
            return;
        };
        let node = |name: &str, servers: &Servers| NodeSpec::new(name, servers.addr(0));
        let topology = |node| Topology::new(vec![node], Arc::new(Rendezvous::new())).unwrap();
        let (from, to) = (topology(node("a", &servers)), topology(node("b", &other)));
        publish(&servers, &[0], &from);
        let mut connection = servers.connection(0);
        let mut pipe = redis::pipe();
        for (key, lives) in [("never", 0), ("long", 3_600_000), ("soon", 30_000)] {
            pipe.cmd("SET").arg(key).arg("v").ignore();
            if lives > 0 {
                pipe.cmd("PEXPIRE").arg(key).arg(lives).ignore();
            }
        }
        pipe.exec(&mut connection).unwrap();
        let expires = |key: &str, connection: &mut Connection| -> i64 {
            cmd("PEXPIRETIME").arg(key).query(connection).unwrap()
        };
        let before = ["never", "long", "soon"].map(|key| expires(key, &mut connection));
        drop(connection);
        let url = servers.url(0);
        let options = ReshardOptions::new().with_step_observer(move |step| {
            let own = || {
                redis::Client::open(&*url)
                    .unwrap()
                    .get_connection()
                    .unwrap()
            };
            if step.starts_with("close") {
                let mut set = cmd("SET");
                let () = set
                    .arg(&["brief", "v", "PX", "1500"])
                    .query(&mut own())
                    .unwrap();
            }
            if step.starts_with("compare") {
                let mut own = own();
                while cmd("EXISTS").arg("brief").query(&mut own).unwrap() {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
            true
        });
        let events = finish(&servers, &to, options);
        let repeated = |event: &&ReshardEvent| matches!(event, ReshardEvent::Repeated { .. });
        assert_eq!(events.iter().find(repeated), None);
        let size: usize = cmd("DBSIZE").query(&mut servers.connection(0)).unwrap();
        assert_eq!(size, 0);
        let mut there = other.connection(0);
        let after = ["never", "long", "soon"].map(|key| expires(key, &mut there));
        let soon = match seconds > 0 {
            true => -2,
            false => before[2],
        };
        assert_eq!(after, [before[0], before[1], soon], "{seconds}");
        assert_eq!(expires("brief", &mut there), -2, "{seconds}");
    }
}

#[test]
fn keys_that_are_deleted_after_a_copy_was_given_up_stay_deleted() {
    let Some(servers) = start(2) else {
        return;
    };
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 300);
    let mut expected = all_keys(&servers, &[0], &one);
    let stop = |step: &str| !step.starts_with("publish-target");
    let options = ReshardOptions::new().with_step_observer(stop);
    reshard(&servers, &other, options).run(|_| {}).unwrap_err();
    let copied: u64 = cmd("DBSIZE").query(&mut servers.connection(1)).unwrap();
    assert!(copied > 100, "{copied}");
    // As if the units had been opened again.
    for number in 0..100 {
        let key = format!("key:{number}");
        let () = cmd("DEL")
            .arg(&key)
            .query(&mut servers.connection(0))
            .unwrap();
        expected.remove(&key);
    }
    finish(&servers, &other, ReshardOptions::new());
    assert_same(&all_keys(&servers, &[1], &other), &expected, "deleted");
}

#[test]
fn two_movers_never_move_at_a_time() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 1000);
    let before = all_keys(&servers, &two, &from);
    let run = || loop {
        // Each takes over from the other whenever it begins; whoever is last finishes.
        match reshard(&servers, &to, ReshardOptions::new()).run(|_| {}) {
            Ok(outcome) => return outcome,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(rand_millis())),
        }
    };
    std::thread::scope(|scope| {
        let movers: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        for mover in movers {
            assert_eq!(mover.join().unwrap(), ReshardOutcome::Finished);
        }
    });
    assert_same(&all_keys(&servers, &three, &to), &before, "two movers");
}

/// A pause by which movers get out of step.
fn rand_millis() -> u64 {
    static CALLS: AtomicUsize = AtomicUsize::new(1);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) as u64;
    call * 97 % 400
}

/// The metrics of a run, as a recorder of the crate `metrics` receives them.
#[cfg(feature = "metrics")]
#[test]
fn metrics_count_what_a_reshard_has_moved_and_how_long_it_was_closed() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let Some(servers) = start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 300);
    // The connections break once while a batch is copied.
    let (others, fired) = (Arc::clone(&servers), AtomicBool::new(false));
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("compare") && !fired.swap(true, Ordering::SeqCst) {
            let _: i64 = cmd("CLIENT")
                .arg(&["KILL", "TYPE", "normal"])
                .query(&mut follower(&others, 1))
                .unwrap();
        }
        true
    });
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let events = metrics::with_local_recorder(&recorder, || finish(&servers, &other, options));

    let figures: BTreeMap<String, DebugValue> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| key.key().name().starts_with("redis_sharding_reshard_"))
        .map(|(key, _, text, value)| {
            let name = key.key().name().to_owned();
            assert!(text.is_some(), "{name} is described");
            let labels: Vec<_> = key.key().labels().collect();
            let labels: Vec<_> = labels
                .iter()
                .map(|label| (label.key(), label.value()))
                .collect();
            assert_eq!(labels, [("source", "a"), ("target", "b")], "{name}");
            (name, value)
        })
        .collect();
    let counter = |name: &str| match &figures[&format!("redis_sharding_reshard_{name}_total")] {
        DebugValue::Counter(value) => *value,
        other => panic!("{name}: {other:?}"),
    };
    let batches = events.iter().filter_map(|event| match event {
        ReshardEvent::Batch { bytes, closed, .. } => Some((*bytes, closed.as_secs_f64())),
        _ => None,
    });
    let (bytes, closed): (Vec<u64>, Vec<f64>) = batches.unzip();
    assert_eq!(counter("keys"), 300);
    assert_eq!(counter("bytes"), bytes.iter().sum::<u64>());
    assert_eq!(counter("batches"), bytes.len() as u64);
    assert_eq!(counter("repeated_batches"), 1);
    let DebugValue::Histogram(found) = &figures["redis_sharding_reshard_closed_seconds"] else {
        panic!("{figures:?}");
    };
    let found: Vec<f64> = found.iter().map(|seconds| seconds.into_inner()).collect();
    assert_eq!(found, closed);
    let page = std::fs::read_to_string("docs/watching.md").unwrap();
    for name in figures.keys() {
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} is not in docs/watching.md"
        );
    }
}

/// A field of INFO of a server.
fn info(servers: &Servers, index: usize, field: &str) -> String {
    let info: String = cmd("INFO").query(&mut follower(servers, index)).unwrap();
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().to_owned()
}

#[test]
fn new_nodes_have_the_functions_before_any_key() {
    let Some(servers) = start(3) else {
        return;
    };
    let (two, three) = ([0, 1], [0, 1, 2]);
    let (from, to) = (rendezvous(&servers, &two), rendezvous(&servers, &three));
    publish(&servers, &two, &from);
    fill(&servers, &two, &from, 200);
    let before = all_keys(&servers, &two, &from);
    for index in two {
        let code = "#!lua name=lib\nredis.register_function('seven', function() return 7 end)";
        let _: String = cmd("FUNCTION")
            .arg("LOAD")
            .arg(code)
            .query(&mut servers.connection(index))
            .unwrap();
    }
    // Stopped when the functions are there, so that the next run finds them.
    let options = ReshardOptions::new().with_step_observer(|step| !step.starts_with("announce c"));
    reshard(&servers, &to, options).run(|_| {}).unwrap_err();
    let servers = Arc::new(servers);
    let (others, closures) = (Arc::clone(&servers), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&closures);
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("close") && step.ends_with("c") {
            let seven: redis::RedisResult<i64> = cmd("FCALL")
                .arg("seven")
                .arg(0)
                .query(&mut follower(&others, 2));
            counted.fetch_add(usize::from(seven == Ok(7)), Ordering::SeqCst);
        }
        true
    });
    finish(&servers, &to, options);
    assert!(closures.load(Ordering::SeqCst) > 0);
    assert_same(&all_keys(&servers, &three, &to), &before, "functions");
}

#[test]
fn replicas_of_a_target_have_the_keys_before_these_are_published() {
    let Some(servers) = start(3) else {
        return;
    };
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 300);
    let before = all_keys(&servers, &[0], &one);
    let target = servers.addr(1);
    let (host, port) = target.rsplit_once(':').unwrap();
    let () = cmd("REPLICAOF")
        .arg(host)
        .arg(port)
        .query(&mut servers.connection(2))
        .unwrap();
    let start = std::time::Instant::now();
    while info(&servers, 2, "master_link_status") != "up" {
        assert!(start.elapsed().as_secs() < 20, "it does not replicate");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Nothing reaches the replica from before the first copy on, until 300 ms after it.
    let servers = Arc::new(servers);
    let (others, resumed) = (Arc::clone(&servers), Arc::new(AtomicBool::new(false)));
    let (paused, missing) = (AtomicBool::new(false), Arc::new(AtomicUsize::new(0)));
    let (goes_on, counted) = (Arc::clone(&resumed), Arc::clone(&missing));
    let options = ReshardOptions::new().with_step_observer(move |step| {
        if step.starts_with("copy") && !paused.swap(true, Ordering::SeqCst) {
            others.pause(2);
        }
        if step.starts_with("replicate") && !goes_on.load(Ordering::SeqCst) {
            let (others, goes_on) = (Arc::clone(&others), Arc::clone(&goes_on));
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(300));
                goes_on.store(true, Ordering::SeqCst);
                others.resume(2);
            });
        }
        if step.starts_with("publish-target") {
            assert!(
                goes_on.load(Ordering::SeqCst),
                "published without the replica"
            );
            let keys =
                |index| -> usize { cmd("DBSIZE").query(&mut follower(&others, index)).unwrap() };
            counted.fetch_add(keys(1) - keys(2), Ordering::SeqCst);
        }
        true
    });
    finish(&servers, &other, options);
    assert!(resumed.load(Ordering::SeqCst));
    assert_eq!(missing.load(Ordering::SeqCst), 0);
    let () = cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .query(&mut servers.connection(2))
        .unwrap();
    assert_same(&keys(&mut servers.connection(2)), &before, "replica");
}

#[test]
fn keys_are_deleted_at_a_source_with_snapshots_once_the_target_has_one() {
    let Some(servers) = start(2) else {
        return;
    };
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    fill(&servers, &[0], &one, 200);
    let before = all_keys(&servers, &[0], &one);
    let mut folder = Vec::new();
    for index in 0..2 {
        let mut connection = servers.connection(index);
        let set = ["SET", "save", "3600 100000000"];
        let () = cmd("CONFIG").arg(&set).query(&mut connection).unwrap();
        let get = ["GET", "dir"];
        folder = cmd("CONFIG")
            .arg(&get)
            .query::<Vec<String>>(&mut connection)
            .unwrap();
    }
    let snapshot = std::path::Path::new(&folder[1]).join("dump.rdb");
    let found = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (steps, file) = (Arc::clone(&found), snapshot.clone());
    let options = ReshardOptions::new().with_step_observer(move |step| {
        let step = step.split(' ').next().unwrap_or_default();
        if ["publish-source", "unlink"].contains(&step) {
            steps.lock().unwrap().push((step.to_owned(), file.exists()));
        }
        true
    });
    finish(&servers, &other, options);
    let found = found.lock().unwrap();
    let expected = |(step, exists): &(String, bool)| (step == "unlink") == *exists;
    assert!(found.iter().any(|(step, _)| step == "unlink"), "{found:?}");
    assert!(found.iter().all(expected), "{found:?}");
    assert_same(&all_keys(&servers, &[1], &other), &before, "saved");
}

#[test]
fn fields_of_hashes_keep_their_expiries() {
    let Some(servers) = start(2) else {
        return;
    };
    let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
    publish(&servers, &[0], &one);
    let mut connection = servers.connection(0);
    let mut pipe = redis::pipe();
    for field in 0..2000 {
        pipe.cmd("HSET")
            .arg("large")
            .arg(field)
            .arg("a value")
            .ignore();
        pipe.cmd("HSET")
            .arg("small")
            .arg(field % 10)
            .arg(field)
            .ignore();
    }
    pipe.exec(&mut connection).unwrap();
    let expire = |key: &str, field: usize, connection: &mut Connection| -> redis::RedisResult<()> {
        cmd("HPEXPIRE")
            .arg(key)
            .arg(3_600_000 + field)
            .arg(&["FIELDS", "1", &field.to_string()])
            .query::<Value>(connection)
            .map(drop)
    };
    if expire("small", 3, &mut connection).is_err() {
        // Older than Redis 7.4 and Valkey 9.
        return;
    }
    for field in (0..2000).step_by(7) {
        expire("large", field, &mut connection).unwrap();
    }
    let times = |connection: &mut Connection| {
        ["small", "large"].map(|key| {
            let names: Vec<String> = (0..2000).map(|field| field.to_string()).collect();
            let question = cmd("HPEXPIRETIME")
                .arg(key)
                .arg("FIELDS")
                .arg(names.len())
                .arg(&names)
                .query::<Vec<i64>>(connection);
            question.unwrap()
        })
    };
    let before = times(&mut connection);
    assert_eq!(before[1].iter().filter(|time| **time > 0).count(), 286);
    drop(connection);
    let options = ReshardOptions::new().with_large_key_bytes(10_000);
    finish(&servers, &other, options);
    assert_eq!(times(&mut servers.connection(1)), before);
}

#[test]
fn keys_are_as_idle_and_as_frequent_as_before() {
    for (policy, option, value, question) in [
        ("noeviction", "IDLETIME", 5000, "IDLETIME"),
        ("volatile-lfu", "FREQ", 200, "FREQ"),
    ] {
        let builder = Servers::builder().option(["--maxmemory-policy", policy]);
        let Some(servers) = builder.start(2) else {
            return;
        };
        let (one, other) = (rendezvous(&servers, &[0]), rendezvous(&servers, &[1]));
        publish(&servers, &[0], &one);
        let mut connection = servers.connection(0);
        let () = cmd("SET")
            .arg("made")
            .arg("a value")
            .query(&mut connection)
            .unwrap();
        let dump: Vec<u8> = cmd("DUMP").arg("made").query(&mut connection).unwrap();
        for key in 0..50 {
            let () = cmd("RESTORE")
                .arg(format!("key:{key}"))
                .arg(0)
                .arg(&dump)
                .arg(option)
                .arg(value)
                .query(&mut connection)
                .unwrap();
        }
        drop(connection);
        finish(&servers, &other, ReshardOptions::new());
        for key in 0..50 {
            let found: i64 = cmd("OBJECT")
                .arg(question)
                .arg(format!("key:{key}"))
                .query(&mut servers.connection(1))
                .unwrap();
            assert!(
                (value - 5..value + 60).contains(&found),
                "{question}: {found}"
            );
        }
    }
}

#[test]
fn plan_refuses_two_names_for_one_server() {
    let Some(servers) = start(2) else {
        return;
    };
    let from = rendezvous(&servers, &[0, 1]);
    publish(&servers, &[0, 1], &from);
    let renamed = |address: String| {
        let nodes = vec![
            NodeSpec::new("other", address),
            NodeSpec::new("b", servers.addr(1)),
        ];
        let to = Topology::new(nodes, Arc::new(Rendezvous::new())).unwrap();
        reshard(&servers, &to, ReshardOptions::new())
    };
    // At the address that the topologies know.
    let error = renamed(servers.addr(0)).plan().unwrap_err().to_string();
    assert!(error.contains("have the same address"), "{error}");
    // At another address of the server. Nothing else stands against it: there are no keys.
    let address = support::cut::Cut::start(&servers.addr(0));
    let refused = renamed(address.addr());
    let plan = refused.plan().unwrap();
    let [refusal] = &plan.refusals[..] else {
        panic!("{plan}");
    };
    assert_eq!(
        (refusal.kind, &*refusal.node),
        (ReshardRefusalKind::SameServer, "other")
    );
    assert!(
        refusal.text.contains("the same server as node \"a\""),
        "{plan}"
    );
    let remarks = plan.to_string();
    assert!(
        remarks.contains("users and their ACLs are not copied"),
        "{remarks}"
    );
    refused.run(|_| {}).unwrap_err();
    assert!(record(&servers, 0).contains("epoch 1.1\n"));
}
