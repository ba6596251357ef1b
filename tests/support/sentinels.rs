//! A group of real Sentinels that watches one or more primaries.
//!
//! ```ignore
//! let Some(set) = ReplicaSet::start(2) else { return };
//! let sentinels = Sentinels::builder().watch("users-a", &set).start(3);
//! let (events, since) = (sentinels.events(), Instant::now());
//! set.kill(0);
//! let switch = events.wait_for_switch("users-a", since);      // +switch-master: when, from, to
//! ```
//!
//! Their periods are shorter than usual, as far as the server lets them be set, so that a failover takes about a second
//! beyond `down-after-milliseconds`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::BufReader;
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd};
use tempfile::TempDir;

use super::authority::Authority;
use super::cut::{Cut, Mode};
use super::replicas::{ReplicaSet, wait_until};
use super::servers::{self, Watchdog, own_address};

const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const READY_WITHIN: Duration = Duration::from_secs(20);
const DEFAULT_DOWN_AFTER: Duration = Duration::from_millis(700);
const DEFAULT_FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Milliseconds; Redis 7.0 has `SENTINEL DEBUG`. A replica is chosen only if its INFO is younger than five PING periods, and
/// of a dead primary's replicas it is asked for once a second.
const PERIODS: [(&str, u32); 4] = [
    ("ASK-PERIOD", 100),
    ("INFO-PERIOD", 500),
    ("PING-PERIOD", 400),
    ("PUBLISH-PERIOD", 200),
];

/// All stopped when this is dropped, also when the test panics.
pub struct Sentinels {
    members: Vec<Member>,
    password: Option<String>,
    authority: Option<String>,
}

struct Member {
    port: u16,
    tls_port: Option<u16>,
    cut: Option<Cut>,
    home: TempDir,
    running: Mutex<Option<Running>>,
}

struct Running {
    process: Child,
    watchdog: Option<Watchdog>,
}

/// How they are started.
pub struct Builder<'a> {
    masters: Vec<(String, &'a ReplicaSet)>,
    password: Option<String>,
    authority: Option<&'a Authority>,
    cuts: bool,
    quorum: usize,
    down_after: Duration,
    failover_timeout: Duration,
    lines: Vec<String>,
}

impl Sentinels {
    pub fn builder<'a>() -> Builder<'a> {
        Builder {
            masters: Vec::new(),
            password: None,
            authority: None,
            cuts: false,
            quorum: 2,
            down_after: DEFAULT_DOWN_AFTER,
            failover_timeout: DEFAULT_FAILOVER_TIMEOUT,
            lines: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Where clients and other Sentinels reach one: `host:port`. That of the TLS port, or of the cut, if it has one.
    pub fn addr(&self, index: usize) -> String {
        format!("{}:{}", own_address(), self.members[index].public_port())
    }

    /// With the password of the Sentinels, if there is one.
    pub fn url(&self, index: usize) -> String {
        let scheme = if self.authority.is_some() {
            "rediss"
        } else {
            "redis"
        };
        let password = self.password.as_ref();
        let login = password.map_or_else(String::new, |password| format!(":{password}@"));
        format!("{scheme}://{login}{}/", self.addr(index))
    }

    pub fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|index| self.url(index)).collect()
    }

    /// The network in front of one; they were started with [`cuts`](Builder::cuts).
    pub fn cut(&self, index: usize) -> &Cut {
        self.members[index].cut.as_ref().expect("built with cuts()")
    }

    /// A direct connection, by no cut and without TLS.
    pub fn connection(&self, index: usize) -> RedisResult<redis::Connection> {
        let login = self.password.as_ref();
        let login = login.map_or_else(String::new, |password| format!(":{password}@"));
        let address = self.members[index].direct_addr();
        let client = redis::Client::open(format!("redis://{login}{address}/"))?;
        let connection = client.get_connection_with_timeout(ANSWER_WITHIN)?;
        connection.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(connection)
    }

    /// Where one of them says the primary is: `host:port`.
    pub fn primary_by(&self, index: usize, master: &str) -> RedisResult<String> {
        let mut ask = cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let (host, port): (String, u16) = ask.query(&mut self.connection(index)?)?;
        Ok(format!("{host}:{port}"))
    }

    /// Where the primary is, by the first of them that answers.
    pub fn primary(&self, master: &str) -> String {
        let answers = (0..self.len()).map(|index| self.primary_by(index, master));
        answers.flatten().next().expect("one of them answers")
    }

    /// What one of them knows about a primary.
    pub fn state(&self, index: usize, master: &str) -> RedisResult<HashMap<String, String>> {
        let mut ask = cmd("SENTINEL");
        ask.arg("MASTER")
            .arg(master)
            .query(&mut self.connection(index)?)
    }

    /// `config-epoch`: it grows with each failover.
    pub fn config_epoch(&self, master: &str) -> u64 {
        let epochs = (0..self.len()).filter_map(|index| {
            let state = self.state(index, master).ok()?;
            state.get("config-epoch")?.parse().ok()
        });
        epochs.max().expect("one of them answers")
    }

    /// Asks one that answers for a failover while the primary is well.
    pub fn failover(&self, master: &str) {
        let mut failover = cmd("SENTINEL");
        failover.arg("FAILOVER").arg(master);
        wait_until("SENTINEL FAILOVER", || {
            // NOGOODSLAVE and INPROG pass.
            (0..self.len()).any(|index| {
                let connection = self.connection(index);
                connection.is_ok_and(|mut connection| failover.exec(&mut connection).is_ok())
            })
        });
    }

    pub fn pid(&self, index: usize) -> u32 {
        let running = self.members[index].lock();
        running.as_ref().expect("it runs").process.id()
    }

    /// With SIGKILL.
    pub fn kill(&self, index: usize) {
        let member = &self.members[index];
        drop(member.lock().take());
        if let Some(cut) = &member.cut {
            cut.set(Mode::Refuse);
        }
    }

    /// Starts a killed one, which remembers what it knew.
    pub fn restart(&self, index: usize) {
        let member = &self.members[index];
        *member.lock() = None;
        assert!(member.start(), "its port was taken by another process");
        self.wait_until_ready(index);
        if let Some(cut) = &member.cut {
            cut.set(Mode::Pass);
        }
    }

    /// SIGSTOP.
    pub fn pause(&self, index: usize) {
        servers::signal("STOP", self.pid(index));
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        servers::signal("CONT", self.pid(index));
    }

    /// Waits until all that run name this primary, find it well, and know its replicas and each other.
    pub fn wait_until_agreed(&self, master: &str, primary: &str, replicas: usize) {
        let running: Vec<usize> = (0..self.len())
            .filter(|&index| self.members[index].lock().is_some())
            .collect();
        let others = running.len() - 1;
        wait_until("the Sentinels agree", || {
            running.iter().all(|&index| {
                self.primary_by(index, master)
                    .is_ok_and(|addr| addr == primary)
                    && self.knows(index, master, others, replicas).unwrap_or(false)
            })
        });
    }

    fn knows(
        &self,
        index: usize,
        master: &str,
        others: usize,
        replicas: usize,
    ) -> RedisResult<bool> {
        type Instances = Vec<HashMap<String, String>>;
        let mut connection = self.connection(index)?;
        let mut list = |what: &str| -> RedisResult<Instances> {
            cmd("SENTINEL").arg(what).arg(master).query(&mut connection)
        };
        let well = |instances: Instances, flags: &str, link: Option<&str>| {
            let is_well = |instance: &&HashMap<String, String>| {
                instance["flags"] == flags
                    && link.is_none_or(|link| instance["master-link-status"] == link)
            };
            instances.iter().filter(is_well).count()
        };
        let sentinels = well(list("SENTINELS")?, "sentinel", None);
        let slaves = well(list("REPLICAS")?, "slave", Some("ok"));
        let state = self.state(index, master)?;
        Ok(state["flags"] == "master" && sentinels == others && slaves >= replicas)
    }

    /// Listens to what all of them publish; those that run now are subscribed to when this returns.
    pub fn events(&self) -> Events {
        let mut subscribe = Vec::new();
        if let Some(password) = &self.password {
            subscribe.extend(cmd("AUTH").arg(password).get_packed_command());
        }
        subscribe.extend(cmd("PSUBSCRIBE").arg("*").get_packed_command());
        let members = self.members.iter();
        Events::listen(members.map(Member::direct_addr).collect(), &subscribe)
    }

    fn wait_until_ready(&self, index: usize) {
        let pid = u64::from(self.pid(index));
        wait_until("a Sentinel answers", || {
            let answer = self.connection(index).and_then(|mut connection| {
                for (name, value) in PERIODS {
                    // Redis before 7.0 keeps its periods.
                    let mut debug = cmd("SENTINEL");
                    let _ = debug
                        .arg("DEBUG")
                        .arg(name)
                        .arg(value)
                        .exec(&mut connection);
                }
                let mut info = cmd("INFO");
                info.arg("server").query::<redis::InfoDict>(&mut connection)
            });
            answer.is_ok_and(|info| info.get("process_id") == Some(pid))
        });
    }
}

impl Member {
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn direct_addr(&self) -> String {
        format!("{}:{}", own_address(), self.port)
    }

    fn public_port(&self) -> u16 {
        let cut = self.cut.as_ref().map(Cut::port);
        cut.or(self.tls_port).unwrap_or(self.port)
    }

    /// False if the port is taken.
    fn start(&self) -> bool {
        let path = |name: &str| self.home.path().join(name);
        let mut command = Command::new(servers::binary().expect("it was looked for"));
        command.arg(path("sentinel.conf")).arg("--sentinel");
        command.stdin(Stdio::null());
        command.stdout(std::fs::File::create(path("output")).unwrap());
        command.stderr(Stdio::null());
        let mut process = servers::run(&mut command);
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(self.direct_addr()).is_err() {
            if process.try_wait().unwrap().is_some() {
                let log = std::fs::read_to_string(path("log")).unwrap_or_default();
                let output = std::fs::read_to_string(path("output")).unwrap_or_default();
                assert!(log.contains("already in use"), "it ended:\n{log}{output}");
                return false;
            }
            assert!(Instant::now() < deadline, "a Sentinel does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        let watchdog = Some(Watchdog::start(process.id()));
        *self.lock() = Some(Running { process, watchdog });
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The watchdog must not outlive what it watches.
        self.watchdog.take();
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Builder<'a> {
    /// A primary to watch, by this name; its server 0 is the primary now.
    pub fn watch(mut self, master: &str, set: &'a ReplicaSet) -> Self {
        self.masters.push((master.to_owned(), set));
        self
    }

    /// The password of the Sentinels themselves. Those of the servers are known.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// TLS for clients of the Sentinels, between them, and to the servers, which must have it, too.
    pub fn tls(mut self, authority: &'a Authority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// A [`Cut`] in front of every Sentinel, for clients and the other Sentinels.
    pub fn cuts(mut self) -> Self {
        self.cuts = true;
        self
    }

    pub fn quorum(mut self, quorum: usize) -> Self {
        self.quorum = quorum;
        self
    }

    pub fn down_after(mut self, time: Duration) -> Self {
        self.down_after = time;
        self
    }

    pub fn failover_timeout(mut self, time: Duration) -> Self {
        self.failover_timeout = time;
        self
    }

    /// One more line of the configuration, before those about the primaries.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Returns when they know each other and the replicas.
    pub fn start(self, count: usize) -> Sentinels {
        let sentinels = Sentinels {
            members: (0..count).map(|_| self.member()).collect(),
            password: self.password.clone(),
            authority: self.authority.map(Authority::pem),
        };
        for index in 0..count {
            sentinels.wait_until_ready(index);
        }
        for (master, set) in &self.masters {
            sentinels.wait_until_agreed(master, &set.addr(0), set.len() - 1);
        }
        sentinels
    }

    fn member(&self) -> Member {
        let cut = self.cuts.then(Cut::unconnected);
        let mut member = Member {
            port: 0,
            tls_port: None,
            cut,
            home: servers::temporary_directory(),
            running: Mutex::new(None),
        };
        loop {
            member.port = servers::next_port();
            member.tls_port = self.authority.map(|_| servers::next_port());
            let text = self.configuration(&member);
            std::fs::write(member.home.path().join("sentinel.conf"), text).unwrap();
            // A taken port is another test's: try the next one.
            if member.start() {
                break;
            }
        }
        if let Some(cut) = &member.cut {
            let port = member.tls_port.unwrap_or(member.port);
            cut.forward_to(&format!("{}:{port}", own_address()));
        }
        member
    }

    fn configuration(&self, member: &Member) -> String {
        let (host, home) = (own_address(), member.home.path().display());
        let mut text = format!(
            "port {}\nbind {host}\nprotected-mode no\ndaemonize no\ndir {home}\nlogfile {home}/log\n\
             sentinel resolve-hostnames yes\nsentinel announce-ip {host}\nsentinel announce-port {}\n",
            member.port,
            member.public_port(),
        );
        let mut line = |line: &str| writeln!(text, "{line}").unwrap();
        if let Some(password) = &self.password {
            line(&format!("requirepass {password}"));
            line(&format!("sentinel sentinel-pass {password}"));
        }
        if let (Some(authority), Some(port)) = (self.authority, member.tls_port) {
            let issued = authority.issue(&[&host, "localhost"]);
            let files = [
                ("ca-cert", authority.pem()),
                ("cert", issued.certificate),
                ("key", issued.key),
            ];
            for (name, pem) in files {
                let file = member.home.path().join(name);
                std::fs::write(&file, pem).unwrap();
                line(&format!("tls-{name}-file {}", file.display()));
            }
            line(&format!("tls-port {port}"));
            line("tls-auth-clients no\ntls-replication yes");
        }
        self.lines.iter().for_each(|text| line(text));
        for (name, set) in &self.masters {
            let addr = set.addr(0);
            let (host, port) = addr.rsplit_once(':').expect("a port");
            line(&format!(
                "sentinel monitor {name} {host} {port} {}",
                self.quorum
            ));
            let down_after = self.down_after.as_millis();
            line(&format!(
                "sentinel down-after-milliseconds {name} {down_after}"
            ));
            let timeout = self.failover_timeout.as_millis();
            line(&format!("sentinel failover-timeout {name} {timeout}"));
            line(&format!("sentinel parallel-syncs {name} 5"));
            if let Some(password) = &set.password {
                line(&format!("sentinel auth-pass {name} {password}"));
            }
        }
        text
    }
}

/// A message of one Sentinel.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Instant,
    /// Such as `+switch-master`.
    pub channel: String,
    pub text: String,
}

/// A `+switch-master`.
#[derive(Clone, Debug)]
pub struct Switch {
    /// When the first Sentinel said so.
    pub at: Instant,
    pub from: String,
    pub to: String,
}

/// What the Sentinels have published since this was made.
pub struct Events {
    log: Arc<Log>,
    streams: Vec<Arc<Mutex<Option<TcpStream>>>>,
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    came: Condvar,
    closing: AtomicBool,
}

impl Events {
    fn listen(addresses: Vec<String>, subscribe: &[u8]) -> Self {
        let log = Arc::new(Log::default());
        let streams = addresses.into_iter().map(|address| {
            let stream = Arc::new(Mutex::new(subscribed(&address, subscribe)));
            let (log, current) = (Arc::clone(&log), Arc::clone(&stream));
            let subscribe = subscribe.to_vec();
            thread::spawn(move || {
                while !log.closing.load(Ordering::SeqCst) {
                    let stream = current.lock().unwrap().as_ref().map(TcpStream::try_clone);
                    if let Some(Ok(stream)) = stream {
                        log.record(stream);
                    }
                    // It was killed, and may be started again.
                    thread::sleep(Duration::from_millis(50));
                    *current.lock().unwrap() = subscribed(&address, &subscribe);
                }
            });
            stream
        });
        let streams = streams.collect();
        Self { log, streams }
    }

    pub fn all(&self) -> Vec<Event> {
        self.log.lock().clone()
    }

    /// The switches of a primary in their order, each once.
    pub fn switches(&self, master: &str) -> Vec<Switch> {
        switches(&self.log.lock(), master)
    }

    /// The first switch of a primary at or after this time.
    pub fn wait_for_switch(&self, master: &str, since: Instant) -> Switch {
        let found = self.wait_for_switch_until(master, since, Instant::now() + READY_WITHIN);
        found.unwrap_or_else(|| panic!("no failover; they said {:#?}", self.all()))
    }

    /// The first switch of a primary at or after this time; `None` if there is none until `end`.
    pub fn wait_for_switch_until(
        &self,
        master: &str,
        since: Instant,
        end: Instant,
    ) -> Option<Switch> {
        let mut events = self.log.lock();
        loop {
            let mut found = switches(&events, master).into_iter();
            let left = end.saturating_duration_since(Instant::now());
            match found.find(|switch| switch.at >= since) {
                None if !left.is_zero() => {}
                found => return found,
            }
            events = self.log.came.wait_timeout(events, left).unwrap().0;
        }
    }
}

impl Log {
    /// Until the connection ends.
    fn record(&self, stream: TcpStream) {
        let (mut input, mut parser) = (BufReader::new(stream), redis::Parser::new());
        while let Ok(value) = parser.parse_value(&mut input) {
            let Ok((kind, _, channel, text)) =
                redis::from_redis_value::<(String, Value, String, String)>(value)
            else {
                continue;
            };
            if kind == "pmessage" {
                let at = Instant::now();
                self.lock().push(Event { at, channel, text });
                self.came.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.log.closing.store(true, Ordering::SeqCst);
        for stream in &self.streams {
            if let Some(stream) = &*stream.lock().unwrap() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// A connection that has confirmed its subscription; `None` if there is no Sentinel.
fn subscribed(address: &str, subscribe: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    std::io::Write::write_all(&mut stream, subscribe).ok()?;
    // One that hangs confirms later. Nothing else comes first: AUTH has one line, and the confirmation three.
    let mut confirmed = Vec::new();
    let mut byte = [0];
    while !confirmed.ends_with(b":1\r\n") {
        match std::io::Read::read(&mut stream, &mut byte) {
            Ok(1..) => confirmed.push(byte[0]),
            _ => break,
        }
    }
    stream.set_read_timeout(None).unwrap();
    Some(stream)
}

/// Each Sentinel says it, some of them late: one that repeats the latest is the same.
fn switches(events: &[Event], master: &str) -> Vec<Switch> {
    let mut switches: Vec<Switch> = Vec::new();
    for event in events
        .iter()
        .filter(|event| event.channel == "+switch-master")
    {
        // name old-ip old-port new-ip new-port
        let words: Vec<&str> = event.text.split(' ').collect();
        let &[name, old, old_port, new, new_port] = &words[..] else {
            panic!("+switch-master {}", event.text);
        };
        let switch = Switch {
            at: event.at,
            from: format!("{old}:{old_port}"),
            to: format!("{new}:{new_port}"),
        };
        let is_known = switches
            .last()
            .is_some_and(|last| (&last.from, &last.to) == (&switch.from, &switch.to));
        if name == master && !is_known {
            switches.push(switch);
        }
    }
    switches
}
