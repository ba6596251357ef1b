//! The commands of the node: one function each, one file per type of value.
//!
//! A function gets a [`Call`] and returns an [`Answer`]. Errors have the texts of Redis 7.0, with which
//! `tests/testing_nodes.rs` compares them.

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

/// The reply of a command, or its error.
pub(super) type Answer = Result<Reply, Failure>;

/// One command of the node.
#[derive(Debug)]
pub(super) struct Command {
    /// In upper case.
    pub(super) name: &'static str,
    /// As Redis counts it: the name included, negative for "at least".
    arity: i32,
    /// Runs it. The number of arguments has been checked.
    pub(super) run: fn(&mut Call<'_>) -> Answer,
}

impl Command {
    /// True if it is run at once inside MULTI, and not queued.
    pub(super) fn is_transaction(&self) -> bool {
        matches!(
            self.name,
            "DISCARD" | "EXEC" | "MULTI" | "QUIT" | "RESET" | "WATCH"
        )
    }

    /// True if a RESP2 connection with subscriptions may send it.
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
    /// The name and the arguments, at least as many as the arity requires.
    pub(super) args: &'a [Vec<u8>],
}

impl<'a> Call<'a> {
    /// Returns the name in lower case, as errors quote it.
    fn name(&self) -> String {
        lower(&self.args[0])
    }

    /// Returns the first argument.
    fn key(&self) -> &'a [u8] {
        &self.args[1]
    }

    /// Returns the arguments from this position on; none if there are fewer.
    fn rest(&self, from: usize) -> &'a [Vec<u8>] {
        self.args.get(from..).unwrap_or_default()
    }

    /// The error for a wrong number of arguments.
    fn wrong_arity(&self) -> Failure {
        wrong_arity(&self.name())
    }

    /// The error for an expiry out of range.
    fn invalid_expire(&self) -> Failure {
        Failure::new(format!(
            "ERR invalid expire time in '{}' command",
            self.name()
        ))
    }
}

/// The text of an error, its code word included.
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

    /// An error whose text does not depend on the request.
    const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// An error whose text quotes the request.
    pub(super) fn new(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    /// Returns the text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Returns the error as a reply.
    pub(super) fn into_reply(self) -> Reply {
        Reply::Error(self.0.into_owned())
    }
}

impl From<&'static str> for Failure {
    fn from(text: &'static str) -> Self {
        Self::fixed(text)
    }
}

/// The error for a wrong number of arguments of this command.
fn wrong_arity(name: &str) -> Failure {
    Failure::new(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

/// Returns a word in lower case.
fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

/// Returns a word in upper case, in which options are compared.
fn upper(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_uppercase()
}

/// Parses an integer as Redis does: in its shortest form only.
fn integer(bytes: &[u8]) -> Result<i64, Failure> {
    exact(bytes).ok_or(Failure::NOT_INTEGER)
}

/// Parses a number that is printed as it was written: no plus sign, blanks or leading zeros.
fn exact<N: FromStr + ToString>(bytes: &[u8]) -> Option<N> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Parses a float. Infinity is one, NaN is not.
fn float(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.parse().ok().filter(|number: &f64| !number.is_nan())
}

/// Prints a float as INCRBYFLOAT does.
fn float_text(number: f64) -> Vec<u8> {
    // Negative zero plus zero is zero, without a sign.
    (number + 0.0).to_string().into_bytes()
}

/// Returns the part of `0..length` between two ends, which may count from the back; `None` if it is empty.
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
