//! The two sides: one server, and the proxy over four.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis_sharding::{NodeIndex, Topology};

use super::data::Data;
use super::grammar::Word;
use super::run;
use super::support::Servers;
use super::support::builder_over;
use super::support::local_proxy::LocalProxy;
use super::wire::{Connection, Reply};

/// How many nodes there are.
pub const NODES: usize = 4;
/// The server that is alone, behind the nodes.
const ALONE: usize = NODES;

/// How long a command may take to get to where it waits.
const WAITS_WITHIN: Duration = Duration::from_millis(900);

/// Both sides, and how they are talked to.
pub struct World {
    protocol: Protocol,
    servers: Servers,
    door: LocalProxy,
    /// To every server, for what is not under test.
    direct: Vec<Connection>,
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
    pub fn start(protocol: Protocol) -> Option<Self> {
        let servers = Servers::start(NODES + 1)?;
        let nodes = (0..NODES).map(|node| servers.url(node));
        let door = LocalProxy::open(builder_over(nodes));
        let direct = (0..=ALONE).map(|server| Connection::open(&servers.addr(server)));
        Some(Self {
            protocol,
            direct: direct.collect::<io::Result<_>>().unwrap(),
            servers,
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
            Side::One => self.servers.addr(ALONE),
            Side::Fleet => self.door.address(),
        }
    }

    /// No keys, scripts and functions on either side. The proxy is told, too, since it may remember some.
    pub fn clear(&mut self) -> io::Result<()> {
        let mut fleet = self.open(Side::Fleet)?;
        for connection in [&mut fleet, &mut self.direct[ALONE]] {
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

    pub fn topology(&self) -> Arc<Topology> {
        self.door.proxy.topology()
    }

    pub fn owner(&self, key: &[u8]) -> NodeIndex {
        self.topology()
            .locate(key)
            .expect("this placement places every key")
    }

    /// What the server alone holds.
    pub fn data_of_one(&mut self) -> io::Result<Data> {
        Data::read(&mut self.direct[ALONE])
    }

    /// What each node holds.
    pub fn data_of_nodes(&mut self) -> io::Result<Vec<Data>> {
        self.direct[..NODES].iter_mut().map(Data::read).collect()
    }

    /// Waits until a server of this side has a client that waits, or `connection` an answer.
    pub fn until_it_waits(&mut self, side: Side, connection: &mut Connection) -> io::Result<()> {
        let servers = match side {
            Side::One => ALONE..ALONE + 1,
            Side::Fleet => 0..NODES,
        };
        let deadline = Instant::now() + WAITS_WITHIN;
        while Instant::now() < deadline && !connection.has_some()? {
            for server in servers.clone() {
                let info = self.direct[server].ask(&["INFO", "clients"])?;
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
        let answer = self.direct[ALONE].ask(&question).ok();
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
        self.direct[ALONE].ask(words)
    }
}
