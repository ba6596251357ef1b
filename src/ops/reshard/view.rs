//! [`View`]: the two topologies of a reshard, and what each node says before anything is changed.

use std::sync::Arc;
use std::time::Duration;

use redis::ProtocolVersion;

use super::facts::ServerFacts;
use super::fault::Fault;
use super::link::{Link, MoverName, text_of};
use super::pause;
use super::records::{Fingerprints, KnownNode, Stage, stage};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::ops::connection::{Fleet, FleetNode};
use crate::topology::record::requests::RecordReading;
use crate::topology::record::{RECORD_DB, RecordEpoch};
use crate::topology::{ReshardView, Topology};

/// What is known before anything is changed.
pub(super) struct View {
    /// The topology before the reshard.
    pub(super) from: Topology,
    /// The topology behind it.
    pub(super) to: Topology,
    /// The nodes of both, by which keys are placed while they move.
    pub(super) both: Topology,
    /// In the order of `both`.
    pub(super) nodes: Vec<ViewNode>,
    /// The database of the data.
    pub(super) db: i64,
}

/// A node, and what it has replied.
pub(super) struct ViewNode {
    pub(super) name: String,
    pub(super) endpoint: Arc<Endpoint>,
    /// True for a node that has keys before the reshard.
    pub(super) is_old: bool,
    /// True for a node that has keys behind it.
    pub(super) is_new: bool,
    /// What it has replied, or why it has not.
    pub(super) reply: Result<NodeReply, Error>,
}

/// What a node has replied.
pub(super) struct NodeReply {
    pub(super) link: Link,
    pub(super) reading: RecordReading,
    pub(super) facts: ServerFacts,
    /// The topology to which a reshard is to pause.
    pub(super) pause: Option<u64>,
}

impl View {
    /// Asks the nodes of a description for their topology, and then all nodes of both topologies for their records.
    ///
    /// # Errors
    ///
    /// If no node has a record, or the topologies do not fit together. A node that cannot be reached is none.
    pub(super) fn read(fleet: &Fleet, to: &Topology, mover: &Arc<str>) -> Result<Self, Error> {
        let mut seeds = fleet.nodes();
        // Those that have been given may all have the new topology already, of a reshard that has not ended.
        let others = fleet.nodes_of(to)?;
        let others = others
            .into_iter()
            .filter(|other| !seeds.iter().any(|seed| seed.name == other.name));
        let others: Vec<FleetNode> = others.collect();
        seeds.extend(others);
        let from = current_topology(fleet, &seeds, to, mover)?;
        if from.hash_tag().name() != to.hash_tag().name() {
            return Err(Error::config(format!(
                "the hash tag rule is {} and would be {}; a reshard cannot change it, as keys that belong together would \
                 part on the way",
                from.hash_tag().name(),
                to.hash_tag().name()
            )));
        }
        if to.cluster().is_some() || to.seeds().is_some() || from.cluster().is_some() {
            return Err(Error::config(
                "keys cannot be moved into or out of a Redis Cluster; its own `redis-cli --cluster reshard` moves its slots",
            ));
        }
        let both = Topology::while_moving(&from, to, &ReshardView::default())?;
        let reached = fleet.nodes_of(&both)?;
        let db = reached
            .first()
            .map_or(0, |node| node.endpoint.info.redis_settings().db());
        if db == RECORD_DB {
            return Err(Error::config(format!(
                "the data is in database {RECORD_DB}, which is that of the record; a fleet that is to be resharded must use \
                 another one"
            )));
        }
        let nodes = reached.into_iter().map(|node| ViewNode {
            is_old: from.index_of(&node.name).is_some(),
            is_new: to.index_of(&node.name).is_some(),
            reply: ask(&node.endpoint, mover, fleet.limit()).map_err(Error::from),
            name: node.name,
            endpoint: node.endpoint,
        });
        Ok(Self {
            nodes: nodes.collect(),
            from,
            to: to.clone(),
            both,
            db,
        })
    }

    pub(super) fn fingerprints(&self) -> Fingerprints {
        Fingerprints {
            from: self.from.fingerprint(),
            to: self.to.fingerprint(),
        }
    }

    /// What all nodes say.
    ///
    /// # Errors
    ///
    /// If one of them cannot be reached.
    pub(super) fn known(&self) -> Result<Vec<KnownNode>, Error> {
        self.nodes.iter().map(ViewNode::known).collect()
    }

    /// True if a node has been told that this reshard is to pause.
    pub(super) fn is_paused(&self) -> bool {
        let to = Some(self.to.fingerprint());
        let mut replies = self
            .nodes
            .iter()
            .filter_map(|node| node.reply.as_ref().ok());
        replies.any(|reply| reply.pause == to)
    }

    /// How far the reshard has come.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached, or belongs to another fleet.
    pub(super) fn stage(&self) -> Result<Stage, Error> {
        stage(&self.known()?, self.fingerprints())
    }
}

impl ViewNode {
    /// What the node says.
    pub(super) fn known(&self) -> Result<KnownNode, Error> {
        let reply = self.reply.as_ref().map_err(Clone::clone)?;
        Ok(KnownNode {
            name: self.name.clone(),
            is_old: self.is_old,
            record: reply.reading.record.clone(),
            run_id: reply.reading.run_id.clone(),
        })
    }
}

/// Connects to a node and asks it what it is.
fn ask(endpoint: &Arc<Endpoint>, mover: &Arc<str>, limit: Duration) -> Result<NodeReply, Fault> {
    let name = MoverName {
        id: Arc::clone(mover),
        epoch: RecordEpoch::default(),
    };
    let mut link = Link::open(endpoint, ProtocolVersion::RESP2, &name, limit)?;
    let reading = link.record()?;
    let facts = facts(&mut link)?;
    Ok(NodeReply {
        pause: pause::requested(&mut link)?,
        link,
        reading,
        facts,
    })
}

/// Asks a server what it can do.
pub(super) fn facts(link: &mut Link) -> Result<ServerFacts, Fault> {
    let info = link.text(&["INFO"])?;
    // Many services refuse CONFIG.
    let save = match link.words(&["CONFIG", "GET", "save"]) {
        Ok(reply) => super::link::items_of(reply).and_then(|items| text_of(items.get(1)?)),
        Err(fault) if fault.of_step() == Some(super::batch::StepFailure::Refused) => None,
        Err(fault) => return Err(fault),
    };
    Ok(ServerFacts::new(&info, save.as_deref()))
}

/// The topology before the reshard, by the texts beside the records.
fn current_topology(
    fleet: &Fleet,
    seeds: &[FleetNode],
    to: &Topology,
    mover: &Arc<str>,
) -> Result<Topology, Error> {
    let mut failed = None;
    let mut found: Option<Topology> = None;
    for seed in seeds {
        let reply = match ask(&seed.endpoint, mover, fleet.limit()) {
            Ok(reply) => reply,
            Err(fault) => {
                failed.get_or_insert(fault.error);
                continue;
            }
        };
        let (Some(record), Some(text)) = (reply.reading.record, reply.reading.texts.topology)
        else {
            continue;
        };
        if record.is_retired {
            continue;
        }
        let topology = Topology::parse(&text)?;
        // While a reshard ends, some nodes have the new topology already, and those that do not are right: both lead to
        // the same end.
        if record.reshard.is_some() || topology.fingerprint() != to.fingerprint() {
            return Ok(topology);
        }
        found = Some(topology);
    }
    match (found, failed) {
        (Some(topology), _) => Ok(topology),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::config(
            "none of the given nodes has a record of the fleet; `redis-sharding topology publish` writes it",
        )),
    }
}
