//! Servers for the quickstart: the user's own, local processes, or in-process nodes.

use std::env;
use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::redis;
use redis_sharding::testing::TestNode;

const BINARIES: [&str; 2] = ["redis-server", "valkey-server"];
const READY_WITHIN: Duration = Duration::from_secs(5);
/// Number of attempts to start a server: another process may take the free port first.
const PORT_ATTEMPTS: usize = 5;

/// The servers of the tour. Those that were started for it stop when this is dropped.
pub enum Fleet {
    /// The user's own: never stopped, never flushed.
    Given(Vec<String>),
    InProcess(Vec<TestNode>),
    Processes(Vec<Server>),
}

impl Fleet {
    /// Uses the servers at `urls` if there are any, else starts `count` new ones.
    pub fn find(urls: Vec<String>, count: usize) -> Result<Self, Box<dyn Error>> {
        if !urls.is_empty() {
            return Ok(Self::Given(urls));
        }
        match binary() {
            None => Ok(Self::InProcess(TestNode::start_many(count)?)),
            Some(binary) => {
                let servers = (0..count).map(|_| Server::start(&binary));
                Ok(Self::Processes(servers.collect::<Result<_, _>>()?))
            }
        }
    }

    pub fn urls(&self) -> Vec<String> {
        match self {
            Self::Given(urls) => urls.clone(),
            Self::InProcess(nodes) => nodes.iter().map(TestNode::url).collect(),
            Self::Processes(servers) => servers.iter().map(Server::url).collect(),
        }
    }

    /// Describes this fleet in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Given(urls) => format!("{} servers from the command line", urls.len()),
            Self::InProcess(nodes) => format!(
                "Neither redis-server nor valkey-server is on this machine: {} in-process nodes stand in for them.\n\
                 They know the commands of this tour and are slower than a real server",
                nodes.len()
            ),
            Self::Processes(servers) => {
                format!(
                    "{} {} processes, started for this tour",
                    servers.len(),
                    servers[0].name()
                )
            }
        }
    }

    /// Stops one server as if it had crashed.
    pub fn stop(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Given(_) => Err("a server of the user's own is not for us to stop".into()),
            Self::InProcess(nodes) => {
                nodes[index].stop();
                Ok(())
            }
            Self::Processes(servers) => Ok(servers[index].stop()?),
        }
    }

    /// Starts it again on its port, empty.
    pub fn restart(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Given(_) => Err("a server of the user's own is not for us to start".into()),
            Self::InProcess(nodes) => Ok(nodes[index].restart_empty()?),
            Self::Processes(servers) => servers[index].restart(),
        }
    }
}

/// A server process without persistence; it is killed when this is dropped.
pub struct Server {
    binary: PathBuf,
    port: u16,
    process: Child,
}

impl Server {
    fn start(binary: &Path) -> Result<Self, Box<dyn Error>> {
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let mut server = Self {
                binary: binary.to_owned(),
                port,
                process: spawn(binary, port)?,
            };
            if server.is_ready()? {
                return Ok(server);
            }
        }
        Err(format!(
            "{} does not start; run it by hand to see why",
            binary.display()
        )
        .into())
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn name(&self) -> String {
        let name = self.binary.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn stop(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.stop()?;
        self.process = spawn(&self.binary, self.port)?;
        match self.is_ready()? {
            true => Ok(()),
            false => Err(format!("port {} was taken in the meantime", self.port).into()),
        }
    }

    /// Waits until the server replies. Returns false if it has exited instead.
    fn is_ready(&mut self) -> Result<bool, Box<dyn Error>> {
        let client = redis::Client::open(self.url())?;
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            if self.process.try_wait()?.is_some() {
                return Ok(false);
            }
            let connection = client.get_connection_with_timeout(READY_WITHIN);
            if connection
                .is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
            {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the server on port {} does not answer", self.port).into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.stop();
    }
}

fn spawn(binary: &Path, port: u16) -> io::Result<Child> {
    Command::new(binary)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        // Nothing is saved, but a server loads what it finds: a `dump.rdb` in the working directory is not ours.
        .args(["--dbfilename", "no-file-of-this-tour.rdb"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn binary() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let in_path = |name| env::split_paths(&path).map(move |dir| dir.join(name));
    BINARIES
        .iter()
        .flat_map(in_path)
        .find(|file| file.is_file())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
