//! Which node, or which connection, gets a command about a server or a connection. A sharded client refuses such a
//! command, and names these as the way.

use redis_rs::{Arg, Cmd};

/// Who gets a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// The client, which knows where it belongs.
    Client,
    /// The node whose server the test has started: ids of connections are its own.
    First,
    /// A dedicated connection to that node.
    FirstConnection,
    /// Every node, one after another.
    Every,
    /// A dedicated connection to every node, which is kept for the commands that follow.
    Tracking,
}

/// Who gets this command.
pub fn of(command: &Cmd) -> Recipient {
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word.to_ascii_uppercase(),
        _ => Vec::new(),
    });
    match words.next().unwrap_or_default().as_slice() {
        b"SLAVEOF" | b"REPLICAOF" => Recipient::Every,
        b"CLIENT" => match words.next().unwrap_or_default().as_slice() {
            b"INFO" | b"KILL" | b"LIST" => Recipient::First,
            b"ID" => Recipient::FirstConnection,
            b"TRACKING" => Recipient::Tracking,
            _ => Recipient::Client,
        },
        _ => Recipient::Client,
    }
}

/// The commands of a pipeline, which redis-rs has packed: arrays of bulk strings.
pub fn split(mut packed: &[u8]) -> Vec<Cmd> {
    let mut commands = Vec::new();
    while !packed.is_empty() {
        let mut command = Cmd::new();
        for _ in 0..number(&mut packed) {
            let length = number(&mut packed);
            let (word, rest) = packed.split_at(length);
            command.arg(word);
            packed = &rest[b"\r\n".len()..];
        }
        commands.push(command);
    }
    commands
}

/// Takes a line such as `*3` or `$5`, and returns its number.
fn number(packed: &mut &[u8]) -> usize {
    let end = packed.iter().position(|byte| *byte == b'\r');
    let (line, rest) = packed.split_at(end.expect("a line has an end"));
    *packed = &rest[b"\r\n".len()..];
    let digits = std::str::from_utf8(&line[1..]).expect("digits are text");
    digits.parse().expect("a length is a number")
}
