//! A client, the proxy's decisions, and nodes that answer and fail as a table says: no socket, no clock.
//!
//! [`Simulation`] feeds requests to a [`Session`], carries out the steps of each action on a model of the
//! nodes, and records the steps and the bytes to the client. `rows` are such histories written out;
//! `histories` goes through all short ones.

mod cluster;
mod histories;
mod rows;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::command::{Args, CommandTable, PackedCommands, write_command};
use crate::error::{Error, ErrorKind};
use crate::partition::{NodeSpec, from_fn};
use crate::plan::{
    Answers, Cause, Failure, RawPipeline, RawReplies, Router, ScriptCache, SplitWrites,
    WriteProgress,
};
use crate::proxy::action::{
    Action, ActionContext, ActionOutcome, ActionStep, ActionTask, SubscriptionRequest,
};
use crate::proxy::auth::Auth;
use crate::proxy::client_command::Unblocked;
use crate::proxy::client_info::ClientInfo;
use crate::proxy::pause::Pause;
use crate::proxy::session::{NextStep, Session};
use crate::resp::Protocol;
use crate::topology::Topology;

/// The nodes and the other clients: a word or a reply for each step that has an outcome.
trait Network {
    fn outcome(&mut self, step: &ActionStep, session: &Session) -> String;
}

struct Simulation<N> {
    router: Router,
    session: Session,
    network: N,
    pause: Pause,
    steps: Vec<String>,
    out: Vec<u8>,
}

/// Keys that begin with `a` are on node a, all others on node b.
fn router() -> Router {
    let nodes = ["a", "b"].map(NodeSpec::unnamed).to_vec();
    let by_letter = from_fn("letters/1", |key, _| usize::from(!key.starts_with(b"a")));
    let topology = Topology::new(nodes, Arc::new(by_letter)).unwrap();
    let table = Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, SplitWrites::Allowed)
}

impl<N: Network> Simulation<N> {
    fn new(network: N) -> Self {
        Self::over(router(), network)
    }

    fn over(router: Router, network: N) -> Self {
        Self {
            router,
            session: Session::new(ClientInfo::default(), Auth::default()),
            network,
            pause: Pause::Nothing,
            steps: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Runs these requests, which arrive all at once. Commands of a round get the reply `:1`.
    fn run(&mut self, requests: &[&str]) -> ControlFlow<()> {
        let mut input = Vec::new();
        for request in requests {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            write_command(&mut input, &args);
        }
        while !input.is_empty() {
            let (consumed, next) = self.round(&input);
            input.drain(..consumed);
            match next {
                NextStep::Act {
                    action,
                    wants_reply,
                } => self.perform(action, wants_reply)?,
                NextStep::Round => {}
                NextStep::Input(_) if input.is_empty() => {}
                next => panic!("{next:?} behind {requests:?}"),
            }
        }
        ControlFlow::Continue(())
    }

    fn round(&mut self, input: &[u8]) -> (usize, NextStep) {
        let mut pipeline = RawPipeline::new(&self.router, &ScriptCache::empty, input.len(), 0);
        self.session.set_pause(self.pause);
        let round = self.session.read_round(input, &mut pipeline);
        let mut exchange = pipeline.exchange();
        let answers = exchange.attempts().map(|attempt| {
            let mut values = RawReplies::default();
            attempt
                .request
                .slots
                .iter()
                .for_each(|_| values.push(b":1\r\n"));
            Answers {
                values,
                failure: None,
            }
        });
        let answers = answers.collect();
        exchange.handle(answers);
        let mut writer = pipeline.reply_writer(&exchange, self.session.protocol(), 0);
        let progress = writer.write_next(&mut self.out, usize::MAX);
        assert!(matches!(progress, WriteProgress::All));
        (round.consumed, round.next)
    }

    fn perform(&mut self, action: Action, wants_reply: bool) -> ControlFlow<()> {
        let mut task = ActionTask::new(action, wants_reply);
        for _ in 0..100 {
            let step = task.poll(&mut self.context());
            self.steps.push(describe(&step));
            let outcome = match step {
                ActionStep::Done(flow) => {
                    self.steps.pop();
                    if flow.is_break() {
                        self.steps.push("close".into());
                    }
                    return flow;
                }
                step => self.carry_out(&step),
            };
            task.handle(outcome, &mut self.context());
        }
        panic!("an action without end: {:?}", self.steps);
    }

    fn context(&mut self) -> ActionContext<'_> {
        ActionContext {
            session: &mut self.session,
            router: &self.router,
            pause: self.pause,
            out: &mut self.out,
        }
    }

    fn carry_out(&mut self, step: &ActionStep) -> ActionOutcome {
        match step {
            ActionStep::BeginPause { pause, .. } => self.pause = *pause,
            ActionStep::EndPause => self.pause = Pause::Nothing,
            _ => {}
        }
        let said = self.network.outcome(step, &self.session);
        let broken = || Cause::Dropped("broken".into());
        match step {
            ActionStep::Lease(_) => ActionOutcome::Leased(match said.as_str() {
                "ok" => Ok(()),
                _ => Err(Cause::Connect("down".into())),
            }),
            ActionStep::LeaseInCluster { .. } => ActionOutcome::Watched {
                server: "a:1".into(),
                answers: answers(&said, 1),
            },
            ActionStep::Exec { .. } if said == "moved" => ActionOutcome::Moved,
            ActionStep::SendOnLease { replies, .. } => {
                ActionOutcome::Answered(answers(&said, *replies))
            }
            ActionStep::Exec {
                transaction,
                on_lease,
            } => ActionOutcome::Executed {
                node: transaction.node_of(&self.router, u64::from(*on_lease)),
                answers: answers(&said, transaction.commands + 2),
            },
            ActionStep::Call { .. } | ActionStep::CallNode { .. } | ActionStep::Registry(_) => {
                ActionOutcome::Reply(packed_words(&said))
            }
            ActionStep::CallBlocking { .. } => match said.as_str() {
                "unblock timeout" => ActionOutcome::Unblocked(Unblocked::Timeout),
                "unblock error" => ActionOutcome::Unblocked(Unblocked::Error),
                "killed" => ActionOutcome::Closed,
                reply => ActionOutcome::Reply(packed_words(reply)),
            },
            ActionStep::Subscribe(_) => ActionOutcome::Subscribed(match said.as_str() {
                "ok" => Ok(()),
                _ => Err(Error::new(
                    ErrorKind::NodeDown,
                    Failure::not_sent(broken()).cause.to_string(),
                )),
            }),
            ActionStep::PassOnMessages if said == "gap" => ActionOutcome::Closed,
            ActionStep::PassOnMessages => {
                self.out.extend_from_slice(&packed_words(&said));
                ActionOutcome::Done
            }
            ActionStep::ServerVersion => {
                ActionOutcome::Version((said != "unknown").then(|| said.clone()))
            }
            ActionStep::Flush
            | ActionStep::Yield
            | ActionStep::ReleaseLease
            | ActionStep::DropLease
            | ActionStep::SetBlocked(_)
            | ActionStep::DropSubscriber
            | ActionStep::BeginPause { .. }
            | ActionStep::EndPause
            | ActionStep::SetServerVersion(_)
            | ActionStep::Done(_) => ActionOutcome::Done,
        }
    }
}

/// A reply, with `/` for each line end.
fn packed_words(reply: &str) -> Vec<u8> {
    match reply {
        "" => Vec::new(),
        _ => (reply.replace('/', "\r\n") + "\r\n").into_bytes(),
    }
}

/// Replies separated by `, `. `broken` in the place of one: the connection broke after those before it.
fn answers(said: &str, count: usize) -> Answers<RawReplies> {
    let mut values = RawReplies::default();
    let mut failure = None;
    for reply in said.split(", ") {
        match reply {
            "broken" => {
                failure = Some(Failure {
                    cause: Cause::Dropped("broken".into()),
                    sent: count,
                });
            }
            reply => values.push(&packed_words(reply)),
        }
    }
    Answers {
        values,
        failure: failure.map(Box::new),
    }
}

/// The arguments of packed requests, separated by spaces.
fn words(packed: &[u8]) -> String {
    let mut commands = PackedCommands::new(packed);
    let mut args = Args::new();
    let mut words = Vec::new();
    while let Ok(Some(_)) = commands.next(&mut args) {
        words.extend(
            args.iter()
                .map(|arg| String::from_utf8_lossy(arg).into_owned()),
        );
    }
    words.join(" ")
}

fn describe(step: &ActionStep) -> String {
    match step {
        ActionStep::Flush => "flush".into(),
        ActionStep::Yield => "yield".into(),
        ActionStep::Lease(node) => format!("lease {}", ["a", "b"][node.get()]),
        ActionStep::LeaseInCluster { node, packed } => {
            format!("lease {} {}", ["a", "b"][node.get()], words(packed))
        }
        ActionStep::SendOnLease { packed, .. } => format!("send {}", words(packed)),
        ActionStep::ReleaseLease => "release".into(),
        ActionStep::DropLease => "drop".into(),
        ActionStep::Call { packed } => format!("call {}", words(packed)),
        ActionStep::CallNode { node, packed } => {
            format!("ask {} {}", ["a", "b"][node.get()], words(packed))
        }
        ActionStep::CallBlocking { packed } => format!("wait {}", words(packed)),
        ActionStep::SetBlocked(blocked) => format!("blocked {blocked}"),
        ActionStep::Exec {
            transaction,
            on_lease,
        } => match on_lease {
            true => format!("exec on lease {}", words(&transaction.packed)),
            false => format!("exec {}", words(&transaction.packed)),
        },
        ActionStep::Subscribe(SubscriptionRequest {
            change,
            kind,
            names,
        }) => {
            let command = kind.command(*change).to_ascii_lowercase();
            let names = names.iter().map(|name| String::from_utf8_lossy(name));
            let names: Vec<_> = names.collect();
            format!("{} {}", String::from_utf8_lossy(&command), names.join(" "))
        }
        ActionStep::PassOnMessages => "messages".into(),
        ActionStep::DropSubscriber => "drop subscriber".into(),
        ActionStep::BeginPause { pause, .. } => format!("pause {pause:?}"),
        ActionStep::EndPause => "pause ends".into(),
        ActionStep::Registry(_) => "registry".into(),
        ActionStep::ServerVersion => "version".into(),
        ActionStep::SetServerVersion(version) => format!("version is {version}"),
        ActionStep::Done(_) => "done".into(),
    }
}

/// Outcomes in their order. Steps that cannot fail have none.
#[derive(Default)]
struct Script(VecDeque<String>);

impl Network for Script {
    fn outcome(&mut self, step: &ActionStep, _: &Session) -> String {
        match step {
            ActionStep::Lease(_)
            | ActionStep::LeaseInCluster { .. }
            | ActionStep::SendOnLease { .. }
            | ActionStep::Exec { .. }
            | ActionStep::Call { .. }
            | ActionStep::CallNode { .. }
            | ActionStep::Registry(_)
            | ActionStep::CallBlocking { .. }
            | ActionStep::Subscribe(_)
            | ActionStep::PassOnMessages
            | ActionStep::ServerVersion => self
                .0
                .pop_front()
                .unwrap_or_else(|| panic!("no outcome for {}", describe(step))),
            _ => String::new(),
        }
    }
}
