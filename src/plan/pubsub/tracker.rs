//! [`SubscriptionTracker`]: the subscriptions on one node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use redis::Value;

use super::places::channel_slot;
use super::{
    ChangeRequest, ChannelName, DesiredNames, Message, NAMES_AT_ONCE, SubscriptionChange,
    SubscriptionKind,
};
use crate::error::{Error, is_waited_code};
use crate::plan::redirects::parse_redirect;
use crate::resp::write_command;
use crate::topology::HostPort;

/// The subscriptions on one node: desired by the user, and confirmed by the node.
///
/// It lives behind a lock that the user and the reader of the connection share. So each call takes time
/// independent of the number of subscriptions, or handles at most [`NAMES_AT_ONCE`] of them and is called
/// again.
///
/// A change: [`begin_change`](Self::begin_change), [`change`](Self::change) once or more, the
/// [`ChangeRequest`] written, [`handle_reply`](Self::handle_reply) for each reply; then
/// [`end_change`](Self::end_change) once [`is_confirmed`](Self::is_confirmed), or
/// [`roll_back`](Self::roll_back) after a [refusal](Self::take_refusal).
///
/// A new connection: [`begin_restore`](Self::begin_restore), then [`restore`](Self::restore) until it returns
/// `None`, before anything else is written.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionTracker {
    /// All names that are desired or confirmed, by kind: see [`place`]. Sorted, so that a restore can
    /// continue after a name while others are added and removed.
    names: [BTreeMap<ChannelName, NameState>; 3],
    /// Number of names that are desired.
    desired_count: usize,
    /// Number of names that are desired but not confirmed, or confirmed but no longer desired.
    unconfirmed: usize,
    /// Number of the current connection. A confirmation on an earlier one no longer counts, so a new
    /// connection invalidates all of them without touching each name.
    connection: u64,
    /// The error reply to the last change, until it is taken.
    refused: Option<Error>,
    /// The names of the last change, in order, and whether each was desired before: what a refusal takes
    /// back.
    changed: Vec<(SubscriptionKind, ChannelName, bool)>,
    restore: Restore,
    /// True if the node is one of a Redis Cluster.
    is_cluster: bool,
    /// The shard channels of a node of a cluster, by slot.
    by_slot: BTreeMap<u16, BTreeSet<ChannelName>>,
    /// Number of names whose messages may have been missed.
    gaps: usize,
    /// Number of the next [`Event::Missed`](super::Event::Missed).
    next_missed: u64,
    /// Number of names that it reports.
    regained: usize,
    /// A name was ended by the server, and the subscriber has not been told yet.
    is_ended: bool,
    /// Shard channels must be subscribed again.
    resubscribe: Option<Resubscribe>,
    /// Names that have left for other servers.
    redirected: Vec<RedirectedNames>,
}

/// When shard channels are subscribed again that a server of a cluster has ended or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resubscribe {
    AtOnce,
    AfterPause,
}

/// Shard channels that a server of a cluster has redirected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RedirectedNames {
    pub(crate) slot: u16,
    /// The server that owns the slot, as the reply names it.
    pub(crate) to: HostPort,
    /// Those that were confirmed before: their messages may be missed.
    pub(crate) interrupted: Vec<ChannelName>,
    /// Those that were not confirmed yet.
    pub(crate) new: Vec<ChannelName>,
}

/// State of one name on one node.
#[derive(Clone, Copy, Debug, Default)]
struct NameState {
    /// True if the user wants the subscription.
    desired: bool,
    /// Number of the connection on which the node confirmed it last.
    confirmed_on: Option<u64>,
    /// True if messages may have been missed since it was confirmed, here or on another node.
    has_gap: bool,
    /// Number of the [`Event::Missed`](super::Event::Missed) that reports such a gap, once it was confirmed again.
    reported_by: Option<u64>,
}

/// Progress of making all subscriptions again on a new connection.
#[derive(Debug, Default)]
struct Restore {
    /// The kind, and the name after which the next request continues; `None` when all requests are made.
    behind: Option<(usize, Bound<ChannelName>)>,
    /// Number of requests without a reply yet.
    unanswered: usize,
}

/// The meaning of a reply on a pub/sub connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PubSubReply {
    /// A message for the user.
    Message(Message),
    /// All subscriptions are as desired, or one was refused: wake those who wait for a change.
    Confirmed,
    /// The last of the restored subscriptions was confirmed or refused: nothing published from now on is
    /// missed.
    Restored,
    /// Names go on elsewhere, or may have to: the subscriber has to look.
    Redirected,
    /// A reply that nobody waits for.
    Nothing,
}

impl NameState {
    fn is_confirmed(self, connection: u64) -> bool {
        self.confirmed_on == Some(connection)
    }

    fn is_as_desired(self, connection: u64) -> bool {
        self.desired == self.is_confirmed(connection)
    }
}

impl SubscriptionTracker {
    /// No subscriptions yet, at a node of a Redis Cluster.
    pub(crate) fn in_cluster() -> Self {
        Self {
            is_cluster: true,
            ..Self::default()
        }
    }

    /// Begins a change, and forgets the one before. Changes of one subscriber follow each other: a refusal
    /// could not be attributed otherwise.
    pub(crate) fn begin_change(&mut self) {
        self.refused = None;
        self.changed.clear();
    }

    /// Changes which names are desired. If there is a connection, a [`ChangeRequest`] with these names must
    /// be written to it.
    pub(crate) fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) {
        for name in names {
            let mut before = false;
            self.set(kind, name, |standing, _| {
                before = standing.desired;
                standing.desired = change == SubscriptionChange::Subscribe;
            });
            // Also when nothing changes: a refusal must leave a name that was desired before as it was.
            self.changed.push((kind, Arc::clone(name), before));
        }
    }

    /// A request for this node, without names yet.
    pub(crate) fn request(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
    ) -> ChangeRequest {
        ChangeRequest::new(change, kind, self.is_cluster)
    }

    /// Changes which names are desired because others own them now, and not because the user wishes it: a refusal
    /// of the user's own change does not take it back.
    pub(crate) fn change_owner(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) {
        for name in names {
            self.set(kind, name, |standing, connection| {
                standing.desired = change == SubscriptionChange::Subscribe;
                standing.has_gap |= standing.desired && !standing.is_confirmed(connection);
            });
        }
    }

    /// Takes the names that have left for other servers.
    pub(crate) fn take_redirected(&mut self) -> Vec<RedirectedNames> {
        std::mem::take(&mut self.redirected)
    }

    /// True if the server has ended subscriptions, or names have left for other servers.
    pub(crate) fn has_signals(&self) -> bool {
        self.is_ended || !self.redirected.is_empty()
    }

    /// Whether, and when, [`unconfirmed_shards`](Self::unconfirmed_shards) must be requested.
    pub(crate) fn take_resubscribe(&mut self) -> Option<Resubscribe> {
        self.resubscribe.take()
    }

    /// Has the shard channels without a confirmation requested after a pause.
    pub(crate) fn resubscribe_later(&mut self) {
        self.resubscribe.get_or_insert(Resubscribe::AfterPause);
    }

    /// The packed requests for the shard channels that are not as the user wants them.
    pub(crate) fn unconfirmed_shards(&self) -> Vec<u8> {
        let kind = SubscriptionKind::Shard;
        let (mut begin, mut end) = (
            self.request(SubscriptionChange::Subscribe, kind),
            self.request(SubscriptionChange::Unsubscribe, kind),
        );
        for (name, standing) in &self.names[place(kind)] {
            if standing.is_as_desired(self.connection) {
                continue;
            }
            let request = if standing.desired {
                &mut begin
            } else {
                &mut end
            };
            request.add(std::slice::from_ref(name));
        }
        [begin.take(), end.take()].concat()
    }

    /// True if names with a gap were confirmed, and no other has one.
    pub(crate) fn is_regained(&self) -> bool {
        self.regained > 0 && self.gaps == 0
    }

    /// Ends what [`is_regained`](Self::is_regained) says. Returns true if names with a gap were confirmed.
    pub(crate) fn take_regained(&mut self) -> bool {
        self.next_missed += 1;
        std::mem::take(&mut self.regained) > 0
    }

    /// True if the server has ended subscriptions that the user wants, since the last call.
    pub(crate) fn take_ended(&mut self) -> bool {
        std::mem::take(&mut self.is_ended)
    }

    /// True if messages of a name may have been missed.
    pub(crate) fn has_gaps(&self) -> bool {
        self.gaps > 0
    }

    /// True if the user wants nothing from this node.
    pub(crate) fn is_unused(&self) -> bool {
        self.desired_count == 0
    }

    /// True if the node is one of a Redis Cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// True if this name is desired.
    pub(crate) fn wants(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        let standing = self.names[place(kind)].get(name);
        standing.is_some_and(|standing| standing.desired)
    }

    /// The names that are desired, by kind.
    pub(crate) fn desired(&self) -> DesiredNames {
        let desired = |names: &BTreeMap<ChannelName, NameState>| {
            let names = names.iter().filter(|(_, standing)| standing.desired);
            names.map(|(name, _)| Arc::clone(name)).collect()
        };
        [
            desired(&self.names[0]),
            desired(&self.names[1]),
            desired(&self.names[2]),
        ]
    }

    /// Begins a new connection, on which nothing is confirmed yet.
    pub(crate) fn begin_restore(&mut self) {
        // Invalidates every `confirmed_on` at once; the count follows: each desired name is unconfirmed, and
        // no other is.
        self.connection += 1;
        self.unconfirmed = self.desired_count;
        self.restore = Restore {
            behind: Some((0, Bound::Unbounded)),
            unanswered: 0,
        };
    }

    /// The next packed requests that make the subscriptions again; `None` when there are no more.
    ///
    /// One request per name, so that a refused one (ACL) does not take the others with it. They must be
    /// written before all other requests of the connection: [`handle_reply`](Self::handle_reply) takes the
    /// first replies for theirs.
    pub(crate) fn restore(&mut self) -> Option<Vec<u8>> {
        let (place, behind) = self.restore.behind.take()?;
        let command = KINDS[place].command(SubscriptionChange::Subscribe);
        let range = (behind.as_ref().map(AsRef::as_ref), Bound::Unbounded);
        let next = self.names[place].range::<[u8], _>(range);
        let mut packed = Vec::new();
        let mut stale = Vec::new();
        let mut last = None;
        for (name, standing) in next.take(NAMES_AT_ONCE) {
            last = Some(Arc::clone(name));
            if standing.desired {
                self.restore.unanswered += 1;
                write_command(&mut packed, &[command, name]);
            } else if !standing.is_confirmed(self.connection) {
                // Confirmed on the connection before and no longer desired: the new connection never had it,
                // so there is nothing left to unsubscribe.
                stale.push(Arc::clone(name));
            }
        }
        for name in stale {
            self.set(KINDS[place], &name, |standing, _| {
                standing.confirmed_on = None
            });
        }
        // Continues after the last name, not at an index: names before it may be added or removed until the
        // next call.
        self.restore.behind = match last {
            Some(last) => Some((place, Bound::Excluded(last))),
            None if place + 1 < KINDS.len() => Some((place + 1, Bound::Unbounded)),
            None => None,
        };
        Some(packed)
    }

    /// True if all requests of [`restore`](Self::restore) are made and have replies.
    pub(crate) fn is_restored(&self) -> bool {
        self.restore.behind.is_none() && self.restore.unanswered == 0
    }

    /// True if the node has confirmed exactly the desired subscriptions.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.unconfirmed == 0
    }

    /// Takes the error with which the node refused the last change, if it did. The change must then be taken
    /// back with [`roll_back`](Self::roll_back).
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Ends a confirmed change, and frees the list of its names.
    pub(crate) fn end_change(&mut self) {
        self.changed = Vec::new();
    }

    /// Takes back up to [`NAMES_AT_ONCE`] names of a refused change. Returns true when all are taken back.
    pub(crate) fn roll_back(&mut self) -> bool {
        // Last name first: of a name that occurs twice, only the first occurrence has the state from before
        // the change.
        let rest = self.changed.len().saturating_sub(NAMES_AT_ONCE);
        for (kind, name, before) in self.changed.split_off(rest).into_iter().rev() {
            let has_left = self.is_cluster && !self.names[place(kind)].contains_key(&name);
            if before && has_left {
                continue;
            }
            self.set(kind, &name, |standing, _| standing.desired = before);
        }
        self.changed.is_empty()
    }

    /// Records a reply or push message of the node, and returns what it means for the user.
    pub(crate) fn handle_reply(&mut self, value: Value, node: &str) -> PubSubReply {
        let mut items = match value {
            Value::Array(items) => items.into_iter(),
            Value::ServerError(error) => {
                if let Some(reply) = self.refused_by_cluster(&error, node) {
                    return reply;
                }
                // An error reply does not name the channel. It belongs to the last change or to a restored
                // name; in both cases whoever waits for a change learns of it.
                self.refused = Some(Error::from_server(&error, Some(node)));
                return self.answered();
            }
            _ => return PubSubReply::Nothing,
        };
        let word = text(items.next());
        // RESP2: arrays whose first item is the kind. Anything else, such as the reply to PING, is not about
        // subscriptions.
        let (kind, said) = match word.as_slice() {
            b"message" => (SubscriptionKind::Channel, Confirmation::Message),
            b"pmessage" => (SubscriptionKind::Pattern, Confirmation::Message),
            b"smessage" => (SubscriptionKind::Shard, Confirmation::Message),
            b"subscribe" => (SubscriptionKind::Channel, Confirmation::Begun),
            b"psubscribe" => (SubscriptionKind::Pattern, Confirmation::Begun),
            b"ssubscribe" => (SubscriptionKind::Shard, Confirmation::Begun),
            b"unsubscribe" => (SubscriptionKind::Channel, Confirmation::Ended),
            b"punsubscribe" => (SubscriptionKind::Pattern, Confirmation::Ended),
            b"sunsubscribe" => (SubscriptionKind::Shard, Confirmation::Ended),
            _ => return PubSubReply::Nothing,
        };
        if said == Confirmation::Message {
            let pattern = (kind == SubscriptionKind::Pattern).then(|| text(items.next()));
            return PubSubReply::Message(Message {
                channel: text(items.next()),
                pattern,
                payload: text(items.next()),
                kind,
            });
        }
        let name = text(items.next());
        let (mut is_unasked, mut is_unwanted) = (false, false);
        let next_missed = self.next_missed;
        let is_by_slot = self.is_cluster && kind == SubscriptionKind::Shard;
        // Recorded whatever is desired by now: the reply may belong to a change that was taken back since.
        self.set(kind, &name, |standing, connection| {
            if said == Confirmation::Begun {
                if std::mem::take(&mut standing.has_gap) {
                    standing.reported_by = Some(next_missed);
                }
                standing.confirmed_on = Some(connection);
                is_unwanted = is_by_slot && !standing.desired;
                return;
            }
            is_unasked = is_by_slot && standing.desired && standing.is_confirmed(connection);
            standing.has_gap |= is_unasked;
            standing.confirmed_on = None;
        });
        if is_unasked {
            self.is_ended = true;
            // The slot has left, or the node is no primary any more.
            self.resubscribe = Some(Resubscribe::AtOnce);
            return PubSubReply::Redirected;
        }
        if is_unwanted {
            // A part of a change of which another part was refused.
            self.resubscribe = Some(Resubscribe::AtOnce);
        }
        self.answered()
    }

    /// Reads an error for what servers of a cluster refuse SSUBSCRIBE and SUNSUBSCRIBE with. `None` if it is another.
    fn refused_by_cluster(
        &mut self,
        error: &redis::ServerError,
        node: &str,
    ) -> Option<PubSubReply> {
        if !self.is_cluster {
            return None;
        }
        let code = error.code();
        if code == "MOVED" {
            // Nodes of a cluster are named after their addresses.
            let host = || node.rsplit_once(':').map(|(host, _)| host.to_owned());
            let details = error.details().unwrap_or_default();
            let (slot, to) = parse_redirect(details.as_bytes(), host)?;
            self.hand_over(slot, to);
            self.answered();
            return Some(PubSubReply::Redirected);
        }
        if code != "ASK" && !is_waited_code(code.as_bytes()) {
            return None;
        }
        let mut shards = self.names[place(SubscriptionKind::Shard)].values();
        if shards.any(|standing| !standing.is_as_desired(self.connection)) {
            self.resubscribe_later();
        }
        Some(self.answered())
    }

    /// Gives the names of a slot away, to the server that owns it.
    fn hand_over(&mut self, slot: u16, to: HostPort) {
        let (mut interrupted, mut new) = (Vec::new(), Vec::new());
        for name in self.by_slot.get(&slot).cloned().unwrap_or_default() {
            let mut was = NameState::default();
            self.set(SubscriptionKind::Shard, &name, |standing, _| {
                was = std::mem::take(standing);
            });
            if was.desired {
                let has_gap = was.has_gap || was.confirmed_on.is_some();
                if has_gap { &mut interrupted } else { &mut new }.push(name);
            }
        }
        self.redirected.push(RedirectedNames {
            slot,
            to,
            interrupted,
            new,
        });
    }

    /// Counts one reply to a request, and returns what it means for those who wait.
    ///
    /// Replies arrive in the order of the requests, and those of [`restore`](Self::restore) were the first on
    /// the connection.
    fn answered(&mut self) -> PubSubReply {
        // Only the reply that completes the restore reports it: the event for the user must not repeat.
        let is_restored = self.is_restored();
        self.restore.unanswered = self.restore.unanswered.saturating_sub(1);
        match self.is_restored() {
            true if !is_restored => PubSubReply::Restored,
            _ if self.is_confirmed() || self.refused.is_some() => PubSubReply::Confirmed,
            _ => PubSubReply::Nothing,
        }
    }

    /// Changes the state of one name with `set`, which also receives the number of the connection, and keeps
    /// the counts.
    ///
    /// A name that is neither desired nor confirmed afterwards is removed, so memory is bounded by the
    /// subscriptions in use.
    fn set(&mut self, kind: SubscriptionKind, name: &[u8], set: impl FnOnce(&mut NameState, u64)) {
        let connection = self.connection;
        let names = &mut self.names[place(kind)];
        let before = names.get(name).copied().unwrap_or_default();
        let mut after = before;
        set(&mut after, connection);
        after.has_gap &= after.desired;
        after.reported_by = after.reported_by.filter(|_| after.desired);
        let is_regained = |standing: NameState| standing.reported_by == Some(self.next_missed);
        self.regained =
            self.regained + usize::from(is_regained(after)) - usize::from(is_regained(before));
        self.gaps = self.gaps + usize::from(after.has_gap) - usize::from(before.has_gap);
        // Added before subtracting: the counts are unsigned.
        self.desired_count =
            self.desired_count + usize::from(after.desired) - usize::from(before.desired);
        self.unconfirmed = self.unconfirmed + usize::from(!after.is_as_desired(connection))
            - usize::from(!before.is_as_desired(connection));
        if !after.desired && !after.is_confirmed(connection) {
            let removed = names.remove_entry(name);
            if removed.is_some() && self.is_cluster && kind == SubscriptionKind::Shard {
                self.forget_slot_of(name);
            }
        } else if let Some(standing) = names.get_mut(name) {
            *standing = after;
        } else {
            let shared = ChannelName::from(name);
            if self.is_cluster && kind == SubscriptionKind::Shard {
                let of_slot = self.by_slot.entry(channel_slot(name)).or_default();
                of_slot.insert(Arc::clone(&shared));
            }
            names.insert(shared, after);
        }
    }

    fn forget_slot_of(&mut self, name: &[u8]) {
        let slot = channel_slot(name);
        if let Some(of_slot) = self.by_slot.get_mut(&slot) {
            of_slot.remove(name);
            if of_slot.is_empty() {
                self.by_slot.remove(&slot);
            }
        }
    }
}

/// All kinds, in the order of [`place`].
const KINDS: [SubscriptionKind; 3] = SubscriptionKind::ALL;

/// Index of a kind in [`KINDS`] and in [`SubscriptionTracker::names`].
fn place(kind: SubscriptionKind) -> usize {
    match kind {
        SubscriptionKind::Channel => 0,
        SubscriptionKind::Pattern => 1,
        SubscriptionKind::Shard => 2,
    }
}

/// The second half of the meaning of a reply, besides its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    /// A published message.
    Message,
    /// A subscription was made.
    Begun,
    /// A subscription was ended.
    Ended,
}

/// The bytes of a string; empty for anything else.
fn text(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes,
        Some(Value::SimpleString(text)) => text.into_bytes(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(items: &[&str]) -> Value {
        Value::Array(
            items
                .iter()
                .map(|item| Value::BulkString(item.as_bytes().to_vec()))
                .collect(),
        )
    }

    fn names(names: &[&str]) -> Vec<ChannelName> {
        names.iter().map(|name| name.as_bytes().into()).collect()
    }

    /// Changes what is wanted; the request that tells the node.
    fn change(
        listening: &mut SubscriptionTracker,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        all: &[&str],
    ) -> Vec<u8> {
        let all = names(all);
        listening.begin_change();
        listening.change(change, kind, &all);
        let mut request = listening.request(change, kind);
        request.add(&all);
        request.take()
    }

    fn restore(listening: &mut SubscriptionTracker) -> Vec<u8> {
        listening.begin_restore();
        std::iter::from_fn(|| listening.restore())
            .flatten()
            .collect()
    }

    fn refuse(listening: &mut SubscriptionTracker) {
        let refusal = crate::error::server_error("NOPERM", "no");
        assert_eq!(
            listening.handle_reply(Value::ServerError(refusal), "n"),
            PubSubReply::Confirmed
        );
    }

    #[test]
    fn subscribe_is_confirmed_when_the_node_confirms_each_channel() {
        let mut listening = SubscriptionTracker::default();
        let packed = change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a", "b"],
        );
        assert_eq!(packed, b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n");
        assert!(!listening.is_confirmed());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "a"]), "n"),
            PubSubReply::Nothing
        );
        assert!(!listening.is_confirmed());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "b"]), "n"),
            PubSubReply::Confirmed
        );
        assert!(listening.is_confirmed());
        change(
            &mut listening,
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            &["a"],
        );
        assert!(!listening.is_confirmed());
        listening.handle_reply(array(&["unsubscribe", "a"]), "n");
        assert!(listening.is_confirmed());
    }

    #[test]
    fn all_subscriptions_are_sent_again_over_a_new_connection() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a"],
        );
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            &["p*"],
        );
        listening.handle_reply(array(&["subscribe", "a"]), "n");
        listening.handle_reply(array(&["psubscribe", "p*"]), "n");
        let packed = restore(&mut listening);
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\np*\r\n"
        );
        assert!(!listening.is_confirmed() && !listening.is_restored());
        assert_eq!(
            listening.handle_reply(array(&["subscribe", "a"]), "n"),
            PubSubReply::Nothing
        );
        assert!(!listening.is_restored());
        assert_eq!(
            listening.handle_reply(array(&["psubscribe", "p*"]), "n"),
            PubSubReply::Restored
        );
        assert!(listening.is_confirmed() && listening.is_restored());
    }

    #[test]
    fn subscription_changes_during_a_resubscription_are_sent_separately() {
        let mut listening = SubscriptionTracker::default();
        let many: Vec<String> = (0..3 * NAMES_AT_ONCE)
            .map(|number| format!("{number:06}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &many,
        );
        for name in &many {
            listening.handle_reply(array(&["subscribe", name]), "n");
        }
        assert!(listening.is_confirmed());
        listening.begin_restore();
        listening.restore().unwrap();
        // One that was asked for already, one that will be, and a new one.
        change(
            &mut listening,
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            &[many[0], many[many.len() - 1], "none"],
        );
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["000000x"],
        );
        let rest: Vec<u8> = std::iter::from_fn(|| listening.restore())
            .flatten()
            .collect();
        let asked = rest.split(|&byte| byte == b'*').count() - 1;
        assert_eq!(asked, 2 * NAMES_AT_ONCE - 1);
        for name in &many[..many.len() - 1] {
            assert!(!listening.is_restored());
            listening.handle_reply(array(&["subscribe", name]), "n");
        }
        assert!(listening.is_restored() && !listening.is_confirmed());
        for name in [many[0], many[many.len() - 1], "none"] {
            listening.handle_reply(array(&["unsubscribe", name]), "n");
        }
        listening.handle_reply(array(&["subscribe", "000000x"]), "n");
        assert!(listening.is_confirmed());
        assert_eq!(listening.desired_count, many.len() - 1);
    }

    #[test]
    fn refused_subscribe_leaves_earlier_subscriptions_in_place() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["a", "b"],
        );
        listening.handle_reply(array(&["subscribe", "a"]), "n");
        listening.handle_reply(array(&["subscribe", "b"]), "n");
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            &["x", "a", "x"],
        );
        refuse(&mut listening);
        // The connection breaks before the refusal is taken: nothing is confirmed.
        restore(&mut listening);
        assert!(listening.take_refusal().is_some());
        while !listening.roll_back() {}
        let packed = restore(&mut listening);
        assert_eq!(
            packed,
            b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n"
        );
    }

    #[test]
    fn message_and_pmessage_pushes_keep_their_channel_and_pattern() {
        let mut listening = SubscriptionTracker::default();
        let heard = listening.handle_reply(array(&["pmessage", "p*", "pub", "hello"]), "n");
        let expected = Message {
            channel: b"pub".to_vec(),
            pattern: Some(b"p*".to_vec()),
            payload: b"hello".to_vec(),
            kind: SubscriptionKind::Pattern,
        };
        assert_eq!(heard, PubSubReply::Message(expected));
        assert_eq!(
            listening.handle_reply(array(&["pong", ""]), "n"),
            PubSubReply::Nothing
        );
    }

    #[test]
    fn refused_subscribe_is_reported_once_and_not_repeated() {
        let mut listening = SubscriptionTracker::default();
        change(
            &mut listening,
            SubscriptionChange::Subscribe,
            SubscriptionKind::Shard,
            &["a"],
        );
        refuse(&mut listening);
        let error = listening.take_refusal().expect("a refusal");
        while !listening.roll_back() {}
        assert!(error.to_string().contains("NOPERM") && error.to_string().contains("node n"));
        assert!(listening.take_refusal().is_none() && listening.is_confirmed());
    }

    /// Subscriptions at `10.0.0.1:7000`, a node of a cluster, all confirmed.
    fn in_cluster(shards: &[&str]) -> SubscriptionTracker {
        let mut tracker = SubscriptionTracker::in_cluster();
        let (begin, kind) = (SubscriptionChange::Subscribe, SubscriptionKind::Shard);
        change(&mut tracker, begin, kind, shards);
        for name in shards {
            reply(&mut tracker, array(&["ssubscribe", name]));
        }
        assert!(tracker.is_confirmed());
        tracker
    }

    fn reply(tracker: &mut SubscriptionTracker, value: Value) -> PubSubReply {
        tracker.handle_reply(value, "10.0.0.1:7000")
    }

    fn error(code: &str, text: &str) -> Value {
        Value::ServerError(crate::error::server_error(code, text))
    }

    fn moved(name: &str, to: &str) -> Value {
        error("MOVED", &format!("{} {to}", channel_slot(name.as_bytes())))
    }

    #[test]
    fn ssubscribe_in_a_cluster_has_one_request_for_each_slot() {
        let mut tracker = SubscriptionTracker::in_cluster();
        let (begin, kind) = (SubscriptionChange::Subscribe, SubscriptionKind::Shard);
        let packed = change(&mut tracker, begin, kind, &["{a}1", "b", "{a}2"]);
        let requests = packed.split(|&byte| byte == b'*').count() - 1;
        assert_eq!(requests, 2);
        let of_one_slot = b"SSUBSCRIBE\r\n$4\r\n{a}1\r\n$4\r\n{a}2\r\n";
        assert!(
            packed
                .windows(of_one_slot.len())
                .any(|part| part == of_one_slot)
        );
        let mut plain = SubscriptionTracker::default();
        let packed = change(&mut plain, begin, kind, &["{a}1", "b"]);
        assert_eq!(packed.split(|&byte| byte == b'*').count() - 1, 1);
    }

    #[test]
    fn sunsubscribe_that_nobody_asked_for_subscribes_again_and_moved_hands_the_slot_over() {
        let mut tracker = in_cluster(&["{a}1", "{a}2", "b"]);
        for name in ["{a}1", "{a}2"] {
            let ended = reply(&mut tracker, array(&["sunsubscribe", name]));
            assert_eq!(ended, PubSubReply::Redirected);
        }
        assert!(tracker.take_ended() && !tracker.take_ended());
        assert_eq!(tracker.take_resubscribe(), Some(Resubscribe::AtOnce));
        let request = tracker.unconfirmed_shards();
        assert_eq!(
            request,
            b"*3\r\n$10\r\nSSUBSCRIBE\r\n$4\r\n{a}1\r\n$4\r\n{a}2\r\n"
        );
        assert_eq!(
            reply(&mut tracker, moved("{a}1", ":7001")),
            PubSubReply::Redirected
        );
        let redirected = tracker.take_redirected();
        assert_eq!(redirected.len(), 1);
        // Without a host, that of the server that has replied.
        assert_eq!(redirected[0].to.to_string(), "10.0.0.1:7001");
        assert_eq!(redirected[0].interrupted, names(&["{a}1", "{a}2"]));
        assert!(redirected[0].new.is_empty());
        assert!(tracker.is_confirmed() && !tracker.is_regained());
        let left: Vec<_> = tracker.desired()[2].iter().cloned().collect();
        assert_eq!(left, names(&["b"]));
    }

    #[test]
    fn subscription_accepted_again_by_the_node_that_ended_it_is_a_gap() {
        let mut tracker = in_cluster(&["{a}1", "{a}2"]);
        reply(&mut tracker, array(&["sunsubscribe", "{a}1"]));
        reply(&mut tracker, array(&["sunsubscribe", "{a}2"]));
        reply(&mut tracker, array(&["ssubscribe", "{a}1"]));
        assert!(!tracker.is_regained(), "one is not there yet");
        reply(&mut tracker, array(&["ssubscribe", "{a}2"]));
        assert!(tracker.is_regained());
        // They leave before that is reported.
        reply(&mut tracker, moved("{a}1", "10.0.0.2:7000"));
        assert!(!tracker.is_regained());
    }

    #[test]
    fn new_shard_channel_that_is_redirected_has_no_gap() {
        let mut tracker = in_cluster(&["{a}1"]);
        let (begin, kind) = (SubscriptionChange::Subscribe, SubscriptionKind::Shard);
        change(&mut tracker, begin, kind, &["{a}2"]);
        reply(&mut tracker, moved("{a}2", "10.0.0.2:7000"));
        let redirected = tracker.take_redirected();
        assert_eq!(redirected[0].new, names(&["{a}2"]));
        assert_eq!(redirected[0].interrupted, names(&["{a}1"]));
    }

    #[test]
    fn reply_to_sunsubscribe_that_was_asked_for_or_redirected_ends_it() {
        let (end, kind) = (SubscriptionChange::Unsubscribe, SubscriptionKind::Shard);
        for answer in [array(&["sunsubscribe", "a"]), moved("a", "10.0.0.2:7000")] {
            let mut tracker = in_cluster(&["a"]);
            change(&mut tracker, end, kind, &["a"]);
            assert!(!tracker.is_confirmed());
            reply(&mut tracker, answer);
            assert!(tracker.is_confirmed() && tracker.take_resubscribe().is_none());
            let names_left = tracker.take_redirected().into_iter();
            assert!(
                names_left
                    .flat_map(|left| left.interrupted)
                    .next()
                    .is_none()
            );
        }
    }

    #[test]
    fn ssubscribe_refused_for_the_time_being_is_sent_again_after_a_pause() {
        for code in ["CLUSTERDOWN", "ASK", "TRYAGAIN", "LOADING", "MASTERDOWN"] {
            let mut tracker = SubscriptionTracker::in_cluster();
            let (begin, kind) = (SubscriptionChange::Subscribe, SubscriptionKind::Shard);
            change(&mut tracker, begin, kind, &["a"]);
            reply(&mut tracker, error(code, "1 10.0.0.2:7000"));
            assert_eq!(
                tracker.take_resubscribe(),
                Some(Resubscribe::AfterPause),
                "{code}"
            );
            assert!(tracker.take_refusal().is_none(), "{code}");
            assert!(!tracker.unconfirmed_shards().is_empty());
        }
        // A node that is no cluster's refuses.
        let mut plain = SubscriptionTracker::default();
        reply(&mut plain, error("CLUSTERDOWN", "no"));
        assert!(plain.take_refusal().is_some());
    }
}
