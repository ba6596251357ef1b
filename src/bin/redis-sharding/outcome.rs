//! How a subcommand ends: its exit code, and the message of a failure.

use std::fmt;
use std::io;

/// The exit codes, for the help.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done, and nothing is wrong
  1  the report says that something is wrong: a node cannot be reached, a command is refused, a key has no owner;
     or reading, writing or serving failed
  2  the arguments are wrong, or a file that they name

A closed standard output, as by `head`, is no failure.";

/// Exit code when a report says that something is wrong, or the tool failed.
pub const FOUND: u8 = 1;

/// Exit code for invalid arguments and files.
pub const USAGE: u8 = 2;

/// The result of a subcommand that has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is wrong.
    Fine,
    /// Something is wrong, and the report says what.
    Found,
}

impl Outcome {
    pub fn of(is_fine: bool) -> Self {
        match is_fine {
            true => Self::Fine,
            false => Self::Found,
        }
    }
}

/// The reason why a subcommand has not done its work, or not all of it. Contains no passwords.
#[derive(Debug)]
pub enum Failure {
    /// The arguments, or a file that they name, are invalid.
    Usage(String),
    /// Something else went wrong.
    Failed(String),
    /// Reading or writing failed.
    Io(io::Error),
}

impl Failure {
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Failed(_) | Self::Io(_) => FOUND,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) => f.write_str(message),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Errors of the library that a subcommand passes on are about nodes, placement and settings.
impl From<redis_sharding::Error> for Failure {
    fn from(error: redis_sharding::Error) -> Self {
        Self::Usage(error.to_string())
    }
}
