//! What takes more than to pass requests on and answers back.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::{Shared, Subscriber};
use crate::command::Args;
use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::pubsub::{NAMES_AT_ONCE, SubscriptionChange, SubscriptionKind};
use crate::plan::{
    Answers, ExpectedEnd, Failure, PlannedTransaction, RawPipeline, RawReplies, RoutedCommand,
    SharedByteMeter, parse_one,
};
use crate::proxy::net::client_io::Interrupt;
use crate::proxy::net::connection::{ClientConnection, exchange};
use crate::proxy::{Action, Hello, Pause, QueuedTransaction, Unblocked};
use crate::resp::{Protocol, UNWATCH};

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'_, S> {
    pub(super) async fn perform(
        &mut self,
        action: Action,
        silent: bool,
    ) -> io::Result<ControlFlow<()>> {
        if silent || self.proxy.registry.pause() != Pause::Nothing {
            // What is thrown away afterwards must not be mixed with what was said before, and what is answered already does
            // not wait for what is held back.
            self.flush().await?;
        }
        let mut before = self.out.len();
        let mut flow = ControlFlow::Continue(());
        match action {
            Action::RunBlocking(packed) => flow = self.run_blocking(&packed).await?,
            Action::Script(packed) => self.script(&packed).await,
            Action::Pause {
                pause,
                length,
                packed,
            } => self.pause(pause, length, &packed).await,
            Action::Unpause(packed) => self.unpause(&packed).await,
            Action::Watch { node, packed } => self.watch(node, &packed).await,
            Action::ReleaseWatch => self.release_watch().await,
            Action::Exec(ready) => self.exec(&ready).await,
            // Confirmations come as messages do, even to those who want no replies.
            Action::Subscribe {
                change,
                kind,
                names,
            } => {
                flow = self.subscribe(change, kind, names).await?;
                before = self.out.len();
            }
            Action::Clients(ask) => {
                self.entry.publish(self.session.client());
                let (id, protocol) = (self.session.id(), self.session.protocol());
                self.proxy
                    .registry
                    .answer(&ask, id, protocol, &mut self.out);
            }
            Action::Hello(hello) => {
                self.hello(&hello).await;
            }
            Action::Reset => {
                self.release_watch().await;
                self.io.subscriber = None;
                self.session.reset(&mut self.out);
            }
            Action::Close => flow = ControlFlow::Break(()),
        }
        if silent {
            self.out.truncate(before);
        }
        self.entry.publish(self.session.client());
        Ok(flow)
    }

    /// A command that may wait. What the client sends meanwhile is kept, and its end noticed.
    async fn run_blocking(&mut self, packed: &[u8]) -> io::Result<ControlFlow<()>> {
        self.flush().await?;
        let blocking = self.proxy.registry.pause_time();
        // Of a command that is held by a pause nobody can say that it is not done.
        self.entry.set_blocked(blocking == BlockingTime::None);
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        let mut reply = pin!(call_routed(
            &shared,
            packed,
            (protocol, blocking, self.meter())
        ));
        let flow = loop {
            // What it is told may have come while something was written.
            if self.entry.is_killed() || self.proxy.registry.is_stopping() {
                break ControlFlow::Break(());
            }
            if let Some(how) = self.entry.take_unblocked() {
                self.unblocked(packed, how);
                break ControlFlow::Continue(());
            }
            // All that comes is taken, for an end shows only behind it.
            self.io.take_arrived(&mut self.input);
            let behind = self.input.len();
            if behind > self.io.limits.query_bytes {
                break ControlFlow::Break(());
            }
            self.count_memory();
            let listen = self.io.read(&mut self.input, behind + 1, &self.session);
            let next = match select(reply.as_mut(), pin!(listen)).await {
                Either::Left((reply, _)) => Either::Left(reply),
                Either::Right((heard, _)) => Either::Right(heard?),
            };
            match next {
                Either::Left((_, reply)) => {
                    self.out.extend_from_slice(&reply);
                    break ControlFlow::Continue(());
                }
                Either::Right(heard) => match heard {
                    Interrupt::Bytes(0) => break ControlFlow::Break(()),
                    Interrupt::Bytes(_) => {}
                    Interrupt::Event(event) => {
                        if self.push_event(event) == ControlFlow::Break(()) {
                            break ControlFlow::Break(());
                        }
                        self.flush().await?;
                    }
                    Interrupt::Notified => {}
                },
            }
        };
        self.entry.set_blocked(false);
        Ok(flow)
    }

    fn unblocked(&mut self, packed: &[u8], how: Unblocked) {
        let args = parse_one(packed).unwrap_or_default();
        let protocol = self.session.protocol();
        how.write(&args, protocol, &mut self.out);
    }

    async fn watch(&mut self, node: NodeIndex, packed: &[u8]) {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        if self.lease.is_none() {
            let limit = shared.executor.deadline(self.proxy.registry.pause_time());
            match shared.executor.lease(node, limit).await {
                Ok(lease) => self.lease = Some((protocol, lease)),
                Err(cause) => {
                    let failure = Failure::not_sent(cause);
                    self.session.watch_failed();
                    let error = failure.without_answer(shared.router.name(node));
                    return self.write_error_reply(&error);
                }
            }
        }
        let answers = self.on_lease(&shared, packed, 1, ExpectedEnd::Any).await;
        let answers = answers.unwrap_or_default();
        if !self.session.watch_answered(answers.values.get(0)) {
            // What was watched before is forgotten with the connection.
            self.lease = None;
        }
        match (answers.values.get(0), &answers.failure) {
            (Some(frame), _) => self.out.extend_from_slice(frame),
            (None, Some(failure)) => {
                let error = failure.without_answer(shared.router.name(node));
                self.write_error_reply(&error);
            }
            (None, None) => {}
        }
    }

    /// Requests on the connection of WATCH, if there is one. It is closed when that fails.
    async fn on_lease(
        &mut self,
        shared: &Shared,
        packed: &[u8],
        count: usize,
        ending: ExpectedEnd,
    ) -> Option<Answers<RawReplies>> {
        let (protocol, lease) = self.lease.take()?;
        let limit = shared.executor.deadline(self.proxy.registry.pause_time());
        let answers: Answers<RawReplies> = {
            let replies = RawReplies::with_meter(Some(self.meter()));
            lease
                .connection
                .exchange_into(packed, count, ending, limit, replies)
                .await
        };
        if answers.failure.is_none() {
            self.lease = Some((protocol, lease));
        }
        Some(answers)
    }

    /// Gives the connection of WATCH back, with nothing watched on it.
    async fn release_watch(&mut self) {
        let shared = Arc::clone(self.proxy.shared(self.session.protocol()));
        let answers = self.on_lease(&shared, UNWATCH, 1, ExpectedEnd::Any).await;
        if answers.is_some_and(|answers| answers.values.get(0) == Some(b"+OK\r\n")) {
            self.release_lease();
        }
        self.lease = None;
    }

    /// Gives the connection of WATCH back as it is, unless it speaks another protocol now than those it was taken from.
    fn release_lease(&mut self) {
        if let Some((protocol, lease)) = self.lease.take()
            && protocol == self.session.protocol()
        {
            lease.release();
        }
    }

    /// HELLO. What is watched stays so, and its connection speaks the new protocol too.
    async fn hello(&mut self, hello: &Hello) {
        let version = self.proxy.server_version().await;
        let before = self.session.protocol();
        self.session.hello(hello, &version, &mut self.out);
        let protocol = self.session.protocol();
        if protocol == before || self.lease.is_none() {
            return;
        }
        let packed = Hello::request(protocol);
        let shared = Arc::clone(self.proxy.shared(protocol));
        let answers = self.on_lease(&shared, &packed, 1, ExpectedEnd::Any).await;
        let is_refused = |answers: Answers<RawReplies>| {
            let first = answers.values.get(0);
            first.is_none_or(|first| first.starts_with(b"-"))
        };
        if answers.is_none_or(is_refused) {
            self.lease = None;
            self.session.watch_failed();
        }
    }

    async fn exec(&mut self, ready: &QueuedTransaction) {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        if ready.watched && self.lease.is_none() {
            // The connection of WATCH is no more, and what it watched may have changed.
            return protocol.write_nil_array(&mut self.out);
        }
        let snapshot = || shared.snapshot();
        let mut node = ready.node_of(&shared.router, rand::random());
        let rewritten = ready.rewritten(node, &snapshot);
        let packed = rewritten
            .as_ref()
            .map_or(&ready.packed, |rewritten| &rewritten.packed);
        let ahead = rewritten
            .as_ref()
            .map_or(0, |rewritten| rewritten.journal.preloads());
        let commands = ahead + ready.commands;
        let answers = self.on_lease(&shared, packed, commands + 2, ExpectedEnd::Exec);
        let mut answers = match answers.await {
            Some(answers) => answers,
            None => {
                let mut exchanges = vec![ready.exchange(node, packed, commands)];
                exchanges[0].meter = Some(self.meter());
                let blocking = self.proxy.registry.pause_time();
                let mut answers = shared.executor.exchange(&mut exchanges, blocking).await;
                node = exchanges.last().map_or(node, |last| last.node);
                answers.pop().unwrap_or_default()
            }
        };
        if answers.failure.is_none() {
            self.release_lease();
        }
        self.lease = None;
        let before = self.out.len();
        if let Some(rewritten) = &rewritten {
            rewritten.journal.drop_raw_preloads(&mut answers);
        }
        let node = shared.router.name(node);
        PlannedTransaction::raw_exec_reply(node, &answers, protocol, &mut self.out);
        if let Some(rewritten) = &rewritten {
            shared.record_exec_reply(&rewritten.journal, &self.out[before..]);
        }
    }

    /// A command about scripts. What the node lacks and the proxy remembers is brought to it.
    async fn script(&mut self, packed: &[u8]) {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        let args: Args<'_> = parse_one(packed).unwrap_or_default();
        let blocking = self.proxy.registry.pause_time();
        let call = (protocol, blocking, self.meter());
        let (node, mut reply) = call_routed(&shared, packed, call.clone()).await;
        let remedy = shared.snapshot().raw_recovery(&args, &reply);
        if let (Some(node), Some(remedy)) = (node, remedy) {
            let (mut loads, request) = remedy.into_requests(&shared.router, node, packed);
            if !loads.is_empty() {
                exchange(&shared, &mut loads, blocking, self.meter()).await;
            }
            reply = call_at(&shared, node, &request, call).await;
        }
        let told = shared.record_raw_script_reply(&args, &reply, protocol);
        self.out.extend_from_slice(&told);
    }

    /// CLIENT PAUSE. What is sent from now on may be held back, so it goes on connections of its own.
    async fn pause(&mut self, pause: Pause, length: Duration, packed: &[u8]) {
        self.proxy.registry.begin_pause(pause, length);
        let reply = self.send_to_all(packed).await;
        self.out.extend_from_slice(&reply);
    }

    /// CLIENT UNPAUSE. Unless all nodes have said so, some may still hold back.
    async fn unpause(&mut self, packed: &[u8]) {
        let reply = self.send_to_all(packed).await;
        if reply == b"+OK\r\n" {
            self.proxy.registry.end_pause();
        }
        self.out.extend_from_slice(&reply);
    }

    async fn send_to_all(&self, packed: &[u8]) -> Vec<u8> {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        let blocking = self.proxy.registry.pause_time();
        let (_, reply) = call_routed(&shared, packed, (protocol, blocking, self.meter())).await;
        reply
    }

    async fn subscribe(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: Vec<Vec<u8>>,
    ) -> io::Result<ControlFlow<()>> {
        let shared = self.proxy.shared(Protocol::Resp2);
        let subscriber = self
            .io
            .subscriber
            .get_or_insert_with(|| Subscriber::new(Arc::clone(shared)));
        let changed = subscriber.change(change, kind, names.clone()).await;
        if changed.is_err() && change == SubscriptionChange::Subscribe {
            // Who is told that it failed will not look for messages, except for those it had before.
            let mut new = names.clone();
            new.retain(|name| !self.session.is_subscribed_to(kind, name));
            let _ = subscriber
                .change(SubscriptionChange::Unsubscribe, kind, new)
                .await;
        }
        match changed {
            Err(error) => self.write_error_reply(&error),
            Ok(()) => {
                if change == SubscriptionChange::Unsubscribe
                    && self.push_all_events().await? == ControlFlow::Break(())
                {
                    return Ok(ControlFlow::Break(()));
                }
                for names in names.chunks(NAMES_AT_ONCE) {
                    self.session.subscribed(change, kind, names, &mut self.out);
                    if names.len() == NAMES_AT_ONCE {
                        self.flush().await?;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        if !self.session.is_subscribed() {
            self.io.subscriber = None;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Passes on all that has come before a subscription ended.
    async fn push_all_events(&mut self) -> io::Result<ControlFlow<()>> {
        loop {
            let before = self.out.len();
            if self.push_events() == ControlFlow::Break(()) {
                return Ok(ControlFlow::Break(()));
            }
            if self.out.len() == before {
                return Ok(ControlFlow::Continue(()));
            }
            self.flush().await?;
        }
    }

    pub(super) fn write_error_reply(&mut self, error: &Error) {
        let protocol = self.session.protocol();
        protocol.write(&mut self.out, &error.to_reply());
    }
}

/// How one command is carried out by itself: the protocol of its reply, how long the nodes may hold it back, and who counts
/// the bytes of the reply.
type Call = (Protocol, BlockingTime, SharedByteMeter);

/// One command by itself, the node that answered last, and the reply to it. The nodes may hold it back as long as it wishes
/// itself, too.
async fn call_routed(shared: &Shared, packed: &[u8], call: Call) -> (Option<NodeIndex>, Vec<u8>) {
    let snapshot = || shared.snapshot();
    let args: Args<'_> = parse_one(packed).unwrap_or_default();
    let routed = match shared.router.route(&args, &snapshot) {
        Err(refusal) => shared.planned_again(&args, refusal).await,
        routed => routed,
    };
    call_prepared(shared, packed, &args, routed, call).await
}

/// One command by itself at this node, and the reply to it.
async fn call_at(shared: &Shared, node: NodeIndex, packed: &[u8], call: Call) -> Vec<u8> {
    let args: Args<'_> = parse_one(packed).unwrap_or_default();
    let routed = shared.router.route_at(node, &args);
    let (_, reply) = call_prepared(shared, packed, &args, routed, call).await;
    reply
}

async fn call_prepared(
    shared: &Shared,
    packed: &[u8],
    args: &[&[u8]],
    routed: Result<RoutedCommand, Error>,
    (protocol, pause, meter): Call,
) -> (Option<NodeIndex>, Vec<u8>) {
    let mut out = Vec::new();
    let routed = match routed {
        Ok(routed) => routed,
        Err(error) => {
            protocol.write(&mut out, &error.to_reply());
            return (None, out);
        }
    };
    let snapshot = || shared.snapshot();
    let entropy = rand::random();
    let mut batch = RawPipeline::new(&shared.router, &snapshot, packed.len(), entropy);
    let blocking = pause.then(routed.blocking);
    batch.add(packed, args, routed);
    let mut exchanges = batch.take_whole_exchanges();
    let answers = exchange(shared, &mut exchanges, blocking, meter).await;
    batch
        .reply_writer(&exchanges, &answers, protocol, entropy)
        .write_next(&mut out, usize::MAX);
    (exchanges.last().map(|last| last.node), out)
}
