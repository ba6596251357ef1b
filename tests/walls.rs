//! The walls of the house: which part of the crate may know what, and how large a part may be. Reads the sources.
//!
//! Floors: 0 arithmetic, 1 decisions, 2 executors, 3 handles, 4 operations. A room uses rooms of its own floor and below.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use redis_sharding::command::{CommandTable, Lookup};
use sources::{Kind, Source, Token, closing, follows, sources};

/// The most lines of a function, with its signature.
const FUNCTION_LINES_MAX: usize = 70;

/// The most lines of a file, without unit tests, comments and blank lines.
const FILE_LINES_MAX: usize = 500;

/// Files of `sync` and `aio` that stand on floor 3: what a user holds. All others there are executors.
const HANDLES: [&str; 15] = [
    "bb8",
    "build",
    "client",
    "client_pubsub",
    "deadpool",
    "dedicated",
    "mod",
    "node",
    "options",
    "pubsub",
    "r2d2",
    "scan",
    "subscriber",
    "transaction",
    "watch",
];

/// What may end the program, and why.
const PANICS: [(&str, &str, &str); 1] = [(
    "error.rs",
    "unreachable",
    "redis-rs has no way to make a ServerError but to parse one, and this one is a constant",
)];

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(sources);

// ---------------------------------------------------------------------------------------------------------- the rules

#[test]
fn architecture_no_module_uses_a_higher_floor() {
    let found = upward_uses(&SOURCES);
    assert!(found.is_empty(), "uses of a higher floor: {found:#?}");
}

#[test]
fn architecture_clients_and_configuration_use_no_other_executor() {
    for (from, targets) in uses(&SOURCES) {
        let forbidden: &[&str] = match room(&from).as_str() {
            "sync" => &["aio", "proxy", "proxy/net"],
            "aio" => &["sync", "proxy", "proxy/net"],
            "blocking" | "config" | "endpoint" | "snapshot" => {
                &["sync", "aio", "proxy", "proxy/net"]
            }
            _ => &[],
        };
        for to in targets {
            assert!(!forbidden.contains(&room(&to).as_str()), "{from} uses {to}");
        }
    }
}

#[test]
fn architecture_no_modules_use_one_another_in_a_circle() {
    let circles = circles(&rooms(&SOURCES));
    assert!(circles.is_empty(), "rooms in a circle: {circles:?}");
}

#[test]
fn architecture_no_files_of_sync_aio_and_config_use_one_another_in_a_circle() {
    let found = file_circles(&SOURCES);
    assert!(found.is_empty(), "files in a circle: {found:#?}");
}

#[test]
fn architecture_lower_floors_use_no_socket_thread_clock_lock_or_random_source() {
    const PURE: [&str; 10] = [
        "std::net",
        "std::thread",
        "Instant::now",
        "SystemTime",
        "parking_lot",
        "Mutex",
        "RwLock",
        "tokio",
        "rand",
        ".elapsed()",
    ];
    const ARITHMETIC: [&str; 6] = [
        "redis",
        "std::io",
        "std::time",
        "std::hash::Hash",
        "DefaultHasher",
        "RandomState",
    ];
    for source in SOURCES.iter() {
        let room = room(&source.path);
        if room == "config" || matches!(floor(&source.path), Some(0 | 1)) {
            assert_eq!(mentioned(source, &PURE), None, "{}", source.path);
        }
        if ["hash", "partition"].contains(&room.as_str()) {
            assert_eq!(mentioned(source, &ARITHMETIC), None, "{}", source.path);
        }
    }
}

#[test]
fn architecture_executors_contain_no_decisions() {
    let executors = SOURCES.iter().filter(|source| is_executor(&source.path));
    let found: Vec<String> = executors.flat_map(decisions).collect();
    assert!(found.is_empty(), "decisions of executors: {found:#?}");
}

#[test]
fn sources_contain_no_unlisted_panics() {
    for source in SOURCES.iter() {
        if room(&source.path) == "fuzzing" {
            continue;
        }
        for (line, what) in panics(source) {
            let listed = PANICS
                .iter()
                .any(|(path, name, _)| (*path, *name) == (&source.path, &what));
            assert!(listed, "{}:{line} has {what}", source.path);
        }
    }
}

#[test]
fn every_allow_attribute_covers_one_item_and_has_a_reason() {
    let found: Vec<String> = SOURCES.iter().flat_map(loose_allows).collect();
    assert!(
        found.is_empty(),
        "allowed for a module, or without a reason: {found:#?}"
    );
}

#[test]
fn files_and_functions_stay_within_their_line_limits() {
    for source in SOURCES.iter() {
        let lines = code_lines(source);
        let is_data = source.path.starts_with("command/rows/");
        assert!(
            is_data || lines <= FILE_LINES_MAX,
            "{} has {lines} lines",
            source.path
        );
        let long = long_functions(source);
        assert!(long.is_empty(), "{}: {long:?}", source.path);
    }
}

// ------------------------------------------------------------------------------------------------- the rules can fail

#[test]
fn long_function_check_handles_wrapped_signatures_behind_a_test_module() {
    let body = |lines: usize| "    work();\n".repeat(lines);
    let text = |lines: usize| {
        format!(
            "#[cfg(test)]\nmod tests {{ const BRACE: char = '}}'; /* }} */ const TEXT: &str = r#\"}}\"}}\"#; }}\n\
             fn wrapped<const N: usize>(\n    a: [u8; 2],\n) -> u8\nwhere\n    u8: Copy,\n{{\n{}}}\n",
            body(lines)
        )
    };
    // Six lines of signature, and the closing brace.
    let fits = Source::new("sync/a.rs", &text(FUNCTION_LINES_MAX - 7));
    assert!(long_functions(&fits).is_empty());
    let long = Source::new("sync/a.rs", &text(FUNCTION_LINES_MAX - 6));
    assert_eq!(
        long_functions(&long),
        [("wrapped".to_owned(), FUNCTION_LINES_MAX + 1)]
    );
}

#[test]
fn file_length_check_excludes_comments_and_unit_tests_only() {
    let code = "fn f() {}\n\n// comment\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n#[cfg(test)]\nimpl A {\n}\nconst T: &str = \"\n\n\";\n";
    assert_eq!(code_lines(&Source::new("sync/a.rs", code)), 1 + 3 + 3);
}

#[test]
fn decision_check_finds_decisions_behind_a_test_module() {
    let decides = |code: &str| {
        let text = format!("#[cfg(test)] mod tests {{ const A: &[u8] = b\"GET\"; }}\n{code}");
        !decisions(&Source::new("sync/a.rs", &text)).is_empty()
    };
    for code in [
        "const A: &[u8] = b\"GET\";",
        "const A: &str = \"CLIENT|KILL\";",
        "const A: &[u8] = b\"*1\\r\\n$4\\r\\nEXEC\\r\\n\";",
        "fn f(r: Recovery) -> bool { matches!(r, Recovery::Resend(_)) }",
        "fn f() -> Error { Error::new(ErrorKind::NodeDown, text) }",
    ] {
        assert!(decides(code), "{code}");
    }
    for code in [
        "const A: &str = \"no connection\"; const B: char = 'G';",
        "fn f() -> io::Error { io::ErrorKind::TimedOut.into() } // b\"GET\"",
    ] {
        assert!(!decides(code), "{code}");
    }
}

/// Files of a made-up crate.
fn house(files: &[(&str, &str)]) -> Vec<Source> {
    let source = |(path, text): &(&str, &str)| Source::new(path, text);
    files.iter().map(source).collect()
}

#[test]
fn floor_check_follows_re_exports_and_looks_behind_a_test_module() {
    let plan = "#[cfg(test)]\nmod tests { use crate::aio::Client; }\nuse crate::sync::{self, pool::{Pool, Other as _}};";
    let house = house(&[
        ("plan/batch.rs", plan),
        (
            "plan/mod.rs",
            "mod batch; fn f() { crate::sync::Client::new() }",
        ),
        (
            "sync/mod.rs",
            "mod client; mod pool; pub use client::Client;",
        ),
        ("sync/client.rs", "pub struct Client; use crate::plan::f;"),
        ("sync/pool.rs", "pub(crate) struct Pool; use super::Client;"),
        ("aio/mod.rs", "pub struct Client;"),
    ]);
    let expected = [
        ("plan/batch.rs", "sync/mod.rs"),
        ("plan/batch.rs", "sync/pool.rs"),
        ("plan/mod.rs", "sync/client.rs"),
        ("sync/pool.rs", "sync/client.rs"),
    ];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(upward_uses(&house), expected);
    assert_eq!(circles(&rooms(&house)), [["plan", "sync"]]);
}

#[test]
fn circle_check_follows_re_exports_and_globs() {
    let house = house(&[
        (
            "sync/mod.rs",
            "mod a; mod b; mod c; pub(crate) use a::*; use c::unused;",
        ),
        ("sync/a.rs", "pub(crate) fn a() { b::run() } use super::b;"),
        (
            "sync/b.rs",
            "use crate::sync::a; pub(crate) fn run() { a() }",
        ),
        ("sync/c.rs", "use super::{a, b};"),
    ]);
    assert_eq!(file_circles(&house), [["sync/a.rs", "sync/b.rs"]]);
}

#[test]
fn panic_and_allow_checks_look_behind_a_test_module() {
    let source = |code: &str| {
        let text = format!("#[cfg(test)]\nmod tests {{ fn f() {{ panic!() }} }}\n{code}");
        Source::new("sync/a.rs", &text)
    };
    for code in [
        "unreachable!()",
        "a.expect(\"b\")",
        "a\n.unwrap()",
        "unsafe { a() }",
    ] {
        let text = format!("fn f() {{ {code} }}");
        assert_eq!(panics(&source(&text)).len(), 1, "{code}");
    }
    assert!(panics(&source("fn f() { a.unwrap_or(1); g(\"panic!\") }")).is_empty());
    for code in [
        "#![allow(dead_code, reason = \"a\")]",
        "#[allow(dead_code)] fn f() {}",
        "#[cfg_attr(a, allow(dead_code))] fn f() {}",
        "#[allow(dead_code, reason = \"a\")] #[cfg(a)] pub(crate) mod b;",
    ] {
        assert_eq!(loose_allows(&source(code)).len(), 1, "{code}");
    }
    assert!(loose_allows(&source("#[allow(dead_code, reason = \"a\")] fn f() {}")).is_empty());
}

#[test]
fn clock_check_matches_whole_words_only() {
    let found = |code: &str| {
        mentioned(
            &Source::new("plan/a.rs", code),
            &["Instant::now", "rand", ".elapsed()"],
        )
    };
    assert_eq!(
        found("fn f() { std::time::Instant::now() }"),
        Some("Instant::now".into())
    );
    assert_eq!(
        found("fn f() { start.elapsed() }"),
        Some(".elapsed()".into())
    );
    assert_eq!(found("fn f() { let operand = \"rand\"; elapsed() }"), None);
}

// ------------------------------------------------------------------------------------------------------------- floors

/// The floor of a file. `None` stands beside the house. The configuration is above decisions only because it describes how
/// servers are reached; the proxy's sockets serve their clients through the handles of `aio`.
fn floor(path: &str) -> Option<u8> {
    match room(path).as_str() {
        "archive" | "error" | "error.rs" | "hash" | "partition" | "rdb" | "resp" => Some(0),
        "command" | "plan" | "policy" | "proxy" | "topology" => Some(1),
        "blocking" | "cluster" | "config" | "endpoint" | "observe" | "record" | "replication"
        | "sentinel" | "snapshot" => Some(2),
        "aio" | "sync" if is_handle(path) => Some(3),
        "aio" | "sync" => Some(2),
        "connect.rs" | "lib.rs" | "proxy/net" => Some(3),
        // The binary is a crate of its own, which the others cannot use; of this one it uses what is public.
        "bin" | "ops" => Some(4),
        "fuzzing" | "guide.rs" | "testing" => None,
        other => panic!("{other} has no floor: say where it belongs"),
    }
}

fn is_handle(path: &str) -> bool {
    let (_, name) = path.split_once('/').unwrap_or_default();
    HANDLES.contains(&name.trim_end_matches(".rs"))
}

/// Whether a file moves bytes, or has them moved.
fn is_executor(path: &str) -> bool {
    match room(path).as_str() {
        "aio" | "sync" => !is_handle(path),
        room => ["blocking", "endpoint", "proxy/net"].contains(&room),
    }
}

/// The room of a file: its folder, and for `proxy/net` both.
fn room(path: &str) -> String {
    let (room, rest) = path.split_once('/').unwrap_or((path, ""));
    match (room, rest.starts_with("net/")) {
        ("proxy", true) => "proxy/net".into(),
        _ => room.into(),
    }
}

fn upward_uses(sources: &[Source]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (from, targets) in uses(sources) {
        for to in targets {
            if let (Some(low), Some(high)) = (floor(&from), floor(&to))
                && low < high
            {
                found.push((from.clone(), to));
            }
        }
    }
    found
}

/// What each room uses. Tests and what they start stand beside the house.
fn rooms(sources: &[Source]) -> Graph {
    let mut rooms = Graph::new();
    for (from, targets) in uses(sources) {
        let inside = |path: &String| floor(path).is_some();
        if inside(&from) {
            let targets = targets.into_iter().filter(inside).map(|to| room(&to));
            let targets = targets.filter(|to| *to != room(&from));
            rooms.entry(room(&from)).or_default().extend(targets);
        }
    }
    rooms
}

/// Circles among the files of `sync`, of `aio` and of `config`.
fn file_circles(sources: &[Source]) -> Vec<Vec<String>> {
    let mut files = uses(sources);
    files.retain(|path, _| ["sync", "aio", "config"].contains(&room(path).as_str()));
    circles(&files)
}

// --------------------------------------------------------------------------------------------------------------- uses

/// What uses what.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// A path of modules and items.
type Path = Vec<String>;

/// A module, as far as names are looked up in it.
#[derive(Default)]
struct Module {
    file: String,
    /// What its `use` items bring in, by name.
    names: BTreeMap<String, Path>,
    /// Modules of which it brings in everything.
    globs: Vec<Path>,
    items: BTreeSet<String>,
    /// The paths that stand in it.
    paths: Vec<Path>,
}

/// The files that each file uses by a path: those in which the items are declared, through any re-exports.
fn uses(sources: &[Source]) -> Graph {
    let mut modules = BTreeMap::new();
    for source in sources {
        let own = module_path(&source.path);
        read_module(&source.tokens, &source.path, own, &mut modules);
    }
    let mut graph = Graph::new();
    for module in modules.values() {
        let targets = graph.entry(module.file.clone()).or_default();
        let found = module
            .paths
            .iter()
            .filter_map(|path| declared_in(path, &modules, 0));
        targets.extend(found.filter(|to| *to != module.file));
    }
    graph
}

/// `blocking/tls/mod.rs` is `crate::blocking::tls`.
fn module_path(path: &str) -> Path {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let names = path.split('/').filter(|name| *name != "lib");
    names.map(str::to_owned).collect()
}

fn read_module(tokens: &[Token], file: &str, own: Path, modules: &mut BTreeMap<Path, Module>) {
    let mut module = Module {
        file: file.to_owned(),
        ..Module::default()
    };
    let mut at = 0;
    while at < tokens.len() {
        if follows(tokens, at, &["mod", "*", "{"]) {
            let end = closing(tokens, at + 2);
            let inner = [&own[..], &[tokens[at + 1].text.clone()]].concat();
            read_module(&tokens[at + 3..end], file, inner, modules);
            at = end + 1;
        } else if follows(tokens, at, &["use"]) {
            let end = tokens[at..].iter().position(|token| token.is(";"));
            let end = at + end.unwrap_or(tokens.len() - at);
            let is_public = at > 0 && (tokens[at - 1].is("pub") || tokens[at - 1].is(")"));
            let mut leaves = Vec::new();
            use_tree(&tokens[at + 1..end], &[], &mut leaves);
            for (path, name) in leaves {
                let path = absolute(&path, &own);
                if !is_public {
                    module.paths.push(path.clone());
                }
                match name.as_str() {
                    "*" => module.globs.push(path),
                    _ => drop(module.names.insert(name, path)),
                }
            }
            at = end + 1;
        } else {
            let declares = [
                "struct",
                "enum",
                "trait",
                "type",
                "const",
                "static",
                "fn",
                "macro_rules",
            ];
            if declares.iter().any(|word| tokens[at].is(word)) {
                let name = tokens[at + 1..]
                    .iter()
                    .find(|token| token.kind == Kind::Word);
                module.items.extend(name.map(|name| name.text.clone()));
            }
            let starts = ["crate", "super", "self"]
                .iter()
                .any(|word| tokens[at].is(word));
            let path = path_at(tokens, at);
            if path.len() > 1 && (at == 0 || !tokens[at - 1].is(":")) {
                if starts {
                    module.paths.push(absolute(&path, &own));
                } else {
                    // A module that was brought in: `resp::read`.
                    module.paths.push([&own[..], &path].concat());
                }
            }
            at += (path.len() * 3).saturating_sub(2).max(1);
        }
    }
    modules.insert(own, module);
}

/// `a::b::c` that begins here.
fn path_at(tokens: &[Token], at: usize) -> Path {
    let mut path = Path::new();
    let mut next = at;
    while let Some(token) = tokens.get(next)
        && token.kind == Kind::Word
    {
        path.push(token.text.clone());
        if !(follows(tokens, next + 1, &[":", ":"])) {
            break;
        }
        next += 3;
    }
    path
}

/// The paths of a `use`, with the names they are given.
fn use_tree(tokens: &[Token], before: &[String], leaves: &mut Vec<(Path, String)>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.is("{") {
            let end = closing(tokens, at);
            let mut start = at + 1;
            let mut depth = 0;
            for number in at + 1..=end {
                match tokens[number].text.as_str() {
                    "{" => depth += 1,
                    "}" if number < end => depth -= 1,
                    _ => {}
                }
                if number == end || depth == 0 && tokens[number].is(",") {
                    if start < number {
                        use_tree(&tokens[start..number], &path, leaves);
                    }
                    start = number + 1;
                }
            }
            return;
        }
        if token.is("as") {
            let name = tokens[at + 1].text.clone();
            leaves.push((path, name));
            return;
        }
        if token.is("*") {
            leaves.push((path, "*".into()));
            return;
        }
        if token.is("self") && !before.is_empty() {
            // `use a::{self}`.
        } else if token.kind == Kind::Word {
            path.push(token.text.clone());
        }
        at += 1;
    }
    let name = path.last().cloned().unwrap_or_default();
    leaves.push((path, name));
}

/// A path from the root of the crate, as far as it leads into it.
fn absolute(path: &[String], own: &[String]) -> Path {
    let mut base = own.to_vec();
    let mut rest = path;
    match rest.first().map(String::as_str) {
        Some("crate") => (base, rest) = (Vec::new(), &rest[1..]),
        Some("self") => rest = &rest[1..],
        _ => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
    }
    [&base[..], rest].concat()
}

/// The file in which the item at the end of an absolute path is declared.
fn declared_in(path: &[String], modules: &BTreeMap<Path, Module>, depth: usize) -> Option<String> {
    if depth > 8 {
        return None;
    }
    let known = (0..=path.len())
        .rev()
        .find(|&length| modules.contains_key(&path[..length]))?;
    let module = &modules[&path[..known]];
    let Some(name) = path.get(known) else {
        return Some(module.file.clone());
    };
    let follow = |target: &Path| {
        let longer = [&target[..], &path[known + 1..]].concat();
        (longer[..] != *path)
            .then(|| declared_in(&longer, modules, depth + 1))
            .flatten()
    };
    if module.items.contains(name) {
        return Some(module.file.clone());
    }
    if let Some(target) = module.names.get(name) {
        return follow(target);
    }
    module.globs.iter().find_map(|glob| {
        let inner = modules.get(glob)?;
        let is_there = inner.items.contains(name) || inner.names.contains_key(name);
        is_there.then(|| declared_in(&[&glob[..], &path[known..]].concat(), modules, depth + 1))?
    })
}

/// The sets of two and more that use one another, each sorted.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|from| (from, reachable(graph, from)))
        .collect();
    let mut circles = BTreeSet::new();
    for (from, targets) in &reached {
        let circle: BTreeSet<&String> = targets
            .iter()
            .filter(|to| reached.get(**to).is_some_and(|back| back.contains(from)))
            .copied()
            .collect();
        if circle.len() > 1 {
            circles.insert(circle.into_iter().cloned().collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

fn reachable<'g>(graph: &'g Graph, from: &String) -> BTreeSet<&'g String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&String> = graph.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(graph.get(next).into_iter().flatten());
        }
    }
    found
}

// --------------------------------------------------------------------------------------------------------------- size

/// Every function that has a body, and how many lines it has with its signature.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let tokens = &source.tokens;
    let starts = (0..tokens.len()).filter(|&at| follows(tokens, at, &["fn", "*"]));
    let sized = |at: usize| {
        let mut next = at + 2;
        while next < tokens.len() {
            match tokens[next].text.as_str() {
                ";" if tokens[next].kind == Kind::Mark => return None,
                "{" if tokens[next].kind == Kind::Mark => {
                    let lines = tokens[closing(tokens, next)].line - tokens[at].line + 1;
                    return Some((tokens[at + 1].text.clone(), lines));
                }
                "(" | "[" if tokens[next].kind == Kind::Mark => next = closing(tokens, next),
                _ => {}
            }
            next += 1;
        }
        None
    };
    starts.filter_map(sized).collect()
}

/// Functions that are too long, with how many lines they have.
fn long_functions(source: &Source) -> Vec<(String, usize)> {
    let functions = functions(source).into_iter();
    let long = functions.filter(|&(_, lines)| lines > FUNCTION_LINES_MAX);
    long.collect()
}

/// How many lines hold code.
fn code_lines(source: &Source) -> usize {
    let lines = |token: &Token| token.line..=token.line + token.text.matches('\n').count();
    let lines: BTreeSet<usize> = source.tokens.iter().flat_map(lines).collect();
    lines.len()
}

// ---------------------------------------------------------------------------------------------------------- decisions

/// Decisions in a file: names of commands, requests written out, and the types by which `plan` decides.
fn decisions(source: &Source) -> Vec<String> {
    const DECIDING: [&str; 9] = [
        "Access",
        "CommandSpec",
        "CommandTable",
        "ErrorKind",
        "Merge",
        "Plan",
        "Recovery",
        "Resend",
        "Route",
    ];
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let decides = match token.kind {
            Kind::Text => is_command(&token.text),
            Kind::Word => {
                let is_of_io = at > 2 && follows(tokens, at - 3, &["io", ":", ":"]);
                DECIDING.contains(&token.text.as_str())
                    && follows(tokens, at + 1, &[":", ":"])
                    && !is_of_io
            }
            _ => false,
        };
        if decides {
            found.push(format!("{}:{} has {}", source.path, token.line, token.text));
        }
    }
    found
}

/// Whether a literal is the name of a command, or a request in the wire format.
fn is_command(literal: &str) -> bool {
    let start = literal.find('"').map_or(0, |at| at + 1);
    let text = literal[start..].trim_end_matches(['"', '#']);
    let first = text.split(['|', ' ']).next().unwrap_or_default();
    let is_name = first.len() > 1
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || b"|. ".contains(&byte));
    let is_known = || {
        let found = CommandTable::built_in().lookup(&[first.as_bytes()]);
        !matches!(found, Lookup::UnknownCommand)
    };
    let is_frame = text.starts_with('*') && text.contains(r"\r\n$");
    is_frame || is_name && is_known()
}

// ---------------------------------------------------------------------------------------------------- allow and panics

/// Attributes that allow something for a crate or a module, or without a reason.
fn loose_allows(source: &Source) -> Vec<String> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let is_inner = follows(tokens, at, &["#", "!", "["]);
        if !is_inner && !follows(tokens, at, &["#", "["]) {
            continue;
        }
        let open = at + 1 + usize::from(is_inner);
        let end = closing(tokens, open);
        let attribute = &tokens[open..=end];
        let allows = (0..attribute.len()).any(|at| {
            follows(attribute, at, &["allow", "("]) || follows(attribute, at, &["expect", "("])
        });
        let mut item = end + 1;
        while follows(tokens, item, &["#", "["]) {
            item = closing(tokens, item + 1) + 1;
        }
        let item = &tokens[item.min(tokens.len())..];
        let of_module = item
            .iter()
            .take(6)
            .take_while(|token| !token.is("{"))
            .any(|token| token.is("mod"));
        let has_reason = attribute.iter().any(|token| token.is("reason"));
        if allows && (is_inner || of_module || !has_reason) {
            found.push(format!("{}:{}", source.path, tokens[at].line));
        }
    }
    found
}

/// What ends a program on purpose, or was left open: the line and the word.
fn panics(source: &Source) -> Vec<(usize, String)> {
    const MACROS: [&str; 8] = [
        "dbg",
        "panic",
        "print",
        "println",
        "eprintln",
        "todo",
        "unimplemented",
        "unreachable",
    ];
    let tokens = &source.tokens;
    let is_panic = |at: usize| {
        MACROS.iter().any(|name| follows(tokens, at, &[name, "!"]))
            || follows(tokens, at, &[".", "unwrap", "("])
            || follows(tokens, at, &[".", "expect", "("])
            || follows(tokens, at, &["unsafe"])
    };
    let place = |at: usize| {
        let word = at + usize::from(tokens[at].is("."));
        (tokens[at].line, tokens[word].text.clone())
    };
    let places = (0..tokens.len()).filter(|&at| is_panic(at));
    places.map(place).collect()
}

/// The first of these words, or rows of words and marks, that stands in the file.
fn mentioned(source: &Source, words: &[&str]) -> Option<String> {
    let is_there = |word: &&&str| {
        let row = Source::new("", word).tokens;
        let mut places = source.tokens.windows(row.len());
        let same = |(found, wanted): (&Token, &Token)| found.is(&wanted.text);
        places.any(|place| place.iter().zip(&row).all(same))
    };
    words.iter().find(is_there).map(|word| (*word).to_owned())
}
