//! DEBUG: what tests and people who look for faults ask.

use super::*;

const ONE_DATABASE: &str = "as if all keys lay on one server, in database 0 alone";
const WRONG_NODE: &str = "subcommands without a row end a server, make keys where they do not belong, or are about one node";

pub(super) static ROWS: &[CommandSpec] = &[
    named("DEBUG", -2).because(WRONG_NODE),
    tell_all("DEBUG|AOF-FLUSH-SLEEP", 3, Merge::AllSucceeded),
    tell_all("DEBUG|CHANGE-REPL-ID", 2, Merge::AllSucceeded),
    tell_all("DEBUG|CLIENT-ENFORCE-REPLY-LIST", 3, Merge::AllSucceeded),
    ask_all("DEBUG|CLIENT-EVICTION", 2, Merge::Texts).allow_partial(),
    tell_all("DEBUG|CONFIG-REWRITE-FORCE-ALL", 2, Merge::AllSucceeded),
    tell_all("DEBUG|DELAY-RDB-CLIENT-FREE-SECOND", 3, Merge::AllSucceeded),
    tell_all("DEBUG|DICT-RESIZING", 3, Merge::AllSucceeded),
    ask_all("DEBUG|DIGEST", 2, Merge::Digest).because(ONE_DATABASE),
    read("DEBUG|DIGEST-VALUE", -3, KEYS_FROM_2)
        .primary_only()
        .split(1, 0, Merge::KeyOrder),
    any("DEBUG|ERROR", 3),
    any("DEBUG|HELP", 2),
    ask_all("DEBUG|HTSTATS", -3, Merge::Texts).allow_partial(),
    read("DEBUG|HTSTATS-KEY", -3, KEY_AT_2).primary_only(),
    tell_all("DEBUG|JMAP", 2, Merge::AllSucceeded),
    tell_all("DEBUG|LEAK", 3, Merge::AllSucceeded),
    read("DEBUG|LISTPACK", 3, KEY_AT_2).primary_only(),
    tell_all("DEBUG|LOADAOF", 2, Merge::AllSucceeded),
    tell_all("DEBUG|LOG", 3, Merge::AllSucceeded),
    read("DEBUG|OBJECT", -3, KEY_AT_2).primary_only(),
    tell_all("DEBUG|PAUSE-AFTER-FORK", 3, Merge::AllSucceeded),
    tell_all("DEBUG|PAUSE-CRON", 3, Merge::AllSucceeded),
    any("DEBUG|PROTOCOL", 3),
    read("DEBUG|QUICKLIST", -3, KEY_AT_2).primary_only(),
    tell_all("DEBUG|QUICKLIST-PACKED-THRESHOLD", 3, Merge::AllSucceeded),
    tell_all("DEBUG|RELOAD", -2, Merge::AllSucceeded),
    tell_all("DEBUG|REPLYBUFFER", 4, Merge::AllSucceeded),
    read("DEBUG|SDSLEN", 3, KEY_AT_2).primary_only(),
    tell_all("DEBUG|SET-ACTIVE-EXPIRE", 3, Merge::AllSucceeded),
    tell_all("DEBUG|SET-ALLOW-ACCESS-EXPIRED", 3, Merge::AllSucceeded),
    tell_all("DEBUG|SET-DISABLE-DENY-SCRIPTS", 3, Merge::AllSucceeded),
    tell_all("DEBUG|SET-SKIP-CHECKSUM-VALIDATION", 3, Merge::AllSucceeded),
    tell_all("DEBUG|SLEEP", 3, Merge::AllSucceeded).waits_seconds(ArgAt::Index(2)),
    any("DEBUG|STRINGMATCH-LEN", 4),
    any("DEBUG|STRINGMATCH-TEST", 2),
    any("DEBUG|STRUCTSIZE", 2),
    read("DEBUG|ZIPLIST", 3, KEY_AT_2).primary_only(),
];
