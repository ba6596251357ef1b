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

use redis::Value;

use crate::command::{Access, Args, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::{ExpectedEnd, Fallback};
#[cfg(feature = "proxy")]
use crate::plan::{ReplyRetention, SharedByteMeter};
use crate::policy::Target;

/// Maximum number of bytes written to one node before its replies are read. Longer requests are written in
/// chunks of this size; a single request may exceed it.
///
/// A server replies while it is still being written to. An executor that only writes would fill both socket
/// buffers and then block forever, or make a Redis server keep all replies in its memory.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// The requests for one node, and the destinations of their replies.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    /// The node that receives them.
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
    /// True for requests over a dedicated connection. Their meaning depends on the state of that connection,
    /// so they are never sent over another one.
    pub(in crate::plan) is_pinned: bool,
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
            is_pinned: false,
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

    /// A copy of the requests from number `first` on, divided into chunks of its own.
    pub(crate) fn rest(&self, first: usize) -> Self {
        // Parsed again, because the ends of single requests are not kept: a resend is rare, and requests are
        // many. `tried` and `is_pinned` are not copied: the rest goes to the node of this request, and pinned
        // ones are never resent.
        let mut rest = Self::new(self.node);
        rest.target = self.target;
        rest.ending = self.ending;
        #[cfg(feature = "proxy")]
        rest.meter.clone_from(&self.meter);
        #[cfg(feature = "proxy")]
        {
            rest.retention = self.retention;
        }
        let mut commands = PackedCommands::new(&self.packed);
        let mut args = Args::new();
        for (number, &slot) in self.slots.iter().enumerate() {
            let Ok(Some(frame)) = commands.next(&mut args) else {
                debug_assert!(false, "an exchange holds one request per slot");
                break;
            };
            if number >= first {
                rest.push(slot, |out| out.extend_from_slice(frame));
            }
        }
        rest
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
            || self.slots.last().is_some_and(|last| slot.shares_part(last))
    }
}
