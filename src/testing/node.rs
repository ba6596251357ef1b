//! One node inside the test process.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::database::Database;
use super::faults::Fault;
use super::listener::{self, Listener};
use super::received::ReceivedCommand;
use super::shared::{Run, Shared, lock};
use super::store::Store;
use crate::partition::NODES_MAX;

/// A server inside this process, on a free port of the loopback interface.
///
/// It stops when it is dropped. See the [module](super) for its abilities and limits.
#[derive(Debug)]
pub struct TestNode {
    /// Kept over [`stop`](Self::stop) and [`restart`](Self::restart).
    address: SocketAddr,
    password: Option<String>,
    /// Data and faults, which outlast a restart.
    shared: Arc<Shared>,
    /// The threads of the current run.
    running: Mutex<Running>,
}

/// The threads of a node.
#[derive(Debug, Default)]
struct Running {
    /// Ends the waits of all threads below; a new one for each run.
    run: Arc<Run>,
    /// `None` while connections are refused.
    listener: Option<Listener>,
    /// Threads of connections whose listener is closed; those of an open listener are kept there.
    connections: Vec<JoinHandle<()>>,
}

impl TestNode {
    /// Starts an empty node.
    ///
    /// # Errors
    ///
    /// If no port can be bound or no thread be started.
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Starts several empty nodes.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and if `count` exceeds [`NODES_MAX`].
    pub fn start_many(count: usize) -> io::Result<Vec<Self>> {
        if count > NODES_MAX {
            let text = format!("{count} test nodes are more than {NODES_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        (0..count).map(|_| Self::start()).collect()
    }

    /// Returns the options of a node to be started.
    pub fn builder() -> TestNodeBuilder {
        TestNodeBuilder::default()
    }

    /// Returns the address, which never changes.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns a URL for [`redis::Client::open`], with the password if there is one.
    pub fn url(&self) -> String {
        match &self.password {
            None => format!("redis://{}/", self.address),
            Some(password) => format!("redis://:{password}@{}/", self.address),
        }
    }

    /// Closes the port and all connections, like a server that is killed. The data is kept for
    /// [`restart`](Self::restart).
    ///
    /// Returns when all threads have ended; hanging and delayed replies are abandoned. Does nothing if the
    /// node is stopped.
    pub fn stop(&self) {
        let mut running = lock(&self.running);
        // First, so that no thread goes on waiting for a delay; then the port, so that no connection is
        // added; then the connections, whose readers end by it. Only then can the threads be joined.
        running.run.stop();
        self.close_port(&mut running);
        // After the port: a connection accepted in between would be missed.
        self.shared.close_all();
        for thread in running.connections.drain(..) {
            // A panic in a node's thread was printed by the panic hook already.
            let _ = thread.join();
        }
    }

    /// Stops the node if it runs, and starts it on the same port with the data that it had. Injected faults
    /// stay in force.
    ///
    /// # Errors
    ///
    /// If another process has taken the port in between.
    pub fn restart(&self) -> io::Result<()> {
        self.stop();
        let mut running = lock(&self.running);
        // A new run: the old one is stopped for good, and threads may still hold it.
        running.run = Arc::default();
        self.open_port(&mut running)
    }

    /// Stops the node if it runs, and starts it on the same port without data, like a server without
    /// persistence.
    ///
    /// # Errors
    ///
    /// As for [`restart`](Self::restart).
    pub fn restart_empty(&self) -> io::Result<()> {
        self.stop();
        // Between the runs, when no connection can see half of the change.
        lock(&self.shared.database).store = Store::default();
        self.restart()
    }

    /// Refuses new connections; open ones go on working. Undone by [`heal`](Self::heal).
    pub fn refuse_connections(&self) {
        self.close_port(&mut lock(&self.running));
    }

    /// Closes all open connections, as a server does with idle ones. New ones are accepted.
    pub fn close_connections(&self) {
        self.shared.close_all();
    }

    /// Injects a fault into the next command, except for those that only set up a connection: AUTH, CLIENT,
    /// HELLO, SELECT.
    pub fn fail_next(&self, fault: Fault) {
        self.fail_if(|command| !command.is_set_up(), fault, 1);
    }

    /// Injects a fault into the next `times` commands of this name. `usize::MAX` is for ever.
    pub fn fail(&self, name: &str, fault: Fault, times: usize) {
        let name = name.to_ascii_uppercase();
        self.fail_if(move |command| command.name() == name, fault, times);
    }

    /// Injects a fault into the next `times` commands for which `condition` is true. `usize::MAX` is for
    /// ever.
    ///
    /// Faults are tried in the order in which they were injected; the first that applies to a command is
    /// taken.
    pub fn fail_if(
        &self,
        condition: impl Fn(&ReceivedCommand) -> bool + Send + 'static,
        fault: Fault,
        times: usize,
    ) {
        lock(&self.shared.control)
            .script
            .add(Box::new(condition), fault, times);
    }

    /// Returns the number of injected faults that have not happened yet, except for those that are for ever.
    /// A test that injects a fault asserts by this that it has happened.
    pub fn faults_left(&self) -> usize {
        lock(&self.shared.control).script.left()
    }

    /// Injects a fault into every command from now on, those that set up a connection included.
    pub fn always(&self, fault: Fault) {
        self.fail_if(|_| true, fault, usize::MAX);
    }

    /// Removes all faults, and accepts connections again. A connection that hangs goes on hanging until it is
    /// closed.
    ///
    /// # Errors
    ///
    /// If connections were refused, and another process has taken the port in between.
    pub fn heal(&self) -> io::Result<()> {
        lock(&self.shared.control).script.clear();
        let mut running = lock(&self.running);
        match running.run.is_stopped() {
            // A stopped node stays stopped: `heal` only ends what `refuse_connections` began.
            true => Ok(()),
            false => self.open_port(&mut running),
        }
    }

    /// Returns the commands received, in order, except for those that only set up a connection: AUTH, CLIENT,
    /// HELLO, SELECT.
    ///
    /// Includes commands that were not applied because of a fault.
    pub fn received(&self) -> Vec<ReceivedCommand> {
        let mut received = self.received_all();
        received.retain(|command| !command.is_set_up());
        received
    }

    /// Returns all commands received, in order.
    pub fn received_all(&self) -> Vec<ReceivedCommand> {
        lock(&self.shared.control).received.clone()
    }

    /// Returns the number of commands received with this name.
    pub fn count_of(&self, name: &str) -> usize {
        let control = lock(&self.shared.control);
        let name = name.to_ascii_uppercase();
        control
            .received
            .iter()
            .filter(|command| command.name() == name)
            .count()
    }

    /// Removes the recorded commands.
    pub fn clear_received(&self) {
        lock(&self.shared.control).received.clear();
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        lock(&self.shared.control).open.len()
    }

    /// Returns the number of connections ever accepted.
    pub fn accepted(&self) -> u64 {
        lock(&self.shared.control).accepted
    }

    /// Returns the keys that exist now, sorted.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys = lock(&self.shared.database).store.keys();
        keys.sort();
        keys
    }

    /// Listens on the node's port, unless it does.
    fn open_port(&self, running: &mut Running) -> io::Result<()> {
        if running.listener.is_none() {
            let socket = listener::bind_again(self.address)?;
            running.listener = Some(Listener::start(
                socket,
                Arc::clone(&self.shared),
                Arc::clone(&running.run),
            )?);
        }
        Ok(())
    }

    /// Stops listening, and keeps the threads of the connections accepted so far.
    fn close_port(&self, running: &mut Running) {
        let closed = running.listener.take().map(Listener::close);
        running.connections.extend(closed.into_iter().flatten());
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Options of a [`TestNode`].
#[derive(Clone, Debug, Default)]
pub struct TestNodeBuilder {
    password: Option<String>,
}

impl TestNodeBuilder {
    /// Sets the password of the default user. Defaults to none.
    ///
    /// It becomes part of [`TestNode::url`] as it is: use letters and digits.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Starts the node.
    ///
    /// # Errors
    ///
    /// If no port can be bound or no thread be started.
    pub fn start(self) -> io::Result<TestNode> {
        let socket = listener::bind_free()?;
        let address = socket.local_addr()?;
        // The port is known by now, and INFO reports it.
        let shared = Arc::new(Shared::new(Database::new(address, self.password.clone())));
        let run = Arc::<Run>::default();
        let listener = Listener::start(socket, Arc::clone(&shared), Arc::clone(&run))?;
        Ok(TestNode {
            address,
            password: self.password,
            shared,
            running: Mutex::new(Running {
                run,
                listener: Some(listener),
                connections: Vec::new(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use redis::{Commands, Connection, ErrorKind, RedisResult, Value};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    fn connect(node: &TestNode) -> Connection {
        let client = redis::Client::open(node.url()).unwrap();
        let connection = client.get_connection().unwrap();
        connection.set_read_timeout(Some(SHORT)).unwrap();
        connection
    }

    fn set(connection: &mut Connection, value: &str) -> RedisResult<()> {
        connection.set("k", value)
    }

    fn stored(node: &TestNode) -> Option<String> {
        connect(node).get("k").unwrap()
    }

    /// Sends raw bytes, reads until the node closes or is silent for a while.
    fn talk(node: &TestNode, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(node.addr()).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        stream.write_all(request).unwrap();
        let (mut reply, mut byte) = (Vec::new(), [0]);
        while let Ok(1) = stream.read(&mut byte) {
            reply.push(byte[0]);
        }
        reply
    }

    #[test]
    fn close_before_and_close_after_differ_in_whether_the_write_was_applied() {
        let node = TestNode::start().unwrap();
        node.fail("SET", Fault::CloseBefore, 1);
        assert!(set(&mut connect(&node), "before").is_err());
        assert_eq!(stored(&node), None);
        node.fail("SET", Fault::CloseAfter, 1);
        assert!(set(&mut connect(&node), "after").is_err());
        assert_eq!(stored(&node).as_deref(), Some("after"));
        assert_eq!(node.count_of("set"), 2);
    }

    #[test]
    fn hang_fault_silences_only_its_connection() {
        let node = TestNode::start().unwrap();
        let mut hanging = connect(&node);
        node.fail_next(Fault::HangBefore);
        assert!(set(&mut hanging, "1").unwrap_err().is_timeout());
        node.heal().unwrap();
        assert!(set(&mut hanging, "2").is_err());
        assert_eq!(stored(&node), None);
        node.fail("SET", Fault::HangAfter, 1);
        assert!(set(&mut connect(&node), "3").unwrap_err().is_timeout());
        assert_eq!(stored(&node).as_deref(), Some("3"));
    }

    #[test]
    fn test_node_stops_at_once_while_hanging_delayed_or_blocked() {
        let node = TestNode::start().unwrap();
        let mut connections = [connect(&node), connect(&node), connect(&node)];
        node.fail_next(Fault::HangBefore);
        let _ = set(&mut connections[0], "1");
        node.fail_next(Fault::Delay(Duration::from_secs(100)));
        let _ = set(&mut connections[1], "2");
        let popped: RedisResult<Value> = connections[2].blpop("queue", 0.0);
        assert!(popped.is_err());
        let start = Instant::now();
        drop(node);
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn delay_fault_applies_the_write_at_once_and_replies_late() {
        let node = TestNode::start().unwrap();
        let mut slow = connect(&node);
        slow.set_read_timeout(None).unwrap();
        node.fail_next(Fault::Delay(SHORT));
        let start = Instant::now();
        set(&mut slow, "1").unwrap();
        assert!(start.elapsed() >= SHORT);
        node.fail("SET", Fault::Delay(SHORT * 3), 1);
        assert!(set(&mut connect(&node), "2").unwrap_err().is_timeout());
        assert_eq!(stored(&node).as_deref(), Some("2"));
    }

    #[test]
    fn endless_delay_fault_and_too_many_test_nodes_are_handled() {
        let node = TestNode::start().unwrap();
        node.fail("SET", Fault::Delay(Duration::MAX), 1);
        assert!(set(&mut connect(&node), "1").unwrap_err().is_timeout());
        node.fail("SET", Fault::Trickle(Duration::MAX), 1);
        assert!(set(&mut connect(&node), "2").unwrap_err().is_timeout());
        assert_eq!(node.count_of("SET"), 2);
        set(&mut connect(&node), "3").unwrap();
        for count in [NODES_MAX + 1, usize::MAX] {
            let refusal = TestNode::start_many(count).unwrap_err();
            assert_eq!(refusal.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(TestNode::start_many(0).unwrap().is_empty());
    }

    #[test]
    fn half_reply_faults_close_or_hang_after_half_a_reply() {
        let node = TestNode::start().unwrap();
        node.fail_next(Fault::HalfReplyThenClose);
        assert_eq!(talk(&node, b"ECHO 12345678\r\n"), b"$8\r\n123");
        node.fail_next(Fault::HalfReplyThenHang);
        assert_eq!(talk(&node, b"ECHO 12345678\r\nPING\r\n"), b"$8\r\n123");
    }

    #[test]
    fn trickle_fault_sends_the_whole_reply() {
        let node = TestNode::start().unwrap();
        node.fail_next(Fault::Trickle(Duration::from_millis(5)));
        let start = Instant::now();
        assert_eq!(
            talk(&node, b"ECHO 12345678\r\nQUIT\r\n"),
            b"$8\r\n12345678\r\n+OK\r\n"
        );
        assert!(start.elapsed() >= Duration::from_millis(5 * 14));
    }

    #[test]
    fn error_garbage_and_moved_faults_are_sent_as_given() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        node.fail_next(Fault::Error("LOADING wait".into()));
        assert_eq!(
            set(&mut connection, "1").unwrap_err().code(),
            Some("LOADING")
        );
        let to = "127.0.0.1:7001".parse().unwrap();
        node.fail_next(Fault::Moved { slot: 12, to });
        let moved = set(&mut connection, "1").unwrap_err();
        assert_eq!(moved.redirect_node(), Some(("127.0.0.1:7001", 12)));
        node.fail_next(Fault::Garbage(b"HTTP/1.1 400\r\n".to_vec()));
        let garbage = set(&mut connection, "1").unwrap_err();
        assert_eq!(garbage.kind(), ErrorKind::Parse);
        assert_eq!(stored(&node), None);
    }

    #[test]
    fn error_fault_in_a_transaction_causes_execabort() {
        let node = TestNode::start().unwrap();
        node.fail("SET", Fault::Error("OOM no".into()), 1);
        let reply = talk(&node, b"MULTI\r\nSET a 1\r\nSET b 1\r\nEXEC\r\nQUIT\r\n");
        let reply = String::from_utf8(reply).unwrap();
        assert!(
            reply.starts_with("+OK\r\n-OOM no\r\n+QUEUED\r\n-EXECABORT"),
            "{reply}"
        );
        assert!(node.keys().is_empty());
    }

    #[test]
    fn error_fault_on_exec_ends_the_transaction() {
        let node = TestNode::start().unwrap();
        node.fail("EXEC", Fault::Error("OOM no".into()), 1);
        let reply = talk(&node, b"MULTI\r\nSET a 1\r\nEXEC\r\nEXEC\r\nQUIT\r\n");
        let reply = String::from_utf8(reply).unwrap();
        let expected = "+OK\r\n+QUEUED\r\n-OOM no\r\n-ERR EXEC without MULTI\r\n+OK\r\n";
        assert_eq!(reply, expected);
        assert!(node.keys().is_empty());
    }

    #[test]
    fn faults_match_by_name_or_condition_in_order() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        node.fail("GET", Fault::Error("FIRST .".into()), 1);
        node.fail_if(
            |command| command.args().get(1).is_some_and(|key| key == b"k"),
            Fault::Error("SECOND .".into()),
            2,
        );
        let code = |result: RedisResult<()>| result.unwrap_err().code().map(str::to_owned);
        assert_eq!(node.faults_left(), 3);
        assert_eq!(code(connection.get("k")).as_deref(), Some("FIRST"));
        assert_eq!(node.faults_left(), 2);
        assert_eq!(code(connection.get("k")).as_deref(), Some("SECOND"));
        let () = connection.set("other", 1).unwrap();
        assert_eq!(code(set(&mut connection, "1")).as_deref(), Some("SECOND"));
        set(&mut connection, "1").unwrap();
        assert_eq!(node.faults_left(), 0);
        node.always(Fault::HangBefore);
        assert_eq!(node.faults_left(), 0);
    }

    #[test]
    fn test_node_keeps_port_and_data_over_restart_unless_restarted_empty() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        set(&mut connection, "1").unwrap();
        node.stop();
        node.stop();
        assert_eq!(node.connections(), 0);
        assert!(set(&mut connection, "2").is_err());
        assert!(TcpStream::connect(node.addr()).is_err());
        node.restart().unwrap();
        assert_eq!(stored(&node).as_deref(), Some("1"));
        node.restart_empty().unwrap();
        assert_eq!(stored(&node), None);
    }

    #[test]
    fn refuse_connections_leaves_open_connections_alone() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        node.refuse_connections();
        assert!(TcpStream::connect(node.addr()).is_err());
        set(&mut connection, "1").unwrap();
        node.heal().unwrap();
        assert_eq!(stored(&node).as_deref(), Some("1"));
        node.close_connections();
        assert!(set(&mut connection, "2").is_err());
        assert_eq!(node.accepted(), 2);
    }

    #[test]
    fn test_node_records_received_commands() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        set(&mut connection, "a\n").unwrap();
        let lines: Vec<String> = node.received().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["SET k a\\n"]);
        assert!(node.received_all().len() > 1);
        assert_eq!(node.received()[0].connection(), 1);
        node.clear_received();
        assert_eq!((node.count_of("set"), node.received().len()), (0, 0));
        assert_eq!((node.connections(), node.keys()), (1, vec![b"k".to_vec()]));
    }

    #[test]
    fn test_node_with_a_password_requires_auth() {
        let node = TestNode::builder().password("secret").start().unwrap();
        assert_eq!(
            talk(&node, b"GET k\r\nQUIT\r\n"),
            b"-NOAUTH Authentication required.\r\n+OK\r\n"
        );
        assert_eq!(stored(&node), None);
    }

    #[test]
    fn test_node_explains_an_unknown_command() {
        let node = TestNode::start().unwrap();
        let reply = String::from_utf8(talk(&node, b"zadd k 1 a\r\nQUIT\r\n")).unwrap();
        assert!(
            reply.starts_with("-ERR unknown command 'ZADD': this in-process test node does not"),
            "{reply}"
        );
    }

    #[test]
    fn test_node_wakes_blpop_on_rpush() {
        let node = TestNode::start().unwrap();
        let mut waiting = connect(&node);
        waiting.set_read_timeout(None).unwrap();
        let popper = std::thread::spawn(move || waiting.blpop("q", 0.0).unwrap());
        while node.count_of("BLPOP") == 0 {
            std::thread::yield_now();
        }
        let () = connect(&node).rpush("q", "a").unwrap();
        let popped: (String, String) = popper.join().unwrap();
        assert_eq!(popped, ("q".to_owned(), "a".to_owned()));
        let nothing: Option<(String, String)> = connect(&node).blpop("q", 0.01).unwrap();
        assert_eq!(nothing, None);
    }

    #[test]
    fn test_node_delivers_publish_to_channel_and_pattern_subscribers() {
        let node = TestNode::start().unwrap();
        for protocol in ["2", "3"] {
            let client =
                redis::Client::open(format!("{}?protocol=resp{protocol}", node.url())).unwrap();
            let mut connection = client.get_connection().unwrap();
            let mut listener = connection.as_pubsub();
            listener.subscribe("news").unwrap();
            listener.psubscribe("n*").unwrap();
            let heard: i64 = connect(&node).publish("news", "hi").unwrap();
            assert_eq!(heard, 2);
            let message = listener.get_message().unwrap();
            assert_eq!(
                (message.get_channel_name(), message.get_payload_bytes()),
                ("news", &b"hi"[..])
            );
            assert!(listener.get_message().unwrap().from_pattern());
        }
    }

    #[test]
    fn test_node_reads_a_whole_pipeline_before_replies_are_read() {
        let node = TestNode::start().unwrap();
        let mut connection = connect(&node);
        connection.set_read_timeout(None).unwrap();
        set(&mut connection, &"x".repeat(100_000)).unwrap();
        let mut pipeline = redis::pipe();
        for _ in 0..200 {
            pipeline.get("k");
            pipeline.set("other", "y".repeat(100_000)).ignore();
        }
        let values: Vec<String> = pipeline.query(&mut connection).unwrap();
        assert_eq!(values.len(), 200);
    }
}
