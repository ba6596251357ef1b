//! Numbers at their extremes: every one that a user sets has limits, and an error that names them. No number ends the
//! process, and no text takes more than linear time.

use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use redis_sharding::builder::{
    CLIENTS_LIMIT_MAX, CONNECTIONS_PER_NODE_MAX, POOL_SIZE_MAX, SCAN_COUNT_MAX, TIMEOUT_MAX,
};
use redis_sharding::partition::{
    BytesTable, NumericTable, OptionValues, Partitioner, PlacementError, Range, RangeTable,
    Rendezvous, Ring, RingSpec, SlotMap, WEIGHTS_MAX, by_name, catalogue,
};
use redis_sharding::redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{
    Builder, Error, ErrorKind, Event, NODES_MAX, NodeSpec, ShardedClient, Topology,
};

fn builder() -> Builder {
    ShardedClient::builder()
        .node("a", "redis://10.0.0.1/")
        .node("b", "redis://10.0.0.2/")
}

/// What becomes of a client, a client on tokio and a proxy.
fn built(builder: impl Fn() -> Builder) -> [Result<(), Error>; 3] {
    [
        builder().build().map(drop),
        builder().build_async().map(drop),
        builder().build_proxy().map(drop),
    ]
}

/// Something that is set to a number, by its name, and its limits.
type Setting<T> = (&'static str, T, T, fn(Builder, T) -> Builder);

const SIZES: [Setting<usize>; 4] = [
    ("pool_size", 1, POOL_SIZE_MAX, Builder::pool_size),
    (
        "blocking_pool_size",
        1,
        POOL_SIZE_MAX,
        Builder::blocking_pool_size,
    ),
    (
        "connections_per_node",
        1,
        CONNECTIONS_PER_NODE_MAX,
        Builder::connections_per_node,
    ),
    ("max_clients", 1, CLIENTS_LIMIT_MAX, Builder::max_clients),
];

const NANOSECOND: Duration = Duration::from_nanos(1);

const TIMES: [Setting<Duration>; 3] = [
    (
        "connect_timeout",
        NANOSECOND,
        TIMEOUT_MAX,
        Builder::connect_timeout,
    ),
    (
        "response_timeout",
        NANOSECOND,
        TIMEOUT_MAX,
        Builder::response_timeout,
    ),
    (
        "idle_check",
        Duration::ZERO,
        TIMEOUT_MAX,
        Builder::idle_check,
    ),
];

fn check_setting<T: Copy + Ord + std::fmt::Debug>(setting: &Setting<T>, value: T) {
    let (name, min, max, set) = *setting;
    for outcome in built(|| set(builder(), value)) {
        if (min..=max).contains(&value) {
            assert!(outcome.is_ok(), "{name} {value:?}: {outcome:?}");
            continue;
        }
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::Config);
        let text = format!("{name} is {value:?}, but must be in {min:?}..={max:?}");
        assert_eq!(refusal.to_string(), text);
    }
}

#[test]
fn builder_settings_are_accepted_up_to_their_limits() {
    for setting in &SIZES {
        let max = setting.2;
        for value in [0, 1, max - 1, max, max + 1, usize::MAX - 1, usize::MAX] {
            check_setting(setting, value);
        }
    }
    for setting in &TIMES {
        let max = setting.2;
        let most = Duration::MAX;
        let values = [
            Duration::ZERO,
            NANOSECOND,
            max - NANOSECOND,
            max,
            max + NANOSECOND,
            most - NANOSECOND,
            most,
        ];
        for value in values {
            check_setting(setting, value);
        }
    }
    assert!(
        built(|| builder().response_timeout(None))
            .iter()
            .all(Result::is_ok)
    );
}

#[test]
fn database_number_out_of_bounds_is_a_config_error() {
    for (db, fits) in [
        ("0", true),
        ("2147483647", true),
        ("2147483648", false),
        ("9223372036854775807", false),
        ("-1", false),
        ("-9223372036854775808", false),
        ("99999999999999999999", false),
    ] {
        let client = ShardedClient::builder().node("a", format!("redis://10.0.0.1/{db}"));
        let outcome = client.build();
        assert_eq!(outcome.is_ok(), fits, "{db}");
        if let Err(refusal) = outcome {
            assert_eq!(refusal.kind(), ErrorKind::Config);
        }
    }
}

#[test]
fn maximum_timeouts_do_not_overflow_the_clock() {
    let node = TestNode::start().unwrap();
    let patient = || {
        ShardedClient::builder()
            .node("a", node.url())
            .connect_timeout(TIMEOUT_MAX)
            .response_timeout(TIMEOUT_MAX)
            .idle_check(TIMEOUT_MAX)
    };
    let mut client = patient().build().unwrap();
    let () = client.set("k", 1).unwrap();
    let mut dedicated = client.dedicated("k").unwrap();
    let found: Vec<String> = redis_sharding::redis::cmd("BLPOP")
        .arg(&["list", "0.01"])
        .query::<Option<Vec<String>>>(&mut dedicated)
        .unwrap()
        .unwrap_or_default();
    assert!(found.is_empty());
    let mut subscriber = client.subscriber();
    subscriber.subscribe("news").unwrap();
    let () = client.publish("news", "x").unwrap();
    assert!(matches!(
        subscriber.next_event(Duration::MAX),
        Some(Event::Message(_))
    ));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = patient().build_async().unwrap();
        let value: u32 = redis_sharding::redis::AsyncCommands::get(&mut client, "k")
            .await
            .unwrap();
        assert_eq!(value, 1);
        let proxy = patient().build_proxy().unwrap();
        // Nobody is there to wait for.
        assert!(proxy.drain(Duration::MAX).await);
    });
}

#[test]
fn proxy_serves_a_client_with_any_value_of_max_clients() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let node = TestNode::start().unwrap();
    for clients in [0, 1, usize::MAX - 1, usize::MAX] {
        let proxy = ShardedClient::builder()
            .node("a", node.url())
            .build_proxy()
            .unwrap()
            .with_max_clients(clients);
        runtime.block_on(async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut ours, theirs) = tokio::io::duplex(1024);
            let serve = proxy.serve(theirs, "1.2.3.4:5", "1.2.3.4:6");
            let ask = async {
                ours.write_all(b"PING\r\nQUIT\r\n").await.unwrap();
                let mut reply = String::new();
                ours.read_to_string(&mut reply).await.unwrap();
                assert_eq!(reply, "+PONG\r\n+OK\r\n", "{clients}");
            };
            let (served, ()) = tokio::join!(serve, ask);
            served.unwrap();
        });
    }
}

#[test]
fn scan_with_count_is_accepted_up_to_its_limit() {
    let nodes = TestNode::start_many(2).unwrap();
    let mut client = ShardedClient::open(nodes.iter().map(TestNode::url)).unwrap();
    let () = client.set("k", 1).unwrap();
    for size in [1, SCAN_COUNT_MAX] {
        let keys: Result<Vec<_>, _> = client.scan_all().with_count(size).collect();
        assert_eq!(keys.unwrap(), [b"k"]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for size in [0, SCAN_COUNT_MAX + 1, usize::MAX] {
        let text = format!("with_count is {size}, but must be in 1..={SCAN_COUNT_MAX}");
        // The error comes once, and then the end: who passes over errors is not held up for ever.
        let found: Vec<_> = client.scan_all().with_count(size).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].as_ref().unwrap_err().to_string(), text);
        runtime.block_on(async {
            let client = ShardedClient::builder().node("a", nodes[0].url());
            let client = client.build_async().unwrap();
            let mut scan = client.scan_all().with_count(size);
            let refusal = scan.next_key().await.unwrap().unwrap_err();
            assert_eq!(
                (refusal.kind(), refusal.to_string()),
                (ErrorKind::Config, text)
            );
            assert!(scan.next_key().await.is_none());
        });
    }
}

fn nodes(weights: &[u32]) -> Vec<NodeSpec> {
    let node = |(i, weight): (usize, &u32)| {
        NodeSpec::new(format!("n{i}"), format!("10.0.0.{i}:6379"))
            .with_weight(NonZeroU32::new(*weight).unwrap())
    };
    weights.iter().enumerate().map(node).collect()
}

#[test]
fn placement_option_numbers_are_accepted_up_to_their_limits() {
    for entry in catalogue() {
        for option in entry.options {
            let OptionValues::Number { min, max } = option.values else {
                continue;
            };
            let numbers = [0, 1, min, max, max + 1, u64::from(u32::MAX), u64::MAX];
            let odd = [
                "",
                "-1",
                "+1",
                "1.0",
                "1e3",
                "0x10",
                "99999999999999999999999",
            ];
            let texts = numbers.map(|number| number.to_string());
            let texts = texts.iter().map(String::as_str).chain(odd);
            for text in texts {
                let mut options = vec![(option.name.to_owned(), text.to_owned())];
                // Bounds that depend on another option: a larger size on the smaller one, points on the length of the digest.
                let other = match option.name {
                    "maximum-ring-size" => Some(("minimum-ring-size", "1")),
                    "replicas" => Some(("algorithm", "sha256")),
                    _ => None,
                };
                options.extend(other.map(|(name, value)| (name.to_owned(), value.to_owned())));
                let placed =
                    by_name(entry.name, &options).and_then(|rule| rule.place(&nodes(&[1, 1])));
                let fits = text
                    .parse()
                    .is_ok_and(|number| (min..=max).contains(&number));
                let fits = fits && !text.starts_with('+');
                assert_eq!(placed.is_ok(), fits, "{} {text}", option.name);
                if let Err(refusal) = placed {
                    let refusal = refusal.to_string();
                    assert!(refusal.contains(option.name), "{refusal}");
                    assert!(refusal.contains(&format!("{min}..={max}")), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn extreme_weights_never_break_a_placement() {
    let extremes: [&[u32]; 6] = [
        &[1],
        &[WEIGHTS_MAX],
        &[WEIGHTS_MAX - 1, 1],
        &[WEIGHTS_MAX, 1],
        &[u32::MAX - 1, 1],
        &[u32::MAX, u32::MAX, u32::MAX],
    ];
    for entry in catalogue() {
        let options: &[(&str, &str)] = match entry.name {
            "hash-mod/1" => &[("key-hash", "crc32")],
            "range/1" => &[("numeric \"\"", "0.. n0")],
            "rendezvous/1" => &[("slot-bits", "4")],
            "ring/1" | "jedis-2.0/1" | "jedis-2.10/1" => &[],
            _ => &[],
        };
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let rule = by_name(entry.name, &options).unwrap();
        for weights in extremes {
            // Millions of points take their time in a test.
            let points = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>();
            if points <= u64::from(WEIGHTS_MAX) && points > 1 && entry.name != "rendezvous/1" {
                continue;
            }
            match rule.place(&nodes(weights)) {
                Ok(placement) => drop(placement.locate(b"k")),
                Err(refusal) => assert!(
                    matches!(
                        refusal,
                        PlacementError::TooHeavy { .. } | PlacementError::Weighted { .. }
                    ),
                    "{} {weights:?}: {refusal}",
                    entry.name
                ),
            }
        }
    }
    // The heaviest that are taken.
    let points = RingSpec::new().with_points_per_weight(1024);
    assert!(Ring::with_spec(points).place(&nodes(&[256, 1])).is_ok());
    assert!(
        Rendezvous::new()
            .with_slot_bits(20)
            .place(&nodes(&[2, 1]))
            .is_ok()
    );
    let refusal = Topology::new(nodes(&[u32::MAX, 1]), Arc::new(SlotMap::even())).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the weights of the nodes add up to 4294967296, more than 16384; divide them by a common number"
    );
}

#[test]
fn topology_has_at_most_nodes_max_nodes() {
    let most = nodes(&vec![1; NODES_MAX]);
    let rule = Arc::new(Rendezvous::new().with_slot_bits(4));
    assert!(Topology::new(most.clone(), rule.clone()).is_ok());
    let more = [most, nodes(&[1])].concat();
    let refusal = Topology::new(more, rule).unwrap_err();
    assert!(
        refusal
            .to_string()
            .starts_with("4097 nodes were given, but a topology may have at most 4096")
    );
}

fn extreme() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0..3_u64, (u64::MAX - 2)..=u64::MAX, any::<u64>()]
}

fn bound<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Bound<T>> {
    prop_oneof![
        value.clone().prop_map(Bound::Included),
        value.prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

fn extreme_bytes() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..3)
}

/// What is built is read back, and owns keys without breaking.
fn check_table(table: impl Into<RangeTable>, keys: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let Ok(rule) = Range::builder().table(table).build() else {
        return Ok(());
    };
    prop_assert_eq!(&Range::parse(&rule.to_string()).unwrap(), &rule);
    let placement = rule.place(&nodes(&[1, 1])).unwrap();
    for key in keys {
        let _ = placement.locate(key);
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_builder_settings_never_panic(
        which in 0..SIZES.len(),
        size in prop_oneof![any::<usize>(), 0..70_000_usize, Just(usize::MAX)],
        time in (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, ns)| Duration::new(s, ns)),
    ) {
        check_setting(&SIZES[which], size);
        check_setting(&TIMES[which % TIMES.len()], time);
    }

    #[test]
    fn random_number_bounds_never_break_a_numeric_table(
        ranges in prop::collection::vec((bound(extreme()), bound(extreme())), 1..4),
        numbers in prop::collection::vec(extreme(), 4),
        digits in "[0-9]{0,40}",
    ) {
        let mut table = NumericTable::new("n:").default_node("n1");
        for range in ranges {
            table = table.range(range, "n0");
        }
        let numbers = numbers.iter().map(u64::to_string).chain([digits]);
        let keys: Vec<_> = numbers.map(|number| format!("n:{number}").into_bytes()).collect();
        check_table(table, &keys)?;
    }

    #[test]
    fn random_byte_bounds_never_break_a_bytes_table(
        ranges in prop::collection::vec((bound(extreme_bytes()), bound(extreme_bytes())), 1..4),
        keys in prop::collection::vec(extreme_bytes(), 4),
    ) {
        let mut table = BytesTable::new("").default_node("n1");
        for range in ranges {
            table = table.range(range, "n0");
        }
        check_table(table, &keys)?;
    }

    #[test]
    fn random_slot_ranges_never_break_a_slot_map(
        ranges in prop::collection::vec((any::<u16>(), any::<u16>()), 0..4),
        odd in prop::sample::select(vec![(0, u16::MAX), (u16::MAX, 0), (16383, 16384), (0, 16383)]),
    ) {
        let ranges = ranges.into_iter().chain([odd]).map(|(first, last)| (first..=last, "n0"));
        if let Ok(map) = SlotMap::from_ranges(ranges) {
            prop_assert!(map.place(&nodes(&[1])).is_ok());
        }
    }

    #[test]
    fn random_numbers_in_a_topology_text_never_panic(
        number in "[+-]?[0-9]{0,30}",
        other in prop::sample::select(vec!["0", "1", "18446744073709551615", "18446744073709551616", "65535", "16383"]),
    ) {
        let head = "redis-sharding topology 1\n";
        for text in [
            format!("placement ring/1\noption points-per-weight = {number}\nnode a h:1"),
            format!("placement rendezvous/1\noption slot-bits = {number}\nnode a h:1"),
            format!("placement jedis-2.0/1\nnode a h:1 weight={number}"),
            format!("placement ring/1\nnode a h:{number}"),
            format!("placement ring/1\nnode a redis://h/{number}"),
            format!("placement range/1\noption numeric \"u\" = {number}..={other} a\nnode a h:1"),
            format!("placement slot-map/1\noption map = {number}-{other} a\nnode a h:1"),
            format!("placement codis/1\noption map = 0-{number} a, {number}-1023 a\nnode a h:1"),
            format!("placement ring/1\nnode a h:1\nfingerprint {number}"),
        ] {
            // Big weights are many points; only what must be refused is of interest.
            let weight = text.split("weight=").nth(1).and_then(|digits| digits.parse::<u32>().ok());
            if weight.is_some_and(|weight| (64..=WEIGHTS_MAX).contains(&weight)) {
                continue;
            }
            if let Err(refusal) = Topology::parse(&format!("{head}{text}")) {
                prop_assert_eq!(refusal.kind(), ErrorKind::Config);
                prop_assert!(refusal.to_string().starts_with("line "), "{}", refusal);
            }
        }
    }
}

/// Something that reads a text.
type Reader = (&'static str, fn(&str));

const READERS: [Reader; 9] = [
    ("topology", |text| {
        drop(Topology::parse(&in_topology("ring/1", text)))
    }),
    ("topology of ranges", |text| {
        drop(Topology::parse(&in_topology("range/1", text)))
    }),
    ("topology, its first line", |text| {
        drop(Topology::parse(text))
    }),
    ("option", |text| {
        drop(Topology::parse(&in_topology(
            "range/1",
            &format!("option numeric \"u\" = {text}"),
        )));
    }),
    ("ranges", |text| drop(Range::parse(text))),
    ("numeric table", |text| {
        drop(Range::parse(&format!("numeric \"u:\"\n{text}")))
    }),
    ("bytes table", |text| {
        drop(Range::parse(&format!("bytes \"u:\"\n{text}")))
    }),
    ("slot map", |text| drop(SlotMap::parse(text))),
    ("words", |text| {
        for (name, option) in [
            ("range/1", "numeric \"u\""),
            ("range/1", "default"),
            ("range/1", text),
            ("slot-map/1", "map"),
            ("codis/1", "map"),
            ("twemproxy-ketama/1", "hash-tag"),
            ("ring/1", "label"),
            (text, "label"),
        ] {
            drop(by_name(name, &[(option.to_owned(), text.to_owned())]));
        }
        let named = vec![NodeSpec::new(text, "h:1"), NodeSpec::new("b", text)];
        if let Ok(topology) = Topology::new(named, Arc::new(Rendezvous::new().with_slot_bits(4))) {
            drop(Topology::parse(&topology.to_string()));
        }
    }),
];

fn in_topology(placement: &str, text: &str) -> String {
    format!("redis-sharding topology 1\nplacement {placement}\nnode a h:1\n{text}")
}

/// A text of so many bytes or a little more: its start, and a piece again and again. `N` in it is another number each time.
fn repeated((start, piece): (&str, &str), bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    text.push_str(start);
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        match piece.split_once('N') {
            None => text.push_str(piece),
            Some(_) => text.push_str(&piece.replace('N', &number.to_string())),
        }
    }
    text
}

/// Starts and pieces.
const PIECES: [(&str, &str); 39] = [
    ("", ", "),
    ("", "a, "),
    ("", "\""),
    ("", "\", "),
    ("", "\"a, b\" "),
    ("", "\"a, b\", "),
    ("", "0..=1 a, "),
    ("", "N..=N a, "),
    ("", "N..=N a\n"),
    ("", "..\""),
    ("", "\"a\"..\"b, \" "),
    ("", "\"N\"..\"N\" \"a, b\", "),
    ("", "\"N\"..\"N, \" a\n"),
    ("", "\\"),
    ("", "\"\\"),
    ("", "#"),
    ("", " #"),
    ("", "# \n"),
    ("", "="),
    ("", "?pass"),
    ("", "://"),
    ("", ":@"),
    ("", "redis://a:b "),
    ("", "http://xn--a"),
    ("", " "),
    ("", "\u{3000}"),
    ("", "\r"),
    ("", "é"),
    ("", "\u{feff}"),
    ("", "node nN h:N\n"),
    ("", "node nN redis://u@h:1/2?protocol=resp3\n"),
    ("", "option numeric \"pN\" = 0.. a\n"),
    ("", "option bytes \"pN\" =\n  | .. a\n"),
    ("", "numeric \"pN\"\n0.. a\n"),
    ("\"", "a, "),
    ("..\"", "\\\", "),
    ("a \"", "\\x61, "),
    ("0..=1 \"", ", "),
    ("|", " \"a, "),
];

/// How long this thread has had a core: other programs do not count.
#[cfg(unix)]
fn time_of_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn time_of_thread() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Sixteen times the text takes sixteen times the time, and not 256 times. The bound lies far from both.
#[test]
fn every_parser_takes_linear_time() {
    const SHORT: usize = 1 << 10;
    let fastest = |read: fn(&str), text: &str, runs: usize| {
        let run = |_| {
            let start = time_of_thread();
            read(text);
            time_of_thread() - start
        };
        (0..runs).map(run).min().unwrap()
    };
    for (name, read) in READERS {
        for piece in PIECES {
            let (short, long) = (repeated(piece, SHORT), repeated(piece, 16 * SHORT));
            let before = fastest(read, &short, 3).max(Duration::from_micros(20));
            let bound = before * 80;
            let after = fastest(read, &long, 1);
            if after > bound {
                let again = fastest(read, &long, 5);
                assert!(
                    again <= bound,
                    "{name}: {piece:?} again and again: {before:?}, {again:?}"
                );
            }
        }
    }
}

#[test]
fn range_table_with_a_long_prefix_is_checked_in_linear_space() {
    // The prefix is repeated in messages, but only in those that are needed.
    let text = format!(
        "numeric \"{}\"\n{}",
        "p".repeat(200_000),
        repeated(("", "N..=N a\n"), 200_000)
    );
    let rule = Range::parse(&text).unwrap();
    assert!(rule.place(&nodes(&[1])).is_err());
}

#[test]
fn byte_order_mark_of_a_text_is_skipped_once() {
    let mark = '\u{feff}';
    let text = "redis-sharding topology 1\nplacement ring/1\nnode a h:1\n";
    let topology = Topology::parse(&format!("{mark}{text}")).unwrap();
    assert_eq!(
        topology.fingerprint(),
        Topology::parse(text).unwrap().fingerprint()
    );
    assert!(Topology::parse(&format!("{mark}{mark}{text}")).is_err());
    assert_eq!(
        Range::parse(&format!("{mark}numeric \"u\"\n0.. a")),
        Range::parse("numeric \"u\"\n0.. a")
    );
    assert!(Range::parse(&format!("{mark}numeric \"u\"\n0.. a")).is_ok());
    assert_eq!(
        SlotMap::parse(&format!("{mark}0-16383 a")),
        SlotMap::parse("0-16383 a")
    );
    assert!(SlotMap::parse(&format!("{mark}even")).is_ok());
}
