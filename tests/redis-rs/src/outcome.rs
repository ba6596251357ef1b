//! A case, and what came of it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Options;
use crate::package::{self, Program};

/// How long a case may take. The longest of redis-rs takes seconds, and makes keys for TLS.
const CASE_MAX: Duration = Duration::from_secs(60);

/// How long a case that cannot pass may take: some of them wait for ever.
const EXCEPTION_MAX: Duration = Duration::from_secs(10);

/// Printed by the adapter when a case opens a client.
const CLIENT_OPENED: &str = "redis-rs-suite: a client is opened";

/// Printed by redis-rs' tests.
const SKIPPED: &str = "Skipping the test because the running server does not support";

/// A test function of redis-rs.
#[derive(Clone)]
pub struct Case {
    file: String,
    path: PathBuf,
    name: String,
}

/// The file, and the function with its modules.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file, self.name)
    }
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub passed: bool,
    /// Whether it needed a server at all, and was not skipped because the server is too old.
    pub applicable: bool,
    pub skipped: bool,
    pub output: String,
}

impl Case {
    /// All cases of a program but those that redis-rs ignores.
    pub fn list(program: &Program) -> Result<Vec<Self>> {
        let output = Command::new(&program.path)
            .args(["--list", "--format", "terse"])
            .output()?;
        let ignored = Command::new(&program.path)
            .args(["--list", "--format", "terse", "--ignored"])
            .output()?;
        let ignored = String::from_utf8(ignored.stdout)?;
        let listed = String::from_utf8(output.stdout)?;
        let names = listed
            .lines()
            .filter(|line| !ignored.lines().any(|other| other == *line));
        Ok(names
            .filter_map(|line| line.strip_suffix(": test"))
            .map(|name| Self {
                file: program.name.clone(),
                path: program.path.clone(),
                name: name.to_owned(),
            })
            .collect())
    }

    pub fn run(&self, options: &Options, sockets: &Path, is_exception: bool) -> Result<Outcome> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(&self.path);
        command
            .args(["--exact", &self.name, "--nocapture", "--test-threads", "1"])
            .env("REDISRS_SERVER_BIN", package::four_servers()?)
            .env("REDIS_RS_SUITE_SERVER", &options.server)
            .env("REDIS_RS_SUITE_SOCKETS", sockets)
            .env(
                "PROTOCOL",
                if options.mode.resp3 { "RESP3" } else { "RESP2" },
            )
            .stdin(Stdio::null())
            .env("RUST_BACKTRACE", "0")
            .stdout(log.as_file().try_clone()?)
            .stderr(log.as_file().try_clone()?);
        if options.mode.one_node {
            command.env("REDIS_RS_SUITE_ONE_NODE", "1");
        }
        let mut child = command.spawn()?;
        let end = Instant::now()
            + if is_exception {
                EXCEPTION_MAX
            } else {
                CASE_MAX
            };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                break None;
            }
            sleep(Duration::from_millis(2));
        };
        let mut bytes = Vec::new();
        File::open(log.path())?
            .read_to_end(&mut bytes)
            .context("the output of a case")?;
        let mut output = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_none() {
            output.push_str("\nthe case did not end in time");
        } else if !output.contains("running 1 test") {
            bail!("{self} was not run: {output}");
        }
        let skipped = output.contains(SKIPPED);
        Ok(Outcome {
            passed: status.is_some_and(|status| status.success()),
            applicable: output.contains(CLIENT_OPENED) && !skipped,
            skipped,
            output,
        })
    }
}
