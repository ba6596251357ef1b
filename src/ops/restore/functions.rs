//! Libraries of functions, which are loaded on all nodes.

use std::collections::BTreeSet;

use redis::{Cmd, Value};

use super::run::Run;
use super::servers::TargetServer;
use super::worker::Attempts;
use super::{ExistingKeys, RestoreEvent};
use crate::error::{Error, ErrorKind};
use crate::sync::{Node, ShardedClient};

/// Loads libraries, each once.
pub(super) struct Functions<'f> {
    client: &'f ShardedClient,
    /// False if a node has no functions.
    can_load: bool,
    seen: BTreeSet<Vec<u8>>,
}

impl<'f> Functions<'f> {
    /// For these nodes.
    pub(super) fn new(client: &'f ShardedClient, servers: &[TargetServer]) -> Self {
        Self {
            client,
            can_load: servers.iter().all(TargetServer::has_functions),
            seen: BTreeSet::new(),
        }
    }

    /// Loads a library on all nodes, unless that was done.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached; if a node has another library of this name, which is to stay.
    pub(super) fn load(&mut self, run: &Run<'_>, source: Vec<u8>) -> Result<(), Error> {
        if !run.options.loads_functions || self.seen.contains(&source) {
            return Ok(());
        }
        let library = library_of(&source);
        let refuse = |reason: String| {
            let key = format!("library {library}");
            run.report.lock().refuse(0, key.as_bytes(), reason.clone());
            run.notify(RestoreEvent::Refused { key, reason });
        };
        if !self.can_load {
            refuse("a node of the target has no functions: they came with Redis 7.0".into());
        } else if self.load_on_all(run, &library, &source, refuse)? {
            run.report.lock().functions += 1;
            run.notify(RestoreEvent::Function { library });
        }
        self.seen.insert(source);
        Ok(())
    }

    /// Returns true if all nodes have the library now.
    fn load_on_all(
        &self,
        run: &Run<'_>,
        library: &str,
        source: &[u8],
        refuse: impl Fn(String),
    ) -> Result<bool, Error> {
        for node in self.client.nodes() {
            let Some(error) = load_or_wait(run, &node, source)? else {
                continue;
            };
            let is_there = error.to_string().contains("already exists");
            if is_there && has(&node, library, source)? {
                continue;
            }
            match (is_there, run.options.existing) {
                (true, ExistingKeys::Skip) => run.remark(format!(
                    "node {:?} has another library {library}, which stays",
                    node.name()
                )),
                (true, _) => {
                    return Err(Error::config(format!(
                        "node {:?} has another library {library}; leave such libraries alone by --skip or \
                         --no-functions, or replace them by --replace",
                        node.name()
                    )));
                }
                (false, _) => {
                    refuse(error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Loads a library on a node, and waits for one that cannot be reached. Returns why the server has refused it.
fn load_or_wait(run: &Run<'_>, node: &Node, source: &[u8]) -> Result<Option<Error>, Error> {
    let replaces = run.options.existing == ExistingKeys::Replace;
    let mut attempts = Attempts::new();
    loop {
        match load(node, source, replaces) {
            Ok(()) => return Ok(None),
            // If it was loaded, the next attempt finds it.
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unknown => {
                attempts.wait(run, &error)?;
            }
            Err(error) if error.kind() == ErrorKind::Redis => return Ok(Some(error)),
            Err(error) => return Err(error),
        }
    }
}

/// Loads a library on a node.
fn load(node: &Node, source: &[u8], replaces: bool) -> Result<(), Error> {
    let mut command = Cmd::new();
    command.arg("FUNCTION").arg("LOAD");
    if replaces {
        command.arg("REPLACE");
    }
    command.arg(source);
    call(node, &command).map(drop)
}

/// True if the node has this very library.
fn has(node: &Node, library: &str, source: &[u8]) -> Result<bool, Error> {
    let mut command = Cmd::new();
    command.arg(&["FUNCTION", "LIST", "LIBRARYNAME", library, "WITHCODE"]);
    let reply = call(node, &command)?;
    Ok(contains(&reply, source))
}

/// True if a text like this is anywhere in a reply.
fn contains(reply: &Value, text: &[u8]) -> bool {
    match reply {
        Value::BulkString(bytes) => bytes == text,
        Value::SimpleString(found) => found.as_bytes() == text,
        Value::VerbatimString { text: found, .. } => found.as_bytes() == text,
        Value::Array(items) | Value::Set(items) => items.iter().any(|item| contains(item, text)),
        Value::Map(pairs) => pairs.iter().any(|(_, value)| contains(value, text)),
        _ => false,
    }
}

fn call(node: &Node, command: &Cmd) -> Result<Value, Error> {
    let reply = command.query::<Value>(&mut node.clone());
    reply.map_err(|error| match Error::of(&error) {
        Some(own) => own.clone(),
        None => Error::new(
            ErrorKind::of(&error),
            format!("node {:?}: {error}", node.name()),
        )
        .at_node(node.name()),
    })
}

/// The name of a library, which stands in the first line of its source.
fn library_of(source: &[u8]) -> String {
    let text = String::from_utf8_lossy(source);
    let line = text.lines().next().unwrap_or_default();
    let name = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("name="));
    name.unwrap_or("without a name").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_is_named_in_its_first_line() {
        assert_eq!(library_of(b"#!lua name=mylib\nreturn 1"), "mylib");
        assert_eq!(library_of(b"return 1"), "without a name");
    }
}
