//! [`Worker`]: a thread that sends keys, and deals with the replies.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::command::{Payload, Requests};
use super::dispatch::ended;
use super::judge::{Decision, judge};
use super::run::{Batch, Run, Unit};
use super::servers::fit_of;
use super::{ExistingKeys, RestoreEvent, RestoreReport, elements};
use crate::error::{Error, ErrorKind, KeyText};
use crate::ops::clock::own_time;
use crate::rdb::convert::Fit;
use crate::rdb::{KeyDigest, KeyInfo, RdbVersion, digest, of_dump};
use crate::sync::ShardedClient;

/// The first pause before a batch is sent again, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The most by which the expiry of a key may seem to differ, as its server says how long it has left.
const EXPIRY_DOUBT_MS: u64 = 2000;

/// A thread with its clients and counters.
pub(super) struct Worker<'w, 'r> {
    pub(super) run: &'w Run<'r>,
    clients: BTreeMap<u32, ShardedClient>,
    pub(super) counts: RestoreReport,
}

/// A key, and the bytes that are sent for it.
struct Job {
    unit: Unit,
    /// The type, the value and the version, if they are not those of the unit.
    rewritten: Option<(u8, Vec<u8>)>,
    version: RdbVersion,
    is_lossy: bool,
    /// True if it may have been sent without a reply.
    is_doubtful: bool,
}

/// The pauses between attempts.
pub(super) struct Attempts {
    since: Option<Instant>,
    pause: Duration,
}

impl Job {
    fn payload(&self) -> Payload<'_> {
        match &self.rewritten {
            Some((value_type, value)) => Payload {
                value_type: *value_type,
                value,
                version: self.version,
            },
            None => Payload {
                value_type: self.unit.info.value_type,
                value: &self.unit.value,
                version: self.version,
            },
        }
    }
}

impl Attempts {
    /// No attempt has failed yet.
    pub(super) fn new() -> Self {
        Self {
            since: None,
            pause: PAUSES.0,
        }
    }

    /// An attempt has had success.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    ///
    /// The cause, if attempts have failed for too long; and if the run has ended.
    pub(super) fn wait(&mut self, run: &Run<'_>, cause: &Error) -> Result<(), Error> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let limit = run.options.outage_timeout;
        if since.elapsed() >= limit {
            let text = format!("{cause}; gave up after {} s", limit.as_secs());
            return Err(cause.clone().with_message(text));
        }
        run.notify(RestoreEvent::Waiting {
            node: cause.node().map(str::to_owned),
            cause: cause.to_string(),
            pause: self.pause,
        });
        let until = Instant::now() + self.pause;
        while Instant::now() < until {
            if run.stops() {
                return Err(ended());
            }
            thread::sleep(PAUSES.0);
        }
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

impl<'w, 'r> Worker<'w, 'r> {
    /// A thread of this run.
    pub(super) fn new(run: &'w Run<'r>) -> Self {
        Self {
            run,
            clients: BTreeMap::new(),
            counts: RestoreReport::default(),
        }
    }

    /// Sends batches until there are no more, or the run ends.
    pub(super) fn work(mut self, batches: &Receiver<Batch>) {
        while let Ok(batch) = batches.recv() {
            if self.run.stops() {
                break;
            }
            let (first, bytes, keys) = (batch.first, batch.bytes, batch.units.len() as u64);
            let done = self.batch(batch).and_then(|()| self.run.finished(first));
            let counts = std::mem::take(&mut self.counts);
            let sent = counts.bytes;
            self.run.report.lock().add(counts);
            self.run.in_flight.fetch_sub(bytes, Ordering::Relaxed);
            if let Err(error) = done {
                self.run.fail(error);
                break;
            }
            self.run
                .notify(RestoreEvent::Restored { keys, bytes: sent });
        }
    }

    /// Sends the keys of a batch until each has been dealt with.
    fn batch(&mut self, batch: Batch) -> Result<(), Error> {
        let client = self.client(batch.db)?;
        let mut jobs = Vec::with_capacity(batch.units.len());
        for unit in batch.units {
            if let Some(job) = self.prepare(&client, unit)? {
                jobs.push(job);
            }
        }
        let mut attempts = Attempts::new();
        while !jobs.is_empty() {
            let before = jobs.len();
            let cause = self.send(&client, &mut jobs)?;
            if jobs.len() < before {
                attempts.reset();
            }
            if let Some(cause) = cause.filter(|_| !jobs.is_empty()) {
                attempts.wait(self.run, &cause)?;
            }
        }
        Ok(())
    }

    fn client(&mut self, db: u32) -> Result<ShardedClient, Error> {
        if let Some(client) = self.clients.get(&db) {
            return Ok(client.clone());
        }
        let client = self.run.clients.of(db)?;
        self.clients.insert(db, client.clone());
        Ok(client)
    }

    /// Decides how a key is sent. One that is made element by element is made at once.
    fn prepare(&mut self, client: &ShardedClient, unit: Unit) -> Result<Option<Job>, Error> {
        let run = self.run;
        let Some(target) = run.targets.get(unit.owner) else {
            self.refuse(&unit, "its node has left".into());
            return Ok(None);
        };
        let is_doubtful = unit.number < run.doubtful_below;
        let (rewritten, version, is_lossy) = match fit_of(&unit, target, run.options) {
            Ok(Fit::AsIs(version)) => (None, version, false),
            Ok(Fit::Rewritten {
                value_type,
                value,
                version,
                is_lossy,
            }) => (Some((value_type, value)), version, is_lossy),
            Ok(Fit::Elements { is_lossy }) => {
                let server = target.server;
                elements::restore(self, client, &unit, server, is_lossy)?;
                return Ok(None);
            }
            Ok(Fit::Impossible(obstacle)) => {
                self.refuse(&unit, obstacle.to_string());
                return Ok(None);
            }
            Err(error) => {
                self.refuse(&unit, format!("its value is damaged: {error}"));
                return Ok(None);
            }
        };
        Ok(Some(Job {
            unit,
            rewritten,
            version,
            is_lossy,
            is_doubtful,
        }))
    }

    /// Sends the keys once, and keeps those that are to be sent again. Returns why.
    fn send(
        &mut self,
        client: &ShardedClient,
        jobs: &mut Vec<Job>,
    ) -> Result<Option<Error>, Error> {
        let existing = self.run.options.existing;
        let mut requests = Requests::default();
        for job in &*jobs {
            let replaces = existing == ExistingKeys::Replace;
            requests.restore(&job.unit.info, job.payload(), replaces);
        }
        let replies = match client.execute_packed(&requests.packed, requests.count) {
            Ok(replies) => replies,
            Err(error) if error.is_retryable() => return Ok(Some(error)),
            Err(error) if error.kind() == ErrorKind::Unknown => {
                jobs.iter_mut().for_each(|job| job.is_doubtful = true);
                return Ok(Some(error));
            }
            Err(error) => return Err(error),
        };
        drop(requests);
        let (mut again, mut cause, mut fatal) = (Vec::new(), None, None);
        let mut existing_keys: Vec<Vec<u8>> = Vec::new();
        for (mut job, reply) in jobs.drain(..).zip(replies) {
            let decision = match judge(reply, existing, job.is_doubtful) {
                Decision::Compare => self.compare(client, &job)?,
                decision => decision,
            };
            match decision {
                Decision::Done => self.done(&job),
                Decision::Skip => self.counts.exists(&job.unit.info.key),
                Decision::Exists => {
                    self.counts.exists(&job.unit.info.key);
                    existing_keys.push(job.unit.info.key);
                }
                Decision::Compare | Decision::Refuse(_) => {
                    if let Decision::Refuse(reason) = decision {
                        self.refuse(&job.unit, reason);
                    }
                }
                Decision::Repeat(error) => {
                    cause = Some(error);
                    again.push(job);
                }
                Decision::Doubt(error) => {
                    cause = Some(error);
                    job.is_doubtful = true;
                    again.push(job);
                }
                Decision::Fail(error) => fatal = fatal.or(Some(error)),
            }
        }
        *jobs = again;
        match (fatal, existing_keys.first()) {
            (Some(error), _) => Err(error),
            (None, Some(first)) => Err(exists(first, existing_keys.len())),
            (None, None) => Ok(cause),
        }
    }

    fn done(&mut self, job: &Job) {
        self.counts.restored += 1;
        self.counts.bytes += job.unit.value.len() as u64;
        self.counts.rewritten += u64::from(job.rewritten.is_some());
        self.counts.without_field_expiries += u64::from(job.is_lossy);
    }

    /// Counts a key that cannot be restored, and tells the listener.
    pub(super) fn refuse(&mut self, unit: &Unit, reason: String) {
        let key = KeyText(&unit.info.key).to_string();
        self.counts
            .refuse(unit.source_db, &unit.info.key, reason.clone());
        self.run.notify(RestoreEvent::Refused { key, reason });
    }

    /// Compares a key that exists with what may have been sent for it. If they are equal, it does not matter who has made
    /// it.
    fn compare(&mut self, client: &ShardedClient, job: &Job) -> Result<Decision, Error> {
        let info = &job.unit.info;
        let mut requests = Requests::default();
        requests.add(&[b"PTTL", &info.key]);
        requests.add(&[b"DUMP", &info.key]);
        let replies = client.execute_packed(&requests.packed, requests.count);
        let replies =
            replies.and_then(|replies| replies.into_iter().collect::<Result<Vec<_>, _>>());
        let replies = match replies {
            Ok(replies) => replies,
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unknown => {
                return Ok(Decision::Doubt(error));
            }
            Err(error) => return Err(error),
        };
        let found = match &replies[..] {
            [Value::Int(left), Value::BulkString(payload)] => (*left, payload),
            // Its time is up, or somebody has deleted it: it can be restored.
            _ => return Ok(Decision::Doubt(Error::config("the key has vanished"))),
        };
        let payload = job.payload();
        let sent = KeyInfo {
            value_type: payload.value_type,
            ..info.clone()
        };
        let sent = digest(&sent, payload.value, payload.version);
        match (sent, digest_of(info, found)) {
            (Ok(sent), Some(found)) if sent == found => {
                self.counts.confirmed += 1;
                Ok(Decision::Done)
            }
            _ if self.run.options.existing == ExistingKeys::Skip => Ok(Decision::Skip),
            _ => Ok(Decision::Exists),
        }
    }
}

/// The digest of a key as a node has it: how long it has left, and its payload.
fn digest_of(info: &KeyInfo, (left, payload): (i64, &Vec<u8>)) -> Option<KeyDigest> {
    let (value_type, value, version) = of_dump(payload).ok()?;
    let expires_at = (left >= 0).then(|| own_time().saturating_add(left));
    let expires_at = match (expires_at, info.expires_at) {
        (Some(found), Some(sent)) if found.abs_diff(sent) <= EXPIRY_DOUBT_MS => Some(sent),
        (found, _) => found,
    };
    let found = KeyInfo {
        value_type,
        expires_at,
        ..info.clone()
    };
    digest(&found, value, version).ok()
}

/// The error that ends a restore whose keys must not exist.
pub(super) fn exists(key: &[u8], count: usize) -> Error {
    let more = match count {
        1 => String::new(),
        more => format!(", and {} more of the same batch", more - 1),
    };
    let text = format!(
        "the key {} exists at the target{more}. Nothing of it was changed; leave such keys alone by --skip, or replace \
         them by --replace",
        KeyText(key)
    );
    Error::config(text).about_keys([key])
}
