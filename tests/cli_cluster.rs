//! The binary `redis-sharding` over a Redis Cluster: every subcommand with `--cluster`, and seeds that lead to none.
#![cfg(all(unix, feature = "cli"))]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use redis_sharding::{ShardedClient, Topology};
use serde_json::Value;

use support::Servers;
use support::clusters::{Cluster, key_in, servers};
use support::local_proxy::RawClient;
use support::servers::Watchdog;

/// What the tool has done: exit code, standard output, standard error.
fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = command(arguments).spawn().unwrap();
    let _watchdog = Watchdog::start(child.id());
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code(), stdout, stderr)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("REDIS_SHARDING_NODE_PASSWORD");
    command
}

fn done(arguments: &[&str], input: &str) -> String {
    let (code, stdout, stderr) = run(arguments, input);
    assert_eq!((code, &*stderr), (Some(0), ""), "{arguments:?}: {stdout}");
    stdout
}

/// A cluster on the installed server.
fn cluster() -> Option<Cluster> {
    Some(Cluster::start(servers().first()?, 3, 0))
}

#[test]
fn subcommands_ask_the_servers_of_a_cluster_where_keys_live() {
    let Some(cluster) = cluster() else {
        return;
    };
    let keys: Vec<(String, String)> = (0..6)
        .map(|number| {
            (
                key_in(cluster.own_slot(number % 3), "k"),
                cluster.addr(number % 3),
            )
        })
        .collect();
    let names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
    let lines: String = keys
        .iter()
        .map(|(key, node)| format!("{key}\t{node}\n"))
        .collect();
    // As host:port, as a URL, and by the text of a topology.
    let (address, url) = (cluster.addr(1), cluster.url(2));
    let topology = done(&["locate", "--cluster", &address, "--write-topology"], "");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("cluster.topology");
    fs::write(&file, &topology).unwrap();
    let file = file.to_str().unwrap();
    assert!(
        topology.contains(&format!("\ncluster {address}\n")),
        "{topology}"
    );
    for node in 0..3 {
        assert!(
            topology.contains(&format!("# primary {}\n", cluster.addr(node))),
            "{topology}"
        );
    }
    for nodes in [
        ["--cluster", &address],
        ["--cluster", &url],
        ["--topology", file],
    ] {
        let with = |words: &[&str]| -> String {
            let words: Vec<&str> = [&words[..1], &nodes, &words[1..]].concat();
            done(&words, &(names.join("\n") + "\n"))
        };
        assert_eq!(with(&["locate"]), lines);
        assert_eq!(with(&[&["locate"], &names[..]].concat()), lines);
        let balance: Value = serde_json::from_str(&with(&["balance", "--json"])).unwrap();
        assert_eq!(balance["keys"], 6);
        let counts = balance["nodes"].as_array().unwrap().iter();
        assert_eq!(
            counts
                .map(|node| node["keys"].as_u64().unwrap())
                .collect::<Vec<_>>(),
            [2, 2, 2]
        );
        let explained: Value = serde_json::from_str(&with(
            &[&["explain", "--json", "MGET"], &names[..]].concat(),
        ))
        .unwrap();
        assert_eq!(explained["plan"], "split");
        assert!(
            explained["parts"].to_string().contains(&cluster.addr(0)),
            "{explained}"
        );
        let ping: Value = serde_json::from_str(&with(&["ping", "--json"])).unwrap();
        assert_eq!(
            (&ping["reachable"], &ping["unreachable"]),
            (&3.into(), &0.into()),
            "{ping}"
        );
        assert_eq!(ping["nodes"][0]["role"], "master");
    }
    let (code, stdout, _) = run(
        &["explain", "--cluster", &url, "RENAME", names[0], names[1]],
        "",
    );
    assert_eq!(code, Some(1));
    assert!(stdout.contains("different slots"), "{stdout}");
    // The text is one that a client reads.
    let topology = Topology::parse(&topology).unwrap();
    let client = ShardedClient::builder()
        .topology(&topology)
        .build()
        .unwrap();
    let set: redis_sharding::redis::RedisResult<()> = redis_sharding::redis::cmd("SET")
        .arg(names[0])
        .arg("1")
        .query(&mut client.clone());
    assert_eq!(set, Ok(()));
    assert_eq!(client.topology().nodes().len(), 3);
}

#[test]
fn ping_has_a_row_for_a_primary_that_is_down() {
    let Some(cluster) = cluster() else {
        return;
    };
    let (alive, dead) = (cluster.addr(0), cluster.addr(1));
    cluster.kill(1);
    let seeds = ["ping", "--cluster", &dead, "--cluster", &alive, "--json"];
    let (code, stdout, _) = run(&seeds, "");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &report["unreachable"]),
        (Some(1), &1.into()),
        "{report}"
    );
}

#[test]
fn proxy_serves_a_cluster_and_emulates_one() {
    let Some(cluster) = cluster() else {
        return;
    };
    for (mode, begin) in [
        ("disabled", "-ERR This instance"),
        ("emulated", "*1 *3 :0 :16383 *4 proxy.example :77 "),
    ] {
        let mut child = command(&[
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--cluster",
            &cluster.addr(2),
            "--cluster-mode",
            mode,
            "--cluster-announce",
            "proxy.example:77",
            "--threads",
            "2",
        ])
        .spawn()
        .unwrap();
        let _watchdog = Watchdog::start(child.id());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        let mut client = RawClient::connect(address);
        assert_eq!(client.ask("MSET a 1 b 2 c 3 d 4"), "+OK");
        assert_eq!(client.ask("MGET d c b a"), "*4 4 3 2 1");
        let slots = client.ask("CLUSTER SLOTS");
        assert!(slots.starts_with(begin), "{slots}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn seeds_that_lead_to_no_cluster_are_reported_with_the_remedy() {
    let Some(plain) = Servers::start(1) else {
        return;
    };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    let plain = plain_address(&plain);
    let subcommands: [&[&str]; 5] = [
        &["locate", "k"],
        &["balance"],
        &["explain", "GET", "k"],
        &["ping"],
        &["proxy", "--listen", "127.0.0.1:0"],
    ];
    for words in subcommands {
        let with = |seed: &str| {
            let words: Vec<&str> = [&words[..1], &["--cluster", seed], &words[1..]].concat();
            run(&words, "k\n")
        };
        let (code, _, stderr) = with(&plain);
        assert!(matches!(code, Some(1 | 2)), "{words:?}: {stderr}");
        assert!(
            stderr.contains(&plain) && stderr.contains("cluster-enabled"),
            "{words:?}: {stderr}"
        );
        // The proxy waits for a cluster that is not there yet.
        if words[0] != "proxy" {
            let (code, _, stderr) = with(&nobody);
            assert_eq!(code, Some(1), "{words:?}: {stderr}");
            assert!(stderr.contains(&nobody), "{words:?}: {stderr}");
        }
    }
}

fn plain_address(servers: &Servers) -> String {
    servers.addr(0)
}

#[test]
fn seeds_beside_nodes_and_malformed_ones_are_refused_before_anything_is_contacted() {
    let cases: [(&[&str], &str); 9] = [
        (
            &["--cluster", "h:1", "--node", "h:1"],
            "cannot be used with",
        ),
        (
            &["--cluster", "h:1", "--topology", "f"],
            "cannot be used with",
        ),
        (
            &["--cluster", "h:1", "--placement", "modulo/1"],
            "cannot be used with",
        ),
        (
            &["--cluster", "h"],
            "--cluster h: it is neither host:port nor a URL",
        ),
        (&["--cluster", "/tmp/socket"], "neither host:port nor a URL"),
        (
            &["--cluster", "http://h:1"],
            "the URL of a --cluster cannot be read",
        ),
        (
            &[
                "--cluster",
                "redis://:secret@h:1",
                "--cluster",
                "redis://:hunter2@h:2",
            ],
            "server number 2",
        ),
        (&["--cluster", "unix:///tmp/socket"], "not by a socket"),
        (&[], "--cluster SEED"),
    ];
    for (words, text) in cases {
        for subcommand in ["ping", "locate"] {
            let (code, _, stderr) = run(&[&[subcommand], words].concat(), "");
            assert_eq!(code, Some(2), "{words:?}: {stderr}");
            assert!(stderr.contains(text), "{words:?}: {stderr}");
            assert!(
                !stderr.contains("secret") && !stderr.contains("hunter2"),
                "{stderr}"
            );
        }
    }
    for (words, text) in [
        (
            ["--cluster-mode", "on"],
            "--cluster-mode is disabled or emulated",
        ),
        (
            ["--cluster-announce", "h"],
            "--cluster-announce takes host:port",
        ),
        (
            ["--cluster-announce", "h:0"],
            "--cluster-announce takes host:port",
        ),
        (
            ["--cluster-announce", "::1:7"],
            "--cluster-announce takes host:port",
        ),
    ] {
        let words = [
            &["proxy", "--listen", "127.0.0.1:0", "--cluster", "h:1"][..],
            &words,
        ]
        .concat();
        let (code, _, stderr) = run(&words, "");
        assert_eq!(code, Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(text), "{words:?}: {stderr}");
    }
}
