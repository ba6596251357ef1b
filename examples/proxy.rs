//! A proxy: many servers as one, for programs in any language that speak the Redis protocol.
//!
//! ```sh
//! cargo run --release --example proxy -- --listen 127.0.0.1:7000 \
//!     --node users-a=redis://10.0.0.1:6379 --node users-b=redis://10.0.0.2:6379
//! redis-cli -p 7000 mset user:1 Ada user:2 Grace
//! ```
//!
//! `--help` lists all options. On Ctrl-C or SIGTERM it answers the pending requests and exits; on SIGHUP it reads the
//! topology file again. The tool `redis-sharding` has the same as `redis-sharding proxy`, with the same options.

#[path = "../src/bin/redis-sharding/fleet.rs"]
mod fleet;
#[path = "../src/bin/redis-sharding/proxy_options.rs"]
mod proxy_options;
#[path = "../src/bin/redis-sharding/shown.rs"]
mod shown;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::net::TcpListener;

use fleet::{Fleet, placement_option};
use proxy_options::{Hangups, ProxyOptions, accept_error_reporter, shutdown_signal};
use shown::shown;

const HELP: &str = "\
Many Redis or Valkey servers as one, for every program that speaks the Redis protocol.

  --listen ADDRESS        the address to listen on, such as 127.0.0.1:7000; port 0 is any free port
  --topology FILE         the nodes and their placement, as `redis-sharding topology 1`
  --node [NAME=]URL[,weight=W]
                          a node, instead of --topology; its name, or without one its address, decides where keys are placed
  --cluster SEED          a server of a Redis Cluster, as host:port or a URL, instead of nodes; may be repeated
  --placement NAME        the placement of keys; `locate --list` lists the names; default: rendezvous/1
  --option K=V            an option of the placement
  --threads N             number of threads, at most 1024; default: half of the cores
  --password-file FILE    clients must send the password in this file (AUTH); passwords of the nodes are in their URLs
  --clients N             maximum number of connections; default: 10000
  --max-memory BYTES      memory that all clients together may hold; beyond it the largest holders are disconnected;
                          default: 4gb
  --client-query-buffer-limit BYTES
                          bytes of requests that may be queued for one client; default: 1gb
  --client-output-buffer-limit \"CLASS HARD SOFT SECONDS\"
                          bytes that may be queued until a client reads them, as in redis.conf; CLASS is normal or pubsub;
                          default: \"normal 0 0 0\" and \"pubsub 32mb 8mb 60\"
  --tcp-keepalive SECONDS idle time after which a client's host is probed, 0 for never; default: 300
  --timeout SECONDS       idle time after which a client is disconnected, 0 for never; default: 0
  --metrics ADDRESS       serve metrics as Prometheus text over HTTP, such as at 127.0.0.1:9121; needs the feature `cli`
  --cluster-mode MODE     what programs are told that ask for a Redis Cluster: disabled (the default), or emulated: the proxy
                          looks like a cluster of one node
  --cluster-announce HOST:PORT
                          the address that the map of an emulated cluster names; default: the one that a client has
                          connected to
  --partial-reads         KEYS, SCAN, DBSIZE and RANDOMKEY leave out nodes that cannot be reached instead of failing
  --help                  print this help

The proxy prints its address once it is listening. SIGTERM and Ctrl-C stop it; SIGHUP reads the --topology file again.
";

/// The exit code that a shell shows for a program ended by SIGPIPE.
const READER_LEFT: u8 = 141;

/// The system's allocator would keep much of the memory that the replies to many clients needed for a moment.
#[cfg(all(unix, not(target_env = "musl")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let words: Option<Vec<String>> = std::env::args_os()
        .skip(1)
        .map(|word| word.into_string().ok())
        .collect();
    let words = words.ok_or_else(|| "an argument is not UTF-8".into());
    match words.and_then(|words| run(&words)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has closed it.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(READER_LEFT),
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[String]) -> Result<(), Failure> {
    let arguments = Arguments::read(words)?;
    if arguments.help {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    }
    let address = arguments
        .listen
        .as_deref()
        .ok_or("--listen is missing; --help says more")?;
    // Before the proxy is built, which takes its metrics from the recorder that there is.
    if let Some(address) = &arguments.metrics {
        serve_metrics(address)?;
    }
    let options = &arguments.options;
    let proxy = options.build(arguments.fleet()?.builder()?)?;
    let proxy = proxy.with_accept_error_handler(accept_error_reporter("proxy"));
    let threads = options.threads()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bound = TcpListener::bind(address).await;
        let listener =
            bound.map_err(|error| format!("cannot listen on {}: {error}", shown(address)))?;
        // Before anybody learns that the proxy is there, who might send the signal.
        let hangups = Hangups::catch()?;
        tokio::spawn(hangups.reload("proxy", proxy.clone(), arguments.topology.clone()));
        writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
        Ok(proxy
            .run_on_threads(threads, listener, shutdown_signal())
            .await?)
    })
}

#[cfg(feature = "cli")]
fn serve_metrics(address: &str) -> Result<(), Failure> {
    let parsed = address.parse().map_err(|_| {
        let address = shown(address);
        format!("--metrics takes an IP address and a port, such as 127.0.0.1:9121, not {address}")
    })?;
    Ok(redis_sharding::proxy::serve_metrics(parsed)?)
}

#[cfg(not(feature = "cli"))]
fn serve_metrics(_: &str) -> Result<(), Failure> {
    Err(
        "--metrics needs the feature `cli`: cargo run --release --features cli --example proxy"
            .into(),
    )
}

fn is_broken_pipe(error: &Failure) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The parsed command line.
#[derive(Default)]
struct Arguments {
    listen: Option<String>,
    topology: Option<String>,
    nodes: Vec<String>,
    seeds: Vec<String>,
    placement: Option<String>,
    placement_options: Vec<(String, String)>,
    options: ProxyOptions,
    metrics: Option<String>,
    help: bool,
}

/// All options that take a value.
const FLAGS: [&str; 17] = [
    "--listen",
    "--topology",
    "--node",
    "--cluster",
    "--cluster-mode",
    "--cluster-announce",
    "--password-file",
    "--placement",
    "--threads",
    "--clients",
    "--option",
    "--max-memory",
    "--client-query-buffer-limit",
    "--client-output-buffer-limit",
    "--tcp-keepalive",
    "--timeout",
    "--metrics",
];

impl Arguments {
    /// The nodes and their placement.
    fn fleet(&self) -> Result<Fleet, Failure> {
        if !self.seeds.is_empty() {
            let placed = self.placement.is_some() || !self.placement_options.is_empty();
            if placed || self.topology.is_some() || !self.nodes.is_empty() {
                return Err("the servers of a cluster choose its nodes and its placement".into());
            }
            return Ok(Fleet::cluster(&self.seeds)?);
        }
        if let Some(file) = &self.topology {
            let placed = self.placement.is_some() || !self.placement_options.is_empty();
            if placed || !self.nodes.is_empty() {
                return Err("a topology has its nodes and its placement already".into());
            }
            return Ok(Fleet::read_topology(file)?);
        }
        if self.nodes.is_empty() {
            return Err(
                "no nodes: give --topology FILE, --node NAME=URL once for every node, or --cluster SEED"
                    .into(),
            );
        }
        let placement = self.placement.as_deref().unwrap_or("rendezvous/1");
        Ok(Fleet::new(placement, &self.placement_options, &self.nodes)?)
    }

    fn read(words: &[String]) -> Result<Self, Failure> {
        let mut arguments = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, joined) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if flag == "--help" || flag == "-h" {
                arguments.help = true;
                continue;
            }
            if flag == "--partial-reads" {
                arguments.options.partial_reads = true;
                continue;
            }
            if !FLAGS.contains(&flag) {
                let flag = shown(flag);
                return Err(format!("there is no argument {flag}; --help lists them").into());
            }
            let value = joined.or_else(|| words.next().cloned());
            let value = value.ok_or_else(|| format!("{flag} takes a value; --help says more"))?;
            let number = || value.parse().map_err(|_| format!("{flag} takes a number"));
            let options = &mut arguments.options;
            match flag {
                "--listen" => arguments.listen = Some(value),
                "--metrics" => arguments.metrics = Some(value),
                "--topology" => arguments.topology = Some(value),
                "--node" => arguments.nodes.push(value),
                "--cluster" => arguments.seeds.push(value),
                "--cluster-mode" => options.cluster_mode = proxy_options::cluster_mode(&value)?,
                "--cluster-announce" => {
                    options.cluster_announce = Some(proxy_options::cluster_announce(&value)?);
                }
                "--placement" => arguments.placement = Some(value),
                "--option" => arguments.placement_options.push(placement_option(&value)?),
                "--password-file" => {
                    let password = proxy_options::password(&fleet::read(&value)?, &value)?;
                    options.password = Some(password);
                }
                "--threads" => options.threads = Some(number()?),
                "--clients" => options.clients = Some(number()?),
                "--max-memory" => options.max_memory = Some(proxy_options::bytes(flag, &value)?),
                "--client-query-buffer-limit" => {
                    options.query_limit = Some(proxy_options::bytes(flag, &value)?);
                }
                "--client-output-buffer-limit" => {
                    options
                        .output_limits
                        .push(proxy_options::output_limit(&value)?);
                }
                "--tcp-keepalive" => {
                    options.tcp_keepalive = Some(proxy_options::seconds(flag, &value)?);
                }
                "--timeout" => options.timeout = Some(proxy_options::seconds(flag, &value)?),
                _ => return Err(format!("{flag} is not done here").into()),
            }
        }
        Ok(arguments)
    }
}
