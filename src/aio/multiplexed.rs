//! One connection that many requests share: the side of the senders. The side of the socket is `driver`.
//!
//! ```text
//!  call / exchange            SendQueue                    Driver
//!  ───────────────            ─────────                    ──────
//!  lock, append bytes ──────▶ outgoing  ──── swap ───────▶ outgoing ──▶ socket
//!  and an InFlight    ──────▶ pending   ──── drain ──────▶ in_flight
//!  wake the driver            waker                            │
//!  await the oneshot  ◀────────────────── Responder ───────────┘ replies, in order
//! ```
//!
//! Redis replies in the order of the requests, so no request carries a number: `outgoing` and `pending` are
//! appended under one lock and always taken together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use crate::aio::in_flight::{InFlight, ReplyChannel, Responder};
use crate::endpoint::{Deadline, FORMER_PRIMARY_GRACE, PrimaryVersion};
use crate::observe::OpenConnection;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, is_of_replica};
use crate::policy::ConnectError;
use crate::resp::write_set_name;

/// Maximum number of bytes, including bookkeeping, that may wait for one connection. Further requests are
/// refused: a node this far behind would not reply in time, and the memory is better spent elsewhere.
const OUTGOING_BYTES_MAX: usize = 256 << 20;

/// The epoch of requests that concern no key: no connection refuses them.
const ANY_EPOCH: u64 = u64::MAX;

/// Time within which a driver on another, current-thread runtime must show that it is being polled; otherwise
/// its connection is closed.
pub(crate) const DRIVER_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to one node. Requests are written in the order in which they are submitted, and replied to in
/// that order. Dropping it closes the connection in the way that [`OnLastHandle`] describes.
#[derive(Debug)]
pub(crate) struct MultiplexedConnection {
    /// Shared with the driver.
    queue: Arc<SendQueue>,
    /// The driver's runtime if it is a current-thread one, which makes progress only inside `block_on`.
    driver_runtime: Option<Id>,
    /// The version of the login that the connection has presented.
    login: AtomicU64,
    /// The epoch of the record that the connection has presented, as in [`SendQueueState`], without its lock.
    epoch: AtomicU64,
    /// The version of the address that the connection was made to, if it may change.
    primary: Option<PrimaryVersion>,
    /// True while one request presents a newer login. Other requests do not wait for it: they are sent under the
    /// older one, or behind it.
    is_renewing: AtomicBool,
}

/// The right to present a newer login on a connection; given back when dropped, also with its future.
pub(crate) struct Renewal<'c>(&'c MultiplexedConnection);

/// Where requests wait for the driver.
#[derive(Default)]
pub(crate) struct SendQueue {
    /// Held only to append or to swap buffers, never over a system call or an await.
    pub(crate) state: Mutex<SendQueueState>,
    /// Set by each poll of the driver; cleared by those who test whether it is polled at all.
    pub(crate) run: AtomicBool,
}

/// Requests that the driver has not taken yet. None of their bytes has been sent.
#[derive(Default)]
pub(crate) struct SendQueueState {
    /// The packed requests.
    pub(crate) outgoing: Vec<u8>,
    /// The requests that the bytes belong to, in their order.
    pub(crate) pending: Vec<InFlight>,
    /// The epoch of the record that the connection has presented. Requests that were placed by an older one are not
    /// appended behind it.
    epoch: u64,
    /// Waker of the driver while it sleeps. Taken to wake it, so that a burst of requests wakes it once.
    pub(crate) waker: Option<Waker>,
    /// Sent by the driver if it finds the connection open, dropped if the connection has ended.
    pub(crate) probe: Option<oneshot::Sender<()>>,
    /// Why the connection has ended. Once set, nothing is appended any more.
    pub(crate) closed: Option<Cause>,
    /// True once the handle is dropped.
    pub(crate) detached: bool,
    /// Read by the driver once `detached` is set.
    pub(crate) on_last_handle: OnLastHandle,
    /// True once the handshake is done.
    is_established: bool,
    /// Reports the end of an established connection. Taken by `close`.
    open: Option<OpenConnection>,
}

/// When a connection is closed whose handle has been dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnLastHandle {
    /// Once everything queued has been written. The server then forgets a pending blocking command.
    #[default]
    Close,
    /// Once every request has its reply or has run out of time. A server that finds the connection closed
    /// while it writes a reply discards the requests that it has not read yet, so closing earlier would lose
    /// writes.
    Drain,
}

impl MultiplexedConnection {
    /// A handle over `queue`, whose other end a driver on the runtime `home` takes. `home` is only set for a
    /// current-thread runtime.
    pub(crate) fn new(queue: Arc<SendQueue>, home: Option<Id>) -> Self {
        Self {
            queue,
            driver_runtime: home,
            login: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            primary: None,
            is_renewing: AtomicBool::new(false),
        }
    }

    /// The version of the login that the connection has presented.
    #[inline]
    pub(crate) fn login(&self) -> u64 {
        self.login.load(Ordering::Relaxed)
    }

    /// Records that a login of this version was presented.
    pub(crate) fn set_login(&self, version: u64) {
        self.login.store(version, Ordering::Relaxed);
    }

    /// The epoch of the record that the connection has presented.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Records that the handshake has presented the record of this epoch.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.queue.state.lock().epoch = epoch;
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Presents the record of this epoch, unless a newer one was presented: appends CLIENT SETNAME with the name that
    /// `name` makes of the epoch, behind all requests so far. From then on no request that was placed by an older record
    /// is appended. Nobody waits for the reply. With `is_renamed` the name is presented also if the epoch is the same.
    pub(crate) fn acknowledge(
        &self,
        epoch: u64,
        is_renamed: bool,
        name: impl FnOnce(u64) -> String,
    ) {
        let mut state = self.queue.state.lock();
        let epoch = epoch.max(state.epoch);
        if state.closed.is_some() || epoch == state.epoch && !is_renamed {
            return;
        }
        let before = state.outgoing.len();
        // Under the lock, so that no older name gets behind a newer one.
        write_set_name(&name(epoch), &mut state.outgoing);
        let bytes = state.outgoing.len() - before;
        state.pending.push(InFlight::unattended(bytes));
        state.epoch = epoch;
        self.epoch.store(epoch, Ordering::Release);
        let sleeper = state.waker.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Sets the version of the address that the connection was made to: once it has changed, nothing more is sent.
    pub(crate) fn with_primary(mut self, primary: Option<PrimaryVersion>) -> Self {
        self.primary = primary;
        self
    }

    /// True if the connection leads to a server that is not the node's primary any more.
    #[inline]
    pub(crate) fn is_outdated(&self) -> bool {
        self.primary
            .as_ref()
            .is_some_and(|primary| !primary.is_current())
    }

    /// The right to present a newer login. `None` while another request does.
    pub(crate) fn begin_renewal(&self) -> Option<Renewal<'_>> {
        let is_taken = self.is_renewing.swap(true, Ordering::Acquire);
        (!is_taken).then_some(Renewal(self))
    }

    /// Switches to [`OnLastHandle::Drain`], for shared connections: their requests are executed even if no
    /// future waits for them.
    pub(crate) fn drain_on_drop(&self) {
        self.queue.state.lock().on_last_handle = OnLastHandle::Drain;
    }

    /// Records that the handshake is done. `open` is dropped when the connection ends.
    pub(crate) fn set_open(&self, open: OpenConnection) {
        let mut state = self.queue.state.lock();
        state.is_established = true;
        let late = match state.closed {
            None => state.open.replace(open),
            Some(_) => Some(open),
        };
        // Reports the end, so not under the lock.
        drop(state);
        drop(late);
    }

    /// True if the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.state.lock().closed.is_some()
    }

    /// True if the driver lives on a current-thread runtime other than the caller's, which may not be running
    /// now.
    pub(crate) fn is_on_foreign_runtime(&self) -> bool {
        is_away(self.driver_runtime)
    }

    /// True if the server has closed the connection, as far as its socket shows; no request is sent. Wakes
    /// the driver, which checks the socket if it has been idle.
    pub(crate) async fn is_stale(&self) -> bool {
        let (sender, looked) = oneshot::channel();
        {
            let mut state = self.queue.state.lock();
            if state.closed.is_some() {
                return true;
            }
            state.probe = Some(sender);
        }
        self.queue.wake();
        // An error means that the driver dropped the sender: it has closed the queue, or its runtime has
        // ended.
        looked.await.is_err()
    }

    /// Sends one request, appended by `write` and placed by the record of this epoch, and returns its reply.
    ///
    /// Once polled, the request is sent even if the future is dropped.
    pub(crate) async fn call(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        epoch: u64,
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        if self.is_outdated() {
            return Err(Failure::not_sent(primary_changed()));
        }
        let (sender, receiver) = oneshot::channel();
        self.queue
            .submit(
                (write, epoch),
                1,
                ExpectedEnd::Any,
                deadline,
                Responder::One(sender),
            )
            .map_err(Failure::not_sent)?;
        let answer = self.answer(receiver).await;
        if let (Some(primary), Some(Ok(reply))) = (&self.primary, &answer)
            && is_of_replica(reply)
        {
            primary.demoted();
        }
        answer.unwrap_or_else(|| Err(self.lost(1)))
    }

    /// Sends `count` packed requests that concern no key, and returns their replies.
    pub(crate) async fn exchange<R: ReplyChannel>(
        &self,
        packed: &[u8],
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
    ) -> Answers<R> {
        self.exchange_into((packed, ANY_EPOCH), count, ending, deadline, R::default())
            .await
    }

    /// Sends `count` packed requests, placed by the record of this epoch, and appends their replies to `replies`.
    pub(crate) async fn exchange_into<R: ReplyChannel>(
        &self,
        (packed, epoch): (&[u8], u64),
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
        replies: R,
    ) -> Answers<R> {
        if count == 0 {
            // A responder is completed by its last reply; with no reply due it never would be.
            return Answers::default();
        }
        if self.is_outdated() {
            return Answers::failed(Failure::not_sent(primary_changed()));
        }
        let (sender, receiver) = oneshot::channel();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
        let responder = R::responder(sender, replies);
        let write = (write, epoch);
        match self.queue.submit(write, count, ending, deadline, responder) {
            Ok(()) => {
                let answers = self.answer(receiver).await;
                let answers = answers.unwrap_or_else(|| Answers::failed(self.lost(count)));
                if let Some(primary) = &self.primary
                    && answers.values.shows_a_replica()
                {
                    primary.demoted();
                }
                answers
            }
            Err(cause) => Answers::failed(Failure::not_sent(cause)),
        }
    }

    /// Awaits the replies to a request, in whichever form. `None` if there will be none.
    async fn answer<T>(&self, receiver: oneshot::Receiver<T>) -> Option<T> {
        // Boxed, as they are rare and their timers would enlarge the future of every request.
        match &self.primary {
            _ if is_away(self.driver_runtime) => {
                Box::pin(self.queue.await_from_foreign_runtime(receiver)).await
            }
            None => receiver.await.ok(),
            Some(primary) => Box::pin(answer_of_primary(receiver, primary)).await,
        }
    }

    /// The failure of a request that has been submitted and got no answer.
    fn lost(&self, count: usize) -> Failure {
        let why = match self.is_outdated() {
            true => "the node has another primary now, and the one before does not reply",
            false => "its runtime has ended",
        };
        Failure {
            cause: Cause::Dropped(why.into()),
            sent: count,
        }
    }
}

/// Awaits the replies of a primary, but not for long once it is none any more.
async fn answer_of_primary<T>(
    mut receiver: oneshot::Receiver<T>,
    primary: &PrimaryVersion,
) -> Option<T> {
    let moved = std::pin::pin!(primary.moved());
    match select(&mut receiver, moved).await {
        Either::Left((answer, _)) => answer.ok(),
        Either::Right(_) => {
            let answer = tokio::time::timeout(FORMER_PRIMARY_GRACE, receiver).await;
            answer.ok()?.ok()
        }
    }
}

/// The cause of a request that is not sent because its connection leads to a former primary.
fn primary_changed() -> Cause {
    Cause::Connect(ConnectError::PrimaryChanged)
}

impl Drop for Renewal<'_> {
    fn drop(&mut self) {
        self.0.is_renewing.store(false, Ordering::Release);
    }
}

impl Drop for MultiplexedConnection {
    /// Leaves the closing to the driver, which may still have to write or to drain.
    fn drop(&mut self) {
        self.queue.state.lock().detached = true;
        self.queue.wake();
    }
}

/// True if `home` is set and is not the caller's runtime.
pub(crate) fn is_away(home: Option<Id>) -> bool {
    home.is_some_and(|home| Handle::try_current().is_ok_and(|here| here.id() != home))
}

impl SendQueueState {
    /// Stores the waker of the driver. `clone_from` spares a reference count if it is the same one.
    pub(crate) fn park(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            sleeper => *sleeper = Some(cx.waker().clone()),
        }
    }
}

impl SendQueue {
    /// Queues a request, which was placed by the record of this epoch, for the driver. From here on it is sent whether or not anyone waits for the reply.
    fn submit(
        &self,
        (write, epoch): (impl FnOnce(&mut Vec<u8>), u64),
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
        responder: Responder,
    ) -> Result<(), Cause> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.closed {
            return Err(cause.clone());
        }
        if epoch < state.epoch {
            return Err(Cause::Superseded);
        }
        // Bookkeeping counts as well: a million tiny requests take more memory for it than for their bytes.
        let queued = state.pending.len() * size_of::<InFlight>();
        if state.outgoing.len() + queued > OUTGOING_BYTES_MAX {
            return Err(Cause::PoolTimeout(format!(
                "{} MiB of requests wait to be sent already; send fewer at a time",
                OUTGOING_BYTES_MAX >> 20
            )));
        }
        let before = state.outgoing.len();
        write(&mut state.outgoing);
        // Appended under the lock, so that bytes and `pending` cannot get out of order.
        let bytes = state.outgoing.len() - before;
        state.pending.push(InFlight {
            bytes,
            remaining: count,
            count,
            ending,
            submitted_at: deadline.start,
            deadline: deadline.end(),
            silent_from: deadline.silent_from(),
            responder: Some(responder),
        });
        // Woken after the lock is released, as the driver's first step is to take it.
        let sleeper = state.waker.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Wakes the driver if it sleeps.
    fn wake(&self) {
        let sleeper = self.state.lock().waker.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Awaits a reply on a runtime other than the driver's.
    ///
    /// A driver that is not polled does not enforce deadlines either, so it is tested every
    /// [`DRIVER_PROBE_TIMEOUT`]. If it has not been polled, the connection is closed: requests that it has
    /// not taken are not sent and may be resent elsewhere.
    async fn await_from_foreign_runtime<T>(&self, mut answer: oneshot::Receiver<T>) -> Option<T> {
        loop {
            // `Relaxed` suffices: the flag only shows that the driver has run at some time since, and guards
            // no data.
            self.run.store(false, Ordering::Relaxed);
            self.wake();
            if let Ok(answer) = tokio::time::timeout(DRIVER_PROBE_TIMEOUT, &mut answer).await {
                return answer.ok();
            }
            if !self.run.load(Ordering::Relaxed) {
                self.close(&Cause::Dropped(
                    "its runtime is not being run; use the client on a runtime that is".into(),
                ));
                // Closing the queue has just failed the request, if the driver had not taken it; `None` means
                // that it had.
                return answer.try_recv().ok();
            }
        }
    }

    /// True once the handshake is done.
    pub(crate) fn is_established(&self) -> bool {
        self.state.lock().is_established
    }

    /// True if the handshake is done and somebody still has a handle.
    pub(crate) fn is_in_use(&self) -> bool {
        let state = self.state.lock();
        state.is_established && !state.detached
    }

    /// Refuses further requests, and fails those that the driver has not taken as not sent. The first step of
    /// ending a connection.
    pub(crate) fn close(&self, cause: &Cause) {
        let mut state = self.state.lock();
        state.closed = Some(cause.clone());
        state.outgoing = Vec::new();
        state.probe = None;
        let arrivals = std::mem::take(&mut state.pending);
        let open = state.open.take();
        drop(state);
        drop(open);
        // Without the lock: a failed request may be resent at once, by a task that wants this lock to find
        // the queue closed.
        for mut request in arrivals {
            request.finish(Some(Failure::not_sent(cause.clone())));
        }
    }
}

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SendQueue")
            .field("outgoing", &state.outgoing.len())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}
