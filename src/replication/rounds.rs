//! [`Rounds`]: the thread that asks the servers of all nodes in rounds.
//!
//! In each round all servers are asked, and the replies are read as they come: a server that does not reply costs a round
//! [`REPLY_WITHIN`] once, and then is left alone by its backoff.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, NodeReplicas, PrimaryCell, ReplicaServer};
use crate::policy::{Admission, AttemptId, Backoff, ConnectError, HandshakeScope, ReplicaId};
use crate::replication::connection::ServerConnection;
use crate::replication::monitor::{MonitorSettings, MonitorState, WatchedNode};
use crate::topology::HostPort;
use crate::topology::replication::{ReplicaSet, Replication, SetChange, SetOptions, Unanswered};

/// Pause between two rounds, of which up to a quarter is taken off at random.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Shortest pause between two rounds, however often a primary seems to be lost.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Time within which a server must reply.
const REPLY_WITHIN: Duration = Duration::from_secs(1);

/// Time for which a reply is waited for before the next server is asked.
const REPLY_FIRST: Duration = Duration::from_millis(20);

/// Time for which replies are waited for one by one; after that all servers that are left are asked at once.
const ONE_BY_ONE_WITHIN: Duration = Duration::from_millis(500);

/// Number of connections that are made at the same time.
const CONNECTS_MAX: usize = 16;

/// The rounds of one monitor.
pub(super) struct Rounds {
    state: Arc<MonitorState>,
    nodes: Vec<Node>,
    /// Nodes whose primary Sentinel has not named yet.
    waiting: Vec<WatchedNode>,
}

/// A node, and what is known of its servers.
struct Node {
    replicas: Weak<NodeReplicas>,
    /// The address of the primary, if it may change.
    cell: Weak<PrimaryCell>,
    /// True if it is found here.
    elects: bool,
    set: ReplicaSet,
    /// How the primary that was given is reached; others that are found are reached like it, at their own address.
    template: Endpoint,
    servers: BTreeMap<ReplicaId, Server>,
}

/// A server of a node.
struct Server {
    /// What the executors know of it.
    entry: Arc<ReplicaServer>,
    connection: Option<ServerConnection>,
    backoff: Backoff,
    /// The reply of this round.
    reply: Option<Result<Replication, Unanswered>>,
    /// How long it took.
    latency: Option<Duration>,
}

impl Rounds {
    pub(super) fn new(state: Arc<MonitorState>) -> Self {
        Self {
            state,
            nodes: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Asks until the monitor is gone.
    pub(super) fn run(mut self) {
        let mut pause = Duration::ZERO;
        while let Some(new) = self.state.wait(pause) {
            self.waiting.extend(new);
            for watched in std::mem::take(&mut self.waiting) {
                match watched.has_address() {
                    true => self.nodes.push(Node::new(watched, &self.state.settings)),
                    false => self.waiting.push(watched),
                }
            }
            self.waiting.retain(|node| node.replicas.strong_count() > 0);
            self.nodes.retain(|node| node.replicas.strong_count() > 0);
            self.round();
            thread::sleep(ROUND_PAUSE_MIN);
            // So that many clients do not ask at the same time.
            pause = ROUND_EVERY - ROUND_EVERY.mul_f64(rand::random::<f64>() / 4.0);
        }
    }

    fn round(&mut self) {
        let limit = self.state.settings.connect_timeout;
        for node in &mut self.nodes {
            node.follow_sentinel();
        }
        connect(self.servers(), limit);
        if self.state.has_ended() {
            return;
        }
        ask(self.servers());
        let now = Instant::now();
        for node in &mut self.nodes {
            node.finish_round(&self.state.settings, now);
        }
    }

    fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        self.nodes
            .iter_mut()
            .flat_map(|node| node.servers.values_mut())
    }
}

/// Connects to the servers that have no connection, unless their backoff forbids it.
fn connect<'s>(servers: impl Iterator<Item = &'s mut Server>, limit: Duration) {
    let now = Instant::now();
    let mut due: Vec<(&mut Server, AttemptId)> = servers
        .filter(|server| server.connection.is_none())
        .filter_map(
            |server| match server.backoff.try_acquire(now, limit, HandshakeScope::Full) {
                Admission::Try(id) => Some((server, id)),
                Admission::Down(_) => None,
            },
        )
        .collect();
    // At the same time, as each may take as long as the limit.
    for group in due.chunks_mut(CONNECTS_MAX) {
        let made = thread::scope(|scope| {
            let threads: Vec<_> = group
                .iter()
                .map(|(server, _)| {
                    let endpoint = Arc::clone(&server.entry.endpoint);
                    scope.spawn(move || ServerConnection::open(&endpoint, limit))
                })
                .collect();
            let failed = || Err("the attempt has panicked".into());
            let ended = threads.into_iter().map(|thread| thread.join());
            let made = ended.map(|made| made.unwrap_or_else(|_| failed()));
            made.collect::<Vec<Result<ServerConnection, ConnectError>>>()
        });
        for ((server, id), made) in group.iter_mut().zip(made) {
            match made {
                Ok(connection) => {
                    server.backoff.connected(Instant::now());
                    server.connection = Some(connection);
                }
                Err(reason) => {
                    let jitter = rand::random();
                    server.backoff.failed(*id, Instant::now(), jitter, reason);
                }
            }
        }
    }
}

/// Asks all servers, and reads their replies.
fn ask<'s>(servers: impl Iterator<Item = &'s mut Server>) {
    let start = Instant::now();
    let mut late: Vec<&mut Server> = Vec::new();
    for server in servers {
        server.reply = Some(Err(Unanswered));
        server.latency = None;
        server.step(|connection| connection.ask(REPLY_WITHIN));
        // One after the other as long as they are quick, so that the time of each is its own.
        let wait = match start.elapsed() < ONE_BY_ONE_WITHIN {
            true => REPLY_FIRST,
            false => Duration::ZERO,
        };
        if !wait.is_zero() && server.read_within(wait) {
            continue;
        }
        late.push(server);
    }
    for server in late {
        let waited = server.connection.as_ref().map(ServerConnection::elapsed);
        let left = waited.map(|waited| REPLY_WITHIN.saturating_sub(waited));
        // At least a moment: what has arrived is read even if others took all the time.
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        if let Some(left) = left
            && !server.read_within(left)
        {
            // Its reply is owed, so the connection cannot be used again.
            server.connection = None;
        }
    }
}

impl Server {
    fn new(entry: Arc<ReplicaServer>) -> Self {
        Self {
            entry,
            connection: None,
            backoff: Backoff::default(),
            reply: None,
            latency: None,
        }
    }

    /// Uses the connection, and closes it if that fails. Returns the result.
    fn step<T>(&mut self, step: impl FnOnce(&mut ServerConnection) -> io::Result<T>) -> Option<T> {
        let done = step(self.connection.as_mut()?).ok();
        if done.is_none() {
            self.connection = None;
        }
        done
    }

    /// Reads the reply if it comes within this time. Returns true if nothing more is to be waited for.
    fn read_within(&mut self, time: Duration) -> bool {
        match self.step(|connection| connection.is_ready(time)) {
            Some(false) => return false,
            None => return true,
            Some(true) => {}
        }
        let elapsed = self.connection.as_ref().map(ServerConnection::elapsed);
        if let Some(Some(reply)) = self.step(|connection| connection.reply(REPLY_WITHIN)) {
            self.reply = Some(Ok(reply));
            self.latency = elapsed;
        }
        true
    }
}

impl WatchedNode {
    /// True unless the primary is still to be named by Sentinel.
    fn has_address(&self) -> bool {
        let address = || self.cell.upgrade().and_then(|cell| cell.address());
        self.elects || self.is_fixed || address().is_some()
    }
}

impl Node {
    /// A node whose primary has a known address.
    fn new(watched: WatchedNode, settings: &MonitorSettings) -> Self {
        let address = match watched.elects || watched.is_fixed {
            true => watched.primary.host_and_port(),
            false => watched.cell.upgrade().and_then(|cell| cell.address()),
        };
        // As a replica, which it may become.
        let endpoint = |address: &HostPort| watched.primary.replica_at(address).ok();
        let primary = address.as_ref().and_then(endpoint);
        let primary = primary.unwrap_or_else(|| watched.primary.clone());
        let options = SetOptions {
            limits: settings.limits,
            discovers: settings.discovers,
            // The address of a socket cannot be replaced.
            elects: watched.elects && watched.cell.strong_count() > 0,
        };
        let given = watched
            .given
            .iter()
            .map(|server| server.endpoint.host_and_port());
        let set = ReplicaSet::new(address, given, options);
        let primary = ReplicaServer::new(set.primary(), Arc::new(primary));
        let servers = std::iter::once(primary).chain(watched.given);
        Self {
            replicas: watched.replicas,
            cell: watched.cell,
            elects: watched.elects,
            set,
            template: watched.primary,
            servers: servers
                .map(|entry| (entry.id, Server::new(entry)))
                .collect(),
        }
    }

    /// Takes the primary that Sentinel names.
    fn follow_sentinel(&mut self) {
        if self.elects {
            return;
        }
        let address = self.cell.upgrade().and_then(|cell| cell.address());
        if let Some(address) = address {
            let changes = self.set.set_primary(&address);
            self.apply(changes);
        }
    }

    /// Records the replies of a round, and gives the executors what follows from them.
    fn finish_round(&mut self, settings: &MonitorSettings, now: Instant) {
        for (&id, server) in &mut self.servers {
            let Some(mut reply) = server.reply.take() else {
                continue;
            };
            if let (Ok(Replication::Primary(report)), Some(map)) =
                (&mut reply, &settings.address_map)
            {
                // A panic would end the thread.
                let map = |listed: &HostPort| {
                    catch_unwind(AssertUnwindSafe(|| map(&listed.host, listed.port))).ok()
                };
                for listed in &mut report.replicas {
                    if let Some((host, port)) = map(listed) {
                        *listed = HostPort { host, port };
                    }
                }
            }
            if let (Ok(Replication::Primary(report)), Some(listed)) = (&mut reply, &settings.listed)
                && let Some(replicas) = self.set.address(id).and_then(|address| listed(address))
            {
                // As the servers of a cluster name them: a primary lists where their connections come from.
                report.replicas = replicas;
            }
            self.set.record(id, reply, now);
        }
        let changes = self.set.finish_round(now);
        self.apply(changes);
        let Some(replicas) = self.replicas.upgrade() else {
            return;
        };
        let primary = self.set.primary();
        for (&id, server) in &self.servers {
            match (id == primary, server.latency) {
                (true, Some(latency)) => replicas.measured_primary(latency),
                (false, Some(latency)) => server.entry.measured(latency),
                (_, None) => {}
            }
            server.entry.set_usable(self.set.usable(id, now));
        }
        replicas.checked();
    }

    /// Gives the executors another list of replicas, and another primary.
    fn apply(&mut self, changes: Vec<SetChange>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            match change {
                SetChange::Joined(id, address) => self.join(id, &address),
                SetChange::Left(id) => {
                    self.servers.remove(&id);
                }
                SetChange::Promoted(id) => {
                    if let (true, Some(address)) = (self.elects, self.set.address(id))
                        && let Some(cell) = self.cell.upgrade()
                    {
                        cell.publish(address.clone());
                    }
                }
            }
        }
        let primary = self.set.primary();
        let entries = self.servers.iter().filter(|(id, _)| **id != primary);
        if let Some(replicas) = self.replicas.upgrade() {
            replicas.publish(
                entries
                    .map(|(_, server)| Arc::clone(&server.entry))
                    .collect(),
            );
        }
    }

    /// Adds a server that the primary or Sentinel has named.
    fn join(&mut self, id: ReplicaId, address: &HostPort) {
        if let Ok(endpoint) = self.template.replica_at(address) {
            let entry = ReplicaServer::new(id, Arc::new(endpoint));
            self.servers.insert(id, Server::new(entry));
        }
    }
}
