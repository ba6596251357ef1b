//! Takes a cut: one moment at all nodes.
//!
//! All that takes long comes before the pause: connections, settings, waiting for child processes. Then writes are paused at
//! all nodes, each server is asked for its data, and has forked when it answers with the offset. Writes go on from there on,
//! and the data is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::BackupEvent;
use super::decide::{self, Next, SeenCut, SeenNode, Void};
use super::facts::SourceFacts;
use super::fleet::{FleetState, SourceNodes};
use super::node::{SourceNode, text};
use super::options::BackupOptions;
use super::stream::{SyncReply, SyncStream};
use crate::error::{Error, ErrorKind};
use crate::ops::clock::{own_time, time_of};
use crate::ops::rate::RateLimit;
use crate::ops::record::store::each;
use crate::policy::is_timeout;
use crate::resp::info_field;

/// How often a server that is busy is asked again.
const BUSY_CHECK: Duration = Duration::from_millis(100);

/// How often a replica is asked whether it has received all.
const REPLICA_CHECK: Duration = Duration::from_millis(1);

/// The shortest time that is waited for a reply, so that one that has come is read.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A cut that is one, and whose data is to be read.
pub(super) struct Cut {
    /// One for each node, in their order.
    pub(super) streams: Vec<CutStream>,
    pub(super) time: CutTime,
}

/// When a cut was taken.
pub(super) struct CutTime {
    /// For how long writes were paused.
    pub(super) pause: Duration,
    /// The time at each node, in milliseconds since 1970.
    pub(super) times: Vec<i64>,
    /// The nodes that did not end the pause when they were asked to.
    pub(super) not_resumed: Vec<String>,
}

/// The data of a node.
pub(super) struct CutStream {
    pub(super) stream: SyncStream,
    /// The magic and the version.
    pub(super) head: [u8; 9],
    pub(super) offset: u64,
}

/// What a cut is taken with.
pub(super) struct Taker<'t> {
    pub(super) fleet: &'t SourceNodes,
    pub(super) options: &'t BackupOptions,
    pub(super) stop: &'t Arc<AtomicBool>,
    pub(super) rate: Option<&'t Arc<RateLimit>>,
    pub(super) on_event: &'t (dyn Fn(BackupEvent) + Sync),
}

/// Why there is no cut.
pub(super) enum NoCut {
    /// It can be tried again.
    Void(Void),
    /// It cannot.
    Failed(Error),
}

impl From<Error> for NoCut {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NodeDown => Self::Void(Void::Lost(error.to_string())),
            _ => Self::Failed(error),
        }
    }
}

impl From<Void> for NoCut {
    fn from(void: Void) -> Self {
        Self::Void(void)
    }
}

impl Taker<'_> {
    /// Tries to take a cut, as often as is allowed. Returns the number of attempts as well, or, if PSYNC is not allowed after
    /// all, the reason.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn take<T>(
        &self,
        nodes: &mut [SourceNode],
        attempt: impl Fn(&Self, &mut [SourceNode]) -> Result<T, NoCut>,
    ) -> Result<Result<(T, u32), String>, Error> {
        let mut number = 1;
        loop {
            self.check_stop()?;
            let void = match attempt(self, nodes) {
                Ok(cut) => return Ok(Ok((cut, number))),
                Err(NoCut::Failed(error)) => return Err(error),
                Err(NoCut::Void(void)) => void,
            };
            match decide::next(&void, number, self.options.attempts) {
                Next::Again(delay) => self.again(&void, delay)?,
                Next::FallBack => {
                    if let Void::Refused(name, _) = &void
                        && let Some(node) = nodes.iter_mut().find(|node| node.name == *name)
                    {
                        node.abilities.may_sync = false;
                    }
                    return Ok(Err(void.to_string()));
                }
                Next::GiveUp => return Err(given_up(&void)),
            }
            number += 1;
        }
    }

    /// Waits before another attempt.
    fn again(&self, void: &Void, delay: Duration) -> Result<(), Error> {
        let cause = void.to_string();
        (self.on_event)(BackupEvent::Void { cause });
        thread::sleep(delay);
        self.check_stop()
    }

    pub(super) fn check_stop(&self) -> Result<(), Error> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// Takes a cut whose data the servers send.
    pub(super) fn stream_cut(
        &self,
        nodes: &mut [SourceNode],
        is_diskless: bool,
    ) -> Result<Cut, NoCut> {
        let before = self.prepare(nodes)?;
        let opened = each(nodes.iter_mut().collect(), |node| {
            if is_diskless {
                node.configure()?;
            }
            let connection = node.open_stream(is_diskless)?;
            let silence = node.repl_timeout.max(Duration::from_secs(10));
            Ok(SyncStream::new(connection, silence, self.stop, self.rate))
        });
        let taken = match opened.into_iter().collect::<Result<Vec<_>, Error>>() {
            Ok(streams) => self.streams(nodes, streams, &before),
            Err(error) => Err(error.into()),
        };
        // By now all servers have forked, or there is no cut.
        each(nodes.iter_mut().collect(), SourceNode::put_back);
        taken
    }

    /// Does what comes before the pause. Returns what the nodes say of the fleet.
    pub(super) fn prepare(&self, nodes: &mut [SourceNode]) -> Result<FleetState, NoCut> {
        let ready = each(nodes.iter_mut().collect(), SourceNode::reconnect);
        ready.into_iter().collect::<Result<(), Error>>()?;
        self.wait_until_idle(nodes)?;
        let ready = each(nodes.iter_mut().collect(), SourceNode::refresh);
        ready.into_iter().collect::<Result<(), Error>>()?;
        Ok(self.fleet.state(nodes)?)
    }

    /// Waits until no server is busy with what would keep it from beginning at once.
    fn wait_until_idle(&self, nodes: &mut [SourceNode]) -> Result<(), NoCut> {
        let start = Instant::now();
        for node in nodes {
            let mut is_told = false;
            while let Some(what) = node.busy()? {
                if start.elapsed() > self.options.child_wait {
                    let text = format!(
                        "node {:?} is {what}; take the backup when that is over, or wait longer for it",
                        node.name
                    );
                    let error = Error::new(ErrorKind::NodeDown, text).at_node(&node.name);
                    return Err(NoCut::Failed(error));
                }
                if !is_told {
                    is_told = true;
                    let node = node.name.clone();
                    (self.on_event)(BackupEvent::Waiting { node });
                }
                thread::sleep(BUSY_CHECK);
                self.check_stop().map_err(NoCut::Failed)?;
            }
        }
        Ok(())
    }

    /// Takes the moment, and waits until all servers have begun with their data.
    fn streams(
        &self,
        nodes: &mut [SourceNode],
        mut streams: Vec<SyncStream>,
        before: &FleetState,
    ) -> Result<Cut, NoCut> {
        let paused = self.while_paused(nodes, |nodes, pause| {
            let seen = under_pause(nodes, &mut streams, pause)?;
            self.options.step("asked");
            Ok((pause.start.elapsed(), seen))
        });
        let (time, (taken, seen)) = paused?;
        decide::judge(&SeenCut {
            nodes: seen.clone(),
            taken,
            pause: self.options.pause,
        })?;
        self.options.step("resumed");
        let heads = each(streams.iter_mut().collect(), SyncStream::head);
        let mut begun = Vec::with_capacity(nodes.len());
        for (((stream, head), seen), node) in
            streams.into_iter().zip(heads).zip(seen).zip(nodes.iter())
        {
            let head = head.map_err(|error| lost(node, &error))?;
            let (_, offset) = seen.stream;
            begun.push(CutStream {
                stream,
                head,
                offset,
            });
        }
        self.check_fleet(nodes, before)?;
        Ok(Cut {
            streams: begun,
            time,
        })
    }

    /// A cut is none if keys may have moved between the nodes meanwhile.
    pub(super) fn check_fleet(
        &self,
        nodes: &mut [SourceNode],
        before: &FleetState,
    ) -> Result<(), NoCut> {
        match self.fleet.state(nodes)?.difference(before) {
            None => Ok(()),
            Some(text) => Err(Void::Changed(text).into()),
        }
    }

    /// Pauses writes at all nodes, does something under the pause, and ends it on every path.
    pub(super) fn while_paused<T>(
        &self,
        nodes: &mut [SourceNode],
        act: impl FnOnce(&mut [SourceNode], Pause) -> Result<T, NoCut>,
    ) -> Result<(CutTime, T), NoCut> {
        self.options.step("pause");
        let pause = Pause {
            start: Instant::now(),
            limit: self.options.pause,
        };
        // If it panics, the nodes are dropped, which ends the pause.
        let done = pause_all(nodes, pause).and_then(|times| {
            self.options.step("paused");
            Ok((times, act(nodes, pause)?))
        });
        nodes.iter_mut().for_each(SourceNode::send_unpause);
        let not_resumed = nodes.iter_mut().filter_map(|node| {
            let is_over = node.is_unpaused();
            (!is_over).then(|| node.name.clone())
        });
        let not_resumed = not_resumed.collect();
        let time = pause.start.elapsed();
        if done.is_err() {
            nodes.iter_mut().for_each(SourceNode::forget_replies);
        }
        let (times, done) = done?;
        let cut_time = CutTime {
            pause: time,
            times,
            not_resumed,
        };
        Ok((cut_time, done))
    }
}

/// A pause that was asked for.
#[derive(Clone, Copy)]
pub(super) struct Pause {
    pub(super) start: Instant,
    limit: Duration,
}

impl Pause {
    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        self.limit
            .saturating_sub(self.start.elapsed())
            .max(WAIT_MIN)
    }

    /// True once it has ended by itself.
    pub(super) fn is_over(&self) -> bool {
        self.start.elapsed() >= self.limit
    }
}

/// Pauses writes at all nodes at once. Returns the time at each.
fn pause_all(nodes: &mut [SourceNode], pause: Pause) -> Result<Vec<i64>, NoCut> {
    let clock = cmd("TIME").get_packed_command();
    for node in &mut *nodes {
        node.control.set_limit(pause.left());
        node.send_pause(pause.limit)?;
        node.control.send(&clock)?;
    }
    let mut times = Vec::with_capacity(nodes.len());
    for node in nodes {
        node.control.set_limit(pause.left());
        let replies = node.control.receive(2)?;
        match replies.first() {
            Some(Value::Okay) => {}
            _ => {
                let text = format!("node {:?} has refused CLIENT PAUSE", node.name);
                return Err(Void::Lost(text).into());
            }
        }
        // The user may have no right to ask.
        times.push(replies.get(1).and_then(time_of).unwrap_or_else(own_time));
    }
    Ok(times)
}

/// Asks all servers for their data, and looks at the offsets.
fn under_pause(
    nodes: &mut [SourceNode],
    streams: &mut [SyncStream],
    pause: Pause,
) -> Result<Vec<SeenNode>, NoCut> {
    let primaries = wait_for_replicas(nodes, pause)?;
    for stream in &mut *streams {
        stream.ask()?;
    }
    let mut begun = Vec::with_capacity(nodes.len());
    for (stream, node) in streams.iter_mut().zip(&*nodes) {
        let reply = stream.reply(pause.left()).map_err(|error| match &error {
            error if is_timeout(error) => Void::Silent(node.name.clone()),
            error => lost(node, error),
        })?;
        match reply {
            SyncReply::Begins(history, offset) => begun.push((history, offset)),
            SyncReply::Refused(text) => return Err(refused(node, text).into()),
        }
    }
    let offsets = offsets(nodes, pause, |node| node.server())?;
    let seen = nodes.iter().zip(begun).zip(offsets).zip(primaries);
    let seen = seen.map(|(((node, stream), now), primary)| SeenNode {
        name: node.name.clone(),
        stream,
        now,
        primary,
    });
    Ok(seen.collect())
}

/// History and offset of each node, as the chosen server of it says.
fn offsets(
    nodes: &mut [SourceNode],
    pause: Pause,
    mut server: impl FnMut(&mut SourceNode) -> &mut crate::ops::connection::NodeConnection,
) -> Result<Vec<(String, u64)>, NoCut> {
    let question = cmd("INFO").arg("replication").get_packed_command();
    for node in &mut *nodes {
        let server = server(node);
        server.set_limit(pause.left());
        server.send(&question)?;
    }
    let mut offsets = Vec::with_capacity(nodes.len());
    for node in nodes {
        let name = node.name.clone();
        let server = server(node);
        server.set_limit(pause.left());
        let reply = server.receive(1)?.pop().unwrap_or(Value::Nil);
        let facts = SourceFacts::new(&text(reply, &name)?);
        offsets.push((facts.history, facts.offset));
    }
    Ok(offsets)
}

/// Waits until the replicas that are read have received all that the primaries have written. Returns history and offset of
/// these primaries.
pub(super) fn wait_for_replicas(
    nodes: &mut [SourceNode],
    pause: Pause,
) -> Result<Vec<Option<(String, u64)>>, NoCut> {
    if !nodes.iter().any(SourceNode::has_replica) {
        return Ok(nodes.iter().map(|_| None).collect());
    }
    let primaries = offsets(nodes, pause, |node| &mut node.control)?;
    for (node, (history, offset)) in nodes.iter_mut().zip(&primaries) {
        while node.has_replica() {
            let name = node.name.clone();
            let question = cmd("INFO").arg("replication").to_owned();
            node.server().set_limit(pause.left());
            let info = text(node.server().call(&question)?, &name)?;
            let facts = SourceFacts::new(&info);
            let is_linked = info_field(&info, "master_link_status") == Some("up");
            if is_linked && facts.history == *history && facts.offset == *offset {
                break;
            }
            if pause.is_over() {
                let text = format!("the replica of node {name:?} has not received all in time");
                return Err(Void::Lost(text).into());
            }
            thread::sleep(REPLICA_CHECK);
        }
    }
    let primaries = nodes.iter().zip(primaries);
    Ok(primaries
        .map(|(node, of)| node.has_replica().then_some(of))
        .collect())
}

/// What an error of PSYNC means.
fn refused(node: &SourceNode, text: String) -> Void {
    let word = text.split(' ').next().unwrap_or_default();
    let is_unknown = text.to_lowercase().contains("unknown command");
    match word == "NOPERM" || is_unknown {
        true => Void::Refused(node.name.clone(), text),
        false => Void::Lost(format!("node {:?} has refused PSYNC: {text}", node.name)),
    }
}

fn lost(node: &SourceNode, error: &io::Error) -> Void {
    Void::Lost(format!(
        "node {:?} has not begun with its data: {error}",
        node.name
    ))
}

fn given_up(void: &Void) -> Error {
    let text = format!("no cut of all nodes was possible: {void}");
    Error::new(ErrorKind::NodeDown, text)
}

/// The error of a backup that was stopped.
pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Archive, "the backup was stopped")
}
