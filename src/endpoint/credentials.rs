//! Credentials that may change while a client runs: [`CredentialsProvider`], and [`RotatingCredentials`],
//! which the program changes itself.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// A username and a password. Neither `Debug` nor any message shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: Option<String>,
    password: String,
}

impl Credentials {
    /// The credentials of an ACL user.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: Some(username.into()),
            password: password.into(),
        }
    }

    /// The password of the default user, the only user of servers before Redis 6.
    pub fn of_default_user(password: impl Into<String>) -> Self {
        Self {
            username: None,
            password: password.into(),
        }
    }

    /// The username; `None` for the default user.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &format_args!("<redacted>"))
            .finish()
    }
}

/// The reason why a [`CredentialsProvider`] has no credentials. Error messages contain its text, which must not
/// contain a password.
pub type CredentialsError = Box<dyn Error + Send + Sync>;

/// A source of credentials that may change, such as tokens that expire.
///
/// Each new connection authenticates with the credentials that are current when it is made. A connection that was
/// made before a change is authenticated again, with AUTH, before its next request. If the server refuses the
/// new credentials, the connection is closed, and the node fails with [`Auth`](crate::ErrorKind::Auth) until
/// they are accepted.
///
/// Some connections keep the credentials that they were made with:
///
/// * that of a [`Subscriber`](crate::Subscriber), as a subscribed connection in RESP2 accepts no AUTH; when the
///   server closes it, the next one has the new credentials;
/// * a [`Dedicated`](crate::Dedicated) one inside MULTI, until the transaction is over;
/// * a [`Dedicated`](crate::Dedicated) one whose state its user has changed, such as with SELECT or AUTH.
///
/// If a method panics, the panic is caught after the panic hook has printed it, and there are no credentials.
///
/// To use a `StreamingCredentialsProvider` of redis-rs, spawn a task that passes each item of its stream to
/// [`RotatingCredentials::rotate`].
pub trait CredentialsProvider: Send + Sync {
    /// Returns the current credentials for the node called `node`.
    ///
    /// Called for each new connection and for each one that is authenticated again, on the caller's thread or
    /// in its task: it must not block. Also called once when the client is built.
    ///
    /// # Errors
    ///
    /// If there are none. No connection is made then, and requests fail with
    /// [`Auth`](crate::ErrorKind::Auth) and the text of this error.
    fn credentials(&self, node: &str) -> Result<Credentials, CredentialsError>;

    /// Returns a number that grows whenever the credentials change. Called for each request, so it should be
    /// no more than an atomic load. Defaults to 0: only new connections use new credentials.
    fn version(&self) -> u64 {
        0
    }
}

/// Credentials for all nodes that the program replaces when they change. Clones are the same credentials.
///
/// ```
/// use redis_sharding::{Credentials, RotatingCredentials, ShardedClient};
///
/// # fn main() -> Result<(), redis_sharding::Error> {
/// let credentials = RotatingCredentials::new(Credentials::new("app", "first"));
/// let client = ShardedClient::builder()
///     .node("a", "redis://10.0.0.1/")
///     .node("b", "redis://10.0.0.2/")
///     .credentials(credentials.clone())
///     .build()?;
/// // Later, on any thread or in any task, when the password changes:
/// credentials.rotate(Credentials::new("app", "second"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RotatingCredentials {
    shared: Arc<Shared>,
}

struct Shared {
    current: RwLock<Credentials>,
    /// Number of changes.
    version: AtomicU64,
}

impl RotatingCredentials {
    /// Creates a source that returns these credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: RwLock::new(credentials),
                version: AtomicU64::new(0),
            }),
        }
    }

    /// Replaces the credentials. Returns at once: connections are authenticated again before their next
    /// request.
    pub fn rotate(&self, credentials: Credentials) {
        *self.shared.current.write() = credentials;
        // After the change, so that a reader of the new number also reads the new credentials.
        self.shared.version.fetch_add(1, Ordering::Release);
    }
}

impl CredentialsProvider for RotatingCredentials {
    fn credentials(&self, _: &str) -> Result<Credentials, CredentialsError> {
        Ok(self.shared.current.read().clone())
    }

    fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }
}

impl fmt::Debug for RotatingCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RotatingCredentials")
            .field("current", &*self.shared.current.read())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_debug_shows_the_username_and_not_the_password() {
        let credentials = Credentials::new("app", "hunter2");
        let rotating = RotatingCredentials::new(Credentials::of_default_user("hunter2"));
        rotating.rotate(credentials.clone());
        for shown in [format!("{credentials:?}"), format!("{rotating:?}")] {
            assert!(
                shown.contains("app") && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }

    #[test]
    fn rotating_credentials_have_a_new_version_after_each_rotation() {
        let rotating = RotatingCredentials::new(Credentials::of_default_user("first"));
        let clone = rotating.clone();
        let before = clone.version();
        rotating.rotate(Credentials::of_default_user("second"));
        assert!(clone.version() > before);
        assert_eq!(clone.credentials("a").unwrap().password(), "second");
    }
}
