//! `explain`: where would a command go?

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;
use redis_sharding::plan::{Explanation, Plan};
use redis_sharding::redis::Cmd;
use redis_sharding::{Error, ErrorKind};
use serde::Serialize;

use crate::nodes::{NodeArgs, ask_for_map};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, BAD, JsonKey, Text};

const EXAMPLES: &str = "\
Examples:
  redis-sharding explain --topology users.topology MGET user:1 user:2 user:3
  redis-sharding explain --cluster 10.0.0.1:7000 MGET user:1 user:2
  redis-sharding explain --node 10.0.0.1:6379 --node 10.0.0.2:6379 --json RENAME user:1 user:2

JSON: {command, plan, parts: [{node, keys}], error}
plan is one, any, split, all, scan or refused; parts is empty for any, as the node is chosen when the command is sent;
a key is a string, or {hex} if it is no text; error is null, or {kind, message} if the command is refused.";

/// Shows to which nodes a command would be sent, without sending it
///
/// No server is contacted, except for those of a Redis Cluster, which are asked for its slots. Exit code 1 if the command would be refused.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// Writes the report as JSON
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(
        required = true,
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Explain {
    pub fn run(self) -> Result<Outcome, Failure> {
        let client = self.nodes.builder()?.build()?;
        if self.nodes.is_cluster()? {
            ask_for_map(&client)?;
        }
        let mut cmd = Cmd::new();
        for word in &self.command {
            cmd.arg(word.as_encoded_bytes());
        }
        let explained = client.explain(&cmd);
        let name = self.command.first().map(|word| word.as_encoded_bytes());
        let name = name.unwrap_or_default().escape_ascii().to_string();
        let report = Report {
            command: name.to_ascii_uppercase(),
            plan: explained.as_ref().map_or("refused", plan),
            parts: explained.as_ref().map_or_else(|_| Vec::new(), parts),
            error: explained.as_ref().err().map(Refusal::of),
            explained: &explained,
        };
        output::write(&report, self.json)?;
        Ok(Outcome::of(explained.is_ok()))
    }
}

#[derive(Serialize)]
struct Report<'r> {
    command: String,
    plan: &'static str,
    parts: Vec<Part<'r>>,
    error: Option<Refusal>,
    #[serde(skip)]
    explained: &'r Result<Explanation, Error>,
}

/// The share of one node.
#[derive(Serialize)]
struct Part<'r> {
    node: &'r str,
    keys: Vec<JsonKey<'r>>,
}

/// Why a command would not be sent.
#[derive(Serialize)]
struct Refusal {
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn of(error: &Error) -> Self {
        Self {
            kind: match error.kind() {
                // The words of a server: the number of arguments is wrong.
                ErrorKind::Redis => "ERR",
                kind => kind.code(),
            },
            message: error.to_string(),
        }
    }
}

impl Text for Report<'_> {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        match self.explained {
            Ok(explanation) => writeln!(output, "{explanation}"),
            Err(error) => writeln!(output, "{}: {BAD}refused{BAD:#}, {error}", self.command),
        }
    }
}

fn plan(explanation: &Explanation) -> &'static str {
    match explanation.plan() {
        Plan::One(_) => "one",
        Plan::Any => "any",
        Plan::Split(_) => "split",
        Plan::All(_) => "all",
        Plan::Scan { .. } | Plan::ScanSlots { .. } => "scan",
        // The library may get more kinds, which get a word here when it does.
        _ => "other",
    }
}

fn parts(explanation: &Explanation) -> Vec<Part<'_>> {
    let parts = explanation.parts().into_iter();
    let part = |(node, keys): (_, Vec<_>)| Part {
        node,
        keys: keys.into_iter().map(JsonKey).collect(),
    };
    parts.map(part).collect()
}
