//! A Redis Cluster of four masters, for the clients that need one.

use std::thread;
use std::time::{Duration, Instant};

use redis::cluster::ClusterClient;
use redis::{Connection, cmd};

use super::fleet::{NODES, fill};
use super::tests::Servers;

/// Slots of a Redis Cluster.
const SLOTS: usize = 16_384;
/// How long the masters may take to agree.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Masters with even shares of the slots, full of keys.
pub struct Cluster {
    servers: Servers,
}

impl Cluster {
    pub fn start() -> Self {
        let servers = Servers::builder()
            .option(["--cluster-enabled", "yes"])
            .start(NODES)
            .expect("a bench needs redis-server or valkey-server");
        let mut masters: Vec<Connection> =
            (0..NODES).map(|node| servers.connection(node)).collect();
        for (node, master) in masters.iter_mut().enumerate() {
            let (first, last) = (node * SLOTS / NODES, (node + 1) * SLOTS / NODES - 1);
            let mut slots = cmd("CLUSTER");
            slots.arg("ADDSLOTSRANGE").arg(first).arg(last);
            slots.exec(master).expect("the slots are free");
        }
        for (node, master) in masters.iter_mut().enumerate() {
            // Where it can be reached is not where it speaks from.
            let (host, _) = host_and_port(&servers, node);
            let mut announce = cmd("CONFIG");
            announce.arg("SET").arg("cluster-announce-ip").arg(host);
            announce.exec(master).expect("an address");
        }
        for node in 1..NODES {
            let (host, port) = host_and_port(&servers, node);
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET").arg(host).arg(port);
            meet.exec(&mut masters[0]).expect("the servers listen");
        }
        let deadline = Instant::now() + READY_WITHIN;
        while !masters.iter_mut().all(is_ready) {
            assert!(
                Instant::now() < deadline,
                "no cluster within {READY_WITHIN:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let cluster = Self { servers };
        let client = ClusterClient::new(cluster.urls()).expect("addresses");
        fill(&mut client.get_connection().expect("the masters listen"));
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.urls()
    }

    /// `host:port` of every master.
    pub fn addrs(&self) -> Vec<String> {
        (0..NODES).map(|node| self.servers.addr(node)).collect()
    }
}

fn host_and_port(servers: &Servers, node: usize) -> (String, String) {
    let addr = servers.addr(node);
    let (host, port) = addr.rsplit_once(':').expect("host:port");
    (host.to_owned(), port.to_owned())
}

/// Whether this master knows the owner of every slot.
fn is_ready(master: &mut Connection) -> bool {
    let info: String = cmd("CLUSTER").arg("INFO").query(master).expect("a cluster");
    let known = format!("cluster_known_nodes:{NODES}");
    info.contains("cluster_state:ok")
        && info.contains("cluster_slots_ok:16384")
        && info.contains(&known)
}
