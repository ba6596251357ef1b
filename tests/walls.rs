//! The walls of the house: which part of the crate may know what. Reads the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file without its unit tests, comments and doc comments.
struct Source {
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> Source {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\n").next().unwrap();
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    Source {
        path: file
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/"),
        code: code.join("\n"),
    }
}

/// The floor of a file: 0 arithmetic, 1 routing, 2 executors, 3 handles. `None` stands beside the house.
fn floor(path: &str) -> Option<u8> {
    const HANDLES: [&str; 6] = [
        "client",
        "dedicated",
        "node",
        "scan",
        "subscriber",
        "transaction",
    ];
    let (room, rest) = path.split_once('/').unwrap_or((path, ""));
    let name = rest.trim_end_matches(".rs");
    match room {
        "hash" | "partition" | "node.rs" | "password.rs" => Some(0),
        "command" | "error.rs" | "front" | "handshake.rs" | "health.rs" | "inbox.rs"
        | "passage.rs" | "plan" | "reply.rs" | "resp.rs" | "scan.rs" | "settings.rs"
        | "subscribe" | "subscribe.rs" | "tls" | "topology" => Some(1),
        "endpoint.rs" => Some(2),
        "sync" | "aio" if HANDLES.contains(&name) || name == "mod" || name == "r2d2" => Some(3),
        "sync" | "aio" => Some(2),
        "builder.rs" | "lib.rs" => Some(3),
        "fuzzing" | "testing" => None,
        other => panic!("{other} has no floor: say where it belongs"),
    }
}

#[test]
fn floor_zero_knows_no_command_connection_or_clock() {
    forbid(
        0,
        &[
            "crate::command",
            "crate::plan",
            "crate::sync",
            "crate::aio",
            "crate::topology",
            "crate::health",
            "redis::",
            "std::net",
            "std::time",
            "std::thread",
            "std::io",
            "parking_lot",
            "tokio::",
            "rand::",
            "std::hash::Hash;",
            "DefaultHasher",
            "RandomState",
        ],
    );
}

#[test]
fn floor_one_touches_no_socket_thread_clock_lock_or_random_source() {
    forbid(
        1,
        &[
            "crate::sync",
            "crate::aio",
            "crate::builder",
            "std::net",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "parking_lot",
            "Mutex",
            "tokio::",
            "rand::",
            ".elapsed()",
        ],
    );
}

#[test]
fn executors_decide_nothing() {
    forbid(
        2,
        &[
            "Merge::",
            "Route::",
            "CommandSpec",
            "CommandTable",
            "Access::Read",
            "Access::Write",
            "Plan::",
        ],
    );
}

#[test]
fn the_two_clients_do_not_know_each_other() {
    for source in sources() {
        let foreign = match source.path.split_once('/') {
            Some(("sync", _)) => "crate::aio",
            Some(("aio", _)) => "crate::sync",
            _ => continue,
        };
        assert!(
            !source.code.contains(foreign),
            "{} knows {foreign}",
            source.path
        );
    }
}

#[test]
fn nothing_panics_on_purpose_and_nothing_is_left_open() {
    for source in sources() {
        for word in [
            ".unwrap()",
            "todo!",
            "unimplemented!",
            "dbg!",
            "println!",
            "unsafe ",
        ] {
            assert!(!source.code.contains(word), "{} has {word}", source.path);
        }
    }
}

#[test]
fn files_and_functions_stay_small() {
    for source in sources() {
        let lines = source
            .code
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        let data = source.path.starts_with("command/rows/");
        assert!(data || lines <= 500, "{} has {lines} lines", source.path);
        let mut start = None;
        for (number, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let begins = line
                .trim_start()
                .split(' ')
                .take(4)
                .any(|word| word == "fn")
                && line.ends_with('{');
            if begins && start.is_none() {
                start = Some((number, indent, line.trim()));
            }
            if let Some((first, depth, name)) = start
                && indent == depth
                && line.trim() == "}"
            {
                let length = number - first;
                assert!(length <= 70, "{}: {name} has {length} lines", source.path);
                start = None;
            }
        }
    }
}

fn forbid(on: u8, words: &[&str]) {
    for source in sources()
        .iter()
        .filter(|source| floor(&source.path) == Some(on))
    {
        for word in words {
            assert!(
                !mentions(&source.code, word),
                "{} (floor {on}) has {word}",
                source.path
            );
        }
    }
}

/// Whether the word stands in the code, and not only as the end of a longer one: `Predis::` is not `redis::`.
fn mentions(code: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !word.starts_with(part_of_a_word) || !code[..at].ends_with(part_of_a_word))
}
