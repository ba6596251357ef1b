//! One round of a client's requests, and its replies written in their order.
//!
//! A round is what the proxy read from a client at once and may send at once. Its commands are spread over
//! the nodes; each node's replies come back in one list of frames. [`RawPipeline`] gathers the round,
//! [`ReplyWriter`] puts the frames in the order of the requests, with the proxy's own replies between them.
//!
//! ```text
//!  round           node A     node B      places     written
//!  GET a           slot 0                 (0, 0)     frame 0 of A
//!  PING                                              local reply, before command 1
//!  GET b                      slot 0      (1, 0)     frame 0 of B
//!  MGET a b        slot 1     slot 1      FAN_OUT    merge of frame 1 of A and frame 1 of B
//! ```
//!
//! The writer works in steps: a caller sends what it has before it takes more, so the replies to one client
//! are not copied into one large buffer.

use crate::command::{Access, Args, Merge, PackedCommands};
use crate::error::Error;
use crate::plan::batch::{
    Batch, FanOut, NodeRequest, PartReply, ReplySlot, ServerOf, WHOLE, missing,
};
use crate::plan::missing::{MissReplies, decode_miss};
use crate::plan::raw::merge::merge_raw;
use crate::plan::raw::replies::RawReply;
use crate::plan::{
    Answers, CacheSnapshot, Cause, Exchange, Failure, Fallback, Plan, RawReplies, ReplyRetention,
    RoutedCommand, Router, Scope, ScriptCache, ScriptRewriter,
};
use crate::resp;
use crate::resp::Protocol;

/// The requests of one round, and the replies that the proxy gives without a node.
pub(crate) struct RawPipeline<'r, 'f> {
    batch: Batch<'r, 'f>,
    /// The script cache, looked at only if the round has scripts.
    snapshot: CacheSnapshot<'r>,
    /// Rewrites the scripts of the round; made for the first of them.
    rewriter: Option<ScriptRewriter<'f>>,
    /// The proxy's own replies, one after another.
    local: Vec<u8>,
    /// For each of the proxy's own replies: the number of commands before it, and where it ends in `local`.
    /// Ascending.
    local_ends: Vec<(u32, usize)>,
    /// Commands whose replies are dropped (CLIENT REPLY OFF, SKIP), ascending.
    suppressed: Vec<u32>,
    /// Total length of the requests added, in bytes.
    bytes: usize,
}

/// Where the reply to a command is: index of the exchange's node request, and number of the frame in it. For
/// [`FAN_OUT`], the second is the number of the fan-out.
type ReplyPlace = (u32, u32);

/// The reply to one part of a fan-out.
struct PartFrame<'a> {
    /// Its frame, or the error in its place; `Err(None)` if nothing is known of it.
    reply: Result<&'a [u8], Option<Error>>,
    /// The frame to use instead of a failure, if the part may be answered as if its keys did not exist.
    miss: Option<Vec<u8>>,
}

impl PartFrame<'_> {
    /// The frame of a part that has one, its own or that of a miss.
    fn frame(&self) -> Option<&[u8]> {
        match (&self.reply, &self.miss) {
            (Ok(frame), _) => Some(frame),
            (Err(_), miss) => miss.as_deref(),
        }
    }

    /// The part, decoded.
    fn decoded(&self) -> PartReply {
        PartReply {
            outcome: match &self.reply {
                Ok(frame) => resp::read(&mut resp::Slice(frame)).map_err(|_| None),
                Err(error) => Err(error.clone()),
            },
            miss: self.miss.as_deref().and_then(decode_miss),
        }
    }
}

/// In a [`ReplyPlace`], marks a command whose reply is merged from parts.
const FAN_OUT: u32 = u32::MAX;

impl<'r, 'f> RawPipeline<'r, 'f> {
    /// Returns a pipeline for this batch, without scripts.
    pub(in crate::plan) fn of(batch: Batch<'r, 'f>) -> Self {
        Self {
            batch,
            snapshot: &ScriptCache::empty,
            rewriter: None,
            local: Vec::new(),
            local_ends: Vec::new(),
            suppressed: Vec::new(),
            bytes: 0,
        }
    }

    /// Returns an empty pipeline for about `bytes` bytes of requests. `entropy` is any number: see
    /// [`Batch::new`].
    pub(crate) fn new(
        router: &'r Router,
        snapshot: CacheSnapshot<'r>,
        bytes: usize,
        entropy: u64,
    ) -> Self {
        Self {
            snapshot,
            ..Self::of(Batch::new(router, bytes, entropy))
        }
    }

    /// Adds a command for the nodes.
    #[inline]
    pub(crate) fn add(&mut self, frame: &'f [u8], args: &[&[u8]], routed: RoutedCommand) {
        self.bytes += frame.len();
        self.batch.add(frame, args, routed);
    }

    /// Adds an EVAL or EVALSHA whose script is remembered, with the source if the node may lack it. Returns
    /// false, and adds nothing, for a script that is not: its reply teaches the cache, which is done outside
    /// of a round.
    pub(crate) fn try_add_script(
        &mut self,
        frame: &'f [u8],
        args: &[&[u8]],
        routed: &RoutedCommand,
    ) -> bool {
        let rewriter = self
            .rewriter
            .get_or_insert_with(|| ScriptRewriter::new((self.snapshot)(), Scope::AllNodes));
        let fits = rewriter.cache().is_known(args);
        if fits {
            self.bytes += frame.len();
            rewriter.push(&mut self.batch, frame, args, routed.clone());
        }
        fits
    }

    /// The router that plans the commands of this round.
    #[inline]
    pub(crate) fn router(&self) -> &'r Router {
        self.batch.router
    }

    /// Returns the script cache by which the commands are routed.
    pub(crate) fn snapshot(&self) -> CacheSnapshot<'r> {
        self.snapshot
    }

    /// Drops the reply to the command added last, which is carried out all the same.
    pub(crate) fn suppress_last(&mut self) {
        if let Some(last) = self.batch.commands.checked_sub(1) {
            self.suppressed.push(last);
        }
    }

    /// Adds one of the proxy's own replies, written by `write`, after the commands so far.
    pub(crate) fn push_local(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.local);
        self.local_ends
            .push((self.batch.commands, self.local.len()));
    }

    /// Number of commands to be sent, and of bytes.
    pub(crate) fn size(&self) -> (u32, usize) {
        (self.batch.commands, self.bytes)
    }

    /// Returns the requests of each node, in node order. All replies are kept.
    pub(crate) fn whole_exchange(&mut self) -> Exchange<RawReplies> {
        let router = self.batch.router;
        self.batch.exchange().for_router(router)
    }

    /// Returns the requests of each node, in node order. Large replies of a node that gets only whole reads
    /// are not kept, since they can be asked for again.
    pub(crate) fn exchange(&mut self) -> Exchange<RawReplies> {
        let mut exchange: Exchange<RawReplies> = self.whole_exchange();
        // The server that is asked again must be the one that has replied.
        if self.router().is_moving() {
            return exchange;
        }
        for request in exchange.requests_mut() {
            let again = |slot: &ReplySlot| slot.part == WHOLE && slot.access == Access::Read;
            // All of them, because the request is one unit: what is dropped is decided by size, when the kind
            // of the command is no longer known.
            if request.slots.iter().all(again) {
                request.retention = ReplyRetention::Small;
            }
        }
        exchange
    }

    /// Returns the writer of the replies to all requests, in their order. `entropy` decides where a merge
    /// leaves a choice.
    pub(crate) fn reply_writer<'t>(
        &'t self,
        exchange: &'t Exchange<RawReplies>,
        protocol: Protocol,
        entropy: u64,
    ) -> ReplyWriter<'t, 'r, 'f> {
        let misses = self.misses(exchange);
        let (places, parts) = self.sort(exchange, &misses);
        ReplyWriter {
            pipeline: self,
            exchange,
            protocol,
            entropy,
            places,
            parts,
            misses,
            next: 0,
            local_next: 0,
            local_written: 0,
            silent: 0,
            found: (usize::MAX, 0, 0),
        }
    }

    /// Returns, for each node request, the replies in the place of those that did not come. Empty if all came.
    fn misses(&self, exchange: &Exchange<RawReplies>) -> Vec<MissReplies> {
        if exchange
            .parts()
            .all(|(_, answers)| answers.failure.is_none())
        {
            return Vec::new();
        }
        let parts = exchange.parts();
        let of = |(request, answers)| MissReplies::of(self.batch.router, request, answers);
        parts.map(of).collect()
    }

    /// Returns the place of each command's reply, and the frames of the parts of those that went to several
    /// nodes.
    fn sort<'a>(
        &self,
        exchange: &'a Exchange<RawReplies>,
        misses: &[MissReplies],
    ) -> (Vec<ReplyPlace>, Vec<Vec<PartFrame<'a>>>) {
        let batch = &self.batch;
        let mut places: Vec<ReplyPlace> = vec![(0, 0); batch.commands as usize];
        let nothing = |fan_out: &FanOut<'_>| {
            let none = |_| PartFrame {
                reply: Err(None),
                miss: None,
            };
            fan_out.part_count(batch.router).map(none).collect()
        };
        let mut parts: Vec<Vec<PartFrame<'a>>> = batch.fan_outs.iter().map(nothing).collect();
        // Before the slots are read: a part finds its fan-out through the place of its command.
        for (number, fan_out) in (0..).zip(&batch.fan_outs) {
            places[fan_out.command as usize] = (FAN_OUT, number);
        }
        for (at, (exchange, answers)) in (0..).zip(exchange.parts()) {
            for (number, slot) in (0..).zip(&exchange.slots) {
                match (slot.part, places[slot.command as usize]) {
                    (WHOLE, _) => places[slot.command as usize] = (at, number),
                    (part, (_, fan_out)) => {
                        let place = &mut parts[fan_out as usize][usize::from(part)];
                        // WAIT has two requests per part: a write as a barrier, then WAIT itself. If the
                        // barrier is refused, its error is the part's reply, whatever WAIT returns.
                        let is_second = exchange.is_second_of_part(number as usize);
                        if !(is_second && matches!(place.reply, Ok([b'-', ..]))) {
                            let miss = misses.get(at as usize);
                            let miss = miss.and_then(|misses| misses.frame(number as usize));
                            *place = PartFrame {
                                reply: self.part(exchange, answers, number as usize),
                                miss: miss.map(<[u8]>::to_vec),
                            };
                        }
                    }
                }
            }
        }
        (places, parts)
    }

    /// Returns the frame of a part, or the error of the connection that failed before it came.
    fn part<'a>(
        &self,
        exchange: &NodeRequest,
        answers: &'a Answers<RawReplies>,
        number: usize,
    ) -> Result<&'a [u8], Option<Error>> {
        answers.values.frame(number).ok_or_else(|| {
            let name = exchange.node_name(self.batch.router);
            let access = exchange.slots[number].access;
            let failure = answers.failure.as_ref();
            failure.map(|failure| failure.error(&name, number, access))
        })
    }
}

/// Writes the replies of one round to its client. A cursor: each call goes on where the last one stopped.
pub(crate) struct ReplyWriter<'t, 'r, 'f> {
    pipeline: &'t RawPipeline<'r, 'f>,
    exchange: &'t Exchange<RawReplies>,
    protocol: Protocol,
    entropy: u64,
    places: Vec<ReplyPlace>,
    parts: Vec<Vec<PartFrame<'t>>>,
    /// By node request; empty if all replies came.
    misses: Vec<MissReplies>,
    /// Number of the command whose reply is written next.
    next: usize,
    /// The first of `local_ends` that is not written yet.
    local_next: usize,
    /// Number of bytes of `local` that are written.
    local_written: usize,
    /// The first of `suppressed` that is not passed yet.
    silent: usize,
    /// The request that [`large`](Self::large) found last: its node request, its number, and where the one
    /// after it begins. `usize::MAX` at first, which no node request has.
    found: (usize, usize, usize),
}

/// A request whose reply was too large to be kept.
#[derive(Debug)]
pub(crate) struct OversizedReply<'t> {
    /// The server to ask again. No other has the reply, unless it has moved since.
    server: ServerOf,
    /// The request, packed as it was given.
    pub(crate) request: &'t [u8],
    /// What may be done when the node is out of reach by now.
    fallback: Fallback,
}

impl OversizedReply<'_> {
    /// The request for that server.
    pub(crate) fn again(&self) -> NodeRequest {
        let mut request = NodeRequest::at_server(self.server.clone());
        let slot = ReplySlot::whole(0, Access::Read).with_fallback(self.fallback);
        request.push(slot, |out| out.extend_from_slice(self.request));
        request
    }

    /// Appends what takes the place of the reply if the node, asked again, does not reply.
    pub(crate) fn write_failure(
        &self,
        router: &Router,
        cause: Cause,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        let failure = Failure::not_sent(cause);
        let mut args = Args::new();
        let parsed = PackedCommands::new(self.request).next(&mut args);
        let node = self.server.node;
        let is_missed =
            parsed.is_ok() && router.miss_reply(self.fallback, node, &args, &failure, out);
        if !is_missed {
            let error = failure.without_answer(&self.again().node_name(router));
            protocol.write(out, &error.to_reply());
        }
    }
}

/// Where the writer stopped.
#[derive(Debug)]
pub(crate) enum WriteProgress<'t> {
    /// All replies are written.
    All,
    /// `out` is full: send it, and call again.
    Enough,
    /// Send `out`, then these bytes, which are the next reply: too large to be copied.
    Next(&'t [u8]),
    /// Send `out`, then ask for this reply again and pass it on.
    Until(OversizedReply<'t>),
}

impl<'t> ReplyWriter<'t, '_, '_> {
    /// Appends replies to `out` until it has `enough` bytes, or the next reply is not to be copied. `out` may
    /// exceed `enough` by one reply, which is either merged or shorter than `enough`.
    pub(crate) fn write_next(&mut self, out: &mut Vec<u8>, enough: usize) -> WriteProgress<'t> {
        while let Some(&(exchange, number)) = self.places.get(self.next) {
            self.write_local_until(self.next as u32, out);
            // Before `next` moves on, so that the next call begins with this command. The returns below come
            // after it, because the caller writes the reply that they hand over.
            if out.len() >= enough {
                return WriteProgress::Enough;
            }
            let command = self.next as u32;
            self.next += 1;
            if self.pipeline.suppressed.get(self.silent) == Some(&command) {
                self.silent += 1;
                continue;
            }
            let number = number as usize;
            match exchange {
                FAN_OUT => self.write_merged(number, out),
                _ => {
                    let exchange = exchange as usize;
                    match self.exchange.part(exchange).1.values.get(number) {
                        Some(RawReply::Oversized) => {
                            return WriteProgress::Until(self.large(exchange, number));
                        }
                        Some(RawReply::Complete(frame)) if frame.len() >= enough => {
                            return WriteProgress::Next(frame);
                        }
                        Some(RawReply::Complete(frame)) => out.extend_from_slice(frame),
                        None => self.write_failure(exchange, number, out),
                    }
                }
            }
        }
        self.write_local_until(u32::MAX, out);
        WriteProgress::All
    }

    /// Appends the proxy's own replies that come before this command.
    fn write_local_until(&mut self, command: u32, out: &mut Vec<u8>) {
        while let Some(&(before, end)) = self.pipeline.local_ends.get(self.local_next)
            && before <= command
        {
            out.extend_from_slice(&self.pipeline.local[self.local_written..end]);
            self.local_written = end;
            self.local_next += 1;
        }
    }

    /// Finds the request of an oversized reply in the packed requests, and remembers its place.
    fn large(&mut self, at: usize, number: usize) -> OversizedReply<'t> {
        let (exchange, _) = self.exchange.part(at);
        // From the request found last: from the beginning each time, many large replies would take quadratic
        // time.
        let (mut next, mut start) = match self.found {
            (found, before, end) if found == at && before < number => (before + 1, end),
            _ => (0, 0),
        };
        let mut args = Args::new();
        let mut request: &[u8] = &[];
        while next <= number {
            let mut commands = PackedCommands::new(&exchange.packed[start..]);
            request = commands.next(&mut args).ok().flatten().unwrap_or_default();
            start += request.len();
            next += 1;
        }
        self.found = (at, number, start);
        OversizedReply {
            server: exchange.server_of(),
            request,
            fallback: exchange.slots[number].fallback,
        }
    }

    /// Appends the error in the place of a reply that never came, or the reply of a server without the keys.
    fn write_failure(&self, exchange: usize, number: usize, out: &mut Vec<u8>) {
        let misses = self.misses.get(exchange);
        if let Some(frame) = misses.and_then(|misses| misses.frame(number)) {
            return out.extend_from_slice(frame);
        }
        let batch = &self.pipeline.batch;
        let (exchange, answers) = self.exchange.part(exchange);
        let name = exchange.node_name(batch.router);
        let access = exchange.slots[number].access;
        let failure = answers.failure.as_ref();
        let error = failure.map(|failure| failure.error(&name, number, access));
        self.protocol.write(out, &missing(error, &name).to_reply());
    }

    /// Appends the merged reply of a fan-out.
    fn write_merged(&self, fan_out: usize, out: &mut Vec<u8>) {
        let batch = &self.pipeline.batch;
        let (fan_out, parts) = (&batch.fan_outs[fan_out], &self.parts[fan_out]);
        let frames: Option<Vec<&[u8]>> = parts.iter().map(PartFrame::frame).collect();
        // A part that failed needs the merge below, which knows which rules tolerate it.
        if let Some(frames) = frames {
            let keys: Vec<&[u32]> = match &fan_out.plan {
                Plan::Split(split) if split.merge == Merge::KeyOrder => {
                    split.parts().map(|part| part.keys).collect()
                }
                _ => Vec::new(),
            };
            if merge_raw(fan_out.merge(), &frames, &keys, out) {
                return;
            }
        }
        let parts = parts.iter().map(PartFrame::decoded).collect();
        match batch.merge(fan_out, parts, self.entropy) {
            Ok(value) => self.protocol.write(out, &value),
            Err(error) => self.protocol.write(out, &error.to_reply()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::NodeSpec;
    use crate::partition::from_fn;
    use crate::plan::{Attempt, ReadsAs, SplitWrites};
    use crate::topology::Topology;

    /// Keys that begin with an `a` live on the first node, all others on the second.
    fn router() -> Router {
        let nodes = ["a:1", "b:1"].map(NodeSpec::unnamed).to_vec();
        let by_letter = from_fn("letters/1", |key, _| usize::from(!key.starts_with(b"a")));
        let topology = Topology::new(nodes, Arc::new(by_letter)).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed)
    }

    /// Stands for a reply that the node sent and that was not kept.
    const OVERSIZED: &str = "(oversized)";

    /// Returns what a client gets that sends `requests`, if the nodes send `replies` and then nothing.
    fn replies_to(
        requests: &[&str],
        replies: [&[&str]; 2],
        add: impl Fn(&mut RawPipeline<'_, '_>),
    ) -> String {
        replies_over(&router(), requests, replies, add)
    }

    /// The replies of the proxy over this router.
    fn replies_over(
        router: &Router,
        requests: &[&str],
        replies: [&[&str]; 2],
        add: impl Fn(&mut RawPipeline<'_, '_>),
    ) -> String {
        let mut packed = Vec::new();
        for request in requests {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            crate::command::write_command(&mut packed, &args);
        }
        let mut pipeline = RawPipeline::new(router, &ScriptCache::empty, packed.len(), 0);
        let mut commands = PackedCommands::new(&packed);
        let mut args = Args::new();
        while let Ok(Some(frame)) = commands.next(&mut args) {
            pipeline.add(frame, &args, router.route_by_keys(&args).unwrap());
            add(&mut pipeline);
        }
        let mut exchange = pipeline.exchange();
        let attempts = exchange.attempts();
        let answers = attempts.map(|Attempt { request, .. }| {
            let mut frames = RawReplies::default();
            let replies = replies[request.node.get()];
            replies.iter().for_each(|reply| match *reply {
                OVERSIZED => frames.push_oversized(),
                reply => frames.push(reply.as_bytes()),
            });
            let cause = Cause::Timeout("no answer".into());
            Answers {
                values: frames,
                failure: (replies.len() < request.slots.len())
                    .then(|| Box::new(Failure { cause, sent: 9 })),
            }
        });
        let answers = answers.collect();
        exchange.handle(answers);
        let mut out = Vec::new();
        let mut telling = pipeline.reply_writer(&exchange, Protocol::Resp2, 0);
        while let WriteProgress::Until(large) = telling.write_next(&mut out, usize::MAX) {
            let node = large.again().node.get();
            let text = format!("<{node}: {}>", large.request.escape_ascii());
            out.extend_from_slice(text.as_bytes());
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn raw_pipeline_keeps_replies_in_request_order_and_unchanged() {
        let requests = ["GET b", "GET a", "MGET b a b2", "GET a2", "DEL a b"];
        let replies: [&[&str]; 2] = [
            &["$1\r\n1\r\n", "*1\r\n$1\r\n1\r\n", "*-1\r\n", ":1\r\n"],
            &["-WRONGTYPE no\r\n", "*2\r\n$1\r\nx\r\n$-1\r\n", ":0\r\n"],
        ];
        assert_eq!(
            replies_to(&requests, replies, |_| ()),
            "-WRONGTYPE no\r\n$1\r\n1\r\n*3\r\n$1\r\nx\r\n$1\r\n1\r\n$-1\r\n*-1\r\n:1\r\n"
        );
    }

    #[test]
    fn raw_pipeline_reads_out_of_reach_are_misses_in_the_protocol_of_the_nodes() {
        let requests = [
            "GET b",
            "SET b x",
            "MGET b a b2",
            "EXISTS a b",
            "HGETALL b",
            "GET a",
        ];
        let replies: [&[&str]; 2] = [&["*1\r\n$1\r\nx\r\n", ":1\r\n", "$1\r\ny\r\n"], &[]];
        let miss = || router().with_missing_nodes(ReadsAs::Miss);
        let resp2 = replies_over(&miss(), &requests, replies, |_| ());
        let (before, after) = resp2.split_once("-UNKNOWN ").expect("SET was sent");
        assert_eq!(before, "$-1\r\n");
        let (_, after) = after.split_once("\r\n").unwrap();
        let expected = "*3\r\n$-1\r\n$1\r\nx\r\n$-1\r\n:1\r\n*0\r\n$1\r\ny\r\n";
        assert_eq!(after, expected);
        let resp3 = miss().with_protocols([Protocol::Resp3; 2]);
        let resp3 = replies_over(&resp3, &["HGETALL b"], [&[], &[]], |_| ());
        assert_eq!(resp3, "%0\r\n");
    }

    #[test]
    fn raw_pipeline_keeps_the_place_of_local_replies_and_drops_suppressed_ones() {
        let replies: [&[&str]; 2] = [&[":1\r\n"], &[":2\r\n"]];
        let replies_to = replies_to(&["INCR a", "INCR b"], replies, |pipeline| {
            if pipeline.size().0 == 1 {
                pipeline.suppress_last();
            }
            pipeline.push_local(|out| out.extend_from_slice(b"+A\r\n"));
            pipeline.push_local(|out| out.extend_from_slice(b"+B\r\n"));
        });
        assert_eq!(replies_to, "+A\r\n+B\r\n:2\r\n+A\r\n+B\r\n");
    }

    #[test]
    fn raw_pipeline_marks_an_oversized_reply_with_its_request() {
        let replies: [&[&str]; 2] = [&["$1\r\n1\r\n", OVERSIZED], &[":2\r\n"]];
        let replies_to = replies_to(&["GET a", "GET a2", "STRLEN b"], replies, |_| ());
        let request = r"*2\r\n$3\r\nGET\r\n$2\r\na2\r\n";
        assert_eq!(replies_to, format!("$1\r\n1\r\n<0: {request}>:2\r\n"));
    }

    #[test]
    fn raw_pipeline_writes_an_error_for_a_node_without_a_reply() {
        let replies: [&[&str]; 2] = [&["$1\r\n1\r\n"], &[]];
        let replies_to = replies_to(&["GET a", "SET b 1", "MGET a b"], replies, |_| ());
        let lines: Vec<&str> = replies_to.split("\r\n").collect();
        assert_eq!(lines[..2], ["$1", "1"]);
        assert!(lines[2].starts_with("-UNKNOWN node b:1"), "{replies_to}");
        assert!(lines[3].starts_with("-TIMEOUT node a:1"), "{replies_to}");
    }
}
