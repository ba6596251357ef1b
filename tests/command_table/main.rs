//! The command table against a real server: its commands, flags and tips, and COMMAND GETKEYS.
//!
//! `REDISRS_SERVER_BIN` names the server's binary. Where table and server differ, the difference stands in a list here,
//! with its reason.

mod differences;
mod requests;
mod server;

use std::collections::BTreeMap;

use redis::Value;
use redis_sharding::command::{
    Access, Blocking, CommandSpec, CommandTable, KeyError, KeyPositions, Merge, Route,
};
use requests::Random;
use server::{Fact, Keys, Server};

/// Requests per command of any shape, and by grammar.
const ANYTHING: usize = 200;
const GRAMMATICAL: usize = 4000;

fn row(fact: &Fact) -> &'static CommandSpec {
    CommandTable::built_in()
        .by_name(&fact.name)
        .unwrap_or_else(|| panic!("{} is not in the table", fact.name))
}

/// The rows and the facts about them; commands that only contain subcommands have no row.
fn rows(server: &Server) -> impl Iterator<Item = (&'static CommandSpec, &Fact)> {
    let facts = server
        .facts
        .iter()
        .filter(|fact| !fact.has_subcommands || fact.name == "COMMAND");
    facts.map(|fact| (row(fact), fact))
}

/// Every difference found must be listed.
fn check(found: &BTreeMap<String, String>, listed: differences::List) {
    let surprises: String = found
        .iter()
        .filter(|(name, _)| !is_listed(name, listed))
        .map(|(name, what)| format!("\n  {name}: {what}"))
        .collect();
    assert!(surprises.is_empty(), "{surprises}");
}

fn is_listed(name: &str, listed: differences::List) -> bool {
    listed.iter().any(|(names, _)| names.contains(&name))
}

#[test]
fn command_table_contains_every_command_of_the_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let table = CommandTable::built_in();
    let missing: Vec<_> = server
        .facts
        .iter()
        .filter(|fact| !fact.has_subcommands && table.by_name(&fact.name).is_none())
        .map(|fact| &fact.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn command_table_arities_match_the_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let found = rows(&server)
        .filter(|(row, fact)| i64::from(row.arity()) != fact.arity)
        .map(|(row, fact)| {
            (
                fact.name.clone(),
                format!("{} here, {} there", row.arity(), fact.arity),
            )
        })
        .collect();
    check(&found, differences::ARITIES);
}

/// Commands without keys are mostly called neither readonly nor write.
#[test]
fn command_table_reads_are_readonly_or_keyless_on_the_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let found = rows(&server)
        .filter(|(row, fact)| match row.access() {
            Access::Read => {
                fact.has("write") || !(fact.has("readonly") || row.key_specs().is_empty())
            }
            Access::Write => fact.has("readonly"),
        })
        .map(|(row, fact)| {
            (
                fact.name.clone(),
                format!("{:?} here, {:?} there", row.access(), fact.flags),
            )
        })
        .collect();
    check(&found, differences::ACCESSES);
}

#[test]
fn command_table_blocking_commands_match_the_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let found = rows(&server)
        .filter(|(row, fact)| (row.blocking() != Blocking::No) != fact.has("blocking"))
        .map(|(row, fact)| {
            (
                fact.name.clone(),
                format!("{:?} here, {:?} there", row.blocking(), fact.flags),
            )
        })
        .collect();
    check(&found, differences::BLOCKING);
}

#[test]
fn command_table_routes_and_merges_match_the_command_tips_of_the_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let found = rows(&server)
        .filter(|(row, fact)| !agrees(row, fact))
        .map(|(row, fact)| {
            (
                fact.name.clone(),
                format!("{:?} here, {:?} there", row.route(), fact.tips),
            )
        })
        .collect();
    check(&found, differences::TIPS);
}

/// Whether the route says what the tips say. Masters are all there is: all_nodes and all_shards are the same.
fn agrees(row: &CommandSpec, fact: &Fact) -> bool {
    let merge_agrees = |merge| {
        let expected: &[Option<&str>] = match merge {
            Merge::AllSucceeded => &[Some("all_succeeded")],
            Merge::OneSucceeded => &[Some("one_succeeded")],
            Merge::LogicalAnd => &[Some("agg_logical_and")],
            Merge::Sum => &[Some("agg_sum")],
            Merge::Min => &[Some("agg_min")],
            Merge::Concat | Merge::KeyOrder => &[None],
            Merge::Max | Merge::SumByName | Merge::Union => &[],
            // Rules of our own for answers of which no policy makes one.
            _ => &[None, Some("special")],
        };
        expected.contains(&fact.tip("response_policy"))
    };
    match (row.route(), fact.tip("request_policy")) {
        (Route::All(merge), Some("all_nodes" | "all_shards")) => merge_agrees(merge),
        (Route::Split { merge, .. }, Some("multi_shard")) => merge_agrees(merge),
        (Route::Scan, Some("special")) => true,
        (Route::All(_) | Route::Split { .. } | Route::Scan, _) => false,
        (_, tip) => tip.is_none(),
    }
}

#[test]
fn command_table_keys_match_command_getkeys() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let requests: Vec<_> = server
        .facts
        .iter()
        .filter(|fact| !fact.has_subcommands)
        .flat_map(requests_for)
        .collect();
    let mut listed = 0;
    let mut keyed = BTreeMap::<&str, usize>::new();
    let (mut surprises, mut doubts) = (Vec::new(), Vec::new());
    for chunk in requests.chunks(500) {
        for (request, theirs) in chunk.iter().zip(server.keys_of(chunk)) {
            if let (Keys::Found(_), Some(spec)) = (&theirs, spec_of(request)) {
                *keyed.entry(spec.name()).or_default() += 1;
            }
            match verdict(request, &theirs) {
                Verdict::Same => {}
                Verdict::Listed => listed += 1,
                Verdict::Wrong(what) => surprises.push(what),
                Verdict::Doubtful(what) => doubts.push((request.clone(), what)),
            }
        }
    }
    assert_eq!(untested(&server, &keyed), Vec::<&str>::new());
    // Where only one side sees an error, the server must see it too when the request is meant in earnest. What it
    // refuses does no harm; what it takes is really different.
    assert!(
        doubts.iter().all(|(request, _)| is_keyed(request)),
        "{doubts:?}"
    );
    for chunk in doubts.chunks(500) {
        let earnest: Vec<_> = chunk.iter().map(|(request, _)| request.clone()).collect();
        let replies = server.ask(&earnest);
        let taken = chunk
            .iter()
            .zip(replies)
            .filter(|(_, reply)| !is_refusal(reply));
        surprises.extend(taken.map(|((_, what), reply)| format!("{what}, and then {reply:?}")));
    }
    let (all, with_keys, doubts) = (requests.len(), keyed.values().sum::<usize>(), doubts.len());
    println!(
        "{all} requests, {with_keys} with keys, {listed} listed differences, {doubts} refused in earnest"
    );
    assert!(
        surprises.is_empty(),
        "{} surprises:\n  {}",
        surprises.len(),
        surprises.join("\n  ")
    );
}

/// Commands for which the server never found keys in the requests above would not have been tested.
fn untested(server: &Server, keyed: &BTreeMap<&str, usize>) -> Vec<&'static str> {
    rows(server)
        .map(|(row, _)| row)
        .filter(|row| !row.key_specs().is_empty() && !is_listed(row.name(), differences::KEYS))
        .filter(|row| keyed.get(row.name()).is_none_or(|&times| times < 20))
        .map(CommandSpec::name)
        .collect()
}

fn spec_of(request: &[Vec<u8>]) -> Option<&'static CommandSpec> {
    let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    CommandTable::built_in().find(&args)
}

fn requests_for(fact: &Fact) -> Vec<Vec<Vec<u8>>> {
    let mut random = Random(
        fact.name
            .bytes()
            .fold(1, |seed, byte| seed << 5 ^ seed >> 59 ^ u64::from(byte)),
    );
    let mut requests: Vec<_> = (0..ANYTHING)
        .map(|_| requests::anything(fact, &mut random))
        .collect();
    requests.extend((0..GRAMMATICAL).map_while(|_| requests::grammatical(fact, &mut random)));
    requests
}

/// Whether the command is about keys, and so may be run on an empty server without harm.
fn is_keyed(request: &[Vec<u8>]) -> bool {
    spec_of(request)
        .is_some_and(|spec| !spec.key_specs().is_empty() && spec.route() != Route::Stateful)
}

/// `ERR` is what a server says to arguments it cannot read; other errors (WRONGTYPE, NOGROUP) come from the data, but
/// a script is looked for before the number of its keys is read.
fn is_refusal(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if matches!(error.code(), "ERR" | "NOSCRIPT"))
}

enum Verdict {
    Same,
    Listed,
    /// Both find keys, but not the same.
    Wrong(String),
    /// One finds keys, the other an error.
    Doubtful(String),
}

fn verdict(request: &[Vec<u8>], theirs: &Keys) -> Verdict {
    let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    let mut positions = KeyPositions::default();
    let Some(spec) = CommandTable::built_in().find(&args) else {
        return Verdict::Doubtful(format!("{} is not found", shown(request)));
    };
    let ours = spec.positions(&args, &mut positions);
    let keys: Vec<_> = positions
        .keys
        .iter()
        .map(|&at| request[at as usize].clone())
        .collect();
    match (ours, theirs) {
        (Ok(()), Keys::Found(theirs)) if same(&keys, theirs) => return Verdict::Same,
        (Ok(()), Keys::None) if keys.is_empty() => return Verdict::Same,
        (_, Keys::Unasked) => return Verdict::Same,
        (Err(KeyError::Arity), Keys::WrongArity | Keys::None) => return Verdict::Same,
        (Err(_), Keys::Invalid) => return Verdict::Same,
        (Ok(()), Keys::None) if is_listed(spec.name(), differences::KEYS) => {
            return Verdict::Listed;
        }
        (Ok(()), Keys::Invalid) if is_listed(spec.name(), differences::INVALID) => {
            return Verdict::Listed;
        }
        _ => {}
    }
    let has_twice = |words: &[&str]| {
        let is_one = |arg: &&&[u8]| {
            words
                .iter()
                .any(|word| arg.eq_ignore_ascii_case(word.as_bytes()))
        };
        args.iter().filter(is_one).count() > 1
    };
    if differences::TWICE
        .iter()
        .any(|(name, words)| *name == spec.name() && has_twice(words))
    {
        return Verdict::Listed;
    }
    let both_found = ours.is_ok() && matches!(theirs, Keys::Found(_));
    let ours = ours.map(|()| shown(&keys));
    let what = format!("{}: {ours:?} here, {theirs:?} there", shown(request));
    if both_found {
        Verdict::Wrong(what)
    } else {
        Verdict::Doubtful(what)
    }
}

fn same(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> bool {
    let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
    ours.sort();
    theirs.sort();
    ours == theirs
}

fn shown(request: &[Vec<u8>]) -> String {
    let args: Vec<_> = request
        .iter()
        .map(|arg| format!("{:?}", String::from_utf8_lossy(arg)))
        .collect();
    args.join(" ")
}

/// The keys that the table finds, joined by blanks.
fn keys_here(request: &str) -> String {
    let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    let spec = CommandTable::built_in().find(&args).unwrap();
    let mut positions = KeyPositions::default();
    spec.positions(&args, &mut positions)
        .unwrap_or_else(|error| panic!("{request}: {error}"));
    let keys: Vec<_> = positions
        .keys
        .iter()
        .map(|&at| request.split(' ').nth(at as usize).unwrap())
        .collect();
    keys.join(" ")
}

#[test]
fn sort_georadius_and_others_read_their_options_as_the_command_table_does() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let mut ask = |request: &str| server.ask(&[request.split(' ').collect()]).remove(0);
    // (request, the keys of the table, of which the last one is written)
    let writers = [
        ("SORT list STORE store", "list store"),
        ("SORT list STORE store ASC", "list store"),
        ("SORT list STORE a STORE b", "list b"),
        ("SORT list STORE get STORE b", "list b"),
        ("SORT list BY store STORE b", "list b"),
        ("SORT list GET store GET # STORE b ALPHA", "list b"),
        ("SORT list LIMIT 0 9 STORE limit", "list limit"),
        ("GEORADIUS geo 0 0 9 km STORE a STOREDIST b", "geo b"),
        ("GEORADIUS geo 0 0 9 km STORE store", "geo store"),
        ("GEORADIUS geo 0 0 9 km STORE storedist STORE b", "geo b"),
        (
            "GEORADIUSBYMEMBER geo store 9 km STOREDIST a STORE b COUNT 1 ASC",
            "geo b",
        ),
        ("PFMERGE b", "b"),
    ];
    for (request, keys) in writers {
        ask("FLUSHALL");
        ask("RPUSH list 2 1");
        ask("GEOADD geo 0 0 store");
        let before = ask("DBSIZE");
        let reply = ask(request);
        assert!(!is_refusal(&reply), "{request}: {reply:?}");
        assert_eq!(keys_here(request), keys, "{request}");
        let written = keys.rsplit(' ').next().unwrap();
        assert_eq!(
            ask(&format!("EXISTS {written}")),
            Value::Int(1),
            "{request} wrote {written}"
        );
        assert_eq!(
            (before, ask("DBSIZE")),
            (Value::Int(2), Value::Int(3)),
            "{request} wrote one key"
        );
    }
    ask("FLUSHALL");
    ask("XADD stream * field value");
    ask("XGROUP CREATE stream streams 0");
    ask("XGROUP CREATE stream block 0");
    let readers = [
        "XREADGROUP GROUP streams streams STREAMS stream >",
        "XREADGROUP COUNT 1 GROUP streams streams STREAMS stream >",
        "XREADGROUP NOACK GROUP streams streams BLOCK 1 STREAMS stream >",
        "XREADGROUP GROUP block block STREAMS stream >",
        "XREAD COUNT 1 BLOCK 1 STREAMS stream 0",
        "XREAD STREAMS stream 0",
    ];
    for request in readers {
        let reply = ask(request);
        assert!(
            matches!(reply, Value::Array(_) | Value::Nil),
            "{request}: {reply:?}"
        );
        assert_eq!(keys_here(request), "stream", "{request}");
    }
}

#[test]
fn eval_with_an_invalid_numkeys_is_refused_by_the_command_table_and_the_server() {
    let Some(mut server) = Server::start() else {
        return;
    };
    for (number, good) in [
        ("0", true),
        ("1", true),
        ("2", true),
        ("3", false),
        ("-1", false),
        ("+1", false),
        ("01", false),
        (" 1", false),
        ("1.0", false),
        ("", false),
        ("x", false),
        ("-0", false),
        ("00", false),
        ("9223372036854775808", false),
    ] {
        let request = ["EVAL", "return 1", number, "one", "two"];
        let reply = server.ask(&[request.to_vec()]).remove(0);
        assert_eq!(
            !is_refusal(&reply),
            good,
            "the server about {number:?}: {reply:?}"
        );
        let args: Vec<&[u8]> = request.iter().map(|arg| arg.as_bytes()).collect();
        let spec = CommandTable::built_in().find(&args).unwrap();
        let ours = spec.positions(&args, &mut KeyPositions::default());
        assert_eq!(
            ours,
            if good { Ok(()) } else { Err(KeyError::Count) },
            "{number:?}"
        );
    }
}
