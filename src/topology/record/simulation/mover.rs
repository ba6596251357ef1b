//! Who moves the keys.

use super::world::{Command, KEYS, Record, Reply, SOURCE, TARGET, Who, World};
use crate::topology::record::{Progress, RecordEpoch};

/// Number of units of a batch.
const BATCH: u32 = 2;

/// Number of times that the fence looks before it disconnects who has not acknowledged.
const LOOKS: u32 = 2;

pub(super) struct Mover {
    me: usize,
    state: State,
    connections: [Option<u32>; 2],
    /// The records by what this mover has read or written.
    records: [Option<Record>; 2],
    run_ids: [u32; 2],
    /// The command that was sent, if its reply is due: to which node.
    awaits: Option<usize>,
    /// The connections of the batch: it is void over others.
    batch: [Option<u32>; 2],
    fence_looks: u32,
    copied: Vec<Option<u32>>,
    source: [Option<u32>; KEYS],
    /// The highest term that it has read.
    term: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Name, then read the record of this node.
    Enter(usize, Entering),
    /// Claim the term at this node.
    Claim(usize),
    /// End the connections of all other movers at this node.
    KillOther(usize),
    Resume,
    Close,
    Fence,
    Clear(u32),
    Dump(u32),
    Restore(u32),
    ReadSource,
    ReadTarget,
    PublishTarget,
    PublishSource,
    /// What the target has published.
    Delete(u32),
    /// Without the rule that this is last: what was copied.
    DeleteEarly(u32),
    Reopen,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entering {
    Name,
    Read,
}

impl Mover {
    pub(super) fn new(me: usize) -> Self {
        Self {
            me,
            state: State::Idle,
            connections: [None; 2],
            records: [None; 2],
            run_ids: [0; 2],
            awaits: None,
            batch: [None; 2],
            fence_looks: 0,
            copied: Vec::new(),
            source: [None; KEYS],
            term: 0,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn is_active(&self) -> bool {
        !matches!(self.state, State::Idle | State::Done)
    }

    pub(super) fn step(&mut self, world: &mut World, has_faults: bool, may_begin: bool) {
        if self.state == State::Done && world.is_rolled_back {
            *self = Self::new(self.me);
        }
        if self.state == State::Idle {
            // Seldom, so that one of them gets on.
            if may_begin && world.random(12) == 0 {
                self.begin(world);
            }
            return;
        }
        if has_faults && world.random(160) == 0 {
            // Dies: what it has sent is executed all the same.
            return self.stop(world);
        }
        if self.has_lost_connection(world) {
            return self.connection_lost(world);
        }
        match self.awaits {
            Some(node) => {
                let id = self.connections[node].unwrap_or_default();
                if let Some(reply) = world.receive(node, id) {
                    self.awaits = None;
                    self.handle(reply, world);
                }
            }
            None => self.send(world),
        }
    }

    fn begin(&mut self, world: &mut World) {
        self.connect(world);
        self.state = State::Enter(TARGET, Entering::Name);
    }

    fn connect(&mut self, world: &mut World) {
        for node in [SOURCE, TARGET] {
            if self.connections[node].is_none() {
                self.connections[node] = Some(world.connect(node, Who::Mover(self.me)));
            }
        }
    }

    fn stop(&mut self, world: &mut World) {
        for node in [SOURCE, TARGET] {
            if let Some(id) = self.connections[node].take() {
                world.leave(node, id);
            }
        }
        *self = Self::new(self.me);
    }

    fn has_lost_connection(&mut self, world: &mut World) -> bool {
        let mut is_lost = false;
        for node in [SOURCE, TARGET] {
            let id = self.connections[node];
            if id.is_none_or(|id| !world.is_open(node, id)) {
                self.connections[node] = None;
                is_lost = true;
            }
        }
        is_lost
    }

    /// A batch that is not published is void; and whoever was disconnected may have been overtaken, so both records are
    /// read anew.
    fn connection_lost(&mut self, world: &mut World) {
        let is_copying = matches!(
            self.state,
            State::Clear(_)
                | State::Dump(_)
                | State::Restore(_)
                | State::ReadSource
                | State::ReadTarget
                | State::PublishTarget
        );
        if !world.rules.one_connection && is_copying {
            // Goes on where it was, over other connections.
            self.awaits = None;
            self.connect(world);
            return;
        }
        self.stop(world);
    }

    fn send_to(&mut self, world: &mut World, node: usize, command: Command) {
        world.send(node, self.connections[node].unwrap_or_default(), command);
        self.awaits = Some(node);
    }

    fn source(&self) -> Record {
        self.records[SOURCE].unwrap_or(NONE)
    }

    fn target(&self) -> Record {
        self.records[TARGET].unwrap_or(NONE)
    }

    fn moved(&self) -> u32 {
        self.source()
            .progress
            .moved
            .max(self.target().progress.moved)
    }

    fn end(&self) -> u32 {
        (self.moved() + BATCH).min(KEYS as u32)
    }

    /// The record that follows the one of this node.
    fn next(&self, node: usize, progress: Progress) -> (Option<RecordEpoch>, Record) {
        let former = self.records[node];
        let epoch = former.unwrap_or(NONE).epoch.next();
        let record = Record {
            epoch,
            progress,
            seal: self.run_ids[node],
        };
        (former.map(|record| record.epoch), record)
    }

    fn publish(&mut self, world: &mut World, node: usize, progress: Progress) {
        let (expected, record) = self.next(node, progress);
        self.send_to(world, node, Command::Publish(expected, record));
    }

    fn send(&mut self, world: &mut World) {
        match self.state {
            State::Idle | State::Done => {}
            State::Enter(node, Entering::Name) => {
                let name = Command::Name(RecordEpoch::new(u32::MAX, 0));
                self.send_to(world, node, name);
            }
            State::Enter(node, Entering::Read) => self.send_to(world, node, Command::ReadRecord),
            State::Claim(node) => {
                let expected = self.records[node].map(|record| record.epoch);
                let record = self.claim(node, world);
                self.send_to(world, node, Command::Publish(expected, record));
            }
            State::KillOther(node) => match world.rules.mover_fence {
                true => self.send_to(world, node, Command::KillMovers),
                false => self.state = self.after_kill(node),
            },
            State::Resume => self.resume(world),
            State::Close => {
                let progress = Progress {
                    moved: self.source().progress.moved,
                    closed: self.end(),
                };
                self.batch = self.connections;
                self.publish(world, SOURCE, progress);
            }
            State::Fence => match world.rules.fence {
                true => self.send_to(world, SOURCE, Command::ClientList),
                false => self.state = State::Clear(self.moved()),
            },
            State::Clear(unit) if unit == self.end() => self.state = State::Dump(self.moved()),
            State::Clear(unit) => match world.rules.clear {
                true => self.send_to(world, TARGET, Command::Unlink(unit as usize)),
                false => self.state = State::Dump(self.moved()),
            },
            State::Dump(unit) if unit == self.end() => self.state = State::ReadSource,
            State::Dump(unit) => self.send_to(world, SOURCE, Command::Dump(unit as usize)),
            State::Restore(unit) => match self.copied.last().copied().flatten() {
                Some(value) => {
                    self.send_to(world, TARGET, Command::Restore(unit as usize, value));
                }
                None => self.state = State::Dump(unit + 1),
            },
            State::ReadSource => match world.rules.compare {
                true => self.send_to(world, SOURCE, Command::Keys),
                false => self.state = State::PublishTarget,
            },
            State::ReadTarget => self.send_to(world, TARGET, Command::Keys),
            State::PublishTarget => match world.rules.target_first {
                true => self.publish(world, TARGET, self.all_moved()),
                false => self.publish(world, SOURCE, self.all_moved()),
            },
            State::PublishSource => match world.rules.target_first {
                true => self.publish(world, SOURCE, self.all_moved()),
                false => self.publish(world, TARGET, self.all_moved()),
            },
            State::Delete(unit) if unit == self.moved() => self.state = self.after_delete(),
            State::DeleteEarly(unit) if unit == self.end() => self.state = State::PublishTarget,
            State::DeleteEarly(unit) => {
                self.send_to(world, SOURCE, Command::Unlink(unit as usize));
            }
            State::Delete(unit) => self.send_to(world, SOURCE, Command::Unlink(unit as usize)),
            State::Reopen => {
                let moved = self.source().progress.moved;
                let progress = Progress {
                    moved,
                    closed: moved,
                };
                self.publish(world, SOURCE, progress);
            }
        }
    }

    fn all_moved(&self) -> Progress {
        let end = self.source().progress.closed.max(self.moved());
        Progress {
            moved: end,
            closed: end,
        }
    }

    fn after_kill(&self, node: usize) -> State {
        match node {
            TARGET => State::KillOther(SOURCE),
            _ => State::Resume,
        }
    }

    fn after_delete(&self) -> State {
        match self.moved() == KEYS as u32 {
            true => State::Done,
            false => State::Close,
        }
    }

    /// Goes on by what the two records say.
    fn resume(&mut self, world: &mut World) {
        let source = self.source().progress;
        let target = self.target().progress;
        self.state = match () {
            // The target has published: only forward.
            () if world.rules.no_return && target.moved > source.moved => State::PublishSource,
            // Gives the batch up, sometimes.
            () if source.has_closed() && world.random(3) == 0 => State::Reopen,
            // What has moved is deleted, perhaps once more.
            () => State::Delete(0),
        };
    }

    fn handle(&mut self, reply: Reply, world: &mut World) {
        match (self.state, reply) {
            (State::Enter(node, Entering::Name), _) => {
                self.state = State::Enter(node, Entering::Read);
            }
            (State::Enter(node, Entering::Read), Reply::Record(record, run_id)) => {
                self.records[node] = record;
                self.run_ids[node] = run_id;
                world.is_rolled_back &= node != SOURCE;
                self.term = self.term.max(record.unwrap_or(NONE).epoch.term);
                self.state = match node {
                    TARGET => State::Enter(SOURCE, Entering::Name),
                    _ => State::Claim(TARGET),
                };
            }
            (State::Claim(node), Reply::Published(true)) => {
                self.records[node] = Some(self.claim(node, world));
                self.state = match node {
                    TARGET => State::Claim(SOURCE),
                    _ => State::KillOther(TARGET),
                };
            }
            (State::KillOther(node), _) => self.state = self.after_kill(node),
            (State::Fence, Reply::List(list)) => self.fence(&list, world),
            // The kill has been executed: whoever was disconnected is gone.
            (State::Fence, Reply::Done) => {}
            (State::Clear(unit), _) => self.state = State::Clear(unit + 1),
            (State::Dump(unit), Reply::Value(value)) => {
                self.copied.push(value);
                self.state = State::Restore(unit);
            }
            (State::Restore(unit), _) => self.state = State::Dump(unit + 1),
            (State::ReadSource, Reply::Values(values)) => {
                self.source = values;
                self.state = State::ReadTarget;
            }
            (State::ReadTarget, Reply::Values(values)) => {
                let batch = self.moved() as usize..self.end() as usize;
                self.state = match self.source[batch.clone()] == values[batch] {
                    true if world.rules.delete_last => State::PublishTarget,
                    true => State::DeleteEarly(self.moved()),
                    false => State::Clear(self.moved()),
                };
            }
            (state, Reply::Published(true)) => self.published(state, world),
            // Somebody else has claimed the term.
            (_, Reply::Published(false)) => self.stop(world),
            (State::Delete(unit), _) => self.state = State::Delete(unit + 1),
            (State::DeleteEarly(unit), _) => self.state = State::DeleteEarly(unit + 1),
            _ => {}
        }
    }

    /// The record that claims a term at this node.
    ///
    /// The source may be an old copy that does not know of what has moved, and is believed from here on: so the claim says
    /// what the target knows.
    fn claim(&self, node: usize, world: &World) -> Record {
        let own = self.records[node].unwrap_or(NONE).progress;
        let moved = match node {
            SOURCE if world.rules.no_return => self.moved(),
            _ => own.moved,
        };
        Record {
            epoch: RecordEpoch::new(self.term + 1, self.me as u32 * 1000),
            progress: Progress {
                moved,
                closed: own.closed.max(moved),
            },
            seal: self.run_ids[node],
        }
    }

    fn published(&mut self, state: State, world: &World) {
        let first = usize::from(world.rules.target_first);
        let (node, progress, next) = match state {
            State::Close => {
                let progress = Progress {
                    moved: self.source().progress.moved,
                    closed: self.end(),
                };
                self.fence_looks = 0;
                (SOURCE, progress, State::Fence)
            }
            State::PublishTarget => (first, self.all_moved(), State::PublishSource),
            State::PublishSource => (1 - first, self.all_moved(), State::Delete(0)),
            State::Reopen => {
                let moved = self.source().progress.moved;
                let progress = Progress {
                    moved,
                    closed: moved,
                };
                // Without the rule it is an abort that ends here.
                let next = match world.rules.no_return {
                    true => State::Delete(0),
                    false => State::Idle,
                };
                (SOURCE, progress, next)
            }
            _ => return,
        };
        let (_, record) = self.next(node, progress);
        self.records[node] = Some(record);
        self.state = next;
    }

    fn fence(&mut self, list: &[(u32, Who, Option<RecordEpoch>)], world: &mut World) {
        let epoch = self.source().epoch;
        let unnamed_is_late = world.rules.unnamed_is_late;
        let is_late =
            |name: &Option<RecordEpoch>| name.map_or(unnamed_is_late, |name| name < epoch);
        let late = list
            .iter()
            .filter(|(_, who, name)| matches!(who, Who::Client(_)) && is_late(name));
        let late: Vec<u32> = late.map(|(id, ..)| *id).collect();
        if late.is_empty() {
            self.state = State::Clear(self.moved());
            return;
        }
        self.fence_looks += 1;
        if self.fence_looks > LOOKS {
            self.send_to(world, SOURCE, Command::Kill(late));
        }
    }
}

const NONE: Record = Record {
    epoch: RecordEpoch::new(0, 0),
    progress: Progress {
        moved: 0,
        closed: 0,
    },
    seal: 0,
};
