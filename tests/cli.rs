//! The binary `redis-sharding`: its subcommands over real servers, their reports as text and as JSON, exit codes,
//! colours, completions.
#![cfg(all(unix, feature = "cli"))]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::Servers;
use support::local_proxy::RawClient;
use support::servers::Watchdog;

const TIMEOUT: Duration = Duration::from_secs(60);

const SUBCOMMANDS: [&str; 7] = [
    "locate",
    "balance",
    "explain",
    "ping",
    "proxy",
    "topology",
    "completions",
];

/// What the tool has done.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in [
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "RUST_BACKTRACE",
        "REDIS_SHARDING_PASSWORD",
        "REDIS_SHARDING_NODE_PASSWORD",
    ] {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str]) -> Outcome {
    finish(&mut command(arguments), "")
}

fn run_with(arguments: &[&str], input: &str) -> Outcome {
    finish(&mut command(arguments), input)
}

fn finish(command: &mut Command, input: &str) -> Outcome {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _watchdog = Watchdog::start(child.id());
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may end before it has read all.
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let outcome = Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
    outcome
}

/// The arguments of a subcommand for these nodes, called `node-0`, `node-1`, ...
fn with_nodes<'a>(words: &[&'a str], nodes: &'a [String]) -> Vec<&'a str> {
    let nodes = nodes.iter().flat_map(|node| ["--node", node.as_str()]);
    let (subcommand, rest) = words.split_first().unwrap();
    [*subcommand]
        .into_iter()
        .chain(nodes)
        .chain(rest.iter().copied())
        .collect()
}

fn named(urls: Vec<String>) -> Vec<String> {
    let named = urls.iter().enumerate();
    named
        .map(|(number, url)| format!("node-{number}={url}"))
        .collect()
}

const TWO: [&str; 4] = [
    "--node",
    "a=10.0.0.1:6379",
    "--node",
    "b=10.0.0.2:6379,weight=2",
];

// -------------------------------------------------------------------------------------------------- the command line

#[test]
fn help_of_the_tool_lists_subcommands_and_exit_codes_and_that_of_each_subcommand_has_examples() {
    let outcome = run(&["--help"]);
    assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""));
    for text in SUBCOMMANDS.iter().copied().chain(["Exit codes:", "  2  "]) {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    for subcommand in SUBCOMMANDS {
        for help in [
            &[subcommand, "--help"][..],
            &[subcommand, "-h"],
            &["help", subcommand],
        ] {
            let outcome = run(help);
            assert_eq!(
                (outcome.code, &*outcome.stderr),
                (Some(0), ""),
                "{outcome:?}"
            );
            let example = format!("Examples:\n  redis-sharding {subcommand}");
            let piped = "Examples:\n  redis-cli -h 10.0.0.1 --scan | redis-sharding balance";
            let text = &outcome.stdout;
            assert!(text.contains(&example) || text.contains(piped), "{text}");
        }
    }
    let version = run(&["--version"]);
    assert_eq!(
        version.stdout,
        concat!("redis-sharding ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn all_subcommands_that_need_nodes_take_the_same_options_for_nodes() {
    let options = |subcommand| {
        let help = run(&[subcommand, "--help"]).stdout;
        let (_, nodes) = help.split_once("\nNodes:\n").unwrap();
        let (nodes, _) = nodes.split_once("\nExamples:").unwrap_or((nodes, ""));
        nodes.trim().to_owned()
    };
    let expected = options("ping");
    for option in [
        "--topology",
        "--cluster ",
        "--node ",
        "--placement",
        "--option",
        "--node-password-file",
    ] {
        assert!(expected.contains(option), "{option}: {expected}");
    }
    for subcommand in ["locate", "balance", "explain", "proxy"] {
        assert_eq!(options(subcommand), expected, "{subcommand}");
    }
}

#[test]
fn invalid_arguments_and_files_end_with_exit_code_2_and_a_message() {
    let home = tempfile::tempdir().unwrap();
    let bad = home.path().join("bad.topology");
    fs::write(
        &bad,
        "redis-sharding topology 1\nplacement ring/1\nnode a 10.0.0.1\n",
    )
    .unwrap();
    let bad = bad.to_str().unwrap();
    let empty = home.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, message) in [
        (&[][..], "Usage: redis-sharding <COMMAND>"),
        (&["lokate"], "unrecognized subcommand 'lokate'"),
        (&["ping"], "no nodes: give --topology FILE, --node"),
        (&["locate"], "no nodes: "),
        (
            &["ping", "--topology", "/nowhere/x"],
            "/nowhere/x: No such file",
        ),
        (&["balance", "--topology", bad], "bad.topology, line 3: "),
        (
            &["explain", "--topology", bad, "GET", "a"],
            "bad.topology, line 3: ",
        ),
        (
            &["ping", "--topology", bad, "--node", "a:1"],
            "'--topology <FILE>' cannot be used with",
        ),
        (
            &["ping", "--node", "a=localhost"],
            "--node \"a\": its address is neither host:port",
        ),
        (
            &["ping", "--node", "a=10.0.0.1:1", "--node", "b=10.0.0.1:1"],
            "have the same address",
        ),
        (
            &["ping", "--node", "a:1", "--timeout", "0"],
            "seconds are a number up to 3600",
        ),
        (
            &["ping", "--node", "a:1", "--timeout", "soon"],
            "seconds are a number up to 3600",
        ),
        (
            &["locate", "--placement", "rnig/1", "--node", "a:1"],
            "did you mean \"ring/1\"?",
        ),
        (
            &["locate", "--node", "a:1", "--option", "x=1"],
            "rendezvous/1 has no option \"x\"",
        ),
        (
            &["balance", "--node", "a:1", "--diff", "/nowhere/y"],
            "/nowhere/y: No such file",
        ),
        (&["explain", "--node", "a:1"], "<COMMAND>"),
        (&["proxy", "--node", "a:1"], "--listen <ADDRESS>"),
        (
            &["proxy", "--listen", "127.0.0.1:x", "--node", "a:1"],
            "cannot listen on 127.0.0.1:x",
        ),
        (
            &[
                "proxy",
                "--listen",
                "127.0.0.1:0",
                "--node",
                "a:1",
                "--threads",
                "0",
            ],
            "--threads is 0, but must be in 1..=1024",
        ),
        (
            &[
                "proxy",
                "--listen",
                "127.0.0.1:0",
                "--node",
                "a:1",
                "--password-file",
                empty,
            ],
            "holds no password",
        ),
        (
            &["ping", "--node", "a:1", "--node-password-file", empty],
            "holds no password",
        ),
        (&["completions", "sh"], "[possible values: bash,"),
    ] {
        let outcome = run(arguments);
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (Some(2), ""),
            "{arguments:?}: {outcome:?}"
        );
        assert!(
            outcome.stderr.contains(message),
            "{arguments:?}: {outcome:?}"
        );
    }
}

#[test]
fn no_subcommand_prints_a_password_of_its_command_line() {
    let url = "redis://app:s3cret@127.0.0.1:1";
    for arguments in [
        &[url][..],
        &["ping", url],
        &["locate", url],
        &["locate", "--node", "a:1", url],
        &["ping", "--nodes", url],
        &["ping", &format!("--nodes={url}")],
        &["ping", "--node", url],
        &["ping", "--node", &format!("a={url}")],
        &["ping", "--node", &format!("{url}=a:1")],
        &["ping", "--node", &format!("a={url},weight=s3cret")],
        &["ping", "--node", "a=redis://:s3cret@h:x"],
        &["ping", "--topology", url],
        &["ping", "--topology", url, "--node", url],
        &["ping", "--node", "a:1", "--placement", url],
        &["ping", "--node", "a:1", "--option", url],
        &["ping", "--node", "a:1", "--option", &format!("x={url}")],
        &["ping", "--node", "a:1", "--timeout", url],
        &["ping", "--node", "a:1", "--node-password-file", url],
        &["locate", "--node", url, "--write-topology"],
        &["locate", "--node", url, "--write-topology", "--json"],
        &["explain", "--node", url, "GET", "a"],
        &["proxy", "--node", "a:1", "--listen", url],
        &[
            "proxy",
            "--node",
            url,
            "--listen",
            "127.0.0.1:0",
            "--clients",
            "0",
        ],
        &[
            "proxy",
            "--node",
            "a:1",
            "--listen",
            "127.0.0.1:0",
            "--max-memory",
            url,
        ],
        &[
            "proxy",
            "--node",
            "a:1",
            "--listen",
            "127.0.0.1:0",
            "--password-file",
            url,
        ],
        &["completions", url],
    ] {
        let outcome = run(arguments);
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!text.contains("s3cret"), "{arguments:?}: {outcome:?}");
        assert!(!text.is_empty(), "{arguments:?}: {outcome:?}");
    }
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let keys: String = (0..100_000)
        .map(|number| format!("user:{number}\n"))
        .collect();
    let locate = [&["locate"][..], &TWO].concat();
    let balance = [&["balance"][..], &TWO].concat();
    let explain = [&["explain"][..], &TWO, &["MGET", "a", "b"]].concat();
    for arguments in [
        &["--help"][..],
        &["ping", "--help"],
        &["completions", "bash"],
        &["locate", "--list"],
        &locate,
        &[&locate[..], &["--json"]].concat(),
        &balance,
        &[&balance[..], &["--json"]].concat(),
        &explain,
        &["ping", "--node", "127.0.0.1:1"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let outcome = finish(command(arguments).stdout(writer), &keys);
        assert_eq!(
            (outcome.code, &*outcome.stderr),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    // A proxy that cannot print its address is of no use.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--node", "127.0.0.1:1"];
    let outcome = finish(command(&proxy).stdout(writer), "");
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("the address cannot be printed"),
        "{outcome:?}"
    );
}

#[test]
fn colours_are_for_terminals_and_for_those_who_force_them() {
    let refused = [&["explain"][..], &TWO, &["WATCH", "a"]].concat();
    let ping = ["ping", "--node", "127.0.0.1:1"];
    let unknown = ["ping", "--novel"];
    for arguments in [&refused[..], &ping, &unknown, &["--help"]] {
        let colours = |variables: &[(&str, &str)]| {
            let mut command = command(arguments);
            command.envs(variables.iter().copied());
            let outcome = finish(&mut command, "");
            outcome.stdout.contains('\x1b') || outcome.stderr.contains('\x1b')
        };
        assert!(!colours(&[]), "{arguments:?}");
        assert!(colours(&[("CLICOLOR_FORCE", "1")]), "{arguments:?}");
        assert!(
            !colours(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]),
            "{arguments:?}"
        );
    }
    // JSON has none, whatever is forced.
    let json = [&["explain", "--json"][..], &TWO, &["WATCH", "a"]].concat();
    let outcome = finish(command(&json).env("CLICOLOR_FORCE", "1"), "");
    assert!(!outcome.stdout.contains('\x1b'), "{outcome:?}");
}

#[test]
fn completions_are_accepted_by_their_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let outcome = run(&["completions", shell]);
        assert_eq!((outcome.code, &*outcome.stderr), (Some(0), ""), "{shell}");
        for word in ["locate", "ping", "topology", "node-password-file"] {
            assert!(outcome.stdout.contains(word), "{shell}: {word}");
        }
        let checks = ["bash", "zsh", "fish"].contains(&shell);
        // Not every machine has every shell.
        let mut check = Command::new(shell);
        let check = check.arg("-n").stdin(Stdio::piped()).spawn();
        if let (true, Ok(mut check)) = (checks, check) {
            let mut stdin = check.stdin.take().unwrap();
            stdin.write_all(outcome.stdout.as_bytes()).unwrap();
            drop(stdin);
            assert!(check.wait().unwrap().success(), "{shell} refuses it");
        }
    }
}

#[test]
fn readme_shows_what_the_tool_prints() {
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("## One tool\n").unwrap();
    let (_, block) = section.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let home = tempfile::tempdir().unwrap();
    let tool = std::path::Path::new(env!("CARGO_BIN_EXE_redis-sharding"));
    let path = format!("{}:/usr/bin:/bin", tool.parent().unwrap().display());
    let mut count = 0;
    for step in block.split("$ ").skip(1) {
        let (line, expected) = step.split_once('\n').unwrap();
        let mut shell = Command::new("sh");
        let shell = shell
            .args(["-c", line])
            .current_dir(&home)
            .env("PATH", &path);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            expected,
            "{line}"
        );
        count += 1;
    }
    assert_eq!(count, 3);
}

// ------------------------------------------------------------------------------------------------- locate and balance

#[test]
fn locate_takes_keys_as_arguments_and_writes_a_json_line_for_each() {
    let text = run(&[
        &["locate"][..],
        &TWO,
        &["user:1", "user:2", "user:3", "a\nb"],
    ]
    .concat());
    assert_eq!(text.code, Some(0));
    assert_eq!(text.stdout, "user:1\tb\nuser:2\ta\nuser:3\ta\na\nb\tb\n");
    let keys = "user:1\nuser:2\nuser:3\n";
    let lines = run_with(&[&["locate"][..], &TWO].concat(), keys);
    assert_eq!(lines.stdout, "user:1\tb\nuser:2\ta\nuser:3\ta\n");

    let parsed = |outcome: &Outcome| -> Vec<(String, String)> {
        let line = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            let word = |name: &str| value[name].as_str().unwrap().to_owned();
            (word("key"), word("node"))
        };
        outcome.stdout.lines().map(line).collect()
    };
    let by_text: Vec<(String, String)> = lines
        .stdout
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(key, node)| (key.to_owned(), node.to_owned()))
        .collect();
    let by_lines = run_with(&[&["locate", "--json"][..], &TWO].concat(), keys);
    assert_eq!(parsed(&by_lines), by_text);
    let by_words = run(&[
        &["locate", "--json"][..],
        &TWO,
        &["user:1", "user:2", "user:3"],
    ]
    .concat());
    assert_eq!(parsed(&by_words), by_text);

    // Bytes that are no text, and keys without an owner.
    let mut range = command(&["locate", "--json", "--node", "a=h:1"]);
    range.args([
        "--placement",
        "range/1",
        "--option",
        "numeric \"u=\"=0..=9 a",
    ]);
    let outcome = finish(&mut range, "u=1\nu=10\n");
    assert_eq!(outcome.code, Some(1));
    assert_eq!(
        outcome.stdout,
        "{\"key\":\"u=1\",\"node\":\"a\"}\n{\"key\":\"u=10\",\"node\":null}\n"
    );
    assert_eq!(outcome.stderr, "redis-sharding: 1 key has no owner\n");
    let mut bytes = command(&["locate", "--json", "--node", "a=h:1"]);
    let key =
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\0\n".split_at(1).0);
    let outcome = finish(bytes.arg(key), "");
    assert_eq!(
        outcome.stdout,
        "{\"key\":{\"hex\":\"ff\"},\"node\":\"a\"}\n"
    );
}

#[test]
fn locate_writes_topologies_and_placements_as_json_too() {
    let arguments = [&["locate"][..], &TWO, &["--write-topology"]].concat();
    let text = run(&arguments).stdout;
    let value = run(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!(
        value["nodes"],
        json!([
            {"name": "a", "address": "10.0.0.1:6379", "weight": 1},
            {"name": "b", "address": "10.0.0.2:6379", "weight": 2},
        ])
    );
    let fingerprint = value["fingerprint"].as_str().unwrap();
    assert!(
        text.contains(&format!("fingerprint {fingerprint}")),
        "{text}"
    );
    let placement = value["placement"].as_str().unwrap();
    assert!(text.contains(&format!("placement {placement}\n")), "{text}");
    // The text is what --topology takes.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("users.topology");
    fs::write(&file, &text).unwrap();
    let by_file = run(&[
        "locate",
        "--topology",
        file.to_str().unwrap(),
        "user:1",
        "user:3",
    ]);
    assert_eq!(by_file.stdout, "user:1\tb\nuser:3\ta\n");

    let list = run(&["locate", "--list"]).stdout;
    let value = run(&["locate", "--list", "--json"]).json();
    let names: Vec<&str> = value
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    let listed = list.lines().filter(|line| !line.starts_with(' '));
    let listed: Vec<&str> = listed.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, listed);
}

#[test]
fn balance_reports_the_same_numbers_as_text_and_as_json() {
    let keys: String = (0..3000).map(|number| format!("user:{number}\n")).collect();
    let arguments = [&["balance"][..], &TWO].concat();
    let text = run_with(&arguments, &keys);
    let value = run_with(&[&arguments[..], &["--json"]].concat(), &keys).json();
    assert_eq!(text.code, Some(0));
    assert_eq!(
        (&value["keys"], &value["unowned"]),
        (&json!(3000), &json!(0))
    );
    let rows = text
        .stdout
        .lines()
        .skip(1)
        .zip(value["nodes"].as_array().unwrap());
    let mut count = 0;
    for (line, node) in rows {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let number = |name: &str| node[name].as_f64().unwrap();
        assert_eq!(cells[0], node["node"].as_str().unwrap());
        assert_eq!(cells[1], node["keys"].to_string());
        assert_eq!(cells[2], format!("{:.2}%", number("share") * 100.0));
        assert_eq!(cells[3], node["weight"].to_string());
        assert_eq!(cells[4], format!("{:.3}", number("load")));
        count += 1;
    }
    assert_eq!(count, 2);
    let summary = format!(
        "keys 3000   max/mean {:.3}   min/mean {:.3}",
        value["max_over_mean"].as_f64().unwrap(),
        value["min_over_mean"].as_f64().unwrap()
    );
    assert!(text.stdout.contains(&summary), "{summary}: {text:?}");

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("after");
    fs::write(
        &file,
        "a=10.0.0.1:6379\nb=10.0.0.2:6379,weight=2\nc=10.0.0.3:6379\n",
    )
    .unwrap();
    let arguments = [&arguments[..], &["--diff", file.to_str().unwrap()]].concat();
    let text = run_with(&arguments, &keys);
    let value = run_with(&[&arguments[..], &["--json"]].concat(), &keys).json();
    assert_eq!(
        (&value["nodes_before"], &value["nodes_after"]),
        (&json!(2), &json!(3))
    );
    let moved = value["moved"].as_u64().unwrap();
    assert!((550..950).contains(&moved), "{moved}");
    assert!(
        text.stdout
            .contains(&format!("keys 3000   moved {moved} (")),
        "{text:?}"
    );
    let moves = value["moves"].as_array().unwrap();
    assert_eq!(
        moves
            .iter()
            .map(|row| row["keys"].as_u64().unwrap())
            .sum::<u64>(),
        moved
    );
    for row in moves {
        let word = |name: &str| row[name].as_str().unwrap();
        assert_eq!(word("to"), "c");
        let is_row = |line: &str| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            cells.len() == 5 && cells[..4] == [word("from"), "->", "c", &row["keys"].to_string()]
        };
        assert!(text.stdout.lines().any(is_row), "{row}: {text:?}");
    }
}

// ------------------------------------------------------------------------------------------------------------ explain

#[test]
fn explain_shows_plans_and_refusals() {
    let explain = |words: &[&str]| {
        let text = run(&[&["explain"][..], &TWO, words].concat());
        let json = run(&[&["explain", "--json"][..], &TWO, words].concat());
        assert_eq!(text.code, json.code, "{words:?}");
        (text, json.json())
    };
    let (text, value) = explain(&["MGET", "user:1", "user:2", "user:3"]);
    assert_eq!(text.code, Some(0));
    assert_eq!(
        value,
        json!({
            "command": "MGET",
            "plan": "split",
            "parts": [
                {"node": "a", "keys": ["user:2", "user:3"]},
                {"node": "b", "keys": ["user:1"]},
            ],
            "error": null,
        })
    );
    assert!(
        text.stdout.starts_with("MGET: split over 2 nodes"),
        "{text:?}"
    );
    assert!(
        text.stdout
            .contains("\n  a  2 keys  \"user:2\", \"user:3\"\n"),
        "{text:?}"
    );
    for (words, plan, parts) in [
        (&["get", "user:3"][..], "one", 1),
        (&["DBSIZE"], "all", 2),
        (&["TIME"], "any", 0),
        (&["SCAN", "0"], "scan", 1),
        // Arguments that look like options belong to the command.
        (&["SET", "user:1", "--json"], "one", 1),
    ] {
        let (_, value) = explain(words);
        assert_eq!(value["plan"], plan, "{words:?}");
        assert_eq!(value["parts"].as_array().unwrap().len(), parts, "{words:?}");
    }
    for (words, kind) in [
        (&["RENAME", "user:1", "user:3"][..], "CROSSNODE"),
        (&["WATCH", "user:1"], "STATEFUL"),
        (&["SHUTDOWN"], "UNROUTABLE"),
        (&["GET"], "ERR"),
    ] {
        let (text, value) = explain(words);
        assert_eq!(text.code, Some(1), "{words:?}");
        assert_eq!(
            (&value["plan"], &value["error"]["kind"]),
            (&json!("refused"), &json!(kind))
        );
        let message = value["error"]["message"].as_str().unwrap();
        assert_eq!(text.stdout, format!("{}: refused, {message}\n", words[0]));
    }
}

// --------------------------------------------------------------------------------------------------------------- ping

#[test]
fn ping_reports_every_node_and_a_killed_one_as_a_row() {
    let Some(servers) = Servers::builder().option(["--maxmemory", "64mb"]).start(3) else {
        return;
    };
    let nodes = named(servers.urls());
    for number in 0..7 {
        let mut set = redis_sharding::redis::cmd("SET");
        set.arg(format!("key:{number}"))
            .arg("x")
            .exec(&mut servers.connection(1))
            .unwrap();
    }
    let all = run(&with_nodes(&["ping", "--json"], &nodes));
    assert_eq!((all.code, &*all.stderr), (Some(0), ""), "{all:?}");
    let value = all.json();
    assert_eq!(
        (&value["reachable"], &value["unreachable"]),
        (&json!(3), &json!(0))
    );
    let info: redis_sharding::redis::InfoDict = redis_sharding::redis::cmd("INFO")
        .query(&mut servers.connection(1))
        .unwrap();
    let valkey: Option<String> = info.get("valkey_version");
    let version: Option<String> = valkey.or_else(|| info.get("redis_version"));
    for (number, row) in value["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["node"], format!("node-{number}"));
        assert_eq!(row["address"], servers.addr(number));
        assert_eq!(row["reachable"], true);
        assert_eq!(row["version"].as_str(), version.as_deref());
        assert_eq!(row["role"], "master");
        assert_eq!(row["keys"], if number == 1 { 7 } else { 0 });
        assert_eq!(row["max_memory_bytes"], 64 << 20);
        assert!(row["memory_bytes"].as_u64().unwrap() > 100_000);
        assert!(row["latency_us"].as_u64().unwrap() < TIMEOUT.as_micros() as u64);
        assert_eq!(row["error"], Value::Null);
    }

    servers.kill(2);
    let text = run(&with_nodes(&["ping"], &nodes));
    let value = run(&with_nodes(&["ping", "--json"], &nodes));
    assert_eq!((text.code, value.code), (Some(1), Some(1)));
    let value = value.json();
    assert_eq!(
        (&value["reachable"], &value["unreachable"]),
        (&json!(2), &json!(1))
    );
    assert!(
        text.stdout.ends_with("\n2 of 3 nodes reachable\n"),
        "{text:?}"
    );
    let rows: BTreeMap<&str, Vec<&str>> = text
        .stdout
        .lines()
        .filter(|line| line.starts_with("node-"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|cells| (cells[0], cells))
        .collect();
    for (number, row) in value["nodes"].as_array().unwrap().iter().enumerate() {
        let cells = &rows[row["node"].as_str().unwrap()];
        assert_eq!(cells[1], servers.addr(number));
        assert_eq!(cells[2], if number == 2 { "no" } else { "yes" });
        if number == 2 {
            assert_eq!(cells[3..], ["-"; 5]);
            assert_eq!(row["keys"], Value::Null);
            let error = row["error"].as_str().unwrap();
            assert!(text.stdout.contains(&format!("  {error}\n")), "{text:?}");
        } else {
            assert_eq!(cells[4], row["version"].as_str().unwrap());
            assert_eq!((cells[5], cells[6]), ("master", &*row["keys"].to_string()));
        }
    }
}

#[test]
fn ping_asks_all_nodes_at_once_within_one_deadline() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let nodes = named(servers.urls());
    for silent in 1..4 {
        servers.pause(silent);
    }
    let start = Instant::now();
    let outcome = run(&with_nodes(&["ping", "--json", "--timeout", "1.5"], &nodes));
    // One after another, the three would take 4.5 s.
    let took = start.elapsed();
    for silent in 1..4 {
        servers.resume(silent);
    }
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_millis(4400),
        "{took:?}"
    );
    let value = outcome.json();
    let nodes = value["nodes"].as_array().unwrap();
    assert_eq!(
        (&nodes[0]["reachable"], &nodes[0]["error"]),
        (&json!(true), &Value::Null)
    );
    for node in &nodes[1..] {
        assert_eq!(node["reachable"], false);
        assert_eq!(node["error"], "no reply within 1.5s");
    }
}

#[test]
fn ping_takes_the_password_of_the_nodes_from_a_file_or_the_environment() {
    let Some(servers) = Servers::builder().password("s3cret").start(1) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "s3cret\n"), file("wrong", "guess\n"));
    let node = servers.addr(0);
    let ping = |file: Option<&str>, variable: Option<&str>| {
        let mut command = command(&["ping", "--json", "--node", &node]);
        command.args(
            file.map(|file| ["--node-password-file", file])
                .iter()
                .flatten(),
        );
        command.envs(variable.map(|text| ("REDIS_SHARDING_NODE_PASSWORD", text)));
        let outcome = finish(&mut command, "");
        assert!(!format!("{outcome:?}").contains("s3cret"), "{outcome:?}");
        outcome
    };
    for (file, variable) in [
        (Some(&*right), None),
        (None, Some("s3cret")),
        (Some(&right), Some("guess")),
    ] {
        let outcome = ping(file, variable);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    for (file, variable) in [
        (None, None),
        (Some(&*wrong), None),
        (None, Some("guess")),
        (Some(&wrong), Some("s3cret")),
    ] {
        let outcome = ping(file, variable);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let row = &outcome.json()["nodes"][0];
        assert_eq!(row["reachable"], false);
        assert!(!row["error"].as_str().unwrap().is_empty());
    }
    assert_eq!(ping(None, Some("")).code, Some(2));
}

#[test]
fn ping_reports_a_host_that_does_not_exist_and_a_user_who_may_not_ask() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut acl = redis_sharding::redis::cmd("ACL");
    acl.arg(&["SETUSER", "app", "on", ">pw", "+ping", "+hello", "+client"]);
    acl.exec(&mut servers.connection(0)).unwrap();
    let limited = format!("redis://app:pw@{}/", servers.addr(0));
    let outcome = run(&[
        "ping",
        "--json",
        "--node",
        "a=no-such-host.invalid:1",
        "--node",
        &format!("b={limited}"),
    ]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let value = outcome.json();
    assert_eq!(value["nodes"][0]["reachable"], false);
    assert!(value["nodes"][0]["error"].is_string());
    // It answers PING, but not INFO.
    let row = &value["nodes"][1];
    assert_eq!(
        (&row["reachable"], &row["version"]),
        (&json!(true), &Value::Null)
    );
    assert!(row["latency_us"].is_u64());
    assert!(row["error"].as_str().unwrap().contains("NOPERM"), "{row}");
}

#[cfg(feature = "tokio-rustls-comp")]
#[test]
fn ping_connects_over_tls_with_the_given_certificates() {
    use support::authority::Authority;

    let authority = Authority::new("tests");
    let Some(servers) = Servers::builder().tls(&authority, true).start(1) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let issued = authority.issue(&["client"]);
    let (ca, cert) = (
        file("ca", &authority.pem()),
        file("cert", &issued.certificate),
    );
    let key = file("key", &issued.key);
    let url = servers.tls_url(0);
    let ping = ["ping", "--json", "--node", &url];
    let all = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let outcome = run(&[&ping[..], &all].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = run(&[&ping[..], &all, &["--sni", "localhost"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for (arguments, code) in [
        (&[][..], 1),
        (&all[..2], 1),
        (&[&all[..], &["--sni", "elsewhere"]].concat(), 1),
        (&["--cacert", "/nowhere/x"], 2),
        (&["--cert", &cert], 2),
    ] {
        let outcome = run(&[&ping[..], arguments].concat());
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {outcome:?}");
    }
}

// -------------------------------------------------------------------------------------------------------------- proxy

/// A proxy that listens. It is killed when this is dropped.
struct ToolProxy {
    address: String,
    process: Child,
    _watchdog: Watchdog,
}

impl ToolProxy {
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let watchdog = Watchdog::start(process.id());
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim_end().strip_prefix("listening on ");
        Self {
            address: address
                .unwrap_or_else(|| panic!("it writes {line:?}"))
                .to_owned(),
            process,
            _watchdog: watchdog,
        }
    }

    fn client(&self) -> RawClient {
        RawClient::connect(&self.address)
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.process.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success());
    }

    /// Sends SIGTERM and waits for the end: the exit code and what was written to standard error.
    fn terminate(mut self) -> (Option<i32>, String) {
        self.signal("TERM");
        let end = Instant::now() + TIMEOUT;
        let status = loop {
            match self.process.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "it does not end"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        self.process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (status.code(), text)
    }
}

impl Drop for ToolProxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn proxy_serves_all_nodes_until_sigterm() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let nodes = named(servers.urls());
    for more in [
        &[][..],
        &["--threads", "3", "--partial-reads", "--clients", "5"],
    ] {
        let words = [&["proxy", "--listen", "127.0.0.1:0"][..], more].concat();
        let proxy = ToolProxy::start(&mut command(&with_nodes(&words, &nodes)));
        let mut client = proxy.client();
        assert_eq!(client.ask("FLUSHALL"), "+OK");
        assert_eq!(client.ask("MSET user:1 Ada user:2 Grace user:3 Ken"), "+OK");
        assert_eq!(client.ask("MGET user:3 user:1"), "*2 Ken Ada");
        // Where the keys are is what `locate` prints.
        let located = run(&with_nodes(
            &["locate", "user:1", "user:2", "user:3"],
            &nodes,
        ));
        for line in located.stdout.lines() {
            let (key, node) = line.split_once('\t').unwrap();
            let server = node.strip_prefix("node-").unwrap().parse().unwrap();
            let mut exists = redis_sharding::redis::cmd("EXISTS");
            let found: bool = exists
                .arg(key)
                .query(&mut servers.connection(server))
                .unwrap();
            assert!(found, "{line}");
        }
        assert_eq!(proxy.terminate(), (Some(0), String::new()));
        assert!(client.is_hung_up_on());
    }
}

#[test]
fn proxy_without_node_names_places_keys_as_locate_does() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let keys: Vec<String> = (0..60).map(|number| format!("key:{number}")).collect();
    for placement in [
        "rendezvous/1",
        "redis-rb-5/1",
        "twemproxy-ketama/1",
        "jedis-2.0/1",
    ] {
        let mut nodes = servers.urls();
        // The weight of a node without a name counts, too; redis-rb has none.
        if placement != "redis-rb-5/1" {
            nodes[0] += ",weight=3";
        }
        let words = ["locate", "--placement", placement];
        let located = run_with(&with_nodes(&words, &nodes), &(keys.join("\n") + "\n"));
        assert_eq!(located.code, Some(0), "{placement}: {located:?}");
        let words = ["proxy", "--listen", "127.0.0.1:0", "--placement", placement];
        let proxy = ToolProxy::start(&mut command(&with_nodes(&words, &nodes)));
        let mut client = proxy.client();
        assert_eq!(client.ask("FLUSHALL"), "+OK");
        for key in &keys {
            assert_eq!(client.ask(&format!("SET {key} x")), "+OK");
        }
        for line in located.stdout.lines() {
            let (key, node) = line.split_once('\t').unwrap();
            let server = (0..3)
                .find(|&server| node.contains(&servers.addr(server)))
                .unwrap();
            let mut exists = redis_sharding::redis::cmd("EXISTS");
            let found: bool = exists
                .arg(key)
                .query(&mut servers.connection(server))
                .unwrap();
            assert!(found, "{placement}: {line}");
        }
    }
}

#[test]
fn proxy_requires_the_password_of_a_file_or_of_the_environment() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("password");
    fs::write(&file, "opensesame\n").unwrap();
    let nodes = servers.urls();
    let words = ["proxy", "--listen", "127.0.0.1:0"];
    let mut by_file = command(&with_nodes(&words, &nodes));
    by_file.args(["--password-file", file.to_str().unwrap()]);
    let mut by_variable = command(&with_nodes(&words, &nodes));
    by_variable.env("REDIS_SHARDING_PASSWORD", "opensesame");
    for command in [&mut by_file, &mut by_variable] {
        let proxy = ToolProxy::start(command);
        let mut client = proxy.client();
        assert_eq!(client.ask("GET key"), "-NOAUTH Authentication required.");
        assert_eq!(client.ask("AUTH opensesame"), "+OK");
        assert_eq!(client.ask("GET key"), "$-1");
    }
    let empty = finish(
        command(&with_nodes(&words, &nodes)).env("REDIS_SHARDING_PASSWORD", ""),
        "",
    );
    assert_eq!(empty.code, Some(2), "{empty:?}");
}

#[test]
fn proxy_serves_metrics_to_a_scrape() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    // A free port, as the address is not printed.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let words = ["proxy", "--listen", "127.0.0.1:0", "--metrics", &address];
    let proxy = ToolProxy::start(&mut command(&with_nodes(&words, &named(servers.urls()))));
    assert_eq!(proxy.client().ask("SET key 1"), "+OK");
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("node=\"node-0\""), "{text}");
    let taken = run(&with_nodes(&words, &named(servers.urls())));
    assert_eq!(taken.code, Some(2), "{taken:?}");
}

#[test]
fn proxy_reports_that_it_has_no_files_left_for_connections_and_goes_on() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let tool = env!("CARGO_BIN_EXE_redis-sharding");
    let mut command = Command::new("sh");
    let script = "ulimit -n 40; exec \"$@\"";
    command.args(["-c", script, "sh", tool, "proxy", "--listen", "127.0.0.1:0"]);
    command.args(["--threads", "1", "--node", &servers.url(0)]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let proxy = ToolProxy::start(&mut command);
    let mut first = proxy.client();
    assert_eq!(first.ask("SET key 1"), "+OK");
    let mut crowd: Vec<RawClient> = (0..60).map(|_| proxy.client()).collect();
    // The last ones are not accepted yet.
    crowd.last_mut().unwrap().say("PING");
    assert!(crowd.last_mut().unwrap().hears_nothing());
    assert_eq!(first.ask("GET key"), "1");
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    assert_eq!(last.hear(), "+PONG");
    let (code, text) = proxy.terminate();
    assert_eq!(code, Some(0));
    assert!(
        text.contains("redis-sharding: a connection could not be accepted: Too many open files"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn proxy_reads_its_topology_file_again_on_sighup_and_with_watch_when_it_changes() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for (server, value) in [(0, "before"), (1, "after")] {
        let () = redis::cmd("SET")
            .arg("key")
            .arg(value)
            .query(&mut servers.connection(server))
            .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.topology");
    let path = file.to_str().unwrap();
    // The same node at another address: keys stay where they are.
    let topology = |name: &str, server: usize| {
        let address = servers.addr(server);
        format!("redis-sharding topology 1\nplacement rendezvous/1\nnode {name} {address}\n")
    };
    let written = |text: &str| std::fs::write(&file, text).unwrap();
    let until = |proxy: &ToolProxy, expected: &str| {
        let end = Instant::now() + TIMEOUT;
        while proxy.client().ask("GET key") != expected {
            assert!(Instant::now() < end, "it is not {expected}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    let words = [
        "proxy",
        "--listen",
        "127.0.0.1:0",
        "--topology",
        path,
        "--threads",
        "2",
    ];

    written(&topology("a", 0));
    let proxy = ToolProxy::start(&mut command(&words));
    let mut connected = proxy.client();
    assert_eq!(connected.ask("GET key"), "before");
    written(&topology("a", 1));
    proxy.signal("HUP");
    until(&proxy, "after");
    assert_eq!(
        connected.ask("GET key"),
        "after",
        "also for clients that stay"
    );
    // One that would move keys, and one that is none, change nothing.
    for wrong in [&topology("b", 0)[..], "nonsense"] {
        written(wrong);
        proxy.signal("HUP");
        thread::sleep(Duration::from_millis(300));
        assert_eq!(connected.ask("GET key"), "after");
    }
    written(&topology("a", 0));
    proxy.signal("HUP");
    until(&proxy, "before");
    let (code, errors) = proxy.terminate();
    assert_eq!(code, Some(0), "{errors}");
    let lines: Vec<&str> = errors.lines().collect();
    let reloaded = format!("redis-sharding: topology reloaded from {path}: 1 nodes");
    assert_eq!(lines.len(), 4, "{errors}");
    assert_eq!((lines[0], lines[3]), (&reloaded[..], &reloaded[..]));
    for (line, why) in [(lines[1], "sample keys would move"), (lines[2], "line 1")] {
        assert!(
            line.starts_with("redis-sharding: topology not reloaded: ") && line.contains(why),
            "{line}"
        );
    }

    let proxy = ToolProxy::start(&mut command(&[&words[..], &["--watch"]].concat()));
    until(&proxy, "before");
    written(&topology("a", 1));
    until(&proxy, "after");
    written("nonsense");
    thread::sleep(Duration::from_secs(3));
    until(&proxy, "after");
    let (code, errors) = proxy.terminate();
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        errors.contains("topology changed: from epoch 0 to 1")
            && errors.contains("topology refused: ")
            && errors.contains("users.topology"),
        "{errors}"
    );

    // Nodes of the command line cannot be read again, and the signal does not end the proxy.
    let nodes = named(servers.urls());
    let words = with_nodes(&["proxy", "--listen", "127.0.0.1:0"], &nodes);
    let proxy = ToolProxy::start(&mut command(&words));
    proxy.signal("HUP");
    assert_eq!(proxy.client().ask("PING"), "+PONG");
    let (code, errors) = proxy.terminate();
    assert_eq!(code, Some(0));
    assert!(errors.contains("--topology"), "{errors}");
    let refused = finish(
        command(&[
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--node",
            "a:1",
            "--watch",
        ])
        .stdin(Stdio::null()),
        "",
    );
    assert!(refused.stderr.contains("--topology"), "{}", refused.stderr);
}
