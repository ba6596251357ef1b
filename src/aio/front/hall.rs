//! All connections of a front end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::aio::front::memory::MemoryBudget;
use crate::front::{Ask, Client, ClientLimits, Door, Pause, Unblocked, Which};
use crate::plan::Hold;
use crate::reply::{Protocol, write_error, write_int, write_status};

/// The default of [`FrontEnd::with_memory_limit`](super::FrontEnd::with_memory_limit).
pub const MEMORY_MAX: usize = match (1_usize << 30).checked_mul(4) {
    Some(bytes) => bytes,
    None => 1 << 30,
};

/// Who is there.
#[derive(Debug)]
pub(super) struct Hall {
    clients_max: AtomicUsize,
    pub(super) memory: MemoryBudget,
    limits: Mutex<ClientLimits>,
    last_id: AtomicU64,
    guests: Mutex<BTreeMap<u64, Arc<Guest>>>,
    stopping: AtomicBool,
    /// Somebody has left.
    left: Notify,
    version: Mutex<Option<String>>,
    door: Mutex<Door>,
    /// Whether there may be something in `spell`.
    has_spell: AtomicBool,
    spell: Mutex<Option<Spell>>,
}

/// A pause, and its end.
#[derive(Clone, Copy, Debug)]
struct Spell {
    pause: Pause,
    end: Instant,
}

/// One connection, as the others see it.
#[derive(Debug)]
pub(super) struct Guest {
    born: Instant,
    state: Mutex<State>,
    /// The task that serves it, while that waits.
    waker: AtomicWaker,
    /// There is something to look at: it is to end, or need not wait any more.
    is_woken: AtomicBool,
    ended: AtomicBool,
    /// Bytes of memory that are used for it.
    pub(super) held: AtomicUsize,
}

#[derive(Debug)]
struct State {
    client: Client,
    heard: Instant,
    unblocked: Option<Unblocked>,
}

impl Hall {
    pub(super) fn new(clients_max: usize) -> Self {
        Self {
            clients_max: AtomicUsize::new(clients_max),
            memory: MemoryBudget::new(MEMORY_MAX),
            limits: Mutex::default(),
            last_id: AtomicU64::new(0),
            guests: Mutex::default(),
            stopping: AtomicBool::new(false),
            left: Notify::new(),
            version: Mutex::default(),
            door: Mutex::default(),
            has_spell: AtomicBool::new(false),
            spell: Mutex::default(),
        }
    }

    pub(super) fn set_clients_max(&self, clients: usize) {
        self.clients_max.store(clients, Ordering::Relaxed);
    }

    /// For those who come from now on.
    pub(super) fn change_limits(&self, change: impl FnOnce(&mut ClientLimits)) {
        change(&mut self.limits.lock());
    }

    pub(super) fn limits(&self) -> ClientLimits {
        *self.limits.lock()
    }

    pub(super) fn set_door(&self, door: Door) {
        *self.door.lock() = door;
    }

    pub(super) fn door(&self) -> Door {
        self.door.lock().clone()
    }

    /// The nodes hold commands back from now on. A pause in a pause makes it neither shorter nor laxer, as at a server.
    pub(super) fn begin_pause(&self, pause: Pause, length: Duration) {
        let end = Instant::now() + length;
        let mut spell = self.spell.lock();
        let before = spell.filter(Spell::is_on);
        let before = before.unwrap_or(Spell { pause, end });
        *spell = Some(Spell {
            pause: before.pause.max(pause),
            end: before.end.max(end),
        });
        self.has_spell.store(true, Ordering::Relaxed);
    }

    pub(super) fn end_pause(&self) {
        let mut spell = self.spell.lock();
        *spell = None;
        self.has_spell.store(false, Ordering::Relaxed);
    }

    fn spell(&self) -> Option<Spell> {
        if !self.has_spell.load(Ordering::Relaxed) {
            return None;
        }
        let spell = *self.spell.lock();
        spell.filter(Spell::is_on)
    }

    /// What the nodes hold back now.
    pub(super) fn pause(&self) -> Pause {
        self.spell().map_or(Pause::Nothing, |spell| spell.pause)
    }

    /// How long they may do so.
    pub(super) fn hold(&self) -> Hold {
        let left = |spell: Spell| spell.end.saturating_duration_since(Instant::now());
        self.spell()
            .map_or(Hold::No, |spell| Hold::AtMost(left(spell)))
    }

    pub(super) fn count(&self) -> usize {
        self.guests.lock().len()
    }

    /// Lets somebody in; or not, because there are too many, or because this is the end.
    pub(super) fn enter(&self, peer: &str, local: &str) -> Option<(Arc<Guest>, Client)> {
        let mut guests = self.guests.lock();
        let full = guests.len() >= self.clients_max.load(Ordering::Relaxed);
        if full || self.is_stopping() {
            return None;
        }
        let client = Client {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            address: peer.to_owned(),
            local_address: local.to_owned(),
            ..Client::default()
        };
        let now = Instant::now();
        let guest = Arc::new(Guest {
            born: now,
            state: Mutex::new(State {
                client: client.clone(),
                heard: now,
                unblocked: None,
            }),
            waker: AtomicWaker::new(),
            is_woken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            held: AtomicUsize::new(0),
        });
        guests.insert(client.id, Arc::clone(&guest));
        Some((guest, client))
    }

    pub(super) fn leave(&self, id: u64) {
        self.guests.lock().remove(&id);
        self.left.notify_waiters();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for guest in self.guests.lock().values() {
            guest.wake();
        }
    }

    pub(super) async fn wait_until_empty(&self, limit: Duration) -> bool {
        // A limit beyond the clock's end is none.
        let end = Instant::now().checked_add(limit);
        loop {
            let left = self.left.notified();
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
    pub(super) fn answer(&self, ask: &Ask, asker: u64, protocol: Protocol, out: &mut Vec<u8>) {
        match ask {
            Ask::Own => {
                let which = Which {
                    ids: vec![asker],
                    ..Which::default()
                };
                protocol.write_text(out, &self.lines(&which, asker));
            }
            // Clients that are named come in the order of their names, as often as they are named.
            Ask::List(which) if !which.ids.is_empty() => {
                protocol.write_text(out, &self.lines_of(&which.ids));
            }
            Ask::List(which) => protocol.write_text(out, &self.lines(which, asker)),
            Ask::Kill(which) => write_int(out, self.end(which, asker) as i64),
            Ask::KillOne(which) => match self.end(which, asker) {
                0 => write_error(out, "ERR", "No such client"),
                _ => write_status(out, "OK"),
            },
            Ask::Unblock(id, how) => write_int(out, self.unblock(*id, *how).into()),
        }
    }

    pub(super) fn everybody(&self) -> Vec<Arc<Guest>> {
        self.guests.lock().values().cloned().collect()
    }

    fn meant(&self, which: &Which, asker: u64) -> Vec<Arc<Guest>> {
        let guests = self.guests.lock();
        let meant = |guest: &&Arc<Guest>| guest.state.lock().client.is_meant(which, asker);
        guests.values().filter(meant).cloned().collect()
    }

    fn lines(&self, which: &Which, asker: u64) -> String {
        let meant = self.meant(which, asker);
        meant.iter().map(|guest| guest.line()).collect()
    }

    fn lines_of(&self, ids: &[u64]) -> String {
        let guests = self.guests.lock();
        let named = ids.iter().filter_map(|id| guests.get(id));
        named.map(|guest| guest.line()).collect()
    }

    fn end(&self, which: &Which, asker: u64) -> usize {
        let meant = self.meant(which, asker);
        for guest in &meant {
            guest.end();
        }
        meant.len()
    }

    fn unblock(&self, id: u64, how: Unblocked) -> bool {
        let Some(guest) = self.guests.lock().get(&id).cloned() else {
            return false;
        };
        let mut state = guest.state.lock();
        let waits = state.client.blocked;
        if waits {
            state.unblocked = Some(how);
            guest.wake();
        }
        waits
    }
}

impl Spell {
    fn is_on(&self) -> bool {
        self.end > Instant::now()
    }
}

impl Guest {
    /// Its line in CLIENT LIST.
    fn line(&self) -> String {
        let state = self.state.lock();
        let line = state
            .client
            .line(self.born.elapsed(), state.heard.elapsed());
        line + "\n"
    }

    /// What is told of it from now on.
    pub(super) fn show(&self, client: Client) {
        self.state.lock().client = client;
    }

    /// It has sent something.
    pub(super) fn heard(&self) {
        self.state.lock().heard = Instant::now();
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
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.is_woken.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Has the task woken when there is something to look at. What was there before is seen by whoever looks afterwards.
    pub(super) fn register(&self, cx: &Context<'_>) {
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
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
