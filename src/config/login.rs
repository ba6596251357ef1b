//! The setters of [`Builder`] for the usernames, the credentials and the name of connections.

use std::sync::Arc;

use crate::config::builder::Builder;
use crate::endpoint::CredentialsProvider;

impl Builder {
    /// Sets the username for every node whose URL has none. It goes with [`password`](Self::password) or the
    /// password in the URL. Defaults to none, which is the default user.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.login.username = Some(username.into());
        self
    }

    /// Sets the source of the username and the password of every node whose URL has no password, in place of
    /// [`username`](Self::username) and [`password`](Self::password). They may change while the client runs:
    /// see [`CredentialsProvider`]. Defaults to none.
    pub fn credentials(mut self, provider: impl CredentialsProvider + 'static) -> Self {
        self.login.provider = Some(Arc::new(provider));
        self
    }

    /// Sets the name of all connections of the client, which CLIENT LIST and SLOWLOG of a server show. It is sent
    /// in the handshake, with CLIENT SETNAME. Printable ASCII without spaces, at most
    /// [`CLIENT_NAME_BYTES_MAX`](crate::builder::CLIENT_NAME_BYTES_MAX) bytes. CLIENT SETNAME through the client
    /// changes it. Defaults to none.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.login.client_name = Some(name.into());
        self
    }
}
