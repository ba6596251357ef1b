//! The proxy's own metrics, for recorders of the crate `metrics`. Without the feature `metrics` this is empty.

#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge, counter, gauge};

/// Handles of the metrics of one proxy, resolved when it is built.
pub(super) struct ProxyMetrics {
    #[cfg(feature = "metrics")]
    handles: Handles,
}

#[cfg(feature = "metrics")]
struct Handles {
    clients: Gauge,
    connections: Counter,
    refused: Counter,
    evicted: Counter,
    commands: Counter,
    received: Counter,
    sent: Counter,
    memory: Gauge,
}

impl ProxyMetrics {
    /// Registers the metrics with the current recorder.
    pub(super) fn new() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            handles: Handles::new(),
        }
    }

    /// A client has connected.
    pub(super) fn connected(&self) {
        #[cfg(feature = "metrics")]
        {
            self.handles.clients.increment(1);
            self.handles.connections.increment(1);
        }
    }

    /// A client has disconnected. All clients together hold `memory` bytes.
    pub(super) fn left(&self, memory: usize) {
        #[cfg(feature = "metrics")]
        {
            self.handles.clients.decrement(1);
            self.handles.memory.set(memory as f64);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = memory;
    }

    /// A connection was refused, as there are too many.
    pub(super) fn refused(&self) {
        #[cfg(feature = "metrics")]
        self.handles.refused.increment(1);
    }

    /// A client is disconnected because of the memory limit.
    pub(super) fn evicted(&self) {
        #[cfg(feature = "metrics")]
        self.handles.evicted.increment(1);
    }

    /// This many commands of a client were carried out. All clients together hold `memory` bytes.
    #[inline]
    pub(super) fn commands(&self, count: u32, memory: impl FnOnce() -> usize) {
        #[cfg(feature = "metrics")]
        {
            self.handles.commands.increment(count.into());
            self.handles.memory.set(memory() as f64);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (count, memory);
    }

    /// Bytes came from a client.
    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        #[cfg(feature = "metrics")]
        self.handles.received.increment(bytes as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = bytes;
    }

    /// The socket of a client took bytes.
    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        #[cfg(feature = "metrics")]
        self.handles.sent.increment(bytes as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = bytes;
    }
}

#[cfg(feature = "metrics")]
impl Handles {
    fn new() -> Self {
        use metrics::{Unit, describe_counter, describe_gauge};

        const CLIENTS: &str = "redis_sharding_proxy_clients";
        const CONNECTIONS: &str = "redis_sharding_proxy_connections_total";
        const REFUSED: &str = "redis_sharding_proxy_refused_connections_total";
        const EVICTED: &str = "redis_sharding_proxy_evicted_clients_total";
        const COMMANDS: &str = "redis_sharding_proxy_commands_total";
        const RECEIVED: &str = "redis_sharding_proxy_received_bytes_total";
        const SENT: &str = "redis_sharding_proxy_sent_bytes_total";
        const MEMORY: &str = "redis_sharding_proxy_memory_bytes";
        let count = Unit::Count;
        describe_gauge!(CLIENTS, count, "Clients that are connected to the proxy");
        describe_counter!(CONNECTIONS, count, "Clients that have connected so far");
        describe_counter!(
            REFUSED,
            count,
            "Connections refused because of the limit of clients"
        );
        describe_counter!(
            EVICTED,
            count,
            "Clients disconnected because of the memory limit"
        );
        describe_counter!(COMMANDS, count, "Commands of clients that were carried out");
        describe_counter!(RECEIVED, Unit::Bytes, "Bytes received from clients");
        describe_counter!(SENT, Unit::Bytes, "Bytes sent to clients");
        describe_gauge!(MEMORY, Unit::Bytes, "Memory held for all clients together");
        Self {
            clients: gauge!(CLIENTS),
            connections: counter!(CONNECTIONS),
            refused: counter!(REFUSED),
            evicted: counter!(EVICTED),
            commands: counter!(COMMANDS),
            received: counter!(RECEIVED),
            sent: counter!(SENT),
            memory: gauge!(MEMORY),
        }
    }
}

impl std::fmt::Debug for ProxyMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyMetrics").finish_non_exhaustive()
    }
}
