//! From a request to its plan.

use std::borrow::Cow;
use std::sync::Arc;

use crate::command::{
    Access, CommandSpec, CommandTable, KeyError, KeyPositions, Lookup, Merge, Route, Scripting,
};
use crate::error::{Error, ErrorKind, KeyText};
use crate::hash::HashTag;
use crate::partition::NodeIndex;
use crate::plan::lockout;
use crate::plan::owners::Owners;
use crate::plan::refusal::{
    empty_command, malformed, needs_a_node, no_keys, node_left, refused, stateful, typed_name,
    unknown, wrong_arity,
};
use crate::plan::routed::{RoutedCommand, WaitScope};
use crate::plan::scripts::wrong_key_count;
use crate::plan::{CacheSnapshot, Explanation, PartialReads, Plan, ScanCursor, ScriptCache, Split};
use crate::topology::{NodeRef, Topology};

/// One snapshot of everything that decides where a request goes. Every request travels by one router from beginning to
/// end.
#[derive(Clone, Debug)]
pub struct Router {
    topology: Arc<Topology>,
    commands: Cow<'static, CommandTable>,
    split_writes: SplitWrites,
    partial_reads: PartialReads,
    /// The users that the client is at its nodes.
    users: Arc<[String]>,
}

/// Whether MSET, DEL, UNLINK, TOUCH and JSON.MSET may be cut by node.
///
/// Cutting gives up their atomicity: other clients may see one node's part done and another's not. MSETNX and MSETEX are
/// never cut, because all or nothing is what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitWrites {
    /// They are cut, as redis-rs' cluster clients and Twemproxy do.
    #[default]
    Allowed,
    /// They are refused with [`CrossNode`](ErrorKind::CrossNode) when their keys live on several nodes.
    Refused,
}

impl Router {
    /// A router over `topology` for the commands in `commands`.
    pub fn new(
        topology: Arc<Topology>,
        commands: impl Into<Cow<'static, CommandTable>>,
        split_writes: SplitWrites,
    ) -> Self {
        Self {
            topology,
            commands: commands.into(),
            split_writes,
            partial_reads: PartialReads::default(),
            users: Arc::from(["default".to_owned()]),
        }
    }

    /// Whether the nodes that can be reached answer for all. Defaults to [`PartialReads::Refused`].
    #[must_use]
    pub fn with_partial_reads(mut self, partial_reads: PartialReads) -> Self {
        self.partial_reads = partial_reads;
        self
    }

    /// The users that the client is at its nodes. Defaults to `default`.
    pub(crate) fn with_users(mut self, users: impl IntoIterator<Item = String>) -> Self {
        self.users = users.into_iter().collect();
        self
    }

    /// One of the nodes; `entropy` is any number.
    pub(crate) fn random_node(&self, entropy: u64) -> NodeIndex {
        let nodes = self.topology.nodes().len() as u64;
        // There are no more nodes than fit.
        NodeIndex::new(u16::try_from(entropy % nodes).unwrap_or(0))
    }

    /// The nodes and their placement.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// A node as a handle keeps it.
    pub(crate) fn node_ref(&self, node: NodeIndex) -> NodeRef {
        NodeRef::new(Arc::clone(&self.topology), node)
    }

    /// Where the node of a handle stands in this snapshot.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when it is not in it any more.
    #[inline]
    pub(crate) fn locate_node(&self, node: &NodeRef) -> Result<NodeIndex, Error> {
        node.index_in(&self.topology)
            .ok_or_else(|| node_left(node.spec().name()))
    }

    /// The plan for one command, given as its arguments; the first is the command's name.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable), [`CrossNode`](ErrorKind::CrossNode) or
    /// [`Stateful`](ErrorKind::Stateful) when it is refused; [`Redis`](ErrorKind::Redis) with the server's own text when
    /// its arguments make no sense.
    pub fn plan(&self, args: &[&[u8]]) -> Result<Plan, Error> {
        Ok(self.route_by_keys(args)?.plan)
    }

    /// The plan for one command with what an executor must know, where no script is remembered.
    pub(crate) fn route_by_keys(&self, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        self.route(args, &ScriptCache::empty)
    }

    /// The same where some are.
    #[inline]
    pub(crate) fn route(
        &self,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        self.route_as(self.lookup(args)?, args, snapshot)
    }

    /// The same for a command that was looked up already. `snapshot` is called only for scripts and functions that declare no
    /// key.
    #[inline(always)]
    pub(crate) fn route_as(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        // One key, always in the same place: so it is with nearly all commands.
        match command.sole_key() {
            Some(at) => {
                check_arity(command, args)?;
                // A declared arity may allow a request that ends before its key.
                let key = args.get(at).ok_or_else(|| wrong_arity(command))?;
                Ok(routed_to(self.owner(key)?, command, args))
            }
            None => self.plan_route(command, args, snapshot),
        }
    }

    fn plan_route(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        let plan = match command.route() {
            Route::Keys => self.owner_of_all(command, args, snapshot)?,
            Route::Split { step, tail, merge } => {
                self.split(command, args, step.into(), tail.into(), merge)?
            }
            Route::All(merge) => {
                check_arity(command, args)?;
                lockout::check(command, args, &self.users)?;
                Plan::All(merge)
            }
            Route::Any => {
                check_arity(command, args)?;
                Plan::Any
            }
            Route::Scan => self.scan(command, args)?,
            Route::NodeOnly => return Err(needs_a_node(command)),
            Route::Stateful => return Err(stateful(command)),
            Route::Refused => return Err(refused(command)),
        };
        let since = match (&plan, command.name()) {
            (Plan::All(_), "WAIT" | "WAITAOF") => WaitScope::AllWrites,
            _ => WaitScope::OwnWrites,
        };
        Ok(RoutedCommand {
            plan,
            access: command.access(),
            blocking: command.blocking_time(args),
            wait_scope: since,
            scripting: command.scripting(),
            partial: self.partial_reads.allow(command.partial()),
        })
    }

    /// The plan for one command that is sent to `node` because the user says so. Keys are not checked.
    pub(crate) fn route_at(&self, node: NodeIndex, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        match self.commands.lookup(args) {
            Lookup::Found(command) if command.route() == Route::Stateful => {
                Err(stateful(command).at_node(self.name(node)))
            }
            Lookup::Found(command) if command.route() == Route::Refused => {
                Err(refused(command).at_node(self.name(node)))
            }
            Lookup::Found(command) => Ok(routed_to(node, command, args)),
            _ if args.is_empty() => Err(empty_command().at_node(self.name(node))),
            _ => Ok(RoutedCommand::write(node)),
        }
    }

    /// The same over a private connection, where anything goes.
    pub(crate) fn route_unchecked_private(
        &self,
        node: NodeIndex,
        args: &[&[u8]],
    ) -> Result<RoutedCommand, Error> {
        match self.commands.lookup(args) {
            Lookup::Found(command) if command.route() == Route::Stateful => {
                Ok(routed_to(node, command, args))
            }
            _ => self.route_at(node, args),
        }
    }

    /// Checks that `args` may be sent over a private connection to `node`: all its keys live there.
    pub(crate) fn route_private(
        &self,
        node: NodeIndex,
        args: &[&[u8]],
    ) -> Result<RoutedCommand, Error> {
        let command = self.lookup(args)?;
        let at = self.keys(command, args)?;
        for &at in &at.keys {
            let owner = self.owner(args[at as usize])?;
            if owner != node {
                return Err(self.wrong_node(command, args[at as usize], owner, node));
            }
        }
        for &at in &at.patterns {
            self.check_pattern(command, args[at as usize], node)?;
        }
        if command.route() == Route::Refused {
            return Err(refused(command).at_node(self.name(node)));
        }
        Ok(routed_to(node, command, args))
    }

    /// Whether `args` is a command that leaves a connection other than it was, transactions apart.
    pub(crate) fn alters_connection(&self, args: &[&[u8]]) -> bool {
        const TRANSACTION: [&str; 5] = ["DISCARD", "EXEC", "MULTI", "UNWATCH", "WATCH"];
        match self.commands.lookup(args) {
            Lookup::Found(command) => {
                command.route() == Route::Stateful && !TRANSACTION.contains(&command.name())
            }
            _ => true,
        }
    }

    /// Whether `args` is a command that RESP3 answers with push messages, one for each channel.
    pub(crate) fn is_answered_by_push(&self, args: &[&[u8]]) -> bool {
        self.lookup(args)
            .is_ok_and(|command| command.name().ends_with("SUBSCRIBE"))
    }

    /// The owner of `key`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when the placement leaves the key without an owner.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> Result<NodeIndex, Error> {
        self.topology.locate(key).ok_or_else(|| self.no_owner(key))
    }

    /// The one node that owns all of `keys`.
    pub(crate) fn common_owner<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<NodeIndex, Error> {
        let mut first: Option<(&[u8], NodeIndex)> = None;
        for key in keys {
            let owner = self.owner(key)?;
            match first {
                None => first = Some((key, owner)),
                Some((_, node)) if node == owner => {}
                Some((other, node)) => {
                    return Err(self.cross_node("the request", (other, node), (key, owner)));
                }
            }
        }
        match first {
            Some((_, node)) => Ok(node),
            None => Err(Error::new(
                ErrorKind::Unroutable,
                "no key was given, so no node can be chosen; give at least one, or name a node with `client.node(name)`",
            )),
        }
    }

    /// The row of the table for `args`.
    #[inline]
    pub(crate) fn lookup(&self, args: &[&[u8]]) -> Result<&CommandSpec, Error> {
        match self.commands.lookup(args) {
            Lookup::Found(command) => Ok(command),
            Lookup::UnknownSubcommand => Err(unknown(args, 2)),
            Lookup::UnknownCommand if args.is_empty() => Err(empty_command()),
            Lookup::UnknownCommand => Err(unknown(args, 1)),
        }
    }

    /// The node that owns every key of an indivisible command; any, when a script without keys shows none.
    fn owner_of_all(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<Plan, Error> {
        let at = self.keys(command, args)?;
        let mut keys = at.keys.iter().map(|&at| args[at as usize]);
        let Some(first) = keys.next() else {
            if command.scripting() == Scripting::No {
                return Err(no_keys(command));
            }
            let memory = snapshot();
            let shown = self.literal_keys(command, args, &memory)?;
            return match shown.is_empty() {
                true => Ok(Plan::Any),
                false => self.common_owner(shown).map(Plan::One),
            };
        };
        let node = self.owner(first)?;
        for key in keys {
            let owner = self.owner(key)?;
            if owner != node {
                return Err(self.cross_node(command.name(), (first, node), (key, owner)));
            }
        }
        for &at in &at.patterns {
            self.check_pattern(command, args[at as usize], node)?;
        }
        Ok(Plan::One(node))
    }

    /// A pattern from which the server makes keys (SORT ... BY, GET) is let through only when its hash tag keeps every
    /// one of those keys on `node`.
    pub(crate) fn check_pattern(
        &self,
        command: &CommandSpec,
        pattern: &[u8],
        node: NodeIndex,
    ) -> Result<(), Error> {
        let star = pattern
            .iter()
            .position(|&byte| byte == b'*')
            .unwrap_or(pattern.len());
        let fixed = &pattern[..star];
        // Whatever takes the star's place, the first complete braces stay the first.
        let rule = self.topology.hash_tag();
        let pinned = matches!(rule, HashTag::Braces) && rule.of(fixed).len() < fixed.len();
        if pinned && self.topology.locate(fixed) == Some(node) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CrossNode,
            format!(
                "{}: the pattern {} makes keys that may live on other nodes than {}; put a hash tag in it that keeps \
                 them there, such as {{tag}}*",
                typed_name(command),
                KeyText(pattern),
                self.name(node),
            ),
        )
        .at_node(self.name(node))
        .about_keys([pattern]))
    }

    fn split(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        step: usize,
        tail: usize,
        merge: Merge,
    ) -> Result<Plan, Error> {
        check_arity(command, args)?;
        let head = command.first_key();
        let keyed = args.len().saturating_sub(head + tail);
        if keyed == 0 || !keyed.is_multiple_of(step) {
            return Err(wrong_arity(command));
        }
        let keys = || args[head..head + keyed].iter().step_by(step).copied();
        let first = self.owner(args[head])?;
        let Some(other) = keys().find(|key| self.topology.locate(key) != Some(first)) else {
            return Ok(Plan::One(first));
        };
        if command.access() == Access::Write && self.split_writes == SplitWrites::Refused {
            return Err(self.cross_node(
                command.name(),
                (args[head], first),
                (other, self.owner(other)?),
            ));
        }
        let mut owners = Owners::new(self.topology.nodes().len(), keyed / step);
        for key in keys() {
            owners.push(self.owner(key)?);
        }
        Ok(Plan::Split(Split {
            parts: owners.parts(),
            merge,
            head,
            step,
            tail,
        }))
    }

    fn scan(&self, command: &CommandSpec, args: &[&[u8]]) -> Result<Plan, Error> {
        check_arity(command, args)?;
        let ScanCursor {
            node,
            cursor,
            answered,
        } = ScanCursor::parse(args[1], self)?;
        Ok(Plan::Scan {
            node,
            cursor,
            answered,
        })
    }

    /// The keys that a script or function shows which declares none.
    pub(crate) fn literal_keys<'s>(
        &self,
        command: &CommandSpec,
        args: &'s [&'s [u8]],
        memory: &'s ScriptCache,
    ) -> Result<Vec<&'s [u8]>, Error> {
        memory.literal_keys(&self.commands, command, args)
    }

    /// Where the keys of a request are.
    pub(crate) fn keys(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
    ) -> Result<KeyPositions, Error> {
        let mut at = KeyPositions::default();
        command
            .positions(args, &mut at)
            .map_err(|error| match (error, command.scripting()) {
                (KeyError::Count, Scripting::Yes) => wrong_key_count(command, args),
                (error, _) => malformed(command, error, args),
            })?;
        Ok(at)
    }

    /// What would be done with `args`.
    pub(crate) fn explain(
        &self,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<Explanation, Error> {
        let plan = self.route(args, snapshot)?.plan;
        let at = self.keys(self.lookup(args)?, args)?;
        Ok(Explanation::new(
            plan,
            Arc::clone(&self.topology),
            args,
            &at.keys,
        ))
    }

    /// The name of a node.
    pub(crate) fn name(&self, node: NodeIndex) -> &str {
        self.topology.node(node).name()
    }
}

/// Questions that only the proxy asks.
#[cfg(feature = "proxy")]
impl Router {
    /// What the table knows about `args`.
    #[inline]
    pub(crate) fn find(&self, args: &[&[u8]]) -> Lookup<'_> {
        self.commands.lookup(args)
    }

    /// Whether a server takes the request for what it is, and refuses to carry it out, whatever its keys are.
    pub(crate) fn is_malformed(&self, command: &CommandSpec, args: &[&[u8]]) -> bool {
        let found = command.positions(args, &mut KeyPositions::default());
        found.is_err() && command.accepts(args.len())
    }
}

#[inline]
fn routed_to(node: NodeIndex, command: &CommandSpec, args: &[&[u8]]) -> RoutedCommand {
    RoutedCommand {
        plan: Plan::One(node),
        access: command.access(),
        blocking: command.blocking_time(args),
        wait_scope: WaitScope::OwnWrites,
        scripting: command.scripting(),
        partial: false,
    }
}

#[inline]
fn check_arity(command: &CommandSpec, args: &[&[u8]]) -> Result<(), Error> {
    match command.accepts(args.len()) {
        true => Ok(()),
        false => Err(wrong_arity(command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{NodeSpec, Rendezvous};

    fn router(names: &[&str], epoch: u64) -> Router {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(
            Arc::new(topology.with_epoch(epoch)),
            table,
            SplitWrites::Allowed,
        )
    }

    #[test]
    fn node_handle_is_found_in_a_newer_topology_or_is_unroutable() {
        let before = router(&["a", "b"], 0);
        let b = before.node_ref(NodeIndex::new(1));
        let found = |router: &Router| router.locate_node(&b).map(NodeIndex::get);
        assert_eq!(found(&before).unwrap(), 1);
        assert_eq!(found(&router(&["new", "a", "b"], 1)).unwrap(), 2);
        let error = found(&router(&["new", "a"], 2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unroutable);
        assert!(
            error
                .to_string()
                .starts_with("node \"b\" is not in the topology any more")
        );
    }
}
