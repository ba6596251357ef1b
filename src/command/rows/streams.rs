//! Streams.

use super::*;

const STREAMS: &[KeySpec] = &[KeySpec::Streams];
const BLOCK: ArgAt = ArgAt::AfterWord("BLOCK");

pub(super) static ROWS: &[CommandSpec] = &[
    write("XACK", -4, KEY),
    write("XACKDEL", -6, KEY),
    write("XADD", -5, KEY),
    write("XAUTOCLAIM", -6, KEY),
    write("XCFGSET", -2, KEY),
    write("XCLAIM", -6, KEY),
    write("XDEL", -3, KEY),
    write("XDELEX", -5, KEY),
    write("XGROUP|CREATE", -5, KEY_AT_2),
    write("XGROUP|CREATECONSUMER", 5, KEY_AT_2),
    write("XGROUP|DELCONSUMER", 5, KEY_AT_2),
    write("XGROUP|DESTROY", 4, KEY_AT_2),
    any("XGROUP|HELP", 2),
    write("XGROUP|SETID", -5, KEY_AT_2),
    read("XINFO|CONSUMERS", 4, KEY_AT_2).primary_only(),
    read("XINFO|GROUPS", 3, KEY_AT_2),
    any("XINFO|HELP", 2),
    read("XINFO|STREAM", -3, KEY_AT_2).primary_only(),
    read("XLEN", 2, KEY).missing(ZERO),
    write("XNACK", -2, KEY),
    read("XPENDING", -3, KEY),
    read("XRANGE", -4, KEY).missing(NO_ITEMS),
    read("XREAD", -4, STREAMS)
        .waits_millis(BLOCK)
        .missing(MissReply::NilArray),
    write("XREADGROUP", -7, STREAMS).waits_millis(BLOCK),
    read("XREVRANGE", -4, KEY).missing(NO_ITEMS),
    write("XSETID", -3, KEY),
    write("XTRIM", -4, KEY),
];
