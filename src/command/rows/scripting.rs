//! Scripts and functions.

use super::*;

const BY_KEYS: &str =
    "by the keys it declares; without any, by those that its text shows, if it shows all";
const REMEMBERED: &str =
    "remembered, and brought to a node that lacks it when it is next run there";

pub(super) static ROWS: &[CommandSpec] = &[
    write("EVAL", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    write("EVALSHA", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    read("EVALSHA_RO", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    read("EVAL_RO", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    write("FCALL", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    read("FCALL_RO", -3, SCRIPT_KEYS)
        .about_scripts()
        .because(BY_KEYS),
    tell_all("FUNCTION|DELETE", 3, Merge::AllSucceeded).about_scripts(),
    any("FUNCTION|DUMP", 2).because("libraries are loaded on every node alike"),
    tell_all("FUNCTION|FLUSH", -2, Merge::AllSucceeded).about_scripts(),
    any("FUNCTION|HELP", 2),
    tell_all("FUNCTION|KILL", 2, Merge::OneSucceeded)
        .allow_partial()
        .out_of_band(),
    any("FUNCTION|LIST", -2).because("libraries are loaded on every node alike"),
    tell_all("FUNCTION|LOAD", -3, Merge::AllSucceeded)
        .about_scripts()
        .because(REMEMBERED),
    tell_all("FUNCTION|RESTORE", -3, Merge::AllSucceeded)
        .about_scripts()
        .because(REMEMBERED),
    ask_all("FUNCTION|STATS", 2, Merge::RunningScript)
        .allow_partial()
        .out_of_band(),
    stateful("SCRIPT|DEBUG", -3, NONE).because("debugs the scripts of one connection"),
    ask_all("SCRIPT|EXISTS", -3, Merge::LogicalAnd)
        .allow_partial()
        .about_scripts()
        .because("true as well of what is remembered"),
    tell_all("SCRIPT|FLUSH", -2, Merge::AllSucceeded).about_scripts(),
    any("SCRIPT|HELP", 2),
    tell_all("SCRIPT|KILL", 2, Merge::OneSucceeded)
        .allow_partial()
        .out_of_band(),
    tell_all("SCRIPT|LOAD", 3, Merge::AllSucceeded)
        .about_scripts()
        .because(REMEMBERED),
    ask_all("SCRIPT|SHOW", 3, Merge::OneSucceeded)
        .allow_partial()
        .because("EVAL caches a script on its own node only"),
];
