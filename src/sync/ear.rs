//! Listening to one node: a thread that waits for messages, and makes the connection again when it breaks.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, ErrorKind};
use crate::health::{Health, PAUSE_MAX};
use crate::inbox::Inbox;
use crate::subscribe::{Change, Event, Heard, Listening, SILENCE, Subscription};
use crate::sync::deadline::Deadline;
use crate::sync::link::Connector;
use crate::sync::socket::Socket;

/// So long at most between two looks at the events that wait.
const TURN: Duration = Duration::from_millis(10);

/// One node's ear.
pub(super) struct Ear {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the user and the thread share.
struct Shared {
    state: Mutex<State>,
    /// Something was confirmed or refused, a connection made or lost.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    listening: Listening,
    /// For writing, while there is a connection.
    socket: Option<Socket>,
    /// Why there is none.
    trouble: Option<String>,
    /// The user has gone.
    ended: bool,
}

impl Ear {
    pub(super) fn start(
        (connector, connect_timeout): (Connector, Duration),
        node: String,
        events: SyncSender<Event>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            connector,
            connect_timeout,
            node,
            events,
        };
        let thread = std::thread::Builder::new()
            .name("redis-sharding subscriber".into())
            .spawn(move || worker.run())
            .map_err(|error| {
                Error::new(
                    ErrorKind::NodeDown,
                    format!("no thread to listen with: {error}"),
                )
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Changes what is listened to, and tells the node if there is a connection; a new connection hears of it anyway.
    pub(super) fn change(&self, change: Change, kind: Subscription, names: &[Vec<u8>]) {
        let mut state = self.shared.state.lock();
        let request = state.listening.change(change, kind, names);
        if let Some(socket) = &mut state.socket
            && socket.send(&request).is_err()
        {
            // The thread sees it too, and makes another.
            socket.shutdown();
            state.socket = None;
        }
    }

    /// Waits until the node has confirmed what is wanted. Now and then `meanwhile` is called: while an event cannot be told,
    /// what comes behind it is not heard, and it may be the confirmation.
    pub(super) fn settle(
        &self,
        deadline: &Deadline,
        mut meanwhile: impl FnMut(),
        late: impl Fn(&str) -> Error,
    ) -> Result<(), Error> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(refusal) = state.listening.take_refusal() {
                return Err(refusal);
            }
            if state.listening.is_settled() {
                return Ok(());
            }
            if let Some(trouble) = &state.trouble {
                return Err(late(trouble));
            }
            if deadline.is_over() {
                return Err(late("no confirmation in time"));
            }
            if let Some(turn) = deadline.within(TURN).end() {
                self.shared.changed.wait_until(&mut state, turn);
            }
            MutexGuard::unlocked(&mut state, &mut meanwhile);
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.ended = true;
        if let Some(socket) = &state.socket {
            socket.shutdown();
        }
        drop(state);
        self.shared.changed.notify_all();
        // The thread ends by itself: it may be waiting for a connection, which nobody needs to wait for.
        drop(self.thread.take());
    }
}

/// The thread.
struct Worker {
    shared: Arc<Shared>,
    connector: Connector,
    connect_timeout: Duration,
    node: String,
    events: SyncSender<Event>,
}

/// Why a connection is no more.
enum End {
    Broken(String),
    /// Nobody listens any more.
    NoUser,
}

impl Worker {
    fn run(self) {
        let mut health = Health::default();
        let mut connections = 0_u64;
        loop {
            let begun = Instant::now();
            let why = match self.listen(&mut connections) {
                End::NoUser => return,
                End::Broken(why) => why,
            };
            // A server that takes connections and drops them at once is not called at once each time.
            if begun.elapsed() > PAUSE_MAX {
                health.connected();
            }
            let pause = health.failed(Instant::now(), rand::random(), why.clone());
            let mut state = self.shared.state.lock();
            state.socket = None;
            state.trouble = Some(why);
            self.shared.changed.notify_all();
            if !state.ended {
                self.shared.changed.wait_for(&mut state, pause);
            }
            if state.ended {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    fn listen(&self, connections: &mut u64) -> End {
        let (mut socket, writer) = match self.connect() {
            Ok(sockets) => sockets,
            Err(error) => return End::Broken(error.to_string()),
        };
        {
            let mut state = self.shared.state.lock();
            if state.ended {
                return End::NoUser;
            }
            let mut writer = writer;
            let restore = state.listening.restore();
            if let Err(error) = writer.send(&restore) {
                return End::Broken(error.to_string());
            }
            state.socket = Some(writer);
            state.trouble = None;
        }
        *connections += 1;
        // Only once the node has confirmed the subscriptions: who looks at the data now must not miss what is published
        // after the look.
        let mut gap = *connections > 1;
        let restored = self.shared.state.lock().listening.is_restored();
        if restored && !self.tell_missed(&mut gap) {
            return End::NoUser;
        }
        self.hear(&mut socket, gap)
    }

    /// Tells of the gap, if there is one to tell of. Whether there is still somebody to tell.
    fn tell_missed(&self, gap: &mut bool) -> bool {
        let node = || self.node.clone();
        !std::mem::take(gap) || self.events.send(Event::Missed { node: node() }).is_ok()
    }

    /// A socket to read from, and the same to write to.
    fn connect(&self) -> redis::RedisResult<(Socket, Socket)> {
        let deadline = Deadline::start(Some(self.connect_timeout));
        let socket = self.connector.connect_listener(&deadline)?;
        socket.set_timeouts(Some(SILENCE))?;
        let writer = socket.try_clone()?;
        Ok((socket, writer))
    }

    fn hear(&self, socket: &mut Socket, mut gap: bool) -> End {
        let mut inbox = Inbox::new();
        let mut asked = false;
        loop {
            match socket.read(inbox.room()) {
                Ok(0) => return End::Broken("the server closed the connection".into()),
                Ok(count) => inbox.arrived(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) && !asked => {
                    asked = true;
                    self.ping();
                    continue;
                }
                Err(error) if is_timeout(&error) => {
                    return End::Broken("the server fell silent".into());
                }
                Err(error) => return End::Broken(error.to_string()),
            }
            asked = false;
            loop {
                match inbox.reply() {
                    Err(error) => return End::Broken(error.to_string()),
                    Ok(None) => break,
                    Ok(Some(value)) => {
                        let mut state = self.shared.state.lock();
                        if state.ended {
                            return End::NoUser;
                        }
                        let heard = state.listening.hear(value, &self.node);
                        drop(state);
                        match heard {
                            Heard::Nothing => {}
                            Heard::Settled => drop(self.shared.changed.notify_all()),
                            Heard::Restored => {
                                self.shared.changed.notify_all();
                                if !self.tell_missed(&mut gap) {
                                    return End::NoUser;
                                }
                            }
                            Heard::Message(message) => {
                                if self.events.send(Event::Message(message)).is_err() {
                                    return End::NoUser;
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn ping(&self) {
        if let Some(socket) = &mut self.shared.state.lock().socket {
            // A failure shows when reading.
            let _ = socket.send(b"*1\r\n$4\r\nPING\r\n");
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardedClient;
    use crate::testing::{Fault, TestNode};

    #[test]
    fn a_subscriber_asks_a_silent_connection_and_replaces_one_that_stays_silent() {
        let node = TestNode::start().unwrap();
        let client = ShardedClient::open([node.url()]).unwrap();
        let mut subscriber = client.subscriber();
        subscriber.subscribe("news").unwrap();
        // Quiet, but there: each PING is answered.
        assert_eq!(subscriber.next_event(4 * SILENCE), None);
        assert!(node.count_of("PING") >= 2);
        node.fail("PING", Fault::HangBefore, 1);
        let missed = subscriber.next_event(Duration::from_secs(10));
        assert!(matches!(missed, Some(Event::Missed { .. })), "{missed:?}");
    }
}
