//! The example `proxy`, as a process of its own in front of the servers of a test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::examples;
use super::servers::Watchdog;

/// A proxy that listens. It is stopped when this is dropped.
pub struct ExampleProxy {
    address: String,
    process: Child,
    watchdog: Option<Watchdog>,
}

impl ExampleProxy {
    /// In front of nodes called `node-0`, `node-1`, ... at these URLs.
    pub fn start(urls: &[String]) -> Self {
        Self::start_with(urls, &[])
    }

    /// The same with further arguments.
    pub fn start_with(urls: &[String], arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        for (number, url) in urls.iter().enumerate() {
            command.arg("--node").arg(format!("node-{number}={url}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the example proxy runs");
        let watchdog = Some(Watchdog::start(process.id()));
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ");
        Self {
            address: address
                .unwrap_or_else(|| panic!("it says {line:?}"))
                .to_owned(),
            process,
            watchdog,
        }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for ExampleProxy {
    fn drop(&mut self) {
        self.watchdog.take();
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| examples::build(&["--example", "proxy"]).join("proxy"))
}
