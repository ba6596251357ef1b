//! `ping`: is every node up, and what is its state?

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use redis_sharding::aio::Node;
use redis_sharding::redis::{InfoDict, RedisError, RedisResult, cmd};
use serde::Serialize;

use crate::nodes::{NodeArgs, any_node, unknown_map};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, BAD, HEAD, Text};

const EXAMPLES: &str = "\
Examples:
  redis-sharding ping --topology users.topology
  redis-sharding ping --cluster 10.0.0.1:7000 --cluster 10.0.0.2:7000
  redis-sharding ping --node a=10.0.0.1:6379 --node b=10.0.0.2:6379 --timeout 0.5 --json

JSON: {reachable, unreachable, nodes: [{node, address, reachable, server, version, role, keys, memory_bytes,
max_memory_bytes, latency_us, error}]}
reachable of a node: it has answered PING. server is redis or valkey, role is master or slave, as in INFO;
max_memory_bytes is 0 without a limit; what is not known is null. error is null, or says what went wrong.";

/// The longest timeout, in seconds.
const TIMEOUT_MAX: f64 = 3600.0;

/// Time by which the client's own timeouts exceed that of the report, whose message is clearer.
const MARGIN: Duration = Duration::from_secs(1);

/// Prints the state of every node
///
/// All nodes are asked at once; those of a Redis Cluster are its primaries. A node that cannot be reached has a row like the others. Exit code 1 if a node cannot be
/// reached or replied with an error.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Ping {
    /// Time for all nodes together, connecting included
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = timeout)]
    timeout: Duration,
    /// Writes the report as JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|&seconds: &f64| seconds > 0.0 && seconds <= TIMEOUT_MAX);
    let seconds = seconds.ok_or(format!(
        "seconds are a number up to {TIMEOUT_MAX}, such as 0.5"
    ))?;
    Ok(Duration::from_secs_f64(seconds))
}

impl Ping {
    pub fn run(self) -> Result<Outcome, Failure> {
        let builder = self.nodes.builder()?;
        let is_cluster = self.nodes.is_cluster()?;
        let longer = self.timeout + MARGIN;
        let builder = builder.connect_timeout(longer).response_timeout(longer);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let rows = runtime.block_on(async {
            let mut client = builder.build_async()?;
            let end = tokio::time::Instant::now() + self.timeout;
            if is_cluster {
                let asked = any_node();
                let asked = tokio::time::timeout_at(end, asked.exec_async(&mut client)).await;
                let late = || {
                    format!(
                        "no server of the cluster has named its nodes within {:?}",
                        self.timeout
                    )
                };
                asked
                    .map_err(|_| Failure::Failed(late()))?
                    .map_err(unknown_map)?;
            }
            let nodes = client.nodes();
            let asked = nodes.into_iter().map(|mut node| async move {
                let mut row = Row::of(&node);
                let asked = row.ask(&mut node);
                match tokio::time::timeout_at(end, asked).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => row.error = Some(error_text(&error)),
                    Err(_) => row.error = Some(format!("no reply within {:?}", self.timeout)),
                }
                row
            });
            Ok::<_, Failure>(join_all(asked).await)
        })?;
        // A connection attempt in the background must not delay the end.
        runtime.shutdown_background();
        let reachable = rows.iter().filter(|row| row.reachable).count();
        let report = Report {
            reachable,
            unreachable: rows.len() - reachable,
            nodes: rows,
        };
        output::write(&report, self.json)?;
        let is_fine = report.nodes.iter().all(|row| row.error.is_none());
        Ok(Outcome::of(is_fine))
    }
}

#[derive(Serialize)]
struct Report {
    reachable: usize,
    unreachable: usize,
    nodes: Vec<Row>,
}

/// The state of a node, as far as it replied.
#[derive(Default, Serialize)]
struct Row {
    node: String,
    address: String,
    reachable: bool,
    server: Option<&'static str>,
    version: Option<String>,
    role: Option<String>,
    keys: Option<u64>,
    memory_bytes: Option<u64>,
    max_memory_bytes: Option<u64>,
    latency_us: Option<u64>,
    error: Option<String>,
}

impl Row {
    fn of(node: &Node) -> Self {
        Self {
            node: node.name().to_owned(),
            address: node.address().to_owned(),
            ..Self::default()
        }
    }

    /// Fills in what the node replies; what it has replied before an error or the deadline is kept.
    async fn ask(&mut self, node: &mut Node) -> RedisResult<()> {
        let ping = cmd("PING");
        // The first one connects, so the second one is measured.
        ping.exec_async(node).await?;
        self.reachable = true;
        let start = Instant::now();
        ping.exec_async(node).await?;
        self.latency_us = u64::try_from(start.elapsed().as_micros()).ok();
        let info: InfoDict = cmd("INFO").query_async(node).await?;
        // Valkey reports the version of Redis that it is compatible with, too.
        let valkey: Option<String> = info.get("valkey_version");
        self.server = Some(if valkey.is_some() { "valkey" } else { "redis" });
        self.version = valkey.or_else(|| info.get("redis_version"));
        self.role = info.get("role");
        self.memory_bytes = info.get("used_memory");
        self.max_memory_bytes = info.get("maxmemory");
        self.keys = Some(cmd("DBSIZE").query_async(node).await?);
        Ok(())
    }

    /// The cells of the table, but the error.
    fn cells(&self) -> [String; 8] {
        let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let version = self.version.as_ref().map(|version| {
            let server = self.server.unwrap_or_default();
            format!("{server} {version}")
        });
        let memory = self.memory_bytes.map(|used| match self.max_memory_bytes {
            None | Some(0) => bytes(used),
            Some(limit) => format!("{} of {}", bytes(used), bytes(limit)),
        });
        let latency = self
            .latency_us
            .map(|us| format!("{:.2} ms", us as f64 / 1e3));
        [
            self.node.clone(),
            self.address.clone(),
            if self.reachable { "yes" } else { "no" }.to_owned(),
            known(version),
            known(self.role.clone()),
            known(self.keys.map(|keys| keys.to_string())),
            known(memory),
            known(latency),
        ]
    }
}

impl Text for Report {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        const TITLES: [&str; 8] = [
            "node",
            "address",
            "reachable",
            "version",
            "role",
            "keys",
            "memory",
            "latency",
        ];
        let rows: Vec<[String; 8]> = self.nodes.iter().map(Row::cells).collect();
        let mut widths = TITLES.map(|title| title.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String; 8]| {
            let padded = cells.iter().zip(widths);
            let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
            let cells: Vec<String> = padded.collect();
            cells.join("  ").trim_end().to_owned()
        };
        let title = line(&TITLES.map(str::to_owned));
        writeln!(output, "{HEAD}{title}{HEAD:#}")?;
        for (row, cells) in self.nodes.iter().zip(&rows) {
            match &row.error {
                None => writeln!(output, "{}", line(cells))?,
                Some(error) => {
                    writeln!(output, "{BAD}{}{BAD:#}", line(cells))?;
                    writeln!(output, "  {BAD}{error}{BAD:#}")?;
                }
            }
        }
        let (reachable, all) = (self.reachable, self.nodes.len());
        writeln!(output, "\n{reachable} of {all} nodes reachable")
    }
}

/// The error as a server writes it: its code and its text.
fn error_text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Bytes as INFO shows them: `1.50M`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    let mut value = count as f64;
    let mut shown = format!("{count}B");
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        shown = format!("{value:.2}{unit}");
    }
    shown
}
