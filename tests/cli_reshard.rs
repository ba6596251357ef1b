//! The tool's `reshard plan | run | status | abort`.
#![cfg(all(unix, feature = "cli"))]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use redis::cmd;
use serde_json::Value;
use tempfile::TempDir;

use support::Servers;

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("REDIS_SHARDING_NODE_PASSWORD");
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

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
    let published = run(&["topology", "publish", &two]);
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    let client = redis_sharding::ShardedClient::builder();
    let topology = redis_sharding::Topology::parse(&fs::read_to_string(&two).unwrap()).unwrap();
    {
        let mut client = client.topology(&topology).build().unwrap();
        for key in 0..500 {
            let () = cmd("SET")
                .arg(format!("key:{key}"))
                .arg(key)
                .query(&mut client)
                .unwrap();
        }
    }
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
