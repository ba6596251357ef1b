//! Connections for one request at a time: blocking commands, transactions, dedicated connections.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aio::multiplexed::MultiplexedConnection;
use crate::aio::reconnecting::Connector;
use crate::config::PROBE_AFTER;
use crate::endpoint::Deadline;
use crate::plan::{Cause, PoolUse};
use crate::policy::ConnectError;

/// A bounded number of connections to one node, each lent to one user at a time.
pub(crate) struct ExclusivePool {
    pub(crate) connector: Connector,
    /// So many are kept when nobody uses them.
    size: usize,
    permits: Arc<Semaphore>,
    /// Connections that nobody uses, and since when; the one used last is the last.
    idle: Mutex<Vec<(MultiplexedConnection, Instant)>>,
}

/// A connection on loan; closed unless it is given back.
pub(crate) struct Lease {
    pool: Arc<ExclusivePool>,
    pub(crate) connection: MultiplexedConnection,
    _permit: OwnedSemaphorePermit,
}

impl ExclusivePool {
    /// For so many users at a time.
    pub(crate) fn new(connector: Connector, size: usize, users: usize) -> Self {
        Self {
            connector,
            size,
            permits: Arc::new(Semaphore::new(users.min(Semaphore::MAX_PERMITS))),
            idle: Mutex::default(),
        }
    }

    /// A connection of one's own.
    pub(crate) async fn lease(self: &Arc<Self>, deadline: Deadline) -> Result<Lease, Cause> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match deadline.end() {
            None => permit.await,
            Some(end) => match tokio::time::timeout_at(end.into(), permit).await {
                Ok(permit) => permit,
                Err(_) => {
                    let address = &self.connector.address;
                    return Err(Cause::pool_exhausted(address, PoolUse::Exclusive));
                }
            },
        };
        let permit = permit.map_err(|_| Cause::Connect("the client was closed".into()))?;
        let connection = match self.reusable().await {
            Some(connection) => connection,
            None => self.connect(deadline).await?,
        };
        Ok(Lease {
            pool: Arc::clone(self),
            connection,
            _permit: permit,
        })
    }

    /// A connection that nobody uses and that is still one. After a moment the socket is looked at: where the runtime was not
    /// run meanwhile, nobody has noticed that the server has closed it.
    async fn reusable(&self) -> Option<MultiplexedConnection> {
        while let Some((connection, since)) = self.take_idle() {
            if since.elapsed() < PROBE_AFTER || !connection.is_stale().await {
                return Some(connection);
            }
            // The others are probably closed too, and each is looked at.
        }
        None
    }

    fn take_idle(&self) -> Option<(MultiplexedConnection, Instant)> {
        let mut idle = self.idle.lock();
        idle.retain(|(connection, _)| !connection.is_closed());
        let at = idle
            .iter()
            .rposition(|(connection, _)| !connection.is_on_foreign_runtime())?;
        Some(idle.remove(at))
    }

    /// A connection broke: those that lie idle are probably broken too, and are closed.
    fn discard_all_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// A new connection. While the node is known to be down, one request at a time tries, and all others fail at once.
    async fn connect(&self, deadline: Deadline) -> Result<MultiplexedConnection, Cause> {
        let connector = &self.connector;
        let attempt = connector.backoff.try_begin(connector.timeout)?;
        let connect = connector.connect(|| ());
        let made = match deadline.end() {
            None => connect.await,
            Some(end) => match tokio::time::timeout_at(end.into(), connect).await {
                Ok(made) => made,
                // A request that comes late gives the node no fair chance, so its failure says nothing of the node.
                Err(_) if deadline.start.elapsed() < connector.timeout / 2 => {
                    return Err(Cause::no_connection_in_time(&connector.address));
                }
                Err(_) => Err(ConnectError::timed_out(&connector.address)),
            },
        };
        attempt
            .end(made)
            .map_err(|reason| match deadline.is_over() {
                true => Cause::no_connection_in_time(&connector.address),
                false => Cause::Connect(reason),
            })
    }
}

impl Lease {
    /// Ends the loan of a connection that owes nothing.
    pub(crate) fn release(self) {
        if self.connection.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        // One that lives on another runtime makes room: it may never be of use again.
        let oldest = match idle.len() >= self.pool.size {
            true => Some(idle.remove(0)),
            false => None,
        };
        idle.push((self.connection, Instant::now()));
        drop(idle);
        drop(oldest);
    }

    /// Ends the loan of a connection that failed.
    pub(crate) fn discard(self, cause: &Cause) {
        if let Cause::Dropped(_) = cause {
            self.pool.discard_all_idle();
        }
    }
}

impl fmt::Debug for ExclusivePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingPool")
            .field("size", &self.size)
            .field("idle", &self.idle.lock().len())
            .finish_non_exhaustive()
    }
}
