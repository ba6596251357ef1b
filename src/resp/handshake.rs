//! The first commands on a new connection: protocol, password, database, name of the library. Without I/O:
//! builds the requests, and checks the replies.
//!
//! All requests are written at once, so a handshake takes one round trip:
//!
//! ```text
//! RESP2:  AUTH [user] password     SELECT db   CLIENT SETNAME   CLIENT SETINFO LIB-NAME, LIB-VER
//! RESP3:  HELLO 3 [AUTH user pw]   SELECT db   CLIENT SETNAME   CLIENT SETINFO LIB-NAME, LIB-VER
//!         only with a password     only if     only with        refused by servers before 7.2, which is
//!         (RESP2)                  not zero    a name           ignored
//! ```
//!
//! The handshake with a primary that may change ends with ROLE, as its address may be out of date; so does that with a
//! replica, with READONLY before it if the replica is one of a cluster. With a node that keeps a record of its fleet, the
//! last command is a script that reads the record: behind CLIENT SETNAME, whose name shows by which record the connection
//! goes, so that whoever changes the record and lists the names misses no connection. A connection whose password or name is out of date gets a renewal: AUTH, CLIENT SETNAME, or both.

use std::fmt;
use std::io;

use redis::{
    Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
};

use crate::error::is_temporary_code;

/// Maximum length of a client name in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 1024;

/// The rule of [`is_client_name`], for errors.
pub(crate) const CLIENT_NAME_RULE: &str =
    "the name of a client is printable ASCII without spaces, at most 1024 bytes";

/// True for a name that servers accept: printable ASCII without spaces. The empty name removes a name.
pub(crate) fn is_client_name(name: &[u8]) -> bool {
    name.len() <= CLIENT_NAME_BYTES_MAX && name.iter().all(u8::is_ascii_graphic)
}

/// The first requests of a new connection, or the renewal of one, in their order.
pub(crate) struct Handshake {
    commands: Vec<(Cmd, OnRefusal)>,
    /// The epoch of the record that the name shows, if the last command reads the record.
    record: Option<u64>,
}

/// Without the requests, as one of them holds the password.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// Meaning of an error in reply to a command of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRefusal {
    /// The connection cannot be used.
    Fail,
    /// The server does not have the command, which is optional.
    Ignore,
    /// The connection cannot be used, nor can it if the reply to ROLE is not that of a primary.
    NotPrimary,
    /// The user may not run ROLE, which is asked in the background, too. The connection cannot be used if the reply is
    /// that of a primary.
    NotReplica,
    /// The connection cannot be used without the record of the node, whatever it says.
    NoRecord,
}

impl Handshake {
    /// Creates the handshake for these connection settings, with the name of the client; empty for none.
    pub(crate) fn new(info: &RedisConnectionInfo, client_name: &str) -> Self {
        let mut handshake = Self {
            commands: commands(info, client_name),
            record: None,
        };
        handshake.never_empty();
        handshake
    }

    /// Creates the requests that change the user (a username, if any, and a password) and the name of a
    /// connection that exists.
    pub(crate) fn renewal(user: Option<(Option<&str>, &str)>, client_name: Option<&str>) -> Self {
        let auth = user.map(|(username, password)| auth(username, password));
        let name = client_name.map(set_name);
        let commands = auth.into_iter().chain(name);
        Self {
            commands: commands.map(|cmd| (cmd, OnRefusal::Fail)).collect(),
            record: None,
        }
    }

    /// Adds the check that the server is a primary: only its reply shows that a server has become a replica since its
    /// address was asked for.
    pub(crate) fn with_role_check(mut self) -> Self {
        self.commands.push((cmd("ROLE"), OnRefusal::NotPrimary));
        self
    }

    /// Adds the check that the server is no primary: a replica that was promoted is not one any more.
    pub(crate) fn with_replica_check(mut self) -> Self {
        self.commands.push((cmd("ROLE"), OnRefusal::NotReplica));
        self
    }

    /// Asks a replica of a cluster to serve reads, instead of redirecting them to its primary.
    pub(crate) fn with_readonly(mut self) -> Self {
        self.commands.push((cmd("READONLY"), OnRefusal::Fail));
        self
    }

    /// Adds the script that reads the record of the node. It must be the last: it shows whether the record has changed
    /// after the name of the connection, with this epoch, was set.
    pub(crate) fn with_record(mut self, script: &str, epoch: u64) -> Self {
        let mut read = cmd("EVAL");
        read.arg(script).arg(0);
        self.commands.push((read, OnRefusal::NoRecord));
        self.record = Some(epoch);
        self
    }

    /// The epoch that the name shows, if the last reply is the record of the node.
    pub(crate) fn record_epoch(&self) -> Option<u64> {
        self.record
    }

    /// Leaves out all but the protocol, the username and the password: the requests that a server serves while a
    /// script runs.
    pub(crate) fn keep_login(&mut self) {
        self.commands
            .retain(|(cmd, _)| match cmd.args_iter().next() {
                Some(redis::Arg::Simple(name)) => name == b"HELLO" || name == b"AUTH",
                _ => false,
            });
        self.never_empty();
    }

    /// Adds a PING if there is nothing else.
    fn never_empty(&mut self) {
        if self.commands.is_empty() {
            // A server that closes every connection, for example because it requires a client certificate, shows
            // that only when a reply is read. Without one, the connection would count as made, and be made again
            // at once.
            self.commands.push((cmd("PING"), OnRefusal::Ignore));
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
            if let (
                Value::ServerError(error),
                OnRefusal::Fail | OnRefusal::NotPrimary | OnRefusal::NoRecord,
            ) = (answer, needed)
            {
                // It is returned to users as the server sent it.
                if is_temporary_code(error.code().as_bytes()) {
                    return Err(RedisError::from(error.clone()));
                }
                let name = match cmd.args_iter().next() {
                    Some(redis::Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
                    _ => String::new(),
                };
                // A server that does not know the command repeats its arguments in the error, and one of them
                // may be the password.
                let said = error.details().unwrap_or_default();
                let said = said.split(", with args").next().unwrap_or_default();
                let hint = match needed {
                    OnRefusal::NotPrimary => {
                        "; ROLE shows whether the server is still the primary: the user needs `+role`"
                    }
                    OnRefusal::NoRecord => {
                        "; a script reads the record of the fleet: the user needs `+eval +select +get +info \
                         ~redis-sharding:*`"
                    }
                    OnRefusal::Fail | OnRefusal::Ignore | OnRefusal::NotReplica => "",
                };
                let text = format!("{said} (in reply to {name}){hint}");
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
            match needed {
                OnRefusal::NotPrimary => check_role(answer)?,
                OnRefusal::NotReplica => check_replica(answer)?,
                OnRefusal::Fail | OnRefusal::Ignore | OnRefusal::NoRecord => {}
            }
        }
        Ok(())
    }
}

/// Refuses a server whose reply to ROLE is not that of a primary.
fn check_role(role: &Value) -> RedisResult<()> {
    let text = |value: Option<&Value>| match value {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::Int(number)) => number.to_string(),
        _ => "?".to_owned(),
    };
    let items = match role {
        Value::Array(items) => &items[..],
        _ => &[],
    };
    let refusal = match &*text(items.first()) {
        "master" => return Ok(()),
        "slave" => format!(
            "it is a replica (of {}:{}) and no primary any more; the current one is asked for",
            text(items.get(1)),
            text(items.get(2))
        ),
        "sentinel" => "it is a Sentinel and no primary".to_owned(),
        _ => "its reply to ROLE is not that of a primary".to_owned(),
    };
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, refusal).into())
}

/// Refuses a server whose reply to ROLE is that of a primary.
fn check_replica(role: &Value) -> RedisResult<()> {
    let is_primary = match role {
        Value::Array(items) => items.first() == Some(&Value::BulkString(b"master".to_vec())),
        _ => false,
    };
    match is_primary {
        true => {
            let refusal = "it is a primary and no replica";
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, refusal).into())
        }
        false => Ok(()),
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
fn commands(info: &RedisConnectionInfo, client_name: &str) -> Vec<(Cmd, OnRefusal)> {
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
        commands.push((auth(info.username(), password), OnRefusal::Fail));
    }
    // Zero is the database of every new connection.
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        commands.push((select, OnRefusal::Fail));
    }
    if !client_name.is_empty() {
        commands.push((set_name(client_name), OnRefusal::Fail));
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
    commands
}

/// AUTH, of the default user if there is no username.
fn auth(username: Option<&str>, password: &str) -> Cmd {
    let mut auth = cmd("AUTH");
    if let Some(username) = username {
        auth.arg(username);
    }
    auth.arg(password);
    auth
}

/// Appends CLIENT SETNAME, packed.
#[cfg(feature = "tokio-comp")]
pub(crate) fn write_set_name(name: &str, out: &mut Vec<u8>) {
    set_name(name).write_packed_command(out);
}

/// CLIENT SETNAME.
fn set_name(name: &str) -> Cmd {
    let mut set_name = cmd("CLIENT");
    set_name.arg("SETNAME").arg(name);
    set_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_sets_the_client_name_between_the_database_and_the_library() {
        let info = RedisConnectionInfo::default().set_db(2);
        let packed = Handshake::new(&info, "web").packed();
        let text = String::from_utf8(packed).unwrap();
        let at = |word: &str| text.find(word).unwrap();
        assert!(at("SELECT") < at("SETNAME\r\n$3\r\nweb") && at("SETNAME") < at("LIB-NAME"));
        assert!(text.contains("LIB-NAME\r\n$14\r\nredis-sharding"), "{text}");
    }

    #[test]
    fn client_name_is_printable_ascii_without_spaces_and_limited() {
        for name in ["", "web-1", "~!#"] {
            assert!(is_client_name(name.as_bytes()), "{name}");
        }
        for name in ["a b", "a\n", "é", &"x".repeat(CLIENT_NAME_BYTES_MAX + 1)] {
            assert!(!is_client_name(name.as_bytes()), "{name}");
        }
        assert!(CLIENT_NAME_RULE.contains(&CLIENT_NAME_BYTES_MAX.to_string()));
    }

    #[test]
    fn handshake_with_a_role_check_refuses_everything_but_a_primary() {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let handshake = Handshake::new(&info, "").with_role_check();
        assert!(handshake.packed().ends_with(b"*1\r\n$4\r\nROLE\r\n"));
        let bulk = |text: &str| Value::BulkString(text.into());
        let check = |role: Value| {
            let checked = handshake.check(&[Value::Okay, role]);
            checked.map_err(|error| (error.kind(), error.to_string()))
        };
        let primary = vec![bulk("master"), Value::Int(827), Value::Array(vec![])];
        assert_eq!(check(Value::Array(primary)), Ok(()));
        let replica = vec![bulk("slave"), bulk("10.0.0.2"), Value::Int(6379)];
        let (kind, text) = check(Value::Array(replica)).unwrap_err();
        assert_eq!(kind, ErrorKind::Io);
        assert!(
            text.contains("it is a replica (of 10.0.0.2:6379)"),
            "{text}"
        );
        for other in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![bulk("sentinel")]),
        ] {
            assert!(check(other).is_err());
        }
        let denied = crate::error::server_error("NOPERM", "this user has no permissions");
        let (kind, text) = check(Value::ServerError(denied)).unwrap_err();
        assert_eq!(kind, ErrorKind::AuthenticationFailed);
        assert!(text.contains("`+role`"), "{text}");
    }

    #[test]
    fn handshake_with_a_replica_of_a_cluster_sends_readonly_before_the_check() {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let handshake = Handshake::new(&info, "").with_readonly();
        let handshake = handshake.with_replica_check();
        let packed = String::from_utf8(handshake.packed()).unwrap();
        assert!(packed.ends_with("*1\r\n$8\r\nREADONLY\r\n*1\r\n$4\r\nROLE\r\n"));
        let denied = crate::error::server_error("NOPERM", "this user has no permissions");
        let answers = [Value::Okay, Value::ServerError(denied), Value::Okay];
        let refusal = handshake.check(&answers).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::AuthenticationFailed);
    }

    #[test]
    fn handshake_with_a_replica_check_refuses_a_primary_alone() {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let handshake = Handshake::new(&info, "").with_replica_check();
        assert!(handshake.packed().ends_with(b"*1\r\n$4\r\nROLE\r\n"));
        let bulk = |text: &str| Value::BulkString(text.into());
        let check = |role: Value| handshake.check(&[Value::Okay, role]);
        let primary = vec![bulk("master"), Value::Int(827), Value::Array(vec![])];
        let refusal = check(Value::Array(primary)).unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("it is a primary and no replica")
        );
        let replica = vec![bulk("slave"), bulk("10.0.0.2"), Value::Int(6379)];
        assert!(check(Value::Array(replica)).is_ok());
        let denied = crate::error::server_error("NOPERM", "this user has no permissions");
        assert!(check(Value::ServerError(denied)).is_ok());
    }

    #[test]
    fn handshake_without_settings_is_one_ping() {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let handshake = Handshake::new(&info, "");
        assert_eq!(handshake.packed(), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(handshake.count(), 1);
    }

    #[test]
    fn handshake_error_of_a_server_without_hello_hides_the_password() {
        let info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_password("hunter2");
        let handshake = Handshake::new(&info, "");
        let said = crate::error::server_error(
            "ERR",
            "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunter2`, ",
        );
        let error = handshake.check(&[Value::ServerError(said)]).unwrap_err();
        assert!(error.to_string().contains("unknown command `HELLO`"));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn handshake_that_keeps_the_login_leaves_out_what_a_busy_server_refuses() {
        let info = RedisConnectionInfo::default()
            .set_db(2)
            .set_password("hunter2");
        for (protocol, count) in [(ProtocolVersion::RESP2, 1), (ProtocolVersion::RESP3, 1)] {
            let mut handshake = Handshake::new(&info.clone().set_protocol(protocol), "web");
            handshake.keep_login();
            let packed = String::from_utf8(handshake.packed()).unwrap();
            assert_eq!(handshake.count(), count);
            assert!(
                packed.contains("AUTH") && !packed.contains("SELECT"),
                "{packed}"
            );
        }
        let mut handshake = Handshake::new(&RedisConnectionInfo::default(), "web");
        handshake.keep_login();
        assert_eq!(handshake.packed(), b"*1\r\n$4\r\nPING\r\n");
    }

    #[test]
    fn handshake_distinguishes_auth_errors_from_others() {
        let info = RedisConnectionInfo::default().set_password("hunter2");
        let handshake = Handshake::new(&info, "");
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
