//! Three nodes, a clock and an executor that exist only in a row.

use std::borrow::Cow;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use redis::Value;

use super::text::{
    ExpectedAttempt, expected_result, pack, show, show_error, show_refusal, show_request, value,
    without_cursors,
};
use crate::command::{BlockingTime, CommandTable};
use crate::error::Error;
use crate::partition::{NodeIndex, NodeSpec, from_fn};
use crate::plan::operation::{
    CommandOperation, Operation, PipelineOperation, ReplyForm, Request, ScriptStore, Selection,
    Step,
};
use crate::plan::{
    Answers, Attempt, DedicatedState, Exchange, ExchangeStep, KeyCheck, PartialReads, PipelineKind,
    PipelineReplies, ReadsAs, Router, ScriptCache, SplitWrites, parse_one,
};
use crate::policy::{RequestOptions, RetryPolicy, TemporaryErrors};
use crate::topology::Topology;

/// How long a reply may take that no command holds back.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) const NODES: [&str; 3] = ["a", "b", "c"];

/// Simulated time begins here.
#[cfg(test)]
pub(super) fn beginning() -> Instant {
    Instant::now()
}

/// Keys live on the node whose letter they begin with, and on `c`.
pub(super) fn router(partial_reads: PartialReads) -> Router {
    let nodes = NODES
        .map(|name| NodeSpec::new(name, format!("{name}:1")))
        .to_vec();
    let by_letter = from_fn("letters/1", |key, _| match key.first() {
        Some(b'a') => 0,
        Some(b'b') => 1,
        _ => 2,
    });
    let topology = Topology::new(nodes, Arc::new(by_letter)).expect("a topology");
    let table = Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, SplitWrites::Allowed).with_partial_reads(partial_reads)
}

/// The same router while these nodes are out.
pub(super) fn without(
    router: &Router,
    out: impl IntoIterator<Item = NodeIndex>,
    partial_reads: PartialReads,
    missing_nodes: ReadsAs,
) -> Router {
    let out = out.into_iter().collect();
    let topology = router
        .topology()
        .without(&out)
        .expect("nodes that there are");
    let table = Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, SplitWrites::Allowed)
        .with_partial_reads(partial_reads)
        .with_missing_nodes(missing_nodes)
}

fn node_named(name: &str) -> NodeIndex {
    let at = NODES.iter().position(|node| *node == name).expect("a node");
    NodeIndex::new(u16::try_from(at).expect("few nodes"))
}

/// The script cache of the simulated client.
#[derive(Debug, Default)]
pub(super) struct Scripts(RwLock<Arc<ScriptCache>>);

impl ScriptStore for Scripts {
    fn snapshot(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.0.read().expect("no panic before"))
    }

    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>)) {
        change(&mut self.0.write().expect("no panic before"));
    }
}

/// A form of replies that the simulated nodes can give.
pub(super) trait SimulatedForm: ReplyForm {
    const CONTEXT: Self::Context;
    fn of(replies: &[Value]) -> Self;
    fn show(reply: &Self::Reply) -> String;
    /// What a row says of a result, as this form can show it.
    fn expected(text: &str) -> String {
        expected_result(text)
    }
}

impl SimulatedForm for Vec<Value> {
    const CONTEXT: () = ();

    fn of(replies: &[Value]) -> Self {
        replies.to_vec()
    }

    fn show(reply: &Value) -> String {
        show(reply)
    }
}

/// Carries an operation out, by a row or by chance.
pub(super) trait Nodes<R> {
    /// What came of these attempts, which are made at once. Moves the clock.
    fn wave(
        &mut self,
        attempts: &[Attempt<'_>],
        now: &mut Instant,
        end: Option<Instant>,
    ) -> Vec<Answers<R>>;

    /// When requests are sent again.
    fn retry(&self) -> RetryPolicy {
        RetryPolicy::READS
    }

    /// How long commands without a time limit of their own may take.
    fn blocking_timeout(&self) -> Option<Duration> {
        None
    }

    /// Nothing is sent for this long.
    fn wait(&mut self, _: Duration) {}
}

/// Runs an operation to its end, as the executors do.
///
/// # Panics
///
/// When an exchange has no end though no command waits for ever, when one ends later than the first, and when there is
/// another reply after the end.
pub(super) fn run<O, T>(
    mut operation: O,
    now: &mut Instant,
    nodes: &mut impl Nodes<O::Replies>,
) -> Result<T, Error>
where
    O: Operation<Output = Result<T, Error>>,
{
    let mut first_end: Option<Instant> = None;
    loop {
        match operation.poll(*now) {
            Step::Send(exchange) => {
                carry_out(exchange, now, nodes);
                let end = exchange.end();
                assert!(
                    end.is_some()
                        || exchange.blocking_time() == BlockingTime::Forever
                            && nodes.blocking_timeout().is_none(),
                    "an exchange without an end"
                );
                if let (Some(first), Some(end)) = (first_end, end) {
                    assert!(end <= first, "a later exchange has more time");
                }
                first_end = first_end.or(end);
            }
            Step::Done(result) => {
                for _ in 0..2 {
                    let after = operation.poll(*now);
                    assert!(
                        matches!(after, Step::Done(Err(_))),
                        "a second reply to one request"
                    );
                }
                return result;
            }
        }
    }
}

/// Sends all that is pending, until nothing is.
fn carry_out<R: crate::plan::ReplyBuffer>(
    exchange: &mut Exchange<R>,
    now: &mut Instant,
    nodes: &mut impl Nodes<R>,
) {
    let options = RequestOptions {
        response_timeout: Some(RESPONSE_TIMEOUT),
        blocking_timeout: nodes.blocking_timeout(),
        retry: nodes.retry(),
        read_from: crate::policy::ReadFrom::Primary,
        hedge_after: None,
        usual_timeout: Some(RESPONSE_TIMEOUT),
    };
    // The longest pauses that there can be.
    exchange.begin(*now, &options, u64::MAX);
    loop {
        match exchange.poll(*now) {
            ExchangeStep::Send => {
                let attempts: Vec<Attempt<'_>> = exchange.attempts().collect();
                let answers = nodes.wave(&attempts, now, exchange.end());
                drop(attempts);
                exchange.handle(answers);
            }
            ExchangeStep::Wait(pause) => {
                assert!(!pause.is_zero(), "a pause without a length");
                nodes.wait(pause);
                *now += pause;
                assert!(exchange.end().is_none_or(|end| *now < end));
            }
            ExchangeStep::Reload(_) => exchange.give_up_held(),
            ExchangeStep::Done => break,
        }
    }
}

/// The lines of a row that say what is sent and what comes back.
struct Expected<'t> {
    lines: std::iter::Peekable<std::vec::IntoIter<&'t str>>,
    wave: usize,
    /// The first attempt that is not the expected one.
    wrong: Option<String>,
    retry: RetryPolicy,
    blocking_timeout: Option<Duration>,
}

impl<'t> Expected<'t> {
    fn attempt(&mut self, attempt: &Attempt<'_>) -> Option<ExpectedAttempt<'t>> {
        let new = if attempt.needs_new_connection {
            "*"
        } else {
            ""
        };
        let request = attempt.request;
        let node = NODES[request.node.get()];
        let sent = format!("{} {node}{new} {}", self.wave, show_request(request));
        let is_attempt = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
        let expected = self.lines.next_if(is_attempt).map(ExpectedAttempt::parse);
        match expected {
            Some(expected) if expected.attempt == sent.trim() => Some(expected),
            other => {
                let wanted = other.map_or("no more attempts", |expected| expected.attempt);
                let wrong = format!("wanted {wanted:?}, sent {sent:?}");
                self.wrong.get_or_insert(wrong);
                None
            }
        }
    }
}

impl<R: SimulatedForm> Nodes<R> for Expected<'_> {
    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    fn blocking_timeout(&self) -> Option<Duration> {
        self.blocking_timeout
    }

    fn wait(&mut self, pause: Duration) {
        let waited = format!("wait {}ms", pause.as_millis());
        let is_wait = |line: &&str| line.starts_with("wait ");
        if self.lines.next_if(is_wait) != Some(waited.as_str()) {
            self.wrong.get_or_insert(format!("unexpected: {waited}"));
        }
    }

    fn wave(
        &mut self,
        attempts: &[Attempt<'_>],
        now: &mut Instant,
        end: Option<Instant>,
    ) -> Vec<Answers<R>> {
        self.wave += 1;
        let begun = *now;
        let mut answers = Vec::new();
        for attempt in attempts {
            let Some(expected) = self.attempt(attempt) else {
                // To its end, so that the whole difference can be shown.
                let late = super::text::Break::Late(0).failure();
                answers.push(Answers::failed(late));
                continue;
            };
            let count = attempt.request.slots.len();
            let replies = expected.replies.len();
            assert!(
                replies == count || expected.breaks.is_some() && replies < count,
                "{}: {replies} replies to {count} requests",
                expected.attempt
            );
            *now = (*now).max(begun + expected.takes);
            if expected.breaks.is_some_and(|kind| kind.takes_all_time()) {
                *now = (*now).max(end.expect("what never ends is never late"));
            }
            answers.push(Answers {
                values: R::of(&expected.replies),
                failure: expected.breaks.map(|kind| Box::new(kind.failure())),
            });
        }
        answers
    }
}

/// What a row is played with.
struct Stage {
    router: Router,
    scripts: Scripts,
    now: Instant,
    entropy: u64,
    dedicated: Option<DedicatedState>,
}

/// Plays a row with decoded replies.
///
/// # Errors
///
/// What was sent or replied that the row does not expect.
pub(super) fn play(row: &str) -> Result<(), String> {
    play_as::<Vec<Value>>(row)
}

/// Plays a row of single commands with replies in this form.
///
/// # Errors
///
/// What was sent or replied that the row does not expect.
pub(super) fn play_as<R: SimulatedForm>(row: &str) -> Result<(), String> {
    let lines: Vec<&str> = row
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let partial_reads = match lines.contains(&"partial reads") {
        true => PartialReads::Allowed,
        false => PartialReads::Refused,
    };
    let missing_nodes = match lines.contains(&"missing nodes") {
        true => ReadsAs::Miss,
        false => ReadsAs::Error,
    };
    let mut stage = Stage {
        router: router(partial_reads).with_missing_nodes(missing_nodes),
        scripts: Scripts::default(),
        now: beginning(),
        entropy: 0,
        dedicated: None,
    };
    let mut expected = Expected {
        lines: lines.into_iter().peekable(),
        wave: 0,
        wrong: None,
        retry: RetryPolicy::READS,
        blocking_timeout: None,
    };
    while let Some(line) = expected.lines.next() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "partial" | "missing" => {}
            "retry" => {
                expected.retry = match rest {
                    "off" => RetryPolicy::OFF,
                    attempts => RetryPolicy::attempts(attempts.parse().expect("a number")),
                };
            }
            "returned" => {
                expected.retry = expected
                    .retry
                    .with_temporary_errors(TemporaryErrors::Returned);
            }
            "blocking" => {
                let millis = rest.trim_end_matches("ms").parse().expect("milliseconds");
                expected.blocking_timeout = Some(Duration::from_millis(millis));
            }
            "out" => {
                let nodes = rest.split_whitespace().map(node_named);
                stage.router = without(&stage.router, nodes, partial_reads, missing_nodes);
            }
            "entropy" => stage.entropy = rest.parse().expect("a number"),
            ">" => {
                expected.wave = 0;
                let result = stage.request::<R>(rest, &mut expected);
                if let Some(wrong) = expected.wrong {
                    return Err(wrong);
                }
                let wanted = expected.lines.next().unwrap_or("no result");
                let wanted = R::expected(wanted.trim_start_matches("= "));
                let result = without_cursors(&R::expected(&result));
                if wanted != result {
                    return Err(format!("wanted {wanted:?}, the result is {result:?}"));
                }
            }
            _ => stage.state(word, rest)?,
        }
    }
    Ok(())
}

impl Stage {
    /// What the script cache knows, or must know now.
    fn state(&self, word: &str, rest: &str) -> Result<(), String> {
        let packed = pack(rest);
        let args = &parse_one(&packed).unwrap_or_default();
        let cache = self.scripts.snapshot();
        let holds = match word {
            "has" => {
                self.scripts
                    .update(&mut |cache| Arc::make_mut(cache).record_sent(args));
                true
            }
            "listed" => {
                let libraries = value(&format!("[{rest}]"));
                self.scripts
                    .update(&mut |cache| ScriptCache::record_libraries(cache, &libraries));
                true
            }
            "knows" => cache.source(args[0]).is_some(),
            "lacks" => cache.source(args[0]).is_none(),
            "libraries" => cache.reloads().len().to_string() == rest,
            other => panic!("no line of a row begins with {other:?}"),
        };
        match holds {
            true => Ok(()),
            false => Err(format!("it is not true that: {word} {rest}")),
        }
    }

    /// Makes one request. Gives its result as text.
    fn request<R: SimulatedForm>(&mut self, text: &str, nodes: &mut Expected<'_>) -> String {
        let (how, commands) = text.split_once(": ").unwrap_or(("", text));
        match how.split_once(' ').unwrap_or((how, "")) {
            ("", "") => self.command::<R>(commands, nodes),
            ("at", node) => self.command_at(node_named(node), commands, nodes),
            ("pipe", at) => self.pipeline(commands, at.strip_prefix("at "), nodes),
            ("multi", at) => {
                let commands = match commands {
                    "nothing" => "MULTI; EXEC".to_owned(),
                    commands => format!("MULTI; {commands}; EXEC"),
                };
                self.pipeline(&commands, at.strip_prefix("at "), nodes)
            }
            ("dedicated", node) => {
                let new = || DedicatedState::new(node_named(node), KeyCheck::Owned);
                self.dedicated.get_or_insert_with(new);
                self.on_dedicated(commands, nodes)
            }
            ("batch", _) => self.pipeline_on_dedicated(commands, nodes),
            ("atomic", _) => self.pipeline_on_dedicated(&format!("MULTI; {commands}; EXEC"), nodes),
            other => panic!("no request begins with {other:?}"),
        }
    }

    fn command<R: SimulatedForm>(&mut self, text: &str, nodes: &mut Expected<'_>) -> String {
        let packed = &pack(text);
        let args = &parse_one(packed).expect("one command");
        let (router, scripts) = (&self.router, &self.scripts);
        let request = Request { packed, args };
        let routed = router.route(args, &|| scripts.snapshot());
        let operation: CommandOperation<'_, R> =
            CommandOperation::new(router, scripts, request, routed, R::CONTEXT, self.entropy);
        match run(operation, &mut self.now, nodes) {
            Ok(reply) => R::show(&reply),
            Err(error) => show_refusal(&error),
        }
    }

    fn command_at(&mut self, node: NodeIndex, text: &str, nodes: &mut Expected<'_>) -> String {
        let packed = &pack(text);
        let args = &parse_one(packed).expect("one command");
        let (router, scripts) = (&self.router, &self.scripts);
        let request = Request { packed, args };
        let routed = match router.route_at(node, args) {
            Ok(routed) => routed,
            Err(error) => return show_error(&error),
        };
        let operation: CommandOperation<'_, Vec<Value>> =
            CommandOperation::at_node(router, scripts, request, routed, ());
        shown(run(operation, &mut self.now, nodes))
    }

    fn pipeline(&mut self, text: &str, node: Option<&str>, nodes: &mut Expected<'_>) -> String {
        let packed = &pack(text);
        let selection = selection(text, packed);
        let (router, scripts) = (&self.router, &self.scripts);
        let snapshot = || scripts.snapshot();
        let planned = match node {
            None => router.route_pipeline(packed, selection.kind, &snapshot, self.entropy),
            Some(node) => {
                router.route_pipeline_at(node_named(node), packed, selection.kind, &snapshot)
            }
        };
        let operation = match planned {
            Ok(planned) => PipelineOperation::new(router, scripts, planned, self.entropy),
            Err(error) => return show_error(&error),
        };
        let result = run(operation, &mut self.now, nodes);
        shown_all(router, packed, selection.kind, result)
    }

    fn on_dedicated(&mut self, text: &str, nodes: &mut Expected<'_>) -> String {
        let packed = &pack(text);
        let args = &parse_one(packed).expect("one command");
        let state = self.dedicated.as_mut().expect("it was opened");
        let operation = state.command(&self.router, &self.scripts, Request { packed, args });
        let result = operation.and_then(|operation| run(operation, &mut self.now, nodes));
        if let Ok(reply) = &result {
            state.replied(args, reply);
        }
        shown(result)
    }

    fn pipeline_on_dedicated(&mut self, text: &str, nodes: &mut Expected<'_>) -> String {
        let packed = &pack(text);
        let selection = selection(text, packed);
        let state = self.dedicated.as_mut().expect("it was opened");
        let operation = state.pipeline(&self.router, &self.scripts, packed, selection.kind);
        let result = operation.and_then(|operation| run(operation, &mut self.now, nodes));
        if let Ok(replies) = &result {
            state.replied_all(packed, selection.kind, &replies.values);
        }
        shown_all(&self.router, packed, selection.kind, result)
    }
}

/// What `redis::Pipeline` asks for together with these commands.
fn selection(text: &str, packed: &[u8]) -> Selection {
    let commands = text.split("; ").count();
    match text.starts_with("MULTI; ") && text.ends_with("; EXEC") {
        true => Selection::of(packed, commands - 1, 1),
        false => Selection::of(packed, 0, commands),
    }
    .expect("there is a command")
}

fn shown(result: Result<Value, Error>) -> String {
    result.map_or_else(|error| show_refusal(&error), |reply| show(&reply))
}

/// The result of each command; for a transaction the reply to EXEC.
fn shown_all(
    router: &Router,
    packed: &[u8],
    kind: PipelineKind,
    result: Result<PipelineReplies, Error>,
) -> String {
    match result {
        Ok(replies) if kind != PipelineKind::Plain => show(&replies.values[0]),
        Ok(replies) => {
            let results = replies.each(router, packed).into_iter();
            let shown = results.map(|result| match result {
                Ok(reply) => show(&reply),
                Err(error) => match error.server_reply() {
                    Some(reply) => show(&Value::ServerError(reply)),
                    None => show_error(&error),
                },
            });
            shown.collect::<Vec<String>>().join("; ")
        }
        Err(error) => show_error(&error),
    }
}

#[cfg(feature = "proxy")]
mod raw {
    use super::*;
    use crate::plan::RawReplies;
    use crate::resp::{self, Protocol, Slice};

    impl SimulatedForm for RawReplies {
        const CONTEXT: Protocol = Protocol::Resp2;

        fn of(replies: &[Value]) -> Self {
            let mut raw = Self::default();
            for reply in replies {
                let mut frame = Vec::new();
                Protocol::Resp2.write(&mut frame, reply);
                raw.push(&frame);
            }
            raw
        }

        fn show(reply: &Vec<u8>) -> String {
            show(&resp::read(&mut Slice(reply)).expect("a whole reply"))
        }

        /// Replies as they came have no names of nodes in their errors, and an error has no parts.
        fn expected(text: &str) -> String {
            let mut text = expected_result(text);
            for node in NODES {
                text = text.replace(&format!(" (node {node})"), "");
            }
            match text.starts_with("!partial") {
                true => "!partial".into(),
                false => text,
            }
        }
    }
}
