//! The part that a proxy plays in a command: it passes most of them on, and answers those itself that concern a client's
//! connection to it.

/// What a proxy does with a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyRole {
    /// Passes it on as it is routed, or refuses it when its route is to no node.
    #[default]
    Forward,
    /// Passes it on, but not inside MULTI, as Redis' flag NO_MULTI says.
    NoMulti,
    /// Passes it on without arguments. A word behind it would be a subcommand, and is not known.
    Container,
    /// Answers it: it is about the client's connection.
    Connection(ConnectionCommand),
    /// Answers it: it is a subcommand of CLIENT about this client, or about the other clients of the proxy.
    Client,
    /// CLIENT PAUSE: passes it on, and keeps other clients' requests off the connections that are held back.
    Pause,
    /// CLIENT UNPAUSE.
    Unpause,
    /// Queues, watches and executes for the client, as a server would.
    Transaction(TransactionCommand),
    /// Subscribes for the client at the nodes.
    Subscription(SubscriptionCommand),
    /// Answers as a server that is no part of a cluster.
    ClusterOnly,
}

/// Commands about a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionCommand {
    Auth,
    Echo,
    Hello,
    Ping,
    Quit,
    Reset,
    Select,
}

/// Commands that make a transaction of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionCommand {
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
}

/// Commands that change subscriptions: to channels, patterns (`P..`) and shard channels (`S..`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionCommand {
    Subscribe,
    Unsubscribe,
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Sunsubscribe,
}

/// What becomes of a command behind MULTI.
#[cfg(feature = "proxy")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsideMulti {
    Queued,
    /// Carried out at once.
    Run,
    Refused,
}

#[cfg(feature = "proxy")]
impl ProxyRole {
    /// Whether a client may send it before AUTH.
    pub(crate) fn is_allowed_unauthenticated(self) -> bool {
        use ConnectionCommand::{Auth, Hello, Quit, Reset};
        matches!(self, Self::Connection(Auth | Hello | Quit | Reset))
    }

    /// Whether a client may send it in RESP2 while it has subscriptions, when messages and replies look alike.
    pub(crate) fn is_allowed_while_subscribed(self) -> bool {
        use ConnectionCommand::{Ping, Quit, Reset};
        matches!(
            self,
            Self::Subscription(_) | Self::Connection(Ping | Quit | Reset)
        )
    }

    pub(crate) fn inside_multi(self) -> InsideMulti {
        match self {
            Self::NoMulti => InsideMulti::Refused,
            Self::Connection(ConnectionCommand::Quit | ConnectionCommand::Reset)
            | Self::Transaction(
                TransactionCommand::Discard
                | TransactionCommand::Exec
                | TransactionCommand::Multi
                | TransactionCommand::Watch,
            ) => InsideMulti::Run,
            Self::Forward
            | Self::Container
            | Self::Connection(_)
            | Self::Client
            | Self::Pause
            | Self::Unpause
            | Self::Transaction(TransactionCommand::Unwatch)
            | Self::Subscription(_)
            | Self::ClusterOnly => InsideMulti::Queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CommandSpec, CommandTable, Merge};

    #[test]
    fn proxy_role_of_each_command_matches_its_name() {
        let mut roles = 0;
        for row in CommandTable::built_in().iter() {
            let expected = match row.proxy_role {
                ProxyRole::Connection(command) => format!("{command:?}"),
                ProxyRole::Transaction(command) => format!("{command:?}"),
                ProxyRole::Subscription(command) => format!("{command:?}"),
                ProxyRole::Pause => "CLIENT|PAUSE".to_owned(),
                ProxyRole::Unpause => "CLIENT|UNPAUSE".to_owned(),
                ProxyRole::Forward
                | ProxyRole::NoMulti
                | ProxyRole::Container
                | ProxyRole::Client
                | ProxyRole::ClusterOnly => continue,
            };
            assert_eq!(row.name(), expected.to_uppercase());
            roles += 1;
        }
        assert_eq!(roles, 7 + 5 + 6 + 2);
    }

    #[test]
    fn replaced_command_keeps_its_proxy_role_and_a_new_one_is_forwarded() {
        let table = CommandTable::default()
            .replacing(CommandSpec::declare("PING").all(Merge::AllSucceeded))
            .and_then(|table| table.with(CommandSpec::declare("MY.PING").any()))
            .unwrap();
        let role = |name: &str| table.by_name(name).unwrap().proxy_role;
        assert_eq!(role("PING"), ProxyRole::Connection(ConnectionCommand::Ping));
        assert_eq!(role("MY.PING"), ProxyRole::Forward);
    }
}
