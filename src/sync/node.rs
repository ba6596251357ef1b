//! [`Node`]: the handle of one node.

use std::fmt;

use redis::{Cmd, ConnectionLike, RedisResult, Value};

use crate::error::Error;
use crate::partition::{NodeId, NodeIndex, NodeSpec};
use crate::plan::KeyCheck;
use crate::snapshot::SnapshotHandle;
use crate::sync::{Dedicated, Shared};
use crate::topology::NodeRef;

/// One node of a client: itself a [`redis::ConnectionLike`], whose commands go to this server and nowhere
/// else.
///
/// **Keys are not checked.** A key written here that another node owns will not be found by the client. Use
/// the client for commands about keys and this handle for commands about a server (INFO, CONFIG, SLOWLOG,
/// ...). Commands that are not in the command table are sent as they are.
///
/// The handle keeps its own copy of the node's name, address and weight, and locates the node by its
/// [`id`](Self::id).
#[derive(Clone)]
pub struct Node {
    pub(super) shared: SnapshotHandle<Shared>,
    node: NodeRef,
}

impl Node {
    pub(super) fn new(shared: SnapshotHandle<Shared>, node: NodeRef) -> Self {
        Self { shared, node }
    }

    /// The node's identity, which stays the same when other nodes are added or removed.
    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.spec().name()
    }

    /// The node's address: `host:port`, or the path of a unix socket.
    pub fn address(&self) -> &str {
        self.spec().address()
    }

    /// The node's position in the topology that the handle was made from.
    pub fn index(&self) -> NodeIndex {
        self.node.index()
    }

    /// Name, address and weight, as they were when the handle was made.
    pub fn spec(&self) -> &NodeSpec {
        self.node.spec()
    }

    /// Opens a private connection to this node, closed when dropped. Keys are not checked.
    ///
    /// # Errors
    ///
    /// [`Auth`](crate::ErrorKind::Auth), [`NodeDown`](crate::ErrorKind::NodeDown),
    /// [`PoolTimeout`](crate::ErrorKind::PoolTimeout) or [`Timeout`](crate::ErrorKind::Timeout) when no
    /// connection can be made in time.
    pub fn dedicated(&self) -> Result<Dedicated, Error> {
        Dedicated::open(self.shared.clone(), |shared| {
            Ok((shared.router.locate_node(&self.node)?, KeyCheck::None))
        })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(self.spec()).finish()
    }
}

impl ConnectionLike for Node {
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = self.req_packed_command(&cmd.get_packed_command())?;
        Ok(if cmd.is_no_response() {
            Value::Nil
        } else {
            reply
        })
    }

    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        let shared = self.shared.ready()?;
        let node = shared.router.locate_node(&self.node)?;
        let complete = |error| shared.router.with_keys(error, cmd);
        Error::redis_result(shared.request_at(node, cmd), complete)
    }

    fn req_packed_commands(
        &mut self,
        cmd: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let shared = self.shared.ready()?;
        let node = shared.router.locate_node(&self.node)?;
        shared.pipeline_at(node, cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.shared.load().db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    /// Always true: connections are made when they are needed, and remade when they break.
    fn is_open(&self) -> bool {
        true
    }
}
