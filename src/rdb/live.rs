//! Recorded keys come into real servers of every kind, and are the same there.

use redis::{Connection, RedisResult, Value, cmd};

use super::bytes::Malformed;
use super::convert::{FieldExpiries, Fit, Obstacle, Target, fit};
use super::digest::digest;
use super::elements::{Building, build};
use super::golden::{Vector, describe, vectors};
use super::server::ServerVersion;
use super::{KeyInfo, of_dump, payload};

/// Sends one command.
fn run(connection: &mut Connection, command: &[&[u8]]) -> RedisResult<Value> {
    let mut request = redis::Cmd::new();
    for argument in command {
        request.arg(*argument);
    }
    request.query(connection)
}

/// Compares what the server has with what was recorded, and deletes it.
fn compare(connection: &mut Connection, vector: &Vector, how: &str) {
    let key = &vector.info.key;
    let dump: Option<Vec<u8>> = cmd("DUMP").arg(key).query(connection).unwrap();
    let dump = dump.unwrap_or_else(|| panic!("{how}: no key"));
    let ttl: i64 = cmd("PTTL").arg(key).query(connection).unwrap();
    assert_eq!(ttl > 0, vector.info.expires_at.is_some(), "{how}");
    let (value_type, value, version) = of_dump(&dump).unwrap();
    let info = KeyInfo {
        value_type,
        ..vector.info.clone()
    };
    let lines = describe(value_type, value, version).unwrap();
    assert_eq!(lines, vector.lines, "{how}");
    let digest = digest(&info, value, version).unwrap().to_string();
    assert_eq!(digest, vector.digest, "{how}");
    run(connection, &[b"DEL", key]).unwrap();
}

/// Restores by one command. Returns false if the server cannot hold the value.
fn restore(connection: &mut Connection, vector: &Vector, server: ServerVersion) -> bool {
    let Vector {
        info,
        value,
        version,
        ..
    } = vector;
    let target = Target {
        server,
        argument_max: 512 << 20,
        field_expiries: FieldExpiries::Required,
    };
    let bytes = match fit(info.value_type, value, *version, &target).unwrap() {
        Fit::AsIs(footer) => payload(info.value_type, value, footer),
        Fit::Rewritten {
            value_type,
            value,
            version,
            ..
        } => payload(value_type, &value, version),
        Fit::Impossible(Obstacle::FieldExpiry) => return false,
        other => panic!("{}: {other:?}", vector.name()),
    };
    let expiry = info.expires_at.unwrap_or_default().to_string();
    let command: [&[u8]; 5] = [b"RESTORE", &info.key, expiry.as_bytes(), &bytes, b"ABSTTL"];
    let how = format!("{} in {server:?}", vector.name());
    run(connection, &command).unwrap_or_else(|error| panic!("{how}: {error}"));
    compare(connection, vector, &how);
    true
}

/// Makes the value element by element, in batches of this size.
fn make(connection: &mut Connection, vector: &Vector, server: ServerVersion, batch_bytes: usize) {
    let how = format!("{} in {server:?} by elements", vector.name());
    let key = &vector.info.key[..];
    let temporary = [b"{", key, b"}temporary"].concat();
    let building = Building {
        key: &temporary,
        rename_to: Some(key),
        expires_at: vector.info.expires_at,
        server,
        batch_bytes,
        batch_commands: 50,
    };
    let Vector {
        info,
        value,
        version,
        ..
    } = vector;
    build::<Malformed>(info.value_type, value, *version, &building, &mut |batch| {
        for command in batch {
            let arguments: Vec<&[u8]> = command.iter().map(|argument| &argument[..]).collect();
            run(connection, &arguments).unwrap_or_else(|error| {
                let command = command.join(&b' ').escape_ascii().to_string();
                panic!("{how}: {error}: {command}")
            });
        }
        Ok(())
    })
    .unwrap();
    compare(connection, vector, &how);
}

#[test]
#[ignore = "needs servers, which it empties: REDIS_SHARDING_VALUES_SERVERS, their URLs with blanks between"]
fn recorded_keys_are_the_same_in_every_server() {
    let servers = std::env::var("REDIS_SHARDING_VALUES_SERVERS").unwrap();
    for url in servers.split_whitespace() {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_connection().unwrap();
        let info: String = cmd("INFO").arg("server").query(&mut connection).unwrap();
        let server = ServerVersion::of_info(&info).unwrap();
        run(&mut connection, &[b"FLUSHALL"]).unwrap();
        let (mut restored, all) = (0, vectors());
        for vector in &all {
            if restore(&mut connection, vector, server) {
                restored += 1;
                make(&mut connection, vector, server, 100);
                make(&mut connection, vector, server, 1 << 20);
            }
        }
        println!("{restored} of {} keys in {server:?}", all.len());
    }
}
