//! Primaries, replicas and Sentinels for one tour.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::redis::{self, FromRedisValue, cmd};

const BINARIES: [&str; 2] = ["redis-server", "valkey-server"];
const SENTINELS: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a primary must be silent before Sentinel takes it for dead, in milliseconds.
const DOWN_AFTER_MS: u32 = 1_000;

/// Everything is stopped, and its folder removed, when this is dropped.
pub struct SentinelGroup {
    masters: Vec<Master>,
    sentinels: Vec<Server>,
    /// Where the Sentinels keep their configuration, which they rewrite, and replicas their data.
    _folder: Folder,
}

/// A primary and its replica.
struct Master {
    name: &'static str,
    servers: [Server; 2],
}

/// A process on a port of this machine.
struct Server {
    binary: PathBuf,
    port: u16,
    arguments: Vec<String>,
    process: Child,
}

struct Folder(PathBuf);

impl SentinelGroup {
    /// A primary with a replica for each name, and three Sentinels that know them and each other. `None` if there is no
    /// server on this machine.
    pub fn start(masters: &[&'static str]) -> Result<Option<Self>, Box<dyn Error>> {
        let Some(binary) = binary() else {
            return Ok(None);
        };
        let folder = Folder::create()?;
        let masters = masters
            .iter()
            .map(|name| Master::start(name, &binary, &folder));
        let masters = masters.collect::<Result<Vec<_>, _>>()?;
        let sentinels = (0..SENTINELS).map(|number| {
            let path = folder.0.join(format!("sentinel-{number}.conf"));
            fs::write(&path, configuration(&masters))
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Server::start(
                &binary,
                vec![path.display().to_string(), "--sentinel".into()],
            )
        });
        let group = Self {
            sentinels: sentinels.collect::<Result<_, Box<dyn Error>>>()?,
            masters,
            _folder: folder,
        };
        let start = Instant::now();
        while !group.is_complete() {
            if start.elapsed() > READY_WITHIN {
                return Err("the Sentinels do not find each other".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(group))
    }

    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    /// Kills the first primary of a master as if it had crashed.
    pub fn kill_primary(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        Ok(self.master(name)?.servers[0].stop()?)
    }

    /// Starts the first primary of a master again, and waits until it has the data of the new one.
    pub fn restart_former(&mut self, name: &str, within: Duration) -> Result<(), Box<dyn Error>> {
        let former = &mut self.master(name)?.servers[0];
        former.restart()?;
        let start = Instant::now();
        while !former.is_linked_replica() {
            if start.elapsed() > within {
                return Err("Sentinel does not make the former primary a replica".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn master(&mut self, name: &str) -> Result<&mut Master, String> {
        let found = self.masters.iter_mut().find(|master| master.name == name);
        found.ok_or_else(|| format!("there is no master {name}"))
    }

    /// True if each Sentinel knows the others, and the replica of each primary.
    fn is_complete(&self) -> bool {
        self.sentinels.iter().all(|sentinel| {
            self.masters.iter().all(|master| {
                let count = |what: &str| {
                    let known: Option<Vec<redis::Value>> =
                        sentinel.ask(cmd("SENTINEL").arg(what).arg(master.name));
                    known.map(|known| known.len())
                };
                count("SENTINELS") == Some(SENTINELS - 1) && count("REPLICAS") == Some(1)
            })
        })
    }
}

impl Master {
    fn start(name: &'static str, binary: &Path, folder: &Folder) -> Result<Self, Box<dyn Error>> {
        let options = |role: &str, more: &[&str]| {
            // A replica stores what it is sent by its primary, and a server loads what it finds there.
            let home = folder.0.join(format!("{name}-{role}"));
            fs::create_dir(&home)?;
            let usual = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let fast = ["--repl-diskless-sync-delay", "0"];
            let all = usual.iter().chain(&fast).chain(more);
            let mut all: Vec<String> = all.map(|word| (*word).to_owned()).collect();
            all.extend(["--dir".to_owned(), home.display().to_string()]);
            io::Result::Ok(all)
        };
        let primary = Server::start(binary, options("primary", &[])?)?;
        let port = primary.port.to_string();
        let replica = Server::start(
            binary,
            options("replica", &["--replicaof", "127.0.0.1", &port])?,
        )?;
        let start = Instant::now();
        while !replica.is_linked_replica() {
            if start.elapsed() > READY_WITHIN {
                return Err("a replica does not find its primary".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            name,
            servers: [primary, replica],
        })
    }
}

fn configuration(masters: &[Master]) -> String {
    let mut text = String::from("bind 127.0.0.1\nprotected-mode no\n");
    for Master { name, servers } in masters {
        let port = servers[0].port;
        // Two of three Sentinels must agree that a primary is dead.
        let lines = format!(
            "sentinel monitor {name} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {name} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {name} 10000\n"
        );
        text.write_str(&lines).unwrap_or_default();
    }
    text
}

impl Server {
    /// On a free port. With a file as the first argument, that is the configuration.
    fn start(binary: &Path, arguments: Vec<String>) -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Self {
            binary: binary.to_owned(),
            port,
            process: spawn(binary, &arguments, port)?,
            arguments,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn stop(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.stop()?;
        self.process = spawn(&self.binary, &self.arguments, self.port)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        while self.ask::<String>(&cmd("PING")).is_none() {
            if self.process.try_wait()?.is_some() || start.elapsed() > READY_WITHIN {
                let binary = self.binary.display();
                return Err(format!("{binary} does not start; run it by hand to see why").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// `None` if it does not answer.
    fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        let client = redis::Client::open(self.url()).ok()?;
        let mut connection = client.get_connection_with_timeout(READY_WITHIN).ok()?;
        connection.set_read_timeout(Some(READY_WITHIN)).ok()?;
        command.query(&mut connection).ok()
    }

    fn is_linked_replica(&self) -> bool {
        let info: Option<redis::InfoDict> = self.ask(cmd("INFO").arg("replication"));
        let link = info.and_then(|info| info.get::<String>("master_link_status"));
        link.as_deref() == Some("up")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.stop();
    }
}

impl Folder {
    fn create() -> Result<Self, String> {
        let path = env::temp_dir().join(format!("redis-sharding-sentinel-{}", process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(format!(
                "the Sentinels need a folder for their configuration, but {}: {error}",
                path.display()
            )),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // At worst it stays among the temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn spawn(binary: &Path, arguments: &[String], port: u16) -> io::Result<Child> {
    Command::new(binary)
        .args(arguments)
        .args(["--port", &port.to_string(), "--daemonize", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn binary() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let in_path = |name| env::split_paths(&path).map(move |folder| folder.join(name));
    let files = BINARIES.iter().flat_map(in_path);
    files.into_iter().find(|file| file.is_file())
}
