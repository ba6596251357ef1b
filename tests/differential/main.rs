//! As if it were one Redis: random sequences of commands, done to one real server and through the proxy over four, or over
//! a Redis Cluster, must get the same answers, byte for byte, and leave the same data, in RESP2 and in RESP3.
//!
//! Commands of all types are sent over several connections at once, in pipelines of random length, with keys that share a
//! tag and keys that do not, with mistakes, in transactions and scripts. In the end every key is read from the server that
//! should have it, directly.
//!
//! # What may differ
//!
//! * **Keys that live apart**: on several nodes, in a cluster in several slots. A command that is not cut by node, and a transaction, need all keys in one place. If they are
//!   not, the answer must be a refusal, which is checked against [`Topology::locate`]; the one server is then not sent the
//!   command (in a transaction: a mistake in its place, so that EXEC fails there, too). The channel of PUBLISH counts as a key.
//! * **The whole fleet in a transaction.** A command without keys may be refused there.
//! * **Scripts without keys** are refused when their text does not show which keys they touch, and in a transaction when
//!   their text is not known.
//! * **Several mistakes in one request**: of GEORADIUS, SORT, XREAD and FCALL another one may be told. In a transaction a
//!   request that makes no sense is queued wherever its keys are, for the server refuses it; what was carried out must be
//!   about one node.
//! * **Arguments of newer servers**: ZRANK with a score is queued, and spoils the transaction only then.
//! * **Order where a server has none**, since its hash tables have random seeds: KEYS, SMEMBERS, HGETALL and the like are
//!   compared as multisets ([`Rule::Unordered`], [`Rule::Pairs`]).
//! * **Over a cluster**: MOVE, and SORT with BY or GET, are left out: its nodes refuse them. MEMORY USAGE counts more there.
//! * **Chance**: RANDOMKEY, SRANDMEMBER, HRANDFIELD and ZRANDMEMBER must give as much, and only what is there
//!   ([`Rule::Random`]). What SPOP took is taken from the one server by SREM ([`Rule::Popped`]).
//! * **Cursors**: a SCAN must find the same by its end ([`Rule::Loop`]).
//! * **Time**: TTL, idle times and the like may differ by five seconds ([`Rule::Close`]); of TIME, LASTSAVE and CLIENT ID
//!   only the form is compared ([`Rule::Shape`]), of HELLO all but the number of the connection ([`Rule::Hello`]).
//!
//! # When it fails
//!
//! It prints the seed, a sequence from which no step can be left out, and both answers. `DIFFERENTIAL_SEED=N` runs that
//! sequence alone, `DIFFERENTIAL_SEQUENCES=N` as many as that from it on. `DIFFERENTIAL_FAILURES=N` goes on until so many
//! different things have failed.
//!
//! Damaged requests ([`damage`]) have seeds of their own: `DIFFERENTIAL_SEED=N` sends one of them alone, and
//! `DIFFERENTIAL_DAMAGES=N` as many from it on.
#![cfg(feature = "tokio-comp")]

mod chance;
mod damage;
mod data;
mod grammar;
mod judge;
mod random;
mod raw;
mod run;
mod sequence;
mod shrink;
#[path = "../support/mod.rs"]
mod support;
mod templates;
mod vocabulary;
mod wire;
mod world;

use std::collections::BTreeSet;
use std::env;

use self::sequence::Generator;
use self::support::clusters;
use self::world::{Backend, Protocol, World};

/// The sequences that CI runs have the seeds from here on.
const FIRST_SEED: u64 = 1;
const SEQUENCES: u64 = 1000;
/// Over a cluster, of each server and protocol.
const CLUSTER_SEQUENCES: u64 = 80;
/// So many damaged requests are sent.
const DAMAGES: u64 = 400;

#[test]
fn random_command_sequences_behave_as_on_one_server_in_resp2() {
    compare(Protocol::Resp2, Backend::Plain);
}

#[test]
fn random_command_sequences_behave_as_on_one_server_in_resp3() {
    compare(Protocol::Resp3, Backend::Plain);
}

#[test]
fn random_command_sequences_behave_over_a_cluster_as_on_one_server_in_resp2() {
    if let Some(server) = clusters::servers().first() {
        compare(Protocol::Resp2, Backend::Cluster(server));
    }
}

#[test]
fn random_command_sequences_behave_over_a_cluster_as_on_one_server_in_resp3() {
    if let Some(server) = clusters::servers().first() {
        compare(Protocol::Resp3, Backend::Cluster(server));
    }
}

#[test]
fn malformed_requests_behave_as_on_one_server() {
    let Some(world) = World::start(Protocol::Resp2, Backend::Plain) else {
        return;
    };
    let differences = raw::differences(&world);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn randomly_damaged_requests_behave_as_on_one_server() {
    let Some(world) = World::start(Protocol::Resp2, Backend::Plain) else {
        return;
    };
    let seed = number("DIFFERENTIAL_SEED");
    let default = if seed.is_some() { 1 } else { DAMAGES };
    let count = number("DIFFERENTIAL_DAMAGES").unwrap_or(default);
    let failures_max = number("DIFFERENTIAL_FAILURES").unwrap_or(3) as usize;
    let first = seed.unwrap_or(FIRST_SEED);
    let differences = damage::differences(&world, first, count, failures_max);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

fn compare(protocol: Protocol, backend: Backend<'_>) {
    let Some(mut world) = World::start(protocol, backend) else {
        return;
    };
    let seed = number("DIFFERENTIAL_SEED");
    let first = seed.unwrap_or(FIRST_SEED);
    let (of_all, on) = match backend {
        Backend::Plain => (SEQUENCES, "plain servers"),
        Backend::Cluster(server) => (CLUSTER_SEQUENCES, &*server.name),
    };
    let default = if seed.is_some() { 1 } else { of_all };
    let count = number("DIFFERENTIAL_SEQUENCES").unwrap_or(default);
    let failures_max = number("DIFFERENTIAL_FAILURES").unwrap_or(1);
    let dump = dump(&mut world);
    let generator = Generator::new(dump);
    let mut topics = BTreeSet::new();
    let mut steps_run = 0;
    for seed in first..first + count {
        let steps = match backend {
            Backend::Plain => generator.sequence(seed),
            Backend::Cluster(_) => run::common_to_clusters(generator.sequence(seed)),
        };
        steps_run += steps.len();
        let Err(difference) = run::run(&mut world, &steps) else {
            continue;
        };
        if !topics.insert(run::topic(&steps, &difference)) {
            continue;
        }
        let (steps, difference) = shrink::shrink(&mut world, steps, difference);
        eprintln!(
            "\nDIFFERENTIAL_SEED={seed} in {protocol:?} on {on}, {difference}\nThe sequence (connection, + if sent with the next):\n{}",
            run::listing(&steps, &difference)
        );
        if topics.len() as u64 >= failures_max {
            break;
        }
    }
    assert!(
        topics.is_empty(),
        "one server and the fleet are not alike: {topics:?}"
    );
    println!("{count} sequences with {steps_run} steps in {protocol:?} on {on}");
}

/// What DUMP says of a string, for RESTORE.
fn dump(world: &mut World) -> Vec<u8> {
    world.ask_one(&["SET", "dumped", "text"]).unwrap();
    let dump = world.ask_one(&["DUMP", "dumped"]).unwrap();
    dump.bytes().unwrap().to_vec()
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {value}")))
}
