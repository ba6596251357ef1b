//! Counts the keys of each node, and those that move when a node joins.

use std::fmt::Write;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use redis_sharding::partition::peers::Codis;
use redis_sharding::partition::{Partitioner, SlotMap, by_name, catalogue};
use redis_sharding::{Error, NodeSpec, Topology};

/// Numbers of nodes before one joins.
pub const SIZES: [usize; 3] = [4, 16, 128];
/// Number of keys: `user:0`, `user:1`, ...
pub const KEYS: usize = 1_000_000;
/// Number of runs, each with other node names; the chart shows the median.
pub const FLEETS: usize = 9;

/// The counts of one placement.
pub struct Figures {
    pub name: String,
    /// True for the preset of a peer.
    pub is_peer: bool,
    /// The load, for each number of nodes.
    pub loads: [Load; SIZES.len()],
    /// The share of the keys that have another owner after a node has joined, for each number of nodes.
    pub moved: [f64; SIZES.len()],
}

/// Keys of a node divided by the keys of the average node.
#[derive(Clone, Copy, Default)]
pub struct Load {
    /// Of the idlest node, in the median run.
    pub least: f64,
    /// Of the busiest node, in the median run.
    pub most: f64,
    /// Of the idlest node of all runs, and of the busiest.
    pub extremes: (f64, f64),
}

/// The placements before and after a node joins.
type Pair = (Arc<dyn Partitioner>, Arc<dyn Partitioner>);

/// Makes both placements for nodes whose last one joins.
type MakePair = dyn Fn(&[NodeSpec]) -> Result<Pair, Error> + Send + Sync;

/// A placement to measure.
struct Subject {
    name: String,
    is_peer: bool,
    pair: Box<MakePair>,
}

/// Measures every built-in placement but `range/1`, which is as even as its table; our own first, then by
/// evenness.
pub fn all() -> Result<Vec<Figures>, Error> {
    let subjects = subjects();
    let next = AtomicUsize::new(0);
    let work = || {
        let subject = || subjects.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(subject)
            .map(Subject::count)
            .collect::<Result<Vec<_>, _>>()
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let counted = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    let mut figures = Vec::new();
    for some in counted {
        figures.extend(some?);
    }
    let unevenness = |row: &Figures| row.loads.iter().map(|load| load.most).fold(0.0, f64::max);
    figures.sort_by(|a, b| {
        let key = |row: &Figures| (row.is_peer, unevenness(row));
        key(a)
            .partial_cmp(&key(b))
            .expect("no NaN")
            .then_with(|| a.name.cmp(&b.name))
    });
    Ok(figures)
}

fn subjects() -> Vec<Subject> {
    let own = ["hash-mod/1", "rendezvous/1", "ring/1", "slot-map/1"];
    let entries = catalogue().iter().filter(|entry| entry.name != "range/1");
    let mut subjects: Vec<Subject> = entries
        .map(|entry| {
            let options = match entry.name {
                "hash-mod/1" => vec![("key-hash".to_owned(), "crc32".to_owned())],
                _ => Vec::new(),
            };
            Subject {
                name: entry.name.to_owned(),
                is_peer: !own.contains(&entry.name),
                pair: Box::new(move |_| {
                    let rule = by_name(entry.name, &options)?;
                    Ok((Arc::clone(&rule), rule))
                }),
            }
        })
        .collect();
    for (even, name) in [(SlotMap::even(), "slot-map/1"), (Codis::even(), "codis/1")] {
        subjects.push(Subject {
            name: format!("{name}, rebalanced"),
            is_peer: !own.contains(&name),
            pair: Box::new(move |nodes| {
                let (_, fewer) = nodes.split_last().expect("there are nodes");
                let before = even.over(fewer)?;
                let after = before.rebalance(fewer, nodes)?.map;
                Ok((Arc::new(before), Arc::new(after)))
            }),
        });
    }
    subjects
}

impl Subject {
    fn count(&self) -> Result<Figures, Error> {
        let mut loads = [Load::default(); SIZES.len()];
        let mut moved = [0.0; SIZES.len()];
        for (i, size) in SIZES.into_iter().enumerate() {
            let fleets = (0..FLEETS).map(|fleet| self.count_fleet(fleet, size));
            let fleets = fleets.collect::<Result<Vec<_>, _>>()?;
            let column = |which: fn(&(f64, f64, f64)) -> f64| {
                let mut column: Vec<f64> = fleets.iter().map(which).collect();
                column.sort_by(f64::total_cmp);
                column
            };
            let (least, most) = (column(|fleet| fleet.0), column(|fleet| fleet.1));
            loads[i] = Load {
                least: least[FLEETS / 2],
                most: most[FLEETS / 2],
                extremes: (least[0], most[FLEETS - 1]),
            };
            moved[i] = column(|fleet| fleet.2)[FLEETS / 2];
        }
        Ok(Figures {
            name: self.name.clone(),
            is_peer: self.is_peer,
            loads,
            moved,
        })
    }

    /// Returns the smallest and the largest load, and the share of keys that moves.
    fn count_fleet(&self, fleet: usize, size: usize) -> Result<(f64, f64, f64), Error> {
        let nodes: Vec<NodeSpec> = (1..=size + 1)
            .map(|i| {
                NodeSpec::new(
                    format!("redis-{fleet}-{i}"),
                    format!("10.0.{fleet}.{i}:6379"),
                )
            })
            .collect();
        let (before, after) = (self.pair)(&nodes)?;
        let before = Topology::new(nodes[..size].to_vec(), before)?;
        let after = Topology::new(nodes, after)?;
        let mut counts = vec![0_u32; size];
        let mut moved = 0_u32;
        let mut key = String::new();
        for user in 0..KEYS {
            key.clear();
            let _ = write!(key, "user:{user}");
            let owner = before.locate(key.as_bytes());
            moved += u32::from(owner != after.locate(key.as_bytes()));
            counts[owner.expect("every key has an owner").get()] += 1;
        }
        let load = |count: Option<&u32>| {
            f64::from(*count.expect("there are nodes")) * size as f64 / KEYS as f64
        };
        let (least, most) = (load(counts.iter().min()), load(counts.iter().max()));
        Ok((least, most, f64::from(moved) / KEYS as f64))
    }
}
