//! The names of connections to a node with a record: what they are for, and which record they go by.
//!
//! A server lists the names of its connections. Whoever changes the record reads there which of them still go by an older
//! one, and waits for these.
//!
//! ```text
//! web-1#rs.c.3.17      a connection for commands of the client "web-1", by the record of epoch 3.17
//! ```

use std::fmt;

use crate::topology::record::RecordEpoch;

/// Separates the name that the user has chosen from what this crate adds.
const MARK: &str = "#rs.";

/// What a connection to a node with a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ConnectionRole {
    /// Commands of any kind: it must go by the current record.
    Commands,
    /// Subscriptions, which concern no keys.
    Subscriptions,
    /// What this crate asks a server for its own use.
    Monitor,
    /// Whoever changes the record and moves keys.
    Mover,
}

/// The end of the name of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameSuffix {
    pub(crate) role: ConnectionRole,
    /// The epoch of the record that the connection goes by.
    pub(crate) epoch: RecordEpoch,
}

impl ConnectionRole {
    const ALL: [Self; 4] = [
        Self::Commands,
        Self::Subscriptions,
        Self::Monitor,
        Self::Mover,
    ];

    const fn letter(self) -> &'static str {
        match self {
            Self::Commands => "c",
            Self::Subscriptions => "s",
            Self::Monitor => "n",
            Self::Mover => "m",
        }
    }
}

impl NameSuffix {
    /// Reads the end of the name of a connection. `None` if it is none of a client that follows the record.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::split(name).map(|(_, suffix)| suffix)
    }

    /// Reads the name of a connection: what stands before the end, and the end.
    pub(crate) fn split(name: &str) -> Option<(&str, Self)> {
        let (user, suffix) = name.rsplit_once(MARK)?;
        let (letter, epoch) = suffix.split_once('.')?;
        let mut roles = ConnectionRole::ALL.into_iter();
        let suffix = Self {
            role: roles.find(|role| role.letter() == letter)?,
            epoch: epoch.parse().ok()?,
        };
        Some((user, suffix))
    }
}

impl fmt::Display for NameSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}.{}", self.role.letter(), self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_connection_shows_its_role_and_epoch() {
        for (role, text) in [
            (ConnectionRole::Commands, "#rs.c.3.17"),
            (ConnectionRole::Subscriptions, "#rs.s.3.17"),
            (ConnectionRole::Monitor, "#rs.n.3.17"),
            (ConnectionRole::Mover, "#rs.m.3.17"),
        ] {
            let suffix = NameSuffix {
                role,
                epoch: RecordEpoch::new(3, 17),
            };
            assert_eq!(suffix.to_string(), text);
            // The user's own name may look like one.
            for name in ["", "web-1", "a#rs.b", "#rs.c.9.9"] {
                let whole = format!("{name}{text}");
                assert_eq!(NameSuffix::of(&whole), Some(suffix));
                assert_eq!(NameSuffix::split(&whole), Some((name, suffix)));
            }
        }
    }

    #[test]
    fn other_names_have_no_role() {
        for name in [
            "",
            "web-1",
            "#rs.",
            "#rs.c",
            "#rs.c.",
            "#rs.x.1.2",
            "#rs.c.1",
            "#rs.c.1.2 ",
        ] {
            assert_eq!(NameSuffix::of(name), None, "{name}");
        }
    }
}
