//! One command as a node received it.

use std::fmt;

/// A command as a node received it, whether or not it was applied or answered.
///
/// Its `Display` is the command as it would be typed: `SET key value`.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedCommand {
    connection: u64,
    args: Vec<Vec<u8>>,
}

impl ReceivedCommand {
    pub(super) fn new(connection: u64, args: Vec<Vec<u8>>) -> Self {
        Self { connection, args }
    }

    /// The name in upper case.
    pub fn name(&self) -> String {
        self.args
            .first()
            .map(|name| text(name).to_ascii_uppercase())
            .unwrap_or_default()
    }

    /// The name and the arguments, byte for byte.
    pub fn args(&self) -> &[Vec<u8>] {
        &self.args
    }

    /// The number of the connection it came by, counted from one per node.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Whether it sets up a connection rather than asking for data: AUTH, CLIENT, HELLO, SELECT.
    pub fn is_set_up(&self) -> bool {
        matches!(self.name().as_str(), "AUTH" | "CLIENT" | "HELLO" | "SELECT")
    }
}

impl fmt::Display for ReceivedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, arg) in self.args.iter().enumerate() {
            let space = if position == 0 { "" } else { " " };
            write!(f, "{space}{}", text(arg))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ReceivedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} (connection {})", self.connection)
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
