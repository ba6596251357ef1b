//! Refuses commands that would lock the client out of its nodes.
//!
//! `CONFIG SET requirepass` goes to every node. On a single server it leaves the connection that sent it
//! authenticated; here the client opens further connections with the old password, and every one of them
//! fails, so the change cannot even be undone through this client. A change of the port, of TLS, or of the
//! ACL of the client's own user has the same effect. Such a command is refused when it would go to all nodes;
//! it is not when the user names a node.

use crate::command::CommandSpec;
use crate::error::{Error, ErrorKind, KeyText};
use crate::plan::refusal::typed_name;

/// Parameters of CONFIG SET that decide who may connect and where. Their names are matched without regard to
/// case.
const SETTINGS: [&str; 8] = [
    "bind",
    "masterauth",
    "masteruser",
    "port",
    "protected-mode",
    "requirepass",
    "unixsocket",
    "unixsocketperm",
];

/// Prefix of all TLS parameters: port, certificates, protocols.
const TLS: &[u8] = b"tls-";

/// Checks a command that is to go to all nodes. `users` are the usernames with which this client
/// authenticates.
///
/// # Errors
///
/// [`Unroutable`](ErrorKind::Unroutable) when the command would change how this client reaches its nodes. The
/// text names the parameter or the user, never a value: that may be a password.
pub(super) fn check(command: &CommandSpec, args: &[&[u8]], users: &[String]) -> Result<(), Error> {
    // After the names of the command and its subcommand.
    let rest = args.get(2..).unwrap_or_default();
    // Usernames are case-sensitive, unlike parameters.
    let is_own = |user: &&&[u8]| users.iter().any(|own| own.as_bytes() == **user);
    let (found, remedy) = match command.name() {
        "CONFIG|SET" => (
            // From Redis 7.0 on CONFIG SET takes several parameters, each with its value.
            rest.iter().step_by(2).find(|name| decides_access(name)),
            "the new setting",
        ),
        "ACL|SETUSER" => (rest.iter().take(1).find(is_own), "the new password"),
        "ACL|DELUSER" => (rest.iter().find(is_own), "another user"),
        _ => return Ok(()),
    };
    // Only the name is put into the text: the value next to it may be a password.
    match found {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Unroutable,
            format!(
                "{} of {} on all nodes could lock this client out; change it on one server at a time (with \
                 `client.node(name)` or a separate connection), and give this client {remedy}",
                typed_name(command),
                KeyText(name),
            ),
        )),
    }
}

/// True for a parameter that decides who may connect, and where.
fn decides_access(setting: &[u8]) -> bool {
    SETTINGS
        .iter()
        .any(|known| setting.eq_ignore_ascii_case(known.as_bytes()))
        || setting
            .get(..TLS.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(TLS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandTable;

    fn refusal(request: &str) -> Option<String> {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let command = CommandTable::built_in().find(&args).unwrap();
        let users = ["default".to_owned(), "app".to_owned()];
        check(command, &args, &users)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn config_set_of_passwords_ports_or_tls_is_refused_at_any_position() {
        for request in [
            "CONFIG SET requirepass secret",
            "config set RequirePass secret",
            "CONFIG SET maxmemory 1 requirepass secret",
            "CONFIG SET requirepass secret maxmemory 1",
            "CONFIG SET masterauth secret",
            "CONFIG SET bind secret",
            "CONFIG SET port 0",
            "CONFIG SET protected-mode yes",
            "CONFIG SET TLS-Port 7000",
            "CONFIG SET tls-cert-file secret",
        ] {
            let text = refusal(request).unwrap_or_else(|| panic!("{request} is let through"));
            assert!(text.contains("client.node(name)"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for request in [
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory requirepass",
            "CONFIG SET save tls-x",
            "CONFIG SET tls yes",
        ] {
            assert_eq!(refusal(request), None, "{request}");
        }
    }

    #[test]
    fn acl_setuser_and_deluser_of_the_clients_own_user_are_refused() {
        for request in [
            "ACL SETUSER default >secret",
            "acl setuser app off",
            "ACL DELUSER other app",
        ] {
            let text = refusal(request).unwrap_or_else(|| panic!("{request} is let through"));
            assert!(!text.contains("secret"), "{text}");
        }
        for request in [
            "ACL SETUSER other >default",
            "ACL SETUSER Default on",
            "ACL DELUSER other",
            "ACL GETUSER default",
        ] {
            assert_eq!(refusal(request), None, "{request}");
        }
    }
}
