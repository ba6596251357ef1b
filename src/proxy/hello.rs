//! HELLO.

use redis::Value;

use crate::proxy::auth::Auth;
use crate::proxy::client_command::check_name;
use crate::proxy::client_info::ClientInfo;
use crate::proxy::refusal::Refusal;
use crate::resp::canonical_integer;
use crate::resp::{Protocol, write_bulk, write_command, write_int, write_line};

/// What HELLO asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    protocol: Option<Protocol>,
    name: Option<String>,
    /// It has the right password with it.
    pub(super) lets_in: bool,
}

impl Hello {
    /// The request that asks a node for its version, which HELLO tells.
    pub(crate) const VERSION_REQUEST: [&[u8]; 2] = [b"INFO", b"server"];

    /// The version in the reply to [`VERSION_REQUEST`](Self::VERSION_REQUEST).
    pub(crate) fn version_in(reply: &Value) -> Option<String> {
        let (Value::BulkString(_) | Value::VerbatimString { .. }) = reply else {
            return None;
        };
        let text: String = redis::from_redis_value(reply.clone()).ok()?;
        let version = |line: &str| line.strip_prefix("redis_version:").map(str::to_owned);
        text.lines().find_map(version)
    }

    /// The request that has a connection to a node speak `protocol`.
    pub(crate) fn request(protocol: Protocol) -> Vec<u8> {
        let mut packed = Vec::new();
        let number = protocol.number().to_string();
        write_command(&mut packed, &[b"HELLO", number.as_bytes()]);
        packed
    }

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

    /// Does what is asked for, and says who we are.
    pub(super) fn apply(&self, client: &mut ClientInfo, version: &str, out: &mut Vec<u8>) {
        if let Some(name) = &self.name {
            client.name.clone_from(name);
        }
        if let Some(protocol) = self.protocol {
            client.protocol = protocol;
        }
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
        write_bulk(out, b"standalone");
        write_bulk(out, b"role");
        write_bulk(out, b"master");
        write_bulk(out, b"modules");
        write_line(out, b'*', 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_hello_tells_is_read_from_the_reply_to_info() {
        let text = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        let bulk = Value::BulkString(text.into());
        assert_eq!(Hello::version_in(&bulk).as_deref(), Some("7.0.15"));
        let verbatim = Value::VerbatimString {
            format: redis::VerbatimFormat::Text,
            text: text.into(),
        };
        assert_eq!(Hello::version_in(&verbatim).as_deref(), Some("7.0.15"));
        assert_eq!(Hello::version_in(&Value::Int(7)), None);
        assert_eq!(
            Hello::request(Protocol::Resp3),
            b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
        );
    }

    #[test]
    fn hello_sets_what_it_names_and_nothing_when_a_word_is_wrong() {
        let hello = Hello::parse(
            &[b"HELLO", b"3", b"setname", b"me", b"AUTH", b"default", b"x"],
            &Auth::default(),
        );
        let mut client = ClientInfo {
            id: 9,
            ..ClientInfo::default()
        };
        let mut out = Vec::new();
        hello.unwrap().apply(&mut client, "7.0.15", &mut out);
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
