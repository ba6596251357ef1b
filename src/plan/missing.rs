//! Reads whose node cannot be reached, answered as if their keys did not exist.
//!
//! [`ReadsAs`] is the user's choice. Which commands can be answered so, and with which reply, is a column of
//! the command table ([`MissReply`](crate::command::MissReply)); which requests may be, is decided when they
//! are routed ([`Fallback`]); and whether one is, in [`Router::miss_reply`] alone, for both clients and the
//! proxy.
//!
//! ```text
//! MGET a1 b1 a2, node b refuses connections
//!   a  MGET a1 a2   *2 $1 x $1 y
//!   b  MGET b1      *1 $-1                  the reply of a server without b1
//!                   *3 $1 x $-1 $1 y
//! ```
//!
//! Never for a write: no reply stands for its effect. Never where the answer takes part in a decision about a
//! write to the same node: in a transaction, under WATCH, over a dedicated connection.

use redis::Value;

use crate::command::{Access, Args, BlockingTime, CommandSpec, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::batch::NodeRequest;
use crate::plan::partial::is_out_of_reach;
use crate::plan::{Answers, Failure, ReplyBuffer, Router};
use crate::resp;

/// The treatment of reads by key when the node of the keys cannot be reached.
///
/// Concerns the commands that the column *missing keys* of `docs/commands.md` has a reply for: GET, MGET,
/// EXISTS, HGETALL, TTL and most other reads. [`PartialReads`](crate::PartialReads) is the same choice for
/// reads over all nodes (KEYS, SCAN, DBSIZE): a cache wants both.
///
/// A node counts as unreachable when there is no connection to it, when its connection broke twice, and when
/// it does not reply in time. A node that replies with an error was reached, and its error is the reply:
/// LOADING too, since such a node has the keys, or will have them in a moment. A refused password is an error as
/// well, because waiting does not help, and so is what says nothing about the node: a pool whose connections are
/// all in use, and a deadline that had passed before the node was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadsAs {
    /// The command fails with [`NodeDown`](crate::ErrorKind::NodeDown),
    /// [`Timeout`](crate::ErrorKind::Timeout) or [`Partial`](crate::ErrorKind::Partial); the error names the
    /// nodes.
    #[default]
    Error,
    /// The reply is that of a server without the keys: nil for GET, nil in the places of these keys for MGET,
    /// the number of the others for EXISTS, an empty map for HGETALL, -2 for TTL. Also when no node at all can
    /// be reached.
    Miss,
}

/// What may be done when a request cannot be sent to its node, or gets no reply from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Nothing: the request fails.
    None,
    /// Any other node may serve it.
    OtherNode,
    /// It is answered as if its keys did not exist.
    Miss,
}

impl From<ReadsAs> for Fallback {
    fn from(reads_as: ReadsAs) -> Self {
        match reads_as {
            ReadsAs::Error => Self::None,
            ReadsAs::Miss => Self::Miss,
        }
    }
}

impl Router {
    /// The treatment of a command that is routed by its keys, if their node cannot be reached.
    ///
    /// A command that blocks waits for a change, so no reply at once is right for it: it fails.
    #[inline]
    pub(in crate::plan) fn reads_as(
        &self,
        command: &CommandSpec,
        blocking: BlockingTime,
    ) -> ReadsAs {
        let can_miss = command.access() == Access::Read
            && blocking == BlockingTime::None
            && command.missing_keys().is_some();
        match can_miss {
            true => self.missing_nodes(),
            false => ReadsAs::Error,
        }
    }

    /// Decides whether a request without a reply is answered as if its keys did not exist: the only place where
    /// that is decided. Appends the reply to `out` and returns true, or returns false when the failure is the
    /// result.
    pub(in crate::plan) fn miss_reply(
        &self,
        fallback: Fallback,
        node: NodeIndex,
        args: &[&[u8]],
        failure: &Failure,
        out: &mut Vec<u8>,
    ) -> bool {
        if fallback != Fallback::Miss
            || !failure.is_of_node()
            || !is_out_of_reach(failure.kind_of_read())
        {
            return false;
        }
        let command = self.lookup(args).ok();
        let reply = command.and_then(CommandSpec::missing_keys);
        reply.is_some_and(|reply| reply.write(args, self.protocol(node), out))
    }
}

/// The replies in the place of those that did not come from one node.
///
/// They take no more memory than the requests: an element of a reply is shorter than the argument that it
/// stands for.
#[derive(Debug, Default)]
pub(in crate::plan) struct MissReplies {
    /// Frames, one after another.
    frames: Vec<u8>,
    /// Number of the request of each frame, and the end of the frame. Ascending.
    ends: Vec<(usize, usize)>,
}

impl MissReplies {
    /// Makes the replies for those of the node's requests that are answered so.
    pub(in crate::plan) fn of<R: ReplyBuffer>(
        router: &Router,
        request: &NodeRequest,
        answers: &Answers<R>,
    ) -> Self {
        let mut misses = Self::default();
        let answered = answers.values.count();
        let unanswered = request.slots.get(answered..).unwrap_or_default();
        let mut fallbacks = unanswered.iter().map(|slot| slot.fallback);
        let Some(failure) = &answers.failure else {
            return misses;
        };
        // Parsed only if it matters: a failed request may be large.
        if !fallbacks.any(|fallback| fallback == Fallback::Miss) {
            return misses;
        }
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        for (number, slot) in request.slots.iter().enumerate() {
            let Ok(Some(_)) = commands.next(&mut args) else {
                debug_assert!(false, "an exchange holds one request per slot");
                break;
            };
            let frames = &mut misses.frames;
            if number >= answered
                && router.miss_reply(slot.fallback, request.node, &args, failure, frames)
            {
                misses.ends.push((number, frames.len()));
            }
        }
        misses
    }

    /// The reply to request number `number`, as a frame. `None` if that request fails.
    pub(in crate::plan) fn frame(&self, number: usize) -> Option<&[u8]> {
        let at = self.ends.binary_search_by_key(&number, |end| end.0).ok()?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        Some(&self.frames[start..self.ends[at].1])
    }

    /// The reply to request number `number`, decoded. `None` if that request fails.
    pub(in crate::plan) fn value(&self, number: usize) -> Option<Value> {
        decode_miss(self.frame(number)?)
    }
}

/// Decodes a whole frame, such as [`Router::miss_reply`] has written.
pub(in crate::plan) fn decode_miss(frame: &[u8]) -> Option<Value> {
    resp::read(&mut resp::Slice(frame)).ok()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, Rendezvous};
    use crate::plan::batch::ReplySlot;
    use crate::plan::{Cause, ScriptCache, SplitWrites};
    use crate::policy::ConnectError;
    use crate::topology::Topology;

    fn router() -> Router {
        let nodes = vec![NodeSpec::new("a", "a:1")];
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed)
            .with_missing_nodes(ReadsAs::Miss)
    }

    #[test]
    fn only_reads_with_a_reply_to_missing_keys_are_read_as_misses() {
        let router = router();
        let reads_as = |request: &str| {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            router.route(&args, &ScriptCache::empty).unwrap().reads_as
        };
        for request in ["GET k", "MGET k l", "TOUCH k", "XREAD STREAMS s 0"] {
            assert_eq!(reads_as(request), ReadsAs::Miss, "{request}");
        }
        for request in [
            "SET k v",
            "GETDEL k",
            "GETEX k",
            "PFCOUNT k",
            "EVAL_RO x 1 k",
            "OBJECT ENCODING k",
            "XREAD BLOCK 9 STREAMS s 0",
            "XINFO STREAM s",
            "DBSIZE",
            "PING",
            "TIME",
        ] {
            assert_eq!(reads_as(request), ReadsAs::Error, "{request}");
        }
        let args: [&[u8]; 2] = [b"GET", b"k"];
        let node = NodeIndex::new(0);
        for routed in [
            router.route_at(node, &args),
            router.route_private(node, &args, None),
            router.route_unchecked_private(node, &args),
        ] {
            assert_eq!(routed.unwrap().reads_as, ReadsAs::Error);
        }
    }

    #[test]
    fn node_out_of_reach_is_a_miss_and_a_refused_password_or_a_full_pool_is_not() {
        let router = router();
        let missed = |fallback, cause, sent| {
            let failure = Failure { cause, sent };
            let args: [&[u8]; 2] = [b"GET", b"k"];
            let mut out = Vec::new();
            router.miss_reply(fallback, NodeIndex::new(0), &args, &failure, &mut out)
        };
        let dropped = || Cause::Dropped("gone".into());
        for sent in [0, 1] {
            assert!(missed(Fallback::Miss, dropped(), sent));
            assert!(missed(Fallback::Miss, Cause::no_reply(), sent));
            let refused = Cause::Connect("refused".into());
            assert!(missed(Fallback::Miss, refused, sent));
        }
        let auth = Cause::Connect(ConnectError::Auth("refused".into()));
        let full = Cause::pool_exhausted("a:1", crate::plan::PoolUse::Shared);
        assert!(!missed(Fallback::Miss, auth, 0));
        assert!(!missed(Fallback::Miss, full, 0));
        assert!(!missed(Fallback::Miss, Cause::no_time_left(), 0));
        assert!(!missed(Fallback::None, dropped(), 0));
        assert!(!missed(Fallback::OtherNode, dropped(), 0));
    }

    #[test]
    fn miss_replies_are_found_by_the_numbers_of_their_requests() {
        let mut request = NodeRequest::new(NodeIndex::new(0));
        let read = ReplySlot::whole(0, Access::Read).with_fallback(Fallback::Miss);
        let write = ReplySlot::whole(0, Access::Write);
        for (packed, slot) in [
            (&b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"[..], read),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", write),
            (b"*2\r\n$4\r\nLLEN\r\n$1\r\nk\r\n", read),
            (b"*2\r\n$7\r\nHGETALL\r\n$1\r\nk\r\n", read),
        ] {
            request.push(slot, |out| out.extend_from_slice(packed));
        }
        let answers = |values: Vec<Value>| Answers {
            values,
            failure: Some(Box::new(Failure::not_sent(Cause::no_reply()))),
        };
        let misses = MissReplies::of(&router(), &request, &answers(vec![Value::Okay]));
        let frames: Vec<_> = (0..5).map(|number| misses.frame(number)).collect();
        let expected = [None, None, Some(&b":0\r\n"[..]), Some(b"*0\r\n"), None];
        assert_eq!(
            frames, expected,
            "the first has its reply, the second is a write"
        );
        let resp3 = router().with_protocols([crate::resp::Protocol::Resp3]);
        let misses = MissReplies::of(&resp3, &request, &answers(Vec::new()));
        assert_eq!(misses.frame(0), Some(&b"_\r\n"[..]));
        assert_eq!(misses.value(3), Some(Value::Map(Vec::new())));
    }
}
