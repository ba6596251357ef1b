//! Replies that chance has a part in, and loops over a cursor.

use std::collections::BTreeSet;
use std::io;

use super::run::both;
use super::wire::{Connection, Reply};

/// A cursor that has not come to its end by then never will.
const CALLS_MAX: usize = 10_000;

type Compared = io::Result<Result<(), String>>;

/// RANDOMKEY and the like: as many as the one server gives, and all of what the fleet gives is there.
pub fn compare_drawn(one: &mut Connection, fleet: &mut Connection, words: &[&[u8]]) -> Compared {
    let drawn = fleet.ask(words)?;
    let expected = one.ask(words)?;
    let differ = || Ok(Err(both(&expected, &drawn)));
    let (mut found, mut wanted) = (Vec::new(), Vec::new());
    let alike = leaves(&drawn, &mut found) == leaves(&expected, &mut wanted);
    if !alike || found.len() != wanted.len() {
        return differ();
    }
    if found.is_empty() {
        return if drawn == expected {
            Ok(Ok(()))
        } else {
            differ()
        };
    }
    let upper: Vec<Vec<u8>> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let with_values = upper.iter().any(|word| word.starts_with(b"WITH"));
    let name = upper[0].as_slice();
    let members = found.chunks(if with_values { 2 } else { 1 });
    let distinct: BTreeSet<&[Vec<u8>]> = members.clone().collect();
    let may_repeat = words.get(2).is_some_and(|count| count.starts_with(b"-"));
    if !may_repeat && distinct.len() != members.len() {
        return Ok(Err(format!("some are there twice: {drawn:?}")));
    }
    for member in distinct {
        let key = words.get(1).copied().unwrap_or_default();
        let is_there = match name {
            b"RANDOMKEY" => one.ask(&[b"EXISTS", member[0].as_slice()])?.integer() == Some(1),
            b"SRANDMEMBER" => one.ask(&[b"SISMEMBER", key, &member[0]])?.integer() == Some(1),
            b"HRANDFIELD" => is_value(&one.ask(&[b"HGET", key, &member[0]])?, member.get(1)),
            b"ZRANDMEMBER" => is_value(&one.ask(&[b"ZSCORE", key, &member[0]])?, member.get(1)),
            _ => panic!("nothing is drawn by this command"),
        };
        if !is_there {
            return Ok(Err(format!("the one server does not have this: {drawn:?}")));
        }
    }
    Ok(Ok(()))
}

/// The texts of a reply, in order, and the marks of all that is in it.
fn leaves(reply: &Reply, texts: &mut Vec<Vec<u8>>) -> Vec<u8> {
    match reply {
        Reply::Bulk(mark, Some(text)) | Reply::Line(mark @ b',', text) => {
            texts.push(text.clone());
            vec![*mark]
        }
        Reply::Many(mark, Some(items)) => {
            let mut marks = vec![*mark];
            items
                .iter()
                .for_each(|item| marks.extend(leaves(item, texts)));
            marks
        }
        Reply::Line(mark, _) | Reply::Bulk(mark, None) | Reply::Many(mark, None) => vec![*mark],
    }
}

fn is_value(reply: &Reply, value: Option<&Vec<u8>>) -> bool {
    match (reply, value) {
        (Reply::Bulk(b'$', Some(_)) | Reply::Line(b',', _), None) => true,
        (Reply::Bulk(b'$', Some(text)) | Reply::Line(b',', text), Some(value)) => text == value,
        _ => false,
    }
}

/// SPOP: what the fleet has removed is removed from the one server as well.
pub fn compare_popped(one: &mut Connection, fleet: &mut Connection, words: &[&[u8]]) -> Compared {
    let popped = fleet.ask(words)?;
    let mut members = Vec::new();
    leaves(&popped, &mut members);
    if members.is_empty() {
        let expected = one.ask(words)?;
        return Ok(match expected == popped {
            true => Ok(()),
            false => Err(both(&expected, &popped)),
        });
    }
    let size = one.ask(&[b"SCARD", words[1]])?.integer().unwrap_or(0);
    let wanted = match words.get(2) {
        None => 1,
        Some(count) => std::str::from_utf8(count).unwrap().parse().unwrap(),
    };
    let mut removal = vec![b"SREM".as_slice(), words[1]];
    removal.extend(members.iter().map(Vec::as_slice));
    let removed = one.ask(&removal)?;
    let expected = i64::min(size, wanted);
    Ok(
        match removed.integer() == Some(expected) && members.len() as i64 == expected {
            true => Ok(()),
            false => Err(format!(
                "{expected} had to be removed, and were not: {popped:?}"
            )),
        },
    )
}

/// SCAN and the like: all calls together find the same.
pub fn compare_loops(one: &mut Connection, fleet: &mut Connection, words: &[&[u8]]) -> Compared {
    let found = follow(fleet, words)?;
    let expected = follow(one, words)?;
    Ok(match found == expected {
        true => Ok(()),
        false => Err(format!("one server: {expected:?}\nthe fleet:  {found:?}")),
    })
}

/// What a cursor has led to; an item that was met again counts once, which is allowed. An answer that is no step of a cursor
/// ends the loop.
fn follow(
    connection: &mut Connection,
    words: &[&[u8]],
) -> io::Result<Result<BTreeSet<Vec<Reply>>, Reply>> {
    let mut words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
    let name = words[0].to_ascii_uppercase();
    let at = if name == b"SCAN" { 1 } else { 2 };
    let each = if name == b"HSCAN" || name == b"ZSCAN" {
        2
    } else {
        1
    };
    let mut found = BTreeSet::new();
    for _ in 0..CALLS_MAX {
        let reply = connection.ask(&words)?;
        match &reply {
            Reply::Many(b'*', Some(parts)) => match parts.as_slice() {
                [
                    Reply::Bulk(b'$', Some(cursor)),
                    Reply::Many(b'*', Some(items)),
                ] => {
                    found.extend(items.chunks(each).map(<[Reply]>::to_vec));
                    if cursor == b"0" {
                        return Ok(Ok(found));
                    }
                    words[at].clone_from(cursor);
                }
                _ => return Ok(Err(reply)),
            },
            _ => return Ok(Err(reply)),
        }
    }
    Err(io::Error::other("the cursor does not come to its end"))
}
