//! The tool's `topology publish | show | check | retire`, and a proxy that follows the record.
#![cfg(all(unix, feature = "cli"))]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;
use tempfile::TempDir;

use support::Servers;
use support::servers::Watchdog;

/// More than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("REDIS_SHARDING_PASSWORD");
    command.env_remove("REDIS_SHARDING_NODE_PASSWORD");
    command
}

fn run(arguments: &[&str]) -> Outcome {
    let output = command(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A file with a topology of these nodes, called `a`, `b`, ...
struct TopologyFile {
    _folder: TempDir,
    path: String,
}

impl TopologyFile {
    fn new(addresses: &[String]) -> Self {
        let nodes = addresses.iter().zip('a'..);
        let nodes: String = nodes
            .map(|(address, name)| format!("node {name} {address}\n"))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.topology");
        fs::write(
            &path,
            format!("redis-sharding topology 1\nplacement rendezvous/1\n{nodes}"),
        )
        .unwrap();
        Self {
            path: path.to_str().unwrap().to_owned(),
            _folder: folder,
        }
    }
}

fn addresses(servers: &Servers) -> Vec<String> {
    (0..servers.len())
        .map(|index| servers.addr(index))
        .collect()
}

#[test]
fn topology_is_published_checked_and_shown() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let file = TopologyFile::new(&addresses(&servers));
    let check =
        |words: &[&str]| run(&[&["topology", "check", "--topology", &file.path], words].concat());
    let outcome = check(&[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert_eq!(
        outcome.stdout.matches("missing").count(),
        3,
        "{}",
        outcome.stdout
    );
    let outcome = run(&["topology", "publish", &file.path]);
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(0), "published on 3 nodes, in term 1\n")
    );
    let outcome = run(&["topology", "publish", &file.path, "--json"]);
    assert_eq!(
        (outcome.code, outcome.json()["written"].as_u64()),
        (Some(0), Some(0))
    );
    let outcome = check(&["--json"]);
    let report = outcome.json();
    assert_eq!(
        (outcome.code, report["fine"].as_bool()),
        (Some(0), Some(true))
    );
    assert_eq!(report["nodes"][2]["epoch"], "1.1");
    assert_eq!(report["nodes"][2]["state"], "current");
    let seed = servers.addr(1);
    let shown = run(&["topology", "show", "--discover", &seed]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let given = run(&["locate", "--topology", &file.path, "--write-topology"]);
    assert_eq!(shown.stdout, given.stdout);
    // Other commands take the nodes from the record as well.
    let located = run(&["locate", "--discover", &seed, "user:1"]);
    assert_eq!(
        located.stdout,
        run(&["locate", "--topology", &file.path, "user:1"]).stdout
    );
    servers.kill(2);
    let outcome = check(&[]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stdout.contains("out of reach"),
        "{}",
        outcome.stdout
    );
    let outcome = run(&["topology", "publish", &file.path]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("node c"), "{}", outcome.stderr);
}

#[test]
fn topology_that_would_move_keys_needs_a_flag_and_nodes_that_leave_are_retired() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let all = addresses(&servers);
    let (three, two) = (TopologyFile::new(&all), TopologyFile::new(&all[..2]));
    assert_eq!(run(&["topology", "publish", &three.path]).code, Some(0));
    for index in 0..3 {
        let () = cmd("SET")
            .arg("k")
            .arg(1)
            .query(&mut servers.connection(index))
            .unwrap();
    }
    let refused = run(&["topology", "publish", &two.path]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("redis-sharding reshard"),
        "{}",
        refused.stderr
    );
    let moved = run(&["topology", "publish", &two.path, "--allow-moves", "--json"]);
    assert_eq!(
        (moved.code, moved.json()["retired"].as_u64()),
        (Some(0), Some(1))
    );
    let outcome = run(&["topology", "check", "--topology", &three.path]);
    assert!(outcome.stdout.contains("retired"), "{}", outcome.stdout);
    let lost = run(&["topology", "show", "--discover", &all[2]]);
    assert_eq!(lost.code, Some(1));
    assert!(
        lost.stderr.contains("it has left the fleet"),
        "{}",
        lost.stderr
    );
    let member = run(&["topology", "retire", &all[0], "--topology", &two.path]);
    assert_eq!(member.code, Some(1));
    let retired = run(&["topology", "retire", &all[2], "--topology", &two.path]);
    assert_eq!(retired.code, Some(0), "{}", retired.stderr);
}

#[test]
fn proxy_discovers_the_topology_and_follows_it() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let all = addresses(&servers);
    let (three, four) = (TopologyFile::new(&all[..3]), TopologyFile::new(&all));
    assert_eq!(run(&["topology", "publish", &three.path]).code, Some(0));
    let mut proxy = proxy(&["--discover", &all[1]]);
    let client = redis::Client::open(format!("redis://{}/", proxy.address)).unwrap();
    let mut client = client.get_connection().unwrap();
    let keys = (0..100).map(|number| format!("key:{number}"));
    for key in keys {
        let () = cmd("SET").arg(key).arg(1).query(&mut client).unwrap();
    }
    let outcome = run(&["topology", "publish", &four.path, "--allow-moves"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let begun = Instant::now();
    loop {
        let () = cmd("SET")
            .arg(format!("new:{}", begun.elapsed().as_nanos()))
            .arg(1)
            .query(&mut client)
            .unwrap();
        let keys: i64 = cmd("DBSIZE").query(&mut servers.connection(3)).unwrap();
        if keys > 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    proxy.stop();
    let other = run(&[
        "proxy",
        "--listen",
        "127.0.0.1:0",
        "--discover",
        "127.0.0.1:1",
    ]);
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("127.0.0.1:1"), "{}", other.stderr);
}

struct Proxy {
    child: Child,
    address: String,
    _watchdog: Watchdog,
}

fn proxy(arguments: &[&str]) -> Proxy {
    let arguments = [&["proxy", "--listen", "127.0.0.1:0"], arguments].concat();
    let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let watchdog = Watchdog::start(child.id());
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    Proxy {
        child,
        address,
        _watchdog: watchdog,
    }
}

impl Proxy {
    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
