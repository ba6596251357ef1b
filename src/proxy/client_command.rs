//! CLIENT and its subcommands: about the client's own connection to the proxy, or about other clients of the
//! proxy.
//!
//! * [`run`]: runs one subcommand. Those about other clients become a [`RegistryRequest`].
//! * [`ReplyMode`]: CLIENT REPLY. [`Unblocked`]: the reply to a command that CLIENT UNBLOCK ends.
//!
//! No subcommand reaches a node: its connections are shared, so its CLIENT LIST would show the proxy, and
//! CLIENT TRACKING or NO-TOUCH would apply to all clients. Subcommands that would need it are refused; those
//! that ask for what is the case anyhow (NO-EVICT, TRACKING OFF) are confirmed. Options are checked first,
//! with the errors of a server.

use crate::command::CommandSpec;
use crate::proxy::client_info::{ClientFilter, ClientInfo, ClientKind};
use crate::proxy::refusal::{Refusal, not_an_integer, not_here, syntax_error};
use crate::resp::canonical_integer;
use crate::resp::{Protocol, write_bulk, write_error, write_int, write_line, write_status};

/// A question to the client registry, or a change of other clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RegistryRequest {
    /// CLIENT LIST: the lines of all clients that match.
    List(ClientFilter),
    /// CLIENT INFO: the line of the client itself.
    Own,
    /// CLIENT KILL with options: replies with the number of killed clients.
    Kill(ClientFilter),
    /// CLIENT KILL addr:port, the old form: replies OK, or an error if there is no such client. May kill the
    /// client itself.
    KillOne(ClientFilter),
    /// CLIENT UNBLOCK: the client's id, and which reply its command gets.
    Unblock(u64, Unblocked),
}

/// The reply to a blocking command that CLIENT UNBLOCK ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unblocked {
    /// The reply that the command sends when its timeout is over.
    Timeout,
    /// The error UNBLOCKED.
    Error,
}

impl Unblocked {
    /// Writes the reply to the blocked command `args`. The timeout reply depends on the command.
    pub(crate) fn write(self, args: &[&[u8]], protocol: Protocol, out: &mut Vec<u8>) {
        let name = args
            .first()
            .copied()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match (self, name.as_slice()) {
            (Self::Error, _) => {
                write_error(out, "UNBLOCKED", "client unblocked via CLIENT UNBLOCK");
            }
            // A server replies with the number of replicas that have acknowledged so far. It is not known
            // here.
            (Self::Timeout, b"WAIT") => write_int(out, 0),
            (Self::Timeout, b"WAITAOF") => {
                write_line(out, b'*', 2);
                write_int(out, 0);
                write_int(out, 0);
            }
            (Self::Timeout, _) => protocol.write_nil_array(out),
        }
    }
}

/// Result of a CLIENT subcommand.
pub(super) enum ClientReply {
    /// The reply was written.
    Written,
    /// The registry replies.
    Ask(RegistryRequest),
    /// CLIENT REPLY: the new mode. The caller replies, because the mode decides if there is a reply.
    Replies(ReplyMode),
}

/// The mode of CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    /// All replies are sent.
    #[default]
    On,
    /// The reply to the next command is not sent.
    SkipNext,
    /// No reply is sent. Messages of subscriptions are.
    Off,
}

/// Runs the subcommand `args`, whose row in the command table is `command`. Local replies are written to
/// `out`, changes to `client`.
pub(super) fn run(
    command: &CommandSpec,
    args: &[&[u8]],
    client: &mut ClientInfo,
    out: &mut Vec<u8>,
) -> Result<ClientReply, Refusal> {
    let first = args.get(2).copied().unwrap_or_default();
    match command.name() {
        "CLIENT|ID" => write_int(out, client.id as i64),
        "CLIENT|GETNAME" if client.name.is_empty() => client.protocol.write_nil(out),
        "CLIENT|GETNAME" => write_bulk(out, client.name.as_bytes()),
        "CLIENT|SETNAME" => {
            client.name = check_name(first)?;
            write_status(out, "OK");
        }
        "CLIENT|SETINFO" => {
            set_info(first, args[3], client)?;
            write_status(out, "OK");
        }
        "CLIENT|INFO" => return Ok(ClientReply::Ask(RegistryRequest::Own)),
        "CLIENT|LIST" => {
            return Ok(ClientReply::Ask(RegistryRequest::List(list_filter(
                &args[2..],
            )?)));
        }
        "CLIENT|KILL" => return Ok(ClientReply::Ask(kill_filter(&args[2..])?)),
        "CLIENT|UNBLOCK" => return Ok(ClientReply::Ask(unblock_request(&args[2..])?)),
        "CLIENT|REPLY" => return Ok(ClientReply::Replies(replies(first)?)),
        // Refers to `maxmemory-clients` of a server. The nodes do not see this client, so none can evict it;
        // the limit of this proxy ignores the setting.
        "CLIENT|NO-EVICT" => {
            on_or_off(first)?;
            write_status(out, "OK");
        }
        "CLIENT|TRACKING" => {
            // Parsed before ON or OFF is, as on a server.
            let options = TrackingOptions::parse(&args[3..], client.id)?;
            if on_or_off(first)? {
                options.check()?;
                return Err(not_here(command));
            }
            write_status(out, "OK");
        }
        "CLIENT|NO-TOUCH" => match on_or_off(first)? {
            true => return Err(not_here(command)),
            false => write_status(out, "OK"),
        },
        // Tracking cannot be on, so this is the reply of a server without it.
        "CLIENT|CACHING" => {
            return Err(Refusal::new(
                "CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
            ));
        }
        "CLIENT|GETREDIR" => write_int(out, -1),
        "CLIENT|TRACKINGINFO" => write_tracking_info(client.protocol, out),
        _ => return Err(not_here(command)),
    }
    Ok(ClientReply::Written)
}

/// Writes the reply to CLIENT TRACKINGINFO of a client that tracks nothing.
fn write_tracking_info(protocol: Protocol, out: &mut Vec<u8>) {
    protocol.write_map(out, 3);
    write_bulk(out, b"flags");
    protocol.write_set(out, 1);
    write_bulk(out, b"off");
    write_bulk(out, b"redirect");
    write_int(out, -1);
    write_bulk(out, b"prefixes");
    write_line(out, b'*', 0);
}

/// Checks a client name, or a library name or version. Blanks and line breaks would break the lines of CLIENT
/// LIST.
pub(super) fn check_name(name: &[u8]) -> Result<String, Refusal> {
    match std::str::from_utf8(name) {
        Ok(text) if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) => Ok(text.to_owned()),
        _ => Err(Refusal::new(
            "Client names cannot contain spaces, newlines or special characters.",
        )),
    }
}

/// CLIENT SETINFO: sets the name or the version of the client library.
fn set_info(attribute: &[u8], value: &[u8], client: &mut ClientInfo) -> Result<(), Refusal> {
    let place = match attribute.to_ascii_lowercase().as_slice() {
        b"lib-name" => &mut client.library,
        b"lib-ver" => &mut client.library_version,
        _ => return Err(Refusal::quoting("Unrecognized option '", attribute, "'")),
    };
    *place = check_name(value).map_err(|_| {
        let cannot = " cannot contain spaces, newlines or special characters.";
        Refusal::quoting("", attribute, cannot)
    })?;
    Ok(())
}

/// Parses ON or OFF.
fn on_or_off(word: &[u8]) -> Result<bool, Refusal> {
    match word {
        _ if word.eq_ignore_ascii_case(b"on") => Ok(true),
        _ if word.eq_ignore_ascii_case(b"off") => Ok(false),
        _ => Err(syntax_error()),
    }
}

/// Parses the argument of CLIENT REPLY.
fn replies(word: &[u8]) -> Result<ReplyMode, Refusal> {
    match word {
        _ if word.eq_ignore_ascii_case(b"on") => Ok(ReplyMode::On),
        _ if word.eq_ignore_ascii_case(b"off") => Ok(ReplyMode::Off),
        _ if word.eq_ignore_ascii_case(b"skip") => Ok(ReplyMode::SkipNext),
        _ => Err(syntax_error()),
    }
}

/// Parses a client type.
fn kind(word: &[u8]) -> Result<ClientKind, Refusal> {
    ClientKind::parse(word).ok_or_else(|| Refusal::quoting("Unknown client type '", word, "'"))
}

/// Parses the options of CLIENT LIST. As on a server, either one TYPE or any number of ids.
fn list_filter(options: &[&[u8]]) -> Result<ClientFilter, Refusal> {
    let mut which = ClientFilter::default();
    match options {
        [] => {}
        [word, name] if word.eq_ignore_ascii_case(b"TYPE") => which.kind = Some(kind(name)?),
        [word, ids @ ..] if word.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
            for id in ids {
                let id = canonical_integer(id).ok_or_else(|| Refusal::new("Invalid client ID"))?;
                // A negative id matches no client: ids begin with 1.
                which.ids.push(u64::try_from(id).unwrap_or(0));
            }
        }
        _ => return Err(syntax_error()),
    }
    Ok(which)
}

/// Parses the options of CLIENT KILL. With one argument it is the old form, addr:port.
fn kill_filter(options: &[&[u8]]) -> Result<RegistryRequest, Refusal> {
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).into_owned());
    if let [address] = options {
        let address = text(address);
        return Ok(RegistryRequest::KillOne(ClientFilter {
            address,
            ..ClientFilter::default()
        }));
    }
    let mut which = ClientFilter {
        // SKIPME defaults to yes in the new form. The old form kills the client itself, too.
        others_only: true,
        ..ClientFilter::default()
    };
    for option in options.chunks(2) {
        let [word, value] = *option else {
            return Err(syntax_error());
        };
        match word.to_ascii_uppercase().as_slice() {
            b"ID" => {
                let id = canonical_integer(value).filter(|&id| id > 0);
                let id = id.ok_or_else(|| Refusal::new("client-id should be greater than 0"))?;
                // The last of a repeated option counts.
                which.ids = vec![id.unsigned_abs()];
            }
            b"TYPE" => which.kind = Some(kind(value)?),
            b"ADDR" => which.address = text(value),
            b"LADDR" => which.local_address = text(value),
            // All clients are this user.
            b"USER" if value == b"default" => {}
            b"USER" => {
                return Err(Refusal::quoting("No such user '", value, "'"));
            }
            b"SKIPME" => {
                which.others_only = match value.to_ascii_lowercase().as_slice() {
                    b"yes" => true,
                    b"no" => false,
                    _ => return Err(syntax_error()),
                }
            }
            _ => return Err(syntax_error()),
        }
    }
    Ok(RegistryRequest::Kill(which))
}

/// Parses the arguments of CLIENT UNBLOCK. TIMEOUT is the default. The reason is checked before the id, as on
/// a server.
fn unblock_request(options: &[&[u8]]) -> Result<RegistryRequest, Refusal> {
    if options.len() > 2 {
        return Err(Refusal::new(
            "unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.",
        ));
    }
    let how = match options.get(1).map(|word| word.to_ascii_lowercase()) {
        None => Unblocked::Timeout,
        Some(word) if word == b"timeout" => Unblocked::Timeout,
        Some(word) if word == b"error" => Unblocked::Error,
        Some(_) => {
            return Err(Refusal::new(
                "CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            ));
        }
    };
    let id = options
        .first()
        .and_then(|id| canonical_integer(id))
        .ok_or_else(not_an_integer)?;
    Ok(RegistryRequest::Unblock(
        u64::try_from(id).unwrap_or(0),
        how,
    ))
}

/// Options of CLIENT TRACKING. They are parsed for ON and OFF, and checked against each other for ON only.
#[derive(Default)]
struct TrackingOptions {
    broadcast: bool,
    prefixes: bool,
    opt_in: bool,
    opt_out: bool,
}

impl TrackingOptions {
    /// Parses the options. REDIRECT accepts only the client's own id: no other client could receive
    /// invalidations either.
    fn parse(mut options: &[&[u8]], own_id: u64) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        let mut redirects = false;
        while let [word, rest @ ..] = options {
            options = rest;
            match (word.to_ascii_uppercase().as_slice(), rest) {
                (b"REDIRECT", [id, rest @ ..]) => {
                    if std::mem::replace(&mut redirects, true) {
                        return Err(Refusal::new(
                            "A client can only redirect to a single other client",
                        ));
                    }
                    let id = canonical_integer(id).ok_or_else(not_an_integer)?;
                    if u64::try_from(id) != Ok(own_id) {
                        return Err(Refusal::new(
                            "The client ID you want redirect to does not exist",
                        ));
                    }
                    options = rest;
                }
                (b"PREFIX", [_, rest @ ..]) => {
                    parsed.prefixes = true;
                    options = rest;
                }
                (b"BCAST", _) => parsed.broadcast = true,
                (b"OPTIN", _) => parsed.opt_in = true,
                (b"OPTOUT", _) => parsed.opt_out = true,
                (b"NOLOOP", _) => {}
                _ => return Err(syntax_error()),
            }
        }
        Ok(parsed)
    }

    /// Checks that the options fit together.
    fn check(&self) -> Result<(), Refusal> {
        if self.prefixes && !self.broadcast {
            return Err(Refusal::new(
                "PREFIX option requires BCAST mode to be enabled",
            ));
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err(Refusal::new(
                "OPTIN and OPTOUT are not compatible with BCAST",
            ));
        }
        if self.opt_in && self.opt_out {
            return Err(Refusal::new(
                "You can't specify both OPTIN mode and OPTOUT mode",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandTable;

    fn run_words(words: &str) -> Result<ClientReply, Refusal> {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let command = CommandTable::built_in().find(&args).unwrap();
        run(command, &args, &mut ClientInfo::default(), &mut Vec::new())
    }

    fn asked(words: &str) -> RegistryRequest {
        match run_words(words) {
            Ok(ClientReply::Ask(ask)) => ask,
            _ => panic!("{words}"),
        }
    }

    #[test]
    fn client_kill_and_list_filters_are_parsed_as_by_a_server() {
        let one = |address: &str| ClientFilter {
            address: Some(address.into()),
            ..ClientFilter::default()
        };
        assert_eq!(
            asked("client kill 1.2.3.4:5"),
            RegistryRequest::KillOne(one("1.2.3.4:5"))
        );
        let which = ClientFilter {
            ids: vec![5],
            ..ClientFilter::default()
        };
        assert_eq!(
            asked("client kill id 5 skipme no"),
            RegistryRequest::Kill(which)
        );
        let which = ClientFilter {
            ids: vec![1, 2],
            ..ClientFilter::default()
        };
        assert_eq!(asked("client list id 1 2"), RegistryRequest::List(which));
        assert_eq!(
            asked("client unblock 7 error"),
            RegistryRequest::Unblock(7, Unblocked::Error)
        );
    }

    #[test]
    fn invalid_client_subcommand_arguments_are_refused() {
        for words in [
            "client kill id 0",
            "client kill id 5 addr",
            "client kill foo 5",
            "client kill a b c",
            "client list type x",
            "client list id x",
            "client list foo",
            "client unblock x",
            "client unblock 1 soon",
            "client reply maybe",
            "client tracking on",
            "client setname a\tb",
        ] {
            assert!(run_words(words).is_err(), "{words}");
        }
    }
}
