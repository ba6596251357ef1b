//! Listening to one node: a thread that waits for messages, and makes the connection again when it breaks.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::endpoint::Deadline;
use crate::endpoint::NodeBackoff;
use crate::error::Error;
use crate::plan::pubsub::{
    ChangeProgress, ChangeRequest, ChannelName, ConnectionEnd, Event, KEEPALIVE_AFTER, PubSubReply,
    SubscriptionChange, SubscriptionKind, SubscriptionWorker, no_thread,
};
use crate::policy::{ConnectError, broken_text};
use crate::resp::ReplyDecoder;
use crate::sync::connection::Connector;
use crate::sync::event_channel::EventChannel;
use crate::sync::resp_stream::{WRITE_POLL_INTERVAL, is_timeout};
use crate::sync::socket::Socket;

/// One node's connection.
pub(super) struct PubSubConnection {
    shared: Arc<Shared>,
    /// What all connections to the node know of it.
    backoff: Arc<NodeBackoff>,
    thread: Option<JoinHandle<()>>,
}

/// What the user and the thread share. Who needs both locks takes that of the writer first: it is held while the socket takes
/// what is written, and the thread must be able to read meanwhile.
struct Shared {
    /// For writing, while there is a connection that all subscriptions have been asked for on.
    writer: Mutex<Option<Socket>>,
    state: Mutex<SubscriptionWorker>,
    /// Something was confirmed or refused, a connection made or lost.
    changed: Condvar,
}

impl PubSubConnection {
    pub(super) fn start(
        (connector, connect_timeout): (Connector, Duration),
        node: String,
        events: Arc<EventChannel>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            writer: Mutex::default(),
            state: Mutex::default(),
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

    /// Changes what is listened to, and tells the node if there is a connection; a new connection hears of it anyway.
    pub(super) fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
        deadline: &Deadline,
    ) {
        let mut request = ChangeRequest::new(change, kind, names.len());
        request.add(names);
        let mut state = self.shared.state.lock();
        state.subscriptions.begin_change();
        state.subscriptions.change(change, kind, names);
        if !state.push(request.finish()) {
            return;
        }
        drop(state);
        let limit = deadline.within(KEEPALIVE_AFTER);
        if let Some(mut writer) = limit
            .end()
            .and_then(|end| self.shared.writer.try_lock_until(end))
        {
            self.shared.write_outgoing(&mut writer, &limit);
        }
    }

    /// Waits until the node has confirmed what is wanted. While the node is known to be down, only for an attempt that is due.
    pub(super) fn wait_confirmed(
        &self,
        deadline: &Deadline,
        late: impl Fn(Option<&ConnectError>) -> Error,
    ) -> Result<(), Error> {
        let mut state = self.shared.state.lock();
        let failed_before = state.failed_count();
        loop {
            match state.change_progress(failed_before, || self.backoff.is_due()) {
                ChangeProgress::Pending => {}
                ChangeProgress::Confirmed => return Ok(()),
                ChangeProgress::Unreachable(outage) => return Err(late(Some(&outage))),
                ChangeProgress::Refused(refusal) => {
                    while !state.subscriptions.roll_back() {}
                    return Err(refusal);
                }
            }
            if deadline.is_over() {
                return Err(late(None));
            }
            match deadline.end() {
                Some(end) => drop(self.shared.changed.wait_until(&mut state, end)),
                None => self.shared.changed.wait(&mut state),
            }
        }
    }
}

impl Drop for PubSubConnection {
    fn drop(&mut self) {
        self.shared.state.lock().end();
        self.shared.changed.notify_all();
        // Not waited for: whoever writes at this moment finds out by itself.
        if let Some(writer) = self.shared.writer.try_lock()
            && let Some(socket) = &*writer
        {
            socket.shutdown();
        }
        // The thread ends by itself: it may be waiting for a connection, which nobody needs to wait for.
        drop(self.thread.take());
    }
}

impl Shared {
    /// Writes what waits to be written, if there is a connection. One that does not take it in time is given up; the thread
    /// sees that, and makes another.
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

/// Writes all of `bytes`. `meanwhile` is called when the socket takes no more: the other side may not read before what it has
/// written is read.
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

/// The thread.
struct Worker {
    shared: Arc<Shared>,
    connector: Connector,
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
    fn run(self) {
        loop {
            let end = match self.run_connection() {
                End::NoUser => return,
                End::Connection(end) => end,
            };
            *self.shared.writer.lock() = None;
            let reconnect =
                self.shared
                    .state
                    .lock()
                    .disconnected(end, Instant::now(), rand::random());
            self.shared.changed.notify_all();
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
        let attempt = match self.connector.backoff.try_begin(self.connect_timeout) {
            Ok(attempt) => attempt,
            Err(down) => return End::Connection(ConnectionEnd::Down(down)),
        };
        let connected = self.connect().map_err(|error| self.connector.error(&error));
        let (mut socket, writer) = match attempt.end(connected) {
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
            return End::broken(broken_text(&error));
        }
        if self.has_ended() {
            return End::NoUser;
        }
        self.read_loop(&mut socket, &mut decoder)
    }

    /// Makes all subscriptions again, then lets others write.
    fn restore(&self, mut socket: Socket, decoder: &mut ReplyDecoder) -> io::Result<()> {
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
        *writer = Some(socket);
        self.shared
            .write_outgoing(&mut writer, &Deadline::start(Some(KEEPALIVE_AFTER)));
        Ok(())
    }

    /// Whether the user has gone. Who held the lock of the writer must ask: the socket may not have been shut down.
    fn has_ended(&self) -> bool {
        self.shared.state.lock().has_ended()
    }

    /// Tells of an event. Whether there is still somebody to tell.
    fn send_event(&self, event: Event) -> bool {
        self.events.send(event)
    }

    fn node(&self) -> String {
        self.node.clone()
    }

    /// A socket to read from, and the same to write to.
    fn connect(&self) -> redis::RedisResult<(Socket, Socket)> {
        let deadline = Deadline::start(Some(self.connect_timeout));
        let socket = self.connector.connect_pub_sub(&deadline)?;
        socket.set_timeouts(Some(KEEPALIVE_AFTER))?;
        socket.set_write_timeout(WRITE_POLL_INTERVAL)?;
        let writer = socket.try_clone()?;
        Ok((socket, writer))
    }

    fn read_loop(&self, socket: &mut Socket, decoder: &mut ReplyDecoder) -> End {
        loop {
            if let Some(end) = self.handle_buffered(decoder) {
                return end;
            }
            match socket.read(decoder.spare_mut()) {
                Ok(0) => return End::broken("closed by the server"),
                Ok(count) => {
                    decoder.advance(count);
                    self.shared.state.lock().received();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {
                    let quiet = self.shared.state.lock().quiet();
                    if let Err(why) = quiet {
                        return End::broken(why);
                    }
                    self.write_ping();
                    if self.has_ended() {
                        return End::NoUser;
                    }
                }
                Err(error) => return End::broken(broken_text(&error)),
            }
        }
    }

    fn handle_buffered(&self, decoder: &mut ReplyDecoder) -> Option<End> {
        loop {
            let is_missed_due = self.shared.state.lock().take_missed();
            if is_missed_due && !self.send_event(Event::Missed { node: self.node() }) {
                return Some(End::NoUser);
            }
            let value = match decoder.next_reply() {
                Err(error) => return Some(End::broken(broken_text(&error))),
                Ok(None) => return None,
                Ok(Some(value)) => value,
            };
            let heard = {
                let mut state = self.shared.state.lock();
                if state.has_ended() {
                    return Some(End::NoUser);
                }
                state.subscriptions.handle_reply(value, &self.node)
            };
            match heard {
                PubSubReply::Nothing => {}
                PubSubReply::Confirmed | PubSubReply::Restored => {
                    self.shared.changed.notify_all();
                }
                PubSubReply::Message(message) => {
                    if !self.send_event(Event::Message(message)) {
                        return Some(End::NoUser);
                    }
                }
            }
        }
    }

    /// Writes the PING, unless a request is being written: the node has something to reply to then, and the PING goes with it.
    fn write_ping(&self) {
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
        // Quiet, but there: each PING is answered.
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
