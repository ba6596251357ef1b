//! `balance`: how even is the load of these keys, and which would move to another fleet?

use std::io::{self, Write};

use clap::Args;

use crate::commands::stdin;
use crate::nodes::NodeArgs;
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Text};
use crate::report;

const EXAMPLES: &str = "\
Examples:
  redis-cli -h 10.0.0.1 --scan | redis-sharding balance --topology users.topology
  redis-sharding balance --node a=10.0.0.1:6379 --node b=10.0.0.2:6379,weight=2 < keys.txt
  redis-sharding balance --topology users.topology --diff larger.topology --json < keys.txt

JSON: {keys, unowned, max_over_mean, min_over_mean, nodes: [{node, keys, share, weight, load}]}
With --diff: {nodes_before, nodes_after, keys, moved, moves: [{from, to, keys}]}
share is from 0 to 1; load is the keys of a node against its share by weight; from and to are null for no owner.";

/// Counts the keys of each node, or those that would move to another fleet
///
/// Keys are read from standard input, one a line, all bytes up to the line feed. No server is contacted, except for those of a
/// Redis Cluster, which are asked for its slots.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Balance {
    /// Counts the keys that have another owner in the fleet of this file, by old and new owner
    ///
    /// FILE is a topology's text; or it has one node per line, written as for --node (empty lines and lines that begin
    /// with # are skipped), under the same placement. Two nodes are the same if they have one name, or else one
    /// address.
    #[arg(long, value_name = "FILE")]
    diff: Option<String>,
    /// Writes the report as JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Balance {
    pub fn run(self) -> Result<Outcome, Failure> {
        let fleet = self.nodes.fleet()?;
        let unowned = match &self.diff {
            None => {
                let balance = report::Balance::count(&fleet, stdin())?;
                output::write(&balance, self.json)?;
                balance.unowned
            }
            Some(file) => {
                let after = fleet.second(file).map_err(Failure::Usage)?;
                output::write(&report::Diff::count(&fleet, &after, stdin())?, self.json)?;
                0
            }
        };
        Ok(Outcome::of(unowned == 0))
    }
}

impl Text for report::Balance {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        report::Balance::write(self, output)
    }
}

impl Text for report::Diff {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        report::Diff::write(self, output)
    }
}
