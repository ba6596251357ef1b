//! Is what a replica of a cluster says about a missing key believed?
//!
//! While a slot moves, its keys leave the primary one by one. The replicas follow, but they do not know that the slot is
//! moving: up to Redis 8 they reply as if a key that has left did not exist. So a reply that shows a missing key is not
//! believed, and the primary is asked. It has the key, or knows who has it (ASK):
//!
//! ```text
//! GET k          replica: nil         primary: -ASK 7 b     b, behind ASKING: v
//! MGET k l       replica: nil, w      primary: ...
//! EXISTS k l     replica: 1           primary: ...
//! ```
//!
//! Reads whose reply does not show whether a key is missing are never sent to replicas of a cluster: scripts, SUNION and
//! others with several keys, XINFO.

use redis::Value;

use crate::command::{Args, CommandSpec, Lookup, Merge, MissReply, PackedCommands, Route};
use crate::plan::ReplyBuffer;
use crate::plan::batch::NodeRequest;
use crate::plan::redirects::ClusterRouting;

/// True if the reply to a command shows whether one of its keys is missing.
#[inline]
pub(in crate::plan) fn shows_missing_keys(command: &CommandSpec) -> bool {
    command.missing_keys().is_some()
        && (command.sole_key().is_some() || matches!(command.route(), Route::Split { .. }))
}

impl ClusterRouting {
    /// True if one of these replies may be that to a missing key.
    pub(in crate::plan) fn shows_missing_key<R: ReplyBuffer>(
        &self,
        request: &NodeRequest,
        replies: &R,
    ) -> bool {
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        (0..replies.count()).any(|number| {
            let Ok(Some(_)) = commands.next(&mut args) else {
                return false;
            };
            let reply = replies.decoded(number);
            match (self.commands().lookup(&args), reply) {
                (Lookup::Found(command), Some(reply)) => is_miss(command, &args, &reply),
                // Too large to be kept, so it is there.
                _ => false,
            }
        })
    }
}

/// True if a reply to a command may be that to a missing key.
fn is_miss(command: &CommandSpec, args: &[&[u8]], reply: &Value) -> bool {
    let Some(missing) = command.missing_keys() else {
        return false;
    };
    match (command.route(), missing, reply) {
        // One element for each key.
        (Route::Split { .. }, MissReply::Each { reply: missing, .. }, Value::Array(replies)) => {
            replies.iter().any(|reply| missing.is_reply(args, reply))
        }
        // The number of keys that are there.
        (
            Route::Split {
                merge: Merge::Sum,
                step,
                tail,
            },
            MissReply::Int(0),
            Value::Int(found),
        ) => {
            let fixed = command.first_key() + usize::from(tail);
            let keys = args.len().saturating_sub(fixed) / usize::from(step.max(1));
            usize::try_from(*found).is_ok_and(|found| found < keys)
        }
        _ => missing.is_reply(args, reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandTable;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn is_missed(request: &str, reply: &Value) -> bool {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        is_miss(CommandTable::built_in().find(&args).unwrap(), &args, reply)
    }

    #[test]
    fn reply_that_shows_a_missing_key_is_recognized() {
        let array = |values: &[Value]| Value::Array(values.to_vec());
        for (request, reply) in [
            ("GET k", Value::Nil),
            ("MGET k l", array(&[bulk("v"), Value::Nil])),
            ("EXISTS k l", Value::Int(1)),
            ("EXISTS k", Value::Int(0)),
            ("TTL k", Value::Int(-2)),
            ("TYPE k", Value::SimpleString("none".into())),
            ("HMGET k f g", array(&[Value::Nil, Value::Nil])),
            ("HGETALL k", Value::Map(Vec::new())),
            ("HGETALL k", array(&[])),
            ("SMEMBERS k", Value::Set(Vec::new())),
            ("LRANGE k 0 -1", array(&[])),
            ("SISMEMBER k m", Value::Int(0)),
            ("STRLEN k", Value::Int(0)),
            ("GETRANGE k 0 1", bulk("")),
            ("SRANDMEMBER k 2", array(&[])),
            ("SRANDMEMBER k", Value::Nil),
        ] {
            assert!(is_missed(request, &reply), "{request}: {reply:?}");
        }
    }

    #[test]
    fn reply_of_a_key_that_is_there_is_believed() {
        let array = |values: &[Value]| Value::Array(values.to_vec());
        for (request, reply) in [
            ("GET k", bulk("")),
            ("GET k", bulk("v")),
            ("MGET k l", array(&[bulk("v"), bulk("w")])),
            ("EXISTS k l", Value::Int(2)),
            // Twice the same key counts twice.
            ("EXISTS k k", Value::Int(2)),
            ("TTL k", Value::Int(-1)),
            ("TYPE k", Value::SimpleString("string".into())),
            ("HMGET k f g", array(&[Value::Nil, bulk("v")])),
            ("HGETALL k", Value::Map(vec![(bulk("f"), bulk("v"))])),
            ("LRANGE k 0 -1", array(&[bulk("v")])),
            ("STRLEN k", Value::Int(1)),
        ] {
            assert!(!is_missed(request, &reply), "{request}: {reply:?}");
        }
    }

    #[test]
    fn only_reads_whose_replies_show_missing_keys_may_use_replicas_of_a_cluster() {
        let may = |request: &str| {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            shows_missing_keys(CommandTable::built_in().find(&args).unwrap())
        };
        for request in ["GET k", "MGET k l", "EXISTS k l", "HGETALL k", "TTL k"] {
            assert!(may(request), "{request}");
        }
        for request in [
            "SUNION k l",
            "LCS k l",
            "EVAL_RO x 1 k",
            "FCALL_RO f 1 k",
            "SORT_RO k",
            "XREAD STREAMS s 0",
            "XINFO STREAM s",
        ] {
            assert!(!may(request), "{request}");
        }
    }
}
