//! The first words on a new connection: protocol, password, database, name of the library.

use redis::{Cmd, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value, cmd};

use crate::sync::link::Deadline;
use crate::sync::wire::Wire;

/// Whether a refusal of a command matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    Yes,
    No,
}

/// Says what `info` asks for, in one round trip.
pub(super) fn run(
    wire: &mut Wire,
    info: &RedisConnectionInfo,
    deadline: &Deadline,
) -> RedisResult<()> {
    let words = words(info);
    let mut packed = Vec::new();
    for (cmd, _) in &words {
        cmd.write_packed_command(&mut packed);
    }
    wire.write(&packed, deadline)
        .map_err(|failed| failed.error)?;
    for (cmd, needed) in &words {
        match wire.read(deadline)? {
            Value::ServerError(error) if *needed == Needed::Yes => {
                let name = cmd.args_iter().next();
                let name = match &name {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name),
                    _ => "?".into(),
                };
                let text = format!(
                    "{} (in answer to {name})",
                    error.details().unwrap_or_default()
                );
                return Err(RedisError::from(crate::error::server_error(
                    error.code(),
                    &text,
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn words(info: &RedisConnectionInfo) -> Vec<(Cmd, Needed)> {
    let mut words = Vec::new();
    if info.protocol() == ProtocolVersion::RESP3 {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = info.password() {
            hello
                .arg("AUTH")
                .arg(info.username().unwrap_or("default"))
                .arg(password);
        }
        words.push((hello, Needed::Yes));
    } else if let Some(password) = info.password() {
        let mut auth = cmd("AUTH");
        if let Some(username) = info.username() {
            auth.arg(username);
        }
        auth.arg(password);
        words.push((auth, Needed::Yes));
    }
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        words.push((select, Needed::Yes));
    }
    if !info.skip_set_lib_name() {
        // Servers before 7.2 do not know it.
        for (attribute, value) in [
            (
                "LIB-NAME",
                info.lib_name().unwrap_or(env!("CARGO_PKG_NAME")),
            ),
            (
                "LIB-VER",
                info.lib_ver().unwrap_or(env!("CARGO_PKG_VERSION")),
            ),
        ] {
            let mut setinfo = cmd("CLIENT");
            setinfo.arg("SETINFO").arg(attribute).arg(value);
            words.push((setinfo, Needed::No));
        }
    }
    words
}
