//! Other processes of a test: this very program, started again with one test that plays a part.
//!
//! What a part says in lines that begin with [`MARK`] is read by the test that has started it, and what that writes is its
//! standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::servers::{Watchdog, run, signal};

/// The beginning of a line for the test; everything else is said by the harness.
const MARK: &str = "@ ";

/// The environment variable with the name of the part.
const PART: &str = "REDIS_SHARDING_TEST_PART";

/// How long a part may say nothing.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process that ends when this is dropped.
pub struct Part {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    _watchdog: Watchdog,
}

/// The part that this process plays, if it was started for one.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Says something to the test that has started this process.
pub fn say(text: &str) {
    let text = text.replace('\n', " ");
    println!("\n{MARK}{text}");
}

/// Waits for a line from the test that has started this process. Ends the process if that is gone.
pub fn hear() -> String {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(1..) => line.trim_end().to_owned(),
        _ => std::process::exit(1),
    }
}

impl Part {
    /// Runs `test` of this program in another process, with these environment variables.
    pub fn start(test: &str, part: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]);
        command.env(PART, part).envs(variables.iter().copied());
        let mut child = run(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            _watchdog: Watchdog::start(child.id()),
            child,
            lines,
        }
    }

    /// The next line that begins like this. Others are left out.
    pub fn expect(&self, start: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("{start:?} was not said in {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {start:?}"),
            }
        }
    }

    /// Forgets what it has said so far.
    pub fn forget(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// Sends it a line.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        signal("STOP", self.child.id());
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal("CONT", self.child.id());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
