//! How connections behave: plain data that the builder fills and the executors follow.

use std::time::Duration;

use crate::error::Error;

/// A connection unused for so long is looked at before it is used: whether the server has closed it. A write on a closed
/// connection would be one that nobody can tell the fate of.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(1);

/// How connections behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Option<Duration>,
    pub(crate) pool_size: usize,
    pub(crate) waiting_pool_size: usize,
    #[cfg_attr(
        not(feature = "tokio-comp"),
        allow(dead_code, reason = "of the async client")
    )]
    pub(crate) connections_per_node: usize,
    pub(crate) idle_check: Duration,
    /// How long a connection may be quiet until the kernel asks the peer.
    pub(crate) tcp_keepalive: Option<Duration>,
}

/// The kernel counts whole seconds, in so many bits.
const TCP_KEEPALIVE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(32_767);

impl Settings {
    /// Whether a command could ever be run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let zero = [
            ("connect_timeout", self.connect_timeout.is_zero()),
            (
                "response_timeout",
                self.response_timeout == Some(Duration::ZERO),
            ),
            ("pool_size", self.pool_size == 0),
            ("waiting_pool_size", self.waiting_pool_size == 0),
            ("connections_per_node", self.connections_per_node == 0),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(Error::config(format!(
                "{name} is zero, so no command could ever be run"
            )));
        }
        match self.tcp_keepalive {
            Some(idle) if !TCP_KEEPALIVE.contains(&idle) => Err(Error::config(format!(
                "tcp_keepalive is {idle:?}; it may be between {:?} and {:?}, or None",
                TCP_KEEPALIVE.start(),
                TCP_KEEPALIVE.end()
            ))),
            _ => Ok(()),
        }
    }
}
