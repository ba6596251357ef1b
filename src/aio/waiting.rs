//! Connections for one request at a time: blocking commands, transactions, dedicated connections.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aio::link::{Limit, Link};
use crate::aio::station::Connector;
use crate::health::{Health, Verdict};
use crate::plan::Cause;
use crate::settings::LOOK_AFTER;

/// A bounded number of connections to one node, each lent to one user at a time.
pub(super) struct WaitingPool {
    pub(super) connector: Connector,
    /// So many are kept when nobody uses them.
    size: usize,
    permits: Arc<Semaphore>,
    /// Connections that nobody uses, and since when; the one used last is the last.
    idle: Mutex<Vec<(Link, Instant)>>,
    health: Mutex<Health>,
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
            health: Mutex::default(),
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
        let link = match self.living().await {
            Some(link) => link,
            None => self.connect(limit).await?,
        };
        Ok(Lease {
            pool: Arc::clone(self),
            link,
            _permit: permit,
        })
    }

    /// A connection that nobody uses and that is still one. After a moment the socket is looked at: where the runtime was not
    /// run meanwhile, nobody has noticed that the server has closed it.
    async fn living(&self) -> Option<Link> {
        while let Some((link, since)) = self.take_idle() {
            if since.elapsed() < LOOK_AFTER || !link.is_stale().await {
                return Some(link);
            }
            // The others are probably closed too, and each is looked at.
        }
        None
    }

    fn take_idle(&self) -> Option<(Link, Instant)> {
        let mut idle = self.idle.lock();
        idle.retain(|(link, _)| !link.is_closed());
        let at = idle.iter().rposition(|(link, _)| !link.is_away())?;
        Some(idle.remove(at))
    }

    /// A connection broke: those that lie idle are probably broken too, and are closed.
    fn forget_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// A new connection. While the node is known to be down, one request at a time tries, and all others fail at once.
    async fn connect(&self, limit: Limit) -> Result<Link, Cause> {
        let connector = &self.connector;
        let attempt = Attempt::begin(self)?;
        let connect = connector.connect(|| ());
        let made = match limit.end() {
            None => connect.await,
            Some(end) => match tokio::time::timeout_at(end.into(), connect).await {
                Ok(made) => made,
                // A request that comes late gives the node no fair chance, so its failure says nothing of the node.
                Err(_) if limit.start.elapsed() < connector.timeout / 2 => {
                    let text = format!("{}: no connection yet", connector.address);
                    return Err(Cause::Connect(text));
                }
                Err(_) => Err(format!("{}: timed out", connector.address)),
            },
        };
        attempt.end(made).map_err(Cause::Connect)
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

/// A try for a connection.
struct Attempt<'p> {
    pool: &'p WaitingPool,
    ended: bool,
}

impl<'p> Attempt<'p> {
    fn begin(pool: &'p WaitingPool) -> Result<Self, Cause> {
        let verdict = pool
            .health
            .lock()
            .ask(Instant::now(), pool.connector.timeout);
        match verdict {
            Verdict::Try => Ok(Self { pool, ended: false }),
            Verdict::Down { reason, since } => {
                let seconds = since.as_secs_f64();
                Err(Cause::Connect(format!(
                    "{reason} (down for {seconds:.1} s)"
                )))
            }
        }
    }

    fn end<T>(mut self, made: Result<T, String>) -> Result<T, String> {
        self.ended = true;
        let mut health = self.pool.health.lock();
        match &made {
            Ok(_) => health.connected(),
            Err(reason) => {
                health.failed(Instant::now(), rand::random(), reason.clone());
            }
        }
        made
    }
}

impl Drop for Attempt<'_> {
    /// Who tried may have given up.
    fn drop(&mut self) {
        if !self.ended {
            self.pool.health.lock().inconclusive();
        }
    }
}

impl Lease {
    /// Ends the loan of a connection that owes nothing.
    pub(super) fn give_back(self) {
        if self.link.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        // One that lives on another runtime makes room: it may never be of use again.
        let oldest = match idle.len() >= self.pool.size {
            true => Some(idle.remove(0)),
            false => None,
        };
        idle.push((self.link, Instant::now()));
        drop(idle);
        drop(oldest);
    }

    /// Ends the loan of a connection that failed.
    pub(super) fn broken(self, cause: &Cause) {
        if let Cause::Dropped(_) = cause {
            self.pool.forget_idle();
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
