//! The real servers of the tests do what the tests count on.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Commands, RedisResult, cmd};

use support::authority::Authority;
use support::clusters::{self, key_in, redis_cli, slot_of};
use support::cut::{Cut, Direction, Mode};
use support::delay_proxy::DelayProxy;
use support::replicas::{Role, wait_until};
use support::{Cluster, ReplicaSet, Sentinels, Servers};

#[test]
fn killed_test_server_refuses_and_restarts_empty_on_its_port() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let urls = servers.urls();
    let () = servers.connection(0).set("k", 1).unwrap();
    let () = servers.connection(1).set("k", 2).unwrap();
    servers.kill(0);
    let client = redis::Client::open(servers.url(0)).unwrap();
    assert!(
        client
            .get_connection()
            .err()
            .unwrap()
            .is_connection_refusal()
    );
    servers.restart(0);
    assert_eq!(servers.urls(), urls);
    let values: [Option<i32>; 2] =
        [0, 1].map(|server| servers.connection(server).get("k").unwrap());
    assert_eq!(values, [None, Some(2)]);
}

#[test]
fn paused_test_server_is_silent_until_resumed() {
    let Some(servers) = Servers::builder().unix().password("secret").start(1) else {
        return;
    };
    let mut connection = servers.connection(0);
    connection
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    servers.pause(0);
    let answer: RedisResult<()> = connection.set("k", 1);
    assert!(answer.unwrap_err().is_timeout());
    servers.resume(0);
    let value: i32 = servers.connection(0).get("k").unwrap();
    assert_eq!(value, 1);
}

#[test]
fn paused_test_server_is_stopped_on_drop() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let pid = servers.pid(0);
    servers.pause(0);
    drop(servers);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn delay_proxy_delays_a_round_trip_twice() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let proxy = DelayProxy::start(&servers.addr(0), Duration::from_millis(10)).unwrap();
    let mut connection = redis::Client::open(proxy.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let start = Instant::now();
    let () = connection.set("k", 1).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
}

const SOON: Duration = Duration::from_millis(100);

fn through(cut: &Cut) -> redis::Connection {
    let client = redis::Client::open(cut.url()).unwrap();
    let connection = client
        .get_connection_with_timeout(Duration::from_secs(5))
        .unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection
}

#[test]
fn cut_drops_bytes_both_ways_and_resets_what_was_cut() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let cut = Cut::start(&servers.addr(0));
    let mut connection = through(&cut);
    let () = connection.set("k", 1).unwrap();
    cut.set(Mode::Drop);
    let answer: RedisResult<()> = connection.set("k", 2);
    assert!(answer.unwrap_err().is_timeout());
    assert!(cut.bytes_dropped() > 0);
    // A new connection is accepted and gets no answer.
    let client = redis::Client::open(cut.url()).unwrap();
    let fresh = client.get_connection_with_timeout(SOON);
    assert!(fresh.err().unwrap().is_timeout());
    assert_eq!(servers.connection(0).get("k"), Ok(1));
    cut.set(Mode::Pass);
    assert!(cut.connections_reset() > 0);
    let answer: RedisResult<i32> = connection.get("k");
    assert!(!answer.unwrap_err().is_timeout());
    assert_eq!(through(&cut).get("k"), Ok(1));
    // Replies alone: the write is done.
    let mut connection = through(&cut);
    cut.set_direction(Direction::ToClient, Mode::Drop);
    let answer: RedisResult<()> = connection.set("k", 3);
    assert!(answer.unwrap_err().is_timeout());
    assert_eq!(servers.connection(0).get("k"), Ok(3));
}

#[test]
fn cut_delivers_stalled_bytes_late_and_delays_bytes() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let cut = Cut::start(&servers.addr(0));
    let mut connection = through(&cut);
    cut.set(Mode::Stall);
    let answer: RedisResult<()> = connection.set("k", 1);
    assert!(answer.unwrap_err().is_timeout());
    assert!(cut.bytes_stalled() > 0);
    assert_eq!(servers.connection(0).exists("k"), Ok(false));
    cut.set(Mode::Pass);
    wait_until("the write comes late", || {
        servers.connection(0).exists("k") == Ok(true)
    });
    cut.set(Mode::Delay(SOON / 4));
    let mut connection = through(&cut);
    let start = Instant::now();
    assert_eq!(connection.get("k"), Ok(1));
    assert!(start.elapsed() >= SOON / 2, "{:?}", start.elapsed());
}

#[test]
fn cut_resets_and_refuses_connections_and_recovers() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let cut = Cut::start(&servers.addr(0));
    let client = redis::Client::open(cut.url()).unwrap();
    for mode in [Mode::Reset, Mode::Refuse] {
        let mut connection = through(&cut);
        assert_eq!(cut.connections(), 1);
        let reset = cut.connections_reset();
        cut.set(mode);
        assert!(cut.connections_reset() > reset);
        let answer: RedisResult<()> = connection.set("k", 1);
        let error = answer.unwrap_err();
        assert!(
            error.is_connection_dropped() && !error.is_timeout(),
            "{error}"
        );
        let refused = client.get_connection().err().unwrap();
        assert_eq!(
            refused.is_connection_refusal(),
            mode == Mode::Refuse,
            "{refused}"
        );
        cut.set(Mode::Pass);
        let () = through(&cut).set("k", 2).unwrap();
        wait_until("closed connections are forgotten", || {
            cut.connections() == 0
        });
    }
    // A server that is dead takes the connections of the cut with it.
    let mut connection = through(&cut);
    servers.kill(0);
    let answer: RedisResult<()> = connection.set("k", 1);
    assert!(!answer.unwrap_err().is_timeout());
}

#[test]
fn replica_set_replicates_with_password_and_fails_over_by_hand() {
    let Some(set) = ReplicaSet::builder().password("secret").start(2) else {
        return;
    };
    assert_eq!(set.primaries(), [0]);
    set.reset_stats(0);
    let () = set.connection(0).set("k", 1).unwrap();
    let acknowledged: usize = {
        let mut connection = set.connection(0);
        let () = connection.set("k", 2).unwrap();
        cmd("WAIT").arg(2).arg(5000).query(&mut connection).unwrap()
    };
    assert_eq!(acknowledged, 2);
    assert_eq!((set.calls(0, "SET"), set.calls(0, "GET")), (2, 0));
    for replica in [1, 2] {
        assert_eq!(set.role(replica), Ok(Role::Replica));
        assert_eq!(set.connection(replica).get("k"), Ok(2));
        let write: RedisResult<()> = set.connection(replica).set("k", 3);
        assert_eq!(write.unwrap_err().code(), Some("READONLY"));
    }
    set.kill(0);
    assert!(set.try_connection(0).err().unwrap().is_connection_refusal());
    set.promote(1);
    set.wait_until_linked(1);
    set.restart_following(0, 1);
    set.wait_until_linked(1);
    assert_eq!(set.primaries(), [1]);
    assert_eq!(set.connection(0).get("k"), Ok(2));
    set.sleep(1, SOON * 5);
    let start = Instant::now();
    let () = set.connection(1).set("k", 4).unwrap();
    assert!(start.elapsed() > SOON, "{:?}", start.elapsed());
    set.pause(2);
    assert!(set.role(2).unwrap_err().is_timeout());
    set.resume(2);
    set.wait_until_linked(1);
    let pids: Vec<u32> = (0..set.len()).map(|index| set.pid(index)).collect();
    drop(set);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn sentinels_of_two_primaries_switch_the_one_that_was_killed() {
    let built = || ReplicaSet::builder().password("secret");
    let (Some(a), Some(b)) = (built().start(2), built().start(1)) else {
        return;
    };
    let sentinels = Sentinels::builder().password("word");
    let sentinels = sentinels.watch("users-a", &a).watch("users-b", &b).start(3);
    assert_eq!(sentinels.primary("users-a"), a.addr(0));
    let (events, epoch) = (sentinels.events(), sentinels.config_epoch("users-a"));
    let since = Instant::now();
    a.kill(0);
    let switch = events.wait_for_switch("users-a", since);
    println!("a failover after {:?}", switch.at - since);
    assert_eq!(switch.from, a.addr(0));
    // The other Sentinels hear of it a little later.
    sentinels.wait_until_agreed("users-a", &switch.to, 1);
    assert_eq!(sentinels.primary("users-a"), switch.to);
    assert!(sentinels.config_epoch("users-a") > epoch);
    let primary = a.index_of(&switch.to).unwrap();
    wait_until("the replica is promoted", || a.primaries() == [primary]);
    assert_eq!(sentinels.primary("users-b"), b.addr(0));
    assert_eq!(events.switches("users-a").len(), 1, "each Sentinel says it");
    // The former primary comes back empty, and is made a replica.
    a.restart(0);
    wait_until("it is demoted", || a.role(0) == Ok(Role::Replica));
    a.wait_until_linked(primary);
    // Two of three Sentinels are enough, and the third learns what it has missed.
    sentinels.kill(2);
    assert!(
        sentinels
            .connection(2)
            .err()
            .unwrap()
            .is_connection_refusal()
    );
    let since = Instant::now();
    sentinels.failover("users-b");
    let switch = events.wait_for_switch("users-b", since);
    assert_eq!(switch.to, b.addr(1));
    sentinels.restart(2);
    sentinels.wait_until_agreed("users-b", &b.addr(1), 1);
    sentinels.pause(0);
    assert!(sentinels.connection(0).is_err());
    sentinels.resume(0);
    assert!(sentinels.connection(0).is_ok());
}

#[test]
fn sentinels_switch_a_primary_that_is_cut_off_and_demote_it_when_it_is_back() {
    let Some(set) = ReplicaSet::builder().cuts().start(1) else {
        return;
    };
    let sentinels = Sentinels::builder().watch("m", &set).cuts().start(3);
    let (events, since) = (sentinels.events(), Instant::now());
    set.cut(0).set(Mode::Drop);
    let switch = events.wait_for_switch("m", since);
    assert_eq!((switch.from, switch.to), (set.addr(0), set.addr(1)));
    assert!(set.cut(0).bytes_dropped() > 0);
    // Behind the cut it does not know.
    assert_eq!(set.role(0), Ok(Role::Primary));
    set.cut(0).set(Mode::Pass);
    wait_until("it is demoted", || set.primaries() == [1]);
    set.wait_until_linked(1);
}

#[test]
fn sentinels_and_replicas_speak_tls() {
    let authority = Authority::new("the tests'");
    let built = ReplicaSet::builder().tls(&authority).password("secret");
    let Some(set) = built.start(1) else {
        return;
    };
    let sentinels = Sentinels::builder()
        .tls(&authority)
        .watch("m", &set)
        .start(3);
    assert!(sentinels.url(0).starts_with("rediss://"));
    let (events, since) = (sentinels.events(), Instant::now());
    sentinels.failover("m");
    assert_eq!(events.wait_for_switch("m", since).to, set.addr(1));
    wait_until("it is demoted", || set.primaries() == [1]);
    set.wait_until_linked(1);
}

#[test]
fn cluster_moves_slots_by_hand_and_rests_half_moved() {
    clusters::on_each_server(|server| {
        let start = Instant::now();
        let cluster = Cluster::start(server, 3, 0);
        println!("{}: ready after {:?}", server.name, start.elapsed());
        let slot = cluster.own_slot(0);
        let keys = ["a", "b", "c"].map(|name| key_in(slot, name));
        assert!(keys.iter().all(|key| slot_of(key.as_bytes()) == slot));
        let slot_by_server: u16 = cluster.ask(1, &["CLUSTER", "KEYSLOT", &keys[0]]).unwrap();
        assert_eq!(slot_by_server, slot);
        for key in &keys {
            let () = cluster.ask(0, &["SET", key, "v"]).unwrap();
        }
        let moving = cluster.begin_move(slot, 1);
        assert_eq!((moving.keys(1), cluster.owner(slot)), (1, 0));
        let count = |node: usize| cluster.ask::<usize>(node, &["DBSIZE"]).unwrap();
        assert_eq!((count(0), count(1)), (2, 1));
        assert_eq!(cluster.own_line(0).unwrap().moving.len(), 1);
        moving.take_back();
        assert_eq!((count(0), count(1)), (3, 0));
        cluster.move_slot(slot, 1);
        assert_eq!((count(0), count(1), cluster.owner(slot)), (0, 3, 1));
        let many: Vec<u16> = (100..400).collect();
        let added = cluster.add_primary();
        cluster.move_slots(&many, added);
        cluster.wait_until_agreed();
        assert_eq!(cluster.slots(added), [100..=399]);
        if redis_cli().is_some() {
            assert!(cluster.reshard(added, 2, 100));
            cluster.wait_until_agreed();
            let left: usize = cluster.slots(added).into_iter().map(Iterator::count).sum();
            assert_eq!(left, 200);
        }
        if server.moves_atomically() {
            let range = cluster.slots(2)[0].clone();
            let range = *range.start()..=*range.start() + 9;
            cluster.migrate_slots(range.clone(), 0);
            assert_eq!(cluster.owner(*range.end()), 0);
        }
        cluster.forget(added);
        let owners = cluster.nodes_by(0).unwrap();
        assert!(owners.iter().all(|line| line.id != cluster.id(added)));
    });
}

#[test]
fn cluster_promotes_replicas_of_primaries_that_are_killed_paused_asked_and_parted() {
    clusters::on_each_server(|server| {
        let start = Instant::now();
        let builder = Cluster::builder(server).cuts();
        let cluster = builder.node_timeout(SOON * 10).start(3, 1);
        println!("{}: ready after {:?}", server.name, start.elapsed());
        assert_eq!(cluster.replicas(0), [3]);
        let since = Instant::now();
        cluster.kill(0);
        let (promoted, at) = cluster.wait_until_promoted(0);
        println!("{}: killed: promoted after {:?}", server.name, at - since);
        assert_eq!(promoted, 3);
        assert!(
            cluster
                .try_connection(0)
                .err()
                .unwrap()
                .is_connection_refusal()
        );
        cluster.restart(0);
        wait_until("it is demoted", || cluster.primaries() == [1, 2, 3]);
        cluster.wait_until_linked();
        cluster.failover(0);
        wait_until("it is back", || cluster.primaries() == [0, 1, 2]);
        cluster.wait_until_agreed();
        let since = Instant::now();
        cluster.pause(1);
        let (promoted, at) = cluster.wait_until_promoted(1);
        println!("{}: paused: promoted after {:?}", server.name, at - since);
        assert_eq!(promoted, 4);
        cluster.resume(1);
        wait_until("it is demoted", || cluster.primaries() == [0, 2, 4]);
        cluster.wait_until_agreed();
        // Clients reach it, other nodes do not.
        let since = Instant::now();
        cluster.part(&[2]);
        let (promoted, at) = cluster.wait_until_promoted(2);
        println!("{}: parted: promoted after {:?}", server.name, at - since);
        assert_eq!(promoted, 5);
        assert!(cluster.bus_bytes_dropped() > 0);
        assert!(cluster.own_line(2).unwrap().has("master"));
        cluster.heal();
        wait_until("it is demoted", || cluster.primaries() == [0, 4, 5]);
        cluster.wait_until_agreed();
        let pids: Vec<u32> = (0..cluster.len()).map(|node| cluster.pid(node)).collect();
        drop(cluster);
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists());
        }
    });
}
