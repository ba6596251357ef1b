//! All connections of a proxy.

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
use crate::proxy::{
    Auth, ClientFilter, ClientInfo, ClientLimits, Pause, RegistryRequest, Unblocked,
};
use crate::resp::{Protocol, write_error, write_int, write_status};

/// The default of [`Proxy::with_memory_limit`](super::Proxy::with_memory_limit).
pub const DEFAULT_MEMORY_LIMIT: usize = match (1_usize << 30).checked_mul(4) {
    Some(bytes) => bytes,
    None => 1 << 30,
};

/// Who is there.
#[derive(Debug)]
pub(super) struct ClientRegistry {
    max_clients: AtomicUsize,
    pub(super) memory: MemoryBudget,
    limits: Mutex<ClientLimits>,
    last_id: AtomicU64,
    clients: Mutex<BTreeMap<u64, Arc<ClientEntry>>>,
    stopping: AtomicBool,
    /// Somebody has left.
    deregistered: Notify,
    version: Mutex<Option<String>>,
    auth: Mutex<Auth>,
    /// Whether there may be something in `spell`.
    may_be_paused: AtomicBool,
    pause_window: Mutex<Option<PauseWindow>>,
}

/// A pause, and its end.
#[derive(Clone, Copy, Debug)]
struct PauseWindow {
    pause: Pause,
    end: Instant,
}

/// One connection, as the others see it.
#[derive(Debug)]
pub(super) struct ClientEntry {
    connected_at: Instant,
    state: Mutex<State>,
    /// The task that serves it, while that waits.
    waker: AtomicWaker,
    /// There is something to look at: it is to end, or need not wait any more.
    is_woken: AtomicBool,
    killed: AtomicBool,
    /// Bytes of memory that are used for it.
    pub(super) held: AtomicUsize,
}

#[derive(Debug)]
struct State {
    client: ClientInfo,
    last_request: Instant,
    unblocked: Option<Unblocked>,
}

impl ClientRegistry {
    pub(super) fn new(max_clients: usize) -> Self {
        Self {
            max_clients: AtomicUsize::new(max_clients),
            memory: MemoryBudget::new(DEFAULT_MEMORY_LIMIT),
            limits: Mutex::default(),
            last_id: AtomicU64::new(0),
            clients: Mutex::default(),
            stopping: AtomicBool::new(false),
            deregistered: Notify::new(),
            version: Mutex::default(),
            auth: Mutex::default(),
            may_be_paused: AtomicBool::new(false),
            pause_window: Mutex::default(),
        }
    }

    pub(super) fn set_clients_max(&self, clients: usize) {
        self.max_clients.store(clients, Ordering::Relaxed);
    }

    /// For those who come from now on.
    pub(super) fn change_limits(&self, change: impl FnOnce(&mut ClientLimits)) {
        change(&mut self.limits.lock());
    }

    pub(super) fn limits(&self) -> ClientLimits {
        *self.limits.lock()
    }

    pub(super) fn set_auth(&self, auth: Auth) {
        *self.auth.lock() = auth;
    }

    pub(super) fn auth(&self) -> Auth {
        self.auth.lock().clone()
    }

    /// The nodes hold commands back from now on. A pause in a pause makes it neither shorter nor laxer, as at a server.
    pub(super) fn begin_pause(&self, pause: Pause, length: Duration) {
        let end = Instant::now() + length;
        let mut spell = self.pause_window.lock();
        let before = spell.filter(PauseWindow::is_open);
        let before = before.unwrap_or(PauseWindow { pause, end });
        *spell = Some(PauseWindow {
            pause: before.pause.max(pause),
            end: before.end.max(end),
        });
        self.may_be_paused.store(true, Ordering::Relaxed);
    }

    pub(super) fn end_pause(&self) {
        let mut spell = self.pause_window.lock();
        *spell = None;
        self.may_be_paused.store(false, Ordering::Relaxed);
    }

    fn pause_window(&self) -> Option<PauseWindow> {
        if !self.may_be_paused.load(Ordering::Relaxed) {
            return None;
        }
        let spell = *self.pause_window.lock();
        spell.filter(PauseWindow::is_open)
    }

    /// What the nodes hold back now.
    pub(super) fn pause(&self) -> Pause {
        self.pause_window()
            .map_or(Pause::Nothing, |spell| spell.pause)
    }

    /// How long they may do so.
    pub(super) fn pause_time(&self) -> BlockingTime {
        let left = |spell: PauseWindow| spell.end.saturating_duration_since(Instant::now());
        self.pause_window().map_or(BlockingTime::None, |spell| {
            BlockingTime::AtMost(left(spell))
        })
    }

    pub(super) fn count(&self) -> usize {
        self.clients.lock().len()
    }

    /// Lets somebody in; or not, because there are too many, or because this is the end.
    pub(super) fn register(
        &self,
        peer: &str,
        local: &str,
    ) -> Option<(Arc<ClientEntry>, ClientInfo)> {
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

    pub(super) fn deregister(&self, id: u64) {
        self.clients.lock().remove(&id);
        self.deregistered.notify_waiters();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for entry in self.clients.lock().values() {
            entry.wake();
        }
    }

    pub(super) async fn wait_until_empty(&self, limit: Duration) -> bool {
        // A limit beyond the clock's end is none.
        let end = Instant::now().checked_add(limit);
        loop {
            let left = self.deregistered.notified();
            tokio::pin!(left);
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

    pub(super) fn version(&self) -> Option<String> {
        self.version.lock().clone()
    }

    pub(super) fn set_version(&self, version: &str) {
        *self.version.lock() = Some(version.to_owned());
    }

    /// Does what `asker` asks, and writes the answer.
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
            // Clients that are named come in the order of their names, as often as they are named.
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

    pub(super) fn all(&self) -> Vec<Arc<ClientEntry>> {
        self.clients.lock().values().cloned().collect()
    }

    fn select(&self, which: &ClientFilter, asker: u64) -> Vec<Arc<ClientEntry>> {
        let entries = self.clients.lock();
        let meant =
            |entry: &&Arc<ClientEntry>| entry.state.lock().client.matches_filter(which, asker);
        entries.values().filter(meant).cloned().collect()
    }

    fn lines(&self, which: &ClientFilter, asker: u64) -> String {
        let meant = self.select(which, asker);
        meant.iter().map(|entry| entry.line()).collect()
    }

    fn lines_of(&self, ids: &[u64]) -> String {
        let entries = self.clients.lock();
        let named = ids.iter().filter_map(|id| entries.get(id));
        named.map(|entry| entry.line()).collect()
    }

    fn kill(&self, which: &ClientFilter, asker: u64) -> usize {
        let meant = self.select(which, asker);
        for entry in &meant {
            entry.kill();
        }
        meant.len()
    }

    fn unblock(&self, id: u64, how: Unblocked) -> bool {
        let Some(entry) = self.clients.lock().get(&id).cloned() else {
            return false;
        };
        let mut state = entry.state.lock();
        let waits = state.client.blocked;
        if waits {
            state.unblocked = Some(how);
            entry.wake();
        }
        waits
    }
}

impl PauseWindow {
    fn is_open(&self) -> bool {
        self.end > Instant::now()
    }
}

impl ClientEntry {
    /// Its line in CLIENT LIST.
    fn line(&self) -> String {
        let state = self.state.lock();
        let line = state
            .client
            .line(self.connected_at.elapsed(), state.last_request.elapsed());
        line + "\n"
    }

    /// What is told of it from now on.
    pub(super) fn publish(&self, client: ClientInfo) {
        self.state.lock().client = client;
    }

    /// It has sent something.
    pub(super) fn touch(&self) {
        self.state.lock().last_request = Instant::now();
    }

    /// It begins or ends to wait for a blocking command.
    pub(super) fn set_blocked(&self, blocked: bool) {
        let mut state = self.state.lock();
        state.client.blocked = blocked;
        state.unblocked = None;
    }

    pub(super) fn take_unblocked(&self) -> Option<Unblocked> {
        self.state.lock().unblocked.take()
    }

    /// Ends it: what it asked is not answered any more.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.is_woken.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Has the task woken when there is something to look at. What was there before is seen by whoever looks afterwards.
    pub(super) fn set_waker(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Whether there was something to look at since this was asked the last time.
    pub(super) fn take_woken(&self) -> bool {
        self.is_woken.swap(false, Ordering::Acquire)
    }

    /// Bytes of memory that are used for it.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether somebody has ended it.
    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }
}
