//! [`SentinelSource`]: a master of a group of Sentinels, as the address of a node.

use std::fmt;
use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo};

use crate::topology::{address, is_same_connection};

/// Longest name of a master.
const MASTER_BYTES_MAX: usize = 256;

/// The host in the [`ConnectionInfo`] of a node whose address Sentinel knows.
pub(crate) const UNKNOWN_HOST: &str = "address-from-sentinel.invalid";

/// The port beside [`UNKNOWN_HOST`].
const UNKNOWN_PORT: u16 = 6379;

/// "The primary that these Sentinels call so".
#[derive(Clone)]
pub(crate) struct SentinelSource {
    /// How the Sentinels are reached, in the order in which they were given.
    pub(crate) sentinels: Arc<[ConnectionInfo]>,
    /// The name by which they know the master.
    pub(crate) master: String,
}

/// How a node is reached.
#[derive(Clone)]
pub(crate) struct NodeAccess {
    /// Address, user, password, database, TLS and protocol; without an address if there is a `sentinel`.
    pub(crate) info: ConnectionInfo,
    /// Who knows the address.
    pub(crate) sentinel: Option<SentinelSource>,
}

impl SentinelSource {
    /// Checks the parts.
    ///
    /// # Errors
    ///
    /// A description, which quotes nothing but a valid name.
    pub(crate) fn new(sentinels: Arc<[ConnectionInfo]>, master: &str) -> Result<Self, String> {
        if master.is_empty() {
            return Err(
                "the name of the master is empty; it is that of `sentinel monitor` in the configuration of the Sentinels"
                    .into(),
            );
        }
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if master.len() > MASTER_BYTES_MAX || !master.bytes().all(is_valid) {
            return Err(
                "the name of a master has letters, digits, '.', '-' and '_' only, at most 256"
                    .into(),
            );
        }
        if sentinels.is_empty() {
            return Err(format!(
                "no Sentinel was given for the master {master:?}; give the URL of at least one, better of all"
            ));
        }
        let is_tcp = |info: &ConnectionInfo| {
            matches!(
                info.addr(),
                ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { .. }
            )
        };
        if !sentinels.iter().all(is_tcp) {
            return Err("a Sentinel is reached by a host and a port, not by a socket".into());
        }
        if sentinels.iter().any(|info| info.redis_settings().db() != 0) {
            return Err(
                "a Sentinel has no databases; the database of the node belongs in `Sentinel::with_node`".into(),
            );
        }
        Ok(Self {
            sentinels,
            master: master.to_owned(),
        })
    }

    /// The address of the node, for humans: `mymaster@s1:26379,s2:26379`.
    pub(crate) fn address(&self) -> String {
        let sentinels: Vec<String> = self
            .sentinels
            .iter()
            .map(|info| address(info.addr()))
            .collect();
        format!("{}@{}", self.master, sentinels.join(","))
    }

    /// True if both are asked of the same Sentinels, which are reached alike.
    pub(crate) fn has_same_sentinels(&self, other: &Self) -> bool {
        let is_same = |(one, other)| is_same_connection(one, other);
        self.sentinels.len() == other.sentinels.len()
            && self.sentinels.iter().zip(&*other.sentinels).all(is_same)
    }
}

impl NodeAccess {
    /// A node at a fixed address.
    pub(crate) fn fixed(info: ConnectionInfo) -> Self {
        Self {
            info,
            sentinel: None,
        }
    }

    /// A node behind Sentinel, which is reached like `info` but for the address.
    pub(crate) fn behind(sentinel: SentinelSource, info: ConnectionInfo) -> Self {
        Self {
            info: at_host(info, UNKNOWN_HOST, UNKNOWN_PORT),
            sentinel: Some(sentinel),
        }
    }

    /// True if both describe the same server, and the same user, database and protocol.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is_same_source = match (&self.sentinel, &other.sentinel) {
            (None, None) => true,
            (Some(one), Some(other)) => one.master == other.master && one.has_same_sentinels(other),
            _ => false,
        };
        is_same_source && is_same_connection(&self.info, &other.info)
    }
}

/// The same connection to another host, over TLS if it was before.
pub(crate) fn at_host(info: ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let addr = match info.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(addr)
}

impl fmt::Debug for SentinelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SentinelSource")
            .field(&self.address())
            .finish()
    }
}
