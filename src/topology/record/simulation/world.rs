//! Two servers, the connections to them, and what is on the way.

use std::collections::VecDeque;

use super::Rules;
use crate::topology::record::{Progress, RecordEpoch};

pub(super) const CLIENTS: usize = 2;
/// One key in each unit; all move from the first node to the second.
pub(super) const KEYS: usize = 4;
pub(super) const SOURCE: usize = 0;
pub(super) const TARGET: usize = 1;

/// What a simulated record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) epoch: RecordEpoch,
    pub(super) progress: Progress,
    pub(super) seal: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Client(usize),
    Mover(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Command {
    Name(RecordEpoch),
    ReadRecord,
    Set(usize),
    Del(usize),
    Get(usize),
    /// Compare and set: the epoch that is expected, and the record.
    Publish(Option<RecordEpoch>, Record),
    ClientList,
    Kill(Vec<u32>),
    /// All movers but the one that asks, and what is left of its own earlier connections.
    KillMovers,
    Dump(usize),
    Restore(usize, u32),
    Unlink(usize),
    Keys,
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Done,
    Record(Option<Record>, u32),
    Published(bool),
    /// Identity, owner and name of each connection.
    List(Vec<(u32, Who, Option<RecordEpoch>)>),
    Value(Option<u32>),
    Values([Option<u32>; KEYS]),
}

/// One connection, as the server has it.
#[derive(Debug)]
struct Connection {
    id: u32,
    who: Who,
    name: Option<RecordEpoch>,
    inbox: VecDeque<Command>,
    outbox: VecDeque<Reply>,
    /// The other side has closed it; what it has sent before is still executed.
    is_left: bool,
    /// What is sent over it takes long.
    is_slow: bool,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) record: Option<Record>,
    pub(super) run_id: u32,
    pub(super) data: [Option<u32>; KEYS],
    connections: Vec<Connection>,
    /// What it has on disk.
    saved: (Option<Record>, [Option<u32>; KEYS]),
}

pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) servers: [Server; 2],
    /// The value that was written last to each key, wherever that was.
    truth: [Option<u32>; KEYS],
    pub(super) violation: Option<String>,
    state: u64,
    next_id: u32,
    versions: u32,
    restarts: u32,
    rollbacks: u32,
    /// True if the source was replaced by an old copy, which somebody has to clean up.
    pub(super) is_rolled_back: bool,
    /// True if clients are told of new records late.
    pub(super) is_told_late: bool,
}

impl World {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        let data = [Some(1), Some(2), None, Some(3)];
        let record = |run_id| Record {
            epoch: RecordEpoch::new(1, 1),
            progress: Progress::default(),
            seal: run_id,
        };
        let server = |run_id, data| Server {
            record: Some(record(run_id)),
            run_id,
            data,
            connections: Vec::new(),
            saved: (Some(record(run_id)), data),
        };
        Self {
            rules,
            servers: [server(1, data), server(2, [None; KEYS])],
            truth: data,
            violation: None,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            next_id: 10,
            versions: 10,
            restarts: 2,
            rollbacks: 1,
            is_rolled_back: false,
            is_told_late: seed.is_multiple_of(2),
        }
    }

    /// A random number below `bound`.
    pub(super) fn random(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 33) as usize % bound
    }

    pub(super) fn connect(&mut self, node: usize, who: Who) -> u32 {
        self.next_id += 1;
        let is_slow = self.random(4) == 0;
        self.servers[node].connections.push(Connection {
            id: self.next_id,
            who,
            name: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            is_left: false,
            is_slow,
        });
        self.next_id
    }

    fn connection(&mut self, node: usize, id: u32) -> Option<&mut Connection> {
        let connections = &mut self.servers[node].connections;
        connections
            .iter_mut()
            .find(|connection| connection.id == id)
    }

    /// True if the connection has not been closed by its server.
    pub(super) fn is_open(&mut self, node: usize, id: u32) -> bool {
        self.connection(node, id).is_some()
    }

    pub(super) fn send(&mut self, node: usize, id: u32, command: Command) {
        if let Some(connection) = self.connection(node, id) {
            connection.inbox.push_back(command);
        }
    }

    pub(super) fn receive(&mut self, node: usize, id: u32) -> Option<Reply> {
        self.connection(node, id)?.outbox.pop_front()
    }

    pub(super) fn leave(&mut self, node: usize, id: u32) {
        if let Some(connection) = self.connection(node, id) {
            connection.is_left = true;
        }
    }

    /// A server executes the next command of some connection.
    pub(super) fn execute_something(&mut self) {
        let node = self.random(2);
        let count = self.servers[node].connections.len();
        if count == 0 {
            return;
        }
        // Most have nothing to execute.
        let first = self.random(count);
        let connections = &self.servers[node].connections;
        let is_busy = |at: &usize| !connections[*at].inbox.is_empty() || connections[*at].is_left;
        let Some(at) = (first..count).chain(0..first).find(is_busy) else {
            return;
        };
        if self.servers[node].connections[at].is_slow && self.random(12) > 0 {
            return;
        }
        let connection = &mut self.servers[node].connections[at];
        let (id, who) = (connection.id, connection.who);
        let Some(command) = connection.inbox.pop_front() else {
            if connection.is_left {
                self.servers[node].connections.remove(at);
            }
            return;
        };
        let reply = self.execute(node, id, who, command);
        if let Some(connection) = self.connection(node, id) {
            connection.outbox.push_back(reply);
        }
    }

    fn execute(&mut self, node: usize, id: u32, who: Who, command: Command) -> Reply {
        match command {
            Command::Set(key) | Command::Del(key) | Command::Get(key) => {
                self.check(node, key, who);
                if let Command::Set(_) = command {
                    self.versions += 1;
                    self.truth[key] = Some(self.versions);
                }
                if let Command::Del(_) = command {
                    self.truth[key] = None;
                }
                self.servers[node].data[key] = self.truth[key];
                return Reply::Done;
            }
            _ => {}
        }
        let server = &mut self.servers[node];
        match command {
            Command::Name(epoch) => {
                let named = server.connections.iter_mut().find(|named| named.id == id);
                if let Some(named) = named {
                    named.name = Some(epoch);
                }
            }
            Command::ReadRecord => return Reply::Record(server.record, server.run_id),
            Command::Publish(expected, record) => {
                let is_expected = server.record.map(|record| record.epoch) == expected;
                if is_expected {
                    server.record = Some(Record {
                        seal: server.run_id,
                        ..record
                    });
                }
                return Reply::Published(is_expected);
            }
            Command::ClientList => {
                let all = server.connections.iter();
                return Reply::List(all.map(|one| (one.id, one.who, one.name)).collect());
            }
            Command::Kill(ids) => server.connections.retain(|one| !ids.contains(&one.id)),
            Command::KillMovers => server
                .connections
                .retain(|one| one.id == id || !matches!(one.who, Who::Mover(_))),
            Command::Dump(key) => return Reply::Value(server.data[key]),
            Command::Restore(key, value) => server.data[key] = Some(value),
            Command::Unlink(key) => server.data[key] = None,
            Command::Keys => return Reply::Values(server.data),
            Command::Set(_) | Command::Del(_) | Command::Get(_) => {}
        }
        Reply::Done
    }

    /// A client acts on what a server has.
    fn check(&mut self, node: usize, key: usize, who: Who) {
        let found = self.servers[node].data[key];
        if found != self.truth[key] {
            let truth = self.truth[key];
            self.violation = Some(format!(
                "{who:?} meets {found:?} for key {key} at node {node}, but {truth:?} was written last"
            ));
        }
    }

    /// Something breaks.
    pub(super) fn fault(&mut self) {
        match self.random(24) {
            0 => self.break_connection(),
            1 => self.restart_target(),
            2..4 => self.roll_back_source(),
            4 => self.save_source(),
            _ => {}
        }
    }

    fn break_connection(&mut self) {
        let node = self.random(2);
        let count = self.servers[node].connections.len();
        if count > 0 {
            let at = self.random(count);
            self.servers[node].connections.remove(at);
        }
    }

    /// The target loses all it had, which must be nothing that was moved to it.
    fn restart_target(&mut self) {
        let moved = self.servers[TARGET]
            .record
            .map_or(0, |record| record.progress.moved);
        if self.restarts == 0 || moved > 0 {
            return;
        }
        self.restarts -= 1;
        self.next_id += 1;
        let target = &mut self.servers[TARGET];
        target.record = None;
        target.data = [None; KEYS];
        target.run_id = self.next_id;
        target.connections.clear();
    }

    fn save_source(&mut self) {
        let source = &mut self.servers[SOURCE];
        if source
            .record
            .is_some_and(|record| record.progress.closed == 0)
        {
            source.saved = (source.record, source.data);
        }
    }

    /// The source is replaced by an old copy, once it has no key of its own any more.
    fn roll_back_source(&mut self) {
        let all = KEYS as u32;
        let has_all = |server: &Server| {
            server
                .record
                .is_some_and(|record| record.progress.moved == all)
        };
        if self.rollbacks == 0 || !self.servers.iter().all(has_all) {
            return;
        }
        self.rollbacks -= 1;
        self.is_rolled_back = true;
        self.next_id += 1;
        let source = &mut self.servers[SOURCE];
        (source.record, source.data) = source.saved;
        source.run_id = self.next_id;
        source.connections.clear();
    }

    /// No further faults.
    pub(super) fn heal(&mut self) {
        self.restarts = 0;
    }

    pub(super) fn check_end(&self) -> Result<(), String> {
        if self.servers[TARGET].data != self.truth {
            let found = self.servers[TARGET].data;
            return Err(format!(
                "the target has {found:?} instead of {:?}",
                self.truth
            ));
        }
        match self.servers[SOURCE].data == [None; KEYS] {
            true => Ok(()),
            false => Err("keys have two owners at the end".into()),
        }
    }
}
