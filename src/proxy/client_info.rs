//! What is told of one client to others, and which clients somebody means.

use std::fmt::Write;
use std::time::Duration;

use crate::resp::Protocol;

/// A client as CLIENT LIST shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) local_address: String,
    pub(crate) name: String,
    pub(crate) library: String,
    pub(crate) library_version: String,
    pub(crate) protocol: Protocol,
    pub(crate) channels: usize,
    pub(crate) patterns: usize,
    pub(crate) shard_channels: usize,
    /// Commands since MULTI.
    pub(crate) queued: Option<usize>,
    pub(crate) watched: usize,
    /// Waits for a blocking command.
    pub(crate) blocked: bool,
    /// The command it sent last, as far as is known.
    pub(crate) command: String,
}

/// Which clients CLIENT LIST and CLIENT KILL mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientFilter {
    pub(crate) ids: Vec<u64>,
    pub(crate) address: Option<String>,
    pub(crate) local_address: Option<String>,
    pub(crate) kind: Option<ClientKind>,
    /// Not the one who asks.
    pub(crate) others_only: bool,
}

/// Kinds of clients. This proxy has no masters and no replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Normal,
    Listener,
    Server,
}

impl ClientKind {
    pub(super) fn parse(word: &[u8]) -> Option<Self> {
        let known = [
            ("normal", Self::Normal),
            ("pubsub", Self::Listener),
            ("master", Self::Server),
            ("replica", Self::Server),
            ("slave", Self::Server),
        ];
        let found = known
            .iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|&(_, kind)| kind)
    }
}

impl ClientInfo {
    fn kind(&self) -> ClientKind {
        match self.channels + self.patterns + self.shard_channels {
            0 => ClientKind::Normal,
            _ => ClientKind::Listener,
        }
    }

    /// Whether it is one of those that `asker` means.
    pub(crate) fn matches_filter(&self, which: &ClientFilter, asker: u64) -> bool {
        let wanted =
            |given: &Option<String>, own: &str| given.as_ref().is_none_or(|given| given == own);
        (which.ids.is_empty() || which.ids.contains(&self.id))
            && wanted(&which.address, &self.address)
            && wanted(&which.local_address, &self.local_address)
            && which.kind.is_none_or(|kind| kind == self.kind())
            && !(which.others_only && self.id == asker)
    }

    /// Its line in CLIENT LIST. What only a server has (file descriptor, buffers) is zero.
    pub(crate) fn line(&self, age: Duration, idle: Duration) -> String {
        let mut flags = String::new();
        let marks = [
            ('b', self.blocked),
            ('P', self.kind() == ClientKind::Listener),
            ('x', self.queued.is_some()),
        ];
        flags.extend(marks.iter().filter(|(_, set)| *set).map(|(mark, _)| mark));
        if flags.is_empty() {
            flags.push('N');
        }
        let mut line = format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db=0 sub={} psub={} ssub={} multi={} \
             watch={} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} \
             user=default redir=-1 resp={}",
            self.id,
            self.address,
            self.local_address,
            self.name,
            age.as_secs(),
            idle.as_secs(),
            self.channels,
            self.patterns,
            self.shard_channels,
            self.queued.map_or(-1, |count| count as i64),
            self.watched,
            if self.command.is_empty() {
                "NULL"
            } else {
                &self.command
            },
            self.protocol.number(),
        );
        // A string takes all that is written to it.
        let _ = write!(
            line,
            " lib-name={} lib-ver={}",
            self.library, self.library_version
        );
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_filter_matches_when_all_conditions_hold() {
        let client = ClientInfo {
            id: 7,
            address: "127.0.0.1:1".into(),
            channels: 1,
            ..ClientInfo::default()
        };
        let meant = |which: ClientFilter| client.matches_filter(&which, 7);
        assert!(meant(ClientFilter::default()));
        assert!(meant(ClientFilter {
            ids: vec![6, 7],
            ..ClientFilter::default()
        }));
        assert!(!meant(ClientFilter {
            ids: vec![6],
            ..ClientFilter::default()
        }));
        assert!(!meant(ClientFilter {
            others_only: true,
            ..ClientFilter::default()
        }));
        assert!(meant(ClientFilter {
            kind: Some(ClientKind::Listener),
            ..ClientFilter::default()
        }));
        assert!(!meant(ClientFilter {
            kind: Some(ClientKind::Normal),
            ..ClientFilter::default()
        }));
        assert!(!meant(ClientFilter {
            address: Some("x".into()),
            ..ClientFilter::default()
        }));
    }

    #[test]
    fn client_list_line_has_the_fields_of_a_server() {
        let client = ClientInfo {
            id: 3,
            name: "me".into(),
            ..ClientInfo::default()
        };
        let line = client.line(Duration::from_secs(5), Duration::ZERO);
        assert!(line.starts_with("id=3 addr= laddr= fd=0 name=me age=5 idle=0 flags=N db=0 sub=0"));
        assert!(line.contains(" multi=-1 ") && line.contains(" resp=2 "));
    }
}
