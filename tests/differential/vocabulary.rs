//! What fills the holes of a template: keys, values, numbers, scripts.

use std::fmt::Write as _;

use sha1::{Digest, Sha1};

use super::grammar::Word;
use super::random::Random;

/// The words of one sequence.
pub struct Vocabulary {
    /// What keys hold in this sequence, so that its commands meet.
    pub kinds: Vec<&'static str>,
    /// The tag that all keys of a command have; any keys without one.
    pub tag: Option<char>,
    /// What DUMP says of a string.
    pub dump: Vec<u8>,
}

/// What keys can hold, which is also what they are called.
pub const KINDS: [&str; 10] = [
    "string", "number", "bits", "hll", "hash", "list", "set", "zset", "geo", "stream",
];
pub const TAGS: [char; 2] = ['a', 'b'];
/// So many of a hundred keys hold something else than the command is about.
const WRONG_KIND: usize = 6;
const ODD_KEY: usize = 4;
const KEYS_PER_KIND: usize = 3;
const KEYS_PER_TAG: usize = 2;
const ODD_KEYS: [&[u8]; 8] = [
    b"",
    b"\x00\xff\r\n",
    b"{}x",
    b"{a}{b}",
    b"}x{",
    b"{",
    b"*",
    b"a key of more than 64 bytes {a} ...................................................",
];
const VALUES: [&[u8]; 12] = [
    b"",
    b"0",
    b"10",
    b"-7",
    b"3.25",
    b"hallo",
    b"hello world",
    b"\r\n$-1\r\n",
    b"\x00\x01\xfe\xff",
    b"{a}",
    b"9223372036854775807",
    b"ohmytext and mynewtext",
];
const MEMBERS: [&[u8]; 10] = [
    b"m1",
    b"m2",
    b"m3",
    b"1",
    b"2",
    b"-3",
    b"",
    b"\xff\x00",
    b"Z",
    b"m 4",
];
const GARBAGE: [&[u8]; 10] = [
    b"",
    b"x",
    b"-1",
    b"0",
    b"1.5",
    b"nan",
    b"99999999999999999999",
    b"9223372036854775807",
    b"\x00",
    b"STORE",
];
/// With one key and one argument.
const SCRIPTS: [&str; 18] = [
    "return redis.call('GET', KEYS[1])",
    "return redis.call('SET', KEYS[1], ARGV[1])",
    "return redis.call('INCR', KEYS[1])",
    "return redis.pcall('LPUSH', KEYS[1], ARGV[1])",
    "return redis.call('LRANGE', KEYS[1], 0, -1)",
    "redis.call('SADD', KEYS[1], ARGV[1]) return redis.call('TYPE', KEYS[1])",
    "return {1, 2.5, 'x', {KEYS[1], ARGV[1]}, true, false, 'behind'}",
    "return redis.error_reply('MY own error')",
    "return redis.status_reply('FINE')",
    "error('oops')",
    "return nil",
    "this is no Lua",
    "return redis.call('NOSUCH', KEYS[1])",
    "return redis.call('GET')",
    "redis.setresp(3) return redis.call('ZSCORE', KEYS[1], ARGV[1])",
    "redis.setresp(3) return {double=3.5}",
    "redis.setresp(3) return {map={field='value'}}",
    "redis.setresp(3) return redis.call('SMISMEMBER', KEYS[1], ARGV[1])",
];
/// With two keys.
const SCRIPTS_OF_TWO: [&str; 3] = [
    "return redis.call('MGET', KEYS[1], KEYS[2])",
    "redis.call('RPUSH', KEYS[1], 'x') return redis.call('RPUSH', KEYS[2], 'y')",
    "return #KEYS",
];
/// Without any.
const SCRIPTS_OF_NONE: [&str; 4] = [
    "return 1",
    "return {ARGV[1], #KEYS, #ARGV}",
    "return redis.call('PING')",
    "return redis.sha1hex('x')",
];
/// With one function each, since a server lists those of a library in any order.
const LIBRARIES: [&str; 4] = [
    "#!lua name=one\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)",
    "#!lua name=two\nredis.register_function('count', function(keys, args) return #keys + #args end)",
    "#!lua name=three\nredis.register_function{function_name='look', \
     callback=function(keys, args) return redis.call('GET', keys[1]) end, flags={'no-writes'}}",
    "#!lua name=broken\nno Lua",
];
/// 2100-01-01, in seconds.
const FAR_AWAY: i64 = 4_102_444_800;

impl Vocabulary {
    /// # Panics
    ///
    /// When a template has a hole that is not here.
    pub fn word(&self, name: &str, random: &mut Random) -> Word {
        if let Some(kind) = KINDS.iter().find(|&&kind| kind == name) {
            return Word::key(self.key(kind, random));
        }
        let number = |from, to, random: &mut Random| random.between(from, to).to_string();
        Word::text(match name {
            "any" => {
                let kind = random.pick(&self.kinds);
                return Word::key(self.key(kind, random));
            }
            // It is routed like a key.
            "channel" => return Word::key(random.pick(&MEMBERS)),
            "value" if random.percent(2) => {
                let length = random.pick(&[70, 600, 20_000, 70_000]);
                vec![b'a' + random.below(3) as u8; length]
            }
            "value" => random.pick(&VALUES).to_vec(),
            "member" if random.percent(2) => vec![b'm'; 70],
            "member" => random.pick(&MEMBERS).to_vec(),
            "field" => format!("f{}", random.below(5)).into(),
            "garbage" => random.pick(&GARBAGE).to_vec(),
            "dump" if random.percent(15) => b"no dump".to_vec(),
            "dump" => self.dump.clone(),
            "dollar" => b"$".to_vec(),
            "script" => random.pick(&SCRIPTS).as_bytes().to_vec(),
            "sha" => sha(random.pick(&SCRIPTS)),
            "script2" => random.pick(&SCRIPTS_OF_TWO).as_bytes().to_vec(),
            "sha2" => sha(random.pick(&SCRIPTS_OF_TWO)),
            "script0" => random.pick(&SCRIPTS_OF_NONE).as_bytes().to_vec(),
            "sha0" => sha(random.pick(&SCRIPTS_OF_NONE)),
            "library" => random.pick(&LIBRARIES).as_bytes().to_vec(),
            _ => match name {
                "int" => random
                    .pick(&["0", "1", "-1", "5", "100", "-37", "4294967296"])
                    .to_string(),
                "small" => number(0, 5, random),
                "few" => number(1, 5, random),
                "index" => number(-4, 5, random),
                "float" => random
                    .pick(&["0.5", "-2.75", "3", "1e2", "10.125"])
                    .to_string(),
                "score" if random.percent(10) => random
                    .pick(&["inf", "-inf", "nan", "1e300", "x"])
                    .to_string(),
                "score" => random
                    .pick(&["0", "1", "2", "-1", "3.5", "10", "0.1"])
                    .to_string(),
                "min" => random
                    .pick(&["-inf", "0", "(1", "1", "-1", "x"])
                    .to_string(),
                "max" => random.pick(&["+inf", "2", "(3.5", "10", "0"]).to_string(),
                "lexmin" => random
                    .pick(&["-", "[a", "(m1", "[m2", "+", "m"])
                    .to_string(),
                "lexmax" => random.pick(&["+", "[m3", "(z", "-"]).to_string(),
                // Two that are alike would make GT and LT depend on the milliseconds between the two runs.
                "seconds" => number(1_000, 9_000_000, random),
                "millis" => number(1_000_000, 9_000_000_000, random),
                "at" => (FAR_AWAY + random.between(0, 999_999)).to_string(),
                "at-millis" => (FAR_AWAY * 1000 + random.between(0, 999_999_999)).to_string(),
                "past" => random.pick(&["-1", "0", "-100000"]).to_string(),
                // Until a blocking command gives up.
                "soon" => "0.002".to_owned(),
                "pattern" => random
                    .pick(&[
                        "*", "*:1", "{a}*", "[hls]*", "str?ng:0", "nothing", "m*", "f[0-2]",
                    ])
                    .to_string(),
                "offset" => random.pick(&["0", "1", "7", "8", "100", "-1"]).to_string(),
                "type" => random
                    .pick(&["u8", "i5", "u1", "i64", "u63", "u64", "x"])
                    .to_string(),
                "field-offset" => random.pick(&["0", "3", "#1", "#2", "100"]).to_string(),
                "lon" => random
                    .pick(&["13.361389", "15.087269", "2.35", "-122.4", "200"])
                    .to_string(),
                "lat" => random
                    .pick(&["38.115556", "37.502669", "48.85", "37.7", "-91"])
                    .to_string(),
                "km" => random.pick(&["1", "200", "2000", "20000"]).to_string(),
                "id" if random.percent(8) => random.pick(&["x", "0-0", "1-x", "7"]).to_string(),
                "id" => format!("{}-{}", random.between(1, 40), random.below(3)),
                "group" => random.pick(&["g1", "g2"]).to_string(),
                "consumer" => random.pick(&["c1", "c2"]).to_string(),
                "function" => random.pick(&["put", "look", "count", "nosuch"]).to_string(),
                "library-name" => random.pick(&["one", "two", "three", "nosuch"]).to_string(),
                _ => panic!("no word is called ${name}"),
            }
            .into(),
        })
    }

    fn key(&self, kind: &str, random: &mut Random) -> Vec<u8> {
        if self.tag.is_none() && random.percent(ODD_KEY) {
            return random.pick(&ODD_KEYS).to_vec();
        }
        let kind = match random.percent(WRONG_KIND) {
            true => random.pick(&self.kinds),
            false => kind,
        };
        let tag = match self.tag {
            None if random.percent(40) => Some(random.pick(&TAGS)),
            tag => tag,
        };
        match tag {
            Some(tag) => format!("{{{tag}}}{kind}:{}", random.below(KEYS_PER_TAG)),
            None => format!("{kind}:{}", random.below(KEYS_PER_KIND)),
        }
        .into()
    }
}

fn sha(script: &str) -> Vec<u8> {
    let mut digits = String::new();
    for byte in Sha1::digest(script.as_bytes()) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits.into()
}
