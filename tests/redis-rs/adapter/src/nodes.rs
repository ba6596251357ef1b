//! The nodes behind the address of one server, and how a client over them is built.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
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
    pub pushes: Pushes,
}

/// The receiver of one connection's push messages, of whichever node; it may change.
#[derive(Clone, Default)]
pub struct Pushes(Arc<Mutex<Option<PushSender>>>);

/// Called with the name of the node.
type PushSender = Arc<dyn Fn(&str, PushInfo) + Send + Sync>;

impl Pushes {
    pub fn set(&self, sender: impl Fn(&str, PushInfo) + Send + Sync + 'static) {
        *self.0.lock().expect("no panics") = Some(Arc::new(sender));
    }

    pub fn send(&self, node: &str, push: PushInfo) {
        let sender = self.0.lock().expect("no panics").clone();
        if let Some(sender) = sender {
            sender(node, push);
        }
    }
}

impl Nodes {
    pub fn new(info: ConnectionInfo) -> Self {
        Self {
            info,
            connect_timeout: None,
            response_timeout: None,
            pushes: Pushes::default(),
        }
    }

    /// The same nodes for a connection of its own, which has no receiver of push messages yet.
    pub fn for_connection(&self) -> Self {
        Self {
            pushes: Pushes::default(),
            ..self.clone()
        }
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

    /// All nodes: the server that the test has started, and those beside it.
    pub fn all(&self) -> Vec<ConnectionInfo> {
        let sockets = (1..4).filter_map(|number| socket(self.info.addr(), number));
        let further = sockets.map(|path| self.info.clone().set_addr(ConnectionAddr::Unix(path)));
        [self.info.clone()].into_iter().chain(further).collect()
    }

    /// A description of a client over all nodes. Their names are always the same, and so is the owner of each key.
    pub fn builder(&self) -> Builder {
        let mut builder = ShardedClient::builder();
        for (number, info) in self.all().into_iter().enumerate() {
            builder = builder.node(format!("node-{number}"), info);
        }
        if env::var_os("REDIS_RS_SUITE_ONE_NODE").is_some() {
            builder = builder.partitioner(from_fn("first/1", |_, _| 0));
        }
        if let Some(timeout) = self.connect_timeout {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(timeout) = self.response_timeout {
            // redis-rs knows no other timeout for BLPOP with timeout 0.
            builder = builder.response_timeout(timeout).blocking_timeout(timeout);
        }
        // Over RESP2 redis-rs never calls it, and the builder refuses it.
        if self.is_resp3() {
            let pushes = self.pushes.clone();
            let sender = move |node: &str, push: PushInfo| pushes.send(node, push);
            builder = builder.push_sender(sender);
        }
        builder
    }
}

/// The name of the node whose server the test has started.
pub const FIRST: &str = "node-0";

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
