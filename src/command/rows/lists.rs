//! Lists.

use super::*;

const LPOS: MissReply = MissReply::If {
    condition: MissCondition::AnyArg(3, "COUNT"),
    then: &NO_ITEMS,
    otherwise: &NIL,
};

pub(super) static ROWS: &[CommandSpec] = &[
    write("BLMOVE", 6, TWO_KEYS).waits_seconds(ArgAt::Last),
    write("BLMPOP", -5, COUNT_AT_2).waits_seconds(ArgAt::Index(1)),
    write("BLPOP", -3, KEYS_BUT_LAST).waits_seconds(ArgAt::Last),
    write("BRPOP", -3, KEYS_BUT_LAST).waits_seconds(ArgAt::Last),
    write("BRPOPLPUSH", 4, TWO_KEYS).waits_seconds(ArgAt::Last),
    read("LINDEX", 3, KEY).missing(NIL),
    write("LINSERT", 5, KEY),
    read("LLEN", 2, KEY).missing(ZERO),
    write("LMOVE", 5, TWO_KEYS),
    write("LMPOP", -4, COUNT_AT_1),
    write("LPOP", -2, KEY),
    read("LPOS", -3, KEY).missing(LPOS),
    write("LPUSH", -3, KEY),
    write("LPUSHX", -3, KEY),
    read("LRANGE", 4, KEY).missing(NO_ITEMS),
    write("LREM", 4, KEY),
    write("LSET", 4, KEY),
    write("LTRIM", 4, KEY),
    write("RPOP", -2, KEY),
    write("RPOPLPUSH", 3, TWO_KEYS),
    write("RPUSH", -3, KEY),
    write("RPUSHX", -3, KEY),
];
