//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::super::protocol::Reply;
use super::{Answer, Call, Failure};

/// MULTI: commands are queued from now on.
pub(super) fn multi(call: &mut Call<'_>) -> Answer {
    if call.session.queue.is_some() {
        return Err("ERR MULTI calls can not be nested".into());
    }
    call.session.queue = Some(Vec::new());
    call.session.aborted = false;
    Ok(Reply::OK)
}

/// EXEC: the replies of the queued commands; nil if a watched key has changed, an error if a command was
/// refused when it was queued.
pub(super) fn exec(call: &mut Call<'_>) -> Answer {
    let session = &mut *call.session;
    let queue = session.queue.take();
    // EXEC without MULTI is an error, and leaves the watch in force: `watched` is taken after it.
    let queue = queue.ok_or(Failure::from("ERR EXEC without MULTI"))?;
    let aborted = session.aborted;
    let watched = std::mem::take(&mut session.watched);
    // In every case: EXEC ends the transaction and the watch whatever its reply is.
    session.end_transaction();
    // Before the watched keys are compared: EXECABORT takes precedence over nil.
    if aborted {
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    let store = &mut call.database.store;
    if watched
        .iter()
        .any(|(key, version)| store.version(key) != *version)
    {
        return Ok(Reply::NilArray);
    }
    // `execute` would not queue them, since the queue is gone; this flag only keeps them from blocking.
    session.in_exec = true;
    let replies = queue
        .iter()
        .map(|args| session.execute(call.database, args))
        .collect();
    session.in_exec = false;
    Ok(Reply::Array(replies))
}

/// DISCARD: OK; the queued commands are dropped, and the watch ends.
pub(super) fn discard(call: &mut Call<'_>) -> Answer {
    if call.session.queue.is_none() {
        return Err("ERR DISCARD without MULTI".into());
    }
    call.session.end_transaction();
    Ok(Reply::OK)
}

/// WATCH: OK. A key that is watched already keeps the version of its first watch.
pub(super) fn watch(call: &mut Call<'_>) -> Answer {
    if call.session.queue.is_some() {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    for key in call.rest(1) {
        if !call
            .session
            .watched
            .iter()
            .any(|(watched, _)| watched == key)
        {
            let version = call.database.store.version(key);
            call.session.watched.push((key.clone(), version));
        }
    }
    Ok(Reply::OK)
}

/// UNWATCH: OK.
pub(super) fn unwatch(call: &mut Call<'_>) -> Answer {
    call.session.watched.clear();
    Ok(Reply::OK)
}
