//! The shared connection to one node: made when it is first needed, and remade in the background when it
//! breaks.
//!
//! ```text
//!              acquire: no connection            attempt succeeded
//!  no connection ───────────▶ connecting ─────────────────────────▶ connected
//!       ▲                     │       ▲                                 │
//!       │ its runtime ended   │       │ failed: wait for the backoff,   │ the driver ended
//!       └─────────────────────┤       └ then the next attempt           │
//!                             └◀────────────────────────────────────────┘
//! ```
//!
//! At most one task connects at a time. It is spawned on the runtime of the request that needs it, and that
//! runtime may end, or be a current-thread one that is not run for a while. Tasks are therefore numbered and
//! have an `overdue` time: a request that finds the current task overdue starts another, and if the old one
//! ever runs again, its number is out of date and it ends.
//!
//! Requests never wait for a node that is known to be down, with one exception: see [`State::needs_polling`].

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::aio::connector::{Connector, current_thread_runtime};
use crate::aio::multiplexed::MultiplexedConnection;
use crate::endpoint::Deadline;
use crate::endpoint::{ConnectAttempt, NodeBackoff};
use crate::observe::PoolKind;
use crate::plan::Cause;
use crate::policy::{BACKOFF_MIN, ConnectError, HandshakeScope, OVERDUE_SLACK};

/// A node's shared connection.
pub(crate) struct ReconnectingConnection {
    /// How connections are made.
    connector: Connector,
    /// The last connection made, which may have closed since. Read without a lock by every request; written
    /// under that of `state`.
    current: ArcSwapOption<MultiplexedConnection>,
    /// Locked before the queue of a connection, never after it.
    state: Mutex<State>,
}

/// The task that connects, and the last connection.
#[derive(Default)]
struct State {
    /// The current task, if there is one. Older ones may still exist on a runtime that is not run.
    attempt: Option<ConnectTask>,
    /// Number of tasks started so far, which is the number of the current one.
    tasks: u64,
    /// True while a request waits for the attempt that is due; see [`PollingRequest`].
    polled_by_request: bool,
    /// When the last connection was made; a short life delays the next one.
    connected_at: Option<Instant>,
}

/// A task that connects.
struct ConnectTask {
    /// True if it lives on a current-thread runtime.
    only_when_blocked_on: bool,
    /// If it has neither ended nor begun its next step by then, its runtime is not being run.
    overdue: Instant,
    /// True while it waits for the node's backoff.
    is_left_alone: bool,
}

impl ReconnectingConnection {
    /// A connection that is made when it is first needed.
    pub(crate) fn new(connector: Connector) -> Self {
        Self {
            connector,
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
        }
    }

    /// Returns the connection. Waits for the first one; fails at once while the node is known to be down.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Arc<MultiplexedConnection>, Cause> {
        // The waiting is boxed, as it is rare and would be part of the future of every request.
        let Some(connection) = self.current() else {
            return Box::pin(self.wait_connected(deadline)).await;
        };
        self.connector.acknowledge(&connection);
        match self.connector.is_renewal_due(&connection) {
            false => Ok(connection),
            true => Box::pin(self.renew(connection, deadline)).await,
        }
    }

    /// Returns the connection once it has presented the current login, or a new one if it cannot.
    async fn renew(
        self: &Arc<Self>,
        connection: Arc<MultiplexedConnection>,
        deadline: Deadline,
    ) -> Result<Arc<MultiplexedConnection>, Cause> {
        let limit = deadline.within(self.connector.timeout);
        if self.connector.renew(&connection, limit).await.is_ok() {
            return Ok(connection);
        }
        // A request in a hurry is no evidence against the connection, which others use.
        if deadline.is_over() {
            return Err(Cause::no_connection_in_time(&self.connector.address));
        }
        {
            // Refused, or broken: a new connection shows which, and its error is the one that the node's
            // backoff keeps. Requests that were sent over this one still get their replies.
            let _state = self.state.lock();
            let current = self.current.load();
            if current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &connection))
            {
                self.current.store(None);
            }
        }
        drop(connection);
        self.wait_connected(deadline).await
    }

    /// Waits until there is a connection, the node is known to be down, or the deadline has passed.
    ///
    /// The `carrier` is set if this request is the one that waits although the node is down.
    async fn wait_connected(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Arc<MultiplexedConnection>, Cause> {
        let mut carrier: Option<PollingRequest> = None;
        loop {
            // Registered before the state is read, or a connection made in between would go unnoticed.
            let changed = self.connector.backoff.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            // Also while the node is down: the task that retries may have ended with its runtime, or its
            // runtime is not run.
            self.start_connecting();
            let backoff = &self.connector.backoff;
            let overdue = {
                let mut state = self.state.lock();
                if let Some(down) = backoff.outage() {
                    // A carrier leaves when an attempt has failed since it began; others never stay, unless
                    // they become the carrier.
                    let goes_on = match &carrier {
                        Some(carrier) => carrier.failed == backoff.failed_count(),
                        None => backoff.is_due() && state.needs_polling(),
                    };
                    if !goes_on {
                        return Err(down.into());
                    }
                    if carrier.is_none() {
                        carrier = Some(PollingRequest::new(self, &mut state));
                    }
                }
                state.attempt.as_ref().map(|attempt| attempt.overdue)
            };
            // Also wakes when the attempt becomes overdue, to start another on this runtime.
            let end = match (deadline.end(), overdue) {
                (Some(end), Some(overdue)) => Some(end.min(overdue)),
                (end, overdue) => end.or(overdue),
            };
            let waited = match end {
                None => {
                    changed.await;
                    Ok(())
                }
                Some(end) => tokio::time::timeout_at(end.into(), changed).await,
            };
            if waited.is_err() && deadline.end().is_some_and(|end| end <= Instant::now()) {
                return Err(Cause::no_connection_in_time(&self.connector.address));
            }
        }
    }

    /// Has the connection, if there is one, present the record that the client goes by now.
    pub(crate) fn acknowledge_idle(&self) {
        // Under the lock, or a connection that is made in the meantime would be missed; it looks for itself then.
        let _state = self.state.lock();
        if let Some(connection) = &*self.current.load() {
            self.connector.acknowledge(connection);
        }
    }

    /// True if there is a connection that has not closed.
    pub(crate) fn is_connected(&self) -> bool {
        self.current().is_some()
    }

    /// The current connection, if it has not closed and leads to the node's primary. One that leads to the former
    /// primary is replaced; requests that were sent over it still get their replies.
    fn current(&self) -> Option<Arc<MultiplexedConnection>> {
        self.current
            .load_full()
            .filter(|connection| !connection.is_closed() && !connection.is_outdated())
    }

    /// Starts the task that connects, unless there is a connection or a task that is still being run.
    ///
    /// Waits [`BACKOFF_MIN`] first if the last connection was short-lived, so that a server that closes every
    /// connection is not hammered.
    fn start_connecting(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        // Checked again under the lock: a connection may have been made since the caller checked. A task that
        // waits for the backoff is replaced once another connection has reached the node.
        let is_found = self.connector.backoff.outage().is_none();
        let is_run =
            |attempt: &ConnectTask| now < attempt.overdue && !(attempt.is_left_alone && is_found);
        if self.current().is_some() || state.attempt.as_ref().is_some_and(is_run) {
            return;
        }
        let short_lived = state
            .connected_at
            .is_some_and(|made| made.elapsed() < BACKOFF_MIN);
        let pause = if short_lived {
            BACKOFF_MIN
        } else {
            Duration::ZERO
        };
        state.tasks += 1;
        let number = state.tasks;
        state.attempt = Some(ConnectTask {
            only_when_blocked_on: current_thread_runtime().is_some(),
            overdue: self.overdue(pause),
            is_left_alone: false,
        });
        drop(state);
        // Spawned after the lock is released: a runtime that is shutting down drops the task within `spawn`,
        // and its destructor takes the lock.
        let task = Connecting {
            owner: Arc::downgrade(self),
            number,
        };
        tokio::spawn(task.run(pause));
    }

    /// When a task that first waits for `pause` and then connects is overdue.
    fn overdue(&self, pause: Duration) -> Instant {
        Instant::now() + pause + self.connector.timeout + OVERDUE_SLACK
    }
}

impl State {
    /// True if the next request has to wait for an attempt although the node is known to be down.
    ///
    /// A current-thread runtime makes no attempt in the background, so unless some request stays inside
    /// `block_on` until the attempt has been made, the node is never found again. One request at a time is
    /// enough; all others fail at once.
    fn needs_polling(&self) -> bool {
        let needs_it = |attempt: &ConnectTask| attempt.only_when_blocked_on;
        !self.polled_by_request
            && (current_thread_runtime().is_some() || self.attempt.as_ref().is_some_and(needs_it))
    }
}

/// The request that waits for an attempt on a node that is down. Its destructor frees the role, also when its
/// future is dropped.
struct PollingRequest {
    owner: Weak<ReconnectingConnection>,
    /// Number of failed attempts when it began.
    failed: u64,
}

impl PollingRequest {
    /// Takes the role. The caller holds the lock, so there is never a second one.
    fn new(owner: &Arc<ReconnectingConnection>, state: &mut State) -> Self {
        state.polled_by_request = true;
        Self {
            owner: Arc::downgrade(owner),
            failed: owner.connector.backoff.failed_count(),
        }
    }
}

impl Drop for PollingRequest {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.state.lock().polled_by_request = false;
        }
    }
}

/// The task that connects, until there is a connection or the client is gone.
struct Connecting {
    /// Weak, so that a client that has been dropped does not go on connecting.
    owner: Weak<ReconnectingConnection>,
    /// Compared with [`State::tasks`].
    number: u64,
}

impl Connecting {
    /// Alternates between attempts and pauses.
    async fn run(self, pause: Duration) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        while let Some(next) = self.begin() {
            match next {
                Next::Try(connector, attempt) => {
                    let ended = self.attempt(&connector, attempt).await;
                    if ended == Err(ConnectError::Superseded) {
                        // The newer record may have to be fetched first.
                        tokio::time::sleep(BACKOFF_MIN).await;
                    }
                }
                Next::Wait(backoff, pause) => {
                    // Ends early when another connection has learned more of the node. Either way the backoff
                    // is consulted next.
                    let _ = tokio::time::timeout(pause, backoff.changed()).await;
                }
            }
        }
    }

    /// Makes one attempt, and publishes its connection.
    async fn attempt(
        &self,
        connector: &Connector,
        attempt: ConnectAttempt,
    ) -> Result<(), ConnectError> {
        let weak = self.owner.clone();
        let made = connector
            .connect(PoolKind::Shared, HandshakeScope::Full, move || {
                if let Some(owner) = weak.upgrade() {
                    owner.start_connecting();
                }
            })
            .await;
        // The outcome goes to the backoff first, even if this task has been replaced: it is evidence all the
        // same.
        let connection = attempt.end(made)?;
        let Some(owner) = self.owner.upgrade() else {
            return Ok(());
        };
        let mut state = owner.state.lock();
        // Replaced while it connected. The connection is dropped, and its `closed` starts nothing, as there
        // is a newer task.
        if state.tasks != self.number {
            return Ok(());
        }
        state.attempt = None;
        state.connected_at = Some(Instant::now());
        connection.drain_on_drop();
        // Under the lock: see `acknowledge_idle`.
        connector.acknowledge(&connection);
        owner.current.store(Some(Arc::new(connection)));
        // Waiters are woken after the connection can be seen.
        drop(state);
        connector.backoff.notify();
        Ok(())
    }

    /// Chooses the next step. `None` if this task has been replaced, or the client is gone.
    fn begin(&self) -> Option<Next> {
        let owner = self.owner.upgrade()?;
        let connector = &owner.connector;
        let mut state = owner.state.lock();
        if state.tasks != self.number {
            return None;
        }
        let attempt = state.attempt.as_mut()?;
        let begun = connector
            .backoff
            .try_begin(connector.timeout, HandshakeScope::Full);
        attempt.is_left_alone = begun.is_err();
        let (next, pause) = match begun {
            Ok(begun) => (
                Next::Try(Box::new(connector.clone()), begun),
                Duration::ZERO,
            ),
            Err(down) => {
                let backoff = Arc::clone(&connector.backoff);
                (Next::Wait(backoff, down.retry_in), down.retry_in)
            }
        };
        attempt.overdue = owner.overdue(pause);
        Some(next)
    }
}

/// The next step of a task.
enum Next {
    /// Connect. The backoff has admitted the attempt.
    Try(Box<Connector>, ConnectAttempt),
    /// Wait this long for the backoff. The owner is not kept alive by waiting.
    Wait(Arc<NodeBackoff>, Duration),
}

impl Drop for Connecting {
    /// Runs when the runtime shuts down with the task on it. Wakes the waiting requests, the first of which
    /// starts another.
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            let mut state = owner.state.lock();
            if state.tasks == self.number && state.attempt.take().is_some() {
                drop(state);
                owner.connector.backoff.notify();
            }
        }
    }
}

impl fmt::Debug for ReconnectingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconnectingConnection")
            .field("address", &self.connector.address)
            .field("connection", &self.current.load())
            .finish_non_exhaustive()
    }
}
