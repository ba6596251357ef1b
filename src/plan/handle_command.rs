//! Commands about a connection that a client carries out itself, although its connections are shared: the
//! name of the client, and WATCH.
//!
//! * CLIENT SETNAME and CLIENT GETNAME: a client has one name for all its connections.
//! * WATCH and UNWATCH: a handle of the client has an exclusive connection while it watches keys. Reads need
//!   not go over it: what is read after the reply to WATCH was either there when WATCH was carried out, or
//!   has changed since, which makes EXEC fail. So only WATCH, UNWATCH and MULTI ... EXEC use it.
//!
//! A handle's attempt at an optimistic transaction lasts from WATCH to the next atomic pipeline or UNWATCH:
//!
//! ```text
//! handle                       connection                    a clone made in between
//! WATCH a                      taken: WATCH a                shares the attempt
//! GET a, GET b                 not used
//! pipe().atomic()              MULTI ... EXEC, given back    pipe().atomic(): EXECABORT
//! ```
//!
//! Nothing runs unwatched because of a watch that was lost: an atomic pipeline of a handle whose WATCH
//! failed, whose connection broke, or whose attempt was ended by a clone, fails. A WATCH in a pipeline is refused,
//! so it has failed too.

use crate::command::Lookup;
use crate::error::{Error, ErrorKind, KeyText};
use crate::partition::NodeIndex;
use crate::plan::refusal::{server_style, wrong_arity};
use crate::plan::request::PlannedPipeline;
use crate::plan::{CacheSnapshot, KeyCheck, PipelineKind, Plan, Router, ScriptCache};
use crate::resp::is_client_name;

/// A command about the name of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameCommand<'a> {
    /// CLIENT SETNAME; the empty name removes it.
    Set(&'a str),
    /// CLIENT GETNAME.
    Get,
}

/// A command about what a handle watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchCommand {
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
}

impl Router {
    /// The command of a request that was refused, if it is about the name of the client.
    ///
    /// # Errors
    ///
    /// [`Redis`](ErrorKind::Redis) in the words of a server for a wrong number of arguments, or a name that
    /// servers refuse.
    pub(crate) fn name_command<'a>(
        &self,
        args: &[&'a [u8]],
    ) -> Option<Result<NameCommand<'a>, Error>> {
        const REFUSED: &str = "Client names cannot contain spaces, newlines or special characters.";
        let Lookup::Found(command) = self.lookup_row(args) else {
            return None;
        };
        let is_set = match command.name() {
            "CLIENT|SETNAME" => true,
            "CLIENT|GETNAME" => false,
            _ => return None,
        };
        if !command.accepts(args.len()) {
            return Some(Err(wrong_arity(command)));
        }
        if !is_set {
            return Some(Ok(NameCommand::Get));
        }
        let name = args.last().copied().unwrap_or_default();
        let name = std::str::from_utf8(name).ok();
        let name = name.filter(|name| is_client_name(name.as_bytes()));
        Some(match name {
            Some(name) => Ok(NameCommand::Set(name)),
            None => Err(server_style(command, REFUSED)),
        })
    }

    /// The command of a request that was refused, if it is about what a handle watches.
    ///
    /// # Errors
    ///
    /// [`Redis`](ErrorKind::Redis) for a wrong number of arguments of UNWATCH. Those of WATCH are checked by
    /// [`watched_node`](Self::watched_node).
    pub(crate) fn watch_command(&self, args: &[&[u8]]) -> Option<Result<WatchCommand, Error>> {
        let Lookup::Found(command) = self.lookup_row(args) else {
            return None;
        };
        match command.name() {
            "WATCH" => Some(Ok(WatchCommand::Watch)),
            "UNWATCH" if command.accepts(args.len()) => Some(Ok(WatchCommand::Unwatch)),
            "UNWATCH" => Some(Err(wrong_arity(command))),
            _ => None,
        }
    }

    /// The node of the keys of a WATCH, and the check of keys over the connection that watches them.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when the keys live on different nodes,
    /// [`Unroutable`](ErrorKind::Unroutable) when one has no owner, [`Redis`](ErrorKind::Redis) when there is
    /// no key.
    pub(crate) fn watched_node(&self, args: &[&[u8]]) -> Result<(NodeIndex, KeyCheck), Error> {
        let command = self.lookup(args)?;
        match self.owner_of_all(command, args, &ScriptCache::empty)? {
            Plan::One(node) => Ok((node, self.key_check(args.get(1).copied()))),
            _ => Err(wrong_arity(command)),
        }
    }

    /// Checks that WATCH may be sent to `owner` while `watched` is watched: a key, and its node.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when that is another node, or in a cluster another slot.
    pub(crate) fn check_second_watch(
        &self,
        watched: (&[u8], NodeIndex),
        key: &[u8],
        owner: NodeIndex,
    ) -> Result<(), Error> {
        if self.topology().cluster().is_some() {
            let keys = (
                (watched.0, self.location(watched.0)?),
                (key, self.location(key)?),
            );
            return self.check_together("WATCH", keys.0, keys.1);
        }
        if watched.1 == owner {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CrossNode,
            format!(
                "WATCH: the key {} lives on node {}, but this client watches the key {} on node {}, and a transaction \
                 runs on one node; put its keys under one hash tag, such as {{tag}}a and {{tag}}b, or end an earlier \
                 attempt with `redis::cmd(\"UNWATCH\").exec(&mut client)`",
                KeyText(key),
                self.name(owner),
                KeyText(watched.0),
                self.name(watched.1),
            ),
        )
        .about_keys([key, watched.0]))
    }

    /// Checks an atomic pipeline of a handle that watches `watched`, a key and its node: as without the
    /// watch, and that its keys live on that node.
    ///
    /// # Errors
    ///
    /// Those of [`route_pipeline`](Self::route_pipeline), and [`CrossNode`](ErrorKind::CrossNode).
    pub(crate) fn check_watched_pipeline(
        &self,
        packed: &[u8],
        kind: PipelineKind,
        snapshot: CacheSnapshot<'_>,
        watched: (&[u8], NodeIndex),
    ) -> Result<(), Error> {
        // The node of a transaction is never chosen at random, so no entropy is needed.
        let planned = self.route_pipeline(packed, kind, snapshot, 0)?;
        // The slot is what counts there, and is checked with each command.
        let is_cluster = self.topology().cluster().is_some();
        match planned {
            PlannedPipeline::Transaction { node, .. } if node != watched.1 && !is_cluster => Err(Error::new(
                ErrorKind::CrossNode,
                format!(
                    "the keys of the transaction live on node {}, but this client watches the key {} on node {}, and a \
                     transaction runs on one node; put all its keys under one hash tag, such as {{tag}}a and {{tag}}b",
                    self.name(node),
                    KeyText(watched.0),
                    self.name(watched.1),
                ),
            )
            .about_keys([watched.0])),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, Rendezvous};
    use crate::plan::SplitWrites;
    use crate::topology::Topology;

    fn router() -> Router {
        let node = |name: &str| NodeSpec::new(name, format!("{name}:6379"));
        let nodes = ["a", "b", "c"].map(node).into();
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        let table = std::borrow::Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed)
    }

    fn words(request: &str) -> Vec<&[u8]> {
        request.split(' ').map(str::as_bytes).collect()
    }

    /// Two keys of different nodes.
    fn apart(router: &Router) -> [String; 2] {
        let keys = || (0..).map(|number| format!("key:{number}"));
        let owner = |key: &String| router.owner(key.as_bytes()).unwrap();
        let first = keys().next().unwrap();
        let other = keys().find(|key| owner(key) != owner(&first)).unwrap();
        [first, other]
    }

    #[test]
    fn client_setname_and_getname_are_recognized_and_checked_as_by_a_server() {
        let router = router();
        let parsed = |request| router.name_command(&words(request)).map(Result::unwrap);
        assert_eq!(
            parsed("client setname web-1"),
            Some(NameCommand::Set("web-1"))
        );
        assert_eq!(parsed("CLIENT SETNAME "), Some(NameCommand::Set("")));
        assert_eq!(parsed("CLIENT GETNAME"), Some(NameCommand::Get));
        for request in ["CLIENT ID", "GET k", "NOSUCH"] {
            assert_eq!(parsed(request), None, "{request}");
        }
        let refused = |args: &[&[u8]]| router.name_command(args).unwrap().unwrap_err().to_string();
        let text = refused(&[b"CLIENT", b"SETNAME", b"a b"]);
        assert!(
            text.contains("Client names cannot contain spaces"),
            "{text}"
        );
        assert!(refused(&words("CLIENT GETNAME x")).contains("wrong number of arguments"));
    }

    #[test]
    fn watch_of_keys_on_two_nodes_is_refused_with_both_keys_and_nodes() {
        let router = router();
        let [first, other] = apart(&router);
        let node = |key: &str| router.owner(key.as_bytes()).unwrap();
        let error = router.watched_node(&[b"WATCH", first.as_bytes(), other.as_bytes()]);
        let second = router.check_second_watch(
            (first.as_bytes(), node(&first)),
            other.as_bytes(),
            node(&other),
        );
        for error in [error.unwrap_err(), second.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::CrossNode);
            let text = error.to_string();
            for key in [&first, &other] {
                let place = format!("node {}", router.name(node(key)));
                assert!(
                    text.contains(key.as_str()) && text.contains(&place),
                    "{text}"
                );
            }
        }
        let none = router.watched_node(&words("WATCH")).unwrap_err();
        assert!(
            none.to_string().contains("wrong number of arguments"),
            "{none}"
        );
    }

    #[test]
    fn atomic_pipeline_of_a_watching_client_must_live_on_the_node_of_its_watch() {
        let router = router();
        let [first, other] = apart(&router);
        let check = |key: &str| {
            let mut pipeline = redis::pipe();
            pipeline.atomic().set(key, 1);
            let packed = pipeline.get_packed_pipeline();
            let kind = PipelineKind::of(&packed, 2, 1);
            let watched = (first.as_bytes(), router.owner(first.as_bytes()).unwrap());
            router.check_watched_pipeline(&packed, kind, &ScriptCache::empty, watched)
        };
        check(&first).unwrap();
        let error = check(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CrossNode);
        assert!(error.to_string().contains(&first), "{error}");
    }
}
