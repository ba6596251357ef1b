//! SCAN over a Redis Cluster through both clients and the proxy, on every server that is there: options and cursors, slots
//! that move or rest half moved, slots with very many keys, primaries that die.
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, PartialReads, ShardedClient};
use support::all_clients::{AllClients, AnyClient, End, KINDS, Kind, Random};
use support::clusters::{Cluster, SLOTS, key_in, on_each_server};

/// Long enough for everything that is only late.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest cursor that every program keeps.
const CURSOR_MAX: u64 = (1 << 53) - 1;
/// Number of keys of a slot up to which a server without cursors of single slots is asked for all at once.
const SLOT_KEYS_MAX: usize = 100_000;

fn describe(cluster: &Cluster) -> Builder {
    let builder = ShardedClient::builder().cluster(cluster.urls());
    builder.response_timeout(PATIENCE)
}

/// A reply to SCAN.
type Page = (u64, Vec<String>);

/// One of each kind, and one that talks RESP3 with the proxy and its servers.
fn each(clients: &AllClients) -> Vec<AnyClient> {
    let resp3 = clients.of_protocol(Kind::Proxy, "resp3");
    clients.each().into_iter().chain([resp3]).collect()
}

/// All steps of a scan with these options: the keys, with the number of times that they were returned.
struct Found {
    keys: BTreeMap<String, u32>,
    steps: u32,
    largest: usize,
}

impl Found {
    /// The keys, each of which must have been returned once.
    fn once(&self) -> BTreeSet<&str> {
        let doubled: Vec<_> = self.keys.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
        self.all()
    }

    fn all(&self) -> BTreeSet<&str> {
        self.keys.keys().map(String::as_str).collect()
    }
}

fn scan(client: &mut AnyClient, options: &[&str]) -> Found {
    scan_with(client, options, |_| ())
}

/// Calls `between` with the number of each step before it.
fn scan_with(client: &mut AnyClient, options: &[&str], mut between: impl FnMut(u32)) -> Found {
    let mut found = Found {
        keys: BTreeMap::new(),
        steps: 0,
        largest: 0,
    };
    let mut cursor = 0_u64;
    loop {
        between(found.steps);
        let text = cursor.to_string();
        let words = [&["SCAN", &text], options].concat();
        let (next, keys): Page = client.ask(&words).unwrap();
        assert!(next <= CURSOR_MAX);
        found.steps += 1;
        found.largest = found.largest.max(keys.len());
        for key in keys {
            *found.keys.entry(key).or_default() += 1;
        }
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

fn set_all<'k>(client: &mut AnyClient, keys: impl IntoIterator<Item = &'k String>) {
    let keys: Vec<&String> = keys.into_iter().collect();
    for some in keys.chunks(2000) {
        let mut pipeline = pipe();
        for key in some {
            pipeline.cmd("SET").arg(*key).arg("v").ignore();
        }
        let () = client.query(&pipeline).unwrap();
    }
}

#[test]
fn scan_over_a_cluster_filters_by_pattern_and_type_and_ends_soon() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let clients = AllClients::open(|| describe(&cluster));
        for mut client in each(&clients) {
            // Empty slots cost next to nothing.
            assert!(scan(&mut client, &[]).steps <= 8);
        }
        let mut client = clients.of(KINDS[0]);
        let strings: Vec<String> = (0..1000).map(|number| format!("user:{number}")).collect();
        set_all(&mut client, &strings);
        let lists: Vec<String> = (0..50)
            .map(|number| format!("{{l{number}}}list[1]"))
            .collect();
        for list in &lists {
            let _: u32 = client.ask(&["RPUSH", list, "v"]).unwrap();
        }
        let all: BTreeSet<&str> = strings.iter().chain(&lists).map(String::as_str).collect();
        let only = |keys: &'_ [String]| keys.iter().cloned().collect::<BTreeSet<String>>();
        let owned = |found: &Found| {
            found
                .once()
                .into_iter()
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        };
        for mut client in each(&clients) {
            let found = scan(&mut client, &["COUNT", "100"]);
            assert_eq!(found.once(), all);
            assert!((8..40).contains(&found.steps), "{} steps", found.steps);
            assert!(found.largest < 400, "{} keys", found.largest);
            assert_eq!(scan(&mut client, &["COUNT", "1000000"]).steps, 4);
            assert_eq!(scan(&mut client, &[]).once(), all);
            assert_eq!(owned(&scan(&mut client, &["TYPE", "LIST"])), only(&lists));
            assert_eq!(
                owned(&scan(&mut client, &["MATCH", "user:*", "COUNT", "500"])),
                only(&strings)
            );
            let found = scan(&mut client, &["match", "{l7}list\\[?]", "type", "list"]);
            assert_eq!((owned(&found), found.steps), (only(&lists[7..8]), 1));
            assert_eq!(scan(&mut client, &["TYPE", "zset"]).keys, BTreeMap::new());
            // In a pipeline, behind and before others.
            let mut pipeline = pipe();
            pipeline.cmd("SET").arg("user:0").arg("new");
            pipeline.cmd("SCAN").arg(0).arg("MATCH").arg("user:0");
            pipeline.cmd("GET").arg("user:0");
            pipeline.cmd("SCAN").arg(0).arg("COUNT").arg(0);
            pipeline.cmd("SCAN").arg("0").arg("MATCH").arg("user:1");
            let replies = client.pipeline(&pipeline);
            if let AnyClient::Proxy(..) = client {
                assert!(replies.is_err_and(|error| error.to_string().contains("syntax error")));
            } else {
                assert!(replies.is_err(), "refused before anything is sent");
            }
            let mut pipeline = pipe();
            pipeline.cmd("SCAN").arg(0).arg("MATCH").arg("user:0");
            pipeline.cmd("GET").arg("user:1");
            pipeline.cmd("SCAN").arg(0).arg("MATCH").arg("user:2");
            let found: (Page, String, Page) = client.query(&pipeline).unwrap();
            let expected = (
                (0, vec!["user:0".to_owned()]),
                "v".to_owned(),
                (0, vec!["user:2".to_owned()]),
            );
            assert_eq!(found, expected);
        }
        refused_as_by_a_server(&clients);
        iterators_resume(&clients, &all);
    });
}

fn refused_as_by_a_server(clients: &AllClients) {
    for mut client in each(clients) {
        for (words, text) in [
            (&["SCAN", "x"][..], "invalid cursor"),
            (&["SCAN", "12345"], "invalid cursor"),
            (&["SCAN", "99999999999999999999999"], "invalid cursor"),
            (&["SCAN", "0", "COUNT", "0"], "syntax error"),
            (&["SCAN", "0", "COUNT", "x"], "not an integer"),
            (&["SCAN", "0", "NOVALUES"], "syntax error"),
            (&["SCAN"], "wrong number of arguments"),
        ] {
            let refused: RedisResult<Value> = client.ask(words);
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(text), "{words:?}: {error}");
        }
    }
}

/// The iterators of both clients, interrupted and resumed by text.
fn iterators_resume(clients: &AllClients, all: &BTreeSet<&str>) {
    let mut found = BTreeSet::new();
    let mut scan = clients.blocking.scan_all().with_count(50);
    for key in scan.by_ref().take(200) {
        found.insert(String::from_utf8(key.unwrap()).unwrap());
    }
    let position = scan.position().to_string();
    let rest = clients
        .tokio
        .resume_scan(position.parse().unwrap())
        .unwrap();
    clients.runtime.block_on(async {
        let mut rest = rest;
        while let Some(key) = rest.next_key().await {
            found.insert(String::from_utf8(key.unwrap()).unwrap());
        }
    });
    assert_eq!(
        found.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        *all
    );
    let plain = ShardedClient::open(["redis://127.0.0.1:1/"]).unwrap();
    assert!(plain.resume_scan(position.parse().unwrap()).is_err());
    let of_plain = plain.scan_all().position();
    assert!(clients.blocking.resume_scan(of_plain).is_err());
}

#[test]
fn scan_over_a_cluster_finds_each_key_once_while_slots_move_and_one_rests_half_moved() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let clients = AllClients::open(|| describe(&cluster));
        let slot = cluster.own_slot(0);
        let half: Vec<String> = (0..9)
            .map(|number| key_in(slot, &number.to_string()))
            .collect();
        set_all(&mut clients.of(KINDS[0]), &half);
        let moving = cluster.begin_move(slot, 1);
        moving.keys(5);
        scan_while(&cluster, &clients, &half, |first, slots, to| {
            let slots: Vec<u16> = (first..first + slots)
                .filter(|other| *other != slot)
                .collect();
            cluster.move_slots(&slots, to);
        });
        moving.take_back();
    });
}

#[test]
fn scan_over_a_cluster_finds_each_key_once_while_slots_are_moved_by_migrateslots() {
    on_each_server(|server| {
        if !server.moves_atomically() {
            return;
        }
        let cluster = Cluster::start(server, 3, 0);
        let clients = AllClients::open(|| describe(&cluster));
        scan_while(&cluster, &clients, &[], |first, slots, to| {
            cluster.migrate_slots(first..=first + slots - 1, to);
        });
    });
}

/// Scans many keys, and these, while slots of one owner are moved by `move_slots`, which gets the first, their number, and
/// another node.
fn scan_while(
    cluster: &Cluster,
    clients: &AllClients,
    more: &[String],
    move_slots: impl Fn(u16, u16, usize) + Sync,
) {
    let keys: Vec<String> = (0..8000).map(|number| format!("key:{number}")).collect();
    set_all(&mut clients.of(KINDS[0]), &keys);
    let all: BTreeSet<&str> = keys.iter().chain(more).map(String::as_str).collect();
    let (ended, moves) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(7);
            while !ended.load(Ordering::Relaxed) {
                let first = random.below(SLOTS.into()) as u16;
                let from = cluster.owner(first);
                let own = |slot: &u16| cluster.owner(*slot) == from;
                let slots = (first..SLOTS.min(first + 20)).take_while(own).count() as u16;
                move_slots(first, slots, (from + 1 + random.below(2)) % 3);
                moves.fetch_add(u32::from(slots), Ordering::Relaxed);
            }
        });
        let _end = End(&ended);
        let passes: Vec<_> = KINDS
            .into_iter()
            .map(|kind| {
                let all = &all;
                scope.spawn(move || {
                    let mut client = clients.of(kind);
                    for count in ["20", "500"] {
                        assert_eq!(scan(&mut client, &["COUNT", count]).once(), *all);
                    }
                })
            })
            .collect();
        for pass in passes {
            pass.join().unwrap();
        }
    });
    let moves = moves.into_inner();
    println!("{}: {moves} slots moved meanwhile", cluster.server.name);
    assert!(moves > 20, "{moves}");
}

#[test]
fn scan_over_a_cluster_takes_slots_with_very_many_keys_page_by_page() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let clients = AllClients::open(|| describe(&cluster));
        let has_slot_cursors = server.is_valkey || server.version >= (7, 4);
        let count = match has_slot_cursors {
            true => 15_000,
            false => SLOT_KEYS_MAX + 5000,
        };
        let slot = cluster.own_slot(0);
        let large: Vec<String> = (0..count)
            .map(|number| key_in(slot, &number.to_string()))
            .collect();
        let others: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
        for some in large.chunks(5000) {
            let mut mset = cmd("MSET");
            some.iter().for_each(|key| {
                mset.arg(key).arg("v");
            });
            let () = clients.of(KINDS[0]).command(&mset).unwrap();
        }
        set_all(&mut clients.of(KINDS[0]), &others);
        let all: BTreeSet<&str> = large.iter().chain(&others).map(String::as_str).collect();
        // As many pages as on a server with cursors of single slots, whose pages have no other keys.
        let pages = 10;
        let page = count / pages;
        let options: &[&str] = &["COUNT", &page.to_string()];
        cluster.reset_stats(0);
        for mut client in each(&clients) {
            let found = scan(&mut client, options);
            assert_eq!(found.all(), all, "{}", server.name);
            assert!(found.largest < page * 3 / 2, "{} keys", found.largest);
        }
        assert!(cluster.calls(0, "scan") >= 3 * pages as u64 / 2, "by pages");
        // It begins to move in the middle, and rests half moved.
        let mut client = clients.of(KINDS[0]);
        let mut moving = None;
        let before = cluster.calls(0, "scan");
        let found = scan_with(&mut client, options, |_| {
            if moving.is_none() && cluster.calls(0, "scan") > before + 3 {
                let begun = cluster.begin_move(slot, 1);
                begun.keys(2000);
                moving = Some(begun);
            }
        });
        assert_eq!(found.all(), all);
        let moving = moving.expect("there were pages");
        assert!(cluster.calls(1, "scan") > 0, "pages of the target");
        for mut client in each(&clients) {
            assert_eq!(scan(&mut client, options).all(), all);
        }
        // It arrives in the middle.
        let mut moving = Some(moving);
        let before = cluster.calls(0, "scan");
        let found = scan_with(&mut client, options, |_| {
            if cluster.calls(0, "scan") > before + 3
                && let Some(moving) = moving.take()
            {
                while moving.keys(1000) > 0 {}
                moving.end();
            }
        });
        assert!(moving.is_none(), "there were pages");
        assert_eq!(found.all(), all);
    });
}

#[test]
fn scan_over_a_cluster_leaves_out_what_cannot_be_reached_only_if_asked_to() {
    on_each_server(|server| {
        let cluster = Cluster::builder(server)
            .option(["--cluster-require-full-coverage", "no"])
            .start(3, 0);
        let within = Duration::from_millis(700);
        let client = |partial_reads| {
            AllClients::open(|| {
                let builder = ShardedClient::builder().cluster(cluster.urls());
                builder
                    .response_timeout(within)
                    .partial_reads(partial_reads)
            })
        };
        let (allowed, refused) = (client(PartialReads::Allowed), client(PartialReads::Refused));
        let [lost, kept] = [0, 1].map(|node| key_in(cluster.own_slot(node), "k"));
        set_all(&mut allowed.of(KINDS[0]), [&lost, &kept]);
        for mut client in each(&refused) {
            let all = scan(&mut client, &[]);
            assert_eq!(all.once(), BTreeSet::from([&*kept, &*lost]));
        }
        cluster.kill(0);
        let tagged = |key: &str| format!("{}*", &key[..=key.find('}').unwrap()]);
        for mut client in each(&allowed) {
            // Many slots, of which a third is left out.
            let page: Page = client.ask(&["SCAN", "0", "COUNT", "100"]).unwrap();
            assert_ne!(page.0, 0);
            let page: Page = client.ask(&["SCAN", "0", "MATCH", &tagged(&kept)]).unwrap();
            assert_eq!(page, (0, vec![kept.clone()]));
            // The only slot.
            let none: RedisResult<Page> = client.ask(&["SCAN", "0", "MATCH", &tagged(&lost)]);
            assert!(none.is_err(), "{none:?}");
        }
        for mut client in each(&refused) {
            let none: RedisResult<Page> = client.ask(&["SCAN", "0", "COUNT", "100"]);
            assert!(none.is_err(), "{none:?}");
        }
    });
}

#[test]
fn scan_over_a_cluster_goes_on_at_the_replica_of_a_dead_primary() {
    on_each_server(|server| {
        let cluster = Cluster::builder(server)
            .node_timeout(Duration::from_millis(1000))
            .start(3, 3);
        let clients = AllClients::open(|| describe(&cluster));
        let keys: Vec<String> = (0..3000).map(|number| format!("key:{number}")).collect();
        let mut client = clients.of(KINDS[0]);
        set_all(&mut client, &keys);
        for node in 0..3 {
            let _: u32 = cluster.ask(node, &["WAIT", "1", "5000"]).unwrap();
        }
        let all: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        thread::scope(|scope| {
            let passes: Vec<_> = KINDS
                .into_iter()
                .map(|kind| {
                    let (clients, all, cluster) = (&clients, &all, &cluster);
                    scope.spawn(move || {
                        let mut client = clients.of(kind);
                        let found = scan_with(&mut client, &["COUNT", "100"], |step| {
                            // Once the others are under way as well.
                            match (kind == KINDS[0], step) {
                                (true, 3) => {
                                    thread::sleep(Duration::from_millis(100));
                                    cluster.kill(0);
                                }
                                (_, 3) => thread::sleep(Duration::from_millis(300)),
                                _ => {}
                            }
                        });
                        assert_eq!(found.once(), *all, "{kind:?}");
                    })
                })
                .collect();
            for pass in passes {
                pass.join().unwrap();
            }
        });
        cluster.wait_until_promoted(0);
    });
}
