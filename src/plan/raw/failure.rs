//! Errors of requests that the proxy writes and reads by itself, without an exchange.

use crate::command::Access;
use crate::error::Error;
use crate::plan::Failure;

impl Failure {
    /// Returns the error for a write of which `sent` bytes were sent. Callers pass all or nothing: with 0 the
    /// write was certainly not carried out, otherwise its outcome is unknown.
    pub(crate) fn of_write(&self, node: &str, sent: usize) -> Error {
        Self {
            sent,
            ..self.clone()
        }
        .write_error(node)
    }

    /// Returns the error for the only write that has failed so.
    pub(crate) fn write_error(&self, node: &str) -> Error {
        self.error(node, 0, Access::Write)
    }
}
