//! Scripts and functions.

use super::*;

const BY_KEYS: &str = "by the keys it declares; without any it needs a node's name";

pub(super) static ROWS: &[CommandSpec] = &[
    write("EVAL", -3, SCRIPT_KEYS).because(BY_KEYS),
    write("EVALSHA", -3, SCRIPT_KEYS).because(BY_KEYS),
    read("EVALSHA_RO", -3, SCRIPT_KEYS).because(BY_KEYS),
    read("EVAL_RO", -3, SCRIPT_KEYS).because(BY_KEYS),
    write("FCALL", -3, SCRIPT_KEYS).because(BY_KEYS),
    read("FCALL_RO", -3, SCRIPT_KEYS).because(BY_KEYS),
    tell_all("FUNCTION|DELETE", 3, Merge::AllSucceeded),
    any("FUNCTION|DUMP", 2).because("libraries are loaded on every node alike"),
    tell_all("FUNCTION|FLUSH", -2, Merge::AllSucceeded),
    any("FUNCTION|HELP", 2),
    tell_all("FUNCTION|KILL", 2, Merge::OneSucceeded),
    any("FUNCTION|LIST", -2).because("libraries are loaded on every node alike"),
    tell_all("FUNCTION|LOAD", -3, Merge::AllSucceeded),
    tell_all("FUNCTION|RESTORE", -3, Merge::AllSucceeded),
    ask_all("FUNCTION|STATS", 2, Merge::RunningScript),
    stateful("SCRIPT|DEBUG", -3, NONE).because("debugs the scripts of one connection"),
    ask_all("SCRIPT|EXISTS", -3, Merge::LogicalAnd),
    tell_all("SCRIPT|FLUSH", -2, Merge::AllSucceeded),
    any("SCRIPT|HELP", 2),
    tell_all("SCRIPT|KILL", 2, Merge::OneSucceeded),
    tell_all("SCRIPT|LOAD", 3, Merge::AllSucceeded),
    ask_all("SCRIPT|SHOW", 3, Merge::OneSucceeded)
        .because("EVAL caches a script on its own node only"),
];
