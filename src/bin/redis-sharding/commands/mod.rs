//! The subcommands.

mod backup;
mod balance;
mod completions;
mod diff;
mod explain;
mod inspect;
mod locate;
mod ping;
mod proxy;
mod reshard;
mod restore;
mod topology;
mod verify;

use std::io::{self, BufRead, BufReader};

use clap::Subcommand;

use crate::outcome::{Failure, Outcome};

/// Size of the buffers for keys that are read and written, in bytes.
const BUFFER: usize = 1 << 18;

#[derive(Subcommand)]
pub enum Command {
    Locate(locate::Locate),
    Balance(balance::Balance),
    Explain(explain::Explain),
    Ping(ping::Ping),
    Proxy(proxy::Proxy),
    Topology(topology::Topology),
    Reshard(reshard::Reshard),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Diff(diff::Diff),
    Completions(completions::Completions),
}

impl Command {
    pub fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Locate(command) => command.run(),
            Self::Balance(command) => command.run(),
            Self::Explain(command) => command.run(),
            Self::Ping(command) => command.run(),
            Self::Proxy(command) => command.run(),
            Self::Topology(command) => command.run(),
            Self::Reshard(command) => command.run(),
            Self::Backup(command) => command.run(),
            Self::Restore(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Diff(command) => command.run(),
            Self::Completions(command) => command.run(),
        }
    }
}

/// The keys on standard input.
fn stdin() -> impl BufRead {
    BufReader::with_capacity(BUFFER, io::stdin().lock())
}
