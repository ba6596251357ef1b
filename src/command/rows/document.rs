//! Prints `docs/commands.md` from the rows, and checks that the file is up to date.
//!
//! The texts below are the file's own; a change to them needs `UPDATE_DOCS=1 cargo test --lib commands_md`.

use std::fmt::Write;

use super::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");

const HEAD: &str = "\
# Commands

Every command that is known without being declared: those of Redis 7.0, of Redis 8 with its modules, and of Valkey 9.
A command that is not here is refused; `CommandSpec::declare` adds one. `CONFIG|GET` is the subcommand `CONFIG GET`.

* **Keys** are positions: the command's name is 0.
* **Route**: *keys*: to the node that owns all keys, refused when they live apart. *split*: cut by node, so many
  arguments per key. *all*: to every node. *any*: to any one node, chosen by chance, and to the next one when that cannot be
  reached. *scan*: one node after another. *named*: only to a
  node that the caller names. *stateful*: changes or concerns one connection, so only in a transaction or on a
  dedicated connection. *refused*: not at all.
* **Merge**: how the answers of several nodes become one, of the shape that a single server gives; see below.
* **Partial**, for commands to all nodes: whether those that can be reached answer when others cannot, because there is no
  connection to them or no answer came in time. *yes*: they do; `INFO`, `MEMORY STATS` and texts by node name the others.
  *on request*: only with `Builder::partial_reads(PartialReads::Allowed)`, since the answer cannot show that keys are missing
  from it. Otherwise every node must answer, or the command is an error that names the nodes. A node that answers with an
  error can be reached, so its error is the answer. When no node can be reached, every command is an error.
* **Missing keys**, for reads by key: what a server replies that has none of the keys, in the form of the connection's protocol.
  With `Builder::missing_nodes(ReadsAs::Miss)`, for caches, it stands for the answer of a node that cannot be reached, because
  there is no connection to it, the connection broke, or no answer came in time: `MGET` has nil in the places of its keys,
  `EXISTS` counts the others. Not for an error that a node replies with, `LOADING` among them, nor for a refused password: there
  the node was reached. Reads without an entry fail all the same, and so does every write, and whatever is sent in a
  transaction, under `WATCH`, over a dedicated connection or to a named node. `XREAD` with `BLOCK` fails too.
* **Replicas**, for reads by key: *yes* where `Builder::read_from` may send the command to a replica of its node. Not in a
  transaction, after `WATCH`, over a dedicated connection, nor in a pipeline that has another command for that node. `XREAD`
  with `BLOCK` goes to the primary.
* **Access**: what reads may be sent again when an answer is missing; what writes is never sent twice.

";

const PRINTED: &str = "
This file is printed from the table (`UPDATE_DOCS=1 cargo test --lib commands_md`); do not edit it.
";

const MERGES: &str = "
## How answers become one

A program that knows one server understands these answers, in RESP2 and in RESP3: a map is what the nodes give for a map.
`client.node(name)` asks one node alone.

| merge | the answer |
|---|---|
";

const INFO: &str = "
INFO of all nodes, field by field:

* Counters, sizes and limits are added: `connected_clients`, `used_memory`, `maxmemory`, `total_commands_processed`,
  `keyspace_hits`, `instantaneous_ops_per_sec`, `used_cpu_sys`, ...
* Sizes for people, percentages and ratios follow from the sums: `used_memory_human`, `mem_fragmentation_ratio`, ...
* Of what is the case somewhere, of durations and of other ratios the largest: `loading`, `rdb_bgsave_in_progress`,
  `latest_fork_usec`, ... Of `uptime_in_seconds` and `rdb_last_save_time` the smallest.
* `db0`, `cmdstat_*` and `errorstat_*` are added, means computed anew; of `latency_percentiles_usec_*` the largest.
  Replicas are numbered anew.
* Everything else is said once when the nodes agree, and by node when they do not: `redis_version:a=7.0.15,b=8.0.0`.
* Behind it a section `# Node NAME` for each node, with one field, `node_NAME:redis_version=..,role=..,used_memory=..`, as
  far as the sections asked for have these. Other characters of the name than letters, digits, `-`, `_` and `.` are `_`.
* Of a node that cannot be reached the section says `node_NAME:status=unreachable`, and a last section `# Unreachable` says how
  many they are: `unreachable_nodes:1`. It is missing when all nodes have answered.
";

const CLUSTER: &str = "\
Over a Redis Cluster these rows take the place of those above. The nodes are its primaries, and *split* cuts by slot: the
keys of one slot are one command. *any, by argument 1*: any node, and the same one for equal arguments, as long as it can
be reached. `docs/cluster.md` describes how commands differ there.

";

/// Returns the whole file.
fn document() -> String {
    let mut text = HEAD.to_owned();
    text.push_str(&proxy());
    text.push_str(PRINTED);
    text.push_str(MERGES);
    let rows = GROUPS.iter().flat_map(|(_, rows)| *rows);
    let mut merges: Vec<(String, &str)> = rows
        .filter_map(|row| merge(row.route))
        .map(|merge| (format!("{merge:?}"), merge.words()))
        .collect();
    merges.sort();
    merges.dedup();
    for (name, words) in merges {
        let _ = writeln!(text, "| {name} | {words} |");
    }
    text.push_str(INFO);
    let in_cluster = ("In a Redis Cluster", IN_CLUSTER);
    for (title, rows) in GROUPS.iter().chain([&in_cluster]) {
        let _ = write!(text, "\n## {title}\n\n");
        if *title == in_cluster.0 {
            text.push_str(CLUSTER);
        }
        let _ = write!(
            text,
            "| command | keys | route | merge | partial | missing keys | replicas | access | note |\n|---|---|---|---|---|---|---|---|---|\n"
        );
        for row in *rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name.replace('|', "\\|"),
                row.keys
                    .iter()
                    .copied()
                    .map(keys)
                    .collect::<Vec<_>>()
                    .join("; "),
                route(row.route),
                merge(row.route).map_or_else(String::new, |merge| format!("{merge:?}")),
                partial(row),
                row.missing
                    .map_or_else(String::new, |reply| reply.to_string()),
                if row.may_use_replica() { "yes" } else { "" },
                if row.is_read() { "read" } else { "write" },
                note(row),
            );
        }
    }
    text
}

/// Returns the section on the exceptions that a proxy makes, by the roles of the rows.
fn proxy() -> String {
    let transaction = names(|role| matches!(role, ProxyRole::Transaction(_)));
    let own = names(|role| matches!(role, ProxyRole::Connection(_)));
    let client = names(|role| role == ProxyRole::Client);
    let passed_on = names(|role| matches!(role, ProxyRole::Pause | ProxyRole::Unpause));
    let subscription = names(|role| matches!(role, ProxyRole::Subscription(_)));
    let cluster = names(|role| role == ProxyRole::ClusterOnly);
    let no_multi = names(|role| role == ProxyRole::NoMulti);
    format!(
        "A proxy (`proxy::Proxy`) does as the table says, with these exceptions.

* It answers {own} itself, and {client}.
* {passed_on} go to all nodes, and until the pause is over no client's request waits behind one that is held back.
* Its clients have transactions of their own: {transaction}. Inside MULTI it refuses {no_multi}, as a server does.
* Its clients have subscriptions of their own: {subscription}.
* It answers {cluster} as a server that is no part of a cluster or, with `ClusterMode::Emulated`, as the only node of one.
* What else is *named*, *stateful* or *refused*, it refuses.
"
    )
}

/// Returns the commands of the roles for which `is_meant` is true. If these are most subcommands of a
/// command, the others are listed instead.
fn names(is_meant: impl Fn(ProxyRole) -> bool) -> String {
    let rows = || GROUPS.iter().flat_map(|(_, rows)| *rows);
    let quoted = |name: &str| format!("`{}`", name.replace('|', " "));
    let mut names: Vec<String> = Vec::new();
    for row in rows().filter(|row| is_meant(row.proxy_role)) {
        let container = row.name.split_once('|').map(|(container, _)| container);
        let siblings = rows().filter(|sibling| {
            let name = sibling.name.split_once('|').map(|(name, _)| name);
            name.is_some() && name == container
        });
        let (meant, others): (Vec<_>, Vec<_>) =
            siblings.partition(|sibling| is_meant(sibling.proxy_role));
        let name = match container {
            Some(container) if meant.len() > others.len() => {
                let others: Vec<String> = others.iter().map(|other| quoted(&other.name)).collect();
                format!("all of {} but {}", quoted(container), in_words(&others))
            }
            _ => quoted(&row.name),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    in_words(&names)
}

/// Joins names: `a, b and c`.
fn in_words(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Returns the column of the key positions.
fn keys(keys: KeySpec) -> String {
    match keys {
        KeySpec::Range { first, last, .. } if i32::from(first) == i32::from(last) => {
            format!("{first}")
        }
        KeySpec::Range { first, last, step } => {
            let every = if step > 1 {
                format!(", every {step}")
            } else {
                String::new()
            };
            match last {
                -1 => format!("{first} to last{every}"),
                ..0 => format!("{first} to last but {}{every}", -1 - last),
                0.. => format!("{first} to {last}{every}"),
            }
        }
        KeySpec::Counted {
            count, first, step, ..
        } => {
            let every = if step > 1 {
                format!(", every {step}")
            } else {
                String::new()
            };
            format!("from {first}{every}, counted by {count}")
        }
        KeySpec::Streams => "after STREAMS, first half".into(),
        KeySpec::GeoStore { .. } => "after STORE, STOREDIST".into(),
        KeySpec::Sort { store: true } => "after STORE; patterns after BY, GET".into(),
        KeySpec::Sort { store: false } => "patterns after BY, GET".into(),
        KeySpec::Migrate => "3, or after KEYS".into(),
    }
}

/// Returns the column of the route.
fn route(route: Route) -> String {
    match route {
        Route::Keys => "keys".into(),
        Route::Split { step, tail: 0, .. } => format!("split by {step}"),
        Route::Split { step, tail, .. } => format!("split by {step}, last {tail} for all"),
        Route::All(_) => "all".into(),
        Route::Any => "any".into(),
        Route::AnyFor { at } => format!("any, by argument {at}"),
        Route::Slot { at } => format!("owner of the slot in argument {at}"),
        Route::Scan => "scan".into(),
        Route::NodeOnly => "named".into(),
        Route::Stateful => "stateful".into(),
        Route::Refused => "refused".into(),
    }
}

/// Returns the merge rule of a route that has one.
fn merge(route: Route) -> Option<Merge> {
    match route {
        Route::Split { merge, .. } | Route::All(merge) => Some(merge),
        _ => None,
    }
}

/// Returns the column of replies without all nodes.
fn partial(row: &CommandSpec) -> &'static str {
    match row.partial {
        Partial::Refused => "",
        Partial::OptIn => "on request",
        Partial::Allowed => "yes",
    }
}

/// Returns the column of notes: how the command waits, and the reason for the row.
fn note(row: &CommandSpec) -> String {
    let place = |at| match at {
        ArgAt::Index(index) => format!("in argument {index}"),
        ArgAt::Last => "in the last argument".into(),
        ArgAt::AfterWord(word) => format!("after {word}"),
    };
    let waits = match row.blocking {
        Blocking::No => String::new(),
        Blocking::OutOfBand => "stands behind no other command".into(),
        Blocking::Seconds(at) => format!("may wait, seconds {}", place(at)),
        Blocking::Millis(at) => format!("may wait, milliseconds {}", place(at)),
    };
    let both: Vec<&str> = [waits.as_str(), row.note]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    both.join("; ")
}

#[test]
fn commands_md_is_generated_from_the_command_table() {
    let text = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &text).expect("docs/commands.md can be written");
    }
    let file = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        file == text,
        "docs/commands.md is out of date: UPDATE_DOCS=1 cargo test --lib commands_md"
    );
}
