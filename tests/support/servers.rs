//! Real Redis or Valkey servers on loopback, for one test each.
//!
//! ```ignore
//! let Some(servers) = Servers::start(4) else { return };
//! let client = client_over(servers.urls());
//! servers.kill(2);
//! ```
//!
//! The binary is [`Builder::server`]'s, else `REDISRS_SERVER_BIN`, else `redis-server`, else `valkey-server`. Without any of them a test fails, unless
//! `REDIS_SHARDING_SKIP_SERVER_TESTS=1` says that it may be left out.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;
use redis_test::server::RedisServer;
use tempfile::TempDir;

use super::authority::{Authority, Issued};

/// How long a server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Where ports are taken from: below those of outgoing connections, so that a restarted server finds its own free.
const PORTS: std::ops::Range<u32> = 22_000..32_000;
/// How many ports lie between the first choices of two processes.
const PORTS_PER_PROCESS: u32 = 64;

/// Several servers, all stopped when this is dropped, also when the test panics.
pub struct Servers {
    servers: Vec<Server>,
}

struct Server {
    options: Builder,
    addr: ConnectionAddr,
    /// Where it speaks TLS, besides.
    tls_port: Option<u16>,
    /// Where it speaks to other nodes of its Redis Cluster.
    bus_port: Option<u16>,
    running: Mutex<Running>,
    /// Where the unix socket is, and the certificate.
    _home: TempDir,
}

/// A process. The fields are dropped in this order: the watchdog must not outlive what it watches.
struct Running {
    watchdog: Watchdog,
    /// Holds the process and its log, and kills on drop.
    server: RedisServer,
}

/// Kills another process when this one ends without dropping it, say because somebody killed it.
pub struct Watchdog(Child);

/// How servers are started.
#[derive(Clone, Default)]
pub struct Builder {
    password: Option<String>,
    unix: bool,
    args: Vec<String>,
    tls: Option<Tls>,
    server: Option<PathBuf>,
    cluster: bool,
    keeps_data: bool,
}

/// With which certificates a server speaks TLS.
#[derive(Clone)]
struct Tls {
    authority: String,
    issued: Issued,
    /// Whether clients must show one, too.
    clients: bool,
}

impl Servers {
    /// Empty servers without persistence on free ports; `None` when there is no binary and the environment allows it.
    pub fn start(count: usize) -> Option<Self> {
        Self::builder().start(count)
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    pub fn url(&self, index: usize) -> String {
        self.servers[index].url()
    }

    /// `host:port`, or the path of the unix socket.
    pub fn addr(&self, index: usize) -> String {
        match &self.servers[index].addr {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            addr => addr.to_string(),
        }
    }

    /// Where the server speaks TLS: `host:port`.
    pub fn tls_addr(&self, index: usize) -> String {
        let server = &self.servers[index];
        let host = match &server.addr {
            ConnectionAddr::Tcp(host, _) => host,
            other => panic!("no TLS at {other}"),
        };
        format!("{host}:{}", server.tls_port.expect("it speaks TLS"))
    }

    pub fn tls_url(&self, index: usize) -> String {
        format!("rediss://{}/", self.tls_addr(index))
    }

    /// The port of the cluster bus of a server that was started with [`cluster`](Builder::cluster).
    pub fn bus_port(&self, index: usize) -> u16 {
        self.servers[index].bus_port.expect("a node of a cluster")
    }

    pub fn connection(&self, index: usize) -> redis::Connection {
        let client = redis::Client::open(self.url(index)).unwrap();
        client.get_connection().unwrap()
    }

    /// The log of a server since its last start.
    pub fn log(&self, index: usize) -> String {
        let log = self.running(index).server.log_file_contents();
        log.unwrap_or_default()
    }

    pub fn pid(&self, index: usize) -> u32 {
        self.running(index).server.process.id()
    }

    /// Kills a server at once (SIGKILL): its port refuses connections, its data is gone.
    pub fn kill(&self, index: usize) {
        self.running(index).stop();
    }

    /// Kills a server if it still runs, and starts one on the same address: an empty one, unless it
    /// [keeps its data](Builder::keeps_data).
    pub fn restart(&self, index: usize) {
        self.kill(index);
        let server = &self.servers[index];
        let again = spawn_ready(&server.options, &server.addr, server.port_args());
        *self.running(index) = again.expect("the port of the server was taken by another process");
    }

    /// Stops a server in its tracks (SIGSTOP): connections stay open, and connect, but nothing is answered.
    pub fn pause(&self, index: usize) {
        signal("STOP", self.pid(index));
    }

    /// Lets a paused server go on (SIGCONT): it answers what it was sent in the meantime.
    pub fn resume(&self, index: usize) {
        signal("CONT", self.pid(index));
    }

    fn running(&self, index: usize) -> MutexGuard<'_, Running> {
        let running = self.servers[index].running.lock();
        running.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn stop(&mut self) {
        self.watchdog.stop();
        self.server.stop();
    }
}

impl Watchdog {
    pub fn start(pid: u32) -> Self {
        // Its standard input ends when this process does.
        let script = "read line; kill -s KILL \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, &pid.to_string()]);
        Self(run(command.stdin(Stdio::piped())))
    }

    fn stop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Builder {
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Unix sockets instead of ports.
    pub fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// TLS on a second port, with a certificate of this issuer for their address and for `localhost`. Clients must show
    /// one of the same issuer, if so wished.
    pub fn tls(mut self, authority: &Authority, clients: bool) -> Self {
        self.tls = Some(Tls {
            authority: authority.pem(),
            issued: authority.issue(&[&own_address(), "localhost"]),
            clients,
        });
        self
    }

    /// Another binary than that of most tests.
    pub fn server(mut self, path: &Path) -> Self {
        self.server = Some(path.to_owned());
        self
    }

    /// A node of a Redis Cluster, which remembers the others when it is restarted. Its data is gone then, as always.
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// A server that is restarted finds the files that it has written.
    pub fn keeps_data(mut self) -> Self {
        self.keeps_data = true;
        self
    }

    /// One more option on the command line of every server, such as `["--maxmemory", "1mb"]`.
    pub fn option<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.args.extend(words.map(str::to_owned));
        self
    }

    pub fn start(self, count: usize) -> Option<Servers> {
        self.binary()?;
        let servers = (0..count).map(|_| Server::start(&self)).collect();
        Some(Servers { servers })
    }

    fn binary(&self) -> Option<PathBuf> {
        self.server.clone().or_else(binary)
    }

    fn url_of(&self, addr: &ConnectionAddr) -> String {
        match (addr, &self.password) {
            (ConnectionAddr::Unix(path), None) => format!("unix://{}", path.display()),
            (ConnectionAddr::Unix(path), Some(password)) => {
                format!("unix://{}?pass={password}", path.display())
            }
            (addr, None) => format!("redis://{addr}/"),
            (addr, Some(password)) => format!("redis://:{password}@{addr}/"),
        }
    }
}

impl Server {
    fn start(options: &Builder) -> Self {
        let home = temporary_directory();
        loop {
            let addr = match options.unix {
                true => ConnectionAddr::Unix(home.path().join("redis.sock")),
                false => ConnectionAddr::Tcp(own_address(), next_port()),
            };
            let tls_port = options.tls.as_ref().map(|tls| {
                tls.write(home.path());
                next_port()
            });
            // Below the ports of outgoing connections, unlike the port that a server chooses by itself.
            let bus_port = options.cluster.then(next_port);
            let args = port_args(options, tls_port, bus_port, home.path());
            // A taken port is another test's: try the next one.
            if let Some(running) = spawn_ready(options, &addr, args) {
                return Self {
                    options: options.clone(),
                    addr,
                    tls_port,
                    bus_port,
                    running: Mutex::new(running),
                    _home: home,
                };
            }
        }
    }

    fn url(&self) -> String {
        self.options.url_of(&self.addr)
    }

    fn port_args(&self) -> Vec<String> {
        let home = self._home.path();
        port_args(&self.options, self.tls_port, self.bus_port, home)
    }
}

impl Tls {
    fn write(&self, folder: &Path) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("ca.pem", &self.authority);
        write("server.pem", &self.issued.certificate);
        write("server.key", &self.issued.key);
    }
}

fn port_args(options: &Builder, tls: Option<u16>, bus: Option<u16>, folder: &Path) -> Vec<String> {
    let mut args = tls_args(options, tls, folder);
    if options.keeps_data {
        // Instead of a folder of its own for each process.
        args.extend(["--dir".to_owned(), folder.display().to_string()]);
    }
    if let Some(port) = bus {
        let nodes = folder.join("nodes.conf").display().to_string();
        args.extend(["--cluster-enabled", "yes", "--cluster-config-file"].map(str::to_owned));
        args.extend([nodes, "--cluster-port".to_owned(), port.to_string()]);
    }
    args
}

fn tls_args(options: &Builder, port: Option<u16>, folder: &Path) -> Vec<String> {
    let (Some(tls), Some(port)) = (&options.tls, port) else {
        return Vec::new();
    };
    let file = |name: &str| folder.join(name).display().to_string();
    let clients = if tls.clients { "yes" } else { "no" };
    [
        ("--tls-port", port.to_string()),
        ("--tls-ca-cert-file", file("ca.pem")),
        ("--tls-cert-file", file("server.pem")),
        ("--tls-key-file", file("server.key")),
        ("--tls-auth-clients", clients.to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// A server that answers, or `None` when its port is taken.
fn spawn_ready(options: &Builder, addr: &ConnectionAddr, args: Vec<String>) -> Option<Running> {
    let mut server = spawn(options, addr, args);
    let watchdog = Watchdog::start(server.process.id());
    let client = redis::Client::open(options.url_of(addr)).unwrap();
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if server.process.try_wait().unwrap().is_some() {
            let log = server.log_file_contents().unwrap_or_default();
            assert!(
                log.contains("already in use"),
                "the server ended at once; its log:\n{log}"
            );
            return None;
        }
        if is_ready(&client, server.process.id()) {
            return Some(Running { watchdog, server });
        }
        let log = || server.log_file_contents().unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "no answer within {READY_WITHIN:?}; the log:\n{}",
            log()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the process.
///
/// `RedisServer::new_with_addr_and_modules` of redis-test would do it, but it asks `redis-server -v` for a version
/// whichever binary it starts. So it panics on a machine with Valkey only, and gives new options to old servers.
fn spawn(options: &Builder, addr: &ConnectionAddr, args: Vec<String>) -> RedisServer {
    let tempdir = temporary_directory();
    let log_file = RedisServer::log_file(&tempdir);
    let mut command = Command::new(options.binary().expect("start() looked for it"));
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.arg("--dir").arg(tempdir.path());
    command.arg("--logfile").arg(&log_file);
    match addr {
        ConnectionAddr::Unix(path) => command.args(["--port", "0", "--unixsocket"]).arg(path),
        ConnectionAddr::Tcp(host, port) => {
            command.args(["--bind", host, "--port", &port.to_string()])
        }
        other => panic!("no server listens on {other}"),
    };
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    command.args(&options.args).args(args);
    command.stdin(Stdio::null());
    // What it says before it reads its options, such as an unknown one.
    command.stdout(File::create(&log_file).unwrap());
    command.stderr(File::options().append(true).open(&log_file).unwrap());
    RedisServer {
        process: run(&mut command),
        tempdir,
        log_file,
        addr: addr.clone(),
        tls_paths: None,
    }
}

pub(super) fn run(command: &mut Command) -> Child {
    let child = command.spawn();
    child.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program()))
}

/// Whether this very process answers, not another test's that was faster on the port.
fn is_ready(client: &redis::Client, pid: u32) -> bool {
    let connection = client.get_connection_with_timeout(Duration::from_secs(1));
    let info = connection.and_then(|mut connection| {
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        redis::cmd("INFO")
            .arg("server")
            .query::<redis::InfoDict>(&mut connection)
    });
    info.is_ok_and(|info| info.get("process_id") == Some(pid))
}

/// The server to run; `None` when there is none and that is allowed.
pub(super) fn binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("REDISRS_SERVER_BIN") {
        return Some(named.into());
    }
    let found = ["redis-server", "valkey-server"]
        .into_iter()
        .find_map(in_path);
    let may_skip =
        env::var_os("REDIS_SHARDING_SKIP_SERVER_TESTS").is_some_and(|value| value == "1");
    if found.is_none() && may_skip {
        eprintln!("skipped: no redis-server or valkey-server");
        return None;
    }
    assert!(
        found.is_some(),
        "this test needs a Redis server: install redis-server or valkey-server (tests/run does), or name one in \
         REDISRS_SERVER_BIN, or leave such tests out with REDIS_SHARDING_SKIP_SERVER_TESTS=1"
    );
    found
}

/// A program that the system has.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut files = env::split_paths(&path).map(|dir| dir.join(name));
    files.find(|file| Path::is_file(file))
}

/// An address of the loopback interface that no other process uses, where the system has that many: a client of a killed
/// server must not find another test's server on its port.
pub fn own_address() -> String {
    let [high, middle, low, lowest] = process::id().to_be_bytes();
    match cfg!(target_os = "linux") && high == 0 && middle < u8::MAX - 1 {
        true => format!("127.{}.{low}.{lowest}", middle + 1),
        false => "127.0.0.1".to_owned(),
    }
}

pub(super) fn next_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = process::id().wrapping_mul(PORTS_PER_PROCESS);
    let offset =
        first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
    u16::try_from(PORTS.start + offset).unwrap()
}

pub(super) fn temporary_directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("redis-sharding")
        .tempdir()
        .unwrap()
}

pub(super) fn signal(name: &str, pid: u32) {
    // The shell's own `kill`: every system has it, and std sends no signal but SIGKILL.
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
        .status();
    assert!(
        status.unwrap().success(),
        "cannot send SIG{name} to process {pid}"
    );
}
