//! [`Monitor`]: redis-rs' own, of every server.

use futures_util::stream::{Stream, select_all};
use redis_rs::{FromRedisValue, RedisResult, aio};

use crate::nodes::Nodes;

pub struct Monitor(Vec<aio::Monitor>);

impl Monitor {
    pub(crate) async fn open(nodes: &Nodes) -> RedisResult<Self> {
        let mut monitors = Vec::new();
        for info in nodes.all() {
            let client = redis_rs::Client::open(info)?;
            monitors.push(client.get_async_monitor().await?);
        }
        Ok(Self(monitors))
    }

    pub fn into_on_message<T: FromRedisValue + Send + 'static>(self) -> impl Stream<Item = T> {
        let streams = self.0.into_iter().map(aio::Monitor::into_on_message);
        select_all(streams.map(Box::pin))
    }
}
