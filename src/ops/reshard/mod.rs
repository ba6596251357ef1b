//! Moving keys to where another topology places them, while clients go on.
//!
//! [`Reshard`] is what an operator uses. It decides by pure parts, each with its own tests:
//!
//! * `batch`: the steps of a batch, and what a failure of each means; `batch_size`: how much is moved at once; `pace`: how long
//!   programs are left alone in between.
//! * `fence`: when no connection of an older epoch is left.
//! * `records`: the records that are written; `progress`: how a pair goes on after a mover that was stopped.
//! * `index`: which keys move where; `sweeps`: which may be deleted; `compare`: whether a copy is one.
//! * `method`: which new nodes are filled by replication.
//! * `facts`: what servers can do; `plan`: what would be moved, and why it cannot be; `status`: how far it is.
//!
//! And it carries them out over blocking connections:
//!
//! * `view`: what all nodes say before anything is changed; `survey`: the sample of their keys.
//! * `session`: a mover with its term; `life`: claim, announcement, end.
//! * `source`: the keys that leave one node; `source_index`: which these are; `batch_run`: the steps of a batch; `empty_pairs`:
//!   the same for all pairs without keys; `copy`, `large`: keys.
//! * `pause`: a pause that was requested at the nodes.
//! * `split`: the keys of a node that leave it for its replicas, all at once; `replica`: a new node as one;
//!   `split_recovery`: what is left of splits, after each and behind a mover that was stopped.
//! * `metrics`: counters for recorders, with the feature `metrics`; without it, `no_metrics`.
//! * `key_events`: what a node says of new keys; `settings`: its configuration meanwhile; `link`: a connection; `fault`: why a step has failed.
//!
//! Nothing here decides where a key belongs, or what a client does about a record.

mod batch;
mod batch_run;
mod batch_size;
mod compare;
mod copy;
mod empty_pairs;
mod event;
mod facts;
mod fault;
mod fence;
mod index;
mod key_events;
mod large;
mod life;
mod link;
mod method;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
mod no_metrics;
mod options;
mod pace;
mod pause;
mod plan;
mod progress;
mod records;
mod replica;
mod session;
mod settings;
mod source;
mod source_index;
mod split;
mod split_recovery;
mod status;
mod survey;
mod sweeps;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::event::{ReshardEvent, ReshardOutcome};
pub use self::options::{ReshardMethod, ReshardOptions};
pub use self::pause::PauseOutcome;
pub use self::plan::{
    PlannedMove, PlannedNode, PlannedSplit, ReshardPlan, ReshardRefusal, ReshardRefusalKind,
};
pub use self::status::{PairStatus, ReshardStage, ReshardStatus};

use self::fault::{Fault, FaultKind};
use self::link::MoverName;
#[cfg(feature = "metrics")]
use self::metrics::ReshardMetrics;
#[cfg(not(feature = "metrics"))]
use self::no_metrics::ReshardMetrics;
use self::records::{Stage, next_term};
use self::session::{Session, SessionNode};
use self::source::Source;
use self::view::View;
use crate::config::Builder;
use crate::error::Error;
use crate::ops::connection::Fleet;
use crate::topology::Topology;
use crate::topology::record::RecordEpoch;

/// How often the keys of a source are begun with, as long as its connections break.
const SOURCE_ATTEMPTS: u32 = 10;

/// The pause before they are begun with again.
const SOURCE_PAUSE: Duration = Duration::from_secs(1);

/// Moves the keys of a fleet to where another topology places them, while its clients go on.
///
/// The fleet must have a record: its clients follow that, and are told which keys are where. Keys are moved in small
/// batches. Requests for the keys of a batch wait for it, for 50 ms as a rule; all other requests go on. If the mover is
/// stopped at any point, even by a loss of power, nothing is lost and nothing is open that should be closed: another
/// [`run`](Self::run) goes on from there.
///
/// ```no_run
/// use redis_sharding::ops::reshard::{Reshard, ReshardOptions};
/// use redis_sharding::{ShardedClient, Topology};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let to = Topology::parse(&std::fs::read_to_string("six-nodes.topology")?)?;
/// // Any nodes of the fleet: the others are in their records.
/// let fleet = ShardedClient::builder().node("a", "redis://10.0.0.1/");
/// let reshard = Reshard::new(fleet, to, ReshardOptions::new())?;
/// println!("{}", reshard.plan()?);
/// reshard.run(|event| println!("{event:?}"))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reshard {
    fleet: Fleet,
    to: Topology,
    options: ReshardOptions,
    paused: Arc<AtomicBool>,
}

/// Pauses a [`Reshard`] from another thread.
#[derive(Clone, Debug)]
pub struct ReshardPause(Arc<AtomicBool>);

impl ReshardPause {
    /// Stops the run at the next boundary between two batches.
    pub fn pause(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Reshard {
    /// Describes a reshard to the topology `to`. `fleet` has some nodes of the fleet, and the passwords, certificates and
    /// timeouts with which all nodes are reached; what topology is in force is in the records of the nodes. Nothing is
    /// contacted.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn new(fleet: Builder, to: Topology, options: ReshardOptions) -> Result<Self, Error> {
        Ok(Self {
            fleet: Fleet::new(fleet)?,
            to,
            options,
            paused: Arc::default(),
        })
    }

    /// Looks at all nodes and says what would be moved, what that needs, and why it cannot be done. Nothing is changed.
    ///
    /// # Errors
    ///
    /// If no node of the fleet has a record, or the topologies do not fit together. A node that cannot be reached is a
    /// [refusal](ReshardPlan::refusals).
    pub fn plan(&self) -> Result<ReshardPlan, Error> {
        let id = mover_id();
        let mut view = View::read(&self.fleet, &self.to, &id)?;
        Ok(survey::survey(&mut view, &id, &self.options))
    }

    /// Moves the keys, or goes on with a reshard to the same topology that was paused or whose mover was stopped. Calls
    /// `listener` with what happens, from the threads that move keys.
    ///
    /// # Errors
    ///
    /// If the [plan](Self::plan) has a refusal; if a node fails for long, refuses a key, or another mover takes over. The
    /// units of a batch that has failed are opened again if that is possible. Another run goes on.
    pub fn run(
        &self,
        mut listener: impl FnMut(ReshardEvent) + Send,
    ) -> Result<ReshardOutcome, Error> {
        let id = mover_id();
        let mut view = View::read(&self.fleet, &self.to, &id)?;
        // A reshard under way is not sampled again: its new nodes have keys.
        let stage = view.stage()?;
        let mut splits = Vec::new();
        if stage == Stage::NotBegun {
            let plan = survey::survey(&mut view, &id, &self.options);
            check(&plan)?;
            splits = plan.splits;
        }
        if stage == Stage::Finished {
            return Ok(ReshardOutcome::Finished);
        }
        if stage == Stage::UnderWay && view.is_paused() {
            return Ok(ReshardOutcome::Paused);
        }
        let mut session = self.session(view, id, &mut listener)?;
        session.kill_other_movers()?;
        if stage != Stage::Finishing {
            let mut split = split_recovery::recover(&mut session)?;
            let groups = split::attach_all(&session, &splits)?;
            session.announce()?;
            for group in groups {
                split.extend(group.switch(&session)?);
            }
            split_recovery::sweep_all(&session, &split)?;
            move_sources(&session)?;
        }
        if session.stops() {
            return Ok(ReshardOutcome::Paused);
        }
        session.finish()?;
        Ok(ReshardOutcome::Finished)
    }

    /// Takes a pause that was [requested](Self::request_pause) back, and goes on as [`run`](Self::run) does.
    ///
    /// # Errors
    ///
    /// As for `run`.
    pub fn resume(
        &self,
        listener: impl FnMut(ReshardEvent) + Send,
    ) -> Result<ReshardOutcome, Error> {
        let mut view = View::read(&self.fleet, &self.to, &mover_id())?;
        view.stage()?;
        for node in &mut view.nodes {
            let reply = node.reply.as_mut().map_err(|error| error.clone())?;
            pause::clear(&mut reply.link)?;
        }
        drop(view);
        self.run(listener)
    }

    /// Says how far the reshard has come.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached, or belongs to another fleet.
    pub fn status(&self) -> Result<ReshardStatus, Error> {
        ReshardStatus::of(&View::read(&self.fleet, &self.to, &mover_id())?)
    }

    /// Stops a [`run`](Self::run) in another thread at the next boundary between two batches, and every later run of this
    /// value at its beginning.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Requests a pause at the nodes: a [`run`](Self::run) in whatever process stops at the next boundary between two
    /// batches, and none begins before a [`resume`](Self::resume). Waits until the mover has stopped, at most `within`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if no reshard to this topology is under way, or all keys have moved. If a node
    /// cannot be reached.
    pub fn request_pause(&self, within: Duration) -> Result<PauseOutcome, Error> {
        let id = mover_id();
        let mut view = View::read(&self.fleet, &self.to, &id)?;
        let outcome = pause::request(&mut view, &id, within)?;
        // It may have been about to end.
        Ok(match self.status()?.stage {
            ReshardStage::UnderWay => outcome,
            _ => PauseOutcome::Finished,
        })
    }

    /// Returns a handle by which another thread, or a handler of a signal, pauses the run.
    pub fn pause_handle(&self) -> ReshardPause {
        ReshardPause(Arc::clone(&self.paused))
    }

    /// Gives a reshard up that has not moved anything yet: puts the old topology in force again.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if keys have moved: then the reshard must be finished, and another one leads back.
    /// If a node cannot be reached.
    pub fn abort(&self) -> Result<(), Error> {
        let id = mover_id();
        let view = View::read(&self.fleet, &self.to, &id)?;
        if view.stage()? == Stage::NotBegun {
            return Err(Error::config("no reshard to this topology is under way"));
        }
        let mut listener = |_: ReshardEvent| {};
        let mut session = self.session(view, id, &mut listener)?;
        session.kill_other_movers()?;
        session.check_nothing_moved()?;
        split_recovery::recover(&mut session)?;
        session.reopen_all()?;
        session.clean_up()?;
        session.put_back()?;
        Ok(())
    }

    /// Claims a term.
    fn session<'s>(
        &'s self,
        mut view: View,
        id: Arc<str>,
        listener: &'s mut (dyn FnMut(ReshardEvent) + Send),
    ) -> Result<Session<'s>, Error> {
        let known = view.known()?;
        let records = known.iter().filter_map(|node| node.record.as_ref());
        let term = next_term(records);
        let fingerprints = view.fingerprints();
        let may_do = |step: &str| self.options.may_do(step);
        let records = life::claim(&mut view.nodes, fingerprints, term, &id, may_do)?;
        let nodes = view.nodes.into_iter().zip(records).map(|(node, record)| {
            Ok(SessionNode {
                facts: node.reply?.facts,
                name: node.name,
                endpoint: node.endpoint,
                is_old: node.is_old,
                is_new: node.is_new,
                record: Mutex::new(record),
                own_commands: Arc::default(),
            })
        });
        let nodes = nodes.collect::<Result<Vec<_>, Error>>()?;
        let pairs = session::pairs(&nodes).into_iter();
        let pairs = pairs.filter_map(|(source, target)| {
            Some((&*nodes.get(source)?.name, &*nodes.get(target)?.name))
        });
        Ok(Session {
            metrics: ReshardMetrics::new(pairs),
            nodes,
            from: view.from,
            to: view.to,
            both: view.both,
            db: view.db,
            name: MoverName {
                id,
                epoch: RecordEpoch::new(term, 0),
            },
            options: &self.options,
            limit: self.fleet.limit(),
            paused: &self.paused,
            failed: AtomicBool::new(false),
            is_pause_requested: AtomicBool::new(false),
            listener: Mutex::new(listener),
            quiet_until: Mutex::new(None),
        })
    }
}

/// The id of a mover, in records and names of connections. Each run has its own: what an earlier one has sent over a
/// connection that it has given up may still be on its way, and is ended as that of any other mover.
fn mover_id() -> Arc<str> {
    let id: u64 = rand::random();
    format!("m-{id:016x}").into()
}

/// Refuses a reshard that cannot work.
fn check(plan: &ReshardPlan) -> Result<(), Error> {
    match plan.refusals.first() {
        None => Ok(()),
        Some(first) => {
            let rest = match plan.refusals.len() - 1 {
                0 => String::new(),
                more => format!("; `redis-sharding reshard plan` names {more} more reasons"),
            };
            let text = format!("node {:?}: {}{rest}", first.node, first.text);
            Err(Error::config(text).at_node(&first.node))
        }
    }
}

/// Moves the keys of all sources, some at a time. A source is left alone while another one copies to or from the same
/// nodes, as far as there are others.
fn move_sources(session: &Session<'_>) -> Result<(), Fault> {
    let pairs = session.pairs();
    let mut sources: VecDeque<usize> = pairs.iter().map(|(source, _)| *source).collect();
    sources.make_contiguous().sort_unstable();
    let mut last = None;
    sources.retain(|source| last.replace(*source) != Some(*source));
    let threads = session.options.sources_at_once.min(sources.len());
    let count = sources.len();
    let sources = Mutex::new(sources);
    let work = || loop {
        let next = sources.lock().pop_front();
        let Some(source) = next.filter(|_| !session.stops()) else {
            return Ok(());
        };
        let targets = targets_of(&pairs, source, count);
        if let Err(fault) = move_source(session, source, &targets) {
            session.failed.store(true, Ordering::Relaxed);
            return Err(fault);
        }
    };
    let have_moved = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        scope.spawn(|| session.keep_sealed(&have_moved));
        let results = threads.into_iter().map(|thread| thread.join());
        let results: Vec<Result<(), Fault>> = results
            .map(|result| result.unwrap_or_else(|_| Err(life::panicked())))
            .collect();
        have_moved.store(true, Ordering::Relaxed);
        let failed = |kind| {
            results
                .iter()
                .find_map(|result| result.as_ref().err().filter(|fault| fault.kind == kind))
        };
        // A killed mover fails in all threads; what matters is the first cause.
        match failed(FaultKind::Killed)
            .or_else(|| results.iter().find_map(|result| result.as_ref().err()))
        {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    })
}

/// Moves the keys of a source. Begins again if a connection breaks between two batches: then nothing is on its way, and the
/// records say how far the pairs have come.
fn move_source(session: &Session<'_>, source: usize, targets: &[usize]) -> Result<(), Fault> {
    for _ in 1..SOURCE_ATTEMPTS {
        match Source::run(session, source, targets) {
            Err(fault) if fault.is_broken() && !session.stops() => thread::sleep(SOURCE_PAUSE),
            other => return other,
        }
    }
    Source::run(session, source, targets)
}

/// The targets of a source. Each source begins with another one, so that two of them do not copy to one node at a time.
fn targets_of(pairs: &[(usize, usize)], source: usize, sources: usize) -> Vec<usize> {
    let targets = pairs.iter().filter(|(from, _)| *from == source);
    let mut targets: Vec<usize> = targets.map(|(_, target)| *target).collect();
    if let Some(count) = std::num::NonZeroUsize::new(targets.len()) {
        targets.rotate_left(source * count.get() / sources.max(1) % count);
    }
    targets
}
