//! All clients of a proxy: CLIENT LIST, KILL and UNBLOCK; the pause; limits and password for new clients; the
//! end.
//!
//! * [`ClientRegistry`]: shared by all connections.
//! * [`ClientEntry`]: one client, as the others see it.
//!
//! Another client's task is never touched directly. CLIENT KILL, CLIENT UNBLOCK and `stop` set a flag in the
//! entry and wake its task, which reads the flag before its next wait:
//!
//! ```text
//! killer:  killed = true  ─▶ is_woken = true ─▶ wake
//! client:  set_waker ─▶ take_woken? ─▶ is_killed? ─▶ ... pending
//! ```
//!
//! The client registers its waker before it reads the flags and the killer sets the flags before it wakes, so
//! at least one of the two notices the other.
//!
//! Locks: `clients` before an entry's `state`, never the other way round, and neither is held across an
//! await.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::command::BlockingTime;
use crate::proxy::net::memory::MemoryBudget;
use crate::proxy::net::metrics::ProxyMetrics;
use crate::proxy::net::run::RunSettings;
use crate::proxy::{
    Auth, ClientFilter, ClientInfo, ClientLimits, EmulatedNode, Pause, RegistryRequest, Unblocked,
};
use crate::resp::{Protocol, write_error, write_int, write_status};

/// Default of [`Proxy::with_memory_limit`](super::Proxy::with_memory_limit), in bytes: 4 GiB, or 1 GiB where
/// addresses have 32 bits.
pub const DEFAULT_MEMORY_LIMIT: usize = match (1_usize << 30).checked_mul(4) {
    Some(bytes) => bytes,
    None => 1 << 30,
};

/// An id as the nodes of a cluster have one: 40 hexadecimal digits, at random.
fn node_id() -> String {
    let digits = rand::random::<[u8; 20]>().map(|byte| format!("{byte:02x}"));
    digits.concat()
}

/// All clients of a proxy, and what they share.
#[derive(Debug)]
pub(super) struct ClientRegistry {
    /// Maximum number of clients at a time.
    max_clients: AtomicUsize,
    pub(super) memory: MemoryBudget,
    pub(super) metrics: ProxyMetrics,
    /// Limits for clients that connect from now on.
    limits: Mutex<ClientLimits>,
    /// How connections are accepted, and how long the end may take.
    run: Mutex<RunSettings>,
    /// The last id given out. Ids are never used twice, so that a late CLIENT KILL ID cannot hit a newer
    /// client.
    last_id: AtomicU64,
    /// By id, which is the order of CLIENT LIST.
    clients: Mutex<BTreeMap<u64, Arc<ClientEntry>>>,
    /// Set once, by `stop`.
    stopping: AtomicBool,
    /// Notified when a client has left, for `wait_until_empty`.
    deregistered: Notify,
    /// Version of the servers, once a client's HELLO has found it out.
    version: Mutex<Option<String>>,
    /// Password for clients that connect from now on.
    auth: Mutex<Auth>,
    /// What clients that connect from now on are told about a cluster.
    cluster: Mutex<EmulatedNode>,
    /// False if `pause_window` is certainly `None`: read in each round, and spares the lock.
    may_be_paused: AtomicBool,
    /// The pause in force. May be over already.
    pause_window: Mutex<Option<PauseWindow>>,
}

/// A pause: what the nodes hold back, and until when.
#[derive(Clone, Copy, Debug)]
struct PauseWindow {
    pause: Pause,
    end: Instant,
}

/// One client, as the others see it.
#[derive(Debug)]
pub(super) struct ClientEntry {
    connected_at: Instant,
    /// CLIENT INFO as last published, and a CLIENT UNBLOCK that the task has not taken yet.
    state: Mutex<State>,
    /// Wakes the task that serves the client.
    waker: AtomicWaker,
    /// True if a flag was set that the task has not read.
    is_woken: AtomicBool,
    /// True once the client is to be disconnected. Never reset.
    killed: AtomicBool,
    /// Number of bytes of memory that are held for the client.
    pub(super) held: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// CLIENT INFO as last published.
    client: ClientInfo,
    /// When the client last sent bytes.
    last_request: Instant,
    /// Set by CLIENT UNBLOCK, and taken by the client's task.
    unblocked: Option<Unblocked>,
}

impl ClientRegistry {
    /// Creates a registry without clients.
    pub(super) fn new(max_clients: usize) -> Self {
        Self {
            max_clients: AtomicUsize::new(max_clients),
            memory: MemoryBudget::new(DEFAULT_MEMORY_LIMIT),
            metrics: ProxyMetrics::new(),
            limits: Mutex::default(),
            run: Mutex::default(),
            last_id: AtomicU64::new(0),
            clients: Mutex::default(),
            stopping: AtomicBool::new(false),
            deregistered: Notify::new(),
            version: Mutex::default(),
            auth: Mutex::default(),
            cluster: Mutex::new(EmulatedNode {
                id: node_id(),
                ..EmulatedNode::default()
            }),
            may_be_paused: AtomicBool::new(false),
            pause_window: Mutex::default(),
        }
    }

    /// Sets the maximum number of clients.
    pub(super) fn set_clients_max(&self, clients: usize) {
        self.max_clients.store(clients, Ordering::Relaxed);
    }

    /// Changes the limits of clients that connect from now on.
    pub(super) fn change_limits(&self, change: impl FnOnce(&mut ClientLimits)) {
        change(&mut self.limits.lock());
    }

    /// Returns the limits for a new client.
    pub(super) fn limits(&self) -> ClientLimits {
        *self.limits.lock()
    }

    /// Changes how connections are accepted.
    pub(super) fn change_run(&self, change: impl FnOnce(&mut RunSettings)) {
        change(&mut self.run.lock());
    }

    /// Returns how connections are accepted.
    pub(super) fn run_settings(&self) -> RunSettings {
        self.run.lock().clone()
    }

    /// Sets the password for clients that connect from now on.
    pub(super) fn set_auth(&self, auth: Auth) {
        *self.auth.lock() = auth;
    }

    /// Returns the password for a new client.
    pub(super) fn auth(&self) -> Auth {
        self.auth.lock().clone()
    }

    /// Changes what clients that connect from now on are told about a cluster.
    pub(super) fn change_cluster(&self, change: impl FnOnce(&mut EmulatedNode)) {
        change(&mut self.cluster.lock());
    }

    /// Returns what a new client is told about a cluster.
    pub(super) fn cluster(&self) -> EmulatedNode {
        self.cluster.lock().clone()
    }

    /// Records that the nodes hold commands back. As on a server, a pause within a pause makes it neither
    /// shorter nor laxer.
    pub(super) fn begin_pause(&self, pause: Pause, length: Duration) {
        let end = Instant::now() + length;
        let mut window = self.pause_window.lock();
        let before = window.filter(PauseWindow::is_open);
        let before = before.unwrap_or(PauseWindow { pause, end });
        *window = Some(PauseWindow {
            pause: before.pause.max(pause),
            end: before.end.max(end),
        });
        // After the window is in place, and under its lock, so that a concurrent `end_pause` cannot leave the
        // flag false with a window set.
        self.may_be_paused.store(true, Ordering::Relaxed);
    }

    /// Records that the nodes hold nothing back any more.
    pub(super) fn end_pause(&self) {
        let mut window = self.pause_window.lock();
        *window = None;
        self.may_be_paused.store(false, Ordering::Relaxed);
    }

    /// Returns the pause in force, if there is one.
    fn pause_window(&self) -> Option<PauseWindow> {
        if !self.may_be_paused.load(Ordering::Relaxed) {
            return None;
        }
        let window = *self.pause_window.lock();
        window.filter(PauseWindow::is_open)
    }

    /// Returns what the nodes hold back now.
    pub(super) fn pause(&self) -> Pause {
        self.pause_window()
            .map_or(Pause::Nothing, |window| window.pause)
    }

    /// Returns how long the nodes may hold commands back from now on. Added to the deadline of requests.
    pub(super) fn pause_time(&self) -> BlockingTime {
        let left = |window: PauseWindow| window.end.saturating_duration_since(Instant::now());
        self.pause_window().map_or(BlockingTime::None, |window| {
            BlockingTime::AtMost(left(window))
        })
    }

    /// Number of clients.
    pub(super) fn count(&self) -> usize {
        self.clients.lock().len()
    }

    /// Adds a client. Returns `None` if there are too many, or the proxy is stopping.
    pub(super) fn register(
        &self,
        peer: &str,
        local: &str,
    ) -> Option<(Arc<ClientEntry>, ClientInfo)> {
        // Held across the check and the insert: `stop` sets its flag before it takes this lock, so each new
        // client either sees the flag here or is woken by `stop`.
        let mut entries = self.clients.lock();
        let full = entries.len() >= self.max_clients.load(Ordering::Relaxed);
        if full || self.is_stopping() {
            return None;
        }
        let client = ClientInfo {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            address: peer.to_owned(),
            local_address: local.to_owned(),
            ..ClientInfo::default()
        };
        let now = Instant::now();
        let entry = Arc::new(ClientEntry {
            connected_at: now,
            state: Mutex::new(State {
                client: client.clone(),
                last_request: now,
                unblocked: None,
            }),
            waker: AtomicWaker::new(),
            is_woken: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            held: AtomicUsize::new(0),
        });
        entries.insert(client.id, Arc::clone(&entry));
        Some((entry, client))
    }

    /// Removes a client.
    pub(super) fn deregister(&self, id: u64) {
        self.clients.lock().remove(&id);
        self.metrics.left(self.memory.used());
        self.deregistered.notify_waiters();
    }

    /// True after `stop`.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Refuses new clients, and wakes all others so that they end when they have nothing left to do.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for entry in self.clients.lock().values() {
            entry.wake();
        }
    }

    /// Waits until there is no client, at most for `limit`. Returns true if there is none.
    pub(super) async fn wait_until_empty(&self, limit: Duration) -> bool {
        // `None` beyond what an `Instant` can represent: no limit.
        let end = Instant::now().checked_add(limit);
        loop {
            let left = self.deregistered.notified();
            tokio::pin!(left);
            // Registered before the count is read, so that a client that leaves in between is noticed.
            left.as_mut().enable();
            if self.count() == 0 {
                return true;
            }
            match end {
                None => left.await,
                Some(end) if tokio::time::timeout_at(end.into(), left).await.is_err() => {
                    return false;
                }
                Some(_) => {}
            }
        }
    }

    /// Returns the version of the servers, if it is known.
    pub(super) fn version(&self) -> Option<String> {
        self.version.lock().clone()
    }

    /// Records the version of the servers.
    pub(super) fn set_version(&self, version: &str) {
        *self.version.lock() = Some(version.to_owned());
    }

    /// Carries out a request of the client `asker`, and writes the reply.
    pub(super) fn answer(
        &self,
        ask: &RegistryRequest,
        asker: u64,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        match ask {
            RegistryRequest::Own => {
                let which = ClientFilter {
                    ids: vec![asker],
                    ..ClientFilter::default()
                };
                protocol.write_text(out, &self.lines(&which, asker));
            }
            // As on a server: in the order of the ids given, with repetitions.
            RegistryRequest::List(which) if !which.ids.is_empty() => {
                protocol.write_text(out, &self.lines_of(&which.ids));
            }
            RegistryRequest::List(which) => protocol.write_text(out, &self.lines(which, asker)),
            RegistryRequest::Kill(which) => write_int(out, self.kill(which, asker) as i64),
            RegistryRequest::KillOne(which) => match self.kill(which, asker) {
                0 => write_error(out, "ERR", "No such client"),
                _ => write_status(out, "OK"),
            },
            RegistryRequest::Unblock(id, how) => write_int(out, self.unblock(*id, *how).into()),
        }
    }

    /// Returns all clients, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Arc<ClientEntry>> {
        self.clients.lock().values().cloned().collect()
    }

    /// Returns the clients that match a filter of the client `asker`.
    fn select(&self, which: &ClientFilter, asker: u64) -> Vec<Arc<ClientEntry>> {
        let entries = self.clients.lock();
        let meant =
            |entry: &&Arc<ClientEntry>| entry.state.lock().client.matches_filter(which, asker);
        entries.values().filter(meant).cloned().collect()
    }

    /// Lines of CLIENT LIST for a filter.
    fn lines(&self, which: &ClientFilter, asker: u64) -> String {
        let meant = self.select(which, asker);
        meant.iter().map(|entry| entry.line()).collect()
    }

    /// Lines of CLIENT LIST for ids, in their order. Ids of no client are left out.
    fn lines_of(&self, ids: &[u64]) -> String {
        let entries = self.clients.lock();
        let named = ids.iter().filter_map(|id| entries.get(id));
        named.map(|entry| entry.line()).collect()
    }

    /// Kills the clients that match, and returns their number.
    fn kill(&self, which: &ClientFilter, asker: u64) -> usize {
        let meant = self.select(which, asker);
        for entry in &meant {
            entry.kill();
        }
        meant.len()
    }

    /// Unblocks a client. Returns true if it was blocked, and false if it was not, is held back by a pause,
    /// or does not exist.
    fn unblock(&self, id: u64, how: Unblocked) -> bool {
        let Some(entry) = self.clients.lock().get(&id).cloned() else {
            return false;
        };
        let mut state = entry.state.lock();
        // Under the lock that `set_blocked` takes: the reply 1 is sent only if the client has not gone on
        // yet. A reply of the node that has arrived by then still wins.
        let waits = state.client.blocked;
        if waits {
            state.unblocked = Some(how);
            entry.wake();
        }
        waits
    }
}

impl PauseWindow {
    /// True until the pause is over.
    fn is_open(&self) -> bool {
        self.end > Instant::now()
    }
}

impl ClientEntry {
    /// Formats the line of this client in CLIENT LIST, with its line break.
    fn line(&self) -> String {
        let state = self.state.lock();
        let line = state
            .client
            .line(self.connected_at.elapsed(), state.last_request.elapsed());
        line + "\n"
    }

    /// Replaces what CLIENT LIST shows. Not called while the client is blocked, because it would reset
    /// `blocked`.
    pub(super) fn publish(&self, client: ClientInfo) {
        self.state.lock().client = client;
    }

    /// Records that the client has sent something, for `idle` in CLIENT LIST.
    pub(super) fn touch(&self) {
        self.state.lock().last_request = Instant::now();
    }

    /// Records that the client begins or ends to wait for a blocking command. Forgets a CLIENT UNBLOCK that
    /// came too late, which would otherwise end the next one.
    pub(super) fn set_blocked(&self, blocked: bool) {
        let mut state = self.state.lock();
        state.client.blocked = blocked;
        state.unblocked = None;
    }

    /// Takes the CLIENT UNBLOCK that was sent to this client, if there is one.
    pub(super) fn take_unblocked(&self) -> Option<Unblocked> {
        self.state.lock().unblocked.take()
    }

    /// Disconnects the client as soon as its task runs. Requests under way get no reply.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the client's task to look at its flags.
    fn wake(&self) {
        // The flag before the wake-up: a task that runs at once must see it.
        self.is_woken.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Sets the task to wake. Call it before looking at the flags: see the [module](self).
    pub(super) fn set_waker(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// True if the task was woken since the last call.
    pub(super) fn take_woken(&self) -> bool {
        self.is_woken.swap(false, Ordering::Acquire)
    }

    /// Number of bytes of memory that are held for the client.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// True if the client is to be disconnected.
    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}
