//! The connections of one node.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::PROBE_AFTER;
use crate::endpoint::ConnectAttempt;
use crate::endpoint::Deadline;
use crate::plan::{Cause, PoolUse};
use crate::resp::PING;
use crate::sync::connection::{Connector, NodeConnection};

/// How a pool behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// The most connections it has at a time.
    pub(super) size: usize,
    pub(super) connect_timeout: Duration,
    /// A connection unused for longer is asked with PING before it is used.
    pub(super) idle_check: Duration,
    /// What it is for.
    pub(super) pool_use: PoolUse,
}

/// A bounded number of connections to one node, made when needed, the one used last given out first.
pub(super) struct Pool {
    connector: Connector,
    address: String,
    settings: PoolSettings,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<NodeConnection>,
    /// Connections that exist or are being made.
    open: usize,
    waiting: usize,
    /// Counts up when a connection broke: those made before are not trusted any more.
    generation: u64,
}

/// Which connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkout {
    /// One that is at hand, or a new one.
    Reuse,
    /// A new one.
    Fresh,
}

/// Whether an idle connection is still one.
enum Liveness {
    Good,
    Gone,
}

/// What the pool has to offer.
enum CheckoutStep {
    Idle(NodeConnection),
    Make {
        generation: u64,
        attempt: ConnectAttempt,
    },
}

impl Pool {
    pub(super) fn new(connector: Connector, address: String, settings: PoolSettings) -> Self {
        Self {
            connector,
            address,
            settings,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// How connections are made, and how long that may take.
    pub(super) fn connector(&self) -> (Connector, Duration) {
        (self.connector.clone(), self.settings.connect_timeout)
    }

    /// A connection that is returned to the pool if it is given back, and closed otherwise.
    pub(super) fn lease(&self, wanted: Checkout, deadline: &Deadline) -> Result<Lease<'_>, Cause> {
        let connection = self.take(wanted, deadline)?;
        let place = PoolPermit {
            pool: self,
            ended: false,
        };
        Ok(Lease { connection, place })
    }

    /// A connection. It must go to [`release`](Self::release) or be reported to [`discard`](Self::discard).
    pub(super) fn take(
        &self,
        mut wanted: Checkout,
        deadline: &Deadline,
    ) -> Result<NodeConnection, Cause> {
        loop {
            match self.next_step(wanted, deadline)? {
                CheckoutStep::Idle(mut connection) => {
                    match self.check_liveness(&mut connection, deadline) {
                        Liveness::Good => return Ok(connection),
                        Liveness::Gone => {
                            drop(connection);
                            self.discard_all_idle();
                            wanted = Checkout::Fresh;
                        }
                    }
                }
                CheckoutStep::Make {
                    generation,
                    attempt,
                } => return self.connect(generation, attempt, deadline),
            }
        }
    }

    /// Takes back a connection that owes nothing.
    pub(super) fn release(&self, mut connection: NodeConnection, used: Instant) {
        connection.last_used = used;
        let mut state = self.state.lock();
        if connection.generation == state.generation {
            state.idle.push(connection);
        } else {
            state.open -= 1;
        }
        self.wake(state);
    }

    /// A connection is no more, and that says nothing of the others.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        self.wake(state);
    }

    /// A connection broke: those that lie idle are probably broken too, and are closed.
    pub(super) fn discard_all_idle(&self) {
        let mut state = self.state.lock();
        state.open -= 1 + state.idle.len();
        state.generation += 1;
        let idle = std::mem::take(&mut state.idle);
        self.wake(state);
        drop(idle);
    }

    fn wake(&self, state: parking_lot::MutexGuard<'_, State>) {
        let waiting = state.waiting;
        drop(state);
        if waiting > 0 {
            self.freed.notify_one();
        }
    }

    fn next_step(&self, wanted: Checkout, deadline: &Deadline) -> Result<CheckoutStep, Cause> {
        let mut state = self.state.lock();
        loop {
            if wanted == Checkout::Reuse
                && let Some(connection) = state.idle.pop()
            {
                return Ok(CheckoutStep::Idle(connection));
            }
            if state.open >= self.settings.size && state.idle.pop().is_some() {
                state.open -= 1;
            }
            if state.open < self.settings.size {
                let limit = self.settings.connect_timeout;
                return match self.connector.backoff.try_begin(limit) {
                    Ok(attempt) => {
                        state.open += 1;
                        Ok(CheckoutStep::Make {
                            generation: state.generation,
                            attempt,
                        })
                    }
                    Err(down) => {
                        // Whoever was waked for this place makes no use of it, and the next in the row must not sleep on.
                        self.wake(state);
                        Err(down.into())
                    }
                };
            }
            state.waiting += 1;
            let late = match deadline.end() {
                Some(end) => self.freed.wait_until(&mut state, end).timed_out(),
                None => {
                    self.freed.wait(&mut state);
                    false
                }
            };
            state.waiting -= 1;
            if late && state.idle.is_empty() && state.open >= self.settings.size {
                return Err(Cause::pool_exhausted(&self.address, self.settings.pool_use));
            }
        }
    }

    /// Time for a question that leaves as much for the request itself.
    fn half(&self, deadline: &Deadline) -> Deadline {
        let half = deadline.remaining().map_or(Duration::MAX, |left| left / 2);
        deadline.within(half.min(self.settings.connect_timeout))
    }

    fn connect(
        &self,
        generation: u64,
        attempt: ConnectAttempt,
        deadline: &Deadline,
    ) -> Result<NodeConnection, Cause> {
        let allotted = deadline.within(self.settings.connect_timeout);
        let error = match self.connector.connect(&allotted, generation) {
            Ok(connection) => {
                attempt.connected();
                return Ok(connection);
            }
            Err(error) => error,
        };
        let reason = self.connector.error(&error);
        // A request that comes late gives the node no fair chance, so its failure says nothing of the node.
        let usual = deadline.within_limit(self.settings.connect_timeout);
        if allotted.is_over() && allotted.limit() < Some(usual / 2) {
            drop(attempt);
        } else {
            attempt.failed(reason.clone());
        }
        let mut state = self.state.lock();
        state.open -= 1;
        self.wake(state);
        match deadline.is_over() {
            true => Err(Cause::no_connection_in_time(&self.address)),
            false => Err(Cause::Connect(reason)),
        }
    }

    /// Whether a connection that lay idle may be used: after a moment the socket is looked at, after a while the server is
    /// asked.
    #[inline]
    fn check_liveness(&self, connection: &mut NodeConnection, deadline: &Deadline) -> Liveness {
        let idle = deadline
            .start
            .saturating_duration_since(connection.last_used);
        if idle < PROBE_AFTER {
            return Liveness::Good;
        }
        let gone = connection.is_stale()
            || idle > self.settings.idle_check
                && connection.call(PING, &self.half(deadline)).is_err();
        if gone { Liveness::Gone } else { Liveness::Good }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Pool")
            .field("address", &self.address)
            .field("size", &self.settings.size)
            .field("open", &state.open)
            .field("idle", &state.idle.len())
            .finish_non_exhaustive()
    }
}

/// A connection on loan. Unless it is [released](Self::release), it is closed.
pub(super) struct Lease<'p> {
    // Closed before its place is given to another one.
    connection: NodeConnection,
    place: PoolPermit<'p>,
}

/// The place of a leased connection among those that the pool may have open.
struct PoolPermit<'p> {
    pool: &'p Pool,
    /// The pool knows that the loan has ended.
    ended: bool,
}

impl Lease<'_> {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut NodeConnection {
        &mut self.connection
    }

    /// Ends the loan of a connection that owes nothing.
    pub(super) fn release(mut self, used: Instant) {
        self.place.ended = true;
        self.place.pool.release(self.connection, used);
    }

    /// Ends the loan of a connection that failed.
    pub(super) fn discard(mut self, cause: &Cause) {
        drop(self.connection);
        self.place.ended = true;
        match cause {
            Cause::Dropped(_) => self.place.pool.discard_all_idle(),
            _ => self.place.pool.discard(),
        }
    }
}

impl Drop for PoolPermit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.pool.discard();
        }
    }
}
