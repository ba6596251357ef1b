//! The setter of [`Builder`] for the events of a client.

use crate::config::Builder;
use crate::observe::ClientEvent;

impl Builder {
    /// Adds a listener that is called with every [`ClientEvent`]: a node goes down or comes back, a connection is
    /// opened, closed or replaced. Several listeners are called in the order in which they were set. Defaults to
    /// none.
    ///
    /// The listener is called on the thread that notices the event, while no lock of the client is held, and
    /// that thread waits for it: a request of the blocking client, or a worker of the async client's runtime.
    /// It should return quickly, never block, and send longer work to a channel. It may call
    /// [`health`](crate::ShardedClient::health). A panic is caught after the panic hook has printed it, and
    /// the client goes on. Events that threads notice at the same time may arrive in either order.
    ///
    /// ```
    /// use redis_sharding::{ClientEvent, ShardedClient};
    ///
    /// let client = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .on_event(|event| {
    ///         if let ClientEvent::NodeDown { .. } | ClientEvent::NodeUp { .. } = event {
    ///             eprintln!("{event}");
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&ClientEvent) + Send + Sync + 'static) -> Self {
        self.listeners.add(listener);
        self
    }
}
