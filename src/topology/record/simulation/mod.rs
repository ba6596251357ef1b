//! The whole protocol over simulated nodes: clients, two movers that may die or be overtaken, servers that restart, and a
//! network that delays.
//!
//! Each run is a random schedule, by its seed. After every command that a client has executed, the node must have had the
//! value that was written last, wherever that was: a difference is a lost write, a deleted key that is back, or a key that
//! is missing. At the end of a run, without further faults, all keys must be at the target alone.
//!
//! The rules of the protocol can be left out one at a time, and each that is left out must be missed: otherwise the
//! simulation would not show that it is kept.
//!
//! There is one pair of nodes. Several pairs of a source that are closed, moved or opened by one record of it need no run of their
//! own: no rule joins two pairs, so what the records say of each is what they would say if it had moved alone, with other
//! epochs in between.
//!
//! * `world`: the servers, and what is on the way to them.
//! * `client`: plans, connects, learns and acknowledges.
//! * `mover`: closes, fences, copies, publishes and deletes, batch by batch.

mod client;
mod mover;
mod world;

use self::client::Client;
use self::mover::Mover;
use self::world::{CLIENTS, World};

/// The rules of the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A connection reads the record before its first command.
    record_check: bool,
    /// Whoever does not acknowledge a closure is disconnected.
    fence: bool,
    /// A connection has its name before it reads the record.
    name_first: bool,
    /// A connection without a name counts as one that has not acknowledged. Either this or `name_first` is enough; both are
    /// kept.
    unnamed_is_late: bool,
    /// What was planned by an older record than a connection has read is not sent over it.
    door_epoch: bool,
    /// What was planned before an acknowledgement is not sent behind it.
    append_check: bool,
    /// Keys of closed units are neither read nor written.
    closure: bool,
    /// The target has none of the keys of a batch before they are copied.
    clear: bool,
    /// What was copied is compared before it is published.
    compare: bool,
    /// The target learns first that it has the keys.
    target_first: bool,
    /// A batch is copied and published over the same connections, or anew.
    one_connection: bool,
    /// What the target has published is never given back to the source.
    no_return: bool,
    /// Who takes over ends the connections of the mover before.
    mover_fence: bool,
    /// A record is believed only on the server that it was written to.
    seal: bool,
    /// The source deletes last.
    delete_last: bool,
}

const ALL: Rules = Rules {
    record_check: true,
    fence: true,
    name_first: true,
    unnamed_is_late: true,
    door_epoch: true,
    append_check: true,
    closure: true,
    clear: true,
    compare: true,
    target_first: true,
    one_connection: true,
    no_return: true,
    mover_fence: true,
    seal: true,
    delete_last: true,
};

/// Leaves a rule out.
type LeaveOut = fn(&mut Rules);

/// Maximum number of steps of a run before its faults end.
const STEPS: u32 = 2_500;

/// Maximum number of steps after that.
const STEPS_TO_THE_END: u32 = 20_000;

/// Runs one schedule.
fn run(rules: Rules, seed: u64) -> Result<(), String> {
    let mut world = World::new(rules, seed);
    let mut clients: [Client; CLIENTS] = Default::default();
    let mut movers = [Mover::new(0), Mover::new(1)];
    let mut steps = STEPS;
    while steps > 0 {
        steps -= 1;
        step(&mut world, &mut clients, &mut movers, true);
        if let Some(violation) = world.violation.take() {
            return Err(violation);
        }
    }
    world.heal();
    for _ in 0..STEPS_TO_THE_END {
        step(&mut world, &mut clients, &mut movers, false);
        if let Some(violation) = world.violation.take() {
            return Err(violation);
        }
        if movers.iter().any(Mover::is_done) && !world.is_rolled_back {
            return world.check_end();
        }
    }
    Err("the reshard does not end".into())
}

fn step(world: &mut World, clients: &mut [Client], movers: &mut [Mover; 2], has_faults: bool) {
    match world.random(16) {
        0..6 => world.execute_something(),
        6..10 => {
            let client = world.random(CLIENTS);
            clients[client].step(client, world);
        }
        10..15 => {
            let mover = world.random(2);
            let (first, second) = movers.split_at_mut(1);
            let (mover, other) = match mover {
                0 => (&mut first[0], &second[0]),
                _ => (&mut second[0], &first[0]),
            };
            // Without faults one of them goes on alone.
            let may_begin = has_faults || !other.is_active();
            mover.step(world, has_faults, may_begin);
        }
        _ if has_faults => world.fault(),
        _ => {}
    }
}

/// Number of runs: few in an ordinary test, as many as the variable says otherwise.
fn runs(few: u64) -> u64 {
    let runs = std::env::var("REDIS_SHARDING_SIMULATION_RUNS").ok();
    runs.and_then(|runs| runs.parse().ok()).unwrap_or(few)
}

#[test]
fn reshard_loses_nothing_in_any_schedule() {
    let base = 0x5eed_0000_u64;
    for seed in base..base + runs(2_000) {
        if let Err(violation) = run(ALL, seed) {
            panic!("seed {seed:#x}: {violation}");
        }
    }
}

#[test]
fn every_rule_of_the_reshard_is_missed_when_it_is_left_out() {
    let without: [(&str, LeaveOut); 14] = [
        ("record_check", |rules| rules.record_check = false),
        ("fence", |rules| rules.fence = false),
        ("name_first", |rules| {
            rules.name_first = false;
            rules.unnamed_is_late = false;
        }),
        ("door_epoch", |rules| rules.door_epoch = false),
        ("append_check", |rules| rules.append_check = false),
        ("closure", |rules| rules.closure = false),
        ("clear", |rules| {
            // Comparing the two sets would find it too.
            rules.clear = false;
            rules.compare = false;
        }),
        ("compare", |rules| {
            // A copy that is lost with the target's restart is found by comparing, or by the connection that has broken.
            rules.compare = false;
            rules.one_connection = false;
        }),
        ("target_first", |rules| rules.target_first = false),
        ("one_connection", |rules| {
            rules.one_connection = false;
            rules.clear = false;
        }),
        ("no_return", |rules| rules.no_return = false),
        ("mover_fence", |rules| rules.mover_fence = false),
        ("seal", |rules| rules.seal = false),
        ("delete_last", |rules| rules.delete_last = false),
    ];
    for (name, leave_out) in without {
        let mut rules = ALL;
        leave_out(&mut rules);
        let found = (0..30_000_u64).find(|seed| run(rules, *seed).is_err());
        assert!(found.is_some(), "{name} is not missed");
    }
}
