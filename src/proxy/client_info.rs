//! CLIENT INFO: the line of one client in CLIENT LIST, and the filters that select clients.

use std::fmt::Write;
use std::time::Duration;

use crate::resp::Protocol;

/// A client as CLIENT LIST shows it. Each session owns one, and publishes a copy to the registry when it may
/// have changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientInfo {
    /// Counted from 1 for each proxy, and never used twice.
    pub(crate) id: u64,
    /// Address of the client (`addr`).
    pub(crate) address: String,
    /// Address that it connected to (`laddr`).
    pub(crate) local_address: String,
    /// Set by CLIENT SETNAME and HELLO SETNAME. Empty if not set.
    pub(crate) name: String,
    /// Set by CLIENT SETINFO LIB-NAME.
    pub(crate) library: String,
    /// Set by CLIENT SETINFO LIB-VER.
    pub(crate) library_version: String,
    pub(crate) protocol: Protocol,
    /// Number of channels subscribed to (`sub`).
    pub(crate) channels: usize,
    /// Number of patterns subscribed to (`psub`).
    pub(crate) patterns: usize,
    /// Number of shard channels subscribed to (`ssub`).
    pub(crate) shard_channels: usize,
    /// Number of commands since MULTI (`multi`). `None` outside of a transaction.
    pub(crate) queued: Option<usize>,
    /// 1 if keys are watched, 0 otherwise (`watch`); a server shows the number of keys.
    pub(crate) watched: usize,
    /// True while the client waits for a blocking command that CLIENT UNBLOCK may end. Set in the registry's
    /// copy only.
    pub(crate) blocked: bool,
    /// The last CLIENT, transaction or pub/sub command (`cmd`). Commands for the nodes are not recorded: that
    /// would cost time for each of them.
    pub(crate) command: String,
}

/// Clients that CLIENT LIST and CLIENT KILL apply to: those that match all of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientFilter {
    /// Empty for any id.
    pub(crate) ids: Vec<u64>,
    pub(crate) address: Option<String>,
    pub(crate) local_address: Option<String>,
    pub(crate) kind: Option<ClientKind>,
    /// Leaves out the client that sent the command (SKIPME yes).
    pub(crate) others_only: bool,
}

/// Types of clients, as in CLIENT LIST TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    /// A client without subscriptions.
    Normal,
    /// A client with subscriptions (`pubsub`).
    Listener,
    /// A master or a replica. A proxy has none, so it matches no client.
    Server,
}

impl ClientKind {
    /// Parses a type. Returns `None` for one that a server does not know.
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
    /// Returns the type of this client.
    fn kind(&self) -> ClientKind {
        match self.channels + self.patterns + self.shard_channels {
            0 => ClientKind::Normal,
            _ => ClientKind::Listener,
        }
    }

    /// True if this client is one that the client `asker` selects.
    pub(crate) fn matches_filter(&self, which: &ClientFilter, asker: u64) -> bool {
        let wanted =
            |given: &Option<String>, own: &str| given.as_ref().is_none_or(|given| given == own);
        (which.ids.is_empty() || which.ids.contains(&self.id))
            && wanted(&which.address, &self.address)
            && wanted(&which.local_address, &self.local_address)
            && which.kind.is_none_or(|kind| kind == self.kind())
            && !(which.others_only && self.id == asker)
    }

    /// Formats the line of CLIENT LIST, without a line break. Fields that only a server has, such as the file
    /// descriptor and the buffers, are zero.
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
        // Writing to a string cannot fail. The library comes last, as on a server since 7.2.
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
