//! [`Watch`]: the keys that a handle of the client watches, from WATCH to its next atomic pipeline or UNWATCH.
//! `plan::handle_command` describes the rules.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::{ConnectionLike, RedisResult, Value};

use crate::command::BlockingTime;
use crate::error::Error;
use crate::plan::{
    PipelineKind, ScriptStore, WatchCommand, WatchRoute, beside_watch, contains_watch, exec_abort,
    parse_one, watch_ended,
};
use crate::snapshot::SnapshotHandle;
use crate::sync::{Dedicated, Shared};

/// The attempt at an optimistic transaction of one handle. A clone of the handle that is made while the
/// attempt lasts shares it, as clones of a connection of redis-rs do.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    attempt: Option<Arc<Mutex<Attempt>>>,
    /// The router of the handle, if another one replaces it while keys are watched.
    usual: Option<SnapshotHandle<Shared>>,
}

/// An attempt that one or more handles share.
#[derive(Debug)]
struct Attempt {
    /// The connection that watches. `None` once EXEC or UNWATCH has ended the attempt, and if WATCH failed.
    connection: Option<Dedicated>,
    /// The first key, for messages.
    key: Vec<u8>,
    /// True if a WATCH failed: EXEC must not run.
    has_failed: bool,
    /// True if the watched keys have moved to another node of the cluster: EXEC replies nil.
    has_moved: bool,
}

impl Watch {
    /// True if the handle watches keys, or its WATCH has failed.
    pub(super) fn is_active(&self) -> bool {
        self.attempt.is_some()
    }

    /// Has the handle's reads fail instead of being answered as misses, until [`restore_reads`](Self::restore_reads).
    fn limit_reads(&mut self, shared: &mut SnapshotHandle<Shared>) {
        if self.usual.is_none() && shared.load().router.while_watching().is_some() {
            let watching = shared.with_variant(|variant| variant.is_watching = true);
            self.usual = Some(std::mem::replace(shared, watching));
        }
    }

    /// Gives the handle back what [`limit_reads`](Self::limit_reads) has taken.
    fn restore_reads(&mut self, shared: &mut SnapshotHandle<Shared>) {
        if let Some(usual) = self.usual.take() {
            *shared = usual;
        }
    }

    /// Carries out a request that was refused because connections are shared, if it is WATCH or UNWATCH.
    pub(super) fn handle(
        &mut self,
        shared: &mut SnapshotHandle<Shared>,
        packed: &[u8],
        refusal: Error,
    ) -> RedisResult<Value> {
        let args = parse_one(packed)?;
        let command = shared.load().router.watch_command(&args);
        match command {
            None => Err(refusal.into()),
            Some(command) => match command? {
                WatchCommand::Watch => {
                    self.limit_reads(shared);
                    self.watch(shared, &args, packed)
                }
                WatchCommand::Unwatch => {
                    self.restore_reads(shared);
                    self.unwatch();
                    Ok(Value::Okay)
                }
            },
        }
    }

    /// WATCH: joins the attempt under way, or begins one.
    fn watch(
        &mut self,
        shared: &SnapshotHandle<Shared>,
        args: &[&[u8]],
        packed: &[u8],
    ) -> RedisResult<Value> {
        if let Some(attempt) = &self.attempt {
            let mut attempt = attempt.lock();
            if attempt.connection.is_some() || attempt.has_moved {
                return attempt.watch_more(shared, args, packed);
            }
        }
        // Failed until the reply has come: an EXEC after a WATCH that failed must not run.
        let mut attempt = Attempt {
            connection: None,
            key: args.get(1).copied().unwrap_or_default().to_vec(),
            has_failed: true,
            has_moved: false,
        };
        let begun = attempt.begin(shared, args, packed);
        self.attempt = Some(Arc::new(Mutex::new(attempt)));
        begun
    }

    /// UNWATCH: ends the attempt, for all handles that share it.
    fn unwatch(&mut self) {
        let attempt = self.attempt.take();
        let connection = attempt.and_then(|attempt| attempt.lock().connection.take());
        if let Some(connection) = connection {
            unwatch(connection);
        }
    }

    /// Records that a plain pipeline has failed. One with a WATCH is always refused, and EXEC must not run then.
    pub(super) fn pipeline_failed(&mut self, packed: &[u8]) {
        if !contains_watch(packed) {
            return;
        }
        match &self.attempt {
            Some(attempt) => attempt.lock().has_failed = true,
            None => {
                self.attempt = Some(Arc::new(Mutex::new(Attempt {
                    connection: None,
                    key: Vec::new(),
                    has_failed: true,
                    has_moved: false,
                })));
            }
        }
    }

    /// Checks a pipeline that is not going to use the connection that watches.
    ///
    /// # Errors
    ///
    /// For a transaction of a handle whose watch is active: it would run unwatched.
    pub(super) fn check_beside(&self, pipeline: &redis::Pipeline) -> Result<(), Error> {
        match self.is_active() && pipeline.is_transaction() {
            true => Err(beside_watch()),
            false => Ok(()),
        }
    }

    /// An atomic pipeline of a handle whose watch is active. Ends the attempt, whatever the outcome.
    pub(super) fn exec(
        &mut self,
        shared: &mut SnapshotHandle<Shared>,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let Some(attempt) = self.attempt.take() else {
            return shared.ready()?.pipeline(packed, offset, count);
        };
        self.restore_reads(shared);
        // Taken out: a clone that shares the attempt and comes second finds nothing, and is refused.
        let (connection, key, has_failed) = {
            let mut attempt = attempt.lock();
            if attempt.has_moved && !attempt.has_failed {
                return Ok(vec![Value::Nil]);
            }
            let key = std::mem::take(&mut attempt.key);
            (attempt.connection.take(), key, attempt.has_failed)
        };
        let Some(mut connection) = connection else {
            return Err(match has_failed {
                true => exec_abort(),
                false => watch_ended(),
            }
            .into());
        };
        if has_failed {
            unwatch(connection);
            return Err(exec_abort().into());
        }
        let kind = PipelineKind::of(packed, offset, count);
        // With the timeouts of this handle, and not of the one that has opened the connection.
        connection.shared = shared.clone();
        // By the current topology: if the node has left, or the keys live elsewhere now, nothing may run here.
        let current = match connection.locate() {
            // In a cluster as if a key had changed: the next attempt finds the new owner.
            Err(_) if shared.load().router.topology().cluster().is_some() => {
                return Ok(vec![Value::Nil]);
            }
            located => located?,
        };
        let watched = (&key[..], connection.node());
        let snapshot = || current.snapshot();
        if let Err(refusal) = current
            .router
            .check_watched_pipeline(packed, kind, &snapshot, watched)
        {
            unwatch(connection);
            return Err(refusal.into());
        }
        drop(current);
        // If the server has closed the connection, nothing is watched. Sending EXEC would make its outcome unknown,
        // although it cannot have run.
        connection.close_if_stale()?;
        let values = match connection.req_packed_commands(packed, offset, count) {
            // The topology has changed just now.
            Err(error)
                if shared.load().router.is_unsent_exec(&error) && connection.locate().is_err() =>
            {
                return Ok(vec![Value::Nil]);
            }
            values => values?,
        };
        connection.finish();
        Ok(values)
    }
}

impl Attempt {
    /// The first WATCH, on a connection of its own.
    fn begin(
        &mut self,
        shared: &SnapshotHandle<Shared>,
        args: &[&[u8]],
        packed: &[u8],
    ) -> RedisResult<Value> {
        let (connection, reply) = begin(shared, args, packed)?;
        // A server that refuses WATCH watches nothing: the next one begins another attempt.
        if reply == Value::Okay {
            self.connection = Some(connection);
            self.has_failed = false;
        }
        Ok(reply)
    }

    /// A further WATCH, on the same connection.
    fn watch_more(
        &mut self,
        shared: &SnapshotHandle<Shared>,
        args: &[&[u8]],
        packed: &[u8],
    ) -> RedisResult<Value> {
        if self.has_moved {
            return Ok(Value::Okay);
        }
        let Some(connection) = &mut self.connection else {
            return Err(watch_ended().into());
        };
        let has_failed = std::mem::replace(&mut self.has_failed, true);
        // With the timeouts of this handle, and not of the one that has opened the connection.
        connection.shared = shared.clone();
        let current = match connection.locate() {
            Ok(current) => current,
            Err(error) => {
                // Nothing is watched any more, as below.
                self.connection = None;
                if shared.load().router.topology().cluster().is_some() {
                    return Ok(self.moved(has_failed));
                }
                return Err(error);
            }
        };
        let (node, _) = current.router.watched_node(args)?;
        let key = args.get(1).copied().unwrap_or_default();
        let watched = (&self.key[..], connection.node());
        current.router.check_second_watch(watched, key, node)?;
        drop(current);
        let replied = connection.req_packed_command(packed);
        if connection.state().has_moved() {
            return Ok(self.moved(has_failed));
        }
        if replied.is_err() && !connection.is_open() {
            // Nothing is watched any more. EXEC fails now, and the next WATCH begins another attempt.
            self.connection = None;
        }
        let reply = replied?;
        self.has_failed = has_failed || reply != Value::Okay;
        Ok(reply)
    }

    /// Records that the keys have moved, which EXEC is going to say. Returns the reply to WATCH.
    fn moved(&mut self, has_failed: bool) -> Value {
        self.connection = None;
        self.has_failed = has_failed;
        self.has_moved = true;
        Value::Okay
    }
}

/// Sends WATCH, to the server that serves the slot if the nodes are those of a cluster. Returns the connection and the
/// reply.
pub(super) fn begin(
    handle: &SnapshotHandle<Shared>,
    args: &[&[u8]],
    packed: &[u8],
) -> RedisResult<(Dedicated, Value)> {
    let deadline = handle.ready()?.executor.deadline(BlockingTime::None);
    let mut route = WatchRoute::default();
    loop {
        let mut is_asking = false;
        let opened = Dedicated::open(handle.clone(), |shared| {
            let (owner, keys) = shared.router.watched_node(args)?;
            let (node, asks) = route.node(owner);
            is_asking = asks;
            Ok((node, keys))
        });
        let mut connection = opened?;
        connection.set_asking(is_asking);
        let reply = connection.req_packed_command(packed);
        match route.after(connection.state(), deadline.remaining()) {
            true => connection.finish(),
            false => return Ok((connection, reply?)),
        }
    }
}

/// Ends the watch of a connection and gives it back; closes it if that fails.
fn unwatch(mut connection: Dedicated) {
    if redis::cmd("UNWATCH").query(&mut connection) == Ok(Value::Okay) {
        connection.finish();
    }
}
