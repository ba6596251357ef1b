//! The record of a fleet, as an operator publishes it and looks at it.
//!
//! * [`FleetRecord`]: publishes a topology, and asks the nodes what they say of theirs.
//! * `store`: the records of several nodes over open connections, and how a term is claimed.
//! * `report`: what the nodes say.

mod report;
pub(crate) mod store;

use std::collections::BTreeSet;

use redis::{IntoConnectionInfo, Value, cmd};

pub use self::report::{FleetReport, NodeReport, RecordState};
use self::store::{RecordStore, StoredRecord, each};
use crate::config::Builder;
use crate::error::{Error, ErrorKind};
use crate::ops::connection::{Fleet, FleetNode};
use crate::topology::Topology;
use crate::topology::record::requests::RecordTexts;
use crate::topology::record::{ConnectionRole, NodeRecord, RECORD_DB, RecordEpoch};

/// The record that each node of a fleet keeps of it: which topology is in force.
///
/// Clients that are [agreed](Builder::agreed) read it on every new connection, and follow it. It is a text in a logical
/// database of its own, so that no command about the data meets it.
///
/// All methods block, over connections of their own. A node that cannot be reached within the
/// [connect timeout](Builder::connect_timeout) of the description counts as unreachable.
///
/// ```no_run
/// use redis_sharding::ops::{FleetRecord, PublishOptions};
/// use redis_sharding::{ShardedClient, Topology};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let topology: Topology = std::fs::read_to_string("users.topology")?.parse()?;
/// let record = FleetRecord::new(ShardedClient::builder().topology(&topology))?;
/// record.publish(&topology, PublishOptions::default())?;
/// assert!(record.check().is_fine());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FleetRecord {
    fleet: Fleet,
}

/// What [`FleetRecord::publish`] may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// True if keys may have other owners from now on, as in a cache: they read as missing. Defaults to false.
    pub allow_moves: bool,
}

/// What [`FleetRecord::publish`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Number of nodes whose record was written. Zero if all of them said so already.
    pub written: usize,
    /// Number of nodes that the topology leaves out, and that were retired.
    pub retired: usize,
    /// The addresses of those that could not be asked. If one of them comes back, [`retire`](FleetRecord::retire) it.
    pub not_retired: Vec<String>,
    /// The term of the records.
    pub term: u32,
}

impl PublishOptions {
    /// Sets whether keys may have other owners from now on, as in a cache.
    #[must_use]
    pub fn with_allow_moves(mut self, allow_moves: bool) -> Self {
        self.allow_moves = allow_moves;
        self
    }
}

impl FleetRecord {
    /// The records of the nodes of a client that is described so, which are reached like by that client.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) as for [`Builder::build`], and if the nodes are those of a Redis Cluster, or the URLs
    /// select database 15, which is that of the record.
    pub fn new(builder: Builder) -> Result<Self, Error> {
        let fleet = Fleet::new(builder)?;
        match fleet.db() {
            RECORD_DB => Err(Error::config(format!(
                "the nodes use database {RECORD_DB}, which is that of the record; use another one for the data"
            ))),
            _ => Ok(Self { fleet }),
        }
    }

    /// Writes the record of this topology to all of its nodes, and its text beside it. Passwords are left out of the text.
    ///
    /// If the nodes say so already, nothing is written. If they are of the same
    /// [fingerprint](Topology::fingerprint), what is missing or out of date is repaired; addresses may change so.
    /// Another fingerprint would move keys: it is refused unless no node has data, or
    /// [`allow_moves`](PublishOptions::allow_moves) says that the data is a cache. Nodes of the former topology that the
    /// new one leaves out are retired then.
    ///
    /// Before anything is changed, most nodes have accepted a claim, so that of two who publish at a time one fails.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached; if keys would move; during a reshard; and if somebody else publishes. An error during
    /// the writes says so, and publishing again completes them.
    pub fn publish(
        &self,
        topology: &Topology,
        options: PublishOptions,
    ) -> Result<Published, Error> {
        let text = topology.to_string();
        // Not what the text cannot say, such as a rule of the application.
        Topology::parse(&text)?;
        let nodes = self.fleet.nodes_of(topology)?;
        let mut store = RecordStore::open(&self.fleet, nodes, ConnectionRole::Monitor)?;
        let is_current = |node: &StoredRecord| is_current(node, topology.fingerprint(), &text);
        if store.nodes.iter().all(is_current) {
            return Ok(Published {
                written: 0,
                retired: 0,
                not_retired: Vec::new(),
                term: store.term(),
            });
        }
        check_no_reshard(&store)?;
        let (others, not_retired) = self.leaving_nodes(topology, &text, &store)?;
        check_no_reshard(&others)?;
        let moves = store.nodes.iter().chain(&others.nodes).any(|node| {
            let record = node.reading.record.as_ref();
            record.is_some_and(|record| record.topology != topology.fingerprint())
        });
        if moves && !options.allow_moves {
            refuse_data(&mut store, topology)?;
        }
        let leaving = others.nodes.len();
        store.nodes.extend(others.nodes);
        let term = store.claim(&claimant(), topology.fingerprint())?;
        let staying = store.nodes.len() - leaving;
        let leaving = RecordStore {
            nodes: store.nodes.split_off(staying),
        };
        let texts = RecordTexts {
            topology: Some(text),
            target: None,
        };
        let record = |node: &StoredRecord, is_retired: bool| NodeRecord {
            epoch: next_epoch(node, term),
            topology: topology.fingerprint(),
            seal: node.reading.run_id.clone(),
            is_retired,
            mover: None,
            reshard: None,
        };
        store.write_all(|node| record(node, false), &texts)?;
        let mut leaving = leaving;
        leaving.write_all(|node| record(node, true), &texts)?;
        Ok(Published {
            written: store.nodes.len(),
            retired: leaving.nodes.len(),
            not_retired,
            term,
        })
    }

    /// What each node of the description says, and whether they agree. Never fails: what is wrong is in the report.
    pub fn check(&self) -> FleetReport {
        let nodes = self.fleet.nodes();
        let asked = each(nodes, |node| {
            let opened = StoredRecord::open(&self.fleet, node.clone(), ConnectionRole::Monitor);
            (node, opened.map(|stored| stored.reading))
        });
        FleetReport::new(self.fleet.topology(), asked)
    }

    /// The text of the topology that the nodes of the description have, each with the names of the nodes that have it.
    /// Nodes that cannot be reached, or have none, are left out.
    pub fn show(&self) -> Vec<(String, Vec<String>)> {
        let asked = each(self.fleet.nodes(), |node| {
            let opened =
                StoredRecord::open(&self.fleet, node.clone(), ConnectionRole::Monitor).ok();
            Some((node.name, opened?.reading.texts.topology?))
        });
        let mut texts: Vec<(String, Vec<String>)> = Vec::new();
        for (name, text) in asked.into_iter().flatten() {
            match texts.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(name),
                None => texts.push((text, vec![name])),
            }
        }
        texts
    }

    /// Has a node that is not in the topology of the description say that it has left the fleet, so that clients that
    /// still know it are refused there.
    ///
    /// # Errors
    ///
    /// If the node is one of the description, cannot be reached, or takes part in a reshard.
    pub fn retire(&self, node: impl IntoConnectionInfo) -> Result<(), Error> {
        let node = self.fleet.node_at(node)?;
        let topology = self.fleet.topology();
        let address = node.endpoint.address.clone();
        if let Some(member) = topology
            .nodes()
            .iter()
            .find(|node| node.address() == address)
        {
            let text = format!(
                "{address} is node {:?} of the topology, which cannot be retired; publish a topology without it first",
                member.name()
            );
            return Err(Error::config(text));
        }
        let stored = StoredRecord::open(&self.fleet, node, ConnectionRole::Monitor)?;
        let mut store = RecordStore {
            nodes: vec![stored],
        };
        check_no_reshard(&store)?;
        let texts = RecordTexts {
            topology: Some(topology.to_string()),
            target: None,
        };
        let term = store.term().saturating_add(1);
        let retired = |node: &StoredRecord| NodeRecord {
            epoch: RecordEpoch::new(term, 1),
            topology: topology.fingerprint(),
            seal: node.reading.run_id.clone(),
            is_retired: true,
            mover: None,
            reshard: None,
        };
        store.write_all(retired, &texts)
    }

    /// The nodes that other texts name than this one of `topology`, at addresses that it leaves out; and the addresses of
    /// those that cannot be asked.
    fn leaving_nodes(
        &self,
        topology: &Topology,
        text: &str,
        store: &RecordStore,
    ) -> Result<(RecordStore, Vec<String>), Error> {
        let texts = store.nodes.iter().filter_map(|node| {
            let is_retired = node.reading.record.as_ref()?.is_retired;
            let other = node.reading.texts.topology.as_deref();
            other.filter(|other| *other != text && !is_retired)
        });
        let texts: BTreeSet<&str> = texts.collect();
        let mut leaving: Vec<FleetNode> = Vec::new();
        for text in texts {
            for node in self.fleet.nodes_at(&Topology::parse(text)?)? {
                let address = &node.endpoint.address;
                let mut members = topology.nodes().iter();
                let stays = members.any(|member| member.address() == address);
                let is_known = leaving
                    .iter()
                    .any(|other| other.endpoint.address == *address);
                if !stays && !is_known {
                    leaving.push(node);
                }
            }
        }
        let opened = each(leaving, |node| {
            let address = node.endpoint.address.clone();
            StoredRecord::open(&self.fleet, node, ConnectionRole::Monitor).map_err(|_| address)
        });
        let (mut nodes, mut unreachable) = (Vec::new(), Vec::new());
        for opened in opened {
            match opened {
                Ok(stored) => nodes.push(stored),
                Err(address) => unreachable.push(address),
            }
        }
        Ok((RecordStore { nodes }, unreachable))
    }
}

/// True if the node has the record of this topology, and this text beside it.
fn is_current(node: &StoredRecord, fingerprint: u64, text: &str) -> bool {
    let reading = &node.reading;
    let is_same_text = reading.texts.topology.as_deref() == Some(text);
    let is_same = reading.record.as_ref().is_some_and(|record| {
        record.topology == fingerprint
            && !record.is_retired
            && record.mover.is_none()
            && record.reshard.is_none()
    });
    is_same && is_same_text && reading.is_sealed() == Some(true)
}

/// The epoch of the next record of a term. A node that did not take the claim of the term has an epoch of it all the same
/// if another one has claimed it.
fn next_epoch(node: &StoredRecord, term: u32) -> RecordEpoch {
    match node.reading.epoch() {
        Some(epoch) if epoch.term >= term => epoch.next(),
        _ => RecordEpoch::new(term, 1),
    }
}

/// Refuses a change during a reshard.
fn check_no_reshard(store: &RecordStore) -> Result<(), Error> {
    let under_way = store.nodes.iter().find(|node| {
        let record = node.reading.record.as_ref();
        record.is_some_and(|record| record.reshard.is_some())
    });
    match under_way {
        None => Ok(()),
        Some(node) => {
            let name = &node.node.name;
            let text = format!(
                "a reshard is under way at node {name:?}; let it end, or end it with `redis-sharding reshard abort`"
            );
            Err(Error::config(text).at_node(name))
        }
    }
}

/// Refuses another topology over nodes with data.
fn refuse_data(store: &mut RecordStore, topology: &Topology) -> Result<(), Error> {
    for stored in &mut store.nodes {
        let name = stored.node.name.clone();
        let keys = stored.connection.call(&cmd("DBSIZE"))?;
        let Value::Int(1..) = keys else {
            continue;
        };
        let record = stored.reading.record.as_ref();
        let former = record.map_or(0, |record| record.topology);
        let text = format!(
            "another topology is in force (fingerprint {former:016x} instead of {:016x}), and node {name:?} has keys, \
             which would be looked for elsewhere; move them with `redis-sharding reshard`, or publish with \
             `--allow-moves` if the data is a cache",
            topology.fingerprint()
        );
        return Err(Error::new(ErrorKind::Config, text).at_node(&name));
    }
    Ok(())
}

/// A name for whoever publishes, which no other one has.
fn claimant() -> String {
    format!("publish-{:08x}", rand::random::<u32>())
}
