//! [`Listener`]: a thread that is subscribed to the announcements of one Sentinel.
//!
//! There are several, as the Sentinels of a group learn of a new primary one after another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::Deadline;
use crate::resp::PING;
use crate::sentinel::connection::SentinelConnection;
use crate::sentinel::group::GroupState;
use crate::topology::HostPort;
use crate::topology::sentinel::{is_pong, subscribe};

/// Time without a message after which the Sentinel is sent a PING. Without a reply for as long again, another Sentinel is
/// subscribed to. Also the longest time for which the thread outlives its group.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// Maximum number of Sentinels that are listened to: enough for one of them to be dead, and one to lag behind.
pub(super) const LISTENERS_MAX: usize = 3;

/// Pause before the next Sentinel is tried.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Maximum duration of reading one message that has begun to arrive, or of sending a request.
const MESSAGE_WITHIN: Duration = Duration::from_secs(2);

/// Subscribes to one Sentinel after another, for as long as each replies, and never to one that another listener is
/// subscribed to.
pub(super) struct Listener {
    group: Arc<GroupState>,
}

impl Listener {
    pub(super) fn new(group: Arc<GroupState>) -> Self {
        Self { group }
    }

    /// Listens until the group is gone.
    pub(super) fn run(self) {
        while self.group.sleep(RETRY_AFTER) {
            let due = self.group.list.lock().due(Instant::now());
            for address in due {
                let Some(_listened) = Listened::claim(&self.group, &address) else {
                    continue;
                };
                let limit = self.group.settings.connect_timeout;
                let opened = SentinelConnection::open(&self.group, &address, limit);
                // The asker finds out as well, and records it.
                let Ok(connection) = opened else {
                    continue;
                };
                // Whatever ended it, announcements may have been missed since, so the next one begins with a round.
                let _ = self.listen(connection);
                break;
            }
        }
    }

    /// Reports every announcement until the connection breaks or the group is gone.
    fn listen(&self, mut connection: SentinelConnection) -> std::io::Result<()> {
        let deadline = || Deadline::start(Some(MESSAGE_WITHIN));
        connection.send(&subscribe(), &deadline())?;
        let mut is_pinged = false;
        while !self.group.has_ended() {
            if connection.wait(QUIET_MAX)? {
                let message = connection.message(&deadline())?;
                // Also for the confirmation of the subscription: what was announced before was missed.
                if !is_pong(&message) {
                    self.group.announce();
                }
                is_pinged = false;
            } else if is_pinged {
                return Ok(());
            } else {
                connection.send(PING, &deadline())?;
                is_pinged = true;
            }
        }
        Ok(())
    }
}

/// A Sentinel that a listener is subscribed to, or tries to be. Given up when dropped.
struct Listened<'g> {
    group: &'g GroupState,
    address: HostPort,
}

impl<'g> Listened<'g> {
    /// Claims a Sentinel. `None` if another listener has it.
    fn claim(group: &'g GroupState, address: &HostPort) -> Option<Self> {
        let is_free = group.listened.lock().insert(address.clone());
        is_free.then(|| Self {
            group,
            address: address.clone(),
        })
    }
}

impl Drop for Listened<'_> {
    fn drop(&mut self) {
        self.group.listened.lock().remove(&self.address);
    }
}
