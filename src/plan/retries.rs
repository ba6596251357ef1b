//! Is a request sent again after an attempt, and after which pause?
//!
//! [`Retries`] counts the attempts of the requests to one node and applies the [`RetryPolicy`]. Two kinds of
//! outcome may be followed by another attempt:
//!
//! * A [`Failure`](crate::plan::Failure): replies are missing. What has no reply is resent if each of it was
//!   not sent or is a read.
//! * A temporary error: an error reply such as LOADING, with which the server refuses a command before any of
//!   it has run. It is repeated together with all that follow it, so that their order stays, if each of those
//!   was refused likewise or is a read. LOADING in reply to the handshake of a connection is the same case.
//!
//! ```text
//! request   SET a 1    SET b 1     GET b    SET c 1
//! reply     +OK        -LOADING    nil      -LOADING      resent: SET b 1, GET b, SET c 1
//! reply     +OK        -LOADING    nil      +OK           nothing: SET c 1 would run twice
//! ```
//!
//! Failures are limited by the number of attempts of the policy. Temporary errors that pass by themselves are
//! not counted: the deadline limits them, or [`TEMPORARY_ERRORS_WAIT_MAX`] where there is none.

use std::time::Duration;

use redis::Value;

use crate::command::{Access, Args, PackedCommands};
use crate::error::{is_temporary_code, is_waited_code};
use crate::plan::batch::NodeRequest;
use crate::plan::scripts::command::ScriptCommand;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, ReplyBuffer};
use crate::policy::{
    ConnectError, RetryPolicy, TEMPORARY_ERRORS_WAIT_MAX, TemporaryErrors, pause_between,
};

/// Shortest time that must be left for the reply when a request is sent again after a temporary error. A write that
/// is sent shortly before the deadline would only turn an error that says that nothing was changed into
/// [`Unknown`](crate::ErrorKind::Unknown).
const REPLY_TIME_MIN: Duration = Duration::from_millis(100);

/// The first pause and the longest one before a request is sent again within a cluster: a slot that moves is held up for
/// milliseconds, and a failover should be noticed soon.
const REDIRECT_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(64));

/// Commands that ask for the state of the node. A temporary error is the answer.
const STATE_COMMANDS: [&str; 3] = ["INFO", "PING", "ROLE"];

/// Code words of a server's own temporary errors, and a part of their texts that Redis, Valkey and KeyDB have in
/// common. A script may reply with these codes too, but hardly with these texts.
const SERVER_TEXTS: [(&[u8], &[u8]); 6] = [
    (b"BUSY", b" is busy running a script"),
    (b"CLUSTERDOWN", b"The cluster is down"),
    (b"CLUSTERDOWN", b"Hash slot not served"),
    (b"LOADING", b" is loading the dataset in memory"),
    (b"MASTERDOWN", b"Link with MASTER is down"),
    (
        b"TRYAGAIN",
        b"Multiple keys request during rehashing of slot",
    ),
];

/// Beginning of the text of EXECABORT if EXEC itself was refused; the refusal follows.
const DISCARDED: &[u8] = b"Transaction discarded because of: ";

/// The attempts of one node's requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries {
    policy: RetryPolicy,
    /// Number of attempts that have failed.
    failed: u16,
    /// Number of pauses after failures so far, with that before the next attempt.
    pauses: u16,
    /// Number of pauses after temporary errors so far, with that before the next attempt.
    waits: u16,
    /// Sum of the longest lengths of these pauses, in milliseconds.
    waited: u32,
    /// True if the next pause is after a temporary error.
    is_waiting: bool,
    /// True if the node may get another primary, so that READONLY passes by itself.
    has_failover: bool,
    /// True if the node is one of a cluster: what it refuses may be served by another, see
    /// [`redirects`](crate::plan::redirects).
    is_in_cluster: bool,
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

/// The last temporary error in reply to a single request that was sent again. For callers without an
/// [`Exchange`](crate::plan::Exchange).
#[derive(Debug, Default)]
pub(crate) struct LastRefusal(Option<Box<Value>>);

/// How a temporary error is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repetition {
    /// As a failure: it counts as an attempt.
    Counted,
    /// Until the deadline.
    Waited,
}

impl LastRefusal {
    /// Keeps the result of an attempt that is followed by another.
    pub(crate) fn keep(&mut self, result: Result<Value, Failure>) {
        self.0 = result.ok().map(Box::new);
    }

    /// The result of the request, when the last attempt had this one. If there was no time for that attempt, the
    /// server's error before it says more.
    pub(crate) fn settle(
        self,
        result: Result<Value, Failure>,
        access: Access,
    ) -> Result<Value, Failure> {
        match (self.0, &result) {
            (Some(refusal), Err(failure))
                if failure.is_out_of_time() && failure.may_send(0, access) =>
            {
                Ok(*refusal)
            }
            _ => result,
        }
    }
}

impl Retries {
    /// No attempt has been made.
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// For a node that may get another primary: READONLY is waited for like LOADING.
    pub(crate) fn with_failover(self) -> Self {
        Self {
            has_failover: true,
            ..self
        }
    }

    /// For a node of a cluster.
    pub(crate) fn in_cluster(self, is_in_cluster: bool) -> Self {
        Self {
            is_in_cluster,
            ..self
        }
    }

    /// Counts a pause before a request goes to another server of a cluster.
    pub(in crate::plan) fn before_redirect(mut self) -> Self {
        self.count_wait();
        self
    }

    /// The policy by which attempts are made.
    pub(in crate::plan) fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// True if requests whose connection broke are sent again.
    pub(in crate::plan) fn resends(&self) -> bool {
        self.policy.attempts_max() > 1
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
        if !self.is_waiting {
            let pause = self.policy.pause(self.pauses.into(), jitter);
            return left.is_none_or(|left| pause < left).then_some(pause);
        }
        let pause = self.wait(jitter);
        match left {
            // A long pause before the deadline is cut, as the node may be ready before that.
            Some(left) => (left / 2 >= REPLY_TIME_MIN).then(|| pause.min(left / 2)),
            None => {
                let waited = Duration::from_millis(self.waited.into());
                (waited <= TEMPORARY_ERRORS_WAIT_MAX).then_some(pause)
            }
        }
    }

    /// The attempt to make after one of a single request that concerns no script, which had this result.
    /// `None` when the result is final. For callers without an [`Exchange`](crate::plan::Exchange). `packed` returns
    /// the request.
    pub(crate) fn after_call(
        &mut self,
        result: &Result<Value, Failure>,
        access: Access,
        packed: impl FnOnce() -> Vec<u8>,
    ) -> Option<NextAttempt> {
        match result {
            Ok(Value::ServerError(error)) => {
                let repetition = self.repetition(error.code().as_bytes())?;
                let (packed, mut args) = (packed(), Args::new());
                // Parsed again, as this is rare.
                PackedCommands::new(&packed).next(&mut args).ok()??;
                self.repeat(0, (!asks_for_state(&args)).then_some(repetition)?)
            }
            Ok(_) => None,
            Err(failure) => {
                let may_resend = failure.may_send(0, access);
                self.after_failure(may_resend, 0, failure)
            }
        }
    }

    /// The attempt to make after one at taking a connection failed. `None` when the failure is final.
    pub(crate) fn after_connecting(&mut self, cause: &Cause) -> Option<NextAttempt> {
        self.after_failure(true, 0, &Failure::not_sent(cause.clone()))
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
        let refused = self.first_refused(request, &answers.values);
        let Some(failure) = &answers.failure else {
            let (first, repetition) = refused?;
            return self.repeat(first, repetition);
        };
        let answered = answers.values.count();
        // Resending only the rest of a transaction would run its commands one by one, without MULTI.
        let is_cut = request.ending == ExpectedEnd::Exec && answered > 0;
        let may_resend = !is_cut && failure.may_resend_rest(answered, &request.slots);
        let first = refused.map_or(answered, |(first, _)| first);
        self.after_failure(may_resend, first, failure)
    }

    /// The attempt to make after a temporary error in reply to request number `first`.
    fn repeat(&mut self, first: usize, repetition: Repetition) -> Option<NextAttempt> {
        match repetition {
            Repetition::Counted => {
                self.failed = self.failed.saturating_add(1);
                let has_more = u32::from(self.failed) < self.policy.attempts_max();
                has_more.then(|| self.pausing(first, false))
            }
            Repetition::Waited => {
                self.count_wait();
                Some(NextAttempt {
                    first,
                    needs_new_connection: false,
                    is_delayed: true,
                })
            }
        }
    }

    /// Counts a pause after a temporary error.
    fn count_wait(&mut self) {
        self.waits = self.waits.saturating_add(1);
        let longest = self.wait(1.0).as_millis();
        self.waited = self
            .waited
            .saturating_add(u32::try_from(longest).unwrap_or(u32::MAX));
        self.is_waiting = true;
    }

    /// The pause after a temporary error; `jitter` in 0..1.
    fn wait(&self, jitter: f64) -> Duration {
        match self.is_in_cluster {
            true => pause_between(REDIRECT_PAUSES, self.waits.into(), jitter),
            false => self.policy.pause(self.waits.into(), jitter),
        }
    }

    /// Counts an attempt that failed, and returns the next if the policy has one left.
    fn after_failure(
        &mut self,
        may_resend: bool,
        first: usize,
        failure: &Failure,
    ) -> Option<NextAttempt> {
        if let Cause::Connect(error @ ConnectError::Refused(_)) = &failure.cause {
            let repetition = error
                .refusal_code()
                .and_then(|code| self.repetition(code))?;
            return may_resend.then(|| self.repeat(first, repetition)).flatten();
        }
        if matches!(failure.cause, Cause::Superseded | Cause::Moving(_)) {
            return None;
        }
        self.failed = self.failed.saturating_add(1);
        if !may_resend || u32::from(self.failed) >= self.policy.attempts_max() {
            return None;
        }
        let (passes, dropped) = match &failure.cause {
            // Known before anything was sent, so the next connection leads to the new primary.
            Cause::Dropped(_) | Cause::Connect(ConnectError::PrimaryChanged) => (true, true),
            Cause::Connect(error) => (error.may_pass(), false),
            // The deadline has passed, or the pool is exhausted, which another attempt would make worse.
            Cause::PoolTimeout(_) | Cause::Timeout(_) | Cause::NoTime => (false, false),
            Cause::Superseded | Cause::Moving(_) => (false, false),
        };
        if !passes {
            return None;
        }
        // A connection that was closed while it was idle is replaced at once; a second one that breaks is a
        // server in trouble.
        if dropped && self.failed == 1 {
            return Some(NextAttempt {
                first,
                needs_new_connection: true,
                is_delayed: false,
            });
        }
        self.policy.waits().then(|| self.pausing(first, dropped))
    }

    /// The next attempt, after a pause that is counted.
    fn pausing(&mut self, first: usize, needs_new_connection: bool) -> NextAttempt {
        self.pauses = self.pauses.saturating_add(1);
        self.is_waiting = false;
        NextAttempt {
            first,
            needs_new_connection,
            is_delayed: true,
        }
    }

    /// How an error with this code is repeated. `None` if the policy does not repeat it.
    fn repetition(&self, code: &[u8]) -> Option<Repetition> {
        if self.is_in_cluster {
            return None;
        }
        match is_waited_code(code) || self.has_failover && code == b"READONLY" {
            true => (self.policy.temporary_errors() == TemporaryErrors::Waited)
                .then_some(Repetition::Waited),
            false => {
                (self.policy.waits() && is_temporary_code(code)).then_some(Repetition::Counted)
            }
        }
    }

    /// Number of the first request that the server refused for the time being, if it and all behind it may be
    /// repeated.
    fn first_refused<R: ReplyBuffer>(
        &self,
        request: &NodeRequest,
        replies: &R,
    ) -> Option<(usize, Repetition)> {
        let count = replies.count().min(request.slots.len());
        let repetition = |number: usize| {
            let code = replies.error_code(number)?;
            self.repetition(code)
        };
        if request.ending == ExpectedEnd::Exec {
            return self.refused_transaction(replies, count);
        }
        // Almost always none.
        if (0..count).all(|number| repetition(number).is_none()) {
            return None;
        }
        let (mut first, mut asks_only_for_state) = (None, true);
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        for (number, slot) in request.slots[..count].iter().enumerate() {
            commands.next(&mut args).ok()??;
            let is_read = slot.access == Access::Read;
            let refused = repetition(number)
                .filter(|_| !runs_script(&args) || is_read && has_server_text(replies, number));
            match refused {
                Some(repetition) => {
                    first.get_or_insert((number, repetition));
                    asks_only_for_state &= asks_for_state(&args);
                }
                // It was served, and would run a second time.
                None if first.is_some() && !is_read => return None,
                None => {}
            }
        }
        let (first, repetition) = first.filter(|_| !asks_only_for_state)?;
        // WAIT must not be repeated without the barrier before it, which shares its slot and was not refused.
        let is_split_slot =
            first > 0 && request.slots[first].shares_part(&request.slots[first - 1]);
        (!is_split_slot).then_some((first, repetition))
    }

    /// How a transaction is repeated that the server has discarded (EXECABORT) because it refused each command, or EXEC
    /// itself, with an error that passes.
    ///
    /// An error reply to MULTI itself is no refusal: the commands may have run one by one.
    fn refused_transaction<R: ReplyBuffer>(
        &self,
        replies: &R,
        count: usize,
    ) -> Option<(usize, Repetition)> {
        let exec = count.checked_sub(1)?;
        if replies.error_code(0).is_some() || replies.error_code(exec)? != b"EXECABORT" {
            return None;
        }
        let mut refusals = (1..exec).filter_map(|number| replies.error_code(number));
        let first = match refusals.next() {
            Some(code) => self.repetition(code)?,
            None => {
                let refusal = replies.error_text(exec)?.strip_prefix(DISCARDED)?;
                self.repetition(refusal.split(|&byte| byte == b' ').next()?)?
            }
        };
        let is_repeated = refusals.all(|code| self.repetition(code).is_some());
        is_repeated.then_some((0, first))
    }
}

/// True if a command runs a script or a function. The error code of its reply may be one that the script has chosen,
/// after it has written.
pub(in crate::plan) fn runs_script(args: &[&[u8]]) -> bool {
    matches!(
        ScriptCommand::of(args),
        Some(ScriptCommand::Eval(_) | ScriptCommand::EvalSha(_) | ScriptCommand::Call(_))
    )
}

/// True if a command asks for the state of the node.
pub(in crate::plan) fn asks_for_state(args: &[&[u8]]) -> bool {
    let is_name = |word: &&str| args[0].eq_ignore_ascii_case(word.as_bytes());
    STATE_COMMANDS.iter().any(is_name)
}

/// True if the error in reply to request number `number` has the text of a server.
pub(in crate::plan) fn has_server_text<R: ReplyBuffer>(replies: &R, number: usize) -> bool {
    let (Some(code), Some(text)) = (replies.error_code(number), replies.error_text(number)) else {
        return false;
    };
    let contains = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    SERVER_TEXTS
        .iter()
        .any(|&(word, part)| word == code && contains(part))
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

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    /// Stands for any number of attempts.
    const MANY: usize = 100;

    /// How many attempts a request gets that always has this result, and how many of them are delayed.
    fn attempts(
        policy: RetryPolicy,
        result: &Result<Value, Failure>,
        access: Access,
    ) -> (usize, usize) {
        let mut retries = Retries::new(policy);
        let next: Vec<NextAttempt> =
            std::iter::from_fn(|| retries.after_call(result, access, || GET.to_vec()))
                .take(MANY - 1)
                .collect();
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
        let refusal = crate::policy::ConnectError::Refused("LOADING no".into());
        let loading = Cause::Connect(refusal);
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
            (
                refused("LOADING"),
                Write,
                [(1, 0), (MANY, MANY - 1), (MANY, MANY - 1)],
            ),
            (
                failed(&loading, 0),
                Write,
                [(1, 0), (MANY, MANY - 1), (MANY, MANY - 1)],
            ),
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

    fn loading() -> Result<Value, Failure> {
        Ok(Value::ServerError(crate::error::server_error(
            "LOADING", "no",
        )))
    }

    #[test]
    fn temporary_errors_are_waited_for_with_shorter_pauses_before_the_deadline() {
        let millis = Duration::from_millis;
        let policy = RetryPolicy::READS.with_backoff(millis(100), millis(400));
        let mut retries = Retries::new(policy);
        let mut pause = |left: u64| {
            let next = retries.after_call(&loading(), Access::Write, || GET.to_vec())?;
            retries.delay(next, Some(millis(left)), u64::MAX)
        };
        let mut told = |left| pause(left).map(|pause| (pause.as_secs_f64() * 1e3).round());
        assert_eq!(told(10_000), Some(100.0));
        assert_eq!(told(10_000), Some(200.0));
        assert_eq!(told(10_000), Some(400.0));
        assert_eq!(told(10_000), Some(400.0));
        assert_eq!(told(300), Some(150.0), "half of what is left");
        assert_eq!(told(200), Some(100.0));
        assert_eq!(told(199), None, "too little time for a reply");
    }

    #[test]
    fn temporary_errors_are_waited_for_without_a_deadline_up_to_a_limit() {
        let mut retries = Retries::new(RetryPolicy::READS);
        let mut waited = Duration::ZERO;
        loop {
            let next = retries.after_call(&loading(), Access::Write, || GET.to_vec());
            match retries.delay(next.unwrap(), None, u64::MAX) {
                Some(pause) => waited += pause,
                None => break,
            }
        }
        let expected =
            TEMPORARY_ERRORS_WAIT_MAX - Duration::from_secs(2)..TEMPORARY_ERRORS_WAIT_MAX;
        assert!(expected.contains(&waited), "{waited:?}");
    }

    #[test]
    fn attempts_that_end_with_temporary_errors_are_not_counted() {
        let down = Err(Failure::not_sent(Cause::Connect("refused".into())));
        let mut retries = Retries::new(RetryPolicy::attempts(3));
        let loading = loading();
        let mut after = |result| retries.after_call(result, Access::Write, || GET.to_vec());
        for _ in 0..10 {
            assert!(after(&loading).is_some());
        }
        assert!(after(&down).is_some());
        assert!(after(&loading).is_some());
        assert!(after(&down).is_some());
        assert_eq!(after(&down), None, "the third");
    }

    #[test]
    fn readonly_is_waited_for_where_the_node_may_get_another_primary() {
        let readonly = Ok(Value::ServerError(crate::error::server_error(
            "READONLY", "no",
        )));
        let attempts = |mut retries: Retries| {
            let next = || retries.after_call(&readonly, Access::Write, || GET.to_vec());
            1 + std::iter::from_fn(next).take(MANY - 1).count()
        };
        for (policy, alone, with_failover) in [
            (RetryPolicy::OFF, 1, 1),
            (RetryPolicy::READS, 1, MANY),
            (RetryPolicy::attempts(3), 3, MANY),
        ] {
            let retries = Retries::new(policy);
            assert_eq!(attempts(retries), alone);
            assert_eq!(attempts(retries.with_failover()), with_failover);
        }
    }

    #[test]
    fn commands_that_ask_for_the_state_of_a_node_do_not_wait() {
        for (command, is_repeated) in [
            (&b"*1\r\n$4\r\nPING\r\n"[..], false),
            (b"*1\r\n$4\r\ninfo\r\n", false),
            (b"*1\r\n$4\r\nROLE\r\n", false),
            (b"*1\r\n$6\r\nDBSIZE\r\n", true),
        ] {
            let mut retries = Retries::new(RetryPolicy::READS);
            let next = retries.after_call(&loading(), Access::Read, || command.to_vec());
            assert_eq!(next.is_some(), is_repeated, "{}", command.escape_ascii());
        }
    }

    #[test]
    fn retry_that_would_come_after_the_deadline_is_not_made() {
        let policy = RetryPolicy::attempts(2)
            .with_backoff(Duration::from_millis(100), Duration::from_millis(100));
        let down = Err(Failure::not_sent(Cause::Connect("refused".into())));
        let mut retries = Retries::new(policy);
        let next = retries
            .after_call(&down, Access::Read, || GET.to_vec())
            .unwrap();
        let delay = |left, entropy| retries.delay(next, left, entropy);
        let millis = Duration::from_millis;
        assert_eq!(delay(Some(millis(100)), 0), Some(millis(50)));
        assert_eq!(delay(Some(millis(50)), 0), None);
        assert!(delay(None, u64::MAX).unwrap() > millis(99));
        assert_eq!(delay(Some(millis(99)), u64::MAX), None);
    }
}
