//! The notation of the rows: requests, replies, breaks and results as text, there and back.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Value;

use crate::command::{Args, PackedCommands, write_command};
use crate::error::{Error, ErrorKind, server_error};
use crate::plan::{Cause, Failure, NodeRequest};
use crate::policy::ConnectError;

/// The kind of a read that was not answered in time.
const LATE: ErrorKind = ErrorKind::Timeout;

/// Words that stand for arguments too long for a row.
static ALIASES: LazyLock<[(&str, Vec<u8>); 7]> = LazyLock::new(|| {
    let library = |name: &str, body: &str| {
        let code = format!(
            "#!lua name={name}\nredis.register_function('{name}', function() return {body} end)"
        );
        code.into_bytes()
    };
    let large = |mut code: Vec<u8>| {
        code.resize(700 << 10, b' ');
        code
    };
    [
        ("SOURCE", b"return 1".to_vec()),
        ("SHA", b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db".to_vec()),
        // FCALL clock touches no key, FCALL peek touches b1.
        ("CLOCK", library("clock", "redis.call('TIME')")),
        ("PEEK", library("peek", "redis.call('GET', 'b1')")),
        ("BIG", vec![b'x'; 700 << 10]),
        ("LARGELIB", large(library("large", "redis.call('TIME')"))),
        ("HUGELIB", large(library("huge", "redis.call('TIME')"))),
    ]
});

/// Every failure that a row or the property can arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    Refused,
    Dropped(usize),
    Pool,
    Late(usize),
    /// LOADING in reply to the handshake.
    Loading,
}

impl Break {
    pub(super) fn failure(self) -> Failure {
        let (cause, sent) = match self {
            Self::Refused => (Cause::Connect("refused".into()), 0),
            Self::Dropped(sent) => (Cause::Dropped("reset".into()), sent),
            Self::Pool => (Cause::PoolTimeout("no connection became free".into()), 0),
            Self::Late(sent) => (Cause::Timeout("no answer".into()), sent),
            Self::Loading => (
                Cause::Connect(ConnectError::Refused("LOADING handshake".into())),
                0,
            ),
        };
        Failure { cause, sent }
    }

    /// Whether it lasts until the end of the exchange's time.
    pub(super) fn takes_all_time(self) -> bool {
        matches!(self, Self::Pool | Self::Late(_))
    }

    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let kind = words.next();
        let sent = words.next().map(|sent| sent.parse().expect("a number"));
        match (kind, sent) {
            (Some("refused"), None) => Self::Refused,
            (Some("pool"), None) => Self::Pool,
            (Some("loading"), None) => Self::Loading,
            (Some("dropped"), Some(sent)) => Self::Dropped(sent),
            (Some("late"), Some(sent)) => Self::Late(sent),
            _ => panic!("no break is written {text:?}"),
        }
    }
}

/// One attempt at one node as a row expects it, and what the node does then.
#[derive(Debug)]
pub(super) struct ExpectedAttempt<'t> {
    /// Wave, node, mark of a new connection, requests: compared as text.
    pub(super) attempt: &'t str,
    pub(super) replies: Vec<Value>,
    pub(super) breaks: Option<Break>,
    pub(super) takes: Duration,
}

impl<'t> ExpectedAttempt<'t> {
    /// `1 a* GET a1; GET a2 -> x; y !dropped 2 +400ms`
    pub(super) fn parse(line: &'t str) -> Self {
        let (attempt, outcome) = line.split_once("->").expect("an attempt has an outcome");
        let (outcome, takes) = match outcome.trim().rsplit_once('+') {
            Some((before, time)) if time.ends_with("ms") => {
                let millis = time.trim_end_matches("ms").parse().expect("milliseconds");
                (before.trim(), Duration::from_millis(millis))
            }
            _ => (outcome.trim(), Duration::ZERO),
        };
        let (replies, breaks) = match outcome.split_once('!') {
            Some((replies, kind)) => (replies.trim(), Some(Break::parse(kind.trim()))),
            None => (outcome, None),
        };
        let replies = replies.split("; ").filter(|reply| !reply.is_empty());
        Self {
            attempt: attempt.trim(),
            replies: replies.map(value).collect(),
            breaks,
            takes,
        }
    }
}

/// One argument: an alias, or the word itself.
fn arg(word: &str) -> Vec<u8> {
    let alias = ALIASES.iter().find(|(name, _)| *name == word);
    alias.map_or_else(|| word.as_bytes().to_vec(), |(_, bytes)| bytes.clone())
}

/// Commands separated by `; `, packed.
pub(super) fn pack(commands: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    for command in commands.split("; ").filter(|command| !command.is_empty()) {
        let args: Vec<Vec<u8>> = command.split(' ').map(arg).collect();
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        write_command(&mut packed, &args);
    }
    packed
}

/// What one node gets: requests of one chunk separated by `; `, chunks by ` / `.
pub(super) fn show_request(request: &NodeRequest) -> String {
    let chunks = (0..request.chunks()).filter_map(|number| request.chunk(number));
    let chunks: Vec<String> = chunks.map(|chunk| show_packed(chunk.bytes)).collect();
    chunks.join(" / ")
}

fn show_packed(packed: &[u8]) -> String {
    let mut commands = PackedCommands::new(packed);
    let mut args = Args::new();
    let mut shown = Vec::new();
    while let Some(_frame) = commands.next(&mut args).expect("readable requests") {
        let words: Vec<String> = args.iter().map(|arg| show_arg(arg)).collect();
        shown.push(words.join(" "));
    }
    shown.join("; ")
}

fn show_arg(arg: &[u8]) -> String {
    let alias = ALIASES.iter().find(|(_, bytes)| bytes == arg);
    alias.map_or_else(
        || String::from_utf8_lossy(arg).into_owned(),
        |(name, _)| (*name).to_owned(),
    )
}

/// A reply: `+OK`, `:1`, `nil`, `-ERR text`, `[x | y]`, or the bytes of a bulk string.
pub(super) fn value(text: &str) -> Value {
    let text = text.trim();
    if let Some(items) = text.strip_prefix('[') {
        let items = items.strip_suffix(']').expect("a closed list");
        let mut depth = 0;
        let parts = items.split(|letter| {
            depth += i32::from(letter == '[') - i32::from(letter == ']');
            depth == 0 && letter == '|'
        });
        let parts = parts.filter(|part| !part.trim().is_empty());
        return Value::Array(parts.map(value).collect());
    }
    match (text, text.split_at_checked(1)) {
        ("nil", _) => Value::Nil,
        ("+OK", _) => Value::Okay,
        (_, Some(("+", status))) => Value::SimpleString(status.to_owned()),
        (_, Some((":", number))) => Value::Int(number.parse().expect("a number")),
        (_, Some(("-", error))) => {
            let (code, text) = error.split_once(' ').expect("a code word and a text");
            Value::ServerError(server_error(code, text))
        }
        _ => Value::BulkString(arg(text)),
    }
}

/// A reply as [`value`] reads it; an error of this crate as `!kind node`.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Nil => "nil".into(),
        Value::Okay => "+OK".into(),
        Value::SimpleString(status) => format!("+{status}"),
        Value::Int(number) => format!(":{number}"),
        Value::BulkString(bytes) => show_arg(bytes),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(" | "))
        }
        Value::ServerError(error) => {
            let text = error.details().unwrap_or_default();
            match is_ours(error.code()) {
                true => format!("!{}{}", error.code().to_lowercase(), node_in(text)),
                false => format!("-{} {text}", error.code()),
            }
        }
        other => format!("{other:?}"),
    }
}

fn is_ours(code: &str) -> bool {
    const SERVERS: [&str; 12] = [
        "BUSY",
        "CLUSTERDOWN",
        "ERR",
        "EXECABORT",
        "LOADING",
        "MASTERDOWN",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "WRONGTYPE",
    ];
    !SERVERS.contains(&code)
}

/// ` a` when the text says `node a`.
fn node_in(text: &str) -> String {
    let node = text.split("node ").nth(1).unwrap_or_default();
    let name: String = node
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric())
        .collect();
    match name.is_empty() {
        true => name,
        false => format!(" {name}"),
    }
}

/// The error of a command: a node's own as it replied, with the node, and any other as [`show_error`] has it.
pub(super) fn show_refusal(error: &Error) -> String {
    match (error.server_reply(), error.node()) {
        (Some(reply), Some(node)) if error.parts().is_empty() => {
            format!("{} (node {node})", show(&Value::ServerError(reply)))
        }
        _ => show_error(error),
    }
}

/// An error: `!kind node`; a server's by its code word; of parts each node's status.
pub(super) fn show_error(error: &Error) -> String {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Redis => {
            let error = redis::RedisError::from(error.clone());
            format!("!redis {}", error.code().unwrap_or_default())
        }
        ErrorKind::Partial => {
            let parts = error.parts().iter();
            let parts: Vec<String> = parts
                .map(|part| format!(" {}:{}", part.node, part.status))
                .collect();
            format!("!partial{}", parts.concat())
        }
        kind @ (ErrorKind::NodeDown
        | ErrorKind::Timeout
        | ErrorKind::Unknown
        | ErrorKind::PoolTimeout) => {
            format!("!{}{}", word(kind), node_in(&text))
        }
        kind => format!("!{}", word(kind)),
    }
}

fn word(kind: ErrorKind) -> String {
    format!("{kind:?}").to_lowercase()
}

/// A result as it is compared: a read that is late is an error of one kind, wherever it is.
pub(super) fn expected_result(text: &str) -> String {
    text.replace("!late ", &format!("!{} ", word(LATE)))
        .replace("!down ", &format!("!{} ", word(ErrorKind::NodeDown)))
        .replace("!pool ", &format!("!{} ", word(ErrorKind::PoolTimeout)))
}

/// Cursors of scans as `#`: their numbers are tested where they are made.
pub(super) fn without_cursors(text: &str) -> String {
    let mut shown = String::new();
    for piece in text.split_inclusive(|letter: char| !letter.is_ascii_digit()) {
        let digits = piece.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        match digits.len() {
            ..4 => shown.push_str(piece),
            _ => {
                shown.push('#');
                shown.push_str(&piece[digits.len()..]);
            }
        }
    }
    shown
}
