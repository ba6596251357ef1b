//! [`SentinelGroups`]: the Sentinels that know the addresses of a client's nodes.

use std::sync::Arc;

use redis::ConnectionInfo;

use crate::config::Settings;
use crate::endpoint::tls::{Runtime, TlsOptions};
use crate::endpoint::{Endpoint, LoginOptions, PrimaryCell, SocketOptions};
use crate::error::Error;
use crate::observe::NodeObserver;
use crate::partition::NodeSpec;
use crate::sentinel::{AddressMap, GroupSettings, SentinelGroup};
use crate::topology::{SentinelSource, address};

/// What the connections to Sentinels have in common with those to nodes.
pub(super) struct SentinelOptions<'o> {
    pub(super) tls: &'o TlsOptions,
    pub(super) client_name: Option<&'o str>,
    pub(super) settings: &'o Settings,
    pub(super) address_map: Option<&'o AddressMap>,
}

/// One group for all nodes whose Sentinels are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct SentinelGroups(Vec<(SentinelSource, Arc<SentinelGroup>)>);

impl SentinelGroups {
    /// The groups of these sources. Those of the topology before are kept if they are still needed.
    pub(super) fn new<'s>(
        sources: impl Iterator<Item = &'s SentinelSource>,
        previous: Option<&Self>,
        options: &SentinelOptions<'_>,
    ) -> Result<Self, Error> {
        let mut groups = Self::default();
        for source in sources {
            if groups.of(source).is_some() {
                continue;
            }
            let group = match previous.and_then(|previous| previous.of(source)) {
                Some(group) => Arc::clone(group),
                None => SentinelGroup::new(settings(source, options)?),
            };
            groups.0.push((source.clone(), group));
        }
        Ok(groups)
    }

    /// The group that a source belongs to.
    fn of(&self, source: &SentinelSource) -> Option<&Arc<SentinelGroup>> {
        let is_same = |(known, _): &&(SentinelSource, _)| known.has_same_sentinels(source);
        self.0.iter().find(is_same).map(|(_, group)| group)
    }

    /// The cell for the address of a node, in the group of its source.
    pub(super) fn cell(
        &self,
        source: &SentinelSource,
        observer: &Arc<NodeObserver>,
    ) -> Option<Arc<PrimaryCell>> {
        let group = self.of(source)?;
        Some(group.cell(&source.master, Arc::clone(observer)))
    }
}

/// How the Sentinels of a source are reached.
fn settings(
    source: &SentinelSource,
    options: &SentinelOptions<'_>,
) -> Result<GroupSettings, Error> {
    // The name only: the credentials of the nodes are not shown to the Sentinels.
    let login = LoginOptions {
        client_name: options.client_name.map(str::to_owned),
        ..LoginOptions::default()
    };
    let identity = login.identity(None)?;
    let endpoint = |info: &ConnectionInfo| {
        let address = address(info.addr());
        let name = format!("Sentinel {address}");
        Ok(Endpoint {
            // Its threads block, whatever the client does.
            tls: options.tls.for_node(&name, info, Runtime::Blocking)?,
            login: identity.login(&name, info.redis_settings()),
            options: SocketOptions::new(options.settings.tcp_keepalive, info.tcp_settings()),
            observer: NodeObserver::of_no_node(NodeSpec::new(name, &*address)),
            address,
            pushes: None,
            in_cluster: false,
            sentinel: None,
            primary: None,
            replicas: None,
            record: None,
            info: info.clone(),
        })
    };
    Ok(GroupSettings {
        sentinels: source
            .sentinels
            .iter()
            .map(endpoint)
            .collect::<Result<_, Error>>()?,
        connect_timeout: options.settings.connect_timeout,
        address_map: options.address_map.cloned(),
    })
}
