//! Sets.

use super::*;

pub(super) static ROWS: &[CommandSpec] = &[
    write("SADD", -3, KEY),
    read("SCARD", 2, KEY),
    read("SDIFF", -2, ALL_KEYS),
    read("SDIFFCARD", -3, COUNT_AT_1),
    write("SDIFFSTORE", -3, ALL_KEYS),
    read("SINTER", -2, ALL_KEYS),
    read("SINTERCARD", -3, COUNT_AT_1),
    write("SINTERSTORE", -3, ALL_KEYS),
    read("SISMEMBER", 3, KEY),
    read("SMEMBERS", 2, KEY),
    read("SMISMEMBER", -3, KEY),
    write("SMOVE", 4, TWO_KEYS),
    write("SPOP", -2, KEY),
    read("SRANDMEMBER", -2, KEY),
    write("SREM", -3, KEY),
    read("SSCAN", -3, KEY),
    read("SUNION", -2, ALL_KEYS),
    read("SUNIONCARD", -3, COUNT_AT_1),
    write("SUNIONSTORE", -3, ALL_KEYS),
];
