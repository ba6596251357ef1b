//! Properties of the requests of a proxy's clients: [`requests`].

use super::{pieces, steps};
use crate::command::{Args, PackedCommands, PackedProblem, write_command};
use crate::proxy::fuzzing::{LINE_BYTES_MAX, NormalizedEnd, Parsed, RequestParser, parse_prefix};
use crate::resp::FrameScanner;

/// The requests in some bytes, and why there are no more.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    requests: Vec<Taking>,
    end: NormalizedEnd,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
struct Taking {
    /// Number of bytes that it had.
    length: usize,
    /// The request in the usual form; nothing for an empty request.
    packed: Vec<u8>,
}

/// Bytes that a client sends are the same requests however they arrive, and for all readers: the strict one,
/// the tolerant one, and the one that rewrites many at once. No more work is done than there are bytes.
pub fn requests(data: &[u8]) {
    // Longer lines are left out: they are refused only if their end has not arrived yet, which depends on the
    // pieces.
    let Some((piece, bytes)) = pieces(data).filter(|(_, bytes)| bytes.len() < LINE_BYTES_MAX)
    else {
        return;
    };
    let whole = one_by_one(bytes);
    let (in_pieces, spent) = steps::of(|| piece_by_piece(bytes, piece));
    assert_eq!(in_pieces, whole, "in pieces of {piece}");
    let calls = bytes.len() / piece + 1 + whole.requests.len();
    assert!(
        spent.steps <= 4 * bytes.len() + 4 * calls,
        "{spent:?} for {} bytes",
        bytes.len()
    );
    let mut at = 0;
    for taking in &whole.requests {
        compare_readers(&bytes[at..], taking);
        at += taking.length;
    }
    compare_end(&bytes[at..], &whole.end);
    compare_normalized(bytes, piece, &whole);
}

fn one_by_one(bytes: &[u8]) -> Taken {
    let (mut requests, mut at) = (Vec::new(), 0);
    loop {
        let end = match RequestParser::default().parse(&bytes[at..]) {
            Parsed::Empty(length) => {
                let packed = Vec::new();
                requests.push(Taking { length, packed });
                at += length;
                continue;
            }
            Parsed::Request { length, packed } => {
                requests.push(Taking { length, packed });
                at += length;
                continue;
            }
            Parsed::Incomplete(_) if at == bytes.len() => NormalizedEnd::More,
            Parsed::Incomplete(needed) => NormalizedEnd::Incomplete(needed),
            Parsed::Invalid(why) => NormalizedEnd::Invalid(why),
        };
        return Taken { requests, end };
    }
}

fn piece_by_piece(bytes: &[u8], piece: usize) -> Taken {
    let (mut requests, mut at, mut arrived) = (Vec::new(), 0, 0);
    let (mut look, mut needed_at_least) = (RequestParser::default(), 0);
    let mut end = NormalizedEnd::More;
    while arrived < bytes.len() {
        arrived = bytes.len().min(arrived + piece);
        while at < arrived {
            let there = arrived - at;
            let found = look.parse(&bytes[at..arrived]);
            let (length, packed) = match found {
                Parsed::Incomplete(needed) => {
                    assert!(
                        needed > there,
                        "{needed} bytes are needed, and {there} there"
                    );
                    assert!(
                        needed >= needed_at_least,
                        "{needed} after {needed_at_least}"
                    );
                    needed_at_least = needed;
                    end = NormalizedEnd::Incomplete(needed);
                    break;
                }
                Parsed::Invalid(why) => {
                    let end = NormalizedEnd::Invalid(why);
                    return Taken { requests, end };
                }
                Parsed::Empty(length) => (length, Vec::new()),
                Parsed::Request { length, packed } => (length, packed),
            };
            assert!(
                there >= needed_at_least,
                "{there} were enough instead of {needed_at_least}"
            );
            assert!(!look.is_under_way(), "the request is over");
            needed_at_least = 0;
            end = NormalizedEnd::More;
            requests.push(Taking { length, packed });
            at += length;
        }
    }
    Taken { requests, end }
}

/// Compares the request at the beginning of `bytes` with what the other readers find there.
fn compare_readers(bytes: &[u8], taking: &Taking) {
    let frame = &bytes[..taking.length];
    let is_usual = taking.packed == frame;
    let mut args = Args::new();
    match PackedCommands::new(bytes).next(&mut args) {
        Ok(read) => {
            assert!(
                is_usual,
                "the strict reader takes what is not in the usual form"
            );
            assert_eq!(read, Some(frame));
        }
        Err(error) => {
            assert!(
                !is_usual,
                "the strict reader refuses what is in the usual form: {error}"
            );
            assert_ne!(error.problem, PackedProblem::Truncated, "it has arrived");
        }
    }
    if taking.packed.is_empty() {
        return;
    }
    let mut args = Args::new();
    let mut commands = PackedCommands::new(&taking.packed);
    assert_eq!(commands.next(&mut args), Ok(Some(&taking.packed[..])));
    let mut again = Vec::new();
    write_command(&mut again, &args);
    assert_eq!(again, taking.packed);
    if is_usual {
        assert_eq!(passed(bytes), Some(taking.length));
    }
    for cut in [1, frame.len() / 2, frame.len() - 1] {
        if frame[0] == b'*'
            && let Some((count, first)) = parse_prefix(&frame[..cut])
        {
            assert_eq!(count, args.len(), "cut at {cut}");
            assert_eq!(first, args[..first.len()], "cut at {cut}");
        }
    }
    // A request whose owner is known before all of it has arrived is forwarded in pieces, up to where the
    // scanner ends it.
    if frame[0] == b'*' && parse_prefix(frame).is_some() {
        assert_eq!(
            passed(bytes),
            Some(taking.length),
            "a request that may pass in pieces"
        );
    }
}

/// Returns the length of the request by the scanner, which follows forwarded requests.
fn passed(bytes: &[u8]) -> Option<usize> {
    let mut scanner = FrameScanner::default();
    let length = scanner.advance(bytes).ok()?;
    scanner.is_complete().then_some(length)
}

/// Compares the reason why there are no more requests with that of the strict reader.
fn compare_end(bytes: &[u8], end: &NormalizedEnd) {
    let strict = PackedCommands::new(bytes).next(&mut Args::new());
    match strict {
        Ok(None) => assert_eq!(*end, NormalizedEnd::More),
        Ok(Some(_)) => panic!("the strict reader takes what the tolerant one does not: {end:?}"),
        Err(error) if error.problem == PackedProblem::Truncated => {
            assert_ne!(*end, NormalizedEnd::More);
        }
        Err(_) => assert!(!bytes.is_empty()),
    }
}

/// Compares requests that are normalized many at once with those that were taken one by one.
fn compare_normalized(bytes: &[u8], max_bytes: usize, whole: &Taken) {
    let lengths = || whole.requests.iter().map(|taking| taking.length);
    // A request that does not fit, or that has not arrived, is parsed and left for the next call.
    let in_vain = lengths().max().unwrap_or_default() + bytes.len() - lengths().sum::<usize>();
    let (mut at, mut look, mut requests) = (0, RequestParser::default(), Vec::new());
    let end = loop {
        let (taken, spent) = steps::of(|| look.normalize(&bytes[at..], max_bytes));
        let most = 4 * (taken.consumed + in_vain + 64);
        assert!(
            spent.steps <= most,
            "{spent:?} for {} bytes",
            taken.consumed
        );
        let mut commands = one_by_one(&taken.packed).requests;
        commands.retain(|taking| !taking.packed.is_empty());
        assert_eq!(commands.len(), taken.requests);
        requests.extend(commands.into_iter().map(|taking| taking.packed));
        at += taken.consumed;
        if taken.consumed == 0 {
            break taken.end;
        }
    };
    assert_eq!(end, whole.end);
    let expected = whole.requests.iter().map(|taking| &taking.packed);
    let expected = expected.filter(|packed| !packed.is_empty());
    assert!(requests.iter().eq(expected));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of steps for a request that arrives byte by byte.
    fn steps_byte_by_byte(bytes: &[u8]) -> usize {
        let (taken, spent) = steps::of(|| piece_by_piece(bytes, 1));
        assert!(
            taken.requests.len() <= 1,
            "{} requests",
            taken.requests.len()
        );
        spent.steps
    }

    #[test]
    fn request_of_many_arguments_byte_by_byte_is_parsed_in_linear_time() {
        let mut bytes = b"*50000\r\n".to_vec();
        bytes.extend(b"$1\r\na\r\n".repeat(50_000));
        let steps = steps_byte_by_byte(&bytes);
        assert!(
            steps <= 8 * bytes.len(),
            "{steps} steps for {} bytes",
            bytes.len()
        );
    }

    #[test]
    fn request_line_byte_by_byte_is_parsed_in_linear_time() {
        for begin in ["x", "*", "*1\r\n$", "*1\r\n$0"] {
            let bytes = [begin.as_bytes(), &vec![b'1'; 60_000]].concat();
            let steps = steps_byte_by_byte(&bytes);
            assert!(
                steps <= 8 * bytes.len(),
                "{begin:?}: {steps} steps for {} bytes",
                bytes.len()
            );
        }
    }

    #[test]
    fn request_header_without_arguments_reserves_no_memory() {
        let mut args = Args::new();
        let room = args.capacity();
        for header in ["*1000000\r\n", "*1000000\r\n$1\r\na\r\n", "*2147483647\r\n"] {
            assert!(
                PackedCommands::new(header.as_bytes())
                    .next(&mut args)
                    .is_err()
            );
            assert_eq!(args.capacity(), room, "{header:?}");
            let taken = RequestParser::default().normalize(header.as_bytes(), 1 << 20);
            assert_eq!(taken.packed.capacity(), 0, "{header:?}");
        }
    }
}
