//! Restoring a backup to any number of nodes, and looking at backups.
//!
//! [`Restore`] is a client: it sends keys by a [`ShardedClient`] of the target, so that routing,
//! records, redirects, passwords and certificates are those of any client.
//!
//! ```text
//! input ─▶ selection ─▶ dispatch ─▶ batch ─▶ worker ─▶ client ─▶ nodes         a thread and a queue for each worker
//!                            │                   │
//!                            └───── window ◀─────┘                             what all nodes have acknowledged
//! ```
//!
//! Decided by pure parts, each with its own tests:
//!
//! * `select`: which keys are taken, and their new names; `judge`: what a reply means; `window`: below which key all is
//!   done; `servers`: whether nodes can take the keys.
//!
//! And carried out by:
//!
//! * `input`, `archive_items`, `rdb_items`: keys one after another; `dispatch`: which thread sends them.
//! * `worker`, `elements`, `functions`, `command`: what is sent; `clients`: by whom; `run`: what threads share.
//! * `progress`: the file with which another run goes on; `plan`: a run that changes nothing.
//! * `inspect`, `verify`: what an input holds, and whether it is good; `diff`, `fleet_keys`: comparing two of them.
//!
//! How values are written for older servers is decided in `rdb`.

mod archive_items;
mod clients;
mod command;
mod diff;
mod dispatch;
mod elements;
mod event;
mod fleet_keys;
mod functions;
mod input;
mod inspect;
mod judge;
mod options;
mod plan;
mod progress;
mod rdb_items;
mod report;
mod run;
mod select;
mod servers;
mod verify;
mod window;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

pub use self::diff::{DiffOptions, DiffReport, DiffSide, Difference, DifferentKey, diff};
pub use self::event::RestoreEvent;
pub use self::input::RestoreInput;
pub use self::inspect::{InspectedNode, Inspection, inspect};
pub use self::options::{ExistingKeys, RestoreOptions};
pub use self::plan::{PlannedNode, RestorePlan, RestoreRefusal};
pub use self::report::{KeyRefusal, NAMED_KEYS_MAX, RestoreReport};
pub use self::select::KeyType;
pub use self::verify::{VerifyReport, verify};

use self::clients::Clients;
use self::dispatch::Dispatcher;
use self::functions::Functions;
use self::input::{InputKey, InputSummary, Item, Items};
use self::progress::ProgressFile;
use self::run::{Listener, Run, Unit};
use self::select::Choice;
use self::servers::{Findings, TargetServer};
use self::worker::Worker;
use crate::config::Builder;
use crate::error::{Error, ErrorKind, KeyText};
use crate::ops::clock::own_time;
use crate::rdb::server::ServerFamily;
use crate::sync::ShardedClient;

/// Batches that wait for each thread.
const QUEUE: usize = 2;

/// Threads for each node, and at most.
const WORKERS: (usize, usize) = (2, 16);

/// Restores a backup to a fleet or a Redis Cluster.
///
/// The nodes need not be those of the backup: each key goes to where the target places it. Keys that exist end the restore
/// unless [told otherwise](RestoreOptions::with_existing).
///
/// ```no_run
/// use redis_sharding::ShardedClient;
/// use redis_sharding::ops::restore::{Restore, RestoreInput, RestoreOptions};
///
/// # fn main() -> Result<(), redis_sharding::Error> {
/// let target = ShardedClient::builder().node("a", "redis://10.0.0.1/").node("b", "redis://10.0.0.2/");
/// let restore = Restore::new(target, RestoreOptions::new())?;
/// let report = restore.run(&mut RestoreInput::archive("users.rsb"), |event| println!("{event:?}"))?;
/// assert!(report.is_complete(), "{report}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Restore {
    builder: Builder,
    options: RestoreOptions,
}

/// What is known before the first key is read.
struct Preparation {
    clients: Clients,
    client: ShardedClient,
    servers: Vec<TargetServer>,
    summary: Option<InputSummary>,
    findings: Findings,
}

impl Restore {
    /// Describes a restore to the nodes of `target`. The database of its URLs is of no account: keys go to the databases
    /// that they were in. Nothing is contacted.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) as for [`Builder::build`].
    pub fn new(target: Builder, options: RestoreOptions) -> Result<Self, Error> {
        target.clone().build()?;
        Ok(Self {
            builder: target,
            options,
        })
    }

    /// Restores the keys of an input. Calls `listener` with what happens, from the threads that send keys.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached or cannot take the keys, or the input is damaged: then nothing was changed. If a key
    /// exists, a node fails for long or a stream is damaged: then what was restored stays, and the last event is
    /// [`RestoreEvent::Stopped`].
    pub fn run(
        &self,
        input: &mut RestoreInput,
        listener: impl FnMut(RestoreEvent) + Send,
    ) -> Result<RestoreReport, Error> {
        let preparation = self.prepare(input)?;
        preparation.check(&self.options)?;
        let progress = self.progress(input, &preparation.servers)?;
        let run = self.run_of(&preparation, progress, Box::new(listener));
        let items = input.items(self.options.takes_damaged)?;
        if let Err(error) = self.send_all(&run, items, &preparation) {
            run.fail(error);
        }
        if let Err(error) = self.check_servers(&run, &preparation) {
            run.fail(error);
        }
        let failure = run.failure();
        if failure.is_some() {
            let report = run.report.lock().clone();
            run.notify(RestoreEvent::Stopped { report });
        }
        let report = run.close(failure.is_none())?;
        match failure {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// Looks at the nodes and reads the input, and says what would be restored where, and why it cannot be. Nothing is
    /// changed.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached, or the input cannot be read.
    pub fn plan(&self, input: &mut RestoreInput) -> Result<RestorePlan, Error> {
        let preparation = self.prepare(input)?;
        let run = self.run_of(&preparation, None, Box::new(|_| ()));
        let takes_damaged = true;
        let mut planner = plan::Planner::new(&preparation.servers);
        let mut items = input.items(takes_damaged)?;
        self.read(
            &run,
            &mut *items,
            &mut |unit| {
                planner.add(&run, &unit);
                Ok(())
            },
            &mut |_| Ok(()),
        )?;
        let report = run.close(false)?;
        Ok(planner.finish(report, preparation.findings, &self.options))
    }

    /// Asks the nodes, and looks at the input.
    fn prepare(&self, input: &RestoreInput) -> Result<Preparation, Error> {
        let clients = Clients::new(self.builder.clone(), self.options.reply_within);
        let client = clients.first()?;
        let servers = TargetServer::ask_all(&client)?;
        let summary = input.summary()?;
        let (keys, bytes) = match &summary {
            Some(summary) => (Some(summary.keys), Some(summary.bytes)),
            None => (None, None),
        };
        let findings = servers::check(&servers, keys, bytes, &self.options);
        Ok(Preparation {
            clients,
            client,
            servers,
            summary,
            findings,
        })
    }

    /// Reads what an earlier run has left.
    fn progress(
        &self,
        input: &RestoreInput,
        servers: &[TargetServer],
    ) -> Result<Option<ProgressFile>, Error> {
        let Some(path) = &self.options.progress else {
            return Ok(None);
        };
        let options = (
            self.options.selection.text(),
            self.options.existing,
            self.options.loads_functions,
        );
        let fingerprint = input.fingerprint(&format!("{options:?}"))?;
        let mut file = ProgressFile::open(path, fingerprint)?;
        let now: BTreeMap<String, String> = servers
            .iter()
            .map(|server| (server.name.clone(), server.run_id.clone()))
            .collect();
        let known = &file.progress().servers;
        let restarted = known
            .iter()
            .find(|(node, run_id)| now.get(*node).is_some_and(|now| now != *run_id));
        if let Some((node, _)) = restarted.filter(|_| !self.options.takes_restarted) {
            return Err(restarted_since(node));
        }
        file.set_servers(now);
        Ok(Some(file))
    }

    fn run_of<'r>(
        &'r self,
        preparation: &'r Preparation,
        progress: Option<ProgressFile>,
        listener: Listener<'r>,
    ) -> Run<'r> {
        let servers = preparation.servers.iter();
        let targets = servers.map(|server| server.target(&self.options)).collect();
        let topology = preparation.client.topology();
        let clients = &preparation.clients;
        Run::new(
            &self.options,
            clients,
            Arc::clone(&topology),
            targets,
            progress,
            listener,
        )
    }

    /// Reads the input and sends its keys.
    fn send_all(
        &self,
        run: &Run<'_>,
        mut items: Box<dyn Items>,
        preparation: &Preparation,
    ) -> Result<(), Error> {
        for text in &preparation.findings.remarks {
            run.remark(text.clone());
        }
        let (keys, bytes) = match &preparation.summary {
            Some(summary) => (Some(summary.keys), Some(summary.bytes)),
            None => (None, None),
        };
        let resumed = run.resumed();
        run.notify(RestoreEvent::Begun {
            keys,
            bytes,
            resumed,
        });
        let (each, most) = WORKERS;
        let workers = self.options.workers;
        let workers = workers.unwrap_or_else(|| (run.targets.len() * each).clamp(each, most));
        let mut functions = Functions::new(&preparation.client, &preparation.servers);
        thread::scope(|scope| {
            let mut senders = Vec::with_capacity(workers);
            let mut threads = Vec::with_capacity(workers);
            for _ in 0..workers {
                let (sender, receiver) = sync_channel(QUEUE);
                senders.push(sender);
                threads.push(scope.spawn(move || Worker::new(run).work(&receiver)));
            }
            let mut dispatcher = Dispatcher::new(run, senders);
            let read = self.read(
                run,
                &mut *items,
                &mut |unit| dispatcher.take(unit),
                &mut |source| functions.load(run, source),
            );
            let read = read.and_then(|()| dispatcher.flush());
            if let Err(error) = read {
                run.fail(error);
            }
            drop(dispatcher);
            for thread in threads {
                if thread.join().is_err() {
                    run.fail(Error::config("a thread that sends keys has panicked"));
                }
            }
        });
        match run.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Reads the input, and hands out the keys that are to be restored.
    fn read(
        &self,
        run: &Run<'_>,
        items: &mut dyn Items,
        take: &mut dyn FnMut(Unit) -> Result<(), Error>,
        load: &mut dyn FnMut(Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let resumed = run.resumed();
        let (mut number, mut left) = (0, RestoreReport::default());
        let result = loop {
            let item = match items.next() {
                Ok(Some(item)) => item,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let done = match item {
                Item::Lost(what) => {
                    run.lose(what);
                    Ok(())
                }
                Item::Remark(text) => {
                    run.remark(text);
                    Ok(())
                }
                Item::Function(source) => load(source),
                Item::Key(key) => {
                    number += 1;
                    match number <= resumed {
                        true => Ok(()),
                        false => self.key(run, number - 1, key, &mut left, take),
                    }
                }
            };
            if let Err(error) = done {
                break Err(error);
            }
        };
        let mut report = run.report.lock();
        report.read = number;
        report.resumed = resumed.min(number);
        report.filtered = left.filtered;
        report.record = left.record;
        report.add(left);
        result
    }

    /// Decides about a key, and hands it out.
    fn key(
        &self,
        run: &Run<'_>,
        number: u64,
        key: InputKey,
        left: &mut RestoreReport,
        take: &mut dyn FnMut(Unit) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let InputKey {
            mut info,
            version,
            value,
        } = key;
        let selection = &self.options.selection;
        let db = match selection.choose(&info, version, own_time()) {
            Choice::Take(db) => db,
            choice => {
                match choice {
                    Choice::Expired => left.expired += 1,
                    Choice::Filtered => left.filtered += 1,
                    Choice::Record | Choice::Take(_) => left.record += 1,
                }
                run.passed(number);
                return Ok(());
            }
        };
        let source_db = info.db;
        info.db = db;
        info.key = selection.rename(info.key);
        let bytes = value.len() as u64;
        let by_elements = self
            .options
            .element_bytes
            .is_some_and(|limit| bytes >= limit);
        if bytes >= self.options.warning_bytes && !by_elements {
            let key = KeyText(&info.key).to_string();
            run.notify(RestoreEvent::LargeValue { key, bytes });
        }
        check_database(run, source_db, db)?;
        let Some(owner) = run.topology.locate(&info.key) else {
            left.refuse(source_db, &info.key, "no node of the target owns it");
            run.passed(number);
            return Ok(());
        };
        take(Unit {
            number,
            owner: owner.get(),
            source_db,
            info,
            version,
            value,
        })
    }

    /// Looks whether servers have lost what they had acknowledged.
    fn check_servers(&self, run: &Run<'_>, preparation: &Preparation) -> Result<(), Error> {
        let Ok(now) = TargetServer::ask_all(&preparation.client) else {
            // A node that cannot be reached has ended the run, or has acknowledged all of its keys before.
            return Ok(());
        };
        for before in &preparation.servers {
            let Some(now) = now.iter().find(|now| now.name == before.name) else {
                continue;
            };
            if now.run_id != before.run_id {
                if !self.options.takes_restarted {
                    return Err(restarted_since(&before.name));
                }
            } else if now.evicted > before.evicted {
                let evicted = (before.name.clone(), now.evicted - before.evicted);
                run.report.lock().evicted.push(evicted);
            }
        }
        Ok(())
    }
}

impl Preparation {
    /// Refuses what cannot work.
    fn check(&self, options: &RestoreOptions) -> Result<(), Error> {
        if let Some((node, text)) = self.findings.refusals.first() {
            let more = match self.findings.refusals.len() - 1 {
                0 => String::new(),
                more => format!("; a dry run names {more} more reasons"),
            };
            return Err(Error::config(format!("node {node:?}: {text}{more}")).at_node(node));
        }
        let Some(summary) = self.summary.as_ref().filter(|_| !options.takes_damaged) else {
            return Ok(());
        };
        match summary.lost.first() {
            None => Ok(()),
            Some(first) => {
                let text = format!(
                    "{first}. {} keys with {} bytes are still good; --damaged restores them. Nothing was changed",
                    summary.keys, summary.bytes
                );
                Err(Error::new(ErrorKind::Archive, text))
            }
        }
    }
}

/// Refuses databases that a Redis Cluster does not have.
fn check_database(run: &Run<'_>, source: u32, db: u32) -> Result<(), Error> {
    let valkey_9 = |target: &crate::rdb::convert::Target| {
        target.server.family == ServerFamily::Valkey && target.server.major >= 9
    };
    if db == 0 || run.topology.cluster().is_none() || run.targets.iter().all(valkey_9) {
        return Ok(());
    }
    Err(Error::config(format!(
        "the backup has keys in database {source}, and a Redis Cluster has database 0 alone; restore them there by \
         --db {source}=0"
    )))
}

fn restarted_since(node: &str) -> Error {
    let text = format!(
        "node {node:?} was restarted after it had acknowledged keys. If it has written each of them to disk, go on with \
         --allow-restarted; otherwise begin again, with --replace and without the file with the progress"
    );
    Error::config(text).at_node(node)
}
