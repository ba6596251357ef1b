//! The setter of [`Builder`] for the receiver of RESP3 push messages.

use std::sync::Arc;

use crate::config::Builder;
use crate::endpoint::push::PushSender;

impl Builder {
    /// Sets the receiver of the RESP3 push messages of all nodes, like `AsyncConnectionConfig::set_push_sender` of
    /// redis-rs for one: `invalidate` after CLIENT TRACKING, messages after SUBSCRIBE, both on a
    /// [`Dedicated`](crate::Dedicated) connection, and everything else that a server pushes. When a connection is
    /// lost, or given up because a reply is late, a message of the kind `Disconnection` is sent: a cache must then
    /// forget what it has of this node. The messages of a [`Subscriber`](crate::Subscriber) or
    /// [`PubSub`](crate::PubSub) are not sent here.
    ///
    /// Every node must use RESP3 (`?protocol=resp3` in its URL), as RESP2 has no push messages; otherwise building
    /// the client fails. The client on tokio receives messages as they arrive. The blocking client reads a
    /// connection only during its requests, so they are received with the next request, such as a PING.
    ///
    /// The sender is called while no lock is held, by the task or thread that reads the connection, which reads
    /// nothing else until it returns: it must not block. Only the sender limits the number of messages that are
    /// queued. Defaults to none: messages are dropped.
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// use redis_sharding::ShardedClient;
    /// use redis_sharding::redis::{self, PushInfo, PushKind};
    /// # use redis_sharding::testing::TestNode;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = TestNode::start()?;
    /// # let url = format!("{}?protocol=resp3", server.url());
    /// let (sender, receiver) = mpsc::channel();
    /// let client = ShardedClient::builder()
    ///     .node("cache-a", url) // "redis://10.0.0.1/?protocol=resp3"
    ///     .push_sender(move |node: &str, push: PushInfo| {
    ///         // Fails if nobody receives any more.
    ///         let _ = sender.send((node.to_owned(), push.kind));
    ///     })
    ///     .build()?;
    ///
    /// let mut connection = client.dedicated("news")?;
    /// redis::cmd("SUBSCRIBE").arg("news").set_no_response(true).exec(&mut connection)?;
    /// redis::cmd("PING").exec(&mut connection)?;
    /// assert_eq!(receiver.try_recv()?, ("cache-a".to_owned(), PushKind::Subscribe));
    /// # server.stop();
    /// # redis::cmd("PING").exec(&mut connection).unwrap_err();
    /// # assert_eq!(receiver.try_recv()?, ("cache-a".to_owned(), PushKind::Disconnection));
    /// # Ok(()) }
    /// ```
    pub fn push_sender(mut self, sender: impl PushSender) -> Self {
        self.push_sender = Some(Arc::new(sender));
        self
    }
}
