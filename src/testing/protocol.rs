//! RESP: requests in, replies out. Written anew for the test node, so that a mistake of `resp` cannot hide in
//! both.

use std::io::{BufRead, BufReader, Read};

/// Maximum length in bytes of a line: the head of a request, or an inline command. As in Redis.
const LINE_MAX: u64 = 64 * 1024;
/// Maximum number of arguments of one request. As in Redis.
const ARGS_MAX: i64 = 1024 * 1024;
/// Maximum length in bytes of an argument. As in Redis.
const BULK_MAX: i64 = 512 * 1024 * 1024;

/// Reads the requests of one connection.
#[derive(Debug)]
pub(super) struct Requests<R> {
    input: BufReader<R>,
}

/// The reason why there is no next request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client has closed the connection.
    Closed,
    /// The request is malformed. The text is that of Redis' reply before it closes the connection.
    Protocol(String),
}

impl<R: Read> Requests<R> {
    /// Returns a reader of this connection.
    pub(super) fn new(input: R) -> Self {
        Self {
            input: BufReader::new(input),
        }
    }

    /// Waits for the next request with at least one argument.
    pub(super) fn next(&mut self) -> Result<Vec<Vec<u8>>, Ended> {
        loop {
            let line = self.line()?;
            let args = match line.split_first() {
                Some((b'*', count)) => self.multibulk(count)?,
                _ => inline(&line),
            };
            if !args.is_empty() {
                return Ok(args);
            }
        }
    }

    /// Reads the arguments of a request, whose number has been read. A negative number counts as none, as in
    /// Redis.
    fn multibulk(&mut self, count: &[u8]) -> Result<Vec<Vec<u8>>, Ended> {
        let count = number(count)
            // Redis' own limit, which a client that sends garbage runs into first.
            .filter(|&count| count <= ARGS_MAX)
            .ok_or_else(|| protocol("invalid multibulk length"))?;
        let mut args = Vec::new();
        for _ in 0..count {
            args.push(self.bulk()?);
        }
        Ok(args)
    }

    /// Reads one argument.
    fn bulk(&mut self) -> Result<Vec<u8>, Ended> {
        let line = self.line()?;
        let length = match line.split_first() {
            Some((b'$', length)) => number(length)
                .filter(|length| (0..=BULK_MAX).contains(length))
                .ok_or_else(|| protocol("invalid bulk length"))?,
            Some((&other, _)) => {
                return Err(protocol(&format!(
                    "expected '$', got '{}'",
                    char::from(other)
                )));
            }
            None => return Err(protocol("expected '$', got ' '")),
        };
        // Cannot fail on 64 bits: the limit is below `usize::MAX`.
        let length = usize::try_from(length).map_err(|_| Ended::Closed)?;
        // Memory grows with the bytes that arrive: the length is only a claim.
        let mut bytes = Vec::new();
        // The line end after the argument is read along, and dropped unchecked, as Redis does.
        let wanted = length as u64 + 2;
        let read = self.input.by_ref().take(wanted).read_to_end(&mut bytes);
        if read.map_err(|_| Ended::Closed)? as u64 != wanted {
            return Err(Ended::Closed);
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Reads a line, without its end.
    fn line(&mut self) -> Result<Vec<u8>, Ended> {
        let mut line = Vec::new();
        let read = self
            .input
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut line);
        read.map_err(|_| Ended::Closed)?;
        if line.pop() != Some(b'\n') {
            return Err(match line.len() as u64 + 1 {
                // As many bytes as are allowed, and still no end.
                LINE_MAX => protocol("too big inline request"),
                _ => Ended::Closed,
            });
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }
}

/// Version of RESP on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// One reply, not yet in a version of RESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// An array.
    Array(Vec<Reply>),
    Bulk(Vec<u8>),
    Error(String),
    Integer(i64),
    /// A map: pairs in a flat array in RESP2.
    Map(Vec<(Reply, Reply)>),
    /// A null: `$-1` in RESP2, `_` in RESP3.
    Nil,
    /// A null in the place of an array: `*-1` in RESP2, `_` in RESP3.
    NilArray,
    /// A message: an array in RESP2.
    Push(Vec<Reply>),
    /// A set: an array in RESP2.
    Set(Vec<Reply>),
    /// Several replies to one request, as SUBSCRIBE has.
    Several(Vec<Reply>),
    /// A simple string.
    Status(&'static str),
    /// A text: a bulk string in RESP2.
    Verbatim(String),
}

impl Reply {
    pub(super) const OK: Self = Self::Status("OK");

    /// A bulk string.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into_bytes())
    }

    /// An integer.
    pub(super) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A bulk string, or nil.
    pub(super) fn maybe(bytes: Option<&Vec<u8>>) -> Self {
        bytes.map_or(Self::Nil, |bytes| Self::Bulk(bytes.clone()))
    }

    /// An array of bulk strings.
    pub(super) fn bulks<'a>(items: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        Self::Array(items.into_iter().cloned().map(Self::Bulk).collect())
    }

    /// Returns the reply as bytes.
    pub(super) fn encode(&self, protocol: Protocol) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(protocol, &mut out);
        out
    }

    /// Appends the reply as bytes. Types that RESP2 lacks become their equivalents there.
    fn write(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Array(items) => many(b'*', items, protocol, out),
            Self::Bulk(bytes) => bulk(bytes, out),
            // `line` replaces line ends by blanks; those at the end would remain as blanks.
            Self::Error(text) => line(b'-', text.trim_end_matches(['\r', '\n']), out),
            Self::Integer(number) => line(b':', &number.to_string(), out),
            Self::Map(pairs) => {
                match resp3 {
                    true => line(b'%', &pairs.len().to_string(), out),
                    false => line(b'*', &(pairs.len() * 2).to_string(), out),
                }
                for (key, value) in pairs {
                    key.write(protocol, out);
                    value.write(protocol, out);
                }
            }
            // RESP3 has one null for both.
            Self::Nil | Self::NilArray if resp3 => out.extend_from_slice(b"_\r\n"),
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::NilArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Push(items) => many(if resp3 { b'>' } else { b'*' }, items, protocol, out),
            Self::Set(items) => many(if resp3 { b'~' } else { b'*' }, items, protocol, out),
            Self::Several(replies) => replies.iter().for_each(|reply| reply.write(protocol, out)),
            Self::Status(text) => line(b'+', text, out),
            Self::Verbatim(text) if resp3 => {
                line(b'=', &(text.len() + 4).to_string(), out);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Verbatim(text) => bulk(text.as_bytes(), out),
        }
    }
}

/// Appends a collection of this kind.
fn many(mark: u8, items: &[Reply], protocol: Protocol, out: &mut Vec<u8>) {
    line(mark, &items.len().to_string(), out);
    items.iter().for_each(|item| item.write(protocol, out));
}

/// Appends a bulk string.
fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    line(b'$', &bytes.len().to_string(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a line.
fn line(mark: u8, text: &str, out: &mut Vec<u8>) {
    out.push(mark);
    // An error may quote what the client sent: a line end inside it would begin another reply.
    out.extend(text.bytes().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }));
    out.extend_from_slice(b"\r\n");
}

/// Splits an inline command at white space. Quotes are not supported.
fn inline(line: &[u8]) -> Vec<Vec<u8>> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// Parses a decimal number.
fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The error for a malformed request.
fn protocol(what: &str) -> Ended {
    Ended::Protocol(format!("ERR Protocol error: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_node_reads_multibulk_and_inline_requests() {
        let mut requests =
            Requests::new(&b"*2\r\n$3\r\nGET\r\n$2\r\na\n\r\n*0\r\n\r\nPING  you\r\n"[..]);
        assert_eq!(requests.next(), Ok(vec![b"GET".to_vec(), b"a\n".to_vec()]));
        assert_eq!(requests.next(), Ok(vec![b"PING".to_vec(), b"you".to_vec()]));
        assert_eq!(requests.next(), Err(Ended::Closed));
    }

    #[test]
    fn test_node_reports_protocol_errors() {
        let mut requests = Requests::new(&b"*1\r\n:3\r\n"[..]);
        let text = "ERR Protocol error: expected '$', got ':'".to_owned();
        assert_eq!(requests.next(), Err(Ended::Protocol(text)));
        let mut requests = Requests::new(&b"*1\r\n$-3\r\n"[..]);
        assert!(matches!(requests.next(), Err(Ended::Protocol(_))));
    }

    #[test]
    fn truncated_request_is_a_closed_connection() {
        assert_eq!(
            Requests::new(&b"*1\r\n$4\r\nPI"[..]).next(),
            Err(Ended::Closed)
        );
    }

    #[test]
    fn test_node_replies_are_encoded_in_resp2_and_resp3() {
        let reply = Reply::Array(vec![
            Reply::Map(vec![(Reply::text("a"), Reply::Integer(1))]),
            Reply::Nil,
            Reply::NilArray,
            Reply::Set(vec![]),
        ]);
        assert_eq!(
            reply.encode(Protocol::Resp2),
            b"*4\r\n*2\r\n$1\r\na\r\n:1\r\n$-1\r\n*-1\r\n*0\r\n"
        );
        assert_eq!(
            reply.encode(Protocol::Resp3),
            b"*4\r\n%1\r\n$1\r\na\r\n:1\r\n_\r\n_\r\n~0\r\n"
        );
    }
}
