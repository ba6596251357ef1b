//! `proxy`: serves the nodes as one server.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use redis_sharding::proxy::{ClusterMode, OutputLimit, serve_metrics};
use redis_sharding::{ClientEvent, ErrorKind};
use tokio::net::TcpListener;

use crate::NAME;
use crate::nodes::{NodeArgs, any_node, password};
use crate::outcome::{Failure, Outcome};
use crate::proxy_options::{
    self, ClientClass, Hangups, ProxyOptions, accept_error_reporter, shutdown_signal,
};
use crate::shown::shown;

/// The environment variable with the password of the proxy.
const PASSWORD: &str = "REDIS_SHARDING_PASSWORD";

const EXAMPLES: &str = "\
Examples:
  redis-sharding proxy --listen 127.0.0.1:7000 --topology users.topology
  redis-sharding proxy --listen 127.0.0.1:7000 --node a=10.0.0.1:6379 --node b=10.0.0.2:6379 --threads 2
  redis-sharding proxy --listen 127.0.0.1:7000 --cluster 10.0.0.1:7000 --cluster 10.0.0.2:7000
  redis-sharding proxy --listen 127.0.0.1:7000 --discover 10.0.0.1:6379
  redis-cli -p 7000 mset user:1 Ada user:2 Grace

The address is printed once the proxy listens. SIGTERM and Ctrl-C stop it: requests under way are answered first. SIGHUP
reads the --topology file again.";

/// Serves the nodes as one server, for every program that uses the Redis protocol
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Proxy {
    /// The address to listen on, such as 127.0.0.1:7000; port 0 is any free port
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// Serves metrics as Prometheus text over HTTP at this address, such as 127.0.0.1:9121
    ///
    /// Anyone who can reach the address can read them. They contain names of nodes, but no keys, values or passwords.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Reads the --topology file again whenever it changes, and not only on SIGHUP
    ///
    /// A file that is wrong, or that would move keys, changes nothing and is reported.
    #[arg(long)]
    watch: bool,
    /// Follows the record that the nodes keep of their fleet; implied by --discover
    ///
    /// A node that names another topology is not used. See `redis-sharding topology`.
    #[arg(long)]
    agreed: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    clients: ClientArgs,
    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Clients")]
struct ClientArgs {
    /// File with the password that clients must send (AUTH)
    ///
    /// Without this option the password is taken from the environment variable REDIS_SHARDING_PASSWORD; without both, every
    /// client that can connect is let in. It has nothing to do with the passwords of the nodes.
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// Number of threads, at most 1024 [default: half of the cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Maximum number of connections [default: 10000]
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Memory that all clients together may hold; beyond it the largest holders are disconnected [default: 4gb]
    #[arg(long, value_name = "BYTES", value_parser = |value: &str| proxy_options::bytes("--max-memory", value))]
    max_memory: Option<usize>,
    /// Bytes of requests that may be queued for one client [default: 1gb]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = |value: &str| proxy_options::bytes("--client-query-buffer-limit", value)
    )]
    client_query_buffer_limit: Option<usize>,
    /// Bytes that may be queued until a client reads them, as in redis.conf; CLASS is normal or pubsub [default:
    /// "normal 0 0 0" and "pubsub 32mb 8mb 60"]
    #[arg(long, value_name = "CLASS HARD SOFT SECONDS", value_parser = proxy_options::output_limit)]
    client_output_buffer_limit: Vec<(ClientClass, OutputLimit)>,
    /// Idle time after which a client's host is probed, 0 for never [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = |value: &str| seconds("--tcp-keepalive", value))]
    tcp_keepalive: Option<Seconds>,
    /// Idle time after which a client is disconnected, 0 for never [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = |value: &str| seconds("--timeout", value))]
    timeout: Option<Seconds>,
    /// What programs are told that ask for a Redis Cluster: disabled or emulated [default: disabled]
    ///
    /// disabled: the proxy looks like one server, also if its nodes are those of a cluster. emulated: it looks like a cluster
    /// of one node, itself, that owns all slots, so that clients for Redis Cluster can use it.
    #[arg(long, value_name = "MODE", value_parser = proxy_options::cluster_mode)]
    cluster_mode: Option<ClusterMode>,
    /// The address that the map of an emulated cluster names [default: the one that a client has connected to]
    #[arg(long, value_name = "HOST:PORT", value_parser = proxy_options::cluster_announce)]
    cluster_announce: Option<(String, u16)>,
    /// KEYS, SCAN, DBSIZE and RANDOMKEY leave out nodes that cannot be reached instead of failing
    #[arg(long)]
    partial_reads: bool,
}

/// A time, or never.
#[derive(Clone, Copy)]
struct Seconds(Option<Duration>);

fn seconds(flag: &str, value: &str) -> Result<Seconds, String> {
    proxy_options::seconds(flag, value).map(Seconds)
}

impl Proxy {
    pub fn run(self) -> Result<Outcome, Failure> {
        let options = self.clients.options()?;
        // Before the proxy is built, which takes its metrics from the recorder that there is.
        if let Some(address) = self.metrics {
            serve_metrics(address)?;
        }
        let mut builder = self.nodes.builder()?;
        let topology = self.nodes.topology_file().map(str::to_owned);
        if self.watch {
            // clap does not insist on an option that conflicts with one that is given, `--node`.
            let file = topology
                .as_deref()
                .ok_or_else(|| Failure::Usage("--watch needs --topology FILE".into()))?;
            builder = builder.watch_topology(file).on_event(report);
        }
        if self.agreed || self.nodes.discovers() {
            builder = builder.agreed().on_event(report);
        }
        if self.nodes.is_cluster()? {
            report_cluster(&self.nodes)?;
        }
        let proxy = options.build(builder)?;
        let proxy = proxy.with_accept_error_handler(accept_error_reporter(NAME));
        let threads = options.threads().map_err(Failure::Usage)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = listen(&self.listen).await?;
            // Before anybody learns that the proxy is there, who might send the signal.
            let hangups = Hangups::catch()?;
            tokio::spawn(hangups.reload(NAME, proxy.clone(), topology));
            announce(&listener)?;
            let run = proxy.run_on_threads(threads, listener, shutdown_signal());
            run.await?;
            Ok(Outcome::Fine)
        })
    }
}

impl ClientArgs {
    fn options(self) -> Result<ProxyOptions, Failure> {
        Ok(ProxyOptions {
            password: password(self.password_file.as_deref(), PASSWORD)?,
            threads: self.threads,
            clients: self.clients,
            max_memory: self.max_memory,
            query_limit: self.client_query_buffer_limit,
            output_limits: self.client_output_buffer_limit,
            tcp_keepalive: self.tcp_keepalive.map(|Seconds(time)| time),
            timeout: self.timeout.map(|Seconds(time)| time),
            partial_reads: self.partial_reads,
            cluster_mode: self.cluster_mode.unwrap_or_default(),
            cluster_announce: self.cluster_announce,
        })
    }
}

/// Asks the cluster for its nodes. Seeds that are no servers of one are invalid arguments. A cluster that cannot be reached
/// is only reported, as it may come later.
fn report_cluster(nodes: &NodeArgs) -> Result<(), Failure> {
    let client = nodes.builder()?.build()?;
    let Err(error) = any_node().exec(&mut client.clone()) else {
        return Ok(());
    };
    match ErrorKind::of(&error) {
        ErrorKind::Config | ErrorKind::Auth => Err(Failure::Usage(error.to_string())),
        _ => {
            // Nobody may read it; the proxy goes on.
            let _ = writeln!(io::stderr(), "{NAME}: {error}");
            Ok(())
        }
    }
}

/// Writes to standard error what became of a topology that has changed.
fn report(event: &ClientEvent) {
    if let ClientEvent::TopologyChanged { .. }
    | ClientEvent::TopologyRefused { .. }
    | ClientEvent::RecordLost { .. }
    | ClientEvent::RecordRepaired { .. } = event
    {
        // Nobody may read it; the proxy goes on.
        let _ = writeln!(io::stderr(), "{NAME}: {event}");
    }
}

async fn listen(address: &str) -> Result<TcpListener, Failure> {
    let failure = |error| Failure::Usage(format!("cannot listen on {}: {error}", shown(address)));
    TcpListener::bind(address).await.map_err(failure)
}

/// Prints the address. A proxy that cannot print where it listens is of no use.
fn announce(listener: &TcpListener) -> Result<(), Failure> {
    let address = listener.local_addr()?;
    let failure = |error| Failure::Failed(format!("the address cannot be printed: {error}"));
    writeln!(io::stdout(), "listening on {address}").map_err(failure)
}
