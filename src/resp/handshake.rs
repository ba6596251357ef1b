//! The first commands on a new connection: protocol, password, database, name of the library. Pure: says what to send, and
//! what the answers mean.

use redis::{
    Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
};

/// What to say on a new connection, all of it in one round trip.
#[derive(Debug)]
pub(crate) struct Handshake {
    commands: Vec<(Cmd, OnRefusal)>,
}

/// Whether a refusal of a command matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRefusal {
    Fail,
    Ignore,
}

impl Handshake {
    /// What `info` asks for.
    pub(crate) fn new(info: &RedisConnectionInfo) -> Self {
        Self {
            commands: commands(info),
        }
    }

    /// The requests in the wire format.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        for (cmd, _) in &self.commands {
            cmd.write_packed_command(&mut packed);
        }
        packed
    }

    /// How many answers come.
    pub(crate) fn count(&self) -> usize {
        self.commands.len()
    }

    /// Whether the answers are good.
    ///
    /// # Errors
    ///
    /// [`AuthenticationFailed`](ErrorKind::AuthenticationFailed) when the server refuses the username or the password, and
    /// the server's own error when it refuses something else.
    pub(crate) fn check(&self, answers: &[Value]) -> RedisResult<()> {
        for ((cmd, needed), answer) in self.commands.iter().zip(answers) {
            if let (Value::ServerError(error), OnRefusal::Fail) = (answer, needed) {
                let name = match cmd.args_iter().next() {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
                    _ => String::new(),
                };
                // A server that does not know the command repeats its arguments, and one of them may be the password.
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

/// Whether an error in reply to a command of the handshake is about the username, the password or what they permit. Servers
/// before 6 have no code for it, and a server that takes no more connections answers AUTH with ERR too.
fn refuses_user(command: &str, code: &str, text: &str) -> bool {
    match code {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => true,
        "ERR" => command == "AUTH" && text.contains("password"),
        _ => false,
    }
}

fn commands(info: &RedisConnectionInfo) -> Vec<(Cmd, OnRefusal)> {
    let mut commands = Vec::new();
    if info.protocol() == ProtocolVersion::RESP3 {
        let mut hello = cmd("HELLO");
        hello.arg(3);
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
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        commands.push((select, OnRefusal::Fail));
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
            commands.push((setinfo, OnRefusal::Ignore));
        }
    }
    if commands.is_empty() {
        // A server that hangs up on everybody, say for a client certificate that it misses, shows it only by its first
        // answer. A connection that has none to show would be taken for made, and made again at once.
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
