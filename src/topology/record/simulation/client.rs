//! A client that follows the records.

use super::world::{Command, KEYS, Record, Reply, SOURCE, TARGET, Who, World};
use crate::topology::record::{Progress, RecordEpoch, UnitState};

/// What a client knows of the record of each node, and its connections.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// `None` until it has read one.
    known: [Option<Record>; 2],
    connections: [Option<Connection>; 2],
    request: Option<Request>,
}

#[derive(Debug)]
struct Connection {
    id: u32,
    /// False until the record was read over it.
    is_ready: bool,
    /// The epoch of its last name.
    acknowledged: RecordEpoch,
    /// What was planned by an older record is not sent over it: the newest epoch that it has presented or read.
    epoch: RecordEpoch,
    /// Number of replies that are none to a request: those to names.
    names: usize,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    key: usize,
    kind: usize,
    /// Where it goes, and by which record of that node.
    plan: Option<(usize, RecordEpoch)>,
    is_sent: bool,
}

impl Client {
    pub(super) fn step(&mut self, me: usize, world: &mut World) {
        self.drop_closed(world);
        if self.request.is_none() && world.random(100) == 0 {
            self.restart(world);
        }
        match world.random(4) {
            0 if !world.is_told_late || world.random(12) == 0 => self.hear(world),
            1 => self.acknowledge(world),
            2 => self.take_replies(world),
            _ => self.advance(me, world),
        }
    }

    /// Another program begins, which knows nothing.
    fn restart(&mut self, world: &mut World) {
        for node in [SOURCE, TARGET] {
            if let Some(connection) = self.connections[node].take() {
                world.leave(node, connection.id);
            }
        }
        *self = Self::default();
    }

    /// Forgets connections that the server has closed: a request that was sent has an unknown outcome.
    fn drop_closed(&mut self, world: &mut World) {
        for node in [SOURCE, TARGET] {
            let id = self.connections[node]
                .as_ref()
                .map(|connection| connection.id);
            if id.is_some_and(|id| !world.is_open(node, id)) {
                self.lose(node);
            }
        }
    }

    fn lose(&mut self, node: usize) {
        self.connections[node] = None;
        if let Some(request) = self.request
            && request.is_sent
            && request.plan.is_some_and(|(at, _)| at == node)
        {
            self.request = None;
        }
    }

    /// Is told of a new record over a connection that watches.
    fn hear(&mut self, world: &mut World) {
        let node = world.random(2);
        let server = &world.servers[node];
        let is_sealed = server
            .record
            .is_some_and(|record| record.seal == server.run_id);
        if let Some(record) = server.record
            && (is_sealed || !world.rules.seal)
        {
            self.learn(node, record);
        }
    }

    fn learn(&mut self, node: usize, record: Record) {
        if self.known[node].is_none_or(|known| known.epoch < record.epoch) {
            self.known[node] = Some(record);
        }
    }

    fn epoch(&self, node: usize) -> RecordEpoch {
        self.known[node].map_or(RecordEpoch::default(), |record| record.epoch)
    }

    /// Presents the newest epoch over a connection.
    fn acknowledge(&mut self, world: &mut World) {
        let node = world.random(2);
        let epoch = self.epoch(node);
        if let Some(connection) = &mut self.connections[node]
            && connection.is_ready
            && connection.acknowledged < epoch
        {
            connection.acknowledged = epoch;
            connection.epoch = epoch;
            connection.names += 1;
            world.send(node, connection.id, Command::Name(epoch));
        }
    }

    fn take_replies(&mut self, world: &mut World) {
        let node = world.random(2);
        let Some(connection) = &mut self.connections[node] else {
            return;
        };
        let Some(reply) = world.receive(node, connection.id) else {
            return;
        };
        if !connection.is_ready {
            if let Reply::Record(record, run_id) = reply {
                self.enter(node, record, run_id, world);
            }
            return;
        }
        match connection.names {
            // The request was sent behind names, or before them: which it was does not matter here.
            0 => self.request = None,
            _ => connection.names -= 1,
        }
    }

    /// Has read the record of a new connection.
    fn enter(&mut self, node: usize, record: Option<Record>, run_id: u32, world: &mut World) {
        let known = self.epoch(node);
        let may_enter = match record {
            Some(record) if world.rules.seal && record.seal != run_id => false,
            Some(record) if record.epoch > known => {
                self.learn(node, record);
                false
            }
            Some(record) => record.epoch == known || !world.rules.seal,
            None => false,
        };
        if let Some(connection) = &mut self.connections[node] {
            connection.is_ready = may_enter;
            // Not that of the name: it may have been learnt meanwhile that the record is newer.
            if let (Some(record), true) = (record, world.rules.door_epoch) {
                connection.epoch = connection.epoch.max(record.epoch);
            }
            if !may_enter {
                world.leave(node, connection.id);
                self.connections[node] = None;
            }
        }
    }

    fn advance(&mut self, me: usize, world: &mut World) {
        let request = match self.request {
            Some(request) => request,
            None => {
                let request = Request {
                    key: world.random(KEYS),
                    kind: world.random(3),
                    plan: None,
                    is_sent: false,
                };
                *self.request.insert(request)
            }
        };
        if request.is_sent {
            return;
        }
        match request.plan {
            None => {
                let node = self.place(request.key, world);
                let plan = node.map(|node| (node, self.epoch(node)));
                self.request = Some(Request { plan, ..request });
            }
            Some((node, epoch)) => self.send(me, node, epoch, request, world),
        }
    }

    /// The node of a key. `None` while nobody may have it, or if nothing is known yet.
    fn place(&self, key: usize, world: &World) -> Option<usize> {
        let [source, target] = self.known;
        let of = |record: Option<Record>| record.map_or(Progress::default(), |one| one.progress);
        let moved = of(source).moved.max(of(target).moved);
        let progress = Progress {
            moved,
            closed: of(source).closed.max(moved),
        };
        match progress.state(key as u32) {
            UnitState::AtTarget => Some(TARGET),
            UnitState::Closed if world.rules.closure => None,
            UnitState::AtSource | UnitState::Closed => Some(SOURCE),
        }
    }

    fn send(
        &mut self,
        me: usize,
        node: usize,
        planned: RecordEpoch,
        request: Request,
        world: &mut World,
    ) {
        let Some(connection) = &mut self.connections[node] else {
            self.connections[node] = Some(self.connect(me, node, world));
            return;
        };
        if !connection.is_ready {
            return;
        }
        let id = connection.id;
        if world.rules.append_check && planned < connection.epoch {
            self.request = Some(Request {
                plan: None,
                ..request
            });
            return;
        }
        let command = match request.kind {
            0 => Command::Set(request.key),
            1 => Command::Del(request.key),
            _ => Command::Get(request.key),
        };
        world.send(node, id, command);
        self.request = Some(Request {
            is_sent: true,
            ..request
        });
    }

    fn connect(&self, me: usize, node: usize, world: &mut World) -> Connection {
        let id = world.connect(node, Who::Client(me));
        let epoch = self.epoch(node);
        let name = Command::Name(epoch);
        let mut names = 0;
        match (world.rules.record_check, world.rules.name_first) {
            (false, _) => {
                world.send(node, id, name);
                names = 1;
            }
            (true, true) => {
                world.send(node, id, name);
                world.send(node, id, Command::ReadRecord);
            }
            (true, false) => {
                world.send(node, id, Command::ReadRecord);
                world.send(node, id, name);
                names = 1;
            }
        }
        Connection {
            id,
            is_ready: !world.rules.record_check,
            acknowledged: epoch,
            epoch,
            names,
        }
    }
}
