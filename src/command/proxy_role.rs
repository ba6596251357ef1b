//! What does a proxy do with a command besides forwarding it?
//!
//! Most commands are forwarded as the table routes them. Commands about a client's own connection (AUTH,
//! HELLO, CLIENT, MULTI, SUBSCRIBE) cannot be: the connections to the nodes serve many clients, so the proxy
//! keeps that state itself and replies by itself.

/// The role of a proxy in a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyRole {
    /// Forwards it as it is routed; refuses it if its route leads to no node.
    #[default]
    Forward,
    /// Forwards it, but not inside MULTI: the command has Redis' flag NO_MULTI.
    NoMulti,
    /// Forwards it without arguments only. An argument would be a subcommand, and is not known.
    Container,
    /// Replies by itself: it concerns the client's connection.
    Connection(ConnectionCommand),
    /// Replies by itself: a subcommand of CLIENT about this client or other clients of the proxy.
    Client,
    /// CLIENT PAUSE: forwards it, and moves other clients' requests off the connections that the nodes hold
    /// back.
    Pause,
    /// CLIENT UNPAUSE: forwards it, and ends the time of `Pause`.
    Unpause,
    /// Queues, watches and executes on behalf of the client, as a server would.
    Transaction(TransactionCommand),
    /// Subscribes on behalf of the client, over connections of the proxy.
    Subscription(SubscriptionCommand),
    /// INFO: forwards it, and changes what the reply says about a cluster.
    Info,
    /// Replies as a server without cluster support does, or as the only node of a cluster.
    ClusterOnly,
}

/// Commands about the connection of a client.
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

/// Commands that group others into a transaction.
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

/// What a proxy does with a command between MULTI and EXEC.
#[cfg(feature = "proxy")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsideMulti {
    /// Queues it until EXEC, and replies QUEUED.
    Queued,
    /// Carries it out at once.
    Run,
    /// Replies with an error, so that EXEC is refused as well.
    Refused,
}

#[cfg(feature = "proxy")]
impl ProxyRole {
    /// True if a client may send it before AUTH.
    pub(crate) fn is_allowed_unauthenticated(self) -> bool {
        use ConnectionCommand::{Auth, Hello, Quit, Reset};
        // As a server does. RESET is among them, since it ends in the unauthenticated state anyway.
        matches!(self, Self::Connection(Auth | Hello | Quit | Reset))
    }

    /// True if it is nothing without the nodes.
    pub(crate) fn needs_nodes(self) -> bool {
        use TransactionCommand::Watch;
        match self {
            Self::Forward
            | Self::NoMulti
            | Self::Container
            | Self::Info
            | Self::Pause
            | Self::Unpause
            | Self::Subscription(_)
            | Self::Transaction(Watch) => true,
            Self::Connection(_) | Self::Client | Self::Transaction(_) | Self::ClusterOnly => false,
        }
    }

    /// True if a client with subscriptions may send it in RESP2, where a message and a reply cannot be told
    /// apart.
    pub(crate) fn is_allowed_while_subscribed(self) -> bool {
        use ConnectionCommand::{Ping, Quit, Reset};
        matches!(
            self,
            Self::Subscription(_) | Self::Connection(Ping | Quit | Reset)
        )
    }

    /// Returns what becomes of it between MULTI and EXEC.
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
            // All variants are listed: a new one has to be decided about here.
            Self::Forward
            | Self::Container
            | Self::Info
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
                | ProxyRole::Info
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
