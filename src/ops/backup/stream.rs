//! [`SyncStream`]: what a server sends to a replica, as bytes that end where the data ends.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::ops::connection::NodeConnection;
use crate::ops::rate::RateLimit;
use crate::policy::is_timeout;

/// Size in bytes of the buffer.
const BUFFER: usize = 128 * 1024;

/// Length in bytes of the mark at the end of a stream whose length is not known beforehand.
const MARK: usize = 40;

/// Length in bytes of the head of the data: its magic and its version.
const HEAD: usize = 9;

/// Maximum length in bytes of a line before the data.
const LINE_MAX: usize = 1024;

/// How often a read that waits looks whether the backup has failed elsewhere.
const CHECK: Duration = Duration::from_millis(200);

/// How a server has answered to PSYNC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SyncReply {
    /// The id of the history, and the offset of the data that follows.
    Begins(String, u64),
    /// The error of the server.
    Refused(String),
}

/// Where the data ends.
enum End {
    /// The header has not come yet.
    Unknown,
    /// Behind it stands this mark.
    Mark([u8; MARK]),
    /// After so many more bytes.
    Length(u64),
    /// It has ended.
    Reached,
}

/// A connection over which a server sends all of its data.
pub(super) struct SyncStream {
    connection: NodeConnection,
    buffer: Box<[u8]>,
    /// Bytes that were read ahead are those between `start` and `end`.
    start: usize,
    end: usize,
    data: End,
    /// For how long the server may send nothing.
    silence: Duration,
    /// True once the backup has failed elsewhere.
    stop: Arc<AtomicBool>,
    rate: Option<Arc<RateLimit>>,
}

impl SyncStream {
    pub(super) fn new(
        connection: NodeConnection,
        silence: Duration,
        stop: &Arc<AtomicBool>,
        rate: Option<&Arc<RateLimit>>,
    ) -> Self {
        Self {
            connection,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            data: End::Unknown,
            silence,
            stop: Arc::clone(stop),
            rate: rate.cloned(),
        }
    }

    /// Asks for the data. The server begins with it as soon as it can.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(super) fn ask(&mut self) -> Result<(), crate::Error> {
        let request = redis::cmd("PSYNC").arg("?").arg(-1).get_packed_command();
        self.connection.send(&request)
    }

    /// Reads the answer within `limit`.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or nothing comes in time.
    pub(super) fn reply(&mut self, limit: Duration) -> io::Result<SyncReply> {
        let line = self.line(limit)?;
        if let Some(error) = line.strip_prefix('-') {
            return Ok(SyncReply::Refused(error.to_owned()));
        }
        let mut words = line.split(' ');
        let begins = (words.next() == Some("+FULLRESYNC"))
            .then(|| Some((words.next()?.to_owned(), words.next()?.parse().ok()?)))
            .flatten();
        match begins {
            Some((history, offset)) => Ok(SyncReply::Begins(history, offset)),
            None => Err(odd("its answer to PSYNC is none that is known")),
        }
    }

    /// Waits for the data, and returns its head. A server that saves to its disk first sends it when that is done.
    ///
    /// # Errors
    ///
    /// If the connection breaks, as it does when the child process fails.
    pub(super) fn head(&mut self) -> io::Result<[u8; HEAD]> {
        let line = self.line(self.silence)?;
        let length = line.strip_prefix('$').ok_or_else(|| match &line {
            line if line.starts_with('-') => io::Error::other(line.clone()),
            _ => odd("its data has no header"),
        })?;
        self.data = match length.strip_prefix("EOF:") {
            Some(mark) => End::Mark(
                <[u8; MARK]>::try_from(mark.as_bytes()).map_err(|_| odd("its mark is cut"))?,
            ),
            None => End::Length(length.parse().map_err(|_| odd("its length is none"))?),
        };
        while self.end - self.start < HEAD {
            if self.fill(self.silence)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = self.held().first_chunk::<HEAD>().copied();
        head.ok_or_else(|| odd("its data has no head"))
    }

    /// Checks that the data has ended where the server says that it ends.
    ///
    /// # Errors
    ///
    /// If more follows, or the end does not come.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let mut rest = [0];
        match self.read(&mut rest)? {
            0 => Ok(()),
            _ => Err(odd("more follows behind the end of its data")),
        }
    }

    /// Reads a line. Empty ones only show that the server is alive.
    fn line(&mut self, limit: Duration) -> io::Result<String> {
        let start = Instant::now();
        loop {
            while let Some(at) = self.held().iter().position(|byte| *byte == b'\n') {
                let line = self.held().get(..at).unwrap_or_default();
                let line = String::from_utf8_lossy(line).trim_end().to_owned();
                self.start += at + 1;
                if !line.is_empty() {
                    return Ok(line);
                }
            }
            if self.end - self.start > LINE_MAX {
                return Err(odd("a line before its data has no end"));
            }
            // The limit is for a word of the server: each empty line is one.
            let left = match self.silence == limit {
                true => limit,
                false => limit.saturating_sub(start.elapsed()),
            };
            if self.fill(left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn held(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads more into the buffer. Zero at the end of the connection.
    fn fill(&mut self, limit: Duration) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let until = self.rate.as_ref().map_or(BUFFER, |rate| rate.chunk());
        let until = (self.end + until).min(BUFFER);
        let begin = Instant::now();
        let count = loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other(STOPPED));
            }
            let left = limit.saturating_sub(begin.elapsed());
            self.connection.set_limit(left.min(CHECK));
            let free = self.buffer.get_mut(self.end..until).unwrap_or_default();
            match self.connection.read_bytes(free) {
                Err(error) if is_timeout(&error) && begin.elapsed() < limit => {}
                other => break other?,
            }
        };
        self.end += count;
        if let Some(rate) = &self.rate {
            rate.wait(count);
        }
        Ok(count)
    }

    /// Number of held bytes that are data for sure.
    fn ready(&mut self) -> usize {
        let held = self.end - self.start;
        match &self.data {
            End::Unknown | End::Reached => 0,
            End::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(held),
            // The mark cannot be told from data before all of it has come.
            End::Mark(_) => held.saturating_sub(MARK),
        }
    }

    /// True if what is held ends with the mark, or no data is left.
    fn is_at_end(&self) -> bool {
        match &self.data {
            End::Unknown => false,
            End::Reached => true,
            End::Length(left) => *left == 0,
            End::Mark(mark) => self.held() == mark,
        }
    }
}

/// The text of a read that has ended because the backup has failed elsewhere.
pub(super) const STOPPED: &str = "the backup has ended";

impl Read for SyncStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if self.is_at_end() {
                self.data = End::Reached;
                return Ok(0);
            }
            let count = self.ready().min(into.len());
            if count > 0 {
                let held = self.buffer.get(self.start..self.start + count);
                if let (Some(held), Some(into)) = (held, into.get_mut(..count)) {
                    into.copy_from_slice(held);
                }
                self.start += count;
                if let End::Length(left) = &mut self.data {
                    *left -= count as u64;
                }
                return Ok(count);
            }
            if self.fill(self.silence)? == 0 {
                let text = "the server closed the connection before the end of its data, as after FLUSHALL, REPLICAOF or \
                            a failed child process";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
    }
}

fn odd(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
