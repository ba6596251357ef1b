//! The life of one node's pub/sub connections, without I/O: what is decided between one connection and the next.
//!
//! ```text
//!             connected                        every subscription confirmed again
//!  no connection ──────▶ restoring ─────────────────────────────────────────────▶ restored
//!        ▲                   │   sends Missed, unless it is the first connection      │
//!        └───────────────────┴── ended: sends Disconnected, pauses, tries again ──────┘
//! ```
//!
//! A connection that is quiet for [`KEEPALIVE_AFTER`](super::KEEPALIVE_AFTER) gets a PING; quiet for as long again, it is given
//! up. The executors hold one [`SubscriptionWorker`] per node behind a lock and move the bytes.

use std::time::{Duration, Instant};

use crate::error::Error;
#[cfg(feature = "tokio-comp")]
use crate::plan::pubsub::ChangeRequest;
use crate::plan::pubsub::{
    ChannelName, RedirectedNames, Resubscribe, SubscriptionChange, SubscriptionKind,
    SubscriptionTracker,
};
use crate::policy::{BACKOFF_MAX, ConnectError, Down, IoFailure, pause};
use crate::resp::PING;

/// How long [`Event::Missed`](super::Event::Missed) is held back after a node of a cluster has ended a subscription and
/// accepted it again. A node that was demoted does so; by then its successor is known, and the names are there.
const MISSED_HELD_BACK: Duration = Duration::from_secs(1);

/// The subscriptions at one node, and the state of the connection that carries them.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionWorker {
    pub(crate) subscriptions: SubscriptionTracker,
    /// Requests for the connection there is.
    outgoing: Vec<u8>,
    /// When the connection was made, while there is one.
    connected_at: Option<Instant>,
    /// Number of connections made so far.
    connections: u64,
    /// Connections in a row that broke soon after they were made.
    short_lived: u32,
    /// Why there is no connection.
    outage: Option<ConnectError>,
    /// Number of connections that broke or could not be made.
    failed: u64,
    /// Messages may have been missed before this connection, and the user has not been told yet.
    owes_missed: bool,
    /// When shard channels are requested again that the node has ended or refused.
    resubscribe_at: Option<Instant>,
    /// Number of times in a row that they were refused for the time being.
    refusals: u32,
    /// Until when the user is not told of a gap, as the names may still go elsewhere, with an event of their own.
    is_held_until: Option<Instant>,
    /// A connection was lost, or could not be made, and the subscriber has not been told yet.
    loss: Loss,
    /// A PING was sent, and nothing has arrived since.
    is_pinged: bool,
    has_ended: bool,
}

/// What has happened to the connection of a node of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    #[default]
    None,
    /// The connection broke.
    Broken,
    /// No connection could be made: classic subscriptions are made elsewhere.
    Unreachable,
}

/// What the connection to a node of a cluster means for the others.
#[derive(Debug, Default)]
pub(crate) struct ClusterSignals {
    pub(crate) loss: Loss,
    /// True if the node has ended subscriptions: it may have lost a slot, or be no primary any more.
    pub(crate) is_ended: bool,
    pub(crate) redirected: Vec<RedirectedNames>,
}

/// Why there is no connection any more.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// It broke.
    Broken(ConnectError),
    /// It could not be made.
    NotMade(ConnectError),
    /// It was not tried: the node is known to be down, and is left alone for a while.
    Down(Down),
}

/// What to do before the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reconnect {
    /// How long to wait.
    pub(crate) pause: Duration,
    /// Whether to send [`Event::Disconnected`](super::Event::Disconnected) first.
    pub(crate) is_disconnected: bool,
    /// The node is left alone: no need to wait longer than until another connection of the client has reached it.
    pub(crate) is_left_alone: bool,
    /// Whether the subscriber has [signals](SubscriptionWorker::take_signals) to take.
    pub(crate) has_signals: bool,
}

/// What a change of subscriptions is waiting for.
#[derive(Debug)]
pub(crate) enum ChangeProgress {
    /// The node has confirmed all of it.
    Confirmed,
    /// The node refused it. It must be [rolled back](SubscriptionTracker::roll_back).
    Refused(Error),
    /// The node cannot be reached.
    Unreachable(ConnectError),
    /// A reply, or a connection.
    Pending,
}

impl SubscriptionWorker {
    /// No subscriptions yet, at a plain node or at one of a cluster.
    pub(crate) fn new(is_cluster: bool) -> Self {
        match is_cluster {
            false => Self::default(),
            true => Self {
                subscriptions: SubscriptionTracker::in_cluster(),
                ..Self::default()
            },
        }
    }

    /// A connection was made: all subscriptions have to be requested again on it.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.subscriptions.begin_restore();
        // What was queued for an earlier connection is part of what is restored.
        self.outgoing = Vec::new();
        self.connected_at = Some(now);
        self.outage = None;
        self.owes_missed = self.connections > 0 || self.subscriptions.has_gaps();
        self.connections += 1;
        self.resubscribe_at = None;
        self.is_held_until = None;
        self.is_pinged = false;
    }

    /// There is no connection any more, or none was made. `jitter` in 0..1 spreads the attempts of many clients.
    pub(crate) fn disconnected(
        &mut self,
        end: ConnectionEnd,
        now: Instant,
        jitter: f64,
    ) -> Reconnect {
        let connected_at = self.connected_at.take();
        self.outgoing = Vec::new();
        let is_left_alone = matches!(end, ConnectionEnd::Down(_));
        if self.subscriptions.is_cluster() {
            let loss = match end {
                ConnectionEnd::Broken(_) => Loss::Broken,
                ConnectionEnd::NotMade(_) | ConnectionEnd::Down(_) => Loss::Unreachable,
            };
            self.loss = self.loss.max(loss);
        }
        let (why, pause) = match end {
            ConnectionEnd::Broken(why) => {
                // A server that accepts connections and closes them at once must not be hammered; the backoff of the node
                // knows nothing of it, because each attempt to connect succeeds.
                let lived = connected_at.map_or(Duration::ZERO, |at| now.duration_since(at));
                self.short_lived = match lived > BACKOFF_MAX {
                    true => 1,
                    false => self.short_lived.saturating_add(1),
                };
                (why, pause(self.short_lived, jitter))
            }
            // The backoff of the node says how long it is left alone: it is asked next.
            ConnectionEnd::NotMade(why) => (why, Duration::ZERO),
            ConnectionEnd::Down(down) => (down.reason, down.retry_in),
        };
        self.outage = Some(why);
        self.failed += u64::from(!is_left_alone);
        Reconnect {
            pause,
            is_disconnected: connected_at.is_some(),
            is_left_alone,
            has_signals: self.loss != Loss::None,
        }
    }

    /// Starts anew without the connection there was, if any. Returns true if there was one.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn restart(&mut self) -> bool {
        self.outgoing = Vec::new();
        self.outage = None;
        self.connected_at.take().is_some()
    }

    /// True once after a reconnection, when [`Event::Missed`](super::Event::Missed) is due.
    ///
    /// Only once the node has confirmed the subscriptions: a user who reads the data on this event must not miss what is
    /// published after the read.
    pub(crate) fn take_missed(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let subscriptions = &mut self.subscriptions;
        if !subscriptions.is_restored() {
            return false;
        }
        if let Some(until) = self.is_held_until {
            if now() < until {
                return false;
            }
            self.is_held_until = None;
        }
        // What is refused for the time being must not hold the event back for the others.
        let is_regained = subscriptions.is_regained() || self.refusals > 0;
        let is_regained = is_regained && subscriptions.take_regained();
        let owes_missed = std::mem::take(&mut self.owes_missed);
        // All names may have gone to other nodes of the cluster meanwhile.
        let is_used = !(subscriptions.is_cluster() && subscriptions.is_unused());
        let is_due = is_regained || owes_missed && is_used;
        if is_due {
            subscriptions.take_regained();
        }
        is_due
    }

    /// Begins a change of the user's own, and returns its request, without names yet.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn begin_change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
    ) -> ChangeRequest {
        self.subscriptions.begin_change();
        self.subscriptions.request(change, kind)
    }

    /// Changes the subscriptions at this node because the topology has changed. Returns true if there is a request to
    /// write; without a connection there is none, as the next one makes all subscriptions.
    pub(crate) fn change_owner(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: &[ChannelName],
    ) -> bool {
        self.subscriptions.change_owner(change, kind, names);
        let mut request = self.subscriptions.request(change, kind);
        request.add(names);
        self.push(request.take())
    }

    /// Takes over shard channels that another server of the cluster has redirected to this node. Returns true if there
    /// is a request to write. With a pause, that is a PING, whose reply wakes the connection.
    pub(crate) fn take_over(&mut self, redirected: &RedirectedNames, is_delayed: bool) -> bool {
        let (change, kind) = (SubscriptionChange::Subscribe, SubscriptionKind::Shard);
        self.subscriptions
            .change_owner(change, kind, &redirected.interrupted);
        // A refusal of this node takes these back.
        self.subscriptions.change(change, kind, &redirected.new);
        if is_delayed {
            self.subscriptions.resubscribe_later();
            return self.push(PING.to_vec());
        }
        let mut request = self.subscriptions.request(change, kind);
        request.add(&redirected.interrupted);
        request.add(&redirected.new);
        self.push(request.take())
    }

    /// True if there is something to [take](Self::take_signals).
    pub(crate) fn has_signals(&self) -> bool {
        self.loss != Loss::None || self.subscriptions.has_signals()
    }

    /// What the connection means for those to other nodes of the cluster.
    pub(crate) fn take_signals(&mut self) -> ClusterSignals {
        ClusterSignals {
            loss: std::mem::take(&mut self.loss),
            is_ended: self.subscriptions.take_ended(),
            redirected: self.subscriptions.take_redirected(),
        }
    }

    /// Has shard channels requested again that the node has ended or refused, now or after a pause. Called when all
    /// replies that have arrived are handled, and at [`wakes_at`](Self::wakes_at). Returns true if there is a request
    /// to write.
    pub(crate) fn resubscribe(&mut self, now: Instant, jitter: f64) -> bool {
        match self.subscriptions.take_resubscribe() {
            None => {}
            Some(Resubscribe::AtOnce) => {
                self.resubscribe_at = Some(now);
                self.is_held_until = Some(now + MISSED_HELD_BACK);
            }
            Some(Resubscribe::AfterPause) => {
                self.refusals = self.refusals.saturating_add(1);
                let at = now + pause(self.refusals, jitter);
                self.resubscribe_at.get_or_insert(at);
            }
        }
        if self.subscriptions.is_confirmed() {
            self.refusals = 0;
            self.resubscribe_at = None;
        }
        // The replies to a restore are counted.
        if !self.subscriptions.is_restored() || self.resubscribe_at.is_none_or(|at| at > now) {
            return false;
        }
        self.resubscribe_at = None;
        let request = self.subscriptions.unconfirmed_shards();
        self.push(request)
    }

    /// When [`resubscribe`](Self::resubscribe) or [`take_missed`](Self::take_missed) is due next without a reply.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let due = self.resubscribe_at.into_iter().chain(self.is_held_until);
        due.min().filter(|_| self.subscriptions.is_restored())
    }

    /// Ends what a refused change, now rolled back, has begun all the same: shard channels of other slots. Returns true
    /// if there is a request to write.
    pub(crate) fn end_refused(&mut self) -> bool {
        let is_left = self.subscriptions.is_cluster() && !self.subscriptions.is_confirmed();
        is_left && self.push(self.subscriptions.unconfirmed_shards())
    }

    /// Bytes arrived.
    pub(crate) fn received(&mut self) {
        self.is_pinged = false;
    }

    /// Nothing arrived for [`KEEPALIVE_AFTER`](super::KEEPALIVE_AFTER): adds a PING to what is to be sent.
    ///
    /// # Errors
    ///
    /// When a PING was sent before and nothing has arrived since: the connection is broken.
    pub(crate) fn quiet(&mut self) -> Result<(), ConnectError> {
        if self.is_pinged {
            return Err(IoFailure::timed_out("timed out: no reply to PING in time").into());
        }
        self.is_pinged = true;
        self.outgoing.extend_from_slice(PING);
        Ok(())
    }

    /// Adds a request for the connection there is. Returns false if there is none: the next one restores everything anyway.
    pub(crate) fn push(&mut self, request: Vec<u8>) -> bool {
        if self.connected_at.is_none() {
            return false;
        }
        match self.outgoing.is_empty() {
            true => self.outgoing = request,
            false => self.outgoing.extend_from_slice(&request),
        }
        true
    }

    /// Takes what is to be sent.
    pub(crate) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Number of connections that broke or could not be made so far.
    pub(crate) fn failed_count(&self) -> u64 {
        self.failed
    }

    /// How far a change of subscriptions is that began after `failed_before` failures. While the node is known to be down, a
    /// change waits for one attempt that is due, and for no other.
    pub(crate) fn change_progress(
        &mut self,
        failed_before: u64,
        is_attempt_due: impl FnOnce() -> bool,
    ) -> ChangeProgress {
        if let Some(refusal) = self.subscriptions.take_refusal() {
            return ChangeProgress::Refused(refusal);
        }
        if self.subscriptions.is_confirmed() {
            self.subscriptions.end_change();
            return ChangeProgress::Confirmed;
        }
        match &self.outage {
            Some(outage) if self.failed != failed_before || !is_attempt_due() => {
                ChangeProgress::Unreachable(outage.clone())
            }
            _ => ChangeProgress::Pending,
        }
    }

    /// The user has dropped the subscriber.
    pub(crate) fn end(&mut self) {
        self.has_ended = true;
    }

    /// True if the user has dropped the subscriber.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> ConnectionEnd {
        ConnectionEnd::Broken("closed by the server".into())
    }

    #[test]
    fn idle_subscriber_connection_gets_one_ping_and_is_closed_if_nothing_arrives() {
        let mut worker = SubscriptionWorker::default();
        worker.connected(Instant::now());
        assert!(worker.quiet().is_ok());
        assert_eq!(worker.take_outgoing(), PING);
        worker.received();
        assert!(worker.quiet().is_ok(), "something arrived in between");
        assert!(worker.quiet().is_err());
    }

    #[test]
    fn event_missed_is_due_once_after_each_reconnection_of_a_subscriber() {
        let mut worker = SubscriptionWorker::default();
        let now = Instant::now();
        worker.connected(now);
        while worker.subscriptions.restore().is_some() {}
        assert!(!worker.take_missed(Instant::now));
        for _ in 0..2 {
            let reconnect = worker.disconnected(broken(), now, 0.5);
            assert!(reconnect.is_disconnected);
            worker.connected(now);
            assert!(!worker.take_missed(Instant::now), "nothing is restored yet");
            while worker.subscriptions.restore().is_some() {}
            assert!(worker.take_missed(Instant::now));
            assert!(!worker.take_missed(Instant::now));
        }
    }

    #[test]
    fn subscriber_connection_that_breaks_at_once_is_replaced_with_growing_backoff() {
        let mut worker = SubscriptionWorker::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..5 {
            worker.connected(now);
            pauses.push(worker.disconnected(broken(), now, 1.0).pause);
        }
        assert!(
            pauses.is_sorted() && pauses[4] > 8 * pauses[0],
            "{pauses:?}"
        );
        worker.connected(now);
        now += 2 * BACKOFF_MAX;
        assert_eq!(worker.disconnected(broken(), now, 1.0).pause, pauses[0]);
    }

    #[test]
    fn subscriber_counts_failed_connection_attempts_but_not_those_prevented_by_backoff() {
        let mut worker = SubscriptionWorker::default();
        let now = Instant::now();
        let down = Down {
            reason: "refused".into(),
            since: Duration::ZERO,
            retry_in: Duration::from_millis(70),
        };
        let reconnect = worker.disconnected(ConnectionEnd::Down(down), now, 0.5);
        assert_eq!(
            reconnect,
            Reconnect {
                pause: Duration::from_millis(70),
                is_disconnected: false,
                is_left_alone: true,
                has_signals: false,
            }
        );
        assert_eq!(worker.failed_count(), 0);
        let reconnect = worker.disconnected(ConnectionEnd::NotMade("refused".into()), now, 0.5);
        assert_eq!(reconnect.pause, Duration::ZERO);
        assert_eq!(worker.failed_count(), 1);
    }

    #[test]
    fn subscribe_waits_only_for_a_connection_attempt_that_is_due() {
        let mut worker = SubscriptionWorker::default();
        let now = Instant::now();
        worker.subscriptions.begin_change();
        let kind = crate::plan::pubsub::SubscriptionKind::Channel;
        let change = crate::plan::pubsub::SubscriptionChange::Subscribe;
        worker
            .subscriptions
            .change(change, kind, &[b"news"[..].into()]);
        let pending = |progress| matches!(progress, ChangeProgress::Pending);
        assert!(
            pending(worker.change_progress(0, || false)),
            "no attempt yet"
        );
        worker.disconnected(ConnectionEnd::NotMade("refused".into()), now, 0.5);
        assert!(pending(worker.change_progress(1, || true)));
        for (failed_before, is_due) in [(1, false), (0, true)] {
            let progress = worker.change_progress(failed_before, || is_due);
            assert!(matches!(progress, ChangeProgress::Unreachable(_)));
        }
        assert!(
            !worker.push(b"SUBSCRIBE".to_vec()),
            "there is no connection"
        );
    }
}
