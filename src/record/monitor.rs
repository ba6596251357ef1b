//! [`RecordMonitor`]: knows the records of one client's nodes, and has the client follow them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis::Value;

use crate::endpoint::{Endpoint, RecordCheck, RecordSource};
use crate::error::{Error, ErrorKind};
use crate::observe::ClientEvent;
use crate::record::merger::Merger;
use crate::topology::Topology;
use crate::topology::record::requests::RecordReading;
use crate::topology::record::{
    Followed, FollowedFleet, Learned, RecordDecision, RecordEpoch, RecordProblem, RecordReply,
    RecordView, judge,
};

/// Where the topologies that follow from records go.
pub(crate) trait FleetPublisher: Send + Sync {
    /// The current topology.
    fn topology(&self) -> Arc<Topology>;

    /// How the nodes of the current topology are reached, in their order.
    fn endpoints(&self) -> Vec<Arc<Endpoint>>;

    /// Has the client go by this topology and these records from now on, and its connections say so. May wait for servers
    /// a short time.
    ///
    /// # Errors
    ///
    /// If the topology does not fit the client; nothing has changed then.
    fn follow(&self, fleet: &FollowedFleet) -> Result<(), Error>;

    /// Reports an event.
    fn deliver_event(&self, event: ClientEvent);
}

/// Follows the records of one client's nodes. The client keeps it alive; when it is dropped, its threads end.
pub(crate) struct RecordMonitor {
    state: Arc<MonitorState>,
}

/// State that the monitor and its threads share.
pub(super) struct MonitorState {
    /// Maximum duration of connecting to a node, and of a reply.
    pub(super) limit: Duration,
    /// Where topologies go, and what is known of the records. Set once, soon after the monitor is made.
    attached: OnceLock<Attached>,
    signal: Mutex<Signal>,
    /// For all threads: the signal has changed.
    changed: Condvar,
}

struct Attached {
    /// Weak, so that the threads do not keep the client.
    publisher: Weak<dyn FleetPublisher>,
    view: Mutex<RecordView>,
}

/// What the threads are told.
#[derive(Default)]
struct Signal {
    /// True once the merger exists.
    is_started: bool,
    /// True once the monitor is gone.
    has_ended: bool,
    /// True if the view may have changed.
    is_changed: bool,
    /// The nodes to be watched, by name. Their endpoints have no cell of a record, which would keep the monitor alive.
    nodes: BTreeMap<String, Arc<Endpoint>>,
    /// Number of changes of `nodes`.
    generation: u64,
}

/// The names of nodes, and how each is reached.
pub(super) type NamedEndpoints = Vec<(String, Arc<Endpoint>)>;

impl RecordMonitor {
    /// A monitor of nodes that are connected to within `limit`. Nothing is contacted before the first connection of the
    /// client is made.
    pub(crate) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Arc::new(MonitorState {
                limit,
                attached: OnceLock::new(),
                signal: Mutex::default(),
                changed: Condvar::new(),
            }),
        })
    }

    /// Sets where topologies go. The view begins with the current one.
    pub(crate) fn attach(&self, publisher: &Arc<impl FleetPublisher + 'static>) {
        let own = publisher.topology();
        let weak = Arc::downgrade(publisher);
        // The first one stays: there is one publisher for each monitor.
        let _ = self.state.attached.set(Attached {
            publisher: weak,
            view: Mutex::new(RecordView::new((*own).clone())),
        });
    }

    /// Has the view looked at, by a thread that is started if it does not run.
    fn wake(&self) {
        let must_start = {
            let mut signal = self.state.signal.lock();
            signal.is_changed = true;
            !std::mem::replace(&mut signal.is_started, true)
        };
        self.state.changed.notify_all();
        if !must_start {
            return;
        }
        let state = Arc::clone(&self.state);
        let thread = thread::Builder::new().name("redis-sharding record".into());
        // Detached: it ends by itself.
        if let Err(error) = thread.spawn(move || Merger::new(state).run()) {
            self.state.signal.lock().is_started = false;
            self.state.deliver(|| ClientEvent::TopologyRefused {
                error: Error::new(
                    ErrorKind::NodeDown,
                    format!(
                        "the system has no thread to follow the record of the fleet: {error}; raise the limit on threads"
                    ),
                ),
            });
        }
    }

    /// Takes in the record that a connection has read, and says what it means.
    fn judge(
        &self,
        attached: &Attached,
        node: &str,
        presented: RecordEpoch,
        reply: &RecordReply,
    ) -> RecordCheck {
        let mut view = attached.view.lock();
        let followed = Followed {
            epoch: presented,
            topology: view.fingerprint(),
        };
        let problem = match judge(followed, reply) {
            RecordDecision::Current => return RecordCheck::Current,
            RecordDecision::Newer(record) => {
                let other = RecordProblem::OtherTopology {
                    found: record.topology,
                    followed: followed.topology,
                };
                if view.disagrees(node, &record) {
                    return RecordCheck::Refused(other.to_string());
                }
                let is_foreign = view.is_foreign(&record);
                // Without texts nothing can be wrong with them.
                let _ = view.learn(node, &reply.reading(), 0);
                match is_foreign {
                    true => return RecordCheck::Refused(other.to_string()),
                    false => return RecordCheck::Superseded,
                }
            }
            RecordDecision::Refused(problem) => problem,
        };
        let record = reply.sealed();
        if let (RecordProblem::OtherTopology { .. }, Ok(record)) = (&problem, &record)
            && view.has_led_here(record)
        {
            return RecordCheck::Current;
        }
        if !matches!(problem, RecordProblem::Unreadable(_)) {
            let _ = view.learn(node, &reply.reading(), 0);
        }
        RecordCheck::Refused(problem.to_string())
    }
}

impl RecordSource for RecordMonitor {
    fn followed(&self, node: &str) -> RecordEpoch {
        let attached = self.state.attached.get();
        attached.map_or_else(RecordEpoch::default, |attached| {
            attached.view.lock().followed(node)
        })
    }

    fn check_record(&self, node: &str, presented: RecordEpoch, reply: &Value) -> RecordCheck {
        let Some(attached) = self.state.attached.get() else {
            return RecordCheck::Superseded;
        };
        let check = match RecordReply::of(reply) {
            Some(reply) => self.judge(attached, node, presented, &reply),
            None => RecordCheck::Refused(match RecordReading::of(node, reply) {
                Err(error) => error.to_string(),
                Ok(_) => RecordProblem::Missing.to_string(),
            }),
        };
        // Also for a connection that may be used: from the first one on, the nodes are watched.
        if check != RecordCheck::Current || !self.state.signal.lock().is_started {
            self.wake();
        }
        check
    }
}

impl MonitorState {
    /// Waits until something has changed, or this time is over. Returns false once the monitor is gone.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut signal = self.signal.lock();
        while !signal.has_ended && !signal.is_changed {
            if self.changed.wait_until(&mut signal, end).timed_out() {
                break;
            }
        }
        signal.is_changed = false;
        !signal.has_ended
    }

    /// Waits for this time. Returns false once the monitor is gone.
    pub(super) fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut signal = self.signal.lock();
        while !signal.has_ended {
            if self.changed.wait_until(&mut signal, end).timed_out() {
                break;
            }
        }
        !signal.has_ended
    }

    /// True once the monitor is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.signal.lock().has_ended
    }

    /// Sets the nodes to be watched. Returns their number.
    pub(super) fn set_nodes(&self, endpoints: &[Arc<Endpoint>]) -> usize {
        let mut signal = self.signal.lock();
        let nodes = endpoints.iter().map(|endpoint| {
            let name = endpoint.observer.node().name().to_owned();
            let known = signal.nodes.get(&name);
            let known = known.filter(|known| known.address == endpoint.address);
            let watched = known.map(Arc::clone).unwrap_or_else(|| {
                Arc::new(Endpoint {
                    record: None,
                    ..(**endpoint).clone()
                })
            });
            (name, watched)
        });
        let nodes: BTreeMap<String, Arc<Endpoint>> = nodes.collect();
        signal.nodes = nodes;
        signal.generation += 1;
        signal.nodes.len()
    }

    /// The nodes to be watched and the number of changes of them, if there was one since `generation`.
    pub(super) fn nodes(&self, generation: u64) -> Option<(u64, NamedEndpoints)> {
        let signal = self.signal.lock();
        if signal.generation == generation {
            return None;
        }
        let nodes = signal.nodes.iter();
        let nodes = nodes.map(|(name, endpoint)| (name.clone(), Arc::clone(endpoint)));
        Some((signal.generation, nodes.collect()))
    }

    /// The endpoint of a node that is watched.
    pub(super) fn endpoint(&self, node: &str) -> Option<Arc<Endpoint>> {
        self.signal.lock().nodes.get(node).map(Arc::clone)
    }

    /// Where topologies go, as long as the client exists.
    pub(super) fn publisher(&self) -> Option<Arc<dyn FleetPublisher>> {
        self.attached.get()?.publisher.upgrade()
    }

    /// Does something with the view. `None` before the monitor is attached.
    pub(super) fn view<T>(&self, act: impl FnOnce(&mut RecordView) -> T) -> Option<T> {
        Some(act(&mut self.attached.get()?.view.lock()))
    }

    /// Reports an event, if the client still exists. No lock may be held.
    pub(super) fn deliver(&self, event: impl FnOnce() -> ClientEvent) {
        if let Some(publisher) = self.publisher() {
            publisher.deliver_event(event());
        }
    }

    /// Number of doubts that are known, to be taken before a node is asked.
    pub(super) fn doubts(&self) -> u64 {
        self.view(|view| view.doubts()).unwrap_or_default()
    }

    /// Takes in what a node has said, which was asked when so many doubts were known, and has the merger look at what
    /// follows.
    pub(super) fn learn(&self, node: &str, reading: &RecordReading, asked_after: u64) {
        match self.view(|view| view.learn(node, reading, asked_after)) {
            None | Some(Ok(Learned::Known)) => return,
            Some(Ok(Learned::News)) => {}
            Some(Ok(Learned::Lost)) => {
                if let Some(endpoint) = self.endpoint(node) {
                    let node = endpoint.observer.node().clone();
                    self.deliver(|| ClientEvent::RecordLost { node });
                }
            }
            Some(Err(error)) => self.deliver(|| ClientEvent::TopologyRefused { error }),
        }
        self.signal.lock().is_changed = true;
        self.changed.notify_all();
    }
}

impl Drop for RecordMonitor {
    fn drop(&mut self) {
        self.state.signal.lock().has_ended = true;
        self.state.changed.notify_all();
    }
}

impl fmt::Debug for RecordMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordMonitor").finish_non_exhaustive()
    }
}
