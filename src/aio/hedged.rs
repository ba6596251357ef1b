//! A read that is sent to a second server when the first one is late.
//!
//! ```text
//!  first server    send ──────────────────────── reply, if it comes first
//!  second server           ▲ late: send ──────── reply, if it comes first
//! ```
//!
//! The reply that comes too late is discarded by its connection, which other requests share.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};

use crate::aio::in_flight::ReplyChannel;
use crate::aio::node_connections::NodeConnections;
use crate::command::BlockingTime;
use crate::endpoint::{Deadline, NodeReplicas};
use crate::plan::{Answers, Attempt, Cause, Failure, Hedge};

impl NodeConnections {
    /// Makes an attempt, and another one at the server of `hedge` if the first is late. Returns the replies of the
    /// server that was faster, and whether that was the second.
    pub(super) async fn send_hedged<R: ReplyChannel>(
        self: &Arc<Self>,
        (attempt, epoch): (Attempt<'_>, u64),
        hedge: Hedge,
        replicas: &NodeReplicas,
        deadline: Deadline,
    ) -> (Answers<R>, bool) {
        replicas.count_read();
        let first = self.server(attempt.request.target);
        let mut first = pin!(send(first, (attempt, epoch), deadline));
        if let Ok(answers) = tokio::time::timeout(hedge.after, &mut first).await {
            return (answers, false);
        }
        if !replicas.may_hedge() {
            return (first.await, false);
        }
        let attempt = (attempt.last(), epoch);
        let second = pin!(send(self.server(hedge.target), attempt, deadline));
        match select(first, second).await {
            Either::Left((answers, _)) if answers.failure.is_none() => (answers, false),
            Either::Right((answers, _)) if answers.failure.is_none() => (answers, true),
            // One that has failed leaves it to the other.
            Either::Left((_, second)) => (second.await, true),
            Either::Right((failed, first)) => match first.await {
                answers if answers.failure.is_none() => (answers, false),
                _ => (failed, true),
            },
        }
    }
}

/// Makes an attempt at this server, if it is still one of its node.
async fn send<R: ReplyChannel>(
    server: Option<Arc<NodeConnections>>,
    attempt: (Attempt<'_>, u64),
    deadline: Deadline,
) -> Answers<R> {
    match server {
        Some(server) => server.attempt(attempt, BlockingTime::None, deadline).await,
        None => Answers::failed(Failure::not_sent(Cause::server_left())),
    }
}
