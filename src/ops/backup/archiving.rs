//! The keys of all nodes on their way into one archive: a thread for each node, and this one, which writes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::cut::stopped;
use super::drain::{Drain, Drained, Drains, failed};
use super::node::SourceNode;
use super::output::{self, Output};
use super::queue::FrameQueue;
use super::report::{BackupReport, CutKind};
use super::scan::{Piece, Scanner};
use super::session::{Data, Session, Taken};
use super::stream::SyncStream;
use crate::archive::{self, ArchiveWriter, Frame, FrameBuilder, Manifest, ManifestNode, Totals};
use crate::error::{Error, ErrorKind};
use crate::ops::clock::own_time;
use crate::ops::rate::RateLimit;
use crate::rdb::{RdbReader, RdbVersion};

/// The keys of one node.
enum NodeData<'n> {
    Stream(Box<SyncStream>),
    Pieces(Vec<Piece>),
    Keys(&'n mut SourceNode, Option<Arc<RateLimit>>),
}

impl Session<'_> {
    /// Takes the cut, and writes the archive.
    ///
    /// # Errors
    ///
    /// Why there is none, or not a whole one.
    pub(super) fn archive(mut self, write: impl Write + Send) -> Result<BackupReport, Error> {
        // What cannot be is an error before the pause.
        FrameBuilder::new(0, 0, self.options.level).map_err(failed)?;
        output::check(self.options.recipients.as_deref())?;
        let taken = self.cut(self.options.cut)?;
        let report = self.report(&taken);
        let manifest = self.manifest(&taken, &report);
        let output = Output::new(write, self.options.recipients.as_deref())?;
        let writer = ArchiveWriter::new(output, &manifest).map_err(failed)?;
        let writing = Writing { writer, report };
        writing.write(self, taken)
    }

    fn manifest(&self, taken: &Taken, report: &BackupReport) -> Manifest {
        let mut manifest = Manifest::default();
        let unsigned = |time: i64| u64::try_from(time).unwrap_or(0);
        manifest.created_at = unsigned(own_time());
        manifest.tool = format!("redis-sharding {}", env!("CARGO_PKG_VERSION"));
        manifest.cut = match taken.kind {
            CutKind::Stream => archive::CutKind::Cut,
            CutKind::Disk => archive::CutKind::Disk,
            CutKind::PausedScan => archive::CutKind::PausedScan,
            CutKind::Scan => archive::CutKind::Scan,
        };
        // One server carries each write out as a whole.
        manifest.whole_writes = Some(self.nodes.len() == 1 && taken.kind.is_consistent());
        if taken.data.cut_time().is_some() {
            manifest.paused_at = Some(unsigned(report.cut_at));
            let micros = report.pause.as_micros();
            manifest.paused_for = Some(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        manifest.fingerprint = Some(self.fleet.topology().fingerprint());
        manifest.record_epoch = taken.epoch.map(|epoch| epoch.as_u64());
        manifest.set_topology(&self.fleet.topology().to_string());
        manifest.remarks.clone_from(&taken.warnings);
        if manifest.whole_writes == Some(false) && taken.kind.is_consistent() {
            let note = "a write to several nodes that was under way at the moment of the backup may be in it in part";
            manifest.remarks.push(note.to_owned());
        }
        let node = |(index, node): (usize, &SourceNode)| {
            let stream = match &taken.data {
                Data::Streams(cut) => cut.streams.get(index),
                _ => None,
            };
            ManifestNode {
                name: node.name.clone(),
                address: Some(node.address().to_owned()),
                server: Some(node.facts.product.clone()),
                server_version: Some(node.facts.version.clone()),
                rdb_version: stream.and_then(|stream| version(&stream.head)),
                run_id: Some(node.facts.run_id.clone()),
                replication_id: stream.map(|_| node.facts.history.clone()),
                replication_offset: stream.map(|stream| stream.offset),
                record_epoch: None,
            }
        };
        manifest.nodes = self.nodes.iter().enumerate().map(node).collect();
        manifest
    }
}

/// The version of RDB in a head.
fn version(head: &[u8]) -> Option<u16> {
    let reader = RdbReader::allowing_newer(head).ok()?;
    let RdbVersion(number) = reader.version();
    Some(number)
}

/// An archive that has been begun.
struct Writing<W: Write> {
    writer: ArchiveWriter<Output<W>>,
    report: BackupReport,
}

impl<W: Write + Send> Writing<W> {
    /// Writes the keys of all nodes, and the end of the archive.
    fn write(mut self, session: Session<'_>, taken: Taken) -> Result<BackupReport, Error> {
        let stall = session.stall();
        let Session {
            mut nodes,
            options,
            stop,
            on_event,
            rate,
            ..
        } = session;
        let times = match taken.data.cut_time() {
            Some(time) => time.times.clone(),
            None => vec![self.report.cut_at; nodes.len()],
        };
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let data: Vec<NodeData<'_>> = match taken.data {
            Data::Streams(cut) => {
                let streams = cut.streams.into_iter();
                streams
                    .map(|node| NodeData::Stream(Box::new(node.stream)))
                    .collect()
            }
            Data::Pieces(pieces, _) => pieces.into_iter().map(NodeData::Pieces).collect(),
            Data::Keys => {
                let nodes = nodes.iter_mut();
                nodes
                    .map(|node| NodeData::Keys(node, rate.clone()))
                    .collect()
            }
        };
        let shared = Drains::new(names.len(), stall, stop, on_event);
        let archive = self.writer.id();
        let builder = |index: usize| {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            FrameBuilder::new(archive, number, options.level).map_err(failed)
        };
        let builders = (0..names.len()).map(builder);
        let builders = builders.collect::<Result<Vec<_>, Error>>()?;
        let drained = thread::scope(|scope| {
            let parts = names.iter().zip(times).zip(builders).zip(data).enumerate();
            let threads: Vec<_> = parts
                .map(|(index, (((node, time), builder), data))| {
                    let shared = &shared;
                    let drain = Drain::new(shared, index, node, builder, time);
                    scope.spawn(move || ended(shared, drain, data))
                })
                .collect();
            self.frames(&shared);
            let join = |thread: thread::ScopedJoinHandle<'_, Option<Drained>>| {
                thread.join().unwrap_or_else(|_| {
                    shared.fail(Error::new(
                        ErrorKind::Archive,
                        "a thread of the backup has failed",
                    ));
                    None
                })
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        self.finish(&shared, drained)
    }

    /// Writes the frames of all nodes in the order in which they are made.
    fn frames(&mut self, shared: &Drains<'_>) {
        // The threads of the nodes end, also if the writer panics.
        let _guard = CloseOnDrop(&shared.queue, shared.stop);
        while let Some(frame) = shared.queue.pop() {
            if let Err(error) = self.writer.write(&frame) {
                return shared.fail(failed(error));
            }
        }
    }

    /// Writes the end of the archive.
    fn finish(
        mut self,
        shared: &Drains<'_>,
        drained: Vec<Option<Drained>>,
    ) -> Result<BackupReport, Error> {
        if let Some(error) = shared.failure.lock().take() {
            return Err(error);
        }
        let drained: Option<Vec<Drained>> = drained.into_iter().collect();
        let drained = drained.ok_or_else(stopped)?;
        let notes = std::mem::take(&mut *shared.remarks.lock());
        for (node, drained) in self.report.nodes.iter_mut().zip(&drained) {
            node.keys = drained.totals.keys;
            node.expired = drained.totals.expired;
            node.bytes = drained.bytes;
            self.report.functions += drained.totals.functions;
        }
        let mut totals = Totals::default();
        totals.finished_at = u64::try_from(own_time()).ok();
        totals.nodes = drained.into_iter().map(|drained| drained.totals).collect();
        totals.remarks.clone_from(&notes);
        self.report.warnings.extend(notes);
        let output = self.writer.finish(&totals).map_err(failed)?;
        self.report.archive_bytes = output.finish()?;
        Ok(self.report)
    }
}

/// Reads the keys of a node in its thread. `None` if that failed.
fn ended(shared: &Drains<'_>, drain: Drain<'_>, data: NodeData<'_>) -> Option<Drained> {
    let _guard = EndOnDrop(&shared.queue);
    let drained = match data {
        NodeData::Stream(mut stream) => drain.stream(&mut stream),
        NodeData::Pieces(pieces) => pieces_of(drain, pieces),
        NodeData::Keys(node, rate) => keys_of(drain, node, rate.as_deref()),
    };
    match drained {
        Ok(drained) => Some(drained),
        Err(error) => {
            shared.fail(error);
            None
        }
    }
}

/// Takes what was read under the pause.
fn pieces_of(mut drain: Drain<'_>, pieces: Vec<Piece>) -> Result<Drained, Error> {
    let mut bytes = 0;
    for piece in pieces {
        drain.take(piece, &mut bytes)?;
    }
    drain.finish(bytes)
}

/// Reads the keys of a node one by one.
fn keys_of(
    mut drain: Drain<'_>,
    node: &mut SourceNode,
    rate: Option<&RateLimit>,
) -> Result<Drained, Error> {
    node.reconnect()?;
    node.refresh()?;
    let facts = node.facts.clone();
    let mut bytes = 0;
    let mut scanner = Scanner {
        connection: node.server(),
        facts: &facts,
    };
    scanner.run(&mut |piece| {
        drain.check_stop()?;
        let before = bytes;
        drain.take(piece, &mut bytes)?;
        if let Some(rate) = rate {
            rate.wait(usize::try_from(bytes - before).unwrap_or(usize::MAX));
        }
        Ok(())
    })?;
    drain.finish(bytes)
}

/// Has the other threads end when the one that writes ends.
struct CloseOnDrop<'q>(&'q FrameQueue<Frame>, &'q AtomicBool);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        self.0.close();
    }
}

/// Tells the thread that writes that a node has ended.
struct EndOnDrop<'q>(&'q FrameQueue<Frame>);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
