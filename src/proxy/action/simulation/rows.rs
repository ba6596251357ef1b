//! Histories written out: requests, outcomes, the steps and the bytes to the client.

use super::*;
use crate::partition::NodeIndex;
use crate::plan::pubsub::NAMES_AT_ONCE;

/// One history: requests and what the network does; the steps and the bytes to the client, with `/` for each
/// end of a line.
struct Row {
    about: &'static str,
    requests: &'static [&'static str],
    network: &'static [&'static str],
    steps: &'static [&'static str],
    client: &'static str,
}

/// WATCH, UNWATCH, DISCARD and EXEC.
const TRANSACTIONS: &[Row] = &[
    Row {
        about: "WATCH that a node takes, and EXEC on its connection",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "+OK, +QUEUED, *1/+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "release",
        ],
        client: "+OK/+OK/+QUEUED/*1/+OK/",
    },
    Row {
        about: "WATCH that a node refuses: EXEC is nil",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "-ERR no"],
        steps: &["lease a", "send WATCH a", "drop"],
        client: "-ERR no/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "WATCH of a node that is down: EXEC is nil",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["down"],
        steps: &["lease a"],
        client: "-NODEDOWN node a: no connection: down; nothing was changed, so it can be repeated when the node is back/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "WATCH without a reply: EXEC is nil",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "broken"],
        steps: &["lease a", "send WATCH a", "drop"],
        client: "-NODEDOWN node a: the connection broke: broken; nothing was changed, so it can be repeated when the node is back/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "after EXEC was nil all is as in the beginning",
        requests: &[
            "WATCH a", "MULTI", "SET a 1", "EXEC", "WATCH a", "MULTI", "SET a 1", "EXEC",
        ],
        network: &["down", "ok", "+OK", "+OK, +QUEUED, *1/+OK"],
        steps: &[
            "lease a",
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "release",
        ],
        client: "-NODEDOWN node a: no connection: down; nothing was changed, so it can be repeated when the node is back/+OK/+QUEUED/*-1/+OK/+OK/+QUEUED/*1/+OK/",
    },
    Row {
        about: "a second WATCH goes over the same connection",
        requests: &["WATCH a", "WATCH a2"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send WATCH a2"],
        client: "+OK/+OK/",
    },
    Row {
        about: "a second WATCH that breaks takes the first one with it",
        requests: &["WATCH a", "WATCH a2", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "broken"],
        steps: &["lease a", "send WATCH a", "send WATCH a2", "drop"],
        client: "+OK/-NODEDOWN node a: the connection broke: broken; nothing was changed, so it can be repeated when the node is back/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "a second WATCH at another node is refused, and EXEC is nil",
        requests: &["WATCH a", "WATCH b", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/-CROSSNODE a transaction runs on one node, but the key \"a\" lives on node a and the key \"b\" on node b; put all its keys under one hash tag, such as {tag}a and {tag}b/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "UNWATCH gives the connection back",
        requests: &["WATCH a", "UNWATCH"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/+OK/",
    },
    Row {
        about: "UNWATCH that is refused closes the connection",
        requests: &["WATCH a", "UNWATCH"],
        network: &["ok", "+OK", "-ERR no"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "drop"],
        client: "+OK/+OK/",
    },
    Row {
        about: "UNWATCH without a reply closes the connection",
        requests: &["WATCH a", "UNWATCH"],
        network: &["ok", "+OK", "broken"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "drop"],
        client: "+OK/+OK/",
    },
    Row {
        about: "UNWATCH of nothing",
        requests: &["UNWATCH"],
        network: &[],
        steps: &[],
        client: "+OK/",
    },
    Row {
        about: "DISCARD gives the connection back",
        requests: &["WATCH a", "MULTI", "SET a 1", "DISCARD"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/+OK/+QUEUED/+OK/",
    },
    Row {
        about: "EXEC without WATCH",
        requests: &["MULTI", "SET a 1", "EXEC"],
        network: &["+OK, +QUEUED, *1/+OK"],
        steps: &["exec MULTI SET a 1 EXEC"],
        client: "+OK/+QUEUED/*1/+OK/",
    },
    Row {
        about: "EXEC without WATCH whose connection breaks",
        requests: &["MULTI", "SET a 1", "EXEC"],
        network: &["broken"],
        steps: &["exec MULTI SET a 1 EXEC"],
        client: "+OK/+QUEUED/-UNKNOWN node a: the connection broke: broken; the command was sent and may or may not have been applied; check before you repeat it/",
    },
    Row {
        about: "EXEC of nothing",
        requests: &["MULTI", "EXEC"],
        network: &[],
        steps: &[],
        client: "+OK/*0/",
    },
    Row {
        about: "EXEC that is nil because a key was changed",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "+OK, +QUEUED, *-1"],
        steps: &[
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "release",
        ],
        client: "+OK/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "EXEC on a connection that has broken since WATCH",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "broken"],
        steps: &[
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "drop",
        ],
        client: "+OK/+OK/+QUEUED/-UNKNOWN node a: the connection broke: broken; the command was sent and may or may not have been applied; check before you repeat it/",
    },
    Row {
        about: "EXECABORT by the node gives its reason",
        requests: &["WATCH a", "MULTI", "SET a 1", "EXEC"],
        network: &[
            "ok",
            "+OK",
            "+OK, -OOM no memory, -EXECABORT Transaction discarded because of previous errors.",
        ],
        steps: &[
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "release",
        ],
        client: "+OK/+OK/+QUEUED/-EXECABORT Transaction discarded because of: OOM no memory/",
    },
    Row {
        about: "EXECABORT by the proxy unwatches",
        requests: &["WATCH a", "MULTI", "GET", "EXEC"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/+OK/-ERR wrong number of arguments for 'get' command/-EXECABORT Transaction discarded because of previous errors./",
    },
    Row {
        about: "EXEC with an argument ends the transaction",
        requests: &["WATCH a", "MULTI", "EXEC now"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/+OK/-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command/",
    },
];

/// HELLO, alone and while keys are watched.
const HELLO: &[Row] = &[
    Row {
        about: "HELLO 3 that the watched connection accepts; it speaks another protocol then, and is not given back",
        requests: &["WATCH a", "HELLO 3", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "7.0.15", "%0", "+OK, +QUEUED, *1/+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "version",
            "send HELLO 3",
            "exec on lease MULTI SET a 1 EXEC",
            "drop",
        ],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+OK/+QUEUED/*1/+OK/",
    },
    Row {
        about: "HELLO 3 that the watched connection refuses: EXEC is nil",
        requests: &["WATCH a", "HELLO 3", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "7.0.15", "-NOPROTO no"],
        steps: &["lease a", "send WATCH a", "version", "send HELLO 3", "drop"],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+OK/+QUEUED/_/",
    },
    Row {
        about: "HELLO 3 that breaks the watched connection: EXEC is nil",
        requests: &["WATCH a", "HELLO 3", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "7.0.15", "broken"],
        steps: &["lease a", "send WATCH a", "version", "send HELLO 3", "drop"],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+OK/+QUEUED/_/",
    },
    Row {
        about: "HELLO 3 and back again: the connection is given back",
        requests: &["WATCH a", "HELLO 3", "HELLO 2", "UNWATCH"],
        network: &["ok", "+OK", "7.0.15", "%0", "7.0.15", "*0", "+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "version",
            "send HELLO 3",
            "version",
            "send HELLO 2",
            "send UNWATCH",
            "release",
        ],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/*14/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:2/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+OK/",
    },
    Row {
        about: "HELLO of the same protocol does not concern the watched connection",
        requests: &["WATCH a", "HELLO 2"],
        network: &["ok", "+OK", "7.0.15"],
        steps: &["lease a", "send WATCH a", "version"],
        client: "+OK/*14/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:2/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/",
    },
    Row {
        about: "a connection that is taken in RESP3 is given back in RESP3",
        requests: &["HELLO 3", "WATCH a", "UNWATCH"],
        network: &["7.0.15", "ok", "+OK", "+OK"],
        steps: &[
            "version",
            "lease a",
            "send WATCH a",
            "send UNWATCH",
            "release",
        ],
        client: "%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+OK/+OK/",
    },
    Row {
        about: "the second node knows the version",
        requests: &["HELLO 3"],
        network: &["unknown", "-NODEDOWN no", "$23/redis_version:7.2.4//"],
        steps: &[
            "version",
            "ask a INFO server",
            "ask b INFO server",
            "version is 7.2.4",
        ],
        client: "%7/$6/server/$5/redis/$7/version/$5/7.2.4/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/",
    },
    Row {
        about: "no node knows the version",
        requests: &["HELLO 3"],
        network: &["unknown", "-NODEDOWN no", "-NOPERM no"],
        steps: &["version", "ask a INFO server", "ask b INFO server"],
        client: "%7/$6/server/$5/redis/$7/version/$5/0.0.0/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/",
    },
    Row {
        about: "the version is found out while keys are watched",
        requests: &["WATCH a", "HELLO 3"],
        network: &["ok", "+OK", "unknown", "$23/redis_version:7.2.4//", "%0"],
        steps: &[
            "lease a",
            "send WATCH a",
            "version",
            "ask a INFO server",
            "version is 7.2.4",
            "send HELLO 3",
        ],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$5/7.2.4/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/",
    },
    Row {
        about: "HELLO 4 changes nothing",
        requests: &["WATCH a", "HELLO 4", "UNWATCH"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/-NOPROTO unsupported protocol version/+OK/",
    },
];

/// SUBSCRIBE and UNSUBSCRIBE.
const SUBSCRIPTIONS: &[Row] = &[
    Row {
        about: "SUBSCRIBE that the nodes confirm",
        requests: &["SUBSCRIBE a b"],
        network: &["ok"],
        steps: &["subscribe a b"],
        client: "*3/$9/subscribe/$1/a/:1/*3/$9/subscribe/$1/b/:2/",
    },
    Row {
        about: "SUBSCRIBE that fails at one node is rolled back at the others",
        requests: &["SUBSCRIBE a b"],
        network: &["down", "ok"],
        steps: &["subscribe a b", "unsubscribe a b", "drop subscriber"],
        client: "-NODEDOWN the connection broke: broken/",
    },
    Row {
        about: "a rollback that fails changes nothing for the client",
        requests: &["SUBSCRIBE a b"],
        network: &["down", "down"],
        steps: &["subscribe a b", "unsubscribe a b", "drop subscriber"],
        client: "-NODEDOWN the connection broke: broken/",
    },
    Row {
        about: "a rollback leaves the subscriptions from before",
        requests: &["SUBSCRIBE a", "SUBSCRIBE a b"],
        network: &["ok", "down", "ok"],
        steps: &["subscribe a", "subscribe a b", "unsubscribe b"],
        client: "*3/$9/subscribe/$1/a/:1/-NODEDOWN the connection broke: broken/",
    },
    Row {
        about: "a SUBSCRIBE of nothing new that fails has nothing to roll back",
        requests: &["SUBSCRIBE a", "SUBSCRIBE a"],
        network: &["ok", "down"],
        steps: &["subscribe a", "subscribe a"],
        client: "*3/$9/subscribe/$1/a/:1/-NODEDOWN the connection broke: broken/",
    },
    Row {
        about: "UNSUBSCRIBE is confirmed behind the messages before it",
        requests: &["SUBSCRIBE a", "UNSUBSCRIBE"],
        network: &["ok", "ok", "*3/$7/message/$1/a/$1/x"],
        steps: &[
            "subscribe a",
            "unsubscribe a",
            "messages",
            "drop subscriber",
        ],
        client: "*3/$9/subscribe/$1/a/:1/*3/$7/message/$1/a/$1/x/*3/$11/unsubscribe/$1/a/:0/",
    },
    Row {
        about: "UNSUBSCRIBE behind a gap in the messages closes",
        requests: &["SUBSCRIBE a", "UNSUBSCRIBE a"],
        network: &["ok", "ok", "gap"],
        steps: &["subscribe a", "unsubscribe a", "messages", "close"],
        client: "*3/$9/subscribe/$1/a/:1/",
    },
    Row {
        about: "UNSUBSCRIBE that fails leaves the subscription",
        requests: &["SUBSCRIBE a", "UNSUBSCRIBE a", "PING"],
        network: &["ok", "down"],
        steps: &["subscribe a", "unsubscribe a"],
        client: "*3/$9/subscribe/$1/a/:1/-NODEDOWN the connection broke: broken/*2/$4/pong/$0//",
    },
    Row {
        about: "UNSUBSCRIBE of nothing",
        requests: &["UNSUBSCRIBE"],
        network: &[],
        steps: &[],
        client: "*3/$11/unsubscribe/$-1/:0/",
    },
];

/// CLIENT PAUSE and UNPAUSE.
const PAUSES: &[Row] = &[
    Row {
        about: "CLIENT PAUSE begins before the nodes are told",
        requests: &["CLIENT PAUSE 100"],
        network: &["+OK"],
        steps: &["pause Everything", "call CLIENT PAUSE 100"],
        client: "+OK/",
    },
    Row {
        about: "CLIENT PAUSE that one node refuses: the others may have begun",
        requests: &["CLIENT PAUSE 100 WRITE", "WATCH a"],
        network: &["-ERR node b: no", "ok", "+OK"],
        steps: &[
            "pause Writes",
            "call CLIENT PAUSE 100 WRITE",
            "flush",
            "lease a",
            "send WATCH a",
        ],
        client: "-ERR node b: no/+OK/",
    },
    Row {
        about: "CLIENT UNPAUSE ends it",
        requests: &["CLIENT PAUSE 100", "CLIENT UNPAUSE", "WATCH a"],
        network: &["+OK", "+OK", "ok", "+OK"],
        steps: &[
            "pause Everything",
            "call CLIENT PAUSE 100",
            "flush",
            "call CLIENT UNPAUSE",
            "pause ends",
            "lease a",
            "send WATCH a",
        ],
        client: "+OK/+OK/+OK/",
    },
    Row {
        about: "CLIENT UNPAUSE that one node refuses does not end it",
        requests: &[
            "CLIENT PAUSE 100",
            "CLIENT UNPAUSE",
            "UNSUBSCRIBE",
            "WATCH a",
        ],
        network: &["+OK", "-ERR node b: no", "ok", "+OK"],
        steps: &[
            "pause Everything",
            "call CLIENT PAUSE 100",
            "flush",
            "call CLIENT UNPAUSE",
            "flush",
            "lease a",
            "send WATCH a",
        ],
        client: "+OK/-ERR node b: no/*3/$11/unsubscribe/$-1/:0/+OK/",
    },
    Row {
        about: "CLIENT UNBLOCK does not find a command that a pause holds back",
        requests: &["CLIENT PAUSE 100", "BLPOP a 0"],
        network: &["+OK", "*-1"],
        steps: &[
            "pause Everything",
            "call CLIENT PAUSE 100",
            "flush",
            "flush",
            "blocked false",
            "wait BLPOP a 0",
            "blocked false",
        ],
        client: "+OK/*-1/",
    },
];

/// Commands that may wait, and scripts.
const BLOCKING: &[Row] = &[
    Row {
        about: "BLPOP that is answered",
        requests: &["BLPOP a 0"],
        network: &["*2/$1/a/$1/x"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "*2/$1/a/$1/x/",
    },
    Row {
        about: "BLPOP of a node that is down",
        requests: &["BLPOP a 0"],
        network: &["-NODEDOWN no"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "-NODEDOWN no/",
    },
    Row {
        about: "CLIENT UNBLOCK",
        requests: &["BLPOP a 0", "ECHO behind"],
        network: &["unblock timeout"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "*-1/$6/behind/",
    },
    Row {
        about: "CLIENT UNBLOCK in RESP3",
        requests: &["HELLO 3", "BLPOP a 0"],
        network: &["7.0.15", "unblock timeout"],
        steps: &[
            "version",
            "flush",
            "blocked true",
            "wait BLPOP a 0",
            "blocked false",
        ],
        client: "%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/_/",
    },
    Row {
        about: "CLIENT UNBLOCK ERROR",
        requests: &["BLPOP a 0"],
        network: &["unblock error"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "-UNBLOCKED client unblocked via CLIENT UNBLOCK/",
    },
    Row {
        about: "CLIENT UNBLOCK of WAIT",
        requests: &["WAIT 1 0"],
        network: &["unblock timeout"],
        steps: &["flush", "blocked true", "wait WAIT 1 0", "blocked false"],
        client: ":0/",
    },
    Row {
        about: "CLIENT KILL of a client that waits",
        requests: &["BLPOP a 0", "ECHO behind"],
        network: &["killed"],
        steps: &[
            "flush",
            "blocked true",
            "wait BLPOP a 0",
            "blocked false",
            "close",
        ],
        client: "",
    },
    Row {
        about: "a script by itself",
        requests: &["EVAL 1 0"],
        network: &[":1"],
        steps: &["call EVAL 1 0"],
        client: ":1/",
    },
    Row {
        about: "CLIENT KILL of others",
        requests: &["CLIENT KILL ID 5"],
        network: &[":1"],
        steps: &["registry"],
        client: ":1/",
    },
];

/// CLIENT REPLY OFF and SKIP: commands run, and their replies are not sent.
const REPLIES_OFF: &[Row] = &[
    Row {
        about: "EXEC behind REPLY OFF",
        requests: &[
            "CLIENT REPLY OFF",
            "WATCH a",
            "MULTI",
            "SET a 1",
            "EXEC",
            "CLIENT REPLY ON",
        ],
        network: &["ok", "+OK", "+OK, +QUEUED, *1/+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "exec on lease MULTI SET a 1 EXEC",
            "release",
        ],
        client: "+OK/",
    },
    Row {
        about: "WATCH of a node that is down behind REPLY OFF",
        requests: &[
            "CLIENT REPLY OFF",
            "WATCH a",
            "CLIENT REPLY ON",
            "MULTI",
            "SET a 1",
            "EXEC",
        ],
        network: &["down"],
        steps: &["lease a"],
        client: "+OK/+OK/+QUEUED/*-1/",
    },
    Row {
        about: "EXEC that fails behind REPLY OFF",
        requests: &[
            "CLIENT REPLY OFF",
            "MULTI",
            "SET a 1",
            "EXEC",
            "CLIENT REPLY ON",
        ],
        network: &["broken"],
        steps: &["exec MULTI SET a 1 EXEC"],
        client: "+OK/",
    },
    Row {
        about: "BLPOP behind REPLY SKIP",
        requests: &[
            "ECHO before",
            "CLIENT REPLY SKIP",
            "BLPOP a 0",
            "ECHO behind",
        ],
        network: &["*-1"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "$6/before/$6/behind/",
    },
    Row {
        about: "CLIENT UNBLOCK behind REPLY SKIP",
        requests: &["CLIENT REPLY SKIP", "BLPOP a 0", "ECHO behind"],
        network: &["unblock error"],
        steps: &["flush", "blocked true", "wait BLPOP a 0", "blocked false"],
        client: "$6/behind/",
    },
    Row {
        about: "HELLO 3 behind REPLY OFF changes the protocol",
        requests: &[
            "CLIENT REPLY OFF",
            "HELLO 3",
            "CLIENT REPLY ON",
            "BLPOP a 0",
        ],
        network: &["7.0.15", "unblock timeout"],
        steps: &[
            "version",
            "flush",
            "blocked true",
            "wait BLPOP a 0",
            "blocked false",
        ],
        client: "+OK/_/",
    },
    Row {
        about: "HELLO 3 that the watched connection refuses behind REPLY SKIP",
        requests: &[
            "WATCH a",
            "CLIENT REPLY SKIP",
            "HELLO 3",
            "MULTI",
            "SET a 1",
            "EXEC",
        ],
        network: &["ok", "+OK", "7.0.15", "-ERR no"],
        steps: &["lease a", "send WATCH a", "version", "send HELLO 3", "drop"],
        client: "+OK/+OK/+QUEUED/_/",
    },
    Row {
        about: "confirmations of subscriptions come behind REPLY OFF",
        requests: &["CLIENT REPLY OFF", "SUBSCRIBE a", "UNSUBSCRIBE a"],
        network: &["ok", "ok", ""],
        steps: &[
            "subscribe a",
            "unsubscribe a",
            "messages",
            "drop subscriber",
        ],
        client: "*3/$9/subscribe/$1/a/:1/*3/$11/unsubscribe/$1/a/:0/",
    },
    Row {
        about: "a SUBSCRIBE that fails behind REPLY OFF is not told",
        requests: &["CLIENT REPLY OFF", "SUBSCRIBE a", "CLIENT REPLY ON"],
        network: &["down", "ok"],
        steps: &["subscribe a", "unsubscribe a", "drop subscriber"],
        client: "+OK/",
    },
    Row {
        about: "CLIENT PAUSE and UNPAUSE behind REPLY OFF",
        requests: &[
            "CLIENT REPLY OFF",
            "CLIENT PAUSE 100",
            "CLIENT UNPAUSE",
            "CLIENT REPLY ON",
        ],
        network: &["+OK", "+OK"],
        steps: &[
            "pause Everything",
            "call CLIENT PAUSE 100",
            "flush",
            "call CLIENT UNPAUSE",
            "pause ends",
        ],
        client: "+OK/",
    },
    Row {
        about: "CLIENT LIST behind REPLY OFF",
        requests: &["CLIENT REPLY OFF", "CLIENT LIST", "CLIENT REPLY ON"],
        network: &["$2/id"],
        steps: &["registry"],
        client: "+OK/",
    },
    Row {
        about: "UNWATCH behind REPLY SKIP",
        requests: &["WATCH a", "CLIENT REPLY SKIP", "UNWATCH", "ECHO behind"],
        network: &["ok", "+OK", "+OK"],
        steps: &["lease a", "send WATCH a", "send UNWATCH", "release"],
        client: "+OK/$6/behind/",
    },
    Row {
        about: "a script behind REPLY OFF",
        requests: &["CLIENT REPLY OFF", "EVAL 1 0"],
        network: &[":1"],
        steps: &["call EVAL 1 0"],
        client: "",
    },
    Row {
        about: "RESET brings replies back with its own",
        requests: &["CLIENT REPLY OFF", "RESET", "ECHO behind"],
        network: &[],
        steps: &["drop subscriber"],
        client: "+RESET/$6/behind/",
    },
    Row {
        about: "RESET behind REPLY SKIP is skipped like any other",
        requests: &["CLIENT REPLY SKIP", "RESET", "ECHO behind"],
        network: &[],
        steps: &["drop subscriber"],
        client: "$6/behind/",
    },
    Row {
        about: "QUIT behind REPLY OFF",
        requests: &["CLIENT REPLY OFF", "QUIT"],
        network: &[],
        steps: &["close"],
        client: "",
    },
];

/// RESET and QUIT with a connection of WATCH and with subscriptions.
const ENDS: &[Row] = &[
    Row {
        about: "RESET gives the connection back and ends the subscriptions",
        requests: &["WATCH a", "SUBSCRIBE a", "RESET"],
        network: &["ok", "+OK", "ok", "+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "subscribe a",
            "send UNWATCH",
            "release",
            "drop subscriber",
        ],
        client: "+OK/*3/$9/subscribe/$1/a/:1/+RESET/",
    },
    Row {
        about: "RESET whose UNWATCH has no reply closes the connection",
        requests: &["WATCH a", "RESET", "MULTI", "SET a 1", "EXEC"],
        network: &["ok", "+OK", "broken", "+OK, +QUEUED, *1/+OK"],
        steps: &[
            "lease a",
            "send WATCH a",
            "send UNWATCH",
            "drop",
            "drop subscriber",
            "exec MULTI SET a 1 EXEC",
        ],
        client: "+OK/+RESET/+OK/+QUEUED/*1/+OK/",
    },
    Row {
        about: "RESET in another protocol closes the connection, and is answered in RESP2",
        requests: &["WATCH a", "HELLO 3", "RESET", "BLPOP a 0"],
        network: &["ok", "+OK", "7.0.15", "%0", "+OK", "unblock timeout"],
        steps: &[
            "lease a",
            "send WATCH a",
            "version",
            "send HELLO 3",
            "send UNWATCH",
            "drop",
            "drop subscriber",
            "flush",
            "blocked true",
            "wait BLPOP a 0",
            "blocked false",
        ],
        client: "+OK/%7/$6/server/$5/redis/$7/version/$6/7.0.15/$5/proto/:3/$2/id/:0/$4/mode/$10/standalone/$4/role/$6/master/$7/modules/*0/+RESET/*-1/",
    },
    Row {
        about: "RESET inside MULTI forgets the commands",
        requests: &["MULTI", "SET a 1", "RESET", "EXEC"],
        network: &[],
        steps: &["drop subscriber"],
        client: "+OK/+QUEUED/+RESET/-ERR EXEC without MULTI/",
    },
    Row {
        about: "QUIT with all of it only closes",
        requests: &["WATCH a", "SUBSCRIBE a", "QUIT", "ECHO behind"],
        network: &["ok", "+OK", "ok"],
        steps: &["lease a", "send WATCH a", "subscribe a", "close"],
        client: "+OK/*3/$9/subscribe/$1/a/:1/+OK/",
    },
    Row {
        about: "QUIT inside MULTI",
        requests: &["MULTI", "SET a 1", "QUIT"],
        network: &[],
        steps: &["close"],
        client: "+OK/+QUEUED/+OK/",
    },
];

fn check(rows: &[Row]) {
    let mut failed = Vec::new();
    for row in rows {
        let network = row.network.iter().map(|&said| said.to_owned());
        let mut simulation = Simulation::new(Script(network.collect()));
        let _ = simulation.run(row.requests);
        let client = String::from_utf8_lossy(&simulation.out).replace("\r\n", "/");
        // Every outcome of the row must have been used.
        let left = &simulation.network.0;
        if simulation.steps != row.steps || client != row.client || !left.is_empty() {
            failed.push(format!(
                "{}\n  steps: {:?}\n  client: {client:?}\n  left: {left:?}",
                row.about, simulation.steps
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn watch_and_exec_run_on_one_connection_or_not_at_all() {
    check(TRANSACTIONS);
}

#[test]
fn hello_keeps_or_loses_the_watched_connection() {
    check(HELLO);
}

#[test]
fn a_subscription_is_confirmed_by_all_nodes_or_rolled_back() {
    check(SUBSCRIPTIONS);
}

#[test]
fn client_pause_begins_before_the_nodes_get_it_and_ends_when_all_have_replied_ok() {
    check(PAUSES);
}

#[test]
fn a_blocking_command_ends_by_its_reply_by_client_unblock_or_with_its_client() {
    check(BLOCKING);
}

#[test]
fn a_reply_that_client_reply_has_switched_off_is_not_written() {
    check(REPLIES_OFF);
}

#[test]
fn reset_and_quit_end_watch_and_subscriptions() {
    check(ENDS);
}

#[test]
fn subscribe_to_many_channels_yields_between_pieces() {
    for (count, pieces) in [
        (NAMES_AT_ONCE - 1, 0),
        (NAMES_AT_ONCE, 1),
        (NAMES_AT_ONCE * 2 + 1, 2),
    ] {
        let names: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
        let mut simulation = Simulation::new(Script(VecDeque::from(["ok".to_owned()])));
        let request = format!("SUBSCRIBE {}", names.join(" "));
        assert!(simulation.run(&[&request]).is_continue());
        let turns = simulation.steps[1..].chunks(2);
        assert!(turns.clone().all(|turn| turn == ["flush", "yield"]));
        assert_eq!(turns.len(), pieces, "{count}");
        let out = String::from_utf8_lossy(&simulation.out).into_owned();
        assert_eq!(out.matches("subscribe").count(), count);
        assert!(out.ends_with(&format!(":{count}\r\n")), "{count}");
    }
}

#[test]
fn hello_asks_no_node_that_is_out_for_the_version() {
    let all = router();
    let out = [NodeIndex::new(0)].into_iter().collect();
    let topology = all.topology().without(&out).unwrap();
    let table = Cow::Borrowed(CommandTable::built_in());
    let router = Router::new(Arc::new(topology), table, SplitWrites::Allowed);
    let network = ["unknown", "-NODEDOWN no"].map(str::to_owned);
    let mut simulation = Simulation::over(router, Script(VecDeque::from(network)));
    assert!(simulation.run(&["HELLO 3"]).is_continue());
    // It is the last one, and does not reply.
    assert_eq!(simulation.steps, ["version", "ask b INFO server"]);
}
