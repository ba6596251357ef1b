//! [`SourceFleet`] and [`SourceNodes`]: the nodes that a backup is taken of, and what they say of the fleet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::node::{SourceNode, text};
use crate::config::{Builder, ClientConfig};
use crate::endpoint::Deadline;
use crate::endpoint::tls::Runtime;
use crate::error::{Error, ErrorKind};
use crate::ops::record::store::each;
use crate::snapshot::Publisher;
use crate::topology::Topology;
use crate::topology::record::RecordEpoch;

/// The nodes, and how they are reached.
pub(super) struct SourceFleet {
    /// Finds the nodes of a Redis Cluster.
    publisher: Arc<Publisher>,
}

/// The nodes as they are at a moment.
pub(super) struct SourceNodes {
    config: Arc<ClientConfig>,
}

/// What all nodes say of the fleet. Two of them that are equal mean that no keys have moved between nodes in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FleetState {
    nodes: Vec<(String, NodeState)>,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NodeState {
    /// It has no record.
    Plain,
    /// Its record, with the fingerprint of the topology.
    Record(RecordEpoch, u64),
    /// It is a server of a cluster with these slots.
    Slots(String),
    /// The user may not ask.
    Unknown,
}

impl SourceFleet {
    /// Takes the nodes of a description. Nothing is contacted.
    ///
    /// # Errors
    ///
    /// As for [`Builder::build`].
    pub(super) fn new(builder: Builder) -> Result<Self, Error> {
        let publisher = Publisher::new(builder.config(Runtime::Blocking)?)?;
        Ok(Self { publisher })
    }

    /// Finds the nodes. The servers of a Redis Cluster are asked for them.
    ///
    /// # Errors
    ///
    /// If no server of a cluster replies.
    pub(super) fn open(&self) -> Result<SourceNodes, Error> {
        let config = self.publisher.config();
        if let Some(monitor) = config.cluster_monitor() {
            let limit = config.settings.connect_timeout;
            monitor.wait(&Deadline::start(Some(limit)))?;
        }
        Ok(SourceNodes {
            config: self.publisher.config(),
        })
    }
}

impl fmt::Debug for SourceFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.publisher.config();
        config.router.topology().fmt(f)
    }
}

impl SourceNodes {
    pub(super) fn topology(&self) -> &Arc<Topology> {
        self.config.router.topology()
    }

    /// True if the nodes are those of a Redis Cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.topology().cluster().is_some()
    }

    /// Maximum duration of connecting to a node, and of a reply.
    fn limit(&self) -> Duration {
        self.config.settings.connect_timeout
    }

    /// Connects to all nodes.
    ///
    /// # Errors
    ///
    /// The first error.
    pub(super) fn nodes(&self, with_replicas: bool) -> Result<Vec<SourceNode>, Error> {
        let nodes = self.topology().nodes().iter().zip(&self.config.endpoints);
        let nodes: Vec<_> = nodes
            .map(|(node, endpoint)| (node.name().to_owned(), Arc::clone(endpoint)))
            .collect();
        let limit = self.limit();
        let opened = each(nodes, |(name, endpoint)| {
            SourceNode::open(name, endpoint, limit, with_replicas)
        });
        opened.into_iter().collect()
    }

    /// Asks all nodes what they say of the fleet.
    ///
    /// # Errors
    ///
    /// If keys are moving between nodes, or another topology is in force: some keys would be in the archive twice, or not at
    /// all. If a node cannot be reached.
    pub(super) fn state(&self, nodes: &mut [SourceNode]) -> Result<FleetState, Error> {
        let states = each(nodes.iter_mut().collect(), |node| {
            let state = match self.is_cluster() {
                true => slots(node)?,
                false => record(node, self.topology())?,
            };
            Ok((node.name.clone(), state))
        });
        let nodes = states.into_iter().collect::<Result<Vec<_>, Error>>()?;
        Ok(FleetState { nodes })
    }
}

impl FleetState {
    /// What has changed since an earlier state.
    pub(super) fn difference(&self, before: &Self) -> Option<String> {
        let mut pairs = self.nodes.iter().zip(&before.nodes);
        let (name, now) = pairs.find_map(|(now, before)| (now != before).then_some(now))?;
        let what = match now {
            NodeState::Slots(_) => "the slots",
            _ => "the record",
        };
        Some(format!("{what} of node {name:?} changed"))
    }

    /// The newest epoch of all records. `None` without one.
    pub(super) fn epoch(&self) -> Option<RecordEpoch> {
        let epochs = self.nodes.iter().filter_map(|(_, state)| match state {
            NodeState::Record(epoch, _) => Some(*epoch),
            _ => None,
        });
        epochs.max()
    }

    /// The nodes that could not be asked whether keys move.
    pub(super) fn unknown(&self) -> Vec<&str> {
        let nodes = self.nodes.iter();
        let unknown = nodes.filter(|(_, state)| *state == NodeState::Unknown);
        unknown.map(|(name, _)| name.as_str()).collect()
    }
}

/// Reads the record of a node.
fn record(node: &mut SourceNode, topology: &Topology) -> Result<NodeState, Error> {
    let name = node.name.clone();
    let refuse = |text: String| Err(Error::config(text).at_node(&name));
    let reading = match node.control.record() {
        Ok(reading) => reading,
        Err(error) if error.kind() == ErrorKind::NodeDown => return Err(error),
        // The user may not ask, or the server has too few databases for a record.
        Err(_) => return Ok(NodeState::Unknown),
    };
    let Some(record) = reading.record else {
        return Ok(NodeState::Plain);
    };
    if record.reshard.is_some() {
        return refuse(format!(
            "a reshard is under way at node {name:?}, so that keys may be at two nodes; let it end with \
             `redis-sharding reshard run`, and take the backup then"
        ));
    }
    if record.is_retired {
        return refuse(format!(
            "node {name:?} has left the fleet, as its record says; name the nodes of the topology in force, or find them \
             with `--discover`"
        ));
    }
    if record.topology != topology.fingerprint() {
        return refuse(format!(
            "another topology is in force at node {name:?} (fingerprint {:016x} instead of {:016x}), so that nodes would be \
             left out; find them with `--discover`",
            record.topology,
            topology.fingerprint()
        ));
    }
    Ok(NodeState::Record(record.epoch, record.topology))
}

/// Asks a server of a cluster for its slots.
fn slots(node: &mut SourceNode) -> Result<NodeState, Error> {
    let question = cmd("CLUSTER").arg("NODES").to_owned();
    let reply = match node.control.call(&question) {
        Ok(reply) => text(reply, &node.name)?,
        Err(error) if error.kind() == ErrorKind::NodeDown => return Err(error),
        Err(_) => return Ok(NodeState::Unknown),
    };
    let Some(own) = own_slots(&reply) else {
        return Ok(NodeState::Unknown);
    };
    if own.contains('[') {
        let text = format!(
            "slots of the cluster are moving from or to node {:?}, so that keys may be at two nodes; let that end, for which \
             there is `redis-cli --cluster fix`, and take the backup then",
            node.name
        );
        return Err(Error::config(text).at_node(&node.name));
    }
    Ok(NodeState::Slots(own))
}

/// The slots of the server that has replied to CLUSTER NODES, with those that move in brackets.
fn own_slots(nodes: &str) -> Option<String> {
    let own = nodes.lines().find(|line| {
        let flags = line.split(' ').nth(2).unwrap_or_default();
        flags.split(',').any(|flag| flag == "myself")
    })?;
    let slots: Vec<&str> = own.split(' ').skip(8).collect();
    Some(slots.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_server_are_read_from_its_own_line() {
        let nodes = "abc 127.0.0.1:7001@17001 master - 0 1 2 connected 5461-10922\n\
                     def 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5459 5460 [5461->-abc]\n";
        assert_eq!(own_slots(nodes).unwrap(), "0-5459 5460 [5461->-abc]");
        assert_eq!(own_slots(""), None);
    }

    #[test]
    fn state_that_has_changed_names_the_node() {
        let state = |number| FleetState {
            nodes: vec![
                ("a".into(), NodeState::Record(RecordEpoch::new(1, 1), 7)),
                (
                    "b".into(),
                    NodeState::Record(RecordEpoch::new(1, number), 7),
                ),
            ],
        };
        assert_eq!(state(1).difference(&state(1)), None);
        let text = state(2).difference(&state(1)).unwrap();
        assert_eq!(text, "the record of node \"b\" changed");
        assert_eq!(state(2).epoch(), Some(RecordEpoch::new(1, 2)));
        assert!(state(2).unknown().is_empty());
    }
}
