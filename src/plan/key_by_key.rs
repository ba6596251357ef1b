//! A command that may be split, over the keys of one slot that has moved in part: it is sent key by key.
//!
//! While some of its keys are at the source of a slot's migration and others at the target, neither serves the command
//! (TRYAGAIN), for as long as the slot rests so. Each key alone is served by one of them:
//!
//! ```text
//! MGET {t}1 {t}2 {t}3     TRYAGAIN
//! MGET {t}1               1 value              at the source
//! MGET {t}2               ASK, then 1 value    at the target
//! MGET {t}3               1 value              at the source     joined: 3 values
//! ```
//!
//! A read goes key by key at once: over several slots it is not atomic either. A write, which is atomic for the keys of
//! one slot, waits first: most slots are on their way. It never does where split writes are refused.

use redis::Value;

use crate::command::{Access, Args, CommandSpec, Merge, PackedCommands, Route};
use crate::error::{Error, ErrorKind};
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::redirects::ClusterRouting;
use crate::plan::{Answers, ReplyBuffer};
use crate::resp::{write_arg, write_header};

/// Number of redirects and pauses after which a write goes key by key. The pauses take about a tenth of a second
/// together.
pub(in crate::plan) const WRITE_AFTER: u16 = 6;

/// A command that was sent key by key.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct KeyByKey {
    /// The request that it is the reply to, among those of an exchange.
    pub(in crate::plan) parent: usize,
    /// Its number within that request.
    pub(in crate::plan) number: usize,
    /// Number of its keys.
    pub(in crate::plan) keys: usize,
    merge: Merge,
    is_write: bool,
}

/// How a command is cut.
#[derive(Clone, Copy, Debug)]
struct CommandParts {
    head: usize,
    step: usize,
    tail: usize,
    merge: Merge,
}

impl ClusterRouting {
    /// True if a command with these arguments may be sent key by key.
    pub(in crate::plan) fn may_go_key_by_key(
        &self,
        args: &[&[u8]],
        is_read: bool,
        hops: u16,
    ) -> bool {
        let is_time = is_read || hops >= WRITE_AFTER && self.splits_writes();
        is_time
            && self
                .command(args)
                .is_some_and(|command| has_parts(command, args))
    }

    /// The requests for each key of request number `number`, for the same server. The slot of each has the number of its
    /// key.
    pub(in crate::plan) fn key_by_key(
        &self,
        request: &NodeRequest,
        number: usize,
        parent: usize,
    ) -> Option<(NodeRequest, KeyByKey)> {
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        for _ in 0..=number {
            commands.next(&mut args).ok()??;
        }
        cut(self.command(&args)?, &args, request, number, parent)
    }
}

/// True if a command with these arguments can be cut into several.
pub(in crate::plan) fn has_parts(command: &CommandSpec, args: &[&[u8]]) -> bool {
    CommandParts::of(command).is_some_and(|parts| parts.keys(args) > 1)
}

/// The requests for each key of request number `number`, which has these arguments. The slot of each has the number of its
/// key.
pub(in crate::plan) fn cut(
    command: &CommandSpec,
    args: &[&[u8]],
    request: &NodeRequest,
    number: usize,
    parent: usize,
) -> Option<(NodeRequest, KeyByKey)> {
    let parts = CommandParts::of(command)?;
    let mut each = request.part(&[]);
    let access = request.slots.get(number)?.access;
    let keys = parts.keys(args);
    for key in 0..keys {
        let slot = ReplySlot::whole(u32::try_from(key).ok()?, access);
        each.push(slot, |out| parts.write(args, key, out));
    }
    let merge = parts.merge;
    Some((
        each,
        KeyByKey {
            parent,
            number,
            keys,
            merge,
            is_write: access == Access::Write,
        },
    ))
}

impl CommandParts {
    fn of(command: &CommandSpec) -> Option<Self> {
        match command.route() {
            Route::Split { step, tail, merge } => Some(Self {
                head: command.first_key(),
                step: step.into(),
                tail: tail.into(),
                merge,
            }),
            _ => None,
        }
    }

    fn keys(self, args: &[&[u8]]) -> usize {
        args.len().saturating_sub(self.head + self.tail) / self.step.max(1)
    }

    /// Appends the command for one key.
    fn write(self, args: &[&[u8]], key: usize, out: &mut Vec<u8>) {
        let first = self.head + key * self.step;
        write_header(out, self.head + self.step + self.tail);
        let parts = [
            &args[..self.head],
            &args[first..first + self.step],
            &args[args.len() - self.tail..],
        ];
        for arg in parts.into_iter().flatten() {
            write_arg(out, arg);
        }
    }
}

impl KeyByKey {
    /// Puts the joined replies to the keys in the place of the refusal. `replies` are those of each key in turn, or the
    /// error of one that has none.
    pub(in crate::plan) fn join<R: ReplyBuffer>(
        &self,
        answers: &mut Answers<R>,
        replies: &[Result<(&R, usize), Error>],
    ) {
        let values = &mut answers.values;
        let is_done = |reply: &&Result<(&R, usize), Error>| match reply {
            Ok((values, number)) => values.error_code(*number).is_none(),
            Err(_) => false,
        };
        let done = replies.iter().filter(is_done).count();
        let all: Vec<(&R, usize)> = replies.iter().flatten().copied().collect();
        let is_unknown = |reply: &&Result<(&R, usize), Error>| {
            let error = reply.as_ref().err();
            error.is_some_and(|error| error.kind() == ErrorKind::Unknown)
        };
        let unknown = replies.iter().find(is_unknown);
        match unknown.or_else(|| replies.iter().find(|reply| !is_done(reply))) {
            None => values.replace_with_joined(self.number, &all, self.merge),
            // The error for one key says that nothing was done.
            Some(_) if done > 0 && self.is_write => {
                let text = format!(
                    "the command was sent key by key, as its keys are on two nodes, and was done for {done} of {} keys",
                    self.keys
                );
                values.replace_with_error(self.number, &Error::new(ErrorKind::Unknown, text));
            }
            Some(Ok(error)) => {
                values.replace_with_joined(self.number, &[*error], Merge::AllSucceeded);
            }
            Some(Err(error)) => values.replace_with_error(self.number, error),
        }
    }
}

/// The values of the keys as one reply. `None` if there is none of the kind that the rule joins.
pub(in crate::plan) fn join_values(values: &[&Value], merge: Merge) -> Option<Value> {
    match merge {
        Merge::KeyOrder => {
            let mut items = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::Array(of_one) => items.extend(of_one.iter().cloned()),
                    _ => return None,
                }
            }
            Some(Value::Array(items))
        }
        Merge::Sum => {
            let mut sum = 0_i64;
            for value in values {
                match value {
                    Value::Int(count) => sum = sum.checked_add(*count)?,
                    _ => return None,
                }
            }
            Some(Value::Int(sum))
        }
        _ => values.first().map(|&value| value.clone()),
    }
}
