//! [`Router`]: from the arguments of a request to its plan, or to the error that refuses it.
//!
//! The `route` methods differ in who chooses the node and in what is checked:
//!
//! | method | node | keys | stateful commands | script cache | for |
//! |---|---|---|---|---|---|
//! | `plan`, `route_by_keys` | by the keys | one owner, or split | refused | empty | previews |
//! | `route`, `route_as` | by the keys | one owner, or split | refused | consulted | shared connections |
//! | `route_at` | given | not checked | refused | no | `client.node(name)` |
//! | `route_private` | given | must all live there | allowed | no | `client.dedicated(keys)` |
//! | `route_unchecked_private` | given | not checked | allowed | no | `node.dedicated()` |
//!
//! Unknown commands are refused wherever keys are checked. Where they are not, an unknown command is sent as
//! a write. Commands that take over the connection (MONITOR, SYNC) are refused by all.
//!
//! Routing allocates nothing for a command with one key at a fixed place, which is nearly every command.

use std::borrow::Cow;
use std::sync::Arc;

use crate::command::{
    Access, CommandSpec, CommandTable, KeyError, KeyPositions, Lookup, Merge, Partial, Route,
    Scripting, SharedTable,
};
use crate::error::{Error, ErrorKind};
use crate::hash::SLOTS;
use crate::partition::NodeIndex;
use crate::plan::location::KeyLocation;
use crate::plan::lockout;
use crate::plan::owners::Owners;
use crate::plan::redirects::ClusterRouting;
use crate::plan::refusal::{
    empty_command, malformed, needs_a_node, no_keys, refused, stateful, unknown, wrong_arity,
};
use crate::plan::routed::{RoutedCommand, WaitScope};
use crate::plan::scan::{ScanOptions, SlotCursor};
use crate::plan::scripts::wrong_key_count;
use crate::plan::{
    CacheSnapshot, HashTags, PartialReads, Plan, ReadsAs, ScanCursor, ScriptCache, Split,
};
use crate::policy::FlushLog;
use crate::resp::Protocol;
use crate::topology::Topology;

/// An immutable snapshot of everything that decides where a request goes.
///
/// Every request uses one router from its plan to its merged reply: node indices of one snapshot mean other
/// nodes in another. A change of the topology is a new router.
#[derive(Clone, Debug)]
pub struct Router {
    topology: Arc<Topology>,
    /// What the redirects of a cluster are read by.
    cluster: Option<Arc<ClusterRouting>>,
    commands: SharedTable,
    split_writes: SplitWrites,
    partial_reads: PartialReads,
    missing_nodes: ReadsAs,
    /// True if a node may have replicas, and they may be read.
    pub(super) replica_reads: bool,
    /// The protocol of the connections to each node, in node order. RESP2 for nodes that are not in it.
    protocols: Arc<[Protocol]>,
    /// Whether keys that share a node only by chance may be used together.
    pub(super) hash_tags: HashTags,
    /// Where flushes are recorded that nodes miss because they are out.
    pub(super) flush_log: Option<Arc<FlushLog>>,
    /// True if the client follows the records of its nodes; see `keep_record`.
    pub(super) follows_records: bool,
    /// The usernames with which the client authenticates to its nodes; see `lockout`.
    users: Arc<[String]>,
}

/// The treatment of MSET, DEL, UNLINK, TOUCH and JSON.MSET with keys on several nodes, or in several slots of a Redis
/// Cluster.
///
/// A split gives up their atomicity: other clients may see the part of one node done and that of another not.
/// MSETNX and MSETEX are never split, because all or nothing is what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitWrites {
    /// They are split, as redis-rs' cluster clients and Twemproxy do.
    #[default]
    Allowed,
    /// They are refused with [`CrossNode`](ErrorKind::CrossNode) when their keys live on several nodes, or are in several
    /// slots of a Redis Cluster.
    Refused,
}

impl Router {
    /// A router over `topology` for the commands in `commands`, such as [`CommandTable::built_in`]. Over a Redis Cluster
    /// some of them are routed as it needs.
    pub fn new(
        topology: Arc<Topology>,
        commands: impl Into<Cow<'static, CommandTable>>,
        split_writes: SplitWrites,
    ) -> Self {
        let mut commands = commands.into();
        if topology.cluster().is_some() {
            commands = CommandTable::in_cluster(commands);
        }
        let commands = SharedTable::from(commands);
        Self {
            cluster: topology
                .cluster()
                .map(|map| Arc::new(ClusterRouting::new(map, &commands, split_writes))),
            topology,
            commands,
            split_writes,
            partial_reads: PartialReads::default(),
            missing_nodes: ReadsAs::default(),
            replica_reads: false,
            flush_log: None,
            follows_records: false,
            protocols: Arc::default(),
            hash_tags: HashTags::default(),
            // The user of a connection that authenticates without a username, or not at all.
            users: Arc::from(["default".to_owned()]),
        }
    }

    /// Sets what happens to reads over all nodes when some cannot be reached. Defaults to
    /// [`PartialReads::Refused`].
    #[must_use]
    pub fn with_partial_reads(mut self, partial_reads: PartialReads) -> Self {
        self.partial_reads = partial_reads;
        self
    }

    /// Sets what becomes of reads by key when the node of the keys cannot be reached. Defaults to
    /// [`ReadsAs::Error`].
    #[must_use]
    pub fn with_missing_nodes(mut self, reads_as: ReadsAs) -> Self {
        self.missing_nodes = reads_as;
        self
    }

    /// The same router for another state of the topology, whose nodes have the same indices.
    pub(crate) fn with_topology(mut self, topology: Arc<Topology>) -> Self {
        debug_assert_eq!(self.topology.nodes().len(), topology.nodes().len());
        let cluster = topology.cluster();
        self.cluster = cluster
            .map(|map| Arc::new(ClusterRouting::new(map, &self.commands, self.split_writes)));
        self.topology = topology;
        self
    }

    /// What the redirects of a cluster are read by. `None` if the nodes are no cluster.
    #[inline]
    pub(in crate::plan) fn cluster(&self) -> Option<&Arc<ClusterRouting>> {
        self.cluster.as_ref()
    }

    /// The commands whose keys are known.
    pub(in crate::plan) fn commands(&self) -> &CommandTable {
        &self.commands
    }

    /// True if writes may be split.
    pub(in crate::plan) fn splits_writes(&self) -> bool {
        self.split_writes == SplitWrites::Allowed
    }

    /// True while a reshard moves keys.
    #[inline]
    pub(crate) fn is_moving(&self) -> bool {
        self.topology.moving().is_some()
    }

    /// Sets the protocol of the connections to each node, in node order: replies that stand for those of a
    /// node are made in it. Defaults to RESP2 for all.
    pub(crate) fn with_protocols(mut self, protocols: impl IntoIterator<Item = Protocol>) -> Self {
        self.protocols = protocols.into_iter().collect();
        self
    }

    /// What becomes of reads by key when the node of the keys cannot be reached.
    #[inline]
    pub(in crate::plan) fn missing_nodes(&self) -> ReadsAs {
        self.missing_nodes
    }

    /// The protocol of the connections to a node.
    pub(in crate::plan) fn protocol(&self, node: NodeIndex) -> Protocol {
        self.protocols.get(node.get()).copied().unwrap_or_default()
    }

    /// Sets the usernames with which the client authenticates to its nodes. Defaults to `default` alone.
    pub(crate) fn with_users(mut self, users: impl IntoIterator<Item = String>) -> Self {
        self.users = users.into_iter().collect();
        self
    }

    /// Chooses a living node by `entropy`, a random number.
    pub(crate) fn random_node(&self, entropy: u64) -> NodeIndex {
        let living = self.topology.living_nodes();
        let number = entropy % (living.len() as u64).max(1);
        // A topology has a living node, and fewer than a `usize` can count.
        living.nth(number as usize).unwrap_or(NodeIndex::new(0))
    }

    /// The nodes and their placement.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Plans one command, given as its arguments; the first is the command's name.
    ///
    /// Scripts and functions that declare no key are planned without a script cache: only the source in an
    /// EVAL can show their keys.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable), [`CrossNode`](ErrorKind::CrossNode) or
    /// [`Stateful`](ErrorKind::Stateful) when the command is refused; [`Redis`](ErrorKind::Redis) with the
    /// server's own text when its arguments are malformed.
    pub fn plan(&self, args: &[&[u8]]) -> Result<Plan, Error> {
        Ok(self.route_by_keys(args)?.plan)
    }

    /// Routes one command by its keys, with an empty script cache: EVALSHA and FCALL without keys are
    /// refused.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    pub(crate) fn route_by_keys(&self, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        self.route(args, &ScriptCache::empty)
    }

    /// Routes one command by its keys, consulting the script cache when it declares no keys.
    ///
    /// `snapshot` is only called for scripts and functions without keys: it costs a lock and a reference
    /// count, which other commands need not pay.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    #[inline]
    pub(crate) fn route(
        &self,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        self.route_as(self.lookup(args)?, args, snapshot)
    }

    /// Routes one command by its keys, like [`route`](Self::route), when its row of the table is known
    /// already.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    #[inline(always)]
    pub(crate) fn route_as(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        // Nearly all commands have one key, always at the same place: for them neither a list of keys nor the
        // route of the table is needed. Inlined, so that this path is one function; the other one is not.
        match command.sole_key() {
            Some(at) => {
                check_arity(command, args)?;
                // A declared arity may allow a request that ends before its key.
                let key = args.get(at).ok_or_else(|| wrong_arity(command))?;
                let routed = routed_to(self.owner(key)?, command, args);
                Ok(RoutedCommand {
                    reads_as: self.reads_as(command, routed.blocking),
                    may_use_replica: self.may_use_replica(command, routed.blocking),
                    ..routed
                })
            }
            None => self.plan_route(command, args, snapshot),
        }
    }

    /// Routes a command that has not exactly one key at a fixed place.
    fn plan_route(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<RoutedCommand, Error> {
        let mut preferred = None;
        let plan = match command.route() {
            Route::Keys => self.owner_of_all(command, args, snapshot)?,
            Route::Split { step, tail, merge } => {
                self.split(command, args, step.into(), tail.into(), merge)?
            }
            Route::All(merge) => {
                // A request that every node would refuse alike is refused once, before it is sent to all of
                // them.
                check_arity(command, args)?;
                lockout::check(command, args, &self.users)?;
                Plan::All(merge)
            }
            Route::Any => {
                check_arity(command, args)?;
                Plan::Any
            }
            Route::AnyFor { at } => {
                check_arity(command, args)?;
                let arg = args.get(usize::from(at));
                preferred = arg.and_then(|arg| self.topology.locate(arg));
                Plan::Any
            }
            Route::Slot { at } => {
                check_arity(command, args)?;
                self.owner_of_slot(command, args.get(usize::from(at)).copied())?
            }
            Route::Scan => self.scan(command, args)?,
            Route::NodeOnly => return Err(needs_a_node(command)),
            Route::Stateful => return Err(stateful(command)),
            Route::Refused => return Err(refused(command)),
        };
        // Only over all nodes: for a single node the user decides which connection has made the writes.
        let since = match (&plan, command.name()) {
            (Plan::All(_), "WAIT" | "WAITAOF") => WaitScope::AllWrites,
            _ => WaitScope::OwnWrites,
        };
        let blocking = command.blocking_time(args);
        // The parts of a split have other keys each: a value cannot stand for another node's.
        let may_be_partial = matches!(
            plan,
            Plan::All(_) | Plan::Scan { .. } | Plan::ScanSlots { .. }
        ) && self.partial_reads.allow(command.partial());
        Ok(RoutedCommand {
            access: command.access(),
            reads_as: self.reads_as(command, blocking),
            // A script without keys may go to any node, and then to the next one.
            may_use_replica: plan != Plan::Any && self.may_use_replica(command, blocking),
            blocking,
            wait_scope: since,
            scripting: command.scripting(),
            partial: match may_be_partial {
                true => command.partial(),
                false => Partial::Refused,
            },
            preferred,
            // What goes to all nodes is no single request in any case.
            is_rewritten: false,
            plan,
        })
    }

    /// Routes one command over a shared connection to `node`, which the user has named. Keys are not checked.
    ///
    /// A command that is not in the table is allowed, since no key must be found: it counts as a write.
    ///
    /// # Errors
    ///
    /// [`Stateful`](ErrorKind::Stateful) for commands that would change or take over the shared connection,
    /// [`Unroutable`](ErrorKind::Unroutable) for an empty command.
    pub(crate) fn route_at(&self, node: NodeIndex, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        self.check_record(args)?;
        match self.commands.lookup(args) {
            Lookup::Found(command) if command.route() == Route::Stateful => {
                Err(stateful(command).at_node(self.name(node)))
            }
            Lookup::Found(command) if command.route() == Route::Refused => {
                Err(refused(command).at_node(self.name(node)))
            }
            Lookup::Found(command) => {
                let routed = routed_to(node, command, args);
                Ok(RoutedCommand {
                    may_use_replica: self.may_use_replica(command, routed.blocking),
                    is_rewritten: self.is_rewritten(args),
                    ..routed
                })
            }
            // A server ignores an empty request without a reply, so it would wait for its timeout.
            _ if args.is_empty() => Err(empty_command().at_node(self.name(node))),
            _ => Ok(RoutedCommand::write(node)),
        }
    }

    /// Routes one command over a dedicated connection to `node`, without checking its keys.
    ///
    /// Like [`route_at`](Self::route_at), but allows commands that change the state of the connection, such
    /// as WATCH and SELECT: nobody else uses it.
    ///
    /// # Errors
    ///
    /// [`Stateful`](ErrorKind::Stateful) for commands that take over the connection,
    /// [`Unroutable`](ErrorKind::Unroutable) for an empty command.
    pub(crate) fn route_unchecked_private(
        &self,
        node: NodeIndex,
        args: &[&[u8]],
    ) -> Result<RoutedCommand, Error> {
        self.check_record(args)?;
        match self.commands.lookup(args) {
            Lookup::Found(command) if command.route() == Route::Stateful => {
                Ok(routed_to(node, command, args))
            }
            _ => self.route_at(node, args),
        }
    }

    /// Routes one command over a dedicated connection to `node`, checking that all its keys live there.
    ///
    /// Commands that change the state of the connection are allowed. So are commands without keys, such as
    /// PING and MULTI, and those that would otherwise go to all nodes. `first` is the key that the others must
    /// be usable together with, if it is not enough that they live on the node.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) for a key of another node or slot or without a common hash tag,
    /// [`Unroutable`](ErrorKind::Unroutable) for an unknown command, [`Stateful`](ErrorKind::Stateful) for commands that take over the connection.
    pub(crate) fn route_private(
        &self,
        node: NodeIndex,
        args: &[&[u8]],
        first: Option<&[u8]>,
    ) -> Result<RoutedCommand, Error> {
        self.check_record(args)?;
        let command = self.lookup(args)?;
        let at = self.keys(command, args)?;
        if !at.keys.is_empty() {
            self.check_private(command, args, &at, (node, first))?;
        }
        if command.route() == Route::Refused {
            return Err(refused(command).at_node(self.name(node)));
        }
        // Whatever the route in the table: a command over a dedicated connection concerns that node alone.
        Ok(routed_to(node, command, args))
    }

    /// The node that owns `key`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when the placement does not cover the key.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> Result<NodeIndex, Error> {
        self.topology.locate(key).ok_or_else(|| self.no_owner(key))
    }

    /// Where all of `keys` live.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when two of them live on different nodes, or are in different slots of a
    /// cluster, [`Unroutable`](ErrorKind::Unroutable) when there is no key or one has no owner.
    pub(crate) fn common_owner<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<KeyLocation, Error> {
        let mut first: Option<(&[u8], KeyLocation)> = None;
        for key in keys {
            let location = self.location(key)?;
            match first {
                None => first = Some((key, location)),
                Some(first) => self.check_together("the request", first, (key, location))?,
            }
        }
        match first {
            Some((_, location)) => Ok(location),
            None => Err(Error::new(
                ErrorKind::Unroutable,
                "no key was given, so no node can be chosen; give at least one, or name a node with `client.node(name)`",
            )),
        }
    }

    /// The row of the command table for `args`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when there is none.
    #[inline]
    pub(crate) fn lookup(&self, args: &[&[u8]]) -> Result<&CommandSpec, Error> {
        match self.commands.lookup(args) {
            Lookup::Found(command) => Ok(command),
            Lookup::UnknownSubcommand => Err(unknown(args, 2)),
            Lookup::UnknownCommand if args.is_empty() => Err(empty_command()),
            Lookup::UnknownCommand => Err(unknown(args, 1)),
        }
    }

    /// Looks `args` up in the command table, without an error for those that are not there.
    #[inline]
    pub(super) fn lookup_row(&self, args: &[&[u8]]) -> Lookup<'_> {
        self.commands.lookup(args)
    }

    /// Plans a command that cannot be split: all its keys, and the keys made of its patterns, must live on
    /// one node, and in one slot of a cluster.
    ///
    /// A script or function that declares no key goes where the keys in its text live, or to any node if it
    /// has none.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when the keys live on different nodes,
    /// [`Unroutable`](ErrorKind::Unroutable) when there are none, or when the text of a script does not show
    /// which ones it touches.
    pub(super) fn owner_of_all(
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
            // Kept until the plan is made: the keys borrow from the source in the cache.
            let memory = snapshot();
            let shown = self.literal_keys(command, args, &memory)?;
            return match shown.is_empty() {
                true => Ok(Plan::Any),
                false => Ok(Plan::One(self.common_owner(shown)?.node)),
            };
        };
        let first = (first, self.location(first)?);
        for key in keys {
            self.check_together(command.name(), first, (key, self.location(key)?))?;
        }
        for &at in &at.patterns {
            let pattern = args[at as usize];
            self.check_pattern(command, pattern, first.1)?;
            self.check_tag(command.name(), first, pattern)?;
        }
        Ok(Plan::One(first.1.node))
    }

    /// Plans a command that may be split: one part per owner, in a cluster per slot, or a single node when there would be
    /// one part.
    ///
    /// # Errors
    ///
    /// [`Redis`](ErrorKind::Redis) when the arguments are not whole keys with their values,
    /// [`CrossNode`](ErrorKind::CrossNode) for a write when [`SplitWrites::Refused`] is set and its keys live
    /// on several nodes, or share no hash tag although they must.
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
        let first = (args[head], self.location(args[head])?);
        if command.access() == Access::Write && self.split_writes == SplitWrites::Refused {
            for key in keys().skip(1) {
                self.check_together(command.name(), first, (key, self.location(key)?))?;
            }
            return Ok(Plan::One(first.1.node));
        }
        // Looking for a second owner first spares the common case, one node or one slot, all allocations.
        let mut alike = 1;
        let mut rest = keys().skip(1);
        let other = loop {
            let Some(key) = rest.next() else {
                return Ok(Plan::One(first.1.node));
            };
            match self.location(key)? {
                location if location == first.1 => alike += 1,
                other => break other,
            }
        };
        let nodes = self.topology.nodes().len();
        let mut owners = Owners::new(other.slot.is_some(), nodes, keyed / step);
        (0..alike).for_each(|_| owners.push(first.1));
        owners.push(other);
        for key in rest {
            owners.push(self.location(key)?);
        }
        Ok(Plan::Split(Split {
            parts: owners.parts(),
            merge,
            head,
            step,
            tail,
        }))
    }

    /// Plans a command about a slot of a cluster, given by its number.
    fn owner_of_slot(&self, command: &CommandSpec, slot: Option<&[u8]>) -> Result<Plan, Error> {
        let Some(map) = self.topology.cluster() else {
            return Err(needs_a_node(command));
        };
        let slot = slot.and_then(|slot| std::str::from_utf8(slot).ok()?.parse().ok());
        let owner = slot.filter(|slot| *slot < SLOTS);
        let owner = owner.and_then(|slot| map.target(slot));
        // Any node refuses what is no slot, in the words of a server.
        Ok(owner.map_or(Plan::Any, Plan::One))
    }

    /// Plans a step of SCAN over all nodes, by the node and the cursor packed into the cursor of the request.
    fn scan(&self, command: &CommandSpec, args: &[&[u8]]) -> Result<Plan, Error> {
        check_arity(command, args)?;
        // Indexed, since the arity check has ensured that there is a cursor.
        if let Some(map) = self.topology.cluster() {
            let (cursor, options) = (SlotCursor::parse(args[1])?, ScanOptions::parse(&args[2..])?);
            let slot = options.slot().unwrap_or(cursor.slot());
            let node = map.target(slot).unwrap_or(NodeIndex::new(0));
            return Ok(Plan::ScanSlots { slot, node });
        }
        let ScanCursor {
            node,
            cursor,
            answered,
            is_second_pass,
        } = ScanCursor::parse(args[1], self)?;
        if !self.topology.out().contains(node) {
            return Ok(Plan::Scan {
                node,
                cursor,
                answered,
                is_second_pass,
            });
        }
        // The node went out while it was scanned. Its own cursor is of no use to another one.
        let next = self.topology.next_living(Some(node));
        let next = match answered {
            true => next,
            // No node has replied so far: nothing is lost by beginning again.
            false => next.or_else(|| self.topology.next_living(None)),
        };
        Ok(Plan::Scan {
            // Without a next one the plan stays with the node that is out: nothing is sent, and the scan ends.
            node: next.unwrap_or(node),
            cursor: 0,
            answered,
            is_second_pass,
        })
    }

    /// The literal keys in the text of a script or function that declares none. EVALSHA and FCALL are looked
    /// up in `memory`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when the text does not show all keys that it touches; NOSCRIPT
    /// or `ERR Function not found`, like a server, when the text is not known.
    pub(crate) fn literal_keys<'s>(
        &self,
        command: &CommandSpec,
        args: &'s [&'s [u8]],
        memory: &'s ScriptCache,
    ) -> Result<Vec<&'s [u8]>, Error> {
        memory.literal_keys(&self.commands, command, args)
    }

    /// The positions of the keys and key patterns among the arguments.
    ///
    /// # Errors
    ///
    /// [`Redis`](ErrorKind::Redis) in the words of the server when the keys cannot be found: a wrong number
    /// of arguments, a bad `numkeys`, unbalanced STREAMS.
    pub(crate) fn keys(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
    ) -> Result<KeyPositions, Error> {
        let mut at = KeyPositions::default();
        command
            .positions(args, &mut at)
            .map_err(|error| match (error, command.scripting()) {
                // Servers have words of their own for a bad `numkeys` of EVAL and FCALL.
                (KeyError::Count, Scripting::Yes) => wrong_key_count(command, args),
                (error, _) => malformed(command, error, args),
            })?;
        Ok(at)
    }

    /// The name of a node.
    pub(crate) fn name(&self, node: NodeIndex) -> &str {
        self.topology.node(node).name()
    }
}

/// Look-ups that only the proxy needs.
#[cfg(feature = "proxy")]
impl Router {
    /// Looks `args` up in the command table. Unlike [`lookup`](Self::lookup) it makes no error: the proxy
    /// words its own.
    #[inline]
    pub(crate) fn find(&self, args: &[&[u8]]) -> Lookup<'_> {
        self.commands.lookup(args)
    }

    /// True if a server would accept the number of arguments but reply with an error when it looks for the
    /// keys.
    ///
    /// Inside MULTI such a command is queued, and fails only at EXEC; one with a wrong number of arguments is
    /// not queued.
    pub(crate) fn is_malformed(&self, command: &CommandSpec, args: &[&[u8]]) -> bool {
        let found = command.positions(args, &mut KeyPositions::default());
        found.is_err() && command.accepts(args.len())
    }
}

/// A command for one node, with its properties from the table. It has no part that could be missing.
#[inline]
fn routed_to(node: NodeIndex, command: &CommandSpec, args: &[&[u8]]) -> RoutedCommand {
    RoutedCommand {
        plan: Plan::One(node),
        access: command.access(),
        blocking: command.blocking_time(args),
        wait_scope: WaitScope::OwnWrites,
        scripting: command.scripting(),
        partial: Partial::Refused,
        reads_as: ReadsAs::Error,
        may_use_replica: false,
        preferred: None,
        is_rewritten: false,
    }
}

/// Checks the number of arguments, and fails in the words of the server.
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
                .starts_with("node \"b\" is no longer in the topology")
        );
    }
}
