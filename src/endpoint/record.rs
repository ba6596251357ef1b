//! The record that a node keeps of its fleet, as the connections of one client see it.
//!
//! ```text
//! handshake        … CLIENT SETNAME web#rs.c.3.17 … EVAL (reads the record)      the name first: it is the proof
//! the record       3.17: the connection is used
//!                  3.18: the source learns of it, and the connection is not used: Superseded
//!                  missing, or of another server: Stale
//! later            the source publishes the topology of 3.18, then sets the cell: the next name is web#rs.c.3.18
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::Value;

use crate::policy::ConnectError;
use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

/// Who knows the records of the nodes of a client, and follows them.
pub(crate) trait RecordSource: Send + Sync {
    /// The epoch of the record that the client goes by at this node, asked for once for each new endpoint.
    fn followed(&self, node: &str) -> RecordEpoch;

    /// Judges the record that a new connection to this node has read, after it has presented this epoch. `reply` is
    /// that of [`READ_SCRIPT`](crate::topology::record::READ_SCRIPT).
    ///
    /// A connection that has presented an older epoch than the one that the source goes by now is superseded, whatever it
    /// has read. A newer record is followed: a topology is published, then the epoch of the cell is set, before or after this
    /// returns. Called from tasks and threads that connect, so it must not wait for a server.
    fn check_record(&self, node: &str, presented: RecordEpoch, reply: &Value) -> RecordCheck;
}

/// Whether a new connection may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordCheck {
    /// The record is the one that was presented.
    Current,
    /// It is newer. The connection is closed, and another one is made by the newer record.
    Superseded,
    /// The connection must not be used, for this reason, which ends with the remedy.
    Refused(String),
}

/// What one client knows of the record of one node. One for all connections of the client to the node.
pub(crate) struct RecordCell {
    /// The name of the node.
    node: Arc<str>,
    /// [`RecordEpoch::as_u64`] of the record that the client goes by. It only grows.
    epoch: AtomicU64,
    source: Arc<dyn RecordSource>,
}

impl RecordCell {
    /// The cell of a node, which begins with the epoch that the source goes by.
    pub(crate) fn new(node: &str, source: &Arc<dyn RecordSource>) -> Arc<Self> {
        Arc::new(Self {
            node: node.into(),
            epoch: AtomicU64::new(source.followed(node).as_u64()),
            source: Arc::clone(source),
        })
    }

    /// The epoch of the record that the client goes by, as a number.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Goes by a newer record from now on. To be called after its topology was published, and before
    /// [`Publisher::records_changed`](crate::snapshot::Publisher::records_changed).
    pub(crate) fn set_epoch(&self, epoch: RecordEpoch) {
        self.epoch.fetch_max(epoch.as_u64(), Ordering::AcqRel);
    }

    /// What follows the user's name in the name of a connection that goes by the record of this epoch.
    pub(crate) fn suffix(role: ConnectionRole, epoch: u64) -> NameSuffix {
        NameSuffix {
            role,
            epoch: RecordEpoch::from_u64(epoch),
        }
    }

    /// Judges the record that a new connection has read.
    pub(super) fn admit(&self, presented: u64, reply: &Value) -> Result<(), ConnectError> {
        let presented = RecordEpoch::from_u64(presented);
        match self.source.check_record(&self.node, presented, reply) {
            RecordCheck::Current => Ok(()),
            RecordCheck::Superseded => Err(ConnectError::Superseded),
            RecordCheck::Refused(why) => Err(ConnectError::Stale(why)),
        }
    }
}

impl fmt::Debug for RecordCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordCell")
            .field("node", &self.node)
            .field("epoch", &RecordEpoch::from_u64(self.epoch()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use parking_lot::Mutex;
    use redis::{Commands, cmd};

    use super::*;
    use crate::command::{Access, BlockingTime};
    use crate::endpoint::Deadline;
    use crate::partition::NodeIndex;
    use crate::plan::{Cause, Failure};
    use crate::snapshot::Publisher;
    use crate::topology::record::{
        Followed, NodeRecord, RECORD_DB, RECORD_KEY, RecordDecision, RecordReply, TOPOLOGY_KEY,
        judge,
    };
    use crate::{ErrorKind, ShardedClient};

    type Flush<'c> = &'c dyn Fn(&mut ShardedClient) -> redis::RedisResult<String>;

    const TOPOLOGY: u64 = 0xabc;
    const FIRST: RecordEpoch = RecordEpoch::new(1, 1);
    const SECOND: RecordEpoch = RecordEpoch::new(1, 2);

    /// A server that is killed with the test.
    struct Server {
        process: Child,
        port: u16,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    impl Server {
        /// `None` if there is no binary, and the environment allows that.
        fn start() -> Option<Self> {
            // Below those of outgoing connections: one that is tried before the server listens would meet itself.
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let first = u64::from(std::process::id()) * 16;
            let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
            let mut ports = std::iter::repeat_with(|| {
                let number = first + NEXT.fetch_add(1, Ordering::Relaxed);
                u16::try_from(18_000 + number % 4_000).unwrap()
            });
            let port = ports.find(is_free).unwrap();
            let binary = std::env::var("REDISRS_SERVER_BIN").unwrap_or("redis-server".to_owned());
            let process = Command::new(binary)
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no"])
                .stdout(Stdio::null())
                .spawn();
            let process = match process {
                Ok(process) => process,
                Err(_) if std::env::var_os("REDIS_SHARDING_SKIP_SERVER_TESTS").is_some() => {
                    return None;
                }
                Err(error) => panic!("no server: {error}"),
            };
            let server = Self { process, port };
            let end = Instant::now() + Duration::from_secs(20);
            while server.try_connect().is_err() {
                assert!(Instant::now() < end, "the server does not start");
                thread::sleep(Duration::from_millis(20));
            }
            Some(server)
        }

        fn url(&self) -> String {
            format!("redis://127.0.0.1:{}/", self.port)
        }

        fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
            redis::Client::open(self.url())?.get_connection()
        }

        /// A connection for what the test itself asks.
        fn own(&self) -> redis::Connection {
            self.try_connect().unwrap()
        }

        fn record_db(&self) -> redis::Connection {
            let mut own = self.own();
            cmd("SELECT").arg(RECORD_DB).exec(&mut own).unwrap();
            own
        }

        fn publish(&self, epoch: RecordEpoch) {
            let info: String = cmd("INFO").arg("server").query(&mut self.own()).unwrap();
            let seal = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            let record = NodeRecord {
                epoch,
                topology: TOPOLOGY,
                seal: seal.unwrap().to_owned(),
                is_retired: false,
                mover: None,
                reshard: None,
            };
            let mut own = self.record_db();
            let () = own.set(RECORD_KEY, record.to_string()).unwrap();
            let () = own.set(TOPOLOGY_KEY, "topology").unwrap();
        }

        fn names(&self) -> Vec<String> {
            let list: String = cmd("CLIENT").arg("LIST").query(&mut self.own()).unwrap();
            let names = list.split_whitespace();
            let names = names.filter_map(|word| word.strip_prefix("name="));
            names
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        }

        /// Waits until all connections with a name go by this epoch.
        fn wait_for(&self, epoch: RecordEpoch) {
            let end = Instant::now() + Duration::from_secs(5);
            let is_there = |name: &String| NameSuffix::of(name).unwrap().epoch == epoch;
            while !self.names().iter().all(is_there) {
                assert!(Instant::now() < end, "{:?}", self.names());
                thread::sleep(Duration::from_millis(5));
            }
            assert!(!self.names().is_empty());
        }

        fn is_blocked(&self) -> bool {
            let clients: String = cmd("INFO").arg("clients").query(&mut self.own()).unwrap();
            clients.contains("blocked_clients:1")
        }

        fn wait_for_blocked(&self) {
            let end = Instant::now() + Duration::from_secs(5);
            while !self.is_blocked() {
                assert!(Instant::now() < end);
                thread::sleep(Duration::from_millis(5));
            }
        }

        fn calls(&self, command: &str) -> u64 {
            let stats: String = cmd("INFO")
                .arg("commandstats")
                .query(&mut self.own())
                .unwrap();
            let line = format!("cmdstat_{command}:calls=");
            let calls = stats.lines().find_map(|stat| stat.strip_prefix(&line));
            calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
        }
    }

    /// Goes by one epoch, and learns of newer ones.
    struct Source {
        epoch: AtomicU64,
        learned: Mutex<BTreeSet<RecordEpoch>>,
    }

    impl RecordSource for Source {
        fn followed(&self, _: &str) -> RecordEpoch {
            RecordEpoch::from_u64(self.epoch.load(Ordering::Acquire))
        }

        fn check_record(&self, _: &str, presented: RecordEpoch, reply: &Value) -> RecordCheck {
            let Some(reply) = RecordReply::of(reply) else {
                return RecordCheck::Refused(format!("{reply:?}"));
            };
            let followed = Followed {
                epoch: presented,
                topology: TOPOLOGY,
            };
            match judge(followed, &reply) {
                RecordDecision::Current => RecordCheck::Current,
                RecordDecision::Newer(record) => {
                    self.learned.lock().insert(record.epoch);
                    RecordCheck::Superseded
                }
                RecordDecision::Refused(problem) => RecordCheck::Refused(problem.to_string()),
            }
        }
    }

    fn source() -> Arc<Source> {
        Arc::new(Source {
            epoch: AtomicU64::new(FIRST.as_u64()),
            learned: Mutex::default(),
        })
    }

    fn builder(server: &Server, source: &Arc<Source>) -> crate::Builder {
        let source: Arc<dyn RecordSource> = Arc::clone(source) as _;
        ShardedClient::builder()
            .node("a", server.url())
            .client_name("web")
            .record_source(source)
    }

    /// Goes by a newer record, in the order of the contract.
    fn follow(publisher: &Publisher, epoch: RecordEpoch) {
        publisher.set_records([epoch.as_u64()].into());
        for endpoint in &publisher.config().endpoints {
            endpoint.record.as_ref().unwrap().set_epoch(epoch);
        }
        publisher.records_changed(&Deadline::start(Some(Duration::from_secs(5))));
    }

    fn is_superseded(failure: &Failure) -> bool {
        matches!(failure.cause, Cause::Superseded) && failure.sent == 0
    }

    fn packed(words: &[&str]) -> Vec<u8> {
        cmd(words[0]).arg(&words[1..]).get_packed_command()
    }

    #[test]
    fn handshake_sets_the_name_before_it_reads_the_record_in_one_write() {
        let source: Arc<dyn RecordSource> = source();
        let client = ShardedClient::builder()
            .node("a", "redis://10.0.0.1/2?protocol=resp3")
            .client_name("web")
            .record_source(source)
            .build()
            .unwrap();
        let config = client.shared().publisher().config();
        let endpoint = &config.endpoints[0];
        let (handshake, presented) = endpoint
            .handshake(crate::policy::HandshakeScope::Full)
            .unwrap();
        assert_eq!(presented.epoch, FIRST.as_u64());
        let text = String::from_utf8(handshake.packed()).unwrap();
        let at = |word: &str| {
            text.find(word)
                .unwrap_or_else(|| panic!("{word} in {text}"))
        };
        assert!(at("SELECT") < at("web#rs.c.1.1") && at("web#rs.c.1.1") < at("EVAL"));
        assert!(text[at("EVAL")..].ends_with("\r\n$1\r\n0\r\n"), "{text}");
        let subscriptions = endpoint.pub_sub_handshake().unwrap().packed();
        let text = String::from_utf8(subscriptions).unwrap();
        assert!(
            text.contains("web#rs.s.1.1") && !text.contains("EVAL"),
            "{text}"
        );
    }

    #[test]
    fn connection_is_used_by_the_record_that_it_has_presented_only() {
        let Some(server) = Server::start() else {
            return;
        };
        let (source, events) = (source(), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&events);
        let client = builder(&server, &source)
            .on_event(move |event| log.lock().push(event.to_string()))
            .build()
            .unwrap();
        let get = || client.execute(cmd("GET").arg("k"));
        let missing = get().unwrap_err();
        assert_eq!(
            (missing.kind(), missing.node()),
            (ErrorKind::Stale, Some("a"))
        );
        assert!(
            missing
                .to_string()
                .contains("redis-sharding topology publish"),
            "{missing}"
        );
        events.lock().clear();
        server.publish(FIRST);
        let end = Instant::now() + Duration::from_secs(5);
        while get().is_err() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(server.names(), ["web#rs.c.1.1"]);
        assert_eq!(server.calls("eval"), 2, "one for each connection");
        // A newer record shows at the next connection.
        server.publish(SECOND);
        get().unwrap();
        cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal"])
            .exec(&mut server.own())
            .unwrap();
        events.lock().clear();
        let held = thread::spawn({
            let client = client.clone();
            move || client.execute(cmd("GET").arg("k"))
        });
        while source.learned.lock().is_empty() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(5));
        }
        follow(client.shared().publisher(), SECOND);
        held.join().unwrap().unwrap();
        assert_eq!(*source.learned.lock(), BTreeSet::from([SECOND]));
        assert_eq!(server.names(), ["web#rs.c.1.2"]);
        let downs = events
            .lock()
            .iter()
            .filter(|event| event.contains("down"))
            .count();
        assert_eq!(downs, 0, "{:?}", events.lock());
    }

    #[test]
    fn blocking_client_refuses_older_requests_behind_an_acknowledgement() {
        let Some(server) = Server::start() else {
            return;
        };
        server.publish(FIRST);
        let source = source();
        let client = builder(&server, &source).build().unwrap();
        client.execute(cmd("SET").arg("k").arg(1)).unwrap();
        client.execute(cmd("BLPOP").arg("none").arg(0.01)).unwrap();
        let old = client.shared().load_full();
        let mut dedicated = client.dedicated("k").unwrap();
        let held = thread::spawn({
            let client = client.clone();
            move || client.execute(cmd("BLPOP").arg("list").arg(5))
        });
        server.wait_for_blocked();
        server.publish(SECOND);
        follow(client.shared().publisher(), SECOND);
        let sets = server.calls("set");
        for blocking in [BlockingTime::None, BlockingTime::Forever] {
            let executor = &old.executor;
            let (node, deadline) = (NodeIndex::new(0), executor.deadline(blocking));
            let request = packed(&["SET", "k", "2"]);
            let refused = executor.call(node, &request, Access::Write, blocking, deadline);
            assert!(is_superseded(&refused.unwrap_err()), "{blocking:?}");
        }
        assert_eq!(server.calls("set"), sets, "nothing was sent");
        client.execute(cmd("SET").arg("k").arg(5)).unwrap();
        // What is in use presents the record when it is given back, or before its next command.
        let old_names = server
            .names()
            .into_iter()
            .filter(|name| name == "web#rs.c.1.1");
        assert_eq!(old_names.count(), 2);
        let () = server.own().lpush("list", "x").unwrap();
        held.join().unwrap().unwrap();
        let () = dedicated.get("k").unwrap();
        server.wait_for(SECOND);
        // Not while keys are watched.
        cmd("WATCH").arg("k").exec(&mut dedicated).unwrap();
        follow(client.shared().publisher(), RecordEpoch::new(1, 3));
        let () = dedicated.get("k").unwrap();
        let stay = server
            .names()
            .into_iter()
            .filter(|name| name == "web#rs.c.1.2");
        assert_eq!(stay.count(), 1);
        cmd("UNWATCH").exec(&mut dedicated).unwrap();
        let () = dedicated.get("k").unwrap();
        server.wait_for(RecordEpoch::new(1, 3));
    }

    #[cfg(feature = "tokio-comp")]
    #[tokio::test]
    async fn client_on_tokio_refuses_older_requests_behind_an_acknowledgement() {
        let Some(server) = Server::start() else {
            return;
        };
        server.publish(FIRST);
        let source = source();
        let client = builder(&server, &source).build_async().unwrap();
        client.execute(cmd("SET").arg("k").arg(1)).await.unwrap();
        let blpop = |key: &'static str, seconds: f64| {
            let client = client.clone();
            async move { client.execute(cmd("BLPOP").arg(key).arg(seconds)).await }
        };
        blpop("none", 0.01).await.unwrap();
        let old = client.shared().load_full();
        let mut dedicated = client.dedicated("k").await.unwrap();
        let held = tokio::spawn(blpop("list", 5.0));
        while !server.is_blocked() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.publish(SECOND);
        follow(client.shared().publisher(), SECOND);
        let sets = server.calls("set");
        for blocking in [BlockingTime::None, BlockingTime::Forever] {
            let executor = &old.executor;
            let (node, deadline) = (NodeIndex::new(0), executor.deadline(blocking));
            let write = |out: &mut Vec<u8>| out.extend(packed(&["SET", "k", "2"]));
            let refused = executor.call(node, write, Access::Write, blocking, deadline);
            assert!(is_superseded(&refused.await.unwrap_err()), "{blocking:?}");
        }
        assert_eq!(server.calls("set"), sets, "nothing was sent");
        client.execute(cmd("SET").arg("k").arg(5)).await.unwrap();
        let () = server.own().lpush("list", "x").unwrap();
        held.await.unwrap().unwrap();
        let () = redis::AsyncCommands::get(&mut dedicated, "k")
            .await
            .unwrap();
        while server.names().iter().any(|name| name != "web#rs.c.1.2") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A new name of the client is presented with the same epoch.
        client
            .shared()
            .load_full()
            .identity
            .set_client_name("worker");
        client.execute(cmd("GET").arg("k")).await.unwrap();
        assert!(
            server.names().contains(&"worker#rs.c.1.2".to_owned()),
            "{:?}",
            server.names()
        );
        // A newer record in the handshake: the shared connection is made again once it is followed.
        server.publish(RecordEpoch::new(2, 1));
        cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal"])
            .exec(&mut server.own())
            .unwrap();
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.execute(cmd("GET").arg("k")).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        follow(client.shared().publisher(), RecordEpoch::new(2, 1));
        waiting.await.unwrap().unwrap();
        client.execute(cmd("GET").arg("k")).await.unwrap();
        let learned = BTreeSet::from([RecordEpoch::new(2, 1)]);
        assert_eq!(*source.learned.lock(), learned);
    }

    #[test]
    fn flushall_keeps_the_record_however_it_is_sent() {
        let Some(server) = Server::start() else {
            return;
        };
        server.publish(FIRST);
        let mut client = builder(&server, &source()).build().unwrap();
        let flushes: [Flush<'_>; 6] = [
            &|client| cmd("FLUSHALL").query(client),
            &|client| cmd("flushall").arg("ASYNC").query(client),
            &|client| {
                redis::pipe()
                    .cmd("FLUSHALL")
                    .query::<(String,)>(client)
                    .map(|reply| reply.0)
            },
            &|client| {
                let mut pipe = redis::pipe();
                let pipe = pipe.atomic().cmd("SET").arg("{k}2").arg(1).cmd("FLUSHALL");
                let mut node = client.node("a").unwrap();
                pipe.query::<(String, String)>(&mut node)
                    .map(|reply| reply.1)
            },
            &|client| cmd("FLUSHALL").query(&mut client.node("a").unwrap()),
            &|client| cmd("FLUSHALL").query(&mut client.dedicated("k").unwrap()),
        ];
        for (number, flush) in flushes.iter().enumerate() {
            let () = client.set("k", "v").unwrap();
            assert_eq!(flush(&mut client).unwrap(), "OK", "{number}");
            let size: i64 = cmd("DBSIZE").query(&mut server.own()).unwrap();
            assert_eq!(size, 0, "{number}");
            let mut own = server.record_db();
            let size: i64 = cmd("DBSIZE").query(&mut own).unwrap();
            assert_eq!(size, 2, "the record and the topology, after {number}");
        }
        let mut dedicated = client.dedicated("k").unwrap();
        for words in [
            &["CLIENT", "SETNAME", "x"][..],
            &["RESET"],
            &["HELLO", "2", "SETNAME", "x"],
        ] {
            let refused = cmd(words[0])
                .arg(&words[1..])
                .exec(&mut dedicated)
                .unwrap_err();
            assert_eq!(ErrorKind::of(&refused), ErrorKind::Stateful, "{words:?}");
        }
        let swap = cmd("SWAPDB").arg(0).arg(15).take();
        let refused = swap.exec(&mut client.node("a").unwrap()).unwrap_err();
        assert_eq!(ErrorKind::of(&refused), ErrorKind::Unroutable);
    }
}
