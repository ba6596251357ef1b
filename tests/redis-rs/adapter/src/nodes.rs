//! The nodes behind the address of one server, and how a client over them is built.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis_rs::{ConnectionAddr, ConnectionInfo, PushInfo};
use redis_sharding::partition::from_fn;
use redis_sharding::{Builder, ShardedClient};

/// What a client is built from, again when one of its settings is changed.
#[derive(Clone)]
pub struct Nodes {
    info: ConnectionInfo,
    pub connect_timeout: Option<Duration>,
    pub response_timeout: Option<Option<Duration>>,
    push_sender: Option<Arc<dyn Fn(PushInfo) + Send + Sync>>,
}

impl Nodes {
    pub fn new(info: ConnectionInfo) -> Self {
        Self {
            info,
            connect_timeout: None,
            response_timeout: None,
            push_sender: None,
        }
    }

    /// Sets the receiver of push messages, of whichever node.
    pub fn set_push_sender(&mut self, sender: impl Fn(PushInfo) + Send + Sync + 'static) {
        self.push_sender = Some(Arc::new(sender));
    }

    pub fn is_resp3(&self) -> bool {
        self.info.redis_settings().protocol().supports_resp3()
    }

    /// The server that the test has started.
    pub fn first(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Fails while the first server does not listen yet.
    pub fn reach(&self) -> std::io::Result<()> {
        if let ConnectionAddr::Tcp(host, port) = self.info.addr() {
            std::net::TcpStream::connect((host.as_str(), *port))?;
        }
        Ok(())
    }

    /// A description of a client over all nodes. Their names are always the same, and so is the owner of each key.
    pub fn builder(&self) -> Builder {
        let mut builder = ShardedClient::builder().node("node-0", self.info.clone());
        for number in 1..4 {
            if let Some(socket) = socket(self.info.addr(), number) {
                let further = self.info.clone().set_addr(ConnectionAddr::Unix(socket));
                builder = builder.node(format!("node-{number}"), further);
            }
        }
        if env::var_os("REDIS_RS_SUITE_ONE_NODE").is_some() {
            builder = builder.partitioner(from_fn("first/1", |_, _| 0));
        }
        if let Some(timeout) = self.connect_timeout {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(timeout) = self.response_timeout {
            builder = builder.response_timeout(timeout);
        }
        // Over RESP2 redis-rs never calls it, and the builder refuses it.
        if let Some(sender) = self.push_sender.clone().filter(|_| self.is_resp3()) {
            builder = builder.push_sender(move |_: &str, push: PushInfo| sender(push));
        }
        builder
    }
}

/// Where one of the three further servers listens. `None` if the test talks to a server of its own.
fn socket(first: &ConnectionAddr, number: usize) -> Option<PathBuf> {
    let port = match first {
        ConnectionAddr::Tcp(_, port) | ConnectionAddr::TcpTls { port, .. } => port,
        _ => return None,
    };
    let folder = env::var_os("REDIS_RS_SUITE_SOCKETS")?;
    let path = Path::new(&folder).join(format!("{port}-{number}"));
    path.exists().then_some(path)
}
