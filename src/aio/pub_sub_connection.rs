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

use crate::aio::event_channel::EventChannel;
use crate::aio::multiplexed::is_away;
use crate::aio::peek::Duplex;
use crate::aio::reconnecting::{Connector, current_thread_runtime};
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::plan::pubsub::{
    ChangeRequest, Event, KEEPALIVE_AFTER, NAMES_AT_ONCE, Name, PubSubReply, SubscriptionChange,
    SubscriptionKind, SubscriptionTracker,
};
use crate::policy::{BACKOFF_MAX, ConnectError, Down, broken_text, pause};
use crate::resp::{PING, ReplyDecoder};

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
    /// The subscriptions wanted, and those that the node has confirmed.
    subscriptions: SubscriptionTracker,
    /// Commands for the current connection. Discarded with it: the next one restores all subscriptions from
    /// `subscriptions`.
    outgoing: Vec<u8>,
    /// True while there is a connection, including the restoring of its subscriptions.
    connected: bool,
    /// Number of connections made. From the second one on, messages have been missed.
    connections: u64,
    /// Why there is no connection.
    outage: Option<ConnectError>,
    /// Number of connections that broke or could not be made. Compared by a change to detect that an attempt
    /// has failed since it began.
    failed: u64,
    /// Number of the current task. A task with another number was replaced and must touch nothing.
    task: u64,
    /// True while the current task exists.
    running: bool,
    /// The task's runtime if it is a current-thread one.
    home: Option<Id>,
    /// True once the user's side is dropped.
    ended: bool,
}

impl PubSubConnection {
    /// Starts the task on this runtime.
    pub(super) fn start(connector: Connector, node: String, events: Arc<EventChannel>) -> Self {
        let connection = Self {
            shared: Arc::default(),
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
            state.outgoing = Vec::new();
            state.outage = None;
            (state.task, std::mem::take(&mut state.connected))
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
    /// If the future is dropped, the names handled so far are changed, and the node learns of them with the
    /// next connection.
    pub(super) async fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[Name],
    ) {
        // Names are handled in chunks, so that a list of a million does not block the runtime; the lock is
        // not held over the yield.
        let mut request = ChangeRequest::new(change, kind, names.len());
        self.shared.state.lock().subscriptions.begin_change();
        for names in names.chunks(NAMES_AT_ONCE) {
            request.add(names);
            {
                let mut state = self.shared.state.lock();
                state.subscriptions.change(change, kind, names);
            }
            if names.len() == NAMES_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        let mut state = self.shared.state.lock();
        if state.connected {
            // Moved, not copied, in the common case.
            match state.outgoing.is_empty() {
                true => state.outgoing = request.finish(),
                false => state.outgoing.extend_from_slice(&request.finish()),
            }
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Waits until the node has confirmed all subscriptions. While the node is known to be down, waits only
    /// for an attempt that is due.
    ///
    /// # Errors
    ///
    /// The node's own, after which the change is rolled back; or `late`, with the reason why there is no
    /// connection, after which the change stays in force.
    pub(super) async fn wait_confirmed(
        &self,
        deadline: Deadline,
        late: impl Fn(Option<&ConnectError>) -> Error,
    ) -> Result<(), Error> {
        let failed = self.shared.state.lock().failed;
        loop {
            // Registered before the state is read, or a confirmation in between would not be noticed.
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let refusal = {
                let mut state = self.shared.state.lock();
                let refusal = state.subscriptions.take_refusal();
                if refusal.is_none() && state.subscriptions.is_confirmed() {
                    state.subscriptions.end_change();
                    return Ok(());
                }
                if refusal.is_none()
                    && let Some(outage) = &state.outage
                    // An attempt that is due gets its chance; one that has failed since the change began was
                    // it.
                    && (state.failed != failed || !self.connector.backoff.is_due())
                {
                    return Err(late(Some(outage)));
                }
                refusal
            };
            if let Some(refusal) = refusal {
                self.roll_back().await;
                return Err(refusal);
            }
            match deadline.end() {
                None => changed.await,
                Some(end) => {
                    if tokio::time::timeout_at(end.into(), changed).await.is_err() {
                        return Err(late(None));
                    }
                }
            }
        }
    }

    /// Undoes a refused change, in steps between which other tasks run.
    async fn roll_back(&self) {
        loop {
            let is_done = self.shared.state.lock().subscriptions.roll_back();
            if is_done {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for PubSubConnection {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
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

/// How a connection ended.
enum End {
    /// It worked, and then failed.
    Broken(ConnectError),
    /// It could not be made.
    NotMade(ConnectError),
    /// No attempt: the node is known to be down and its pause is not over.
    Down(Down),
    /// The user's side is gone, or another task has taken over.
    NoUser,
}

/// The next event on a connection.
enum Wakeup {
    /// Bytes were read into the decoder, or reading failed.
    Arrived(io::Result<usize>),
    /// Everything taken was written and flushed, or writing failed.
    Written(io::Result<()>),
    /// Nothing has arrived for [`KEEPALIVE_AFTER`].
    Quiet,
    /// The user has changed something.
    Work,
}

/// A connection, and the bytes on their way over it.
struct Transfer {
    /// The socket, encrypted or not.
    stream: Box<dyn Duplex>,
    decoder: ReplyDecoder,
    /// Commands taken from [`State::outgoing`] or from the restoring.
    outgoing: Vec<u8>,
    /// Number of bytes of `outgoing` that the socket has taken.
    written: usize,
    /// False until the stream has flushed what it took: TLS may hold back a record.
    flushed: bool,
}

impl Worker {
    /// Connects, again and again, until the user is gone.
    async fn run(self) {
        // A server that accepts connections and drops them at once feeds no backoff, as every connection is
        // made. This count spaces such attempts.
        let mut short_lived = 0;
        loop {
            let begun = Instant::now();
            let (why, pause, failed) = match self.run_connection().await {
                End::NoUser => return,
                End::Broken(why) => {
                    let lived_long = begun.elapsed() > BACKOFF_MAX;
                    short_lived = if lived_long { 1 } else { short_lived + 1 };
                    (why, pause(short_lived, rand::random()), 1)
                }
                // No pause here: the next `run_connection` asks the backoff for the one that applies.
                End::NotMade(why) => (why, Duration::ZERO, 1),
                End::Down(down) => (down.reason, down.retry_in, 0),
            };
            let was_connected = {
                let Some(mut state) = self.state() else {
                    return;
                };
                state.outgoing = Vec::new();
                state.outage = Some(why);
                state.failed += failed;
                std::mem::take(&mut state.connected)
            };
            // After the state is set: a change that waits must see the outage.
            self.shared.changed.notify_waiters();
            let node = self.node.clone();
            // May wait for room; the task has no connection then, so nothing is lost by waiting.
            if was_connected && !self.events.send(Event::Disconnected { node }).await {
                return;
            }
            self.wait(pause, failed == 0).await;
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
        (!state.ended && state.task == self.number).then_some(state)
    }

    /// Makes one connection and serves it until it ends.
    async fn run_connection(&self) -> End {
        let connector = &self.connector;
        let attempt = match connector.backoff.try_begin(connector.timeout) {
            Ok(attempt) => attempt,
            Err(down) => return End::Down(down),
        };
        let opened = connector.open(connector.pub_sub_handshake()).await;
        let (stream, decoder) = match attempt.end(opened) {
            Ok(opened) => opened,
            Err(why) => return End::NotMade(why),
        };
        let gap = {
            let Some(mut state) = self.state() else {
                return End::NoUser;
            };
            // Under one lock with `connected`: a change either precedes the restoring, and is part of it, or
            // follows it and appends its own commands.
            state.subscriptions.begin_restore();
            state.outgoing = Vec::new();
            state.connected = true;
            state.outage = None;
            state.connections += 1;
            state.connections > 1
        };
        let transfer = Transfer {
            stream,
            decoder,
            outgoing: Vec::new(),
            written: 0,
            flushed: true,
        };
        self.read_loop(transfer, gap).await
    }

    /// Serves one connection. `gap` is true if messages may have been missed before it.
    async fn read_loop(&self, mut transfer: Transfer, mut gap: bool) -> End {
        let mut asked = false;
        loop {
            if let Some(end) = self.handle_buffered(&mut transfer.decoder, &mut gap).await {
                return end;
            }
            if !self.take_outgoing(&mut transfer) {
                return End::NoUser;
            }
            match self.next_wakeup(&mut transfer).await {
                Wakeup::Work | Wakeup::Written(Ok(())) => {}
                Wakeup::Written(Err(error)) | Wakeup::Arrived(Err(error)) => {
                    return End::Broken(broken_text(&error).into());
                }
                Wakeup::Quiet if asked => return End::Broken("no reply to PING in time".into()),
                Wakeup::Quiet => {
                    asked = true;
                    self.shared.state.lock().outgoing.extend_from_slice(PING);
                }
                Wakeup::Arrived(Ok(count)) => {
                    transfer.decoder.advance(count);
                    asked = false;
                }
            }
        }
    }

    /// Takes what is to be written next, once everything taken before is written: first the commands that
    /// restore the subscriptions, a piece at a time, then those of the user. Returns false if there is no
    /// user any more.
    fn take_outgoing(&self, transfer: &mut Transfer) -> bool {
        let Some(mut state) = self.state() else {
            return false;
        };
        if transfer.written == transfer.outgoing.len() && transfer.flushed {
            let mut restored = std::iter::from_fn(|| state.subscriptions.restore());
            transfer.outgoing = match restored.find(|packed| !packed.is_empty()) {
                Some(packed) => packed,
                None => std::mem::take(&mut state.outgoing),
            };
            transfer.written = 0;
            transfer.flushed = transfer.outgoing.is_empty();
        }
        true
    }

    /// Handles every complete reply and message in the decoder. Returns how the connection ended, if it did.
    async fn handle_buffered(&self, decoder: &mut ReplyDecoder, gap: &mut bool) -> Option<End> {
        let (mut replies, mut bytes) = (0, 0);
        loop {
            // `Missed` only after the node has confirmed the subscriptions: a user who now rereads the data
            // must not miss what is published after that.
            if *gap && self.shared.state.lock().subscriptions.is_restored() {
                *gap = false;
                let node = self.node.clone();
                if !self.events.send(Event::Missed { node }).await {
                    return Some(End::NoUser);
                }
            }
            let value = match decoder.next_reply() {
                Err(error) => return Some(End::Broken(broken_text(&error).into())),
                Ok(None) => return None,
                Ok(Some(value)) => value,
            };
            let heard = match self.state() {
                None => return Some(End::NoUser),
                Some(mut state) => state.subscriptions.handle_reply(value, &self.node),
            };
            match heard {
                PubSubReply::Nothing => {}
                PubSubReply::Confirmed | PubSubReply::Restored => {
                    self.shared.changed.notify_waiters()
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
    async fn next_wakeup(&self, transfer: &mut Transfer) -> Wakeup {
        // Nothing is lost when these are dropped: `Notify` keeps its permit, and reading goes directly into
        // the decoder.
        let mut work = pin!(self.shared.work.notified());
        let mut silence = pin!(tokio::time::sleep(KEEPALIVE_AFTER));
        std::future::poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wakeup::Work);
            }
            if let Poll::Ready(written) = transfer.poll_write(cx) {
                return Poll::Ready(Wakeup::Written(written));
            }
            if let Poll::Ready(arrived) = transfer.poll_read(cx) {
                return Poll::Ready(Wakeup::Arrived(arrived));
            }
            silence.as_mut().poll(cx).map(|()| Wakeup::Quiet)
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
            if state.ended || state.task != self.number {
                return;
            }
            state.running = false;
            state.outgoing = Vec::new();
            std::mem::take(&mut state.connected)
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
    async fn a_subscriber_asks_a_silent_connection_and_replaces_one_that_stays_silent() {
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
