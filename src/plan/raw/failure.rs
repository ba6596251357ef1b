//! Errors for requests of which the proxy writes and reads the bytes itself.

use crate::command::Access;
use crate::error::Error;
use crate::plan::Failure;

impl Failure {
    /// The error for a write of which so many bytes (all or nothing) were sent.
    pub(crate) fn of_write(&self, node: &str, sent: usize) -> Error {
        Self {
            sent,
            ..self.clone()
        }
        .error(node, 0, Access::Write)
    }
}
