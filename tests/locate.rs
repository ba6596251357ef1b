//! The example `locate`: keys in, nodes out.

#[allow(dead_code, reason = "main() is for the command line")]
#[path = "../examples/locate/main.rs"]
mod locate;

use std::fs;
use std::io::BufReader;

use locate::Failure;
use redis_sharding::partition::catalogue;
use redis_sharding::{NodeSpec, Topology};

const KEYS: &[u8] = include_bytes!("vectors/keys.txt");
const ANSWERS: &str = include_str!("vectors/answers.tsv");

/// What is written for these arguments, separated by white space, and these keys.
fn run(arguments: &str, keys: &[u8]) -> Result<Vec<u8>, Failure> {
    run_words(&arguments.split_whitespace().collect::<Vec<_>>(), keys)
}

fn run_words(arguments: &[&str], keys: &[u8]) -> Result<Vec<u8>, Failure> {
    let (outcome, output) = run_example(arguments, keys);
    #[cfg(feature = "cli")]
    if !arguments.contains(&"--help") {
        tool::check(arguments, keys, &outcome, &output);
    }
    outcome.map(|()| output)
}

/// Runs the example alone.
fn run_example(arguments: &[&str], keys: &[u8]) -> (Result<(), Failure>, Vec<u8>) {
    let words: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let mut output = Vec::new();
    // A small buffer, so that keys are cut by its end.
    let outcome = locate::run(&words, BufReader::with_capacity(7, keys), &mut output);
    (outcome, output)
}

#[cfg(feature = "cli")]
mod tool {
    //! The binary `redis-sharding` has the same options, as `locate` and `balance`.

    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::thread;

    use super::locate::Failure;

    /// Checks that the tool writes what the example has written.
    #[track_caller]
    pub fn check(arguments: &[&str], keys: &[u8], outcome: &Result<(), Failure>, written: &[u8]) {
        let is_balance = |word: &&str| ["--balance", "--diff"].contains(word);
        let subcommand = match arguments.iter().any(is_balance) {
            true => "balance",
            false => "locate",
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_redis-sharding"))
            .arg(subcommand)
            .args(arguments.iter().filter(|&&word| word != "--balance"))
            .env_remove("CLICOLOR_FORCE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, keys) = (child.stdin.take().unwrap(), keys.to_owned());
        // It reads no keys if its arguments are wrong.
        let writer = thread::spawn(move || drop(stdin.write_all(&keys)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("s3cret"), "{arguments:?}: {stderr}");
        let code = match outcome {
            Ok(()) => 0,
            Err(Failure::Usage(_)) => 2,
            Err(Failure::Unowned(_) | Failure::Io(_)) => 1,
        };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(output.stdout == written, "{arguments:?}: {stderr}");
    }
}

#[track_caller]
fn written(arguments: &str, keys: &[u8]) -> String {
    String::from_utf8(run(arguments, keys).unwrap()).unwrap()
}

#[track_caller]
fn usage(arguments: &str) -> String {
    match run(arguments, b"") {
        Err(Failure::Usage(message)) => message,
        other => panic!("{arguments}: {other:?}"),
    }
}

fn keys() -> Vec<&'static [u8]> {
    KEYS.strip_suffix(b"\n")
        .unwrap()
        .split(|&byte| byte == b'\n')
        .collect()
}

#[test]
fn locate_prints_every_recorded_answer_of_the_peers() {
    let mut tried_with_tool = "";
    for line in ANSWERS.lines() {
        let [record, placement, options, nodes, answers] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let mut arguments = vec!["--placement".to_owned(), placement.to_owned()];
        // Passwords are given in code only, and prefixes are a matter of the peer's keys.
        if options.contains('@') {
            continue;
        }
        for option in options.split_whitespace() {
            arguments.extend(["--option".to_owned(), option.to_owned()]);
        }
        let mut names = Vec::new();
        for (i, node) in nodes.split(' ').enumerate() {
            let (name, weight) = node.split_once('*').unwrap_or((node, "1"));
            let address = match name.strip_prefix('=') {
                Some(name) => format!("{name}=10.9.9.9:{i}"),
                None => name.to_owned(),
            };
            arguments.extend(["--node".to_owned(), format!("{address},weight={weight}")]);
            names.push(name.trim_start_matches('='));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The tool runs the same code: once for each placement is enough.
        let found = if tried_with_tool == placement {
            run_example(&arguments, KEYS).1
        } else {
            tried_with_tool = placement;
            run_words(&arguments, KEYS).unwrap()
        };
        let mut expected = Vec::new();
        let mut found_lines = found.split_inclusive(|&byte| byte == b'\n');
        for (key, answer) in keys().into_iter().zip(answers.chars()) {
            let line = found_lines.next().unwrap();
            expected.extend(match answer.to_digit(36) {
                Some(node) => [key, b"\t", names[node as usize].as_bytes(), b"\n"].concat(),
                // Undefined in the original.
                None => line.to_owned(),
            });
        }
        assert_eq!(found, expected, "{record}");
    }
}

#[test]
fn locate_agrees_with_the_library_for_every_placement() {
    let placed = ["10.0.0.1:6379", "b=10.0.0.2:6379", "/run/c.sock"];
    let nodes = [
        NodeSpec::unnamed(placed[0]),
        NodeSpec::new("b", "10.0.0.2:6379"),
        NodeSpec::unnamed(placed[2]),
    ];
    for entry in catalogue() {
        let option = match entry.name {
            "hash-mod/1" => ("key-hash", "crc16"),
            "range/1" => ("bytes \"\"", "..\"m\" b, \"m\".. /run/c.sock"),
            "redis-rb-4/1" | "redis-rb-5/1" => ("points", "160"),
            _ => ("", ""),
        };
        let mut arguments = vec!["--placement", entry.name];
        let joined = format!("{}={}", option.0, option.1);
        let options = match option.0 {
            "" => vec![],
            _ => {
                arguments.extend(["--option", &joined]);
                vec![(option.0.to_owned(), option.1.to_owned())]
            }
        };
        arguments.extend(placed.iter().flat_map(|node| ["--node", node]));
        let found = run_words(&arguments, KEYS).unwrap();

        let rule = redis_sharding::partition::by_name(entry.name, &options).unwrap();
        let topology = Topology::new(nodes.to_vec(), rule).unwrap();
        let line = |key: &[u8]| {
            let node = topology.node(topology.locate(key).unwrap());
            [key, b"\t", node.name().as_bytes(), b"\n"].concat()
        };
        assert_eq!(
            found,
            keys().into_iter().flat_map(line).collect::<Vec<u8>>(),
            "{}",
            entry.name
        );
    }
}

#[test]
fn locate_reads_keys_as_bytes_up_to_the_line_feed() {
    let at = |keys| run("--placement ring/1 --node a:1", keys).unwrap();
    assert_eq!(at(b""), b"");
    assert_eq!(at(b"\n"), b"\ta:1\n");
    assert_eq!(at(b"user:1"), b"user:1\ta:1\n");
    assert_eq!(
        at(b"user:1\n\nuser:2"),
        b"user:1\ta:1\n\ta:1\nuser:2\ta:1\n"
    );
    assert_eq!(at(b"a\r\n\0\xff\t \n"), b"a\r\ta:1\n\0\xff\t \ta:1\n");
    let long = [b"x".repeat(100_000), b"\n".to_vec()].concat();
    assert_eq!(at(&long).len(), 100_000 + "\ta:1\n".len());
}

#[test]
fn locate_parses_node_names_addresses_and_weights() {
    for (node, name, address) in [
        ("10.0.0.1:6379", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("a=10.0.0.1:6379", "a", "10.0.0.1:6379"),
        ("a=b=10.0.0.1:6379,weight=3", "a=b", "10.0.0.1:6379"),
        ("a,weight=x=h:1", "a,weight=x", "h:1"),
        ("[::1]:6379", "[::1]:6379", "[::1]:6379"),
        ("six=[fe80::1]:6379,weight=2", "six", "[fe80::1]:6379"),
        ("/run/a.sock", "/run/a.sock", "/run/a.sock"),
        ("/run/a=1.sock", "/run/a=1.sock", "/run/a=1.sock"),
        ("s=/run/a=1.sock", "s", "/run/a=1.sock"),
        ("redis://10.0.0.1:7/", "redis://10.0.0.1:7/", "10.0.0.1:7"),
        (
            "rediss://h?protocol=resp3",
            "rediss://h?protocol=resp3",
            "h:6379",
        ),
        ("redis://u:secret@h:1/2", "redis://u@h:1/2", "h:1"),
        ("x=redis://:secret@[::1]:1", "x", "[::1]:1"),
        (
            "unix:///run/a.sock?pass=secret",
            "unix:///run/a.sock",
            "/run/a.sock",
        ),
        (
            "redis://10.0.0.1:1/0=10.0.0.2:1",
            "redis://10.0.0.1:1/0",
            "10.0.0.2:1",
        ),
        ("localhost", "localhost", "localhost"),
        ("a=localhost", "a", "localhost"),
    ] {
        let arguments = ["--placement", "ring/1", "--node", node];
        let found = run_words(&arguments, b"k").unwrap();
        assert_eq!(
            String::from_utf8(found).unwrap(),
            format!("k\t{name}\n"),
            "{node}"
        );
        // What is no address can be hashed, but not connected to.
        if address != "localhost" {
            let text = run_words(&[&arguments[..], &["--write-topology"]].concat(), b"").unwrap();
            let topology = Topology::parse(std::str::from_utf8(&text).unwrap()).unwrap();
            assert_eq!(topology.nodes()[0].address(), address, "{node}");
        }
    }
    // redis-rb hashes the URL.
    let at = |nodes: &str| written(&format!("--placement redis-rb-5/1 {nodes}"), KEYS);
    assert_eq!(
        at("--node redis://h:1 --node redis://h:2"),
        at("--node redis://h:1=h:1 --node redis://h:2=h:2")
    );
}

#[test]
fn locate_reads_and_writes_a_topology() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("fleet.topology");
    let by_words = "--placement twemproxy-ketama/1 --option hash=md5 --option=hash-tag=any-two:{} --node=a=h:1,weight=2 \
                    --node h:2";
    fs::write(&file, written(&format!("{by_words} --write-topology"), b"")).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(
        written(&format!("--topology {file}"), KEYS),
        written(by_words, KEYS)
    );
    assert!(usage(&format!("--topology {file} --node h:3")).starts_with("--topology says it all"));

    fs::write(file, "redis-sharding topology 1\nplacement x\n").unwrap();
    let message = usage(&format!("--topology {file}"));
    assert!(
        message.contains("fleet.topology, line 2: no placement is called \"x\""),
        "{message}"
    );
}

#[test]
fn locate_prints_no_name_for_a_key_without_an_owner() {
    let arguments = [
        "--placement",
        "range/1",
        "--option",
        "numeric \"u=\"=0..=9 a",
        "--node",
        "a=h:1",
    ];
    let arguments: Vec<String> = arguments.map(str::to_owned).into();
    let mut output = Vec::new();
    let outcome = locate::run(&arguments, &b"u=7\nu=10\nv"[..], &mut output);
    assert!(matches!(outcome, Err(Failure::Unowned(2))), "{outcome:?}");
    assert_eq!(output, b"u=7\ta\nu=10\t\nv\t\n");
}

#[test]
fn locate_balance_counts_keys_against_weights() {
    let keys: String = (0..4000).map(|i| format!("user:{i}\n")).collect();
    let text = written(
        "--placement rendezvous/1 --node a=h:1,weight=3 --node b=h:2 --balance",
        keys.as_bytes(),
    );
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["node", "keys", "share", "weight", "load"]);
    let count = |row: &[&str]| row[1].parse::<u32>().unwrap();
    assert_eq!(count(&rows[1]) + count(&rows[2]), 4000);
    assert_eq!(
        (rows[1][0], rows[1][3], rows[2][0], rows[2][3]),
        ("a", "3", "b", "1")
    );
    assert!((2900..3100).contains(&count(&rows[1])), "{text}");
    assert!(text.contains("\nkeys 4000   max/mean 1.0"), "{text}");
    assert!(written("--placement ring/1 --node h:1 --balance", b"").contains("keys 0 "));
}

#[test]
fn locate_diff_counts_moved_keys() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("after");
    let keys: String = (0..1000).map(|i| format!("user:{i}\n")).collect();
    let before = "--placement rendezvous/1 --node a=h:1 --node b=h:2";
    let moved = |after: &str| {
        fs::write(&file, after).unwrap();
        written(
            &format!("{before} --diff {}", file.display()),
            keys.as_bytes(),
        )
    };
    assert_eq!(
        moved("a=h:1\nb=h:2\n"),
        "nodes 2 -> 2\nkeys 1000   moved 0 (0.00%)\n"
    );
    // Another order, another address.
    assert_eq!(
        moved("# later\n\nb=h:7\n a=h:1"),
        "nodes 2 -> 2\nkeys 1000   moved 0 (0.00%)\n"
    );

    let grown = moved("a=h:1\nb=h:2\nc=h:3\n");
    let rows: Vec<Vec<&str>> = grown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        (rows[0][3], rows[3][0], rows.len()),
        ("3", "from", 6),
        "{grown}"
    );
    let moves = &rows[4..];
    assert!(
        moves.iter().all(|row| row[2] == "c" && row[0] != "c"),
        "{grown}"
    );
    let sum: u32 = moves.iter().map(|row| row[3].parse::<u32>().unwrap()).sum();
    assert_eq!(rows[1][3], sum.to_string());
    assert!((250..420).contains(&sum), "{grown}");

    // A topology brings its own placement; servers that were renamed are known by their addresses.
    let other =
        "redis-sharding topology 1\nplacement range/1\noption bytes \"\" = .. x\nnode x h:1\n";
    let text = moved(other);
    assert!(text.contains("\nb    -> x "), "{text}");
    assert!(!text.contains("\na "), "{text}");
}

#[test]
fn locate_explains_invalid_arguments() {
    for (arguments, message) in [
        ("", "where to? Give --placement and --node, or --topology"),
        ("--placement ring/1", "there is no --node"),
        (
            "--placement rnig/1 --node a:1",
            "no placement is called \"rnig/1\"; did you mean \"ring/1\"?",
        ),
        (
            "--placement ring/1 --node a:1 --node a:1",
            "two nodes are called \"a:1\"; give each a name of its own",
        ),
        (
            "--placement ring/1 --node a:1,weight=0",
            "the weight \"0\" is no whole number from 1 to 4294967295",
        ),
        (
            "--placement ring/1 --node =a:1",
            "--node \"a:1\" has an empty name",
        ),
        ("--placement ring/1 --node a=", "a --node has no address"),
        (
            "--placement ring/1 --node redis://:secret@h:x",
            "the URL of a --node cannot be read",
        ),
        (
            "--placement ring/1 --node redis://:secret@h/x",
            "the URL of a --node names no server",
        ),
        (
            "--placement ring/1 --placement ring/1 --node a:1",
            "--placement is given twice",
        ),
        (
            "--placement ring/1 --option hash --node a:1",
            "--option \"hash\" is not of the form K=V",
        ),
        (
            "--placement ring/1 --node a:1 --balance --list",
            "only one of --balance, --diff, --list and --write-topology can be done at a time",
        ),
        ("--placement ring/1 --node", "--node takes a value"),
        ("--balance=1", "--balance takes no value"),
        ("keys.txt", "there is no argument keys.txt"),
    ] {
        assert_eq!(usage(arguments), message, "{arguments}");
    }
    let message = usage("--placement ring/1 --option x=1 --node a:1");
    assert!(
        message.starts_with("ring/1 has no option \"x\"; it has: "),
        "{message}"
    );
    assert!(usage("--topology /nowhere").starts_with("/nowhere: "));
    assert!(usage("--placement ring/1 --node a:1 --diff /nowhere").starts_with("/nowhere: "));
}

#[test]
fn locate_never_prints_a_password() {
    let shown = |arguments: &[&str]| match run_words(arguments, b"k") {
        Ok(written) => String::from_utf8(written).unwrap(),
        Err(Failure::Usage(message)) => message,
        Err(other) => panic!("{arguments:?}: {other:?}"),
    };
    for node in [
        "redis://:my s3cret@h:1",
        "redis://app:^s3cret^@h:1",
        "redis://app:a=s3cret@h:1",
        "redis://app:a=/s3cret@h:1",
        "redis://:s3cret@h:99999",
        "redis://:s3cret@h:1=h:1",
        "a=redis://:s3cret@h:1",
        "a=redis://:s3cret@h:x",
        "redis://:x@h:1?pass=s3cret",
        "redis://h:1?password=s3cret",
        "redis://h:1/2?x=s3cret&passwd=s3cret",
        "redis+unix://:s3cret@/x=/run/a.sock",
        "unix:///x?db=1&pass=s3cret",
        "?password=s3cret=h:1",
        "app:s3cret@h:1",
        "a=app:s3cret@h:1",
        "redis://:x,weight=s3cret@h:1",
        "/x?pass=s3cret",
    ] {
        for placement in ["ring/1", "redis-rb-5/1"] {
            for more in [&[][..], &["--write-topology"], &["--balance"]] {
                let arguments = [&["--placement", placement, "--node", node], more].concat();
                let text = shown(&arguments);
                assert!(!text.contains("s3cret"), "{node}: {text}");
            }
        }
    }
    let node = ["--placement", "ring/1", "--node", "a:1"];
    for odd in [
        &["redis://:s3cret@h:1"][..],
        &["--option", "redis://:s3cret@h:1"],
        &["--option", "x=redis://:s3cret@h:1"],
        &["--option", "label=redis://:s3cret@h:1"],
        &["--diff", "redis://:s3cret@h:1"],
        &["--nodes=redis://:s3cret@h:1"],
        &["--balance=redis://:s3cret@h:1"],
    ] {
        let text = shown(&[&node, odd].concat());
        assert!(!text.contains("s3cret"), "{odd:?}: {text}");
    }
    assert!(!shown(&["--topology", "redis://:s3cret@h:1"]).contains("s3cret"));
    assert!(!shown(&["--placement", "redis://:s3cret@h:1", "--node", "a:1"]).contains("s3cret"));
    // In a file of nodes as well.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("after");
    fs::write(
        &file,
        "\u{feff}a=redis://:s3cret@h:1\nredis://:s3cret@h:x\n",
    )
    .unwrap();
    let text = shown(&[&node[..], &["--diff", file.to_str().unwrap()]].concat());
    assert!(
        text.contains("cannot be read") && !text.contains("s3cret"),
        "{text}"
    );
    fs::write(&file, "\u{feff}a:1\n").unwrap();
    let text = shown(&[&node[..], &["--diff", file.to_str().unwrap()]].concat());
    assert!(text.contains("moved 0 "), "{text}");
}

#[test]
fn docs_show_the_output_of_locate() {
    let page = include_str!("../docs/placements.md");
    let (_, shown) = page.split_once("```console\n$ printf").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let (command, answers) = shown.split_once("weight=2\n").unwrap();
    let (_, arguments) = command.split_once("-- \\\n").unwrap();
    let keys = b"user:1\nuser:2\nuser:3\n";
    assert!(command.contains(r"'user:1\nuser:2\nuser:3\n'"));
    assert_eq!(written(&format!("{arguments}weight=2"), keys), answers);
}

#[test]
fn locate_list_contains_every_placement() {
    let list = written("--list", b"");
    let names: Vec<&str> = list
        .lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names
            .iter()
            .copied()
            .eq(catalogue().iter().map(|entry| entry.name)),
        "{list}"
    );
    let help = written("--help --placement x", b"");
    for word in [
        "--placement",
        "--option",
        "--node",
        "--topology",
        "--list",
        "--balance",
        "--diff",
    ] {
        assert!(help.contains(&format!("\n  {word}")), "{word}");
    }
}
