//! CLIENT, PUBSUB and other commands about connections, with odd and repeated arguments: a proxy says what one server says.
#![cfg(feature = "tokio-comp")]

mod support;

use std::time::{Duration, Instant};

use support::local_proxy::{LocalProxy, RawClient};
use support::{Servers, builder};

/// One server, and a proxy over four others.
struct Pair {
    servers: Servers,
    single: Servers,
    door: LocalProxy,
}

impl Pair {
    fn start() -> Option<Self> {
        let (servers, single) = (Servers::start(4)?, Servers::start(1)?);
        let door = LocalProxy::open(builder(&servers));
        Some(Self {
            servers,
            single,
            door,
        })
    }

    /// The addresses of the one server and of the proxy.
    fn addresses(&self) -> [String; 2] {
        [self.single.addr(0), self.door.address()]
    }
}

fn connect(address: &str, protocol: &str) -> RawClient {
    let mut talker = RawClient::connect(address);
    talker.ask(&format!("HELLO {protocol}"));
    talker
}

/// Words are divided by blanks; `_` stands for a blank, and `__` for nothing.
fn ask(talker: &mut RawClient, request: &str) -> String {
    let words: Vec<String> = request
        .split(' ')
        .map(|word| match word {
            "__" => String::new(),
            word => word.replace('_', " "),
        })
        .collect();
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    talker.say_words(&words);
    talker.hear()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Not here: subcommands that servers have from Redis 7.2 or Valkey 8 on (SETINFO, NO-TOUCH, CAPA, IMPORT-SOURCE), which a
/// proxy knows whatever its nodes are.
const REQUESTS: &[&str] = &[
    "CLIENT",
    "CLIENT NOSUCH",
    "CLIENT ID x",
    "CLIENT GETNAME",
    "CLIENT GETNAME x",
    "CLIENT SETNAME",
    "CLIENT SETNAME a",
    "CLIENT GETNAME",
    "CLIENT SETNAME a b",
    "CLIENT SETNAME a_b",
    "CLIENT GETNAME",
    "CLIENT SETNAME __",
    "CLIENT GETNAME",
    "CLIENT INFO x",
    "CLIENT LIST x",
    "CLIENT LIST TYPE",
    "CLIENT LIST TYPE x",
    "CLIENT LIST TYPE normal x",
    "CLIENT LIST TYPE replica",
    "CLIENT LIST TYPE MASTER",
    "CLIENT LIST TYPE slave",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE pubsub TYPE normal",
    "CLIENT LIST ID",
    "CLIENT LIST ID x",
    "CLIENT LIST ID 0",
    "CLIENT LIST ID -1",
    "CLIENT LIST ID 999999",
    "CLIENT LIST ID 999999 x",
    "CLIENT LIST ID 999999 999998",
    "CLIENT LIST ID 1 TYPE normal",
    "CLIENT LIST TYPE normal ID 999999",
    "CLIENT LIST id 18446744073709551616",
    "CLIENT LIST ID 01",
    "CLIENT KILL",
    "CLIENT KILL x",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT KILL ID",
    "CLIENT KILL ID x",
    "CLIENT KILL ID 0",
    "CLIENT KILL ID -5",
    "CLIENT KILL ID 999999",
    "CLIENT KILL ID 999999 ID",
    "CLIENT KILL ID 999999 ID 999998",
    "CLIENT KILL TYPE x",
    "CLIENT KILL TYPE master",
    "CLIENT KILL TYPE replica TYPE master",
    "CLIENT KILL TYPE slave",
    "CLIENT KILL TYPE pubsub",
    "CLIENT KILL USER nobody",
    "CLIENT KILL USER default ID 999999",
    "CLIENT KILL ADDR 1.2.3.4:5",
    "CLIENT KILL LADDR 1.2.3.4:5",
    "CLIENT KILL ADDR 1.2.3.4:5 LADDR 1.2.3.4:5",
    "CLIENT KILL SKIPME x",
    "CLIENT KILL SKIPME yes ID 999999",
    "CLIENT KILL SKIPME YES SKIPME no ID 999999",
    "CLIENT KILL SKIPME yes ADDR x ADDR y",
    "CLIENT KILL foo bar",
    "CLIENT KILL ID 999999 foo bar",
    "CLIENT KILL MAXAGE 10",
    "CLIENT UNBLOCK",
    "CLIENT UNBLOCK x",
    "CLIENT UNBLOCK 0",
    "CLIENT UNBLOCK -1",
    "CLIENT UNBLOCK 999999",
    "CLIENT UNBLOCK 999999 TIMEOUT",
    "CLIENT UNBLOCK 999999 error",
    "CLIENT UNBLOCK 999999 x",
    "CLIENT UNBLOCK x x",
    "CLIENT UNBLOCK 999999 TIMEOUT x",
    "CLIENT REPLY",
    "CLIENT REPLY x",
    "CLIENT REPLY ON",
    "CLIENT REPLY ON x",
    "CLIENT NO-EVICT",
    "CLIENT NO-EVICT x",
    "CLIENT NO-EVICT on",
    "CLIENT NO-EVICT OFF",
    "CLIENT NO-EVICT on x",
    "CLIENT PAUSE",
    "CLIENT PAUSE x",
    "CLIENT PAUSE -1",
    "CLIENT PAUSE 0",
    "CLIENT PAUSE 0 x",
    "CLIENT PAUSE 0 WRITE",
    "CLIENT PAUSE 0 all x",
    "CLIENT PAUSE 99999999999999999999",
    "CLIENT UNPAUSE",
    "CLIENT UNPAUSE x",
    "CLIENT TRACKING",
    "CLIENT TRACKING x",
    "CLIENT TRACKING off",
    "CLIENT TRACKING off BCAST",
    "CLIENT TRACKING off x",
    "CLIENT TRACKING off REDIRECT",
    "CLIENT TRACKING off REDIRECT x",
    "CLIENT TRACKING off REDIRECT 999999",
    "CLIENT TRACKING off PREFIX",
    "CLIENT TRACKING off PREFIX a",
    "CLIENT TRACKING off OPTIN OPTOUT",
    "CLIENT TRACKING off OPTIN",
    "CLIENT TRACKING off NOLOOP",
    "CLIENT TRACKING off bcast prefix a prefix b",
    "CLIENT TRACKING x BCAST",
    "CLIENT TRACKING x y",
    "CLIENT TRACKING on PREFIX a",
    "CLIENT TRACKING on OPTIN OPTOUT",
    "CLIENT TRACKING on OPTIN BCAST",
    "CLIENT TRACKING on REDIRECT 999999",
    "CLIENT TRACKING on x",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKINGINFO x",
    "CLIENT GETREDIR",
    "CLIENT GETREDIR x",
    "CLIENT CACHING",
    "CLIENT CACHING yes",
    "CLIENT CACHING no",
    "CLIENT CACHING x",
    "CLIENT CACHING yes x",
    "CLIENT HELP",
    "CLIENT HELP x",
    "client setname b",
    "client getname",
    "PUBSUB",
    "PUBSUB NOSUCH",
    "PUBSUB CHANNELS",
    "PUBSUB CHANNELS x",
    "PUBSUB CHANNELS x y",
    "PUBSUB NUMSUB",
    "PUBSUB NUMSUB a",
    "PUBSUB NUMSUB a b",
    "PUBSUB NUMSUB a a",
    "PUBSUB NUMSUB a b a",
    "PUBSUB NUMPAT",
    "PUBSUB NUMPAT x",
    "PUBSUB SHARDCHANNELS",
    "PUBSUB SHARDCHANNELS x",
    "PUBSUB SHARDCHANNELS x y",
    "PUBSUB SHARDNUMSUB",
    "PUBSUB SHARDNUMSUB a",
    "PUBSUB SHARDNUMSUB a a",
    "PUBSUB SHARDNUMSUB a b a",
    "PUBSUB HELP",
    "PUBSUB HELP x",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "PUBLISH",
    "PUBLISH a",
    "PUBLISH a b c",
    "PUBLISH a b",
    "SPUBLISH a",
    "SPUBLISH a b",
    "MODULE",
    "MODULE LIST",
    "MODULE LIST x",
    "MODULE NOSUCH",
    "MODULE HELP",
    "HELLO x",
    "HELLO 1",
    "HELLO 3 SETNAME",
    "HELLO 3 SETNAME a_b",
    "HELLO 3 AUTH",
    "HELLO 3 AUTH x",
    "HELLO 3 AUTH default",
    "HELLO 3 x",
    "HELLO 3 SETNAME a SETNAME",
    "HELLO 3 SETNAME a AUTH default",
    "RESET x",
    "AUTH",
    "AUTH x",
    "AUTH a b",
    "AUTH default b",
    "AUTH a b c",
    "SELECT",
    "SELECT x",
    "SELECT 0",
    "SELECT 16",
    "SELECT -1",
    "SELECT 0 1",
    "PING a b",
    "ECHO",
    "ECHO a b",
];

#[test]
fn client_pubsub_and_hello_with_odd_arguments_behave_as_on_one_server() {
    let Some(pair) = Pair::start() else {
        return;
    };
    for protocol in ["2", "3"] {
        let [mut server, mut front] = pair.addresses().map(|address| connect(&address, protocol));
        for request in REQUESTS {
            let expected = ask(&mut server, request);
            assert_eq!(
                ask(&mut front, request),
                expected,
                "RESP{protocol}: {request}"
            );
        }
    }
}

/// A line of CLIENT LIST without what is of one connection only.
fn summary(reply: &str) -> String {
    let fields = [
        "name", "flags", "db", "sub", "psub", "ssub", "multi", "cmd", "user", "resp",
    ];
    let line = |line: &str| {
        let field = |word: &&str| {
            word.split_once('=')
                .is_some_and(|(name, _)| fields.contains(&name))
        };
        let words: Vec<&str> = line.split(' ').filter(field).collect();
        match words.is_empty() {
            true => line.to_owned(),
            false => words.join(" "),
        }
    };
    reply.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn client_list_and_client_kill_select_the_same_clients_as_one_server() {
    let Some(pair) = Pair::start() else {
        return;
    };
    let setups: [&[(usize, &str)]; 4] = [
        &[],
        &[(1, "SUBSCRIBE x")],
        &[(1, "PSUBSCRIBE x*"), (1, "SUBSCRIBE y")],
        &[(2, "MULTI")],
    ];
    let requests = [
        "CLIENT LIST ID $1 $0 $1",
        "CLIENT LIST ID $0 999999 $2",
        "CLIENT LIST ID -1 $0",
        "CLIENT LIST TYPE NORMAL",
        "CLIENT LIST TYPE pubsub",
        "CLIENT INFO",
        "CLIENT KILL ID $1 ID $2",
        "CLIENT KILL ID $0",
        "CLIENT KILL ID $0 SKIPME no",
        "CLIENT KILL TYPE normal ID $1",
        "CLIENT KILL ID $1 TYPE pubsub",
        "CLIENT KILL ID $1 TYPE pubsub TYPE normal",
        "CLIENT KILL ID $1 SKIPME yes SKIPME no",
        "CLIENT KILL USER default ID $2",
        "CLIENT KILL SKIPME no ID $0 ID $1",
        "CLIENT KILL TYPE pubsub",
        "CLIENT UNBLOCK $1",
        "CLIENT UNBLOCK $0 ERROR",
    ];
    for protocol in ["2", "3"] {
        for setup in setups {
            for request in requests {
                let [server, front] = pair
                    .addresses()
                    .map(|address| outcome(&address, protocol, setup, request));
                assert_eq!(front, server, "RESP{protocol}, {setup:?}: {request}");
            }
        }
    }
}

/// What three clients hear of a request of the first, whose numbers stand for `$0`, `$1`, `$2`.
fn outcome(address: &str, protocol: &str, setup: &[(usize, &str)], request: &str) -> Vec<String> {
    let mut talkers: Vec<RawClient> = (0..3).map(|_| connect(address, protocol)).collect();
    let mut request = request.to_owned();
    for (number, talker) in talkers.iter_mut().enumerate() {
        talker.ask(&format!("CLIENT SETNAME {number}"));
        let id = talker.ask("CLIENT ID")[1..].to_owned();
        request = request.replace(&format!("${number}"), &id);
    }
    for (number, said) in setup {
        talkers[*number].ask(said);
    }
    let mut outcome = vec![summary(&talkers[0].ask(&request))];
    for talker in &mut talkers {
        talker.say("PING");
        outcome.push(talker.try_hear().unwrap_or_else(|_| "closed".into()));
    }
    // The next ones must not find these.
    for talker in talkers {
        talker.hang_up();
    }
    let mut other = connect(address, protocol);
    until("the clients are gone", || {
        let list = other.ask("CLIENT LIST");
        list.lines().filter(|line| line.contains(" name=")).count() == 1
    });
    other.hang_up();
    outcome
}

#[test]
fn client_unblock_ends_every_blocking_command_as_on_one_server() {
    let Some(pair) = Pair::start() else {
        return;
    };
    for protocol in ["2", "3"] {
        for request in [
            "BLPOP a 0",
            "BRPOP a 0",
            "BLMOVE {a} {a}b LEFT RIGHT 0",
            "BRPOPLPUSH {a} {a}b 0",
            "BLMPOP 0 1 a LEFT",
            "BZPOPMIN a 0",
            "BZPOPMAX a 0",
            "BZMPOP 0 1 a MIN",
            "XREAD BLOCK 0 STREAMS a $",
            "XREADGROUP GROUP g c BLOCK 0 STREAMS stream >",
            "WAIT 1 0",
        ] {
            for how in ["", " TIMEOUT", " ERROR"] {
                let [server, front] = pair.addresses().map(|address| {
                    let mut other = connect(&address, protocol);
                    other.ask("XGROUP CREATE stream g $ MKSTREAM");
                    let mut waiter = connect(&address, protocol);
                    let id = waiter.ask("CLIENT ID")[1..].to_owned();
                    waiter.say(request);
                    until("it can be unblocked", || {
                        other.ask(&format!("CLIENT UNBLOCK {id}{how}")) == ":1"
                    });
                    let reply = waiter.hear();
                    assert_eq!(waiter.ask("PING"), "+PONG");
                    reply
                });
                assert_eq!(front, server, "RESP{protocol}: {request}, UNBLOCK{how}");
            }
        }
        // What ends by itself.
        for request in [
            "BLMOVE {a} {a}b LEFT RIGHT 0.01",
            "BRPOPLPUSH {a} {a}b 0.01",
        ] {
            let [server, front] = pair
                .addresses()
                .map(|address| connect(&address, protocol).ask(request));
            assert_eq!(front, server, "{request}");
        }
    }
}

#[test]
fn pubsub_numsub_counts_repeated_channels_as_one_server_does() {
    let Some(pair) = Pair::start() else {
        return;
    };
    for protocol in ["2", "3"] {
        let mut talkers = pair.addresses().map(|address| {
            let mut talkers = [0; 3].map(|_| connect(&address, protocol));
            for (talker, channel) in talkers.iter_mut().zip(["one", "two", "one"]) {
                talker.ask(&format!("SUBSCRIBE {channel}"));
                talker.ask("PSUBSCRIBE o*");
                talker.ask(&format!("SSUBSCRIBE {channel}"));
            }
            talkers
        });
        for request in [
            "PUBSUB NUMSUB one two one",
            "PUBSUB NUMSUB one one one",
            "PUBSUB NUMSUB three one three",
            "PUBSUB SHARDNUMSUB two two one",
            "PUBSUB NUMPAT",
            "PUBSUB CHANNELS o*",
            "PUBSUB CHANNELS nothing",
            "PUBSUB SHARDCHANNELS t*",
        ] {
            let [server, front] = pair
                .addresses()
                .map(|address| connect(&address, protocol).ask(request));
            assert_eq!(front, server, "RESP{protocol}: {request}");
        }
        for talker in talkers.iter_mut().flatten() {
            talker.ask("RESET");
        }
        until("nobody listens", || {
            connect(&pair.door.address(), "2").ask("PUBSUB CHANNELS") == "*0"
        });
    }
}

#[test]
fn config_set_of_passwords_and_ports_does_not_lock_the_proxy_out() {
    let Some(pair) = Pair::start() else {
        return;
    };
    for protocol in ["2", "3"] {
        let mut talker = connect(&pair.door.address(), protocol);
        for request in [
            "CONFIG SET requirepass hidden",
            "config set REQUIREPASS hidden",
            "CONFIG SET maxmemory 0 requirepass hidden",
            "CONFIG SET requirepass hidden maxmemory 0",
            "CONFIG SET bind hidden",
            "CONFIG SET port 0",
            "CONFIG SET tls-port 7",
            "ACL SETUSER default >hidden",
        ] {
            let reply = talker.ask(request);
            assert!(reply.starts_with("-UNROUTABLE "), "{request}: {reply}");
            assert!(reply.contains("on one server at a time"), "{reply}");
            assert!(!reply.contains("hidden"), "{reply}");
        }
        assert_eq!(
            talker.ask("CONFIG SET maxmemory 0 maxmemory-policy noeviction"),
            "+OK"
        );
        assert_eq!(talker.ask("ACL SETUSER other on >x ~* +@all"), "+OK");
        assert_eq!(
            talker.ask("CONFIG GET requirepass").split(' ').next_back(),
            Some("")
        );
    }
    // New connections are still let in, on every node.
    for index in 0..pair.servers.len() {
        pair.servers.connection(index);
    }
}
