//! The pub/sub connection to one node: a thread that receives messages, and reconnects and resubscribes when
//! it breaks.
//!
//! The thread reads and reconnects; the user's thread writes its own commands on a clone of the socket. When
//! a connection breaks, the thread derives SUBSCRIBE commands for the whole set of subscriptions from
//! [`State`], so a change that came in between is never lost.
//!
//! Lock order: `writer` before `state`. `writer` is held while the socket takes bytes, which can block; the
//! thread must be able to take `state` and read at that time, as a server whose messages are not read stops
//! reading.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::blocking::{Socket, WRITE_POLL_INTERVAL};
use crate::endpoint::Deadline;
use crate::endpoint::{NodeBackoff, PrimaryVersion};
use crate::error::Error;
use crate::plan::pubsub::{
    ChangeProgress, ChannelName, ClusterSignals, ConnectionEnd, DesiredNames, Event,
    KEEPALIVE_AFTER, PubSubReply, RedirectedNames, SubscriptionChange, SubscriptionKind,
    SubscriptionWorker, no_thread,
};
use crate::policy::{ConnectError, HandshakeScope, IoFailure, is_timeout};
use crate::resp::ReplyDecoder;
use crate::sync::connection::Connector;
use crate::sync::event_channel::EventChannel;

/// How often a thread checks whether its node has another primary while no message arrives.
const PRIMARY_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Shortest time that a thread waits for messages before it subscribes again.
const WAKE_MIN: Duration = Duration::from_millis(1);

/// The user's side of one node's connection. Dropping it ends the thread.
pub(super) struct PubSubConnection {
    shared: Arc<Shared>,
    /// The node's backoff, shared with all other connections to it.
    backoff: Arc<NodeBackoff>,
    /// The thread, detached on drop.
    thread: Option<JoinHandle<()>>,
}

/// State that the user and the thread share. See the module's documentation for the order of the locks.
struct Shared {
    /// The socket to write to. `None` until all subscriptions of a new connection have been requested: those
    /// commands come first.
    writer: Mutex<Option<Socket>>,
    state: Mutex<SubscriptionWorker>,
    /// Something was confirmed or refused, a connection made or lost.
    changed: Condvar,
}

impl PubSubConnection {
    /// Starts the thread, for a plain node or one of a cluster.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub(super) fn start(
        (connector, connect_timeout): (Connector, Duration),
        node: String,
        is_cluster: bool,
        events: Arc<EventChannel>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            writer: Mutex::default(),
            state: Mutex::new(SubscriptionWorker::new(is_cluster)),
            changed: Condvar::new(),
        });
        let backoff = Arc::clone(&connector.backoff);
        let worker = Worker {
            shared: Arc::clone(&shared),
            connector,
            connect_timeout,
            node,
            events,
        };
        let name = worker.node.clone();
        let thread = std::thread::Builder::new()
            .name("redis-sharding subscriber".into())
            .spawn(move || worker.run())
            .map_err(|error| no_thread(&name, &error))?;
        Ok(Self {
            shared,
            backoff,
            thread: Some(thread),
        })
    }

    /// Changes the set of subscriptions, and sends the commands if there is a connection. A new connection
    /// restores the set in any case.
    pub(super) fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
        deadline: &Deadline,
    ) {
        let mut state = self.shared.state.lock();
        let mut request = state.subscriptions.request(change, kind);
        request.add(names);
        state.subscriptions.begin_change();
        state.subscriptions.change(change, kind, names);
        if !state.push(request.take()) {
            return;
        }
        drop(state);
        self.write_within(deadline);
    }

    /// Changes the subscriptions because the topology has changed.
    pub(super) fn change_owner(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
        deadline: &Deadline,
    ) {
        let has_request = self.shared.state.lock().change_owner(change, kind, names);
        if has_request {
            self.write_within(deadline);
        }
    }

    /// Takes over what another server of the cluster has redirected here.
    pub(super) fn take_over(
        &self,
        redirected: &RedirectedNames,
        is_delayed: bool,
        deadline: &Deadline,
    ) {
        let has_request = self.shared.state.lock().take_over(redirected, is_delayed);
        if has_request {
            self.write_within(deadline);
        }
    }

    /// What the connection means for those to other nodes of the cluster.
    pub(super) fn take_signals(&self) -> ClusterSignals {
        self.shared.state.lock().take_signals()
    }

    /// True if the user wants this name at this node.
    pub(super) fn wants(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.shared.state.lock().subscriptions.wants(kind, name)
    }

    /// The names that the user wants at this node.
    pub(super) fn desired(&self) -> DesiredNames {
        self.shared.state.lock().subscriptions.desired()
    }

    /// Writes what is to be sent, unless the socket is taken until the deadline.
    fn write_within(&self, deadline: &Deadline) {
        // The holder of `writer` takes `outgoing` again before it lets go, so if the lock is not free in
        // time, our commands are most likely written already, and if not, with the next command or PING.
        let limit = deadline.within(KEEPALIVE_AFTER);
        if let Some(mut writer) = limit
            .end()
            .and_then(|end| self.shared.writer.try_lock_until(end))
        {
            self.shared.write_outgoing(&mut writer, &limit);
        }
    }

    /// Number of connections that broke or could not be made so far.
    pub(super) fn failed_count(&self) -> u64 {
        self.shared.state.lock().failed_count()
    }

    /// Waits until the node has confirmed all subscriptions, for longest until `end`. A refused change is rolled back.
    ///
    /// While the node is known to be down, waits only for an attempt that is due. It began after `failed_before` failures.
    /// [`Pending`](ChangeProgress::Pending) when the time is over, or names have to be [taken](Self::take_signals).
    pub(super) fn wait_confirmed(
        &self,
        failed_before: u64,
        end: Option<Instant>,
        deadline: &Deadline,
    ) -> ChangeProgress {
        let mut state = self.shared.state.lock();
        loop {
            let progress = state.change_progress(failed_before, || self.backoff.is_due());
            if matches!(progress, ChangeProgress::Refused(_)) {
                while !state.subscriptions.roll_back() {}
                if state.end_refused() {
                    drop(state);
                    self.write_within(deadline);
                }
                return progress;
            }
            let is_over = end.is_some_and(|end| end <= Instant::now());
            if !matches!(progress, ChangeProgress::Pending) || is_over || state.has_signals() {
                return progress;
            }
            match end {
                Some(end) => drop(self.shared.changed.wait_until(&mut state, end)),
                None => self.shared.changed.wait(&mut state),
            }
        }
    }
}

impl Drop for PubSubConnection {
    /// Ends the thread without waiting for it: it may be connecting, or blocked in a read.
    fn drop(&mut self) {
        self.shared.state.lock().end();
        self.shared.changed.notify_all();
        // Not waited for: a thread that is writing checks `ended` when it is done.
        if let Some(writer) = self.shared.writer.try_lock()
            && let Some(socket) = &*writer
        {
            socket.shutdown();
        }
        // Detached: the thread may be connecting, and ends by itself once it sees `ended`.
        drop(self.thread.take());
    }
}

impl Shared {
    /// Writes the queued commands, if there is a connection. Closes one that does not take them in time; the
    /// thread notices, and reconnects.
    fn write_outgoing(&self, writer: &mut Option<Socket>, limit: &Deadline) {
        loop {
            let outgoing = self.state.lock().take_outgoing();
            let Some(socket) = writer else {
                return;
            };
            if outgoing.is_empty() {
                return;
            }
            if write_all(socket, &outgoing, limit, |_| Ok(())).is_err() {
                socket.shutdown();
                *writer = None;
            }
        }
    }
}

/// Writes all of `bytes`. Calls `meanwhile` each time the socket takes no more for [`WRITE_POLL_INTERVAL`]:
/// the server may not read on before what it has written is read.
fn write_all(
    socket: &mut Socket,
    bytes: &[u8],
    limit: &Deadline,
    mut meanwhile: impl FnMut(&mut Socket) -> io::Result<()>,
) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() || socket.holds_back() {
        let wrote = match &bytes[written..] {
            [] => socket.flush().map(|()| 0),
            rest => socket.write(rest),
        };
        match wrote {
            Ok(0) if written < bytes.len() => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) && !limit.is_over() => meanwhile(socket)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The thread's side.
struct Worker {
    shared: Arc<Shared>,
    connector: Connector,
    /// Maximum duration of one attempt, handshake included.
    connect_timeout: Duration,
    node: String,
    events: Arc<EventChannel>,
}

/// Why the thread stops serving a connection.
enum End {
    Connection(ConnectionEnd),
    /// The user has gone.
    NoUser,
}

impl End {
    fn broken(why: impl Into<ConnectError>) -> Self {
        Self::Connection(ConnectionEnd::Broken(why.into()))
    }
}

impl Worker {
    /// Connects, again and again, until the user is gone.
    fn run(self) {
        loop {
            let end = match self.run_connection() {
                End::NoUser => return,
                End::Connection(end) => end,
            };
            // Before `connected` is cleared, in the order of the locks: no command is written to a socket
            // that is no longer read.
            *self.shared.writer.lock() = None;
            let reconnect =
                self.shared
                    .state
                    .lock()
                    .disconnected(end, Instant::now(), rand::random());
            self.shared.changed.notify_all();
            if reconnect.has_signals {
                self.events.signal();
            }
            if reconnect.is_disconnected {
                self.connector.backoff.suspect_primary();
            }
            if reconnect.is_disconnected
                && !self.send_event(Event::Disconnected { node: self.node() })
            {
                return;
            }
            let end = Instant::now() + reconnect.pause;
            let mut state = self.shared.state.lock();
            while !state.has_ended() && !self.shared.changed.wait_until(&mut state, end).timed_out()
            {
            }
            if state.has_ended() {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    fn run_connection(&self) -> End {
        let attempt = match self
            .connector
            .backoff
            .try_begin(self.connect_timeout, HandshakeScope::Full)
        {
            Ok(attempt) => attempt,
            Err(down) => return End::Connection(ConnectionEnd::Down(down)),
        };
        let (mut socket, writer, primary) = match attempt.end(self.connect()) {
            Ok(sockets) => sockets,
            Err(error) => return End::Connection(ConnectionEnd::NotMade(error)),
        };
        {
            let mut state = self.shared.state.lock();
            if state.has_ended() {
                return End::NoUser;
            }
            state.connected(Instant::now());
        }
        let mut decoder = ReplyDecoder::new();
        if let Err(error) = self.restore(writer, &mut decoder) {
            return End::broken(IoFailure::broken(&error));
        }
        if self.has_ended() {
            return End::NoUser;
        }
        self.read_loop(&mut socket, &mut decoder, primary.as_ref())
    }

    /// Requests all subscriptions again, then lets the user write.
    fn restore(&self, mut socket: Socket, decoder: &mut ReplyDecoder) -> io::Result<()> {
        // Held from here on, so that the user's commands follow those of the restoring: an UNSUBSCRIBE in
        // front of its SUBSCRIBE would be lost.
        let mut writer = self.shared.writer.lock();
        loop {
            let packed = self.shared.state.lock().subscriptions.restore();
            let Some(packed) = packed else {
                break;
            };
            let limit = Deadline::start(Some(KEEPALIVE_AFTER));
            write_all(&mut socket, &packed, &limit, |socket| {
                match socket.read_ready(decoder.spare_mut())? {
                    Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(count) => {
                        decoder.advance(count);
                        Ok(())
                    }
                    None => Ok(()),
                }
            })?;
        }
        // Commands appended during the restoring are written before the lock is released; their senders may
        // have stopped waiting for it.
        *writer = Some(socket);
        self.shared
            .write_outgoing(&mut writer, &Deadline::start(Some(KEEPALIVE_AFTER)));
        Ok(())
    }

    /// True once the user is gone. To be checked after holding `writer`, as the destructor does not shut the
    /// socket down then.
    fn has_ended(&self) -> bool {
        self.shared.state.lock().has_ended()
    }

    /// Hands an event to the user. Returns false if there is none any more.
    fn send_event(&self, event: Event) -> bool {
        self.events.send(event)
    }

    /// The node's name, for an event.
    fn node(&self) -> String {
        self.node.clone()
    }

    /// Connects; returns a socket to read from, a clone to write to, and the version of the node's address if that
    /// may change.
    fn connect(&self) -> Result<(Socket, Socket, Option<PrimaryVersion>), ConnectError> {
        let deadline = Deadline::start(Some(self.connect_timeout));
        let (socket, primary) = self.connector.connect_pub_sub(&deadline)?;
        let writer = || {
            let wakes = primary.as_ref().map(|_| PRIMARY_CHECK_INTERVAL);
            socket.set_timeouts(Some(wakes.unwrap_or(KEEPALIVE_AFTER)))?;
            // Short, so that a blocked write lets its thread read.
            socket.set_write_timeout(WRITE_POLL_INTERVAL)?;
            socket.try_clone()
        };
        match writer() {
            Ok(writer) => Ok((socket, writer, primary)),
            Err(error) => Err(self.connector.error(&error.into())),
        }
    }

    fn read_loop(
        &self,
        socket: &mut Socket,
        decoder: &mut ReplyDecoder,
        primary: Option<&PrimaryVersion>,
    ) -> End {
        let mut quiet_since = Instant::now();
        let usual = primary.map_or(KEEPALIVE_AFTER, |_| PRIMARY_CHECK_INTERVAL);
        let mut read_timeout = usual;
        loop {
            if let Some(end) = self.handle_buffered(decoder) {
                return end;
            }
            let wakes_in = self.resubscribe();
            let wanted = wakes_in.map_or(usual, |pause| pause.clamp(WAKE_MIN, usual));
            if wanted != read_timeout {
                if let Err(error) = socket.set_read_timeout(wanted) {
                    return End::broken(IoFailure::broken(&error));
                }
                read_timeout = wanted;
            }
            if primary.is_some_and(|primary| !primary.is_current()) {
                return End::broken(ConnectError::PrimaryChanged);
            }
            match socket.read(decoder.spare_mut()) {
                Ok(0) => {
                    return End::broken(IoFailure::broken(&io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(count) => {
                    decoder.advance(count);
                    self.shared.state.lock().received();
                    quiet_since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Woken to look at the primary, or to subscribe again, only.
                Err(error)
                    if is_timeout(&error)
                        && (primary.is_some() || wakes_in.is_some())
                        && quiet_since.elapsed() < KEEPALIVE_AFTER =>
                {
                    if self.has_ended() {
                        return End::NoUser;
                    }
                }
                Err(error) if is_timeout(&error) => {
                    quiet_since = Instant::now();
                    let quiet = self.shared.state.lock().quiet();
                    if let Err(why) = quiet {
                        return End::broken(why);
                    }
                    self.write_own();
                    if self.has_ended() {
                        return End::NoUser;
                    }
                }
                Err(error) => return End::broken(IoFailure::broken(&error)),
            }
        }
    }

    fn handle_buffered(&self, decoder: &mut ReplyDecoder) -> Option<End> {
        loop {
            let is_missed_due = self.shared.state.lock().take_missed(Instant::now);
            if is_missed_due && !self.send_event(Event::Missed { node: self.node() }) {
                return Some(End::NoUser);
            }
            let value = match decoder.next_reply() {
                Err(error) => return Some(End::broken(IoFailure::broken(&error))),
                Ok(None) => return None,
                Ok(Some(value)) => value,
            };
            let reply = {
                let mut state = self.shared.state.lock();
                if state.has_ended() {
                    return Some(End::NoUser);
                }
                state.subscriptions.handle_reply(value, &self.node)
            };
            match reply {
                PubSubReply::Nothing => {}
                PubSubReply::Confirmed | PubSubReply::Restored => {
                    self.shared.changed.notify_all();
                }
                PubSubReply::Redirected => {
                    self.shared.changed.notify_all();
                    self.events.signal();
                }
                PubSubReply::Message(message) => {
                    // While the queue is full nothing is read here, so the server's output buffer limit
                    // applies.
                    if !self.send_event(Event::Message(message)) {
                        return Some(End::NoUser);
                    }
                }
            }
        }
    }

    /// Requests again what the node has ended or refused, if that is due. Returns the time until it is.
    fn resubscribe(&self) -> Option<Duration> {
        let now = Instant::now();
        let (has_request, wakes_at) = {
            let mut state = self.shared.state.lock();
            let has_request = state.resubscribe(now, rand::random());
            (has_request, state.wakes_at())
        };
        if has_request {
            self.write_own();
        }
        wakes_at.map(|at| at.saturating_duration_since(now))
    }

    /// Writes what the thread itself sends, unless a request is being written, with which it goes then.
    fn write_own(&self) {
        let limit = Deadline::start(Some(KEEPALIVE_AFTER));
        if let Some(mut writer) = self.shared.writer.try_lock() {
            self.shared.write_outgoing(&mut writer, &limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardedClient;
    use crate::testing::{Fault, TestNode};

    #[test]
    fn subscriber_pings_an_idle_connection_and_replaces_it_when_no_reply_comes() {
        let node = TestNode::start().unwrap();
        let client = ShardedClient::open([node.url()]).unwrap();
        let mut subscriber = client.subscriber();
        subscriber.subscribe("news").unwrap();
        // The node is silent but alive: it replies to each PING.
        assert_eq!(subscriber.next_event(4 * KEEPALIVE_AFTER), None);
        assert!(node.count_of("PING") >= 2);
        node.fail("PING", Fault::HangBefore, 1);
        let gone = subscriber.next_event(Duration::from_secs(10));
        assert!(matches!(gone, Some(Event::Disconnected { .. })), "{gone:?}");
        assert_eq!(node.faults_left(), 0);
        let missed = subscriber.next_event(Duration::from_secs(10));
        assert!(matches!(missed, Some(Event::Missed { .. })), "{missed:?}");
    }
}
