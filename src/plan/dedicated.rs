//! The state of a dedicated connection, and which requests may be sent over it.
//!
//! The server keeps state for a connection that one user holds: watched keys, a queued transaction, another
//! database or client name. Both clients keep a [`DedicatedState`] beside such a connection and consult it
//! before each request.
//!
//! Three rules follow from that state:
//!
//! * Nothing is resent: on another connection a command would run outside its MULTI, or without its WATCH.
//! * EXEC must not run after a failed WATCH, whether a server or this client refused it: it would succeed
//!   although nothing was watched. The transaction is ended instead (DISCARD, or UNWATCH before MULTI), and
//!   the user receives EXECABORT, the error that programs expect when a transaction did not take place.
//! * Inside MULTI the source of a script is sent at once (EVAL for EVALSHA): a missing script would only show
//!   at EXEC.
//!
//! The order is always: [`command`](DedicatedState::command) or [`pipeline`](DedicatedState::pipeline), the
//! operation run to its end, then [`replied`](DedicatedState::replied) or
//! [`replied_all`](DedicatedState::replied_all). A request whose connection broke needs no `replied`: the
//! connection is closed, and its state is gone.
//!
//! ```text
//! user                          state afterwards                  sent
//! WATCH a1       reply +OK      watch Intact                      WATCH a1
//! WATCH b1       refused here   watch Failed                      nothing: b1 lives on another node
//! MULTI          reply +OK      watch Failed, Queuing             MULTI
//! EXEC           EXECABORT      watch Intact, Idle                DISCARD
//! ```

use std::time::Duration;

use redis::Value;

use crate::command::{BlockingTime, Lookup, Route, Scripting};
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::batch::NodeRequest;
use crate::plan::operation::{CommandOperation, PipelineOperation, Request, ScriptStore};
use crate::plan::refusal::{keys_moved, keys_moving, too_many_watched};
use crate::plan::request::{PipelineSummary, check_each};
use crate::plan::slot_guard::{SlotGuard, SlotRefusal};
use crate::plan::watch::{WatchState, ends_watch, exec_abort, is_watch};
use crate::plan::{
    Answers, ClusterReport, Exchange, ExpectedEnd, PipelineKind, RoutedCommand, Router,
    TransactionState,
};
#[cfg(feature = "tokio-comp")]
use crate::resp::PING;
use crate::resp::{DISCARD, UNWATCH};
use crate::topology::LivingNodes;

/// How the keys of requests over a dedicated connection are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyCheck {
    /// Every key must live on the connection's node: connections opened for keys.
    Owned,
    /// Every key must also be usable together with this one, the first of those that the connection was opened for: in
    /// one slot of a cluster, under one hash tag if that is required.
    Together(Box<[u8]>),
    /// Keys are not checked: connections opened for a node that the user named.
    None,
}

impl KeyCheck {
    /// The key that all others must be usable together with, if being on one node is not enough.
    pub(crate) fn first_key(&self) -> Option<&[u8]> {
        match self {
            Self::Together(first) => Some(first),
            Self::Owned | Self::None => None,
        }
    }
}

/// State of a connection to one node that one user holds.
#[derive(Debug)]
pub(crate) struct DedicatedState {
    node: NodeIndex,
    keys: KeyCheck,
    /// True while nothing was sent that the next user would notice, apart from transactions. Decided by what
    /// is sent, not by replies: a command whose reply was lost may have taken effect.
    is_pristine: bool,
    /// `Queuing` between MULTI and EXEC. Decided by what is sent, since the reply to EXEC may be lost.
    transaction: TransactionState,
    /// `Failed` if EXEC must not run. Decided by replies, since only they show that the keys are watched.
    watch: WatchState,
    /// True while the server watches keys for the connection, as far as what was sent shows.
    is_watching: bool,
    /// In a cluster: what is known of the slot of the keys.
    guard: SlotGuard,
}

impl DedicatedState {
    /// State of a connection to `node` over which nothing has been sent.
    pub(crate) fn new(node: NodeIndex, keys: KeyCheck) -> Self {
        Self {
            node,
            keys,
            is_pristine: true,
            transaction: TransactionState::Idle,
            watch: WatchState::default(),
            is_watching: false,
            guard: SlotGuard::default(),
        }
    }

    /// Sets whether the server of the connection imports the slot of its keys. Defaults to false.
    pub(crate) fn set_asking(&mut self, is_asking: bool) {
        self.guard.set_asking(is_asking);
    }

    /// True if the server alone knows whether its connection still serves the keys: it imports their slot, or a
    /// transaction has begun, which EXEC must end.
    pub(crate) fn relies_on_server(&self) -> bool {
        self.guard.is_asking() || self.transaction == TransactionState::Queuing
    }

    /// True if the slot of the connection is watched over: one of a cluster, for keys.
    fn is_guarded(&self, router: &Router) -> bool {
        self.keys.first_key().is_some() && router.topology().cluster().is_some()
    }

    /// The node of the connection.
    pub(crate) fn node(&self) -> NodeIndex {
        self.node
    }

    /// Sets the index of the connection's node, which differs between topologies.
    pub(crate) fn set_node(&mut self, node: NodeIndex) {
        self.node = node;
    }

    /// How keys are checked on this connection.
    pub(crate) fn keys(&self) -> &KeyCheck {
        &self.keys
    }

    /// True if the connection may be returned to its pool, once WATCH and MULTI are ended.
    pub(crate) fn is_pristine(&self) -> bool {
        self.is_pristine
    }

    /// True if the connection may be authenticated again and renamed: not inside a transaction, where that
    /// would be refused, nor once its user has changed its state, which may be the user or the name.
    /// Nor while it watches keys of a client that follows the records of its nodes: what the keys have shown was read by
    /// the record of that time.
    pub(crate) fn may_renew_login(&self, router: &Router) -> bool {
        self.is_pristine
            && self.transaction == TransactionState::Idle
            && !(self.is_watching && router.follows_records)
    }

    /// Gets ready for subscriptions, after which the connection serves no other user.
    ///
    /// # Errors
    ///
    /// Between MULTI and EXEC or DISCARD: a server would queue SUBSCRIBE, and the first message would never come.
    pub(crate) fn begin_pub_sub(&mut self) -> Result<(), Error> {
        match self.transaction {
            TransactionState::Queuing => Err(Error::new(
                ErrorKind::Stateful,
                "SUBSCRIBE is not possible inside a transaction; end it with EXEC or DISCARD first",
            )),
            TransactionState::Idle => {
                self.is_pristine = false;
                Ok(())
            }
        }
    }

    /// Checks one command and returns the operation that sends it over this connection.
    ///
    /// The state is changed before anything is sent, so the operation must be run to its end.
    ///
    /// # Errors
    ///
    /// When a key lives on another node, or the command is not known. An EXEC that must not run because an
    /// earlier WATCH failed is no error here: the operation ends the transaction and returns EXECABORT.
    pub(crate) fn command<'a>(
        &mut self,
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
    ) -> Result<CommandOperation<'a, Vec<Value>>, Error> {
        // Before `check`, which would record this EXEC as the end of the transaction: `end_transaction` must
        // still know whether MULTI was sent.
        if self.watch.forbids(request.packed) {
            let tidy_up = (self.node, self.end_transaction());
            self.guard.forget();
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
        let before = self.transaction;
        let routed = self.check(router, request.args)?;
        let rewritten = match routed.scripting {
            Scripting::No => None,
            Scripting::Yes => self
                .transaction
                .rewrite(request.args, &|| scripts.snapshot()),
        };
        let packed = rewritten.unwrap_or_else(|| request.packed.to_vec());
        let packed = match self.is_guarded(router) {
            true => self.guard.extend(&packed, before, false),
            false => (packed, 1),
        };
        Ok(CommandOperation::pinned(
            router,
            scripts,
            request,
            packed,
            routed,
            (),
        ))
    }

    /// Checks one command that RESP3 replies to with push messages, such as SUBSCRIBE: it is sent and no
    /// reply is read.
    ///
    /// # Errors
    ///
    /// Those of [`command`](Self::command).
    pub(crate) fn command_without_reply(
        &mut self,
        router: &Router,
        request: Request<'_>,
    ) -> Result<Exchange, Error> {
        let routed = self.check(router, request.args)?;
        let packed = request.packed.to_vec();
        let request = NodeRequest::pinned(self.node, packed, 0, ExpectedEnd::Any);
        Ok(Exchange::new(
            [request],
            routed.blocking,
            LivingNodes::none(),
        ))
    }

    /// Checks one command that RESP3 replies to with push messages, and puts a PING behind it, whose reply shows that
    /// the node has done it. An error reply of the node stands in its place: the reply to the PING is then still due,
    /// and the connection must be closed.
    ///
    /// # Errors
    ///
    /// Those of [`command`](Self::command).
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn command_before_ping(
        &mut self,
        router: &Router,
        request: Request<'_>,
    ) -> Result<Exchange, Error> {
        let routed = self.check(router, request.args)?;
        let packed = [request.packed, PING].concat();
        let request = NodeRequest::pinned(self.node, packed, 1, ExpectedEnd::Any);
        Ok(Exchange::new(
            [request],
            routed.blocking,
            LivingNodes::none(),
        ))
    }

    /// Records the reply to one command: a WATCH with an error reply has failed.
    pub(crate) fn replied(&mut self, args: &[&[u8]], reply: &Value) {
        self.watch = self.watch.after(args, Ok(reply));
    }

    /// Takes what was added to a request out of its replies, before the operation sees them: see [`SlotGuard`].
    pub(crate) fn receive(&mut self, router: &Router, answers: &mut Answers) {
        if let (true, Some(map)) = (self.is_guarded(router), router.topology().cluster()) {
            self.guard.receive(map, self.node, answers);
        }
    }

    /// What the map of the cluster must learn from the replies.
    pub(crate) fn take_reports(&mut self) -> Vec<ClusterReport> {
        self.guard.take_reports()
    }

    /// The pause before the user learns of the replies, as they will be asked for again at once. `entropy` is a random
    /// number.
    pub(crate) fn take_pause(&mut self, entropy: u64) -> Option<Duration> {
        self.guard.take_pause(entropy)
    }

    /// Why the server has refused the last command because of its slot, if it was outside of a transaction.
    pub(in crate::plan) fn slot_refusal(&self) -> Option<&SlotRefusal> {
        self.guard.last_refusal()
    }

    /// The error in the place of the server's, if it has refused the last command because its slot has left.
    ///
    /// # Errors
    ///
    /// That error. Inside MULTI the server's own errors stay.
    pub(crate) fn check_slot(&self, router: &Router) -> Result<(), Error> {
        let name = router.name(self.node);
        match self.slot_refusal() {
            Some(SlotRefusal::Moved) => Err(keys_moved(name)),
            Some(SlotRefusal::Ask(_)) => Err(keys_moving(name)),
            Some(SlotRefusal::Unavailable) | None => Ok(()),
        }
    }

    /// Records that the keys may live elsewhere now, by the topology, which matters in a cluster.
    pub(crate) fn set_moved(&mut self, router: &Router) {
        if self.is_guarded(router) {
            self.guard.set_moved();
        }
    }

    /// True if another connection may serve the keys: they have moved, or the server has refused a request because of
    /// their slot.
    pub(crate) fn has_moved(&self) -> bool {
        self.guard.was_refused()
    }

    /// True if an attempt at an optimistic transaction has failed because of the slot alone: its error is no reason to
    /// give up.
    pub(crate) fn may_try_again(&self) -> bool {
        self.guard.was_refused() && !self.guard.has_run()
    }

    /// Checks a packed pipeline and returns the operation that sends it over this connection.
    ///
    /// # Errors
    ///
    /// Those of [`command`](Self::command), for the first command that fails the check: then nothing of the
    /// pipeline is sent, and every WATCH in it counts as failed.
    pub(crate) fn pipeline<'a>(
        &mut self,
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        packed: &'a [u8],
        kind: PipelineKind,
    ) -> Result<PipelineOperation<'a>, Error> {
        if self.watch.forbids(packed) {
            let end = self.end_transaction().to_vec();
            self.guard.forget();
            let request = NodeRequest::pinned(self.node, end, 1, ExpectedEnd::Any);
            let exchange = Exchange::new([request], BlockingTime::None, LivingNodes::none());
            return Ok(PipelineOperation::refused(
                router,
                scripts,
                exchange,
                exec_abort(),
            ));
        }
        let before = self.transaction;
        let summary = self.check_all(router, packed, kind)?;
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
        // The FUNCTION LOADs that are sent ahead have replies too, which the operation drops.
        let replies = preloads + summary.commands;
        let (packed, replies) = match self.is_guarded(router) {
            true => {
                let is_atomic = kind != PipelineKind::Plain;
                self.guard.extend(&packed, before, is_atomic)
            }
            false => (packed, replies),
        };
        let request = NodeRequest::pinned(self.node, packed, replies, ending);
        let exchange = Exchange::new([request], summary.blocking, LivingNodes::none());
        Ok(PipelineOperation::private(
            router, scripts, self.node, exchange, journal, kind,
        ))
    }

    /// Records the replies to a packed pipeline.
    pub(crate) fn replied_all(&mut self, packed: &[u8], kind: PipelineKind, replies: &[Value]) {
        // An atomic pipeline is MULTI ... EXEC: no WATCH is possible inside, and an EXEC that was allowed to
        // run leaves the state as it was, intact.
        if kind == PipelineKind::Plain {
            self.watch = self.watch.after_all(packed, replies);
        }
    }

    /// Checks one command and records what sending it does to the connection.
    fn check(&mut self, router: &Router, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        self.is_pristine &= !router.alters_connection(args);
        if is_watch(args.first().copied().unwrap_or_default())
            && self.is_guarded(router)
            && self.guard.is_full(args)
        {
            self.watch = self.watch.after(args, Err(()));
            return Err(too_many_watched());
        }
        let checked = match &self.keys {
            keys @ (KeyCheck::Owned | KeyCheck::Together(_)) => {
                router.route_private(self.node, args, keys.first_key())
            }
            KeyCheck::None => router.route_unchecked_private(self.node, args),
        };
        match checked {
            Ok(_) => {
                self.transaction = self.transaction.after(args);
                let name = args.first().copied().unwrap_or_default();
                self.is_watching = is_watch(name) || self.is_watching && !ends_watch(name);
            }
            // A WATCH refused here watches nothing, as one that the server refused.
            Err(_) => self.watch = self.watch.after(args, Err(())),
        }
        checked
    }

    /// Checks every command of a packed pipeline, up to the first that fails.
    fn check_all(
        &mut self,
        router: &Router,
        packed: &[u8],
        kind: PipelineKind,
    ) -> Result<PipelineSummary, Error> {
        let before = self.transaction;
        let checked = check_each(packed, kind, |args| self.check(router, args));
        if checked.is_err() {
            // Nothing is sent, so a MULTI in front of the refused command begins no transaction.
            self.transaction = before;
        }
        // The WATCHes before the refused command passed the check, but they are not sent either.
        if checked.is_err() {
            self.watch = self.watch.after_refused(packed);
        }
        checked
    }

    /// Resets the state and returns the command that ends a transaction whose EXEC must not run, together
    /// with its watches.
    fn end_transaction(&mut self) -> &'static [u8] {
        // DISCARD without MULTI is an error and leaves the keys watched; UNWATCH inside MULTI is only queued.
        let end = match self.transaction {
            TransactionState::Idle => UNWATCH,
            TransactionState::Queuing => DISCARD,
        };
        self.transaction = TransactionState::Idle;
        self.watch = WatchState::Intact;
        self.is_watching = false;
        end
    }
}
impl Router {
    /// True if `args` changes the state of a connection beyond a transaction, so that no other user may get
    /// it afterwards.
    ///
    /// An unknown command may change anything.
    pub(crate) fn alters_connection(&self, args: &[&[u8]]) -> bool {
        // The state of these is tracked by `DedicatedState`, and can be ended before the connection is
        // reused.
        const TRANSACTION: [&str; 5] = ["DISCARD", "EXEC", "MULTI", "UNWATCH", "WATCH"];
        match self.lookup_row(args) {
            Lookup::Found(command) => {
                command.route() == Route::Stateful && !TRANSACTION.contains(&command.name())
            }
            _ => true,
        }
    }

    /// True if RESP3 replies to `args` with push messages, one for each channel: SUBSCRIBE, UNSUBSCRIBE and
    /// their kin.
    pub(crate) fn is_answered_by_push(&self, args: &[&[u8]]) -> bool {
        // SUBSCRIBE and UNSUBSCRIBE, with and without the prefixes P and S.
        self.lookup(args)
            .is_ok_and(|command| command.name().ends_with("SUBSCRIBE"))
    }
}
