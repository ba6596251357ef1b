//! The setter of the receiver of push messages.

use std::sync::Arc;

use crate::config::Builder;
use crate::endpoint::push::PushSender;

impl Builder {
    /// Sets the receiver of RESP3 push messages of all nodes, as `AsyncConnectionConfig::set_push_sender` of redis-rs
    /// does for one: `invalidate` after CLIENT TRACKING, messages after SUBSCRIBE, both on a
    /// [`Dedicated`](crate::Dedicated) connection, and what a server sends unasked. A connection that is lost, or given
    /// up for want of a reply, sends a message of the kind `Disconnection`: a cache must forget what it has of this
    /// node. The messages of a [`Subscriber`](crate::Subscriber) or [`PubSub`](crate::PubSub) do not come here.
    ///
    /// Every node must be reached in RESP3 (`?protocol=resp3` in its URL), as RESP2 has no push messages: building
    /// the client is an error otherwise. The client on tokio receives messages as they arrive; the blocking client
    /// reads a connection only during its requests, so they come with the next one (PING will do).
    ///
    /// The sender is called without any lock held, by the task or thread that reads the connection, and nothing else
    /// is read from it meanwhile: it must not block. The number of messages that wait is bounded by the sender alone.
    /// Defaults to none: messages are dropped.
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
