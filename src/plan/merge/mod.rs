//! The answers of several nodes as one, of the shape that a single server gives.
//!
//! * `numbers`: sums, extremes, figures. `lists`: arrays, by key or one after another. `texts`: the same for texts.
//! * `info`, `settings`, `log`, `latency`, `state`, `digest`: INFO, CONFIG GET, the logs, LATENCY, ROLE and FUNCTION
//!   STATS, DEBUG DIGEST.
//! * `pairs`: maps, which are flat arrays in RESP2. What is made of them has the kind that the first node's had.

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

/// One node's answer.
pub(super) struct Answer<'n> {
    pub(super) node: &'n str,
    pub(super) value: Value,
}

/// What was asked.
#[derive(Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) args: &'q [&'q [u8]],
    /// Any number, where chance is to decide.
    pub(super) entropy: u64,
    /// The nodes that cannot be reached, and so have no answer.
    pub(super) missing: &'q [&'q str],
}

/// Makes one answer of the nodes' answers, in node order. None of them is a server error, unless `rule` is
/// [`Merge::Texts`].
///
/// [`Merge::KeyOrder`] needs to know which key each element belongs to, so it has [`by_key`].
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

fn first(answers: Vec<Answer<'_>>) -> Value {
    answers
        .into_iter()
        .next()
        .map_or(Value::Nil, |answer| answer.value)
}

/// The value without RESP3's attributes.
fn plain(value: Value) -> Value {
    match value {
        Value::Attribute { data, .. } => plain(*data),
        other => other,
    }
}

/// The elements of an array or a set.
fn elements(answer: Answer<'_>) -> Result<Vec<Value>, Error> {
    match plain(answer.value) {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(answer.node, kind_of(&other))),
    }
}

fn unexpected(node: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Redis,
        format!("node {node} replied with {what}, which does not fit the other nodes' replies; ask one with `client.node(name)`"),
    )
    .at_node(node)
}

/// What a value is, without saying its content.
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
