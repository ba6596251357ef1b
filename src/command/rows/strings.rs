//! Strings, bitmaps and HyperLogLog.

use super::*;

const ZERO_FOR_EACH_GET: MissReply = MissReply::for_each(2, 3, &ZERO);
// No bit of an empty string is set, and its first clear bit is number 0.
const BITPOS: MissReply = MissReply::If {
    condition: MissCondition::Arg(2, "1"),
    then: &MissReply::Int(-1),
    otherwise: &ZERO,
};
const LCS: MissReply = MissReply::If {
    condition: MissCondition::AnyArg(3, "LEN"),
    then: &ZERO,
    otherwise: &MissReply::If {
        condition: MissCondition::AnyArg(3, "IDX"),
        then: &MissReply::Map(&[("matches", NO_ITEMS), ("len", ZERO)]),
        otherwise: &NO_TEXT,
    },
};

pub(super) static ROWS: &[CommandSpec] = &[
    write("APPEND", 3, KEY),
    read("BITCOUNT", -2, KEY).missing(ZERO),
    write("BITFIELD", -2, KEY),
    read("BITFIELD_RO", -2, KEY).missing(ZERO_FOR_EACH_GET),
    write("BITOP", -4, KEYS_FROM_2),
    read("BITPOS", -3, KEY).missing(BITPOS),
    write("DECR", 2, KEY),
    write("DECRBY", 3, KEY),
    write("DELEX", -2, KEY),
    write("DELIFEQ", 3, KEY),
    read("DIGEST", 2, KEY),
    read("GET", 2, KEY).missing(NIL),
    read("GETBIT", 3, KEY).missing(ZERO),
    write("GETDEL", 2, KEY),
    write("GETEX", -2, KEY),
    read("GETRANGE", 4, KEY).missing(NO_TEXT),
    write("GETSET", 3, KEY),
    write("INCR", 2, KEY),
    write("INCRBY", 3, KEY),
    write("INCRBYFLOAT", 3, KEY),
    write("INCREX", -2, KEY),
    read("LCS", -3, TWO_KEYS).missing(LCS),
    read("MGET", -2, ALL_KEYS)
        .split(1, 0, Merge::KeyOrder)
        .missing(MissReply::nil_for_each(1)),
    write("MSET", -3, PAIRS).split(2, 0, Merge::AllSucceeded),
    write("MSETEX", -4, COUNTED_PAIRS)
        .because("never split: NX and XX are all or nothing (the tip says otherwise)"),
    write("MSETNX", -3, PAIRS)
        .because("never split: all or nothing (the tip of 7.0 says otherwise)"),
    write("PFADD", -2, KEY),
    write("PFCOUNT", -2, ALL_KEYS).because("the server may write its cache"),
    write("PFDEBUG", 3, KEY_AT_2),
    write("PFMERGE", -2, ALL_KEYS),
    ask_all("PFSELFTEST", 1, Merge::AllSucceeded),
    write("PSETEX", 4, KEY),
    write("SET", -3, KEY),
    write("SETBIT", 4, KEY),
    write("SETEX", 4, KEY),
    write("SETNX", 3, KEY),
    write("SETRANGE", 4, KEY),
    read("STRLEN", 2, KEY).missing(ZERO),
    read("SUBSTR", 4, KEY).missing(NO_TEXT),
];
