//! The requests for one node as bytes, and the destination of each reply.
//!
//! A long request is written in chunks, the next one when the replies to the one before are read:
//!
//! ```text
//! packed      ├──────── 1 MiB ────────┼──────── 1 MiB ────────┼── rest ──┤
//! chunk_ends                     (bytes, slots)          (bytes, slots)
//! slots       0, 1, 2, ...            │ 517, 518, ...         │ 1034, ...
//! ```
//!
//! A chunk never ends within a transaction or between two requests that share a slot.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use crate::command::{Access, Args, CommandTable, PackedCommands};
use crate::partition::{NodeId, NodeIndex};
use crate::plan::redirects::Redirected;
use crate::plan::{Answers, ExpectedEnd, Fallback, ReplyBuffer, Router};
#[cfg(feature = "proxy")]
use crate::plan::{ReplyRetention, SharedByteMeter};
use crate::policy::Target;
use crate::topology::HostPort;

/// Maximum number of bytes written to one node before its replies are read. Longer requests are written in
/// chunks of this size; a single request may exceed it.
///
/// A server replies while it is still being written to. An executor that only writes would fill both socket
/// buffers and then block forever, or make a Redis server keep all replies in its memory.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// Has a server of a cluster serve the next command although it does not own the slot yet.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// The requests for one node, and the destinations of their replies.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    /// The node of their plan. It receives them, unless they have [moved](Self::moved).
    pub(crate) node: NodeIndex,
    /// The server of the node that receives them.
    pub(crate) target: Target,
    /// True if a replica may serve all of them.
    pub(in crate::plan) may_use_replica: bool,
    /// True if NOSCRIPT from a replica is repaired there, by the operation: the next server is not asked then.
    pub(in crate::plan) repairs_noscript: bool,
    /// The requests in the wire format, one after another.
    pub(crate) packed: Vec<u8>,
    /// The destination of each reply: one per request, in the same order.
    pub(crate) slots: Vec<ReplySlot>,
    /// Ends of all chunks but the last, as numbers of bytes and of requests from the beginning. Empty for
    /// most requests.
    chunk_ends: Vec<(usize, usize)>,
    /// The last reply that shows that the connection may be reused.
    pub(crate) ending: ExpectedEnd,
    /// Counts the bytes of replies that are forwarded undecoded.
    #[cfg(feature = "proxy")]
    pub(crate) meter: Option<SharedByteMeter>,
    /// Which replies are kept.
    #[cfg(feature = "proxy")]
    pub(crate) retention: ReplyRetention,
    /// Number of nodes that were tried before this one; see `other_node`.
    pub(in crate::plan) tried: usize,
    /// The way that the requests have taken through a cluster, if they were redirected. Boxed, as it is rare.
    pub(in crate::plan) redirected: Option<Box<Redirected>>,
    /// Where they go by a newer topology than that of their plan; see [`moving`](crate::plan::moving).
    pub(in crate::plan) moved: Option<Arc<MovedTo>>,
    /// True for requests over a dedicated connection. Their meaning depends on the state of that connection,
    /// so they are never sent over another one.
    pub(in crate::plan) is_pinned: bool,
}

/// A node of a newer topology than that by which a request was planned.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plan) struct MovedTo {
    /// Its index in the newer topology.
    pub(in crate::plan) node: NodeIndex,
    /// Its identity.
    pub(in crate::plan) id: NodeId,
    /// Its name.
    pub(in crate::plan) name: String,
}

/// A server that requests were sent to.
#[derive(Clone, Debug)]
pub(crate) struct ServerOf {
    pub(in crate::plan) node: NodeIndex,
    redirected: Option<Box<Redirected>>,
    moved: Option<Arc<MovedTo>>,
}

/// The destination of one reply, and the properties of its request that matter when the reply is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplySlot {
    /// Number of the command within its batch.
    pub(in crate::plan) command: u32,
    /// Number of the part of a fan-out, or [`WHOLE`].
    pub(in crate::plan) part: u16,
    /// Read or write: a read may be resent when its reply is missing.
    pub(crate) access: Access,
    /// What may be done when there is no reply from the node.
    pub(in crate::plan) fallback: Fallback,
}

/// The part number of a command that goes to one node only. No fan-out has as many parts.
pub(in crate::plan) const WHOLE: u16 = u16::MAX;

impl ReplySlot {
    /// The slot of a command that goes to a single node.
    pub(crate) fn whole(command: u32, access: Access) -> Self {
        Self {
            command,
            part: WHOLE,
            access,
            fallback: Fallback::None,
        }
    }

    /// The slot of one part of a fan-out.
    pub(in crate::plan) fn part(command: u32, part: u16, access: Access) -> Self {
        Self {
            part,
            ..Self::whole(command, access)
        }
    }

    /// True if both are requests for one part of a fan-out, of which the second needs the first: see
    /// `WAIT_BARRIER`.
    pub(in crate::plan) fn shares_part(&self, other: &Self) -> bool {
        self.part != WHOLE && (self.command, self.part) == (other.command, other.part)
    }

    /// Marks the request as one that any node may serve.
    pub(crate) fn anywhere(self) -> Self {
        self.with_fallback(Fallback::OtherNode)
    }

    /// Sets what may be done when there is no reply from the node.
    pub(crate) fn with_fallback(self, fallback: Fallback) -> Self {
        Self { fallback, ..self }
    }
}

/// A part of a request that is written at once, before its replies are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'e> {
    /// Whole requests in the wire format.
    pub(crate) bytes: &'e [u8],
    /// Number of requests, which is the number of replies to read.
    pub(crate) count: usize,
}

impl ServerOf {
    /// A node.
    #[cfg(feature = "proxy")]
    pub(crate) fn node(node: NodeIndex) -> Self {
        Self {
            node,
            redirected: None,
            moved: None,
        }
    }
}

impl NodeRequest {
    /// No request for `node` yet.
    pub(in crate::plan) fn new(node: NodeIndex) -> Self {
        Self {
            node,
            target: Target::Primary,
            may_use_replica: false,
            repairs_noscript: false,
            packed: Vec::new(),
            slots: Vec::new(),
            chunk_ends: Vec::new(),
            ending: ExpectedEnd::Any,
            #[cfg(feature = "proxy")]
            meter: None,
            #[cfg(feature = "proxy")]
            retention: ReplyRetention::All,
            tried: 0,
            redirected: None,
            moved: None,
            is_pinned: false,
        }
    }

    /// No request for this server yet.
    pub(in crate::plan) fn at_server(server: ServerOf) -> Self {
        Self {
            redirected: server.redirected,
            moved: server.moved,
            ..Self::new(server.node)
        }
    }

    /// The server that the requests were sent to.
    pub(crate) fn into_server(self) -> ServerOf {
        ServerOf {
            node: self.node,
            redirected: self.redirected,
            moved: self.moved,
        }
    }

    /// The server that the requests are sent to.
    #[cfg(feature = "proxy")]
    pub(crate) fn server_of(&self) -> ServerOf {
        ServerOf {
            node: self.node,
            redirected: self.redirected.clone(),
            moved: self.moved.clone(),
        }
    }

    /// A single packed request.
    pub(in crate::plan) fn single(node: NodeIndex, packed: Vec<u8>, slot: ReplySlot) -> Self {
        Self {
            packed,
            slots: vec![slot],
            ..Self::new(node)
        }
    }

    /// Packed requests with `replies` replies for a dedicated connection, in one chunk. All count as writes.
    pub(in crate::plan) fn pinned(
        node: NodeIndex,
        packed: Vec<u8>,
        replies: usize,
        ending: ExpectedEnd,
    ) -> Self {
        Self {
            packed,
            // The operation reads all replies itself, so the numbers of the slots do not matter.
            slots: vec![ReplySlot::whole(0, Access::Write); replies],
            ending,
            is_pinned: true,
            ..Self::new(node)
        }
    }

    /// MULTI ... EXEC, packed, in one chunk.
    pub(crate) fn transaction(node: NodeIndex, request: Vec<u8>, slots: Vec<ReplySlot>) -> Self {
        Self {
            packed: request,
            slots,
            ending: ExpectedEnd::Exec,
            ..Self::new(node)
        }
    }

    /// True if the connection may be reused after these replies, which must be complete.
    pub(crate) fn has_ended_well(&self, answers: &[Value]) -> bool {
        answers
            .last()
            // No reply at all is only complete for SUBSCRIBE over RESP3, whose connection is not reused
            // anyway.
            .is_none_or(|last| self.ending.is_met_by(last))
    }

    /// True if request number `number` and the one before it are for one part of a fan-out.
    pub(in crate::plan) fn is_second_of_part(&self, number: usize) -> bool {
        let before = number
            .checked_sub(1)
            .and_then(|before| self.slots.get(before));
        before
            .zip(self.slots.get(number))
            .is_some_and(|(first, second)| second.shares_part(first))
    }

    /// Number of chunks, at least 1.
    pub(crate) fn chunks(&self) -> usize {
        self.chunk_ends.len() + 1
    }

    /// Chunk number `number`, from 0; `None` after the last.
    pub(crate) fn chunk(&self, number: usize) -> Option<Chunk<'_>> {
        let (first_byte, first) = match number.checked_sub(1) {
            None => (0, 0),
            Some(before) => *self.chunk_ends.get(before)?,
        };
        let (last_byte, last) = match self.chunk_ends.get(number) {
            Some(&end) => end,
            None => (self.packed.len(), self.slots.len()),
        };
        Some(Chunk {
            bytes: &self.packed[first_byte..last_byte],
            count: last - first,
        })
    }

    /// No request yet, for `node`, which is tried after the node of this one.
    pub(in crate::plan) fn same_for(&self, node: NodeIndex) -> Self {
        Self {
            ending: self.ending,
            #[cfg(feature = "proxy")]
            meter: self.meter.clone(),
            #[cfg(feature = "proxy")]
            retention: self.retention,
            tried: self.tried + 1,
            ..Self::new(node)
        }
    }

    /// A copy of the requests from number `first` on, divided into chunks of its own, as they are sent: see
    /// [`for_sending`](Self::for_sending).
    pub(crate) fn rest(&self, first: usize) -> Self {
        let mut rest = self.without_requests();
        rest.target = self.target;
        rest.redirected.clone_from(&self.redirected);
        rest.moved.clone_from(&self.moved);
        self.for_each(|number, slot, frame| {
            if number < first {
                return;
            }
            if rest.asks_before(number) {
                rest.push(slot, |out| out.extend_from_slice(ASKING));
            }
            rest.push(slot, |out| out.extend_from_slice(frame));
        });
        rest
    }

    /// A copy of the requests with these numbers, which ascend.
    pub(in crate::plan) fn part(&self, numbers: &[usize]) -> Self {
        let mut part = self.without_requests();
        let mut numbers = numbers.iter().peekable();
        self.for_each(|number, slot, frame| {
            if numbers.next_if_eq(&&number).is_some() {
                part.push(slot, |out| out.extend_from_slice(frame));
            }
        });
        part
    }

    /// Has the requests that may block for longer than `left` block for that time only.
    pub(in crate::plan) fn limit_blocking(&mut self, commands: &CommandTable, left: Duration) {
        let mut limited = self.without_requests();
        limited.redirected.clone_from(&self.redirected);
        let mut is_changed = false;
        self.for_each(|_, slot, frame| {
            let (mut command, mut args) = (PackedCommands::new(frame), Args::new());
            let spec = command.next(&mut args).ok().flatten();
            let spec = spec.and_then(|_| commands.find(&args));
            limited.push(slot, |out| {
                let is_limited =
                    spec.is_some_and(|spec| spec.write_blocking_at_most(&args, left, out));
                match is_limited {
                    true => is_changed = true,
                    false => out.extend_from_slice(frame),
                }
            });
        });
        if is_changed {
            self.packed = limited.packed;
            self.chunk_ends = limited.chunk_ends;
        }
    }

    /// Replaces the requests by what `write` appends for the arguments and the bytes of each.
    pub(in crate::plan) fn rewrite(
        &mut self,
        mut write: impl FnMut(&[&[u8]], &[u8], &mut Vec<u8>),
    ) {
        let mut rewritten = self.without_requests();
        if self.chunk_ends.is_empty() {
            // Not by slot: some requests of dedicated connections have fewer replies than commands.
            let (mut commands, mut args) = (PackedCommands::new(&self.packed), Args::new());
            while let Ok(Some(frame)) = commands.next(&mut args) {
                write(&args, frame, &mut rewritten.packed);
            }
        } else {
            self.for_each(|_, slot, frame| {
                let mut args = Args::new();
                if let Ok(Some(_)) = PackedCommands::new(frame).next(&mut args) {
                    rewritten.push(slot, |out| write(&args, frame, out));
                }
            });
        }
        self.packed = rewritten.packed;
        self.chunk_ends = rewritten.chunk_ends;
    }

    /// The requests as they are sent, if they are not sent as they are: behind ASKING.
    pub(crate) fn for_sending(&self) -> Option<Self> {
        self.is_asking().then(|| self.rest(0))
    }

    /// True if the server is asked for slots that it does not own yet.
    pub(crate) fn is_asking(&self) -> bool {
        self.redirected.as_ref().is_some_and(|way| way.is_asking)
    }

    /// True if ASKING goes before request number `number`: it covers one command, or a whole transaction.
    pub(in crate::plan) fn asks_before(&self, number: usize) -> bool {
        self.is_asking() && (self.ending != ExpectedEnd::Exec || number == 0)
    }

    /// Drops the replies to ASKING, which was sent before each request, or before the only transaction.
    pub(crate) fn drop_asking<R: ReplyBuffer>(&self, answers: &mut Answers<R>) {
        if !self.is_asking() {
            return;
        }
        let is_transaction = self.ending == ExpectedEnd::Exec;
        answers.values.retain(|number| match is_transaction {
            true => number > 0,
            false => number % 2 == 1,
        });
        if let Some(failure) = &mut answers.failure {
            // One that was sent behind ASKING may have been sent.
            failure.sent = match is_transaction {
                true => failure.sent.saturating_sub(1),
                false => failure.sent.div_ceil(2),
            };
        }
    }

    /// The node that receives the requests, by the topology of the executor that sends them.
    #[inline]
    pub(crate) fn receiver(&self) -> NodeIndex {
        self.moved.as_ref().map_or(self.node, |moved| moved.node)
    }

    /// True if their node is one of a newer topology than that of their plan.
    #[cfg(feature = "proxy")]
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.is_some()
    }

    /// The server that receives the requests, if it is no node of the topology.
    pub(crate) fn server(&self) -> Option<&HostPort> {
        self.redirected.as_ref()?.server.as_ref()
    }

    /// The name of the node that receives them.
    pub(crate) fn node_name<'n>(&self, router: &'n Router) -> Cow<'n, str> {
        match (self.server(), &self.moved) {
            (Some(server), _) => Cow::Owned(server.to_string()),
            (None, Some(moved)) => Cow::Owned(moved.name.clone()),
            (None, None) => Cow::Borrowed(router.name(self.node)),
        }
    }

    /// No request yet, with the properties of this one that do not depend on the server. `tried` and `is_pinned` are
    /// not copied: pinned requests are never sent again.
    fn without_requests(&self) -> Self {
        Self {
            ending: self.ending,
            #[cfg(feature = "proxy")]
            meter: self.meter.clone(),
            #[cfg(feature = "proxy")]
            retention: self.retention,
            ..Self::new(self.node)
        }
    }

    /// Calls `each` with the number, the slot and the bytes of each request.
    pub(in crate::plan) fn for_each(&self, mut each: impl FnMut(usize, ReplySlot, &[u8])) {
        // Parsed again, because the ends of single requests are not kept: a resend is rare, and requests are many.
        let mut commands = PackedCommands::new(&self.packed);
        let mut args = Args::new();
        for (number, &slot) in self.slots.iter().enumerate() {
            let Ok(Some(frame)) = commands.next(&mut args) else {
                debug_assert!(false, "an exchange holds one request per slot");
                break;
            };
            each(number, slot, frame);
        }
    }

    /// Appends one request, which `write` packs, and begins a new chunk with it if it does not fit into the
    /// last one.
    #[inline]
    pub(in crate::plan) fn push(&mut self, slot: ReplySlot, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.packed.len();
        write(&mut self.packed);
        let start = self.chunk_ends.last().map_or(0, |&(bytes, _)| bytes);
        // `before > start`: a request that is larger than a chunk by itself must not leave an empty chunk
        // before it.
        if self.packed.len() - start > IN_FLIGHT_BYTES_MAX
            && before > start
            && !self.is_one_with_last(slot)
        {
            self.chunk_ends.push((before, self.slots.len()));
        }
        self.slots.push(slot);
    }

    /// True if the next request, with this slot, must be in one chunk with the request before it.
    ///
    /// A resend may put the rest of the chunks on another connection: EXEC would find no MULTI there, and
    /// WAIT would not wait for the barrier sent before it.
    fn is_one_with_last(&self, slot: ReplySlot) -> bool {
        // `ending` is set before the first push, and all requests of a transaction stay in one chunk.
        self.ending == ExpectedEnd::Exec
            // ASKING covers the command behind it on the same connection.
            || self.is_asking() && self.slots.len() % 2 == 1
            || self.slots.last().is_some_and(|last| slot.shares_part(last))
    }
}
