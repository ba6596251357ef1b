//! The username, the password and the client name that a connection presents to its server. All may change while
//! the client runs.
//!
//! A change is not sent to the connections. Each connection keeps the version of the [`Login`] that it was
//! made with, and one that is out of date is renewed before its next request, so an idle client costs nothing
//! and no list of connections is kept.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use redis::{ConnectionInfo, RedisConnectionInfo, Value};

use crate::endpoint::{Credentials, CredentialsProvider};
use crate::error::Error;
use crate::partition::password::Shown;
use crate::plan::NameCommand;
use crate::policy::ConnectError;
use crate::resp::{CLIENT_NAME_RULE, Handshake, is_client_name};

/// The builder's settings for authentication and names, besides the password.
#[derive(Clone, Default)]
pub(crate) struct LoginOptions {
    /// For nodes without a username of their own.
    pub(crate) username: Option<String>,
    /// The name of all connections.
    pub(crate) client_name: Option<String>,
    /// For nodes without a password of their own.
    pub(crate) provider: Option<Arc<dyn CredentialsProvider>>,
}

/// The client name and the source of credentials, shared by all connections of one client.
pub(crate) struct Identity {
    /// The name of the client's connections; empty for none.
    client_name: RwLock<Arc<str>>,
    /// Number of changes of the name.
    renames: AtomicU64,
    provider: Option<Arc<dyn CredentialsProvider>>,
}

/// The credentials and the client name that connections to one node present.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    identity: Arc<Identity>,
    /// The node's name.
    node: Arc<str>,
    /// True if the username and the password come from the provider.
    is_provided: bool,
}

/// What a connection has presented to its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presented {
    /// The version of the login.
    pub(crate) login: u64,
    /// The epoch of the record, as a number.
    pub(crate) epoch: u64,
}

impl LoginOptions {
    /// Checks the options, and makes the part that all connections of a client share.
    pub(crate) fn identity(&self, password: Option<&str>) -> Result<Arc<Identity>, Error> {
        let name = self.client_name.as_deref().unwrap_or_default();
        if !is_client_name(name.as_bytes()) {
            return Err(Error::config(format!("client_name: {CLIENT_NAME_RULE}")));
        }
        if self.provider.is_some() && (password.is_some() || self.username.is_some()) {
            return Err(Error::config(
                "both `Builder::credentials` and a username or a password for all nodes are set; leave one of them out",
            ));
        }
        Ok(Arc::new(Identity {
            client_name: RwLock::new(name.into()),
            renames: AtomicU64::new(0),
            provider: self.provider.clone(),
        }))
    }

    /// Gives a node the username and the password that its URL leaves out.
    pub(crate) fn complete(
        &self,
        node: &str,
        info: &ConnectionInfo,
        password: Option<&str>,
    ) -> Result<ConnectionInfo, Error> {
        let mut settings = info.redis_settings().clone();
        if let (None, Some(password)) = (settings.password(), password) {
            settings = settings.set_password(password);
        }
        if let (None, Some(username)) = (settings.username(), &self.username) {
            if settings.password().is_none() {
                return Err(Error::config(format!(
                    "node {node:?} has a username and no password; set it with `Builder::password`, or in the node's URL"
                ))
                .at_node(node));
            }
            settings = settings.set_username(username);
        }
        Ok(info.clone().set_redis_settings(settings))
    }
}

impl Identity {
    /// The name of the client's connections; empty for none.
    pub(crate) fn client_name(&self) -> Arc<str> {
        Arc::clone(&self.client_name.read())
    }

    /// Changes the name of the client's connections. Those that exist take it before their next request.
    pub(crate) fn set_client_name(&self, name: &str) {
        *self.client_name.write() = name.into();
        // After the change, so that a reader of the new number also reads the new name.
        self.renames.fetch_add(1, Ordering::Release);
    }

    /// Carries out a command about the name of the client.
    pub(crate) fn answer(&self, command: NameCommand<'_>) -> Value {
        match command {
            NameCommand::Set(name) => {
                self.set_client_name(name);
                Value::Okay
            }
            NameCommand::Get => match &*self.client_name() {
                "" => Value::Nil,
                name => Value::BulkString(name.into()),
            },
        }
    }

    /// The login of connections to `node`, whose URL has these settings.
    pub(crate) fn login(self: &Arc<Self>, node: &str, settings: &RedisConnectionInfo) -> Login {
        Login {
            identity: Arc::clone(self),
            node: node.into(),
            is_provided: self.provider.is_some() && settings.password().is_none(),
        }
    }
}

impl Login {
    /// A number that grows with each change. A connection that was made with a smaller one is out of date.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        let renames = self.identity.renames.load(Ordering::Acquire);
        match &self.identity.provider {
            // Both only grow, so the sum changes with each of them.
            Some(provider) if self.is_provided => {
                let version = catch_unwind(AssertUnwindSafe(|| provider.version()));
                renames.wrapping_add(version.unwrap_or_default())
            }
            _ => renames,
        }
    }

    /// The username that connections authenticate as, as far as that is known before one is made.
    pub(crate) fn username(&self, settings: &RedisConnectionInfo) -> String {
        let provided = self.credentials().ok().flatten();
        let provided = provided.as_ref().and_then(Credentials::username);
        let username = provided.or(settings.username());
        username.unwrap_or("default").to_owned()
    }

    /// The username and the password that connections with these settings present now.
    pub(crate) fn presented(
        &self,
        settings: &RedisConnectionInfo,
    ) -> Result<(Option<String>, Option<String>), ConnectError> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(match self.credentials()? {
            Some(known) => (owned(known.username()), owned(Some(known.password()))),
            None => (owned(settings.username()), owned(settings.password())),
        })
    }

    /// The handshake of a new connection with these settings, and the version of what it presents. `suffix` follows the
    /// name of the client.
    pub(super) fn handshake(
        &self,
        settings: &RedisConnectionInfo,
        suffix: &str,
    ) -> Result<(Handshake, u64), ConnectError> {
        // Read first: if anything changes after that, the version is out of date and the login is renewed
        // before the first request.
        let version = self.version();
        let name = self.client_name(suffix);
        let provided = self.credentials()?.map(|credentials| {
            let mut settings = settings.clone().set_password(credentials.password());
            if let Some(username) = credentials.username() {
                settings = settings.set_username(username);
            }
            settings
        });
        let settings = provided.as_ref().unwrap_or(settings);
        Ok((Handshake::new(settings, &name), version))
    }

    /// The name of the client, with what follows it.
    pub(crate) fn client_name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.identity.client_name())
    }

    /// The name of the client if it was ever changed: otherwise the handshake has set it.
    pub(super) fn changed_name(&self) -> Option<String> {
        let is_changed = self.identity.renames.load(Ordering::Acquire) > 0;
        is_changed.then(|| self.client_name(""))
    }

    /// The requests that bring a connection with the login of version `former` up to date, and the version of what they
    /// present. `name` is called once the version is known.
    pub(super) fn renewal(
        &self,
        former: u64,
        name: impl FnOnce(&Self) -> Option<String>,
    ) -> Result<(Handshake, u64), ConnectError> {
        let version = self.version();
        let credentials = match version == former {
            true => None,
            false => self.credentials()?,
        };
        let name = name(self);
        let user = credentials
            .as_ref()
            .map(|known| (known.username(), known.password()));
        Ok((Handshake::renewal(user, name.as_deref()), version))
    }

    /// The provider's credentials; `None` if the node has its own.
    fn credentials(&self) -> Result<Option<Credentials>, ConnectError> {
        let Some(provider) = self.identity.provider.as_ref().filter(|_| self.is_provided) else {
            return Ok(None);
        };
        // A panic would cost a pool the slot of the connection that is being made, and as it leaves no outcome
        // behind, the next attempt would begin at once, without end.
        let credentials = catch_unwind(AssertUnwindSafe(|| provider.credentials(&self.node)));
        let credentials = credentials.unwrap_or_else(|_| Err("it has panicked".into()));
        credentials.map(Some).map_err(|error| {
            let why = error.to_string();
            ConnectError::Auth(format!("the provider has no credentials: {}", Shown(&why)))
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("client_name", &self.client_name.read())
            .field("has_provider", &self.provider.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;
    use crate::endpoint::CredentialsError;

    struct Failing(&'static str);

    impl CredentialsProvider for Failing {
        fn credentials(&self, _: &str) -> Result<Credentials, CredentialsError> {
            Err(self.0.into())
        }
    }

    #[test]
    fn credentials_provider_error_is_shown_unless_it_holds_a_password() {
        let settings = RedisConnectionInfo::default();
        for (text, is_shown) in [("the vault is sealed", true), ("redis://:hunter2@h", false)] {
            let provider: Option<Arc<dyn CredentialsProvider>> = Some(Arc::new(Failing(text)));
            let options = LoginOptions {
                provider,
                ..LoginOptions::default()
            };
            let login = options.identity(None).unwrap().login("a", &settings);
            let error = login.handshake(&settings, "").unwrap_err();
            assert!(matches!(error, ConnectError::Auth(_)), "{error:?}");
            assert_eq!(error.to_string().contains(text), is_shown, "{error}");
            assert!(login.renewal(u64::MAX, Login::changed_name).is_err());
            assert_eq!(login.username(&settings), "default");
        }
    }

    #[test]
    fn username_and_password_of_the_builder_fill_in_what_a_url_leaves_out() {
        let options = LoginOptions {
            username: Some("app".into()),
            ..LoginOptions::default()
        };
        for (url, expected) in [
            ("redis://h", ("app", "all")),
            ("redis://:own@h", ("app", "own")),
            ("redis://other@h", ("other", "all")),
            ("redis://other:own@h", ("other", "own")),
        ] {
            let info = url.into_connection_info().unwrap();
            let info = options.complete("a", &info, Some("all")).unwrap();
            let settings = info.redis_settings();
            let found = (settings.username().unwrap(), settings.password().unwrap());
            assert_eq!(found, expected, "{url}");
        }
        let info = "redis://h".into_connection_info().unwrap();
        let error = options.complete("a", &info, None).unwrap_err();
        assert!(error.to_string().contains("no password"), "{error}");
    }

    #[test]
    fn login_version_changes_with_the_name_and_with_the_credentials() {
        let settings = RedisConnectionInfo::default();
        let rotating =
            crate::endpoint::RotatingCredentials::new(Credentials::of_default_user("first"));
        let options = LoginOptions {
            client_name: Some("web".into()),
            provider: Some(Arc::new(rotating.clone())),
            ..LoginOptions::default()
        };
        let identity = options.identity(None).unwrap();
        let login = identity.login("a", &settings);
        let own = identity.login("b", &settings.clone().set_password("own"));
        let (first, of_own) = (login.version(), own.version());
        rotating.rotate(Credentials::new("app", "second"));
        let second = login.version();
        assert_ne!(second, first);
        assert_eq!(
            own.version(),
            of_own,
            "a password in the URL does not change"
        );
        let text = |handshake: Handshake| String::from_utf8(handshake.packed()).unwrap();
        let renewal = text(login.renewal(u64::MAX, Login::changed_name).unwrap().0);
        assert!(
            renewal.contains("AUTH\r\n$3\r\napp\r\n$6\r\nsecond"),
            "{renewal}"
        );
        assert!(
            !renewal.contains("SETNAME"),
            "the name is the same: {renewal}"
        );
        identity.set_client_name("worker");
        assert_ne!(login.version(), second);
        assert_ne!(own.version(), of_own);
        let renewal = text(own.renewal(u64::MAX, Login::changed_name).unwrap().0);
        assert!(renewal.contains("SETNAME\r\n$6\r\nworker"), "{renewal}");
        assert!(!renewal.contains("AUTH"), "{renewal}");
    }
}
