//! Commands about the connection and the server: HELLO, AUTH, CLIENT, CONFIG, INFO and the like.

use std::collections::HashSet;

use super::super::protocol::{Protocol, Reply};
use super::super::store::now_ms;
use super::{Answer, Call, Failure, exact, integer, lower, upper, wrong_arity};
use crate::plan::glob_matches;

/// The version that the node reports, and whose error texts it has.
const VERSION: &str = "7.0.15";

/// PING: `PONG` or the message; with subscriptions in RESP2 an array, which looks like a message.
pub(super) fn ping(call: &mut Call<'_>) -> Answer {
    let subscribed = call.session.subscriptions > 0 && call.session.protocol == Protocol::Resp2;
    match call.rest(1) {
        [] if subscribed => Ok(Reply::Array(vec![Reply::text("pong"), Reply::text("")])),
        [message] if subscribed => Ok(Reply::Array(vec![
            Reply::text("pong"),
            Reply::Bulk(message.clone()),
        ])),
        [] => Ok(Reply::Status("PONG")),
        [message] => Ok(Reply::Bulk(message.clone())),
        _ => Err(call.wrong_arity()),
    }
}

/// ECHO: the message.
pub(super) fn echo(call: &mut Call<'_>) -> Answer {
    Ok(Reply::Bulk(call.args[1].clone()))
}

/// QUIT: OK, then the connection is closed.
pub(super) fn quit(call: &mut Call<'_>) -> Answer {
    call.session.closing = true;
    Ok(Reply::OK)
}

/// RESET: the connection is as it was when it was opened.
pub(super) fn reset(call: &mut Call<'_>) -> Answer {
    let session = &mut *call.session;
    // RESET does not touch the data; what is queued is dropped.
    session.end_transaction();
    session.protocol = Protocol::Resp2;
    session.authenticated = call.database.password.is_none();
    session.name.clear();
    session.subscriptions = 0;
    call.database.channels.unsubscribe_all(session.id);
    Ok(Reply::Status("RESET"))
}

/// SELECT: there is only database 0.
pub(super) fn select(call: &mut Call<'_>) -> Answer {
    match integer(&call.args[1])? {
        0 => Ok(Reply::OK),
        _ => Err("ERR DB index is out of range".into()),
    }
}

/// AUTH: with a password, or with the user `default` and a password.
pub(super) fn auth(call: &mut Call<'_>) -> Answer {
    let (user, password) = match call.rest(1) {
        [password] => (&b"default"[..], password),
        [user, password] => (&user[..], password),
        _ => return Err(Failure::SYNTAX),
    };
    // With a user name, AUTH succeeds for `default` without a password, as in Redis.
    if call.database.password.is_none() && call.args.len() == 2 {
        return Err("ERR AUTH <password> called without any password configured for the default user. Are you sure \
                    your configuration is correct?"
            .into());
    }
    check_password(call, user, password)?;
    Ok(Reply::OK)
}

/// Authenticates the connection, or returns the error. Without a password on the node, any is right.
fn check_password(call: &mut Call<'_>, user: &[u8], password: &[u8]) -> Result<(), Failure> {
    let expected = call.database.password.as_deref().map(str::as_bytes);
    if user != b"default" || expected.is_some_and(|expected| expected != password) {
        return Err("WRONGPASS invalid username-password pair or user is disabled.".into());
    }
    call.session.authenticated = true;
    Ok(())
}

/// HELLO: switches the protocol, and describes the server. Nothing is switched if an option is refused.
pub(super) fn hello(call: &mut Call<'_>) -> Answer {
    let protocol = match call.args.get(1) {
        None => call.session.protocol,
        Some(version) => match exact::<i64>(version) {
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        },
    };
    let mut options = call.rest(2);
    while let Some((word, rest)) = options.split_first() {
        options = match (upper(word).as_str(), rest) {
            ("AUTH", [user, password, rest @ ..]) => {
                check_password(call, user, password)?;
                rest
            }
            ("SETNAME", [given, rest @ ..]) => {
                // At once, as in Redis: an option after it may be refused, and the name stays.
                call.session.name = checked_name(given)?;
                rest
            }
            _ => {
                let word = String::from_utf8_lossy(word);
                return Err(Failure::new(format!(
                    "ERR Syntax error in HELLO option '{word}'"
                )));
            }
        };
    }
    let session = &mut *call.session;
    // After the options, one of which may be AUTH.
    if !session.authenticated {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                    AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                    version at the same time"
            .into());
    }
    // Last: the reply of a refused HELLO has the old protocol.
    session.protocol = protocol;
    let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
    let fields = [
        ("server", Reply::text("redis")),
        ("version", Reply::text(VERSION)),
        ("proto", Reply::Integer(version)),
        ("id", client_id(session.id)),
        ("mode", Reply::text("standalone")),
        ("role", Reply::text("master")),
        ("modules", Reply::Array(Vec::new())),
    ];
    Ok(Reply::Map(
        fields
            .map(|(name, value)| (Reply::text(name), value))
            .into(),
    ))
}

/// CLIENT ID, GETNAME, SETNAME, SETINFO.
pub(super) fn client(call: &mut Call<'_>) -> Answer {
    match (upper(&call.args[1]).as_str(), call.rest(2)) {
        ("ID", []) => Ok(client_id(call.session.id)),
        ("GETNAME", []) if call.session.name.is_empty() => Ok(Reply::Nil),
        ("GETNAME", []) => Ok(Reply::Bulk(call.session.name.clone())),
        ("SETNAME", [name]) => {
            call.session.name = checked_name(name)?;
            Ok(Reply::OK)
        }
        ("SETINFO", [_, _]) => Ok(Reply::OK),
        ("GETNAME" | "ID" | "SETINFO" | "SETNAME", _) => Err(wrong_subcommand_arity(call)),
        _ => Err(unknown_subcommand(call)),
    }
}

/// CONFIG GET, SET, RESETSTAT.
pub(super) fn config(call: &mut Call<'_>) -> Answer {
    match (upper(&call.args[1]).as_str(), call.rest(2)) {
        ("GET", patterns @ [_, ..]) => {
            let patterns: Vec<String> = patterns.iter().map(|pattern| lower(pattern)).collect();
            let matches = |name: &str| {
                let mut patterns = patterns.iter();
                patterns.any(|pattern| glob_matches(pattern.as_bytes(), name.as_bytes()))
            };
            let found = call
                .database
                .config
                .iter()
                .filter(|(name, _)| matches(name));
            let pair = |(name, value): (&String, &Vec<u8>)| {
                (Reply::text(name.clone()), Reply::Bulk(value.clone()))
            };
            Ok(Reply::Map(found.map(pair).collect()))
        }
        ("SET", pairs @ [_, _, ..]) => {
            if !pairs.len().is_multiple_of(2) {
                return Err(Failure::SYNTAX);
            }
            // Before the first is set: CONFIG SET sets all parameters or none.
            check_config_names(call, pairs)?;
            for pair in pairs.chunks_exact(2) {
                call.database
                    .config
                    .insert(lower(&pair[0]), pair[1].clone());
            }
            Ok(Reply::OK)
        }
        ("RESETSTAT", []) => Ok(Reply::OK),
        ("GET" | "RESETSTAT" | "SET", _) => Err(wrong_subcommand_arity(call)),
        _ => Err(unknown_subcommand(call)),
    }
}

/// Refuses unknown names, and names that are given twice; the first mistake decides about the error.
fn check_config_names(call: &Call<'_>, pairs: &[Vec<u8>]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for pair in pairs.chunks_exact(2) {
        let (name, shown) = (lower(&pair[0]), String::from_utf8_lossy(&pair[0]));
        if !call.database.config.contains_key(&name) {
            return Err(Failure::new(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{shown}'"
            )));
        }
        if !seen.insert(name) {
            return Err(Failure::new(format!(
                "ERR CONFIG SET failed (possibly related to argument '{shown}') - duplicate parameter"
            )));
        }
    }
    Ok(())
}

/// INFO: the sections that the crate's own tests need.
pub(super) fn info(call: &mut Call<'_>) -> Answer {
    let asked: Vec<String> = call.rest(1).iter().map(|section| lower(section)).collect();
    let asks = |section: &str| {
        let everything = ["all", "default", "everything"];
        asked.is_empty()
            || asked
                .iter()
                .any(|word| word == section || everything.contains(&word.as_str()))
    };
    let database = &mut *call.database;
    let (keys, port, clients) = (
        database.store.len(),
        database.address.port(),
        database.clients,
    );
    let mut sections = vec![
        (
            "Server",
            format!(
                "redis_version:{VERSION}\r\nredis_mode:standalone\r\nprocess_id:{}\r\ntcp_port:{port}\r\n",
                std::process::id()
            ),
        ),
        ("Clients", format!("connected_clients:{clients}\r\n")),
        ("Persistence", "loading:0\r\n".to_owned()),
        (
            "Replication",
            "role:master\r\nconnected_slaves:0\r\n".to_owned(),
        ),
        ("Keyspace", String::new()),
    ];
    if keys > 0 {
        let expires = database.store.expiring();
        sections[4].1 = format!("db0:keys={keys},expires={expires},avg_ttl=0\r\n");
    }
    let sections = sections
        .into_iter()
        .filter(|(name, _)| asks(&name.to_ascii_lowercase()));
    let sections: Vec<String> = sections
        .map(|(name, lines)| format!("# {name}\r\n{lines}"))
        .collect();
    Ok(Reply::Verbatim(sections.join("\r\n")))
}

/// TIME: seconds and microseconds.
pub(super) fn time(_: &mut Call<'_>) -> Answer {
    let now = now_ms();
    let (seconds, microseconds) = (now / 1000, now % 1000 * 1000);
    Ok(Reply::Array(vec![
        Reply::text(seconds.to_string()),
        Reply::text(microseconds.to_string()),
    ]))
}

/// WAIT: 0, since there are no replicas. It does not wait.
pub(super) fn wait(call: &mut Call<'_>) -> Answer {
    // The number of replicas is checked, and does not matter.
    integer(&call.args[1])?;
    let timeout = integer(&call.args[2])
        .map_err(|_| Failure::from("ERR timeout is not an integer or out of range"))?;
    match timeout {
        ..0 => Err("ERR timeout is negative".into()),
        _ => Ok(Reply::Integer(0)),
    }
}

/// Returns the name of a connection, if it has no blanks or control characters.
fn checked_name(name: &[u8]) -> Result<Vec<u8>, Failure> {
    match name.iter().all(u8::is_ascii_graphic) {
        true => Ok(name.to_vec()),
        false => {
            Err("ERR Client names cannot contain spaces, newlines or special characters.".into())
        }
    }
}

/// Returns the number of the connection as a reply.
fn client_id(id: u64) -> Reply {
    Reply::Integer(i64::try_from(id).unwrap_or(i64::MAX))
}

/// The error for a wrong number of arguments of a subcommand.
fn wrong_subcommand_arity(call: &Call<'_>) -> Failure {
    wrong_arity(&format!("{}|{}", call.name(), lower(&call.args[1])))
}

/// The error for a subcommand that the node does not have.
fn unknown_subcommand(call: &Call<'_>) -> Failure {
    Failure::new(format!(
        "ERR unknown subcommand '{}' of {}: this in-process test node does not implement it; use a real server",
        String::from_utf8_lossy(&call.args[1]),
        upper(&call.args[0])
    ))
}
