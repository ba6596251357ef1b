//! One command as a node received it.

use std::fmt;

/// A command as a node received it, applied or not.
///
/// Its `Display` is the command as it would be typed: `SET key value`.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedCommand {
    connection: u64,
    args: Vec<Vec<u8>>,
}

impl ReceivedCommand {
    /// Records a command of this connection.
    pub(super) fn new(connection: u64, args: Vec<Vec<u8>>) -> Self {
        Self { connection, args }
    }

    /// Returns the name in upper case.
    pub fn name(&self) -> String {
        self.args
            .first()
            .map(|name| text(name).to_ascii_uppercase())
            .unwrap_or_default()
    }

    /// Returns the name and the arguments, byte for byte.
    pub fn args(&self) -> &[Vec<u8>] {
        &self.args
    }

    /// Returns the number of the connection by which it came, counted from one in each node.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// True if it sets up a connection and asks for no data: AUTH, CLIENT, HELLO, SELECT.
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

/// Returns bytes in a readable form: those that are not printable ASCII are escaped.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
