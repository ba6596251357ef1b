//! [`Merger`]: the thread that has a client follow what is known of the records of its nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::ProtocolVersion;

use crate::error::Error;
use crate::observe::ClientEvent;
use crate::record::connection::NodeConnection;
use crate::record::monitor::MonitorState;
use crate::record::watcher::{WATCHERS_MAX, Watcher};
use crate::topology::record::requests::{RecordReading, RecordTexts, RecordWrite};
use crate::topology::record::{ConnectionRole, NameSuffix, Repair};

/// Time after which the view is looked at again although nobody has said that it has changed.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Time before a record that could not be written again is tried once more, and before texts are.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Maximum duration of a reply over a connection of the merger, if connecting may take longer.
const REPLY_WITHIN_MAX: Duration = Duration::from_secs(2);

/// Publishes topologies as they follow from the view, repairs records, and starts the threads that watch nodes.
pub(super) struct Merger {
    state: Arc<MonitorState>,
    /// Which watchers run.
    watchers: [bool; WATCHERS_MAX],
    /// When the record of a node was tried to be written again, or its texts to be read.
    tried: BTreeMap<String, Instant>,
}

impl Merger {
    pub(super) fn new(state: Arc<MonitorState>) -> Self {
        Self {
            state,
            watchers: [false; WATCHERS_MAX],
            tried: BTreeMap::new(),
        }
    }

    /// Works until the client is gone.
    pub(super) fn run(mut self) {
        self.watch();
        loop {
            // What was signalled from here on is looked at once more.
            self.follow();
            self.fetch_texts();
            self.repair();
            if !self.state.wait(CHECK_EVERY) {
                return;
            }
        }
    }

    /// Has the client follow the view, as long as there is something new.
    fn follow(&mut self) {
        while let Some(next) = self.state.view(|view| view.next()) {
            let fleet = match next {
                Ok(Some(fleet)) => fleet,
                Ok(None) => return,
                Err(error) => return self.refused(error),
            };
            let Some(publisher) = self.state.publisher() else {
                return;
            };
            if let Err(error) = publisher.follow(&fleet) {
                return self.refused(error);
            }
            drop(publisher);
            self.watch();
        }
    }

    fn refused(&self, error: Error) {
        self.state
            .deliver(|| ClientEvent::TopologyRefused { error });
    }

    /// Has all nodes of the current topology watched.
    fn watch(&mut self) {
        let Some(publisher) = self.state.publisher() else {
            return;
        };
        let nodes = self.state.set_nodes(&publisher.endpoints());
        for (number, runs) in self.watchers.iter_mut().enumerate().take(nodes) {
            if *runs {
                continue;
            }
            let watcher = Watcher::new(Arc::clone(&self.state), number);
            let thread = thread::Builder::new().name("redis-sharding record".into());
            // Without a thread the node is not watched; its record is still read by each new connection.
            *runs = thread.spawn(move || watcher.run()).is_ok();
        }
    }

    /// Reads the texts of topologies that are named and not known, if the watchers have not done so.
    fn fetch_texts(&mut self) {
        let node = self
            .state
            .view(|view| view.node_with_texts().map(str::to_owned));
        let Some(node) = node.flatten() else {
            return;
        };
        if !self.may_try(&node) {
            return;
        }
        let doubts = self.state.doubts();
        if let Ok(reading) = self.read(&node) {
            self.state.learn(&node, &reading, doubts);
            self.tried.remove(&node);
        }
    }

    fn read(&self, node: &str) -> Result<RecordReading, Error> {
        self.connect(node)?.record_and_texts()
    }

    fn connect(&self, node: &str) -> Result<NodeConnection, Error> {
        let endpoint = self.state.endpoint(node);
        let endpoint = endpoint.ok_or_else(|| Error::config("the node has left the topology"))?;
        let suffix = NameSuffix {
            role: ConnectionRole::Monitor,
            epoch: self
                .state
                .view(|view| view.followed(node))
                .unwrap_or_default(),
        };
        let limit = self.state.limit;
        let mut connection =
            NodeConnection::open(&endpoint, ProtocolVersion::RESP2, suffix, limit)?;
        connection.set_limit(limit.min(REPLY_WITHIN_MAX));
        Ok(connection)
    }

    /// Writes the records again that nodes have lost.
    fn repair(&mut self) {
        let repairs = self.state.view(|view| view.repairs()).unwrap_or_default();
        for repair in repairs {
            if self.may_try(&repair.node) {
                // Tried again later.
                let _ = self.write(&repair);
            }
        }
    }

    fn write(&self, repair: &Repair) -> Result<(), Error> {
        let node = &repair.node;
        let doubts = self.state.doubts();
        let mut connection = self.connect(node)?;
        // It may have been repaired by another client meanwhile, or started anew once more.
        let reading = connection.record()?;
        if reading.epoch() != repair.expected || reading.run_id != repair.record.seal {
            self.state.learn(node, &reading, doubts);
            return Ok(());
        }
        let texts = Some(&repair.texts);
        let record = match connection.compare_and_set(repair.expected, &repair.record, texts)? {
            RecordWrite::Done => {
                let node = connection.endpoint().observer.node().clone();
                self.state.deliver(|| ClientEvent::RecordRepaired { node });
                Some(repair.record.clone())
            }
            RecordWrite::Other(found) => found,
        };
        let reading = RecordReading {
            record,
            run_id: reading.run_id,
            texts: RecordTexts::default(),
        };
        self.state.learn(node, &reading, doubts);
        Ok(())
    }

    /// True if nothing was tried at this node for a while.
    fn may_try(&mut self, node: &str) -> bool {
        let now = Instant::now();
        let tried = self.tried.get(node);
        let may = tried.is_none_or(|tried| now.duration_since(*tried) >= AGAIN_AFTER);
        if may {
            self.tried.insert(node.to_owned(), now);
        }
        may
    }
}
