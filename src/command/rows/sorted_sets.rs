//! Sorted sets and geo.

use super::*;

const RANK: MissReply = MissReply::If {
    condition: MissCondition::AnyArg(3, "WITHSCORE"),
    then: &MissReply::NilArray,
    otherwise: &NIL,
};

const GEORADIUS: &[KeySpec] = &[range(1, 1, 1), KeySpec::GeoStore { from: 6 }];
const GEORADIUSBYMEMBER: &[KeySpec] = &[range(1, 1, 1), KeySpec::GeoStore { from: 5 }];

pub(super) static ROWS: &[CommandSpec] = &[
    write("BZMPOP", -5, COUNT_AT_2).waits_seconds(ArgAt::Index(1)),
    write("BZPOPMAX", -3, KEYS_BUT_LAST).waits_seconds(ArgAt::Last),
    write("BZPOPMIN", -3, KEYS_BUT_LAST).waits_seconds(ArgAt::Last),
    write("GEOADD", -5, KEY),
    read("GEODIST", -4, KEY).missing(NIL),
    read("GEOHASH", -2, KEY).missing(MissReply::nil_for_each(2)),
    read("GEOPOS", -2, KEY).missing(MissReply::for_each(2, 1, &MissReply::NilArray)),
    write("GEORADIUS", -6, GEORADIUS).because("the last STORE or STOREDIST wins"),
    write("GEORADIUSBYMEMBER", -5, GEORADIUSBYMEMBER).because("the last STORE or STOREDIST wins"),
    read("GEORADIUSBYMEMBER_RO", -5, KEY).missing(NO_ITEMS),
    read("GEORADIUS_RO", -6, KEY).missing(NO_ITEMS),
    read("GEOSEARCH", -7, KEY).missing(NO_ITEMS),
    write("GEOSEARCHSTORE", -8, TWO_KEYS),
    write("ZADD", -4, KEY),
    read("ZCARD", 2, KEY).missing(ZERO),
    read("ZCOUNT", 4, KEY).missing(ZERO),
    read("ZDIFF", -3, COUNT_AT_1).missing(NO_ITEMS),
    write("ZDIFFSTORE", -4, TARGET_AND_COUNT),
    write("ZINCRBY", 4, KEY),
    read("ZINTER", -3, COUNT_AT_1).missing(NO_ITEMS),
    read("ZINTERCARD", -3, COUNT_AT_1).missing(ZERO),
    write("ZINTERSTORE", -4, TARGET_AND_COUNT),
    read("ZLEXCOUNT", 4, KEY).missing(ZERO),
    write("ZMPOP", -4, COUNT_AT_1),
    read("ZMSCORE", -3, KEY).missing(MissReply::nil_for_each(2)),
    write("ZPOPMAX", -2, KEY),
    write("ZPOPMIN", -2, KEY),
    read("ZRANDMEMBER", -2, KEY).missing(MissReply::nil_or_array(2)),
    read("ZRANGE", -4, KEY).missing(NO_ITEMS),
    read("ZRANGEBYLEX", -4, KEY).missing(NO_ITEMS),
    read("ZRANGEBYSCORE", -4, KEY).missing(NO_ITEMS),
    write("ZRANGESTORE", -5, TWO_KEYS),
    read("ZRANK", -3, KEY).missing(RANK),
    write("ZREM", -3, KEY),
    write("ZREMRANGEBYLEX", 4, KEY),
    write("ZREMRANGEBYRANK", 4, KEY),
    write("ZREMRANGEBYSCORE", 4, KEY),
    read("ZREVRANGE", -4, KEY).missing(NO_ITEMS),
    read("ZREVRANGEBYLEX", -4, KEY).missing(NO_ITEMS),
    read("ZREVRANGEBYSCORE", -4, KEY).missing(NO_ITEMS),
    read("ZREVRANK", -3, KEY).missing(RANK),
    read("ZSCAN", -3, KEY)
        .primary_only()
        .missing(MissReply::EmptyScan),
    read("ZSCORE", 3, KEY).missing(NIL),
    read("ZUNION", -3, COUNT_AT_1).missing(NO_ITEMS),
    write("ZUNIONSTORE", -4, TARGET_AND_COUNT),
];
