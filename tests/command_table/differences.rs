//! Where the table differs from a server on purpose, and why.

/// Names, and the reason.
pub type List = &'static [(&'static [&'static str], &'static str)];

/// Arity.
pub const ARITIES: List = &[
    (
        &[
            "CLUSTER|REPLICATE",
            "COMMAND|GETKEYS",
            "COMMAND|GETKEYSANDFLAGS",
            "SCRIPT|DEBUG",
            "ZRANK",
            "ZREVRANK",
        ],
        "differs between the servers: the laxer one is right for all",
    ),
    (
        &[
            "VADD",
            "VCARD",
            "VDIM",
            "VEMB",
            "VGETATTR",
            "VINFO",
            "VISMEMBER",
            "VLINKS",
            "VRANDMEMBER",
            "VREM",
            "VSETATTR",
            "VSIM",
        ],
        "a module says -1 and checks by itself; the key must be there",
    ),
];

/// Read or write.
pub const ACCESSES: List = &[(
    &["PFCOUNT"],
    "readonly to the server, but it may write its cache",
)];

/// Whether it may wait.
pub const BLOCKING: List = &[
    (&["WAIT"], "7.0 does not flag it, but it waits"),
    (
        &["FUNCTION|KILL", "FUNCTION|STATS", "SCRIPT|KILL"],
        "they do not wait, but must not stand behind a script that runs",
    ),
];

/// Routes and merges.
pub const TIPS: List = &[
    (
        &["MSETNX", "MSETEX"],
        "all or nothing: never split, whatever 7.0 and 8.4 say",
    ),
    (
        &["LATENCY|RESET"],
        "7.0 says all_succeeded, but the answer is a number",
    ),
    (
        &[
            "ACL|DELUSER",
            "ACL|LOAD",
            "ACL|SAVE",
            "ACL|SETUSER",
            "BGREWRITEAOF",
            "BGSAVE",
            "CLIENT|PAUSE",
            "CLIENT|UNPAUSE",
            "CONFIG|RESETSTAT",
            "CONFIG|REWRITE",
            "PFSELFTEST",
            "SAVE",
        ],
        "no tip (some only in 7.0): one node's is not enough",
    ),
    (
        &["ACL|LOG", "CLIENT|LIST", "CONFIG|GET", "ROLE"],
        "no tip: every node has a part of the answer",
    ),
    (
        &["LASTSAVE"],
        "no tip: the time since when every node has saved",
    ),
    (
        &["MODULE|LIST"],
        "no tip: alike on all nodes, and what is not alike shows",
    ),
    (
        &[
            "PUBSUB|CHANNELS",
            "PUBSUB|NUMPAT",
            "PUBSUB|NUMSUB",
            "PUBSUB|SHARDCHANNELS",
            "PUBSUB|SHARDNUMSUB",
        ],
        "no tip, because a cluster forwards messages; plain nodes do not",
    ),
    (
        &["SCRIPT|SHOW"],
        "no tip: the script may be on one node only",
    ),
    (
        &["CLIENT|SETINFO", "CLIENT|SETNAME"],
        "about one connection, and a shared handle has many",
    ),
    (
        &["CLUSTER|SLOT-STATS", "CLUSTERSCAN"],
        "of one cluster node: it needs a name",
    ),
];

/// Commands whose keys are ours alone.
pub const KEYS: List = &[(
    &[
        "PUBLISH",
        "SPUBLISH",
        "SSUBSCRIBE",
        "SUBSCRIBE",
        "SUNSUBSCRIBE",
        "UNSUBSCRIBE",
    ],
    "channels are routed like keys",
)];

/// Commands that COMMAND GETKEYS calls invalid although the server takes them.
pub const INVALID: List = &[(&["PFMERGE"], "without sources; fine in earnest")];

/// Commands whose options COMMAND GETKEYS parses differently from the command itself when one of these words is
/// given twice. `sort_georadius_and_others_read_their_options_as_the_command_table_does` shows that the command
/// table follows the command.
pub const TWICE: &[(&str, &[&str])] = &[
    ("GEORADIUS", &["STORE", "STOREDIST"]),
    ("GEORADIUSBYMEMBER", &["STORE", "STOREDIST"]),
    ("SORT", &["STORE"]),
    ("XREAD", &["STREAMS"]),
    ("XREADGROUP", &["STREAMS"]),
];
