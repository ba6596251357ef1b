//! [`RecordStore`]: the records of several nodes, read over connections that stay open, and claimed before they are
//! changed.

use std::thread;

use crate::error::{Error, ErrorKind};
use crate::ops::connection::{Fleet, FleetNode, NodeConnection};
use crate::topology::record::requests::{RecordReading, RecordTexts, RecordWrite};
use crate::topology::record::{ConnectionRole, NodeRecord, RecordEpoch};

/// Maximum number of nodes that are asked at a time.
const THREADS_MAX: usize = 32;

/// The records of several nodes, over a connection to each.
pub(crate) struct RecordStore {
    pub(crate) nodes: Vec<StoredRecord>,
}

/// The record of one node, and the connection to it.
pub(crate) struct StoredRecord {
    pub(crate) node: FleetNode,
    pub(crate) connection: NodeConnection,
    /// What the node said when it was asked last, with the texts beside it, or what was written since.
    pub(crate) reading: RecordReading,
}

impl RecordStore {
    /// Connects to all of these nodes, and reads their records.
    ///
    /// # Errors
    ///
    /// The first error: nothing is changed unless all nodes can be read.
    pub(crate) fn open(
        fleet: &Fleet,
        nodes: Vec<FleetNode>,
        role: ConnectionRole,
    ) -> Result<Self, Error> {
        let opened = each(nodes, |node| StoredRecord::open(fleet, node, role));
        let nodes = opened.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self { nodes })
    }

    /// The largest term of all records.
    pub(crate) fn term(&self) -> u32 {
        let epochs = self.nodes.iter().filter_map(|node| node.reading.epoch());
        epochs.map(|epoch| epoch.term).max().unwrap_or_default()
    }

    /// Claims the next term for `claimant` at all nodes, so that nobody else changes the fleet meanwhile: their records
    /// stay as they are but for the term and the claimant. Nodes without a record get one with the topology `fallback`.
    ///
    /// # Errors
    ///
    /// If most nodes did not take the claim, as another one has claimed them at the same time. The claims at the others
    /// stay, and do no harm: a later claim is for a later term.
    pub(crate) fn claim(&mut self, claimant: &str, fallback: u64) -> Result<u32, Error> {
        let term = self.term().saturating_add(1);
        let epoch = RecordEpoch::new(term, 0);
        let nodes = std::mem::take(&mut self.nodes);
        let claimed = each(nodes, |mut node| {
            let claim = node.claim(epoch, claimant, fallback);
            (node, claim)
        });
        let (mut won, mut why) = (0, None);
        for (node, claim) in claimed {
            match claim {
                Ok(true) => won += 1,
                Ok(false) => {
                    let other = node.reading.record.as_ref();
                    let other = other.and_then(|record| record.mover.clone());
                    let other = other.unwrap_or_else(|| "another client".to_owned());
                    why.get_or_insert(format!("{other} has claimed node {:?}", node.node.name));
                }
                Err(error) => drop(why.get_or_insert(error.to_string())),
            }
            self.nodes.push(node);
        }
        if 2 * won > self.nodes.len() {
            return Ok(term);
        }
        let why = why.unwrap_or_default();
        Err(Error::new(
            ErrorKind::NodeDown,
            format!(
                "the fleet is being changed by somebody else: {won} of {} nodes have taken term {term}, which is not \
                 most of them ({why}); try again when that is over",
                self.nodes.len()
            ),
        ))
    }

    /// Writes a record at every node, one after another for each, many nodes at a time.
    ///
    /// # Errors
    ///
    /// The first error. Records of other nodes may have been written.
    pub(crate) fn write_all(
        &mut self,
        record: impl Fn(&StoredRecord) -> NodeRecord + Sync,
        texts: &RecordTexts,
    ) -> Result<(), Error> {
        let nodes = std::mem::take(&mut self.nodes);
        let written = each(nodes, |mut node| {
            let next = record(&node);
            let result = node.write(&next, Some(texts));
            (node, result)
        });
        let (nodes, results): (Vec<_>, Vec<_>) = written.into_iter().unzip();
        self.nodes = nodes;
        results.into_iter().collect()
    }
}

impl StoredRecord {
    /// Connects to a node, and reads its record and the texts beside it.
    ///
    /// # Errors
    ///
    /// As for [`NodeConnection::open`] and [`NodeConnection::record_and_texts`].
    pub(crate) fn open(
        fleet: &Fleet,
        node: FleetNode,
        role: ConnectionRole,
    ) -> Result<Self, Error> {
        let mut connection = fleet.connect(&node, role, RecordEpoch::default())?;
        let reading = connection.record_and_texts()?;
        Ok(Self {
            node,
            connection,
            reading,
        })
    }

    /// Writes a record in place of the one that was read or written last.
    ///
    /// # Errors
    ///
    /// If the node has another record by now, or it cannot be written.
    pub(crate) fn write(
        &mut self,
        record: &NodeRecord,
        texts: Option<&RecordTexts>,
    ) -> Result<(), Error> {
        let expected = self.reading.epoch();
        match self.connection.compare_and_set(expected, record, texts)? {
            RecordWrite::Done => {
                self.reading.record = Some(record.clone());
                if let Some(texts) = texts {
                    self.reading.texts = texts.clone();
                }
                Ok(())
            }
            RecordWrite::Other(found) => {
                let by = match found.as_ref().and_then(|record| record.mover.as_deref()) {
                    Some(mover) => format!("by {mover}"),
                    None => "by somebody else".to_owned(),
                };
                let epoch = |epoch: Option<RecordEpoch>| match epoch {
                    None => "none".to_owned(),
                    Some(epoch) => epoch.to_string(),
                };
                let now = epoch(found.as_ref().map(|record| record.epoch));
                let name = &self.node.name;
                let text = format!(
                    "the record of node {name:?} was changed {by} (epoch {now} instead of {}); look at it with \
                     `redis-sharding topology check`",
                    epoch(expected)
                );
                self.reading.record = found;
                Err(Error::new(ErrorKind::Stale, text).at_node(name))
            }
        }
    }

    /// Claims a term at this node. Returns false if another one has been faster.
    fn claim(&mut self, epoch: RecordEpoch, claimant: &str, fallback: u64) -> Result<bool, Error> {
        let mover = Some(claimant.to_owned());
        let record = match &self.reading.record {
            Some(record) => NodeRecord {
                epoch,
                mover,
                ..record.clone()
            },
            None => NodeRecord {
                epoch,
                topology: fallback,
                seal: self.reading.run_id.clone(),
                is_retired: false,
                mover,
                reshard: None,
            },
        };
        let expected = self.reading.epoch();
        match self.connection.compare_and_set(expected, &record, None)? {
            RecordWrite::Done => {
                self.reading.record = Some(record);
                Ok(true)
            }
            RecordWrite::Other(found) => {
                self.reading.record = found;
                Ok(false)
            }
        }
    }
}

/// Does something for each item, for many at a time. The results are in the order of the items.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let some: Vec<T> = items.by_ref().take(THREADS_MAX).collect();
        thread::scope(|scope| {
            let act = &act;
            let threads: Vec<_> = some
                .into_iter()
                .map(|item| scope.spawn(move || act(item)))
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(result) => results.push(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    results
}
