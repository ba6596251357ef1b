//! [`Watcher`]: a thread that is told when the records of some nodes change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{ProtocolVersion, cmd};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::record::connection::NodeConnection;
use crate::record::monitor::MonitorState;
use crate::topology::record::{ConnectionRole, NameSuffix, RECORD_PREFIX};

/// Maximum number of threads of one client that watch nodes. With more nodes each watches several of them.
pub(super) const WATCHERS_MAX: usize = 32;

/// Time in which a thread goes round all of its nodes. Also the longest time for which it outlives its client.
const ROUND: Duration = Duration::from_millis(250);

/// Time without a message after which a node is sent a PING.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// Maximum duration of a reply, if connecting may take longer.
const REPLY_WITHIN_MAX: Duration = Duration::from_secs(2);

/// The first pause before a node that cannot be reached is connected to again, and the longest.
const RECONNECT_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Watches every node whose number, divided by [`WATCHERS_MAX`], leaves that of the watcher.
pub(super) struct Watcher {
    state: Arc<MonitorState>,
    number: usize,
    /// That of the list of nodes.
    generation: u64,
    nodes: Vec<WatchedNode>,
}

struct WatchedNode {
    name: String,
    endpoint: Arc<Endpoint>,
    connection: Option<NodeConnection>,
    /// When something was received last.
    received_at: Instant,
    /// When the node may be connected to again.
    retry_at: Instant,
    pause: Duration,
}

impl Watcher {
    pub(super) fn new(state: Arc<MonitorState>, number: usize) -> Self {
        Self {
            state,
            number,
            generation: 0,
            nodes: Vec::new(),
        }
    }

    /// Watches until the client is gone.
    pub(super) fn run(mut self) {
        while !self.state.has_ended() {
            self.update_nodes();
            let slice = ROUND / u32::try_from(self.nodes.len().max(1)).unwrap_or(u32::MAX);
            let mut has_waited = false;
            for node in &mut self.nodes {
                has_waited |= node.watch(&self.state, slice);
            }
            let pause = match self.nodes.is_empty() {
                true => ROUND,
                false => RECONNECT_AFTER.0,
            };
            if !has_waited && !self.state.sleep(pause) {
                return;
            }
        }
    }

    fn update_nodes(&mut self) {
        let Some((generation, nodes)) = self.state.nodes(self.generation) else {
            return;
        };
        self.generation = generation;
        let mut former = std::mem::take(&mut self.nodes);
        let own = nodes.into_iter().skip(self.number).step_by(WATCHERS_MAX);
        for (name, endpoint) in own {
            let same = former
                .iter()
                .position(|node| Arc::ptr_eq(&node.endpoint, &endpoint));
            self.nodes.push(match same {
                Some(at) => former.swap_remove(at),
                None => WatchedNode::new(name, endpoint),
            });
        }
    }
}

impl WatchedNode {
    fn new(name: String, endpoint: Arc<Endpoint>) -> Self {
        let now = Instant::now();
        Self {
            name,
            endpoint,
            connection: None,
            received_at: now,
            retry_at: now,
            pause: RECONNECT_AFTER.0,
        }
    }

    /// Watches the node for this time. Returns false at once if it is not to be connected to yet.
    fn watch(&mut self, state: &MonitorState, time: Duration) -> bool {
        let now = Instant::now();
        if self.connection.is_none() && now < self.retry_at {
            return false;
        }
        let watched = match self.connection.take() {
            Some(connection) => self.listen(connection, state, time),
            None => self.connect(state),
        };
        match watched {
            Ok(connection) => self.connection = Some(connection),
            Err(_) => {
                // What was said meanwhile is read after the next connection is made.
                self.retry_at = Instant::now() + self.pause;
                self.pause = RECONNECT_AFTER.1.min(2 * self.pause);
            }
        }
        true
    }

    fn connect(&mut self, state: &MonitorState) -> Result<NodeConnection, Error> {
        let suffix = NameSuffix {
            role: ConnectionRole::Monitor,
            epoch: state
                .view(|view| view.followed(&self.name))
                .unwrap_or_default(),
        };
        let opened =
            NodeConnection::open(&self.endpoint, ProtocolVersion::RESP3, suffix, state.limit);
        let mut connection = opened?;
        connection.set_limit(state.limit.min(REPLY_WITHIN_MAX));
        let mut tracking = cmd("CLIENT");
        tracking.arg(&["TRACKING", "ON", "BCAST", "PREFIX", RECORD_PREFIX]);
        // Before the record is read, so that no change is missed.
        connection.call(&tracking)?;
        self.read(&mut connection, state)?;
        self.pause = RECONNECT_AFTER.0;
        Ok(connection)
    }

    fn listen(
        &mut self,
        mut connection: NodeConnection,
        state: &MonitorState,
        time: Duration,
    ) -> Result<NodeConnection, Error> {
        if connection.wait(time)? {
            // Whatever it says: with or without a key, the record may have changed.
            connection.message()?;
            self.read(&mut connection, state)?;
        } else if state.view(|view| view.is_to_be_asked(&self.name)) == Some(true) {
            self.read(&mut connection, state)?;
        } else if self.received_at.elapsed() >= QUIET_MAX {
            connection.call(&cmd("PING"))?;
            self.received_at = Instant::now();
        }
        Ok(connection)
    }

    /// Reads the record, and the texts beside it if they are needed.
    fn read(&mut self, connection: &mut NodeConnection, state: &MonitorState) -> Result<(), Error> {
        let doubts = state.doubts();
        let mut reading = connection.record();
        self.received_at = Instant::now();
        if let Ok(record) = &reading
            && let Some(record) = &record.record
            && state.view(|view| view.wants_texts(record)) == Some(true)
        {
            reading = connection.record_and_texts();
        }
        match reading {
            Ok(reading) => state.learn(&self.name, &reading, doubts),
            Err(error) if connection.is_broken() => return Err(error),
            // One that cannot be read, or not by this user: the handshake says so.
            Err(_) => {}
        }
        Ok(())
    }
}
