//! [`ClusterView`]: a cluster as one of its servers sees it.
//!
//! CLUSTER NODES has the ids, the roles, the epochs and the slots; CLUSTER SHARDS, or CLUSTER SLOTS before Redis 7, has
//! the endpoints that clients are to connect to. Neither of the latter has an epoch, without which an old answer cannot
//! be told from a new one, and SHARDS loses the slots of a shard whose servers are all dead.

use std::collections::HashMap;

use redis::{ServerError, Value};

use super::replies::{Endpoints, NodeLine, is_ok, node_lines};
use crate::hash::SLOTS;
use crate::partition::NODES_MAX;
use crate::topology::HostPort;

/// CLUSTER INFO, CLUSTER NODES and CLUSTER SHARDS.
const BY_SHARDS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n\
    *2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n\
    *2\r\n$7\r\nCLUSTER\r\n$6\r\nSHARDS\r\n";

/// CLUSTER SLOTS.
const SLOTS_ONLY: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";

/// The largest number of servers of a cluster that are read: primaries and replicas.
pub(super) const SERVERS_MAX: usize = 4 * NODES_MAX;

/// What one server says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterView {
    /// True if it says that the cluster serves requests. If it does not, it may be cut off from the others.
    pub(super) is_ok: bool,
    /// In the order of the reply.
    pub(super) servers: Vec<ViewServer>,
}

/// One server of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ViewServer {
    /// Its id, which it keeps at another address.
    pub(super) id: String,
    pub(super) is_primary: bool,
    /// True if the primaries agree that it cannot be reached.
    pub(super) is_failing: bool,
    /// Its configuration epoch: of two primaries that claim a slot, the one with the larger epoch owns it.
    pub(super) epoch: u64,
    /// First and last slot of each range that it owns.
    pub(super) slots: Vec<(u16, u16)>,
    /// The address to connect to.
    pub(super) address: HostPort,
    /// All addresses under which it may be named, that one included.
    pub(super) aliases: Vec<HostPort>,
}

/// How a server is asked, and what its answer depends on.
pub(crate) struct ClusterQuestions<'q> {
    /// The address that the server was connected to.
    pub(crate) asked: &'q HostPort,
    /// True for a connection over TLS, whose port is another one.
    pub(crate) is_tls: bool,
    /// Turns an address as the servers name it into one that leads to the server from here.
    pub(crate) map_address: &'q dyn Fn(&HostPort) -> HostPort,
}

/// Which further question a server has to be asked, if it has not replied to the first ones with all that is needed.
#[derive(Clone, Debug)]
pub(crate) enum Questioned {
    Done(ClusterView),
    /// The server is older than CLUSTER SHARDS: its replies to INFO and NODES.
    AskSlots(Vec<Value>),
}

impl ClusterQuestions<'_> {
    /// The requests, to be sent in one write, and their number.
    pub(crate) const REQUESTS: (&'static [u8], usize) = (BY_SHARDS, 3);

    /// The request for a server that is older than CLUSTER SHARDS.
    pub(crate) const SLOTS_REQUEST: &'static [u8] = SLOTS_ONLY;

    /// Reads the replies to [`REQUESTS`](Self::REQUESTS).
    ///
    /// # Errors
    ///
    /// Why they say nothing about the cluster.
    pub(crate) fn answered(&self, mut replies: Vec<Value>) -> Result<Questioned, String> {
        match replies.get(2) {
            Some(Value::ServerError(error)) if error.code() == "ERR" => {
                replies.truncate(2);
                // Of a server without a cluster rather than an old one.
                self.view(&replies, &Endpoints::default())?;
                Ok(Questioned::AskSlots(replies))
            }
            Some(Value::ServerError(error)) => Err(refusal(error)),
            Some(shards) => {
                let endpoints = Endpoints::of_shards(shards, self.is_tls)?;
                self.view(&replies, &endpoints).map(Questioned::Done)
            }
            None => Err("its replies are incomplete".into()),
        }
    }

    /// Reads the reply to [`SLOTS_REQUEST`](Self::SLOTS_REQUEST), after those to INFO and NODES.
    ///
    /// # Errors
    ///
    /// Why they say nothing about the cluster.
    pub(crate) fn answered_slots(
        &self,
        replies: &[Value],
        slots: &Value,
    ) -> Result<ClusterView, String> {
        if let Value::ServerError(error) = slots {
            return Err(refusal(error));
        }
        self.view(replies, &Endpoints::of_slots(slots)?)
    }

    /// The view of the server with these replies to INFO and NODES.
    fn view(&self, replies: &[Value], endpoints: &Endpoints) -> Result<ClusterView, String> {
        let [info, nodes, ..] = replies else {
            return Err("its replies are incomplete".into());
        };
        let refused = [info, nodes].into_iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(refusal(error)),
            _ => None,
        });
        if let Some(why) = refused {
            return Err(why);
        }
        let is_ok = is_ok(info)?;
        let mut servers: Vec<ViewServer> = Vec::new();
        // A server that was reset and joined again is listed with its former id as well.
        let mut by_id: HashMap<String, usize> = HashMap::new();
        for line in node_lines(nodes)? {
            let line = line?;
            if servers.len() >= SERVERS_MAX {
                return Err(format!("it lists more than {SERVERS_MAX} servers"));
            }
            if line.is_unknown {
                continue;
            }
            if let Some(server) = self.server(line, endpoints)
                && by_id.insert(server.id.clone(), servers.len()).is_none()
            {
                servers.push(server);
            }
        }
        Ok(ClusterView { is_ok, servers })
    }

    /// A server. `None` if it has no address.
    fn server(&self, line: NodeLine<'_>, endpoints: &Endpoints) -> Option<ViewServer> {
        let endpoint = endpoints.of(line.id);
        let port = endpoint.and_then(|endpoint| endpoint.port).or(line.port)?;
        let endpoint_host = endpoint.map(|endpoint| &endpoint.host);
        let host = match endpoint_host {
            // No CLUSTER SHARDS, or one that does not list it yet.
            None => line.ip,
            Some(None) => None,
            // A name is wanted, and the server has none.
            Some(Some(host)) if host == "?" => line.ip,
            Some(Some(host)) => Some(host.as_str()),
        };
        // "The host that this connection was made to".
        let host = host.unwrap_or(&self.asked.host);
        let named = HostPort::new(host, port)?;
        let address = (self.map_address)(&named);
        let mut aliases = vec![address.clone()];
        let mut add = |alias: Option<HostPort>| {
            if let Some(alias) = alias
                && !aliases.contains(&alias)
            {
                aliases.push(alias);
            }
        };
        add(Some(named));
        let ports = [Some(port), line.port];
        let hosts = [line.ip, line.hostname];
        for port in ports.into_iter().flatten() {
            for host in hosts.into_iter().flatten() {
                let named = HostPort::new(host, port);
                add(named.as_ref().map(self.map_address));
                add(named);
            }
        }
        if line.is_myself {
            add(Some(self.asked.clone()));
        }
        Some(ViewServer {
            id: line.id.to_owned(),
            is_primary: line.is_primary,
            is_failing: line.is_failing,
            epoch: line.epoch,
            slots: line.slots,
            address,
            aliases,
        })
    }
}

impl ClusterView {
    /// True if it says that the cluster serves requests.
    pub(crate) fn is_ok(&self) -> bool {
        self.is_ok
    }

    /// Number of slots that have an owner.
    pub(crate) fn slots_owned(&self) -> usize {
        let owners = self.owners();
        owners.iter().filter(|owner| owner.is_some()).count()
    }

    /// The position of each slot's owner among the servers.
    pub(super) fn owners(&self) -> Vec<Option<usize>> {
        let mut owners: Vec<Option<usize>> = vec![None; usize::from(SLOTS)];
        for (position, server) in self.servers.iter().enumerate() {
            if !server.is_primary {
                continue;
            }
            for &(first, last) in &server.slots {
                for slot in first..=last {
                    let owner = &mut owners[usize::from(slot)];
                    let is_newer = owner.is_none_or(|other| {
                        let other = &self.servers[other];
                        server.epoch > other.epoch
                    });
                    if is_newer {
                        *owner = Some(position);
                    }
                }
            }
        }
        owners
    }
}

/// Why a server gave no answer.
fn refusal(error: &ServerError) -> String {
    let details = error.details().unwrap_or_default();
    if details.contains("cluster support disabled") {
        return "it is no server of a cluster: its setting `cluster-enabled` is no; such servers are given to \
                `Builder::node`"
            .into();
    }
    let hint = match error.code() {
        "NOPERM" => {
            "; its user needs `+cluster|info +cluster|nodes +cluster|shards +cluster|slots`"
        }
        _ => "",
    };
    format!("{} {details}{hint}", error.code())
}
