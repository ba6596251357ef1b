//! The commands that sequences are made of, and by which rule their replies are compared.

use super::judge::Rule;
use super::judge::Rule::{Close, Exact, Hello, Loop, Pairs, Popped, Random, Shape, Unordered};

/// Templates of one rule.
pub type Rows = &'static [(Rule, &'static [&'static str])];

/// Commands about keys of one kind, which has the name of a group.
pub const GROUPS: [(&str, Rows); 10] = [
    ("string", STRINGS),
    ("number", NUMBERS),
    ("bits", BITS),
    ("hll", HYPERLOGLOGS),
    ("hash", HASHES),
    ("list", LISTS),
    ("set", SETS),
    ("zset", SORTED_SETS),
    ("geo", PLACES),
    ("stream", STREAMS),
];

const STRINGS: Rows = &[(
    Exact,
    &[
        "SET $string $value",
        "SET $string $value",
        "SET $string $value [ EX $seconds | PX $millis | EXAT $at | PXAT $at-millis | KEEPTTL ] [ NX | XX ] [ GET ]",
        "SET $string $value EX $past",
        "GET $string",
        "GETSET $string $value",
        "GETDEL $string",
        "GETEX $string [ EX $seconds | PX $millis | EXAT $at | PERSIST ]",
        "SETNX $string $value",
        "SETEX $string $seconds $value",
        "PSETEX $string $millis $value",
        "APPEND $string $value",
        "STRLEN $string",
        "GETRANGE $string $index $index",
        "SUBSTR $string $index $index",
        "SETRANGE $string $small $value",
        "MGET { $string }",
        "MGET { $any }",
        "MSET { $string $value }",
        "MSET { $any $value }",
        "MSETNX { $string $value }",
        "LCS $string $string [ LEN | IDX [ MINMATCHLEN $small ] [ WITHMATCHLEN ] ]",
    ],
)];

const NUMBERS: Rows = &[(
    Exact,
    &[
        "SET $number $int",
        "SET $number ( 9223372036854775807 | -9223372036854775808 )",
        "INCR $number",
        "DECR $number",
        "INCRBY $number $int",
        "DECRBY $number $int",
        "INCRBYFLOAT $number $float",
        "GET $number",
        "MGET { $number }",
        "MEMORY USAGE $number",
    ],
)];

const BITS: Rows = &[(
    Exact,
    &[
        "SETBIT $bits $offset ( 0 | 1 | 2 )",
        "SETBIT $bits $offset 1",
        "GETBIT $bits $offset",
        "BITCOUNT $bits [ $index $index [ BYTE | BIT ] ]",
        "BITPOS $bits ( 0 | 1 ) [ $index [ $index [ BYTE | BIT ] ] ]",
        "BITOP ( AND | OR | XOR ) $bits { $bits }",
        "BITOP NOT $bits $bits",
        "BITFIELD $bits { GET $type $field-offset | SET $type $field-offset $int | OVERFLOW ( WRAP | SAT | FAIL ) | \
         INCRBY $type $field-offset $int }",
        "BITFIELD_RO $bits { GET $type $field-offset }",
        "SET $bits $value",
    ],
)];

const HYPERLOGLOGS: Rows = &[(
    Exact,
    &[
        "PFADD $hll { $member }",
        "PFADD $hll { $member }",
        "PFCOUNT { $hll }",
        "PFMERGE $hll { $hll }",
        "GET $hll",
    ],
)];

const HASHES: Rows = &[
    (
        Exact,
        &[
            "HSET $hash { $field $value }",
            "HSET $hash { $field $value }",
            "HMSET $hash { $field $value }",
            "HSETNX $hash $field $value",
            "HGET $hash $field",
            "HMGET $hash { $field }",
            "HDEL $hash { $field }",
            "HEXISTS $hash $field",
            "HLEN $hash",
            "HSTRLEN $hash $field",
            "HINCRBY $hash $field $int",
            "HINCRBYFLOAT $hash $field $float",
        ],
    ),
    (Pairs, &["HGETALL $hash"]),
    (Unordered, &["HKEYS $hash", "HVALS $hash"]),
    (Random, &["HRANDFIELD $hash [ $index [ WITHVALUES ] ]"]),
    (Loop, &["HSCAN $hash 0 [ MATCH $pattern ] [ COUNT $few ]"]),
];

const LISTS: Rows = &[(
    Exact,
    &[
        "LPUSH $list { $member }",
        "RPUSH $list { $member }",
        "RPUSH $list { $value }",
        "LPUSHX $list $value",
        "RPUSHX $list $value",
        "LPOP $list [ $small ]",
        "RPOP $list [ $small ]",
        "LLEN $list",
        "LINDEX $list $index",
        "LINSERT $list ( BEFORE | AFTER ) $member $value",
        "LSET $list $index $value",
        "LREM $list $index $member",
        "LRANGE $list $index $index",
        "LRANGE $list 0 -1",
        "LTRIM $list $index $index",
        "LPOS $list $member [ RANK $index ] [ COUNT $small ] [ MAXLEN $small ]",
        "RPOPLPUSH $list $list",
        "LMOVE $list $list ( LEFT | RIGHT ) ( LEFT | RIGHT )",
        "LMPOP #{ $list } ( LEFT | RIGHT ) [ COUNT $few ]",
        "BLPOP { $list } $soon",
        "BRPOP { $list } $soon",
        "BLMOVE $list $list ( LEFT | RIGHT ) ( LEFT | RIGHT ) $soon",
        "BRPOPLPUSH $list $list $soon",
        "BLMPOP $soon #{ $list } ( LEFT | RIGHT ) [ COUNT $few ]",
        "SORT $list [ LIMIT $small $small ] [ DESC ] ALPHA",
        "SORT $list [ STORE $list ]",
        "SORT_RO $list ALPHA GET #",
        "SORT $list BY nosort GET #",
    ],
)];

const SETS: Rows = &[
    (
        Exact,
        &[
            "SADD $set { $member }",
            "SADD $set { $member }",
            "SADD $set { $int }",
            "SREM $set { $member }",
            "SISMEMBER $set $member",
            "SMISMEMBER $set { $member }",
            "SCARD $set",
            "SMOVE $set $set $member",
            "SINTERCARD #{ $set } [ LIMIT $small ]",
            "SINTERSTORE $set { $set }",
            "SUNIONSTORE $set { $set }",
            "SDIFFSTORE $set { $set }",
            "SORT $set ALPHA [ DESC ] [ LIMIT $small $small ]",
        ],
    ),
    (
        Unordered,
        &[
            "SMEMBERS $set",
            "SINTER { $set }",
            "SUNION { $set }",
            "SDIFF { $set }",
        ],
    ),
    (Random, &["SRANDMEMBER $set [ $index ]"]),
    (Popped, &["SPOP $set [ $small ]"]),
    (Loop, &["SSCAN $set 0 [ MATCH $pattern ] [ COUNT $few ]"]),
];

const SORTED_SETS: Rows = &[
    (
        Exact,
        &[
            "ZADD $zset { $score $member }",
            "ZADD $zset { $score $member }",
            "ZADD $zset [ NX | XX ] [ GT | LT ] [ CH ] { $score $member }",
            "ZADD $zset INCR $score $member",
            "ZINCRBY $zset $score $member",
            "ZREM $zset { $member }",
            "ZSCORE $zset $member",
            "ZMSCORE $zset { $member }",
            "ZCARD $zset",
            "ZCOUNT $zset $min $max",
            "ZLEXCOUNT $zset $lexmin $lexmax",
            "ZRANK $zset $member",
            "ZREVRANK $zset $member",
            "ZRANGE $zset $index $index [ REV ] [ WITHSCORES ]",
            "ZRANGE $zset $min $max BYSCORE [ LIMIT $small $index ] [ WITHSCORES ]",
            "ZRANGE $zset $max $min BYSCORE REV",
            "ZRANGE $zset $lexmin $lexmax BYLEX [ LIMIT $small $index ]",
            "ZREVRANGE $zset $index $index [ WITHSCORES ]",
            "ZRANGEBYSCORE $zset $min $max [ WITHSCORES ] [ LIMIT $small $index ]",
            "ZREVRANGEBYSCORE $zset $max $min [ WITHSCORES ]",
            "ZRANGEBYLEX $zset $lexmin $lexmax",
            "ZREVRANGEBYLEX $zset $lexmax $lexmin",
            "ZRANGESTORE $zset $zset $index $index",
            "ZPOPMIN $zset [ $small ]",
            "ZPOPMAX $zset [ $small ]",
            "ZMPOP #{ $zset } ( MIN | MAX ) [ COUNT $few ]",
            "BZPOPMIN { $zset } $soon",
            "BZPOPMAX { $zset } $soon",
            "BZMPOP $soon #{ $zset } ( MIN | MAX ) [ COUNT $few ]",
            "ZREMRANGEBYRANK $zset $index $index",
            "ZREMRANGEBYSCORE $zset $min $max",
            "ZREMRANGEBYLEX $zset $lexmin $lexmax",
            "ZUNION #{ $zset } [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
            "ZINTER #{ $zset } [ AGGREGATE ( SUM | MIN | MAX ) ] [ WITHSCORES ]",
            "ZDIFF #{ $zset } [ WITHSCORES ]",
            "ZUNIONSTORE $zset #{ $zset } [ AGGREGATE ( SUM | MIN | MAX ) ]",
            "ZUNIONSTORE $zset 2 $zset $zset WEIGHTS $score $score",
            "ZINTERSTORE $zset #{ $zset }",
            "ZINTERCARD #{ $zset } [ LIMIT $small ]",
            "ZDIFFSTORE $zset #{ $zset }",
        ],
    ),
    (Random, &["ZRANDMEMBER $zset [ $index [ WITHSCORES ] ]"]),
    (Loop, &["ZSCAN $zset 0 [ MATCH $pattern ] [ COUNT $few ]"]),
];

const PLACES: Rows = &[(
    Exact,
    &[
        "GEOADD $geo { $lon $lat $member }",
        "GEOADD $geo { $lon $lat $member }",
        "GEOADD $geo [ NX | XX ] [ CH ] { $lon $lat $member }",
        "GEODIST $geo $member $member [ m | km | ft | mi | x ]",
        "GEOHASH $geo { $member }",
        "GEOPOS $geo { $member }",
        "GEOSEARCH $geo ( FROMMEMBER $member | FROMLONLAT $lon $lat ) ( BYRADIUS $km km | BYBOX $km $km km ) \
         ( ASC | DESC ) [ COUNT $few ] [ WITHCOORD ] [ WITHDIST ] [ WITHHASH ]",
        "GEOSEARCHSTORE $geo $geo FROMLONLAT $lon $lat BYRADIUS $km km [ STOREDIST ]",
        "GEORADIUS $geo $lon $lat $km km ASC [ WITHDIST ]",
        "GEORADIUS $geo $lon $lat $km km [ STORE $geo | STOREDIST $geo ]",
        "GEORADIUSBYMEMBER $geo $member $km km DESC [ STORE $geo ]",
        "GEORADIUS_RO $geo $lon $lat $km km ASC",
        "GEORADIUSBYMEMBER_RO $geo $member $km km ASC",
        "ZCARD $geo",
    ],
)];

const STREAMS: Rows = &[
    (
        Exact,
        &[
            "XADD $stream $id { $field $value }",
            "XADD $stream $id { $field $value }",
            "XADD $stream [ NOMKSTREAM ] [ MAXLEN [ = | ~ ] $small | MINID $id ] $id $field $value",
            "XLEN $stream",
            "XRANGE $stream ( - | $id ) ( + | $id ) [ COUNT $small ]",
            "XREVRANGE $stream ( + | $id ) ( - | $id ) [ COUNT $small ]",
            "XDEL $stream { $id }",
            "XTRIM $stream ( MAXLEN [ = | ~ ] $small | MINID $id )",
            "XREAD [ COUNT $few ] STREAMS $stream ( $id | 0 )",
            "XREAD [ COUNT $few ] STREAMS $stream $stream 0 $id",
            "XREAD BLOCK 2 STREAMS $stream ( $dollar | 0 )",
            "XGROUP CREATE $stream $group ( $id | 0 | $dollar ) [ MKSTREAM ] [ ENTRIESREAD $small ]",
            "XGROUP CREATE $stream $group 0 MKSTREAM",
            "XGROUP SETID $stream $group ( $id | $dollar )",
            "XGROUP DESTROY $stream $group",
            "XGROUP CREATECONSUMER $stream $group $consumer",
            "XGROUP DELCONSUMER $stream $group $consumer",
            "XREADGROUP GROUP $group $consumer [ COUNT $few ] [ NOACK ] STREAMS $stream ( > | 0 | $id )",
            "XREADGROUP GROUP $group $consumer STREAMS $stream >",
            "XREADGROUP GROUP $group $consumer STREAMS $stream $stream > >",
            "XACK $stream $group { $id }",
            "XCLAIM $stream $group $consumer 0 { $id } [ JUSTID ]",
            "XAUTOCLAIM $stream $group $consumer 0 ( 0 | $id ) [ COUNT $few ] [ JUSTID ]",
            "XPENDING $stream $group",
            "XINFO STREAM $stream",
            "XINFO GROUPS $stream",
            "XSETID $stream $id",
        ],
    ),
    (
        Close,
        &[
            "XPENDING $stream $group [ IDLE 0 ] - + $few [ $consumer ]",
            "XINFO CONSUMERS $stream $group",
            "XINFO STREAM $stream FULL",
        ],
    ),
];

/// Commands about keys of any kind.
pub const KEYSPACE: Rows = &[
    (
        Exact,
        &[
            "DEL { $any }",
            "UNLINK { $any }",
            "EXISTS { $any }",
            "TOUCH { $any }",
            "TYPE $any",
            "EXPIRE $any $seconds [ NX | XX | GT | LT ]",
            "PEXPIRE $any $millis [ NX | XX | GT | LT ]",
            "EXPIREAT $any $at [ NX | XX | GT | LT ]",
            "PEXPIREAT $any $at-millis",
            "EXPIRE $any $past",
            "PERSIST $any",
            "RENAME $any $any",
            "RENAMENX $any $any",
            "COPY $any $any [ DB 0 ] [ REPLACE ]",
            "OBJECT ENCODING $any",
            "OBJECT REFCOUNT $any",
            "OBJECT FREQ $any",
            "DUMP $string",
            "RESTORE $string ( 0 | $millis ) $dump [ REPLACE ]",
            "MOVE $any 0",
        ],
    ),
    (
        Close,
        &[
            "TTL $any",
            "PTTL $any",
            "EXPIRETIME $any",
            "PEXPIRETIME $any",
            "OBJECT IDLETIME $any",
        ],
    ),
];

/// Commands about all keys, or about the server.
pub const FLEET: Rows = &[
    (
        Exact,
        &[
            "DBSIZE",
            "DBSIZE",
            "FLUSHALL [ ASYNC | SYNC ]",
            "FLUSHDB [ ASYNC | SYNC ]",
            "WAIT 0 0",
            "PUBSUB CHANNELS",
            "PUBSUB NUMSUB { $member }",
            "PUBSUB NUMPAT",
            "PUBSUB SHARDCHANNELS",
            "PUBSUB SHARDNUMSUB { $member }",
            "PUBLISH $channel $value",
            "SPUBLISH $channel $value",
            "CONFIG GET maxmemory",
            "CONFIG GET nosuch",
            "CONFIG SET maxmemory 0",
            "CONFIG SET nosuch 1",
            "CONFIG RESETSTAT",
            "COMMAND COUNT",
            "COMMAND INFO get nosuch mset",
            "COMMAND DOCS get",
            "COMMAND GETKEYS MSET { $any $value }",
            "COMMAND GETKEYSANDFLAGS GET $any",
            "SLOWLOG RESET",
            "LATENCY LATEST",
            "LATENCY RESET",
            "LATENCY HISTORY command",
            "MEMORY PURGE",
            "ACL WHOAMI",
            "ACL USERS",
            "ACL CAT",
            "ACL GETUSER default",
            "ACL GETUSER nosuch",
            "ACL DELUSER nosuch",
            "CLUSTER INFO",
            "READONLY",
            "( OBJECT | SCRIPT | FUNCTION | CONFIG | XGROUP | PUBSUB | MEMORY | SLOWLOG | ACL ) HELP",
        ],
    ),
    (Unordered, &["KEYS $pattern", "KEYS *", "COMMAND LIST"]),
    (Pairs, &["CONFIG GET maxmemory*"]),
    (Shape, &["TIME", "LASTSAVE"]),
    (Random, &["RANDOMKEY"]),
    (
        Loop,
        &[
            "SCAN 0 [ MATCH $pattern ] [ COUNT $few ] [ TYPE ( string | list | nosuch ) ]",
            "SCAN 0 COUNT 1000",
        ],
    ),
];

pub const CONNECTION: Rows = &[
    (
        Exact,
        &[
            "PING [ $value ]",
            "ECHO $value",
            "SELECT 0",
            "SELECT ( 99 | x )",
            "CLIENT SETNAME ( name | $garbage )",
            "CLIENT GETNAME",
            "CLIENT NO-EVICT ( on | off )",
            "CLIENT REPLY ON",
            "CLIENT TRACKING off",
            "AUTH ( x | default x | nosuch x )",
            "HELLO ( 1 | x )",
            "RESET",
        ],
    ),
    (Hello, &["HELLO [ 2 | 3 ]"]),
    (Shape, &["CLIENT ID"]),
];

/// A transaction that is not always well-formed.
pub const TRANSACTIONS: Rows = &[(
    Exact,
    &[
        "MULTI",
        "EXEC",
        "EXEC",
        "DISCARD",
        "WATCH { $any }",
        "UNWATCH",
    ],
)];

pub const SCRIPTS: Rows = &[
    (
        Exact,
        &[
            "EVAL $script 1 $any $value",
            "EVAL $script 1 $any $value",
            "EVAL $script2 2 $any $any",
            "EVAL $script0 0 [ $value ]",
            "EVAL_RO $script 1 $any $value",
            "EVALSHA $sha 1 $any $value",
            "EVALSHA $sha2 2 $any $any",
            "EVALSHA $sha0 0",
            "EVALSHA_RO $sha 1 $any $value",
            "EVAL $script $garbage $any",
            "SCRIPT LOAD $script",
            "SCRIPT LOAD $script2",
            "SCRIPT EXISTS { $sha }",
            "SCRIPT FLUSH [ SYNC | ASYNC ]",
            "FUNCTION LOAD [ REPLACE ] $library",
            "FUNCTION LOAD REPLACE $library",
            "FUNCTION DELETE $library-name",
            "FUNCTION FLUSH [ SYNC | ASYNC ]",
            "FCALL $function 1 $any $value",
            "FCALL $function 0 $value",
            "FCALL_RO $function 1 $any",
        ],
    ),
    (Unordered, &["FUNCTION LIST [ WITHCODE ]"]),
];

/// What no server knows.
pub const MISTAKES: Rows = &[(
    Exact,
    &[
        "NOSUCH $any $value",
        "GETT",
        "$garbage $garbage",
        "$value",
        "( CONFIG | OBJECT | XGROUP | XINFO | CLIENT | COMMAND | SCRIPT | FUNCTION | PUBSUB | ACL | MEMORY | SLOWLOG ) nosuch",
        "OBJECT nosuch $any",
        "( CONFIG | OBJECT | XGROUP | CLIENT | SCRIPT | FUNCTION | PUBSUB )",
    ],
)];
