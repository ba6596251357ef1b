//! Listening to one node: a task that waits for messages, and makes the connection again when it breaks.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use crate::aio::link::Limit;
use crate::aio::station::{Connector, Duplex, read};
use crate::error::Error;
use crate::health::{Health, PAUSE_MAX};
use crate::inbox::Inbox;
use crate::subscribe::{Change, Event, Heard, Listening, SILENCE, Subscription};

/// One node's ear.
#[derive(Debug)]
pub(super) struct Ear {
    shared: Arc<Shared>,
}

/// What the user and the task share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the user: something was confirmed or refused, a connection made or lost.
    changed: Notify,
    /// For the task: there is something to write, or the user has gone.
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    listening: Listening,
    /// Requests for the connection there is.
    outgoing: Vec<u8>,
    connected: bool,
    /// Why there is no connection.
    trouble: Option<String>,
    /// The user has gone.
    ended: bool,
}

impl Ear {
    pub(super) fn start(connector: Connector, node: String, events: mpsc::Sender<Event>) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            shared: Arc::clone(&shared),
            connector,
            node,
            events,
        };
        tokio::spawn(worker.run());
        Self { shared }
    }

    /// Changes what is listened to, and tells the node if there is a connection; a new connection hears of it anyway.
    pub(super) fn change(&self, change: Change, kind: Subscription, names: &[Vec<u8>]) {
        let mut state = self.shared.state.lock();
        let request = state.listening.change(change, kind, names);
        if state.connected {
            state.outgoing.extend_from_slice(&request);
            drop(state);
            self.shared.work.notify_one();
        }
    }

    /// Waits until the node has confirmed what is wanted.
    pub(super) async fn settle(
        &self,
        limit: Limit,
        late: impl Fn(&str) -> Error,
    ) -> Result<(), Error> {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.shared.state.lock();
                if let Some(refusal) = state.listening.take_refusal() {
                    return Err(refusal);
                }
                if state.listening.is_settled() {
                    return Ok(());
                }
                if let Some(trouble) = &state.trouble {
                    return Err(late(trouble));
                }
            }
            match limit.end() {
                None => changed.await,
                Some(end) => {
                    if tokio::time::timeout_at(end.into(), changed).await.is_err() {
                        return Err(late("no confirmation in time"));
                    }
                }
            }
        }
    }
}

impl Drop for Ear {
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
    events: mpsc::Sender<Event>,
}

/// Why a connection is no more.
enum End {
    Broken(String),
    /// Nobody listens any more.
    NoUser,
}

/// What comes next on a connection.
enum Next {
    Arrived(io::Result<usize>),
    Silence,
    Work,
}

impl Worker {
    async fn run(self) {
        let mut health = Health::default();
        let mut connections = 0_u64;
        loop {
            let begun = Instant::now();
            let why = match self.listen(&mut connections).await {
                End::NoUser => return,
                End::Broken(why) => why,
            };
            // A server that takes connections and drops them at once is not called at once each time.
            if begun.elapsed() > PAUSE_MAX {
                health.connected();
            }
            let pause = health.failed(Instant::now(), rand::random(), why.clone());
            {
                let mut state = self.shared.state.lock();
                state.connected = false;
                state.outgoing.clear();
                state.trouble = Some(why);
            }
            self.shared.changed.notify_waiters();
            tokio::time::sleep(pause).await;
            if self.shared.state.lock().ended {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn listen(&self, connections: &mut u64) -> End {
        let opened = self.connector.open(self.connector.listener_handshake());
        let (mut stream, mut inbox) = match opened.await {
            Ok(opened) => opened,
            Err(why) => return End::Broken(why),
        };
        {
            let mut state = self.shared.state.lock();
            if state.ended {
                return End::NoUser;
            }
            state.outgoing = state.listening.restore();
            state.connected = true;
            state.trouble = None;
        }
        *connections += 1;
        // Only once the node has confirmed the subscriptions: who looks at the data now must not miss what is published
        // after the look.
        let mut gap = *connections > 1;
        let restored = self.shared.state.lock().listening.is_restored();
        if restored && !self.tell_missed(&mut gap).await {
            return End::NoUser;
        }
        self.hear(&mut stream, &mut inbox, gap).await
    }

    async fn hear(&self, stream: &mut Box<dyn Duplex>, inbox: &mut Inbox, mut gap: bool) -> End {
        const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let mut asked = false;
        loop {
            let outgoing = {
                let mut state = self.shared.state.lock();
                if state.ended {
                    return End::NoUser;
                }
                std::mem::take(&mut state.outgoing)
            };
            // One whose machine has vanished takes nothing either.
            match tokio::time::timeout(SILENCE, stream.write_all(&outgoing)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return End::Broken(error.to_string()),
                Err(_) => return End::Broken("the server takes nothing".into()),
            }
            match self.next(stream, inbox).await {
                Next::Work => continue,
                Next::Silence if asked => return End::Broken("the server fell silent".into()),
                Next::Silence => {
                    asked = true;
                    self.shared.state.lock().outgoing.extend_from_slice(PING);
                    continue;
                }
                Next::Arrived(Err(error)) => return End::Broken(error.to_string()),
                Next::Arrived(Ok(count)) => inbox.arrived(count),
            }
            asked = false;
            loop {
                let value = match inbox.reply() {
                    Err(error) => return End::Broken(error.to_string()),
                    Ok(None) => break,
                    Ok(Some(value)) => value,
                };
                let heard = self.shared.state.lock().listening.hear(value, &self.node);
                match heard {
                    Heard::Nothing => {}
                    Heard::Settled => self.shared.changed.notify_waiters(),
                    Heard::Restored => {
                        self.shared.changed.notify_waiters();
                        if !self.tell_missed(&mut gap).await {
                            return End::NoUser;
                        }
                    }
                    Heard::Message(message) => {
                        if !self.tell(Event::Message(message)).await {
                            return End::NoUser;
                        }
                    }
                }
            }
        }
    }

    async fn next(&self, stream: &mut Box<dyn Duplex>, inbox: &mut Inbox) -> Next {
        let arrived = pin!(read(stream, inbox));
        let work = pin!(self.shared.work.notified());
        let silence = pin!(tokio::time::sleep(SILENCE));
        match select(arrived, select(work, silence)).await {
            Either::Left((arrived, _)) => Next::Arrived(arrived),
            Either::Right((Either::Left(_), _)) => Next::Work,
            Either::Right((Either::Right(_), _)) => Next::Silence,
        }
    }

    /// Tells of the gap, if there is one to tell of. Whether there is still somebody to tell.
    async fn tell_missed(&self, gap: &mut bool) -> bool {
        let node = || self.node.clone();
        !std::mem::take(gap) || self.tell(Event::Missed { node: node() }).await
    }

    /// Whether there is still somebody to tell.
    async fn tell(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ShardedClient;
    use crate::testing::{Fault, TestNode};

    #[tokio::test]
    async fn a_subscriber_asks_a_silent_connection_and_replaces_one_that_stays_silent() {
        let node = TestNode::start().unwrap();
        let builder = ShardedClient::builder().node("a", node.url());
        let mut subscriber = builder.build_async().unwrap().subscriber();
        subscriber.subscribe("news").await.unwrap();
        // Quiet, but there: each PING is answered.
        let nothing = tokio::time::timeout(4 * SILENCE, subscriber.next_event()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        assert!(node.count_of("PING") >= 2);
        node.fail("PING", Fault::HangBefore, 1);
        let missed = tokio::time::timeout(Duration::from_secs(10), subscriber.next_event()).await;
        assert!(
            matches!(missed, Ok(Some(Event::Missed { .. }))),
            "{missed:?}"
        );
    }
}
