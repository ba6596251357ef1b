//! Handles with other timeouts and another retry policy than the client they are made from.

use std::time::Duration;

use crate::aio::{Dedicated, Node, ShardedClient};
use crate::config::{bounded, with_request_options};

with_request_options!(ShardedClient);
with_request_options!(Node);

impl Dedicated {
    /// Sets the timeout of requests over this connection. Values count as for
    /// [`ShardedClient::with_timeout`]. Defaults to that of the handle which has opened it.
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        let timeout = bounded(timeout.into());
        self.shared = self
            .shared
            .with_options(|options| options.response_timeout = timeout);
    }

    /// Sets the timeout of commands without end over this connection. Values count as for
    /// [`ShardedClient::with_blocking_timeout`]. Defaults to that of the handle which has opened it.
    pub fn set_blocking_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        let timeout = bounded(timeout.into());
        self.shared = self
            .shared
            .with_options(|options| options.blocking_timeout = timeout);
    }
}
