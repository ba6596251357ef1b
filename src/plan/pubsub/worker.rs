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
use crate::plan::pubsub::{
    ChangeRequest, ChannelName, SubscriptionChange, SubscriptionKind, SubscriptionTracker,
};
use crate::policy::{BACKOFF_MAX, ConnectError, Down, IoFailure, pause};
use crate::resp::PING;

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
    /// Names came from another node, on which messages may have been missed, and the user has not been told yet.
    has_new_names: bool,
    /// A PING was sent, and nothing has arrived since.
    is_pinged: bool,
    has_ended: bool,
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
    /// A connection was made: all subscriptions have to be requested again on it.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.subscriptions.begin_restore();
        // What was queued for an earlier connection is part of what is restored.
        self.outgoing = Vec::new();
        self.connected_at = Some(now);
        self.outage = None;
        self.owes_missed = self.connections > 0 || std::mem::take(&mut self.has_new_names);
        self.connections += 1;
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
    pub(crate) fn take_missed(&mut self) -> bool {
        let is_restored = self.subscriptions.is_restored();
        let is_due = self.owes_missed && is_restored
            || self.has_new_names && is_restored && self.subscriptions.is_confirmed();
        if is_due {
            self.owes_missed = false;
            self.has_new_names = false;
        }
        is_due
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
        self.has_new_names |= change == SubscriptionChange::Subscribe;
        let mut request = ChangeRequest::new(change, kind);
        request.add(names);
        self.push(request.take())
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
        assert!(!worker.take_missed());
        for _ in 0..2 {
            let reconnect = worker.disconnected(broken(), now, 0.5);
            assert!(reconnect.is_disconnected);
            worker.connected(now);
            assert!(!worker.take_missed(), "nothing is restored yet");
            while worker.subscriptions.restore().is_some() {}
            assert!(worker.take_missed());
            assert!(!worker.take_missed());
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
