//! The pub/sub connection to one node: a task that receives messages, and reconnects and resubscribes when it
//! breaks.
//!
//! The user and the task share [`Shared`]. The user changes the set of subscriptions in it and appends the
//! commands; the task writes them and records the confirmations. When a connection breaks, the task derives
//! SUBSCRIBE commands for the whole set from the same state, so a change that came in between is never lost.
//!
//! ```text
//!  run ─▶ run_connection ─▶ read_loop ─▶ broken ─▶ Event::Disconnected ─▶ wait ─▶ run_connection ...
//!              │                 │
//!              │ not due yet     └ Event::Missed, once all subscriptions are confirmed again
//!              └▶ wait (the node's backoff)
//! ```

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::io::ReadBuf;
use tokio::runtime::Id;
use tokio::sync::Notify;

use crate::aio::connector::{Connector, current_thread_runtime};
use crate::aio::event_channel::EventChannel;
use crate::aio::multiplexed::is_away;
use crate::aio::peek::Duplex;
use crate::endpoint::PrimaryVersion;
use crate::plan::pubsub::{
    ChangeProgress, ChangeRequest, ChannelName, ClusterSignals, ConnectionEnd, DesiredNames, Event,
    KEEPALIVE_AFTER, NAMES_AT_ONCE, PubSubReply, RedirectedNames, SubscriptionChange,
    SubscriptionKind, SubscriptionWorker,
};
use crate::policy::{ConnectError, HandshakeScope, IoFailure};
use crate::resp::ReplyDecoder;

/// Number of replies and messages handled in a row, before other tasks get their turn.
const REPLIES_AT_ONCE: usize = 256;
/// Number of payload bytes handled in a row.
const BYTES_AT_ONCE: usize = 256 << 10;

/// The user's side of one node's connection. Dropping it ends the task.
pub(super) struct PubSubConnection {
    shared: Arc<Shared>,
    /// How connections are made, for the next task.
    connector: Connector,
    /// The node's name, for events.
    node: String,
    /// Where messages go, shared with the other nodes' connections.
    events: Arc<EventChannel>,
}

/// State that the user and the task share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the user: a subscription was confirmed or refused, a connection made or lost.
    changed: Notify,
    /// For the task: there is something to write, or the user is gone. `notify_one` stores a permit, so no
    /// wake-up is lost while the task is busy.
    work: Notify,
    /// Set whenever the task runs; cleared by [`PubSubConnection::probe`].
    run: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    worker: SubscriptionWorker,
    /// The number of the task; those before it have nothing to say any more.
    task: u64,
    /// True while the current task exists.
    running: bool,
    /// The task's runtime if it is a current-thread one.
    home: Option<Id>,
}

impl PubSubConnection {
    /// Starts the task on this runtime, for a plain node or one of a cluster.
    pub(super) fn start(
        connector: Connector,
        node: String,
        is_cluster: bool,
        events: Arc<EventChannel>,
    ) -> Self {
        let state = State {
            worker: SubscriptionWorker::new(is_cluster),
            ..State::default()
        };
        let shared = Shared {
            state: Mutex::new(state),
            ..Shared::default()
        };
        let connection = Self {
            shared: Arc::new(shared),
            connector,
            node,
            events,
        };
        connection.restart();
        connection
    }

    /// Starts a new task on this runtime if the last one ended with its runtime.
    pub(super) fn ensure_running(&self) {
        let running = self.shared.state.lock().running;
        if !running {
            self.restart();
        }
    }

    /// Starts a new task on this runtime. The current one, if it still exists, does nothing more: its number
    /// is out of date.
    fn restart(&self) {
        let (number, was_connected) = {
            let mut state = self.shared.state.lock();
            state.task += 1;
            state.running = true;
            state.home = current_thread_runtime();
            (state.task, state.worker.restart())
        };
        if was_connected {
            // The replaced task will not report it.
            self.events.stop(Some(self.disconnected()));
        }
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            connector: self.connector.clone(),
            node: self.node.clone(),
            events: Arc::clone(&self.events),
            number,
        };
        tokio::spawn(worker.run());
    }

    /// The event for a connection that broke.
    fn disconnected(&self) -> Event {
        Event::Disconnected {
            node: self.node.clone(),
        }
    }

    /// True if the task lives on a current-thread runtime other than the caller's.
    pub(super) fn is_on_foreign_runtime(&self) -> bool {
        is_away(self.shared.state.lock().home)
    }

    /// Wakes the task, which then shows that it is being polled.
    pub(super) fn probe(&self) {
        self.shared.run.store(false, Ordering::Relaxed);
        self.shared.work.notify_one();
    }

    /// Starts a new task on this runtime if the current one has not run since [`probe`](Self::probe).
    pub(super) fn move_to_this_runtime(&self) {
        if !self.shared.run.load(Ordering::Relaxed) {
            self.restart();
        }
    }

    /// Changes the set of subscriptions, and sends the commands if there is a connection. A new connection
    /// restores the set in any case.
    ///
    /// If the future is dropped, the names handled so far are changed, and their request is sent.
    pub(super) async fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) {
        // Names are handled in chunks, so that a list of a million does not block the runtime; the lock is
        // not held over the yield.
        let request = self.shared.state.lock().worker.begin_change(change, kind);
        let mut unsent = UnsentChange {
            shared: &self.shared,
            request,
        };
        for names in names.chunks(NAMES_AT_ONCE) {
            unsent.request.add(names);
            {
                let mut state = self.shared.state.lock();
                state.worker.subscriptions.change(change, kind, names);
            }
            if names.len() == NAMES_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Changes the subscriptions because the topology has changed.
    pub(super) fn change_owner(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) {
        let mut state = self.shared.state.lock();
        if state.worker.change_owner(change, kind, names) {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Takes over what another server of the cluster has redirected here.
    pub(super) fn take_over(&self, redirected: &RedirectedNames, is_delayed: bool) {
        let mut state = self.shared.state.lock();
        if state.worker.take_over(redirected, is_delayed) {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// What the connection means for those to other nodes of the cluster.
    pub(super) fn take_signals(&self) -> ClusterSignals {
        self.shared.state.lock().worker.take_signals()
    }

    /// True if the user wants this name at this node.
    pub(super) fn wants(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.shared
            .state
            .lock()
            .worker
            .subscriptions
            .wants(kind, name)
    }

    /// The names that the user wants at this node.
    pub(super) fn desired(&self) -> DesiredNames {
        self.shared.state.lock().worker.subscriptions.desired()
    }

    /// Number of connections that broke or could not be made so far.
    pub(super) fn failed_count(&self) -> u64 {
        self.shared.state.lock().worker.failed_count()
    }

    /// Waits until the node has confirmed all subscriptions, for longest until `end`. A refused change is rolled back.
    ///
    /// While the node is known to be down, waits only for an attempt that is due. It began after `failed_before` failures.
    /// [`Pending`](ChangeProgress::Pending) when the time is over, or names have to be [taken](Self::take_signals).
    pub(super) async fn wait_confirmed(
        &self,
        failed_before: u64,
        end: Option<Instant>,
    ) -> ChangeProgress {
        loop {
            // Before the state is looked at: what happens in between must not be missed.
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let (progress, has_signals) = {
                let worker = &mut self.shared.state.lock().worker;
                let is_due = || self.connector.backoff.is_due();
                let progress = worker.change_progress(failed_before, is_due);
                (progress, worker.has_signals())
            };
            if matches!(progress, ChangeProgress::Refused(_)) {
                self.roll_back().await;
            }
            if !matches!(progress, ChangeProgress::Pending) || has_signals {
                return progress;
            }
            match end {
                None => changed.await,
                Some(end) => {
                    if tokio::time::timeout_at(end.into(), changed).await.is_err() {
                        return ChangeProgress::Pending;
                    }
                }
            }
        }
    }

    /// Undoes a refused change, in steps between which other tasks run.
    async fn roll_back(&self) {
        loop {
            let is_done = {
                let worker = &mut self.shared.state.lock().worker;
                let is_done = worker.subscriptions.roll_back();
                if is_done && worker.end_refused() {
                    self.shared.work.notify_one();
                }
                is_done
            };
            if is_done {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// A change whose names are recorded as desired, but whose request the task does not have yet. Hands it over when dropped,
/// also in the middle: names that the node is never asked for would keep every later change from being confirmed.
struct UnsentChange<'c> {
    shared: &'c Shared,
    request: ChangeRequest,
}

impl Drop for UnsentChange<'_> {
    fn drop(&mut self) {
        let request = self.request.take();
        if self.shared.state.lock().worker.push(request) {
            self.shared.work.notify_one();
        }
    }
}

impl Drop for PubSubConnection {
    fn drop(&mut self) {
        self.shared.state.lock().worker.end();
        self.shared.work.notify_one();
    }
}

/// The task's side.
struct Worker {
    shared: Arc<Shared>,
    connector: Connector,
    node: String,
    events: Arc<EventChannel>,
    /// Compared with [`State::task`].
    number: u64,
}

/// Why the task stops serving a connection.
enum End {
    Connection(ConnectionEnd),
    /// The user has gone, or another task has taken over.
    NoUser,
}

impl End {
    fn broken(why: impl Into<ConnectError>) -> Self {
        Self::Connection(ConnectionEnd::Broken(why.into()))
    }
}

/// What comes next on a connection.
enum Wakeup {
    /// Bytes were read into the decoder, or reading failed.
    Arrived(io::Result<usize>),
    /// Everything taken was written and flushed, or writing failed.
    Written(io::Result<()>),
    /// Nothing has arrived for [`KEEPALIVE_AFTER`].
    Quiet,
    /// The user has changed something.
    Work,
    /// The node has another primary.
    Moved,
}

/// A connection, and the bytes on their way over it.
struct Transfer {
    /// The socket, encrypted or not.
    stream: Box<dyn Duplex>,
    decoder: ReplyDecoder,
    /// The version of the node's address, if it may change.
    primary: Option<PrimaryVersion>,
    /// Commands taken from [`State::outgoing`] or from the restoring.
    outgoing: Vec<u8>,
    /// Number of bytes of `outgoing` that the socket has taken.
    written: usize,
    /// False until the stream has flushed what it took: TLS may hold back a record.
    flushed: bool,
    /// When the last bytes arrived, or the last PING was queued.
    quiet_since: Instant,
}

impl Worker {
    /// Connects, again and again, until the user is gone.
    async fn run(self) {
        loop {
            let end = match self.run_connection().await {
                End::NoUser => return,
                End::Connection(end) => end,
            };
            let reconnect = {
                let Some(mut state) = self.state() else {
                    return;
                };
                let jitter = rand::random();
                state.worker.disconnected(end, Instant::now(), jitter)
            };
            if reconnect.is_disconnected {
                self.connector.backoff.suspect_primary();
            }
            // After the state is set: a change that waits must see the outage.
            self.shared.changed.notify_waiters();
            if reconnect.has_signals {
                self.events.signal();
            }
            let node = self.node.clone();
            if reconnect.is_disconnected && !self.events.send(Event::Disconnected { node }).await {
                return;
            }
            self.wait(reconnect.pause, reconnect.is_left_alone).await;
            if self.state().is_none() {
                return;
            }
        }
    }

    /// Pauses before the next connection. While the node is backed off, ends early if another connection of
    /// the client learns more of the node.
    async fn wait(&self, pause: Duration, is_left_alone: bool) {
        match is_left_alone {
            true => {
                let changed = self.connector.backoff.changed();
                // Either way the node's backoff is asked next.
                let _ = tokio::time::timeout(pause, changed).await;
            }
            false => tokio::time::sleep(pause).await,
        }
    }

    /// Locks the state. `None` once the user is gone or another task has taken over, which every step has to
    /// respect.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.shared.run.store(true, Ordering::Relaxed);
        let state = self.shared.state.lock();
        (!state.worker.has_ended() && state.task == self.number).then_some(state)
    }

    /// Makes one connection and serves it until it ends.
    async fn run_connection(&self) -> End {
        let connector = &self.connector;
        let attempt = match connector
            .backoff
            .try_begin(connector.timeout, HandshakeScope::Full)
        {
            Ok(attempt) => attempt,
            Err(down) => return End::Connection(ConnectionEnd::Down(down)),
        };
        let opened = connector.open_pub_sub().await;
        let opened = match attempt.end(opened) {
            Ok(opened) => opened,
            Err(why) => return End::Connection(ConnectionEnd::NotMade(why)),
        };
        match self.state() {
            Some(mut state) => state.worker.connected(Instant::now()),
            None => return End::NoUser,
        }
        let transfer = Transfer {
            stream: opened.stream,
            decoder: opened.decoder,
            primary: opened.primary,
            outgoing: Vec::new(),
            written: 0,
            flushed: true,
            quiet_since: Instant::now(),
        };
        self.read_loop(transfer).await
    }

    async fn read_loop(&self, mut transfer: Transfer) -> End {
        loop {
            if let Some(end) = self.handle_buffered(&mut transfer.decoder).await {
                return end;
            }
            let Some(wakes_at) = self.take_outgoing(&mut transfer) else {
                return End::NoUser;
            };
            match self.next_wakeup(&mut transfer, wakes_at).await {
                Wakeup::Moved => return End::broken(ConnectError::PrimaryChanged),
                Wakeup::Work | Wakeup::Written(Ok(())) => {}
                Wakeup::Written(Err(error)) | Wakeup::Arrived(Err(error)) => {
                    return End::broken(IoFailure::broken(&error));
                }
                Wakeup::Quiet => {
                    let quiet = self.shared.state.lock().worker.quiet();
                    if let Err(why) = quiet {
                        return End::broken(why);
                    }
                    transfer.quiet_since = Instant::now();
                }
                Wakeup::Arrived(Ok(count)) => {
                    transfer.decoder.advance(count);
                    transfer.quiet_since = Instant::now();
                    self.shared.state.lock().worker.received();
                }
            }
        }
    }

    /// Takes what is to be written next, once everything taken before is written: first the commands that
    /// restore the subscriptions, a piece at a time, then those of the user. Returns when there will be more without
    /// another reason. `None` if there is no user any more.
    fn take_outgoing(&self, transfer: &mut Transfer) -> Option<Option<Instant>> {
        let mut state = self.state()?;
        state.worker.resubscribe(Instant::now(), rand::random());
        if transfer.written == transfer.outgoing.len() && transfer.flushed {
            let mut restored = std::iter::from_fn(|| state.worker.subscriptions.restore());
            transfer.outgoing = match restored.find(|packed| !packed.is_empty()) {
                Some(packed) => packed,
                None => state.worker.take_outgoing(),
            };
            transfer.written = 0;
            transfer.flushed = transfer.outgoing.is_empty();
        }
        Some(state.worker.wakes_at())
    }

    async fn handle_buffered(&self, decoder: &mut ReplyDecoder) -> Option<End> {
        let (mut replies, mut bytes) = (0, 0);
        loop {
            let is_missed_due = self.shared.state.lock().worker.take_missed(Instant::now);
            let node = || self.node.clone();
            if is_missed_due && !self.events.send(Event::Missed { node: node() }).await {
                return Some(End::NoUser);
            }
            let value = match decoder.next_reply() {
                Err(error) => return Some(End::broken(IoFailure::broken(&error))),
                Ok(None) => return None,
                Ok(Some(value)) => value,
            };
            let reply = match self.state() {
                None => return Some(End::NoUser),
                Some(mut state) => state.worker.subscriptions.handle_reply(value, &self.node),
            };
            match reply {
                PubSubReply::Nothing => {}
                PubSubReply::Confirmed | PubSubReply::Restored => {
                    self.shared.changed.notify_waiters()
                }
                PubSubReply::Redirected => {
                    self.shared.changed.notify_waiters();
                    self.events.signal();
                }
                PubSubReply::Message(message) => {
                    bytes += message.payload.len();
                    // While the queue is full nothing is read here, so the server's output buffer limit
                    // applies.
                    if !self.events.send(Event::Message(message)).await {
                        return Some(End::NoUser);
                    }
                }
            }
            replies += 1;
            if replies >= REPLIES_AT_ONCE || bytes >= BYTES_AT_ONCE {
                (replies, bytes) = (0, 0);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits until something happens. Writes and reads at the same time: a server that waits for its replies
    /// to be read may itself not read.
    async fn next_wakeup(&self, transfer: &mut Transfer, wakes_at: Option<Instant>) -> Wakeup {
        // Nothing is lost when these are dropped: `Notify` keeps its permit, and reading goes directly into
        // the decoder.
        let mut work = pin!(self.shared.work.notified());
        // Counted from the last bytes, whatever was written since: a user who changes subscriptions all the time must not
        // keep a dead connection from being noticed.
        let quiet_at = transfer.quiet_since + KEEPALIVE_AFTER;
        let alarm = match wakes_at {
            Some(wakes_at) if wakes_at < quiet_at => (wakes_at, Wakeup::Work),
            _ => (quiet_at, Wakeup::Quiet),
        };
        let (mut rings, mut wakeup) = (
            pin!(tokio::time::sleep_until(alarm.0.into())),
            Some(alarm.1),
        );
        let primary = transfer.primary.clone();
        // Boxed, so that fixed addresses pay nothing for it.
        let mut moved = primary.as_ref().map(|primary| Box::pin(primary.moved()));
        std::future::poll_fn(|cx| {
            if let Some(moved) = &mut moved
                && moved.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Wakeup::Moved);
            }
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wakeup::Work);
            }
            if let Poll::Ready(written) = transfer.poll_write(cx) {
                return Poll::Ready(Wakeup::Written(written));
            }
            if let Poll::Ready(arrived) = transfer.poll_read(cx) {
                return Poll::Ready(Wakeup::Arrived(arrived));
            }
            ready!(rings.as_mut().poll(cx));
            Poll::Ready(wakeup.take().unwrap_or(Wakeup::Work))
        })
        .await
    }
}

impl Transfer {
    /// Ready when there was something to write and all of it is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushed {
            return Poll::Pending;
        }
        let mut stream = Pin::new(&mut *self.stream);
        while self.written < self.outgoing.len() {
            let rest = &self.outgoing[self.written..];
            match ready!(stream.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        ready!(stream.poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    /// Reads once into the decoder's spare room.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.decoder.spare_mut());
        ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut room))?;
        Poll::Ready(match room.filled().len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        })
    }
}

impl Drop for Worker {
    /// Runs when the runtime shuts down before the user is gone: leaves the state ready for
    /// [`PubSubConnection::ensure_running`], and wakes the reader to call it.
    fn drop(&mut self) {
        let was_connected = {
            let mut state = self.shared.state.lock();
            if state.worker.has_ended() || state.task != self.number {
                return;
            }
            state.running = false;
            state.worker.restart()
        };
        let node = self.node.clone();
        self.events
            .stop(was_connected.then_some(Event::Disconnected { node }));
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardedClient;
    use crate::testing::{Fault, TestNode};

    #[tokio::test]
    async fn a_subscribe_that_is_dropped_half_way_leaves_nothing_that_later_ones_wait_for() {
        let node = TestNode::start().unwrap();
        let builder = ShardedClient::builder().node("a", node.url());
        let mut subscriber = builder.build_async().unwrap().subscriber();
        subscriber.subscribe("first").await.unwrap();
        let names: Vec<String> = (0..3 * NAMES_AT_ONCE)
            .map(|name| format!("n{name}"))
            .collect();
        {
            let mut subscribing = pin!(subscriber.subscribe(names));
            let polled = std::future::poll_fn(|cx| Poll::Ready(subscribing.as_mut().poll(cx)));
            assert!(polled.await.is_pending(), "it yields between its slices");
        }
        subscriber.subscribe("last").await.unwrap();
    }

    #[tokio::test]
    async fn async_subscriber_pings_an_idle_connection_and_replaces_it_when_no_reply_comes() {
        let node = TestNode::start().unwrap();
        let builder = ShardedClient::builder().node("a", node.url());
        let mut subscriber = builder.build_async().unwrap().subscriber();
        subscriber.subscribe("news").await.unwrap();
        // The node is silent but alive: it replies to each PING.
        let nothing = tokio::time::timeout(4 * KEEPALIVE_AFTER, subscriber.next_event(None)).await;
        assert!(nothing.is_err(), "{nothing:?}");
        assert!(node.count_of("PING") >= 2);
        node.fail("PING", Fault::HangBefore, 1);
        let gone = tokio::time::timeout(Duration::from_secs(10), subscriber.next_event(None)).await;
        assert!(
            matches!(gone, Ok(Some(Event::Disconnected { .. }))),
            "{gone:?}"
        );
        assert_eq!(node.faults_left(), 0);
        let missed =
            tokio::time::timeout(Duration::from_secs(10), subscriber.next_event(None)).await;
        assert!(
            matches!(missed, Ok(Some(Event::Missed { .. }))),
            "{missed:?}"
        );
    }
}
