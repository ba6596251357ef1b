//! PING to every node, with each node's own outcome: a health check.

use redis::Value;

use crate::command::{Access, BlockingTime};
use crate::error::Error;
use crate::partition::NodeId;
use crate::plan::batch::ReplySlot;
use crate::plan::{Exchange, NodeRequest, Router};
use crate::resp::PING;
use crate::topology::LivingNodes;

/// The outcome of [`ShardedClient::ping_nodes`](crate::ShardedClient::ping_nodes) for one node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodePing {
    /// The node's identity.
    pub id: NodeId,
    /// The node's name.
    pub name: String,
    /// `Ok` if the node replied in time and serves requests. A node that is loading its data replies with an
    /// error.
    pub result: Result<(), Error>,
}

impl Router {
    /// A PING to every living node. None of them moves to another node.
    pub(crate) fn ping_nodes(&self) -> Exchange {
        let slot = ReplySlot::whole(0, Access::Read);
        let nodes = self.topology().living();
        let pings = nodes.map(|node| NodeRequest::single(node, PING.to_vec(), slot));
        Exchange::new(pings, BlockingTime::None, LivingNodes::none())
    }

    /// The outcomes of an exchange made by [`ping_nodes`](Self::ping_nodes), in node order.
    pub(crate) fn pings(&self, exchange: Exchange) -> Vec<NodePing> {
        let ping = |(request, answers): (NodeRequest, crate::plan::Answers)| {
            let node = &self.topology().nodes()[request.node.get()];
            let result = match (answers.values.first(), &answers.failure) {
                (Some(Value::ServerError(error)), _) => {
                    Err(Error::from_server(error, Some(node.name())))
                }
                (None, Some(failure)) => Err(failure.without_answer(node.name())),
                _ => Ok(()),
            };
            NodePing {
                id: node.id(),
                name: node.name().to_owned(),
                result,
            }
        };
        exchange.into_parts().map(ping).collect()
    }
}
