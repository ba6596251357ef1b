//! Requests to ask about: seeded, so that every run asks the same.

use crate::server::Fact;

/// Words that are options somewhere, numbers, and names that are easily mistaken for either.
const WORDS: [&[u8]; 44] = [
    b"",
    b"STREAMS",
    b"STORE",
    b"STOREDIST",
    b"BY",
    b"GET",
    b"LIMIT",
    b"ASC",
    b"ALPHA",
    b"KEYS",
    b"COPY",
    b"REPLACE",
    b"AUTH",
    b"AUTH2",
    b"COUNT",
    b"BLOCK",
    b"GROUP",
    b"NOACK",
    b"WITHDIST",
    b"ANY",
    b"WEIGHTS",
    b"AGGREGATE",
    b"SUM",
    b"EX",
    b"NX",
    b"FIELDS",
    b"LEFT",
    b"MAX",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"+2",
    b"01",
    b" 1",
    b"1.5",
    b"99999999999999999999",
    b"*",
    b"#",
    b"w_*",
    b"nosort",
    b"$",
    b"\xff\r\n\0",
];
const COUNTS: [&[u8]; 16] = [
    b"0",
    b"1",
    b"1",
    b"1",
    b"2",
    b"2",
    b"2",
    b"3",
    b"3",
    b"4",
    b"5",
    b"-1",
    b"01",
    b"+1",
    b"x",
    b"9223372036854775807",
];

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Any arguments at all, about as many as the command takes, some too few.
pub fn anything(fact: &Fact, random: &mut Random) -> Vec<Vec<u8>> {
    let mut args = name(fact, random);
    let least = usize::try_from(fact.arity.unsigned_abs()).unwrap();
    let exact = fact.arity > 0 && !random.one_in(4);
    let len = if exact {
        least
    } else {
        (least + random.below(9)).saturating_sub(2)
    };
    while args.len() < len.max(1) {
        let arg = match random.below(5) {
            0 | 1 => mixed_case(random.pick(&WORDS), random),
            _ => key(random),
        };
        let arg = if Some(args.len()) == fact.count_at {
            random.pick(&COUNTS).to_vec()
        } else {
            arg
        };
        args.push(arg);
    }
    args
}

/// Arguments by the grammar of the commands whose keys come after words; `None` for the others.
pub fn grammatical(fact: &Fact, random: &mut Random) -> Option<Vec<Vec<u8>>> {
    let mut args = name(fact, random);
    let options: &[&[&str]] = match fact.name.as_str() {
        "SORT" | "SORT_RO" => {
            args.push(key(random));
            &[
                &["ASC"],
                &["ALPHA"],
                &["LIMIT", "?", "?"],
                &["BY", "?"],
                &["GET", "?"],
                &["STORE", "?"],
            ]
        }
        "GEORADIUS" | "GEORADIUSBYMEMBER" => {
            args.push(key(random));
            let place: &[&str] = if fact.name == "GEORADIUS" {
                &["1", "2", "3", "m"]
            } else {
                &["member", "3", "m"]
            };
            args.extend(place.iter().map(|arg| arg.as_bytes().to_vec()));
            &[
                &["WITHDIST"],
                &["ASC"],
                &["COUNT", "1"],
                &["COUNT", "1", "ANY"],
                &["STORE", "?"],
                &["STOREDIST", "?"],
            ]
        }
        "XREAD" => &[&["COUNT", "?"], &["BLOCK", "1"]],
        "XREADGROUP" => &[
            &["COUNT", "?"],
            &["BLOCK", "1"],
            &["NOACK"],
            &["GROUP", "?", "?"],
        ],
        "MIGRATE" => {
            let before = [
                "127.0.0.1",
                "1",
                if random.one_in(2) { "" } else { "k1" },
                "0",
                "10",
            ];
            args.extend(before.iter().map(|arg| arg.as_bytes().to_vec()));
            &[
                &["COPY"],
                &["REPLACE"],
                &["AUTH", "?"],
                &["AUTH2", "?", "?"],
                &["KEYS", "?"],
            ]
        }
        _ => return None,
    };
    for _ in 0..random.below(4) {
        push_option(random.pick(options), &mut args, random);
    }
    match fact.name.as_str() {
        "XREAD" | "XREADGROUP" => {
            if fact.name == "XREADGROUP" && !random.one_in(4) {
                push_option(&["GROUP", "?", "?"], &mut args, random);
            }
            push_option(&["STREAMS"], &mut args, random);
            let streams = 1 + random.below(3);
            args.extend((0..streams * 2).map(|_| key(random)));
        }
        "MIGRATE" => args.extend((0..random.below(3)).map(|_| key(random))),
        _ => {}
    }
    if random.one_in(8) {
        args.push(key(random));
    }
    Some(args)
}

fn push_option(option: &[&str], args: &mut Vec<Vec<u8>>, random: &mut Random) {
    for word in option {
        let arg = match *word {
            "?" if random.one_in(3) => mixed_case(random.pick(&WORDS), random),
            "?" => key(random),
            word => mixed_case(word.as_bytes(), random),
        };
        args.push(arg);
    }
}

fn name(fact: &Fact, random: &mut Random) -> Vec<Vec<u8>> {
    fact.name
        .split('|')
        .map(|word| mixed_case(word.as_bytes(), random))
        .collect()
}

fn key(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => Vec::new(),
        1 => mixed_case(random.pick(&WORDS), random),
        n => format!("k{n}").into_bytes(),
    }
}

fn mixed_case(word: &[u8], random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => word.to_ascii_lowercase(),
        1 => word
            .iter()
            .map(|byte| {
                if random.one_in(2) {
                    byte.to_ascii_lowercase()
                } else {
                    *byte
                }
            })
            .collect(),
        _ => word.to_vec(),
    }
}
