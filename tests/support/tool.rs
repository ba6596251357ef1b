//! Runs the tool as a program.

use std::process::{Command, Stdio};

/// How a run of the tool has ended, and what it has written.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the tool to its end.
pub fn run(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("REDIS_SHARDING_NODE_PASSWORD");
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}
