//! How is a node reached, in one word of text?

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use url::Url;

use super::Passwords;
use crate::partition::password::{ADVICE, holds_password, is_password_parameter};

/// A redis URL that says more than an address does: a user, a password, a database, TLS, a protocol.
#[derive(Clone)]
pub(super) struct NodeUrl(Url);

/// Where a node is, and its URL if an address does not say all.
pub(super) struct NodeEndpoint {
    pub(super) address: String,
    pub(super) url: Option<NodeUrl>,
}

impl NodeEndpoint {
    /// Reads `host:port`, the path of a unix socket, or a URL. What is wrong is said without the text, which may hold a
    /// password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Self::of_url(text);
        }
        let info = info_at(text)?;
        Ok(Self {
            address: address(info.addr()),
            url: None,
        })
    }

    /// Takes what stands in quotes as it is, unless it is a URL: an address that cannot be connected to can be hashed all
    /// the same.
    pub(super) fn of_quoted(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Self::of_url(text);
        }
        Ok(Self {
            address: text.to_owned(),
            url: None,
        })
    }

    fn of_url(text: &str) -> Result<Self, String> {
        let url = redis_url(text).ok_or(
            "this is not the URL of a Redis server, such as redis://host:port/ or unix:///path/of/socket",
        )?;
        let mut url = NodeUrl(url);
        url.check_parameters()?;
        // redis-rs reads these only when it was built with TLS, which nobody needs to know where keys live.
        let tls = url.is_tls();
        match url.0.fragment() {
            None => {}
            Some("insecure") if tls => {}
            Some(_) if tls => return Err("only \"insecure\" may follow the #".into()),
            Some(_) => url.0.set_fragment(None),
        }
        // The detail of such an error repeats a part of the URL.
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
            url: (tls || !is_plain(&info)).then_some(url),
        })
    }
}

impl NodeUrl {
    /// The URL of a connection, unless its address says all.
    pub(super) fn of(info: &ConnectionInfo) -> Result<Option<Self>, String> {
        let address = address(info.addr());
        let url = match info.addr() {
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) if is_plain(info) => return Ok(None),
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
            _ => return Ok(None),
        };
        let url = url.and_then(|url| Self(url).with_settings(info));
        let url = url.filter(|url| url.describes(info)).ok_or(
            "its host or its user cannot be written in a URL, which is how TLS, the user, the password, the database and \
             the protocol are written: give the host another name",
        )?;
        Ok(Some(url))
    }

    /// Whether this is what is read from the URL.
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

    fn with_settings(mut self, info: &ConnectionInfo) -> Option<Self> {
        let settings = info.redis_settings();
        let (user, password) = (settings.username(), settings.password());
        let db = settings.db();
        let mut query: Vec<(&str, String)> = Vec::new();
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
        if settings.protocol() == ProtocolVersion::RESP3 {
            query.push(("protocol", "resp3".to_owned()));
        }
        if !query.is_empty() {
            self.0.query_pairs_mut().extend_pairs(query);
        }
        Some(self)
    }

    /// Refuses a password where redis-rs does not look for one: it would be missing, and be shown.
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

    pub(super) fn info(&self) -> Result<ConnectionInfo, redis::RedisError> {
        self.0.clone().into_connection_info()
    }

    /// How to connect, without TLS.
    fn plain_info(&self) -> Result<ConnectionInfo, redis::RedisError> {
        let mut plain = self.0.clone();
        if self.is_tls() {
            plain.set_fragment(None);
            let _ = plain.set_scheme("redis");
        }
        plain.into_connection_info()
    }

    /// The URL as it is written; nothing where the address says all that may be said.
    pub(super) fn text(&self, passwords: Passwords) -> Option<Url> {
        match passwords {
            Passwords::Hidden => self.hidden(),
            Passwords::Shown => Some(self.0.clone()),
        }
    }

    /// Without the password.
    fn hidden(&self) -> Option<Url> {
        let mut url = self.0.clone();
        // Fails only where there can be none.
        let _ = url.set_password(None);
        if url.query_pairs().any(|(key, _)| key == "pass") {
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

    fn is_tls(&self) -> bool {
        matches!(self.0.scheme(), "rediss" | "valkeys")
    }

    fn is_unix(&self) -> bool {
        !matches!(self.0.scheme(), "redis" | "rediss" | "valkey" | "valkeys")
    }
}

/// The URL of a server. Of other schemes nothing is read, as that may take its time.
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

/// How to reach an address: `host:port` or the path of a unix socket.
pub(super) fn info_at(address: &str) -> Result<ConnectionInfo, String> {
    let info = match address.starts_with('/') {
        true => ConnectionAddr::Unix(address.into())
            .into_connection_info()
            .ok(),
        false => redis_url(&format!("redis://{address}"))
            .filter(|url| url.port().is_some() && is_bare(url))
            .and_then(|url| url.into_connection_info().ok()),
    };
    info.ok_or_else(|| {
        "the address is neither host:port (with an IPv6 host in brackets), nor the path of a unix socket, nor a URL"
            .to_owned()
    })
}

/// `host:port` with an IPv6 host in brackets, or the path of a unix socket.
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

/// Whether the URL is nothing but a host and a port.
fn is_bare(url: &Url) -> bool {
    let nobody = url.username().is_empty() && url.password().is_none();
    nobody && url.path().is_empty() && url.query().is_none() && url.fragment().is_none()
}

/// Whether the address, without TLS, says all there is.
fn is_plain(info: &ConnectionInfo) -> bool {
    let settings = info.redis_settings();
    let nobody = settings.username().is_none() && settings.password().is_none();
    nobody && settings.db() == 0 && settings.protocol() == ProtocolVersion::RESP2
}

/// What redis-rs says in general, without the detail, which may repeat a part of a URL.
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

/// The url crate takes a percent sign for the start of an escape.
fn escaped(text: &str) -> String {
    text.replace('%', "%25")
}
