//! Real Redis Clusters on loopback.
//!
//! ```ignore
//! for server in clusters::servers() {                 // the installed one, and those of REDIS_SHARDING_SERVERS
//!     let cluster = Cluster::start(&server, 3, 3);    // three primaries, with one replica each
//!     let client = ShardedClient::cluster(cluster.urls())?;
//!     let moving = cluster.begin_move(slot, 1);       // ASK and TRYAGAIN from now on
//!     moving.keys(2);                                 // two keys have left
//!     moving.end();
//! }
//! ```
//!
//! Nodes are numbered: primaries first, then the replicas of each primary in turn. They keep their numbers when they change
//! their roles. Slots are divided as `redis-cli --cluster create` does it.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, InfoDict, Pipeline, RedisResult, Value, cmd, pipe};

use super::cluster_bus::{self, BusRelay, Network};
use super::cut::{Cut, Mode};
use super::replicas::{calls_in, wait_until};
use super::servers::{self, Servers, own_address};

pub const SLOTS: u16 = 16_384;
/// How long a node that is asked by a test may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const DEFAULT_NODE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long MIGRATE may take, in milliseconds.
const MIGRATE_MS: u64 = 5000;
/// How many slots are on their way together when ranges are moved.
const SLOTS_TOGETHER: usize = 128;

/// A server that clusters are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// As it names itself: `Redis 7.0.15`.
    pub name: String,
    pub path: PathBuf,
    pub version: (u32, u32),
    pub is_valkey: bool,
}

/// The installed server, and those whose paths are in `REDIS_SHARDING_SERVERS`, divided as in `PATH`. None when there is no
/// binary and the environment allows it.
pub fn servers() -> Vec<Server> {
    static SERVERS: LazyLock<Vec<Server>> = LazyLock::new(|| {
        let named = env::var_os("REDIS_SHARDING_SERVERS").unwrap_or_default();
        let named: Vec<PathBuf> = env::split_paths(&named)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        let installed = servers::binary();
        installed
            .into_iter()
            .chain(named)
            .map(|path| Server::at(&path))
            .collect()
    });
    SERVERS.clone()
}

/// Runs a test on each of the [`servers`], all at once.
pub fn on_each_server(test: impl Fn(&Server) + Sync) {
    let servers = servers();
    thread::scope(|scope| {
        let running: Vec<_> = servers
            .iter()
            .map(|server| (&server.name, scope.spawn(|| test(server))))
            .collect();
        for (name, thread) in running {
            assert!(thread.join().is_ok(), "it failed on {name}");
        }
    });
}

impl Server {
    fn at(path: &Path) -> Self {
        let output = Command::new(path).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {path:?}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, version) = text.split_once("v=").expect("a version");
        let version = version.split_whitespace().next().expect("a version");
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        let is_valkey = text.contains("Valkey");
        Self {
            name: format!("{} {version}", if is_valkey { "Valkey" } else { "Redis" }),
            path: path.to_owned(),
            version: (numbers.next().unwrap(), numbers.next().unwrap()),
            is_valkey,
        }
    }

    /// Whether it has CLUSTER MIGRATESLOTS.
    pub fn moves_atomically(&self) -> bool {
        self.is_valkey && self.version.0 >= 9
    }
}

/// All nodes are killed when this is dropped, also when the test panics.
pub struct Cluster {
    pub server: Server,
    options: Builder,
    members: RwLock<Vec<Arc<Member>>>,
    network: Arc<Network>,
    /// Held during MIGRATE: two nodes that do it to each other wait for each other, until their time is over.
    migrating: Mutex<()>,
    /// Held until all have heard of a slot's new owner: two nodes that take slots at once may take the same epoch, and one
    /// of the slots is lost.
    taking: Mutex<()>,
    /// The next slot that [`own_slot`](Self::own_slot) gives away.
    next_slot: AtomicU16,
}

struct Member {
    /// One server.
    server: Servers,
    id: String,
    /// The number of its first primary.
    shard: usize,
    cut: Option<Cut>,
    bus: Option<BusRelay>,
    is_dead: AtomicBool,
    is_paused: AtomicBool,
}

/// How its nodes are started.
#[derive(Clone)]
pub struct Builder {
    server: Server,
    node_timeout: Duration,
    cuts: bool,
    options: Vec<Vec<String>>,
}

/// A node as CLUSTER NODES shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLine {
    pub id: String,
    pub addr: String,
    pub flags: Vec<String>,
    pub primary: Option<String>,
    pub epoch: u64,
    pub slots: Vec<RangeInclusive<u16>>,
    /// Slots on their way: `[93-<-id]`, `[93->-id]`.
    pub moving: Vec<String>,
}

/// A slot on its way from node to node, the old way. It stays as it is until it is ended or taken back.
#[derive(Clone, Copy)]
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    pub slot: u16,
    pub from: usize,
    pub to: usize,
}

impl Cluster {
    /// Of so many primaries, each with so many replicas. It is ready: all nodes agree, all replicas are linked.
    pub fn start(server: &Server, primaries: usize, replicas: usize) -> Self {
        Self::builder(server).start(primaries, replicas)
    }

    pub fn builder(server: &Server) -> Builder {
        Builder {
            server: server.clone(),
            node_timeout: DEFAULT_NODE_TIMEOUT,
            cuts: false,
            options: Vec::new(),
        }
    }

    /// Of three primaries, for all tests of this process that leave nodes and other tests' slots alone: see
    /// [`own_slot`](Self::own_slot). Killed when the last of them has ended.
    pub fn shared(server: &Server) -> Arc<Self> {
        static SHARED: LazyLock<Mutex<HashMap<Server, Weak<Cluster>>>> =
            LazyLock::new(Mutex::default);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let there = shared.get(server).and_then(Weak::upgrade);
        there.unwrap_or_else(|| {
            let cluster = Arc::new(Self::start(server, 3, 0));
            shared.insert(server.clone(), Arc::downgrade(&cluster));
            cluster
        })
    }

    /// How many nodes there are, also dead ones.
    pub fn len(&self) -> usize {
        self.members().len()
    }

    /// Where clients reach a node: `host:port`. That of the cut, if it has one.
    pub fn addr(&self, node: usize) -> String {
        self.member(node).addr()
    }

    pub fn url(&self, node: usize) -> String {
        format!("redis://{}/", self.addr(node))
    }

    /// Seeds: the URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|node| self.url(node)).collect()
    }

    /// The number of the node at `host:port`.
    pub fn index_of(&self, addr: &str) -> Option<usize> {
        (0..self.len()).find(|&node| self.addr(node) == addr)
    }

    /// The node's ID of 40 characters.
    pub fn id(&self, node: usize) -> String {
        self.member(node).id.clone()
    }

    pub fn pid(&self, node: usize) -> u32 {
        self.member(node).server.pid(0)
    }

    /// Nodes that are neither killed nor paused.
    pub fn running(&self) -> Vec<usize> {
        let members = self.members();
        let running = members.iter().enumerate().filter(|(_, member)| {
            !member.is_dead.load(Ordering::SeqCst) && !member.is_paused.load(Ordering::SeqCst)
        });
        running.map(|(node, _)| node).collect()
    }

    /// A direct connection, by no cut.
    pub fn connection(&self, node: usize) -> redis::Connection {
        self.try_connection(node)
            .unwrap_or_else(|error| panic!("node {node}: {error}"))
    }

    pub fn try_connection(&self, node: usize) -> RedisResult<redis::Connection> {
        let client = redis::Client::open(self.member(node).server.url(0))?;
        let connection = client.get_connection_with_timeout(ANSWER_WITHIN)?;
        connection.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(connection)
    }

    /// Asks one node, in words.
    pub fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> RedisResult<T> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.try_connection(node)?)
    }

    /// The cluster by a node's CLUSTER NODES.
    pub fn nodes_by(&self, node: usize) -> RedisResult<Vec<NodeLine>> {
        let text: String = self.ask(node, &["CLUSTER", "NODES"])?;
        Ok(text.lines().map(NodeLine::parse).collect())
    }

    /// A node as it sees itself.
    pub fn own_line(&self, node: usize) -> RedisResult<NodeLine> {
        let mut lines = self.nodes_by(node)?.into_iter();
        Ok(lines
            .find(|line| line.has("myself"))
            .expect("a line of its own"))
    }

    /// The slots that a node says are its own.
    pub fn slots(&self, node: usize) -> Vec<RangeInclusive<u16>> {
        self.own_line(node).unwrap().slots
    }

    /// The node that says that a slot is its own.
    pub fn owner(&self, slot: u16) -> usize {
        let owns = |node: &usize| {
            let line = self.own_line(*node);
            line.is_ok_and(|line| line.has("master") && line.owns(slot))
        };
        let owner = self.running().into_iter().find(owns);
        owner.unwrap_or_else(|| panic!("slot {slot} has no owner"))
    }

    /// The nodes that say that they are primaries, whether or not they have slots.
    pub fn primaries(&self) -> Vec<usize> {
        let is_primary = |node: &usize| self.own_line(*node).is_ok_and(|line| line.has("master"));
        self.running().into_iter().filter(is_primary).collect()
    }

    /// The running nodes that are replicas of this one, by their own account.
    pub fn replicas(&self, primary: usize) -> Vec<usize> {
        let id = self.id(primary);
        let follows = |node: &usize| {
            let line = self.own_line(*node);
            line.is_ok_and(|line| line.primary.as_deref() == Some(&*id))
        };
        self.running().into_iter().filter(follows).collect()
    }

    /// A section of INFO.
    pub fn info(&self, node: usize, section: &str) -> RedisResult<InfoDict> {
        self.ask(node, &["INFO", section])
    }

    /// How often a node was sent a command since the start or [`reset_stats`](Self::reset_stats).
    pub fn calls(&self, node: usize, command: &str) -> u64 {
        calls_in(&self.info(node, "commandstats").unwrap(), command)
    }

    /// How often a node has replied with an error of this code since the start or [`reset_stats`](Self::reset_stats).
    pub fn errors(&self, node: usize, code: &str) -> u64 {
        let info = self.info(node, "errorstats").unwrap();
        let line: Option<String> = info.get(&format!("errorstat_{code}"));
        let count = line.as_deref().and_then(|line| line.strip_prefix("count="));
        count.map_or(0, |count| count.parse().unwrap())
    }

    pub fn reset_stats(&self, node: usize) {
        let () = self.ask(node, &["CONFIG", "RESETSTAT"]).unwrap();
    }

    /// A slot of a node that no other test of this process is given.
    pub fn own_slot(&self, node: usize) -> u16 {
        let slots = self.slots(node);
        loop {
            // 61 does not divide the number of slots: each is reached once.
            let number = self.next_slot.fetch_add(61, Ordering::Relaxed);
            let slot = number % SLOTS;
            if slots.iter().any(|range| range.contains(&slot)) {
                return slot;
            }
        }
    }

    /// Waits until all running nodes name the same owners, are well, and know all nodes.
    pub fn wait_until_agreed(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.is_agreed() {
            let running = self.running().into_iter();
            let views = || -> String {
                running
                    .map(|node| {
                        let text: RedisResult<String> = self.ask(node, &["CLUSTER", "NODES"]);
                        let info: RedisResult<String> = self.ask(node, &["CLUSTER", "INFO"]);
                        let state = info.unwrap_or_default();
                        let state = state.lines().next().unwrap_or_default();
                        format!("{node}, {state}:\n{}", text.unwrap_or_default())
                    })
                    .collect()
            };
            assert!(
                Instant::now() < deadline,
                "the nodes do not agree:\n{}",
                views()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_agreed(&self) -> bool {
        let mut views = self.running().into_iter().map(|node| self.view(node).ok());
        let Some(Some(first)) = views.next() else {
            return false;
        };
        first.is_well() && views.all(|view| view.as_ref() == Some(&first))
    }

    /// Waits until all running replicas are linked to their primaries.
    pub fn wait_until_linked(&self) {
        wait_until("the replicas are linked", || {
            self.running().into_iter().all(|node| {
                let Ok(info) = self.info(node, "replication") else {
                    return false;
                };
                info.get::<String>("role").as_deref() == Some("master")
                    || info.get::<String>("master_link_status").as_deref() == Some("up")
            })
        });
    }

    fn view(&self, node: usize) -> RedisResult<View> {
        let state: String = self.ask(node, &["CLUSTER", "INFO"])?;
        let lines = self.nodes_by(node)?;
        let is_ok = state.contains("cluster_state:ok");
        let is_known = lines.iter().all(|line| !line.has("handshake"));
        let owners = lines.iter().filter(|line| !line.slots.is_empty());
        Ok(View {
            is_ok: is_ok && is_known,
            nodes: lines.len(),
            owners: owners
                .map(|line| (line.id.clone(), line.slots.clone()))
                .collect(),
        })
    }

    fn members(&self) -> Vec<Arc<Member>> {
        let members = self.members.read();
        members.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn member(&self, node: usize) -> Arc<Member> {
        Arc::clone(&self.members()[node])
    }

    fn pipeline(&self, node: usize, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        pipeline.query(&mut self.try_connection(node)?)
    }

    /// What a node has to say about its life.
    pub fn log(&self, node: usize) -> String {
        self.member(node).server.log(0)
    }
}

/// Nodes that die, stop and are cut off.
impl Cluster {
    /// Kills a node at once (SIGKILL): its port refuses connections, its data is gone.
    pub fn kill(&self, node: usize) {
        let member = self.member(node);
        member.is_dead.store(true, Ordering::SeqCst);
        member.server.kill(0);
        if let Some(cut) = &member.cut {
            cut.set(Mode::Refuse);
        }
    }

    /// Starts a killed node on its address: it remembers the cluster and its last role, and is empty.
    pub fn restart(&self, node: usize) {
        let member = self.member(node);
        member.server.restart(0);
        if let Some(cut) = &member.cut {
            cut.set(Mode::Pass);
        }
        member.is_dead.store(false, Ordering::SeqCst);
    }

    /// Stops a node in its tracks (SIGSTOP): connections stay open, and connect, but nothing is answered.
    pub fn pause(&self, node: usize) {
        let member = self.member(node);
        member.is_paused.store(true, Ordering::SeqCst);
        member.server.pause(0);
    }

    /// Lets a paused node go on (SIGCONT): it answers what it was sent in the meantime.
    pub fn resume(&self, node: usize) {
        let member = self.member(node);
        member.server.resume(0);
        member.is_paused.store(false, Ordering::SeqCst);
    }

    /// The network between clients and replicas on one side, and a node; built with [`cuts`](Builder::cuts).
    pub fn with_cut<T>(&self, node: usize, with: impl FnOnce(&Cut) -> T) -> T {
        with(self.member(node).cut.as_ref().expect("built with cuts()"))
    }

    /// From now on these nodes and the others do not hear each other. Clients still reach all of them, unless their cuts are
    /// set. Built with [`cuts`](Builder::cuts).
    pub fn part(&self, nodes: &[usize]) {
        assert!(self.options.cuts, "built with cuts()");
        self.network.part(nodes);
    }

    /// All nodes hear each other again.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// How many bytes between nodes were thrown away.
    pub fn bus_bytes_dropped(&self) -> usize {
        self.network.bytes_dropped()
    }

    /// Waits until another node has taken the slots of this one. Returns its number, and when that was seen first.
    pub fn wait_until_promoted(&self, primary: usize) -> (usize, Instant) {
        let promoted = self.promoted_within(primary, Duration::from_secs(20));
        promoted.unwrap_or_else(|others| {
            let logs: String = others.iter().map(|&node| self.log(node)).collect();
            panic!("none of {others:?} was promoted after node {primary}; their logs:\n{logs}")
        })
    }

    /// The node that has taken the slots of a primary, or those that could have.
    fn promoted_within(
        &self,
        primary: usize,
        limit: Duration,
    ) -> Result<(usize, Instant), Vec<usize>> {
        let members = self.members();
        let shard = members[primary].shard;
        let of_shard = |&node: &usize| members[node].shard == shard && node != primary;
        let others: Vec<usize> = self.running().into_iter().filter(of_shard).collect();
        let connections = others.iter().map(|&node| (node, self.connection(node)));
        let mut connections: Vec<_> = connections.collect();
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            for (node, connection) in &mut connections {
                let nodes: String = cmd("CLUSTER").arg("NODES").query(connection).unwrap();
                let mut lines = nodes.lines().map(NodeLine::parse);
                let own = lines.find(|line| line.has("myself"));
                if own.is_some_and(|own| own.has("master") && !own.slots.is_empty()) {
                    return Ok((*node, Instant::now()));
                }
            }
            thread::sleep(Duration::from_millis(3));
        }
        Err(others)
    }

    /// Asks a replica to take over from its primary, which is well (CLUSTER FAILOVER), and waits until it has.
    pub fn failover(&self, replica: usize) -> Instant {
        let primary = self.own_line(replica).unwrap().primary;
        let primary = primary.expect("a replica");
        let primary = (0..self.len()).find(|&node| self.id(node) == primary);
        let mut promoted = None;
        wait_until("CLUSTER FAILOVER", || {
            // One whose link is young is refused, or the primary does not hear of it.
            let asked: RedisResult<()> = self.ask(replica, &["CLUSTER", "FAILOVER"]);
            let within = Duration::from_secs(1);
            promoted = asked.ok().and_then(|()| {
                self.promoted_within(primary.expect("one of ours"), within)
                    .ok()
            });
            promoted.is_some()
        });
        let (node, at) = promoted.expect("waited for");
        assert_eq!(node, replica, "another replica was promoted");
        at
    }

    /// A primary without slots, which knows all nodes and is known to them. Returns its number.
    pub fn add_primary(&self) -> usize {
        let node = self.len();
        let member = self.options.member(node, node, &self.network);
        let mut members = self.members.write().unwrap();
        members.push(Arc::new(member));
        drop(members);
        self.meet(node);
        self.wait_until_agreed();
        node
    }

    /// All nodes but itself forget a node (CLUSTER FORGET). It goes on as if nothing had happened.
    pub fn forget(&self, node: usize) {
        let id = self.id(node);
        for other in self.running().into_iter().filter(|&other| other != node) {
            let () = self.ask(other, &["CLUSTER", "FORGET", &id]).unwrap();
        }
    }

    /// Introduces a node to all others.
    fn meet(&self, node: usize) {
        let members = self.members();
        let mut pipeline = pipe();
        for (other, member) in members.iter().enumerate() {
            if other != node {
                pipeline.cmd("CLUSTER").arg("MEET").arg(&member.bus_addr());
            }
        }
        self.pipeline(node, &pipeline).unwrap();
    }
}

/// Slots that move.
impl Cluster {
    /// Sets a slot IMPORTING and MIGRATING. From now on its owner answers ASK for keys that it lacks.
    pub fn begin_move(&self, slot: u16, to: usize) -> SlotMove<'_> {
        let from = self.owner(slot);
        self.set_slots(to, &[slot], "IMPORTING", Some(&self.id(from)));
        self.set_slots(from, &[slot], "MIGRATING", Some(&self.id(to)));
        SlotMove {
            cluster: self,
            slot,
            from,
            to,
        }
    }

    /// Moves a slot with its keys, the old way.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.begin_move(slot, to);
        moving.all_keys();
        moving.end();
    }

    /// Moves slots of one owner with their keys, the old way, many at once.
    pub fn move_slots(&self, slots: &[u16], to: usize) {
        let Some(&first) = slots.first() else { return };
        let from = self.owner(first);
        for slots in slots.chunks(SLOTS_TOGETHER) {
            self.set_slots(to, slots, "IMPORTING", Some(&self.id(from)));
            self.set_slots(from, slots, "MIGRATING", Some(&self.id(to)));
            for slot in slots {
                let moving = SlotMove {
                    cluster: self,
                    slot: *slot,
                    from,
                    to,
                };
                moving.all_keys();
            }
            self.set_owner(slots, from, to);
        }
    }

    /// `redis-cli --cluster reshard`: so many slots, from node to node. False if there is no redis-cli.
    pub fn reshard(&self, from: usize, to: usize, slots: usize) -> bool {
        let (from, to, slots) = (self.id(from), self.id(to), slots.to_string());
        self.redis_cli(
            "reshard",
            &[
                "--cluster-from",
                &from,
                "--cluster-to",
                &to,
                "--cluster-slots",
                &slots,
                // Key by key: slots are half moved for longer.
                "--cluster-pipeline",
                "1",
                "--cluster-yes",
            ],
        )
    }

    /// `redis-cli --cluster rebalance`: slots by these weights of nodes. False if there is no redis-cli.
    pub fn rebalance(&self, weights: &[(usize, f64)]) -> bool {
        let mut words = vec![
            "--cluster-use-empty-masters".to_owned(),
            "--cluster-threshold".to_owned(),
            "1".to_owned(),
            "--cluster-weight".to_owned(),
        ];
        words.extend(
            weights
                .iter()
                .map(|&(node, weight)| format!("{}={weight}", self.id(node))),
        );
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.redis_cli("rebalance", &words)
    }

    fn redis_cli(&self, what: &str, words: &[&str]) -> bool {
        let Some(program) = redis_cli() else {
            return false;
        };
        self.wait_until_agreed();
        let any = self.member(self.running()[0]).server.addr(0);
        let mut command = Command::new(program);
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .args(["--cluster", what, &any])
            .args(words)
            .output()
            .unwrap();
        assert!(
            status.success(),
            "redis-cli --cluster {what}: {}\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
        true
    }

    /// CLUSTER MIGRATESLOTS of Valkey 9. Returns when it has succeeded.
    ///
    /// # Panics
    /// It failed.
    pub fn migrate_slots(&self, slots: RangeInclusive<u16>, to: usize) {
        let from = self.owner(*slots.start());
        let (first, last) = (slots.start().to_string(), slots.end().to_string());
        let id = self.id(to);
        let words = [
            "CLUSTER",
            "MIGRATESLOTS",
            "SLOTSRANGE",
            &first,
            &last,
            "NODE",
            &id,
        ];
        let () = self.ask(from, &words).unwrap();
        // The first of the list is the last that was begun.
        wait_until("the migration of slots", || {
            let jobs: Vec<Value> = self.ask(from, &["CLUSTER", "GETSLOTMIGRATIONS"]).unwrap();
            let job: HashMap<String, Value> = redis::from_redis_value(jobs[0].clone()).unwrap();
            let text = |name: &str| redis::from_redis_value::<String>(job[name].clone()).unwrap();
            let state = text("state");
            let has_failed = ["failed", "canceled", "cancelled"].contains(&&*state);
            assert!(!has_failed, "{state}: {}", text("message"));
            state == "success"
        });
        self.wait_until_agreed();
    }

    fn set_slots(&self, at: usize, slots: &[u16], what: &str, id: Option<&str>) {
        let mut pipeline = pipe();
        for slot in slots {
            let set = pipeline.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(what);
            set.arg(id).ignore();
        }
        self.pipeline(at, &pipeline).unwrap_or_else(|error| {
            let text: String = error.to_string().chars().take(200).collect();
            panic!("SETSLOT {what} at node {at}: {text}")
        });
    }

    /// As redis-cli does it: the new owner first, then the old one, then the others.
    fn set_owner(&self, slots: &[u16], from: usize, to: usize) {
        let _lock = self.taking.lock();
        let id = self.id(to);
        let others = self.primaries().into_iter();
        let others = others.filter(|node| ![from, to].contains(node));
        let primaries: Vec<usize> = [to, from].into_iter().chain(others).collect();
        for &node in &primaries {
            self.set_slots(node, slots, "NODE", Some(&id));
        }
        let claims = |node: usize| -> Vec<(String, u64, Vec<RangeInclusive<u16>>)> {
            let lines = self.nodes_by(node).unwrap_or_default().into_iter();
            let mut claims: Vec<_> = lines
                .filter(|line| line.has("master"))
                .map(|line| (line.id, line.epoch, line.slots))
                .collect();
            claims.sort_by(|one, other| one.0.cmp(&other.0));
            claims
        };
        wait_until("all hear of the new owner", || {
            let first = claims(primaries[0]);
            primaries.iter().all(|&node| claims(node) == first)
        });
    }
}

impl SlotMove<'_> {
    /// Moves so many keys. Returns how many there were to move.
    pub fn keys(&self, count: usize) -> usize {
        let mut connection = self.cluster.connection(self.from);
        let mut ask = cmd("CLUSTER");
        ask.arg("GETKEYSINSLOT").arg(self.slot).arg(count);
        let keys: Vec<Vec<u8>> = ask.query(&mut connection).unwrap();
        self.migrate(&keys, &mut connection);
        keys.len()
    }

    /// Moves these keys.
    pub fn these_keys(&self, keys: &[&str]) {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        self.migrate(&keys, &mut self.cluster.connection(self.from));
    }

    /// Moves keys until there are none.
    pub fn all_keys(&self) {
        while self.keys(100) > 0 {}
    }

    /// The slot belongs to its new owner, by all primaries.
    pub fn end(self) {
        self.cluster.set_owner(&[self.slot], self.from, self.to);
    }

    /// Moves all keys back, and the slot stays where it was.
    pub fn take_back(self) {
        let mut connection = self.cluster.connection(self.to);
        let mut ask = cmd("CLUSTER");
        ask.arg("GETKEYSINSLOT").arg(self.slot).arg(10_000);
        let keys: Vec<Vec<u8>> = ask.query(&mut connection).unwrap();
        // To a node that owns the slot, so that it needs no ASKING.
        self.cluster
            .set_slots(self.from, &[self.slot], "STABLE", None);
        let back = SlotMove {
            from: self.to,
            to: self.from,
            ..self
        };
        back.migrate(&keys, &mut connection);
        self.cluster
            .set_slots(self.to, &[self.slot], "STABLE", None);
    }

    fn migrate(&self, keys: &[Vec<u8>], connection: &mut redis::Connection) {
        if keys.is_empty() {
            return;
        }
        let target = self.cluster.member(self.to).server.addr(0);
        let (host, port) = target.rsplit_once(':').expect("a port");
        let mut migrate = cmd("MIGRATE");
        migrate.arg(host).arg(port).arg("").arg(0).arg(MIGRATE_MS);
        migrate.arg("KEYS").arg(keys);
        let lock = self.cluster.migrating.lock();
        let moved: RedisResult<String> = migrate.query(connection);
        drop(lock);
        // A key may have been deleted or have left in the meantime.
        moved.unwrap_or_else(|error| panic!("MIGRATE of slot {}: {error}", self.slot));
    }
}

/// What a node thinks of the cluster.
#[derive(Debug, PartialEq, Eq)]
struct View {
    is_ok: bool,
    nodes: usize,
    owners: BTreeMap<String, Vec<RangeInclusive<u16>>>,
}

impl View {
    fn is_well(&self) -> bool {
        self.is_ok && !self.owners.is_empty()
    }
}

impl NodeLine {
    pub fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        let (addr, _) = fields[1].split_once('@').expect("a bus port");
        let (moving, slots): (Vec<&str>, Vec<&str>) =
            fields[8..].iter().partition(|field| field.starts_with('['));
        let range = |text: &&str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            first.parse().unwrap()..=last.parse().unwrap()
        };
        Self {
            id: fields[0].to_owned(),
            addr: addr.to_owned(),
            flags: fields[2].split(',').map(str::to_owned).collect(),
            primary: (fields[3] != "-").then(|| fields[3].to_owned()),
            epoch: fields[6].parse().unwrap(),
            slots: slots.iter().map(range).collect(),
            moving: moving.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }
}

impl Member {
    fn addr(&self) -> String {
        match &self.cut {
            Some(cut) => cut.addr(),
            None => self.server.addr(0),
        }
    }

    /// The arguments of CLUSTER MEET.
    fn bus_addr(&self) -> [String; 3] {
        let addr = self.addr();
        let (host, port) = addr.rsplit_once(':').expect("a port");
        let relay = self.bus.as_ref().map(BusRelay::port);
        let bus = relay.unwrap_or_else(|| self.server.bus_port(0)).to_string();
        [host.to_owned(), port.to_owned(), bus]
    }
}

impl Builder {
    /// `cluster-node-timeout`. Defaults to 1.5 seconds.
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = timeout;
        self
    }

    /// A [`Cut`] in front of every node, and a network between the nodes that can be [parted](Cluster::part).
    pub fn cuts(mut self) -> Self {
        self.cuts = true;
        self
    }

    /// One more option on the command line of every node.
    pub fn option<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.options.push(words.map(str::to_owned).to_vec());
        self
    }

    pub fn start(self, primaries: usize, replicas: usize) -> Cluster {
        let network = Arc::new(Network::default());
        let shard = |node: usize| match node.checked_sub(primaries) {
            None => node,
            Some(replica) => replica / replicas,
        };
        let members = thread::scope(|scope| {
            let starting: Vec<_> = (0..primaries * (replicas + 1))
                .map(|node| {
                    let (builder, network) = (&self, &network);
                    scope.spawn(move || builder.member(node, shard(node), network))
                })
                .collect();
            let started = starting.into_iter().map(|member| member.join().unwrap());
            started.map(Arc::new).collect()
        });
        let cluster = Cluster {
            server: self.server.clone(),
            options: self,
            members: RwLock::new(members),
            network,
            migrating: Mutex::default(),
            taking: Mutex::default(),
            next_slot: AtomicU16::new(0),
        };
        cluster.create(primaries);
        cluster
    }

    fn member(&self, node: usize, shard: usize, network: &Arc<Network>) -> Member {
        let host = own_address();
        let timeout = self.node_timeout.as_millis().to_string();
        let mut options = Servers::builder().server(&self.server.path).cluster();
        for option in [
            ["--cluster-node-timeout", &timeout],
            // Connections on loopback come from 127.0.0.1.
            ["--cluster-announce-ip", &host],
            ["--replica-announce-ip", &host],
            // A primary that has lost its last slot stays one.
            ["--cluster-allow-replica-migration", "no"],
            ["--cluster-replica-validity-factor", "0"],
            ["--repl-diskless-sync-delay", "0"],
            ["--repl-ping-replica-period", "1"],
            ["--repl-timeout", "5"],
            ["--enable-debug-command", "yes"],
        ] {
            options = options.option(option);
        }
        let (mut cut, mut bus) = (None, None);
        let upstream = Arc::new(OnceLock::new());
        if self.cuts {
            let (own, upstream) = (Cut::unconnected(), Arc::clone(&upstream));
            let relay = BusRelay::start(node, network, move || upstream.get().cloned());
            options = options
                .option(["--bind-source-addr", &cluster_bus::source(node)])
                .option(["--cluster-announce-port", &own.port().to_string()])
                .option(["--cluster-announce-bus-port", &relay.port().to_string()]);
            (cut, bus) = (Some(own), Some(relay));
        }
        for words in &self.options {
            for word in words {
                options = options.option([word]);
            }
        }
        let server = options.start(1).expect("it was run for its version");
        if let Some(cut) = &cut {
            cut.forward_to(&server.addr(0));
        }
        let _ = upstream.set(format!("{host}:{}", server.bus_port(0)));
        let id = cmd("CLUSTER").arg("MYID").query(&mut server.connection(0));
        Member {
            server,
            id: id.unwrap(),
            shard,
            cut,
            bus,
            is_dead: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
        }
    }
}

impl Cluster {
    /// Makes a cluster of the nodes: slots, epochs, introductions, replicas.
    fn create(&self, primaries: usize) {
        for node in 0..self.len() {
            let mut pipeline = pipe();
            pipeline
                .cmd("CLUSTER")
                .arg("SET-CONFIG-EPOCH")
                .arg(node + 1);
            if node < primaries {
                let first = node * usize::from(SLOTS) / primaries;
                let last = (node + 1) * usize::from(SLOTS) / primaries - 1;
                let add = pipeline.cmd("CLUSTER").arg("ADDSLOTSRANGE");
                add.arg(first).arg(last);
            }
            self.pipeline(node, &pipeline).unwrap();
        }
        (0..self.len()).for_each(|node| self.meet(node));
        wait_until("the nodes know each other", || {
            (0..self.len()).all(|node| {
                let lines = self.nodes_by(node).unwrap();
                let known = lines.iter().filter(|line| !line.has("handshake"));
                known.count() == self.len()
            })
        });
        for node in primaries..self.len() {
            let primary = self.id(self.member(node).shard);
            let () = self.ask(node, &["CLUSTER", "REPLICATE", &primary]).unwrap();
        }
        self.wait_until_agreed();
        self.wait_until_linked();
    }
}

/// The program, if the system has it.
pub fn redis_cli() -> Option<PathBuf> {
    ["redis-cli", "valkey-cli"]
        .into_iter()
        .find_map(servers::in_path)
}

/// The slot of a key, as Redis computes it: CRC16 (XMODEM) of the hash tag.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let length = rest.iter().position(|&byte| byte == b'}')?;
        (length > 0).then(|| &rest[..length])
    });
    let crc = tag.unwrap_or(key).iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ (if crc & 0x8000 == 0 { 0 } else { 0x1021 })
        })
    });
    crc % SLOTS
}

/// A key of a slot.
pub fn key_in(slot: u16, name: &str) -> String {
    static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut tags = vec![String::new(); usize::from(SLOTS)];
        let mut missing = tags.len();
        for number in 0.. {
            let tag = format!("{number}");
            let place = &mut tags[usize::from(slot_of(tag.as_bytes()))];
            if place.is_empty() {
                *place = tag;
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        tags
    });
    format!("{{{}}}{name}", TAGS[usize::from(slot)])
}
