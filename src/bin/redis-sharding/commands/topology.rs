//! `topology`: the record that the nodes of a fleet keep of it.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use redis_sharding::ShardedClient;
use redis_sharding::ops::{FleetRecord, FleetReport, NodeReport, PublishOptions};
use serde::Serialize;

use crate::fleet::Fleet;
use crate::nodes::{AccessArgs, NodeArgs};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, BAD, HEAD, Text};
use crate::shown::shown;

const EXAMPLES: &str = "\
Examples:
  redis-sharding topology publish users.topology
  redis-sharding topology check --topology users.topology
  redis-sharding topology show --discover 10.0.0.1:6379 > users.topology
  redis-sharding topology retire 10.0.0.9:6379 --discover 10.0.0.1:6379";

/// Publishes the topology of a fleet on its nodes, and shows what they say
///
/// Each node keeps a record of the fleet that it belongs to. Clients that follow it are refused by nodes with another
/// topology, and are told of changes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Topology {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Publish(Publish),
    Show(Show),
    Check(Check),
    Retire(Retire),
}

impl Topology {
    pub fn run(self) -> Result<Outcome, Failure> {
        match self.action {
            Action::Publish(action) => action.run(),
            Action::Show(action) => action.run(),
            Action::Check(action) => action.run(),
            Action::Retire(action) => action.run(),
        }
    }
}

const PUBLISH_EXAMPLES: &str = "\
Examples:
  redis-sharding topology publish users.topology
  redis-sharding topology publish cache.topology --allow-moves

JSON: {written, retired, not_retired, term, fingerprint}: the number of nodes whose record was written, and of nodes that the
topology leaves out and that say so now; the addresses of those that could not be asked";

/// Writes the record of a topology to all of its nodes
///
/// All nodes must be reachable. If they have the same topology already, what is missing or out of date is repaired, such as
/// addresses. A topology that would move keys is refused while nodes have data.
#[derive(Args)]
#[command(after_help = PUBLISH_EXAMPLES)]
struct Publish {
    /// The file with the topology's text
    #[arg(value_name = "FILE")]
    file: String,
    /// Publishes it although keys have other owners then: they are missing, as in a cache
    #[arg(long)]
    allow_moves: bool,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    access: AccessArgs,
}

impl Publish {
    fn run(self) -> Result<Outcome, Failure> {
        let topology = Fleet::read_topology(&self.file)
            .map_err(Failure::Usage)?
            .topology;
        let builder = self
            .access
            .apply(ShardedClient::builder().topology(&topology))?;
        let options = PublishOptions::default().with_allow_moves(self.allow_moves);
        let published = FleetRecord::new(builder)?.publish(&topology, options);
        let published = published.map_err(failed)?;
        let report = Publication {
            written: published.written,
            retired: published.retired,
            not_retired: published.not_retired,
            term: published.term,
            fingerprint: format!("{:016x}", topology.fingerprint()),
            nodes: topology.nodes().len(),
        };
        output::write(&report, self.json)?;
        Ok(Outcome::Fine)
    }
}

#[derive(Serialize)]
struct Publication {
    written: usize,
    retired: usize,
    not_retired: Vec<String>,
    term: u32,
    fingerprint: String,
    #[serde(skip)]
    nodes: usize,
}

impl Text for Publication {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let Self { term, nodes, .. } = self;
        match self.written {
            0 => writeln!(output, "all {nodes} nodes have it already, in term {term}")?,
            written => writeln!(output, "published on {written} nodes, in term {term}")?,
        }
        if self.retired > 0 {
            writeln!(output, "retired {} nodes that it leaves out", self.retired)?;
        }
        for address in &self.not_retired {
            writeln!(
                output,
                "{BAD}{address} cannot be asked; if it comes back, use `topology retire`{BAD:#}"
            )?;
        }
        Ok(())
    }
}

const SHOW_EXAMPLES: &str = "\
Examples:
  redis-sharding topology show --discover 10.0.0.1:6379 > users.topology
  redis-sharding topology show --topology users.topology --json

JSON: [{topology, nodes}]: each text that a node has, and the names of the nodes that have it";

/// Writes the text of the topology that the nodes have
///
/// Exit code 1 if they have none, or not all the same.
#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// Writes JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Show {
    fn run(self) -> Result<Outcome, Failure> {
        let shown = FleetRecord::new(self.nodes.builder()?)?.show();
        let texts = shown
            .into_iter()
            .map(|(topology, nodes)| ShownText { topology, nodes });
        let texts = Texts(texts.collect());
        output::write(&texts, self.json)?;
        match texts.0.len() {
            0 => Err(Failure::Failed(
                "no node has a record; publish it with `redis-sharding topology publish`".into(),
            )),
            1 => Ok(Outcome::Fine),
            _ => Ok(Outcome::Found),
        }
    }
}

#[derive(Serialize)]
struct Texts(Vec<ShownText>);

#[derive(Serialize)]
struct ShownText {
    topology: String,
    nodes: Vec<String>,
}

impl Text for Texts {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        for text in &self.0 {
            if self.0.len() > 1 {
                writeln!(output, "# of {}", text.nodes.join(", "))?;
            }
            output.write_all(text.topology.as_bytes())?;
        }
        Ok(())
    }
}

const CHECK_EXAMPLES: &str = "\
Examples:
  redis-sharding topology check --topology users.topology
  redis-sharding topology check --discover 10.0.0.1:6379 --json

JSON: {fine, fingerprint, nodes: [{node, address, state, fine, epoch, fingerprint, error}]}
What a node does not say is null.";

/// Compares the record of every node with the topology
///
/// Exit code 1 unless clients of the topology can use every node.
#[derive(Args)]
#[command(after_help = CHECK_EXAMPLES)]
struct Check {
    /// Writes JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Check {
    fn run(self) -> Result<Outcome, Failure> {
        let report = FleetRecord::new(self.nodes.builder()?)?.check();
        let report = Checked::of(&report);
        output::write(&report, self.json)?;
        Ok(Outcome::of(report.fine))
    }
}

#[derive(Serialize)]
struct Checked {
    fine: bool,
    fingerprint: String,
    nodes: Vec<CheckedNode>,
}

#[derive(Serialize)]
struct CheckedNode {
    node: String,
    address: String,
    state: &'static str,
    fine: bool,
    epoch: Option<String>,
    fingerprint: Option<String>,
    error: Option<String>,
}

impl Checked {
    fn of(report: &FleetReport) -> Self {
        let node = |node: &NodeReport| CheckedNode {
            node: node.node.clone(),
            address: node.address.clone(),
            state: node.state.text(),
            fine: node.state.is_fine(),
            epoch: node.epoch.clone(),
            fingerprint: node.fingerprint.map(|number| format!("{number:016x}")),
            error: node.error.as_ref().map(ToString::to_string),
        };
        Self {
            fine: report.is_fine(),
            fingerprint: format!("{:016x}", report.fingerprint),
            nodes: report.nodes.iter().map(node).collect(),
        }
    }
}

impl Text for Checked {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let cells = |node: &CheckedNode| {
            let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            [
                node.node.clone(),
                node.address.clone(),
                known(&node.epoch),
                known(&node.fingerprint),
                node.state.to_owned(),
            ]
        };
        let titles = ["node", "address", "epoch", "fingerprint", "record"].map(str::to_owned);
        let rows: Vec<[String; 5]> = self.nodes.iter().map(cells).collect();
        let mut widths = titles.clone().map(|title| title.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String; 5]| {
            let padded = cells.iter().zip(widths);
            let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
            let cells: Vec<String> = padded.collect();
            cells.join("  ").trim_end().to_owned()
        };
        writeln!(output, "{HEAD}{}{HEAD:#}", line(&titles))?;
        for (node, row) in self.nodes.iter().zip(&rows) {
            match node.fine {
                true => writeln!(output, "{}", line(row))?,
                false => writeln!(output, "{BAD}{}{BAD:#}", line(row))?,
            }
            if let Some(error) = &node.error {
                writeln!(output, "  {BAD}{error}{BAD:#}")?;
            }
        }
        let fine = self.nodes.iter().filter(|node| node.fine).count();
        let (all, fingerprint) = (self.nodes.len(), &self.fingerprint);
        writeln!(
            output,
            "\n{fine} of {all} nodes have the topology {fingerprint}"
        )
    }
}

const RETIRE_EXAMPLES: &str = "\
Examples:
  redis-sharding topology retire 10.0.0.9:6379 --discover 10.0.0.1:6379";

/// Has a node that is no longer in the topology say that it has left the fleet
///
/// Clients that still know it are refused there. NODE is host:port or a redis URL.
#[derive(Args)]
#[command(after_help = RETIRE_EXAMPLES)]
struct Retire {
    /// The node that has left
    #[arg(value_name = "NODE")]
    node: String,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Retire {
    fn run(self) -> Result<Outcome, Failure> {
        let url = match self.node.contains("://") {
            true => self.node.clone(),
            false => format!("redis://{}", self.node),
        };
        let record = FleetRecord::new(self.nodes.builder()?)?;
        record.retire(url).map_err(failed)?;
        writeln!(io::stdout(), "retired {}", shown(&self.node))?;
        Ok(Outcome::Fine)
    }
}

/// What a node has refused, or could not do.
fn failed(error: redis_sharding::Error) -> Failure {
    Failure::Failed(error.to_string())
}
