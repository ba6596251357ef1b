//! Tests that do the same through both clients, over a cluster of each server.

use std::thread;
use std::time::Duration;

use redis_sharding::{Builder, ShardedClient};

use super::all_clients::{AllClients, AnyClient, Kind};
use super::clusters::{Cluster, key_in, on_each_server};

/// Long enough for everything that is only late.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One client, and a slot that nobody else touches: of node 0, if that is a primary.
pub struct ClusterClient<'a> {
    pub cluster: &'a Cluster,
    pub clients: &'a AllClients,
    pub client: AnyClient,
    pub kind: Kind,
    pub slot: u16,
}

pub fn describe(cluster: &Cluster) -> Builder {
    let builder = ShardedClient::builder().cluster(cluster.urls());
    builder.response_timeout(PATIENCE)
}

/// Over a cluster of three primaries, which tests share: nodes stay as they are.
pub fn each_client(test: impl Fn(&mut ClusterClient<'_>) + Sync) {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        each_client_of(&cluster, || describe(&cluster), &test);
    });
}

/// One client after the other, both of them.
pub fn each_client_of(
    cluster: &Cluster,
    describe: impl Fn() -> Builder,
    test: impl Fn(&mut ClusterClient<'_>) + Sync,
) {
    let clients = AllClients::open(describe);
    for kind in [Kind::Blocking, Kind::Async] {
        let run = || {
            println!("{}, {kind:?}", cluster.server.name);
            test(&mut ClusterClient {
                cluster,
                clients: &clients,
                client: clients.of(kind),
                kind,
                slot: cluster.own_slot(cluster.primaries()[0]),
            });
        };
        let outcome = thread::scope(|scope| scope.spawn(run).join());
        assert!(
            outcome.is_ok(),
            "it fails on {}, {kind:?}",
            cluster.server.name
        );
    }
}

impl ClusterClient<'_> {
    /// A key of the slot.
    pub fn key(&self, name: &str) -> String {
        key_in(self.slot, name)
    }

    /// Turns to another slot of node 0.
    pub fn next_slot(&mut self) {
        self.slot = self.cluster.own_slot(0);
    }

    /// A second handle of the same client.
    pub fn other(&self) -> AnyClient {
        self.clients.of(self.kind)
    }
}
