//! What may be sent over a dedicated connection, and what its state is then.
//!
//! A connection that one user holds remembers what was sent over it: it watches keys, queues a transaction, has another
//! database or name. Both clients keep a [`DedicatedState`] beside such a connection and ask it before each request.
//!
//! Three things follow from that state:
//!
//! * Nothing is resent: on another connection a command would run outside its MULTI, or without its WATCH.
//! * EXEC must not run after a WATCH that failed, whether a server or this client refused it: it would succeed without
//!   having watched. The transaction is ended instead (DISCARD, or UNWATCH before MULTI), and the user gets EXECABORT, as
//!   programs expect it of a transaction that did not take place.
//! * Inside MULTI a script goes along at once (EVAL for EVALSHA): that it is missing would show only at EXEC.
//!
//! The order is always: [`command`](DedicatedState::command) or [`pipeline`](DedicatedState::pipeline), the operation run to
//! its end, then [`replied`](DedicatedState::replied) or [`replied_all`](DedicatedState::replied_all). A request whose
//! connection broke needs no `replied`: the connection is closed, and its state is gone.

use redis::Value;

use crate::command::{BlockingTime, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::NodeRequest;
use crate::plan::operation::{CommandOperation, PipelineOperation, Request, ScriptStore};
use crate::plan::request::{PipelineSummary, check_each};
use crate::plan::watch::{WatchState, exec_abort};
use crate::plan::{Exchange, ExpectedEnd, PipelineKind, RoutedCommand, Router, TransactionState};
use crate::resp::{DISCARD, UNWATCH};

/// Whether a connection lets keys of other nodes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyCheck {
    /// Every key must live on the connection's node.
    Owned,
    /// The user answers for the keys.
    None,
}

/// The state of a connection to one node that one user holds.
#[derive(Debug)]
pub(crate) struct DedicatedState {
    node: NodeIndex,
    keys: KeyCheck,
    /// Nothing was changed that the next user would notice, transactions apart. Decided by what is sent, not by replies: a
    /// command whose reply is lost may have changed it.
    is_pristine: bool,
    transaction: TransactionState,
    watch: WatchState,
}

impl DedicatedState {
    pub(crate) fn new(node: NodeIndex, keys: KeyCheck) -> Self {
        Self {
            node,
            keys,
            is_pristine: true,
            transaction: TransactionState::Idle,
            watch: WatchState::default(),
        }
    }

    /// The node of the connection.
    pub(crate) fn node(&self) -> NodeIndex {
        self.node
    }

    /// Which keys it lets through.
    pub(crate) fn keys(&self) -> KeyCheck {
        self.keys
    }

    /// Whether the connection may serve another user.
    pub(crate) fn is_pristine(&self) -> bool {
        self.is_pristine
    }

    /// Something is done to it that no other user should notice, such as a subscription.
    pub(crate) fn alter(&mut self) {
        self.is_pristine = false;
    }

    /// One command over the connection.
    ///
    /// # Errors
    ///
    /// When its keys live elsewhere, or it is not known. An EXEC that must not run, because a WATCH before it failed, is no
    /// error here: the operation ends the transaction and gives EXECABORT.
    pub(crate) fn command<'a>(
        &mut self,
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
    ) -> Result<CommandOperation<'a, Vec<Value>>, Error> {
        // Before it is checked: the check would take the EXEC for one that ends the transaction.
        if self.watch.forbids(request.packed) {
            let tidy_up = (self.node, self.end_transaction());
            let refusal = exec_abort();
            return Ok(CommandOperation::refused(
                router,
                scripts,
                request,
                tidy_up,
                refusal,
                (),
            ));
        }
        let routed = self.check(router, request.args)?;
        let rewritten = match routed.scripting {
            Scripting::No => None,
            Scripting::Yes => self
                .transaction
                .rewrite(request.args, &|| scripts.snapshot()),
        };
        let packed = rewritten.unwrap_or_else(|| request.packed.to_vec());
        Ok(CommandOperation::pinned(
            router,
            scripts,
            request,
            packed,
            routed,
            (),
        ))
    }

    /// One command whose reply, if any, comes as a push message: it is sent and no reply is read.
    pub(crate) fn command_without_reply(
        &mut self,
        router: &Router,
        request: Request<'_>,
    ) -> Result<Exchange, Error> {
        let routed = self.check(router, request.args)?;
        let packed = request.packed.to_vec();
        let request = NodeRequest::pinned(self.node, packed, 0, ExpectedEnd::Any);
        Ok(Exchange::new([request], routed.blocking, 1))
    }

    /// Records the reply to a command: a WATCH that the server refused has failed.
    pub(crate) fn replied(&mut self, args: &[&[u8]], reply: &Value) {
        self.watch = self.watch.after(args, Ok(reply));
    }

    /// A packed pipeline over the connection.
    ///
    /// # Errors
    ///
    /// As for [`command`](Self::command). Every WATCH in a pipeline that is refused counts as failed.
    pub(crate) fn pipeline<'a>(
        &mut self,
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        packed: &'a [u8],
        kind: PipelineKind,
    ) -> Result<PipelineOperation<'a>, Error> {
        if self.watch.forbids(packed) {
            let end = self.end_transaction().to_vec();
            let request = NodeRequest::pinned(self.node, end, 1, ExpectedEnd::Any);
            let exchange = Exchange::new([request], BlockingTime::None, 1);
            return Ok(PipelineOperation::refused(
                router,
                scripts,
                exchange,
                exec_abort(),
            ));
        }
        let summary = self.check_all(router, packed)?;
        let rewritten = summary.rewritten(self.node, packed, kind, &|| scripts.snapshot());
        let (packed, journal) = match rewritten {
            Some(rewritten) => (rewritten.packed, Some(rewritten.journal)),
            None => (packed.to_vec(), None),
        };
        let preloads = journal.as_ref().map_or(0, |journal| journal.preloads());
        let ending = match kind {
            PipelineKind::Plain => ExpectedEnd::Any,
            PipelineKind::Atomic { .. } => ExpectedEnd::Exec,
        };
        // The libraries that go ahead have replies too, which the operation drops.
        let replies = preloads + summary.commands;
        let request = NodeRequest::pinned(self.node, packed, replies, ending);
        let exchange = Exchange::new([request], summary.blocking, 1);
        Ok(PipelineOperation::private(
            router, scripts, self.node, exchange, journal, kind,
        ))
    }

    /// Records the replies to a packed pipeline.
    pub(crate) fn replied_all(&mut self, packed: &[u8], kind: PipelineKind, replies: &[Value]) {
        // Between MULTI and EXEC there is no WATCH, and EXEC has ended what was watched before.
        if kind == PipelineKind::Plain {
            self.watch = self.watch.after_all(packed, replies);
        }
    }

    /// Checks one command, and follows the state of the connection.
    fn check(&mut self, router: &Router, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        self.is_pristine &= !router.alters_connection(args);
        self.transaction = self.transaction.after(args);
        let checked = match self.keys {
            KeyCheck::Owned => router.route_private(self.node, args),
            KeyCheck::None => router.route_unchecked_private(self.node, args),
        };
        if checked.is_err() {
            self.watch = self.watch.after(args, Err(()));
        }
        checked
    }

    fn check_all(&mut self, router: &Router, packed: &[u8]) -> Result<PipelineSummary, Error> {
        let checked = check_each(packed, |args| self.check(router, args));
        if checked.is_err() {
            self.watch = self.watch.after_refused(packed);
        }
        checked
    }

    /// The command that ends a transaction whose EXEC must not run, and all that is watched.
    fn end_transaction(&mut self) -> &'static [u8] {
        let end = match self.transaction {
            TransactionState::Idle => UNWATCH,
            TransactionState::Queuing => DISCARD,
        };
        self.transaction = TransactionState::Idle;
        self.watch = WatchState::Intact;
        end
    }
}
