//! [`Watch`]: the keys that a handle of the client watches, from WATCH to its next atomic pipeline or UNWATCH.
//! `plan::handle_command` describes the rules.

use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::Mutex;

use crate::aio::{Dedicated, Shared};
use crate::error::Error;
use crate::plan::{
    PipelineKind, Router, ScriptStore, WatchCommand, beside_watch, contains_watch, exec_abort,
    parse_one, watch_ended,
};

/// The attempt at an optimistic transaction of one handle. A clone of the handle that is made while the
/// attempt lasts shares it, as clones of a connection of redis-rs do.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    attempt: Option<Arc<Mutex<Attempt>>>,
    /// The router of the handle, if another one replaces it while keys are watched.
    usual_router: Option<Arc<Router>>,
}

/// An attempt that one or more handles share.
#[derive(Debug)]
struct Attempt {
    /// The connection that watches. `None` once EXEC or UNWATCH has ended the attempt, and if WATCH failed.
    connection: Option<Dedicated>,
    /// The first key, for messages.
    key: Vec<u8>,
    /// True if a WATCH failed or its future was dropped: EXEC must not run.
    has_failed: bool,
}

impl Watch {
    /// True if the handle watches keys, or its WATCH has failed.
    pub(super) fn is_active(&self) -> bool {
        self.attempt.is_some()
    }

    /// Makes reads of a node that is down fail instead of being misses: a miss might decide what EXEC writes.
    fn limit_reads(&mut self, shared: &mut Arc<Shared>) {
        if let Some(router) = shared.router.while_watching() {
            self.usual_router = Some(Arc::clone(&shared.router));
            *shared = shared.with_router(Arc::new(router));
        }
    }

    /// Undoes [`limit_reads`](Self::limit_reads).
    fn restore_reads(&mut self, shared: &mut Arc<Shared>) {
        if let Some(router) = self.usual_router.take() {
            *shared = shared.with_router(router);
        }
    }

    /// Carries out a request that was refused because connections are shared, if it is WATCH or UNWATCH.
    pub(super) async fn handle(
        &mut self,
        shared: &mut Arc<Shared>,
        cmd: &Cmd,
        refusal: Error,
    ) -> RedisResult<Value> {
        let packed = cmd.get_packed_command();
        let args = parse_one(&packed)?;
        match shared.router.watch_command(&args) {
            None => Err(refusal.into()),
            Some(command) => match command? {
                WatchCommand::Watch => {
                    self.limit_reads(shared);
                    self.watch(shared, &args, cmd).await
                }
                WatchCommand::Unwatch => {
                    self.restore_reads(shared);
                    self.unwatch().await;
                    Ok(Value::Okay)
                }
            },
        }
    }

    /// WATCH: joins the attempt under way, or begins one.
    async fn watch(
        &mut self,
        shared: &Arc<Shared>,
        args: &[&[u8]],
        cmd: &Cmd,
    ) -> RedisResult<Value> {
        if let Some(attempt) = &self.attempt {
            let mut attempt = attempt.lock().await;
            if attempt.connection.is_some() {
                return attempt.watch_more(shared, args, cmd).await;
            }
        }
        // Failed until the reply has come: an EXEC after a WATCH that failed, or whose future was dropped,
        // must not run.
        let attempt = Arc::new(Mutex::new(Attempt {
            connection: None,
            key: args.get(1).copied().unwrap_or_default().to_vec(),
            has_failed: true,
        }));
        self.attempt = Some(Arc::clone(&attempt));
        attempt.lock().await.begin(shared, args, cmd).await
    }

    /// UNWATCH: ends the attempt, for all handles that share it.
    async fn unwatch(&mut self) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        let connection = attempt.lock().await.connection.take();
        if let Some(connection) = connection {
            unwatch(connection).await;
        }
    }

    /// Records that a plain pipeline has failed. One with a WATCH is always refused, and EXEC must not run then.
    pub(super) async fn pipeline_failed(&mut self, packed: &[u8]) {
        if !contains_watch(packed) {
            return;
        }
        match &self.attempt {
            Some(attempt) => attempt.lock().await.has_failed = true,
            None => {
                self.attempt = Some(Arc::new(Mutex::new(Attempt {
                    connection: None,
                    key: Vec::new(),
                    has_failed: true,
                })));
            }
        }
    }

    /// Checks a pipeline that is not going to use the connection that watches.
    ///
    /// # Errors
    ///
    /// For a transaction of a handle whose watch is active: it would run unwatched.
    pub(super) fn check_beside(&self, pipeline: &Pipeline) -> Result<(), Error> {
        match self.is_active() && pipeline.is_transaction() {
            true => Err(beside_watch()),
            false => Ok(()),
        }
    }

    /// An atomic pipeline of a handle whose watch is active. Ends the attempt, whatever the outcome, also if
    /// the future is dropped.
    pub(super) async fn exec(
        &mut self,
        shared: &mut Arc<Shared>,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let Some(attempt) = self.attempt.take() else {
            return shared.pipeline(pipeline, offset, count).await;
        };
        self.restore_reads(shared);
        // Taken out: a clone that shares the attempt and comes second finds nothing, and is refused.
        let (connection, key, has_failed) = {
            let mut attempt = attempt.lock().await;
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
            unwatch(connection).await;
            return Err(exec_abort().into());
        }
        let packed = pipeline.get_packed_pipeline();
        let kind = PipelineKind::of(&packed, offset, count);
        let watched = (&key[..], connection.node());
        let checked =
            shared
                .router
                .check_watched_pipeline(&packed, kind, &|| shared.snapshot(), watched);
        if let Err(refusal) = checked {
            unwatch(connection).await;
            return Err(refusal.into());
        }
        // With the timeouts of this handle, and not of the one that has opened the connection.
        connection.shared = Arc::clone(shared);
        let values = connection
            .req_packed_commands(pipeline, offset, count)
            .await?;
        connection.finish();
        Ok(values)
    }
}

impl Attempt {
    /// The first WATCH, on a connection of its own.
    async fn begin(
        &mut self,
        shared: &Arc<Shared>,
        args: &[&[u8]],
        cmd: &Cmd,
    ) -> RedisResult<Value> {
        let (node, keys) = shared.router.watched_node(args)?;
        let mut connection = Dedicated::open(Arc::clone(shared), node, keys).await?;
        let reply = connection.req_packed_command(cmd).await?;
        // A server that refuses WATCH watches nothing: the next one begins another attempt.
        if reply == Value::Okay {
            self.connection = Some(connection);
            self.has_failed = false;
        }
        Ok(reply)
    }

    /// A further WATCH, on the same connection.
    async fn watch_more(
        &mut self,
        shared: &Arc<Shared>,
        args: &[&[u8]],
        cmd: &Cmd,
    ) -> RedisResult<Value> {
        let Some(connection) = &mut self.connection else {
            return Err(watch_ended().into());
        };
        let has_failed = std::mem::replace(&mut self.has_failed, true);
        let (node, _) = shared.router.watched_node(args)?;
        let key = args.get(1).copied().unwrap_or_default();
        let watched = (&self.key[..], connection.node());
        shared.router.check_second_watch(watched, key, node)?;
        // With the timeouts of this handle, and not of the one that has opened the connection.
        connection.shared = Arc::clone(shared);
        let replied = connection.req_packed_command(cmd).await;
        if replied.is_err() && !connection.is_open() {
            // Nothing is watched any more. EXEC fails now, and the next WATCH begins another attempt.
            self.connection = None;
        }
        let reply = replied?;
        self.has_failed = has_failed || reply != Value::Okay;
        Ok(reply)
    }
}

/// Ends the watch of a connection and gives it back; closes it if that fails.
async fn unwatch(mut connection: Dedicated) {
    if redis::cmd("UNWATCH").query_async(&mut connection).await == Ok(Value::Okay) {
        connection.finish();
    }
}
