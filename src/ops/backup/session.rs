//! [`Session`]: a backup from its first connection to the cut.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::BackupEvent;
use super::cut::{Cut, CutTime, NoCut, Taker, wait_for_replicas};
use super::decide::{self, Candidate, Choice, Void};
use super::fleet::{SourceFleet, SourceNodes};
use super::node::SourceNode;
use super::options::BackupOptions;
use super::report::{BackupReport, CutKind, NodeBackup};
use super::scan::{Piece, Scanner};
use crate::error::{Error, ErrorKind};
use crate::ops::clock::own_time;
use crate::ops::rate::RateLimit;
use crate::ops::record::store::each;
use crate::topology::record::RecordEpoch;

/// The shortest time for which an archive may take nothing.
const STALL_MIN: Duration = Duration::from_secs(1);

/// A backup under way.
pub(super) struct Session<'s> {
    pub(super) fleet: SourceNodes,
    pub(super) nodes: Vec<SourceNode>,
    pub(super) options: &'s BackupOptions,
    pub(super) stop: &'s Arc<AtomicBool>,
    pub(super) on_event: &'s (dyn Fn(BackupEvent) + Sync),
    /// How fast all nodes together are read.
    pub(super) rate: Option<Arc<RateLimit>>,
}

/// What was taken at the cut.
pub(super) struct Taken {
    pub(super) kind: CutKind,
    pub(super) data: Data,
    pub(super) attempts: u32,
    /// The newest epoch of the records of the nodes.
    pub(super) epoch: Option<RecordEpoch>,
    pub(super) warnings: Vec<String>,
}

/// Where the keys come from.
pub(super) enum Data {
    /// The streams of the servers.
    Streams(Cut),
    /// What was read under the pause, for each node.
    Pieces(Vec<Vec<Piece>>, CutTime),
    /// The nodes, one key after another.
    Keys,
}

impl Data {
    /// When writes were paused.
    pub(super) fn cut_time(&self) -> Option<&CutTime> {
        match self {
            Self::Streams(cut) => Some(&cut.time),
            Self::Pieces(_, time) => Some(time),
            Self::Keys => None,
        }
    }
}

impl<'s> Session<'s> {
    /// Connects to all nodes.
    ///
    /// # Errors
    ///
    /// If one of them cannot be reached, or is a replica.
    pub(super) fn new(
        fleet: &SourceFleet,
        options: &'s BackupOptions,
        stop: &'s Arc<AtomicBool>,
        on_event: &'s (dyn Fn(BackupEvent) + Sync),
    ) -> Result<Self, Error> {
        let fleet = fleet.open()?;
        Ok(Self {
            nodes: fleet.nodes(options.replicas)?,
            fleet,
            options,
            stop,
            on_event,
            rate: options
                .bytes_per_second
                .map(|rate| Arc::new(RateLimit::new(rate))),
        })
    }

    /// Takes the cut: the best one that the servers allow, or the one that is demanded.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn cut(&mut self, demanded: Option<CutKind>) -> Result<Taken, Error> {
        let rate = self.rate.clone();
        let taker = Taker {
            fleet: &self.fleet,
            options: self.options,
            stop: self.stop,
            rate: rate.as_ref(),
            on_event: self.on_event,
        };
        let mut warnings = Vec::new();
        // A reshard is refused before anything is done.
        let state = self.fleet.state(&mut self.nodes)?;
        for node in state.unknown() {
            warnings.push(format!(
                "node {node:?} does not let its record be read, so it is not known whether keys were moving"
            ));
        }
        loop {
            let Choice { kind, reason } = self.choose(demanded)?;
            if let Some(cause) = reason {
                warnings.push(format!("the cut is of the kind {kind}: {cause}"));
                (self.on_event)(BackupEvent::FellBack { to: kind, cause });
            }
            let taken = match kind {
                CutKind::Stream | CutKind::Disk => {
                    let is_diskless = kind == CutKind::Stream;
                    let cut = taker.take(&mut self.nodes, |taker, nodes| {
                        taker.stream_cut(nodes, is_diskless)
                    })?;
                    cut.map(|(cut, attempts)| (Data::Streams(cut), attempts))
                }
                CutKind::PausedScan => {
                    let cut = taker.take(&mut self.nodes, paused_scan)?;
                    cut.map(|((pieces, time), attempts)| (Data::Pieces(pieces, time), attempts))
                }
                CutKind::Scan => Ok((Data::Keys, 1)),
            };
            // If PSYNC is refused after all, another kind is chosen.
            let Ok((data, attempts)) = taken else {
                continue;
            };
            self.report_cut(kind, &data, &mut warnings);
            self.options.step("read");
            return Ok(Taken {
                kind,
                data,
                attempts,
                epoch: state.epoch(),
                warnings,
            });
        }
    }

    fn choose(&self, demanded: Option<CutKind>) -> Result<Choice, Error> {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| Candidate {
                name: &node.name,
                abilities: node.abilities,
                dataset: node.facts.dataset,
            })
            .collect();
        decide::choose(&nodes, demanded, self.options.pause).map_err(|reason| {
            let kind = demanded.unwrap_or(CutKind::Stream);
            Error::config(format!("the kind of cut {kind} is not possible: {reason}"))
        })
    }

    fn report_cut(&self, kind: CutKind, data: &Data, warnings: &mut Vec<String>) {
        let time = data.cut_time();
        for node in time.iter().flat_map(|time| &time.not_resumed) {
            warnings.push(format!(
                "node {node:?} has refused CLIENT UNPAUSE, so that its writes were paused up to the limit"
            ));
        }
        let keys = self.nodes.iter();
        (self.on_event)(BackupEvent::Cut {
            cut: kind,
            pause: time.map_or(Duration::ZERO, |time| time.pause),
            keys: keys
                .map(|node| (node.name.clone(), node.facts.keys()))
                .collect(),
        });
    }

    /// For how long the archive may take nothing.
    pub(super) fn stall(&self) -> Duration {
        let of_servers = self.nodes.iter().map(|node| node.repl_timeout / 2).min();
        let limit = self.options.stall.or(of_servers).unwrap_or(STALL_MIN);
        limit.max(STALL_MIN)
    }

    /// The report, without what is counted while keys are read.
    pub(super) fn report(&self, taken: &Taken) -> BackupReport {
        let time = taken.data.cut_time();
        let offsets: Vec<Option<u64>> = match &taken.data {
            Data::Streams(cut) => cut.streams.iter().map(|node| Some(node.offset)).collect(),
            _ => self.nodes.iter().map(|_| None).collect(),
        };
        let nodes = self.nodes.iter().zip(offsets);
        BackupReport {
            cut: taken.kind,
            attempts: taken.attempts,
            pause: time.map_or(Duration::ZERO, |time| time.pause),
            cut_at: time
                .and_then(|time| time.times.iter().min().copied())
                .unwrap_or_else(own_time),
            nodes: nodes
                .map(|(node, offset)| NodeBackup {
                    node: node.name.clone(),
                    address: node.address().to_owned(),
                    server: node.facts.server(),
                    offset,
                    ..NodeBackup::default()
                })
                .collect(),
            functions: 0,
            archive_bytes: 0,
            warnings: taken.warnings.clone(),
        }
    }
}

/// Reads all keys under the pause.
fn paused_scan(
    taker: &Taker<'_>,
    nodes: &mut [SourceNode],
) -> Result<(Vec<Vec<Piece>>, CutTime), NoCut> {
    let before = taker.prepare(nodes)?;
    let (time, pieces) = taker.while_paused(nodes, |nodes, pause| {
        wait_for_replicas(nodes, pause)?;
        let read = each(nodes.iter_mut().collect(), |node| {
            node.server().set_limit(pause.left());
            node.refresh()?;
            let facts = node.facts.clone();
            let connection = node.server();
            let mut pieces = Vec::new();
            let mut scanner = Scanner {
                connection,
                facts: &facts,
            };
            scanner.run(&mut |piece| {
                pieces.push(piece);
                match pause.is_over() {
                    true => Err(Error::new(ErrorKind::NodeDown, Void::Late.to_string())),
                    false => Ok(()),
                }
            })?;
            Ok(pieces)
        });
        let pieces = read.into_iter().collect::<Result<Vec<_>, Error>>()?;
        match pause.is_over() {
            true => Err(Void::Late.into()),
            false => Ok(pieces),
        }
    })?;
    taker.check_fleet(nodes, &before)?;
    Ok((pieces, time))
}
