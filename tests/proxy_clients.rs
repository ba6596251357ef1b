//! Other people's clients before the proxy: redis-cli, redis-benchmark, redis-py, ioredis and node-redis.
//!
//! `tests/run` installs those of Python and Node.js below the target folder, in `clients`; `REDIS_SHARDING_CLIENTS` names
//! another folder, and then they have to be there. Without it, what is not there is left out, and that is said.
#![cfg(feature = "tokio-comp")]

mod support;

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::Servers;
use support::example_proxy::ExampleProxy;
use support::servers::Watchdog;

const NODES: usize = 4;
/// No client has more to do than this takes.
const PATIENCE: Duration = Duration::from_secs(100);

/// Servers with a proxy, which is stopped first.
struct Fleet {
    proxy: ExampleProxy,
    servers: Servers,
}

impl Fleet {
    fn start() -> Option<Self> {
        let servers = Servers::start(NODES)?;
        Some(Self {
            proxy: ExampleProxy::start(&servers.urls()),
            servers,
        })
    }

    fn port(&self) -> &str {
        self.proxy.address().rsplit_once(':').unwrap().1
    }

    /// What redis-cli prints.
    #[track_caller]
    fn cli(&self, arguments: &[&str], input: &str) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", self.port()]).args(arguments);
        let (success, output) = run(&mut command, input);
        assert!(success, "{arguments:?}: {output}");
        output
    }
}

#[test]
fn redis_cli_works_through_the_proxy() {
    if !has("redis-cli") {
        return left_out("redis-cli");
    }
    let Some(fleet) = Fleet::start() else {
        return;
    };
    assert_eq!(fleet.cli(&["PING"], ""), "PONG\n");
    assert_eq!(fleet.cli(&["-3", "HELLO"], "").lines().count(), 7);
    let keys: Vec<String> = (0..100).map(|number| format!("key:{number}")).collect();
    let pairs: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "v"]).collect();
    assert_eq!(
        fleet.cli(&[&["MSET"], pairs.as_slice()].concat(), ""),
        "OK\n"
    );
    assert_eq!(fleet.cli(&["DBSIZE"], ""), "100\n");
    assert_eq!(
        fleet.cli(
            &[
                "--user",
                "default",
                "--pass",
                "x",
                "--no-auth-warning",
                "GET",
                "key:1"
            ],
            ""
        ),
        "v\n"
    );

    let scanned = fleet.cli(&["--scan", "--pattern", "key:*"], "");
    let mut scanned: Vec<&str> = scanned.lines().collect();
    scanned.sort_unstable();
    let mut sorted: Vec<&str> = keys.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(scanned, sorted);
    let biggest = fleet.cli(&["--bigkeys"], "");
    assert!(biggest.contains("100 strings with 100 bytes"), "{biggest}");

    for protocol in ["-2", "-3"] {
        let typed = "SET {t}n 1\nMULTI\nINCR {t}n\nGET {t}n\nEXEC\nEXEC\nLPUSH {t}n x\nNOSUCH\n";
        let said = fleet.cli(&[protocol], typed);
        let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            said,
            [
                "OK",
                "OK",
                "QUEUED",
                "QUEUED",
                "2",
                "2",
                "ERR EXEC without MULTI",
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                "ERR unknown command 'NOSUCH', with args beginning with: ",
            ]
        );
        let script = "return {KEYS[1],ARGV[1]}";
        assert_eq!(
            fleet.cli(&[protocol, "EVAL", script, "1", "k", "x"], ""),
            "k\nx\n"
        );
        let apart = [&[protocol, "SUNION"], sorted.as_slice()].concat();
        let refused = fleet.cli(&apart, "");
        assert!(refused.starts_with("CROSSNODE "), "{refused}");
    }

    let many: String = (0..10_000)
        .map(|number| format!("*3\r\n$3\r\nSET\r\n$6\r\nm:{number:04}\r\n$1\r\nv\r\n"))
        .collect();
    let piped = fleet.cli(&["--pipe"], &many);
    assert!(piped.contains("errors: 0, replies: 10000"), "{piped}");
    assert_eq!(fleet.cli(&["DBSIZE"], ""), "10101\n");
    assert_eq!(fleet.cli(&["FLUSHALL"], ""), "OK\n");
}

#[test]
fn redis_cli_subscribes_through_the_proxy() {
    if !has("redis-cli") {
        return left_out("redis-cli");
    }
    let Some(fleet) = Fleet::start() else {
        return;
    };
    for protocol in ["-2", "-3"] {
        let mut command = Command::new("redis-cli");
        command.args(["-p", fleet.port(), protocol, "SUBSCRIBE", "one", "two"]);
        let mut listener = Running::start(&mut command);
        let mut lines = BufReader::new(listener.process.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        let mut heard = || (0..3).map(|_| next()).collect::<Vec<_>>();
        let mut confirmed = [heard(), heard()];
        confirmed.sort();
        assert!(
            confirmed[0][..2] == ["subscribe", "one"] && confirmed[1][..2] == ["subscribe", "two"],
            "{confirmed:?}"
        );
        for channel in ["one", "two", "one"] {
            assert_eq!(fleet.cli(&["PUBLISH", channel, "hallo"], ""), "1\n");
            assert_eq!(heard(), ["message", channel, "hallo"]);
        }
    }
}

#[test]
fn redis_benchmark_runs_through_the_proxy_without_errors() {
    if !has("redis-benchmark") {
        return left_out("redis-benchmark");
    }
    let Some(fleet) = Fleet::start() else {
        return;
    };
    for options in [
        &["-P", "1", "-n", "1000"][..],
        &["-P", "16", "-n", "4000"],
        &[
            "-P",
            "16",
            "-n",
            "4000",
            "-3",
            "-r",
            "1000",
            "-t",
            "get,set,mset,lpush",
        ],
    ] {
        let mut command = Command::new("redis-benchmark");
        command
            .args(["-p", fleet.port(), "-c", "20", "--csv"])
            .args(options);
        let (success, output) = run(&mut command, "");
        let bad = ["rror", "WARN", "could not", "failed"];
        assert!(
            success && !bad.iter().any(|word| output.contains(word)),
            "{options:?}: {output}"
        );
        let rows = output.lines().filter(|line| line.starts_with('"')).count();
        assert!(rows > 4, "{output}");
    }
}

#[test]
fn redis_py_works_through_the_proxy() {
    let Some(python) = client("venv/bin/python") else {
        return;
    };
    script(Command::new(python).arg("redis_py.py"), &["2", "3"]);
}

#[test]
fn ioredis_works_through_the_proxy() {
    let Some(modules) = client("node_modules/ioredis") else {
        return;
    };
    script(node(&modules).arg("ioredis.js"), &[""]);
}

#[test]
fn node_redis_works_through_the_proxy() {
    let Some(modules) = client("node_modules/redis") else {
        return;
    };
    script(node(&modules).arg("node_redis.js"), &["2", "3"]);
}

#[test]
fn node_redis_4_finds_every_key_with_scan_cursors_kept_as_doubles() {
    let Some(modules) = client("node_modules/redis-4") else {
        return;
    };
    script(node(&modules).arg("scan_doubles.js"), &[""]);
}

#[test]
fn ioredis_and_node_redis_connect_to_the_proxy_while_one_of_four_nodes_is_down() {
    let Some(modules) = client("node_modules/redis-4") else {
        return;
    };
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let keys: Vec<String> = (0..40).map(|number| format!("key:{number}")).collect();
    let pairs: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "v"]).collect();
    fleet.cli(&[&["MSET"], pairs.as_slice()].concat(), "");
    fleet.servers.kill(2);
    script_over(&fleet, node(&modules).arg("dead_node.js"), &[""]);
}

/// Runs a script of `tests/clients` for each protocol. It checks by itself.
fn script(command: &mut Command, protocols: &[&str]) {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    script_over(&fleet, command, protocols);
}

fn script_over(fleet: &Fleet, command: &mut Command, protocols: &[&str]) {
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"));
    command.arg(fleet.port());
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    for protocol in protocols {
        let mut again = Command::new(command.get_program());
        again.args(&arguments).arg(protocol);
        again.current_dir(command.get_current_dir().unwrap());
        again.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let (success, output) = run(&mut again, "");
        assert!(success, "{output}");
        print!("{output}");
    }
}

fn node(modules: &Path) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules.parent().unwrap());
    command
}

/// Runs a program to its end: whether it succeeded, and all that it printed.
fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut running = Running::start(command);
    let mut stdin = running.process.stdin.take().unwrap();
    let input = input.to_owned();
    // It may end without reading all.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let readers = [
        reader(running.process.stdout.take().unwrap()),
        reader(running.process.stderr.take().unwrap()),
    ];
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match running.process.try_wait().unwrap() {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            status => break status,
        }
    };
    drop(running);
    let [output, errors] = readers.map(|reader| reader.join().unwrap());
    writer.join().unwrap();
    let in_time = if status.is_none() {
        "\n(it did not end)"
    } else {
        ""
    };
    let success = status.is_some_and(|status| status.success());
    (success, format!("{output}{errors}{in_time}"))
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program, killed when this is dropped.
struct Running {
    watchdog: Option<Watchdog>,
    process: Child,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command.spawn();
        let process =
            process.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        Self {
            watchdog: Some(Watchdog::start(process.id())),
            process,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watchdog.take();
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Something in the folder of clients; `None` when it may be left out, which is then said.
fn client(path: &str) -> Option<PathBuf> {
    let named = env::var_os("REDIS_SHARDING_CLIENTS").map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| {
        // target/PROFILE/deps/TEST
        let test = env::current_exe().unwrap();
        test.ancestors().nth(3).unwrap().join("clients")
    });
    let file = folder.join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(named.is_none(), "there is no {}", file.display());
    left_out(path);
    None
}

fn left_out(what: &str) {
    // Not by eprintln!, which nobody sees when the test passes.
    let _ = writeln!(
        io::stderr(),
        "SKIPPED: no {what} on this machine; tests/run installs it"
    );
}

fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
