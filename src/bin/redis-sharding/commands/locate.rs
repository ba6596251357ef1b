//! `locate`: on which node does each key live?

use std::ffi::OsString;
use std::io::{self, BufRead, BufWriter, Write};

use clap::Args;
use redis_sharding::Topology;
use redis_sharding::partition::catalogue;
use serde::Serialize;

use crate::commands::{BUFFER, stdin};
use crate::fleet::Fleet;
use crate::keys::{each_key, write_owners, write_placements};
use crate::nodes::NodeArgs;
use crate::outcome::{Failure, Outcome};
use crate::output::{self, JsonKey};
use crate::shown::holds_password;

const EXAMPLES: &str = "\
Examples:
  redis-sharding locate --topology users.topology user:1 user:2
  redis-sharding locate --placement twemproxy-ketama/1 --node a=10.0.0.1:6379 --node b=10.0.0.2:6379 < keys.txt
  redis-sharding locate --cluster 10.0.0.1:7000 user:1 user:2
  redis-sharding locate --node a=10.0.0.1:6379 --node b=10.0.0.2:6379 --write-topology > users.topology
  redis-sharding locate --list

JSON: a line {key, node} for each key; node is null for no owner, a key is a string, or {hex} if it is no text
With --list: [{name, summary, options: [{name, meaning, values, default}]}]
With --write-topology: {placement, options: [[name, value]], fingerprint, nodes: [{name, address, weight}]}; name is null
for a node that is named after its address";

/// Prints the node of each key
///
/// Keys are arguments; or they are read from standard input, one a line, all bytes up to the line feed: an empty line
/// is the empty key. For each key a line is written: the key, a tab, the name of its node. A node without a name is
/// shown by its address, as given. A key without an owner has no name after its tab, and the exit code is 1. No server
/// is contacted, except for those of a Redis Cluster, which are asked for its slots.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Locate {
    /// Lists every placement with its options
    #[arg(long, conflicts_with_all = ["write_topology", "keys"])]
    list: bool,
    /// Writes nodes and placement as a topology's text
    #[arg(long, conflicts_with = "keys")]
    write_topology: bool,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    /// The keys [default: the lines of standard input]
    #[arg(value_name = "KEY")]
    keys: Vec<OsString>,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Locate {
    pub fn run(self) -> Result<Outcome, Failure> {
        let mut output = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        if self.list {
            match self.json {
                true => output::write_json(&placements())?,
                false => write_placements(&mut output)?,
            }
            output.flush()?;
            return Ok(Outcome::Fine);
        }
        let fleet = self.nodes.fleet()?;
        if self.write_topology {
            match self.json {
                true => output::write_json(&JsonTopology::of(&fleet.topology))?,
                false => output.write_all(fleet.topology.to_string().as_bytes())?,
            }
            output.flush()?;
            return Ok(Outcome::Fine);
        }
        if self.keys.is_empty() {
            return self.locate(&fleet, stdin(), &mut output);
        }
        let looks_like_node = |key: &OsString| key.to_str().is_some_and(holds_password);
        if self.keys.iter().any(looks_like_node) {
            let message =
                "a KEY looks like the URL of a node with its password; nodes are given by --node";
            return Err(Failure::Usage(message.into()));
        }
        // Each key as it is: it may contain line feeds.
        let mut outcome = Outcome::Fine;
        for key in &self.keys {
            let found = self.locate_one(&fleet, key.as_encoded_bytes(), &mut output)?;
            outcome = if found { outcome } else { Outcome::Found };
        }
        output.flush()?;
        Ok(outcome)
    }

    fn locate(
        &self,
        fleet: &Fleet,
        keys: impl BufRead,
        output: &mut impl Write,
    ) -> Result<Outcome, Failure> {
        let mut unowned = 0;
        match self.json {
            false => unowned = write_owners(fleet, keys, output)?,
            true => each_key(keys, |key| {
                unowned += u64::from(!self.locate_one(fleet, key, output)?);
                Ok(())
            })?,
        }
        output.flush()?;
        match unowned {
            0 => Ok(Outcome::Fine),
            1 => Err(Failure::Failed("1 key has no owner".into())),
            unowned => Err(Failure::Failed(format!("{unowned} keys have no owner"))),
        }
    }

    /// Writes the line of one key. Returns false if it has no owner.
    fn locate_one(&self, fleet: &Fleet, key: &[u8], output: &mut impl Write) -> io::Result<bool> {
        let node = fleet.topology.locate(key);
        let node = node.map(|node| fleet.names[node.get()].as_str());
        if self.json {
            let key = JsonKey(key);
            serde_json::to_writer(&mut *output, &Owner { key, node })?;
        } else {
            output.write_all(key)?;
            write!(output, "\t{}", node.unwrap_or_default())?;
        }
        output.write_all(b"\n")?;
        Ok(node.is_some())
    }
}

#[derive(Serialize)]
struct Owner<'o> {
    key: JsonKey<'o>,
    node: Option<&'o str>,
}

#[derive(Serialize)]
struct Placement {
    name: &'static str,
    summary: &'static str,
    options: Vec<PlacementOption>,
}

#[derive(Serialize)]
struct PlacementOption {
    name: &'static str,
    meaning: &'static str,
    values: String,
    default: Option<&'static str>,
}

fn placements() -> Vec<Placement> {
    let placement = |entry: &redis_sharding::partition::PartitionerInfo| Placement {
        name: entry.name,
        summary: entry.summary,
        options: entry
            .options
            .iter()
            .map(|option| PlacementOption {
                name: option.name,
                meaning: option.meaning,
                values: option.values.to_string(),
                default: option.default,
            })
            .collect(),
    };
    catalogue().iter().map(placement).collect()
}

#[derive(Serialize)]
struct JsonTopology<'t> {
    placement: &'t str,
    options: Vec<(String, String)>,
    /// In sixteen hexadecimal digits, as in the text.
    fingerprint: String,
    nodes: Vec<JsonNode<'t>>,
}

#[derive(Serialize)]
struct JsonNode<'t> {
    name: Option<&'t str>,
    address: &'t str,
    weight: u32,
}

impl<'t> JsonTopology<'t> {
    fn of(topology: &'t Topology) -> Self {
        let node = |node: &'t redis_sharding::NodeSpec| JsonNode {
            name: node.is_named().then(|| node.name()),
            address: node.address(),
            weight: node.weight().get(),
        };
        Self {
            placement: topology.partitioner().name(),
            options: topology.partitioner().options(),
            fingerprint: format!("{:016x}", topology.fingerprint()),
            nodes: topology.nodes().iter().map(node).collect(),
        }
    }
}
