//! Connections for one request at a time: blocking commands, transactions, dedicated connections.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aio::link::{Limit, Link};
use crate::aio::station::Connector;
use crate::plan::Cause;

/// A bounded number of connections to one node, each lent to one user at a time.
pub(super) struct WaitingPool {
    pub(super) connector: Connector,
    /// So many are kept when nobody uses them.
    size: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Link>>,
}

/// A connection on loan; closed unless it is given back.
pub(super) struct Lease {
    pool: Arc<WaitingPool>,
    pub(super) link: Link,
    _permit: OwnedSemaphorePermit,
}

impl WaitingPool {
    /// For so many users at a time.
    pub(super) fn new(connector: Connector, size: usize, users: usize) -> Self {
        Self {
            connector,
            size,
            permits: Arc::new(Semaphore::new(users.min(Semaphore::MAX_PERMITS))),
            idle: Mutex::default(),
        }
    }

    /// A connection of one's own.
    pub(super) async fn lease(self: &Arc<Self>, limit: Limit) -> Result<Lease, Cause> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match limit.end() {
            None => permit.await,
            Some(end) => match tokio::time::timeout_at(end.into(), permit).await {
                Ok(permit) => permit,
                Err(_) => return Err(Cause::PoolTimeout(self.exhausted(limit))),
            },
        };
        let permit = permit.map_err(|_| Cause::Connect("the client has ended".into()))?;
        let link = match self.take_idle() {
            Some(link) => link,
            None => self.connect(limit).await?,
        };
        Ok(Lease {
            pool: Arc::clone(self),
            link,
            _permit: permit,
        })
    }

    fn take_idle(&self) -> Option<Link> {
        let mut idle = self.idle.lock();
        idle.retain(|link| !link.is_closed());
        idle.pop()
    }

    async fn connect(&self, limit: Limit) -> Result<Link, Cause> {
        let connect = self.connector.connect(|| ());
        match limit.end() {
            None => connect.await,
            Some(end) => match tokio::time::timeout_at(end.into(), connect).await {
                Ok(made) => made,
                Err(_) => Err(format!("{}: no connection yet", self.connector.address)),
            },
        }
        .map_err(Cause::Connect)
    }

    fn exhausted(&self, limit: Limit) -> String {
        format!(
            "all {} connections to {} for waiting commands stayed in use for {:.1} s; allow more of them, or use fewer at \
             a time",
            self.size,
            self.connector.address,
            limit.length.unwrap_or_default().as_secs_f64(),
        )
    }
}

impl Lease {
    /// Ends the loan of a connection that owes nothing.
    pub(super) fn give_back(self) {
        let mut idle = self.pool.idle.lock();
        if !self.link.is_closed() && idle.len() < self.pool.size {
            idle.push(self.link);
        }
    }
}

impl fmt::Debug for WaitingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingPool")
            .field("size", &self.size)
            .field("idle", &self.idle.lock().len())
            .finish_non_exhaustive()
    }
}
