//! How is a node reached, in one word of text?
//!
//! An address (`host:port`, or the path of a unix socket) says all for a plain connection. Everything else
//! (TLS, a user, a password, a database, RESP3) needs a URL in the form that redis-rs reads, and a node behind
//! Sentinel one in the form of `sentinel`. URLs may hold
//! passwords, so errors here never quote them, and a URL is written without its password unless asked
//! otherwise.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use url::Url;

use super::Passwords;
use super::sentinel::{NodeAccess, SentinelUrl, has_sentinel_scheme};
use crate::partition::password::{ADVICE, holds_password, is_password_parameter};

/// How a node is reached that an address does not say all of.
#[derive(Clone)]
pub(super) enum NodeUrl {
    /// At a fixed address.
    Server(ServerUrl),
    /// At the address that Sentinel knows.
    Sentinel(Box<SentinelUrl>),
}

/// A redis URL that says more than an address does: a user, a password, a database, TLS, a protocol.
#[derive(Clone)]
pub(super) struct ServerUrl(Url);

/// How a node is reached.
#[derive(Clone)]
pub(in crate::topology) struct NodeEndpoint {
    /// `host:port` or the path of a unix socket; part of the node's identity if it has no name.
    pub(super) address: String,
    /// The URL, if the address does not say all.
    pub(super) url: Option<NodeUrl>,
    /// The name of a node that is given none, if it is not its address.
    pub(super) name: Option<String>,
}

impl NodeEndpoint {
    /// Parses `host:port`, the path of a unix socket, or a URL. Errors do not quote the text, which may hold
    /// a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Self::of_url(text);
        }
        let info = info_at(text)?;
        Ok(Self {
            address: address(info.addr()),
            url: None,
            name: None,
        })
    }

    /// Takes a quoted text as an address as it is, unless it is a URL: an address to which nothing can
    /// connect can still be hashed.
    pub(super) fn of_quoted(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Self::of_url(text);
        }
        Ok(Self {
            address: text.to_owned(),
            url: None,
            name: None,
        })
    }

    /// Parses a URL.
    fn of_url(text: &str) -> Result<Self, String> {
        if has_sentinel_scheme(text) {
            let url = SentinelUrl::parse(text)?;
            return Ok(Self {
                address: url.address(),
                name: Some(url.master().to_owned()),
                url: Some(NodeUrl::Sentinel(Box::new(url))),
            });
        }
        let url = redis_url(text).ok_or(
            "this is not the URL of a Redis server, such as redis://host:port/ or unix:///path/of/socket",
        )?;
        // Parameters are checked before anything else could quote them.
        let mut url = ServerUrl(url);
        url.check_parameters()?;
        // redis-rs checks fragments only when built with TLS. They are checked here, so that a text is valid
        // in every build: where keys live does not depend on TLS.
        let tls = url.is_tls();
        match url.0.fragment() {
            None => {}
            Some("insecure") if tls => {}
            Some(_) if tls => return Err("only \"insecure\" may follow the #".into()),
            // Without TLS the fragment has no meaning, and is not written back.
            Some(_) => url.0.set_fragment(None),
        }
        // Without the error's detail, which quotes a part of the URL.
        let info = url
            .plain_info()
            .map_err(|error| format!("the URL cannot be read: {}", error_text(&error)))?;
        if url
            .hidden()
            .is_some_and(|url| url.query().is_some_and(holds_password))
        {
            return Err(format!("a parameter of the URL {ADVICE}"));
        }
        Ok(Self {
            address: address(info.addr()),
            url: (tls || !is_plain(&info)).then_some(NodeUrl::Server(url)),
            name: None,
        })
    }
}

impl NodeUrl {
    /// Returns the URL of a node; `None` if its address says all.
    ///
    /// # Errors
    ///
    /// A description, if a URL cannot describe it.
    pub(super) fn of(access: &NodeAccess) -> Result<Option<Self>, String> {
        let info = &access.info;
        if let Some(source) = &access.sentinel {
            let url = SentinelUrl::of(source, info)?;
            return Ok(Some(Self::Sentinel(Box::new(url))));
        }
        match info.addr() {
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) if is_plain(info) => Ok(None),
            ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. } | ConnectionAddr::Unix(_) => {
                Ok(Some(Self::Server(ServerUrl::whole(info)?)))
            }
            _ => Ok(None),
        }
    }

    /// Returns how the node is reached.
    pub(super) fn access(&self) -> Result<NodeAccess, redis::RedisError> {
        match self {
            Self::Server(url) => url.0.clone().into_connection_info().map(NodeAccess::fixed),
            Self::Sentinel(url) => url.access(),
        }
    }

    /// Returns the URL to be written; `None` if the address says all that may be written.
    pub(super) fn text(&self, passwords: Passwords) -> Option<String> {
        match self {
            Self::Server(url) => url.text(passwords).map(String::from),
            Self::Sentinel(url) => Some(url.text(passwords)),
        }
    }
}

impl ServerUrl {
    /// Returns the URL of a connection.
    ///
    /// # Errors
    ///
    /// A description, if a URL cannot describe the connection.
    pub(super) fn whole(info: &ConnectionInfo) -> Result<Self, String> {
        let address = address(info.addr());
        let url = match info.addr() {
            ConnectionAddr::Tcp(..) => Url::parse(&format!("redis://{address}")).ok(),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                Url::parse(&format!("rediss://{address}#insecure")).ok()
            }
            ConnectionAddr::TcpTls { .. } => Url::parse(&format!("rediss://{address}")).ok(),
            ConnectionAddr::Unix(_) => {
                let url = Url::parse("unix:///").ok();
                url.map(|mut url| {
                    url.set_path(&escaped(&address));
                    url
                })
            }
            _ => None,
        };
        let url = url.and_then(|url| Self(url).with_settings(info));
        // Read back and compared: the url crate normalizes hosts and users, and must not change the
        // connection by it.
        Ok(url.filter(|url| url.describes(info)).ok_or(
            "its host or its user cannot be written in a URL, which is how TLS, the user, the password, the database and \
             the protocol are written: give the host another name",
        )?)
    }

    /// Returns the URL as it is.
    pub(super) fn into_url(self) -> Url {
        self.0
    }

    /// True if the URL is read as this connection.
    fn describes(&self, info: &ConnectionInfo) -> bool {
        self.plain_info().is_ok_and(|read| {
            let (read_settings, settings) = (read.redis_settings(), info.redis_settings());
            address(read.addr()) == address(info.addr())
                && read_settings.username() == settings.username()
                && read_settings.password() == settings.password()
                && read_settings.db() == settings.db()
                && read_settings.protocol() == settings.protocol()
        })
    }

    /// Returns the URL with the user, password, database and protocol of the connection; `None` if they
    /// cannot be written.
    fn with_settings(mut self, info: &ConnectionInfo) -> Option<Self> {
        let settings = info.redis_settings();
        let (user, password) = (settings.username(), settings.password());
        let db = settings.db();
        let mut query: Vec<(&str, String)> = Vec::new();
        // A socket's URL has a path where others have a database, and no place for a user: redis-rs reads
        // parameters.
        if self.is_unix() {
            query.extend((db != 0).then(|| ("db", db.to_string())));
            query.extend(user.map(|user| ("user", user.to_owned())));
            query.extend(password.map(|password| ("pass", password.to_owned())));
        } else {
            if db != 0 {
                self.0.set_path(&db.to_string());
            }
            self.0
                .set_username(&escaped(user.unwrap_or_default()))
                .ok()?;
            let password = password.map(escaped);
            self.0.set_password(password.as_deref()).ok()?;
        }
        // RESP2 is redis-rs' default, and needs no parameter.
        if settings.protocol() == ProtocolVersion::RESP3 {
            query.push(("protocol", "resp3".to_owned()));
        }
        if !query.is_empty() {
            self.0.query_pairs_mut().extend_pairs(query);
        }
        Some(self)
    }

    /// Refuses a password in a parameter that redis-rs does not read: it would not be sent, and would be
    /// shown.
    fn check_parameters(&self) -> Result<(), String> {
        let read = |key: &str| self.is_unix() && key == "pass";
        let mut keys = self.0.query_pairs().map(|(key, _)| key);
        match keys.any(|key| is_password_parameter(&key) && !read(&key)) {
            false => Ok(()),
            true if self.is_unix() => Err("the password of a socket is its parameter pass".into()),
            true => {
                Err("a password stands before the host, as in redis://:PASSWORD@host:port/".into())
            }
        }
    }

    /// Returns how to connect, without TLS, which redis-rs refuses when built without it.
    fn plain_info(&self) -> Result<ConnectionInfo, redis::RedisError> {
        without_tls(&self.0).into_connection_info()
    }

    /// Returns the URL to be written; `None` if the address says all that may be written.
    fn text(&self, passwords: Passwords) -> Option<Url> {
        match passwords {
            Passwords::Hidden => self.hidden(),
            Passwords::Shown => Some(self.0.clone()),
        }
    }

    /// Returns the URL without its password; `None` if nothing but the address is left.
    fn hidden(&self) -> Option<Url> {
        let mut url = self.0.clone();
        // Fails only for URLs that cannot have a password.
        let _ = url.set_password(None);
        if url.query_pairs().any(|(key, _)| key == "pass") {
            // From `self`, since `url` cannot be read and changed at once.
            let kept: Vec<_> = self
                .0
                .query_pairs()
                .filter(|(key, _)| key != "pass")
                .collect();
            url.set_query(None);
            if !kept.is_empty() {
                url.query_pairs_mut().extend_pairs(kept);
            }
        }
        let hidden = Self(url);
        let plain = !self.is_tls() && hidden.plain_info().is_ok_and(|info| is_plain(&info));
        (!plain).then_some(hidden.0)
    }

    /// True for connections over TLS.
    fn is_tls(&self) -> bool {
        is_tls(&self.0)
    }

    /// True for unix sockets.
    fn is_unix(&self) -> bool {
        !matches!(self.0.scheme(), "redis" | "rediss" | "valkey" | "valkeys")
    }
}

/// True for the URL of a connection over TLS.
fn is_tls(url: &Url) -> bool {
    matches!(url.scheme(), "rediss" | "valkeys")
}

/// The same URL without TLS.
pub(super) fn without_tls(url: &Url) -> Url {
    let mut plain = url.clone();
    if is_tls(url) {
        plain.set_fragment(None);
        // Both are schemes without rules of their own, so this does not fail.
        let _ = plain.set_scheme("redis");
    }
    plain
}

/// Parses the URL of a server. Other schemes are refused by name, before anything is parsed.
fn redis_url(text: &str) -> Option<Url> {
    let (scheme, _) = text.split_once("://")?;
    let known = SCHEMES
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    known.then(|| redis::parse_redis_url(text))?
}

/// The schemes that redis-rs knows.
const SCHEMES: [&str; 7] = [
    "redis",
    "redis+unix",
    "rediss",
    "unix",
    "valkey",
    "valkey+unix",
    "valkeys",
];

/// Returns how to connect to an address: `host:port` or the path of a unix socket.
pub(super) fn info_at(address: &str) -> Result<ConnectionInfo, String> {
    let info = match address.starts_with('/') {
        true => ConnectionAddr::Unix(address.into())
            .into_connection_info()
            .ok(),
        // Parsed by redis-rs itself, so that an address is accepted exactly if redis-rs can connect to it.
        false => redis_url(&format!("redis://{address}"))
            .filter(|url| url.port().is_some() && is_bare(url))
            .and_then(|url| url.into_connection_info().ok()),
    };
    info.ok_or_else(|| {
        "the address is neither host:port (with an IPv6 host in brackets), nor the path of a unix socket, nor a URL"
            .to_owned()
    })
}

/// Returns `host:port` with an IPv6 host in brackets, or the path of a unix socket.
pub(crate) fn address(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }
            if host.contains(':') =>
        {
            format!("[{host}]:{port}")
        }
        other => other.to_string(),
    }
}

/// True if both describe the same server, and the same user, database and protocol.
pub(crate) fn is_same_connection(one: &ConnectionInfo, other: &ConnectionInfo) -> bool {
    let (ours, theirs) = (one.redis_settings(), other.redis_settings());
    one.addr() == other.addr()
        && ours.username() == theirs.username()
        && ours.password() == theirs.password()
        && ours.db() == theirs.db()
        && ours.protocol() == theirs.protocol()
}

/// True if the URL is nothing but a host and a port.
fn is_bare(url: &Url) -> bool {
    let nobody = url.username().is_empty() && url.password().is_none();
    nobody && url.path().is_empty() && url.query().is_none() && url.fragment().is_none()
}

/// True if the address says all, apart from TLS.
fn is_plain(info: &ConnectionInfo) -> bool {
    let settings = info.redis_settings();
    let nobody = settings.username().is_none() && settings.password().is_none();
    nobody && settings.db() == 0 && settings.protocol() == ProtocolVersion::RESP2
}

/// Returns the general text of an error of redis-rs, without its detail, which may quote a part of a URL.
pub(crate) fn error_text(error: &redis::RedisError) -> String {
    let text = error.to_string();
    match error.detail() {
        Some(detail) => text
            .replace(detail, "...")
            .trim_end_matches([':', '.', ' '])
            .to_owned(),
        None => text,
    }
}

/// Escapes percent signs, which the url crate takes for the start of an escape.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
}
