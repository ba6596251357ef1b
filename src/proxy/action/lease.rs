//! WATCH, UNWATCH, EXEC, HELLO and RESET, as far as they need or keep the exclusive connection of WATCH.
//!
//! The nodes know what is watched, and forget it with the connection. So as long as keys are watched, the session holds a lease;
//! when the connection fails, or cannot follow the client into another protocol, the session remembers that
//! [the WATCH failed](crate::proxy::Session::watch_failed), and EXEC answers as if the keys had changed.

use crate::command::write_command;
use crate::partition::NodeIndex;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, PlannedTransaction, RawReplies};
use crate::proxy::action::server_version::{INFO_SERVER, UNKNOWN_VERSION, redis_version};
use crate::proxy::action::task::{ActionTask, Awaited};
use crate::proxy::action::{ActionContext, ActionStep};
use crate::proxy::hello::Hello;
use crate::proxy::session::Session;
use crate::proxy::transaction::QueuedTransaction;
use crate::resp::{UNWATCH, write_status};

impl ActionTask {
    pub(super) fn watch(&mut self, node: NodeIndex, packed: Vec<u8>, cx: &ActionContext<'_>) {
        match cx.session.lease() {
            // All watched keys are on one node, so a further WATCH goes over the connection of the first one.
            Some(_) => self.send_watch(node, packed),
            None => self.step(ActionStep::Lease(node), Awaited::Lease { node, packed }),
        }
    }

    pub(super) fn leased(
        &mut self,
        node: NodeIndex,
        packed: Vec<u8>,
        leased: Result<(), Cause>,
        cx: &mut ActionContext<'_>,
    ) {
        match leased {
            Ok(()) => {
                cx.session.begin_lease();
                self.send_watch(node, packed);
            }
            Err(cause) => {
                cx.session.watch_failed();
                let failure = Failure::not_sent(cause);
                self.write_error(cx, &failure.without_answer(cx.router.name(node)));
            }
        }
    }

    fn send_watch(&mut self, node: NodeIndex, packed: Vec<u8>) {
        self.step(send_one(packed), Awaited::Watch { node });
    }

    pub(super) fn watched(
        &mut self,
        node: NodeIndex,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        let reply = answers.values.frame(0);
        if reply != Some(b"+OK\r\n") {
            // What was watched before is forgotten with the connection.
            cx.session.watch_failed();
            self.drop_lease(cx.session);
        }
        match (reply, &answers.failure) {
            (Some(frame), _) => self.write(cx, frame),
            (None, Some(failure)) => {
                self.write_error(cx, &failure.without_answer(cx.router.name(node)));
            }
            (None, None) => {}
        }
    }

    /// Nothing is watched any more. The reply to the client's UNWATCH, DISCARD or EXEC, if it was one, stands in the output already.
    pub(super) fn unwatch(&mut self, resets: bool, cx: &mut ActionContext<'_>) {
        match cx.session.lease() {
            Some(_) => self.step(send_one(UNWATCH.to_vec()), Awaited::Unwatch { resets }),
            None if resets => self.reset(cx),
            None => {}
        }
    }

    pub(super) fn unwatched(
        &mut self,
        answers: &Answers<RawReplies>,
        resets: bool,
        cx: &mut ActionContext<'_>,
    ) {
        // Whoever has the connection next must not find its EXEC stopped by keys that this client has watched.
        match answers.values.frame(0) {
            Some(b"+OK\r\n") => self.release_lease(cx.session),
            _ => self.drop_lease(cx.session),
        }
        if resets {
            self.reset(cx);
        }
    }

    fn reset(&mut self, cx: &mut ActionContext<'_>) {
        self.steps.push_back(ActionStep::DropSubscriber);
        cx.session.reset();
        self.reply(cx.out, |out| write_status(out, "RESET"));
    }

    pub(super) fn exec(&mut self, transaction: QueuedTransaction, cx: &mut ActionContext<'_>) {
        let on_lease = cx.session.lease().is_some();
        if transaction.watched && !on_lease {
            // The connection of WATCH is no more, and what it watched may have changed.
            let protocol = cx.session.protocol();
            return self.reply(cx.out, |out| protocol.write_nil_array(out));
        }
        let step = ActionStep::Exec {
            transaction,
            on_lease,
        };
        self.step(step, Awaited::Exec);
    }

    pub(super) fn executed(
        &mut self,
        node: NodeIndex,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        // EXEC ends what is watched, also when it is answered with nil or with an error.
        match answers.failure {
            None => self.release_lease(cx.session),
            Some(_) => self.drop_lease(cx.session),
        }
        let (name, protocol) = (cx.router.name(node), cx.session.protocol());
        self.reply(cx.out, |out| {
            PlannedTransaction::raw_exec_reply(name, answers, protocol, out);
        });
    }

    /// Asks for the version of the servers: node number `at` first, and then one after another until one knows it. They are asked one by
    /// one because the first nearly always knows, and never again once one did.
    pub(super) fn ask_version(&mut self, hello: Hello, at: usize, cx: &mut ActionContext<'_>) {
        match cx.router.topology().indices().nth(at) {
            None => self.send_hello(&hello, UNKNOWN_VERSION, cx),
            Some(node) => {
                let packed = INFO_SERVER.to_vec();
                let step = ActionStep::CallNode { node, packed };
                self.step(step, Awaited::Info { hello, node });
            }
        }
    }

    pub(super) fn info_received(
        &mut self,
        hello: Hello,
        node: NodeIndex,
        info: &[u8],
        cx: &mut ActionContext<'_>,
    ) {
        match redis_version(info) {
            None => self.ask_version(hello, node.get() + 1, cx),
            Some(version) => {
                self.steps
                    .push_back(ActionStep::SetServerVersion(version.clone()));
                self.send_hello(&hello, &version, cx);
            }
        }
    }

    /// HELLO, now that the version is known. What is watched stays so, and its connection follows into the new protocol, since
    /// EXEC's replies must be of that one.
    pub(super) fn send_hello(&mut self, hello: &Hello, version: &str, cx: &mut ActionContext<'_>) {
        let before = cx.session.protocol();
        cx.session.hello(hello);
        self.reply(cx.out, |out| cx.session.write_hello(version, out));
        let protocol = cx.session.protocol();
        if protocol == before || cx.session.lease().is_none() {
            return;
        }
        let mut packed = Vec::new();
        write_command(
            &mut packed,
            &[b"HELLO", protocol.number().to_string().as_bytes()],
        );
        self.step(send_one(packed), Awaited::LeaseHello);
    }

    pub(super) fn lease_greeted(
        &mut self,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        let reply = answers.values.frame(0);
        if reply.is_none_or(|reply| reply.starts_with(b"-")) {
            cx.session.watch_failed();
            self.drop_lease(cx.session);
        }
    }

    /// Gives the exclusive connection back, unless it speaks another protocol now than those it was taken from.
    fn release_lease(&mut self, session: &mut Session) {
        self.steps.extend(session.end_lease().map(|protocol| {
            match protocol == session.protocol() {
                true => ActionStep::ReleaseLease,
                false => ActionStep::DropLease,
            }
        }));
    }

    fn drop_lease(&mut self, session: &mut Session) {
        let dropped = session.end_lease().map(|_| ActionStep::DropLease);
        self.steps.extend(dropped);
    }
}

/// One request on the exclusive connection.
fn send_one(packed: Vec<u8>) -> ActionStep {
    ActionStep::SendOnLease {
        packed,
        replies: 1,
        expected_end: ExpectedEnd::Any,
    }
}
