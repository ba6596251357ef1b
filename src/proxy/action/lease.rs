//! WATCH, UNWATCH, EXEC, HELLO and RESET, as far as they need or keep the exclusive connection of WATCH.
//!
//! The node knows which keys are watched, and forgets them when their connection closes. So as long as keys
//! are watched, the session holds a lease on that connection. When the connection fails, or cannot follow the
//! client into another protocol, the session records that [the WATCH
//! failed](crate::proxy::Session::watch_failed), and EXEC replies nil as if the keys had changed.
//!
//! A lease ends in one of two ways. It is released when the last reply proves that nothing is watched and no
//! transaction is open; in all other cases it is dropped, because the next user of the connection would
//! inherit its state.

use crate::command::write_command;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Cause, ExpectedEnd, Failure, PlannedTransaction, RawReplies, ReplyBuffer,
};
use crate::proxy::action::server_version::{INFO_SERVER, UNKNOWN_VERSION, redis_version};
use crate::proxy::action::task::{ActionTask, Awaited};
use crate::proxy::action::{ActionContext, ActionStep};
use crate::proxy::hello::Hello;
use crate::proxy::session::Session;
use crate::proxy::transaction::QueuedTransaction;
use crate::resp::{UNWATCH, write_status};

impl ActionTask {
    /// Begins WATCH: takes an exclusive connection, unless the client holds one already.
    pub(super) fn watch(&mut self, node: NodeIndex, packed: Vec<u8>, cx: &ActionContext<'_>) {
        match cx.session.lease() {
            // All watched keys are on one node, so the connection of the first WATCH serves the next one too.
            Some(_) => self.send_watch(node, packed),
            None if cx.router.is_cluster() => {
                let step = ActionStep::LeaseInCluster { node, packed };
                self.step(step, Awaited::FirstWatch);
            }
            None => self.step(ActionStep::Lease(node), Awaited::Lease { node, packed }),
        }
    }

    /// Sends WATCH on the connection, or replies with the reason why there is none.
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

    /// Handles the reply to the first WATCH in a Redis Cluster.
    pub(super) fn first_watched(
        &mut self,
        server: &str,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        if answers.failure.is_none() && answers.values.count() > 0 {
            cx.session.begin_lease();
        }
        self.watch_replied(server, answers, cx);
    }

    /// Handles the reply to WATCH on the connection that is held.
    pub(super) fn watched(
        &mut self,
        node: NodeIndex,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        // Its slot has left the server, and so has the slot of the keys before. No error is due for that: to the client it is
        // as if they had changed.
        if cx.router.is_refusal_by_cluster(&answers.values) {
            cx.session.watch_failed();
            self.drop_lease(cx.session);
            return self.reply(cx.out, |out| write_status(out, "OK"));
        }
        let name = cx.router.name(node).to_owned();
        self.watch_replied(&name, answers, cx);
    }

    /// Handles the reply of the server `name` to WATCH. Anything but OK ends the whole watch.
    fn watch_replied(
        &mut self,
        name: &str,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        let reply = answers.values.frame(0);
        // The node refused it, or the connection broke. The keys of earlier WATCHes are forgotten with the
        // connection, so EXEC must not run unguarded.
        if reply != Some(b"+OK\r\n") {
            cx.session.watch_failed();
            self.drop_lease(cx.session);
        }
        match (reply, &answers.failure) {
            (Some(frame), _) => self.write(cx, frame),
            (None, Some(failure)) => self.write_error(cx, &failure.without_answer(name)),
            // The executor had no lease. The client gets no reply, so this is unreachable unless the two
            // disagree.
            (None, None) => {}
        }
    }

    /// Ends the watch on the node, if there is one. The reply to the client's UNWATCH, DISCARD or EXEC is in
    /// the output already; RESET replies at the end.
    pub(super) fn unwatch(&mut self, resets: bool, cx: &mut ActionContext<'_>) {
        match cx.session.lease() {
            Some(_) => self.step(send_one(UNWATCH.to_vec()), Awaited::Unwatch { resets }),
            None if resets => self.reset(cx),
            None => {}
        }
    }

    /// Gives the connection back after UNWATCH.
    pub(super) fn unwatched(
        &mut self,
        answers: &Answers<RawReplies>,
        resets: bool,
        cx: &mut ActionContext<'_>,
    ) {
        // Without OK the keys may still be watched, and the EXEC of the next user of the connection could
        // fail because of them.
        match answers.values.frame(0) {
            Some(b"+OK\r\n") => self.release_lease(cx.session),
            _ => self.drop_lease(cx.session),
        }
        if resets {
            self.reset(cx);
        }
    }

    /// Applies RESET, and replies to it.
    fn reset(&mut self, cx: &mut ActionContext<'_>) {
        self.steps.push_back(ActionStep::DropSubscriber);
        cx.session.reset();
        // In RESP2 and RESP3 alike, so it may come after the change of protocol.
        self.reply(cx.out, |out| write_status(out, "RESET"));
    }

    /// Sends the transaction, on the connection of WATCH if keys are watched.
    pub(super) fn exec(&mut self, transaction: QueuedTransaction, cx: &mut ActionContext<'_>) {
        let on_lease = cx.session.lease().is_some();
        // The connection of WATCH is gone, and the keys may have changed since.
        if transaction.watched && !on_lease {
            // The connection of WATCH is no more, and what it watched may have changed.
            let protocol = cx.session.protocol();
            return self.reply(cx.out, |out| protocol.write_nil_array(out));
        }
        let is_guarded = transaction.is_guarded;
        let step = ActionStep::Exec {
            transaction,
            on_lease,
        };
        self.step(step, Awaited::Exec { is_guarded });
    }

    /// Handles the replies to MULTI ... EXEC.
    pub(super) fn executed(
        &mut self,
        node: NodeIndex,
        answers: &Answers<RawReplies>,
        is_guarded: bool,
        cx: &mut ActionContext<'_>,
    ) {
        // EXEC ends the watch on the node, also when it replies nil or an error.
        match answers.failure {
            None => self.release_lease(cx.session),
            Some(_) => self.drop_lease(cx.session),
        }
        let (name, protocol) = (cx.router.name(node), cx.session.protocol());
        let mut reply = Vec::new();
        PlannedTransaction::raw_exec_reply(name, answers, protocol, &mut reply);
        match is_guarded {
            true => self.write(cx, &PlannedTransaction::without_first(&reply)),
            false => self.write(cx, &reply),
        }
    }

    /// Handles the end of a transaction whose watched keys have moved: nothing of it ran.
    pub(super) fn transaction_moved(&mut self, cx: &mut ActionContext<'_>) {
        self.drop_lease(cx.session);
        let protocol = cx.session.protocol();
        self.reply(cx.out, |out| protocol.write_nil_array(out));
    }

    /// Asks the first living node from number `at` for the version of the servers, and the next one if it does not
    /// reply with one.
    /// One by one, because the first nearly always has it, and once one has, no client asks again.
    pub(super) fn ask_version(&mut self, hello: Hello, at: usize, cx: &mut ActionContext<'_>) {
        match cx.router.topology().living().find(|node| node.get() >= at) {
            // No node has replied. HELLO must not fail for that: the client could not even connect.
            None => self.send_hello(&hello, UNKNOWN_VERSION, cx),
            Some(node) => {
                let packed = INFO_SERVER.to_vec();
                let step = ActionStep::CallNode { node, packed };
                self.step(step, Awaited::Info { hello, node });
            }
        }
    }

    /// Handles a node's reply to INFO.
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

    /// Applies HELLO and replies to it, now that the version is known. Watched keys stay watched: their
    /// connection switches to the new protocol as well, since the replies of EXEC must be in it.
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

    /// Handles the reply to HELLO on the connection of WATCH.
    pub(super) fn lease_greeted(
        &mut self,
        answers: &Answers<RawReplies>,
        cx: &mut ActionContext<'_>,
    ) {
        let reply = answers.values.frame(0);
        // The connection has not switched, and replies in the old protocol cannot be passed on.
        if reply.is_none_or(|reply| reply.starts_with(b"-")) {
            cx.session.watch_failed();
            self.drop_lease(cx.session);
        }
    }

    /// Gives the exclusive connection back. After HELLO it is closed instead: its protocol is not that of the
    /// pool it came from.
    fn release_lease(&mut self, session: &mut Session) {
        self.steps.extend(session.end_lease().map(|protocol| {
            match protocol == session.protocol() {
                true => ActionStep::ReleaseLease,
                false => ActionStep::DropLease,
            }
        }));
    }

    /// Closes the exclusive connection, if there is one.
    fn drop_lease(&mut self, session: &mut Session) {
        let dropped = session.end_lease().map(|_| ActionStep::DropLease);
        self.steps.extend(dropped);
    }
}

/// One request on the exclusive connection, with one reply.
fn send_one(packed: Vec<u8>) -> ActionStep {
    ActionStep::SendOnLease {
        packed,
        replies: 1,
        expected_end: ExpectedEnd::Any,
    }
}
