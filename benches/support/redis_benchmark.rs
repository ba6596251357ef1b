//! redis-benchmark against one server, as a fixed point that other people know.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::blocking::Shape;
use super::data::{BATCH, KEYS};
use super::measure::{Row, Spent};

/// A row for so many connections at a time, if there is such a program. Its CPU time is not known, and given as none.
pub fn row(addr: &str, shape: Shape, connections: usize) -> Option<Row<'static>> {
    let there = Command::new("redis-benchmark")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !there.is_ok_and(|status| status.success()) {
        return None;
    }
    let (host, port) = addr.rsplit_once(':')?;
    let server = [host.to_owned(), port.to_owned()];
    Some(Row::timed("redis-benchmark, one node", move |count| {
        run(&server, shape, connections, count)
    }))
}

/// It runs longer than the other rows, because it measures in milliseconds.
const LONGER: u32 = 5;

fn run([host, port]: &[String; 2], shape: Shape, connections: usize, count: u64) -> Spent {
    let count = count * u64::from(LONGER);
    let pipeline = if shape == Shape::Pipeline { BATCH } else { 1 };
    let requests = count * pipeline as u64;
    let started = Instant::now();
    let output = Command::new("redis-benchmark")
        .args(["-h", host, "-p", port, "--csv"])
        .args(["-c", &connections.to_string(), "-P", &pipeline.to_string()])
        .args(["-n", &requests.to_string(), "-r", &KEYS.to_string()])
        .args(match shape {
            Shape::MGet => [vec!["MGET"], vec!["key:__rand_int__"; BATCH]].concat(),
            _ => vec!["GET", "key:__rand_int__"],
        })
        .output()
        .expect("it was there before");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text
        .lines()
        .nth(1)
        .and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    // Starting the program is not what is measured.
    let wall = match rate {
        Some(rate) => Duration::from_secs_f64(requests as f64 / f64::max(rate, 1.0)),
        None => started.elapsed(),
    };
    Spent {
        wall: wall / LONGER,
        cpu: Duration::ZERO,
    }
}
