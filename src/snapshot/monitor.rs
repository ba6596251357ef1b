//! The thread that probes the nodes of a cache, and takes those that fail out of the placement.
//!
//! It is started by the first failure, or with the client if there is a heartbeat, and ends with the client. What it
//! does is decided by an [`OutlierDetector`](crate::policy::OutlierDetector). Probes are sent by further threads,
//! which end when there is nothing left to send.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;

use crate::blocking::RespStream;
use crate::endpoint::{Deadline, Endpoint};
use crate::error::Error;
use crate::observe::Votes;
use crate::partition::NodeId;
use crate::plan::{Cause, Failure, ProbeRequest};
use crate::policy::{
    Actions, ConnectError, Flush, FlushCounts, HandshakeScope, OutSet, ProbeOutcome,
};
use crate::snapshot::Publisher;
use crate::topology::RampingNodes;

/// Maximum number of probes and flushes under way at a time. Further ones wait.
const PROBES_MAX: usize = 32;

/// Number of bytes of the stack of a thread that probes. TLS needs most of it.
const STACK_BYTES: usize = 512 << 10;

/// Has the nodes of the client probed from now on.
pub(super) fn attach(publisher: &Arc<Publisher>, votes: &Arc<Votes>) {
    let weak = Arc::downgrade(publisher);
    let of_thread = Arc::downgrade(votes);
    votes.on_start(move || {
        let (publisher, votes) = (Weak::clone(&weak), Weak::clone(&of_thread));
        let run = move || {
            if let Some(votes) = votes.upgrade() {
                run(&votes, &publisher);
            }
        };
        spawn("redis-sharding monitor", run)
    });
    if votes.ejection().heartbeat().is_some() {
        votes.wake();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.into());
    builder.stack_size(STACK_BYTES).spawn(run).map(drop)
}

/// Does what the detector says, until the client is gone.
fn run(votes: &Arc<Votes>, publisher: &Weak<Publisher>) {
    let senders = Arc::new(Senders::default());
    while !votes.is_closed() {
        let mut detector = votes.detector();
        let flushes = votes.flush_log().counts();
        let actions = detector.poll(Instant::now(), rand::random(), flushes);
        if actions.is_empty() {
            votes.wait(&mut detector, actions.wake);
            continue;
        }
        drop(detector);
        let Some(publisher) = publisher.upgrade() else {
            return;
        };
        perform(actions, votes, &publisher, &senders, flushes);
    }
}

fn perform(
    actions: Actions,
    votes: &Arc<Votes>,
    publisher: &Publisher,
    senders: &Arc<Senders>,
    flushes: FlushCounts,
) {
    if let Some(set) = actions.install {
        install(&set, votes, publisher);
    }
    let config = publisher.config();
    let endpoint = |id| {
        let index = config.router.topology().index_of_id(id)?;
        config.endpoints.get(index.get()).map(Arc::clone)
    };
    let timeout = config.settings.connect_timeout;
    for probe in actions.probes {
        let report = Report::new(votes, probe.node, Task::Probe);
        // Without an endpoint the node has just left the topology, and the report ends the probe.
        if let Some(endpoint) = endpoint(probe.node) {
            let limit = probe.limit.map_or(timeout, |limit| limit.min(timeout));
            let request = ProbeRequest::new(votes.ejection());
            senders.submit(move || {
                let outcome = send_probe(&endpoint, request, limit);
                // Before the node is used, so that no request fails because it was down before.
                if outcome == ProbeOutcome::Passed {
                    endpoint.observer.found();
                }
                report.probed(outcome);
            });
        }
    }
    for (node, flush) in actions.flushes {
        let report = Report::new(votes, node, Task::Flush(flushes));
        if let Some(endpoint) = endpoint(node) {
            senders.submit(move || {
                let result = send_flush(&endpoint, flush, timeout);
                if let Err(error) = &result {
                    endpoint.observer.flush_failed(error);
                }
                report.flushed(result.is_ok());
            });
        }
    }
}

/// Lets the placement go by this set, which may take a while. No request waits for it.
fn install(set: &OutSet, votes: &Votes, publisher: &Publisher) {
    let config = publisher.config();
    let topology = config.router.topology();
    // Before they are used, so that no request fails because they were down before.
    for index in topology.out().iter() {
        if !set.out.contains(&topology.node(index).id())
            && let Some(endpoint) = config.endpoints.get(index.get())
        {
            endpoint.observer.found();
        }
    }
    let result = publisher.set_out(|topology| {
        let out = set.out.iter();
        let out = out.filter_map(|id| topology.index_of_id(*id)).collect();
        let ramping = set.ramping.iter();
        let ramping = ramping.filter_map(|(id, share)| Some((topology.index_of_id(*id)?, *share)));
        (out, RampingNodes::new(ramping))
    });
    let mut detector = votes.detector();
    if result.is_err() {
        detector.refused();
        return;
    }
    let change = detector.installed(Instant::now(), votes.flush_log().counts());
    drop(detector);
    let endpoint = |id| config.endpoints.get(topology.index_of_id(id)?.get());
    for (id, failures) in change.ejected {
        if let Some(endpoint) = endpoint(id) {
            endpoint.observer.ejected(failures);
        }
    }
    for (id, absence) in change.readmitted {
        if let Some(endpoint) = endpoint(id) {
            endpoint.observer.readmitted(absence);
        }
    }
}

/// Sends a probe over a connection of its own.
fn send_probe(endpoint: &Endpoint, request: ProbeRequest, limit: Duration) -> ProbeOutcome {
    let deadline = Deadline::start(Some(limit));
    let (packed, count) = request.packed();
    match exchange(endpoint, packed, count, &deadline) {
        Ok(replies) => request.outcome(&replies),
        Err(error) => request.connect_failed(&error),
    }
}

/// Empties a node.
fn send_flush(endpoint: &Endpoint, flush: Flush, limit: Duration) -> Result<(), Error> {
    let deadline = Deadline::start(Some(limit));
    let name = endpoint.observer.node().name();
    let packed = match endpoint.record {
        Some(_) => Cow::Owned(flush.packed_with_record()),
        None => Cow::Borrowed(flush.packed()),
    };
    let replies = exchange(endpoint, &packed, 1, &deadline)
        .map_err(|error| Failure::not_sent(Cause::from(error)).without_answer(name))?;
    match replies.first() {
        Some(Value::ServerError(error)) => Err(Error::from_server(error, Some(name))),
        _ => Ok(()),
    }
}

/// Opens a connection, sends requests and reads their replies.
fn exchange(
    endpoint: &Endpoint,
    packed: &[u8],
    count: usize,
    deadline: &Deadline,
) -> Result<Vec<Value>, ConnectError> {
    let (handshake, _) = endpoint.handshake(HandshakeScope::Full)?;
    let failed = |error| ConnectError::new(&endpoint.address, &error);
    let (mut stream, _) = RespStream::open(endpoint, &handshake, deadline)?;
    stream
        .write(packed, deadline)
        .map_err(|error| failed(error.error.into()))?;
    let mut replies = Vec::with_capacity(count);
    stream
        .read_all(count, deadline, &mut replies)
        .map_err(|error| failed(error.into()))?;
    Ok(replies)
}

/// Reports the outcome of a probe or a flush. Dropped without one, it reports a refusal, so that the detector never
/// waits for an outcome that does not come.
struct Report {
    votes: Arc<Votes>,
    node: NodeId,
    task: Option<Task>,
}

enum Task {
    Probe,
    /// With the counts at its beginning.
    Flush(FlushCounts),
}

impl Report {
    fn new(votes: &Arc<Votes>, node: NodeId, task: Task) -> Self {
        Self {
            votes: Arc::clone(votes),
            node,
            task: Some(task),
        }
    }

    fn probed(mut self, outcome: ProbeOutcome) {
        self.end(outcome);
    }

    fn flushed(mut self, done: bool) {
        self.end(match done {
            true => ProbeOutcome::Passed,
            false => ProbeOutcome::Refused,
        });
    }

    fn end(&mut self, outcome: ProbeOutcome) {
        let Some(task) = self.task.take() else {
            return;
        };
        let (now, jitter) = (Instant::now(), rand::random());
        let mut detector = self.votes.detector();
        match task {
            Task::Probe => detector.probed(self.node, outcome, now, jitter),
            Task::Flush(flushes) => {
                let done = outcome == ProbeOutcome::Passed;
                detector.flushed(self.node, done, flushes, now, jitter);
            }
        }
        drop(detector);
        self.votes.wake();
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.end(ProbeOutcome::Refused);
    }
}

/// The threads that send probes and flushes: at most [`PROBES_MAX`], none while there is nothing to send.
#[derive(Default)]
struct Senders(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    threads: usize,
    /// At most one entry per node.
    waiting: VecDeque<Box<dyn FnOnce() + Send>>,
}

impl Senders {
    fn submit(self: &Arc<Self>, send: impl FnOnce() + Send + 'static) {
        let mut queue = self.0.lock();
        queue.waiting.push_back(Box::new(send));
        if queue.threads == PROBES_MAX {
            return;
        }
        queue.threads += 1;
        drop(queue);
        let senders = Arc::clone(self);
        if spawn("redis-sharding probe", move || senders.run()).is_err() {
            let mut queue = self.0.lock();
            queue.threads -= 1;
            // The last thread would have taken it.
            let dropped = match queue.threads {
                0 => std::mem::take(&mut queue.waiting),
                _ => VecDeque::new(),
            };
            // Each reports a refusal, and is tried again later.
            drop(queue);
            drop(dropped);
        }
    }

    fn run(&self) {
        loop {
            let mut queue = self.0.lock();
            let Some(send) = queue.waiting.pop_front() else {
                queue.threads -= 1;
                return;
            };
            drop(queue);
            // A panic must not take the count of threads with it. The panic hook has printed it.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(send));
        }
    }
}
