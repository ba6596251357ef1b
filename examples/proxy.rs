//! A proxy: many servers as one, for programs in any language that speak the Redis protocol.
//!
//! ```sh
//! cargo run --release --example proxy -- --listen 127.0.0.1:7000 \
//!     --node users-a=redis://10.0.0.1:6379 --node users-b=redis://10.0.0.2:6379
//! redis-cli -p 7000 mset user:1 Ada user:2 Grace
//! ```
//!
//! `--help` lists all options. On Ctrl-C or SIGTERM it answers the pending requests and exits.

#[path = "support/shown.rs"]
mod shown;

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis_sharding::partition::by_name;
use redis_sharding::proxy::{OutputLimit, Proxy, parse_bytes};
use redis_sharding::redis::parse_redis_url;
use redis_sharding::{Builder, PartialReads, ShardedClient, Topology};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use shown::{holds_password, shown};

const HELP: &str = "\
Many Redis or Valkey servers as one, for every program that speaks the Redis protocol.

  --listen ADDRESS        the address to listen on, such as 127.0.0.1:7000; port 0 is any free port
  --topology FILE         the nodes and their placement, as `redis-sharding topology 1`
  --node [NAME=]URL[,weight=W]
                          a node, instead of --topology; its name, or without one its address, decides where keys are placed
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
  --partial-reads         KEYS, SCAN, DBSIZE and RANDOMKEY leave out nodes that cannot be reached instead of failing
  --help                  print this help

The proxy prints its address once it is listening. SIGTERM and Ctrl-C stop it.
";

/// How long connections may take to end when the proxy stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Maximum number of threads: each has its own connections to all nodes.
const THREADS_MAX: usize = 1024;

/// The exit code that a shell shows for a program ended by SIGPIPE.
const READER_LEFT: u8 = 141;

/// The system's allocator would keep much of the memory that the replies to many clients needed for a moment.
#[cfg(all(unix, not(target_env = "musl")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Failure = Box<dyn Error + Send + Sync>;

/// The parsed command line.
#[derive(Default)]
struct Arguments {
    listen: Option<String>,
    topology: Option<String>,
    nodes: Vec<String>,
    placement: Option<String>,
    options: Vec<(String, String)>,
    threads: Option<usize>,
    clients: Option<usize>,
    password_file: Option<String>,
    max_memory: Option<usize>,
    query_limit: Option<usize>,
    output_limits: Vec<(Class, OutputLimit)>,
    tcp_keepalive: Option<Option<Duration>>,
    timeout: Option<Option<Duration>>,
    metrics: Option<String>,
    partial_reads: bool,
    help: bool,
}

/// Classes of clients with an output limit of their own: without subscriptions, and with.
#[derive(Clone, Copy)]
enum Class {
    Normal,
    PubSub,
}

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
    let listen = arguments
        .listen
        .as_deref()
        .ok_or("--listen is missing; --help says more")?;
    // Before the proxy is built, which takes its metrics from the recorder that there is.
    if let Some(address) = &arguments.metrics {
        serve_metrics(address)?;
    }
    let mut builder = builder(&arguments)?;
    if arguments.partial_reads {
        builder = builder.partial_reads(PartialReads::Allowed);
    }
    if let Some(clients) = arguments.clients {
        builder = builder.max_clients(clients);
    }
    let mut proxy = builder.build_proxy()?;
    if let Some(file) = &arguments.password_file {
        let text = read(file)?;
        proxy = proxy.with_password(text.trim_end_matches(['\r', '\n']));
    }
    let proxy = limited(proxy, &arguments);
    let threads = arguments.threads.unwrap_or_else(threads);
    if !(1..=THREADS_MAX).contains(&threads) {
        return Err(format!("--threads is {threads}, but must be in 1..={THREADS_MAX}").into());
    }
    let workers = start_workers(&proxy, threads)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(listen_until_told(listen, &proxy, workers.senders))?;
    for worker in workers.threads {
        worker.join().map_err(|_| "a thread has panicked")?;
    }
    Ok(())
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

fn read(file: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file);
    Ok(text.map_err(|error| format!("{}: {error}", shown(file)))?)
}

fn is_broken_pipe(error: &Failure) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Applies the limits of the command line to a proxy.
fn limited(mut proxy: Proxy, arguments: &Arguments) -> Proxy {
    if let Some(bytes) = arguments.max_memory {
        proxy = proxy.with_memory_limit(bytes);
    }
    if let Some(bytes) = arguments.query_limit {
        proxy = proxy.with_query_limit(bytes);
    }
    if let Some(idle) = arguments.tcp_keepalive {
        proxy = proxy.with_tcp_keepalive(idle);
    }
    if let Some(timeout) = arguments.timeout {
        proxy = proxy.with_idle_timeout(timeout);
    }
    for (class, limit) in &arguments.output_limits {
        proxy = match class {
            Class::Normal => proxy.with_output_limit(*limit),
            Class::PubSub => proxy.with_pub_sub_output_limit(*limit),
        };
    }
    proxy
}

fn bytes(flag: &str, value: &str) -> Result<usize, Failure> {
    let bytes = parse_bytes(value);
    bytes.ok_or_else(|| format!("{flag} takes a number of bytes, such as 512mb").into())
}

/// Parses seconds; zero means never.
fn seconds(flag: &str, value: &str) -> Result<Option<Duration>, Failure> {
    let seconds: u32 = value
        .parse()
        .map_err(|_| format!("{flag} takes a number of seconds"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn output(value: &str) -> Result<(Class, OutputLimit), Failure> {
    let flag = "--client-output-buffer-limit";
    let (class, limit) = value.split_once(' ').unwrap_or((value, ""));
    let class = match class {
        "normal" => Class::Normal,
        "pubsub" => Class::PubSub,
        _ => return Err(format!("{flag} begins with normal or pubsub").into()),
    };
    let limit = limit.parse().map_err(|error| format!("{flag}: {error}"))?;
    Ok((class, limit))
}

/// Half of the cores: with fewer threads each sends more requests in one write, and servers on this machine
/// need cores too.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, THREADS_MAX))
}

/// Adds the nodes of the command line to the builder.
fn builder(arguments: &Arguments) -> Result<Builder, Failure> {
    let builder = ShardedClient::builder();
    if let Some(file) = &arguments.topology {
        let placed = arguments.placement.is_some() || !arguments.options.is_empty();
        if placed || !arguments.nodes.is_empty() {
            return Err("a topology has its nodes and its placement already".into());
        }
        let text = read(file)?;
        let topology: Topology = text.parse().map_err(|error| format!("{file}, {error}"))?;
        return Ok(builder.topology(&topology));
    }
    if arguments.nodes.is_empty() {
        return Err(
            "no nodes: give --topology FILE, or --node NAME=URL once for every node".into(),
        );
    }
    let placement = arguments.placement.as_deref().unwrap_or("rendezvous/1");
    let rule = by_name(placement, &arguments.options)?;
    let nodes = arguments.nodes.iter().try_fold(builder, |builder, node| {
        let (node, weight) = weight(node)?;
        Ok::<_, Failure>(match name_and_url(node)? {
            (Some(name), url) => builder.weighted_node(name, url, weight),
            (None, url) => builder.unnamed_node(url),
        })
    })?;
    Ok(nodes.shared_partitioner(Arc::clone(&rule)))
}

fn weight(node: &str) -> Result<(&str, NonZeroU32), Failure> {
    match node.rsplit_once(",weight=") {
        None => Ok((node, NonZeroU32::MIN)),
        Some((node, weight)) => {
            let weight = weight.parse();
            Ok((
                node,
                weight.map_err(|_| "the weight of a --node is a whole number from 1 on")?,
            ))
        }
    }
}

/// Splits `[NAME=]URL`. The name ends at the first `=` that a URL follows.
fn name_and_url(node: &str) -> Result<(Option<&str>, &str), Failure> {
    if parse_redis_url(node).is_some() {
        return Ok((None, node));
    }
    let mut splits = node
        .match_indices('=')
        .map(|(at, _)| (&node[..at], &node[at + 1..]));
    // An equals sign may belong to the name, or to a password, which a name must not contain.
    let found = splits.find(|(name, url)| {
        !name.is_empty() && !holds_password(name) && parse_redis_url(url).is_some()
    });
    // The text is not repeated: a URL may contain a password.
    let (name, url) = found.ok_or("a --node is NAME=URL, such as users-a=redis://10.0.0.1:6379")?;
    Ok((Some(name), url))
}

/// Threads that serve connections, each with a channel through which it receives them.
struct Workers {
    threads: Vec<JoinHandle<()>>,
    senders: Vec<UnboundedSender<std::net::TcpStream>>,
}

/// Every thread has a runtime and node connections of its own, which avoids wake-ups across threads.
fn start_workers(proxy: &Proxy, count: usize) -> Result<Workers, Failure> {
    let mut workers = Workers {
        threads: Vec::new(),
        senders: Vec::new(),
    };
    for number in 0..count {
        let proxy = proxy.with_separate_upstreams();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (sender, streams) = unbounded_channel();
        let name = format!("worker-{number}");
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || runtime.block_on(serve_all(proxy, streams)))?;
        workers.threads.push(thread);
        workers.senders.push(sender);
    }
    Ok(workers)
}

async fn serve_all(proxy: Proxy, mut streams: UnboundedReceiver<std::net::TcpStream>) {
    while let Some(stream) = streams.recv().await {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            // A broken connection affects only its own client.
            let _ = serve(&proxy, stream).await;
        });
    }
    proxy.drain(STOP_WITHIN).await;
}

async fn serve(proxy: &Proxy, stream: std::net::TcpStream) -> std::io::Result<()> {
    proxy.serve_tcp(TcpStream::from_std(stream)?).await
}

async fn listen_until_told(
    address: &str,
    proxy: &Proxy,
    workers: Vec<UnboundedSender<std::net::TcpStream>>,
) -> Result<(), Failure> {
    let bound = TcpListener::bind(address).await;
    let listener =
        bound.map_err(|error| format!("cannot listen on {}: {error}", shown(address)))?;
    let mut ended = std::pin::pin!(told_to_end());
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    for worker in workers.iter().cycle() {
        let accepted = tokio::select! {
            _ = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            // A worker that is gone has panicked; the others continue.
            Ok(stream) => drop(worker.send(stream)),
            // Too many open files, for example, which may be temporary.
            Err(error) => {
                eprintln!("proxy: a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    proxy.stop();
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM.
#[cfg(unix)]
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn told_to_end() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// All options that take a value.
const FLAGS: [&str; 14] = [
    "--listen",
    "--topology",
    "--node",
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
                arguments.partial_reads = true;
                continue;
            }
            if !FLAGS.contains(&flag) {
                let flag = shown(flag);
                return Err(format!("there is no argument {flag}; --help lists them").into());
            }
            let value = joined.or_else(|| words.next().cloned());
            let value = value.ok_or_else(|| format!("{flag} takes a value; --help says more"))?;
            let number = || value.parse().map_err(|_| format!("{flag} takes a number"));
            match flag {
                "--listen" => arguments.listen = Some(value),
                "--topology" => arguments.topology = Some(value),
                "--node" => arguments.nodes.push(value),
                "--password-file" => arguments.password_file = Some(value),
                "--placement" => arguments.placement = Some(value),
                "--threads" => arguments.threads = Some(number()?),
                "--clients" => arguments.clients = Some(number()?),
                "--max-memory" => arguments.max_memory = Some(bytes(flag, &value)?),
                "--client-query-buffer-limit" => {
                    arguments.query_limit = Some(bytes(flag, &value)?);
                }
                "--client-output-buffer-limit" => arguments.output_limits.push(output(&value)?),
                "--tcp-keepalive" => arguments.tcp_keepalive = Some(seconds(flag, &value)?),
                "--metrics" => arguments.metrics = Some(value),
                "--timeout" => arguments.timeout = Some(seconds(flag, &value)?),
                "--option" => {
                    let (key, value) = value.split_once('=').ok_or("--option takes K=V")?;
                    arguments.options.push((key.to_owned(), value.to_owned()));
                }
                _ => return Err(format!("{flag} is not done here").into()),
            }
        }
        Ok(arguments)
    }
}
