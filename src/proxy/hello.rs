//! HELLO: its arguments, and the map it replies with.

use crate::proxy::auth::Auth;
use crate::proxy::client_command::check_name;
use crate::proxy::client_info::ClientInfo;
use crate::proxy::refusal::Refusal;
use crate::resp::canonical_integer;
use crate::resp::{Protocol, write_bulk, write_int, write_line};

/// The arguments of HELLO, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// `None` for HELLO without a version: the protocol stays.
    protocol: Option<Protocol>,
    /// From SETNAME.
    name: Option<String>,
    /// True if AUTH was given with the right password.
    pub(super) lets_in: bool,
}

impl Hello {
    /// Parses the arguments. Checks the password of AUTH, and changes nothing if any argument is wrong.
    pub(super) fn parse(args: &[&[u8]], auth: &Auth) -> Result<Self, Refusal> {
        let mut hello = Self::default();
        let Some(version) = args.get(1) else {
            return Ok(hello);
        };
        hello.protocol = Some(match canonical_integer(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => {
                return Err(Refusal::with_code(
                    "NOPROTO",
                    "unsupported protocol version",
                ));
            }
            None => {
                return Err(Refusal::new(
                    "Protocol version is not an integer or out of range",
                ));
            }
        });
        let mut rest = &args[2..];
        while let [word, values @ ..] = rest {
            rest = match values {
                [user, password, rest @ ..] if word.eq_ignore_ascii_case(b"AUTH") => {
                    auth.check(&[b"AUTH", user, password])?;
                    hello.lets_in = true;
                    rest
                }
                [name, rest @ ..] if word.eq_ignore_ascii_case(b"SETNAME") => {
                    hello.name = Some(check_name(name)?);
                    rest
                }
                _ => {
                    return Err(Refusal::quoting(
                        "Syntax error in HELLO option '",
                        word,
                        "'",
                    ));
                }
            };
        }
        Ok(hello)
    }

    /// Sets the protocol and the name of `client`.
    pub(super) fn apply(&self, client: &mut ClientInfo) {
        if let Some(name) = &self.name {
            client.name.clone_from(name);
        }
        if let Some(protocol) = self.protocol {
            client.protocol = protocol;
        }
    }
}

/// Writes the reply to HELLO, in the client's protocol. The nodes appear as one master of this version, without modules:
/// a standalone one, so that client libraries use no feature of Cluster or Sentinel, unless a cluster is emulated.
pub(super) fn write_server_info(
    client: &ClientInfo,
    version: &str,
    is_cluster: bool,
    out: &mut Vec<u8>,
) {
    client.protocol.write_map(out, 7);
    write_bulk(out, b"server");
    write_bulk(out, b"redis");
    write_bulk(out, b"version");
    write_bulk(out, version.as_bytes());
    write_bulk(out, b"proto");
    write_int(out, client.protocol.number());
    write_bulk(out, b"id");
    write_int(out, client.id as i64);
    write_bulk(out, b"mode");
    write_bulk(
        out,
        match is_cluster {
            true => b"cluster",
            false => b"standalone",
        },
    );
    write_bulk(out, b"role");
    write_bulk(out, b"master");
    write_bulk(out, b"modules");
    write_line(out, b'*', 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_sets_its_options_or_nothing_when_one_is_invalid() {
        let hello = Hello::parse(
            &[b"HELLO", b"3", b"setname", b"me", b"AUTH", b"default", b"x"],
            &Auth::default(),
        );
        let mut client = ClientInfo {
            id: 9,
            ..ClientInfo::default()
        };
        let mut out = Vec::new();
        hello.unwrap().apply(&mut client);
        write_server_info(&client, "7.0.15", false, &mut out);
        assert_eq!(
            (client.name.as_str(), client.protocol),
            ("me", Protocol::Resp3)
        );
        assert!(out.starts_with(b"%7\r\n$6\r\nserver\r\n"));
        for wrong in [
            &[b"HELLO".as_slice(), b"4"][..],
            &[b"HELLO", b"x"],
            &[b"HELLO", b"3", b"FOO"],
            &[b"HELLO", b"3", b"SETNAME", b"a b"],
            &[b"HELLO", b"3", b"AUTH", b"who", b"x"],
        ] {
            assert!(Hello::parse(wrong, &Auth::default()).is_err(), "{wrong:?}");
        }
    }
}
