//! [`ConnectionName`]: what the name of a connection says of the record that it follows.

use crate::topology::record::RecordEpoch;

/// What stands between the name that the user has chosen and ours.
const MARK: &str = "#rs.";

/// The name that a connection has at its server, as in CLIENT LIST: `web#rs.c.3.17`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnectionName<'n> {
    /// The name that the user has chosen, or the id of a mover.
    pub(super) client: &'n str,
    pub(super) role: Role,
    /// The newest epoch of the node's record that the connection has acknowledged.
    pub(super) epoch: RecordEpoch,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Commands,
    /// Nothing but subscriptions.
    Subscriptions,
    /// Watches the record.
    Monitor,
    Mover,
}

impl<'n> ConnectionName<'n> {
    /// Reads a name. `None` for one of a client that follows no record.
    pub(super) fn parse(name: &'n str) -> Option<Self> {
        let (client, ours) = name.rsplit_once(MARK)?;
        let (role, epoch) = ours.split_once('.')?;
        Some(Self {
            client,
            role: match role {
                "c" => Role::Commands,
                "s" => Role::Subscriptions,
                "n" => Role::Monitor,
                "m" => Role::Mover,
                _ => return None,
            },
            epoch: epoch.parse().ok()?,
        })
    }

    /// The name of a connection of the mover with this id.
    pub(super) fn of_mover(id: &str, epoch: RecordEpoch) -> String {
        format!("{id}{MARK}m.{epoch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_name_is_read_from_its_end() {
        let name = ConnectionName::parse("a#rs.b#rs.c.3.17").unwrap();
        assert_eq!((name.client, name.role), ("a#rs.b", Role::Commands));
        assert_eq!(name.epoch, RecordEpoch::new(3, 17));
        for other in [
            "",
            "web",
            "web#rs.",
            "web#rs.c",
            "web#rs.c.3",
            "web#rs.x.3.17",
            "web#rs.c.3.x",
        ] {
            assert_eq!(ConnectionName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn connection_name_of_a_mover_has_its_id() {
        let name = ConnectionName::of_mover("m-7f", RecordEpoch::new(2, 0));
        assert_eq!(name, "m-7f#rs.m.2.0");
        let read = ConnectionName::parse(&name).unwrap();
        assert_eq!((read.client, read.role), ("m-7f", Role::Mover));
    }
}
