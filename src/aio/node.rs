//! The handle of one node.

use std::fmt;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use crate::aio::{Dedicated, Shared};
use crate::command::Scripting;
use crate::error::Error;
use crate::partition::{NodeIndex, NodeSpec};
use crate::plan::{PipelineKind, Scope, empty_pipeline, parse_one, select_replies};

/// One node of a client: itself a [`redis::aio::ConnectionLike`], whose commands go to this server and nowhere else.
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
    pub async fn dedicated(&self) -> Result<Dedicated, Error> {
        Dedicated::open(Arc::clone(&self.shared), self.index, false).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(self.spec()).finish()
    }
}

impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let packed = cmd.get_packed_command();
            let args = parse_one(&packed)?;
            let (shared, node) = (&self.shared, self.index);
            let routed = shared.router.route_at(node, &args)?;
            let reply = match routed.scripting {
                Scripting::No => shared.call_packed(node, &packed, &routed).await?,
                Scripting::Yes => {
                    shared
                        .call_script(node, &packed, &args, &routed, Scope::OneNode)
                        .await?
                }
            };
            Ok(if cmd.is_no_response() {
                Value::Nil
            } else {
                reply
            })
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let packed = pipeline.get_packed_pipeline();
            if packed.is_empty() {
                return Err(empty_pipeline());
            }
            let shape = PipelineKind::of(&packed, offset, count);
            let shared = &self.shared;
            let bundle = shared
                .router
                .route_pipeline_at(self.index, &packed, shape, &|| shared.snapshot())?;
            let values = shared.run(bundle).await?;
            Ok(select_replies(values, shape, offset, count))
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.db
    }
}
