//! The operator's tool: where keys live, how a command would be routed, whether the nodes are up, and the proxy.
//!
//! * `commands`: one file for each subcommand: its arguments, its report, its exit code. A new one is a file
//!   there and a variant of [`Command`].
//! * `nodes`: the options for nodes, which all subcommands share.
//! * `outcome`: exit codes and failures. `report`, `output`: reports as text or as JSON.
//! * `fleet`, `keys`, `proxy_options`, `report`, `shown`: shared with the examples `locate` and `proxy`.
//!
//! Uses the library's public interface alone.

mod commands;
mod fleet;
mod keys;
mod nodes;
mod outcome;
mod output;
mod proxy_options;
mod report;
mod shown;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use commands::Command;
use outcome::{EXIT_CODES, Failure, Outcome, USAGE};
use shown::{holds_password, shown};

/// The system's allocator would keep much of the memory that the replies to many clients of the proxy needed
/// for a moment.
#[cfg(all(unix, not(target_env = "musl")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ABOUT: &str =
    "Shows where keys live on many Redis or Valkey servers, and serves the servers as one";

#[derive(Parser)]
#[command(name = NAME, version, about = ABOUT, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The name of the program, in messages and completions.
const NAME: &str = "redis-sharding";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(error),
    };
    match cli.command.run() {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(outcome::FOUND),
        // The reader of standard output, such as `head`, has closed it.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is closed, the exit code has to do.
            let _ = writeln!(io::stderr(), "{NAME}: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Prints the help, or what is wrong with the command line.
fn usage(error: clap::Error) -> ExitCode {
    let error = without_passwords(error);
    let code = match error.use_stderr() {
        true => ExitCode::from(USAGE),
        false => ExitCode::SUCCESS,
    };
    match error.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(outcome::FOUND),
        _ => code,
    }
}

/// Removes words that may contain a password from the message: clap quotes what it does not understand.
fn without_passwords(mut error: clap::Error) -> clap::Error {
    let context: Vec<(ContextKind, ContextValue)> = error
        .context()
        .map(|(kind, value)| (kind, value.clone()))
        .collect();
    for (kind, value) in context {
        let cleared = match value {
            ContextValue::String(word) => ContextValue::String(shown(&word).into_owned()),
            ContextValue::Strings(words) => {
                let words = words.iter().map(|word| shown(word).into_owned());
                ContextValue::Strings(words.collect())
            }
            // Tips, which quote the word amid others.
            ContextValue::StyledStrs(tips) => {
                let may_stay = |tip: &String| !tip.split([' ', '\'', '"']).any(holds_password);
                let kept = tips.into_iter().filter(|tip| may_stay(&tip.to_string()));
                ContextValue::StyledStrs(kept.collect())
            }
            other => other,
        };
        error.insert(kind, cleared);
    }
    error
}
