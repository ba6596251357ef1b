//! Commands for keys of any type.

use super::*;

const MIGRATE: &[KeySpec] = &[KeySpec::Migrate];
const SORT: &[KeySpec] = &[range(1, 1, 1), KeySpec::Sort { store: true }];
const SORT_RO: &[KeySpec] = &[range(1, 1, 1), KeySpec::Sort { store: false }];

pub(super) static ROWS: &[CommandSpec] = &[
    write("COPY", -3, TWO_KEYS),
    write("DEL", -2, ALL_KEYS).split(1, 0, Merge::Sum),
    read("DUMP", 2, KEY).missing(NIL),
    read("EXISTS", -2, ALL_KEYS)
        .split(1, 0, Merge::Sum)
        .missing(ZERO),
    write("EXPIRE", -3, KEY),
    write("EXPIREAT", -3, KEY),
    read("EXPIRETIME", 2, KEY).missing(NO_TTL),
    ask_all("KEYS", 2, Merge::Concat).allow_partial_on_request(),
    row("MIGRATE", -6, MIGRATE, Route::NodeOnly, Access::Write)
        .because("the target is an address: keys leave the node that owns them"),
    write("MOVE", 3, KEY),
    read("OBJECT|ENCODING", 3, KEY_AT_2).primary_only(),
    read("OBJECT|FREQ", 3, KEY_AT_2).primary_only(),
    any("OBJECT|HELP", 2),
    read("OBJECT|IDLETIME", 3, KEY_AT_2).primary_only(),
    read("OBJECT|REFCOUNT", 3, KEY_AT_2).primary_only(),
    write("PERSIST", 2, KEY),
    write("PEXPIRE", -3, KEY),
    write("PEXPIREAT", -3, KEY),
    read("PEXPIRETIME", 2, KEY).missing(NO_TTL),
    read("PTTL", 2, KEY).missing(NO_TTL),
    ask_all("RANDOMKEY", 1, Merge::AnyNonNil)
        .allow_partial_on_request()
        .because("every node that has keys is as likely as the others"),
    write("RENAME", 3, TWO_KEYS),
    write("RENAMENX", 3, TWO_KEYS),
    write("RESTORE", -4, KEY),
    write("RESTORE-ASKING", -4, KEY),
    row("SCAN", -2, NONE, Route::Scan, Access::Read).allow_partial_on_request(),
    write("SORT", -2, SORT)
        .because("the last STORE wins; patterns name keys that only the node knows"),
    read("SORT_RO", -2, SORT_RO).missing(NO_ITEMS),
    read("TOUCH", -2, ALL_KEYS)
        .primary_only()
        .missing(ZERO)
        .split(1, 0, Merge::Sum)
        .because("changes idle times only; may be repeated"),
    read("TTL", 2, KEY).missing(NO_TTL),
    read("TYPE", 2, KEY).missing(MissReply::Status("none")),
    write("UNLINK", -2, ALL_KEYS).split(1, 0, Merge::Sum),
];
