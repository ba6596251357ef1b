//! Takes the place of `redis-server` for redis-rs' tests: starts three more servers with the same options and then
//! becomes the server that was asked for. When that one is stopped, in whatever way, the system stops the others.
//!
//! The three listen at Unix sockets named after the port of the first, where the adapter finds them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

/// How long the three may take until they listen.
const START_MAX: Duration = Duration::from_secs(20);

/// Set for the process that becomes one of the three: the path of its socket.
const SOCKET: &str = "REDIS_RS_SUITE_SOCKET";

fn main() -> Result<()> {
    let server =
        env::var_os("REDIS_RS_SUITE_SERVER").context("REDIS_RS_SUITE_SERVER names no server")?;
    let options: Vec<OsString> = env::args_os().skip(1).collect();
    let mut command = Command::new(&server);
    command.args(&options);
    // Also of the first server, whose parent is the test: one that is stopped because it hangs stops no server.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if let Some(socket) = env::var_os(SOCKET) {
        command
            .args(["--port", "0", "--logfile", "/dev/null", "--unixsocket"])
            .arg(socket);
    } else if let Some(port) = port(&options) {
        start_three(&options, &port)?;
    }
    Err(command.exec()).with_context(|| format!("{} cannot be run", server.display()))
}

/// The value of `--port`.
fn port(options: &[OsString]) -> Option<String> {
    let position = options.iter().position(|option| option == "--port")?;
    options.get(position + 1)?.to_str().map(str::to_owned)
}

/// Returns when all three accept connections, so that a test which reaches the first server reaches all.
fn start_three(options: &[OsString], port: &str) -> Result<()> {
    let folder =
        env::var_os("REDIS_RS_SUITE_SOCKETS").context("REDIS_RS_SUITE_SOCKETS names no folder")?;
    let sockets: Vec<PathBuf> = (1..4)
        .map(|number| Path::new(&folder).join(format!("{port}-{number}")))
        .collect();
    for socket in &sockets {
        // Of an earlier server at the same port.
        let _ = fs::remove_file(socket);
        Command::new(env::current_exe()?)
            .args(options)
            .env(SOCKET, socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
    }
    let end = Instant::now() + START_MAX;
    for socket in &sockets {
        while UnixStream::connect(socket).is_err() {
            if Instant::now() > end {
                bail!("no server listens at {}", socket.display());
            }
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
