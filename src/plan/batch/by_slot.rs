//! Random commands over a cluster: each part has one slot, every key is in one, and the reply is that of one server.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use proptest::prelude::*;
use redis::Value;

use super::Batch;
use crate::command::{Args, PackedCommands};
use crate::plan::location::tests::cluster;
use crate::plan::{Exchange, Router, ScriptCache};
use crate::resp::{self, Slice, write_arg, write_header, write_line};

/// A command with several keys.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Mget,
    Exists,
    Del,
    Mset,
    JsonMget,
    JsonMset,
}

/// A server with some keys, which notes what it is sent.
#[derive(Default)]
struct Server {
    /// Values of MSET and JSON.MSET, and the keys that DEL removes.
    written: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Server {
    /// The value of a key: that of every second one is there from the beginning.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.written.get(key) {
            Some(value) => value.clone(),
            None => {
                let sum: u32 = key.iter().map(|&byte| u32::from(byte)).sum();
                sum.is_multiple_of(2).then(|| [b"of ", key].concat())
            }
        }
    }

    /// Runs one command and appends its reply to `out`.
    fn run(&mut self, args: &[&[u8]], out: &mut Vec<u8>) {
        let items = |out: &mut Vec<u8>, keys: &[&[u8]], suffix: &[u8]| {
            write_line(out, b'*', keys.len());
            for key in keys {
                match self.get(key) {
                    Some(value) => write_arg(out, &[&value, suffix].concat()),
                    None => out.extend_from_slice(b"$-1\r\n"),
                }
            }
        };
        match (args[0], &args[1..]) {
            (b"MGET", keys) => items(out, keys, b""),
            (b"JSON.MGET", [keys @ .., path]) => items(out, keys, path),
            (b"EXISTS", keys) => {
                let count = keys.iter().filter(|key| self.get(key).is_some()).count();
                write_line(out, b':', count);
            }
            (b"DEL", keys) => {
                let mut count = 0;
                for key in keys {
                    count += usize::from(self.get(key).is_some());
                    self.written.insert(key.to_vec(), None);
                }
                write_line(out, b':', count);
            }
            (b"MSET", pairs) => {
                for pair in pairs.chunks(2) {
                    self.written
                        .insert(pair[0].to_vec(), Some(pair[1].to_vec()));
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            (b"JSON.MSET", triples) => {
                for triple in triples.chunks(3) {
                    self.written
                        .insert(triple[0].to_vec(), Some(triple[1..].concat()));
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            other => panic!("{other:?} is not expected"),
        }
    }
}

/// The positions of the keys of a command.
fn keys_of<'a>(args: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let (step, tail) = match args[0] {
        b"MSET" => (2, 0),
        b"JSON.MSET" => (3, 0),
        b"JSON.MGET" => (1, 1),
        _ => (1, 0),
    };
    let keyed = &args[1..args.len() - tail];
    keyed.iter().step_by(step).copied().collect()
}

fn command(kind: Kind, keys: &[String]) -> Vec<Vec<u8>> {
    let numbered = keys.iter().enumerate();
    let name = match kind {
        Kind::Mget => "MGET",
        Kind::Exists => "EXISTS",
        Kind::Del => "DEL",
        Kind::Mset => "MSET",
        Kind::JsonMget => "JSON.MGET",
        Kind::JsonMset => "JSON.MSET",
    };
    let mut args = vec![name.to_owned()];
    for (number, key) in numbered {
        args.push(key.clone());
        match kind {
            Kind::Mset => args.push(format!("v{number}")),
            Kind::JsonMset => args.extend(["$".to_owned(), format!("v{number}")]),
            _ => {}
        }
    }
    if matches!(kind, Kind::JsonMget) {
        args.push("$.path".to_owned());
    }
    args.into_iter().map(String::into_bytes).collect()
}

fn pack(args: &[&[u8]]) -> Vec<u8> {
    let mut packed = Vec::new();
    write_header(&mut packed, args.len());
    args.iter().for_each(|arg| write_arg(&mut packed, arg));
    packed
}

fn decoded(frame: &[u8]) -> Value {
    resp::read(&mut Slice(frame)).expect("a reply")
}

/// Runs the requests of an exchange, checks each of them, and returns the frames of each node's replies.
fn serve<R: crate::plan::ReplyBuffer>(
    router: &Router,
    exchange: &mut Exchange<R>,
    server: &mut Server,
) -> Vec<Vec<Vec<u8>>> {
    let map = router.topology().cluster().expect("a cluster");
    let mut nodes = HashSet::new();
    let mut seen = HashSet::new();
    let mut replies = Vec::new();
    for attempt in exchange.attempts() {
        let request = attempt.request;
        assert!(nodes.insert(request.node), "one request for each node");
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        let mut frames = Vec::new();
        while let Ok(Some(_)) = commands.next(&mut args) {
            let mut slots = keys_of(&args).into_iter().map(|key| map.slot(key));
            let slot = slots.next().expect("a key");
            assert!(slots.all(|other| other == slot), "one slot: {args:?}");
            assert_eq!(map.target(slot), Some(request.node));
            // The commands of a pipeline may have a slot each; here there is one command for each slot.
            assert!(seen.insert((slot, args[0].to_vec())), "once: {args:?}");
            let mut frame = Vec::new();
            server.run(&args, &mut frame);
            frames.push(frame);
        }
        assert_eq!(frames.len(), request.slots.len());
        replies.push(frames);
    }
    replies
}

/// The reply of the clients.
fn client_reply(router: &Router, packed: &[u8], args: &[&[u8]], server: &mut Server) -> Value {
    let mut batch = Batch::new(router, packed.len(), 0);
    batch.add(packed, args, router.route_by_keys(args).expect("a plan"));
    let mut exchange: Exchange = batch.exchange();
    let replies = serve(router, &mut exchange, server);
    let answers = replies.iter().map(|frames| crate::plan::Answers {
        values: frames.iter().map(|frame| decoded(frame)).collect(),
        failure: None,
    });
    exchange.handle(answers.collect());
    batch.finish_one(exchange, 0).expect("a reply")
}

/// The reply of the proxy.
#[cfg(feature = "proxy")]
fn proxy_reply(router: &Router, packed: &[u8], args: &[&[u8]], server: &mut Server) -> Value {
    use crate::plan::{Answers, RawPipeline, RawReplies, WriteProgress};
    let mut pipeline = RawPipeline::new(router, &ScriptCache::empty, packed.len(), 0);
    pipeline.add(packed, args, router.route_by_keys(args).expect("a plan"));
    let mut exchange = pipeline.exchange();
    let replies = serve(router, &mut exchange, server);
    let answers = replies.iter().map(|frames| {
        let mut values = RawReplies::default();
        frames.iter().for_each(|frame| values.push(frame));
        Answers {
            values,
            failure: None,
        }
    });
    exchange.handle(answers.collect());
    let mut out = Vec::new();
    let mut writer = pipeline.reply_writer(&exchange, resp::Protocol::Resp2, 0);
    assert!(matches!(
        writer.write_next(&mut out, usize::MAX),
        WriteProgress::All
    ));
    decoded(&out)
}

/// Keys of few slots and of many, some of them twice.
fn keys() -> impl Strategy<Value = Vec<String>> {
    let key = prop_oneof![
        "[a-z]{1,3}",
        "\\{[ab]\\}[a-f]",
        Just("{}x".to_owned()),
        Just(String::new()),
    ];
    prop::collection::vec(key, 1..60)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Mget),
        Just(Kind::Exists),
        Just(Kind::Del),
        Just(Kind::Mset),
        Just(Kind::JsonMget),
        Just(Kind::JsonMset),
    ]
}

/// Of one node, of two, and so on: a map takes longer than a command.
static ROUTERS: LazyLock<Vec<Router>> = LazyLock::new(|| (1..6).map(cluster).collect());

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn split_over_a_cluster_is_cut_by_slot_and_replies_as_one_server(
        kind in kind(),
        keys in keys(),
        nodes in 1_u16..6,
    ) {
        let router = &ROUTERS[usize::from(nodes) - 1];
        let args = command(kind, &keys);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let packed = pack(&args);
        let mut whole = Server::default();
        let mut expected = Vec::new();
        whole.run(&args, &mut expected);
        let expected = decoded(&expected);

        let mut split = Server::default();
        prop_assert_eq!(&client_reply(router, &packed, &args, &mut split), &expected);
        prop_assert_eq!(&split.written, &whole.written);
        #[cfg(feature = "proxy")]
        {
            let mut split = Server::default();
            prop_assert_eq!(&proxy_reply(router, &packed, &args, &mut split), &expected);
            prop_assert_eq!(&split.written, &whole.written);
        }
    }
}

/// MGET of one key of each of these many slots.
fn mget_of_all(router: &Router, count: usize) -> Vec<Vec<u8>> {
    let map = router.topology().cluster().expect("a cluster");
    let mut slots = HashSet::new();
    let keys = (0_u32..).map(|number| number.to_string().into_bytes());
    let keys = keys.filter(|key| slots.insert(map.slot(key)));
    [b"MGET".to_vec()]
        .into_iter()
        .chain(keys.take(count))
        .collect()
}

#[test]
fn mget_of_a_key_of_every_slot_has_16384_parts_and_one_request_for_each_node() {
    let router = cluster(3);
    let args = mget_of_all(&router, 16384);
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let packed = pack(&args);
    let mut server = Server::default();
    let Value::Array(values) = client_reply(&router, &packed, &args, &mut server) else {
        panic!("an array is expected");
    };
    for (key, value) in args[1..].iter().zip(values) {
        let expected = server.get(key).map_or(Value::Nil, Value::BulkString);
        assert_eq!(value, expected, "{}", key.escape_ascii());
    }
}

#[test]
fn error_of_a_split_over_slots_has_one_outcome_for_each_way_in_which_the_parts_of_a_node_ended() {
    use crate::error::PartStatus;
    use crate::plan::{Answers, Cause, Failure};

    let router = cluster(2);
    let args = mget_of_all(&router, 40);
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let packed = pack(&args);
    let mut batch = Batch::new(&router, packed.len(), 0);
    batch.add(&packed, &args, router.route_by_keys(&args).expect("a plan"));
    let mut exchange: Exchange = batch.exchange();
    let replies = serve(&router, &mut exchange, &mut Server::default());
    // The first node has replied to 5 of its parts when its time is over; the second replies to all.
    let answers = replies.iter().enumerate().map(|(number, frames)| {
        let frames = if number == 0 { &frames[..5] } else { frames };
        let cause = Cause::Timeout("no answer".into());
        Answers {
            values: frames.iter().map(|frame| decoded(frame)).collect(),
            failure: (number == 0).then(|| Box::new(Failure { cause, sent: 9 })),
        }
    });
    exchange.handle(answers.collect());
    let error = batch
        .finish_one(exchange, 0)
        .expect_err("a node has failed");
    let outcomes: Vec<_> = error
        .parts()
        .iter()
        .map(|part| (part.node.as_str(), part.status, part.keys.len()))
        .collect();
    let [
        (first, PartStatus::Done, 5),
        (failed, PartStatus::Failed, others),
        (second, PartStatus::Done, rest),
    ] = outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert!(first == failed && first != second);
    assert_eq!(others + rest, 35);
    // The keys are in the order of the request, and each value is that of its key.
    for part in error.parts() {
        let places = part
            .keys
            .iter()
            .map(|key| args.iter().position(|arg| arg == key));
        assert!(places.is_sorted());
        let Some(value) = &part.value else {
            assert_eq!(part.status, PartStatus::Failed);
            continue;
        };
        let values = part.keys.iter().map(|key| {
            let value = Server::default().get(key);
            value.map_or(Value::Nil, Value::BulkString)
        });
        assert_eq!(*value, Value::Array(values.collect()));
    }
    assert!(error.to_string().len() < 600, "{error}");
}

/// The requests for each node of a pipeline, as text.
fn requests(router: &Router, commands: &[&[&[u8]]]) -> Vec<String> {
    let packed: Vec<Vec<u8>> = commands.iter().map(|args| pack(args)).collect();
    let mut batch = Batch::new(router, 100, 0);
    for (packed, args) in packed.iter().zip(commands) {
        batch.add(packed, args, router.route_by_keys(args).expect("a plan"));
    }
    let exchange: Exchange = batch.exchange();
    let requests = exchange.attempts().map(|attempt| {
        let mut commands = PackedCommands::new(&attempt.request.packed);
        let mut args = Args::new();
        let mut text = attempt.request.node.get().to_string();
        while let Ok(Some(_)) = commands.next(&mut args) {
            let args = args.iter().map(|arg| arg.escape_ascii().to_string());
            text.push_str(" \u{b7} ");
            text.push_str(&args.collect::<Vec<_>>().join(" "));
        }
        text
    });
    requests.collect()
}

#[test]
fn wait_in_a_cluster_follows_a_write_that_is_replicated_there() {
    let barrier = r"FUNCTION RESTORE \n\x00]\x9b\\@\x0f\x7f\xa2\xda";
    let expected: Vec<String> = (0..3)
        .map(|node| format!("{node} \u{b7} {barrier} \u{b7} WAIT 1 100"))
        .collect();
    assert_eq!(requests(&cluster(3), &[&[b"WAIT", b"1", b"100"]]), expected);
}

#[test]
fn messages_of_a_channel_go_by_one_node_of_a_cluster_and_mget_by_slot() {
    let commands: [&[&[u8]]; 4] = [
        &[b"PUBLISH", b"a", b"1"],
        &[b"PUBLISH", b"c", b"1"],
        &[b"MGET", b"a", b"b", b"{a}x"],
        &[b"PUBLISH", b"a", b"2"],
    ];
    // Slots: a 15495, b 3300, c 7365.
    assert_eq!(
        requests(&cluster(2), &commands),
        [
            "0 \u{b7} MGET b",
            "1 \u{b7} PUBLISH a 1 \u{b7} PUBLISH c 1 \u{b7} MGET a {a}x \u{b7} PUBLISH a 2"
        ]
    );
}
