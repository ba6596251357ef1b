//! Errors in a server's own words.

use std::borrow::Cow;

use redis::Value;

use crate::command::{CommandSpec, Route};
use crate::error::Error;
use crate::resp::write_error;

/// So many bytes of a name, and of the arguments of an unknown command, are repeated, as a server does.
const REPEATED_BYTES_MAX: usize = 128;

/// An error that a proxy's client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Cow<'static, str>,
    text: Vec<u8>,
}

impl Refusal {
    pub(super) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self::with_code("ERR", text)
    }

    pub(super) fn with_code(code: &'static str, text: impl Into<Vec<u8>>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            text: text.into(),
        }
    }

    /// An error that repeats a word of the request, byte for byte up to a NUL, as C does.
    pub(super) fn quoting(before: &str, word: &[u8], after: &str) -> Self {
        let word = cut(word, word.len());
        Self::new([before.as_bytes(), word, after.as_bytes()].concat())
    }

    /// An error of this crate; the servers' own words stay as they are.
    pub(super) fn of(error: &Error) -> Self {
        match error.to_reply() {
            Value::ServerError(error) => Self {
                code: Cow::Owned(error.code().to_owned()),
                text: error.details().unwrap_or_default().into(),
            },
            _ => Self::new(error.to_string()),
        }
    }

    /// The same, as the reason why a transaction is given up.
    pub(super) fn ends_transaction(mut self) -> Self {
        self.text
            .splice(0..0, *b"Transaction discarded because of: ");
        self.code = Cow::Borrowed("EXECABORT");
        self
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_error(out, &self.code, &self.text);
    }
}

pub(super) fn syntax_error() -> Refusal {
    Refusal::new("syntax error")
}

pub(super) fn not_an_integer() -> Refusal {
    Refusal::new("value is not an integer or out of range")
}

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

pub(super) fn wrong_arity(command: &CommandSpec) -> Refusal {
    Refusal::new(format!(
        "wrong number of arguments for '{}' command",
        command.name().to_ascii_lowercase()
    ))
}

/// Not while a client listens and speaks RESP2.
pub(super) fn not_while_subscribed(command: &CommandSpec) -> Refusal {
    Refusal::new(format!(
        "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        command.name().to_ascii_lowercase()
    ))
}

/// What a proxy passes on to nobody.
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

/// Cut, also where C sees the end of a text.
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
