//! Programs between clients and servers, each a process of its own: the example `proxy`, and twemproxy.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tests::servers::Watchdog;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A proxy that listens. It is stopped when this is dropped.
pub struct Proxy {
    address: String,
    process: Child,
    watchdog: Option<Watchdog>,
    /// Where its configuration is.
    _home: Option<TempDir>,
}

impl Proxy {
    /// twemproxy in front of these servers.
    pub fn nutcracker(binary: &Path, servers: &[String]) -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let address = format!("127.0.0.1:{}", free_port());
        let mut pool = format!(
            "pool:\n  listen: {address}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  servers:\n"
        );
        for server in servers {
            pool.push_str(&format!("    - {server}:1\n"));
        }
        let file = home.path().join("pool.yml");
        fs::write(&file, pool).expect("it can be written");
        let mut command = Command::new(binary);
        command.arg("-c").arg(&file);
        command.arg("-o").arg(home.path().join("log"));
        command.args(["-a", "127.0.0.1", "-s", &free_port().to_string()]);
        let process = command.spawn().expect("nutcracker runs");
        let proxy = Self {
            address,
            watchdog: Some(Watchdog::start(process.id())),
            process,
            _home: Some(home),
        };
        let end = Instant::now() + READY_WITHIN;
        while TcpStream::connect(proxy.address()).is_err() {
            assert!(Instant::now() < end, "nutcracker does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        proxy
    }

    /// The example in front of these servers, with the same places for keys.
    pub fn own(binary: &Path, servers: &[String], threads: usize) -> Self {
        let mut options = [
            "--placement",
            "twemproxy-ketama/1",
            "--option",
            "hash=fnv1a_64",
        ]
        .map(str::to_owned)
        .to_vec();
        for server in servers {
            options.extend(["--node".to_owned(), format!("redis://{server}")]);
        }
        Self::of_example(binary, threads, &options)
    }

    /// The example in front of a cluster.
    pub fn own_cluster(binary: &Path, seeds: &[String], threads: usize) -> Self {
        let option = |seed: &String| ["--cluster".to_owned(), format!("redis://{seed}")];
        let options: Vec<String> = seeds.iter().flat_map(option).collect();
        Self::of_example(binary, threads, &options)
    }

    fn of_example(binary: &Path, threads: usize, options: &[String]) -> Self {
        let mut command = Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--threads", &threads.to_string()]);
        command.args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the example proxy runs");
        let watchdog = Some(Watchdog::start(process.id()));
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        let read = BufReader::new(output).read_line(&mut line);
        read.expect("it says where it listens");
        let address = line.trim_end().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("it says {line:?}"));
        Self {
            address: address.to_owned(),
            process,
            watchdog,
            _home: None,
        }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.watchdog.take();
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where twemproxy is, if it is installed.
pub fn nutcracker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian puts it is not in everybody's PATH.
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nutcracker"))
        .find(|file| file.is_file())
}

/// The example, built from the sources as they are now, as users build it.
pub fn own_binary() -> PathBuf {
    // target/release/deps/BENCH
    let bench = env::current_exe().expect("it has a path");
    let target = bench.ancestors().nth(3).expect("it is three levels deep");
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "redis-sharding",
    ]);
    build.args(["--features", "tokio-comp", "--example", "proxy"]);
    build.arg("--target-dir").arg(target);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = build.stdin(Stdio::null()).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the example proxy cannot be built"
    );
    target.join("release/examples/proxy")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
