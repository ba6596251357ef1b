//! [`Asker`]: the thread that asks the Sentinels of a group, in rounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::endpoint::{Deadline, PrimaryCell};
use crate::policy::ConnectError;
use crate::sentinel::connection::SentinelConnection;
use crate::sentinel::group::GroupState;
use crate::topology::HostPort;
use crate::topology::sentinel::{Questions, Report, RoundEnd, SentinelWatch};

/// Asks the Sentinels of a group. Connections are kept from one round to the next.
pub(super) struct Asker {
    group: Arc<GroupState>,
    connections: BTreeMap<HostPort, SentinelConnection>,
}

/// One round: what is asked, what was learnt, and why Sentinels gave no answer.
struct Round<'w> {
    watch: &'w mut SentinelWatch,
    questions: Questions,
    /// The cells of the masters that still have a node.
    cells: Vec<(usize, Arc<PrimaryCell>)>,
    /// The failures, in the order in which they occurred.
    failures: Vec<String>,
}

impl Asker {
    pub(super) fn new(group: Arc<GroupState>) -> Self {
        Self {
            group,
            connections: BTreeMap::new(),
        }
    }

    /// Asks whenever it is due, until the group is gone.
    pub(super) fn run(mut self) {
        let given = self.group.settings.sentinels.len();
        let mut watch = SentinelWatch::new(given, Instant::now());
        loop {
            // Another topology may have more nodes.
            let masters = self.group.names();
            watch.extend_to(masters.len(), Instant::now());
            let pause = watch.wait(Instant::now());
            let Some(signal) = self.group.wait(pause) else {
                return;
            };
            let now = Instant::now();
            for master in signal.confirmed {
                watch.confirmed(master);
            }
            for master in signal.suspected {
                watch.suspect(master, now);
            }
            if signal.is_announced {
                watch.announced(now);
            }
            if watch.wait(now).is_zero() {
                self.round(&mut watch, &masters);
            } else if !self.group.sleep(watch.wait(now).min(SUSPICION_INTERVAL)) {
                return;
            }
        }
    }

    /// Asks every Sentinel that can be reached.
    fn round(&mut self, watch: &mut SentinelWatch, masters: &[String]) {
        let mut round = Round {
            watch,
            questions: Questions::new(masters),
            cells: self.group.masters(),
            failures: Vec::new(),
        };
        self.ask_connected(&mut round);
        self.connect(&mut round);
        round.end(&self.group);
        let now = Instant::now();
        watch.schedule(now, rand::random());
        // Those that nobody names any more.
        let list = self.group.list.lock();
        self.connections.retain(|address, _| list.contains(address));
    }

    /// Asks all Sentinels that there are connections to at the same time: one that does not reply must not hold up the
    /// others.
    fn ask_connected(&mut self, round: &mut Round<'_>) {
        let deadline = Deadline::start(Some(self.limit()));
        let mut open: Vec<(HostPort, SentinelConnection)> = Vec::new();
        for (address, mut connection) in std::mem::take(&mut self.connections) {
            match connection.send(&round.questions.packed, &deadline) {
                Ok(()) => open.push((address, connection)),
                // It has probably restarted, and is connected to again below.
                Err(error) => drop(error),
            }
        }
        while !open.is_empty() && !self.group.has_ended() {
            let is_over = deadline.is_over();
            for (address, mut connection) in std::mem::take(&mut open) {
                match connection.is_ready() {
                    Ok(false) if is_over => {
                        self.failed(&address, "no reply in time".into(), round);
                    }
                    Ok(false) => open.push((address, connection)),
                    Ok(true) => self.read(address, connection, &deadline, round),
                    Err(error) => drop(error),
                }
            }
        }
    }

    /// Connects to the Sentinels that there is no connection to, and asks them.
    fn connect(&mut self, round: &mut Round<'_>) {
        let due = self.group.list.lock().due(Instant::now());
        for address in due {
            if self.connections.contains_key(&address) {
                continue;
            }
            // An announcement is not kept waiting by Sentinels that cannot be reached.
            let is_urgent = self.group.is_announced() && !self.connections.is_empty();
            if self.group.has_ended() || is_urgent && round.watch.knows_all() {
                return;
            }
            let limit = self.limit();
            let mut connection = match SentinelConnection::open(&self.group, &address, limit) {
                Ok(connection) => connection,
                Err(error) => {
                    self.failed(&address, error.to_string(), round);
                    continue;
                }
            };
            let deadline = Deadline::start(Some(limit));
            match connection.send(&round.questions.packed, &deadline) {
                Ok(()) => self.read(address, connection, &deadline, round),
                Err(error) => self.failed(&address, error.to_string(), round),
            }
        }
    }

    /// Reads the replies of one Sentinel and keeps its connection.
    fn read(
        &mut self,
        address: HostPort,
        mut connection: SentinelConnection,
        deadline: &Deadline,
        round: &mut Round<'_>,
    ) {
        let (id, report) = match connection.report(&round.questions, deadline) {
            Ok(report) => report,
            Err(why) => return self.failed(&address, format!("{address}: {why}"), round),
        };
        let named = report.masters.iter().flatten();
        let named = named.flat_map(|master| master.sentinels.iter().cloned());
        let named: Vec<HostPort> = named.map(|named| self.group.mapped(named)).collect();
        {
            let mut list = self.group.list.lock();
            list.replied(&address);
            if !named.is_empty() {
                list.learn(&named);
            }
        }
        self.connections.insert(address, connection);
        round.answered(&self.group, &id, &report);
    }

    fn failed(&self, address: &HostPort, why: String, round: &mut Round<'_>) {
        let now = Instant::now();
        self.group.list.lock().failed(address, now, rand::random());
        round.failures.push(why);
    }

    /// Maximum duration of connecting to one Sentinel, and of its replies.
    fn limit(&self) -> Duration {
        let limit = self.group.settings.connect_timeout;
        self.group.list.lock().share_of(limit)
    }
}

/// Shortest time between two looks at what is suspected, as every request that fails reports it.
const SUSPICION_INTERVAL: Duration = Duration::from_millis(10);

impl Round<'_> {
    /// Takes the answer of one Sentinel for all masters.
    fn answered(&mut self, group: &GroupState, id: &str, report: &Report) {
        for (number, cell) in &self.cells {
            let Some(master) = report.masters.get(*number) else {
                continue;
            };
            if let Some(address) = self.watch.answered(*number, id, master.as_ref()) {
                cell.publish(group.mapped(address));
            }
        }
    }

    /// Ends the round for every master.
    fn end(&mut self, group: &GroupState) {
        let now = Instant::now();
        for (number, cell) in &self.cells {
            let address = cell.node_address();
            match self.watch.end_round(*number, now) {
                RoundEnd::Known | RoundEnd::Switch(_) => {
                    // Also if it has not changed: the cell may be new.
                    if let Some(current) = self.watch.current(*number) {
                        cell.publish(group.mapped(current.clone()));
                    }
                }
                RoundEnd::NoSuchMaster => cell.unavailable(ConnectError::NoSuchMaster(format!(
                    "none of the Sentinels of {address} that reply knows a master of this name; it is that of \
                     `sentinel monitor` in their configuration"
                ))),
                RoundEnd::NoReply => {
                    let why = match self.failures.first() {
                        Some(why) => format!("no Sentinel can be asked ({why})"),
                        None => "no Sentinel can be asked".to_owned(),
                    };
                    cell.unavailable(ConnectError::no_primary(address, &why));
                }
            }
        }
    }
}
