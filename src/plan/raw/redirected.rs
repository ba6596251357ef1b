//! Requests to a Redis Cluster that the proxy does not send as a round: over a connection that it keeps, or in pieces.

use crate::command::{Access, BlockingTime};
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot, ServerOf};
use crate::plan::{
    Answers, Exchange, ExpectedEnd, RawReplies, ReplyBuffer, ReplyRetention, Router,
};
use crate::topology::LivingNodes;

impl Router {
    /// The first WATCH of a client, whose connection is kept. It may be sent again: of a connection that is given up
    /// nothing is left.
    pub(crate) fn watch_exchange(
        &self,
        node: NodeIndex,
        packed: Vec<u8>,
        held: BlockingTime,
    ) -> Exchange<RawReplies> {
        let request = NodeRequest::single(node, packed, ReplySlot::whole(0, Access::Read));
        Exchange::new([request], held, LivingNodes::none()).for_router(self)
    }

    /// What follows an attempt of a single request that was made without an exchange. All of its reply is kept.
    pub(crate) fn exchange_after(
        &self,
        mut request: NodeRequest,
        answers: Answers<RawReplies>,
    ) -> Exchange<RawReplies> {
        request.retention = ReplyRetention::All;
        let mut exchange =
            Exchange::new([request], BlockingTime::None, LivingNodes::none()).for_router(self);
        exchange.set_early(answers, None);
        exchange
    }

    /// A request whose reply is kept, however large it is.
    pub(crate) fn exchange_again(&self, mut request: NodeRequest) -> Exchange<RawReplies> {
        request.retention = ReplyRetention::All;
        Exchange::new([request], BlockingTime::None, LivingNodes::none()).for_router(self)
    }

    /// True if the first reply is that of a server of a Redis Cluster that does not serve the slot of the request.
    pub(crate) fn is_refusal_by_cluster(&self, replies: &RawReplies) -> bool {
        let code = replies.error_code(0).unwrap_or_default();
        self.is_cluster() && matches!(code, b"MOVED" | b"ASK" | b"TRYAGAIN" | b"CLUSTERDOWN")
    }

    /// True if the nodes are those of a Redis Cluster.
    #[inline]
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster().is_some()
    }
}

impl NodeRequest {
    /// One write for a node, packed.
    pub(crate) fn single_write(node: NodeIndex, packed: Vec<u8>) -> Self {
        Self::single(node, packed, ReplySlot::whole(0, Access::Write))
    }

    /// Packed requests with `replies` replies, over a connection to this server that is kept. All count as writes.
    pub(crate) fn over_lease(
        server: ServerOf,
        packed: &[u8],
        replies: usize,
        ending: ExpectedEnd,
    ) -> Self {
        let mut request = Self::at_server(server);
        request.packed = packed.to_vec();
        request.slots = vec![ReplySlot::whole(0, Access::Write); replies];
        request.ending = ending;
        request
    }
}
