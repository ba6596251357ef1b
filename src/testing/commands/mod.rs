//! What the node can do: one function per command, one file per type of value.

mod counters;
mod expiry;
mod hashes;
mod keys;
mod lists;
mod pubsub;
mod server;
mod sets;
mod strings;
mod table;
mod transactions;

use std::borrow::Cow;
use std::str::FromStr;

use super::database::Database;
use super::protocol::Reply;
use super::session::Session;

pub(super) use table::find;

/// A reply, or the text of an error.
pub(super) type Answer = Result<Reply, Failure>;

/// One command the node knows.
#[derive(Debug)]
pub(super) struct Command {
    /// In upper case.
    pub(super) name: &'static str,
    /// As in Redis: how many arguments with the name, negative for "at least".
    arity: i32,
    pub(super) run: fn(&mut Call<'_>) -> Answer,
}

impl Command {
    /// Whether it is run at once in a transaction, not queued.
    pub(super) fn is_transaction(&self) -> bool {
        matches!(
            self.name,
            "DISCARD" | "EXEC" | "MULTI" | "QUIT" | "RESET" | "WATCH"
        )
    }

    /// Whether a RESP2 connection that subscribed may still send it.
    pub(super) fn is_subscriber(&self) -> bool {
        matches!(
            self.name,
            "PING" | "PSUBSCRIBE" | "PUNSUBSCRIBE" | "QUIT" | "RESET" | "SUBSCRIBE" | "UNSUBSCRIBE"
        )
    }
}

/// One command that is being run.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) database: &'a mut Database,
    pub(super) session: &'a mut Session,
    /// The name and the arguments; at least as many as the arity says.
    pub(super) args: &'a [Vec<u8>],
}

impl<'a> Call<'a> {
    /// The name in lower case, as errors quote it.
    fn name(&self) -> String {
        lower(&self.args[0])
    }

    fn key(&self) -> &'a [u8] {
        &self.args[1]
    }

    /// The arguments from a position on.
    fn rest(&self, from: usize) -> &'a [Vec<u8>] {
        self.args.get(from..).unwrap_or_default()
    }

    fn wrong_arity(&self) -> Failure {
        wrong_arity(&self.name())
    }

    fn invalid_expire(&self) -> Failure {
        Failure::new(format!(
            "ERR invalid expire time in '{}' command",
            self.name()
        ))
    }
}

/// The text of an error, with its code word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure(Cow<'static, str>);

impl Failure {
    pub(super) const NOT_FLOAT: Self = Self::fixed("ERR value is not a valid float");
    pub(super) const NOT_INTEGER: Self = Self::fixed("ERR value is not an integer or out of range");
    pub(super) const NO_SUCH_KEY: Self = Self::fixed("ERR no such key");
    pub(super) const NOT_POSITIVE: Self =
        Self::fixed("ERR value is out of range, must be positive");
    pub(super) const SYNTAX: Self = Self::fixed("ERR syntax error");
    pub(super) const TOO_LONG: Self =
        Self::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    pub(super) const WRONG_TYPE: Self =
        Self::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");

    const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    pub(super) fn new(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn into_reply(self) -> Reply {
        Reply::Error(self.0.into_owned())
    }
}

impl From<&'static str> for Failure {
    fn from(text: &'static str) -> Self {
        Self::fixed(text)
    }
}

fn wrong_arity(name: &str) -> Failure {
    Failure::new(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

fn upper(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_uppercase()
}

/// A number as Redis reads it: nothing but its shortest form.
fn integer(bytes: &[u8]) -> Result<i64, Failure> {
    exact(bytes).ok_or(Failure::NOT_INTEGER)
}

fn exact<N: FromStr + ToString>(bytes: &[u8]) -> Option<N> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn float(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.parse().ok().filter(|number: &f64| !number.is_nan())
}

/// A number as INCRBYFLOAT writes it.
fn float_text(number: f64) -> Vec<u8> {
    // Adding zero makes a plain zero of a negative one.
    (number + 0.0).to_string().into_bytes()
}

/// The part of `0..length` that two ends mean, which may count from the back; `None` when it is empty.
fn slice(start: i64, end: i64, length: usize) -> Option<std::ops::RangeInclusive<usize>> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let from_front = |end: i64| {
        if end < 0 {
            end.saturating_add(length)
        } else {
            end
        }
    };
    let start = from_front(start).max(0);
    let end = from_front(end).min(length - 1);
    if start > end {
        return None;
    }
    Some(usize::try_from(start).ok()?..=usize::try_from(end).ok()?)
}
