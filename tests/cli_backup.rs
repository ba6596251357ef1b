//! The tool's `restore | inspect | verify | diff`.
#![cfg(all(unix, feature = "cli"))]

mod support;
#[path = "support/tool.rs"]
mod tool;

use std::fs;
use std::process::Command;

use redis::{cmd, pipe};
use serde_json::Value;
use tempfile::TempDir;

use support::Servers;
use tool::run;

fn json(arguments: &[&str], code: i32) -> Value {
    let outcome = run(arguments);
    assert_eq!(
        outcome.code,
        Some(code),
        "{} {}",
        outcome.stdout,
        outcome.stderr
    );
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// Writes a file with a topology of these servers, called `a`, `b`, ...
fn file(folder: &TempDir, servers: &Servers, indices: std::ops::Range<usize>) -> String {
    let nodes = indices.clone().map(|index| {
        let name = char::from(b'a' + index as u8);
        format!("node {name} {}\n", servers.addr(index))
    });
    let nodes: String = nodes.collect();
    let path = folder.path().join(format!("{}.topology", indices.len()));
    let text = format!("redis-sharding topology 1\nplacement rendezvous/1\n{nodes}");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The RDB file of a server.
fn saved(servers: &Servers, index: usize) -> String {
    let connection = &mut servers.connection(index);
    let () = cmd("SAVE").query(connection).unwrap();
    let (_, folder): (String, String) = cmd("CONFIG")
        .arg(&["GET", "dir"])
        .query(connection)
        .unwrap();
    format!("{folder}/dump.rdb")
}

#[test]
fn tool_restores_inspects_verifies_and_compares_rdb_files() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut requests = pipe();
    for number in 0..500 {
        requests
            .hset(format!("user:{number}"), "name", number)
            .ignore();
    }
    requests.set("plain", "text").ignore();
    let () = requests.query(&mut servers.connection(0)).unwrap();
    let rdb = saved(&servers, 0);
    let two = file(&folder, &servers, 1..3);

    let inspected = json(&["inspect", &rdb, "--json"], 0);
    assert_eq!(inspected["nodes"][0]["keys"], 501);
    assert_eq!(inspected["nodes"][0]["types"]["hash"], 500);
    let text = run(&["inspect", &rdb]);
    assert!(
        text.code == Some(0) && text.stdout.contains("hash: 500"),
        "{}",
        text.stdout
    );
    let verified = json(&["verify", &rdb, "--json"], 0);
    assert_eq!(
        (&verified["good"], &verified["keys"]),
        (&Value::Bool(true), &501.into())
    );

    let planned = json(
        &[
            "restore",
            "--rdb",
            &rdb,
            "--topology",
            &two,
            "--dry-run",
            "--json",
        ],
        0,
    );
    let of_nodes = planned["nodes"].as_array().unwrap();
    let planned: u64 = of_nodes
        .iter()
        .map(|node| node["keys"].as_u64().unwrap())
        .sum();
    assert_eq!(planned, 501);
    let different = json(&["diff", &rdb, &two, "--json"], 1);
    assert_eq!(different["only_first"], 501);
    assert_eq!(different["named"].as_array().unwrap().len(), 100);

    let restored = json(&["restore", "--rdb", &rdb, "--topology", &two, "--json"], 0);
    assert_eq!(
        (&restored["complete"], &restored["restored"]),
        (&Value::Bool(true), &501.into())
    );
    let equal = run(&["diff", &rdb, &two]);
    assert_eq!(equal.code, Some(0), "{} {}", equal.stdout, equal.stderr);
    assert!(equal.stdout.contains("501 equal"), "{}", equal.stdout);

    let again = run(&["restore", "--rdb", &rdb, "--topology", &two]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("--replace"), "{}", again.stderr);
    assert!(
        again.stdout.contains("exist at the target"),
        "{}",
        again.stdout
    );
    let skipped = run(&["restore", "--rdb", &rdb, "--topology", &two, "--skip"]);
    assert_eq!(skipped.code, Some(0), "{}", skipped.stderr);
    assert!(
        skipped.stdout.contains("501 keys exist"),
        "{}",
        skipped.stdout
    );
    let copied = [
        "restore",
        "--rdb",
        &rdb,
        "--topology",
        &two,
        "--replace",
        "--match",
        "user:1*",
        "--type",
        "hash",
        "--prefix",
        "user:=copy:",
        "--db",
        "0=1",
        "--rate",
        "10mb",
        "--json",
    ];
    let copied = json(&copied, 0);
    assert_eq!(
        (&copied["restored"], &copied["filtered"]),
        (&111.into(), &390.into())
    );
}

#[test]
fn tool_refuses_damage_and_nonsense() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let two = file(&folder, &servers, 0..2);
    for number in 0..100 {
        let mut set = cmd("SET");
        set.arg(number).arg(format!("{number:01000}"));
        let () = set.query(&mut servers.connection(0)).unwrap();
    }
    let bytes = fs::read(saved(&servers, 0)).unwrap();
    let cut = folder.path().join("cut.rdb");
    fs::write(&cut, &bytes[..bytes.len() - 20]).unwrap();
    let cut = cut.to_str().unwrap();
    let inspected = run(&["inspect", cut]);
    assert_eq!(inspected.code, Some(1), "{}", inspected.stdout);
    let verified = json(&["verify", cut, "--json"], 1);
    assert_eq!(verified["damage"].as_array().unwrap().len(), 1);
    let () = cmd("FLUSHALL").query(&mut servers.connection(0)).unwrap();
    let refused = run(&["restore", "--rdb", cut, "--topology", &two]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--damaged"), "{}", refused.stderr);
    let restored = json(
        &[
            "restore",
            "--rdb",
            cut,
            "--topology",
            &two,
            "--damaged",
            "--json",
        ],
        1,
    );
    assert_eq!(restored["restored"], verified["keys"]);

    for (arguments, expected) in [
        (&["restore", "--topology", &two][..], "ARCHIVE"),
        (
            &["restore", "x.rsb", "--rdb", "y.rdb", "--topology", &two],
            "cannot be used with",
        ),
        (
            &["restore", "x.rsb", "--topology", &two, "--db", "3"],
            "FROM=TO",
        ),
        (
            &["restore", "x.rsb", "--topology", &two, "--prefix", "=x"],
            "OLD=NEW",
        ),
        (
            &["restore", "x.rsb", "--topology", &two, "--type", "table"],
            "zset",
        ),
        (&["verify", "/nowhere.rsb"], "/nowhere.rsb"),
        (&["diff", "/nowhere.rsb", &two], "/nowhere.rsb"),
    ] {
        let outcome = run(arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(expected),
            "{arguments:?}: {}",
            outcome.stderr
        );
    }
    let missing = run(&["restore", "/nowhere.rsb", "--topology", &two]);
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    assert!(
        missing.stderr.contains("/nowhere.rsb"),
        "{}",
        missing.stderr
    );
}

#[test]
fn tool_restores_an_archive_from_a_file_and_from_a_pipe() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (file(&folder, &servers, 0..1), file(&folder, &servers, 1..3));
    for number in 0..300 {
        let mut add = cmd("RPUSH");
        add.arg(format!("list:{number}")).arg(&["a", "b"]);
        let () = add.query(&mut servers.connection(0)).unwrap();
    }
    let archive = folder.path().join("fleet.rsb");
    let archive = archive.to_str().unwrap();
    let made = run(&["backup", archive, "--topology", &one]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let inspected = json(&["inspect", archive, "--json"], 0);
    assert_eq!(inspected["nodes"][0]["keys"], 300);
    let topology = run(&["inspect", archive, "--topology"]);
    assert!(
        topology.stdout.contains("placement rendezvous/1"),
        "{}",
        topology.stdout
    );
    let verified = json(&["verify", archive, "--json"], 0);
    assert_eq!(verified["types"]["list"], 300);

    let progress = folder.path().join("progress");
    let progress = progress.to_str().unwrap();
    let restored = run(&[
        "restore",
        archive,
        "--topology",
        &two,
        "--progress",
        progress,
    ]);
    assert_eq!(
        restored.code,
        Some(0),
        "{} {}",
        restored.stdout,
        restored.stderr
    );
    assert_eq!(run(&["diff", archive, &two]).code, Some(0));
    assert_eq!(run(&["diff", &one, &two]).code, Some(0));

    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(["restore", "-", "--topology", &two, "--skip", "--json"]);
    command.stdin(fs::File::open(archive).unwrap());
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["existing"], &report["restored"]),
        (&300.into(), &0.into())
    );
}
