//! Why there is no connection to a node: remembered by the backoff, and given to every request until the next
//! attempt.

use std::borrow::Cow;
use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError, ServerError};

use crate::error::{io_error_in, is_temporary_code, server_error};

/// Why a connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The server refused the username or the password. Retrying is of no use until one of the sides is
    /// changed.
    Auth(String),
    /// One of the sides refused the certificate of the other. Retrying is of no use either.
    Certificate(String),
    /// A dedicated connection broke earlier. It is not remade, as its state would be lost.
    FailedBefore,
    /// The Sentinels that replied have no master of this name.
    NoSuchMaster(String),
    /// The connection leads to a server that is not the node's primary any more. Another one is to be made.
    PrimaryChanged,
    /// The record of the node is missing or out of date, or differs from what the client goes by. The text says which,
    /// and the remedy.
    Stale(String),
    /// The record of the node is newer than what the request, or the connection, goes by. Nothing was sent: what the
    /// record says is to be followed first.
    Superseded,
    /// Refused, unreachable, timed out, or closed during the handshake.
    Unreachable(IoFailure),
    /// The server replied to the handshake with a temporary error, such as `LOADING`: code and text as it sent them.
    /// The node is reached, and serves nothing for a while.
    Refused(String),
}

/// An I/O error that can be cloned: its kind, on which redis-rs' predicates are based, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IoFailure {
    pub(crate) kind: io::ErrorKind,
    pub(crate) text: Cow<'static, str>,
}

/// The error inside an [`io::Error`] for a certificate that one of the sides refused, with the remedy.
#[derive(Debug)]
pub(crate) struct CertificateRefused(pub(crate) String);

impl ConnectError {
    /// The error of a failed attempt to connect to `address`.
    pub(crate) fn new(address: &str, error: &RedisError) -> Self {
        if error.kind() == ErrorKind::AuthenticationFailed {
            let reply = error.detail().unwrap_or_default();
            return Self::Auth(format!(
                "{address} refused the username or the password: {reply}"
            ));
        }
        if let Some(refusal) = temporary_error(error) {
            return Self::Refused(refusal);
        }
        let io = io_error_in(error);
        let inner = io.and_then(io::Error::get_ref);
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
            return refused.clone();
        }
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<CertificateRefused>()) {
            return Self::Certificate(format!("{address}: {refused}"));
        }
        // One text for all timeouts, whether the kernel or the deadline ended the attempt.
        if error.is_timeout() {
            return Self::timed_out(address);
        }
        Self::Unreachable(IoFailure {
            // A server that replies to the handshake with an error refuses the connection, for example because
            // it has too many.
            kind: io.map_or(io::ErrorKind::ConnectionRefused, kind_of_broken),
            text: format!("{address}: {error}").into(),
        })
    }

    /// True if another attempt may succeed after a while, though nobody changes a setting.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Auth(_)
            | Self::Certificate(_)
            | Self::FailedBefore
            | Self::NoSuchMaster(_)
            | Self::Stale(_) => false,
            Self::PrimaryChanged | Self::Superseded | Self::Unreachable(_) | Self::Refused(_) => {
                true
            }
        }
    }

    /// None of the servers of a node may be asked.
    pub(crate) fn no_server(reason: &impl fmt::Display) -> Self {
        Self::Unreachable(IoFailure {
            kind: io::ErrorKind::NotConnected,
            text: reason.to_string().into(),
        })
    }

    /// True if none of the servers of a node may be asked.
    pub(crate) fn is_no_server(&self) -> bool {
        matches!(self, Self::Unreachable(failure) if failure.kind == io::ErrorKind::NotConnected)
    }

    /// The server's own error, if it replied to the handshake with a temporary one.
    pub(crate) fn refusal(&self) -> Option<ServerError> {
        match self {
            Self::Refused(line) => {
                let (code, text) = line.split_once(' ').unwrap_or((line, ""));
                Some(server_error(code, text))
            }
            _ => None,
        }
    }

    /// The code of that error.
    pub(crate) fn refusal_code(&self) -> Option<&[u8]> {
        match self {
            Self::Refused(line) => line.split(' ').next().map(str::as_bytes),
            _ => None,
        }
    }

    /// True if the node was reached, and replied with a temporary error.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// The attempt took longer than its limit.
    pub(crate) fn timed_out(address: &str) -> Self {
        Self::Unreachable(IoFailure {
            kind: io::ErrorKind::TimedOut,
            text: format!("{address}: timed out").into(),
        })
    }

    /// The primary of the node whose address this is, a master and its Sentinels, is not known for this reason.
    pub(crate) fn no_primary(address: &str, why: &str) -> Self {
        Self::Unreachable(IoFailure {
            kind: io::ErrorKind::NotConnected,
            text: format!("the primary of {address} is not known: {why}").into(),
        })
    }

    /// The kind of an I/O error that stands for it. `None` for a refused password and for a temporary error, for
    /// which redis-rs has errors of their own.
    pub(crate) fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Auth(_) | Self::NoSuchMaster(_) | Self::Refused(_) | Self::Stale(_) => None,
            // The only kind after which redis-rs advises not to try again.
            Self::Certificate(_) => Some(io::ErrorKind::PermissionDenied),
            Self::FailedBefore | Self::PrimaryChanged | Self::Superseded => {
                Some(io::ErrorKind::NotConnected)
            }
            Self::Unreachable(failure) => Some(failure.kind),
        }
    }
}

impl IoFailure {
    /// The failure of a connection that broke.
    pub(crate) fn broken(error: &io::Error) -> Self {
        Self {
            kind: kind_of_broken(error),
            text: broken_text(error).into(),
        }
    }

    /// A connection that was given up because the other side was silent for too long.
    pub(crate) fn timed_out(text: &'static str) -> Self {
        Self {
            kind: io::ErrorKind::TimedOut,
            text: text.into(),
        }
    }
}

/// A connection that this side has closed, for this reason.
impl From<&'static str> for IoFailure {
    fn from(text: &'static str) -> Self {
        Self {
            kind: io::ErrorKind::ConnectionAborted,
            text: text.into(),
        }
    }
}

impl From<&'static str> for ConnectError {
    fn from(text: &'static str) -> Self {
        Self::Unreachable(text.into())
    }
}

impl From<IoFailure> for ConnectError {
    fn from(failure: IoFailure) -> Self {
        Self::Unreachable(failure)
    }
}

impl From<IoFailure> for io::Error {
    fn from(failure: IoFailure) -> Self {
        Self::new(failure.kind, failure.text.into_owned())
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for CertificateRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateRefused {}

impl std::error::Error for ConnectError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth(text)
            | Self::Certificate(text)
            | Self::NoSuchMaster(text)
            | Self::Stale(text) => f.write_str(text),
            Self::FailedBefore => {
                f.write_str("this connection has failed before; open another one")
            }
            Self::PrimaryChanged => f.write_str(
                "the node has another primary now, and this connection leads to the one before; open another one",
            ),
            Self::Superseded => {
                f.write_str("the record of the node is newer than the topology that the request was placed by")
            }
            Self::Unreachable(failure) => write!(f, "no connection: {failure}"),
            Self::Refused(line) => f.write_str(line),
        }
    }
}

/// Code and text of a server's error, if it is a temporary one.
fn temporary_error(error: &RedisError) -> Option<String> {
    let code = error
        .code()
        .filter(|code| is_temporary_code(code.as_bytes()))?;
    Some(match error.detail() {
        Some(text) => format!("{code} {text}"),
        None => code.to_owned(),
    })
}

/// The kind of the error for a connection that broke, as redis-rs has it.
///
/// A reply or a TLS record that cannot be read makes this side close the connection: redis-rs' error for it is
/// no I/O error, but asks for a new connection all the same.
pub(crate) fn kind_of_broken(error: &io::Error) -> io::ErrorKind {
    match error.kind() {
        io::ErrorKind::WriteZero => io::ErrorKind::BrokenPipe,
        // The last is that of a TLS library.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            io::ErrorKind::ConnectionAborted
        }
        kind => kind,
    }
}

/// The text for a connection that broke. Depending on what was under way, the system reports the end of the
/// stream, a reset or a broken pipe; a connection that the server closed has one text for all of them, so
/// that log lines group.
fn broken_text(error: &io::Error) -> String {
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
        assert_eq!(error.io_kind(), Some(io::ErrorKind::ConnectionRefused));
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
