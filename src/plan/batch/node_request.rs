//! What one node gets, and where its answers belong.

use redis::Value;

use crate::command::{Access, Args, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::ExpectedEnd;
#[cfg(feature = "proxy")]
use crate::plan::SharedByteMeter;

/// The most bytes of requests that are on their way to one node; a longer request is written in chunks, each when the one before is answered.
///
/// A server that answers while it is still being written to must find its answers read at some time, and a Redis server
/// keeps unread answers in memory.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// What one node gets.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    pub(crate) node: NodeIndex,
    /// Requests in the wire format, one after another.
    pub(crate) packed: Vec<u8>,
    /// One per request: where its answer belongs.
    pub(crate) slots: Vec<ReplySlot>,
    /// Ends of the chunks before the last: bytes and requests.
    chunk_ends: Vec<(usize, usize)>,
    pub(crate) ending: ExpectedEnd,
    /// Counts the bytes of replies that are passed on unread.
    #[cfg(feature = "proxy")]
    pub(crate) meter: Option<SharedByteMeter>,
    /// How many nodes were asked before this one.
    pub(in crate::plan) tried: usize,
    /// Goes over a connection that one user holds: what it means depends on that connection's state, so it is never sent over
    /// another one.
    pub(in crate::plan) is_pinned: bool,
}

/// Where an answer belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplySlot {
    pub(in crate::plan) command: u32,
    /// The part of a command that went to several nodes, or [`WHOLE`].
    pub(in crate::plan) part: u16,
    pub(crate) access: Access,
    /// Whether any other node may answer as well.
    pub(in crate::plan) anywhere: bool,
}

pub(in crate::plan) const WHOLE: u16 = u16::MAX;

impl ReplySlot {
    pub(crate) fn whole(command: u32, access: Access) -> Self {
        Self {
            command,
            part: WHOLE,
            access,
            anywhere: false,
        }
    }

    /// One part of a command that goes to several nodes.
    pub(in crate::plan) fn part(command: u32, part: u16, access: Access) -> Self {
        Self {
            part,
            ..Self::whole(command, access)
        }
    }

    /// The place of a request that any other node may answer as well.
    pub(crate) fn anywhere(self) -> Self {
        Self {
            anywhere: true,
            ..self
        }
    }
}

/// A stretch of an exchange that is written before its answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'e> {
    pub(crate) bytes: &'e [u8],
    /// How many requests it holds.
    pub(crate) count: usize,
}

impl NodeRequest {
    pub(in crate::plan) fn new(node: NodeIndex) -> Self {
        Self {
            node,
            packed: Vec::new(),
            slots: Vec::new(),
            chunk_ends: Vec::new(),
            ending: ExpectedEnd::Any,
            #[cfg(feature = "proxy")]
            meter: None,
            tried: 0,
            is_pinned: false,
        }
    }

    /// One request.
    pub(in crate::plan) fn single(node: NodeIndex, packed: Vec<u8>, slot: ReplySlot) -> Self {
        Self {
            packed,
            slots: vec![slot],
            ..Self::new(node)
        }
    }

    /// Requests for a connection that one user holds.
    pub(in crate::plan) fn pinned(
        node: NodeIndex,
        packed: Vec<u8>,
        replies: usize,
        ending: ExpectedEnd,
    ) -> Self {
        Self {
            packed,
            slots: vec![ReplySlot::whole(0, Access::Write); replies],
            ending,
            is_pinned: true,
            ..Self::new(node)
        }
    }

    /// Requests that go in one chunk, because they are one.
    pub(crate) fn transaction(node: NodeIndex, request: Vec<u8>, slots: Vec<ReplySlot>) -> Self {
        Self {
            packed: request,
            slots,
            ending: ExpectedEnd::Exec,
            ..Self::new(node)
        }
    }

    /// Whether the connection is as it was, now that these are all the answers.
    pub(crate) fn has_ended_well(&self, answers: &[Value]) -> bool {
        answers
            .last()
            .is_none_or(|last| self.ending.is_met_by(last))
    }

    /// How many chunks it is written in.
    pub(crate) fn chunks(&self) -> usize {
        self.chunk_ends.len() + 1
    }

    /// One chunk, or `None` after the last.
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

    /// An empty one that goes to `node` after this one has failed.
    pub(in crate::plan) fn same_for(&self, node: NodeIndex) -> Self {
        Self {
            ending: self.ending,
            #[cfg(feature = "proxy")]
            meter: self.meter.clone(),
            tried: self.tried + 1,
            ..Self::new(node)
        }
    }

    /// What is left from request number `first` on.
    pub(crate) fn rest(&self, first: usize) -> Self {
        let mut rest = Self::new(self.node);
        rest.ending = self.ending;
        #[cfg(feature = "proxy")]
        rest.meter.clone_from(&self.meter);
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

    #[inline]
    pub(in crate::plan) fn push(&mut self, slot: ReplySlot, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.packed.len();
        write(&mut self.packed);
        let start = self.chunk_ends.last().map_or(0, |&(bytes, _)| bytes);
        if self.packed.len() - start > IN_FLIGHT_BYTES_MAX
            && before > start
            && !self.is_one_with_last(slot)
        {
            self.chunk_ends.push((before, self.slots.len()));
        }
        self.slots.push(slot);
    }

    /// Whether a request for this slot must go in one chunk with the request before it. A chunk may be sent on another
    /// connection than the one before: EXEC would find no MULTI there, and WAIT would not wait for what went ahead of it.
    fn is_one_with_last(&self, slot: ReplySlot) -> bool {
        let is_same_part = |last: &ReplySlot| {
            slot.part != WHOLE && (last.command, last.part) == (slot.command, slot.part)
        };
        self.ending == ExpectedEnd::Exec || self.slots.last().is_some_and(is_same_part)
    }
}
