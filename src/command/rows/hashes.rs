//! Hashes.

use super::*;

/// HTTL key FIELDS count field ...
const NO_FIELDS: MissReply = MissReply::for_each(4, 1, &NO_TTL);

pub(super) static ROWS: &[CommandSpec] = &[
    write("HDEL", -3, KEY),
    read("HEXISTS", 3, KEY).missing(ZERO),
    write("HEXPIRE", -6, KEY),
    write("HEXPIREAT", -6, KEY),
    read("HEXPIRETIME", -5, KEY).missing(NO_FIELDS),
    read("HGET", 3, KEY).missing(NIL),
    read("HGETALL", 2, KEY).missing(MissReply::EmptyMap),
    write("HGETDEL", -5, KEY),
    write("HGETEX", -5, KEY),
    write("HINCRBY", 4, KEY),
    write("HINCRBYFLOAT", 4, KEY),
    read("HKEYS", 2, KEY).missing(NO_ITEMS),
    read("HLEN", 2, KEY).missing(ZERO),
    read("HMGET", -3, KEY).missing(MissReply::nil_for_each(2)),
    write("HMSET", -4, KEY),
    write("HPERSIST", -5, KEY),
    write("HPEXPIRE", -6, KEY),
    write("HPEXPIREAT", -6, KEY),
    read("HPEXPIRETIME", -5, KEY).missing(NO_FIELDS),
    read("HPTTL", -5, KEY).missing(NO_FIELDS),
    read("HRANDFIELD", -2, KEY).missing(MissReply::nil_or_array(2)),
    read("HSCAN", -3, KEY)
        .primary_only()
        .missing(MissReply::EmptyScan),
    write("HSET", -4, KEY),
    write("HSETEX", -6, KEY),
    write("HSETNX", 4, KEY),
    read("HSTRLEN", 3, KEY).missing(ZERO),
    read("HTTL", -5, KEY).missing(NO_FIELDS),
    read("HVALS", 2, KEY).missing(NO_ITEMS),
];
