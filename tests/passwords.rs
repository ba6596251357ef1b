//! Passwords stand in the URLs of nodes. Where they would be shown they are refused, and what is refused is not repeated.

use std::sync::Arc;

use proptest::prelude::*;
use redis_sharding::partition::{
    BytesTable, NumericTable, Partitioner, Placement, PlacementError, Range, Rendezvous, Ring,
    SlotMap, by_name, catalogue, from_fn,
};
use redis_sharding::redis::{ConnectionAddr, IntoConnectionInfo};
use redis_sharding::{Builder, ErrorKind, NodeSpec, ShardedClient, Topology};

const SECRET: &str = "s3cret";

/// Texts with a password, as somebody may give them for the name or the address of a node.
const TEXTS: [&str; 16] = [
    "redis://:s3cret@h:99999",
    "redis://:s3cret@h:1",
    "redis://app:s3cret@h:1/2",
    "rediss://app:s3cret@h",
    "redis+unix://:s3cret@/x",
    "unix:///x?pass=s3cret",
    "unix:///x?db=1&p%61ss=s3cret",
    "redis://h:1?password=s3cret",
    "h:1?password=s3cret",
    "?password=s3cret",
    "redis://:s3cret",
    "redis://:my s3cret@h:1",
    "redis://app:a/b#c?s3cret@h:1",
    ":s3cret@h:1",
    "app:s3cret@h",
    "h:6379,ssl=true,password=s3cret",
];

#[track_caller]
fn assert_hidden(what: &str, text: &str) {
    assert!(!text.contains(SECRET), "{what}: {text}");
    assert!(text.contains("password"), "{what}: {text}");
}

fn specs(name: &str, address: &str) -> Vec<NodeSpec> {
    vec![NodeSpec::new("a", "h:1"), NodeSpec::new(name, address)]
}

#[test]
fn builder_refuses_a_password_in_a_node_name() {
    let builders: [fn(&str) -> Builder; 3] = [
        |name| {
            ShardedClient::builder()
                .node("a", "redis://h:1")
                .node(name, "redis://h:2")
        },
        |name| {
            let two = std::num::NonZeroU32::new(2).unwrap();
            ShardedClient::builder().weighted_node(name, "redis://h:2", two)
        },
        // The URL is wrong as well: the name is not repeated.
        |name| ShardedClient::builder().node(name, "http://h:2"),
    ];
    for text in TEXTS {
        for builder in builders {
            assert_hidden(text, &format!("{:?} password", builder(text)));
            let refusal = builder(text).build().unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::Config);
            assert_hidden(text, &refusal.to_string());
        }
    }
}

#[test]
fn builder_refuses_a_password_in_a_host_or_path() {
    for address in [
        ConnectionAddr::Tcp("app:s3cret@h".into(), 1),
        ConnectionAddr::Tcp(":s3cret@h".into(), 1),
        ConnectionAddr::Unix("/run/a.sock?pass=s3cret".into()),
    ] {
        let info = address.into_connection_info().unwrap();
        let named = ShardedClient::builder().node("a", info.clone());
        let unnamed = ShardedClient::builder().unnamed_node(info);
        for builder in [named, unnamed] {
            let refusal = builder.build().unwrap_err();
            assert_hidden("address", &refusal.to_string());
        }
    }
}

#[test]
fn builder_error_does_not_repeat_an_invalid_url() {
    for url in [
        "redis://:s3cret@h:99999",
        "redis://:s3cret@h/x",
        "redis://:s3cret@h?protocol=s3cret",
        "http://:s3cret@h",
        "rediss://:s3cret@h#s3cret",
        "s3cret",
        "unix://?pass=s3cret",
    ] {
        for builder in [
            ShardedClient::builder().node("a", url),
            ShardedClient::builder().unnamed_node(url),
        ] {
            let refusal = builder.build().unwrap_err().to_string();
            assert!(!refusal.contains(SECRET), "{url}: {refusal}");
            assert!(refusal.starts_with("node "), "{refusal}");
        }
    }
}

#[test]
fn topology_refuses_a_password_in_a_name_or_address() {
    for text in TEXTS {
        for nodes in [
            specs(text, "h:2"),
            specs("b", text),
            vec![NodeSpec::unnamed(text)],
            // Other mistakes do not come first.
            vec![NodeSpec::new(text, "h:1"), NodeSpec::new(text, "h:1")],
            vec![NodeSpec::new("", text)],
        ] {
            assert_hidden(text, &format!("{nodes:?} password"));
            let refusal = Topology::new(nodes, Arc::new(Rendezvous::new())).unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::Config);
            assert_hidden(text, &refusal.to_string());
        }
    }
}

#[test]
fn every_placement_refuses_a_password_in_a_name_or_address() {
    let heavy = std::num::NonZeroU32::new(2).unwrap();
    for entry in catalogue() {
        let options: &[(&str, &str)] = match entry.name {
            "hash-mod/1" => &[("key-hash", "crc32")],
            "range/1" => &[("numeric \"\"", "0.. a")],
            _ => &[],
        };
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let rule = by_name(entry.name, &options).unwrap();
        for text in TEXTS {
            for mut nodes in [specs(text, "h:2"), specs("b", text)] {
                for weight in [std::num::NonZeroU32::MIN, heavy] {
                    nodes[1] = nodes[1].clone().with_weight(weight);
                    let refusal = rule.place(&nodes).unwrap_err();
                    assert!(
                        matches!(refusal, PlacementError::Password { .. }),
                        "{refusal:?}"
                    );
                    assert_hidden(text, &refusal.to_string());
                }
            }
        }
    }
}

/// A rule whose name and options are whatever they are.
#[derive(Clone, Debug)]
struct Words(String, Vec<(String, String)>);

impl Partitioner for Words {
    fn name(&self) -> &str {
        &self.0
    }

    fn options(&self) -> Vec<(String, String)> {
        self.1.clone()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        from_fn("first/1", |_, _| 0).place(nodes)
    }
}

#[test]
fn placement_option_with_a_password_in_a_url_is_refused() {
    let urls = TEXTS.into_iter().filter(|text| text.contains("://"));
    for url in urls {
        for (name, value) in [("acme", url), (url, "a")] {
            let options = vec![(name.to_owned(), value.to_owned())];
            let rule = Words("by-tenant/1".into(), options.clone());
            let nodes = vec![NodeSpec::new("a", "h:1")];
            let refusal = Topology::new(nodes.clone(), Arc::new(rule)).unwrap_err();
            assert_hidden(url, &refusal.to_string());
            let rule = Words(url.into(), Vec::new());
            let refusal = Topology::new(nodes, Arc::new(rule)).unwrap_err();
            assert_hidden(url, &refusal.to_string());
            for placement in ["ring/1", "range/1", "slot-map/1", "twemproxy-ketama/1", url] {
                let refusal = by_name(placement, &options).unwrap_err();
                assert_hidden(url, &refusal.to_string());
            }
        }
    }
}

#[test]
fn range_and_slot_map_tables_refuse_a_password() {
    let words = |text: &str| {
        let quoted = format!("{text:?}");
        [
            format!("numeric \"user:\"\n0.. {quoted}"),
            format!("default {quoted}\nnumeric \"user:\"\n0.. a"),
            format!("numeric \"user:\"\n0.. a\ndefault {quoted}"),
            format!("bytes \"\"\n.. {quoted}"),
            format!("numeric \"a\"\n{text} a"),
            format!("numeric \"a\"\n0.. a {text}"),
            format!("numeric \"a\"\n0..=9 {quoted}\n5.. b"),
        ]
    };
    for text in TEXTS {
        for table in words(text) {
            let refusal = Range::parse(&table).unwrap_err().to_string();
            assert!(!refusal.contains(SECRET), "{table}: {refusal}");
        }
        for map in [
            format!("0-16383 {text:?}"),
            format!("0-99999 {text:?}"),
            format!("9-3 {text:?}"),
            format!("{text} a"),
            format!("0-16383 a {text}"),
        ] {
            let refusal = SlotMap::parse(&map).unwrap_err().to_string();
            assert!(!refusal.contains(SECRET), "{map}: {refusal}");
        }
        let ranges = [
            Range::builder().table(NumericTable::new("a").range(.., text)),
            Range::builder().table(NumericTable::new("a").range(5..5, text)),
            Range::builder().table(NumericTable::new("a").range(.., "a").default_node(text)),
            Range::builder().table(BytesTable::new("a").range::<&str>(.., text)),
            Range::builder()
                .table(BytesTable::new("a").range::<&str>(.., "a"))
                .default_node(text),
        ];
        for range in ranges {
            assert_hidden(text, &range.build().unwrap_err().to_string());
        }
        for slots in [0..=16383, 7..=8] {
            let refusal = SlotMap::from_ranges([(slots, text)]).unwrap_err();
            assert_hidden(text, &refusal.to_string());
        }
    }
    for url in TEXTS.into_iter().filter(|text| text.contains("://")) {
        let prefix = Range::builder().table(NumericTable::new(url).range(5..5, "a"));
        assert_hidden(url, &prefix.build().unwrap_err().to_string());
        let bound = Range::builder().table(BytesTable::new("").range(url..url, "a"));
        assert_hidden(url, &bound.build().unwrap_err().to_string());
    }
}

#[test]
fn topology_text_refuses_a_password_in_any_place() {
    for text in TEXTS {
        let quoted = format!("{text:?}");
        for lines in [
            format!("placement ring/1\nnode {quoted} h:1"),
            format!("placement ring/1\nnode a h:2\nnode {quoted} h:1 weight=2"),
            format!("placement {quoted}\nnode a h:1"),
            format!("placement range/1\noption default = {quoted}\nnode a h:1"),
            format!("placement range/1\noption default = {text}\nnode a h:1"),
            format!("placement range/1\noption numeric \"a\" = 0.. {quoted}\nnode a h:1"),
            format!("placement slot-map/1\noption map = 0-16383 {quoted}\nnode a h:1"),
            format!("placement ring/1 {quoted}\nnode a h:1"),
            format!("placement ring/1\nnode a h:1\nfingerprint {text}"),
            format!("placement ring/1\nnode a h:1\n{text}"),
        ] {
            let refusal = Topology::parse(&format!("redis-sharding topology 1\n{lines}"));
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::Config);
            assert!(!refusal.to_string().contains(SECRET), "{lines}: {refusal}");
        }
    }
    // Where redis-rs does not look for a password it would be missing, and be shown.
    for address in [
        "redis://h:1?password=s3cret",
        "redis://h:1/2?pass=s3cret",
        "redis://h:1/2?x=redis://:s3cret@y",
        "rediss://h:1?password=s3cret",
        "unix:///x?password=s3cret",
        "\":s3cret@h:1\"",
        "\"/x?pass=s3cret\"",
    ] {
        let text = format!("redis-sharding topology 1\nplacement ring/1\nnode a {address}\n");
        assert_hidden(address, &Topology::parse(&text).unwrap_err().to_string());
    }
    // What stands behind # is dropped, except with TLS.
    let text = "redis-sharding topology 1\nplacement ring/1\nnode a redis://h:1/2#s3cret\n";
    let topology = Topology::parse(text).unwrap();
    assert!(!topology.text_with_passwords().contains(SECRET));
}

#[test]
fn password_in_a_node_url_is_shown_only_by_text_with_passwords() {
    let client = ShardedClient::builder()
        .node("a", "redis://:s3cret@h:1")
        .node("b", "redis://app:s3cret@h:2")
        .build()
        .unwrap();
    let topology = client.topology();
    assert!(
        topology
            .to_string()
            .ends_with("node a h:1\nnode b redis://app@h:2\n")
    );
    for shown in [topology.to_string(), format!("{topology:?} {client:?}")] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let full = topology.text_with_passwords();
    assert_eq!(Topology::parse(&full).unwrap().text_with_passwords(), full);
    assert_eq!(full.matches(SECRET).count(), 2);
}

#[test]
fn client_whose_nodes_cannot_be_written_as_urls_is_refused() {
    let db = redis_sharding::redis::RedisConnectionInfo::default().set_db(2);
    for host in ["a b", "h/x", "[h", "x?y", "fe80::1%eth0"] {
        let info = ConnectionAddr::Tcp(host.into(), 1)
            .into_connection_info()
            .unwrap();
        // An address alone is written as it is.
        let plain = ShardedClient::builder()
            .node("a", info.clone())
            .build()
            .unwrap();
        let again = Topology::parse(&plain.topology().to_string()).unwrap();
        assert_eq!(again.nodes(), plain.topology().nodes());
        let with_db = ShardedClient::builder().node("a", info.set_redis_settings(db.clone()));
        let refusal = with_db.build().unwrap_err().to_string();
        assert!(
            refusal.contains("cannot be written in a URL"),
            "{host}: {refusal}"
        );
    }
}

proptest! {
    #[test]
    fn random_text_around_a_password_never_reveals_it(
        before in "[a-z0-9.=,/?# ]{0,8}",
        scheme in "[a-z+]{1,8}",
        user in "[a-z]{0,5}",
        junk in "[!-~é]{0,6}",
        behind in "[a-z0-9:/?#]{1,12}",
    ) {
        let text = format!("{before}{scheme}://{user}:{junk}{SECRET}@{behind}");
        for nodes in [specs(&text, "h:2"), specs("b", &text)] {
            let refusal = Ring::new().place(&nodes).unwrap_err().to_string();
            prop_assert!(!refusal.contains(SECRET), "{}", refusal);
            let refusal = Topology::new(nodes, Arc::new(Ring::new())).unwrap_err().to_string();
            prop_assert!(!refusal.contains(SECRET), "{}", refusal);
        }
        let refusal = ShardedClient::builder().node(text.clone(), "redis://h:1").build().unwrap_err();
        prop_assert!(!refusal.to_string().contains(SECRET), "{}", refusal);
    }
}
