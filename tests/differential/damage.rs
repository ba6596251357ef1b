//! Random damage to the protocol: the same bytes in the same pieces go to the one server and to the proxy, and what
//! comes back must be the same, byte for byte, and whether the connection is closed.
//!
//! Not compared are lines longer than a server keeps (64 KB) whose end has come: whether the server has seen the end by
//! then depends on how the bytes arrived.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::random::Random;
use super::wire::Shown;
use super::world::{Side, World};

/// So many connections are compared at a time.
const AT_A_TIME: usize = 16;
/// Between two pieces, so that they arrive apart.
const PAUSE: Duration = Duration::from_millis(2);
/// Who says nothing for so long has no more to say.
const QUIET: Duration = Duration::from_millis(40);
/// The same for those that seem to differ: a busy machine is slow.
const QUIET_FOR_SURE: Duration = Duration::from_millis(1500);
/// How long the other side may take to hang up once nothing more will be sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a value that is so large that it may pass in pieces.
const LARGE: usize = 5_000_000;
/// So often a failing case is made smaller.
const TRIES_MAX: usize = 60;

/// Bytes in the pieces in which they are sent.
pub type Case = Vec<Vec<u8>>;

/// What came back.
#[derive(PartialEq, Eq)]
struct Answer {
    bytes: Vec<u8>,
    /// The other side hung up before it was told that nothing more comes.
    hung_up: bool,
}

/// The seeds of `first..first + count` that are answered differently, each with the smallest case found; no more than `max`.
pub fn differences(world: &World, first: u64, count: u64, max: usize) -> Vec<String> {
    let mut differences = Vec::new();
    let seeds: Vec<u64> = (first..first + count).collect();
    for seeds in seeds.chunks(AT_A_TIME) {
        let cases: Vec<Case> = seeds.iter().map(|&seed| case(seed)).collect();
        let differ = thread::scope(|scope| {
            let compared: Vec<_> = cases
                .iter()
                .map(|case| scope.spawn(|| compare(world, case)))
                .collect();
            compared
                .into_iter()
                .map(|compared| compared.join().unwrap().is_some())
                .collect::<Vec<_>>()
        });
        for ((seed, case), differs) in seeds.iter().zip(cases).zip(differ) {
            if differs && differences.len() < max {
                differences.push(told(world, *seed, case));
            }
        }
    }
    differences
}

/// The smallest case that differs as well, for people.
fn told(world: &World, seed: u64, case: Case) -> String {
    let case = shrink(case, |case| compare_within(world, case, &[QUIET]).is_some());
    let pieces: Vec<String> = case.iter().map(|piece| Shown(piece).to_string()).collect();
    let difference = compare(world, &case).unwrap_or_else(|| "only sometimes".to_owned());
    let pieces = pieces.join("\n            ");
    format!("DIFFERENTIAL_SEED={seed}\nsent:       {pieces}\n{difference}\n")
}

/// What is different, if anything is. It must be so twice.
fn compare(world: &World, case: &Case) -> Option<String> {
    compare_within(world, case, &[QUIET, QUIET_FOR_SURE])
}

fn compare_within(world: &World, case: &Case, waits: &[Duration]) -> Option<String> {
    for &quiet in waits {
        let answers = thread::scope(|scope| {
            let one = scope.spawn(|| ask(world, Side::One, case, quiet));
            let fleet = scope.spawn(|| ask(world, Side::Fleet, case, quiet));
            [one, fleet].map(|answer| answer.join().unwrap())
        });
        let [one, fleet] = answers.map(|answer| answer.map_err(|error| error.to_string()));
        if is_alike(case, &one, &fleet) {
            return None;
        }
        if Some(&quiet) == waits.last() {
            let [one, fleet] = [one, fleet].map(show);
            return Some(format!("one server: {one}\nthe fleet:  {fleet}"));
        }
    }
    None
}

/// Whether both answers are the same, or differ as they may.
fn is_alike(case: &Case, one: &Result<Answer, String>, fleet: &Result<Answer, String>) -> bool {
    let (Ok(one), Ok(fleet)) = (one, fleet) else {
        return one == fleet;
    };
    let has = |bytes: &[u8], word: &[u8]| {
        let mut parts = bytes.windows(word.len());
        parts.any(|part| part.eq_ignore_ascii_case(word))
    };
    let sent = case.concat();
    // A server that may not say what is wrong forgets to hang up as well, and only listens no more.
    let is_silent = has(&sent, b"REPLY");
    // Commands that are not about keys of one node are refused in transactions, which then end otherwise.
    let is_refused = has(&sent, b"MULTI")
        && (has(&fleet.bytes, b"-UNROUTABLE") || has(&fleet.bytes, b"-CROSSNODE"));
    is_refused || (one.bytes == fleet.bytes && (is_silent || one.hung_up == fleet.hung_up))
}

fn show(answer: Result<Answer, String>) -> String {
    match answer {
        Ok(Answer { bytes, hung_up }) => {
            let end = if hung_up { ", and hangs up" } else { "" };
            format!("{}{end}", Shown(&bytes))
        }
        Err(error) => error,
    }
}

fn ask(world: &World, side: Side, case: &Case, quiet: Duration) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(world.address(side))?;
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let mut hung_up = false;
    for piece in case {
        // The other side may have hung up, and says so when it is listened to.
        hung_up |= stream.write_all(piece).is_err();
        hung_up |= read_for(&mut stream, PAUSE, &mut bytes)?;
        if hung_up {
            break;
        }
    }
    hung_up |= read_for(&mut stream, quiet, &mut bytes)?;
    if !hung_up {
        match stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() != ErrorKind::NotConnected => return Err(error),
            _ => {}
        }
        let end = Instant::now() + PATIENCE;
        while !read_for(&mut stream, QUIET, &mut bytes)? {
            if Instant::now() > end {
                return Err(io::Error::new(ErrorKind::TimedOut, "it does not hang up"));
            }
        }
    }
    let bytes = super::raw::without_ids(bytes);
    Ok(Answer { bytes, hung_up })
}

/// Reads until nothing has come for so long, or the end: whether it was the end.
fn read_for(stream: &mut TcpStream, quiet: Duration, bytes: &mut Vec<u8>) -> io::Result<bool> {
    stream.set_read_timeout(Some(quiet))?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(false),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Ok(true),
                ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// Leaves out pieces, and bytes of pieces, as long as it fails.
fn shrink(case: Case, fails: impl Fn(&Case) -> bool) -> Case {
    let mut best = case;
    let whole = vec![best.concat()];
    let mut tries = 1;
    if fails(&whole) {
        best = whole;
    }
    for piece in (0..best.len()).rev() {
        let mut length = best[piece].len().div_ceil(2);
        while length > 0 {
            let mut at = 0;
            while at < best[piece].len() && tries < TRIES_MAX {
                tries += 1;
                let mut smaller = best.clone();
                let end = smaller[piece].len().min(at + length);
                smaller[piece].drain(at..end);
                match fails(&smaller) {
                    true => best = smaller,
                    false => at += length,
                }
            }
            length /= 2;
        }
    }
    best.retain(|piece| !piece.is_empty());
    best
}

/// The case of a seed.
pub fn case(seed: u64) -> Case {
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(6) {
        let words = words(&mut random);
        let mut request = match random.below(10) {
            0..=4 => array(&words),
            5..=7 => inline(&mut random, &words),
            8 => damaged_array(&mut random, &words),
            _ => odd(&mut random),
        };
        if random.percent(15) {
            damage(&mut random, &mut request);
        }
        bytes.extend(request);
    }
    if random.percent(1) {
        // So large that a proxy passes it on in pieces, if it can.
        let words = [b"SET".to_vec(), b"damage:large".to_vec(), vec![b'v'; LARGE]];
        let request = match random.percent(50) {
            true => array(&words),
            false => damaged_array(&mut random, &words),
        };
        bytes.extend(request);
        bytes.extend_from_slice(b"STRLEN damage:large\r\nPING\r\n");
        return vec![bytes];
    }
    if random.percent(2) {
        // Too long, and without an end.
        bytes.extend_from_slice(random.pick(&[b"*".as_slice(), b"*1\r\n$", b"x"]));
        bytes.resize(bytes.len() + (100 << 10), b'1');
        return vec![bytes];
    }
    let mut case = Case::new();
    for _ in 0..random.below(4) {
        let rest = bytes.split_off(random.below(bytes.len() + 1));
        case.push(std::mem::replace(&mut bytes, rest));
    }
    case.push(bytes);
    case.retain(|piece| !piece.is_empty());
    case
}

/// Numbers as they should not be, and some as they should.
const NUMBERS: &[&[u8]] = &[
    b"",
    b"0",
    b"-0",
    b"00",
    b"01",
    b"+1",
    b" 1",
    b"1 ",
    b"1x",
    b"0x1",
    b"1.0",
    b"-1",
    b"-2",
    b"-10",
    b"1",
    b"2",
    b"3",
    b"4",
    b"10",
    b"2147483647",
    b"2147483648",
    b"4294967296",
    b"4294967297",
    b"536870912",
    b"536870913",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"18446744073709551617",
    b"99999999999999999999999999",
    b"\xff",
    b"1\0",
    b"\0",
];

const BYTES: &[u8] = b"\0\x01\x07\x08\t\n\x0b\x0c\r\x1b \"#$'*+,-/0129:=>AZ[\\]_`axz{|}~\x7f\x80\x9f\xa0\xc3\xe9\xfe\xff";

/// Any word, of any length up to some hundred bytes. Few have a NUL: a server sees nothing behind it.
fn junk(random: &mut Random) -> Vec<u8> {
    let length = match random.below(6) {
        0 => 0,
        1..=3 => random.below(8),
        4 => 120 + random.below(20),
        _ => random.below(300),
    };
    let bytes = if random.percent(5) {
        BYTES
    } else {
        &BYTES[1..]
    };
    match random.below(3) {
        0 => vec![random.pick(bytes); length],
        1 => (0..length).map(|_| random.pick(bytes)).collect(),
        _ => (0..length).map(|_| random.pick(b"abcxyz")).collect(),
    }
}

/// The words of a command that changes no key for another case: keys have the number of the case.
fn words(random: &mut Random) -> Vec<Vec<u8>> {
    let text = |words: &str| {
        words
            .split(' ')
            .map(|word| word.as_bytes().to_vec())
            .collect::<Vec<_>>()
    };
    let junk_words = |random: &mut Random, most: usize| {
        let count = random.below(most);
        (0..count).map(|_| junk(random)).collect::<Vec<_>>()
    };
    let mut words = match random.below(12) {
        0..=2 => text(random.pick(&[
            "PING",
            "ping",
            "ECHO a",
            "GET damage:none",
            "EXISTS damage:none damage:other",
        ])),
        3 => [text("ECHO"), vec![junk(random)]].concat(),
        4 => [
            text("GET"),
            vec![[b"damage:".as_slice(), &junk(random)].concat()],
        ]
        .concat(),
        // The name of no command.
        5..=6 => [vec![junk(random)], junk_words(random, 6)].concat(),
        // The name of no subcommand.
        7 => {
            let container = text(random.pick(&[
                "CLIENT", "client", "CONFIG", "PUBSUB", "OBJECT", "SCRIPT", "FUNCTION", "XINFO",
                "XGROUP", "MEMORY", "ACL", "SLOWLOG", "LATENCY", "CLUSTER", "MODULE",
            ]));
            [
                container,
                vec![[b"no".as_slice(), &junk(random)].concat()],
                junk_words(random, 3),
            ]
            .concat()
        }
        // Too many words, or too few.
        8 => [
            text(random.pick(&[
                "PING a",
                "ECHO",
                "GET",
                "GET a b",
                "EXISTS",
                "TTL a b",
                "CLIENT ID x",
                "SELECT",
                "DISCARD x",
            ])),
            junk_words(random, 2),
        ]
        .concat(),
        // Words that are repeated in errors, or not.
        9 => [
            text(random.pick(&[
                "SELECT",
                "HELLO",
                "HELLO 3",
                "CLIENT SETNAME",
                "CLIENT REPLY",
                "CLIENT NO-EVICT",
                "CLIENT UNBLOCK",
                "CLIENT KILL TYPE",
                "CLIENT KILL USER",
                "CLIENT LIST TYPE",
                "EXPIRE damage:none",
                "SETRANGE damage:none",
                "OBJECT FREQ damage:none",
                "LPOP damage:none",
                "AUTH",
                "AUTH default",
                "GETEX damage:none",
            ])),
            vec![junk(random)],
        ]
        .concat(),
        10 => text(random.pick(&["MULTI", "EXEC", "DISCARD", "UNWATCH", "RESET"])),
        _ => text(random.pick(&[
            "CLIENT REPLY SKIP",
            "CLIENT REPLY OFF",
            "CLIENT REPLY ON",
            "QUIT",
            "CLIENT GETNAME",
        ])),
    };
    // HELLO and RESET would show the number of the connection, or hide what follows, no more than others.
    if words[0].is_empty() && words.len() == 1 && random.percent(50) {
        words.push(b"x".to_vec());
    }
    words
}

fn array(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    super::wire::pack(words, &mut bytes);
    bytes
}

/// Words on a line: bare, in quotes, or with mistakes.
fn inline(random: &mut Random, words: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if at > 0 || random.percent(10) {
            line.extend_from_slice(random.pick(&[
                b" ".as_slice(),
                b" ",
                b" ",
                b"  ",
                b"\t",
                b"\x0b",
                b"\x0c",
                b" \r ",
            ]));
        }
        match random.below(5) {
            0 => line.extend_from_slice(word),
            1 => line.extend([b"'", &word[..], b"'"].concat()),
            2 => line.extend([b"\"", &word[..], b"\""].concat()),
            _ => {
                line.push(b'"');
                for &byte in word {
                    match byte {
                        b'\n' => line.extend_from_slice(b"\\n"),
                        b' '..=b'~' if !matches!(byte, b'"' | b'\\') => line.push(byte),
                        _ => line.extend(format!("\\x{byte:02x}").bytes()),
                    }
                }
                line.push(b'"');
            }
        }
    }
    line.extend_from_slice(random.pick(&[b"\r\n".as_slice(), b"\r\n", b"\n", b" \r\n", b"\r\r\n"]));
    line
}

/// An array of which one number, mark or line break is another.
fn damaged_array(random: &mut Random, words: &[Vec<u8>]) -> Vec<u8> {
    let wrong = random.below(2 * words.len() + 2);
    let breaks = [
        b"\r\n".as_slice(),
        b"\n",
        b"\r",
        b"\r\r",
        b"\rx",
        b"\r\0",
        b"\r\xff",
        b"",
    ];
    let mut part = 0;
    let mut line = |random: &mut Random, bytes: &mut Vec<u8>, mark: u8, number: usize| {
        let mut text = vec![mark];
        text.extend(number.to_string().bytes());
        let mut end = b"\r\n".as_slice();
        if part == wrong {
            match random.below(3) {
                0 => text = [&[mark][..], random.pick(NUMBERS)].concat(),
                1 => text[0] = random.pick(BYTES),
                _ => end = random.pick(&breaks),
            }
        }
        part += 1;
        bytes.extend(text);
        bytes.extend_from_slice(end);
    };
    let mut bytes = Vec::new();
    line(random, &mut bytes, b'*', words.len());
    for word in words {
        line(random, &mut bytes, b'$', word.len());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(if random.percent(5) {
            random.pick(&breaks)
        } else {
            b"\r\n"
        });
    }
    bytes
}

/// What asks for nothing, or cannot be asked.
fn odd(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => random
            .pick(&[
                b"\r\n".as_slice(),
                b"\n",
                b"  \r\n",
                b"\r\r\n",
                b"*0\r\n",
                b"*-1\r\n",
                b"*\r\n",
                b"$4\r\nPING\r\n",
                b"+OK\r\n",
                b":1\r\n",
            ])
            .to_vec(),
        1 => [b"*".as_slice(), random.pick(NUMBERS), b"\r\n"].concat(),
        2 => [b"*1\r\n$".as_slice(), random.pick(NUMBERS), b"\r\nPING\r\n"].concat(),
        _ => [&[random.pick(BYTES)][..], &junk(random), b"\r\n"].concat(),
    }
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    match random.below(4) {
        0 if at < bytes.len() => bytes[at] = random.pick(BYTES),
        1 => bytes.insert(at, random.pick(BYTES)),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        _ => bytes.truncate(at),
    }
}
