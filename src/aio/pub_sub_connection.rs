//! Listening to one node: a task that waits for messages, and makes the connection again when it breaks.

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

/// Replies and messages that are dealt with in a row, and their bytes, before other tasks get their turn.
const REPLIES_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 256 << 10;

/// One node's connection.
pub(super) struct PubSubConnection {
    shared: Arc<Shared>,
    connector: Connector,
    node: String,
    events: Arc<EventChannel>,
}

/// What the user and the task share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the user: something was confirmed or refused, a connection made or lost.
    changed: Notify,
    /// For the task: there is something to write, or the user has gone.
    work: Notify,
    /// The task has run since this was cleared.
    run: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    subscriptions: SubscriptionTracker,
    /// Requests for the connection there is.
    outgoing: Vec<u8>,
    connected: bool,
    /// How many connections were made.
    connections: u64,
    /// Why there is no connection.
    outage: Option<ConnectError>,
    /// How many connections broke or could not be made.
    failed: u64,
    /// The number of the task; those before it have nothing to say any more.
    task: u64,
    /// It exists.
    running: bool,
    /// Its runtime, if that runs only while somebody blocks on it.
    home: Option<Id>,
    /// The user has gone.
    ended: bool,
}

impl PubSubConnection {
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

    /// Starts the task on this runtime if the one it lived on has ended.
    pub(super) fn ensure_running(&self) {
        let running = self.shared.state.lock().running;
        if !running {
            self.restart();
        }
    }

    /// Starts the task on this runtime. One that there was does nothing more.
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

    fn disconnected(&self) -> Event {
        Event::Disconnected {
            node: self.node.clone(),
        }
    }

    /// Whether the task lives on a runtime that may not be run while this one is.
    pub(super) fn is_on_foreign_runtime(&self) -> bool {
        is_away(self.shared.state.lock().home)
    }

    /// Asks the task for a sign of life.
    pub(super) fn probe(&self) {
        self.shared.run.store(false, Ordering::Relaxed);
        self.shared.work.notify_one();
    }

    /// Starts the task on this runtime if it has given no sign of life since it was asked.
    pub(super) fn move_to_this_runtime(&self) {
        if !self.shared.run.load(Ordering::Relaxed) {
            self.restart();
        }
    }

    /// Changes what is listened to, and tells the node if there is a connection; a new connection hears of it anyway.
    pub(super) async fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[Name],
    ) {
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
            match state.outgoing.is_empty() {
                true => state.outgoing = request.finish(),
                false => state.outgoing.extend_from_slice(&request.finish()),
            }
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Waits until the node has confirmed what is wanted. While the node is known to be down, only for an attempt that is due.
    pub(super) async fn wait_confirmed(
        &self,
        deadline: Deadline,
        late: impl Fn(Option<&ConnectError>) -> Error,
    ) -> Result<(), Error> {
        let failed = self.shared.state.lock().failed;
        loop {
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

/// The task.
struct Worker {
    shared: Arc<Shared>,
    connector: Connector,
    node: String,
    events: Arc<EventChannel>,
    number: u64,
}

/// Why a connection is no more.
enum End {
    Broken(ConnectError),
    /// It could not be made.
    NotMade(ConnectError),
    /// The node is known to be down, and is left alone for so long.
    Down(Down),
    /// Nobody listens any more, or another task does it.
    NoUser,
}

/// What comes next on a connection.
enum Wakeup {
    Arrived(io::Result<usize>),
    Written(io::Result<()>),
    Quiet,
    Work,
}

/// A connection, and what is on its way over it.
struct Transfer {
    stream: Box<dyn Duplex>,
    decoder: ReplyDecoder,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the socket has taken.
    written: usize,
    flushed: bool,
}

impl Worker {
    async fn run(self) {
        // A server that takes connections and drops them at once is not called at once each time.
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
                // How long the node is left alone is asked for next.
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
            self.shared.changed.notify_waiters();
            let node = self.node.clone();
            if was_connected && !self.events.send(Event::Disconnected { node }).await {
                return;
            }
            self.wait(pause, failed == 0).await;
            if self.state().is_none() {
                return;
            }
        }
    }

    /// Waits before the next connection; while the node is left alone, no longer than until another connection has found out
    /// more.
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

    /// The state, as long as it concerns this task.
    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.shared.run.store(true, Ordering::Relaxed);
        let state = self.shared.state.lock();
        (!state.ended && state.task == self.number).then_some(state)
    }

    /// One connection, from its beginning to its end.
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

    /// `gap` tells that messages may have been missed before this connection.
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

    /// Takes what is to be written next, once all that was taken before is written: first what makes the subscriptions of a
    /// new connection again. Whether there is still a user.
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

    async fn handle_buffered(&self, decoder: &mut ReplyDecoder, gap: &mut bool) -> Option<End> {
        let (mut replies, mut bytes) = (0, 0);
        loop {
            // Only once the node has confirmed the subscriptions: who looks at the data now must not miss what is published
            // after the look.
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

    /// Writes and reads at the same time: a server that waits until its replies are read may read nothing itself.
    async fn next_wakeup(&self, transfer: &mut Transfer) -> Wakeup {
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
    /// Ready when there was something to write and all of it is written.
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
    /// The runtime may end before the user goes.
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
    async fn async_subscriber_pings_an_idle_connection_and_replaces_it_when_no_reply_comes() {
        let node = TestNode::start().unwrap();
        let builder = ShardedClient::builder().node("a", node.url());
        let mut subscriber = builder.build_async().unwrap().subscriber();
        subscriber.subscribe("news").await.unwrap();
        // Quiet, but there: each PING is answered.
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
