//! A primary with replicas: real servers that replicate on loopback.
//!
//! ```ignore
//! let Some(set) = ReplicaSet::start(2) else { return };
//! set.kill(0);             // the primary, with SIGKILL
//! set.promote(1);          // a failover by hand
//! set.restart(0);          // empty, and a primary again: see `restart_following`
//! ```
//!
//! Server 0 is the first primary. Servers know each other by [`addr`](ReplicaSet::addr), which is that of a [`Cut`] when
//! there are cuts: then whatever comes to a server, from clients, replicas and Sentinels, can be cut off.

use std::time::{Duration, Instant};

use redis::{Commands, ConnectionLike, InfoDict, RedisResult, cmd};

use super::authority::Authority;
use super::cut::{Cut, Mode};
use super::servers::{self, Servers, own_address};

/// How long replication may take to be as it should.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// How long a server that is asked by a test may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// All stopped when this is dropped, also when the test panics.
pub struct ReplicaSet {
    members: Vec<Member>,
    pub(super) password: Option<String>,
    pub(super) authority: Option<String>,
}

struct Member {
    /// One server.
    server: Servers,
    cut: Option<Cut>,
    tls: bool,
}

/// How they are started.
#[derive(Default)]
pub struct Builder<'a> {
    options: servers::Builder,
    password: Option<String>,
    authority: Option<&'a Authority>,
    cuts: bool,
}

impl ReplicaSet {
    /// A primary and so many replicas; `None` when there is no binary and the environment allows it.
    pub fn start(replicas: usize) -> Option<Self> {
        Self::builder().start(replicas)
    }

    pub fn builder<'a>() -> Builder<'a> {
        Builder::default()
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Where clients, replicas and Sentinels reach a server: `host:port`. That of the TLS port, or of the cut, if it has one.
    pub fn addr(&self, index: usize) -> String {
        self.members[index].addr()
    }

    /// The number of the server at `host:port`.
    pub fn index_of(&self, addr: &str) -> Option<usize> {
        (0..self.len()).find(|&index| self.addr(index) == addr)
    }

    /// With the password, if there is one.
    pub fn url(&self, index: usize) -> String {
        let scheme = if self.members[index].tls {
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

    pub fn pid(&self, index: usize) -> u32 {
        self.members[index].server.pid(0)
    }

    /// The network in front of a server; it was started with [`cuts`](Builder::cuts).
    pub fn cut(&self, index: usize) -> &Cut {
        self.members[index].cut.as_ref().expect("built with cuts()")
    }

    /// A direct connection, by no cut and without TLS.
    pub fn connection(&self, index: usize) -> redis::Connection {
        self.try_connection(index).unwrap()
    }

    pub fn try_connection(&self, index: usize) -> RedisResult<redis::Connection> {
        let client = redis::Client::open(self.members[index].server.url(0))?;
        let connection = client.get_connection_with_timeout(ANSWER_WITHIN)?;
        connection.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(connection)
    }

    /// Kills a server at once (SIGKILL): its port refuses connections, its data is gone.
    pub fn kill(&self, index: usize) {
        self.members[index].server.kill(0);
        if let Some(cut) = &self.members[index].cut {
            cut.set(Mode::Refuse);
        }
    }

    /// Starts a killed server on its address as what it was in the beginning, and empty.
    ///
    /// Server 0 is a primary then: replicas that still follow it lose their data, too.
    pub fn restart(&self, index: usize) {
        self.members[index].server.restart(0);
        if let Some(cut) = &self.members[index].cut {
            cut.set(Mode::Pass);
        }
    }

    /// Starts a killed server on its address, as a replica of another one.
    pub fn restart_following(&self, index: usize, primary: usize) {
        self.members[index].server.restart(0);
        self.follow(index, primary).unwrap();
        if let Some(cut) = &self.members[index].cut {
            cut.set(Mode::Pass);
        }
    }

    /// Stops a server in its tracks (SIGSTOP): connections stay open, and connect, but nothing is answered.
    pub fn pause(&self, index: usize) {
        self.members[index].server.pause(0);
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self, index: usize) {
        self.members[index].server.resume(0);
    }

    /// Makes a server sleep in the middle of a command, for whoever waits for it. Returns at once.
    pub fn sleep(&self, index: usize, time: Duration) {
        let mut connection = self.connection(index);
        let mut sleep = cmd("DEBUG");
        sleep.arg("SLEEP").arg(time.as_secs_f64());
        connection
            .send_packed_command(&sleep.get_packed_command())
            .unwrap();
    }

    /// Makes a server a primary, and all others that answer its replicas: a failover by hand.
    pub fn promote(&self, primary: usize) {
        let mut connection = self.connection(primary);
        let () = cmd("REPLICAOF")
            .arg(&["NO", "ONE"])
            .query(&mut connection)
            .unwrap();
        for index in (0..self.len()).filter(|&index| index != primary) {
            // The former primary may be dead.
            let _ = self.follow(index, primary);
        }
    }

    /// Makes a server a replica of another one.
    pub fn follow(&self, index: usize, primary: usize) -> RedisResult<()> {
        let addr = self.addr(primary);
        let (host, port) = addr.rsplit_once(':').expect("a port");
        let mut connection = self.try_connection(index)?;
        cmd("REPLICAOF").arg(host).arg(port).query(&mut connection)
    }

    /// What a server says it is; an error if it does not answer.
    pub fn role(&self, index: usize) -> RedisResult<Role> {
        let mut connection = self.try_connection(index)?;
        let values: Vec<redis::Value> = cmd("ROLE").query(&mut connection)?;
        let role: String = redis::from_redis_value(values[0].clone())?;
        Ok(match &*role {
            "master" => Role::Primary,
            "slave" => Role::Replica,
            other => panic!("a server is {other}"),
        })
    }

    /// The servers that say that they are primaries.
    pub fn primaries(&self) -> Vec<usize> {
        let is_primary = |&index: &usize| self.role(index) == Ok(Role::Primary);
        (0..self.len()).filter(is_primary).collect()
    }

    /// A section of INFO.
    pub fn info(&self, index: usize, section: &str) -> RedisResult<InfoDict> {
        cmd("INFO")
            .arg(section)
            .query(&mut self.try_connection(index)?)
    }

    /// How often a command was called since the start or [`reset_stats`](Self::reset_stats), replication included.
    pub fn calls(&self, index: usize, command: &str) -> u64 {
        calls_in(&self.info(index, "commandstats").unwrap(), command)
    }

    /// All counters of INFO are zero again.
    pub fn reset_stats(&self, index: usize) {
        let () = cmd("CONFIG")
            .arg("RESETSTAT")
            .query(&mut self.connection(index))
            .unwrap();
    }

    /// How many bytes of the primary's stream a server has.
    pub fn offset(&self, index: usize) -> RedisResult<u64> {
        let info = self.info(index, "replication")?;
        let name = match info.get::<String>("role").as_deref() {
            Some("slave") => "slave_repl_offset",
            _ => "master_repl_offset",
        };
        Ok(info.get(name).expect("INFO has the offset"))
    }

    /// Waits until all servers that answer but one replicate from that one, and have all that it had before.
    pub fn wait_until_linked(&self, primary: usize) {
        let running: Vec<usize> = (0..self.len())
            .filter(|&index| self.role(index).is_ok())
            .collect();
        let replicas = || running.iter().filter(|&&index| index != primary);
        wait_until("replication", || {
            let Ok(offset) = self.offset(primary) else {
                return false;
            };
            self.online_replicas(primary) == replicas().count()
                && replicas().all(|&index| self.has_link(index, offset))
        });
    }

    /// Whether a replica is linked to its primary, and has so many bytes of its stream.
    fn has_link(&self, replica: usize, offset: u64) -> bool {
        let info = self.info(replica, "replication").ok();
        let state = info.and_then(|info| info.get::<String>("master_link_status"));
        state.as_deref() == Some("up") && self.offset(replica).is_ok_and(|has| has >= offset)
    }

    /// How many replicas a primary sends to.
    fn online_replicas(&self, primary: usize) -> usize {
        let Ok(info) = self.info(primary, "replication") else {
            return 0;
        };
        let lines = (0..self.len()).filter_map(|at| info.get::<String>(&format!("slave{at}")));
        lines.filter(|line| line.contains("state=online")).count()
    }
}

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
}

impl Member {
    fn addr(&self) -> String {
        match &self.cut {
            Some(cut) => cut.addr(),
            None => self.direct_addr(),
        }
    }

    fn direct_addr(&self) -> String {
        match self.tls {
            true => self.server.tls_addr(0),
            false => self.server.addr(0),
        }
    }
}

impl<'a> Builder<'a> {
    /// That of clients, replicas and Sentinels.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.options = self
            .options
            .password(password)
            .option(["--masterauth", password]);
        self
    }

    /// TLS for clients, replication and Sentinels, with certificates of this issuer; clients need none of their own.
    pub fn tls(mut self, authority: &'a Authority) -> Self {
        self.authority = Some(authority);
        self.options = self
            .options
            .tls(authority, false)
            .option(["--tls-replication", "yes"]);
        self
    }

    /// A [`Cut`] in front of every server.
    pub fn cuts(mut self) -> Self {
        self.cuts = true;
        self
    }

    /// One more option on the command line of every server.
    pub fn option<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.options = self.options.option(words);
        self
    }

    pub fn start(self, replicas: usize) -> Option<ReplicaSet> {
        let mut set = ReplicaSet {
            members: Vec::new(),
            password: self.password.clone(),
            authority: self.authority.map(Authority::pem),
        };
        for _ in 0..=replicas {
            let member = self.member(set.members.first().map(Member::addr))?;
            set.members.push(member);
        }
        set.wait_until_linked(0);
        Some(set)
    }

    fn member(&self, primary: Option<String>) -> Option<Member> {
        let cut = self.cuts.then(Cut::unconnected);
        let host = own_address();
        let mut options = self.options.clone();
        // Fast, and with an address that others can use: connections on loopback come from 127.0.0.1.
        options = options
            .option(["--repl-diskless-sync-delay", "0"])
            .option(["--repl-ping-replica-period", "1"])
            .option(["--repl-timeout", "5"])
            .option(["--enable-debug-command", "yes"])
            .option(["--replica-announce-ip", &host]);
        if let Some(cut) = &cut {
            options = options.option(["--replica-announce-port", &cut.port().to_string()]);
        }
        if let Some(primary) = primary {
            let (host, port) = primary.rsplit_once(':').expect("a port");
            options = options.option(["--replicaof", host, port]);
        }
        let member = Member {
            server: options.start(1)?,
            cut,
            tls: self.authority.is_some(),
        };
        if let Some(cut) = &member.cut {
            cut.forward_to(&member.direct_addr());
        }
        Some(member)
    }
}

/// How often a command was called, by `INFO commandstats`.
pub fn calls_in(info: &InfoDict, command: &str) -> u64 {
    let line: Option<String> = info.get(&format!("cmdstat_{}", command.to_lowercase()));
    let calls = line.as_deref().and_then(|line| {
        let (calls, _) = line.strip_prefix("calls=")?.split_once(',')?;
        calls.parse().ok()
    });
    calls.unwrap_or(0)
}

/// Asks again and again, with a limit.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SETTLED_WITHIN;
    while !is_so() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {SETTLED_WITHIN:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
