//! Sets.

use super::*;

pub(super) static ROWS: &[CommandSpec] = &[
    write("SADD", -3, KEY),
    read("SCARD", 2, KEY).missing(ZERO),
    read("SDIFF", -2, ALL_KEYS).missing(MissReply::EmptySet),
    read("SDIFFCARD", -3, COUNT_AT_1),
    write("SDIFFSTORE", -3, ALL_KEYS),
    read("SINTER", -2, ALL_KEYS).missing(MissReply::EmptySet),
    read("SINTERCARD", -3, COUNT_AT_1).missing(ZERO),
    write("SINTERSTORE", -3, ALL_KEYS),
    read("SISMEMBER", 3, KEY).missing(ZERO),
    read("SMEMBERS", 2, KEY).missing(MissReply::EmptySet),
    read("SMISMEMBER", -3, KEY).missing(MissReply::for_each(2, 1, &ZERO)),
    write("SMOVE", 4, TWO_KEYS),
    write("SPOP", -2, KEY),
    read("SRANDMEMBER", -2, KEY).missing(MissReply::nil_or_array(2)),
    write("SREM", -3, KEY),
    read("SSCAN", -3, KEY)
        .primary_only()
        .missing(MissReply::EmptyScan),
    read("SUNION", -2, ALL_KEYS).missing(MissReply::EmptySet),
    read("SUNIONCARD", -3, COUNT_AT_1),
    write("SUNIONSTORE", -3, ALL_KEYS),
];
