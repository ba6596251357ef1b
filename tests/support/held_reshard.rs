//! A reshard whose mover is held before steps that the test names, and clients of all kinds over its fleet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use redis_sharding::ops::reshard::{Reshard, ReshardMethod, ReshardOptions, ReshardOutcome};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::{Builder, Error, ShardedClient, Topology};

use super::Servers;
use super::all_clients::{AllClients, AnyClient, KINDS, Kind};

/// How long the mover may take to its next stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time after which a request that goes on would have gone on.
pub const A_WHILE: Duration = Duration::from_millis(200);

/// The name by which connections of tests are vouched for.
pub const ADMINISTRATOR: &str = "test";

/// Two nodes that become three.
pub struct Fleet {
    pub from: Arc<Topology>,
    pub to: Arc<Topology>,
    pub clients: AllClients,
    pub servers: Servers,
}

/// A reshard in a thread.
pub struct Mover {
    gate: Arc<Gate>,
    thread: Option<JoinHandle<Result<ReshardOutcome, Error>>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    /// The steps before which the mover stops, in their order.
    stops: VecDeque<String>,
    /// The step before which it stands.
    held: Option<String>,
    has_ended: bool,
}

impl Fleet {
    pub fn start() -> Option<Self> {
        Self::start_with(|builder| builder)
    }

    /// With other settings of the clients.
    pub fn start_with(settings: impl Fn(Builder) -> Builder) -> Option<Self> {
        let servers = Servers::start(3)?;
        let from = over(&servers, 2).build().unwrap().topology();
        let to = over(&servers, 3).build().unwrap().topology();
        let record = FleetRecord::new(over(&servers, 2)).unwrap();
        record.publish(&from, PublishOptions::default()).unwrap();
        let describe = || {
            let builder = over(&servers, 2).agreed();
            settings(builder.response_timeout(Duration::from_secs(20)))
        };
        let clients = AllClients::open(describe);
        // From the first connection on a client is told of changes.
        for mut client in clients.each() {
            let _: usize = client.ask(&["DBSIZE"]).unwrap();
        }
        Some(Self {
            from,
            to,
            clients,
            servers,
        })
    }

    /// The first keys with this prefix that move from one node to another, or stay.
    pub fn keys(&self, prefix: &str, from: usize, to: usize, count: usize) -> Vec<String> {
        let owner = |topology: &Topology, key: &str| topology.locate(key.as_bytes()).unwrap().get();
        let keys = (0..).map(|number| format!("{prefix}:{number}"));
        let own = keys.filter(|key| (owner(&self.from, key), owner(&self.to, key)) == (from, to));
        own.take(count).collect()
    }

    pub fn key(&self, prefix: &str, from: usize, to: usize) -> String {
        self.keys(prefix, from, to, 1).remove(0)
    }

    /// A connection to a server that the mover is told of.
    pub fn administrator(&self, server: usize) -> redis::Connection {
        let mut connection = self.servers.connection(server);
        let set_name = redis::cmd("CLIENT")
            .arg("SETNAME")
            .arg(ADMINISTRATOR)
            .exec(&mut connection);
        set_name.unwrap();
        connection
    }

    /// What a server says about a key, or anything else.
    pub fn ask_server<T: redis::FromRedisValue>(&self, server: usize, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.administrator(server)).unwrap()
    }

    pub fn reshard(&self, options: ReshardOptions) -> Reshard {
        // What is held are the steps of batches; splits have tests of their own.
        let options = options
            .with_method(ReshardMethod::Copy)
            .with_administrator(ADMINISTRATOR)
            .with_sources_at_once(1);
        Reshard::new(over(&self.servers, 1), (*self.to).clone(), options).unwrap()
    }

    /// Starts a reshard that is held before these steps.
    pub fn start_mover(&self, stops: &[&str]) -> Mover {
        self.start_mover_with(ReshardOptions::new(), stops)
    }

    pub fn start_mover_with(&self, options: ReshardOptions, stops: &[&str]) -> Mover {
        stops.iter().for_each(|stop| self.fill_pair(stop));
        let gate = Arc::new(Gate::default());
        gate.state.lock().stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let observed = Arc::clone(&gate);
        // On a busy machine connections need time to acknowledge.
        let options = options
            .with_fence_bound(Duration::from_secs(2))
            .with_announce_bound(Duration::from_secs(2))
            .with_step_observer(move |step| {
                observed.pass(step);
                true
            });
        let reshard = self.reshard(options);
        let at_end = Arc::clone(&gate);
        let thread = thread::spawn(move || {
            let outcome = reshard.run(|_| ());
            at_end.state.lock().has_ended = true;
            at_end.changed.notify_all();
            outcome
        });
        Mover {
            gate,
            thread: Some(thread),
        }
    }

    /// Makes a key of the pair whose step this is, unless there is one: pairs without keys are moved together.
    fn fill_pair(&self, step: &str) {
        let numbers: Vec<usize> = step
            .split(" node-")
            .skip(1)
            .filter_map(|number| number.parse().ok())
            .collect();
        let [from, to] = numbers[..] else {
            return;
        };
        let owner = |key: &str| self.to.locate(key.as_bytes()).unwrap().get();
        let keys: Vec<String> = self.ask_server(from, &["KEYS", "*"]);
        if !keys.iter().any(|key| owner(key) == to) {
            let key = self.key("padding", from, to);
            let () = self.ask_server(from, &["SET", &key, "v"]);
        }
    }

    /// Does the same through each kind of client at once, and holds that none has an answer before the mover goes on.
    pub fn while_held<T: Send>(
        &self,
        mover: &Mover,
        act: impl Fn(&mut AnyClient, Kind) -> T + Sync,
    ) -> [T; 3] {
        thread::scope(|scope| {
            let threads = KINDS.map(|kind| {
                let (act, mut client) = (&act, self.clients.of(kind));
                scope.spawn(move || act(&mut client, kind))
            });
            thread::sleep(A_WHILE);
            let waiting = threads.each_ref().map(|thread| !thread.is_finished());
            mover.go_on();
            let answers = threads.map(|thread| thread.join().unwrap());
            assert_eq!(waiting, [true; 3], "{KINDS:?}");
            answers
        })
    }
}

impl Mover {
    /// Waits until the mover stands before this step, one of its stops.
    pub fn wait_at(&self, step: &str) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.gate.state.lock();
        while state.held.as_deref() != Some(step) {
            assert!(!state.has_ended, "the mover has ended before {step}");
            let wait = self.gate.changed.wait_until(&mut state, end);
            assert!(!wait.timed_out(), "not at {step}, but {:?}", state.held);
        }
    }

    /// Lets the mover go on to its next stop.
    pub fn go_on(&self) {
        self.gate.state.lock().held = None;
        self.gate.changed.notify_all();
    }

    /// Lets the mover go on to the end.
    pub fn finish(mut self) {
        let outcome = self.end().unwrap().join().unwrap();
        assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    }

    fn end(&mut self) -> Option<JoinHandle<Result<ReshardOutcome, Error>>> {
        self.gate.state.lock().stops.clear();
        self.go_on();
        self.thread.take()
    }
}

impl Gate {
    /// Waits before a step that is a stop.
    fn pass(&self, step: &str) {
        let mut state = self.state.lock();
        if state.stops.front().is_none_or(|stop| stop != step) {
            return;
        }
        state.stops.pop_front();
        state.held = Some(step.to_owned());
        self.changed.notify_all();
        while state.held.is_some() {
            self.changed.wait(&mut state);
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            let _ = thread.join();
        }
    }
}

/// A description of a client over the first servers, without their record.
pub fn over(servers: &Servers, count: usize) -> Builder {
    let urls = servers.urls().into_iter().take(count);
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}

/// Waits until a client goes by this topology, and no keys are being moved any more.
pub fn wait_until_followed(clients: &AllClients, to: &Topology) {
    let end = Instant::now() + PATIENCE;
    let is_there = |known: &Arc<Topology>| known.to_string() == to.to_string();
    while !clients.topologies().iter().all(is_there) {
        assert!(Instant::now() < end, "not followed");
        thread::sleep(Duration::from_millis(5));
    }
}
