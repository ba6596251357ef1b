//! Is a request sent again after an attempt, and after which pause?
//!
//! [`Retries`] counts the attempts of the requests to one node and applies the [`RetryPolicy`]. Two kinds of
//! outcome may be followed by another attempt:
//!
//! * A [`Failure`](crate::plan::Failure): replies are missing. What has no reply is resent if each of it was
//!   not sent or is a read.
//! * A temporary refusal: an error reply such as LOADING, with which the server refuses a command before any of
//!   it has run. It is repeated together with all that follow it, so that their order stays, if each of those
//!   was refused likewise or is a read.
//!
//! ```text
//! request   SET a 1    SET b 1     GET b    SET c 1
//! reply     +OK        -LOADING    nil      -LOADING      resent: SET b 1, GET b, SET c 1
//! reply     +OK        -LOADING    nil      +OK           nothing: SET c 1 would run twice
//! ```

use std::time::Duration;

use redis::Value;

use crate::command::{Access, Args, CommandTable, Lookup, PackedCommands, Scripting};
use crate::error::is_temporary_code;
use crate::plan::batch::NodeRequest;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, ReplyBuffer};
use crate::policy::{ConnectError, RetryPolicy};

/// The attempts of one node's requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries {
    policy: RetryPolicy,
    /// Number of attempts that have failed.
    failed: u16,
    /// Number of pauses so far, with that before the next attempt.
    pauses: u16,
}

/// Another attempt that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextAttempt {
    /// Number of the first request that is sent again.
    pub(crate) first: usize,
    /// True if the connection of the previous attempt broke: the other idle connections to the node are
    /// probably dead too.
    pub(crate) needs_new_connection: bool,
    /// True if there is a pause before it: see [`Retries::delay`].
    pub(crate) is_delayed: bool,
}

impl Retries {
    /// No attempt has been made.
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failed: 0,
            pauses: 0,
        }
    }

    /// Time to wait before this next attempt, if `left` is the time that the request has left. `entropy` is a
    /// random number, for the jitter. `None` when the attempt would come too late.
    pub(crate) fn delay(
        &self,
        next: NextAttempt,
        left: Option<Duration>,
        entropy: u64,
    ) -> Option<Duration> {
        match next.is_delayed {
            true => self.pause(left, entropy),
            false => Some(Duration::ZERO),
        }
    }

    /// The pause before the next attempt, like [`delay`](Self::delay) for one that is delayed.
    pub(crate) fn pause(&self, left: Option<Duration>, entropy: u64) -> Option<Duration> {
        // The upper 53 bits, as many as a number in 0..1 can have.
        let jitter = (entropy >> 11) as f64 / (1_u64 << 53) as f64;
        let pause = self.policy.pause(self.pauses.into(), jitter);
        left.is_none_or(|left| pause < left).then_some(pause)
    }

    /// The attempt to make after one of a single request that concerns no script, which had this result.
    /// `None` when the result is final. For callers without an [`Exchange`](crate::plan::Exchange).
    pub(crate) fn after_call(
        &mut self,
        result: &Result<Value, Failure>,
        access: Access,
    ) -> Option<NextAttempt> {
        match result {
            Ok(Value::ServerError(error)) if is_temporary_code(error.code().as_bytes()) => {
                self.count(self.policy.waits(), 0, None)
            }
            Ok(_) => None,
            Err(failure) => {
                let may_resend = failure.may_send(0, access);
                self.count(may_resend, 0, Some(failure))
            }
        }
    }

    /// The attempt to make after one at taking a connection failed. `None` when the failure is final.
    pub(crate) fn after_connecting(&mut self, cause: &Cause) -> Option<NextAttempt> {
        self.count(true, 0, Some(&Failure::not_sent(cause.clone())))
    }

    /// The attempt to make after one of `request` that had these replies, together with those of the attempts
    /// before. `None` when they are final.
    pub(crate) fn after<R: ReplyBuffer>(
        &mut self,
        request: &NodeRequest,
        answers: &Answers<R>,
    ) -> Option<NextAttempt> {
        // The meaning of a pinned request depends on the state of its connection (MULTI, WATCH, SELECT),
        // which is gone after a failure, and which a repeated command might change twice.
        if request.is_pinned {
            return None;
        }
        let refused = match self.policy.waits() {
            true => first_refused(request, &answers.values),
            false => None,
        };
        let Some(failure) = &answers.failure else {
            return self.count(true, refused?, None);
        };
        let answered = answers.values.count();
        // Resending only the rest of a transaction would run its commands one by one, without MULTI.
        let is_cut = request.ending == ExpectedEnd::Exec && answered > 0;
        let may_resend = !is_cut && failure.may_resend_rest(answered, &request.slots);
        self.count(may_resend, refused.unwrap_or(answered), Some(failure))
    }

    /// Counts an attempt that failed, and returns the next if the policy has one left.
    fn count(
        &mut self,
        may_resend: bool,
        first: usize,
        failure: Option<&Failure>,
    ) -> Option<NextAttempt> {
        self.failed = self.failed.saturating_add(1);
        if !may_resend || u32::from(self.failed) >= self.policy.attempts_max() {
            return None;
        }
        let (passes, dropped) = match failure.map(|failure| &failure.cause) {
            None => (true, false),
            // Known before anything was sent, so the next connection leads to the new primary.
            Some(Cause::Dropped(_) | Cause::Connect(ConnectError::PrimaryChanged)) => (true, true),
            Some(Cause::Connect(error)) => (error.may_pass(), false),
            // The deadline has passed, or the pool is exhausted, which another attempt would make worse.
            Some(Cause::PoolTimeout(_) | Cause::Timeout(_) | Cause::NoTime) => (false, false),
        };
        if !passes {
            return None;
        }
        // A connection that was closed while it was idle is replaced at once; a second one that breaks is a
        // server in trouble.
        let at_once = dropped && self.failed == 1;
        if !at_once && !self.policy.waits() {
            return None;
        }
        self.pauses += u16::from(!at_once);
        Some(NextAttempt {
            first,
            needs_new_connection: dropped,
            is_delayed: !at_once,
        })
    }
}

/// Number of the first request that the server refused for the time being, if it and all behind it may be
/// repeated.
fn first_refused<R: ReplyBuffer>(request: &NodeRequest, replies: &R) -> Option<usize> {
    let count = replies.count().min(request.slots.len());
    if request.ending == ExpectedEnd::Exec {
        return is_refused_transaction(replies, count).then_some(0);
    }
    let is_refused = |number: usize| replies.error_code(number).is_some_and(is_temporary_code);
    let first = (0..count).find(|&number| is_refused(number))?;
    let may_repeat = |number: usize| {
        let is_read = request.slots[number].access == Access::Read;
        is_read || is_refused(number) && !is_script(request, number)
    };
    // WAIT must not be repeated without the barrier before it, which shares its slot and was not refused.
    let is_split_slot = first > 0 && request.slots[first].shares_part(&request.slots[first - 1]);
    (!is_split_slot && (first..count).all(may_repeat)).then_some(first)
}

/// True if the server has discarded a transaction (EXECABORT) because it refused each command with an error
/// that passes.
///
/// An error reply to MULTI itself is no refusal: the commands may have run one by one.
fn is_refused_transaction<R: ReplyBuffer>(replies: &R, count: usize) -> bool {
    let Some(exec) = count.checked_sub(1) else {
        return false;
    };
    let mut refusals = (1..exec).filter_map(|number| replies.error_code(number));
    let first = refusals.next();
    replies.error_code(0).is_none()
        && replies.error_code(exec) == Some(b"EXECABORT")
        && first.is_some_and(is_temporary_code)
        && refusals.all(is_temporary_code)
}

/// True if request number `number` runs or loads a script or a function. The error code of its reply may be one
/// that the script has chosen, after it has written.
///
/// Parsed again, as this is rare: only after a refusal.
fn is_script(request: &NodeRequest, number: usize) -> bool {
    let mut commands = PackedCommands::new(&request.packed);
    let mut args = Args::new();
    for _ in 0..=number {
        if !matches!(commands.next(&mut args), Ok(Some(_))) {
            return true;
        }
    }
    match CommandTable::built_in().lookup(&args) {
        Lookup::Found(command) => command.scripting() == Scripting::Yes,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PoolUse;

    fn policies() -> [RetryPolicy; 3] {
        [
            RetryPolicy::OFF,
            RetryPolicy::READS,
            RetryPolicy::attempts(3),
        ]
    }

    /// How many attempts a request gets that always has this result, and how many of them are delayed.
    fn attempts(
        policy: RetryPolicy,
        result: &Result<Value, Failure>,
        access: Access,
    ) -> (usize, usize) {
        let mut retries = Retries::new(policy);
        let next: Vec<NextAttempt> =
            std::iter::from_fn(|| retries.after_call(result, access)).collect();
        let delayed = next.iter().filter(|next| next.is_delayed).count();
        (1 + next.len(), delayed)
    }

    #[test]
    fn retry_policy_decides_how_often_each_outcome_is_tried_again() {
        use Access::{Read, Write};
        let failed = |cause: &Cause, sent| {
            Err(Failure {
                cause: cause.clone(),
                sent,
            })
        };
        let refused = |code| Ok(Value::ServerError(crate::error::server_error(code, "no")));
        let dropped = Cause::Dropped("reset".into());
        let down = Cause::Connect("refused".into());
        let auth = Cause::Connect(crate::policy::ConnectError::Auth("no".into()));
        let pool = Cause::pool_exhausted("h:1", PoolUse::Shared);
        let moved = Cause::Connect(ConnectError::PrimaryChanged);
        // Number of attempts and of pauses, for each policy.
        let rows = [
            (failed(&dropped, 1), Read, [(1, 0), (2, 0), (3, 1)]),
            (failed(&dropped, 0), Write, [(1, 0), (2, 0), (3, 1)]),
            (failed(&dropped, 1), Write, [(1, 0); 3]),
            (failed(&moved, 0), Write, [(1, 0), (2, 0), (3, 1)]),
            (failed(&down, 0), Read, [(1, 0), (1, 0), (3, 2)]),
            (failed(&down, 0), Write, [(1, 0), (1, 0), (3, 2)]),
            (failed(&auth, 0), Read, [(1, 0); 3]),
            (failed(&Cause::failed_before(), 0), Read, [(1, 0); 3]),
            (failed(&Cause::no_reply(), 1), Read, [(1, 0); 3]),
            (failed(&Cause::no_reply(), 0), Write, [(1, 0); 3]),
            (failed(&pool, 0), Read, [(1, 0); 3]),
            (refused("LOADING"), Write, [(1, 0), (1, 0), (3, 2)]),
            (refused("READONLY"), Write, [(1, 0), (1, 0), (3, 2)]),
            (refused("OOM"), Write, [(1, 0); 3]),
            (refused("MOVED"), Read, [(1, 0); 3]),
            (Ok(Value::Nil), Read, [(1, 0); 3]),
        ];
        for (result, access, expected) in rows {
            let told = policies().map(|policy| attempts(policy, &result, access));
            assert_eq!(told, expected, "{result:?} {access:?}");
        }
    }

    #[test]
    fn retry_that_would_come_after_the_deadline_is_not_made() {
        let policy = RetryPolicy::attempts(2)
            .with_backoff(Duration::from_millis(100), Duration::from_millis(100));
        let down = Err(Failure::not_sent(Cause::Connect("refused".into())));
        let mut retries = Retries::new(policy);
        let next = retries.after_call(&down, Access::Read).unwrap();
        let delay = |left, entropy| retries.delay(next, left, entropy);
        let millis = Duration::from_millis;
        assert_eq!(delay(Some(millis(100)), 0), Some(millis(50)));
        assert_eq!(delay(Some(millis(50)), 0), None);
        assert!(delay(None, u64::MAX).unwrap() > millis(99));
        assert_eq!(delay(Some(millis(99)), u64::MAX), None);
    }
}
