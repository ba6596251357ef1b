//! [`Watcher`]: the thread that mends the map of a cluster, and has it asked for.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::monitor::{Answer, MapPublisher, MonitorState, Signal};
use crate::cluster::question::Question;
use crate::error::{Error, ErrorKind};
use crate::policy::{MapRefresh, RoundOutcome};
use crate::topology::HostPort;
use crate::topology::cluster::{AskingRound, ClusterMap, ClusterView, Merged, RoundStep};

/// Number of servers named by redirects that are asked first.
const NAMED_MAX: usize = 4;

/// Mends the map, and has it asked for. Waits for nothing but its signal.
pub(super) struct Watcher {
    state: Arc<MonitorState>,
    refresh: MapRefresh,
    round: Option<Round>,
    /// Number of rounds so far.
    rounds: u64,
    /// Servers that redirects have named since the last round.
    named: Vec<HostPort>,
    /// Those that gave no answer in the last round.
    failed: HashSet<HostPort>,
}

/// A round, and what it has found.
struct Round {
    number: u64,
    asking: AskingRound,
    /// The best answer that was not good enough.
    best: Option<ClusterView>,
    /// True if an answer was older than what is known.
    is_behind: bool,
    /// Why the first server gave no answer, or one that is of more use to know.
    failure: Option<Error>,
}

impl Watcher {
    pub(super) fn new(state: Arc<MonitorState>) -> Self {
        Self {
            state,
            refresh: MapRefresh::new(Instant::now()),
            round: None,
            rounds: 0,
            named: Vec::new(),
            failed: HashSet::new(),
        }
    }

    /// Works until the monitor is gone.
    pub(super) fn run(mut self) {
        let mut pause = Some(Duration::ZERO);
        while let Some(signal) = self.state.wait(pause) {
            let publisher = self.state.publisher.get().and_then(Weak::upgrade);
            let Some(publisher) = publisher else {
                return;
            };
            self.take(signal, &*publisher);
            pause = self.proceed(&*publisher);
        }
    }

    /// Takes what is new.
    fn take(&mut self, signal: Signal, publisher: &dyn MapPublisher) {
        let now = Instant::now();
        if signal.is_wanted {
            self.refresh.want(now);
        }
        if signal.is_suspect {
            self.refresh.suspect(now);
        }
        if !signal.moved.is_empty() {
            self.refresh.want(now);
            let moved: Vec<(u16, HostPort)> = signal.moved.into_iter().collect();
            // It is asked for as well: what cannot be mended is then found.
            let _ = publisher.change_map(&mut |map| map.moved_all(&moved));
            for (_, to) in moved {
                let to = self.state.settings.mapped(&to);
                if self.named.len() < NAMED_MAX && !self.named.contains(&to) {
                    self.named.push(to);
                }
            }
        }
        for answer in signal.answers {
            self.answered(answer, publisher);
        }
    }

    /// Does what is due. Returns the time until the next is.
    fn proceed(&mut self, publisher: &dyn MapPublisher) -> Option<Duration> {
        loop {
            let now = Instant::now();
            let Some(round) = &mut self.round else {
                let wait = self.refresh.wait(now);
                if !wait.is_zero() {
                    return Some(wait);
                }
                self.begin(publisher);
                continue;
            };
            match round.asking.step(now) {
                RoundStep::Ask(server) => self.ask(server),
                RoundStep::Wait(time) => return time,
                RoundStep::End => self.nobody_left(publisher),
            }
        }
    }

    /// Begins a round.
    fn begin(&mut self, publisher: &dyn MapPublisher) {
        self.rounds += 1;
        self.refresh.began();
        let seeds = &self.state.settings.seeds;
        let map = publisher.map();
        let map = map.unwrap_or_else(|| Arc::new(ClusterMap::provisional(seeds)));
        let named = std::mem::take(&mut self.named);
        let asking = AskingRound::new(&map, named, seeds, &self.failed, rand::random());
        self.round = Some(Round {
            number: self.rounds,
            asking,
            best: None,
            is_behind: false,
            failure: None,
        });
    }

    /// Asks a server, in a thread of its own.
    fn ask(&self, server: HostPort) {
        let (state, round) = (Arc::clone(&self.state), self.rounds);
        let of_server = server.clone();
        let question = move || {
            let question = Question {
                settings: &state.settings,
                server: &of_server,
            };
            // The answer is awaited, whatever happens. The panic hook has printed the panic.
            let view = catch_unwind(AssertUnwindSafe(|| question.ask()));
            let panicked = |_| {
                let text = format!("{of_server}: the attempt has panicked");
                Err(Error::new(ErrorKind::NodeDown, text))
            };
            let view = view.unwrap_or_else(panicked);
            state.answer(Answer {
                round,
                server: of_server,
                view,
            });
        };
        let thread = thread::Builder::new().name("redis-sharding cluster map".into());
        if let Err(error) = thread.spawn(question) {
            let text = format!("{server}: the system has no thread to ask it: {error}");
            self.state.answer(Answer {
                round,
                server,
                view: Err(Error::new(ErrorKind::NodeDown, text)),
            });
        }
    }

    /// Takes the answer of a server.
    fn answered(&mut self, answer: Answer, publisher: &dyn MapPublisher) {
        let Some(round) = &mut self.round else {
            return;
        };
        // One that comes after its round may still know more than what was found, and is as old as it is late.
        if answer.round != round.number {
            return;
        }
        let view = match answer.view {
            Ok(view) => view,
            Err(error) => {
                round.asking.failed(&answer.server);
                round.fail(error);
                return;
            }
        };
        round.asking.answered(&answer.server);
        let is_ok = view.is_ok();
        let mut is_behind = true;
        if is_ok {
            let changed = publisher.change_map(&mut |map| {
                let merged = map.merge(&view);
                is_behind = merged.is_behind;
                merged.map
            });
            if let Err(error) = changed {
                round.fail(error);
                return;
            }
        }
        if !is_behind {
            self.state.found();
            self.end(RoundOutcome::Known);
            return;
        }
        round.is_behind |= is_ok;
        let rank = |view: &ClusterView| (view.is_ok(), view.slots_owned());
        if round
            .best
            .as_ref()
            .is_none_or(|best| rank(best) < rank(&view))
        {
            round.best = Some(view);
        }
    }

    /// Everyone has been asked, and nobody knew enough.
    fn nobody_left(&mut self, publisher: &dyn MapPublisher) {
        let Some(round) = &mut self.round else {
            return;
        };
        let (best, mut failure) = (round.best.take(), round.failure.take());
        let outcome = match round.is_behind {
            true => RoundOutcome::Behind,
            false => RoundOutcome::Failed,
        };
        let must_believe = self.end(outcome);
        let mut is_known = false;
        if let Some(view) = &best {
            let changed = publisher.change_map(&mut |map| {
                // A cluster that is down still has slots, and answers CLUSTERDOWN.
                let merged = match map.is_provisional() || must_believe {
                    true => map.replaced_by(view),
                    false => Merged::default(),
                };
                is_known = !map.is_provisional() || merged.map.is_some();
                merged.map
            });
            if let Err(error) = changed {
                is_known = false;
                failure = Some(error);
            }
        }
        match is_known {
            true => self.state.found(),
            false => self.state.not_found(self.not_found(failure)),
        }
    }

    /// Ends the round.
    fn end(&mut self, outcome: RoundOutcome) -> bool {
        if let Some(round) = self.round.take() {
            self.failed = round.asking.into_failed();
        }
        self.refresh.ended(outcome, Instant::now(), rand::random())
    }

    /// Why there is no map.
    fn not_found(&self, failure: Option<Error>) -> Error {
        let seeds = self.state.settings.seed_list();
        let Some(failure) = failure else {
            let text = format!(
                "none of the servers of the cluster at {seeds} knows an owner of any slot; create the cluster first, as \
                 with `redis-cli --cluster create`"
            );
            return Error::new(ErrorKind::NodeDown, text);
        };
        let text = format!(
            "none of the servers of the cluster at {seeds} can be asked for its slots: {failure}"
        );
        failure.with_message(text)
    }
}

impl Round {
    /// Keeps the first failure, unless another is more than a server that cannot be reached.
    fn fail(&mut self, error: Error) {
        let is_more = |known: &Error| {
            known.kind() == ErrorKind::NodeDown && error.kind() != ErrorKind::NodeDown
        };
        if self.failure.as_ref().is_none_or(is_more) {
            self.failure = Some(error);
        }
    }
}
