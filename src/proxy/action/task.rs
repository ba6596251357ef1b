//! The state machine of one action: [`ActionTask`].
//!
//! Its states are [`State`]; the handlers of WATCH, EXEC and HELLO are in `lease`, those of SUBSCRIBE in
//! `subscribe`.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::parse_one;
use crate::proxy::action::{Action, ActionContext, ActionOutcome, ActionStep, SubscriptionRequest};
use crate::proxy::client_command::Unblocked;
use crate::proxy::hello::Hello;
use crate::proxy::pause::Pause;

/// Carries out one [`Action`]: [`poll`](Self::poll) returns a step, and its outcome is passed to
/// [`handle`](Self::handle) before the next poll.
///
/// Replies are appended to [`ActionContext::out`] as soon as they are known. A reply that CLIENT REPLY
/// switches off is not written at all.
#[derive(Debug)]
pub(crate) struct ActionTask {
    /// True if the client gets the reply to its request. Confirmations of subscriptions are written in any
    /// case.
    wants_reply: bool,
    /// Steps to take before `state` is continued. Only the outcome of the last one may be awaited.
    pub(super) steps: VecDeque<ActionStep>,
    pub(super) state: State,
    /// `Break` if the connection is closed when the task is finished.
    pub(super) flow: ControlFlow<()>,
}

/// The continuation once all steps have been taken.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing was done yet.
    Start(Action),
    /// This blocking command is sent, once the replies before it have been written to the client.
    Block(Vec<u8>),
    /// The next names are confirmed to the client.
    Confirm {
        request: SubscriptionRequest,
        /// Index of the first name that is not confirmed yet.
        next: usize,
    },
    /// The outcome of the last step decides.
    Await(Awaited),
    /// Nothing is left to do but the steps in the queue.
    Finished,
}

/// Which outcome is awaited, with what is needed to go on from it.
#[derive(Debug)]
pub(super) enum Awaited {
    /// The reply to a command, which is passed on.
    Reply,
    /// The reply to INFO of a client.
    ServerInfo,
    /// The reply to CLIENT UNPAUSE.
    Unpause,
    /// The reply to this blocking command, unless CLIENT UNBLOCK or the end of the connection comes first.
    Blocking(Vec<u8>),
    /// The exclusive connection for this WATCH.
    Lease { node: NodeIndex, packed: Vec<u8> },
    /// The reply to the first WATCH in a Redis Cluster.
    FirstWatch,
    /// The reply to WATCH.
    Watch { node: NodeIndex },
    /// The reply to UNWATCH. With `resets`, it was sent because of RESET.
    Unwatch { resets: bool },
    /// The replies to MULTI ... EXEC.
    Exec {
        /// True if the first command is not the client's.
        is_guarded: bool,
    },
    /// The version of the servers, if it is known already.
    Version(Hello),
    /// This node's reply to INFO.
    Info { hello: Hello, node: NodeIndex },
    /// The reply to HELLO on the connection of WATCH.
    LeaseHello,
    /// The confirmation of the nodes.
    Subscribe(SubscriptionRequest),
    /// The end of the subscriptions that a SUBSCRIBE had begun before it failed with this error.
    Rollback(Error),
    /// Messages that arrived before the confirmation of this UNSUBSCRIBE.
    Messages(SubscriptionRequest),
}

impl ActionTask {
    /// Creates a task. `wants_reply` is false if CLIENT REPLY has switched the reply off.
    pub(crate) fn new(action: Action, wants_reply: bool) -> Self {
        Self {
            wants_reply,
            steps: VecDeque::new(),
            state: State::Start(action),
            flow: ControlFlow::Continue(()),
        }
    }

    /// Returns the next step. After [`Done`](ActionStep::Done) the task is finished.
    pub(crate) fn poll(&mut self, cx: &mut ActionContext<'_>) -> ActionStep {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            match std::mem::replace(&mut self.state, State::Finished) {
                State::Start(action) => self.start(action, cx),
                State::Block(packed) => self.block(packed, cx),
                State::Confirm { request, next } => self.confirm(request, next, cx),
                // Polled again without the outcome of the last step.
                State::Await(_) => self.lose_step(),
                State::Finished => return ActionStep::Done(self.flow),
            }
        }
    }

    /// Takes the outcome of the step that [`poll`](Self::poll) returned last.
    pub(crate) fn handle(&mut self, outcome: ActionOutcome, cx: &mut ActionContext<'_>) {
        let awaited = match (std::mem::replace(&mut self.state, State::Finished), outcome) {
            (State::Await(awaited), outcome) if self.steps.is_empty() => (awaited, outcome),
            // A step before the last, or one without an awaited outcome.
            (state, _) => return self.state = state,
        };
        match awaited {
            (Awaited::Reply, ActionOutcome::Reply(reply)) => self.write(cx, &reply),
            (Awaited::ServerInfo, ActionOutcome::Reply(reply)) => {
                let shown = cx.session.shown_info(&reply);
                self.write(cx, &shown);
            }
            (Awaited::Unpause, ActionOutcome::Reply(reply)) => self.unpaused(&reply, cx),
            (Awaited::Blocking(packed), outcome) => self.unblocked(&packed, outcome, cx),
            (Awaited::Lease { node, packed }, ActionOutcome::Leased(leased)) => {
                self.leased(node, packed, leased, cx);
            }
            (Awaited::FirstWatch, ActionOutcome::Watched { server, answers }) => {
                self.first_watched(&server, &answers, cx);
            }
            (Awaited::Exec { .. }, ActionOutcome::Moved) => self.transaction_moved(cx),
            (Awaited::Watch { node }, ActionOutcome::Answered(answers)) => {
                self.watched(node, &answers, cx);
            }
            (Awaited::Unwatch { resets }, ActionOutcome::Answered(answers)) => {
                self.unwatched(&answers, resets, cx);
            }
            (Awaited::Exec { is_guarded }, ActionOutcome::Executed { node, answers }) => {
                self.executed(node, &answers, is_guarded, cx);
            }
            (Awaited::Version(hello), ActionOutcome::Version(version)) => match version {
                Some(version) => self.send_hello(&hello, &version, cx),
                None => self.ask_version(hello, 0, cx),
            },
            (Awaited::Info { hello, node }, ActionOutcome::Reply(info)) => {
                self.info_received(hello, node, &info, cx);
            }
            (Awaited::LeaseHello, ActionOutcome::Answered(answers)) => {
                self.lease_greeted(&answers, cx);
            }
            (Awaited::Subscribe(request), ActionOutcome::Subscribed(result)) => {
                self.subscribed(request, result, cx);
            }
            // If the rollback fails too, the client may get messages it did not ask for, which the session
            // drops: they are for names that it has not confirmed.
            (Awaited::Rollback(error), ActionOutcome::Subscribed(_)) => {
                self.subscription_failed(&error, cx);
            }
            (Awaited::Messages(request), ActionOutcome::Done) => {
                self.state = State::Confirm { request, next: 0 };
            }
            (Awaited::Messages(_), ActionOutcome::Closed) => self.flow = ControlFlow::Break(()),
            (_, _) => self.lose_step(),
        }
    }

    /// Queues the first steps of an action.
    fn start(&mut self, action: Action, cx: &mut ActionContext<'_>) {
        if cx.pause != Pause::Nothing {
            // Replies that are there already must not wait for what the nodes hold back.
            self.steps.push_back(ActionStep::Flush);
        }
        match action {
            Action::RunBlocking(packed) => {
                // A client that waits for the reply to SET before it pushes to the list would wait as long as
                // the BLPOP behind the SET.
                self.steps.push_back(ActionStep::Flush);
                self.state = State::Block(packed);
            }
            Action::Script(packed) => {
                self.step(ActionStep::Call { packed }, Awaited::Reply);
            }
            Action::Pause {
                pause,
                length,
                packed,
            } => {
                // Before the nodes get the command: a request sent after it on a shared connection would be
                // held back there, together with requests of other clients. It stays when a node refuses,
                // since other nodes may have begun.
                self.steps
                    .push_back(ActionStep::BeginPause { pause, length });
                self.step(ActionStep::Call { packed }, Awaited::Reply);
            }
            Action::Unpause(packed) => {
                self.step(ActionStep::Call { packed }, Awaited::Unpause);
            }
            Action::Watch { node, packed } => self.watch(node, packed, cx),
            Action::Unwatch => self.unwatch(false, cx),
            Action::Exec(transaction) => self.exec(transaction, cx),
            Action::Subscribe(request) => {
                let step = ActionStep::Subscribe(request.clone());
                self.step(step, Awaited::Subscribe(request));
            }
            Action::Info(packed) => self.step(ActionStep::Call { packed }, Awaited::ServerInfo),
            Action::Registry(request) => self.step(ActionStep::Registry(request), Awaited::Reply),
            Action::Hello(hello) => self.step(ActionStep::ServerVersion, Awaited::Version(hello)),
            Action::Reset => self.unwatch(true, cx),
            Action::Close => self.flow = ControlFlow::Break(()),
        }
    }

    /// Sends a blocking command.
    fn block(&mut self, packed: Vec<u8>, cx: &ActionContext<'_>) {
        // A command held back by CLIENT PAUSE must not be unblocked: it may still run when the pause ends,
        // after its client has got the reply of a timeout.
        let may_unblock = cx.pause == Pause::Nothing;
        self.steps.push_back(ActionStep::SetBlocked(may_unblock));
        let step = ActionStep::CallBlocking {
            packed: packed.clone(),
        };
        self.step(step, Awaited::Blocking(packed));
    }

    /// Handles the end of a blocking command, whichever way it came.
    fn unblocked(&mut self, packed: &[u8], outcome: ActionOutcome, cx: &mut ActionContext<'_>) {
        // First, so that a CLIENT UNBLOCK from now on replies 0 and does not end the client's next blocking
        // command.
        self.steps.push_back(ActionStep::SetBlocked(false));
        match outcome {
            ActionOutcome::Reply(reply) => self.write(cx, &reply),
            ActionOutcome::Unblocked(how) => self.write_unblocked(packed, how, cx),
            // No reply: a server that closes the connection of a blocked client sends none either.
            ActionOutcome::Closed => self.flow = ControlFlow::Break(()),
            ActionOutcome::Done
            | ActionOutcome::Leased(_)
            | ActionOutcome::Answered(_)
            | ActionOutcome::Watched { .. }
            | ActionOutcome::Moved
            | ActionOutcome::Executed { .. }
            | ActionOutcome::Subscribed(_)
            | ActionOutcome::Version(_) => self.lose_step(),
        }
    }

    /// Writes the reply that CLIENT UNBLOCK gives to the blocked command.
    fn write_unblocked(&self, packed: &[u8], how: Unblocked, cx: &mut ActionContext<'_>) {
        let args = parse_one(packed).unwrap_or_default();
        let protocol = cx.session.protocol();
        self.reply(cx.out, |out| how.write(&args, protocol, out));
    }

    /// Handles the reply to CLIENT UNPAUSE. Unless all nodes replied OK, some may still hold commands back,
    /// so the pause stays recorded until its end.
    fn unpaused(&mut self, reply: &[u8], cx: &mut ActionContext<'_>) {
        if reply == b"+OK\r\n" {
            self.steps.push_back(ActionStep::EndPause);
        }
        self.write(cx, reply);
    }

    /// Queues a step whose outcome decides.
    pub(super) fn step(&mut self, step: ActionStep, awaited: Awaited) {
        self.steps.push_back(step);
        self.state = State::Await(awaited);
    }

    /// Writes the reply to the client's request, unless CLIENT REPLY has switched it off.
    pub(super) fn reply(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.wants_reply {
            write(out);
        }
    }

    /// Writes a reply that is in the client's protocol already.
    pub(super) fn write(&self, cx: &mut ActionContext<'_>, reply: &[u8]) {
        self.reply(cx.out, |out| out.extend_from_slice(reply));
    }

    /// Writes an error of this crate as the reply.
    pub(super) fn write_error(&self, cx: &mut ActionContext<'_>, error: &Error) {
        let protocol = cx.session.protocol();
        self.reply(cx.out, |out| protocol.write(out, &error.to_reply()));
    }

    /// Handles an outcome that belongs to another step, which is a defect of the executor. The client would
    /// wait for its reply for ever, so it is disconnected.
    fn lose_step(&mut self) {
        debug_assert!(false, "an outcome of another step");
        self.flow = ControlFlow::Break(());
    }
}
