//! Many commands as one request per node, and the replies back in the order of the commands.
//!
//! * [`Batch`]: commands are added one after another with their plans, and written into the request of each
//!   node they go to.
//! * `node_request`: [`NodeRequest`], the bytes for one node in chunks, and [`ReplySlot`], the destination of
//!   each reply.
//! * `fan_out`: [`FanOut`], a command with more than one part, or one whose reply is rewritten (SCAN), and how its parts
//!   are merged.
//!
//! GET, MGET and PING in one pipeline over two nodes:
//!
//! ```text
//! command 0  GET a1          a: GET a1  · MGET a2 · PING      slots  0 whole, 1 part 0, 2 part 0
//! command 1  MGET a2 b1      b: MGET b1 · PING                slots  1 part 1, 2 part 1
//! command 2  PING
//!
//! replies: whole ones go to their place; parts are collected per fan-out, then merged
//! ```
//!
//! In a Redis Cluster a node may have many parts of one command, one for each slot. All are written into its one request.
//!
//! A command that failed is an error in its place; the other commands keep their replies. Nothing here
//! sends anything or decides about a resend: see `exchange`.

#[cfg(test)]
mod by_slot;
mod fan_out;
mod node_request;

use redis::Value;

use crate::command::{BlockingTime, Partial};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::missing::MissReplies;
use crate::plan::replies::{PipelineReplies, ReplyCollector};
use crate::plan::routed::{RoutedCommand, WaitScope};
use crate::plan::{Exchange, Plan, ReplyBuffer, Router};

pub(crate) use node_request::{NodeRequest, ReplySlot};

pub(in crate::plan) use fan_out::{FanOut, PartReply, missing};
pub(in crate::plan) use node_request::MovedTo;
pub(crate) use node_request::ServerOf;
pub(in crate::plan) use node_request::WHOLE;

/// Minimum capacity, in bytes, of the buffer for one node's request, unless the whole batch is smaller.
const SHARE_BYTES_MIN: usize = 128;

/// PUBLISH to a channel without subscribers, sent before WAIT and WAITAOF.
///
/// A server waits for the writes of the connection that sends WAIT, and a connection from a pool may have
/// written nothing: its WAIT would return at once. PUBLISH is replicated like a write and touches no key, so
/// it moves the replication offset of this connection behind every write acknowledged before, over any
/// connection.
///
/// In a cluster PUBLISH is not replicated: the nodes pass it on to each other by other means, and it does not move the
/// offset. See [`CLUSTER_WAIT_BARRIER`].
const WAIT_BARRIER: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$19\r\nredis-sharding:wait\r\n$0\r\n\r\n";

/// FUNCTION RESTORE of no libraries, sent before WAIT and WAITAOF in a cluster: it is replicated, has no key that could be
/// redirected, and changes nothing.
///
/// The payload is what FUNCTION DUMP of a server of version 7.0 without libraries returns: the version of the format (10)
/// and a checksum. Newer servers read it too.
const CLUSTER_WAIT_BARRIER: &[u8] =
    b"*3\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n$10\r\n\x0a\x00]\x9b\\@\x0f\x7f\xa2\xda\r\n";

/// Commands grouped by node, until their replies are merged.
///
/// Used in this order: [`add`](Self::add) and its variants for each command; [`exchange`](Self::exchange)
/// once; then, when the exchange is over, [`finish`](Self::finish) or [`finish_one`](Self::finish_one).
/// Commands are numbered from 0 as they are added.
#[derive(Debug)]
pub(crate) struct Batch<'r, 'f> {
    pub(in crate::plan) router: &'r Router,
    /// Initial capacity of a node's buffer: an even share and a quarter more, so that most buffers never
    /// grow.
    bytes_per_node: usize,
    /// The node for all commands that any node may serve. One for the whole batch, so that they share a
    /// request.
    any: NodeIndex,
    /// By node; `None` for nodes without a request.
    requests: Vec<Option<NodeRequest>>,
    /// Commands whose replies are merged, in ascending order of their numbers.
    pub(in crate::plan) fan_outs: Vec<FanOut<'f>>,
    /// SCANs over the slots of a cluster, which take more than an exchange: their numbers, the commands, and whether slots
    /// may be left out.
    scans: Vec<(u32, &'f [u8], Partial)>,
    /// Number of commands added so far, which is the number of the next one.
    pub(in crate::plan) commands: u32,
    /// How long the servers may hold replies back, over all commands.
    blocking: BlockingTime,
}

impl<'r, 'f> Batch<'r, 'f> {
    /// A batch for commands of `bytes` bytes in total. `entropy` is a random number: it chooses the node for
    /// the commands that any node may serve.
    pub(crate) fn new(router: &'r Router, bytes: usize, entropy: u64) -> Self {
        let nodes = router.topology().nodes().len();
        let living = router.topology().living().len();
        Self {
            router,
            bytes_per_node: bytes.min(bytes / living * 5 / 4 + SHARE_BYTES_MIN),
            any: router.random_node(entropy),
            requests: (0..nodes).map(|_| None).collect(),
            fan_outs: Vec::new(),
            scans: Vec::new(),
            commands: 0,
            blocking: BlockingTime::None,
        }
    }

    /// Adds one command, given packed and as arguments, with its plan.
    #[inline]
    pub(crate) fn add(&mut self, frame: &'f [u8], args: &[&[u8]], routed: RoutedCommand) {
        match routed.plan {
            Plan::One(node) => {
                self.check_owner(node, args);
                self.add_at(node, frame, routed);
            }
            Plan::Any => self.add_any(frame, routed),
            _ => self.add_fan_out(frame, args, routed),
        }
    }

    /// Adds one command that any node may serve.
    pub(crate) fn add_any(&mut self, frame: &[u8], routed: RoutedCommand) {
        let slot = ReplySlot::whole(self.commands, routed.access).anywhere();
        let node = routed.preferred.unwrap_or(self.any);
        self.add_whole(node, slot, frame, &routed);
    }

    /// The node to which this batch sends the commands that any node may serve.
    pub(crate) fn any_node(&self) -> NodeIndex {
        self.any
    }

    /// Adds one command with a part for each of its nodes.
    fn add_fan_out(&mut self, frame: &'f [u8], args: &[&[u8]], routed: RoutedCommand) {
        let command = self.commands;
        self.commands += 1;
        self.blocking = self.blocking.then(routed.blocking);
        let access = routed.access;
        match &routed.plan {
            Plan::One(_) | Plan::Any => debug_assert!(false, "these are no fan-outs"),
            Plan::All(_) => {
                self.router.record_flush(args);
                for (number, node) in (0..).zip(self.router.topology().living()) {
                    let slot = ReplySlot::part(command, number, access);
                    // The barrier shares the slot of its WAIT: its reply is overwritten by that to WAIT
                    // unless it is an error.
                    if routed.wait_scope == WaitScope::AllWrites {
                        let barrier = match self.router.topology().cluster() {
                            None => WAIT_BARRIER,
                            Some(_) => CLUSTER_WAIT_BARRIER,
                        };
                        self.push(node, slot, false, |out| out.extend_from_slice(barrier));
                    }
                    self.push(node, slot, false, |out| out.extend_from_slice(frame));
                }
            }
            Plan::Split(split) => {
                for (number, part) in (0..).zip(split.parts()) {
                    // The last chance to notice a plan of another topology, before a key is written to the
                    // wrong node.
                    debug_assert!(part.keys.iter().all(|&key| {
                        self.router.topology().locate(args[split.position(key)]) == Some(part.node)
                    }));
                    let slot = ReplySlot::part(command, number, access)
                        .with_fallback(routed.reads_as.into());
                    self.push(part.node, slot, routed.may_use_replica, |out| {
                        split.write_part(part, args, out);
                    });
                }
            }
            Plan::ScanSlots { .. } => {
                self.scans.push((command, frame, routed.partial));
                return;
            }
            // A scan that ends at a node that went out: nothing is left to be sent.
            Plan::Scan { node, .. } if self.router.topology().out().contains(*node) => {}
            &Plan::Scan { node, cursor, .. } => {
                let slot = ReplySlot::part(command, 0, access);
                self.push(node, slot, false, |out| write_scan(args, cursor, out));
            }
        }
        self.fan_outs.push(FanOut {
            command,
            plan: routed.plan,
            frame,
            partial: routed.partial,
        });
    }

    /// Adds one command for `node`. The keys are not checked again.
    #[inline]
    pub(crate) fn add_at(&mut self, node: NodeIndex, frame: &[u8], routed: RoutedCommand) {
        let slot =
            ReplySlot::whole(self.commands, routed.access).with_fallback(routed.reads_as.into());
        self.add_whole(node, slot, frame, &routed);
    }

    /// Adds one command that goes to a single node.
    #[inline]
    fn add_whole(
        &mut self,
        node: NodeIndex,
        slot: ReplySlot,
        frame: &[u8],
        routed: &RoutedCommand,
    ) {
        self.commands += 1;
        self.blocking = self.blocking.then(routed.blocking);
        self.push(node, slot, routed.may_use_replica, |out| {
            out.extend_from_slice(frame);
        });
    }

    /// Takes the requests of all nodes, in node order, as an exchange ready to be sent.
    pub(crate) fn exchange<R: ReplyBuffer>(&mut self) -> Exchange<R> {
        // The batch itself stays behind: its fan-outs say how the replies are merged.
        let requests = std::mem::take(&mut self.requests);
        let living = self.router.topology().living_nodes();
        Exchange::new(requests.into_iter().flatten(), self.blocking, living)
    }

    /// Takes the SCANs over the slots of a cluster. Their places in the results hold nil until they are carried out.
    pub(in crate::plan) fn take_scans(&mut self) -> Vec<(u32, &'f [u8], Partial)> {
        std::mem::take(&mut self.scans)
    }

    /// The results of the commands, in their order. `entropy` is a random number for replies that are chosen
    /// at random (RANDOMKEY).
    pub(crate) fn finish(&self, exchange: Exchange, entropy: u64) -> PipelineReplies {
        let (mut replies, outcomes) = self.collect(exchange);
        for (fan_out, outcomes) in self.fan_outs.iter().zip(outcomes) {
            replies.merged(fan_out.command, self.merge(fan_out, outcomes, entropy));
        }
        replies.finish()
    }

    /// The reply to the only command of the batch. `entropy` is a random number, as for
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// When the parts of a fan-out cannot be merged because some failed; the error names the parts.
    pub(crate) fn finish_one(&self, exchange: Exchange, entropy: u64) -> Result<Value, Error> {
        let (replies, mut outcomes) = self.collect(exchange);
        match (self.fan_outs.first(), outcomes.pop()) {
            (Some(fan_out), Some(outcomes)) => self.merge(fan_out, outcomes, entropy),
            _ => replies.finish().into_only(),
        }
    }

    /// Checks once more, in debug builds only, that the command goes to the owner of its key.
    fn check_owner(&self, node: NodeIndex, args: &[&[u8]]) {
        if cfg!(debug_assertions)
            && let Ok(command) = self.router.lookup(args)
            && let Some(key) = command.sole_key().and_then(|at| args.get(at))
            && command.route() == crate::command::Route::Keys
        {
            debug_assert_eq!(self.router.topology().locate(key), Some(node));
        }
    }

    /// Appends one request to those of `node`. A replica may serve them only if it may serve each of them: reads behind
    /// a write see it.
    #[inline]
    fn push(
        &mut self,
        node: NodeIndex,
        slot: ReplySlot,
        may_use_replica: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        match &mut self.requests[node.get()] {
            Some(exchange) => {
                exchange.may_use_replica &= may_use_replica;
                exchange.push(slot, write);
            }
            empty => {
                let mut exchange = NodeRequest::new(node);
                exchange.may_use_replica = may_use_replica;
                exchange.packed.reserve(self.bytes_per_node);
                exchange.push(slot, write);
                // Most pipelines repeat one command, so the first request predicts the number of slots.
                exchange
                    .slots
                    .reserve(self.bytes_per_node / exchange.packed.len());
                *empty = Some(exchange);
            }
        }
    }

    /// Distributes the replies: those to whole commands into their places, and those to parts into one list
    /// per fan-out.
    ///
    /// A request that moved to another node occurs once for each node, in that order, so a later result
    /// overwrites an earlier failure.
    fn collect(&self, exchange: Exchange) -> (ReplyCollector, Vec<Vec<PartReply>>) {
        // Fan-outs leave nil in their places until they are merged.
        let mut replies = ReplyCollector::new(self.commands as usize);
        // A part that no reply or failure reaches keeps `Err(None)`, which is reported as an unknown outcome,
        // not as nil.
        let mut outcomes: Vec<Vec<PartReply>> = self
            .fan_outs
            .iter()
            .map(|fan_out| {
                let parts = fan_out.part_count(self.router);
                parts.map(|_| PartReply::from(Err(None))).collect()
            })
            .collect();
        for (exchange, answers) in exchange.into_parts() {
            let name = &*exchange.node_name(self.router);
            let answered = answers.values.len();
            let misses = MissReplies::of(self.router, &exchange, &answers);
            for (number, (slot, value)) in exchange.slots.iter().zip(answers.values).enumerate() {
                match slot.part {
                    WHOLE => replies.reply(*slot, &exchange, value),
                    _ => self.record(&mut outcomes, (&exchange, number), Ok(value).into()),
                }
            }
            for (number, slot) in exchange.slots.iter().enumerate().skip(answered) {
                let miss = misses.value(number);
                if let (WHOLE, Some(value)) = (slot.part, &miss) {
                    replies.reply(*slot, &exchange, value.clone());
                    continue;
                }
                let failure = answers.failure.as_ref();
                let error = failure.map(|failure| failure.error(name, number, slot.access));
                match slot.part {
                    WHOLE => replies.failed(slot.command, missing(error, name)),
                    _ => {
                        let outcome = Err(error);
                        let reply = PartReply { outcome, miss };
                        self.record(&mut outcomes, (&exchange, number), reply);
                    }
                }
            }
        }
        (replies, outcomes)
    }

    /// Records the outcome of one part of a fan-out.
    fn record(
        &self,
        outcomes: &mut [Vec<PartReply>],
        (exchange, number): (&NodeRequest, usize),
        reply: PartReply,
    ) {
        let slot = exchange.slots[number];
        // Fan-outs are in the order of their commands, so a binary search finds the one of a slot.
        let fan_out = self
            .fan_outs
            .partition_point(|fan_out| fan_out.command < slot.command);
        let place = &mut outcomes[fan_out][slot.part as usize];
        // Two requests may share a slot (a barrier before WAIT). If the first was refused, the reply to the
        // second is worthless: WAIT without its barrier does not wait for the writes of other connections.
        if !(exchange.is_second_of_part(number)
            && matches!(place.outcome, Ok(Value::ServerError(_))))
        {
            *place = reply;
        }
    }
}

/// Writes SCAN with the node's own cursor in the place of the packed one.
fn write_scan(args: &[&[u8]], cursor: u64, out: &mut Vec<u8>) {
    use crate::resp::{write_arg, write_header};
    write_header(out, args.len());
    write_arg(out, args[0]);
    write_arg(out, cursor.to_string().as_bytes());
    for arg in &args[2..] {
        write_arg(out, arg);
    }
}
