//! SUBSCRIBE on an async connection: the client's `PubSub`, whose messages go to the receiver of push messages.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use redis_rs::{Msg, PushInfo, PushKind, RedisResult, Value};
use redis_sharding::aio::{PubSubSink, ShardedClient};

use crate::nodes::{FIRST, Pushes};

pub struct Subscriptions {
    sink: PubSubSink,
    pushes: Pushes,
    /// Whether it is a pattern, and its name.
    names: BTreeSet<(bool, Vec<u8>)>,
}

impl Subscriptions {
    pub async fn open(client: &ShardedClient, pushes: Pushes) -> RedisResult<Self> {
        let (sink, mut stream) = client.get_async_pubsub().await?.split();
        let receiver = pushes.clone();
        tokio::spawn(async move {
            while let Some(message) = stream.next().await {
                receiver.send(FIRST, push(&message));
            }
        });
        Ok(Self {
            sink,
            pushes,
            names: BTreeSet::new(),
        })
    }

    /// Carries out the command that `kind` confirms.
    pub async fn change(&mut self, kind: PushKind, names: Vec<Vec<u8>>) -> RedisResult<()> {
        match kind {
            PushKind::Subscribe => self.sink.subscribe(&names).await?,
            PushKind::PSubscribe => self.sink.psubscribe(&names).await?,
            PushKind::Unsubscribe => self.sink.unsubscribe(&names).await?,
            _ => self.sink.punsubscribe(&names).await?,
        }
        let is_pattern = matches!(kind, PushKind::PSubscribe | PushKind::PUnsubscribe);
        let is_start = matches!(kind, PushKind::Subscribe | PushKind::PSubscribe);
        let of_kind = self.names.iter().filter(|(other, _)| *other == is_pattern);
        let names = if names.is_empty() {
            of_kind.map(|(_, name)| name.clone()).collect()
        } else {
            names
        };
        for name in names {
            let entry = (is_pattern, name.clone());
            if is_start {
                self.names.insert(entry);
            } else {
                self.names.remove(&entry);
            }
            let left = Value::Int(self.names.len() as i64);
            let data = vec![Value::BulkString(name), left];
            let kind = kind.clone();
            self.pushes.send(FIRST, PushInfo { kind, data });
        }
        Ok(())
    }
}

/// The message as a server sends it in RESP3.
fn push(message: &Msg) -> PushInfo {
    let text = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    let channel = text(message.get_channel_name().as_bytes());
    let payload = text(message.get_payload_bytes());
    match message.get_pattern::<Option<String>>() {
        Ok(Some(pattern)) => PushInfo {
            kind: PushKind::PMessage,
            data: vec![text(pattern.as_bytes()), channel, payload],
        },
        _ => PushInfo {
            kind: PushKind::Message,
            data: vec![channel, payload],
        },
    }
}
