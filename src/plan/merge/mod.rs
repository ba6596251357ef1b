//! How do the replies of several nodes become one, of the kind that a single server gives?
//!
//! A command that goes to several nodes has a [`Merge`] rule in its row of the command table; here is what
//! the rule does. The result keeps the kind that the first node's reply had: what is a map in RESP3 is a flat
//! array in RESP2, and stays so.
//!
//! * `numbers`: sums and extremes. `lists`: arrays by key, one after another, without repetition. `texts`:
//!   strings one after another, by node, and values that differ in one line.
//! * `info`, `settings`, `log`, `latency`, `state`, `digest`: INFO; CONFIG GET; SLOWLOG GET and ACL LOG;
//!   LATENCY; ROLE and FUNCTION STATS; DEBUG DIGEST.
//! * `pairs`: names with values, a map in RESP3 and a flat array in RESP2.
//!
//! # The rules by example
//!
//! Replies of two nodes named `a` and `b`, and the one reply:
//!
//! ```text
//! rule           command            node a                 node b                 merged
//! AllSucceeded   MSET               OK                     OK                     OK
//! AnyNonNil      RANDOMKEY          nil                    k                      k
//! Concat         KEYS               [x, y]                 [z]                    [x, y, z]
//! Digest         DEBUG DIGEST       A xor D                B xor D                A xor B xor D
//! Figures        MEMORY STATS       {keys: 2, ratio: 1.5}  {keys: 3, ratio: 1.1}  {keys: 5, ratio: 1.5}
//! FirstNonNil    (added commands)   nil                    n                      n
//! Histograms     LATENCY HISTOGRAM  1us 2, 4us 5           2us 1                  1us 2, 2us 3, 4us 6
//! Info           INFO               used_memory:10         used_memory:20         used_memory:30
//! KeyOrder       MGET k0 k1 k2      [v0, v2] of k0, k2     [v1] of k1             [v0, v1, v2]
//! LatestEvents   LATENCY LATEST     [fork, 100, 5, 90]     [fork, 200, 7, 8]      [fork, 200, 7, 90]
//! Lines          CLIENT LIST        id=1                   id=7                   id=1 id=7
//! LogEntries     SLOWLOG GET 2      [at 300, at 100]       [at 200]               [at 300, at 200]
//! LogicalAnd     SCRIPT EXISTS      [1, 1]                 [1, 0]                 [1, 0]
//! Max            PUBSUB NUMPAT      2                      3                      3
//! Min            WAIT               2                      3                      2
//! OneSucceeded   SCRIPT KILL        OK                     -NOTBUSY               OK
//! PerNode        (added commands)   1                      2                      {a: 1, b: 2}
//! Role           ROLE               [master, 7, [x]]       [master, 9, [y]]       [master, 9, [x, y]]
//! RunningScript  FUNCTION STATS     {running: nil}         {running: f}           {running: f}
//! Samples        LATENCY HISTORY    [[10, 5], [30, 2]]     [[30, 9]]              [[10, 5], [30, 9]]
//! Settings       CONFIG GET         {port: 1, save: ""}    {port: 2, save: ""}    {port: a=1,b=2, save: ""}
//! Sum            DEL, DBSIZE        2                      3                      5
//! SumByName      PUBSUB NUMSUB      [c, 1, d, 0]           [c, 2, d, 1]           [c, 3, d, 1]
//! Texts          LATENCY DOCTOR     fine                   so so                  # Node a fine # Node b so so
//! Union          PUBSUB CHANNELS    [x, y]                 [y, z]                 [x, y, z]
//! ```
//!
//! Nodes are always taken in node order, so that the same replies give the same result. Replies that do not
//! fit together are an error that names the node; a value is never made up for them. Failures of nodes are
//! not handled here: by the time a rule is applied they are settled by the batch, but for [`Merge::Texts`],
//! which shows errors in place.

mod digest;
mod info;
mod latency;
mod lists;
mod log;
mod numbers;
mod pairs;
mod settings;
mod state;
mod texts;

use redis::Value;

use crate::command::Merge;
use crate::error::{Error, ErrorKind};

pub(super) use lists::by_key;

/// The reply of one node.
pub(super) struct Answer<'n> {
    /// Name of the node, for results by node and for errors.
    pub(super) node: &'n str,
    /// The reply, decoded.
    pub(super) value: Value,
}

/// The request, as far as a rule needs it.
#[derive(Clone, Copy)]
pub(super) struct Question<'q> {
    /// Arguments of the request, its name first: SLOWLOG GET has its count among them.
    pub(super) args: &'q [&'q [u8]],
    /// Any number; chooses where a rule leaves a choice.
    pub(super) entropy: u64,
    /// Names of the nodes that cannot be reached, and so have no reply. INFO and MEMORY STATS list them.
    pub(super) missing: &'q [&'q str],
}

/// Merges the replies of the nodes, given in node order. None of them is a server error, unless `rule` is
/// [`Merge::Texts`].
///
/// [`Merge::KeyOrder`] needs the keys that each element belongs to and is done by [`by_key`]; here, without
/// them, it is the same as [`Merge::Concat`].
///
/// # Errors
///
/// [`Redis`](ErrorKind::Redis) if a reply is of a kind that the rule cannot use.
pub(super) fn merge(
    rule: Merge,
    question: Question<'_>,
    answers: Vec<Answer<'_>>,
) -> Result<Value, Error> {
    match rule {
        Merge::AllSucceeded | Merge::OneSucceeded => Ok(first(answers)),
        Merge::AnyNonNil => Ok(lists::any_non_nil(answers, question.entropy)),
        Merge::Concat | Merge::KeyOrder => lists::concat(answers),
        Merge::Digest => digest::digest(answers),
        Merge::Figures => numbers::figures(answers, question.missing),
        Merge::FirstNonNil => Ok(lists::non_nil(answers).next().unwrap_or(Value::Nil)),
        Merge::Histograms => latency::histograms(answers),
        Merge::Info => info::info(answers, question.missing),
        Merge::LatestEvents => latency::latest(answers),
        Merge::Lines => texts::lines(answers),
        Merge::LogEntries => log::entries(answers, question.args),
        Merge::LogicalAnd => numbers::fold(answers, |a, b| i64::from(a != 0 && b != 0)),
        Merge::Max => numbers::fold(answers, i64::max),
        Merge::Min => numbers::fold(answers, i64::min),
        Merge::PerNode => Ok(Value::Map(
            answers
                .into_iter()
                .map(|answer| (texts::bulk(answer.node), answer.value))
                .collect(),
        )),
        Merge::Role => state::role(answers),
        Merge::RunningScript => state::running_script(answers),
        Merge::Samples => latency::samples(answers),
        Merge::Settings => settings::settings(answers),
        Merge::Sum => numbers::fold(answers, i64::saturating_add),
        Merge::SumByName => numbers::sum_by_name(answers),
        Merge::Texts => texts::by_node(answers),
        Merge::Union => lists::union(answers),
    }
}

/// Returns the first node's reply; nil if there is none.
fn first(answers: Vec<Answer<'_>>) -> Value {
    answers
        .into_iter()
        .next()
        .map_or(Value::Nil, |answer| answer.value)
}

/// Returns the value without the attributes of RESP3, which a server may put before any reply.
fn plain(value: Value) -> Value {
    match value {
        Value::Attribute { data, .. } => plain(*data),
        other => other,
    }
}

/// Returns the elements of an array or a set. Nil is empty: in RESP2 a missing array is a null.
fn elements(answer: Answer<'_>) -> Result<Vec<Value>, Error> {
    match plain(answer.value) {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(answer.node, kind_of(&other))),
    }
}

/// The error for a reply that does not fit those of the other nodes. `what` describes it, without its
/// content.
fn unexpected(node: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Redis,
        format!("node {node} replied with {what}, which does not fit the other nodes' replies; ask one with `client.node(name)`"),
    )
    .at_node(node)
}

/// Describes the kind of a value without its content, which may be confidential and of any size.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::VerbatimString { .. } => "a string",
        Value::Array(_) => "an array",
        Value::SimpleString(_) | Value::Okay => "a status",
        Value::Map(_) => "a map",
        Value::Set(_) => "a set",
        _ => "something else",
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{NOTHING, answers, text};
    use super::*;

    #[test]
    fn merge_per_node_keeps_replies_by_node_name() {
        let merged = merge(
            Merge::PerNode,
            NOTHING,
            answers([Value::Int(1), Value::Int(2)]),
        );
        let expected = vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))];
        assert_eq!(merged.unwrap(), Value::Map(expected));
    }
}
