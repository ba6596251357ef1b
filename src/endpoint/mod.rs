//! How is one node reached? Its address, what encrypts the connection, what its sockets are told, and when it is left alone.

mod deadline;
mod node_backoff;
pub(crate) mod tls;

use std::io;
use std::time::Duration;

use redis::ConnectionInfo;
use redis::io::tcp::TcpSettings;
use socket2::{SockRef, TcpKeepalive};

pub(crate) use crate::endpoint::deadline::Deadline;
pub(crate) use crate::endpoint::node_backoff::{ConnectAttempt, NodeBackoff};
use crate::endpoint::tls::Tls;

/// A peer that does not answer is asked so many times, each time after a part of the quiet period, before the
/// connection is given up: twice the period in all.
const KEEPALIVE_PROBES: u32 = 4;

/// The kernel counts whole seconds.
const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How one node is reached.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) info: ConnectionInfo,
    /// For messages.
    pub(crate) address: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) options: SocketOptions,
}

/// What a TCP socket is told.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    keepalive: Option<TcpKeepalive>,
    user_timeout: Option<Duration>,
}

impl Endpoint {
    /// What to add when the server hangs up instead of giving its first answer.
    pub(crate) fn hint(&self) -> &'static str {
        self.tls.as_ref().map_or("", Tls::hint)
    }

    /// This node, spoken to in `version` of the protocol.
    #[cfg(feature = "proxy")]
    pub(crate) fn speaking(&self, version: redis::ProtocolVersion) -> Self {
        let settings = self.info.redis_settings().clone().set_protocol(version);
        Self {
            info: self.info.clone().set_redis_settings(settings),
            ..self.clone()
        }
    }
}

impl SocketOptions {
    /// What the node's own settings say goes before the client's keepalive.
    pub(crate) fn new(keepalive: Option<Duration>, own: &TcpSettings) -> Self {
        let keepalive = keepalive.map(|idle| {
            let interval = (idle / KEEPALIVE_PROBES).max(KEEPALIVE_INTERVAL_MIN);
            with_probes(TcpKeepalive::new().with_time(idle), interval)
        });
        Self {
            keepalive: own.keepalive().cloned().or(keepalive),
            user_timeout: user_timeout(own),
        }
    }

    /// Tells a new socket. Requests are written whole, so nothing is gained by holding back the end of one.
    pub(crate) fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if let Some(keepalive) = &self.keepalive {
            socket.set_tcp_keepalive(keepalive)?;
        }
        self.apply_user_timeout(&socket)
    }

    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    fn apply_user_timeout(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match self.user_timeout {
            Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
            None => Ok(()),
        }
    }

    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    fn apply_user_timeout(&self, _: &SockRef<'_>) -> io::Result<()> {
        debug_assert!(self.user_timeout.is_none());
        Ok(())
    }
}

#[cfg(not(target_os = "openbsd"))]
fn with_probes(keepalive: TcpKeepalive, interval: Duration) -> TcpKeepalive {
    keepalive
        .with_interval(interval)
        .with_retries(KEEPALIVE_PROBES)
}

/// There the system's own interval applies.
#[cfg(target_os = "openbsd")]
fn with_probes(keepalive: TcpKeepalive, _: Duration) -> TcpKeepalive {
    keepalive
}

#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
fn user_timeout(own: &TcpSettings) -> Option<Duration> {
    own.user_timeout()
}

#[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
fn user_timeout(_: &TcpSettings) -> Option<Duration> {
    None
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn told(keepalive: Option<Duration>, own: TcpSettings) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let options = SocketOptions::new(keepalive, &own);
        options.apply(SockRef::from(&stream)).unwrap();
        stream
    }

    #[test]
    fn tcp_keepalive_detects_a_dead_peer_after_twice_its_time() {
        let stream = told(Some(Duration::from_secs(60)), TcpSettings::default());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 60);
        let asked =
            socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(asked.as_secs(), 60);
    }

    #[test]
    fn tcp_keepalive_of_one_second_is_probed_every_second() {
        let stream = told(Some(Duration::from_secs(1)), TcpSettings::default());
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 1);
    }

    #[test]
    fn tcp_keepalive_does_not_override_the_tcp_settings_of_a_node() {
        let own = TcpSettings::default()
            .set_keepalive(TcpKeepalive::new().with_time(Duration::from_secs(7)))
            .set_user_timeout(Duration::from_secs(9));
        let stream = told(Some(Duration::from_secs(60)), own);
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 7);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(9))
        );
    }

    #[test]
    fn tcp_keepalive_is_off_without_a_keepalive_time() {
        let stream = told(None, TcpSettings::default());
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
