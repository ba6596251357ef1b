//! The setter of [`Builder`] for the nodes of a Redis Cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::cluster::{ClusterMonitor, ClusterSettings, mapped};
use crate::config::client_config::{ClientConfig, ClientOptions};
use crate::config::sentinel_groups::SentinelGroups;
use crate::config::{Builder, Purpose, limits};
use crate::endpoint::tls::{Runtime, refused_url};
use crate::endpoint::{ClusterServers, ClusterSource, Endpoint};
use crate::error::Error;
use crate::observe::NodeObserver;
use crate::partition::NodeSpec;
use crate::topology::cluster::{ClusterMap, ClusterSeeds};
use crate::topology::{HostPort, NodeAccess, at_host};

impl Builder {
    /// Takes the nodes from a Redis Cluster, whose servers decide which of them owns a key. `seeds` are the URLs of some
    /// of its servers; one that can be reached is enough, as it names the others.
    ///
    /// The servers are asked for the map of the cluster before the first request, which waits for it within its own
    /// time; when a server redirects a request (MOVED); after a connection was lost, or a server has ended a subscription,
    /// and then a few times more within 13 s, as the first answer may be too early; and about every 30 s. Each primary
    /// that owns slots is a node, named after its address; `READONLY` replicas are found without being asked for, and
    /// read from as [`read_from`](Self::read_from) says. Redirects are followed within the time of the request.
    ///
    /// All servers are reached like the first seed: with its username, password, database and protocol, and over TLS if
    /// its URL says so. A server that announces no host is reached at the host of the server that names it. For networks
    /// with address translation there is [`address_map`](Self::address_map). Databases other than 0 exist from Valkey 9
    /// on.
    ///
    /// ```
    /// use redis_sharding::ShardedClient;
    ///
    /// let client = ShardedClient::builder()
    ///     .cluster(["redis://10.0.0.1:7000", "redis://10.0.0.2:7000"])
    ///     .password("of the cluster")
    ///     .build()?;
    /// assert_eq!(client.topology().nodes()[0].name(), "10.0.0.1:7000");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// Defaults to none: the nodes are those that are given.
    pub fn cluster<U: IntoConnectionInfo>(mut self, seeds: impl IntoIterator<Item = U>) -> Self {
        let info = |(url, number): (U, usize)| {
            let info = url.into_connection_info();
            info.map_err(|error| {
                let why = refused_url(&error);
                Error::config(format!("server number {number} of the cluster: {why}"))
            })
        };
        let seeds = seeds.into_iter().zip(1..).map(info);
        self.cluster.get_or_insert_default().extend(seeds);
        self
    }

    /// Takes the nodes from the cluster of a topology.
    pub(super) fn cluster_of(mut self, seeds: &ClusterSeeds) -> Self {
        self.cluster
            .get_or_insert_default()
            .extend(seeds.infos(refused_url));
        self
    }

    /// The seeds of the cluster, if its nodes are used.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for a seed that is refused, and for settings that a cluster cannot have.
    pub(super) fn seeds(&self, watches_file: bool) -> Result<Option<Vec<ConnectionInfo>>, Error> {
        let Some(seeds) = &self.cluster else {
            return Ok(None);
        };
        let seeds: Vec<ConnectionInfo> = seeds.iter().cloned().collect::<Result<_, _>>()?;
        let contradiction = if seeds.is_empty() {
            "no server of the cluster was given; give the URL of at least one to `Builder::cluster`"
        } else if !self.nodes.is_empty() {
            "both nodes and a cluster were given, but the nodes of a cluster come from its servers; leave one of them out"
        } else if self.has_partitioner() {
            "both a partitioner and a cluster were given, but the servers of a cluster decide where keys live; leave one \
             of them out"
        } else if self.purpose != Purpose::Store {
            "the nodes of a cluster cannot be those of a cache, as they are not ejected by clients; leave out \
             `Builder::cache` or `Builder::cluster`"
        } else if watches_file {
            "a cluster changes its own nodes; leave out `Builder::watch_topology` or `Builder::cluster`"
        } else {
            return check_alike(seeds).map(Some);
        };
        Err(Error::config(contradiction))
    }
}

/// Checks that all seeds are reached alike, and gives them what the first has and they leave out.
fn check_alike(seeds: Vec<ConnectionInfo>) -> Result<Vec<ConnectionInfo>, Error> {
    let mut alike: Vec<ConnectionInfo> = Vec::with_capacity(seeds.len());
    for (seed, number) in seeds.into_iter().zip(1..) {
        let failed = |why: &str| {
            Err(Error::config(format!(
                "server number {number} of the cluster: {why}"
            )))
        };
        let Some(address) = HostPort::of(&seed) else {
            return failed("it is reached by a host and a port, not by a socket");
        };
        let Some(first) = alike.first() else {
            limits::DATABASE.check(seed.redis_settings().db())?;
            alike.push(seed);
            continue;
        };
        let expected = at_host(first.clone(), &address.host, address.port);
        let (own, its) = (expected.redis_settings(), seed.redis_settings());
        let is_left_out = its.username().is_none() && its.password().is_none();
        let is_same_user = own.username() == its.username() && own.password() == its.password();
        let is_alike = expected.addr() == seed.addr()
            && own.db() == its.db()
            && own.protocol() == its.protocol()
            && (is_left_out || is_same_user);
        if !is_alike {
            return failed(
                "it is given with another user, password, database, protocol or kind of TLS than the first; all servers \
                 of a cluster are reached alike",
            );
        }
        alike.push(expected);
    }
    Ok(alike)
}

impl ClientConfig {
    /// Describes a client over the nodes of the cluster with these seeds, of which there is at least one.
    pub(super) fn of_cluster(
        options: Arc<ClientOptions>,
        seeds: &[ConnectionInfo],
    ) -> Result<Self, Error> {
        let addresses: BTreeSet<HostPort> = seeds.iter().filter_map(HostPort::of).collect();
        let addresses: Vec<HostPort> = seeds
            .iter()
            .filter_map(HostPort::of)
            .filter({
                let mut left = addresses;
                move |address| left.remove(address)
            })
            .collect();
        let Some(template) = seeds.first() else {
            return Err(Error::config("no server of the cluster was given"));
        };
        // The same errors as for every server, before anything is contacted.
        for address in &addresses {
            options.cluster_server(template, address)?;
            options.asked_server(template, address)?;
        }
        let monitor = ClusterMonitor::new(ClusterSettings {
            seeds: addresses.clone(),
            endpoint: Box::new({
                let (options, template) = (Arc::clone(&options), template.clone());
                move |address| options.asked_server(&template, address)
            }),
            connect_timeout: options.settings.connect_timeout,
            address_map: options.address_map.clone(),
        });
        options.cluster.set(&monitor);
        let source: Arc<dyn ClusterSource> = Arc::<ClusterMonitor>::clone(&monitor);
        let map = options.address_map.clone();
        let servers = ClusterServers::new(source, move |named| mapped(map.as_ref(), named), {
            let (options, template) = (Arc::clone(&options), template.clone());
            move |address| options.cluster_server(&template, address)
        });
        let map = Arc::new(ClusterMap::provisional(&addresses));
        let topology = map.topology()?.with_seeds(ClusterSeeds::new(seeds)?);
        Self::over_servers(options, topology, servers, monitor)
    }
}

impl ClientOptions {
    /// How the server of a cluster at this address is reached, and its replicas if it has any.
    fn cluster_server(
        &self,
        template: &ConnectionInfo,
        address: &HostPort,
    ) -> Result<Endpoint, Error> {
        let (node, info) = self.at(template, address)?;
        self.endpoint(&node, NodeAccess::fixed(info), &SentinelGroups::default())
    }

    /// How that server is asked for the map.
    fn asked_server(
        &self,
        template: &ConnectionInfo,
        address: &HostPort,
    ) -> Result<Endpoint, Error> {
        let (node, info) = self.at(template, address)?;
        // Its thread blocks, whatever the client does.
        self.server_for(info, NodeObserver::of_no_node(node), Runtime::Blocking)
    }

    /// The name of a server as a node, and how it is connected to.
    fn at(
        &self,
        template: &ConnectionInfo,
        address: &HostPort,
    ) -> Result<(NodeSpec, ConnectionInfo), Error> {
        let name = address.to_string();
        let info = at_host(template.clone(), &address.host, address.port);
        let info = self
            .login
            .complete(&name, &info, self.password.as_deref())?;
        Ok((NodeSpec::new(name.clone(), name), info))
    }
}
