//! [`SentinelUrl`]: a node behind Sentinel, in one word of text.
//!
//! ```text
//! redis-sentinel://user:password@s1:26379,s2:26379/2?sentinel_password=..&tls=yes#mymaster
//!                  └─────┬─────┘ └───────┬───────┘ │ └──────────┬───────────────┘ └──┬───┘
//!                  of the nodes      Sentinels    database   parameters            master
//! ```
//!
//! The form is that of Lettuce. User, password and database are those of the primary, as there. Parameters:
//!
//! * `protocol=resp3` of the primary, as in a URL of redis-rs.
//! * `sentinel_user`, `sentinel_password`: those of the Sentinels.
//! * `tls`, `sentinel_tls`: `no`, `yes` or `insecure` (without a check of certificates), for the primary and the
//!   Sentinels. Default to `yes` with the scheme `rediss-sentinel`, and to `no` otherwise.
//!
//! Errors never quote the text, which may hold a password.

use std::sync::Arc;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisError};
use url::{Url, form_urlencoded};

use super::source::{NodeAccess, SentinelSource, at_host};
use crate::topology::Passwords;
use crate::topology::url::{ServerUrl, error_text, without_tls};

/// The scheme, and the one with which TLS is the default.
const SCHEMES: [&str; 2] = ["redis-sentinel", "rediss-sentinel"];

/// The port of a Sentinel that is given without one.
const SENTINEL_PORT: u16 = 26_379;

/// A valid URL of a node behind Sentinel.
#[derive(Clone)]
pub(in crate::topology) struct SentinelUrl {
    /// How the primary is reached, but for its address.
    node: Url,
    /// How each Sentinel is reached. User, password and TLS are the same for all.
    sentinels: Vec<Url>,
    master: String,
}

/// True if a text is meant to be such a URL.
pub(in crate::topology) fn has_sentinel_scheme(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

/// How a server is reached over TLS, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsUse {
    No,
    Yes,
    Insecure,
}

impl SentinelUrl {
    /// Parses a URL.
    pub(in crate::topology) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let (rest, master) = rest.split_once('#').ok_or(
            "the name of the master is missing; it stands behind a # at the end, as in #mymaster",
        )?;
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = before.split_once('/').unwrap_or((before, ""));
        let (user_info, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let usual = match scheme.eq_ignore_ascii_case(SCHEMES[1]) {
            true => TlsUse::Yes,
            false => TlsUse::No,
        };
        let mut parameters = Parameters::parse(query);
        let tls = parameters.tls("tls", usual)?;
        let sentinel_tls = parameters.tls("sentinel_tls", usual)?;
        let user = parameters.take("sentinel_user");
        let password = parameters.take("sentinel_password");
        let protocol = parameters.take("protocol");
        parameters.end()?;
        let at = if user_info.is_empty() { "" } else { "@" };
        let node = format!("redis://{user_info}{at}{NODE_HOST}/{database}");
        let mut node = redis::parse_redis_url(&node)
            .ok_or("the user, the password or the database cannot be read")?;
        if let Some(protocol) = protocol {
            node.query_pairs_mut().append_pair("protocol", &protocol);
        }
        tls.apply(&mut node);
        let sentinel = |host: &str| {
            let mut url = sentinel_url(host)?;
            sentinel_tls.apply(&mut url);
            let is_set = url
                .set_username(user.as_deref().unwrap_or_default())
                .is_ok()
                && url.set_password(password.as_deref()).is_ok();
            is_set
                .then_some(url)
                .ok_or("the user of the Sentinels cannot be written in a URL".to_owned())
        };
        let mut url = Self {
            node,
            sentinels: hosts.split(',').map(sentinel).collect::<Result<_, _>>()?,
            master: master.to_owned(),
        };
        // Without TLS, which redis-rs refuses when built without it: where keys live does not depend on that.
        let infos = url.infos(|url| without_tls(url).into_connection_info());
        let (sentinels, info) =
            infos.map_err(|error| format!("the URL cannot be read: {}", error_text(&error)))?;
        SentinelSource::new(sentinels, master)?;
        if info.redis_settings().db() == 0 {
            // Written as it is when a client writes its topology.
            url.node.set_path("");
        }
        Ok(url)
    }

    /// Returns the URL of a node behind Sentinel.
    ///
    /// # Errors
    ///
    /// A description, if the Sentinels are not reached alike.
    pub(in crate::topology) fn of(
        source: &SentinelSource,
        info: &ConnectionInfo,
    ) -> Result<Self, String> {
        let node = ServerUrl::whole(&at_host(info.clone(), NODE_HOST, NODE_PORT))?;
        let mut sentinels: Vec<Url> = Vec::new();
        for info in source.sentinels.iter() {
            let url = ServerUrl::whole(info)?.into_url();
            let is_alike = |first: &Url| {
                first.scheme() == url.scheme()
                    && first.fragment() == url.fragment()
                    && first.username() == url.username()
                    && first.password() == url.password()
            };
            if !sentinels.first().is_none_or(is_alike) {
                return Err(
                    "its Sentinels differ in the user, the password or TLS, which must be the same for all"
                        .into(),
                );
            }
            sentinels.push(url);
        }
        Ok(Self {
            node: node.into_url(),
            sentinels,
            master: source.master.clone(),
        })
    }

    /// Returns how the node is reached.
    pub(in crate::topology) fn access(&self) -> Result<NodeAccess, RedisError> {
        let (sentinels, info) = self.infos(|url| url.clone().into_connection_info())?;
        let source = SentinelSource {
            sentinels,
            master: self.master.clone(),
        };
        Ok(NodeAccess::behind(source, info))
    }

    /// The address of the node, for humans: `mymaster@s1:26379,s2:26379`.
    pub(in crate::topology) fn address(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(host).collect();
        format!("{}@{}", self.master, hosts.join(","))
    }

    /// The name that the node has if it is given none: that of the master.
    pub(in crate::topology) fn master(&self) -> &str {
        &self.master
    }

    /// The connections to the Sentinels, and to the node.
    fn infos(
        &self,
        info: impl Fn(&Url) -> Result<ConnectionInfo, RedisError>,
    ) -> Result<(Arc<[ConnectionInfo]>, ConnectionInfo), RedisError> {
        let sentinels = self.sentinels.iter().map(&info);
        Ok((sentinels.collect::<Result<_, _>>()?, info(&self.node)?))
    }

    /// Returns the URL to be written.
    pub(in crate::topology) fn text(&self, passwords: Passwords) -> String {
        let shown = |url: &Url| {
            let mut url = url.clone();
            if let Passwords::Hidden = passwords {
                // Fails only for URLs that cannot have a password.
                let _ = url.set_password(None);
            }
            url
        };
        let node = shown(&self.node);
        let user_info = node.authority().rsplit_once('@');
        let user_info = user_info.map_or(String::new(), |(user_info, _)| format!("{user_info}@"));
        let hosts: Vec<String> = self.sentinels.iter().map(host).collect();
        let tls = TlsUse::of(&node);
        let sentinel = self.sentinels.first().map(shown);
        let sentinel_tls = sentinel.as_ref().map_or(TlsUse::No, TlsUse::of);
        let (scheme, usual) = match (tls, sentinel_tls) {
            (TlsUse::Yes, TlsUse::Yes) => (SCHEMES[1], TlsUse::Yes),
            _ => (SCHEMES[0], TlsUse::No),
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(node.query_pairs());
        for (name, tls) in [("tls", tls), ("sentinel_tls", sentinel_tls)] {
            if tls != usual {
                query.append_pair(name, tls.name());
            }
        }
        if let Some(sentinel) = &sentinel {
            // The escaped forms are those that a URL takes; parameters are escaped once more.
            for (name, value) in [
                ("sentinel_user", Some(sentinel.username())),
                ("sentinel_password", sentinel.password()),
            ] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    query.append_pair(name, value);
                }
            }
        }
        let query = match query.finish() {
            query if query.is_empty() => query,
            query => format!("?{query}"),
        };
        let path = if node.path() == "/" { "" } else { node.path() };
        let (hosts, master) = (hosts.join(","), &self.master);
        format!("{scheme}://{user_info}{hosts}{path}{query}#{master}")
    }
}

/// The host in the URL of a node, which has none.
const NODE_HOST: &str = "primary";

/// The port beside [`NODE_HOST`].
const NODE_PORT: u16 = 6379;

/// `host:port` of a URL.
fn host(url: &Url) -> String {
    let mut url = url.clone();
    // Fail only for URLs without a host.
    let _ = (url.set_username(""), url.set_password(None));
    url.authority().to_owned()
}

/// Parses `host` or `host:port`.
fn sentinel_url(host: &str) -> Result<Url, String> {
    let url = redis::parse_redis_url(&format!("redis://{host}"));
    let is_bare = |url: &Url| {
        url.host_str().is_some_and(|host| !host.is_empty())
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let mut url = url.filter(is_bare).ok_or(
        "the Sentinels are host:port, separated by commas, as in redis-sentinel://s1:26379,s2:26379/#mymaster",
    )?;
    if url.port().is_none() {
        // Fails only for URLs without a host.
        let _ = url.set_port(Some(SENTINEL_PORT));
    }
    Ok(url)
}

impl TlsUse {
    fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Insecure => "insecure",
        }
    }

    fn of(url: &Url) -> Self {
        match (url.scheme(), url.fragment()) {
            ("rediss", None) => Self::Yes,
            ("rediss", Some(_)) => Self::Insecure,
            _ => Self::No,
        }
    }

    fn apply(self, url: &mut Url) {
        if self != Self::No {
            // Both are schemes without rules of their own, so this does not fail.
            let _ = url.set_scheme("rediss");
        }
        url.set_fragment((self == Self::Insecure).then_some("insecure"));
    }
}

/// The parameters that were not taken yet.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(at).1)
    }

    fn tls(&mut self, name: &str, usual: TlsUse) -> Result<TlsUse, String> {
        let Some(value) = self.take(name) else {
            return Ok(usual);
        };
        let known = [TlsUse::No, TlsUse::Yes, TlsUse::Insecure];
        let found = known.into_iter().find(|tls| tls.name() == value);
        found.ok_or_else(|| format!("the parameter {name} is no, yes or insecure"))
    }

    /// Refuses what is left: a misspelt parameter would not be sent, and might be shown.
    fn end(self) -> Result<(), String> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(
                "a parameter is none of protocol, tls, sentinel_tls, sentinel_user and sentinel_password, or is given \
                 twice"
                    .into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    use redis::ConnectionAddr;
    use redis::ProtocolVersion;

    use super::*;

    fn text(url: &str, passwords: Passwords) -> String {
        SentinelUrl::parse(url).unwrap().text(passwords)
    }

    #[test]
    fn sentinel_url_is_written_as_it_is_read() {
        for url in [
            "redis-sentinel://s1:26379#mymaster",
            "redis-sentinel://s1:26379,[::1]:7,10.0.0.3:1#users-a",
            "redis-sentinel://app:p%40ss@s1:26379/3?protocol=resp3#m.1_x",
            "redis-sentinel://:pw@s1:26379?sentinel_user=sen&sentinel_password=tinel#m",
        ] {
            assert_eq!(text(url, Passwords::Shown), url);
        }
        let short = text("REDIS-Sentinel://s1,s2:5#m", Passwords::Shown);
        assert_eq!(short, "redis-sentinel://s1:26379,s2:5#m");
    }

    #[test]
    fn sentinel_url_without_passwords_keeps_everything_else() {
        let url = "redis-sentinel://app:hunter2@s1:1/3?protocol=resp3&sentinel_user=sen&sentinel_password=hunter3#m";
        let hidden = "redis-sentinel://app@s1:1/3?protocol=resp3&sentinel_user=sen#m";
        assert_eq!(text(url, Passwords::Hidden), hidden);
        assert_eq!(text(hidden, Passwords::Shown), hidden);
        let password = "redis-sentinel://:hunter2@s1:1#m";
        assert_eq!(text(password, Passwords::Hidden), "redis-sentinel://s1:1#m");
    }

    #[test]
    fn sentinel_url_describes_nodes_and_sentinels() {
        let url =
            "redis-sentinel://app:p%40ss@s1:1,s2:2/3?protocol=resp3&sentinel_password=p%2540s#m";
        let access = SentinelUrl::parse(url).unwrap().access().unwrap();
        let node = access.info.redis_settings();
        assert_eq!(
            (node.username(), node.password()),
            (Some("app"), Some("p@ss"))
        );
        assert_eq!((node.db(), node.protocol()), (3, ProtocolVersion::RESP3));
        let source = access.sentinel.clone().unwrap();
        assert_eq!(source.address(), "m@s1:1,s2:2");
        for sentinel in source.sentinels.iter() {
            assert_eq!(sentinel.redis_settings().password(), Some("p@s"));
            assert_eq!(sentinel.redis_settings().db(), 0);
        }
        let again = SentinelUrl::of(&source, &access.info)
            .unwrap()
            .text(Passwords::Shown);
        assert!(
            SentinelUrl::parse(&again)
                .unwrap()
                .access()
                .unwrap()
                .is_same(&access)
        );
    }

    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    #[test]
    fn sentinel_url_has_tls_for_nodes_and_sentinels_apart() {
        for (url, node, sentinel) in [
            ("redis-sentinel://s:1#m", None, None),
            ("rediss-sentinel://s:1#m", Some(false), Some(false)),
            ("redis-sentinel://s:1?tls=yes#m", Some(false), None),
            (
                "redis-sentinel://s:1?tls=insecure&sentinel_tls=yes#m",
                Some(true),
                Some(false),
            ),
            (
                "redis-sentinel://s:1?sentinel_tls=insecure#m",
                None,
                Some(true),
            ),
        ] {
            let access = SentinelUrl::parse(url).unwrap().access().unwrap();
            let tls = |info: &ConnectionInfo| match info.addr() {
                ConnectionAddr::TcpTls { insecure, .. } => Some(*insecure),
                _ => None,
            };
            assert_eq!(tls(&access.info), node, "{url}");
            let source = access.sentinel.unwrap();
            assert_eq!(tls(&source.sentinels[0]), sentinel, "{url}");
            let again = SentinelUrl::of(&source, &access.info).unwrap();
            assert_eq!(again.text(Passwords::Shown), url);
        }
    }

    #[test]
    fn wrong_sentinel_url_is_refused_without_quoting_it() {
        for (url, expected) in [
            (
                "redis-sentinel://:SECRET@s1:1",
                "name of the master is missing",
            ),
            (
                "redis-sentinel://:SECRET@s1:1#",
                "name of the master is empty",
            ),
            (
                "redis-sentinel://:SECRET@s1:1#a b",
                "the name of a master has",
            ),
            ("redis-sentinel://:SECRET@#m", "the Sentinels are host:port"),
            (
                "redis-sentinel://:SECRET@s1:1,#m",
                "the Sentinels are host:port",
            ),
            (
                "redis-sentinel://:SECRET@s1:99999#m",
                "the Sentinels are host:port",
            ),
            ("redis-sentinel://:SECRET@s1:1/x#m", "cannot be read"),
            (
                "redis-sentinel://s1:1?tls=SECRET#m",
                "the parameter tls is no, yes or insecure",
            ),
            (
                "redis-sentinel://s1:1?password=SECRET#m",
                "a parameter is none of",
            ),
            (
                "redis-sentinel://s1:1?tls=no&tls=SECRET#m",
                "or is given twice",
            ),
            ("redis-sentinel://s1:1?protocol=SECRET#m", "cannot be read"),
        ] {
            let Err(error) = SentinelUrl::parse(url) else {
                panic!("{url} was read");
            };
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
