//! A partitioner of your own: some tenants have a node to themselves, all others are placed by rendezvous
//! hashing.
//!
//! Keys have the form `tenant:rest`, and all keys of one tenant live on one node. Run it with
//! `cargo run --example custom_partitioner`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use redis_sharding::hash::HashTag;
use redis_sharding::partition::{Partitioner, Placement, PlacementError, Rendezvous, check_nodes};
use redis_sharding::redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{NodeIndex, NodeSpec, ShardedClient};

/// The rule: the tenants that have a node to themselves, and their nodes.
#[derive(Debug)]
struct ByTenant {
    pinned: BTreeMap<String, String>,
}

/// The rule applied to one set of nodes.
#[derive(Debug)]
struct Placed {
    pinned: BTreeMap<Vec<u8>, NodeIndex>,
    others: Box<dyn Placement>,
    /// Positions of the nodes that no tenant is pinned to.
    shared: Vec<NodeIndex>,
}

impl Partitioner for ByTenant {
    // Another rule needs another name: the name is part of the fingerprint, by which clients are compared.
    fn name(&self) -> &str {
        "by-tenant/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        let pin = |(tenant, node): (&String, &String)| (tenant.clone(), node.clone());
        self.pinned.iter().map(pin).collect()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        let indexed = || (0..).map(NodeIndex::new).zip(nodes);
        let pinned = self.pinned.iter().map(|(tenant, name)| {
            let (index, _) = indexed()
                .find(|(_, node)| node.name() == name)
                .ok_or_else(|| PlacementError::Refused(format!("{tenant} has no node {name:?}")))?;
            Ok((tenant.clone().into_bytes(), index))
        });
        let pinned: BTreeMap<_, _> = pinned.collect::<Result<_, PlacementError>>()?;
        let taken = |name: &str| self.pinned.values().any(|pinned| pinned == name);
        let (shared, specs): (Vec<_>, Vec<_>) = indexed()
            .filter(|(_, node)| !taken(node.name()))
            .map(|(index, node)| (index, node.clone()))
            .unzip();
        Ok(Box::new(Placed {
            pinned,
            others: Rendezvous::new().place(&specs)?,
            shared,
        }))
    }

    /// Only the part before the first colon counts, so all keys of a tenant may be used in one command.
    fn hash_tag(&self) -> HashTag {
        let tenant = |key: &[u8]| {
            key.iter()
                .position(|&byte| byte == b':')
                .unwrap_or(key.len())
        };
        HashTag::Custom("before-colon/1", Arc::new(move |key| &key[..tenant(key)]))
    }
}

impl Placement for Placed {
    fn locate(&self, tenant: &[u8]) -> Option<NodeIndex> {
        match self.pinned.get(tenant) {
            Some(&node) => Some(node),
            None => Some(self.shared[self.others.locate(tenant)?.get()]),
        }
    }
}

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "custom_partitioner",
        "A partitioner of one's own: some tenants have a node to themselves. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let client = |pinned: &[(&str, &str)]| {
        let pin = |(tenant, node): &(&str, &str)| (tenant.to_string(), node.to_string());
        ShardedClient::builder()
            .node("large", nodes[0].url())
            .node("small-1", nodes[1].url())
            .node("small-2", nodes[2].url())
            .partitioner(ByTenant {
                pinned: pinned.iter().map(pin).collect(),
            })
            .build()
    };

    let mut pinned = client(&[("acme", "large")])?;
    for tenant in ["acme", "bolt", "crux", "dune"] {
        let owner = pinned.node_for(format!("{tenant}:orders"))?;
        println!("{tenant} lives on node {}", owner.name());
        assert_eq!(owner.name() == "large", tenant == "acme");
    }

    // All keys of a tenant live on one node, so commands over several of them work without hash tags.
    let () = pinned.sadd("bolt:seen", &["x", "y"])?;
    let () = pinned.sadd("bolt:sold", &["y", "z"])?;
    let both: Vec<String> = pinned.sinter(&["bolt:seen", "bolt:sold"])?;
    assert_eq!(both, ["y"]);

    // Clients with different placements have different fingerprints, and a tenant pinned to an unknown node is
    // refused.
    let unpinned = client(&[])?;
    assert_ne!(
        pinned.topology().fingerprint(),
        unpinned.topology().fingerprint()
    );
    let refusal = client(&[("acme", "huge")]).expect_err("there is no such node");
    println!("refused: {refusal}");
    Ok(())
}
