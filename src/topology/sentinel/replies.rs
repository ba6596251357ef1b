//! What one Sentinel is asked, and what its replies mean.
//!
//! The address comes from SENTINEL GET-MASTER-ADDR-BY-NAME and its config-epoch from SENTINEL MASTER, both in one
//! write: while a failover is under way, the Sentinel that leads it names the promoted replica in the first reply
//! only, and its new epoch in the second. Replies come as flat arrays in RESP2 and as maps in RESP3.

use std::fmt;

use redis::{Value, cmd};

/// The largest number of Sentinels of one group that are asked: those given, of which none is left out, and those that
/// they name.
pub const SENTINELS_MAX: usize = 32;

/// Longest host name that is accepted, as in DNS with room for an IPv6 zone.
const HOST_BYTES_MAX: usize = 300;

/// The channel on which a Sentinel announces a new primary.
pub(crate) const SWITCH_CHANNEL: &str = "+switch-master";

/// A host and a port, as Sentinel names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What one Sentinel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The id of the Sentinel. `None` if it is too old to know it.
    pub(crate) id: Option<String>,
    /// One entry for each master that was asked for, in that order. `None` if the Sentinel does not know it.
    pub(crate) masters: Vec<Option<MasterReport>>,
}

/// What one Sentinel knows of one master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MasterReport {
    /// The primary.
    pub(crate) address: HostPort,
    /// The config-epoch: of two Sentinels that name different primaries, the one with the smaller epoch lags behind.
    pub(crate) epoch: u64,
    /// The other Sentinels that watch this master.
    pub(crate) sentinels: Vec<HostPort>,
}

/// The requests that ask a Sentinel for these masters.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    pub(crate) packed: Vec<u8>,
    /// Number of replies.
    pub(crate) count: usize,
}

impl Questions {
    /// Number of requests for each master.
    const PER_MASTER: usize = 3;

    pub(crate) fn new(masters: &[String]) -> Self {
        let ask = |question: &str, master: &str| cmd("SENTINEL").arg(question).arg(master).clone();
        let mut packed = cmd("SENTINEL").arg("MYID").get_packed_command();
        for master in masters {
            for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "SENTINELS"] {
                ask(question, master).write_packed_command(&mut packed);
            }
        }
        Self {
            packed,
            count: 1 + Self::PER_MASTER * masters.len(),
        }
    }

    /// Reads the replies.
    ///
    /// # Errors
    ///
    /// A description, if the server is no Sentinel or refuses the requests.
    pub(crate) fn parse(replies: &[Value]) -> Result<Report, String> {
        let Some((id, masters)) = replies.split_first() else {
            return Err("it sent no reply".into());
        };
        let masters = masters.chunks_exact(Self::PER_MASTER);
        Ok(Report {
            // Sentinels before 6.2 have no such subcommand; a reply to something else shows what is wrong.
            id: text(id).map(str::to_owned),
            masters: masters.map(master_report).collect::<Result<_, _>>()?,
        })
    }
}

/// The request for the announcements of new primaries.
pub(crate) fn subscribe() -> Vec<u8> {
    cmd("SUBSCRIBE").arg(SWITCH_CHANNEL).get_packed_command()
}

/// True for the reply to PING on a connection that is subscribed.
pub(crate) fn is_pong(message: &Value) -> bool {
    let word = match message {
        Value::Array(items) => items.first(),
        other => Some(other),
    };
    word.and_then(text)
        .is_some_and(|word| word.eq_ignore_ascii_case("pong"))
}

/// Reads the replies about one master.
fn master_report(replies: &[Value]) -> Result<Option<MasterReport>, String> {
    let [address, master, sentinels] = replies else {
        return Err("its replies are incomplete".into());
    };
    let Some(address) = host_port(address)? else {
        return Ok(None);
    };
    // Removed between the two requests, or refused by an ACL.
    let fields = match master {
        Value::ServerError(error) => return Err(refusal(error)),
        other => fields(other).ok_or("it does not describe the master in fields")?,
    };
    let epoch = number(&fields, "config-epoch").ok_or("it has no config-epoch")?;
    // A refusal to name the others is no reason to do without this one.
    let sentinels = items(sentinels).unwrap_or_default();
    let named = sentinels.iter().filter_map(|sentinel| {
        let fields = fields_of(sentinel)?;
        address_of(&fields)
    });
    Ok(Some(MasterReport {
        address,
        epoch,
        sentinels: named.take(SENTINELS_MAX).collect(),
    }))
}

/// The reply to SENTINEL GET-MASTER-ADDR-BY-NAME: `None` if there is no such master.
fn host_port(reply: &Value) -> Result<Option<HostPort>, String> {
    match reply {
        Value::Nil => Ok(None),
        Value::ServerError(error) => Err(refusal(error)),
        reply => match items(reply).unwrap_or_default() {
            [host, port] => {
                let port = text(port).and_then(|port| port.parse().ok());
                let address = text(host).zip(port).and_then(HostPort::checked);
                address.map(Some).ok_or("it names no host and port".into())
            }
            _ => Err("it names no host and port".into()),
        },
    }
}

/// Why a Sentinel gave no answer.
fn refusal(error: &redis::ServerError) -> String {
    let details = error.details().unwrap_or_default();
    if details.starts_with("unknown command") {
        return "it is no Sentinel: it does not know the command SENTINEL; the ports of Sentinels are usually 26379"
            .into();
    }
    let hint = match error.code() {
        "NOAUTH" | "WRONGPASS" => {
            "; give the password of the Sentinels in their URLs or with `Sentinel::with_password`"
        }
        "NOPERM" => {
            "; its user needs `+sentinel|myid +sentinel|get-master-addr-by-name +sentinel|master \
             +sentinel|sentinels +subscribe &+switch-master`"
        }
        _ => "",
    };
    format!("{} {details}{hint}", error.code())
}

impl HostPort {
    /// The address, if it can be one.
    fn checked((host, port): (&str, u16)) -> Option<Self> {
        let is_host = !host.is_empty() && host.len() <= HOST_BYTES_MAX && port != 0;
        is_host.then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// `host:port`, with an IPv6 host in brackets.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Names and values.
type Fields<'v> = Vec<(&'v str, &'v str)>;

/// The fields of a description that a reply consists of.
fn fields(reply: &Value) -> Option<Fields<'_>> {
    let fields = fields_of(reply)?;
    (!fields.is_empty()).then_some(fields)
}

/// The fields of a description: pairs of a flat array, or the entries of a map. Those that are no text are left out.
fn fields_of(description: &Value) -> Option<Fields<'_>> {
    match description {
        Value::Map(entries) => Some(
            entries
                .iter()
                .filter_map(|(name, value)| text(name).zip(text(value)))
                .collect(),
        ),
        other => Some(
            items(other)?
                .chunks_exact(2)
                .filter_map(|pair| text(&pair[0]).zip(text(&pair[1])))
                .collect(),
        ),
    }
}

fn field<'v>(fields: &Fields<'v>, name: &str) -> Option<&'v str> {
    let found = fields.iter().find(|(field, _)| *field == name);
    found.map(|(_, value)| *value)
}

fn number(fields: &Fields<'_>, name: &str) -> Option<u64> {
    field(fields, name)?.parse().ok()
}

/// The fields `ip` and `port`.
fn address_of(fields: &Fields<'_>) -> Option<HostPort> {
    let port = field(fields, "port")?.parse().ok()?;
    HostPort::checked((field(fields, "ip")?, port))
}

fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies that were recorded from servers: see the folder of the vectors.
    fn recorded(file: &str) -> Vec<Value> {
        let mut bytes = file.as_bytes();
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let value = redis::parse_redis_value(bytes).unwrap();
            let length = (1..=bytes.len())
                .find(|&length| redis::parse_redis_value(&bytes[..length]).is_ok())
                .unwrap();
            bytes = &bytes[length..];
            replies.push(value);
        }
        replies
    }

    const REDIS_7_RESP2: &str = include_str!("recorded/redis-7.0.15-resp2.txt");
    const REDIS_7_RESP3: &str = include_str!("recorded/redis-7.0.15-resp3.txt");
    const VALKEY_9_RESP2: &str = include_str!("recorded/valkey-9.1.2-resp2.txt");
    const VALKEY_9_RESP3: &str = include_str!("recorded/valkey-9.1.2-resp3.txt");

    fn port(address: &HostPort) -> u16 {
        assert_eq!(address.host, "127.0.0.1");
        address.port
    }

    /// Each recording asks for `mymaster` and for `nope`, a name that no Sentinel knows.
    #[test]
    fn sentinel_replies_of_redis_and_valkey_are_read_in_resp2_and_resp3() {
        for file in [REDIS_7_RESP2, REDIS_7_RESP3, VALKEY_9_RESP2, VALKEY_9_RESP3] {
            let report = Questions::parse(&recorded(file)).unwrap();
            assert_eq!(report.id.as_deref().map(str::len), Some(40));
            let [Some(known), None] = &report.masters[..] else {
                panic!("{report:?}");
            };
            assert_eq!(port(&known.address), 17001);
            assert_eq!(known.epoch, 0);
            let mut others: Vec<u16> = known.sentinels.iter().map(port).collect();
            others.sort_unstable();
            assert_eq!(others, [17102, 17103]);
        }
    }

    #[test]
    fn sentinel_questions_have_one_reply_each_and_one_write() {
        let questions = Questions::new(&["users-a".into(), "users-b".into()]);
        let text = String::from_utf8(questions.packed).unwrap();
        assert_eq!(text.matches("$8\r\nSENTINEL\r\n").count(), questions.count);
        assert_eq!(text.matches("$7\r\nusers-b\r\n").count(), 3);
    }

    #[test]
    fn sentinel_errors_name_what_is_wrong() {
        let replies = |code, text| {
            let error = Value::ServerError(crate::error::server_error(code, text));
            vec![error.clone(), error.clone(), error.clone(), error]
        };
        for (code, text, expected) in [
            (
                "ERR",
                "unknown command 'SENTINEL', with args beginning with: 'MYID' ",
                "it is no Sentinel",
            ),
            ("NOAUTH", "Authentication required.", "with_password"),
            ("NOPERM", "this user has no permissions", "+sentinel|master"),
        ] {
            let error = Questions::parse(&replies(code, text)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Questions::parse(&[]).is_err());
        assert!(Questions::parse(&[Value::Nil]).unwrap().masters.is_empty());
        let unusual = [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Nil,
            Value::Nil,
        ];
        assert!(Questions::parse(&unusual).is_err());
    }

    #[test]
    fn sentinel_addresses_show_ipv6_in_brackets() {
        let address = |host: &str| HostPort::checked((host, 1)).map(|found| found.to_string());
        assert_eq!(address("::1").as_deref(), Some("[::1]:1"));
        assert_eq!(address("redis-a").as_deref(), Some("redis-a:1"));
        assert_eq!(address(""), None);
        assert_eq!(address(&"x".repeat(HOST_BYTES_MAX + 1)), None);
    }
}
