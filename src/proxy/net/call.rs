//! One command by itself: EVALSHA, FCALL, BLPOP and others that are no part of a round of requests.

use std::sync::Arc;
use std::time::Instant;

use crate::aio::Shared;
use crate::command::{Args, BlockingTime};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    CommandOperation, Exchange, Operation, RawReplies, Request, ScriptStore, SharedByteMeter, Step,
    parse_one,
};
use crate::resp::Protocol;

/// How one command is carried out by itself: the protocol of its reply, how long CLIENT PAUSE lets the nodes hold it back,
/// and who counts the bytes of the reply.
pub(super) type CallContext = (Protocol, BlockingTime, SharedByteMeter);

/// One command by itself, and the reply to it. The nodes may hold it back as long as it wishes itself, too.
pub(super) async fn call(
    shared: &Shared,
    packed: &[u8],
    (protocol, pause, meter): CallContext,
) -> Vec<u8> {
    let args: &Args<'_> = &parse_one(packed).unwrap_or_default();
    let routed = shared.router.route(args, &|| shared.snapshot());
    let request = Request { packed, args };
    let entropy = rand::random();
    let operation =
        CommandOperation::new(&shared.router, shared, request, routed, protocol, entropy);
    run(shared, operation.held_back(pause), protocol, &meter).await
}

/// One command by itself at this node, and the reply to it.
pub(super) async fn call_at(
    shared: &Shared,
    node: NodeIndex,
    packed: &[u8],
    (protocol, pause, meter): CallContext,
) -> Vec<u8> {
    let args: &Args<'_> = &parse_one(packed).unwrap_or_default();
    let request = Request { packed, args };
    let routed = match shared.router.route_at(node, args) {
        Ok(routed) => routed,
        Err(refusal) => return refused(&refusal, protocol),
    };
    let operation = CommandOperation::at_node(&shared.router, shared, request, routed, protocol);
    run(shared, operation.held_back(pause), protocol, &meter).await
}

async fn run(
    shared: &Shared,
    mut operation: CommandOperation<'_, RawReplies>,
    protocol: Protocol,
    meter: &SharedByteMeter,
) -> Vec<u8> {
    let result = loop {
        match operation.poll(Instant::now()) {
            Step::Send(requests) => send(shared, requests, meter).await,
            Step::Done(result) => break result,
        }
    };
    result.unwrap_or_else(|error| refused(&error, protocol))
}

fn refused(error: &Error, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    protocol.write(&mut out, &error.to_reply());
    out
}

/// Sends requests to the nodes. `meter` counts the bytes of the replies.
pub(super) async fn send(
    shared: &Shared,
    requests: &mut Exchange<RawReplies>,
    meter: &SharedByteMeter,
) {
    requests.set_meter(|| Arc::clone(meter));
    shared.executor.exchange(requests).await;
}
