//! The connections to one node: a bounded number, made when needed, lent to one request at a time.
//!
//! A slot is a right to have one connection open. It is taken before connecting and given back when the
//! connection is closed, and `open` counts the slots in use:
//!
//! ```text
//!               take: an idle connection
//!         ┌───────────────────────────────▶ Lease ──── release ────▶ idle
//!  Pool ──┤                                   ▲                     (keeps its slot)
//!         │ take: none idle, a slot is free   │
//!         ├────────────▶ connect ─────────────┘
//!         │                 └── failed ─────▶ slot given back, next waiter woken
//!         │ take: neither
//!         └────────────▶ waits on `freed`, then looks again
//! ```
//!
//! A connection that broke takes all idle ones with it: they lead to the same server, which has probably
//! restarted, and each of them would cost its next user a failed request, or an `Unknown` outcome if that is
//! a write. `generation` extends this to the connections that are on loan at that time: they are closed when
//! they come back.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::PROBE_AFTER;
use crate::endpoint::ConnectAttempt;
use crate::endpoint::Deadline;
use crate::observe::{NodeHealth, NodeObserver, PoolHealth, PoolWait};
use crate::plan::{Cause, PoolUse};
use crate::policy::{ConnectError, HandshakeScope};
use crate::resp::PING;
use crate::sync::connection::ANY_EPOCH;
use crate::sync::connection::{Connector, NodeConnection};

/// Sizes and times of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolSettings {
    /// Maximum number of open connections.
    pub(super) size: usize,
    /// Maximum duration of making one, handshake included.
    pub(super) connect_timeout: Duration,
    /// A connection idle for longer is checked with PING before it is used.
    pub(super) idle_check: Duration,
    /// Which requests the pool serves, for its error message.
    pub(super) pool_use: PoolUse,
}

/// A bounded number of connections to one node; the most recently used is lent first, so that the others can
/// go idle.
pub(super) struct Pool {
    /// How connections are made; also holds the node's backoff.
    connector: Connector,
    /// The node's address, for messages.
    address: String,
    settings: PoolSettings,
    /// Held only to move connections in and out, never over I/O.
    state: Mutex<State>,
    /// Notified, one waiter at a time, when a connection or a slot becomes free.
    freed: Condvar,
}

/// The connections and slots.
#[derive(Default)]
struct State {
    /// Connections that nobody uses, all of the current generation; the most recently used is the last.
    idle: Vec<NodeConnection>,
    /// Number of slots in use: idle connections, those on loan, and those being made.
    open: usize,
    /// Number of threads waiting on `freed`. Saves a system call per release.
    waiting: usize,
    /// Incremented when a connection breaks. Connections made before are not reused.
    generation: u64,
    /// True once the pool keeps no idle connections any more.
    is_retired: bool,
}

/// Which connection a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkout {
    /// An idle one, or a new one if there is none.
    Reuse,
    /// A new one: a reused one has just failed this request.
    Fresh,
}

/// Outcome of checking an idle connection.
enum Liveness {
    /// It may be used.
    Good,
    /// The server has closed it, or does not reply.
    Gone,
    /// The server did not reply within the little time that the request has, which is no evidence against the
    /// other connections.
    Late,
}

/// How a request gets its connection.
enum CheckoutStep {
    /// By this one, once it has been checked.
    Idle(NodeConnection),
    /// By connecting, for which a slot has been taken.
    Make {
        /// The pool's generation when the slot was taken. If a connection breaks while this one is being
        /// made, it counts as old.
        generation: u64,
        /// The backoff's admission, to which the outcome is reported.
        attempt: ConnectAttempt,
        /// An idle connection whose slot was taken; to be closed first.
        replaced: Option<NodeConnection>,
    },
}

impl State {
    /// True if a connection that comes back may serve others.
    fn keeps(&self, connection: &NodeConnection) -> bool {
        // If a connection broke while this one was on loan, it is closed as well.
        // If the pool has been retired, nobody will need it again.
        connection.is_reusable
            && connection.generation == self.generation
            && !connection.is_outdated()
            && !self.is_retired
    }
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(connector: Connector, address: String, settings: PoolSettings) -> Self {
        Self {
            connector,
            address,
            settings,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// How connections are made, and how long that may take, for those who keep a connection outside of the
    /// pool.
    pub(super) fn connector(&self) -> (Connector, Duration) {
        (self.connector.clone(), self.settings.connect_timeout)
    }

    /// Presents the current credentials and the name of the client on a connection on loan, if they have
    /// changed. After an error the connection must not be used.
    pub(super) fn renew(
        &self,
        connection: &mut NodeConnection,
        deadline: &Deadline,
    ) -> Result<(), Cause> {
        match self.connector.is_renewal_due(connection) {
            true => self
                .connector
                .renew(connection, deadline)
                .map_err(Cause::from),
            false => Ok(()),
        }
    }

    /// Lends a connection that is closed when the lease is dropped, unless it is [released](Lease::release).
    pub(super) fn lease(
        &self,
        wanted: Checkout,
        scope: HandshakeScope,
        deadline: &Deadline,
    ) -> Result<Lease<'_>, Cause> {
        let connection = self.take(wanted, scope, deadline)?;
        let place = PoolPermit {
            pool: self,
            ended: false,
        };
        Ok(Lease { connection, place })
    }

    /// Takes a connection out of the pool, together with its slot. The caller must hand it to
    /// [`release`](Self::release) or report its end to [`discard`](Self::discard).
    pub(super) fn take(
        &self,
        mut wanted: Checkout,
        scope: HandshakeScope,
        deadline: &Deadline,
    ) -> Result<NodeConnection, Cause> {
        loop {
            let step = self.next_step(wanted, scope, deadline)?;
            self.observer().lent(self.settings.pool_use);
            match step {
                CheckoutStep::Idle(connection) if connection.is_outdated() => {
                    drop(connection);
                    self.discard();
                    // The others that lead to the former primary too: their server should see them go.
                    self.discard_outdated();
                }
                CheckoutStep::Idle(mut connection) => {
                    match self.check_liveness(&mut connection, deadline) {
                        Liveness::Good if !self.connector.is_renewal_due(&connection) => {
                            return Ok(connection);
                        }
                        Liveness::Good => {
                            let limit = self.half(deadline);
                            if self.connector.renew(&mut connection, &limit).is_ok() {
                                return Ok(connection);
                            }
                            // Refused, or broken: a new connection shows which, and its error is the one
                            // that the node's backoff keeps.
                            drop(connection);
                            self.discard();
                            wanted = Checkout::Fresh;
                        }
                        Liveness::Gone => {
                            connection.lost();
                            // Closed before its slot is given to another thread, so that the server never
                            // sees more than `size` connections.
                            drop(connection);
                            self.discard_all_idle(&Cause::closed_while_idle());
                            // The idle ones have just been closed too.
                            wanted = Checkout::Fresh;
                        }
                        Liveness::Late => {
                            drop(connection);
                            self.discard();
                            wanted = Checkout::Fresh;
                        }
                    }
                }
                CheckoutStep::Make {
                    generation,
                    attempt,
                    replaced,
                } => {
                    // Closed before another one is opened, so that the server never sees more than `size`.
                    drop(replaced);
                    return self.connect(generation, attempt, scope, deadline);
                }
            }
        }
    }

    /// Receives what happens to the node, for events and metrics.
    fn observer(&self) -> &NodeObserver {
        self.connector.observer()
    }

    /// The number of connections, and of threads that wait for one.
    pub(super) fn health(&self) -> PoolHealth {
        let state = self.state.lock();
        PoolHealth {
            open: state.open,
            in_use: state.open - state.idle.len(),
            idle: state.idle.len(),
            waiting: state.waiting,
            max: self.settings.size,
        }
    }

    /// True if the server could not be reached and no further attempt is due.
    pub(super) fn is_down(&self) -> bool {
        !self.connector.backoff.is_due()
    }

    /// The known state of the node, whose connections are these and those of the exclusive pool.
    pub(super) fn node_health(&self, exclusive: &Self) -> NodeHealth {
        self.connector
            .backoff
            .health(self.health(), exclusive.health())
    }

    /// Takes back a connection on which no reply is owed. `used` is when its request began.
    pub(super) fn release(&self, mut connection: NodeConnection, used: Instant) {
        connection.last_used = used;
        let mut state = self.state.lock();
        // Before it is idle: the record has changed while it was on loan, and whoever has changed it waits. Checked under
        // the lock, as `acknowledge_idle` would miss a connection that becomes idle behind it.
        while state.keeps(&connection) && self.connector.is_superseded(&connection) {
            drop(state);
            self.acknowledge(&mut connection, &Deadline::start(None));
            state = self.state.lock();
        }
        let closed = match state.keeps(&connection) {
            true => {
                state.idle.push(connection);
                None
            }
            false => {
                state.open -= 1;
                Some(connection)
            }
        };
        self.wake(state);
        self.observer().given_back(self.settings.pool_use);
        // Closed outside of the lock.
        drop(closed);
    }

    /// Has the idle connections present the record that the client goes by now, one after the other, while the others
    /// serve requests. Those that cannot are closed.
    pub(super) fn acknowledge_idle(&self, deadline: &Deadline) {
        while !deadline.is_over()
            && let Some(mut connection) = self.take_superseded()
        {
            self.acknowledge(&mut connection, deadline);
            self.put_back(connection);
        }
    }

    /// Has one connection present the record that the client goes by now. One that cannot is not reusable any more.
    fn acknowledge(&self, connection: &mut NodeConnection, deadline: &Deadline) {
        let limit = deadline.within(self.settings.connect_timeout);
        connection.is_reusable &= self.connector.renew(connection, &limit).is_ok();
    }

    /// Takes an idle connection that has not presented the record yet, with its slot.
    fn take_superseded(&self) -> Option<NodeConnection> {
        let mut state = self.state.lock();
        let is_superseded = |idle: &NodeConnection| self.connector.is_superseded(idle);
        let at = state.idle.iter().position(is_superseded)?;
        Some(state.idle.remove(at))
    }

    /// Puts a connection back that nobody has used, in its place.
    fn put_back(&self, connection: NodeConnection) {
        let mut state = self.state.lock();
        let closed = match state.keeps(&connection) {
            true => {
                let used = connection.last_used;
                let at = state.idle.partition_point(|idle| idle.last_used <= used);
                state.idle.insert(at, connection);
                None
            }
            false => {
                state.open -= 1;
                Some(connection)
            }
        };
        self.wake(state);
        // Closed outside of the lock.
        drop(closed);
    }

    /// Closes the idle connections, and each other one when it comes back: the node has left the topology, or is
    /// reached otherwise. What still uses the pool, such as a dedicated connection, is not disturbed.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock();
        state.is_retired = true;
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        self.wake(state);
        drop(idle);
    }

    /// Gives back the slot of a connection that was closed for a reason that does not concern the others,
    /// such as a timeout.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        self.wake(state);
        self.observer().given_back(self.settings.pool_use);
    }

    /// Closes the idle connections that lead to a former primary.
    fn discard_outdated(&self) {
        let mut state = self.state.lock();
        let outdated: Vec<NodeConnection> = {
            let is_outdated = |connection: &mut NodeConnection| connection.is_outdated();
            state.idle.extract_if(.., is_outdated).collect()
        };
        state.open -= outdated.len();
        self.wake(state);
        // Closed outside of the lock, as above.
        drop(outdated);
    }

    /// Gives back the slot of a connection that broke, and closes all idle ones.
    pub(super) fn discard_all_idle(&self, cause: &Cause) {
        self.connector.backoff.broke(cause);
        let mut state = self.state.lock();
        // All in one step: a thread that took one of the idle connections now would find it dead and come
        // back here.
        state.open -= 1 + state.idle.len();
        state.generation += 1;
        let idle = std::mem::take(&mut state.idle);
        self.wake(state);
        self.observer().given_back(self.settings.pool_use);
        // Closed outside of the lock: each is a system call, and perhaps one that takes its time.
        drop(idle);
    }

    /// Releases the lock and wakes one waiter. One is enough: each call frees one connection or slot, and for
    /// the idle connections that [`discard_all_idle`](Self::discard_all_idle) closes, a waiter was woken when
    /// they were released.
    fn wake(&self, state: parking_lot::MutexGuard<'_, State>) {
        let waiting = state.waiting;
        drop(state);
        if waiting > 0 {
            self.freed.notify_one();
        }
    }

    /// Takes an idle connection or a slot, and waits until there is either.
    fn next_step(
        &self,
        wanted: Checkout,
        scope: HandshakeScope,
        deadline: &Deadline,
    ) -> Result<CheckoutStep, Cause> {
        // Declared before the lock, so that it is dropped after it.
        let mut wait = None;
        let mut state = self.state.lock();
        loop {
            if wanted == Checkout::Reuse
                && let Some(connection) = state.idle.pop()
            {
                return Ok(CheckoutStep::Idle(connection));
            }
            // A fresh connection is needed and the pool is full: one of the idle ones makes room.
            // It is closed outside of the lock.
            let mut replaced = None;
            if state.open >= self.settings.size {
                replaced = state.idle.pop();
                state.open -= usize::from(replaced.is_some());
            }
            if state.open < self.settings.size {
                let limit = self.settings.connect_timeout;
                // Asked under the lock: with the slot taken only on success, a refused request leaves nothing
                // to undo.
                return match self.connector.backoff.try_begin(limit, scope) {
                    Ok(attempt) => {
                        state.open += 1;
                        Ok(CheckoutStep::Make {
                            generation: state.generation,
                            attempt,
                            replaced,
                        })
                    }
                    Err(down) => {
                        // We may have been woken for this slot but will not use it; wake the next waiter,
                        // which will fail at once as well instead of sleeping until its deadline.
                        self.wake(state);
                        Err(down.into())
                    }
                };
            }
            if wait.is_none() {
                // Reported without the lock; what has become free in the meantime is found by looking again.
                drop(state);
                let pool = self.settings.pool_use.into();
                wait = Some(PoolWait::new(self.observer(), pool));
                state = self.state.lock();
                continue;
            }
            state.waiting += 1;
            // Woken threads compete with new ones, so every wake-up looks again; only the deadline ends the
            // wait.
            let late = match deadline.end() {
                Some(end) => self.freed.wait_until(&mut state, end).timed_out(),
                None => {
                    self.freed.wait(&mut state);
                    false
                }
            };
            state.waiting -= 1;
            // The deadline and a wake-up may coincide: what is free is used all the same.
            if late && state.idle.is_empty() && state.open >= self.settings.size {
                return Err(Cause::pool_exhausted(&self.address, self.settings.pool_use));
            }
        }
    }

    /// Half of the time left, at most the connect timeout, so that a check leaves enough for the request
    /// itself.
    fn half(&self, deadline: &Deadline) -> Deadline {
        let half = deadline.remaining().map_or(Duration::MAX, |left| left / 2);
        deadline.within(half.min(self.settings.connect_timeout))
    }

    /// Makes a connection for a slot that was taken, and reports the outcome to the node's backoff.
    fn connect(
        &self,
        generation: u64,
        attempt: ConnectAttempt,
        scope: HandshakeScope,
        deadline: &Deadline,
    ) -> Result<NodeConnection, Cause> {
        let allotted = deadline.within(self.settings.connect_timeout);
        let pool = self.settings.pool_use.into();
        let made = self.connector.connect(&allotted, pool, generation, scope);
        let reason = match made {
            Ok(connection) => {
                attempt.connected();
                return Ok(connection);
            }
            Err(reason) => reason,
        };
        // The attempt is dropped without an outcome, also if it says nothing about the node.
        if reason == ConnectError::Superseded
            || allotted.is_over() && allotted.is_short(deadline, self.settings.connect_timeout)
        {
            drop(attempt);
        } else {
            attempt.failed(reason.clone());
        }
        // The slot is given back after the backoff knows of the failure: the waiter that is woken for it then
        // fails at once, instead of trying the same node again.
        self.discard();
        match deadline.is_over() {
            true => Err(Cause::no_connection_in_time(&self.address)),
            false => Err(reason.into()),
        }
    }

    /// Checks an idle connection: peeks at its socket after [`PROBE_AFTER`], and sends PING after the idle
    /// check's time.
    #[inline]
    fn check_liveness(&self, connection: &mut NodeConnection, deadline: &Deadline) -> Liveness {
        let idle = deadline
            .start
            .saturating_duration_since(connection.last_used);
        if idle < PROBE_AFTER {
            return Liveness::Good;
        }
        // First, as a closed socket shows without a round trip.
        if connection.is_stale() {
            return Liveness::Gone;
        }
        if idle <= self.settings.idle_check {
            return Liveness::Good;
        }
        let allotted = self.half(deadline);
        match connection.call(PING, ANY_EPOCH, &allotted) {
            Ok(_) => Liveness::Good,
            Err(_)
                if allotted.is_over()
                    && allotted.is_short(deadline, self.settings.connect_timeout) =>
            {
                Liveness::Late
            }
            Err(_) => Liveness::Gone,
        }
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

/// A connection on loan. Closed when dropped, unless it is [released](Self::release).
pub(super) struct Lease<'p> {
    // Declared first: fields are dropped in order, and the connection must be closed before its slot is free.
    connection: NodeConnection,
    place: PoolPermit<'p>,
}

/// The slot of a leased connection. Given back when dropped, also while panicking.
struct PoolPermit<'p> {
    pool: &'p Pool,
    /// True once the pool knows that the loan has ended.
    ended: bool,
}

impl Lease<'_> {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut NodeConnection {
        &mut self.connection
    }

    /// Returns a connection on which no reply is owed.
    pub(super) fn release(mut self, used: Instant) {
        self.place.ended = true;
        self.place.pool.release(self.connection, used);
    }

    /// Closes a connection that failed, unless it has refused a request. If it broke, the idle ones are closed as well; after a mere timeout
    /// the others are fine.
    pub(super) fn discard(mut self, cause: &Cause) {
        if cause.keeps_connection() {
            // It was not used, and serves newer requests.
            let used = self.connection.last_used;
            return self.release(used);
        }
        // First, so that it is closed when its slot is given away.
        drop(self.connection);
        self.place.ended = true;
        match cause {
            Cause::Dropped(_) => self.place.pool.discard_all_idle(cause),
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
