//! Servers of a cache die, hang and are cut off, while workers use it through both clients and a proxy: it serves again
//! within the window of its ejection, and nobody reads what a node kept while it was out.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, Value};
use redis_sharding::{Ejection, Readmission};
use support::ReplicaSet;
use support::all_clients::{AllClients, End, KINDS, Kind, Random};
use support::cut::Mode;
use support::replicas::wait_until;

const NODES: usize = 4;
/// Of the ejection.
const WINDOW: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(200);

/// A request of a worker.
struct Asked {
    kind: Kind,
    at: Instant,
    error: Option<String>,
}

/// What becomes of one server of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Cut,
    Reset,
    Sleep,
}

impl Fault {
    fn begin(self, server: &ReplicaSet) {
        match self {
            Self::Kill => server.kill(0),
            Self::Pause => server.pause(0),
            Self::Cut => server.cut(0).set(Mode::Drop),
            Self::Reset => server.cut(0).set(Mode::Reset),
            Self::Sleep => server.sleep(0, 3 * WINDOW),
        }
    }

    fn end(self, server: &ReplicaSet) {
        match self {
            Self::Kill => server.restart(0),
            Self::Pause => server.resume(0),
            Self::Cut | Self::Reset => server.cut(0).set(Mode::Pass),
            // It ends by itself.
            Self::Sleep => {}
        }
    }
}

#[test]
fn cache_serves_again_within_the_window_of_its_ejection_and_reads_nothing_stale() {
    let servers: Option<Vec<_>> = (0..NODES)
        .map(|_| ReplicaSet::builder().cuts().start(0))
        .collect();
    let Some(servers) = servers else {
        return;
    };
    let ejection = Ejection::new()
        .with_failures(2)
        .with_window(WINDOW)
        .with_probe_interval(Duration::from_millis(100), Duration::from_millis(400))
        .with_readmission(Readmission::Flushed);
    let describe = || {
        let urls = servers.iter().map(|server| server.url(0));
        support::builder_over(urls)
            .cache(ejection)
            .connect_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
    };
    let clients = AllClients::open(describe);
    let (ended, asked) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 0..9 {
            let kind = KINDS[number % KINDS.len()];
            let mut client = clients.of(kind);
            let (ended, asked) = (&ended, &asked);
            scope.spawn(move || {
                let mut random = Random(number as u64);
                while !ended.load(Ordering::Relaxed) {
                    let key = format!("key:{}", random.below(400));
                    let at = Instant::now();
                    let answer = match random.below(2) {
                        0 => client.ask::<Value>(&["GET", &key]),
                        _ => client.ask(&["INCR", &key]),
                    };
                    let error = answer.err().map(|error| error.to_string());
                    asked.lock().unwrap().push(Asked { kind, at, error });
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let end = End(&ended);
        let faults = [
            Fault::Kill,
            Fault::Pause,
            Fault::Cut,
            Fault::Reset,
            Fault::Sleep,
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            break_cache(&clients, &servers, number % NODES, fault, &asked);
        }
        drop(end);
    });
}

/// Has one node of a cache fail and return. No client reads what the node kept.
fn break_cache(
    clients: &AllClients,
    servers: &[ReplicaSet],
    node: usize,
    fault: Fault,
    asked: &Mutex<Vec<Asked>>,
) {
    // More than the window: a failure is noticed when its timeout is over.
    let noticed_within = WINDOW + 2 * TIMEOUT;
    let (_, stale) = clients
        .keys(&format!("stale:{fault:?}"), 1)
        .swap_remove(node);
    let mut client = clients.blocking.clone();
    let () = client.set(&stale, "former").unwrap();
    assert_eq!(
        servers[node].connection(0).get(&stale),
        Ok(Some("former".to_owned()))
    );
    let is_out = |out: usize| {
        let mut topologies = clients.topologies().into_iter();
        topologies.all(|topology| topology.out().len() == out)
    };
    let since = Instant::now();
    fault.begin(&servers[node]);
    wait_until("all clients eject the node", || is_out(1));
    println!(
        "{fault:?} of node {node}: ejected by all after {:?}",
        since.elapsed()
    );
    thread::sleep(noticed_within.saturating_sub(since.elapsed()));
    assert_eq!(client.get(&stale), Ok(None::<String>), "from another node");
    let () = client.set(&stale, "new").unwrap();
    thread::sleep(Duration::from_millis(300));
    fault.end(&servers[node]);
    wait_until("all clients readmit the node", || is_out(0));
    println!(
        "{fault:?} of node {node}: readmitted by all after {:?}",
        since.elapsed()
    );
    // Whoever reads it first: the node was emptied before.
    for kind in KINDS {
        let value: Option<String> = clients.of(kind).ask(&["GET", &stale]).unwrap();
        assert_eq!(value, None, "{kind:?} after {fault:?}");
    }
    let () = client.set(&stale, "later").unwrap();
    assert_eq!(
        servers[node].connection(0).get(&stale),
        Ok(Some("later".to_owned()))
    );
    thread::sleep(Duration::from_millis(300));
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    for kind in KINDS {
        let own = || asked.iter().filter(|asked| asked.kind == kind);
        let failed = || own().filter(|asked| asked.error.is_some());
        let last = failed().map(|asked| asked.at).max();
        let last = last.map_or(Duration::ZERO, |at| at.saturating_duration_since(since));
        println!(
            "{kind:?}: {} of {} requests failed, the last after {last:?}",
            failed().count(),
            own().count()
        );
        let late = failed().find(|asked| asked.at > since + noticed_within);
        assert!(
            late.is_none(),
            "{kind:?} after {fault:?}: {:?}",
            late.unwrap().error
        );
        assert!(failed().count() > 0, "the fault met no request of {kind:?}");
    }
}
