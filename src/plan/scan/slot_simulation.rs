//! Scans by slots over simulated clusters whose slots move between any two commands.
//!
//! Each schedule is a random cluster and a random sequence of what happens to it. Keys that exist from the beginning to
//! the end must be returned, and exactly once if their slot is never scanned by pages.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, ErrorKind};
use crate::hash::{HashTag, SLOTS, slot, slot_tag};
use crate::plan::scan::cursor::mix;
use crate::plan::scan::options::ScanOptions;
use crate::plan::scan::slot_cursor::{SlotCursor, slot_at};
use crate::plan::scan::slot_scan::{
    Probe, ScanLimits, ScanServer, ServerProcess, SlotQuestion, SlotReply, SlotRequest, SlotScan,
    SlotScanStep,
};
use crate::topology::HostPort;

/// Number of slots that are scanned.
const SLOTS_SCANNED: u16 = 12;

/// Number of primaries, and of replicas.
const SERVERS: usize = 3;
const SPARE: usize = 3;

const LIMITS: ScanLimits = ScanLimits {
    slot_keys: 12,
    slot_keys_without_cursor: 24,
    page_keys: 4,
    slots_of_node: 3,
    round_keys: 30,
    step_slots: 8,
    attempts_at_once: 3,
    attempts: 60,
    positions: SLOTS_SCANNED,
};

/// Number of schedules that are run; more by hand.
const SCHEDULES: u64 = 500;

/// A schedule that misses a key if the source does not confirm that the move is still the same.
const WITHOUT_CONFIRMATION: u64 = 2243;

type Key = Vec<u8>;

/// A server of the cluster.
struct Server {
    keys: BTreeMap<u16, BTreeSet<Key>>,
    /// Changes when it is restarted: its cursors mean nothing then.
    process: u64,
    has_slot_cursors: bool,
    is_reachable: bool,
    /// The owner of each slot as far as it knows.
    owners: BTreeMap<u16, usize>,
    /// The slots that it is moving away, and where to; and those that it takes in.
    migrating: BTreeMap<u16, usize>,
    importing: BTreeSet<u16>,
}

/// A source of numbers that is the same in every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from `range`.
    fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.bits() as usize % range.len()
    }
}

impl Server {
    fn of(&self, slot: u16) -> impl DoubleEndedIterator<Item = &Key> {
        self.keys.get(&slot).into_iter().flatten()
    }

    fn insert(&mut self, slot: u16, key: Key) {
        self.keys.entry(slot).or_default().insert(key);
    }

    fn remove(&mut self, slot: u16, key: &[u8]) -> bool {
        self.keys
            .get_mut(&slot)
            .is_some_and(|keys| keys.remove(key))
    }
}

struct Cluster {
    servers: Vec<Server>,
    /// What the client believes.
    map: BTreeMap<u16, usize>,
    random: Random,
    /// Servers that have been replicas all the time.
    replicas: Vec<usize>,
    /// The server that was asked for each slot last. A slot that has left it does not come back before it is asked for
    /// anew, as there and back again in that time goes unnoticed.
    asked: BTreeMap<u16, usize>,
    /// The slots that have come back to that server because a move was cancelled.
    cancelled: BTreeSet<u16>,
    /// Number of events of each kind so far.
    events: [u32; 9],
    /// What may happen.
    is_calm: bool,
}

fn address(server: usize) -> HostPort {
    HostPort {
        host: "server".to_owned(),
        port: 7000 + server as u16,
    }
}

fn key_in(slot: u16, name: &str) -> Key {
    let tag = slot_tag(slot);
    [&b"{"[..], &tag, b"}", name.as_bytes()].concat()
}

fn slot_of(key: &[u8]) -> u16 {
    slot(HashTag::Braces.of(key))
}

/// The place of a key in the tables of a process, of 256 buckets.
fn bucket(process: u64, key: &[u8]) -> u64 {
    // FNV-1a.
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = mix(key.iter().fold(process, add));
    hash % 256
}

impl Cluster {
    fn new(seed: u64, has_slot_cursors: bool) -> Self {
        let slots = || (0..SLOTS_SCANNED).map(slot_at);
        let owners: BTreeMap<u16, usize> = slots()
            .map(|slot| (slot, usize::from(slot / 7) % SERVERS))
            .collect();
        let server = |number: usize| Server {
            keys: BTreeMap::new(),
            process: mix(number as u64 + 1),
            has_slot_cursors,
            is_reachable: number < SERVERS,
            owners: owners.clone(),
            migrating: BTreeMap::new(),
            importing: BTreeSet::new(),
        };
        Self {
            servers: (0..SERVERS + SPARE).map(server).collect(),
            map: owners,
            random: Random(mix(seed)),
            replicas: (SERVERS..SERVERS + SPARE).collect(),
            asked: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            events: [0; 9],
            is_calm: false,
        }
    }

    /// The owner of a slot in truth: the one that believes it, which is one at any time.
    fn owner(&self, slot: u16) -> usize {
        let believes = |number: &usize| {
            let server = &self.servers[*number];
            server.is_reachable && server.owners[&slot] == *number
        };
        let mut owners = (0..self.servers.len()).filter(believes);
        owners.next().expect("each slot has an owner")
    }

    fn set_owner(&mut self, slot: u16, owner: usize) {
        for server in &mut self.servers {
            server.owners.insert(slot, owner);
        }
    }

    /// The client learns the map, or believes something wrong.
    fn change_map(&mut self) {
        let slots: Vec<u16> = self.map.keys().copied().collect();
        let kind = match self.is_calm {
            true => 0,
            false => self.random.within(0..4),
        };
        for slot in slots {
            let owner = match kind {
                0 | 1 => self.owner(slot),
                2 => self.random.within(0..self.servers.len()),
                _ => continue,
            };
            self.map.insert(slot, owner);
        }
    }

    /// Lets something happen, or nothing.
    fn shake(&mut self) {
        if self.is_calm {
            return;
        }
        for _ in 0..self.random.within(0..3) {
            let position = self.random.within(0..SLOTS_SCANNED.into()) as u16;
            let slot = slot_at(position);
            let event = self.random.within(0..9);
            if self.happen(event, slot) {
                self.events[event] += 1;
            }
        }
    }

    fn happen(&mut self, event: usize, slot: u16) -> bool {
        let source = self.owner(slot);
        let moving = self.servers[source].migrating.get(&slot).copied();
        let living: Vec<usize> = (0..self.servers.len())
            .filter(|&number| self.servers[number].is_reachable && number != source)
            .collect();
        let other = living[self.random.within(0..living.len())];
        let first_of = |server: &Server| server.of(slot).next_back().cloned();
        match (event, moving) {
            (0, _) if self.cancelled.contains(&slot) => return false,
            (4, Some(target)) if self.asked.get(&slot) == Some(&target) => return false,
            (6, _) if self.asked.get(&slot) == Some(&other) => return false,
            // A move of the old kind begins: at the target first.
            (0, None) => {
                self.servers[other].importing.insert(slot);
                self.servers[source].migrating.insert(slot, other);
            }
            // A key moves.
            (1..=3, Some(target)) => {
                let Some(key) = first_of(&self.servers[source]) else {
                    return false;
                };
                self.servers[source].remove(slot, &key);
                self.servers[target].insert(slot, key);
            }
            // The move ends: the target knows it first.
            (4, Some(target)) if first_of(&self.servers[source]).is_none() => {
                self.servers[target].importing.remove(&slot);
                self.servers[source].migrating.remove(&slot);
                self.set_owner(slot, target);
            }
            // A move is cancelled, and what has moved comes back.
            (5, Some(target)) => {
                self.servers[target].importing.remove(&slot);
                self.servers[source].migrating.remove(&slot);
                self.hand_over(slot, target, source);
                self.cancelled.insert(slot);
            }
            // An atomic move.
            (6, None) => {
                self.hand_over(slot, source, other);
                self.set_owner(slot, other);
            }
            // A replica takes over, with the keys and slots of its primary.
            (7, _) if self.random.within(0..12) == 0 => return self.fail_over(source),
            // Another key comes, or goes.
            (8, _) => {
                let key = key_in(slot, &format!("t{}", self.random.within(0..8)));
                if !self.servers[source].remove(slot, &key) && moving.is_none() {
                    self.servers[source].insert(slot, key);
                }
            }
            _ => return false,
        }
        true
    }

    /// Moves all keys of a slot at once.
    fn hand_over(&mut self, slot: u16, from: usize, to: usize) {
        let keys = self.servers[from].keys.remove(&slot).unwrap_or_default();
        self.servers[to].keys.entry(slot).or_default().extend(keys);
    }

    fn fail_over(&mut self, failed: usize) -> bool {
        let Some(replica) = self.replicas.pop() else {
            return false;
        };
        let process = self.random.bits();
        let former = &mut self.servers[failed];
        former.is_reachable = false;
        let keys = std::mem::take(&mut former.keys);
        let migrating = std::mem::take(&mut former.migrating);
        let importing = std::mem::take(&mut former.importing);
        let promoted = &mut self.servers[replica];
        promoted.is_reachable = true;
        (promoted.keys, promoted.migrating, promoted.importing) = (keys, migrating, importing);
        promoted.process = process;
        for server in &mut self.servers {
            for owner in server
                .owners
                .values_mut()
                .chain(server.migrating.values_mut())
            {
                if *owner == failed {
                    *owner = replica;
                }
            }
        }
        true
    }

    fn probe(&self, server: usize, slot: u16, is_asking: bool) -> Probe {
        let asked = &self.servers[server];
        let owner = asked.owners[&slot];
        match asked.migrating.get(&slot) {
            Some(&target) if owner == server => Probe::Ask(address(target)),
            _ if owner == server || is_asking && asked.importing.contains(&slot) => Probe::Absent,
            _ => Probe::Moved(address(owner)),
        }
    }

    fn keys(&self, server: usize, slot: u16, limit: usize) -> Vec<Key> {
        self.servers[server].of(slot).take(limit).cloned().collect()
    }

    /// SCAN: buckets in their order until there are enough keys.
    fn page(&self, server: usize, cursor: u64, count: usize) -> (u64, Vec<Key>) {
        let server = &self.servers[server];
        let slots = u64::from(SLOTS);
        let from = match server.has_slot_cursors {
            true => ((cursor % slots) as u16, cursor / slots),
            false => (0, cursor),
        };
        let mut keys: Vec<((u16, u64), &Key)> = Vec::new();
        for (slot, of_slot) in &server.keys {
            let slot = u16::from(server.has_slot_cursors) * slot;
            keys.extend(
                of_slot
                    .iter()
                    .map(|key| ((slot, bucket(server.process, key)), key)),
            );
        }
        keys.retain(|(place, _)| *place >= from);
        keys.sort();
        let mut page: Vec<Key> = Vec::new();
        let mut last = None;
        for (place, key) in keys {
            if page.len() >= count && last != Some(place) {
                let (slot, bucket) = place;
                let next = match server.has_slot_cursors {
                    true => bucket * slots + u64::from(slot),
                    false => bucket,
                };
                return (next, page);
            }
            last = Some(place);
            page.push(key.clone());
        }
        (0, page)
    }

    fn server_of(&self, request: &SlotRequest) -> usize {
        match &request.server {
            ScanServer::Owner => self.map[&request.slot],
            ScanServer::Other => (self.map[&request.slot] + 1) % self.servers.len(),
            ScanServer::At(address) => usize::from(address.port - 7000),
        }
    }

    /// Replies to a request, while things happen between its commands.
    fn reply(&mut self, request: &SlotRequest) -> SlotReply {
        let (slot, is_asking) = (request.slot, request.is_asking);
        self.shake();
        if request.question == SlotQuestion::Locate {
            return SlotReply::Located(address(self.owner(slot)));
        }
        let server = self.server_of(request);
        let process = self.servers[server].process;
        if !self.servers[server].is_reachable {
            return SlotReply::Failed(Error::new(ErrorKind::NodeDown, "it is down"));
        }
        if !is_asking && request.question != SlotQuestion::Probe {
            self.asked.insert(slot, server);
            self.cancelled.remove(&slot);
        }
        let before = self.probe(server, slot, is_asking);
        self.shake();
        let reply = match request.question {
            SlotQuestion::Keys { limit } => {
                let keys = self.keys(server, slot, limit);
                self.shake();
                let after = self.probe(server, slot, is_asking);
                SlotReply::Keys {
                    before,
                    keys,
                    after,
                }
            }
            SlotQuestion::Page { cursor, count } => {
                let (cursor, keys) = self.page(server, cursor, count);
                self.shake();
                let asked = &self.servers[server];
                SlotReply::Page {
                    before,
                    server: ServerProcess {
                        id: asked.process,
                        has_slot_cursors: asked.has_slot_cursors,
                    },
                    cursor,
                    keys,
                    after: self.probe(server, slot, is_asking),
                }
            }
            SlotQuestion::Probe | SlotQuestion::Locate => SlotReply::Probe(before),
        };
        // The connection breaks with the server.
        match self.servers[server].is_reachable && self.servers[server].process == process {
            true => reply,
            false => SlotReply::Failed(Error::new(ErrorKind::NodeDown, "it broke")),
        }
    }
}

/// Scans everything with COUNT `count`, and returns each key with the number of times that it was returned.
fn scan(cluster: &mut Cluster, count: usize) -> BTreeMap<Key, u32> {
    let mut found = BTreeMap::new();
    let (mut cursor, mut steps) = (SlotCursor::START, 0);
    loop {
        let options = ScanOptions {
            count,
            pattern: None,
            type_name: None,
        };
        let mut scan = SlotScan::new(cursor, options, LIMITS, SERVERS, false);
        cluster.change_map();
        let page = loop {
            match scan.poll() {
                SlotScanStep::Ask(requests) => {
                    for request in requests {
                        let reply = cluster.reply(&request);
                        scan.handle(request.number, reply);
                    }
                }
                SlotScanStep::Done(page) => break page.expect("no error"),
            }
        };
        for key in page.keys {
            *found.entry(key).or_default() += 1;
        }
        // Not as a number: its check lets one of 1024 other processes pass.
        let Some(next) = page.next else {
            return found;
        };
        assert!(next.pack().is_some_and(|number| number > 0));
        cursor = next;
        steps += 1;
        // Nothing may keep a scan from its end for ever: pages are begun again when their slots move.
        cluster.is_calm |= steps > 150;
        assert!(steps < 1000, "the scan does not end");
    }
}

/// One schedule. `large` slots have more keys than are fetched at once.
fn schedule(seed: u64, has_slot_cursors: bool, events: &mut [u32; 9]) {
    let mut cluster = Cluster::new(seed, has_slot_cursors);
    if seed % 5 == 4 {
        // During an upgrade.
        cluster.servers[1].has_slot_cursors ^= true;
    }
    let mut lasting = BTreeSet::new();
    let mut large = BTreeSet::new();
    for position in 0..SLOTS_SCANNED {
        let slot = slot_at(position);
        let keys = match cluster.random.within(0..8) {
            0 | 1 => 0,
            // With the eight keys that come and go, never too many.
            2..7 => cluster.random.within(1..5),
            _ => cluster.random.within(13..70),
        };
        if keys > 12 {
            large.insert(slot);
        }
        let owner = cluster.owner(slot);
        let names = (0..keys).map(|number| key_in(slot, &format!("k{number}")));
        lasting.extend(names.clone());
        cluster.servers[owner]
            .keys
            .entry(slot)
            .or_default()
            .extend(names);
    }
    // Some slots rest half moved from the beginning.
    for _ in 0..cluster.random.within(0..40) {
        let slot = slot_at(cluster.random.within(0..SLOTS_SCANNED.into()) as u16);
        let event = cluster.random.within(0..4);
        cluster.happen(event, slot);
    }
    cluster.is_calm = seed.is_multiple_of(3);
    let count = cluster.random.within(1..20);
    let found = scan(&mut cluster, count);
    for key in &lasting {
        let times = found.get(key).copied().unwrap_or(0);
        let is_right = times == 1 || times > 1 && large.contains(&slot_of(key));
        assert!(
            is_right,
            "seed {seed}: {} was returned {times} times",
            key.escape_ascii()
        );
    }
    for (sum, count) in events.iter_mut().zip(cluster.events) {
        *sum += count;
    }
}

#[test]
fn scan_by_slots_misses_and_doubles_no_key_whatever_moves() {
    let mut events = [0; 9];
    for seed in (0..SCHEDULES).chain([WITHOUT_CONFIRMATION]) {
        schedule(seed, seed % 2 == 0, &mut events);
    }
    assert!(events.iter().all(|&count| count > 50), "{events:?}");
}
