//! Errors for clients, with the codes and the texts of a server.
//!
//! Client libraries and applications compare these texts, so each is what a server replies in the same case.
//! Only [`not_here`] has no model: it refuses what a server would do and a proxy cannot.

use std::borrow::Cow;

use redis::Value;

use crate::command::{CommandSpec, Route};
use crate::error::Error;
use crate::resp::write_error;

/// Maximum number of bytes of a name, and of the arguments of an unknown command, that are repeated in an
/// error. The limit of a server.
const REPEATED_BYTES_MAX: usize = 128;

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The first word of the reply, such as ERR or NOAUTH.
    code: Cow<'static, str>,
    /// The rest of the line. It may repeat bytes of the request, so it need not be UTF-8.
    text: Vec<u8>,
}

impl Refusal {
    /// Creates an error with the code ERR.
    pub(super) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self::with_code("ERR", text)
    }

    /// Creates an error with another code.
    pub(super) fn with_code(code: &'static str, text: impl Into<Vec<u8>>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            text: text.into(),
        }
    }

    /// Creates an error that repeats a word of the request, up to its first NUL, where C ends a string.
    pub(super) fn quoting(before: &str, word: &[u8], after: &str) -> Self {
        let word = cut(word, word.len());
        Self::new([before.as_bytes(), word, after.as_bytes()].concat())
    }

    /// Converts an error of this crate. An error of a node keeps its code and its text.
    pub(super) fn of(error: &Error) -> Self {
        match error.to_reply() {
            Value::ServerError(error) => Self {
                code: Cow::Owned(error.code().to_owned()),
                text: error.details().unwrap_or_default().into(),
            },
            _ => Self::new(error.to_string()),
        }
    }

    /// Converts the error into the EXECABORT of a transaction that it discards.
    pub(super) fn ends_transaction(mut self) -> Self {
        self.text
            .splice(0..0, *b"Transaction discarded because of: ");
        self.code = Cow::Borrowed("EXECABORT");
        self
    }

    /// Appends the error as a reply.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_error(out, &self.code, &self.text);
    }
}

/// The error for malformed arguments.
pub(super) fn syntax_error() -> Refusal {
    Refusal::new("syntax error")
}

/// The error for a number that is none, or is too large.
pub(super) fn not_an_integer() -> Refusal {
    Refusal::new("value is not an integer or out of range")
}

/// The error for a command that the command table does not have. Repeats its arguments up to a limit.
pub(super) fn unknown_command(args: &[&[u8]]) -> Refusal {
    let mut repeated: Vec<u8> = Vec::new();
    for arg in args.iter().skip(1) {
        if repeated.len() >= REPEATED_BYTES_MAX {
            break;
        }
        let room = REPEATED_BYTES_MAX - repeated.len();
        repeated.extend([b"'", cut(arg, room), b"' "].concat());
    }
    let name = cut(
        args.first().copied().unwrap_or_default(),
        REPEATED_BYTES_MAX,
    );
    let parts = [
        b"unknown command '",
        name,
        b"', with args beginning with: ",
        &repeated,
    ];
    Refusal::new(parts.concat())
}

/// The error for an unknown subcommand, or for a container command without one.
pub(super) fn unknown_subcommand(args: &[&[u8]]) -> Refusal {
    let container = args.first().copied().unwrap_or_default();
    let parts = match args.get(1) {
        None => [
            b"wrong number of arguments for '",
            &container.to_ascii_lowercase()[..],
            b"' command",
            b"",
            b"",
        ],
        Some(sub) => [
            b"unknown subcommand '",
            cut(sub, REPEATED_BYTES_MAX),
            b"'. Try ",
            &container.to_ascii_uppercase()[..],
            b" HELP.",
        ],
    };
    Refusal::new(parts.concat())
}

/// The error for a wrong number of arguments.
pub(super) fn wrong_arity(command: &CommandSpec) -> Refusal {
    Refusal::new(format!(
        "wrong number of arguments for '{}' command",
        command.name().to_ascii_lowercase()
    ))
}

/// The error for a command in subscribed mode of RESP2.
pub(super) fn not_while_subscribed(command: &CommandSpec) -> Refusal {
    Refusal::new(format!(
        "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        command.name().to_ascii_lowercase()
    ))
}

/// The error for a command that a proxy does not forward, because it is about one server or about one
/// connection to it. Names what to do instead.
pub(super) fn not_here(command: &CommandSpec) -> Refusal {
    let name = command.name().replace('|', " ");
    let (code, text) = match (command.route(), command.note()) {
        (Route::NodeOnly, _) => (
            "UNROUTABLE",
            format!("{name} is about one server; send it to the node itself"),
        ),
        (Route::Refused, "") => (
            "STATEFUL",
            format!("{name} takes a connection over for good; send it to the node itself"),
        ),
        (Route::Refused, note) => ("STATEFUL", format!("{name}: {note}")),
        _ => (
            "STATEFUL",
            format!(
                "{name} changes the state of a server's connection, and a proxy shares those; send it to the node itself"
            ),
        ),
    };
    Refusal::with_code(code, text)
}

/// Returns at most `room` bytes, and none from the first NUL on.
fn cut(bytes: &[u8], room: usize) -> &[u8] {
    let end = bytes.iter().take(room).position(|&byte| byte == 0);
    &bytes[..end.unwrap_or(bytes.len().min(room))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(refusal: &Refusal) -> String {
        let mut out = Vec::new();
        refusal.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn proxy_refuses_commands_it_does_not_pass_on_with_a_reason() {
        let table = crate::command::CommandTable::built_in();
        let refused = |name: &str| said(&not_here(table.by_name(name).unwrap()));
        for (name, text) in [
            (
                "SHUTDOWN",
                "-UNROUTABLE SHUTDOWN is about one server; send it to the node itself\r\n",
            ),
            (
                "PSYNC",
                "-STATEFUL PSYNC takes a connection over for good; send it to the node itself\r\n",
            ),
            (
                "MONITOR",
                "-STATEFUL MONITOR: takes the connection away\r\n",
            ),
            (
                "CLIENT|TRACKING",
                "-STATEFUL CLIENT TRACKING changes the state of a server's connection, and a proxy shares those; send it to the node itself\r\n",
            ),
        ] {
            assert_eq!(refused(name), text);
        }
    }

    #[test]
    fn proxy_refuses_unknown_commands_with_the_error_text_of_a_server() {
        assert_eq!(
            said(&unknown_command(&[b"FOO", b"a", b"b"])),
            "-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n"
        );
        assert_eq!(
            said(&unknown_subcommand(&[b"client", b"FOO"])),
            "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"
        );
        assert_eq!(
            said(&unknown_subcommand(&[b"CLIENT"])),
            "-ERR wrong number of arguments for 'client' command\r\n"
        );
        let long = [b'x'; 1000];
        assert!(said(&unknown_command(&[&long, &long, &long])).len() < 400);
    }
}
