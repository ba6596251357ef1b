//! Looking at all nodes for a plan. Nothing is changed.

use std::thread;
use std::time::Duration;

use super::copy::{Key, sizes};
use super::fault::Fault;
use super::fence::{Exempt, ServerClient};
use super::link::Link;
use super::method::{Side, candidates, obstacle};
use super::options::{ReshardMethod, ReshardOptions};
use super::plan::{PlannedNode, ReshardPlan, ReshardRefusal, ReshardRefusalKind, Sample};
use super::records::{Stage, stage};
use super::replica;
use super::source::scan_step;
use super::view::{NodeReply, View, ViewNode};
use crate::error::KeyText;
use crate::topology::record::RECORD_DB;

/// Number of clients that a refusal names.
const CLIENTS_NAMED: usize = 8;

/// Number of looks at a client that shows no name.
const HANDSHAKE_LOOKS: usize = 5;

/// Time between two of them.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(50);

/// Looks at all nodes.
pub(super) fn survey(view: &mut View, mover: &str, options: &ReshardOptions) -> ReshardPlan {
    let all = view.fingerprints();
    let mut plan = ReshardPlan {
        from: all.from,
        to: all.to,
        pairs: number_of_pairs(&view.nodes),
        remarks: vec!["users and their ACLs are not copied to new nodes".to_owned()],
        ..ReshardPlan::default()
    };
    let stage = stage_of(view, &mut plan);
    check_servers(view, &mut plan);
    let exempt = Exempt {
        mover,
        administrators: &options.administrators,
    };
    let names: Vec<String> = view.nodes.iter().map(|node| node.name.clone()).collect();
    let mut nodes = std::mem::take(&mut view.nodes);
    let left = left_by_splits(&mut nodes);
    for (position, node) in nodes.iter_mut().enumerate() {
        let sampled = match &mut node.reply {
            Ok(reply) => sample_keys(view, reply, position, options),
            // Refused below, with all that cannot be reached.
            Err(_) => continue,
        };
        let sample = match sampled {
            Ok(sample) => sample,
            Err(fault) => {
                refuse(
                    &mut plan,
                    ReshardRefusalKind::Unreachable,
                    &node.name,
                    fault.error.to_string(),
                );
                continue;
            }
        };
        let is_left = left.contains(&node.name);
        check_node(
            &mut plan,
            node,
            &sample,
            stage.filter(|_| !is_left),
            &exempt,
        );
        if is_left {
            plan.refusals.retain(|refusal| {
                refusal.node != node.name || refusal.kind != ReshardRefusalKind::Replica
            });
        }
        plan.add(&node.name, &sample, |target| {
            names.get(target).cloned().unwrap_or_default()
        });
    }
    remark_durability(&mut plan, &nodes);
    choose_splits(&mut plan, &mut nodes, view.db, options);
    view.nodes = nodes;
    plan.complete(options.bytes_per_second, options.sources_at_once);
    plan
}

/// How far the reshard has come. What is wrong with the records is added to the plan.
fn stage_of(view: &View, plan: &mut ReshardPlan) -> Option<Stage> {
    let mut known = Vec::new();
    for node in &view.nodes {
        match node.known() {
            Ok(node) => known.push(node),
            Err(error) => refuse(
                plan,
                ReshardRefusalKind::Unreachable,
                &node.name,
                error.to_string(),
            ),
        }
    }
    let mut found = None;
    for node in &known {
        // Each by itself, so that all are named.
        if let Err(error) = stage(std::slice::from_ref(node), view.fingerprints()) {
            refuse(
                plan,
                ReshardRefusalKind::Record,
                &node.name,
                error.to_string(),
            );
            found = Some(());
        }
    }
    match found {
        Some(()) => None,
        None => stage(&known, view.fingerprints()).ok(),
    }
}

/// Refuses a server that has two names, by one topology or by both together: its keys would be moved to itself, that is,
/// deleted.
fn check_servers(view: &View, plan: &mut ReshardPlan) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for node in &view.nodes {
        let run_id = node.reply.as_ref().map(|reply| &*reply.reading.run_id);
        let Some(run_id) = run_id.ok().filter(|run_id| !run_id.is_empty()) else {
            continue;
        };
        match seen.iter().find(|(known, _)| *known == run_id) {
            Some((_, other)) => {
                let text = format!(
                    "it is the same server as node {other:?}; give it the name in both topologies that it has now"
                );
                refuse(plan, ReshardRefusalKind::SameServer, &node.name, text);
            }
            None => seen.push((run_id, &node.name)),
        }
    }
}

/// Samples the keys of a node.
fn sample_keys(
    view: &View,
    reply: &mut NodeReply,
    position: usize,
    options: &ReshardOptions,
) -> Result<Sample, Fault> {
    let link = &mut reply.link;
    let mut sample = Sample::new(link.integer(&[b"DBSIZE"])?.unsigned_abs());
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys) = scan_step(link, &cursor)?;
        let bytes = sizes(link, &keys)?;
        for (key, bytes) in keys.iter().zip(bytes) {
            sample.add(key, bytes, target_of(view, position, key));
            if view.to.locate(key).is_none() {
                sample.unowned.get_or_insert_with(|| key.to_vec());
            }
        }
        cursor = next;
        if cursor == "0" || sample.sampled >= options.sample as u64 {
            return Ok(sample);
        }
    }
}

/// The position of the node that a key of the node at `position` moves to.
fn target_of(view: &View, position: usize, key: &Key) -> Option<usize> {
    let way = view.both.moving()?.way(view.both.hash_tag().of(key));
    let (source, target, _) = way?;
    (source.get() == position).then(|| target.get())
}

/// Checks that a node can take part.
fn check_node(
    plan: &mut ReshardPlan,
    node: &mut ViewNode,
    sample: &Sample,
    stage: Option<Stage>,
    exempt: &Exempt<'_>,
) {
    use ReshardRefusalKind::{Clients, Eviction, ForeignData, Replica, Unowned, Unreachable};
    let name = node.name.clone();
    let (is_old, is_new) = (node.is_old, node.is_new);
    let Ok(reply) = &mut node.reply else {
        return;
    };
    let facts = &reply.facts;
    plan.nodes.push(PlannedNode {
        name: name.clone(),
        keys: sample.all,
        sampled: sample.sampled,
        used_memory: facts.used_memory,
        max_memory: facts.max_memory,
        ..PlannedNode::default()
    });
    if is_new && !is_old && sample.all > 0 && stage == Some(Stage::NotBegun) {
        let text = format!(
            "it has {} keys in the database of the data; a node that is added must be empty",
            sample.all
        );
        refuse(plan, ForeignData, &name, text);
    }
    if facts.is_replica {
        refuse(plan, Replica, &name, "it is a replica; name its primary");
    }
    if facts.evicts_any_key() {
        let text = format!(
            "its maxmemory-policy is {}, so keys may vanish while they are copied; set noeviction or volatile-*",
            facts.eviction
        );
        refuse(plan, Eviction, &name, text);
    }
    if let Some(key) = &sample.unowned {
        let text = format!(
            "the key {} has no owner by the new topology; give that one a rule for it",
            KeyText(key)
        );
        refuse(plan, Unowned, &name, text);
    }
    match foreign_clients(&mut reply.link, exempt) {
        Ok(foreign) => {
            if !foreign.is_empty() {
                let named = foreign.get(..CLIENTS_NAMED).unwrap_or(&foreign).join(", ");
                let text = format!(
                    "{} clients do not follow the record: {named}. Have them use `agreed` or a proxy; exempt \
                     administrators, who must not write, by --exempt",
                    foreign.len()
                );
                refuse(plan, Clients, &name, text);
            }
        }
        Err(fault) => refuse(plan, Unreachable, &name, fault.error.to_string()),
    }
}

/// The addresses of clients that follow no record, and their names. One that has just connected has no name yet, so each
/// has a moment to show one.
fn foreign_clients(link: &mut Link, exempt: &Exempt<'_>) -> Result<Vec<String>, Fault> {
    let mut foreign: Option<Vec<ServerClient>> = None;
    for look in 0..HANDSHAKE_LOOKS {
        if look > 0 {
            thread::sleep(HANDSHAKE_PAUSE);
        }
        let mut clients = ServerClient::list(&link.text(&["CLIENT", "LIST"])?);
        clients.retain(|client| client.is_foreign(exempt));
        if let Some(before) = &foreign {
            clients.retain(|client| before.iter().any(|known| known.id == client.id));
        }
        let is_none = clients.is_empty();
        foreign = Some(clients);
        if is_none {
            break;
        }
    }
    let text = |client: &ServerClient| match &*client.name {
        "" => client.address.clone(),
        name => format!("{} ({name})", client.address),
    };
    Ok(foreign.unwrap_or_default().iter().map(text).collect())
}

/// Says where keys get onto disk later than before, or not at all.
fn remark_durability(plan: &mut ReshardPlan, nodes: &[ViewNode]) {
    let facts = |which: fn(&ViewNode) -> bool| {
        let nodes = nodes.iter().filter(move |node| which(node));
        nodes.filter_map(|node| Some((&node.name, &node.reply.as_ref().ok()?.facts)))
    };
    for (name, target) in facts(|node| node.is_new) {
        if facts(|node| node.is_old).any(|(_, source)| target.is_less_safe_than(source)) {
            let text =
                format!("node {name:?} writes less to disk than the nodes that its keys come from");
            plan.remarks.push(text);
        }
        if facts(|node| node.is_old).any(|(_, source)| source.is_7_0() && !target.is_7_0()) {
            let text = format!(
                "node {name:?} is older than nodes that its keys come from, and may refuse them"
            );
            plan.remarks.push(text);
        }
    }
}

/// The new nodes that a mover that was stopped has left as replicas, or with what they had taken in as such. They are
/// emptied before anything else is done.
fn left_by_splits(nodes: &mut [ViewNode]) -> Vec<String> {
    let old: Vec<String> = nodes
        .iter()
        .filter(|node| node.is_old)
        .map(|node| node.name.clone())
        .collect();
    let mut is_splitting = false;
    let mut left = Vec::new();
    for node in nodes {
        let Ok(reply) = &mut node.reply else {
            continue;
        };
        let Ok(mark) = replica::split_mark(&mut reply.link) else {
            continue;
        };
        let is_marked = mark.is_some_and(|mark| old.contains(&mark));
        match node.is_old {
            // Old nodes come first.
            true => is_splitting |= is_marked,
            false if is_marked || (is_splitting && reply.facts.is_replica) => {
                left.push(node.name.clone());
            }
            false => {}
        }
    }
    left
}

/// Chooses the new nodes that become replicas first, and says why others do not.
fn choose_splits(
    plan: &mut ReshardPlan,
    nodes: &mut [ViewNode],
    db: i64,
    options: &ReshardOptions,
) {
    if options.method == ReshardMethod::Copy {
        return;
    }
    let is_added = |name: &str| {
        let node = nodes.iter().find(|node| node.name == name);
        node.is_some_and(|node| node.is_new && !node.is_old)
    };
    let keys_of = |name: &str| {
        let node = plan.nodes.iter().find(|node| node.name == name);
        node.map_or(0, |node| node.keys)
    };
    let candidates = candidates(&plan.moves, is_added, keys_of);
    if options.bytes_per_second.is_some() && !candidates.is_empty() {
        let text = "no node becomes a replica first: the limit of bytes in a second holds for copies alone";
        plan.remarks.push(text.to_owned());
        return;
    }
    for split in candidates {
        let side = |name: &str| {
            let node = nodes.iter().find(|node| node.name == name)?;
            let facts = &node.reply.as_ref().ok()?.facts;
            Some(Side {
                facts,
                addr: node.endpoint.info.addr(),
            })
        };
        let (Some(source), Some(target)) = (side(&split.source), side(&split.target)) else {
            continue;
        };
        let why = obstacle(source, target, [db, RECORD_DB]);
        let uses_tls = matches!(source.addr, redis::ConnectionAddr::TcpTls { .. });
        let why = why.or_else(|| {
            let target = nodes.iter_mut().find(|node| node.name == split.target)?;
            let link = &mut target.reply.as_mut().ok()?.link;
            (uses_tls && !replicates_with_tls(link))
                .then(|| "the target has tls-replication off, and the source needs TLS".into())
        });
        match why {
            None => plan.splits.push(split),
            Some(why) => plan.remarks.push(format!(
                "node {:?} does not become a replica of node {:?} first, its keys are copied one by one: {why}",
                split.target, split.source
            )),
        }
    }
}

/// True if the server uses TLS towards its primary.
fn replicates_with_tls(link: &mut Link) -> bool {
    let reply = link.words(&["CONFIG", "GET", "tls-replication"]);
    let items = reply.ok().and_then(super::link::items_of);
    let value = items.and_then(|items| super::link::text_of(items.get(1)?));
    value.as_deref() == Some("yes")
}

fn refuse(plan: &mut ReshardPlan, kind: ReshardRefusalKind, node: &str, text: impl Into<String>) {
    plan.refusals.push(ReshardRefusal::new(kind, node, text));
}

fn number_of_pairs(nodes: &[ViewNode]) -> usize {
    let old = nodes.iter().filter(|node| node.is_old);
    let targets = |source: &ViewNode| {
        nodes
            .iter()
            .filter(|target| target.is_new && target.name != source.name)
            .count()
    };
    old.map(targets).sum()
}
