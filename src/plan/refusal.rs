//! What is said when a request is refused before anything is sent.

use std::sync::Arc;

use crate::command::{CommandSpec, KeyError, KeySpec};
use crate::error::{Error, ErrorKind, KeyText};

/// The node of a handle is not among the nodes any more.
pub(super) fn node_left(name: &str) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "node {name:?} is not in the topology any more; ask the client for a node that is, with `client.nodes()`"
        ),
    )
}

/// The text a server has for it, so that programs that know it find it.
pub(super) fn wrong_arity(command: &CommandSpec) -> Error {
    server_style(
        command,
        &format!(
            "wrong number of arguments for '{}' command",
            command.name().to_ascii_lowercase()
        ),
    )
}

/// An error in a server's words, found before sending.
pub(super) fn server_style(command: &CommandSpec, text: &str) -> Error {
    let error = crate::error::server_error("ERR", text);
    Error::new(
        ErrorKind::Redis,
        format!("ERR: {text} ({})", command.name()),
    )
    .caused_by(Arc::new(error.into()))
}

/// Keys that cannot be found, in a server's words.
pub(super) fn malformed(command: &CommandSpec, error: KeyError, args: &[&[u8]]) -> Error {
    match error {
        KeyError::Arity => wrong_arity(command),
        KeyError::Count => server_style(command, &wrong_count(command, args)),
        KeyError::Syntax if command.key_specs().contains(&KeySpec::Streams) => {
            server_style(command, unbalanced(args))
        }
        other => server_style(command, &other.to_string()),
    }
}

/// Of a number of keys that is none, too small, or larger than there are arguments.
fn wrong_count(command: &CommandSpec, args: &[&[u8]]) -> String {
    let at = command.key_specs().iter().find_map(|keys| match keys {
        KeySpec::Counted { count, .. } => Some(usize::from(*count)),
        _ => None,
    });
    let number = at
        .and_then(|at| std::str::from_utf8(args.get(at)?).ok())
        .and_then(|text| text.parse::<i64>().ok());
    let name = command.name();
    match (name, number) {
        ("SINTERCARD", Some(1..)) => "Number of keys can't be greater than number of args".into(),
        ("SINTERCARD", _) => "numkeys should be greater than 0".into(),
        (_, Some(1..)) => "syntax error".into(),
        _ if name.ends_with("MPOP") => "numkeys should be greater than 0".into(),
        (_, Some(_)) => format!(
            "at least 1 input key is needed for '{}' command",
            name.to_ascii_lowercase()
        ),
        (_, None) => "value is not an integer or out of range".into(),
    }
}

/// Of XREAD and XREADGROUP: there is something behind STREAMS, but not as many ids as keys.
fn unbalanced(args: &[&[u8]]) -> &'static str {
    let streams = |arg: &&[u8]| arg.eq_ignore_ascii_case(b"STREAMS");
    match args.iter().position(streams) {
        Some(at) if (args.len() - at - 1) % 2 == 1 => {
            "Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
        }
        _ => "syntax error",
    }
}

/// The command's name as one types it: `CONFIG GET`, not `CONFIG|GET`.
pub(super) fn spoken_name(command: &CommandSpec) -> String {
    command.name().replace('|', " ")
}

pub(super) fn empty_command() -> Error {
    Error::new(ErrorKind::Unroutable, "the command is empty")
}

pub(super) fn unknown(args: &[&[u8]], words: usize) -> Error {
    let name: Vec<String> = args
        .iter()
        .take(words)
        .map(|word| KeyText(word).to_string())
        .collect();
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "unknown command {}: where its keys are is not known, so it is sent nowhere; name a node with \
             `client.node(name)`, or declare it to the builder with `CommandSpec::declare`",
            name.join(" ")
        ),
    )
}

pub(super) fn no_keys(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "this {} names no key, so nothing says which node is meant; give it a key, or name a node with \
             `client.node(name)`",
            spoken_name(command)
        ),
    )
}

pub(super) fn needs_a_node(command: &CommandSpec) -> Error {
    let why = match command.note() {
        "" => String::new(),
        note => format!(" ({note})"),
    };
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "{} is about one server; name it with `client.node(name)`{why}",
            spoken_name(command)
        ),
    )
}

pub(super) fn refused(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Stateful,
        format!(
            "{} takes a connection over for good, and this client has none to give away; open one with redis-rs",
            spoken_name(command)
        ),
    )
}

pub(super) fn stateful(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Stateful,
        format!(
            "{} changes the state of a connection, and this one is shared; use `client.transaction(keys, ..)` for \
             WATCH and MULTI, `client.dedicated(keys)` for a connection of your own",
            spoken_name(command)
        ),
    )
}
