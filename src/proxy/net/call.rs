//! One command by itself: EVALSHA, FCALL and others that are no part of a round of requests.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::Shared;
use crate::command::{Args, BlockingTime};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{RawPipeline, Recovery, RoutedCommand, SharedByteMeter, loads_at, parse_one};
use crate::proxy::net::connection::{ClientConnection, exchange};
use crate::resp::Protocol;

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'_, S> {
    /// A command about scripts. What the node lacks and the proxy remembers is brought to it.
    pub(super) async fn script(&mut self, packed: &[u8]) -> Vec<u8> {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.proxy.shared(protocol));
        let args: Args<'_> = parse_one(packed).unwrap_or_default();
        let blocking = self.proxy.registry.pause_time();
        let call = (protocol, blocking, self.meter());
        let (node, mut reply) = call_routed(&shared, packed, call.clone()).await;
        let remedy = shared.snapshot().raw_recovery(&args, &reply);
        if let (Some(node), Some(remedy)) = (node, remedy) {
            reply = match remedy {
                Recovery::Resend(request) => call_at(&shared, node, &request, call).await,
                Recovery::LoadThenResend(loads) => {
                    let mut loads = loads_at(&shared.router, node, &loads);
                    exchange(&shared, &mut loads, blocking, self.meter()).await;
                    call_at(&shared, node, packed, call).await
                }
            };
        }
        let changed = match shared.record_raw_script_reply(&args, &reply, protocol) {
            Cow::Borrowed(_) => None,
            Cow::Owned(changed) => Some(changed),
        };
        changed.unwrap_or(reply)
    }
}

/// How one command is carried out by itself: the protocol of its reply, how long the nodes may hold it back, and who counts
/// the bytes of the reply.
pub(super) type Call = (Protocol, BlockingTime, SharedByteMeter);

/// One command by itself, the node that answered last, and the reply to it. The nodes may hold it back as long as it wishes
/// itself, too.
pub(super) async fn call_routed(
    shared: &Shared,
    packed: &[u8],
    call: Call,
) -> (Option<NodeIndex>, Vec<u8>) {
    let snapshot = || shared.snapshot();
    let args: Args<'_> = parse_one(packed).unwrap_or_default();
    let routed = match shared.router.route(&args, &snapshot) {
        Err(refusal) => shared.planned_again(&args, refusal).await,
        routed => routed,
    };
    call_prepared(shared, packed, &args, routed, call).await
}

/// One command by itself at this node, and the reply to it.
pub(super) async fn call_at(
    shared: &Shared,
    node: NodeIndex,
    packed: &[u8],
    call: Call,
) -> Vec<u8> {
    let args: Args<'_> = parse_one(packed).unwrap_or_default();
    let routed = shared.router.route_at(node, &args);
    let (_, reply) = call_prepared(shared, packed, &args, routed, call).await;
    reply
}

async fn call_prepared(
    shared: &Shared,
    packed: &[u8],
    args: &[&[u8]],
    routed: Result<RoutedCommand, Error>,
    (protocol, pause, meter): Call,
) -> (Option<NodeIndex>, Vec<u8>) {
    let mut out = Vec::new();
    let routed = match routed {
        Ok(routed) => routed,
        Err(error) => {
            protocol.write(&mut out, &error.to_reply());
            return (None, out);
        }
    };
    let snapshot = || shared.snapshot();
    let entropy = rand::random();
    let mut batch = RawPipeline::new(&shared.router, &snapshot, packed.len(), entropy);
    let blocking = pause.then(routed.blocking);
    batch.add(packed, args, routed);
    let mut exchanges = batch.take_whole_exchanges();
    let answers = exchange(shared, &mut exchanges, blocking, meter).await;
    batch
        .reply_writer(&exchanges, &answers, protocol, entropy)
        .write_next(&mut out, usize::MAX);
    (exchanges.last().map(|last| last.node), out)
}
