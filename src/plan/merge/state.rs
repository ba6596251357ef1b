//! ROLE and FUNCTION STATS: what the nodes are doing.

use redis::Value;

use crate::error::{Error, ErrorKind};
use crate::plan::merge::pairs::Pairs;
use crate::plan::merge::{Answer, elements, unexpected};

/// Name of the pair in FUNCTION STATS; its value is nil while no function runs.
const RUNNING: &[u8] = b"running_script";

/// Merges ROLE, if all nodes have the same role. `[master, 7, [x]]` and `[master, 9, [y]]` are `[master, 9,
/// [x, y]]`: the replicas of all, and the largest replication offset. Of other roles the first node's reply
/// is returned.
///
/// # Errors
///
/// [`Redis`](ErrorKind::Redis) if the roles differ, naming each: a client that checks for `master` must not
/// be told so on behalf of a replica.
pub(super) fn role(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Vec<Value> = Vec::new();
    let mut roles: Vec<(&str, String)> = Vec::new();
    for answer in answers {
        let node = answer.node;
        let items = elements(answer)?;
        let Some(Value::BulkString(role)) = items.first() else {
            return Err(unexpected(node, "a role without a name"));
        };
        roles.push((node, String::from_utf8_lossy(role).into_owned()));
        match (merged.as_mut_slice(), items.as_slice()) {
            ([], _) => merged = items,
            (
                [_, Value::Int(offset), Value::Array(replicas)],
                [_, Value::Int(other), Value::Array(more)],
            ) => {
                *offset = (*offset).max(*other);
                replicas.extend_from_slice(more);
            }
            // Of the other roles nothing is merged: a replica's master and the state of its link are its own.
            _ => {}
        }
    }
    // After all replies are read, so that the error names every node.
    if roles.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        let roles: Vec<String> = roles
            .iter()
            .map(|(node, role)| format!("{node} {role}"))
            .collect();
        return Err(Error::new(
            ErrorKind::Redis,
            format!(
                "the nodes have different roles: {}; ask one with `client.node(name)`",
                roles.join(", ")
            ),
        ));
    }
    Ok(Value::Array(merged))
}

/// Returns the first node's FUNCTION STATS, with the first running script of any node in its place. The
/// engines are the first node's.
pub(super) fn running_script(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Option<Pairs> = None;
    for answer in answers {
        let mut pairs = Pairs::read(answer)?;
        let Some(merged) = &mut merged else {
            merged = Some(pairs);
            continue;
        };
        // Only nil is replaced, so the first script in node order stays.
        if let Some(running @ Value::Nil) = merged.get_mut(RUNNING)
            && let Some(other) = pairs.get_mut(RUNNING)
        {
            *running = std::mem::take(other);
        }
    }
    Ok(merged.map_or(Value::Nil, Pairs::into_value))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, flat, map, text};
    use super::*;

    fn master(offset: i64, replicas: &[&str]) -> Value {
        let replicas = replicas.iter().map(|name| text(name)).collect();
        Value::Array(vec![
            text("master"),
            Value::Int(offset),
            Value::Array(replicas),
        ])
    }

    #[test]
    fn role_of_masters_is_one_master_with_all_replicas() {
        let merged = role(answers([
            master(7, &["x"]),
            master(9, &[]),
            master(8, &["y"]),
        ]));
        assert_eq!(merged.unwrap(), master(9, &["x", "y"]));
    }

    #[test]
    fn role_of_masters_and_replicas_is_an_error_that_names_the_nodes() {
        let replica = Value::Array(vec![text("slave"), text("10.0.0.1")]);
        let error = role(answers([master(7, &[]), replica])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a master, b slave"), "{text}");
    }

    #[test]
    fn function_stats_finds_the_running_script_on_any_node() {
        let engines = || ("engines", flat(&[("LUA", Value::Nil)]));
        let idle = || flat(&[("running_script", Value::Nil), engines()]);
        let busy = || flat(&[("running_script", text("f")), engines()]);
        assert_eq!(
            running_script(answers([idle(), idle(), busy()])).unwrap(),
            busy()
        );
        assert_eq!(running_script(answers([idle(), idle()])).unwrap(), idle());
        let idle = map(&[("running_script", Value::Nil)]);
        let busy = map(&[("running_script", text("f"))]);
        assert_eq!(running_script(answers([idle, busy.clone()])).unwrap(), busy);
    }
}
