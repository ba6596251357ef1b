//! Replies, written in the wire format of RESP2 or RESP3.

#[cfg(feature = "proxy")]
use redis::Value;

/// The version of the protocol that a reader expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Arrays, bulk strings, integers, statuses and errors. The protocol of a connection without HELLO.
    #[default]
    Resp2,
    /// Also maps, sets, booleans, doubles, verbatim strings and push messages.
    Resp3,
}

impl From<&redis::RedisConnectionInfo> for Protocol {
    fn from(info: &redis::RedisConnectionInfo) -> Self {
        info.protocol().into()
    }
}

impl From<redis::ProtocolVersion> for Protocol {
    fn from(version: redis::ProtocolVersion) -> Self {
        match version {
            redis::ProtocolVersion::RESP3 => Self::Resp3,
            _ => Self::Resp2,
        }
    }
}

impl Protocol {
    /// Number of the version, as in HELLO.
    #[cfg(feature = "proxy")]
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }

    /// Writes nil in the place of a single value.
    pub(crate) fn write_nil(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Resp2 => b"$-1\r\n",
            Self::Resp3 => b"_\r\n",
        });
    }

    /// Writes nil in the place of an array, such as the reply of an EXEC that was not run. RESP2 tells the
    /// two apart.
    pub(crate) fn write_nil_array(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Resp2 => b"*-1\r\n",
            Self::Resp3 => b"_\r\n",
        });
    }

    /// Writes the header of a map; `pairs` keys and values follow. RESP2 has an array of both instead.
    pub(crate) fn write_map(self, out: &mut Vec<u8>, pairs: usize) {
        match self {
            Self::Resp2 => write_line(out, b'*', pairs * 2),
            Self::Resp3 => write_line(out, b'%', pairs),
        }
    }

    /// Writes the header of a set.
    pub(crate) fn write_set(self, out: &mut Vec<u8>, items: usize) {
        match self {
            Self::Resp2 => write_line(out, b'*', items),
            Self::Resp3 => write_line(out, b'~', items),
        }
    }

    /// Writes the header of a push message. RESP2 has an array instead.
    #[cfg(feature = "proxy")]
    pub(crate) fn write_push(self, out: &mut Vec<u8>, items: usize) {
        match self {
            Self::Resp2 => write_line(out, b'*', items),
            Self::Resp3 => write_line(out, b'>', items),
        }
    }

    /// Writes text for people to read, such as CLIENT LIST: a verbatim string in RESP3.
    #[cfg(feature = "proxy")]
    pub(crate) fn write_text(self, out: &mut Vec<u8>, text: &str) {
        match self {
            Self::Resp2 => write_bulk(out, text.as_bytes()),
            Self::Resp3 => {
                write_line(out, b'=', text.len() + 4);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Writes any value. A type that RESP2 lacks is written as a server writes it there; attributes are left
    /// out.
    #[cfg(feature = "proxy")]
    pub(crate) fn write(self, out: &mut Vec<u8>, value: &Value) {
        match (value, self) {
            (Value::Nil, _) => self.write_nil(out),
            (Value::Int(number), _) => write_int(out, *number),
            (Value::BulkString(bytes), _) => write_bulk(out, bytes),
            (Value::Okay, _) => write_status(out, "OK"),
            (Value::SimpleString(text), _) => write_status(out, text),
            (Value::Array(items), _) => self.write_items(out, b'*', items),
            (Value::Set(items), Self::Resp3) => self.write_items(out, b'~', items),
            (Value::Set(items), Self::Resp2) => self.write_items(out, b'*', items),
            (Value::Map(pairs), _) => {
                self.write_map(out, pairs.len());
                for (key, value) in pairs {
                    self.write(out, key);
                    self.write(out, value);
                }
            }
            // Attributes are hints, and a merged reply has none that applies to all of it.
            (Value::Attribute { data, .. }, _) => self.write(out, data),
            (Value::Double(number), Self::Resp3) => write_line(out, b',', double(*number)),
            (Value::Double(number), Self::Resp2) => write_bulk(out, double(*number).as_bytes()),
            (Value::Boolean(truth), Self::Resp3) => {
                write_line(out, b'#', if *truth { 't' } else { 'f' })
            }
            (Value::Boolean(truth), Self::Resp2) => write_int(out, (*truth).into()),
            (Value::VerbatimString { format, text }, Self::Resp3) => {
                let text = format!("{format}:{text}");
                write_line(out, b'=', text.len());
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            (Value::VerbatimString { text, .. }, Self::Resp2) => write_bulk(out, text.as_bytes()),
            (Value::ServerError(error), _) => {
                write_error(out, error.code(), error.details().unwrap_or_default());
            }
            // Big numbers and push messages: no merged reply contains one, and replies of one node are not
            // encoded again.
            _ => write_error(out, "ERR", "a reply of a kind that is not known"),
        }
    }

    /// Writes an aggregate with its items.
    #[cfg(feature = "proxy")]
    fn write_items(self, out: &mut Vec<u8>, mark: u8, items: &[Value]) {
        write_line(out, mark, items.len());
        for item in items {
            self.write(out, item);
        }
    }
}

/// Writes one line: marker, text, CR LF. The text must contain no line break.
pub(crate) fn write_line(out: &mut Vec<u8>, mark: u8, text: impl std::fmt::Display) {
    use std::io::Write;
    out.push(mark);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{text}\r\n");
}

/// Writes a bulk string.
pub(crate) fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    crate::resp::write_arg(out, bytes);
}

/// Writes an integer.
pub(crate) fn write_int(out: &mut Vec<u8>, number: i64) {
    write_line(out, b':', number);
}

/// Writes a status.
pub(crate) fn write_status(out: &mut Vec<u8>, text: &str) {
    write_text(out, b'+', text.as_bytes());
}

/// Writes an error: its code, a space, and the text.
#[cfg(feature = "proxy")]
pub(crate) fn write_error(out: &mut Vec<u8>, code: &str, text: impl AsRef<[u8]>) {
    write_text(out, b'-', code.as_bytes());
    out.truncate(out.len() - 2);
    write_text(out, b' ', text.as_ref());
}

/// Writes one line. CR and LF become spaces, so that text from a request cannot add replies of its own.
fn write_text(out: &mut Vec<u8>, mark: u8, text: &[u8]) {
    out.push(mark);
    out.extend(text.iter().map(|&byte| match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }));
    out.extend_from_slice(b"\r\n");
}

/// Formats a double: infinities as `inf`, and NaN as `nan`, which Rust writes in capitals.
#[cfg(feature = "proxy")]
fn double(number: f64) -> String {
    if number.is_nan() {
        "nan".to_owned()
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, value: &Value) -> String {
        let mut out = Vec::new();
        protocol.write(&mut out, value);
        out.escape_ascii().to_string()
    }

    #[test]
    fn encode_writes_resp3_types_in_resp2_as_servers_do() {
        let cases = [
            (Value::Nil, r"$-1\r\n", r"_\r\n"),
            (Value::Boolean(true), r":1\r\n", r"#t\r\n"),
            (Value::Double(0.5), r"$3\r\n0.5\r\n", r",0.5\r\n"),
            (Value::Double(f64::INFINITY), r"$3\r\ninf\r\n", r",inf\r\n"),
            (
                Value::Map(vec![(Value::Okay, Value::Int(1))]),
                r"*2\r\n+OK\r\n:1\r\n",
                r"%1\r\n+OK\r\n:1\r\n",
            ),
            (
                Value::Set(vec![Value::Int(1)]),
                r"*1\r\n:1\r\n",
                r"~1\r\n:1\r\n",
            ),
        ];
        for (value, old, new) in cases {
            assert_eq!(written(Protocol::Resp2, &value), old, "{value:?}");
            assert_eq!(written(Protocol::Resp3, &value), new, "{value:?}");
        }
    }

    #[test]
    fn encode_writes_back_decoded_replies_unchanged() {
        let replies =
            "*7\r\n$1\r\na\r\n:-5\r\n+OK\r\n+fine\r\n-ERR no such thing\r\n_\r\n=6\r\ntxt:ab\r\n";
        let value = redis::parse_redis_value(replies.as_bytes()).unwrap();
        assert_eq!(
            written(Protocol::Resp3, &value),
            replies.escape_default().to_string()
        );
    }

    #[test]
    fn encode_replaces_line_breaks_in_errors() {
        let mut out = Vec::new();
        write_error(&mut out, "ERR", "a\r\n+OK");
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
