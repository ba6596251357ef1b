//! Requests that were planned by an older topology than the newest, while a reshard moves keys: where does each go now?
//!
//! A request whose connection belongs to a newer topology is refused before it is sent, and one whose keys are on the way
//! is not sent either: both are *held*. [`Newest::fates`] reads the requests of one node that have no reply, and says what
//! becomes of each by the newest topology:
//!
//! | the keys | the request |
//! |---|---|
//! | are on one node | goes there, in one request with the others for that node, in their order |
//! | are in part on the way | stays held |
//! | are on several nodes | goes key by key if it may be split, see `key_by_key`; fails with `Moving` otherwise |
//!
//! A write at all nodes (FLUSHALL, FUNCTION LOAD) is for the nodes of the newest topology: it fails with `Moving` if there are
//! others than it was planned for. FLUSHALL and FLUSHDB are sent to all again if one of them was to wait after another had
//! it.
//!
//! A request without keys stays with its node, or goes to another if any may serve it. If it writes (FLUSHALL, FUNCTION
//! LOAD), it is held while any key is on the way. MULTI ... EXEC goes, stays or fails as a whole.
//!
//! A step of SCAN that was planned before the reshard is not sent in it: its reply would end the scan after one pass, though
//! it needs a second.
//!
//! The order of what is done to a key stays: what shares a key with a held request is held behind it, and what shares one
//! with a request that goes key by key is held until that is done.

use std::collections::HashSet;
use std::time::Duration;

use smallvec::SmallVec;

use crate::command::{Access, Args, CommandSpec, KeyPositions, PackedCommands, Route, Scripting};
use crate::error::{Error, ErrorKind, KeyText};
use crate::partition::{NodeId, NodeIndex};
use crate::plan::batch::{MovedTo, NodeRequest, ReplySlot, WHOLE};
use crate::plan::keep_record::flushall_of;
use crate::plan::key_by_key::{KeyByKey, cut, has_parts};
use crate::plan::{Cause, ExpectedEnd, Failure, Fallback, Plan, Router, ScriptCache};
use crate::policy::Flush;

/// The pause before the topology is looked at again, for a request over a dedicated connection whose key is on the way.
pub(crate) const MOVING_PAUSE: Duration = Duration::from_millis(2);

/// The newest topology of a client, for requests that were planned by an older one.
pub(crate) struct Newest<'r> {
    /// Its router.
    pub(crate) router: &'r Router,
    /// True if it is newer than the one by which requests were sent last.
    pub(crate) is_newer: bool,
    /// True if the client follows the records of its nodes, so that a newer one may be about to come.
    pub(crate) follows_record: bool,
    /// The identity of a node of the topology that the requests were planned by.
    pub(crate) identity: &'r dyn Fn(NodeIndex) -> Option<NodeId>,
}

/// What becomes of a request by the newest topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Fate {
    /// It is sent to this node.
    Send(NodeIndex),
    /// It is sent to several nodes, key by key.
    KeyByKey,
    /// It is held, for this reason.
    Held(String),
    /// It is held until what was planned before it is done.
    Behind,
    /// It fails, for this reason, and may be repeated.
    Refused(String),
}

/// The requests of one node that have the same fate, by their numbers.
pub(in crate::plan) type FateOf = (Fate, Vec<usize>);

/// How requests were placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plan) struct Placing {
    /// True if their keys decide, and not the user, who has named a node.
    pub(in crate::plan) is_by_keys: bool,
    /// True if keys were being moved by the topology of their plan.
    pub(in crate::plan) is_while_moving: bool,
}

/// Why a step of a scan is not sent.
const SCAN_GOES_ON: &str = "keys are being moved from now on, and the scan makes two passes over the nodes; repeat this step";

type Keys<'p> = SmallVec<[&'p [u8]; 2]>;

impl Newest<'_> {
    /// The index of the node of a request in the newest topology. `None` if it has left.
    pub(in crate::plan) fn node_of(&self, request: &NodeRequest) -> Option<NodeIndex> {
        let id = match &request.moved {
            Some(moved) => moved.id,
            None => (self.identity)(request.node)?,
        };
        self.router.topology().index_of_id(id)
    }

    /// The node as the place of a request.
    pub(in crate::plan) fn moved_to(&self, node: NodeIndex) -> MovedTo {
        MovedTo {
            node,
            id: self.router.topology().node(node).id(),
            name: self.router.name(node).to_owned(),
        }
    }

    /// What becomes of the requests from number `first` on, in the order in which they are sent. Those that are not
    /// placed by keys stay with their node, which the user has named, and are held while a key of theirs is on the way.
    pub(in crate::plan) fn fates(
        &self,
        request: &NodeRequest,
        first: usize,
        placing: Placing,
    ) -> Vec<FateOf> {
        let node = self.node_of(request);
        let numbers = first..request.slots.len();
        if !placing.is_by_keys {
            let held = self.router.key_on_the_way(&request.packed, first);
            let fate = held.map_or_else(|| stay(node), |key| Fate::Held(on_the_way(key)));
            return vec![(fate, numbers.collect())];
        }
        if request.ending == ExpectedEnd::Exec {
            return vec![(self.fate_of_transaction(request, node), numbers.collect())];
        }
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        let mut order = Order::default();
        let mut fates: Vec<FateOf> = Vec::new();
        for (number, slot) in request.slots.iter().enumerate() {
            let Ok(Some(_)) = commands.next(&mut args) else {
                break;
            };
            if number < first {
                continue;
            }
            let (mut fate, keys) = self.fate(&args, slot, node);
            if !placing.is_while_moving && self.begins_two_passes(&args) {
                fate = Fate::Refused(SCAN_GOES_ON.into());
            }
            let fate = order.keep(fate, &keys);
            match fates.iter_mut().find(|(other, _)| other.is_one_with(&fate)) {
                Some((_, numbers)) => numbers.push(number),
                None => fates.push((fate, vec![number])),
            }
        }
        // What waits for others comes behind them.
        fates.sort_by_key(|(fate, _)| *fate == Fate::Behind);
        fates
    }

    /// The only command of a request cut by keys, which becomes request number `parent` of its exchange.
    pub(in crate::plan) fn cut(
        &self,
        request: &NodeRequest,
        parent: usize,
    ) -> Option<(NodeRequest, KeyByKey)> {
        let mut args = Args::new();
        PackedCommands::new(&request.packed)
            .next(&mut args)
            .ok()??;
        let command = self.router.lookup(&args).ok()?;
        cut(command, &args, request, 0, parent)
    }

    /// What becomes of MULTI ... EXEC.
    fn fate_of_transaction(&self, request: &NodeRequest, node: Option<NodeIndex>) -> Fate {
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        let mut owner: Option<NodeIndex> = None;
        for slot in &request.slots {
            let Ok(Some(_)) = commands.next(&mut args) else {
                break;
            };
            let (fate, keys) = self.fate(&args, slot, node);
            match fate {
                Fate::Held(_) => return fate,
                _ if keys.is_empty() => {}
                Fate::Send(to) if owner.is_none_or(|owner| owner == to) => owner = Some(to),
                Fate::Send(_) | Fate::KeyByKey => {
                    return Fate::Refused("the keys of the transaction are being moved, and are no longer on one node".into());
                }
                Fate::Behind | Fate::Refused(_) => return fate,
            }
        }
        match owner.or(node).or_else(|| self.any_node()) {
            Some(node) => Fate::Send(node),
            None => stay(None),
        }
    }

    /// What becomes of one command, whose node is `node` now, and its keys.
    fn fate<'p>(
        &self,
        args: &[&'p [u8]],
        slot: &ReplySlot,
        node: Option<NodeIndex>,
    ) -> (Fate, Keys<'p>) {
        let original = flushall_of(args);
        let args = original.as_deref().unwrap_or(args);
        let Ok(command) = self.router.lookup(args) else {
            return (stay(node), Keys::new());
        };
        let mut at = KeyPositions::default();
        let keys: Keys<'p> = match command.positions(args, &mut at) {
            Ok(()) => {
                let keys = at.keys.iter();
                keys.filter_map(|&at| args.get(at as usize).copied())
                    .collect()
            }
            Err(_) => Keys::new(),
        };
        // Any node may serve a message, whatever its channel.
        if keys.is_empty() || slot.fallback == Fallback::OtherNode {
            return (
                self.fate_without_keys(command, args, slot, node),
                Keys::new(),
            );
        }
        let moving = self.router.topology().moving();
        let mut closed = keys.iter();
        if let Some(moving) = moving
            && let Some(key) = closed.find(|key| moving.is_closed(key))
        {
            return (Fate::Held(on_the_way(key)), keys);
        }
        (self.fate_by_owners(command, args, slot, &keys), keys)
    }

    /// What becomes of a command none of whose keys is on the way.
    fn fate_by_owners(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        slot: &ReplySlot,
        keys: &[&[u8]],
    ) -> Fate {
        let mut first: Option<(&[u8], NodeIndex)> = None;
        for &key in keys {
            let owner = match self.router.owner(key) {
                Ok(owner) => owner,
                Err(error) => return Fate::Refused(error.to_string()),
            };
            match first {
                None => first = Some((key, owner)),
                Some((_, same)) if same == owner => {}
                Some((other, at)) => {
                    let may_split = slot.access == Access::Read || self.router.splits_writes();
                    if may_split && has_parts(command, args) {
                        return Fate::KeyByKey;
                    }
                    return Fate::Refused(format!(
                        "keys of {} are being moved, and are no longer on one node: {} is on {}, {} on {}",
                        command.name(),
                        KeyText(other),
                        self.router.name(at),
                        KeyText(key),
                        self.router.name(owner),
                    ));
                }
            }
        }
        match first {
            Some((_, owner)) => Fate::Send(owner),
            None => stay(None),
        }
    }

    /// What becomes of a command without keys.
    fn fate_without_keys(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        slot: &ReplySlot,
        node: Option<NodeIndex>,
    ) -> Fate {
        if slot.fallback == Fallback::OtherNode {
            let node = node.or_else(|| self.any_node());
            return node.map_or_else(|| stay(None), Fate::Send);
        }
        let moving = self.router.topology().moving();
        if slot.access == Access::Write && moving.is_some_and(|moving| moving.has_closed()) {
            return Fate::Held(format!(
                "{} has to wait, as keys are on the way to other nodes",
                command.name()
            ));
        }
        if self.is_newer && is_for_all_nodes(command, slot) && self.has_added_nodes() {
            return Fate::Refused(format!(
                "nodes have joined the fleet since {} was planned, which are to have it too; repeat it",
                command.name()
            ));
        }
        // The keys that its text shows may have moved.
        let is_script = command.scripting() == Scripting::Yes && command.route() == Route::Keys;
        // A part of a command for all nodes stays with its own, also if it is sent as a script.
        if is_script && slot.part == WHOLE {
            return match self.router.route(args, &ScriptCache::empty) {
                Ok(routed) => match routed.plan {
                    Plan::One(owner) => Fate::Send(owner),
                    _ => stay(node),
                },
                Err(_) => Fate::Refused(
                    "keys are being moved, and the keys of a script that declares none are looked for again".into(),
                ),
            };
        }
        stay(node)
    }

    /// True for a step of a scan that makes two passes by the newest topology.
    fn begins_two_passes(&self, args: &[&[u8]]) -> bool {
        let command = self.router.lookup(args).ok();
        self.router.is_moving() && command.is_some_and(|command| command.route() == Route::Scan)
    }

    /// True if the request is the part of a single node of a command that deletes all keys, and that is sent alone. It may be
    /// repeated, unlike FUNCTION LOAD.
    pub(in crate::plan) fn deletes_all_keys(&self, request: &NodeRequest) -> bool {
        let [slot] = &request.slots[..] else {
            return false;
        };
        let mut args = Args::new();
        match PackedCommands::new(&request.packed).next(&mut args) {
            Ok(Some(_)) => {
                let original = flushall_of(&args);
                let command = self.router.lookup(original.as_ref().unwrap_or(&args));
                command.is_ok_and(|command| {
                    is_for_all_nodes(command, slot)
                        && Flush::of_command(command.name().as_bytes()).is_some()
                })
            }
            _ => false,
        }
    }

    /// True if the newest topology has nodes that the one of the plan has not.
    fn has_added_nodes(&self) -> bool {
        let planned = (0..=u16::MAX).map_while(|node| (self.identity)(NodeIndex::new(node)));
        let planned: HashSet<NodeId> = planned.collect();
        let mut nodes = self.router.topology().nodes().iter();
        nodes.any(|node| !planned.contains(&node.id()))
    }

    fn any_node(&self) -> Option<NodeIndex> {
        self.router.topology().next_living(None)
    }
}

/// True for the error of a connection that could not be taken, as its node names a newer topology than the one by which it
/// was chosen: it is chosen again by the newest, after [`MOVING_PAUSE`].
pub(crate) fn is_chosen_again(error: &Error) -> bool {
    error.kind() == ErrorKind::Moving && error.is_retryable()
}

impl Router {
    /// Why a packed request over a dedicated connection to a node of this name has to wait: one of its keys is on the way to
    /// another node.
    pub(crate) fn held_back(&self, packed: &[u8], node: &str) -> Option<Error> {
        let key = self.key_on_the_way(packed, 0)?;
        let failure = Failure::not_sent(Cause::Moving(on_the_way(key)));
        Some(failure.without_answer(node))
    }

    /// Why packed requests must not be sent over an exclusive connection to this node: one of their keys is on the way, or
    /// has moved to another node.
    #[cfg(feature = "proxy")]
    pub(crate) fn refuses_at(&self, packed: &[u8], node: NodeIndex) -> Option<Cause> {
        self.topology().moving()?;
        if let Some(key) = self.key_on_the_way(packed, 0) {
            return Some(Cause::Moving(on_the_way(key)));
        }
        let mut commands = PackedCommands::new(packed);
        let (mut args, mut at) = (Args::new(), KeyPositions::default());
        while let Ok(Some(_)) = commands.next(&mut args) {
            at.clear();
            let command = self.lookup(&args).ok();
            if command.is_none_or(|command| command.positions(&args, &mut at).is_err()) {
                continue;
            }
            let keys = at.keys.iter();
            let mut keys = keys.filter_map(|&at| args.get(at as usize));
            if let Some(key) = keys.find(|key| self.owner(key).ok() != Some(node)) {
                let text = format!("key {} has moved to another node", KeyText(key));
                return Some(Cause::Moving(text));
            }
        }
        None
    }

    /// A key that is on the way to another node, of packed commands from number `first` on.
    fn key_on_the_way<'p>(&self, packed: &'p [u8], first: usize) -> Option<&'p [u8]> {
        let moving = self.topology().moving()?;
        if !moving.has_closed() {
            return None;
        }
        let mut commands = PackedCommands::new(packed);
        let (mut args, mut at) = (Args::new(), KeyPositions::default());
        let mut number = 0;
        while let Ok(Some(_)) = commands.next(&mut args) {
            number += 1;
            let Ok(command) = self.lookup(&args) else {
                continue;
            };
            at.clear();
            if number <= first || command.positions(&args, &mut at).is_err() {
                continue;
            }
            let mut keys = at
                .keys
                .iter()
                .filter_map(|&at| args.get(at as usize).copied());
            if let Some(key) = keys.find(|key| moving.is_closed(key)) {
                return Some(key);
            }
        }
        None
    }
}

impl Fate {
    /// True if requests with these fates go on as one.
    fn is_one_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::KeyByKey, _) => false,
            (Self::Held(_), Self::Held(_)) => true,
            _ => self == other,
        }
    }
}

/// The keys of the requests before.
#[derive(Default)]
struct Order<'p> {
    /// Of those that are sent.
    sent: KeysOf<'p>,
    /// Of those that are held.
    held: KeysOf<'p>,
    /// Of those that go key by key, and of those behind them.
    behind: KeysOf<'p>,
}

/// The keys of some requests.
#[derive(Default)]
struct KeysOf<'p> {
    keys: HashSet<&'p [u8]>,
    /// True if one of the requests concerns all keys.
    is_all: bool,
}

impl<'p> KeysOf<'p> {
    /// True if one of the requests must stay before one with these keys, or with all.
    fn is_before(&self, keys: &Keys<'p>, is_for_all: bool) -> bool {
        self.is_all
            || is_for_all && !self.keys.is_empty()
            || keys.iter().any(|key| self.keys.contains(key))
    }
}

impl<'p> Order<'p> {
    /// The fate of a request after those before it.
    fn keep(&mut self, fate: Fate, keys: &Keys<'p>) -> Fate {
        // A write without keys. What is sent and has none may be sent at any time.
        let is_for_all = keys.is_empty() && matches!(fate, Fate::Held(_));
        let is_after = |others: &KeysOf<'p>| others.is_before(keys, is_for_all);
        let (sent, held) = (is_after(&self.sent), is_after(&self.held));
        let fate = match fate {
            // What is refused is not sent at all.
            Fate::Refused(_) => return fate,
            _ if is_after(&self.behind) || held && sent => Fate::Behind,
            Fate::KeyByKey if sent || held => Fate::Behind,
            Fate::Held(_) if sent => Fate::Behind,
            Fate::Send(_) if held => Fate::Held(
                "a request before it has to wait, as keys are on the way to other nodes".into(),
            ),
            fate => fate,
        };
        let of_these = match fate {
            Fate::Held(_) => &mut self.held,
            Fate::Behind | Fate::KeyByKey => &mut self.behind,
            Fate::Send(_) | Fate::Refused(_) => &mut self.sent,
        };
        of_these.keys.extend(keys.iter().copied());
        of_these.is_all |= is_for_all;
        fate
    }
}

/// True for a command that writes at all nodes.
fn is_for_all_nodes(command: &CommandSpec, slot: &ReplySlot) -> bool {
    slot.access == Access::Write && matches!(command.route(), Route::All(_))
}

/// The fate of a request that stays with its node.
fn stay(node: Option<NodeIndex>) -> Fate {
    match node {
        Some(node) => Fate::Send(node),
        None => Fate::Refused("the node has left the topology before the request was sent".into()),
    }
}

/// Why a request for this key is held.
fn on_the_way(key: &[u8]) -> String {
    format!(
        "key {} is on the way to another node, and was not there before the time was up",
        KeyText(key)
    )
}
