//! The two sides: one server, and the proxy over four, or over a Redis Cluster of three.

use std::io;
use std::time::{Duration, Instant};

use redis_sharding::ShardedClient;

use super::data::Data;
use super::grammar::Word;
use super::run;
use super::support::builder_over;
use super::support::clusters::{Cluster, SLOTS, Server, slot_of};
use super::support::local_proxy::LocalProxy;
use super::support::{Servers, servers};
use super::wire::{Connection, Reply};

/// How many nodes there are without a cluster.
const NODES: usize = 4;
/// The primaries of a cluster.
const PRIMARIES: usize = 3;

/// How long a command may take to get to where it waits.
const WAITS_WITHIN: Duration = Duration::from_millis(900);

/// Both sides, and how they are talked to.
pub struct World {
    protocol: Protocol,
    door: LocalProxy,
    /// The server alone, and the way to it for what is not under test.
    one: Servers,
    one_direct: Connection,
    nodes: Nodes,
    nodes_direct: Vec<Connection>,
}

/// What is behind the proxy.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Nodes {
    Plain(Servers),
    /// With the owner of each slot, which does not change.
    Cluster(Cluster, Vec<usize>),
}

/// What to put behind the proxy.
#[derive(Clone, Copy)]
pub enum Backend<'a> {
    Plain,
    Cluster(&'a Server),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Resp2,
    Resp3,
}

/// The server alone, or the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    One,
    Fleet,
}

impl World {
    /// `None` when there is no server and the environment allows it.
    pub fn start(protocol: Protocol, backend: Backend<'_>) -> Option<Self> {
        let (options, nodes, door) = match backend {
            Backend::Plain => {
                let nodes = Servers::start(NODES)?;
                let door = LocalProxy::open(builder_over(nodes.urls()));
                (servers::Builder::default(), Nodes::Plain(nodes), door)
            }
            Backend::Cluster(server) => {
                let cluster = Cluster::start(server, PRIMARIES, 0);
                let door = LocalProxy::open(ShardedClient::builder().cluster(cluster.urls()));
                let mut owners = vec![0; SLOTS.into()];
                for node in 0..PRIMARIES {
                    for slot in cluster.slots(node).into_iter().flatten() {
                        owners[usize::from(slot)] = node;
                    }
                }
                let options = servers::Builder::default().server(&server.path);
                (options, Nodes::Cluster(cluster, owners), door)
            }
        };
        let one = options.start(1)?;
        let addrs = (0..nodes.len()).map(|node| nodes.addr(node));
        let direct = addrs.map(|addr| Connection::open(&addr));
        Some(Self {
            protocol,
            one_direct: Connection::open(&one.addr(0)).unwrap(),
            one,
            nodes_direct: direct.collect::<io::Result<_>>().unwrap(),
            nodes,
            door,
        })
    }

    /// A new connection that speaks the protocol of this world.
    pub fn open(&self, side: Side) -> io::Result<Connection> {
        let mut connection = self.open_plain(side)?;
        if self.protocol == Protocol::Resp3 {
            let hello = connection.ask(&["HELLO", "3"])?;
            assert!(matches!(hello, Reply::Many(b'%', _)), "{side:?}: {hello:?}");
        }
        Ok(connection)
    }

    /// A new connection, without a word.
    pub fn open_plain(&self, side: Side) -> io::Result<Connection> {
        Connection::open(&self.address(side))
    }

    /// `host:port`.
    pub fn address(&self, side: Side) -> String {
        match side {
            Side::One => self.one.addr(0),
            Side::Fleet => self.door.address(),
        }
    }

    /// No keys, scripts and functions on either side. The proxy is told, too, since it may remember some.
    pub fn clear(&mut self) -> io::Result<()> {
        let mut fleet = self.open(Side::Fleet)?;
        for connection in [&mut fleet, &mut self.one_direct] {
            let commands = [
                vec!["FLUSHALL"],
                vec!["SCRIPT", "FLUSH"],
                vec!["FUNCTION", "FLUSH"],
            ];
            for reply in connection.ask_all(&commands)? {
                assert!(reply.is_line("OK"), "{reply:?}");
            }
        }
        Ok(())
    }

    /// Where a key lives: keys of one place may be used together.
    pub fn place(&self, key: &[u8]) -> usize {
        match &self.nodes {
            Nodes::Plain(_) => self.owner(key),
            Nodes::Cluster(..) => slot_of(key).into(),
        }
    }

    /// The number of the node that has a key.
    pub fn owner(&self, key: &[u8]) -> usize {
        match &self.nodes {
            Nodes::Plain(_) => {
                let topology = self.door.proxy.topology();
                let owner = topology.locate(key);
                owner.expect("this placement places every key").get()
            }
            Nodes::Cluster(_, owners) => owners[usize::from(slot_of(key))],
        }
    }

    /// What the server alone holds.
    pub fn data_of_one(&mut self) -> io::Result<Data> {
        Data::read(&mut self.one_direct)
    }

    /// What each node holds.
    pub fn data_of_nodes(&mut self) -> io::Result<Vec<Data>> {
        self.nodes_direct.iter_mut().map(Data::read).collect()
    }

    /// Waits until a server of this side has a client that waits, or `connection` an answer.
    pub fn until_it_waits(&mut self, side: Side, connection: &mut Connection) -> io::Result<()> {
        let servers = match side {
            Side::One => std::slice::from_mut(&mut self.one_direct),
            Side::Fleet => &mut self.nodes_direct,
        };
        let deadline = Instant::now() + WAITS_WITHIN;
        while Instant::now() < deadline && !connection.has_some()? {
            for server in &mut *servers {
                let info = server.ask(&["INFO", "clients"])?;
                let info = String::from_utf8_lossy(info.bytes().unwrap_or_default()).into_owned();
                if !info.contains("blocked_clients:0") {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The keys of a command as the server alone sees them, or as the generator meant them.
    pub fn keys(&mut self, words: &[Word]) -> Vec<Vec<u8>> {
        let mut question: Vec<&[u8]> = vec![b"COMMAND", b"GETKEYS"];
        question.extend(words.iter().map(|word| word.bytes.as_slice()));
        let answer = self.one_direct.ask(&question).ok();
        let found = answer.as_ref().and_then(Reply::items);
        match found {
            Some(found) => {
                let found = found.iter().filter_map(Reply::bytes);
                found.map(<[u8]>::to_vec).collect()
            }
            None => run::keys(words),
        }
    }

    /// Asks the server alone, beside the sequence.
    pub fn ask_one<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        self.one_direct.ask(words)
    }
}

impl Nodes {
    fn len(&self) -> usize {
        match self {
            Self::Plain(servers) => servers.len(),
            Self::Cluster(cluster, _) => cluster.len(),
        }
    }

    fn addr(&self, node: usize) -> String {
        match self {
            Self::Plain(servers) => servers.addr(node),
            Self::Cluster(cluster, _) => cluster.addr(node),
        }
    }
}
