//! The tool's `reshard plan | run | status | pause | resume | abort`.
#![cfg(all(unix, feature = "cli"))]

mod support;
#[path = "support/tool.rs"]
mod tool;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;
use tempfile::TempDir;

use support::Servers;
use tool::run;

/// Writes a file with a topology of these servers, called `a`, `b`, ...
fn file(folder: &TempDir, servers: &Servers, count: usize) -> String {
    let nodes = (0..count).map(|index| {
        let name = char::from(b'a' + index as u8);
        format!("node {name} {}\n", servers.addr(index))
    });
    let nodes: String = nodes.collect();
    let path = folder.path().join(format!("{count}.topology"));
    let text = format!("redis-sharding topology 1\nplacement rendezvous/1\n{nodes}");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn tool_plans_runs_and_reports_a_reshard() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (two, three) = (file(&folder, &servers, 2), file(&folder, &servers, 3));
    publish_and_fill(&two);
    let seed = servers.addr(0);
    let plan = run(&[
        "reshard",
        "plan",
        "--to",
        &three,
        "--discover",
        &seed,
        "--json",
    ]);
    assert_eq!(plan.code, Some(0), "{} {}", plan.stdout, plan.stderr);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    let planned = plan["keys"].as_u64().unwrap();
    assert!(
        planned > 100 && plan["refusals"].as_array().unwrap().is_empty(),
        "{plan}"
    );
    let status = run(&["reshard", "status", "--to", &three]);
    assert!(status.stdout.contains("not begun"), "{}", status.stdout);
    let abort = run(&["reshard", "abort", "--to", &three]);
    assert_eq!(abort.code, Some(1));
    assert!(
        abort
            .stderr
            .contains("no reshard to this topology is under way"),
        "{}",
        abort.stderr
    );

    let done = run(&["reshard", "run", "--to", &three]);
    assert_eq!(done.code, Some(0), "{} {}", done.stdout, done.stderr);
    assert!(
        done.stdout.contains(&format!("moved {planned} keys")),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout.contains("the new topology is in force"),
        "{}",
        done.stdout
    );
    let status = run(&["reshard", "status", "--to", &three, "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(
        (status["stage"].as_str(), status["share"].as_f64()),
        (Some("Finished"), Some(1.0))
    );
    let keys = |index| -> u64 { cmd("DBSIZE").query(&mut servers.connection(index)).unwrap() };
    assert_eq!(keys(2), planned);
    assert_eq!(keys(0) + keys(1) + keys(2), 500);
}

/// Publishes the record of the topology in this file, and makes 500 keys.
fn publish_and_fill(path: &str) {
    let published = run(&["topology", "publish", path]);
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    let topology = redis_sharding::Topology::parse(&fs::read_to_string(path).unwrap()).unwrap();
    let client = redis_sharding::ShardedClient::builder().topology(&topology);
    let mut client = client.build().unwrap();
    for key in 0..500 {
        let mut set = cmd("SET");
        let () = set
            .arg(format!("key:{key}"))
            .arg(key)
            .query(&mut client)
            .unwrap();
    }
}

#[test]
fn tool_pauses_a_reshard_that_runs_elsewhere_until_it_is_resumed() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (two, three) = (file(&folder, &servers, 2), file(&folder, &servers, 3));
    publish_and_fill(&two);
    let reshard = |action: &str| run(&["reshard", action, "--to", &three]);
    let none = reshard("pause");
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("under way"), "{}", none.stderr);

    // Behind its first batch it waits for a minute.
    let mut mover = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    mover.args(["reshard", "run", "--to", &three]);
    mover.args(["--rate", "100", "--sources", "1"]);
    let mover = mover.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mover = mover.unwrap();
    let status = || -> Value {
        let status = run(&["reshard", "status", "--to", &three, "--json"]);
        serde_json::from_str(&status.stdout).unwrap_or_default()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while status()["share"].as_f64().unwrap_or_default() == 0.0 {
        assert!(Instant::now() < end, "{}", status());
        thread::sleep(Duration::from_millis(50));
    }
    let paused = reshard("pause");
    assert_eq!(paused.code, Some(0), "{} {}", paused.stdout, paused.stderr);
    assert!(paused.stdout.contains("has stopped"), "{}", paused.stdout);
    let output = mover.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("reshard resume"), "{text}");
    assert_eq!(
        (status()["stage"].as_str(), status()["paused"].as_bool()),
        (Some("UnderWay"), Some(true))
    );
    let again = reshard("pause");
    assert_eq!(again.code, Some(1));
    assert!(again.stdout.contains("no mover"), "{}", again.stdout);
    // Another run does not begin.
    let held = reshard("run");
    assert_eq!(held.code, Some(1));
    assert!(held.stdout.contains("reshard resume"), "{}", held.stdout);
    assert_eq!(status()["stage"].as_str(), Some("UnderWay"));

    let done = reshard("resume");
    assert_eq!(done.code, Some(0), "{} {}", done.stdout, done.stderr);
    assert_eq!(
        (status()["stage"].as_str(), status()["paused"].as_bool()),
        (Some("Finished"), Some(false))
    );
    let keys = |index| -> u64 { cmd("DBSIZE").query(&mut servers.connection(index)).unwrap() };
    assert!(keys(2) > 100);
    assert_eq!(keys(0) + keys(1) + keys(2), 500);
}

#[test]
fn tool_refuses_a_reshard_of_nodes_without_a_record() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let two = file(&folder, &servers, 2);
    let refused = run(&["reshard", "run", "--to", &two]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("topology publish"),
        "{}",
        refused.stderr
    );
}
