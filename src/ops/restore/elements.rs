//! Keys that are made element by element, as no single RESTORE takes them.

use redis::Value;

use super::ExistingKeys;
use super::command::Requests;
use super::run::Unit;
use super::worker::{Attempts, Worker, exists};
use crate::error::{Error, ErrorKind};
use crate::rdb::bytes::Malformed;
use crate::rdb::elements::{Building, build};
use crate::rdb::server::ServerVersion;
use crate::sync::ShardedClient;

/// Bytes and commands that are sent at once.
const BATCH: (usize, usize) = (256 << 10, 1024);

/// Why a value was not made.
enum Failure {
    /// Its bytes do not fit its type.
    Malformed(Malformed),
    /// A command has failed.
    Failed(Error),
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// Makes a key. The first command deletes it, so that another attempt may begin at any time; therefore it is looked at
/// before, unless an earlier attempt has made it.
///
/// # Errors
///
/// If no other key can be restored either.
pub(super) fn restore(
    worker: &mut Worker<'_, '_>,
    client: &ShardedClient,
    unit: &Unit,
    server: ServerVersion,
    is_lossy: bool,
) -> Result<(), Error> {
    let key = &unit.info.key;
    let mut attempts = Attempts::new();
    let is_begun = worker.run.begun.contains(&unit.number);
    let existing = worker.run.options.existing;
    let mut is_free = is_begun || existing == ExistingKeys::Replace;
    while !is_free {
        match one(client, &[b"EXISTS", key]) {
            Ok(Value::Int(0)) => is_free = true,
            Ok(_) if existing == ExistingKeys::Skip => {
                worker.counts.exists(key);
                return Ok(());
            }
            Ok(_) => {
                worker.counts.exists(key);
                return Err(exists(key, 1));
            }
            Err(error) if error.is_retryable() => attempts.wait(worker.run, &error)?,
            Err(error) => return Err(error),
        }
    }
    worker.run.begin(unit.number)?;
    let building = Building {
        key,
        rename_to: None,
        expires_at: unit.info.expires_at,
        server,
        batch_bytes: BATCH.0,
        batch_commands: BATCH.1,
    };
    loop {
        let mut send = |commands: Vec<Vec<Vec<u8>>>| send(client, &commands);
        let made = build(
            unit.info.value_type,
            &unit.value,
            unit.version,
            &building,
            &mut send,
        );
        match made {
            Ok(()) => break,
            Err(Failure::Malformed(error)) => {
                one(client, &[b"DEL", key])?;
                worker.refuse(unit, format!("its value is damaged: {error}"));
                return Ok(());
            }
            // Whatever was sent is deleted by the next attempt.
            Err(Failure::Failed(error))
                if error.is_retryable() || error.kind() == ErrorKind::Unknown =>
            {
                attempts.wait(worker.run, &error)?;
            }
            Err(Failure::Failed(error)) => return Err(error),
        }
    }
    worker.counts.restored += 1;
    worker.counts.by_elements += 1;
    worker.counts.bytes += unit.value.len() as u64;
    worker.counts.without_field_expiries += u64::from(is_lossy);
    Ok(())
}

/// Sends some of the commands of a value.
fn send(client: &ShardedClient, commands: &[Vec<Vec<u8>>]) -> Result<(), Failure> {
    let mut requests = Requests::default();
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        requests.add(&args);
    }
    let replies = client.execute_packed(&requests.packed, requests.count);
    let replies = replies.map_err(Failure::Failed)?;
    replies
        .into_iter()
        .try_for_each(|reply| reply.map(drop).map_err(Failure::Failed))
}

/// Sends one command.
fn one(client: &ShardedClient, args: &[&[u8]]) -> Result<Value, Error> {
    let mut requests = Requests::default();
    requests.add(args);
    let replies = client.execute_packed(&requests.packed, requests.count)?;
    replies.into_iter().next().unwrap_or(Ok(Value::Nil))
}
