//! The memory that the clients of a proxy hold: each client's, and the sum, which has a limit.
//!
//! Counted are the bytes of requests that wait, of queued transactions, and of replies from their arrival
//! until they are written. When the sum exceeds the limit, the clients that hold most are killed until the
//! rest fits, as with `maxmemory-clients` of a server.
//!
//! ```text
//! ClientMemory (one for each client)        MemoryBudget (one for each proxy)
//!   buffers: set after each change   ──┐
//!   replies: added as they arrive    ──┴──▶ used ──▶ used > limit? kill the largest holders
//! ```
//!
//! A killed client frees its memory only when its task runs next. Until then `is_evicting` keeps others from
//! being killed for the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::plan::ByteMeter;
use crate::proxy::net::metrics::ProxyMetrics;
use crate::proxy::net::registry::{ClientEntry, ClientRegistry};

/// The sum over all clients, and its limit.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    /// Maximum number of bytes; `usize::MAX` for no limit.
    limit: AtomicUsize,
    /// Bytes that all clients hold now.
    used: AtomicUsize,
    /// True while clients were killed and none of them has freed its memory yet.
    is_evicting: AtomicBool,
    /// Number of clients killed because of the limit, since the start.
    evicted: AtomicUsize,
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            is_evicting: AtomicBool::new(false),
            evicted: AtomicUsize::new(0),
        }
    }

    /// Changes the limit. Checked the next time that a client holds more.
    pub(super) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Number of bytes that all clients hold.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Number of clients killed because of the limit.
    pub(super) fn evicted(&self) -> usize {
        self.evicted.load(Ordering::Relaxed)
    }

    /// True if clients must be killed, and none is on its way out already.
    fn is_exceeded(&self) -> bool {
        self.used() > self.limit.load(Ordering::Relaxed)
            && !self.is_evicting.load(Ordering::Relaxed)
    }

    /// Chooses clients to kill, the largest holders first, no more than needed. What killed clients still
    /// hold counts as freed.
    fn choose(&self, mut clients: Vec<Arc<ClientEntry>>) -> Vec<Arc<ClientEntry>> {
        let (going, mut staying): (Vec<_>, Vec<_>) =
            clients.drain(..).partition(|client| client.is_killed());
        let freed: usize = going.iter().map(|client| client.held()).sum();
        let limit = self.limit.load(Ordering::Relaxed);
        let mut excess = self.used().saturating_sub(freed).saturating_sub(limit);
        staying.sort_by_key(|client| std::cmp::Reverse(client.held()));
        let mut chosen = Vec::new();
        for client in staying {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(client.held());
            chosen.push(client);
        }
        chosen
    }
}

impl ClientRegistry {
    /// Records that `client` holds `bytes` more. Kills the largest holders when all clients hold too much;
    /// `client` may be one of them.
    pub(super) fn add_held(&self, client: &ClientEntry, bytes: usize) {
        client.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
        if self.memory.is_exceeded() {
            self.evict();
        }
    }

    /// Records that `client` holds `bytes` less.
    pub(super) fn subtract_held(&self, client: &ClientEntry, bytes: usize) {
        client.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Kills the largest holders of memory.
    fn evict(&self) {
        if self.memory.is_evicting.swap(true, Ordering::Relaxed) {
            return;
        }
        let chosen = self.memory.choose(self.all());
        // Memory may have been freed in between. Nobody who is killed would reset the flag then, and nobody would ever be
        // evicted again.
        if chosen.is_empty() {
            self.memory.is_evicting.store(false, Ordering::Relaxed);
        }
        for client in chosen {
            self.memory.evicted.fetch_add(1, Ordering::Relaxed);
            self.metrics.evicted();
            client.kill();
        }
    }
}

/// The bytes held for one client: its buffers, and replies on their way to it.
///
/// Shared with the replies themselves, which may be freed after the connection has ended: a command under way
/// is completed for a client that has gone.
#[derive(Debug)]
pub(super) struct ClientMemory {
    registry: Arc<ClientRegistry>,
    client: Arc<ClientEntry>,
    /// Bytes of the buffers, when they were last reported.
    buffers: AtomicUsize,
    /// Bytes of replies that the nodes have sent and that were not written yet.
    replies: AtomicUsize,
}

/// Smaller changes of the buffers, in bytes, are not reported, so that small requests do not touch the
/// counters that all threads share.
const COUNTED_BYTES_MIN: usize = 16 << 10;

impl ClientMemory {
    /// Creates the memory of a client that holds nothing.
    pub(super) fn new(registry: Arc<ClientRegistry>, client: Arc<ClientEntry>) -> Self {
        Self {
            registry,
            client,
            buffers: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
        }
    }

    /// Records that the buffers have this many bytes now. Called by the client's own task only, so load and
    /// store need not be one operation.
    #[inline]
    pub(super) fn set_buffers(&self, bytes: usize) {
        let before = self.buffers.load(Ordering::Relaxed);
        if bytes.abs_diff(before) >= COUNTED_BYTES_MIN {
            self.buffers.store(bytes, Ordering::Relaxed);
            match bytes.checked_sub(before) {
                Some(more) => self.registry.add_held(&self.client, more),
                None => self.registry.subtract_held(&self.client, before - bytes),
            }
        }
    }

    /// The metrics of the proxy.
    pub(super) fn metrics(&self) -> &ProxyMetrics {
        &self.registry.metrics
    }

    /// Number of bytes of replies that have arrived and were not written.
    pub(super) fn replies(&self) -> usize {
        self.replies.load(Ordering::Relaxed)
    }
}

impl ByteMeter for ClientMemory {
    fn add(&self, bytes: usize) {
        self.replies.fetch_add(bytes, Ordering::Relaxed);
        self.registry.add_held(&self.client, bytes);
    }

    fn subtract(&self, bytes: usize) {
        self.replies.fetch_sub(bytes, Ordering::Relaxed);
        self.registry.subtract_held(&self.client, bytes);
    }
}

impl Drop for ClientMemory {
    /// Runs when the last reply is freed, which may be after the end of the connection.
    fn drop(&mut self) {
        self.registry
            .subtract_held(&self.client, self.buffers.load(Ordering::Relaxed));
        // A client has freed its memory. If that was not enough, the next add chooses again.
        self.registry
            .memory
            .is_evicting
            .store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(registry: &Arc<ClientRegistry>) -> (Arc<ClientEntry>, ClientMemory) {
        let (entry, _) = registry.register("peer", "local").unwrap();
        let memory = ClientMemory::new(Arc::clone(registry), Arc::clone(&entry));
        (entry, memory)
    }

    #[test]
    fn memory_limit_disconnects_the_largest_clients_first_and_no_more_than_needed() {
        let registry = Arc::new(ClientRegistry::new(10));
        registry.memory.set_limit(100 << 20);
        let clients: Vec<_> = (0..4).map(|_| enter(&registry)).collect();
        for ((_, memory), megabytes) in clients.iter().zip([10, 50, 20, 15]) {
            memory.set_buffers(megabytes << 20);
        }
        let ended =
            || -> Vec<bool> { clients.iter().map(|(entry, _)| entry.is_killed()).collect() };
        assert_eq!(ended(), [false; 4]);
        clients[0].1.add(20 << 20);
        assert_eq!(ended(), [false, true, false, false]);
        // No other client is killed while the first has not freed its memory.
        clients[0].1.add(5 << 20);
        assert_eq!(ended(), [false, true, false, false]);
        assert_eq!(registry.memory.evicted(), 1);
    }

    #[test]
    fn memory_of_a_disconnected_client_is_released() {
        let registry = Arc::new(ClientRegistry::new(10));
        let (entry, memory) = enter(&registry);
        memory.set_buffers(1 << 20);
        memory.add(1 << 20);
        assert_eq!((registry.memory.used(), entry.held()), (2 << 20, 2 << 20));
        memory.subtract(1 << 20);
        drop(memory);
        assert_eq!((registry.memory.used(), entry.held()), (0, 0));
    }
}
