//! How one node is reached: its address, TLS, the options of its sockets, and when to leave it alone.
//!
//! * [`Endpoint`]: everything needed to connect to one node; [`SocketOptions`]: keepalive and user timeout of
//!   its sockets.
//! * `tls`: the checked TLS settings of a node.
//! * `login`: [`Login`], the credentials and the client name that a connection presents; `credentials`: the
//!   public types of credentials that change.
//! * `deadline`: [`Deadline`], the time limit of one request.
//! * `node_backoff`: [`NodeBackoff`], the outcome of attempts to connect, shared by all connections to a
//!   node.
//! * `replicas`: [`NodeReplicas`], the replicas of a node, and the connections to them.
//! * `primary`: [`PrimaryCell`], the address of a primary that may change; `located`: the endpoint at that address.
//! * `cluster`: [`ClusterServers`], the servers of a Redis Cluster by their addresses.
//! * `record`: [`RecordCell`], what the connections know of the record that a node keeps of its fleet.
//! * `push`: [`PushSender`](push::PushSender), where the RESP3 push messages of a node's connections go.
//!
//! No connection is made here: `sync` and `aio` do that, each in its own way.

mod cluster;
mod credentials;
mod deadline;
mod located;
mod login;
mod node_backoff;
mod primary;
pub(crate) mod push;
mod record;
mod replicas;
pub(crate) mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, ProtocolVersion, RedisResult, Value};
use socket2::{SockRef, TcpKeepalive};

pub use crate::endpoint::credentials::{
    Credentials, CredentialsError, CredentialsProvider, RotatingCredentials,
};

pub(crate) use crate::endpoint::cluster::{ClusterServers, ClusterSource};
pub(crate) use crate::endpoint::deadline::Deadline;
pub(crate) use crate::endpoint::login::{Identity, Login, LoginOptions, Presented};
pub(crate) use crate::endpoint::node_backoff::{ConnectAttempt, NodeBackoff};
pub(crate) use crate::endpoint::primary::{
    FORMER_PRIMARY_GRACE, PrimaryCell, PrimarySource, PrimaryVersion,
};
use crate::endpoint::push::PushTarget;
pub(crate) use crate::endpoint::record::{RecordCell, RecordCheck, RecordSource};
pub(crate) use crate::endpoint::replicas::{
    NodeReplicas, ReplicaConnections, ReplicaServer, ReplicationWatch, ServerConnections,
};
use crate::endpoint::tls::Tls;
use crate::observe::NodeObserver;
use crate::plan::Retries;
use crate::policy::{ConnectError, HandshakeScope, IoFailure, RetryPolicy};
use crate::resp::Handshake;
use crate::topology::record::{ConnectionRole, NameSuffix, READ_SCRIPT};
use crate::topology::{HostPort, NodeAccess, SentinelSource};

/// Number of keepalive probes without a reply after which the kernel gives a connection up. They are spread
/// over one idle period, so that a dead node is detected after twice that period.
const KEEPALIVE_PROBES: u32 = 4;

/// Shortest interval between two probes, as the kernel counts whole seconds.
const KEEPALIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How one node is reached.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Address, password, database and protocol, as redis-rs parsed them.
    pub(crate) info: ConnectionInfo,
    /// The node's address, for messages.
    pub(crate) address: String,
    /// TLS settings. `None` for a plain connection.
    pub(crate) tls: Option<Tls>,
    /// Options of TCP sockets.
    pub(crate) options: SocketOptions,
    /// Receives what happens to the node, for events and metrics.
    pub(crate) observer: Arc<NodeObserver>,
    /// Username, password and name of the client, which may change.
    pub(crate) login: Login,
    /// Where push messages go. `None` drops them.
    pub(crate) pushes: Option<PushTarget>,
    /// True for a server of a Redis Cluster, whose replicas serve reads on connections that ask for them only.
    pub(crate) in_cluster: bool,
    /// The replicas of the node, if it may have any.
    pub(crate) replicas: Option<Arc<NodeReplicas>>,
    /// Who knows the address, if it may change.
    pub(crate) sentinel: Option<SentinelSource>,
    /// The current address, if it may change. `None` for a fixed address.
    pub(crate) primary: Option<Arc<PrimaryCell>>,
    /// The record of the node, if the client follows it.
    pub(crate) record: Option<Arc<RecordCell>>,
}

/// Options that are set on a new TCP socket.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    /// When the kernel probes an idle connection. `None` leaves the system's default, which is off.
    keepalive: Option<TcpKeepalive>,
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged. Linux and its relatives only.
    user_timeout: Option<Duration>,
}

impl Endpoint {
    /// True if `access` describes the same server, or the same master of the same Sentinels, and the same user,
    /// database and protocol.
    pub(crate) fn leads_to(&self, access: &NodeAccess) -> bool {
        let ours = NodeAccess {
            info: self.info.clone(),
            sentinel: self.sentinel.clone(),
        };
        ours.is_same(access)
    }

    /// True if another server may become the primary of the node.
    #[inline]
    pub(crate) fn may_fail_over(&self) -> bool {
        self.primary.is_some()
    }

    /// The attempts of a request to the node.
    #[inline]
    pub(crate) fn retries(&self, policy: RetryPolicy) -> Retries {
        let retries = Retries::new(policy);
        match self.may_fail_over() {
            true => retries.with_failover(),
            false => retries,
        }
    }

    /// The error of a connection that broke during the handshake.
    ///
    /// In TLS 1.3 a server checks the client's certificate after the client considers the TLS handshake
    /// complete, so its refusal arrives here.
    pub(crate) fn handshake_broke(&self, failure: IoFailure) -> io::Error {
        match &self.tls {
            None => failure.into(),
            Some(tls) => tls.certificate_error(&failure.text).unwrap_or_else(|| {
                io::Error::new(failure.kind, format!("{failure}{}", tls.hint()))
            }),
        }
    }

    /// The epoch of the record that the client goes by, as a number. Zero if it follows none.
    #[inline]
    pub(crate) fn record_epoch(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.epoch())
    }

    /// The handshake of a new connection for commands, and what it presents.
    pub(crate) fn handshake(
        &self,
        scope: HandshakeScope,
    ) -> Result<(Handshake, Presented), ConnectError> {
        let epoch = self.record_epoch();
        let suffix = self.suffix(ConnectionRole::Commands, epoch);
        let settings = self.info.redis_settings();
        let (mut handshake, login) = self.login.handshake(settings, &suffix)?;
        let presented = Presented { login, epoch };
        if scope == HandshakeScope::LoginOnly {
            handshake.keep_login();
            // Without the check of the role and of the record, which are refused while a script runs as well.
            return Ok((handshake, presented));
        }
        let handshake = self.with_role_check(handshake);
        Ok(match self.record {
            // Last: that it is read after the name is set proves that nobody has missed the connection.
            Some(_) => (handshake.with_record(READ_SCRIPT, epoch), presented),
            None => (handshake, presented),
        })
    }

    /// Checks the replies to a handshake, or to a renewal.
    pub(crate) fn check(&self, handshake: &Handshake, answers: &[Value]) -> RedisResult<()> {
        handshake.check(answers)?;
        let presented = handshake.record_epoch();
        if let (Some(epoch), Some(record), Some(reply)) = (presented, &self.record, answers.last())
        {
            record.admit(epoch, reply).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// What follows the user's name in the name of a connection. Empty without a record.
    fn suffix(&self, role: ConnectionRole, epoch: u64) -> String {
        match self.record {
            Some(_) => RecordCell::suffix(role, epoch).to_string(),
            None => String::new(),
        }
    }

    /// The handshake of a new pub/sub connection. Always in RESP2, where messages and confirmations have one
    /// form: arrays.
    pub(crate) fn pub_sub_handshake(&self) -> Result<Handshake, ConnectError> {
        let settings = self.info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP2);
        let suffix = self.suffix(ConnectionRole::Subscriptions, self.record_epoch());
        let (handshake, _) = self.login.handshake(&settings, &suffix)?;
        Ok(self.with_role_check(handshake))
    }

    /// The handshake of a connection over which the record of the node is read and written, whose name has this end.
    pub(crate) fn record_handshake(
        &self,
        protocol: ProtocolVersion,
        suffix: NameSuffix,
    ) -> Result<Handshake, ConnectError> {
        let settings = self.info.redis_settings().clone();
        let settings = settings.set_protocol(protocol);
        let (handshake, _) = self.login.handshake(&settings, &suffix.to_string())?;
        Ok(self.with_role_check(handshake))
    }

    /// Adds a check of the role to the handshake with a primary that may change, and with a replica.
    fn with_role_check(&self, handshake: Handshake) -> Handshake {
        match &self.primary {
            Some(_) => handshake.with_role_check(),
            None if self.observer.is_replica() && self.in_cluster => {
                handshake.with_readonly().with_replica_check()
            }
            None if self.observer.is_replica() => handshake.with_replica_check(),
            None => handshake,
        }
    }

    /// The handshake of a connection over which a server is asked for its role.
    pub(crate) fn monitor_handshake(&self) -> Result<Handshake, ConnectError> {
        let suffix = self.suffix(ConnectionRole::Monitor, self.record_epoch());
        let settings = self.info.redis_settings();
        let (handshake, _) = self.login.handshake(settings, &suffix)?;
        Ok(handshake)
    }

    /// True if a connection that has presented this is out of date: the login or the record has changed since.
    #[inline]
    pub(crate) fn is_renewal_due(&self, presented: Presented) -> bool {
        presented.login != self.login.version() || presented.epoch < self.record_epoch()
    }

    /// The requests that bring a connection that has presented `former` up to date, and what they present.
    pub(crate) fn renewal(
        &self,
        former: Presented,
    ) -> Result<(Handshake, Presented), ConnectError> {
        let epoch = former.epoch.max(self.record_epoch());
        let (handshake, login) = self
            .login
            .renewal(former.login, |login| match self.record {
                Some(_) => Some(login.client_name(&self.suffix(ConnectionRole::Commands, epoch))),
                None => login.changed_name(),
            })?;
        Ok((handshake, Presented { login, epoch }))
    }

    /// The requests that bring the login of a connection up to date, and the version that they present. With a record
    /// they leave the name out, which [`name_at`](Self::name_at) is then.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn login_renewal(&self, former: u64) -> Result<(Handshake, u64), ConnectError> {
        self.login.renewal(former, |login| match self.record {
            Some(_) => None,
            None => login.changed_name(),
        })
    }

    /// The name of a connection for commands that goes by the record of this epoch.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn name_at(&self, epoch: u64) -> String {
        let suffix = self.suffix(ConnectionRole::Commands, epoch);
        self.login.client_name(&suffix)
    }

    /// A replica of this node at this address, with the same user, password, TLS and options.
    ///
    /// # Errors
    ///
    /// If no certificate could have the name of the host.
    pub(crate) fn replica_at(&self, address: &HostPort) -> Result<Self, ConnectError> {
        let found = self.at_host(address)?;
        Ok(Self {
            observer: self.observer.of_replica(&found.address),
            pushes: None,
            primary: None,
            sentinel: None,
            replicas: None,
            // The keys of the node are read there as of some time ago in any case.
            record: None,
            ..found
        })
    }

    /// A copy of this endpoint with another version of the protocol, for upstreams that must match the
    /// version of a proxy's client.
    #[cfg(feature = "proxy")]
    pub(crate) fn speaking(&self, version: ProtocolVersion) -> Self {
        let settings = self.info.redis_settings().clone().set_protocol(version);
        Self {
            info: self.info.clone().set_redis_settings(settings),
            ..self.clone()
        }
    }
}

impl SocketOptions {
    /// Options for a node: its own settings, or else the client's keepalive.
    pub(crate) fn new(keepalive: Option<Duration>, own: &TcpSettings) -> Self {
        let keepalive = keepalive.map(|idle| {
            // The probes take as long as the idle period before them.
            let interval = (idle / KEEPALIVE_PROBES).max(KEEPALIVE_INTERVAL_MIN);
            with_probes(TcpKeepalive::new().with_time(idle), interval)
        });
        Self {
            // The more specific setting wins.
            keepalive: own.keepalive().cloned().or(keepalive),
            user_timeout: user_timeout(own),
        }
    }

    /// Sets the options on a new socket.
    pub(crate) fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        // Requests are written whole, so Nagle's algorithm would only hold back the end of each.
        socket.set_tcp_nodelay(true)?;
        // Detects a node whose machine has vanished while a connection waits and sends nothing, as under
        // BLPOP.
        if let Some(keepalive) = &self.keepalive {
            socket.set_tcp_keepalive(keepalive)?;
        }
        self.apply_user_timeout(&socket)
    }

    /// Sets TCP_USER_TIMEOUT.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    fn apply_user_timeout(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match self.user_timeout {
            Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
            None => Ok(()),
        }
    }

    /// There is no such option on this system, and no way to ask for it.
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    fn apply_user_timeout(&self, _: &SockRef<'_>) -> io::Result<()> {
        debug_assert!(self.user_timeout.is_none());
        Ok(())
    }
}

/// Adds number and interval of the probes.
#[cfg(not(target_os = "openbsd"))]
fn with_probes(keepalive: TcpKeepalive, interval: Duration) -> TcpKeepalive {
    keepalive
        .with_interval(interval)
        .with_retries(KEEPALIVE_PROBES)
}

/// OpenBSD has no such options for a single socket; the system's own interval applies.
#[cfg(target_os = "openbsd")]
fn with_probes(keepalive: TcpKeepalive, _: Duration) -> TcpKeepalive {
    keepalive
}

/// TCP_USER_TIMEOUT of the node's own settings.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
fn user_timeout(own: &TcpSettings) -> Option<Duration> {
    own.user_timeout()
}

/// redis-rs has no such setting on this system.
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
