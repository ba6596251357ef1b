//! Which servers does a node consist of, and what do they say about their replication?
//!
//! * [`Replication`]: the replies to ROLE and INFO replication, read.
//! * `replica_set`: [`ReplicaSet`], which server is the primary, and which replicas may be read from.
//!
//! INFO has all that decides whether a replica is in step: the state of its link, its offset, and the identity of its
//! data (`master_replid`). ROLE has less, but every user may be allowed to run it, and it is asked on new connections.
//! Both have one form in RESP2 and in RESP3, apart from the type of the text.

mod replica_set;

use std::time::Duration;

use redis::Value;

pub(crate) use self::replica_set::{LagLimits, ReplicaSet, SetChange, SetOptions, Unanswered};
use crate::topology::HostPort;

/// Maximum number of replicas of one node.
pub const REPLICAS_MAX: usize = 64;

/// Longest host name that is accepted, as in DNS with room for an IPv6 zone.
const HOST_BYTES_MAX: usize = 300;

/// Length of a replication id in hexadecimal digits.
const REPLICATION_ID_LEN: usize = 40;

/// What a server says about its replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    Primary(PrimaryReport),
    Replica(ReplicaReport),
}

/// A server that is a primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrimaryReport {
    /// `None` in reply to ROLE.
    pub(crate) history: Option<History>,
    /// Number of bytes that it has sent to its replicas.
    pub(crate) offset: u64,
    /// The replicas that are connected to it, by the addresses that they announce.
    pub(crate) replicas: Vec<HostPort>,
}

/// A server that is a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaReport {
    /// That of its primary. `None` in reply to ROLE.
    pub(crate) history: Option<History>,
    /// The state of its link to the primary.
    pub(crate) link: Link,
    /// Number of bytes that it has received, counted as by the primary. `None` before the first synchronization.
    pub(crate) offset: Option<u64>,
    /// Time since the primary has last sent something.
    pub(crate) silent_for: Option<Duration>,
}

/// The link of a replica to its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// The replica is receiving the data of the primary as a whole.
    Syncing,
    Down {
        /// Time since it broke; `None` if it was never up, or in reply to ROLE.
        since: Option<Duration>,
    },
}

/// The identity of a data set: servers with the same id have the same data up to the smaller of their offsets.
///
/// A replica that is promoted begins a new id, and remembers the one before: that shows which primary it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// `master_replid`.
    pub(crate) id: String,
    /// `master_replid2`; `None` if there is no earlier one.
    pub(crate) previous: Option<String>,
}

impl Replication {
    /// Reads the reply to ROLE.
    ///
    /// # Errors
    ///
    /// A description, if it is an error or has another form.
    pub(crate) fn of_role(reply: &Value) -> Result<Self, String> {
        let Value::Array(items) = reply else {
            return Err(unexpected("ROLE", reply));
        };
        let text = |at: usize| items.get(at).and_then(text);
        match (text(0), items.len()) {
            (Some("master"), 3..) => Ok(Self::Primary(PrimaryReport {
                history: None,
                offset: items.get(1).and_then(number).unwrap_or_default(),
                replicas: role_replicas(&items[2]),
            })),
            (Some("slave"), 5..) => Ok(Self::Replica(ReplicaReport {
                history: None,
                link: match text(3) {
                    Some("connected") => Link::Up,
                    Some("sync") => Link::Syncing,
                    _ => Link::Down { since: None },
                },
                offset: items.get(4).and_then(number),
                silent_for: None,
            })),
            (Some("sentinel"), _) => Err("it is a Sentinel".into()),
            _ => Err(unexpected("ROLE", reply)),
        }
    }

    /// Reads the reply to INFO replication.
    ///
    /// # Errors
    ///
    /// A description, if it is an error or has another form.
    pub(crate) fn of_info(reply: &Value) -> Result<Self, String> {
        let info = text(reply).ok_or_else(|| unexpected("INFO", reply))?;
        let fields = || {
            info.lines()
                .filter_map(|line| line.trim_end().split_once(':'))
        };
        let field = |name: &str| {
            fields()
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value)
        };
        let seconds = |name: &str| field(name)?.parse().ok().map(Duration::from_secs);
        let history = field("master_replid").and_then(replication_id);
        let history = history.map(|id| History {
            id,
            previous: field("master_replid2").and_then(replication_id),
        });
        match field("role") {
            Some("master") => Ok(Self::Primary(PrimaryReport {
                history,
                offset: field("master_repl_offset")
                    .and_then(|offset| offset.parse().ok())
                    .unwrap_or_default(),
                replicas: fields()
                    .filter(|(name, _)| is_replica_field(name))
                    .filter_map(|(_, row)| info_replica(row))
                    .take(REPLICAS_MAX)
                    .collect(),
            })),
            Some("slave") => Ok(Self::Replica(ReplicaReport {
                history,
                link: match field("master_link_status") {
                    Some("up") => Link::Up,
                    _ if field("master_sync_in_progress") == Some("1") => Link::Syncing,
                    _ => Link::Down {
                        since: seconds("master_link_down_since_seconds"),
                    },
                },
                offset: field("slave_repl_offset").and_then(|offset| offset.parse().ok()),
                silent_for: seconds("master_last_io_seconds_ago"),
            })),
            _ => Err("its reply to INFO names no role".into()),
        }
    }
}

/// The address, if the host can be one.
fn host_port(host: &str, port: u16) -> Option<HostPort> {
    let is_host = !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.bytes().all(|byte| byte.is_ascii_graphic());
    (is_host && port > 0).then(|| HostPort {
        host: host.to_owned(),
        port,
    })
}

/// The text of a reply that is one.
fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

/// A number that is not negative, sent as such or as text. Offsets are -1 where there is none.
fn number(reply: &Value) -> Option<u64> {
    match reply {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// The replicas in the reply of a primary to ROLE.
fn role_replicas(reply: &Value) -> Vec<HostPort> {
    let Value::Array(rows) = reply else {
        return Vec::new();
    };
    let address = |row: &Value| match row {
        Value::Array(row) => host_port(
            text(row.first()?)?,
            u16::try_from(number(row.get(1)?)?).ok()?,
        ),
        _ => None,
    };
    rows.iter().filter_map(address).take(REPLICAS_MAX).collect()
}

/// True for the names of the fields that describe replicas: slave0, slave1, ...
fn is_replica_field(name: &str) -> bool {
    let number = name.strip_prefix("slave");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The address in a row such as `ip=10.0.0.3,port=6379,state=online,offset=42,lag=0`.
fn info_replica(row: &str) -> Option<HostPort> {
    let cell = |name: &str| {
        let cells = row.split(',').filter_map(|cell| cell.split_once('='));
        cells
            .into_iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    };
    host_port(cell("ip")?, cell("port")?.parse().ok()?)
}

/// A replication id, unless it is the one of zeros that stands for none.
fn replication_id(text: &str) -> Option<String> {
    let is_id = text.len() == REPLICATION_ID_LEN
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0');
    is_id.then(|| text.to_owned())
}

/// Describes a reply of another form. Only the code of an error is quoted: its text may be of any length.
fn unexpected(command: &str, reply: &Value) -> String {
    match reply {
        Value::ServerError(error) => format!("it refuses {command} with {}", error.code()),
        _ => format!("its reply to {command} is not as expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from redis-server 7.0.15.
    const PRIMARY: &str = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:ip=127.0.0.1,port=7001,state=online,\
        offset=98,lag=1\r\nslave1:ip=fe80::1,port=7002,state=wait_bgsave,offset=0,lag=0\r\nmaster_failover_state:no-failover\
        \r\nmaster_replid:5b0e3b2a5bd5d3b3b4ab3f3ed54b2bbd3ac1b8ff\r\nmaster_replid2:0000000000000000000000000000000000000000\
        \r\nmaster_repl_offset:112\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\n";
    const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:7000\r\nmaster_link_status:up\
        \r\nmaster_last_io_seconds_ago:3\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:98\r\nslave_repl_offset:98\
        \r\nslave_priority:100\r\nslave_read_only:1\r\nreplica_announced:1\r\nconnected_slaves:0\
        \r\nmaster_replid:5b0e3b2a5bd5d3b3b4ab3f3ed54b2bbd3ac1b8ff\r\nmaster_replid2:0123456789012345678901234567890123456789\
        \r\nmaster_repl_offset:98\r\n";

    /// The text as RESP2 and as RESP3 send it.
    fn forms(text: &str) -> [Value; 2] {
        [
            Value::BulkString(text.as_bytes().to_vec()),
            Value::VerbatimString {
                format: redis::VerbatimFormat::Text,
                text: text.to_owned(),
            },
        ]
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn replica(report: Result<Replication, String>) -> ReplicaReport {
        match report {
            Ok(Replication::Replica(report)) => report,
            other => panic!("no replica: {other:?}"),
        }
    }

    #[test]
    fn info_of_a_primary_has_its_history_its_offset_and_its_replicas() {
        for form in forms(PRIMARY) {
            let address = |host: &str, port| host_port(host, port).unwrap();
            let expected = PrimaryReport {
                history: Some(History {
                    id: "5b0e3b2a5bd5d3b3b4ab3f3ed54b2bbd3ac1b8ff".into(),
                    previous: None,
                }),
                offset: 112,
                replicas: vec![address("127.0.0.1", 7001), address("fe80::1", 7002)],
            };
            assert_eq!(
                Replication::of_info(&form),
                Ok(Replication::Primary(expected))
            );
        }
    }

    #[test]
    fn info_of_a_replica_has_its_link_and_how_far_it_is() {
        for form in forms(REPLICA) {
            let report = replica(Replication::of_info(&form));
            assert_eq!(report.link, Link::Up);
            assert_eq!(report.offset, Some(98));
            assert_eq!(report.silent_for, Some(Duration::from_secs(3)));
            let previous = report.history.unwrap().previous;
            assert_eq!(
                previous.as_deref(),
                Some("0123456789012345678901234567890123456789")
            );
        }
        let link = |change: &str| {
            let text = REPLICA.replace("master_link_status:up", change);
            replica(Replication::of_info(&bulk(&text))).link
        };
        let since = Some(Duration::from_secs(7));
        let down = "master_link_status:down\r\nmaster_link_down_since_seconds:7";
        assert_eq!(link(down), Link::Down { since });
        // Never up: Redis says -1.
        let never = "master_link_status:down\r\nmaster_link_down_since_seconds:-1";
        assert_eq!(link(never), Link::Down { since: None });
        let text = REPLICA
            .replace("link_status:up", "link_status:down")
            .replace("in_progress:0", "in_progress:1");
        assert_eq!(
            replica(Replication::of_info(&bulk(&text))).link,
            Link::Syncing
        );
    }

    #[test]
    fn role_of_a_primary_and_of_a_replica_is_read() {
        let row = Value::Array(vec![bulk("127.0.0.1"), bulk("7001"), bulk("98")]);
        let reply = Value::Array(vec![
            bulk("master"),
            Value::Int(112),
            Value::Array(vec![row]),
        ]);
        let expected = PrimaryReport {
            history: None,
            offset: 112,
            replicas: vec![host_port("127.0.0.1", 7001).unwrap()],
        };
        assert_eq!(
            Replication::of_role(&reply),
            Ok(Replication::Primary(expected))
        );
        let role = |state: &str, offset| {
            let items = [
                bulk("slave"),
                bulk("h"),
                Value::Int(7000),
                bulk(state),
                Value::Int(offset),
            ];
            replica(Replication::of_role(&Value::Array(items.to_vec())))
        };
        assert_eq!(role("connected", 98).link, Link::Up);
        assert_eq!(role("connected", 98).offset, Some(98));
        assert_eq!(role("sync", -1).link, Link::Syncing);
        assert_eq!(role("connect", -1).link, Link::Down { since: None });
        assert_eq!(role("connect", -1).offset, None);
    }

    #[test]
    fn replies_that_say_nothing_about_replication_are_errors_and_never_panics() {
        let refusal = Value::ServerError(crate::error::server_error("NOPERM", "no permission"));
        let told = Replication::of_info(&refusal).unwrap_err();
        assert_eq!(told, "it refuses INFO with NOPERM");
        let sentinel = Value::Array(vec![bulk("sentinel"), Value::Array(Vec::new())]);
        for reply in [
            Value::Nil,
            Value::Array(Vec::new()),
            bulk(""),
            sentinel.clone(),
            refusal,
        ] {
            assert!(Replication::of_info(&reply).is_err(), "{reply:?}");
            assert!(Replication::of_role(&reply).is_err(), "{reply:?}");
        }
        assert_eq!(
            Replication::of_role(&sentinel).unwrap_err(),
            "it is a Sentinel"
        );
        let short = Value::Array(vec![bulk("slave"), bulk("h")]);
        assert!(Replication::of_role(&short).is_err());
    }

    #[test]
    fn replicas_of_a_primary_are_limited_in_number_and_addresses_in_length() {
        let rows: String = (0..200)
            .map(|number| {
                format!(
                    "slave{number}:ip=10.0.0.1,port={},state=online\r\n",
                    7000 + number
                )
            })
            .collect();
        let text = format!("role:master\r\nslave_x:ip=a,port=1\r\nslave5:ip=,port=1\r\n{rows}");
        let Ok(Replication::Primary(report)) = Replication::of_info(&bulk(&text)) else {
            panic!("a primary");
        };
        assert_eq!(report.replicas.len(), REPLICAS_MAX);
        assert_eq!(host_port(&"a".repeat(301), 1), None);
        assert_eq!(host_port("a b", 1), None);
        assert_eq!(host_port("a", 0), None);
    }
}
