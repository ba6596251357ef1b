//! What servers of a Redis Cluster say about who serves a request, and where it goes next.
//!
//! The servers know who owns a slot, so a request that went to the wrong one is not lost: the reply names the right
//! one, and says that nothing was applied. [`ClusterRouting::redirect`] reads the replies to the requests of one node, and
//! makes of those that were refused further requests of the same exchange:
//!
//! | reply | goes next to |
//! |---|---|
//! | `MOVED slot address` | that server |
//! | `ASK slot address` | that server, behind ASKING in the same write |
//! | `TRYAGAIN` of a server that was asked with ASKING | the server that replied ASK, after a pause |
//! | `TRYAGAIN`, `BUSY` | the same server, after a pause |
//! | `CLUSTERDOWN`, `LOADING`, `MASTERDOWN`, `READONLY` | another primary, after a pause: it knows who has taken over |
//! | `UNBLOCKED`, unless by CLIENT UNBLOCK | another primary |
//! | none: the node cannot be reached, and the request was never sent or is a read | another primary |
//!
//! Another primary replies with MOVED, so that its reply is the newest map there is. If it names a server that is known
//! to be down, the request fails there at once, and pauses before the next: a failover is waited for, not spun on.
//!
//! Three rules keep the order of what is done to a key:
//!
//! * All that was refused for a slot goes where the first of it goes, in one request.
//! * A read that was served although a command before it, with a key in common, was refused is sent again behind that.
//! * A write that was applied although a command before it, with a key in common, was refused stays applied. So the
//!   command keeps its refusal: repeated, it would overtake the write.
//!
//! `refusals` reads the replies of one server.
//!
//! A command that may be split goes on key by key if the keys of its slot are in two places: see `key_by_key`. A blocking
//! command goes on with the time that is left. MULTI ... EXEC goes as a whole, and only if none of it ran. Of a pipeline,
//! only the refused commands go again.

mod refusals;

use std::collections::HashMap;
use std::sync::Arc;

use redis::Value;
use smallvec::SmallVec;

use crate::command::{
    Access, Args, BlockingTime, CommandSpec, CommandTable, KeyPositions, Lookup, PackedCommands,
    SharedTable,
};
use crate::error::is_waited_code;
use crate::hash::{HashTag, slot};
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::key_by_key::KeyByKey;
use crate::plan::retries::runs_script;
use crate::plan::{Answers, ExpectedEnd, Failure, ReplyBuffer, Router, SplitWrites};
use crate::policy::{RetryPolicy, TemporaryErrors};
use crate::topology::HostPort;
use crate::topology::cluster::ClusterMap;

use self::refusals::Refusals;

/// Number of redirects that are followed without a pause. A slot that moves needs two, a client with an old map one
/// more; servers that contradict each other would be asked in a busy loop.
pub(crate) const REDIRECTS_AT_ONCE_MAX: u16 = 5;

/// Codes with which a server of a cluster refuses a request, besides those that are [waited for](is_waited_code).
const OTHER_CODES: [&[u8]; 4] = [b"MOVED", b"ASK", b"READONLY", b"UNBLOCKED"];

/// Beginning of the text of EXECABORT if EXEC itself was refused; the refusal follows.
const DISCARDED: &[u8] = b"Transaction discarded because of: ";

/// Beginning of the text of UNBLOCKED if CLIENT UNBLOCK has ended the command, which is final.
pub(in crate::plan) const UNBLOCKED_BY_CLIENT: &[u8] = b"client unblocked via CLIENT UNBLOCK";

/// What redirects are read by: the map of one topology, and the commands whose keys are known.
#[derive(Debug)]
pub(crate) struct ClusterRouting {
    map: Arc<ClusterMap>,
    commands: SharedTable,
    split_writes: SplitWrites,
}

/// The way of a request that was redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirected {
    /// The server that receives it, if it is no node of the topology.
    pub(crate) server: Option<HostPort>,
    /// True if it serves the slot only to those that were sent to it by ASK.
    pub(crate) is_asking: bool,
    /// True if another server has named this one.
    pub(in crate::plan) is_named: bool,
    /// The server that replied ASK.
    source: Option<Place>,
    /// Number of redirects so far, this one included.
    hops: u16,
}

/// A server of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Its index. If it is no node of the topology, that of the node that has named it.
    node: NodeIndex,
    /// Its address, if it is no node of the topology.
    server: Option<HostPort>,
}

/// Where a refused request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    place: Place,
    is_asking: bool,
    /// True if a server has named it.
    is_named: bool,
    /// True if there is a pause before.
    is_delayed: bool,
}

/// What the map must learn from replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterReport {
    /// A server has replied MOVED.
    Moved(u16, HostPort),
    /// A node was lost, or does not serve its slots.
    Suspect,
}

/// A request that goes on, and whether there is a pause before.
pub(in crate::plan) struct Redirect {
    pub(in crate::plan) request: NodeRequest,
    pub(in crate::plan) is_delayed: bool,
    /// The command that the requests are the parts of, if it goes on key by key.
    pub(in crate::plan) key_by_key: Option<KeyByKey>,
}

/// The requests for one slot that were refused.
struct RefusedOfSlot<'p> {
    destination: Destination,
    /// Their numbers and keys.
    requests: Vec<(usize, Keys<'p>)>,
    /// True if all of them may go on key by key.
    may_go_key_by_key: bool,
}

type Keys<'p> = SmallVec<[&'p [u8]; 2]>;

impl ClusterRouting {
    pub(in crate::plan) fn new(
        map: &Arc<ClusterMap>,
        commands: &SharedTable,
        split_writes: SplitWrites,
    ) -> Self {
        Self {
            map: Arc::clone(map),
            commands: commands.clone(),
            split_writes,
        }
    }

    /// True if writes may be split.
    pub(in crate::plan) fn splits_writes(&self) -> bool {
        self.split_writes == SplitWrites::Allowed
    }

    /// The row of the command table for `args`.
    pub(in crate::plan) fn command(&self, args: &[&[u8]]) -> Option<&CommandSpec> {
        match self.commands.lookup(args) {
            Lookup::Found(command) => Some(command),
            _ => None,
        }
    }

    /// The commands whose keys are known.
    pub(in crate::plan) fn commands(&self) -> &CommandTable {
        &self.commands
    }

    /// The requests that go on after these replies, which are final for the server that gave them, and what the map
    /// must learn.
    pub(in crate::plan) fn redirect<R: ReplyBuffer>(
        &self,
        request: &NodeRequest,
        answers: &Answers<R>,
        policy: &RetryPolicy,
        parent: usize,
        reports: &mut Vec<ClusterReport>,
    ) -> Vec<Redirect> {
        let reply = Refusals {
            routing: self,
            request,
            answers,
            waits: policy.temporary_errors() == TemporaryErrors::Waited,
        };
        // Almost always none.
        if answers.failure.is_none() && !reply.has_error() || request.is_pinned {
            return Vec::new();
        }
        if request.ending == ExpectedEnd::Exec {
            return self.redirect_transaction(&reply, reports);
        }
        let groups = self.refused_by_slot(&reply, reports);
        let mut redirects: Vec<(Destination, Vec<usize>)> = Vec::new();
        let mut single_keys = Vec::new();
        for group in groups {
            if group.goes_key_by_key(request) {
                for (number, _) in &group.requests {
                    let destination = group.destination.clone();
                    single_keys.extend(self.single_keys(request, *number, parent, destination));
                }
                continue;
            }
            let numbers = group.requests.iter().map(|(number, _)| *number);
            let same = |(destination, _): &&mut (Destination, Vec<usize>)| {
                *destination == group.destination
            };
            match redirects.iter_mut().find(same) {
                Some((_, others)) => others.extend(numbers),
                None => redirects.push((group.destination, numbers.collect())),
            }
        }
        let redirect = |(destination, mut numbers): (Destination, Vec<usize>)| {
            numbers.sort_unstable();
            self.part(request, &numbers, destination)
        };
        let redirects = redirects.into_iter().map(redirect);
        redirects.chain(single_keys).collect()
    }

    /// Request number `number`, key by key.
    fn single_keys(
        &self,
        request: &NodeRequest,
        number: usize,
        parent: usize,
        destination: Destination,
    ) -> Option<Redirect> {
        let (mut each, key_by_key) = self.key_by_key(request, number, parent)?;
        each.redirected.clone_from(&request.redirected);
        let all: Vec<usize> = (0..each.slots.len()).collect();
        let redirect = self.part(&each, &all, destination);
        Some(Redirect {
            is_delayed: false,
            key_by_key: Some(key_by_key),
            ..redirect
        })
    }

    /// The requests that go again, by slot, in the order of the first of each.
    fn refused_by_slot<'p, R: ReplyBuffer>(
        &self,
        reply: &Refusals<'p, '_, R>,
        reports: &mut Vec<ClusterReport>,
    ) -> Vec<RefusedOfSlot<'p>> {
        let request = reply.request;
        let mut groups: Vec<RefusedOfSlot<'p>> = Vec::new();
        let mut group_of_slot: HashMap<u16, usize> = HashMap::new();
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        for (number, entry) in request.slots.iter().enumerate() {
            let Ok(Some(_)) = commands.next(&mut args) else {
                break;
            };
            let destination = reply.destination(number, entry, &args, reports);
            if destination.is_none() && groups.is_empty() {
                continue;
            }
            // Requests of which the second needs the first have no keys.
            let keys = self.keys(&args);
            let Some(slot) = keys.first().map(|key| slot(HashTag::Braces.of(key))) else {
                if let Some(destination) = destination
                    && !reply.shares_part(number)
                {
                    let requests = vec![(number, keys)];
                    groups.push(RefusedOfSlot {
                        destination,
                        requests,
                        may_go_key_by_key: false,
                    });
                }
                continue;
            };
            let group = group_of_slot.get(&slot).map(|&group| &mut groups[group]);
            let may_go_key_by_key = reply.may_go_key_by_key(number, entry, &args);
            match (group, destination) {
                (None, None) => {}
                (None, Some(destination)) => {
                    group_of_slot.insert(slot, groups.len());
                    groups.push(RefusedOfSlot {
                        destination,
                        requests: vec![(number, keys)],
                        may_go_key_by_key,
                    });
                }
                (Some(group), Some(_)) => {
                    group.requests.push((number, keys));
                    group.may_go_key_by_key &= may_go_key_by_key;
                }
                (Some(group), None) => group.add_served(number, entry, keys, reply, &args),
            }
        }
        groups.retain(|group| !group.requests.is_empty());
        groups
    }

    /// A transaction that was discarded goes on as a whole.
    fn redirect_transaction<R: ReplyBuffer>(
        &self,
        reply: &Refusals<'_, '_, R>,
        reports: &mut Vec<ClusterReport>,
    ) -> Vec<Redirect> {
        let request = reply.request;
        let destination = match &reply.answers.failure {
            // Nothing of it was sent.
            Some(failure) if failure.sent == 0 && reply.answers.values.count() == 0 => {
                reply.after_failure(0, &request.slots[0], true, reports)
            }
            Some(_) => None,
            None => reply.of_transaction(reports),
        };
        let Some(destination) = destination else {
            return Vec::new();
        };
        let all: Vec<usize> = (0..request.slots.len()).collect();
        vec![self.part(request, &all, destination)]
    }

    /// The requests with these numbers, addressed to `destination`.
    fn part(&self, request: &NodeRequest, numbers: &[usize], destination: Destination) -> Redirect {
        let hops = request.redirected.as_ref().map_or(0, |way| way.hops) + 1;
        let source = Place::of(request);
        let mut part = request.part(numbers);
        part.node = destination.place.node;
        part.redirected = Some(Box::new(Redirected {
            server: destination.place.server,
            is_asking: destination.is_asking,
            is_named: destination.is_named,
            source: destination.is_asking.then_some(source),
            hops,
        }));
        Redirect {
            request: part,
            is_delayed: destination.is_delayed || hops > REDIRECTS_AT_ONCE_MAX,
            key_by_key: None,
        }
    }

    /// The keys of a command; none if it has none, or is not known.
    fn keys<'p>(&self, args: &[&'p [u8]]) -> Keys<'p> {
        let Some(command) = self.command(args) else {
            return Keys::new();
        };
        let mut at = KeyPositions::default();
        match command.positions(args, &mut at) {
            Ok(()) => at.keys.iter().map(|&at| args[at as usize]).collect(),
            Err(_) => Keys::new(),
        }
    }

    /// The node that is asked for a slot first.
    pub(in crate::plan) fn owner(&self, slot: u16) -> NodeIndex {
        self.map.target(slot).unwrap_or(NodeIndex::new(0))
    }

    /// Another node, if there is one.
    pub(in crate::plan) fn node_behind(&self, node: NodeIndex) -> NodeIndex {
        NodeIndex::new((node.get() as u16 + 1) % self.map.len().max(1) as u16)
    }

    /// The address of the server that a request is addressed to.
    pub(in crate::plan) fn address_of<'r>(
        &'r self,
        request: &'r NodeRequest,
    ) -> Option<&'r HostPort> {
        request.server().or_else(|| self.map.address(request.node))
    }

    /// No request yet, for the server at this address, which was named by `named_by`.
    pub(in crate::plan) fn request_to(
        &self,
        address: &HostPort,
        named_by: NodeIndex,
        is_asking: bool,
    ) -> NodeRequest {
        let place = self.place(address.clone(), named_by);
        let mut request = NodeRequest::new(place.node);
        request.redirected = Some(Box::new(Redirected {
            server: place.server,
            is_asking,
            is_named: true,
            source: None,
            hops: 1,
        }));
        request
    }

    /// The name of the node of a request.
    pub(in crate::plan) fn name(&self, request: &NodeRequest) -> Option<String> {
        self.address_of(request).map(HostPort::to_string)
    }

    /// The server at an address.
    fn place(&self, address: HostPort, named_by: NodeIndex) -> Place {
        match self.map.node_at(&address) {
            Some(node) => Place { node, server: None },
            None => Place {
                node: named_by,
                server: Some(address),
            },
        }
    }

    /// A primary other than the node of `request`, if there is another one.
    fn other_place(&self, request: &NodeRequest) -> Place {
        let nodes = self.map.len() as u16;
        // The node in the request is not the one that was asked if that is no node of the topology.
        let is_node = Place::of(request).server.is_none();
        let next = request.node.get() as u16 + u16::from(is_node);
        Place {
            node: NodeIndex::new(next % nodes.max(1)),
            server: None,
        }
    }
}

impl Router {
    /// What the map of a cluster must learn from the replies to a transaction of a connection that watches keys, if the
    /// server has discarded it because it does not serve the slot of its keys. `None` if it has not.
    #[cfg(feature = "proxy")]
    pub(crate) fn after_discarded<R: ReplyBuffer>(
        &self,
        request: &NodeRequest,
        answers: &Answers<R>,
    ) -> Option<Vec<ClusterReport>> {
        let reply = Refusals {
            routing: self.cluster()?,
            request,
            answers,
            waits: true,
        };
        let mut reports = Vec::new();
        if answers.failure.is_none() {
            reply.of_transaction(&mut reports)?;
            return Some(reports);
        }
        None
    }

    /// True if a single request was not sent, and is to be planned again as keys are moved.
    #[inline]
    pub(crate) fn is_planned_again(&self, result: &Result<Value, Failure>) -> bool {
        matches!(result, Err(failure) if failure.is_superseded())
    }

    /// True if a single request, which may block for this long, may go on at another server: one of a cluster has refused
    /// it, or it is to be planned again as keys are moved.
    #[inline]
    pub(crate) fn may_go_on(
        &self,
        result: &Result<Value, Failure>,
        blocking: BlockingTime,
    ) -> bool {
        match result {
            Err(_) if self.is_planned_again(result) => return true,
            Ok(Value::ServerError(error))
                if blocking != BlockingTime::None && error.code() == "UNBLOCKED" =>
            {
                return true;
            }
            _ => {}
        }
        self.cluster().is_some()
            && match result {
                Ok(Value::ServerError(error)) => {
                    let code = error.code().as_bytes();
                    OTHER_CODES.contains(&code) || is_waited_code(code)
                }
                Ok(_) => false,
                Err(_) => true,
            }
    }
}

impl Place {
    /// The server that a request is addressed to.
    fn of(request: &NodeRequest) -> Self {
        let way = request.redirected.as_ref();
        Self {
            node: request.node,
            server: way.and_then(|way| way.server.clone()),
        }
    }
}

impl<'p> RefusedOfSlot<'p> {
    /// True if the requests go on key by key. Several only if they are reads, or one might overtake another.
    fn goes_key_by_key(&self, request: &NodeRequest) -> bool {
        let is_read = |(number, _): &(usize, Keys<'_>)| {
            let slot = request.slots.get(*number);
            slot.is_some_and(|slot| slot.access == Access::Read)
        };
        self.may_go_key_by_key && (self.requests.len() == 1 || self.requests.iter().all(is_read))
    }

    /// Takes into account that a request behind the refused ones was served.
    fn add_served<R: ReplyBuffer>(
        &mut self,
        number: usize,
        entry: &ReplySlot,
        keys: Keys<'p>,
        reply: &Refusals<'_, '_, R>,
        args: &[&[u8]],
    ) {
        let shares_key =
            |(_, others): &(usize, Keys<'_>)| keys.iter().any(|key| others.contains(key));
        if number >= reply.answers.values.count() || !self.requests.iter().any(shares_key) {
            return;
        }
        if entry.access == Access::Read {
            self.requests.push((number, keys));
            self.may_go_key_by_key = false;
        } else if reply.answers.values.error_code(number).is_none() || runs_script(args) {
            self.requests.retain(|request| !shares_key(request));
        }
    }
}

/// Slot and address of a redirect: `100 127.0.0.1:7000`. An empty host and `?` mean that of the server that has replied.
pub(in crate::plan) fn parse_redirect(
    text: &[u8],
    asked: impl FnOnce() -> Option<String>,
) -> Option<(u16, HostPort)> {
    let text = str::from_utf8(text).ok()?;
    let (slot, address) = text.split_once(' ')?;
    // IPv6 addresses are written without brackets.
    let (host, port) = address.trim_end().rsplit_once(':')?;
    let host = match host {
        "" | "?" => asked()?,
        host => host.trim_matches(['[', ']']).to_owned(),
    };
    let slot = slot
        .parse()
        .ok()
        .filter(|slot| *slot < crate::hash::SLOTS)?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some((slot, HostPort { host, port }))
}
