//! A topology as text: what is written is read back, and what cannot be read is named by its line.

use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;
use redis_sharding::partition::{
    BytesTable, NumericTable, OptionValues, Partitioner, Placement, PlacementError, Range,
    Rendezvous, SlotMap, by_name, catalogue, from_fn,
};
use redis_sharding::redis::{ConnectionAddr, IntoConnectionInfo};
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, NodeSpec, ShardedClient, Topology, redis};

const ODD: &str = "a, \"b\" # c";

fn specs(names: &[&str]) -> Vec<NodeSpec> {
    let spec = |(i, name): (usize, &&str)| NodeSpec::new(*name, format!("10.0.0.{i}:6379"));
    names.iter().enumerate().map(spec).collect()
}

#[track_caller]
fn refusal(text: &str) -> String {
    let error = Topology::parse(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

/// The text is that of the topology that is read from it.
#[track_caller]
fn check(topology: &Topology) {
    let text = topology.to_string();
    let again = Topology::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    assert_eq!(again.to_string(), text);
    assert_eq!(again.fingerprint(), topology.fingerprint(), "{text}");
    assert_eq!(again.nodes(), topology.nodes(), "{text}");
    assert_eq!(again.hash_tag().name(), topology.hash_tag().name());
    for user in 0..200 {
        let key = format!("user:{user}");
        assert_eq!(
            again.locate(key.as_bytes()),
            topology.locate(key.as_bytes())
        );
    }
}

#[test]
fn topology_text_writes_range_tables_line_by_line() {
    let rule = Range::builder()
        .table(NumericTable::new("user:").range(..10, "a").range(10.., ODD))
        .table(
            BytesTable::new("\"=#")
                .range(.."n, ", "a")
                .range("n, ".., "b"),
        )
        .default_node("b")
        .build()
        .unwrap();
    let topology = Topology::new(specs(&["a", "b", ODD]), Arc::new(rule)).unwrap();
    check(&topology);
    let expected = r##"redis-sharding topology 1
fingerprint FINGERPRINT

placement range/1
option default = b
option bytes "\"=#" =
    | .."n, " a
    | "n, ".. b
option numeric "user:" =
    | 0..=9 a
    | 10.. "a, \"b\" # c"

node a              10.0.0.0:6379
node b              10.0.0.1:6379
node "a, \"b\" # c" 10.0.0.2:6379
"##;
    let fingerprint = format!("{:016x}", topology.fingerprint());
    assert_eq!(
        topology.to_string(),
        expected.replace("FINGERPRINT", &fingerprint)
    );
}

#[test]
fn topology_text_of_every_placement_is_parsed_back() {
    for entry in catalogue().iter().filter(|entry| entry.name != "range/1") {
        for option in entry.options {
            let values = match option.values {
                OptionValues::OneOf(words) => words.to_vec(),
                _ if option.name == "table-size" => vec!["13"],
                _ if option.name == "maximum-ring-size" => vec!["2000"],
                _ if option.name == "replicas" => vec!["2"],
                OptionValues::Number { .. } => vec!["12"],
                _ if option.name == "default-port" => vec!["none", "6379"],
                _ if option.name == "password" => vec!["none"],
                _ if option.name == "hash-tag" => {
                    vec!["any-two:#\\n", "none", "line-start:\\\"\\\""]
                }
                _ => vec!["even"],
            };
            for value in values {
                let mut options = vec![(option.name.to_owned(), value.to_owned())];
                if entry.name == "hash-mod/1" && option.name != "key-hash" {
                    options.push(("key-hash".to_owned(), "crc32".to_owned()));
                }
                let rule = by_name(entry.name, &options).unwrap();
                check(&Topology::new(specs(&["a", "b", "c"]), rule).unwrap());
            }
        }
    }
    let map = SlotMap::from_ranges([(0..=7, "a"), (8..=8, ODD), (9..=16383, "a")]).unwrap();
    check(&Topology::new(specs(&["a", ODD]), Arc::new(map)).unwrap());
}

#[test]
fn topology_text_accepts_addresses_of_every_kind() {
    let text = "redis-sharding topology 1
placement rendezvous/1
node [::1]:6379
node a [::1]:6380 weight=7
node localhost:6379          # named after its address
node /run/a.sock
node \"with space\" \"/run/b c.sock\"
node b redis://10.0.0.1
node rediss://app@[::1]:6381/#insecure
node c unix:///run/c.sock?db=0
node redis://x/0=redis://y redis://10.0.0.2:1/
";
    let topology = Topology::parse(text).unwrap();
    let nodes: Vec<_> = topology
        .nodes()
        .iter()
        .map(|node| {
            (
                node.name(),
                node.address(),
                node.is_named(),
                node.weight().get(),
            )
        })
        .collect();
    let expected = [
        ("[::1]:6379", "[::1]:6379", false, 1),
        ("a", "[::1]:6380", true, 7),
        ("localhost:6379", "localhost:6379", false, 1),
        ("/run/a.sock", "/run/a.sock", false, 1),
        ("with space", "/run/b c.sock", true, 1),
        ("b", "10.0.0.1:6379", true, 1),
        ("[::1]:6381", "[::1]:6381", false, 1),
        ("c", "/run/c.sock", true, 1),
        ("redis://x/0=redis://y", "10.0.0.2:1", true, 1),
    ];
    assert_eq!(nodes, expected);
    check(&topology);
    // What says no more than an address is written as one.
    let written = topology.to_string();
    assert!(
        written.contains("\nnode b                     10.0.0.1:6379\n"),
        "{written}"
    );
    assert!(
        written.contains("rediss://app@[::1]:6381/#insecure\n"),
        "{written}"
    );
}

#[test]
fn topology_text_of_a_client_opens_the_same_client() {
    let ipv6 = ConnectionAddr::Tcp("::1".into(), 7)
        .into_connection_info()
        .unwrap();
    let settings = redis::RedisConnectionInfo::default()
        .set_username("ann%40:e/")
        .set_password("s%e c:r@e/t?#")
        .set_db(2)
        .set_protocol(redis::ProtocolVersion::RESP3);
    let unix = ConnectionAddr::Unix("/run/a%20 b?.sock".into())
        .into_connection_info()
        .unwrap();
    let client = ShardedClient::builder()
        .node("a", "redis://10.0.0.1/2")
        .node("b", ipv6.set_redis_settings(settings.clone()))
        .unnamed_node(unix.set_redis_settings(settings))
        .weighted_node(
            "w",
            "redis://10.0.0.3:9/2?protocol=resp3",
            NonZeroU32::new(3).unwrap(),
        )
        .build()
        .unwrap();
    let topology = client.topology();
    check(&topology);
    let masked = topology.to_string();
    assert!(
        !masked.contains("s%25e") && !masked.contains("pass"),
        "{masked}"
    );
    assert!(!format!("{topology:?}").contains("s%"));

    let full = topology.text_with_passwords();
    let read = Topology::parse(&full).unwrap();
    assert_eq!(read.text_with_passwords(), full);
    assert_eq!(read.to_string(), masked);
    let again = ShardedClient::builder().topology(&read).build().unwrap();
    assert_eq!(again.topology().text_with_passwords(), full);
    assert_eq!(again.topology().fingerprint(), topology.fingerprint());

    // A password for those that have none.
    let text =
        "redis-sharding topology 1\nplacement ring/1\nnode redis://x:own@h:1\nnode redis://h:2\n";
    let client = ShardedClient::builder()
        .topology(&text.parse().unwrap())
        .password("all")
        .build()
        .unwrap();
    let written = client.topology().text_with_passwords();
    assert!(
        written.ends_with("node redis://x:own@h:1\nnode redis://:all@h:2\n"),
        "{written}"
    );
}

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
#[test]
fn topology_text_of_a_client_with_tls_keeps_rediss() {
    let client = ShardedClient::builder()
        .node("a", "rediss://10.0.0.1:6380/")
        .node("b", "rediss://app:secret@10.0.0.2:6380/#insecure")
        .build()
        .unwrap();
    check(&client.topology());
    let written = client.topology().to_string();
    let nodes = "node a rediss://10.0.0.1:6380\nnode b rediss://app@10.0.0.2:6380#insecure\n";
    assert!(written.ends_with(nodes), "{written}");
    let again = ShardedClient::builder()
        .topology(&client.topology())
        .build()
        .unwrap();
    let full = client.topology().text_with_passwords();
    assert!(full.contains("secret"));
    assert_eq!(again.topology().text_with_passwords(), full);
}

#[test]
fn quoted_address_in_a_topology_text_is_taken_literally() {
    let odd = [
        "localhost",
        "",
        "h:01",
        "[::0001]:7",
        "weight=2",
        "h",
        "#",
        "\u{feff}h:1",
        "u@h:1",
        "a b:1",
        "0.0.0.0:1",
    ];
    let nodes = odd
        .iter()
        .enumerate()
        .map(|(i, address)| NodeSpec::new(format!("n{i}"), *address));
    let nodes = nodes.chain([
        NodeSpec::unnamed("weight=3"),
        NodeSpec::unnamed("é\u{a0}\"#\\"),
    ]);
    let topology = Topology::new(nodes.collect(), Arc::new(Rendezvous::new())).unwrap();
    check(&topology);
    assert!(
        topology.to_string().contains("\nnode n0  \"localhost\"\n"),
        "{topology}"
    );

    // Nothing can be connected to it, which is said when it is tried.
    let text = "redis-sharding topology 1\nplacement ring/1\nnode a \"localhost\"\n";
    let refusal = ShardedClient::builder()
        .topology(&Topology::parse(text).unwrap())
        .build()
        .unwrap_err();
    assert!(
        refusal
            .to_string()
            .starts_with("node \"a\": the address is neither host:port "),
        "{refusal}"
    );
    // A URL is none, and would be read as another address.
    let node = vec![NodeSpec::new("a", "redis://10.0.0.1:6379/0")];
    let refusal = Topology::new(node, Arc::new(Rendezvous::new())).unwrap_err();
    assert!(
        refusal
            .to_string()
            .starts_with("the address of node \"a\" is a URL; "),
        "{refusal}"
    );
}

#[test]
fn client_is_opened_from_a_topology_text() {
    let nodes = TestNode::start_many(2).unwrap();
    let text = format!(
        "redis-sharding topology 1\nplacement ring/1\nnode a {}\nnode b {}\n",
        nodes[0].url(),
        nodes[1].url()
    );
    let topology = Topology::parse(&text).unwrap();
    let mut client = ShardedClient::builder()
        .topology(&topology)
        .build()
        .unwrap();
    for user in 0..10 {
        let () = redis::Commands::set(&mut client, format!("user:{user}"), user).unwrap();
    }
    let user: u32 = redis::Commands::get(&mut client, "user:7").unwrap();
    assert_eq!(user, 7);
}

#[test]
fn topology_parse_error_names_the_line() {
    let in_text = |line: &str| {
        refusal(&format!(
            "# comment\nredis-sharding topology 1\nplacement ring/1\nnode a h:1\n{line}\nnode b h:2"
        ))
    };
    let cases = [
        (
            "noed c h:3",
            "a line must begin with placement, option, node, fingerprint or cluster",
        ),
        (
            "node",
            "a node is an address, or a name and an address, and optionally weight=2 at the end",
        ),
        (
            "node c h 3",
            "a node is an address, or a name and an address, and optionally weight=2 at the end",
        ),
        (
            "node c h:3 weight=0",
            "the weight must be a whole number from 1 to 4294967295",
        ),
        (
            "node c h:3 weight=+1",
            "the weight must be a whole number from 1 to 4294967295",
        ),
        (
            "node a h:3",
            "the name \"a\" is taken by the node in line 4",
        ),
        (
            "node \"\" h:3",
            "a node has an empty name; give it one, as its keys are placed by it",
        ),
        ("node \"c h:3", "the quotes are not closed"),
        (
            "placement ring/1",
            "the placement was given in line 3 already",
        ),
        (
            "fingerprint 1",
            "a fingerprint must have 16 hexadecimal digits",
        ),
        ("option", "the name of the option is missing"),
        (
            "option hash=md5",
            "an option is written as name = value, with space around the =",
        ),
        ("option key-hash =", "the value of the option is missing"),
        (
            "option key-hash = md55",
            "key-hash of ring/1 is \"md55\", but must be crc16, ",
        ),
        (
            "option points = 1",
            "ring/1 has no option \"points\"; it has: points-per-weight, ",
        ),
        (
            "option points-per-weight = 0",
            "points-per-weight is 0, but must be in 1..=1024",
        ),
        (
            "| x",
            "a line must begin with placement, option, node, fingerprint or cluster",
        ),
    ];
    for (line, cause) in cases {
        let found = in_text(line);
        let number = if line.starts_with("node \"\"") { 3 } else { 5 };
        assert!(
            found.starts_with(&format!("line {number}: {cause}")),
            "{line}: {found}"
        );
    }
    let wrong = in_text("fingerprint 0123456789abcdef");
    assert!(
        wrong.starts_with("line 5: the fingerprint should be 0123456789abcdef, but the nodes")
            && wrong.ends_with(
                "keys would move. If they are meant to, change this line or leave it out"
            ),
        "{wrong}"
    );
    for address in [
        "h",
        "h:",
        ":1",
        "h:x",
        "h:65536",
        "::1:6379",
        "h:1/2",
        "u@h:1",
        "h:1?x",
        "http://h:1/",
        "redis://",
        "redis:///2",
        "redis://h/x",
        "redis://h?protocol=resp9",
        "rediss://h#secure",
    ] {
        let found = in_text(&format!("node c {address}"));
        assert!(found.starts_with("line 5: "), "{address}: {found}");
    }

    assert_eq!(
        refusal(""),
        "line 1: the first line must be \"redis-sharding topology 1\""
    );
    assert_eq!(
        refusal("\nnode a h:1"),
        "line 2: the first line must be \"redis-sharding topology 1\""
    );
    assert_eq!(
        refusal("redis-sharding topology 2\nwhatever"),
        "line 1: this version of the topology text is unknown; only version 1 can be read"
    );
    let head = "redis-sharding topology 1\n";
    assert_eq!(
        refusal(&format!("{head}option a = b")),
        "line 2: an option must follow its placement"
    );
    assert_eq!(
        refusal(&format!("{head}node a h:1")),
        "line 1: the line with the placement is missing"
    );
    assert_eq!(
        refusal(&format!("{head}\nplacement ring/1")),
        "line 3: no nodes to place keys on"
    );
    assert_eq!(
        refusal(&format!(
            "{head}placement go-redis-8/1\nnode a h:1\nnode b h:2 weight=2"
        )),
        "line 4: \"b\" weighs 2, but this rule has no weights: every node must weigh one"
    );
}

#[test]
fn topology_with_a_custom_partitioner_needs_parse_with() {
    let text = "redis-sharding topology 1\nplacement by-tenant/1\noption acme = a\nnode a h:1\n";
    assert_eq!(
        refusal(text),
        "line 2: no placement is called \"by-tenant/1\". A rule of your own is read with Topology::parse_with"
    );
    let other = Topology::parse_with(text, |_, _| Ok(Arc::new(Rendezvous::new())));
    assert_eq!(
        other.unwrap_err().to_string(),
        "line 2: \"by-tenant/1\" was made into \"rendezvous/1\""
    );
    let own = Topology::parse_with(text, |name, options| {
        assert_eq!(
            (name, options),
            ("by-tenant/1", &[("acme".into(), "a".into())][..])
        );
        Ok(Arc::new(Words(options.to_vec())))
    });
    let own = own.unwrap().to_string();
    assert!(own.contains("\noption acme = a\n"), "{own}");
}

#[test]
fn topology_parse_error_never_contains_a_password() {
    let secret = "s3cret";
    for line in [
        "node a redis://:s3cret@h:x/",
        "node a redis://:s3cret@h/x",
        "node a redis://:s3cret@h?protocol=s3cret",
        "node redis://:s3cret@h:1 h:1",
        "node a redis://:my s3cret@h:1 h:1",
        "node a redis://:my s3cret@h:1",
        "node a :s3cret@h:1",
        "node a http://:s3cret@h:1",
        "redis://:s3cret@h:1",
        "node a redis://:s3cret@h:1 weight=s3cret",
        "node \"a redis://:s3cret@h:1",
        "node a unix:///x?pass=s3cret&db=s3cret",
        "node a unix://?pass=s3cret",
        "node unix:///x?pass=s3cret h:1",
        "node a rediss://:s3cret@h:1#s3cret",
        "node redis://:s3cret@h:1 weight=2\nnode redis://:s3cret@h:1",
    ] {
        let text = format!("redis-sharding topology 1\nplacement ring/1\n{line}");
        let found = refusal(&text);
        assert!(!found.contains(secret), "{line}: {found}");
    }
}

/// A rule whose options are whatever they are.
#[derive(Clone, Debug)]
struct Words(Vec<(String, String)>);

impl Partitioner for Words {
    fn name(&self) -> &str {
        "by-tenant/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        self.0.clone()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        from_fn("first/1", |_, _| 0).place(nodes)
    }
}

fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\"#=|, \\\\\n\r\tab.\u{a0}]{0,12}",
        "( {0,2}[|a#\"]{0,2} {0,2}\n){1,3}",
        "[a-z]{1,5} \"[a-z:]{0,3}\"",
    ]
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..255_u8, 1..9999_u16).prop_map(|(host, port)| format!("10.0.0.{host}:{port}")),
        (1..0xffff_u16, 1..9999_u16).prop_map(|(host, port)| format!("[fe80::{host:x}]:{port}")),
        "/[a-z =#\"]{1,9}",
        "[a-z][a-z0-9.=-]{0,9}:[1-9][0-9]{0,3}",
        // What nothing can be connected to can be hashed all the same.
        odd_text(),
        "(\\[[0:fF]{0,8}\\]|[hH%.]{1,3}):0{0,2}[1-9]{1,6}",
        "[h:/\u{feff}@?=# weight]{0,12}",
        (1_000..4_000_usize).prop_map(|length| "é ".repeat(length)),
    ]
}

/// A host, a user or a password that somebody may have.
fn odd_word() -> impl Strategy<Value = String> {
    prop_oneof![
        odd_text(),
        "[a-z0-9.-]{1,9}",
        "[%@:/?#&=+;\\[\\]\"\\\\ é]{1,6}",
    ]
}

proptest! {
    #[test]
    fn random_topology_text_is_parsed_back(
        options in prop::collection::vec((odd_text(), odd_text()), 0..4),
        nodes in prop::collection::vec((odd_text(), address(), any::<bool>(), 1..100_u32), 1..5),
    ) {
        let nodes: Vec<NodeSpec> = nodes
            .into_iter()
            .map(|(name, address, named, weight)| {
                let node = if named { NodeSpec::new(name, address) } else { NodeSpec::unnamed(address) };
                node.with_weight(NonZeroU32::new(weight).unwrap())
            })
            .collect();
        // Two of one name, an empty one, what looks like a password, or a URL instead of an address.
        let Ok(topology) = Topology::new(nodes, Arc::new(Words(options))) else { return Ok(()) };
        let text = topology.to_string();
        let again = Topology::parse_with(&text, |_, options| Ok(Arc::new(Words(options.to_vec()))));
        let again = again.unwrap_or_else(|error| panic!("{error}:\n{text}"));
        prop_assert_eq!(again.fingerprint(), topology.fingerprint());
        prop_assert_eq!(again.nodes(), topology.nodes());
        prop_assert_eq!(again.partitioner().options(), topology.partitioner().options());
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn random_client_topology_text_keeps_everything_of_its_urls(
        nodes in prop::collection::vec(
            (odd_text(), any::<bool>(), odd_word(), 1..u16::MAX, any::<bool>(), any::<bool>()),
            1..4,
        ),
        user in prop::option::of(odd_word()),
        password in prop::option::of(odd_word()),
        (db, resp3) in (0..3_i64, any::<bool>()),
    ) {
        let mut settings = redis::RedisConnectionInfo::default().set_db(db);
        if let Some(user) = user.as_deref().filter(|user| !user.is_empty()) {
            settings = settings.set_username(user);
        }
        if let Some(password) = password.as_deref().filter(|password| !password.is_empty()) {
            settings = settings.set_password(password);
        }
        if resp3 {
            settings = settings.set_protocol(redis::ProtocolVersion::RESP3);
        }
        let rule = Rendezvous::new().with_slot_bits(4);
        let mut builder = ShardedClient::builder().partitioner(rule);
        for (name, named, host, port, unix, tls) in nodes {
            let address = match (unix, tls) {
                (true, _) => ConnectionAddr::Unix(format!("/{host}").into()),
                (false, true) if cfg!(any(feature = "tls-native-tls", feature = "tls-rustls")) => {
                    ConnectionAddr::TcpTls { host, port, insecure: named, tls_params: None }
                }
                (false, _) => ConnectionAddr::Tcp(host, port),
            };
            let info = address.into_connection_info().unwrap().set_redis_settings(settings.clone());
            builder = match named {
                true => builder.node(name, info),
                false => builder.unnamed_node(info),
            };
        }
        // Refused in words that name no password, or taken as a whole.
        let client = match builder.build() {
            Err(refusal) => {
                prop_assert_eq!(refusal.kind(), ErrorKind::Config);
                return Ok(());
            }
            Ok(client) => client,
        };
        let topology = client.topology();
        for text in [topology.to_string(), topology.text_with_passwords()] {
            let again = Topology::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
            prop_assert_eq!(again.fingerprint(), topology.fingerprint());
            prop_assert_eq!(again.nodes(), topology.nodes());
            prop_assert_eq!(again.to_string(), topology.to_string());
        }
        let full = topology.text_with_passwords();
        prop_assert_eq!(Topology::parse(&full).unwrap().text_with_passwords(), full);
    }

    #[test]
    fn random_usernames_and_passwords_are_written_to_a_topology_text(
        (user, password) in (any::<String>(), any::<String>()),
        odd in "[%@:/?#&=+;\\[\\]\"\\\\ é]{1,6}",
        unix in any::<bool>(),
    ) {
        let address = match unix {
            true => ConnectionAddr::Unix("/run/a b.sock".into()),
            false => ConnectionAddr::Tcp("10.0.0.1".into(), 1),
        };
        let settings = redis::RedisConnectionInfo::default()
            .set_username(format!("{odd}{user}"))
            .set_password(format!("{password}{odd}"));
        let info = address.into_connection_info().unwrap().set_redis_settings(settings);
        let rule = Rendezvous::new().with_slot_bits(4);
        let client = ShardedClient::builder().partitioner(rule).node("a", info).build().unwrap();
        let full = client.topology().text_with_passwords();
        let again = ShardedClient::builder().topology(&Topology::parse(&full).unwrap()).build().unwrap();
        prop_assert_eq!(again.topology().text_with_passwords(), full);
    }

    #[test]
    fn topology_parse_never_panics_on_arbitrary_text(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "node ", "option ", "placement ring/1\n", "fingerprint ", "a ", "h:1 ", "/x ", "weight=1", "=", " = ", "\"", "|",
                "#", "\n", "\n", "redis://", "@", "\\", "placement range/1\n",
            ]),
            0..30,
        ),
    ) {
        if let Ok(topology) = Topology::parse(&format!("redis-sharding topology 1\n{}", words.concat())) {
            let text = topology.to_string();
            prop_assert_eq!(Topology::parse(&text).unwrap().to_string(), text);
        }
    }
}
