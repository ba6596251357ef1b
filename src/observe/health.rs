//! [`ClientHealth`]: the state of all nodes, as a client knows it.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::partition::NodeId;
use crate::policy::NodeState;

/// The state of all nodes, as a client knows it without I/O, for a health endpoint or a log: see
/// [`ShardedClient::health`](crate::ShardedClient::health).
///
/// `Display` prints one line per node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientHealth {
    /// One entry per node, in the order of the topology.
    pub nodes: Vec<NodeHealth>,
}

/// The state of one node, as a client knows it from its connections and its attempts to connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeHealth {
    /// The node's identity.
    pub id: NodeId,
    /// The node's name.
    pub name: String,
    /// `host:port` or the path of a unix socket; of a node behind Sentinel the current address of its primary, and
    /// until that is known the master and its Sentinels.
    pub address: String,
    /// The outcome of the last attempt to connect.
    pub state: NodeState,
    /// How long keys of the node have had other owners, because it was [ejected](crate::Ejection). `None` if they do
    /// not.
    pub ejected: Option<Duration>,
    /// Number of attempts to connect that failed in a row; zero unless it is down.
    pub consecutive_failures: u32,
    /// Time until the next attempt may be made; zero if it is due or under way, `None` unless the node is
    /// down.
    pub next_attempt: Option<Duration>,
    /// The error of the last attempt that failed or connection that broke. Kept after a recovery.
    pub last_error: Option<Error>,
    /// Time since the last error.
    pub last_error_age: Option<Duration>,
    /// Number of connections made after one had broken: see
    /// [`ClientEvent::Reconnected`](crate::ClientEvent::Reconnected).
    pub reconnects: u64,
    /// Connections for requests that are served at once.
    pub shared: PoolHealth,
    /// Connections for blocking commands, transactions and dedicated connections.
    pub exclusive: PoolHealth,
    /// The replicas of the node that are known.
    pub replicas: Vec<ReplicaHealth>,
}

/// A replica of a node, as it was when it was last asked: about once a second, once replicas are used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaHealth {
    /// `host:port` or the path of a unix socket.
    pub address: String,
    /// Why it is not read from; `None` if it may be.
    pub unusable: Option<String>,
    /// How long it takes to reply, on average of late; `None` before its first reply.
    pub latency: Option<Duration>,
}

/// The connections of one pool to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolHealth {
    /// Connections that are open or being made.
    pub open: usize,
    /// Open connections that are lent to a request or a handle. The async client's shared connections carry
    /// the requests of all tasks at once and always count as in use.
    pub in_use: usize,
    /// Open connections that are not in use.
    pub idle: usize,
    /// Requests that wait for a connection because all are in use.
    pub waiting: usize,
    /// Maximum number of connections in use at a time.
    pub max: usize,
}

impl ClientHealth {
    /// True if no node is known to be down, and none is ejected.
    pub fn is_up(&self) -> bool {
        self.nodes.iter().all(NodeHealth::is_up)
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeHealth> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl NodeHealth {
    /// True if the node is neither known to be down nor ejected.
    pub fn is_up(&self) -> bool {
        self.ejected.is_none() && !matches!(self.state, NodeState::Down { .. })
    }
}

impl fmt::Display for ClientHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            node.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.address, self.state)?;
        if let Some(absence) = self.ejected {
            write!(f, ", EJECTED for {absence:.1?}")?;
        }
        if let Some(next) = self.next_attempt {
            let failures = self.consecutive_failures;
            write!(f, ", {failures} failures in a row, next attempt ")?;
            match next.is_zero() {
                true => f.write_str("now")?,
                false => write!(f, "in {next:.1?}")?,
            }
        }
        write!(
            f,
            "; connections: shared {}, exclusive {}",
            self.shared, self.exclusive
        )?;
        write!(f, "; {} reconnects", self.reconnects)?;
        if let (Some(error), Some(age)) = (&self.last_error, self.last_error_age) {
            write!(f, "; last error {age:.1?} ago: {error}")?;
        }
        for replica in &self.replicas {
            write!(f, "; replica {replica}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ReplicaHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.address)?;
        match &self.unusable {
            None => f.write_str("may be read from"),
            Some(reason) => f.write_str(reason),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not contacted yet"),
            Self::Connecting => f.write_str("connecting"),
            Self::Up { since } => write!(f, "up for {since:.1?}"),
            Self::Down { since } => write!(f, "DOWN for {since:.1?}"),
        }
    }
}

impl fmt::Display for PoolHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            open,
            in_use,
            idle,
            waiting,
            ..
        } = self;
        write!(f, "{open} open ({in_use} in use, {idle} idle")?;
        match waiting {
            0 => f.write_str(")"),
            waiting => write!(f, ", {waiting} waiting)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::NodeSpec;
    use crate::plan::Cause;

    #[test]
    fn health_prints_one_line_per_node() {
        let spec = NodeSpec::new("cache-a", "10.0.0.1:6379");
        let up = NodeHealth {
            id: spec.id(),
            name: spec.name().to_owned(),
            address: spec.address().to_owned(),
            state: NodeState::Up {
                since: Duration::from_secs(90),
            },
            ejected: None,
            consecutive_failures: 0,
            next_attempt: None,
            last_error: None,
            last_error_age: None,
            reconnects: 0,
            shared: PoolHealth {
                open: 3,
                in_use: 1,
                idle: 2,
                waiting: 0,
                max: 64,
            },
            exclusive: PoolHealth::default(),
            replicas: Vec::new(),
        };
        let cause = Cause::Connect("10.0.0.1:6379: connection refused".into());
        let down = NodeHealth {
            state: NodeState::Down {
                since: Duration::from_millis(2500),
            },
            ejected: Some(Duration::from_secs(2)),
            consecutive_failures: 4,
            next_attempt: Some(Duration::from_millis(500)),
            last_error: Some(cause.to_error("cache-a")),
            last_error_age: Some(Duration::from_millis(100)),
            reconnects: 2,
            replicas: vec![ReplicaHealth {
                address: "10.0.0.2:6379".to_owned(),
                unusable: None,
                latency: None,
            }],
            ..up.clone()
        };
        let health = ClientHealth {
            nodes: vec![up, down],
        };
        assert!(!health.is_up());
        assert_eq!(
            health.to_string(),
            "cache-a (10.0.0.1:6379): up for 90.0s; connections: shared 3 open (1 in use, 2 idle), exclusive 0 open \
             (0 in use, 0 idle); 0 reconnects\n\
             cache-a (10.0.0.1:6379): DOWN for 2.5s, EJECTED for 2.0s, 4 failures in a row, next attempt in 500.0ms; connections: \
             shared 3 open (1 in use, 2 idle), exclusive 0 open (0 in use, 0 idle); 2 reconnects; last error 100.0ms \
             ago: node cache-a: no connection: 10.0.0.1:6379: connection refused; replica 10.0.0.2:6379 may be read from"
        );
    }
}
