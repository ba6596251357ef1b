//! `completions`: a script that lets a shell complete the command line.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::outcome::{Failure, Outcome};
use crate::{Cli, NAME};

const EXAMPLES: &str = "\
Examples:
  redis-sharding completions bash > ~/.local/share/bash-completion/completions/redis-sharding
  redis-sharding completions zsh > ~/.zfunc/_redis-sharding
  redis-sharding completions fish > ~/.config/fish/completions/redis-sharding.fish";

/// Prints the completion script of a shell
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<Outcome, Failure> {
        // Not to standard output at once: a closed one would be a panic there.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), NAME, &mut script);
        io::stdout().write_all(&script)?;
        Ok(Outcome::Fine)
    }
}
