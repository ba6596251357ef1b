//! [`ClusterView`]: a cluster as one of its servers sees it.
//!
//! CLUSTER NODES has the ids, the roles, the epochs and the slots; CLUSTER SHARDS, or CLUSTER SLOTS before Redis 7, has
//! the endpoints that clients are to connect to. Neither of the latter has an epoch, without which an old answer cannot
//! be told from a new one, and SHARDS loses the slots of a shard whose servers are all dead.

use std::collections::HashMap;

use redis::{ServerError, Value};

use super::replies::{Endpoints, NodeLine, is_ok, node_lines};
use crate::error::ErrorKind;
use crate::hash::SLOTS;
use crate::partition::NODES_MAX;
use crate::topology::HostPort;

/// CLUSTER INFO, CLUSTER NODES and CLUSTER SHARDS.
const BY_SHARDS: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n\
    *2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n\
    *2\r\n$7\r\nCLUSTER\r\n$6\r\nSHARDS\r\n";

/// CLUSTER SLOTS.
const SLOTS_ONLY: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";

/// The largest number of servers of a cluster that are read: primaries and replicas.
pub(super) const SERVERS_MAX: usize = 4 * NODES_MAX;

/// What one server says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterView {
    /// True if it says that the cluster serves requests. If it does not, it may be cut off from the others.
    pub(super) is_ok: bool,
    /// In the order of the reply.
    pub(super) servers: Vec<ViewServer>,
}

/// One server of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ViewServer {
    /// Its id, which it keeps at another address.
    pub(super) id: String,
    pub(super) is_primary: bool,
    /// The id of its primary, of a replica.
    pub(super) primary: Option<String>,
    /// True if the primaries agree that it cannot be reached.
    pub(super) is_failing: bool,
    /// Its configuration epoch: of two primaries that claim a slot, the one with the larger epoch owns it.
    pub(super) epoch: u64,
    /// First and last slot of each range that it owns.
    pub(super) slots: Vec<(u16, u16)>,
    /// The address to connect to.
    pub(super) address: HostPort,
    /// All addresses under which it may be named, that one included.
    pub(super) aliases: Vec<HostPort>,
}

/// How a server is asked, and what its answer depends on.
pub(crate) struct ClusterQuestions<'q> {
    /// The address that the server was connected to.
    pub(crate) asked: &'q HostPort,
    /// True for a connection over TLS, whose port is another one.
    pub(crate) is_tls: bool,
    /// Turns an address as the servers name it into one that leads to the server from here.
    pub(crate) map_address: &'q dyn Fn(&HostPort) -> HostPort,
}

/// Why a server gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    /// What that means for a request that needs the map.
    pub(crate) kind: ErrorKind,
    pub(crate) why: String,
}

/// Which further question a server has to be asked, if it has not replied to the first ones with all that is needed.
#[derive(Clone, Debug)]
pub(crate) enum Questioned {
    Done(ClusterView),
    /// The server is older than CLUSTER SHARDS: its replies to INFO and NODES.
    AskSlots(Vec<Value>),
}

impl ClusterQuestions<'_> {
    /// The requests, to be sent in one write, and their number.
    pub(crate) const REQUESTS: (&'static [u8], usize) = (BY_SHARDS, 3);

    /// The request for a server that is older than CLUSTER SHARDS.
    pub(crate) const SLOTS_REQUEST: &'static [u8] = SLOTS_ONLY;

    /// Reads the replies to [`REQUESTS`](Self::REQUESTS).
    ///
    /// # Errors
    ///
    /// Why they say nothing about the cluster.
    pub(crate) fn answered(&self, mut replies: Vec<Value>) -> Result<Questioned, NoAnswer> {
        match replies.get(2) {
            Some(Value::ServerError(error)) if error.code() == "ERR" => {
                replies.truncate(2);
                // Of a server without a cluster rather than an old one.
                self.view(&replies, &Endpoints::default())?;
                Ok(Questioned::AskSlots(replies))
            }
            Some(Value::ServerError(error)) => Err(NoAnswer::refused(error)),
            Some(shards) => {
                let endpoints = Endpoints::of_shards(shards, self.is_tls)?;
                self.view(&replies, &endpoints).map(Questioned::Done)
            }
            None => Err("its replies are incomplete".into()),
        }
    }

    /// Reads the reply to [`SLOTS_REQUEST`](Self::SLOTS_REQUEST), after those to INFO and NODES.
    ///
    /// # Errors
    ///
    /// Why they say nothing about the cluster.
    pub(crate) fn answered_slots(
        &self,
        replies: &[Value],
        slots: &Value,
    ) -> Result<ClusterView, NoAnswer> {
        if let Value::ServerError(error) = slots {
            return Err(NoAnswer::refused(error));
        }
        self.view(replies, &Endpoints::of_slots(slots)?)
    }

    /// The view of the server with these replies to INFO and NODES.
    fn view(&self, replies: &[Value], endpoints: &Endpoints) -> Result<ClusterView, NoAnswer> {
        let [info, nodes, ..] = replies else {
            return Err("its replies are incomplete".into());
        };
        let refused = [info, nodes].into_iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(NoAnswer::refused(error)),
            _ => None,
        });
        if let Some(why) = refused {
            return Err(why);
        }
        let is_ok = is_ok(info)?;
        let mut servers: Vec<ViewServer> = Vec::new();
        // A server that was reset and joined again is listed with its former id as well.
        let mut by_id: HashMap<String, usize> = HashMap::new();
        for line in node_lines(nodes)? {
            let line = line?;
            if servers.len() >= SERVERS_MAX {
                return Err(format!("it lists more than {SERVERS_MAX} servers").into());
            }
            if line.is_unknown {
                continue;
            }
            if let Some(server) = self.server(line, endpoints)
                && by_id.insert(server.id.clone(), servers.len()).is_none()
            {
                servers.push(server);
            }
        }
        Ok(ClusterView { is_ok, servers })
    }

    /// A server. `None` if it has no address.
    fn server(&self, line: NodeLine<'_>, endpoints: &Endpoints) -> Option<ViewServer> {
        let endpoint = endpoints.of(line.id);
        let port = endpoint.and_then(|endpoint| endpoint.port).or(line.port)?;
        let endpoint_host = endpoint.map(|endpoint| &endpoint.host);
        let host = match endpoint_host {
            // No CLUSTER SHARDS, or one that does not list it yet.
            None => line.ip,
            Some(None) => None,
            // A name is wanted, and the server has none.
            Some(Some(host)) if host == "?" => line.ip,
            Some(Some(host)) => Some(host.as_str()),
        };
        // "The host that this connection was made to".
        let host = host.unwrap_or(&self.asked.host);
        let named = HostPort::new(host, port)?;
        let address = (self.map_address)(&named);
        let mut aliases = vec![address.clone()];
        let mut add = |alias: Option<HostPort>| {
            if let Some(alias) = alias
                && !aliases.contains(&alias)
            {
                aliases.push(alias);
            }
        };
        add(Some(named));
        let ports = [Some(port), line.port];
        let hosts = [line.ip, line.hostname];
        for port in ports.into_iter().flatten() {
            for host in hosts.into_iter().flatten() {
                let named = HostPort::new(host, port);
                add(named.as_ref().map(self.map_address));
                add(named);
            }
        }
        if line.is_myself {
            add(Some(self.asked.clone()));
        }
        Some(ViewServer {
            id: line.id.to_owned(),
            is_primary: line.is_primary,
            primary: line.primary.map(str::to_owned),
            is_failing: line.is_failing,
            epoch: line.epoch,
            slots: line.slots,
            address,
            aliases,
        })
    }
}

impl ClusterView {
    /// True if it says that the cluster serves requests.
    pub(crate) fn is_ok(&self) -> bool {
        self.is_ok
    }

    /// Number of slots that have an owner.
    pub(crate) fn slots_owned(&self) -> usize {
        let owners = self.owners();
        owners.iter().filter(|owner| owner.is_some()).count()
    }

    /// The position of each slot's owner among the servers.
    pub(super) fn owners(&self) -> Vec<Option<usize>> {
        let mut owners: Vec<Option<usize>> = vec![None; usize::from(SLOTS)];
        for (position, server) in self.servers.iter().enumerate() {
            if !server.is_primary {
                continue;
            }
            for &(first, last) in &server.slots {
                for slot in first..=last {
                    let owner = &mut owners[usize::from(slot)];
                    let is_newer = owner.is_none_or(|other| {
                        let other = &self.servers[other];
                        server.epoch > other.epoch
                    });
                    if is_newer {
                        *owner = Some(position);
                    }
                }
            }
        }
        owners
    }
}

impl NoAnswer {
    /// A server has refused a question.
    fn refused(error: &ServerError) -> Self {
        let details = error.details().unwrap_or_default();
        if details.contains("cluster support disabled") {
            return Self {
                kind: ErrorKind::Config,
                why: "it is no server of a cluster: its setting `cluster-enabled` is no; such servers are given to \
                      `Builder::node`"
                    .into(),
            };
        }
        let (kind, hint) = match error.code() {
            "NOAUTH" | "WRONGPASS" => (
                ErrorKind::Auth,
                "; check `Builder::username`, `Builder::password` or `Builder::credentials`, or the username and \
                 password in the URL of the first server",
            ),
            "NOPERM" => (
                ErrorKind::Auth,
                "; its user needs `+cluster|info +cluster|nodes +cluster|shards +cluster|slots`",
            ),
            _ => (ErrorKind::NodeDown, ""),
        };
        Self {
            kind,
            why: format!("{} {details}{hint}", error.code()),
        }
    }
}

/// Of a server whose replies cannot be read.
impl From<String> for NoAnswer {
    fn from(why: String) -> Self {
        Self {
            kind: ErrorKind::NodeDown,
            why,
        }
    }
}

impl From<&str> for NoAnswer {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const REDIS_7: &str = include_str!("recorded/redis-7.0.15-resp2.txt");
    const REDIS_7_RESP3: &str = include_str!("recorded/redis-7.0.15-resp3.txt");
    const REDIS_7_HOSTNAME: &str = include_str!("recorded/redis-7.0.15-hostname-resp2.txt");
    const REDIS_7_UNKNOWN: &str = include_str!("recorded/redis-7.0.15-unknown-endpoint-resp2.txt");
    const REDIS_8: &str = include_str!("recorded/redis-8.2.3-resp2.txt");
    const REDIS_8_RESP3: &str = include_str!("recorded/redis-8.2.3-resp3.txt");
    const VALKEY_9: &str = include_str!("recorded/valkey-9.1.2-resp2.txt");
    const VALKEY_9_RESP3: &str = include_str!("recorded/valkey-9.1.2-resp3.txt");

    /// The replies to CLUSTER INFO, NODES, SHARDS and SLOTS of the second of three primaries, of which the first has a
    /// replica.
    fn recorded(file: &str) -> Vec<Value> {
        let mut bytes = file.as_bytes();
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let length = (1..=bytes.len())
                .find(|&length| redis::parse_redis_value(&bytes[..length]).is_ok())
                .unwrap();
            replies.push(redis::parse_redis_value(&bytes[..length]).unwrap());
            bytes = &bytes[length..];
        }
        assert_eq!(replies.len(), 4);
        replies
    }

    pub(in crate::topology::cluster) fn at(host: &str, port: u16) -> HostPort {
        HostPort::new(host, port).unwrap()
    }

    fn asked(asked: &HostPort) -> ClusterQuestions<'_> {
        ClusterQuestions {
            asked,
            is_tls: false,
            map_address: &HostPort::clone,
        }
    }

    fn by_shards(server: &HostPort, mut replies: Vec<Value>) -> Result<ClusterView, NoAnswer> {
        replies.truncate(3);
        match asked(server).answered(replies)? {
            Questioned::Done(view) => Ok(view),
            Questioned::AskSlots(_) => Err("CLUSTER SLOTS is asked for".into()),
        }
    }

    fn by_slots(server: &HostPort, replies: &[Value]) -> Result<ClusterView, NoAnswer> {
        let unknown = crate::error::server_error("ERR", "unknown subcommand 'SHARDS'");
        let known = vec![
            replies[0].clone(),
            replies[1].clone(),
            Value::ServerError(unknown),
        ];
        match asked(server).answered(known)? {
            Questioned::AskSlots(known) => asked(server).answered_slots(&known, &replies[3]),
            Questioned::Done(_) => Err("CLUSTER SLOTS is not asked for".into()),
        }
    }

    fn addresses(view: &ClusterView) -> Vec<String> {
        let mut addresses: Vec<String> = view
            .servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        addresses.sort_unstable();
        addresses
    }

    #[test]
    fn cluster_nodes_shards_and_slots_of_redis_and_valkey_are_read_in_resp2_and_resp3() {
        for (file, port) in [
            (REDIS_7, 21500),
            (REDIS_7_RESP3, 21500),
            (REDIS_8, 21510),
            (REDIS_8_RESP3, 21510),
            (VALKEY_9, 21520),
            (VALKEY_9_RESP3, 21520),
        ] {
            let server = at("localhost", port + 1);
            let replies = recorded(file);
            let view = by_shards(&server, replies.clone()).unwrap();
            assert_eq!(
                view,
                by_slots(&server, &replies).unwrap(),
                "by CLUSTER SLOTS"
            );
            assert!(view.is_ok() && view.slots_owned() == usize::from(SLOTS));
            let owners = view.owners();
            for (number, slots) in [(0, 0..=5460), (1, 5461..=10922), (2, 10923..=16383)] {
                let owner = owners[*slots.start()].unwrap();
                assert!(slots.clone().all(|slot| owners[slot] == Some(owner)));
                let primary = &view.servers[owner];
                assert_eq!(primary.address, at("127.0.0.1", port + number));
                assert_eq!(primary.epoch, u64::from(number) + 1);
                assert!(primary.is_primary && !primary.is_failing && primary.id.len() == 40);
            }
            let replica = view
                .servers
                .iter()
                .find(|server| !server.is_primary)
                .unwrap();
            assert_eq!(replica.address, at("127.0.0.1", port + 3));
            assert!(replica.slots.is_empty());
            // Under the address that it was asked at, too.
            let itself = view
                .servers
                .iter()
                .find(|other| other.aliases.contains(&server));
            assert_eq!(itself.unwrap().address.port, port + 1);
        }
    }

    #[test]
    fn cluster_servers_are_reached_by_their_host_names_if_the_cluster_wants_that() {
        let server = at("10.0.0.9", 21501);
        let replies = recorded(REDIS_7_HOSTNAME);
        for view in [
            by_shards(&server, replies.clone()).unwrap(),
            by_slots(&server, &replies).unwrap(),
        ] {
            // The others have no name: `?`.
            assert_eq!(
                addresses(&view),
                [
                    "127.0.0.1:21501",
                    "127.0.0.1:21502",
                    "127.0.0.1:21503",
                    "one.example:21500"
                ]
            );
            let named = view
                .servers
                .iter()
                .find(|server| server.address.port == 21500);
            assert!(named.unwrap().aliases.contains(&at("127.0.0.1", 21500)));
        }
    }

    #[test]
    fn cluster_servers_without_an_endpoint_are_reached_at_the_host_that_was_asked() {
        let server = at("10.0.0.9", 21501);
        let replies = recorded(REDIS_7_UNKNOWN);
        for view in [
            by_shards(&server, replies.clone()).unwrap(),
            by_slots(&server, &replies).unwrap(),
        ] {
            let expected = [21500, 21501, 21502].map(|port| format!("10.0.0.9:{port}"));
            // Replicas without data are not in the reply to CLUSTER SLOTS.
            assert_eq!(addresses(&view)[..3], expected);
        }
    }

    #[test]
    fn cluster_addresses_are_mapped_and_known_as_they_are_named_as_well() {
        let server = at("gateway", 31501);
        let questions = ClusterQuestions {
            map_address: &|named| at("gateway", named.port + 10_000),
            ..asked(&server)
        };
        let mut replies = recorded(REDIS_7);
        replies.truncate(3);
        let Ok(Questioned::Done(view)) = questions.answered(replies) else {
            panic!("CLUSTER SHARDS is there");
        };
        for server in &view.servers {
            assert_eq!(server.address.host, "gateway");
            let named = at("127.0.0.1", server.address.port - 10_000);
            assert!(server.aliases.contains(&named), "{server:?}");
        }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    /// The view of a server of which these lines and shards are the reply.
    fn view_of(nodes: &str, shards: Value, is_tls: bool) -> Result<ClusterView, NoAnswer> {
        let server = at("seed", 7000);
        let questions = ClusterQuestions {
            is_tls,
            ..asked(&server)
        };
        let replies = vec![bulk("cluster_state:ok\r\n"), bulk(nodes), shards];
        match questions.answered(replies)? {
            Questioned::Done(view) => Ok(view),
            Questioned::AskSlots(_) => Err("CLUSTER SLOTS is asked for".into()),
        }
    }

    #[test]
    fn cluster_node_lines_are_read_in_all_their_forms() {
        let none = || Value::Array(Vec::new());
        let address = |line: &str| {
            let view = view_of(line, none(), false).unwrap();
            view.servers
                .first()
                .map(|server| server.address.to_string())
        };
        for (line, expected) in [
            (
                "a 2001:db8::1:7000@17000 master - 0 0 1 connected",
                Some("[2001:db8::1]:7000"),
            ),
            (
                "a 10.0.0.1:7000 master - 0 0 1 connected 5",
                Some("10.0.0.1:7000"),
            ),
            (
                "a 10.0.0.1:7000@17000,h.example,shard-id=f master - 0 0 1 connected",
                Some("10.0.0.1:7000"),
            ),
            (
                "a 10.0.0.1:7000@17000,,tls-port=1 slave,fail b 0 0 1 connected",
                Some("10.0.0.1:7000"),
            ),
            (
                "a :7000@17000 myself,master - 0 0 1 connected 0-16383",
                Some("seed:7000"),
            ),
            ("a :0@0 master,noaddr - 0 0 1 disconnected", None),
            ("a 10.0.0.1:7000@17000 handshake - 0 0 0 connected", None),
            ("\n", None),
        ] {
            assert_eq!(address(line).as_deref(), expected, "{line:?}");
        }
        let moving = "a 1.1.1.1:7@1 master - 0 0 9 connected 1 3-5 [7->-b] [9-<-c]";
        let view = view_of(moving, none(), false).unwrap();
        assert_eq!(view.servers[0].slots, [(1, 1), (3, 5)]);
        for wrong in [
            "a 1.1.1.1:7@1 master - 0 0 9 connected 16384",
            "a 1.1.1.1:7@1 master - 0 0 9 connected 5-3",
            "a 1.1.1.1:7@1 master - 0 0 -1 connected 5",
            "a nowhere master - 0 0 1 connected 5",
            "a 1.1.1.1:7@1",
        ] {
            let lines = format!("b 1.1.1.2:7@1 master - 0 0 9 connected\n{wrong}\n");
            let why = view_of(&lines, none(), false).unwrap_err();
            assert_eq!(
                why.why, "line 2 of its reply to CLUSTER NODES cannot be read",
                "{wrong}"
            );
        }
    }

    #[test]
    fn cluster_shards_give_the_port_of_tls_to_connections_over_tls() {
        let node = |ports: &[(&str, i64)]| {
            let mut fields = vec![bulk("id"), bulk("a"), bulk("endpoint"), bulk("h.example")];
            fields.extend(
                ports
                    .iter()
                    .flat_map(|(name, port)| [bulk(name), Value::Int(*port)]),
            );
            let nodes = Value::Array(vec![Value::Array(fields)]);
            Value::Array(vec![Value::Array(vec![bulk("nodes"), nodes])])
        };
        let line = "a 10.0.0.1:7000@17000 master - 0 0 1 connected 0-16383";
        for (ports, is_tls, expected) in [
            (&[("port", 1), ("tls-port", 2)][..], false, 1),
            (&[("port", 1), ("tls-port", 2)], true, 2),
            (&[("port", 1)], true, 1),
            (&[("tls-port", 2)], false, 2),
            (&[("port", 0), ("tls-port", 2)], false, 2),
            (&[("port", 70_000)], false, 7000),
            (&[], false, 7000),
        ] {
            let view = view_of(line, node(ports), is_tls).unwrap();
            assert_eq!(
                view.servers[0].address,
                at("h.example", expected),
                "{ports:?}"
            );
        }
    }

    #[test]
    fn cluster_slot_claimed_twice_belongs_to_the_primary_of_the_larger_epoch() {
        let lines = "a 10.0.0.1:7@1 master - 0 0 4 connected 0-9\n\
                     b 10.0.0.2:7@1 slave a 0 0 9 connected 0-9\n\
                     c 10.0.0.3:7@1 master - 0 0 5 connected 5-20\n";
        let view = view_of(lines, Value::Array(Vec::new()), false).unwrap();
        let owners = view.owners();
        assert_eq!(owners[4], Some(0));
        assert_eq!(owners[5], Some(2));
        assert_eq!((view.slots_owned(), owners[21]), (21, None));
    }

    #[test]
    fn cluster_questions_that_are_refused_name_the_reason_and_the_remedy() {
        let server = at("10.0.0.1", 7000);
        let refused = |code: &str, text: &str| {
            let error = Value::ServerError(crate::error::server_error(code, text));
            let replies = vec![error.clone(), error.clone(), error];
            let NoAnswer { kind, why } = asked(&server).answered(replies).unwrap_err();
            (kind, why)
        };
        let (kind, plain) = refused("ERR", "This instance has cluster support disabled");
        assert!(
            plain.contains("cluster-enabled") && plain.contains("Builder::node"),
            "{plain}"
        );
        assert_eq!(kind, ErrorKind::Config);
        let loading = "LOADING Redis is loading the dataset in memory";
        let (code, text) = loading.split_once(' ').unwrap();
        assert_eq!(refused(code, text), (ErrorKind::NodeDown, loading.into()));
        let (kind, denied) = refused("NOPERM", "this user has no permissions");
        assert!(denied.contains("+cluster|nodes"), "{denied}");
        assert_eq!(kind, ErrorKind::Auth);
        let (kind, denied) = refused("NOAUTH", "Authentication required.");
        assert!(denied.contains("Builder::password"), "{denied}");
        assert_eq!(kind, ErrorKind::Auth);
        let incomplete = asked(&server).answered(vec![Value::Okay]).unwrap_err();
        assert_eq!(incomplete, "its replies are incomplete".into());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let words = prop::sample::select(vec![
            "nodes",
            "id",
            "endpoint",
            "port",
            "tls-port",
            "slots",
            "a",
            "?",
            "",
            "7000",
            "cluster_state:ok",
            "a 10.0.0.1:7000@17000 master - 0 0 1 connected 0-16383",
            "a :0@0 master - 0 0 1 x 5",
            "é\u{7f}",
        ]);
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            words.prop_map(bulk),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            any::<f64>().prop_map(Value::Double),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Set),
                prop::collection::vec((inner.clone(), inner), 0..6).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn cluster_replies_of_any_form_are_read_or_refused(
            replies in prop::collection::vec(any_value(), 0..5),
            slots in any_value(),
        ) {
            let server = at("10.0.0.1", 7000);
            let _ = asked(&server).answered(replies.clone());
            let _ = asked(&server).answered_slots(&replies, &slots);
        }

        #[test]
        fn cluster_replies_with_changed_bytes_are_read_or_refused(
            at_byte in 0..2000_usize,
            byte in any::<u8>(),
            length in 0..2000_usize,
        ) {
            static REPLIES: LazyLock<Vec<Value>> = LazyLock::new(|| recorded(VALKEY_9));
            let mut replies = REPLIES.clone();
            for reply in &mut replies {
                if let Value::BulkString(bytes) = reply {
                    if let Some(changed) = bytes.get_mut(at_byte) {
                        *changed = byte;
                    }
                    bytes.truncate(length.max(at_byte));
                }
            }
            let server = at("10.0.0.1", 7000);
            if let Ok(view) = by_shards(&server, replies.clone()) {
                prop_assert!(view.slots_owned() <= usize::from(SLOTS));
            }
            let _ = by_slots(&server, &replies);
        }
    }
}
