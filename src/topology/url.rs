//! How is a node reached, in one word of text?

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use url::Url;

use super::Passwords;

/// A redis URL that says more than an address does: a user, a password, a database, TLS, a protocol.
#[derive(Clone)]
pub(super) struct NodeUrl(Url);

/// Where a node is, and its URL if an address does not say all.
pub(super) struct Reach {
    pub(super) address: String,
    pub(super) url: Option<NodeUrl>,
}

impl Reach {
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

    fn of_url(text: &str) -> Result<Self, String> {
        let url = redis::parse_redis_url(text).ok_or(
            "this is no URL of a Redis server such as redis://host:port/ or unix:///path/of/socket",
        )?;
        // redis-rs reads these only when it was built with TLS, which nobody needs to know where keys live.
        let tls = matches!(url.scheme(), "rediss" | "valkeys");
        let mut plain = url.clone();
        if tls {
            match url.fragment() {
                None | Some("insecure") => plain.set_fragment(None),
                Some(_) => return Err("behind # may stand \"insecure\" only".into()),
            }
            let _ = plain.set_scheme("redis");
        }
        // The detail of such an error repeats a part of the URL.
        let info = plain
            .into_connection_info()
            .map_err(|error| format!("the URL cannot be read: {}", said(&error)))?;
        Ok(Self {
            address: address(info.addr()),
            url: (tls || !is_plain(&info)).then_some(NodeUrl(url)),
        })
    }
}

impl NodeUrl {
    /// The URL of a connection, unless its address says all.
    pub(super) fn of(info: &ConnectionInfo) -> Option<Self> {
        let address = address(info.addr());
        let url = match info.addr() {
            ConnectionAddr::Tcp(..) if is_plain(info) => None,
            ConnectionAddr::Tcp(..) => Url::parse(&format!("redis://{address}")).ok(),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                Url::parse(&format!("rediss://{address}#insecure")).ok()
            }
            ConnectionAddr::TcpTls { .. } => Url::parse(&format!("rediss://{address}")).ok(),
            ConnectionAddr::Unix(_) if is_plain(info) => None,
            ConnectionAddr::Unix(_) => {
                let url = Url::parse("unix:///").ok();
                url.map(|mut url| {
                    url.set_path(&escaped(&address));
                    url
                })
            }
            _ => None,
        };
        url.and_then(|url| Self(url).with_settings(info))
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

    /// Whether a password stands in this URL, if it is one.
    pub(super) fn has_password(text: &str) -> bool {
        Url::parse(text).is_ok_and(|url| {
            url.password().is_some() || url.query_pairs().any(|(key, _)| key == "pass")
        })
    }

    pub(super) fn info(&self) -> Result<ConnectionInfo, redis::RedisError> {
        self.0.clone().into_connection_info()
    }

    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, passwords: Passwords) -> fmt::Result {
        match passwords {
            Passwords::Hidden => f.write_str(self.without_password().as_str()),
            Passwords::Shown => f.write_str(self.0.as_str()),
        }
    }

    fn without_password(&self) -> Url {
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
        url
    }

    fn is_unix(&self) -> bool {
        !matches!(self.0.scheme(), "redis" | "rediss" | "valkey" | "valkeys")
    }
}

/// How to reach an address: `host:port` or the path of a unix socket.
pub(super) fn info_at(address: &str) -> Result<ConnectionInfo, String> {
    let info = match address.starts_with('/') {
        true => ConnectionAddr::Unix(address.into())
            .into_connection_info()
            .ok(),
        false => redis::parse_redis_url(&format!("redis://{address}"))
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

/// What redis-rs says in general, without the detail.
fn said(error: &redis::RedisError) -> String {
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
