//! Requests as they arrive, in all the forms that a server takes, with a server's own words for those it does not.

use crate::command::write_command;

/// An inline request, and a line with a number, may have so many bytes, as on a server.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// An argument may have so many bytes, as on a server (`proto-max-bulk-len`).
pub(crate) const ARG_BYTES_MAX: usize = 512 << 20;

/// A request may have so many arguments, as on a server.
const ARGS_MAX: i64 = i32::MAX as i64;

/// What bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// A request that has not arrived entirely: it needs at least so many bytes.
    Part(usize),
    /// So many bytes that ask for nothing.
    Nothing(usize),
    /// A request of so many bytes, here in the usual form.
    Request { length: usize, packed: Vec<u8> },
    /// No request, and nothing that comes after it can be one. A server says this and hangs up.
    Broken(String),
}

/// How far a request was looked through that had not arrived entirely, so that no byte is looked at twice.
#[derive(Debug, Default)]
pub(crate) struct Look {
    at: usize,
    /// Arguments still to come, once the first line has told.
    left: Option<usize>,
}

impl Look {
    /// Whether a request has been begun.
    #[inline]
    pub(crate) fn is_under_way(&self) -> bool {
        self.left.is_some()
    }

    /// Looks at the beginning of `bytes`, which are those of the last time and perhaps more.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Arrived {
        let arrived = match bytes.first() {
            None => return Arrived::Part(1),
            Some(b'*') => self.look_at_array(bytes),
            Some(_) => inline(bytes),
        };
        if !matches!(arrived, Arrived::Part(_)) {
            *self = Self::default();
        }
        arrived
    }

    fn look_at_array(&mut self, bytes: &[u8]) -> Arrived {
        match self.go_on(bytes) {
            Err(broken) => Arrived::Broken(broken),
            Ok(Some(needed)) => Arrived::Part(needed),
            Ok(None) if self.left == Some(0) && self.at > 0 => {
                let args = arguments(&bytes[..self.at]);
                match args.is_empty() {
                    true => Arrived::Nothing(self.at),
                    false => {
                        let mut packed = Vec::with_capacity(self.at);
                        write_command(&mut packed, &args);
                        let length = self.at;
                        Arrived::Request { length, packed }
                    }
                }
            }
            Ok(None) => Arrived::Part(bytes.len() + 1),
        }
    }

    /// Goes on until the request's end or that of the bytes; how many bytes are needed at least, if they do not suffice.
    fn go_on(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let mut left = match self.left {
            Some(left) => left,
            None => {
                let Some((number, next)) = line(bytes, 0, "mbulk")? else {
                    return Ok(Some(bytes.len() + 1));
                };
                let count = number.filter(|&count| count <= ARGS_MAX);
                let count = count.ok_or("Protocol error: invalid multibulk length")?;
                self.at = next;
                usize::try_from(count).unwrap_or(0)
            }
        };
        while left > 0 {
            self.left = Some(left);
            let Some((number, next)) = line(bytes, self.at, "bulk")? else {
                return Ok(Some(bytes.len() + 1));
            };
            if bytes[self.at] != b'$' {
                let got = char::from(bytes[self.at]);
                return Err(format!("Protocol error: expected '$', got '{got}'"));
            }
            let length = number
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length <= ARG_BYTES_MAX)
                .ok_or("Protocol error: invalid bulk length")?;
            let end = next + length + 2;
            if bytes.len() < end {
                return Ok(Some(end));
            }
            self.at = end;
            left -= 1;
        }
        self.left = Some(0);
        Ok(None)
    }
}

/// The number in the line at `at`, if it is one, and where the next line begins; `None` while it has not arrived. A server
/// takes any byte after CR for its LF.
fn line(bytes: &[u8], at: usize, what: &str) -> Result<Option<(Option<i64>, usize)>, String> {
    let rest = &bytes[at..];
    match rest.iter().position(|&byte| byte == b'\r') {
        None if rest.len() > LINE_BYTES_MAX => {
            Err(format!("Protocol error: too big {what} count string"))
        }
        Some(end) if end + 1 < rest.len() => {
            let number = rest.get(1..end).and_then(integer);
            Ok(Some((number, at + end + 2)))
        }
        _ => Ok(None),
    }
}

/// An integer in the only form in which a server takes it.
pub(crate) fn integer(digits: &[u8]) -> Option<i64> {
    let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
    match magnitude {
        [b'0'] if digits.len() == 1 => Some(0),
        [b'1'..=b'9', ..] => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// How many arguments a request will have that has not arrived entirely, and those that have arrived.
pub(crate) fn begun(bytes: &[u8]) -> Option<(usize, Vec<&[u8]>)> {
    match line(bytes, 0, "") {
        Ok(Some((Some(count), _))) => Some((usize::try_from(count).ok()?, arguments(bytes))),
        _ => None,
    }
}

/// The arguments of a request that have arrived.
fn arguments(request: &[u8]) -> Vec<&[u8]> {
    let mut args = Vec::new();
    let mut at = match line(request, 0, "") {
        Ok(Some((_, next))) => next,
        _ => return args,
    };
    while let Ok(Some((Some(length), next))) = line(request, at, "") {
        let end = next + usize::try_from(length).unwrap_or(0);
        args.extend(request.get(next..end));
        at = end + 2;
        if at >= request.len() {
            break;
        }
    }
    args
}

/// A request as one types it: words on a line.
fn inline(bytes: &[u8]) -> Arrived {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return match bytes.len() > LINE_BYTES_MAX {
            true => Arrived::Broken("Protocol error: too big inline request".into()),
            false => Arrived::Part(bytes.len() + 1),
        };
    };
    let text = &bytes[..end];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let length = end + 1;
    match words(text) {
        None => Arrived::Broken("Protocol error: unbalanced quotes in request".into()),
        Some(words) if words.is_empty() => Arrived::Nothing(length),
        Some(words) => {
            let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let mut packed = Vec::new();
            write_command(&mut packed, &args);
            Arrived::Request { length, packed }
        }
    }
}

/// Words between blanks, with quotes and escapes as on a server; `None` when a quote is not closed, or something follows
/// its end.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|byte| blank(byte)).count();
        if at == line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        while at < line.len() && !blank(&line[at]) {
            match line[at] {
                quote @ (b'"' | b'\'') => {
                    at = quoted(line, at + 1, quote, &mut word)?;
                    if line.get(at).is_some_and(|byte| !blank(byte)) {
                        return None;
                    }
                }
                byte => {
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word);
    }
}

/// Reads up to the closing quote; where the rest begins.
fn quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    loop {
        let (byte, used) = match line[at.min(line.len())..] {
            [] => return None,
            [end, ..] if end == quote => return Some(at + 1),
            [b'\\', b'x', high, low, ..] if quote == b'"' && hex(high).and(hex(low)).is_some() => {
                let value = hex(high)
                    .zip(hex(low))
                    .map_or(0, |(high, low)| high * 16 + low);
                (value as u8, 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                };
                (byte, 2)
            }
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (byte, 1),
        };
        word.push(byte);
        at += used;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Args, PackedCommands};

    fn args_of(arrived: &Arrived) -> Vec<Vec<u8>> {
        let Arrived::Request { packed, .. } = arrived else {
            panic!("no request: {arrived:?}");
        };
        let mut args = Args::new();
        PackedCommands::new(packed).next(&mut args).unwrap();
        args.iter().map(|arg| arg.to_vec()).collect()
    }

    fn typed(line: &str) -> Vec<String> {
        let arrived = Look::default().look(format!("{line}\r\n").as_bytes());
        let args = args_of(&arrived).into_iter();
        args.map(|arg| String::from_utf8_lossy(&arg).into_owned())
            .collect()
    }

    #[test]
    fn words_are_read_as_a_server_reads_them() {
        assert_eq!(typed("PING"), ["PING"]);
        assert_eq!(typed("  set   k \t v "), ["set", "k", "v"]);
        assert_eq!(typed(r#"SET k "a b\n\x41\"""#), ["SET", "k", "a b\nA\""]);
        assert_eq!(typed(r"SET k 'a\'b\n'"), ["SET", "k", r"a'b\n"]);
        assert_eq!(typed(r#"SET k """#), ["SET", "k", ""]);
        assert_eq!(typed(r#"k"a""#), ["ka"]);
        for line in ["\"a", "'a", "\"a\"b", "'a'b"] {
            assert_eq!(
                Look::default().look(format!("{line}\n").as_bytes()),
                Arrived::Broken("Protocol error: unbalanced quotes in request".into())
            );
        }
        assert_eq!(Look::default().look(b"\r\nPING\r\n"), Arrived::Nothing(2));
        assert_eq!(Look::default().look(b"PIN"), Arrived::Part(4));
    }

    #[test]
    fn what_cannot_be_a_request_is_refused_in_a_servers_words() {
        let long = vec![b'1'; LINE_BYTES_MAX + 2];
        let cases: [(&[u8], &str); 9] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*1\r\n:3\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
            (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
            (
                &[b"*".as_slice(), &long].concat(),
                "too big mbulk count string",
            ),
            (
                &[b"*1\r\n$".as_slice(), &long].concat(),
                "too big bulk count string",
            ),
            (&long, "too big inline request"),
        ];
        for (bytes, text) in cases {
            let expected = Arrived::Broken(format!("Protocol error: {text}"));
            assert_eq!(Look::default().look(bytes), expected);
        }
    }

    #[test]
    fn nothing_is_asked_by_an_array_without_elements() {
        for nothing in ["*0\r\n", "*-1\r\n", "*-10\r\n"] {
            let arrived = Look::default().look(nothing.as_bytes());
            assert_eq!(arrived, Arrived::Nothing(nothing.len()));
        }
    }

    #[test]
    fn a_request_tells_how_many_bytes_it_needs() {
        let mut look = Look::default();
        assert_eq!(
            look.look(b"*2\r\n$3\r\nGET\r\n$1000\r\n"),
            Arrived::Part(1022)
        );
    }

    proptest! {
        #[test]
        fn a_request_in_pieces_is_the_same_request(
            args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8),
            piece in 1_usize..30,
        ) {
            let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            let mut bytes = Vec::new();
            write_command(&mut bytes, &slices);
            let mut look = Look::default();
            for end in (0..bytes.len()).step_by(piece) {
                match look.look(&bytes[..end]) {
                    Arrived::Part(needed) => prop_assert!(needed > end && needed <= bytes.len()),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let whole = look.look(&bytes);
            prop_assert_eq!(args_of(&whole), args);
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(proptest::sample::select(b"*$0123456789\r\n-aG\"'\\x ".to_vec()), 0..80),
        ) {
            let mut look = Look::default();
            for end in 0..bytes.len() {
                let _ = look.look(&bytes[..end]);
            }
        }
    }
}
