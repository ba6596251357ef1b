//! The examples as programs of the command line: what they say to `--help`, to arguments that they do not know, and when
//! nobody reads what they write.
#![cfg(all(unix, feature = "tokio-comp"))]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Of a program that is ended by SIGPIPE, as a shell shows it.
const READER_LEFT: i32 = 141;
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| support::examples::build(&["--examples"]))
}

/// The names of all examples, so that a new one is tested as well.
fn names() -> BTreeSet<String> {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let is_example = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").exists()
    };
    let files = files.map(|file| file.unwrap().path()).filter(is_example);
    files
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// What an example has done.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    written: String,
    said: String,
}

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(folder().join(name));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("RUST_BACKTRACE")
        // A machine may have no folder for temporary files.
        .env("TMPDIR", "/nowhere/at/all");
    command
}

fn run(name: &str, arguments: &[&str]) -> Outcome {
    let mut child = command(name, arguments).spawn().unwrap();
    let written = collect(child.stdout.take().unwrap());
    finish(name, child, written)
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        let _ = from.read_to_string(&mut text);
        text
    })
}

fn finish(name: &str, mut child: Child, written: thread::JoinHandle<String>) -> Outcome {
    let said = collect(child.stderr.take().unwrap());
    let status = wait(name, &mut child);
    let outcome = Outcome {
        code: status.code(),
        written: written.join().unwrap(),
        said: said.join().unwrap(),
    };
    assert!(!outcome.said.contains("panicked"), "{name}: {outcome:?}");
    outcome
}

fn wait(name: &str, child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_example_prints_help() {
    for name in names() {
        for arguments in [&["--help"][..], &["-h"], &["--help", "--help"]] {
            let outcome = run(&name, arguments);
            assert_eq!(
                (outcome.code, &*outcome.said),
                (Some(0), ""),
                "{name}: {outcome:?}"
            );
            assert!(outcome.written.lines().count() > 1, "{name}: {outcome:?}");
        }
    }
}

#[test]
fn every_example_refuses_unknown_options() {
    for name in names() {
        for option in ["--novel", "--novel=s3cret", "-n"] {
            let outcome = run(&name, &[option]);
            assert_eq!(
                (outcome.code, &*outcome.written),
                (Some(2), ""),
                "{name}: {outcome:?}"
            );
            let shown = option.split('=').next().unwrap();
            assert!(outcome.said.contains(shown), "{name}: {outcome:?}");
            assert!(!outcome.said.contains("s3cret"), "{name}: {outcome:?}");
        }
    }
    for name in ["explain", "hash_tags", "transaction", "per_node"] {
        let outcome = run(name, &["redis://:s3cret@127.0.0.1:1/"]);
        assert_eq!(outcome.code, Some(2));
        assert!(
            outcome.said.contains("it takes no arguments"),
            "{outcome:?}"
        );
        assert!(!outcome.said.contains("s3cret"), "{outcome:?}");
    }
}

/// Arguments with which an example soon writes something, and the exit code when nobody reads it.
fn soon(name: &str) -> (&'static [&'static str], i32) {
    match name {
        // Without arguments it counts for long before it writes.
        "balance" => (&["--help"], READER_LEFT),
        "locate" => (&["--list"], 0),
        "proxy" => (&["--help"], READER_LEFT),
        _ => (&[], READER_LEFT),
    }
}

/// What becomes of an example whose output has no reader from the start.
fn unread(name: &str, arguments: &[&str]) -> Outcome {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command(name, arguments).stdout(writer).spawn().unwrap();
    finish(name, child, thread::spawn(String::new))
}

#[test]
fn every_example_ends_quietly_when_its_output_is_closed() {
    for name in names() {
        let (arguments, code) = soon(&name);
        let outcome = unread(&name, arguments);
        assert_eq!(
            (outcome.code, &*outcome.said),
            (Some(code), ""),
            "{name}: {outcome:?}"
        );
    }
    // A proxy that cannot say where it listens is of no use.
    let arguments = ["--listen", "127.0.0.1:0", "--node", "redis://127.0.0.1:1"];
    let outcome = unread("proxy", &arguments);
    assert_eq!((outcome.code, &*outcome.said), (Some(READER_LEFT), ""));
}

#[test]
fn quickstart_stops_its_servers_when_its_output_is_closed() {
    let mut child = command("quickstart", &[]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    // The first line says what there is, then come the nodes and their addresses.
    for _ in 0..5 {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        lines.push(line);
    }
    drop(output);
    let outcome = finish("quickstart", child, thread::spawn(String::new));
    assert_eq!((outcome.code, &*outcome.said), (Some(READER_LEFT), ""));
    for line in &lines[1..] {
        let address = line.split_whitespace().last().unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{lines:?}");
        assert!(
            TcpStream::connect(address).is_err(),
            "a server still listens at {address}"
        );
    }
}

#[test]
fn every_example_reports_a_full_disk_without_a_panic() {
    // Not every system has it.
    if !Path::new("/dev/full").exists() {
        return;
    }
    for name in names() {
        let (arguments, _) = soon(&name);
        let mut command = command(&name, arguments);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let child = command.stdout(full).spawn().unwrap();
        let outcome = finish(&name, child, thread::spawn(String::new));
        assert!(matches!(outcome.code, Some(1 | 2)), "{name}: {outcome:?}");
        assert!(
            outcome.said.starts_with(&format!("{name}: ")),
            "{outcome:?}"
        );
    }
}

#[test]
fn examples_report_missing_files_and_folders_at_once() {
    let balance = |folder: &str| {
        let outcome = run("balance", &[folder]);
        assert_eq!(
            (outcome.code, &*outcome.written),
            (Some(1), ""),
            "{outcome:?}"
        );
        outcome.said
    };
    assert_eq!(
        balance("/nowhere/at/all"),
        "balance: there is no folder /nowhere/at/all; --help says more\n"
    );
    // Not even root can write there.
    if Path::new("/proc/self").exists() {
        let said = balance("/proc");
        assert!(
            said.starts_with("balance: nothing can be written in the folder /proc: "),
            "{said}"
        );
    }
    let node = ["--node", "a=redis://127.0.0.1:1"];
    let listen = ["--listen", "127.0.0.1:0"];
    for (name, arguments) in [
        ("locate", &["--topology", "/nowhere/x"][..]),
        (
            "locate",
            &[
                "--placement",
                "ring/1",
                node[0],
                "a:1",
                "--diff",
                "/nowhere/x",
            ],
        ),
        ("proxy", &[listen[0], listen[1], "--topology", "/nowhere/x"]),
        (
            "proxy",
            &[
                listen[0],
                listen[1],
                node[0],
                node[1],
                "--password-file",
                "/nowhere/x",
            ],
        ),
    ] {
        let outcome = run(name, arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(
            outcome
                .said
                .starts_with(&format!("{name}: /nowhere/x: No such file")),
            "{outcome:?}"
        );
    }
}

#[test]
fn examples_report_an_unreachable_server_without_a_panic() {
    let nowhere = [
        "redis://:s3cret@127.0.0.1:1/",
        "redis://:s3cret@127.0.0.1:2/",
    ];
    for name in ["quickstart", "async_quickstart", "from_one_redis", "pubsub"] {
        let outcome = run(name, &nowhere);
        assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
        assert!(outcome.said.contains("127.0.0.1:"), "{name}: {outcome:?}");
        let all = format!("{}{}", outcome.said, outcome.written);
        assert!(!all.contains("s3cret"), "{name}: {all}");
    }
}

#[test]
fn from_one_redis_copies_keys_of_every_type_with_their_expiry() {
    let (Some(old), Some(new)) = (support::Servers::start(1), support::Servers::start(3)) else {
        return;
    };
    let mut source = old.connection(0);
    let mut fill = redis::pipe();
    for number in 0..250 {
        let name = |kind: &str| format!("{kind}:{number}");
        fill.set_ex(name("text"), number, 1_000);
        fill.hset(name("hash"), "field", number);
        fill.zadd(name("set"), "member", number);
        fill.xadd(name("stream"), "1-1", &[("field", number)]);
        fill.set(&[0, 255, number as u8][..], "binary");
    }
    fill.exec(&mut source).unwrap();
    let keys: Vec<Vec<u8>> = redis::Commands::keys(&mut source, "*").unwrap();

    let urls = [old.urls(), new.urls()].concat();
    let arguments: Vec<&str> = urls.iter().map(String::as_str).collect();
    let outcome = run("from_one_redis", &arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");

    let mut client = redis_sharding::ShardedClient::open(new.urls()).unwrap();
    let dump = |key: &[u8]| redis::cmd("DUMP").arg(key).clone();
    for key in &keys {
        let (before, after): (Vec<u8>, Vec<u8>) = (
            dump(key).query(&mut source).unwrap(),
            dump(key).query(&mut client).unwrap(),
        );
        assert_eq!(before, after, "{}", key.escape_ascii());
        let expires_in: i64 = redis::Commands::ttl(&mut client, key).unwrap();
        assert_eq!(
            expires_in > 0,
            key.starts_with(b"text:"),
            "{}",
            key.escape_ascii()
        );
    }
    let copied: usize = redis::cmd("DBSIZE").query(&mut client).unwrap();
    assert_eq!(copied, keys.len());
}

#[test]
fn proxy_example_checks_the_limits_of_its_numbers() {
    let start = ["--listen", "127.0.0.1:0", "--node", "a=redis://127.0.0.1:1"];
    for (flag, value, text) in [
        ("--threads", "0", "--threads is 0, but must be in 1..=1024"),
        (
            "--threads",
            "1025",
            "--threads is 1025, but must be in 1..=1024",
        ),
        (
            "--threads",
            "18446744073709551615",
            "--threads is 18446744073709551615, but must be in 1..=1024",
        ),
        (
            "--threads",
            "18446744073709551616",
            "--threads takes a number",
        ),
        ("--threads", "-1", "--threads takes a number"),
        ("--threads", "", "--threads takes a number"),
        (
            "--clients",
            "0",
            "max_clients is 0, but must be in 1..=1000000",
        ),
        (
            "--clients",
            "1000001",
            "max_clients is 1000001, but must be in 1..=1000000",
        ),
        (
            "--clients",
            "18446744073709551615",
            "max_clients is 18446744073709551615, but must be in 1..=1000000",
        ),
        ("--clients", "x", "--clients takes a number"),
        (
            "--option",
            "slot-bits=21",
            "slot-bits is 21, but must be in 4..=20",
        ),
        (
            "--option",
            "slot-bits=-1",
            "slot-bits of rendezvous/1 is \"-1\", but must be 4..=20",
        ),
        (
            "--node",
            "b=redis://127.0.0.1:2,weight=4294967296",
            "the weight of a --node is a whole number from 1 on",
        ),
        (
            "--node",
            "b=redis://127.0.0.1:2,weight=4294967295",
            "the weights of the nodes add up to 4294967296, more than 16384; divide them by a common number",
        ),
    ] {
        let outcome = run("proxy", &[&start[..], &[flag, value]].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert_eq!(outcome.said, format!("proxy: {text}\n"));
    }
}

#[test]
fn proxy_example_never_prints_a_password() {
    let listen = ["--listen", "127.0.0.1:0"];
    for arguments in [
        &["redis://:s3cret@127.0.0.1:1"][..],
        &["--node", "redis://:s3cret@h:99999"],
        &["--node", "redis://:s3cret@h:99999=redis://127.0.0.1:1"],
        &["--node", "?password=s3cret=redis://127.0.0.1:1"],
        &["--node", "redis+unix://:s3cret@/x=redis://127.0.0.1:1"],
        &["--node", "redis://:s3cret@h/x"],
        &["--node", "a=redis://:s3cret@h/x"],
        &["--node", "a=redis://:s3cret@h:1,weight=s3cret"],
        &["--node", "a=http://:s3cret@h:1"],
        &[
            "--node",
            "a=redis://h:1",
            "--placement",
            "redis://:s3cret@h:1",
        ],
        &["--node", "a=redis://h:1", "--option", "redis://:s3cret@h:1"],
        &[
            "--node",
            "a=redis://h:1",
            "--option",
            "slot-bits=redis://:s3cret@h:1",
        ],
        &["--node", "a=redis://h:1", "--listen", "redis://:s3cret@h:1"],
        &["--topology", "redis://:s3cret@h:1"],
        &[
            "--node",
            "a=redis://h:1",
            "--password-file",
            "redis://:s3cret@h:1",
        ],
    ] {
        let outcome = run("proxy", &[&listen[..], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(!outcome.said.contains("s3cret"), "{outcome:?}");
    }
}
