//! redis-benchmark against one server, as a fixed point that other people know.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::blocking::Shape;
use super::data::{BATCH, KEYS, VALUE};
use super::measure::{Row, Spent};

/// A row for so many connections at a time, if there is such a program. Its CPU time is not known, and given as none.
pub fn row(addr: &str, shape: Shape, connections: usize) -> Option<Row<'static>> {
    if !is_installed() {
        return None;
    }
    let (host, port) = addr.rsplit_once(':')?;
    let server = [host.to_owned(), port.to_owned()];
    Some(Row::timed("redis-benchmark, one node", move |count| {
        run(&server, shape, connections, count)
    }))
}

/// Whether there is such a program.
pub fn is_installed() -> bool {
    let there = Command::new("redis-benchmark")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    there.is_ok_and(|status| status.success())
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
    // Starting the program is not what is measured.
    let wall = match said(&output.stdout) {
        Some(rate) => Duration::from_secs_f64(requests as f64 / f64::max(rate, 1.0)),
        None => started.elapsed(),
    };
    Spent {
        wall: wall / LONGER,
        cpu: Duration::ZERO,
    }
}

/// The requests a second that it reports.
fn said(output: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().nth(1)?;
    line.split(',').nth(1)?.trim_matches('"').parse().ok()
}

/// What redis-benchmark asks a proxy for.
#[derive(Clone, Copy)]
pub struct Load {
    pub commands: Commands,
    /// So many requests are sent before their answers are read.
    pub pipeline: usize,
    pub connections: usize,
}

/// Which commands, with random keys.
#[derive(Clone, Copy)]
pub enum Commands {
    Get,
    Set,
    /// Of ten keys.
    MSet,
    /// Of ten keys.
    MGet,
}

impl Commands {
    pub const ALL: [Self; 4] = [Self::Get, Self::Set, Self::MSet, Self::MGet];

    /// Every key of one request is another.
    fn words(self) -> Vec<&'static str> {
        const KEY: &str = "key:__rand_int__";
        const TEXT: &str = match std::str::from_utf8(&VALUE) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        };
        match self {
            Self::Get => vec!["GET", KEY],
            Self::Set => vec!["SET", KEY, TEXT],
            Self::MSet => [vec!["MSET"], [KEY, TEXT].repeat(MANY)].concat(),
            Self::MGet => [vec!["MGET"], vec![KEY; MANY]].concat(),
        }
    }
}

/// So many requests at least: less is over before it can be measured.
pub const LEAST: u64 = 20_000;

/// Keys of an MSET and an MGET.
const MANY: usize = 10;

impl Load {
    /// Requests a second, of so many.
    pub fn rate(&self, addr: &str, count: u64) -> f64 {
        let (host, port) = addr.rsplit_once(':').expect("host and port");
        let started = Instant::now();
        let output = Command::new("redis-benchmark")
            .args(["-h", host, "-p", port, "--csv"])
            .args(["-c", &self.connections.to_string()])
            .args(["-P", &self.pipeline.to_string()])
            .args(["-n", &count.to_string(), "-r", &KEYS.to_string()])
            .args(self.commands.words())
            .output()
            .expect("it was there before");
        said(&output.stdout).unwrap_or_else(|| count as f64 / started.elapsed().as_secs_f64())
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.commands.words();
        let keys = words.iter().filter(|word| word.starts_with("key:")).count();
        write!(
            f,
            "{} of {keys}, {} connections, -P {}",
            words[0], self.connections, self.pipeline
        )
    }
}
