//! Instructions of the client per operation, counted by callgrind: exact, whatever else the machine does.
//!
//! Every figure comes from two processes under valgrind that do different numbers of operations; the difference is what
//! the operations cost. `cargo bench --bench instructions -- Ours-Pipeline` counts one figure only. The profiles stay in
//! `target`, for `callgrind_annotate`. With `--features metrics` our rows have metrics and a recorder that keeps them, with
//! `--features tracing` spans that nobody subscribes to.

mod support;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::blocking::{Name, Shape};
use support::cluster::Cluster;
use support::data::Keys;
use support::fleet::Fleet;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.as_slice() {
        [row, operations, urls] => work(row, operations.parse().expect("a number"), urls),
        args => count(args.iter().find(|arg| !arg.starts_with('-'))),
    }
}

/// What happens under valgrind.
fn work(row: &str, operations: u64, urls: &str) {
    #[cfg(feature = "metrics")]
    metrics_exporter_prometheus::PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.01, 0.1, 1.0])
        .and_then(metrics_exporter_prometheus::PrometheusBuilder::install_recorder)
        .expect("the first recorder of this process");
    let urls = urls.split(',').map(str::to_owned).collect();
    let (name, shape) = rows()
        .find(|&of| row == title(of))
        .expect("a row of the table");
    let (mut contender, mut keys) = (name.connect(urls), Keys::new());
    for _ in 0..operations {
        shape.run(&mut *contender, &mut keys);
    }
}

fn count(wanted: Option<&String>) {
    let there = Command::new("valgrind").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("instructions are counted by valgrind, and there is none");
        return;
    }
    let (fleet, cluster) = (Fleet::start(), Cluster::start());
    println!("client instructions per operation");
    for of in rows().filter(|&of| wanted.is_none_or(|wanted| *wanted == title(of))) {
        let urls = if of.0.is_of_cluster() {
            cluster.urls()
        } else {
            fleet.urls()
        };
        let [few, many] = OPERATIONS.map(|count| instructions(&title(of), count, &urls.join(",")));
        println!(
            "{:24} {:>10}",
            title(of),
            (many - few) / (OPERATIONS[1] - OPERATIONS[0])
        );
    }
}

/// What the main thread of a process of so many operations executes from its start to its end. A client that follows a
/// record has threads of its own, whose instructions depend on the time.
fn instructions(row: &str, operations: u64, urls: &str) -> u64 {
    let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{row}"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe().expect("this program"))
        .args([row, &operations.to_string(), urls])
        .output()
        .expect("it was there before");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind failed:\n{said}");
    let of_main = fs::read_to_string(format!("{}-01", profile.display())).expect("a profile");
    let totals = of_main
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    totals.expect("a profile ends with its totals")
}

fn rows() -> impl Iterator<Item = (Name, Shape)> {
    let names = |shape| Name::ALL.map(|name| (name, shape));
    Shape::ALL.into_iter().flat_map(names)
}

fn title((name, shape): (Name, Shape)) -> String {
    format!("{name:?}-{shape:?}")
}

/// More operations than buffers need to grow to their size.
const OPERATIONS: [u64; 2] = [100, 300];
