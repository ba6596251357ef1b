//! SUBSCRIBE, PSUBSCRIBE, their opposites, and PUBLISH.

use super::super::channels::Topic;
use super::super::protocol::Reply;
use super::{Answer, Call};

/// SUBSCRIBE: one confirmation per channel.
pub(super) fn subscribe(call: &mut Call<'_>) -> Answer {
    join(call, b"subscribe", Topic::Channel)
}

/// PSUBSCRIBE: one confirmation per pattern.
pub(super) fn psubscribe(call: &mut Call<'_>) -> Answer {
    join(call, b"psubscribe", Topic::Pattern)
}

/// UNSUBSCRIBE: one confirmation per channel; all channels if none is given.
pub(super) fn unsubscribe(call: &mut Call<'_>) -> Answer {
    leave(call, b"unsubscribe", Topic::Channel)
}

/// PUNSUBSCRIBE: one confirmation per pattern; all patterns if none is given.
pub(super) fn punsubscribe(call: &mut Call<'_>) -> Answer {
    leave(call, b"punsubscribe", Topic::Pattern)
}

/// PUBLISH: the number of subscriptions that got the message.
pub(super) fn publish(call: &mut Call<'_>) -> Answer {
    let receivers = call.database.channels.publish(&call.args[1], &call.args[2]);
    Ok(Reply::count(receivers))
}

/// Adds subscriptions, and confirms each.
fn join(call: &mut Call<'_>, word: &[u8], topic: fn(Vec<u8>) -> Topic) -> Answer {
    // A confirmation is a push of its own, which has no place in the array of EXEC.
    if call.session.in_exec {
        return Err("ERR this in-process test node does not subscribe inside a transaction; use a real server".into());
    }
    let (id, protocol) = (call.session.id, call.session.protocol);
    let mut replies = Vec::new();
    for name in call.rest(1) {
        call.database
            .channels
            .subscribe(id, protocol, topic(name.clone()));
        replies.push(confirm(call, word, Reply::Bulk(name.clone())));
    }
    Ok(Reply::Several(replies))
}

/// Removes subscriptions, and confirms each. Without any there is one confirmation, with nil for the name.
fn leave(call: &mut Call<'_>, word: &[u8], topic: fn(Vec<u8>) -> Topic) -> Answer {
    let id = call.session.id;
    let mut names = call.rest(1).to_vec();
    if names.is_empty() {
        let mine = call.database.channels.topics(id);
        names = mine.filter_map(|known| of_kind(known, topic)).collect();
    }
    if names.is_empty() {
        return Ok(confirm(call, word, Reply::Nil));
    }
    let mut replies = Vec::new();
    for name in names {
        call.database.channels.unsubscribe(id, &topic(name.clone()));
        replies.push(confirm(call, word, Reply::Bulk(name)));
    }
    Ok(Reply::Several(replies))
}

/// Returns the name of a topic, if it is of this kind.
fn of_kind(known: &Topic, kind: fn(Vec<u8>) -> Topic) -> Option<Vec<u8>> {
    let (Topic::Channel(name) | Topic::Pattern(name)) = known;
    (kind(name.clone()) == *known).then(|| name.clone())
}

/// Returns the confirmation: its word, the name, and the number of subscriptions left.
fn confirm(call: &mut Call<'_>, word: &[u8], name: Reply) -> Reply {
    let left = call.database.channels.topics(call.session.id).count();
    // Kept in the session too, where it is looked at before each command.
    call.session.subscriptions = left;
    Reply::Push(vec![Reply::Bulk(word.to_vec()), name, Reply::count(left)])
}
