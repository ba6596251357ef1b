//! The memory that the clients of a proxy hold: each client's, and the sum, which has a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::plan::ByteMeter;
use crate::proxy::net::registry::{ClientEntry, ClientRegistry};

/// The sum over all clients, and its limit.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Clients were disconnected and have not freed their memory yet.
    is_evicting: AtomicBool,
    evicted: AtomicUsize,
}

impl MemoryBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            is_evicting: AtomicBool::new(false),
            evicted: AtomicUsize::new(0),
        }
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that all clients hold.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many clients were disconnected because of the limit.
    pub(super) fn evicted(&self) -> usize {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Whether somebody must go, and nobody is going already.
    fn is_exceeded(&self) -> bool {
        self.used() > self.limit.load(Ordering::Relaxed)
            && !self.is_evicting.load(Ordering::Relaxed)
    }

    /// The clients that must go so that the others fit, the largest first.
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
    /// `client` holds so many bytes more. When all hold too many, the largest holders are disconnected.
    pub(super) fn add_held(&self, client: &ClientEntry, bytes: usize) {
        client.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
        if self.memory.is_exceeded() {
            self.evict();
        }
    }

    pub(super) fn subtract_held(&self, client: &ClientEntry, bytes: usize) {
        client.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn evict(&self) {
        self.memory.is_evicting.store(true, Ordering::Relaxed);
        for client in self.memory.choose(self.all()) {
            self.memory.evicted.fetch_add(1, Ordering::Relaxed);
            client.kill();
        }
    }
}

/// The bytes that are held for one client in two shares: replies on their way, counted as they come, and its buffers.
#[derive(Debug)]
pub(super) struct ClientMemory {
    registry: Arc<ClientRegistry>,
    client: Arc<ClientEntry>,
    buffers: AtomicUsize,
    replies: AtomicUsize,
}

/// Changes of less are not counted.
const COUNTED_BYTES_MIN: usize = 16 << 10;

impl ClientMemory {
    pub(super) fn new(registry: Arc<ClientRegistry>, client: Arc<ClientEntry>) -> Self {
        Self {
            registry,
            client,
            buffers: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
        }
    }

    /// Its buffers have so many bytes now.
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

    /// Bytes of replies that have come and not gone out.
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
    /// The last reply may be freed later than the connection.
    fn drop(&mut self) {
        self.registry
            .subtract_held(&self.client, self.buffers.load(Ordering::Relaxed));
        // Somebody has gone: if that was not enough, others may be looked for.
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
        // Nobody else goes while the first is still on its way out.
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
