//! [`SourceNode`]: a node whose keys are taken, and the connections to it.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ProtocolVersion, Value, cmd};

use super::decide::Abilities;
use super::facts::{SourceFacts, busy};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::ops::connection::NodeConnection;
use crate::topology::HostPort;
use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

/// The settings of a server that decide how soon, and over which way, it begins with a stream.
const SETTINGS: [(&str, &str); 2] = [
    ("repl-diskless-sync-delay", "0"),
    ("repl-diskless-sync", "yes"),
];

/// The time after which a server drops a replica that reads nothing, if it cannot be asked for it.
const REPL_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum duration of a call that puts something back.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(2);

/// A node, and what is known of the server that its keys are read from.
pub(super) struct SourceNode {
    pub(super) name: String,
    /// The primary, whose writes are paused.
    primary: Arc<Endpoint>,
    /// The server that is read: the primary, or a replica of it.
    server: Arc<Endpoint>,
    limit: Duration,
    /// Over this one the primary is paused and asked.
    pub(super) control: NodeConnection,
    /// Over this one the pause is ended.
    spare: NodeConnection,
    /// Over this one the server that is read is asked, if it is a replica.
    replica: Option<NodeConnection>,
    pub(super) facts: SourceFacts,
    pub(super) abilities: Abilities,
    pub(super) repl_timeout: Duration,
    /// The values of [`SETTINGS`] that were read first.
    settings: Vec<(&'static str, String)>,
    /// True while settings are to be put back.
    is_configured: bool,
    /// True while writes may be paused.
    is_paused: bool,
    /// True if replies may be on their way that nobody waits for.
    is_stale: bool,
}

impl SourceNode {
    /// Connects to a node, and asks it what it allows.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, or is a replica.
    pub(super) fn open(
        name: String,
        primary: Arc<Endpoint>,
        limit: Duration,
        with_replicas: bool,
    ) -> Result<Self, Error> {
        let mut control = connect(&primary, limit)?;
        let spare = connect(&primary, limit)?;
        let info = info(&mut control)?;
        let facts = SourceFacts::new(&info);
        if facts.is_replica {
            let text = format!(
                "node {name:?} is a replica, which takes no writes; give the address of its primary"
            );
            return Err(Error::new(ErrorKind::Config, text).at_node(&name));
        }
        let mut node = Self {
            name,
            server: Arc::clone(&primary),
            primary,
            limit,
            control,
            spare,
            replica: None,
            facts,
            abilities: Abilities {
                may_sync: false,
                may_configure: false,
                may_pause: false,
            },
            repl_timeout: REPL_TIMEOUT,
            settings: Vec::new(),
            is_configured: false,
            is_paused: false,
            is_stale: false,
        };
        if with_replicas {
            node.choose_replica();
        }
        node.probe();
        Ok(node)
    }

    /// The address that is read.
    pub(super) fn address(&self) -> &str {
        &self.server.address
    }

    /// True if a replica is read.
    pub(super) fn has_replica(&self) -> bool {
        self.replica.is_some()
    }

    /// The connection to the server that is read.
    pub(super) fn server(&mut self) -> &mut NodeConnection {
        self.replica.as_mut().unwrap_or(&mut self.control)
    }

    /// Reads from the replica that has received most, if one can be reached.
    fn choose_replica(&mut self) {
        let mut replicas = self.facts.replicas.clone();
        replicas.sort_by_key(|(_, _, offset)| std::cmp::Reverse(*offset));
        for (host, port, _) in replicas {
            let Ok(server) = self.primary.replica_at(&HostPort { host, port }) else {
                continue;
            };
            let server = Arc::new(server);
            let Ok(mut connection) = connect(&server, self.limit) else {
                continue;
            };
            if let Ok(info) = info(&mut connection) {
                self.facts = SourceFacts::new(&info);
                self.server = server;
                self.replica = Some(connection);
                return;
            }
        }
    }

    /// Asks what the server allows, and for its settings. Changes nothing.
    fn probe(&mut self) {
        // A pause of no time does not shorten another one.
        let pause = cmd("CLIENT").arg("PAUSE").arg(0).arg("WRITE").to_owned();
        let may_pause = self.control.call(&pause).is_ok();
        let server = self.server();
        let may_sync = may_sync(server);
        let pattern = cmd("CONFIG").arg("GET").arg("repl-*").to_owned();
        let found = server.call(&pattern).ok();
        let found = found.and_then(|reply| redis::from_redis_value::<Vec<String>>(reply).ok());
        let found = found.unwrap_or_default();
        let value = |name: &str| {
            let mut pairs = found.chunks_exact(2);
            pairs.find_map(|pair| match pair {
                [key, value] if key == name => Some(value.clone()),
                _ => None,
            })
        };
        let settings = SETTINGS.iter();
        let settings: Vec<_> = settings
            .filter_map(|(name, _)| Some((*name, value(name)?)))
            .collect();
        let may_set = |(name, value): &(&str, String)| {
            let set = cmd("CONFIG").arg("SET").arg(*name).arg(value).to_owned();
            server.call(&set).is_ok()
        };
        let may_configure = settings.len() == SETTINGS.len() && settings.iter().all(may_set);
        if let Some(seconds) = value("repl-timeout").and_then(|text| text.parse().ok()) {
            self.repl_timeout = Duration::from_secs(seconds);
        }
        self.settings = settings;
        self.abilities = Abilities {
            may_sync,
            may_configure,
            may_pause,
        };
    }

    /// Connects again where connections have broken.
    ///
    /// # Errors
    ///
    /// If the node cannot be reached.
    pub(super) fn reconnect(&mut self) -> Result<(), Error> {
        if self.is_stale || self.control.is_broken() {
            self.control = connect(&self.primary, self.limit)?;
        }
        if self.spare.is_broken() {
            self.spare = connect(&self.primary, self.limit)?;
        }
        if let Some(connection) = &mut self.replica
            && (self.is_stale || connection.is_broken())
        {
            *connection = connect(&self.server, self.limit)?;
        }
        self.is_stale = false;
        self.control.set_limit(self.limit);
        self.spare.set_limit(self.limit);
        let limit = self.limit;
        self.server().set_limit(limit);
        Ok(())
    }

    /// Gives up connections over which replies may come that nobody waits for.
    pub(super) fn forget_replies(&mut self) {
        self.is_stale = true;
    }

    /// What the server that is read is busy with.
    ///
    /// # Errors
    ///
    /// If it cannot be asked.
    pub(super) fn busy(&mut self) -> Result<Option<&'static str>, Error> {
        Ok(busy(&info(self.server())?))
    }

    /// Asks the server that is read once more for its facts.
    ///
    /// # Errors
    ///
    /// If it cannot be asked.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        self.facts = SourceFacts::new(&info(self.server())?);
        Ok(())
    }

    /// Opens a connection that is presented as that of a replica, which wants the data alone.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached.
    pub(super) fn open_stream(&self, is_diskless: bool) -> Result<NodeConnection, Error> {
        let mut connection = connect(&self.server, self.limit)?;
        // Without its own version, Valkey 9 writes an older form, which breaks off at the first hash with expiring fields.
        let mut requests = vec![["version", &self.facts.version], ["capa", "psync2"]];
        if is_diskless {
            requests.push(["capa", "eof"]);
        }
        requests.push(["rdb-only", "1"]);
        for words in requests {
            let request = cmd("REPLCONF").arg(&words).to_owned();
            // Servers that do not know a word reply an error, and do without.
            let _ = connection
                .call(&request)
                .or_else(|error| match error.kind() {
                    ErrorKind::NodeDown => Err(error),
                    _ => Ok(Value::Nil),
                })?;
        }
        Ok(connection)
    }

    /// Sets the server to begin with a stream at once, and not to save it to its disk first.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub(super) fn configure(&mut self) -> Result<(), Error> {
        for (name, wanted) in SETTINGS {
            let mut known = self.settings.iter();
            if known.any(|(known, value)| *known == name && value == wanted) {
                continue;
            }
            self.is_configured = true;
            let set = cmd("CONFIG").arg("SET").arg(name).arg(wanted).to_owned();
            self.server().call(&set)?;
        }
        Ok(())
    }

    /// Puts the settings back.
    pub(super) fn put_back(&mut self) {
        if !std::mem::take(&mut self.is_configured) {
            return;
        }
        let settings = self.settings.clone();
        if (self.is_stale || self.server().is_broken()) && self.reconnect().is_err() {
            return;
        }
        self.server().set_limit(PUT_BACK_WITHIN);
        for (name, value) in settings {
            let set = cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
            // A server that does not reply keeps a setting that does no harm.
            let _ = self.server().call(&set);
        }
    }

    /// Sends the request to pause writes.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(super) fn send_pause(&mut self, pause: Duration) -> Result<(), Error> {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let request = cmd("CLIENT").arg("PAUSE").arg(ms).arg("WRITE").to_owned();
        self.is_paused = true;
        self.control.send(&request.get_packed_command())
    }

    /// Sends the request to end the pause, over the connection that is kept for it.
    pub(super) fn send_unpause(&mut self) {
        if self.is_paused {
            self.spare.set_limit(PUT_BACK_WITHIN);
            // The pause ends by itself where it does not arrive.
            let _ = self.spare.send(&unpause().get_packed_command());
        }
    }

    /// Reads the reply to it. True if the pause has ended.
    pub(super) fn is_unpaused(&mut self) -> bool {
        if !std::mem::take(&mut self.is_paused) {
            return true;
        }
        let replies = self.spare.receive(1);
        let is_ok = |replies: &Vec<Value>| matches!(replies.as_slice(), [Value::Okay]);
        replies.as_ref().is_ok_and(is_ok) || {
            // Once more, over a connection that has no reply on its way.
            let again = connect(&self.primary, PUT_BACK_WITHIN);
            again.is_ok_and(|mut again| again.call(&unpause()).is_ok())
        }
    }
}

impl Drop for SourceNode {
    /// On every path, also that of a panic: writes go on, and the settings are as before.
    fn drop(&mut self) {
        if self.is_paused {
            self.send_unpause();
            self.is_unpaused();
        }
        self.put_back();
    }
}

fn unpause() -> Cmd {
    cmd("CLIENT").arg("UNPAUSE").to_owned()
}

/// Connects to a server, as one that asks for its own use.
pub(super) fn connect(endpoint: &Arc<Endpoint>, limit: Duration) -> Result<NodeConnection, Error> {
    let suffix = NameSuffix {
        role: ConnectionRole::Monitor,
        epoch: RecordEpoch::default(),
    };
    NodeConnection::open(endpoint, ProtocolVersion::RESP2, suffix, limit)
}

/// Asks for everything that INFO says by default.
fn info(connection: &mut NodeConnection) -> Result<String, Error> {
    text(connection.call(&cmd("INFO"))?, connection.node())
}

/// Text of a reply.
pub(super) fn text(reply: Value, node: &str) -> Result<String, Error> {
    match reply {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Ok(text),
        Value::VerbatimString { text, .. } => Ok(text),
        _ => {
            let text = format!("node {node:?} has replied what no server replies");
            Err(Error::new(ErrorKind::NodeDown, text).at_node(node))
        }
    }
}

/// Asks whether the user may send PSYNC, as far as the server says so before it is sent.
fn may_sync(server: &mut NodeConnection) -> bool {
    let mut refused = |words: &[&str]| {
        let request = cmd("REPLCONF").arg(words).to_owned();
        match server.call(&request) {
            Ok(_) => false,
            Err(error) => {
                let text = error.to_string().to_lowercase();
                text.contains("no permissions")
                    || text.contains("noperm")
                    || text.contains("unknown command")
            }
        }
    };
    if refused(&["capa", "psync2"]) {
        return false;
    }
    // Servers before 7.0, and users without the right to ask, do not say.
    let who = cmd("ACL").arg("WHOAMI").to_owned();
    let Ok(Ok(user)) = server.call(&who).map(|reply| text(reply, "")) else {
        return true;
    };
    let mut dry = cmd("ACL");
    dry.arg("DRYRUN").arg(user).arg("PSYNC").arg("?").arg(-1);
    match server.call(&dry) {
        Ok(Value::BulkString(why)) => !String::from_utf8_lossy(&why).contains("no permission"),
        _ => true,
    }
}
