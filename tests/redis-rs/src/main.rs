//! Runs redis-rs' integration tests with this crate's clients in place of redis-rs' connections.
//!
//! ```text
//! cargo run --manifest-path tests/redis-rs/Cargo.toml -- [options] [words of the cases' names]
//!   --one-node          all keys live on one node
//!   --resp3             the connections speak RESP3, not RESP2
//!   --server PATH       this server in place of redis-server
//!   --verbose           shows the output of cases that failed
//! ```
//!
//! The tests are those of the published package, from cargo's registry, as they are. `exceptions.txt` has the cases
//! that cannot pass. Another case that fails is an error, and so is an exception that passes.

mod exceptions;
mod outcome;
mod package;
mod report;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::exceptions::{Exceptions, Mode};
use crate::outcome::{Case, Outcome};

/// What the command line asks for.
struct Options {
    mode: Mode,
    server: PathBuf,
    verbose: bool,
    /// Only cases whose names contain one of these; all without any.
    words: Vec<String>,
}

fn main() -> Result<ExitCode> {
    if !cfg!(target_os = "linux") {
        println!("redis-rs' tests are LEFT OUT: stopping four servers as one needs Linux");
        return Ok(ExitCode::SUCCESS);
    }
    let options = options()?;
    let exceptions = Exceptions::read(include_str!("../exceptions.txt"))?;
    package::link()?;
    let mut cases: Vec<Case> = package::build()?
        .iter()
        .map(Case::list)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let known = cases.len();
    if options.words.is_empty() {
        exceptions.check_names(&cases)?;
    }
    cases.retain(|case| options.selects(case));
    println!("{} of {known} cases, {}", cases.len(), options.mode);
    let outcomes = run(&options, &exceptions, &cases)?;
    let true_list = report::print(&options, &exceptions, &cases, &outcomes);
    Ok(if true_list {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn options() -> Result<Options> {
    let mut arguments = env::args().skip(1);
    let mut options = Options {
        mode: Mode::default(),
        server: env::var_os("REDISRS_SERVER_BIN")
            .map_or_else(|| "redis-server".into(), PathBuf::from),
        verbose: false,
        words: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--one-node" => options.mode.one_node = true,
            "--resp3" => options.mode.resp3 = true,
            "--verbose" => options.verbose = true,
            "--server" => {
                options.server = arguments.next().context("--server needs a path")?.into()
            }
            word if word.starts_with("--") => bail!("{word} is no option: see src/main.rs"),
            word => options.words.push(word.to_owned()),
        }
    }
    options.mode.server_major = package::server_major(&options.server)?;
    Ok(options)
}

impl Options {
    fn selects(&self, case: &Case) -> bool {
        let name = case.to_string();
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }
}

/// Runs the cases, each in a process of its own, as many at once as there are cores. redis-rs runs its tests one after
/// another: a panic hook that they set is the process's.
///
/// A case that fails and is not listed is run again, alone: some wait for milliseconds only, in which a busy machine
/// does not get to them.
fn run(options: &Options, exceptions: &Exceptions, cases: &[Case]) -> Result<Vec<Outcome>> {
    let sockets = tempfile::Builder::new()
        .prefix("redis-rs-suite")
        .tempdir()?;
    let outcomes = Mutex::new(vec![None; cases.len()]);
    let next = Mutex::new(0..cases.len());
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some(index) = next.lock().expect("no panics").next() else {
                    return Ok(());
                };
                let is_exception = exceptions.reason(&cases[index], &options.mode).is_some();
                let outcome = cases[index].run(options, sockets.path(), is_exception)?;
                outcomes.lock().expect("no panics")[index] = Some(outcome);
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panics"))
            .collect()
    });
    results.into_iter().collect::<Result<Vec<()>>>()?;
    let outcomes = outcomes.into_inner().expect("no panics");
    let mut outcomes = outcomes
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .context("a case was not run")?;
    for (case, outcome) in cases.iter().zip(&mut outcomes) {
        if !outcome.passed && exceptions.reason(case, &options.mode).is_none() {
            *outcome = case.run(options, sockets.path(), false)?;
            if outcome.passed {
                println!("passed when it was run again: {case}");
            }
        }
    }
    Ok(outcomes)
}
