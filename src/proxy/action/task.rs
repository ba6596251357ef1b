//! One action under way.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::parse_one;
use crate::proxy::action::{Action, ActionContext, ActionOutcome, ActionStep, SubscriptionRequest};
use crate::proxy::client_command::Unblocked;
use crate::proxy::hello::Hello;
use crate::proxy::pause::Pause;

/// Carries out one [`Action`]: gives the steps, and is told what came of each before it gives the next.
///
/// Replies are appended to [`ActionContext::out`] as soon as they are known. One that the client has switched off by CLIENT REPLY is not
/// written at all.
#[derive(Debug)]
pub(crate) struct ActionTask {
    wants_reply: bool,
    /// Steps that follow whatever comes of those before them. Only the last of them may have an outcome that decides something.
    pub(super) steps: VecDeque<ActionStep>,
    pub(super) state: State,
    /// Whether the client's connection goes on.
    pub(super) flow: ControlFlow<()>,
}

/// What follows when all steps are taken.
#[derive(Debug)]
pub(super) enum State {
    Start(Action),
    /// A command that may wait is sent, once the replies before it are written out.
    Block(Vec<u8>),
    /// The next names are confirmed to the client.
    Confirm {
        request: SubscriptionRequest,
        /// The first that is not confirmed yet.
        next: usize,
    },
    /// The outcome of the last step decides.
    Await(Awaited),
    Finished,
}

/// Whose outcome is waited for.
#[derive(Debug)]
pub(super) enum Awaited {
    /// A command's reply, which is passed on.
    Reply,
    /// The reply to CLIENT UNPAUSE.
    Unpause,
    /// The reply to this command, which may wait.
    Blocking(Vec<u8>),
    /// The exclusive connection for this WATCH.
    Lease {
        node: NodeIndex,
        packed: Vec<u8>,
    },
    /// The reply to WATCH.
    Watch {
        node: NodeIndex,
    },
    /// The reply to UNWATCH, which was sent because of UNWATCH and others, or of RESET.
    Unwatch {
        resets: bool,
    },
    Exec,
    /// The version of the servers, as far as it is known already.
    Version(Hello),
    /// This node's reply to INFO.
    Info {
        hello: Hello,
        node: NodeIndex,
    },
    /// The reply to HELLO on the connection of WATCH.
    LeaseHello,
    /// The confirmation of the nodes.
    Subscribe(SubscriptionRequest),
    /// The end of those subscriptions that were made by a SUBSCRIBE that failed with this error.
    Rollback(Error),
    /// Messages that came before an UNSUBSCRIBE.
    Messages(SubscriptionRequest),
}

impl ActionTask {
    /// `wants_reply` is false for a client that has switched replies off.
    pub(crate) fn new(action: Action, wants_reply: bool) -> Self {
        Self {
            wants_reply,
            steps: VecDeque::new(),
            state: State::Start(action),
            flow: ControlFlow::Continue(()),
        }
    }

    /// The next step.
    pub(crate) fn poll(&mut self, cx: &mut ActionContext<'_>) -> ActionStep {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            match std::mem::replace(&mut self.state, State::Finished) {
                State::Start(action) => self.start(action, cx),
                State::Block(packed) => self.block(packed, cx),
                State::Confirm { request, next } => self.confirm(request, next, cx),
                State::Await(_) => self.lose_step(),
                State::Finished => return ActionStep::Done(self.flow),
            }
        }
    }

    /// What came of the step that [`poll`](Self::poll) gave last.
    pub(crate) fn handle(&mut self, outcome: ActionOutcome, cx: &mut ActionContext<'_>) {
        let awaited = match (std::mem::replace(&mut self.state, State::Finished), outcome) {
            (State::Await(awaited), outcome) if self.steps.is_empty() => (awaited, outcome),
            // A step before the last, or one that decides nothing.
            (state, _) => return self.state = state,
        };
        match awaited {
            (Awaited::Reply, ActionOutcome::Reply(reply)) => self.write(cx, &reply),
            (Awaited::Unpause, ActionOutcome::Reply(reply)) => self.unpaused(&reply, cx),
            (Awaited::Blocking(packed), outcome) => self.unblocked(&packed, outcome, cx),
            (Awaited::Lease { node, packed }, ActionOutcome::Leased(leased)) => {
                self.leased(node, packed, leased, cx);
            }
            (Awaited::Watch { node }, ActionOutcome::Answered(answers)) => {
                self.watched(node, &answers, cx);
            }
            (Awaited::Unwatch { resets }, ActionOutcome::Answered(answers)) => {
                self.unwatched(&answers, resets, cx);
            }
            (Awaited::Exec, ActionOutcome::Executed { node, answers }) => {
                self.executed(node, &answers, cx);
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

    fn start(&mut self, action: Action, cx: &mut ActionContext<'_>) {
        if cx.pause != Pause::Nothing {
            // What is answered already does not wait for what the nodes hold back.
            self.steps.push_back(ActionStep::Flush);
        }
        match action {
            Action::RunBlocking(packed) => {
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
                // Before the nodes are told: what is sent behind this on shared connections would be held back there, together with
                // the requests of other clients. For the same reason it stays when a node refuses: others may have begun.
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
            Action::Registry(request) => self.step(ActionStep::Registry(request), Awaited::Reply),
            Action::Hello(hello) => self.step(ActionStep::ServerVersion, Awaited::Version(hello)),
            Action::Reset => self.unwatch(true, cx),
            Action::Close => self.flow = ControlFlow::Break(()),
        }
    }

    fn block(&mut self, packed: Vec<u8>, cx: &ActionContext<'_>) {
        // Of a command that a pause holds back nobody can say that it is not done: it may run when the pause ends, although its client
        // was told that it timed out. So CLIENT UNBLOCK does not find it.
        let may_unblock = cx.pause == Pause::Nothing;
        self.steps.push_back(ActionStep::SetBlocked(may_unblock));
        let step = ActionStep::CallBlocking {
            packed: packed.clone(),
        };
        self.step(step, Awaited::Blocking(packed));
    }

    fn unblocked(&mut self, packed: &[u8], outcome: ActionOutcome, cx: &mut ActionContext<'_>) {
        self.steps.push_back(ActionStep::SetBlocked(false));
        match outcome {
            ActionOutcome::Reply(reply) => self.write(cx, &reply),
            ActionOutcome::Unblocked(how) => self.write_unblocked(packed, how, cx),
            ActionOutcome::Closed => self.flow = ControlFlow::Break(()),
            ActionOutcome::Done
            | ActionOutcome::Leased(_)
            | ActionOutcome::Answered(_)
            | ActionOutcome::Executed { .. }
            | ActionOutcome::Subscribed(_)
            | ActionOutcome::Version(_) => self.lose_step(),
        }
    }

    fn write_unblocked(&self, packed: &[u8], how: Unblocked, cx: &mut ActionContext<'_>) {
        let args = parse_one(packed).unwrap_or_default();
        let protocol = cx.session.protocol();
        self.reply(cx.out, |out| how.write(&args, protocol, out));
    }

    /// Unless all nodes have said OK, some may still hold commands back.
    fn unpaused(&mut self, reply: &[u8], cx: &mut ActionContext<'_>) {
        if reply == b"+OK\r\n" {
            self.steps.push_back(ActionStep::EndPause);
        }
        self.write(cx, reply);
    }

    /// Adds a step whose outcome decides.
    pub(super) fn step(&mut self, step: ActionStep, awaited: Awaited) {
        self.steps.push_back(step);
        self.state = State::Await(awaited);
    }

    /// Writes the reply to the client's request, if it wants one.
    pub(super) fn reply(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.wants_reply {
            write(out);
        }
    }

    pub(super) fn write(&self, cx: &mut ActionContext<'_>, reply: &[u8]) {
        self.reply(cx.out, |out| out.extend_from_slice(reply));
    }

    pub(super) fn write_error(&self, cx: &mut ActionContext<'_>, error: &Error) {
        let protocol = cx.session.protocol();
        self.reply(cx.out, |out| protocol.write(out, &error.to_reply()));
    }

    /// The network part gave an outcome that is none of this step's. The client would wait for its reply for ever, so it is disconnected.
    fn lose_step(&mut self) {
        debug_assert!(false, "an outcome of another step");
        self.flow = ControlFlow::Break(());
    }
}
