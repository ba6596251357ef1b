//! Sends one command that is not part of a round: EVALSHA, FCALL, BLPOP, INFO and others. Drives a
//! [`CommandOperation`] of `plan`, which decides about splitting, resending and NOSCRIPT.

use std::sync::Arc;
use std::time::Instant;

use crate::aio::Shared;
use crate::command::{Args, BlockingTime};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    CommandOperation, Exchange, Operation, RawReplies, ReadsAs, Request, ScriptStore,
    SharedByteMeter, Step, parse_one,
};
use crate::resp::Protocol;

/// The protocol of the reply, how long CLIENT PAUSE lets the nodes hold the command back, what its reads may
/// be taken for, and the meter that counts the bytes of replies.
pub(super) type CallContext = (Protocol, BlockingTime, ReadsAs, SharedByteMeter);

/// Sends one command to the node of its keys, or to all nodes, and returns the reply or an error as one. Its
/// deadline includes the command's own blocking time and that of the pause.
pub(super) async fn call(
    shared: &Shared,
    packed: &[u8],
    (protocol, pause, reads_as, meter): CallContext,
) -> Vec<u8> {
    let args: &Args<'_> = &parse_one(packed).unwrap_or_default();
    // Routed again: since the session did, the code of a function library may have become known.
    let routed = shared.router.route(args, &|| shared.snapshot());
    let routed = routed.map(|routed| routed.limited_to(reads_as));
    let request = Request { packed, args };
    let entropy = rand::random();
    let operation =
        CommandOperation::new(&shared.router, shared, request, routed, protocol, entropy);
    run(shared, operation.held_back(pause), protocol, &meter).await
}

/// Sends one command to this node, and returns the reply or an error as one.
pub(super) async fn call_at(
    shared: &Shared,
    node: NodeIndex,
    packed: &[u8],
    (protocol, pause, _, meter): CallContext,
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

/// Sends what the operation asks for until it is done.
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

/// Encodes an error as a reply.
fn refused(error: &Error, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    protocol.write(&mut out, &error.to_reply());
    out
}

/// Sends requests to the nodes and waits for their replies. `meter` counts the bytes of the replies while
/// they are held.
pub(super) async fn send(
    shared: &Shared,
    requests: &mut Exchange<RawReplies>,
    meter: &SharedByteMeter,
) {
    requests.set_meter(|| Arc::clone(meter));
    shared.executor.exchange(requests).await;
}
