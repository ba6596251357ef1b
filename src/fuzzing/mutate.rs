//! Runs the properties on seeds and on bytes changed at random, without libFuzzer and with the same inputs on
//! each run.

use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

/// Number of inputs for each property besides the seeds, unless `REDIS_SHARDING_FUZZ_RUNS` sets another one.
const RUNS: u64 = 2_000;

/// Maximum length of an input, in bytes.
const BYTES_MAX: usize = 4096;

/// Bytes that parsers treat specially, inserted more often than chance would.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"*",
    b"$",
    b":",
    b"+",
    b"-",
    b"%",
    b"~",
    b">",
    b"|",
    b"=",
    b"!",
    b"_",
    b"#t",
    b",",
    b"(",
    b"*1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$1\r\na\r\n",
    b"*1000000\r\n",
    b"2147483648",
    b"4294967295",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"00000000000000000000000000000000005",
    b"+1",
    b"-0",
    b"\0",
    b"\xff",
    b"\"",
    b"'",
    b"\\",
    b"\\x41",
    b" ",
    b"\x0b",
    b"redis",
    b".call(",
    b"'GET'",
    b",'k')",
    b"--",
    b"[[",
    b"]]",
    b"[==[",
    b"]==]",
    b"#!",
    b"_G",
    b"node ",
    b"placement ",
    b"option ",
    b" = ",
    b"weight=2",
    b"    | ",
    b"redis://:p@h:1",
];

/// A small generator of numbers, the same for the same seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'t, T: ?Sized>(&mut self, all: &'t [impl AsRef<T>]) -> &'t T {
        all[self.below(all.len())].as_ref()
    }
}

/// Checks a property of the seeds in `tests/corpus` and of bytes made from them.
pub(super) fn check(target: &str, property: fn(&[u8])) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        try_one(property, seed, &format!("the seed {name}"));
    }
    let runs = std::env::var("REDIS_SHARDING_FUZZ_RUNS").ok();
    let runs = runs.map_or(RUNS, |runs| runs.parse().expect("a number of runs"));
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, seed)| seed).collect();
    for run in 0..runs {
        try_one(property, &mutated(&seeds, run), &format!("run {run}"));
    }
}

/// The files of a target's corpus, in the order of their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let file = file.expect("a file of the folder");
            (
                file.file_name().to_string_lossy().into_owned(),
                fs::read(file.path()).expect("the file can be read"),
            )
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds
}

fn mutated(seeds: &[Vec<u8>], run: u64) -> Vec<u8> {
    let mut rng = Rng(run);
    let mut bytes = rng.of::<[u8]>(seeds).to_vec();
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        let length = rng.below(8).min(bytes.len() - at);
        let piece = bytes[at..at + length].to_vec();
        match rng.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 => drop(bytes.splice(at..at + length, [])),
            2 => drop(bytes.splice(at..at, piece.repeat(1 + rng.below(4)))),
            3 => bytes.truncate(at),
            4 => {
                let other = rng.of::<[u8]>(seeds);
                let from = rng.below(other.len() + 1);
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
            5 if at < bytes.len() => bytes[at] = b"0123456789-"[rng.below(11)],
            6 => {
                let word = rng.of::<[u8]>(WORDS).repeat(1 + rng.below(200));
                drop(bytes.splice(at..at, word));
            }
            _ => drop(bytes.splice(at..at + length, rng.of::<[u8]>(WORDS).iter().copied())),
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

/// Checks one input. When the property fails, shrinks the input to the smallest part that fails as well, and
/// panics with that.
fn try_one(property: fn(&[u8]), input: &[u8], what: &str) {
    let Some(mut why) = failure(|| property(input)) else {
        return;
    };
    let mut smallest = input.to_vec();
    let mut length = smallest.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at + length <= smallest.len() {
            let mut smaller = smallest.clone();
            smaller.drain(at..at + length);
            match failure(|| property(&smaller)) {
                Some(so_too) => (smallest, why) = (smaller, so_too),
                None => at += length,
            }
        }
        length /= 2;
    }
    let smallest = smallest.escape_ascii();
    panic!("{what} fails, and so does b\"{smallest}\": {why}");
}

/// Returns the message of a panic, if there is one. It is not printed: shrinking causes hundreds of them.
fn failure(work: impl FnOnce()) -> Option<String> {
    thread_local! {
        static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                usual(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    let why = done.err()?;
    let text = why.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Some(
        text.or_else(|| why.downcast_ref::<String>().cloned())
            .unwrap_or_default(),
    )
}
