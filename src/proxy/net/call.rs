//! Sends one command that is not part of a round: EVALSHA, FCALL, BLPOP, INFO and others. Drives a
//! [`CommandOperation`] of `plan`, which decides about splitting, resending and NOSCRIPT.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::Shared;
use crate::command::{Args, BlockingTime};
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    CommandOperation, Exchange, Operation, Pause, RawReplies, ReadsAs, Request, ScriptStore,
    SharedByteMeter, Step, parse_one,
};
use crate::proxy::Session;
use crate::proxy::net::client_io::ClientIo;
use crate::resp::Protocol;

/// The protocol of the reply, how long CLIENT PAUSE lets the nodes hold the command back, what its reads may
/// be taken for, and the meter that counts the bytes of replies.
pub(super) type CallContext = (Protocol, BlockingTime, ReadsAs, SharedByteMeter);

/// The client that waits for a reply: its socket is watched during pauses.
pub(super) struct Waiting<'c, S> {
    pub(super) io: &'c mut ClientIo<S>,
    pub(super) session: &'c Session,
}

/// Sends one command to the node of its keys, or to all nodes, and returns the reply or an error as one. Its
/// deadline includes the command's own blocking time and that of the pause.
pub(super) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    packed: &[u8],
    (protocol, pause, reads_as, meter): CallContext,
    client: Option<Waiting<'_, S>>,
) -> io::Result<Vec<u8>> {
    let args: &Args<'_> = &parse_one(packed).unwrap_or_default();
    // Routed again: since the session did, the code of a function library may have become known.
    let routed = shared.router.route(args, &|| shared.snapshot());
    let routed = routed.map(|routed| routed.limited_to(reads_as));
    let request = Request { packed, args };
    let entropy = rand::random();
    let operation =
        CommandOperation::new(&shared.router, shared, request, routed, protocol, entropy);
    let operation = operation.held_back(pause);
    run(shared, operation, protocol, &meter, client).await
}

/// Sends one command to this node, and returns the reply or an error as one.
pub(super) async fn call_at<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    node: NodeIndex,
    packed: &[u8],
    (protocol, pause, _, meter): CallContext,
    client: Option<Waiting<'_, S>>,
) -> io::Result<Vec<u8>> {
    let args: &Args<'_> = &parse_one(packed).unwrap_or_default();
    let request = Request { packed, args };
    let routed = match shared.router.route_at(node, args) {
        Ok(routed) => routed,
        Err(refusal) => return Ok(refused(&refusal, protocol)),
    };
    let operation = CommandOperation::at_node(&shared.router, shared, request, routed, protocol);
    let operation = operation.held_back(pause);
    run(shared, operation, protocol, &meter, client).await
}

/// Sends what the operation asks for until it is done.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut operation: CommandOperation<'_, RawReplies>,
    protocol: Protocol,
    meter: &SharedByteMeter,
    mut client: Option<Waiting<'_, S>>,
) -> io::Result<Vec<u8>> {
    let result = loop {
        match operation.poll(Instant::now()) {
            Step::Send(requests) => match &mut client {
                Some(client) => send_for(shared, requests, meter, client).await?,
                None => send(shared, requests, meter, std::future::pending()).await,
            },
            Step::Done(result) => break result,
        }
    };
    Ok(result.unwrap_or_else(|error| refused(&error, protocol)))
}

/// Encodes an error as a reply.
fn refused(error: &Error, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    protocol.write(&mut out, &error.to_reply());
    out
}

/// Sends requests to the nodes and waits for their replies. `meter` counts the bytes of the replies while
/// they are held. When `stopped` is done during a pause between two attempts, the last results stand.
pub(super) async fn send(
    shared: &Shared,
    requests: &mut Exchange<RawReplies>,
    meter: &SharedByteMeter,
    stopped: impl Future<Output = ()>,
) {
    requests.set_meter(|| Arc::clone(meter));
    let executor = &shared.executor;
    let deadline = executor.begin_all(requests);
    let mut stopped = pin!(stopped);
    let mut newer = None;
    let mut next = executor.exchange_until_pause(requests, deadline).await;
    while let Some(pause) = next {
        let time = pin!(tokio::time::sleep(pause.time));
        if !pause.time.is_zero()
            && let Either::Right(_) = select(time, stopped.as_mut()).await
        {
            requests.stop();
        }
        if pause.reloads {
            newer = executor.reload(newer, requests);
        }
        let executor = newer.as_ref().unwrap_or(executor);
        next = executor.exchange_until_pause(requests, deadline).await;
    }
}

/// Sends requests to the nodes and waits for their replies, as [`send`] does, until the client closes its side.
///
/// # Errors
///
/// When the connection to the client breaks during a pause, or the client exceeds the limit of its requests.
pub(super) async fn send_for<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    requests: &mut Exchange<RawReplies>,
    meter: &SharedByteMeter,
    client: &mut Waiting<'_, S>,
) -> io::Result<()> {
    requests.set_meter(|| Arc::clone(meter));
    let executor = &shared.executor;
    let deadline = executor.begin_all(requests);
    if let Some(pause) = executor.exchange_until_pause(requests, deadline).await {
        // Boxed, as it is rare and would be part of the future of every round.
        Box::pin(send_after(pause, shared, requests, deadline, client)).await?;
    }
    Ok(())
}

/// Goes on with [`send_for`] from this pause on.
async fn send_after<S: AsyncRead + AsyncWrite + Unpin>(
    pause: Pause,
    shared: &Shared,
    requests: &mut Exchange<RawReplies>,
    deadline: Deadline,
    client: &mut Waiting<'_, S>,
) -> io::Result<()> {
    let executor = &shared.executor;
    let mut newer = None;
    let mut next = Some(pause);
    while let Some(pause) = next {
        if !pause.time.is_zero() && client.io.pause(pause.time, client.session).await? {
            requests.stop();
        }
        if pause.reloads {
            newer = executor.reload(newer, requests);
        }
        let executor = newer.as_ref().unwrap_or(executor);
        next = executor.exchange_until_pause(requests, deadline).await;
    }
    Ok(())
}
