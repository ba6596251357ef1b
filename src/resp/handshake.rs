//! The first commands on a new connection: protocol, password, database, name of the library. Without I/O:
//! builds the requests, and checks the replies.
//!
//! All requests are written at once, so a handshake takes one round trip:
//!
//! ```text
//! RESP2:  AUTH [user] password     SELECT db    CLIENT SETINFO LIB-NAME    CLIENT SETINFO LIB-VER
//! RESP3:  HELLO 3 [AUTH user pw]   SELECT db    CLIENT SETINFO LIB-NAME    CLIENT SETINFO LIB-VER
//!         only with a password     only if      refused by servers before 7.2, which is ignored
//!         (RESP2)                  not zero
//! ```

use redis::{
    Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
};

/// The requests of a new connection, in their order.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Never empty.
    commands: Vec<(Cmd, OnRefusal)>,
}

/// Meaning of an error in reply to a command of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRefusal {
    /// The connection cannot be used.
    Fail,
    /// The server does not have the command, which is optional.
    Ignore,
}

impl Handshake {
    /// Creates the handshake for these connection settings.
    pub(crate) fn new(info: &RedisConnectionInfo) -> Self {
        Self {
            commands: commands(info),
        }
    }

    /// Returns the requests in the wire format.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        for (cmd, _) in &self.commands {
            cmd.write_packed_command(&mut packed);
        }
        packed
    }

    /// Number of replies to read.
    pub(crate) fn count(&self) -> usize {
        self.commands.len()
    }

    /// Checks the replies.
    ///
    /// # Errors
    ///
    /// [`AuthenticationFailed`](ErrorKind::AuthenticationFailed) when the server refuses the username or the
    /// password, and the server's own error when it refuses something else.
    pub(crate) fn check(&self, answers: &[Value]) -> RedisResult<()> {
        for ((cmd, needed), answer) in self.commands.iter().zip(answers) {
            if let (Value::ServerError(error), OnRefusal::Fail) = (answer, needed) {
                let name = match cmd.args_iter().next() {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
                    _ => String::new(),
                };
                // A server that does not know the command repeats its arguments in the error, and one of them
                // may be the password.
                let said = error.details().unwrap_or_default();
                let said = said.split(", with args").next().unwrap_or_default();
                let text = format!("{said} (in reply to {name})");
                if refuses_user(&name, error.code(), said) {
                    let detail = format!("{}: {text}", error.code());
                    let kind = ErrorKind::AuthenticationFailed;
                    return Err((kind, "authentication failed", detail).into());
                }
                return Err(RedisError::from(crate::error::server_error(
                    error.code(),
                    &text,
                )));
            }
        }
        Ok(())
    }
}

/// True if an error in reply to a command of the handshake is about the username, the password or their
/// permissions. Servers before 6 have no code for it, and a server with too many clients replies to AUTH with
/// ERR too.
fn refuses_user(command: &str, code: &str, text: &str) -> bool {
    match code {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => true,
        "ERR" => command == "AUTH" && text.contains("password"),
        _ => false,
    }
}

/// Builds the requests.
fn commands(info: &RedisConnectionInfo) -> Vec<(Cmd, OnRefusal)> {
    let mut commands = Vec::new();
    if info.protocol() == ProtocolVersion::RESP3 {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        // Within HELLO, because a server with a password refuses a HELLO without it.
        if let Some(password) = info.password() {
            hello
                .arg("AUTH")
                .arg(info.username().unwrap_or("default"))
                .arg(password);
        }
        commands.push((hello, OnRefusal::Fail));
    } else if let Some(password) = info.password() {
        let mut auth = cmd("AUTH");
        if let Some(username) = info.username() {
            auth.arg(username);
        }
        auth.arg(password);
        commands.push((auth, OnRefusal::Fail));
    }
    // Zero is the database of every new connection.
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        commands.push((select, OnRefusal::Fail));
    }
    if !info.skip_set_lib_name() {
        // Servers before 7.2 refuse it.
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
            commands.push((setinfo, OnRefusal::Ignore));
        }
    }
    if commands.is_empty() {
        // A server that closes every connection, for example because it requires a client certificate, shows
        // that only when a reply is read. Without one, the connection would count as made, and be made again
        // at once.
        commands.push((cmd("PING"), OnRefusal::Ignore));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_without_settings_is_one_ping() {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let handshake = Handshake::new(&info);
        assert_eq!(handshake.packed(), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(handshake.count(), 1);
    }

    #[test]
    fn handshake_error_of_a_server_without_hello_hides_the_password() {
        let info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_password("hunter2");
        let handshake = Handshake::new(&info);
        let said = crate::error::server_error(
            "ERR",
            "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunter2`, ",
        );
        let error = handshake.check(&[Value::ServerError(said)]).unwrap_err();
        assert!(error.to_string().contains("unknown command `HELLO`"));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn handshake_distinguishes_auth_errors_from_others() {
        let info = RedisConnectionInfo::default().set_password("hunter2");
        let handshake = Handshake::new(&info);
        for (code, text, expected) in [
            ("WRONGPASS", "invalid username-password pair", true),
            ("NOPERM", "no permissions", true),
            ("ERR", "invalid password", true),
            ("ERR", "Client sent AUTH, but no password is set", true),
            ("ERR", "max number of clients reached", false),
            ("LOADING", "Redis is loading", false),
        ] {
            let said = crate::error::server_error(code, text);
            let error = handshake.check(&[Value::ServerError(said)]).unwrap_err();
            let is_auth = error.kind() == ErrorKind::AuthenticationFailed;
            assert_eq!(is_auth, expected, "{code} {text}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
