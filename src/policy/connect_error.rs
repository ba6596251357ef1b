//! Why there is no connection to a node: remembered by the backoff, and given to every request until the next
//! attempt.

use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError};

/// Why a connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The server refused the username or the password. Retrying is of no use until one of the sides is
    /// changed.
    Auth(String),
    /// A dedicated connection broke earlier. It is not remade, as its state would be lost.
    FailedBefore,
    /// Refused, unreachable, timed out, or closed during the handshake.
    Unreachable(String),
}

impl ConnectError {
    /// The error of a failed attempt to connect to `address`.
    pub(crate) fn new(address: &str, error: &RedisError) -> Self {
        if error.kind() == ErrorKind::AuthenticationFailed {
            let reply = error.detail().unwrap_or_default();
            return Self::Auth(format!(
                "{address} refused the username or the password: {reply}"
            ));
        }
        // One text for all timeouts, whether the kernel or the deadline ended the attempt.
        match error.is_timeout() {
            true => Self::timed_out(address),
            false => Self::Unreachable(format!("{address}: {error}")),
        }
    }

    /// True if another attempt may succeed after a while, though nobody changes a setting.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Auth(_) | Self::FailedBefore => false,
            Self::Unreachable(_) => true,
        }
    }

    /// The attempt took longer than its limit.
    pub(crate) fn timed_out(address: &str) -> Self {
        Self::Unreachable(format!("{address}: timed out"))
    }
}

impl From<&str> for ConnectError {
    fn from(text: &str) -> Self {
        Self::Unreachable(text.to_owned())
    }
}

impl From<String> for ConnectError {
    fn from(text: String) -> Self {
        Self::Unreachable(text)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth(text) => f.write_str(text),
            Self::FailedBefore => {
                f.write_str("this connection has failed before; open another one")
            }
            Self::Unreachable(text) => write!(f, "no connection: {text}"),
        }
    }
}

/// The text for a connection that broke. Depending on what was under way, the system reports the end of the
/// stream, a reset or a broken pipe; a connection that the server closed has one text for all of them, so
/// that log lines group.
pub(crate) fn broken_text(error: &io::Error) -> String {
    match error.kind() {
        // A text of our own, or of a library, is more precise than its kind.
        _ if error.get_ref().is_some() => error.to_string(),
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::WriteZero => "closed by the server".to_owned(),
        _ => error.to_string(),
    }
}

/// True if a socket has waited for as long as its timeout. Linux reports `WouldBlock`, Windows `TimedOut`.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_error_distinguishes_a_refused_password_from_an_unreachable_node() {
        let refused = (
            ErrorKind::AuthenticationFailed,
            "refused",
            "WRONGPASS: no".to_owned(),
        );
        let error = ConnectError::new("h:1", &refused.into());
        assert_eq!(
            error.to_string(),
            "h:1 refused the username or the password: WRONGPASS: no"
        );
        assert!(matches!(error, ConnectError::Auth(_)));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = ConnectError::new("h:1", &refused.into());
        assert_eq!(error.to_string(), "no connection: h:1: connection refused");
    }

    #[test]
    fn connect_timeout_has_one_text() {
        for error in [
            io::Error::from(io::ErrorKind::WouldBlock),
            io::Error::from(io::ErrorKind::TimedOut),
            io::Error::new(io::ErrorKind::TimedOut, "connection timed out"),
        ] {
            let error = ConnectError::new("h:1", &error.into());
            assert_eq!(error, ConnectError::timed_out("h:1"));
        }
    }

    #[test]
    fn connection_closed_by_the_server_has_one_text() {
        for kind in [
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(broken_text(&kind.into()), "closed by the server");
        }
        let ours = io::Error::new(io::ErrorKind::UnexpectedEof, "the frame is cut");
        assert_eq!(broken_text(&ours), "the frame is cut");
    }
}
