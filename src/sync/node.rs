//! The handle of one node.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, ConnectionLike, RedisResult, Value};

use crate::command::Scripting;
use crate::error::Error;
use crate::partition::{NodeIndex, NodeSpec};
use crate::plan::{Scope, parse_one};
use crate::sync::{Dedicated, Shared};

/// One node of a client: itself a [`redis::ConnectionLike`], whose commands go to this server and nowhere else.
///
/// **Keys are not checked.** A key that is written here but lives elsewhere will not be found by the client. What is about
/// keys belongs on the client; this is for what is about a server. Commands that the client does not know are let through.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    index: NodeIndex,
}

impl Node {
    pub(super) fn new(shared: Arc<Shared>, index: NodeIndex) -> Self {
        Self { shared, index }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.spec().name()
    }

    /// The node's address: `host:port`, or the path of a unix socket.
    pub fn address(&self) -> &str {
        self.spec().address()
    }

    /// The node's position in the topology.
    pub fn index(&self) -> NodeIndex {
        self.index
    }

    /// Name, address and weight.
    pub fn spec(&self) -> &NodeSpec {
        self.shared.router.topology().node(self.index)
    }

    /// A private connection to this node, closed when dropped. Keys are not checked.
    ///
    /// # Errors
    ///
    /// [`Auth`](crate::ErrorKind::Auth), [`NodeDown`](crate::ErrorKind::NodeDown),
    /// [`PoolTimeout`](crate::ErrorKind::PoolTimeout) or [`Timeout`](crate::ErrorKind::Timeout) when no connection can be had.
    pub fn dedicated(&self) -> Result<Dedicated, Error> {
        Dedicated::open(Arc::clone(&self.shared), self.index, false)
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
        let args = parse_one(cmd)?;
        let routed = self.shared.router.route_at(self.index, &args)?;
        Ok(match routed.scripting {
            Scripting::No => self.shared.call(self.index, cmd, &routed)?,
            Scripting::Yes => {
                self.shared
                    .call_script(self.index, cmd, &args, &routed, Scope::OneNode)?
            }
        })
    }

    fn req_packed_commands(
        &mut self,
        cmd: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.shared.pipeline_at(self.index, cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.shared.db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    /// Always true: connections are made when they are needed, and made again when they break.
    fn is_open(&self) -> bool {
        true
    }
}
