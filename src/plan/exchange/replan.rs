//! What is planned again while an exchange is under way, because keys are being moved; see [`moving`](crate::plan::moving).
//!
//! A request that is held has the state [`Held`](State::Held). The executor takes the newest topology of its client, at
//! first at once and then after short pauses, and [replans](Exchange::replan) by it. Everything that may still be sent is
//! placed again then, not only what is held: it will be sent as the newest topology has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::BlockingTime;
use crate::partition::NodeIndex;
use crate::plan::batch::NodeRequest;
use crate::plan::exchange::node::State;
use crate::plan::exchange::{Exchange, ExchangeStep, NodeExchange, no_reply_to_key};
use crate::plan::moving::{Fate, FateOf, Newest};
use crate::plan::redirects::UNBLOCKED_BY_CLIENT;
use crate::plan::{Answers, Cause, Failure, ReplyBuffer, Router};
use crate::policy::Target;
use crate::topology::LivingNodes;

/// The pauses before the newest topology is looked at, in milliseconds. The last is repeated.
const PAUSES_MS: [u64; 5] = [0, 1, 2, 4, 5];

/// Number of times that the newest topology was taken after which CLIENT UNBLOCK was not that of a reshard.
const UNBLOCKED_RELOADS_MAX: u16 = 40;

impl<R: ReplyBuffer> Exchange<R> {
    /// Holds what cannot be sent now, as keys are on the way to other nodes, and cuts what is no longer for one node.
    #[cold]
    pub(super) fn keep_back_what_moves(&mut self, router: &Router) {
        let topology = router.topology();
        let newest = Newest {
            router,
            is_newer: false,
            follows_record: true,
            identity: &|node| Some(topology.node(node).id()),
        };
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.request.is_pinned {
                continue;
            }
            let fates = newest.fates(&node.request, 0, self.placing);
            match &fates[..] {
                [] => {}
                [(Fate::Send(to), _)] if *to == node.request.node => {}
                _ => self.apply(index, 0, fates, &newest),
            }
        }
    }

    /// True if requests are held.
    pub(super) fn keeps_back(&self) -> bool {
        self.nodes.iter().any(NodeExchange::is_held)
    }

    /// The next time that the newest topology is taken.
    pub(super) fn next_reload(&mut self, now: Instant) -> ExchangeStep {
        let number = usize::from(self.reloads).min(PAUSES_MS.len() - 1);
        self.reloads = self.reloads.saturating_add(1);
        let pause = Duration::from_millis(PAUSES_MS.get(number).copied().unwrap_or_default());
        let left = self.end.map(|end| end.saturating_duration_since(now));
        ExchangeStep::Reload(left.map_or(pause, |left| pause.min(left)))
    }

    /// Fails what is held: there is no newer topology to wait for.
    pub(crate) fn give_up_held(&mut self) {
        let held = self.nodes.iter_mut().filter(|node| node.is_held());
        held.for_each(|node| {
            node.expire_held();
            node.give_up();
        });
    }

    /// True if requests are held behind others that are not final.
    fn is_behind(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        if !node.is_behind {
            return false;
        }
        let (first, last) = (self.first_command(node), node.last_command());
        let mut others = self.nodes.iter().filter(|other| !other.is_final());
        others.any(|other| match other.is_behind {
            // One of them begins.
            true => self.first_command(other) < first,
            false => self.first_command(other) < last,
        })
    }

    /// The number, within the batch, of the first command that may still be sent.
    fn first_command(&self, node: &NodeExchange<R>) -> Option<u32> {
        let whole = node
            .key_by_key
            .and_then(|id| self.nodes.get(self.key_by_key.get(id)?.parent));
        let slot = match whole {
            Some(whole) => whole.request.slots.first(),
            None => node.request.slots.get(node.first_unanswered()),
        };
        slot.map(|slot| slot.command)
    }

    /// Plans by the newest topology what may still be sent. `now` is the time.
    pub(crate) fn replan(&mut self, newest: &Newest<'_>, now: Instant) {
        if newest.is_newer {
            // They are nodes of the topology before.
            self.living = LivingNodes::none();
        }
        self.hold_at_all_nodes(newest);
        for index in 0..self.nodes.len() {
            let is_behind = self.is_behind(index);
            let reloads = self.reloads;
            let node = &mut self.nodes[index];
            let is_due = match node.state {
                State::Held => !is_behind,
                State::Unblocked if newest.is_newer && newest.follows_record => {
                    node.answers = Answers::default();
                    true
                }
                State::Unblocked => {
                    if !newest.follows_record || reloads > UNBLOCKED_RELOADS_MAX {
                        node.give_up();
                    }
                    false
                }
                State::Pending | State::Paused | State::Waiting(_) => newest.is_newer,
                State::Over | State::Moved | State::Void => false,
            };
            if !is_due || node.request.is_pinned {
                continue;
            }
            node.is_behind = false;
            let first = node.first_unanswered();
            let fates = newest.fates(&node.request, first, self.placing);
            self.apply(index, first, fates, newest);
        }
        self.limit_moved_blocking(newest, now);
    }

    /// Has FLUSHALL sent to all nodes again if it is held for one: keys that it was to delete may have moved from that one to
    /// another that had it before.
    fn hold_at_all_nodes(&mut self, newest: &Newest<'_>) {
        let is_alone = |node: &NodeExchange<R>| newest.deletes_all_keys(&node.request);
        if !newest.is_newer || !self.is_following() || !self.nodes.iter().all(is_alone) {
            return;
        }
        if !self.nodes.iter().any(|node| node.state == State::Held) {
            return;
        }
        let done = |node: &&mut NodeExchange<R>| {
            node.state == State::Over && node.answers.failure.is_none()
        };
        for node in self.nodes.iter_mut().filter(done) {
            node.answers = Answers::default();
            node.state = State::Held;
        }
    }

    /// Has the requests of one node, from number `first` on, go where their fates say.
    fn apply(&mut self, index: usize, first: usize, fates: Vec<FateOf>, newest: &Newest<'_>) {
        let node = &mut self.nodes[index];
        let current = newest.node_of(&node.request);
        match &fates[..] {
            [(Fate::Held(why), _)] => return node.keep_back(why),
            [(Fate::Behind, _)] => return node.state = State::Held,
            [(Fate::Send(to), _)] if first == 0 || current == Some(*to) => {
                return node.go_on(*to, first, current, newest);
            }
            _ => {}
        }
        let (retries, key_by_key) = (node.retries, node.key_by_key);
        node.state = State::Moved;
        node.rest = None;
        for (fate, numbers) in fates {
            let request = self.nodes[index].request.moved_part(&numbers);
            let mut next = NodeExchange {
                retries,
                key_by_key,
                ..NodeExchange::new(request)
            };
            match fate {
                Fate::Send(to) => next.address(to, newest),
                Fate::Held(why) => next.keep_back(&why),
                Fate::Behind => {
                    next.is_behind = true;
                    next.keep_back(
                        "a request before it has to wait, as keys are on the way to other nodes",
                    );
                }
                Fate::Refused(why) => {
                    next.keep_back(&why);
                    next.state = State::Over;
                }
                Fate::KeyByKey => {
                    self.send_key_by_key(next, newest);
                    continue;
                }
            }
            self.nodes.push(next);
        }
    }

    /// Sends the only command of `whole` key by key.
    fn send_key_by_key(&mut self, mut whole: NodeExchange<R>, newest: &Newest<'_>) {
        let parent = self.nodes.len();
        let parts = newest.cut(&whole.request, parent);
        whole.state = State::Moved;
        // Replaced by the joined replies, or by the error of one of them.
        whole.answers.values.push_error(&no_reply_to_key());
        let retries = whole.retries;
        self.nodes.push(whole);
        let Some((each, command)) = parts else {
            return;
        };
        self.key_by_key.push(command);
        let id = self.key_by_key.len() - 1;
        for (fate, numbers) in newest.fates(&each, 0, self.placing) {
            let mut next = NodeExchange {
                retries,
                key_by_key: Some(id),
                ..NodeExchange::new(each.moved_part(&numbers))
            };
            match fate {
                Fate::Send(to) => next.address(to, newest),
                Fate::Held(why) | Fate::Refused(why) => next.keep_back(&why),
                Fate::Behind | Fate::KeyByKey => {
                    next.keep_back("its keys are on the way to other nodes")
                }
            }
            self.nodes.push(next);
        }
    }

    /// Has commands that were planned again block only for the time that is left.
    fn limit_moved_blocking(&mut self, newest: &Newest<'_>, now: Instant) {
        if let (BlockingTime::AtMost(time), Some(started)) = (self.own_blocking, self.started) {
            let left = time.saturating_sub(now.saturating_duration_since(started));
            for node in &mut self.nodes {
                node.limit_blocking(newest.router.commands(), left);
            }
        }
    }
}

impl<R: ReplyBuffer> NodeExchange<R> {
    /// True if the newest topology is waited for.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, State::Held | State::Unblocked)
    }

    /// True if nothing more is sent to this node.
    fn is_final(&self) -> bool {
        matches!(self.state, State::Over | State::Moved | State::Void)
    }

    /// Holds what was refused as it was planned by an older topology, and what was ended by CLIENT UNBLOCK, if that may
    /// have been that of a reshard. Returns true if it does.
    pub(super) fn keep_back_refused(&mut self) -> bool {
        if self.request.is_pinned {
            return false;
        }
        let values = &self.answers.values;
        let is_held = match &self.answers.failure {
            Some(failure) if failure.is_superseded() => {
                self.state = State::Held;
                true
            }
            None if self.may_be_unblocked && is_unblocked(values) => {
                self.state = State::Unblocked;
                true
            }
            _ => false,
        };
        is_held
    }

    /// The number, within the batch, of the last command.
    fn last_command(&self) -> Option<u32> {
        self.request.slots.last().map(|slot| slot.command)
    }

    /// Number of the first request that may be sent again.
    fn first_unanswered(&self) -> usize {
        match &self.rest {
            Some(rest) => rest.0,
            None => self.answers.values.count(),
        }
    }

    /// Records that the time is over before what is held was sent.
    pub(super) fn expire_held(&mut self) {
        let sent = self.answers.values.count();
        if self.state == State::Held
            && self.answers.failure.is_none()
            && sent < self.request.slots.len()
        {
            let cause = Cause::Superseded;
            self.answers.failure = Some(Box::new(Failure { cause, sent }));
        }
    }

    /// Keeps the requests back, for this reason.
    fn keep_back(&mut self, why: &str) {
        self.state = State::Held;
        let sent = self.answers.values.count();
        if sent < self.request.slots.len() {
            let cause = Cause::Moving(why.to_owned());
            self.answers.failure = Some(Box::new(Failure { cause, sent }));
        }
    }

    /// Goes on with the requests from number `first` on, at the node `to`. Their node was `current` before.
    fn go_on(
        &mut self,
        to: NodeIndex,
        first: usize,
        current: Option<NodeIndex>,
        newest: &Newest<'_>,
    ) {
        let is_on_its_way = !matches!(self.state, State::Held | State::Unblocked);
        let moved = Arc::new(newest.moved_to(to));
        if is_on_its_way && current == Some(to) {
            if let Some(rest) = &mut self.rest {
                rest.1.moved = Some(Arc::clone(&moved));
                rest.1.keep_all_replies();
            }
            self.request.moved = Some(moved);
            self.request.keep_all_replies();
            return;
        }
        self.address(to, newest);
        self.rest = match first {
            0 => {
                self.answers = Answers::default();
                None
            }
            _ => Some(Box::new((first, self.request.rest(first)))),
        };
    }

    /// Addresses the requests to the primary of a node.
    fn address(&mut self, to: NodeIndex, newest: &Newest<'_>) {
        self.request.moved = Some(Arc::new(newest.moved_to(to)));
        self.request.target = Target::Primary;
        self.request.keep_all_replies();
        self.servers = None;
        self.state = State::Pending;
    }
}

impl NodeRequest {
    /// The requests with these numbers, to be addressed to another node.
    fn moved_part(&self, numbers: &[usize]) -> Self {
        let mut part = self.part(numbers);
        part.moved.clone_from(&self.moved);
        part.keep_all_replies();
        part
    }

    /// Has large replies kept: the node that has them may be asked for them no more.
    fn keep_all_replies(&mut self) {
        #[cfg(feature = "proxy")]
        {
            self.retention = crate::plan::ReplyRetention::All;
        }
    }
}

/// True if the only reply says that CLIENT UNBLOCK has ended a command.
fn is_unblocked<R: ReplyBuffer>(values: &R) -> bool {
    values.error_code(0) == Some(b"UNBLOCKED")
        && values
            .error_text(0)
            .is_some_and(|text| text.starts_with(UNBLOCKED_BY_CLIENT))
}
