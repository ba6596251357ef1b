//! [`ClusterSeeds`]: the servers of a cluster that were given, as its topology keeps them.

use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo, RedisError};

use crate::error::Error;
use crate::topology::url::{NodeEndpoint, NodeUrl, info_at};
use crate::topology::{HostPort, NodeAccess, address};

/// The servers that are asked for the map of a cluster first, and how they are reached.
#[derive(Clone)]
pub(crate) struct ClusterSeeds(Arc<[NodeEndpoint]>);

impl ClusterSeeds {
    /// The seeds of these connections.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if one cannot be written as a URL.
    pub(crate) fn new(infos: &[ConnectionInfo]) -> Result<Self, Error> {
        let seed = |info: &ConnectionInfo| {
            let address = address(info.addr());
            let url = NodeUrl::of(&NodeAccess::fixed(info.clone())).map_err(|cause| {
                Error::config(format!("server {address} of the cluster: {cause}"))
            })?;
            Ok::<_, Error>(NodeEndpoint {
                address,
                url,
                name: None,
            })
        };
        infos.iter().map(seed).collect::<Result<_, _>>().map(Self)
    }

    /// The seeds that a text lists, and their addresses.
    ///
    /// # Errors
    ///
    /// A description, if one is no server of a cluster. It does not quote the text, which may hold a password.
    pub(in crate::topology) fn of_endpoints(
        seeds: Vec<NodeEndpoint>,
    ) -> Result<(Self, Vec<HostPort>), String> {
        let mut addresses = Vec::with_capacity(seeds.len());
        for seed in &seeds {
            // Only a node behind Sentinel is named by its URL.
            let address = match &seed.name {
                None => split_address(&seed.address),
                Some(_) => None,
            };
            let address = address.ok_or(
                "a server of a cluster is host:port (with an IPv6 host in brackets), or the URL of a Redis server",
            )?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.is_empty() {
            true => Err(
                "the servers of the cluster are missing; one or more are given on this line".into(),
            ),
            false => Ok((Self(seeds.into()), addresses)),
        }
    }

    /// The seeds, to be written.
    pub(in crate::topology) fn endpoints(&self) -> &[NodeEndpoint] {
        &self.0
    }

    /// How each is reached. `refused_url` explains why redis-rs did not take a URL.
    pub(crate) fn infos(
        &self,
        refused_url: impl Fn(&RedisError) -> String,
    ) -> Vec<Result<ConnectionInfo, Error>> {
        let info = |seed: &NodeEndpoint| {
            let info = match &seed.url {
                Some(url) => url
                    .access()
                    .map(|access| access.info)
                    .map_err(|error| refused_url(&error)),
                None => info_at(&seed.address),
            };
            let address = &seed.address;
            info.map_err(|cause| Error::config(format!("server {address} of the cluster: {cause}")))
        };
        self.0.iter().map(info).collect()
    }
}

/// `host:port`, with an IPv6 host in brackets. `None` for the path of a socket.
fn split_address(address: &str) -> Option<HostPort> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match address.starts_with('/') {
        true => None,
        false => HostPort::new(bare.unwrap_or(host), port.parse().ok()?),
    }
}

impl HostPort {
    /// The address of a connection. `None` for a socket.
    pub(crate) fn of(info: &ConnectionInfo) -> Option<Self> {
        match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Self {
                    host: host.clone(),
                    port: *port,
                })
            }
            _ => None,
        }
    }
}
