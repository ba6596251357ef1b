//! Requests without arguments that the client sends itself, in the wire format.
//!
//! Constants, because they are sent often and never vary.

/// Opens a transaction.
pub(crate) const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

/// Runs a transaction.
pub(crate) const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// Checks that a connection is alive.
pub(crate) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Asks a server for its role, and for the state of its replication.
pub(crate) const INFO_REPLICATION: &[u8] = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";

/// Asks a server for its role.
pub(crate) const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";

/// Forgets the watched keys of a connection.
pub(crate) const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

/// Closes a transaction without running it.
pub(crate) const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
