//! The proxy and clients that write without reading, read slowly, flood it, or fall silent: none makes it hang, fills
//! its memory, or keeps others waiting.
#![cfg(feature = "tokio-comp")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use redis_sharding::command::write_command;
use redis_sharding::proxy::{OutputLimit, Proxy};

use support::local_proxy::{LocalProxy, RawClient};
use support::{Servers, builder};

/// How long anything may take here that is expected to happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(count: usize, change: impl Fn(Proxy) -> Proxy) -> Option<(Servers, LocalProxy)> {
    let servers = Servers::start(count)?;
    let proxy = change(builder(&servers).build_proxy().unwrap());
    let door = LocalProxy::open_for(proxy);
    Some((servers, door))
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(10));
    }
}

fn request(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut packed = Vec::new();
    write_command(&mut packed, &words);
    packed
}

/// A socket with small buffers on this side, so that little can be on its way.
fn connect(door: &LocalProxy) -> TcpStream {
    let stream = TcpStream::connect(door.address()).unwrap();
    let socket = socket2::SockRef::from(&stream);
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the connection is closed, or as many bytes have come.
fn read_bytes(stream: &mut (impl Read + ?Sized), count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    let mut piece = [0; 64 << 10];
    while bytes.len() < count {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
    bytes
}

/// Requests that somebody writes before reading anything, and their replies.
struct Flood {
    name: &'static str,
    before: Vec<u8>,
    /// How the replies to what goes before end.
    confirmed: &'static str,
    requests: Vec<u8>,
    replies: Vec<u8>,
    /// The bytes of one time of the requests that are repeated, and of the replies to it.
    once: usize,
    replied_once: usize,
}

/// A flood of the same request. The key is padded, so that requests are long as well.
fn flood(name: &'static str, count: usize, request: &[u8], reply: &[u8]) -> Flood {
    Flood {
        name,
        before: Vec::new(),
        confirmed: "",
        requests: request.repeat(count),
        replies: reply.repeat(count),
        once: request.len(),
        replied_once: reply.len(),
    }
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// The keys that the floods are about are written through `stream`.
fn floods(stream: &mut dyn ReadWrite) -> Vec<Flood> {
    let pad = "p".repeat(500);
    let (small, large) = ("v".repeat(2000), "V".repeat(5 << 20));
    let (key, big) = (format!("{{t}}{pad}"), format!("big:{pad}"));
    for set in [["SET", &key, &small], ["SET", &big, &large]] {
        stream.write_all(&request(&set)).unwrap();
        assert_eq!(read_bytes(stream, 5), b"+OK\r\n");
    }
    let get = request(&["GET", &key]);
    let mget = request(&["MGET", &key, &big, "none"]);
    let exec = [
        request(&["MULTI"]),
        get.clone(),
        get.clone(),
        request(&["EXEC"]),
    ]
    .concat();
    let executed = [
        b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n".to_vec(),
        bulk(&small),
        bulk(&small),
    ];
    let script = "return redis.call('GET', KEYS[1])";
    let inline = format!("GET {key}\r\n");
    let set = request(&["SET", "upload", &large]);
    let upload = [set, get.repeat(400)].concat();
    let uploaded = [b"+OK\r\n".to_vec(), bulk(&small).repeat(400)].concat();
    let mut found = vec![
        flood("rounds", 80, &get.repeat(100), &bulk(&small).repeat(100)),
        flood(
            "merged replies",
            4,
            &[mget, get.repeat(1500)].concat(),
            &[
                b"*3\r\n".to_vec(),
                bulk(&small),
                bulk(&large),
                b"$-1\r\n".to_vec(),
                bulk(&small).repeat(1500),
            ]
            .concat(),
        ),
        flood(
            "large replies",
            3,
            &[request(&["GET", &big]), get.repeat(3000)].concat(),
            &[bulk(&large), bulk(&small).repeat(3000)].concat(),
        ),
        flood("uploads", 3, &upload, &uploaded),
        flood(
            "transactions",
            50,
            &exec.repeat(50),
            &executed.concat().repeat(50),
        ),
        flood(
            "scripts",
            60,
            &request(&["EVAL", script, "1", &key]).repeat(50),
            &bulk(&small).repeat(50),
        ),
        flood(
            "inline requests",
            60,
            &inline.as_bytes().repeat(100),
            &bulk(&small).repeat(100),
        ),
        flood(
            "replies of its own",
            40,
            &request(&["ECHO", &small]).repeat(100),
            &bulk(&small).repeat(100),
        ),
    ];
    found.push(Flood {
        name: "a subscriber's requests",
        before: [request(&["HELLO", "3"]), request(&["SUBSCRIBE", "news"])].concat(),
        confirmed: ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
        ..flood("", 60, &get.repeat(100), &bulk(&small).repeat(100))
    });
    found
}

/// A client's end of a connection, encrypted or not.
trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

/// What a client does with a flood.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Writes all before it reads the first reply.
    WriteFirst,
    /// Reads in small pieces with pauses between them.
    Slow,
    /// Writes again and again, and never reads.
    Flooding,
    /// Closes its connection while much is on its way.
    Vanishing,
    /// Stops in the middle of a request.
    Silent,
}

/// Two proxies over the same nodes, and a way to each.
struct Doors<C> {
    /// With the default limits.
    lenient: LocalProxy,
    /// With a limit of 2 MB for requests, and a second for idle clients.
    strict: LocalProxy,
    connect: C,
}

fn strict(proxy: Proxy) -> Proxy {
    proxy
        .with_query_limit(2 << 20)
        .with_idle_timeout(Duration::from_secs(1))
}

impl<C: Fn(&LocalProxy) -> Box<dyn ReadWrite>> Doors<C> {
    fn meet_all(&self) {
        let found = floods(&mut (self.connect)(&self.lenient));
        for flood in &found {
            for behaviour in [
                Behaviour::WriteFirst,
                Behaviour::Slow,
                Behaviour::Flooding,
                Behaviour::Vanishing,
                Behaviour::Silent,
            ] {
                // Who has subscriptions may be silent.
                if matches!(behaviour, Behaviour::Silent) && !flood.before.is_empty() {
                    continue;
                }
                let begun = Instant::now();
                self.meet(flood, behaviour);
                println!("{}, {behaviour:?}: {:?}", flood.name, begun.elapsed());
                for door in [&self.lenient, &self.strict] {
                    let what = format!("{}, {behaviour:?}", flood.name);
                    until(&what, || door.proxy.client_count() == 0);
                    until(&what, || door.proxy.memory_used() == 0);
                }
            }
        }
    }

    fn meet(&self, flood: &Flood, behaviour: Behaviour) {
        let door = match behaviour {
            Behaviour::WriteFirst | Behaviour::Slow => &self.lenient,
            _ => &self.strict,
        };
        let mut stream = (self.connect)(door);
        stream.write_all(&flood.before).unwrap();
        let mut confirmed = Vec::new();
        while !confirmed.ends_with(flood.confirmed.as_bytes()) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            confirmed.extend(byte);
        }
        match behaviour {
            Behaviour::WriteFirst => {
                stream.write_all(&flood.requests).unwrap();
                stream.flush().unwrap();
                flood.check(&read_bytes(&mut stream, flood.replies.len()));
            }
            Behaviour::Slow => {
                // So many requests as the buffers between the two hold, with a first part read slowly.
                let requests = &flood.requests[..flood.once];
                stream.write_all(requests).unwrap();
                stream.flush().unwrap();
                let mut replies = Vec::new();
                for _ in 0..30 {
                    sleep(Duration::from_millis(2));
                    let piece = (flood.replied_once - replies.len()).min(5_000);
                    replies.extend(read_bytes(&mut stream, piece));
                }
                let rest = flood.replied_once - replies.len();
                replies.extend(read_bytes(&mut stream, rest));
                assert!(
                    replies == flood.replies[..flood.replied_once],
                    "{}",
                    flood.name
                );
            }
            Behaviour::Flooding => {
                let end = Instant::now() + PATIENCE / 2;
                while stream.write_all(&flood.requests).is_ok() {}
                assert!(Instant::now() < end, "{} is not cut off", flood.name);
            }
            Behaviour::Vanishing => stream.write_all(&flood.requests[..flood.once]).unwrap(),
            Behaviour::Silent => {
                stream.write_all(&flood.requests[..flood.once - 3]).unwrap();
                stream.flush().unwrap();
                // It is told what it asked for, and hung up on.
                let told = read_bytes(&mut stream, flood.replied_once);
                assert!(told.len() < flood.replied_once, "{}", flood.name);
            }
        }
    }
}

impl Flood {
    fn check(&self, replies: &[u8]) {
        let same = replies
            .iter()
            .zip(&self.replies)
            .take_while(|(a, b)| a == b);
        let same = same.count();
        assert!(
            replies == self.replies,
            "{}: {} of {} bytes came, the first {same} right",
            self.name,
            replies.len(),
            self.replies.len(),
        );
    }
}

#[test]
fn slow_or_flooding_clients_never_hang_or_fill_the_proxy() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let proxy = || builder(&servers).build_proxy().unwrap();
    let doors = Doors {
        lenient: LocalProxy::open_for(proxy()),
        strict: LocalProxy::open_for(strict(proxy())),
        connect: |door: &LocalProxy| Box::new(connect(door)) as Box<dyn ReadWrite>,
    };
    doors.meet_all();
}

/// TLS between the client and the proxy, and between that and its nodes.
#[cfg(feature = "tokio-rustls-comp")]
#[test]
fn slow_or_flooding_clients_never_hang_or_fill_the_proxy_with_tls_nodes() {
    use std::sync::Arc;

    use redis_sharding::ShardedClient;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    let authority = support::authority::Authority::new("the tests' own");
    let Some(servers) = Servers::builder().tls(&authority, false).start(2) else {
        return;
    };
    let proxy = || {
        let builder = (0..servers.len()).fold(ShardedClient::builder(), |builder, index| {
            let url = format!("rediss://{}/", servers.tls_addr(index));
            builder.node(format!("node-{index}"), url)
        });
        let trusted = redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(authority.pem().into_bytes()),
        };
        builder.tls_certificates(trusted).build_proxy().unwrap()
    };

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let issued = authority.issue(&["localhost"]);
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));

    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let doors = Doors {
        lenient: LocalProxy::open_tls(proxy(), acceptor.clone()),
        strict: LocalProxy::open_tls(strict(proxy()), acceptor),
        connect: move |door: &LocalProxy| {
            let name = ServerName::try_from("localhost").unwrap();
            let session = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
            Box::new(rustls::StreamOwned::new(session, connect(door))) as Box<dyn ReadWrite>
        },
    };
    doors.meet_all();
}

#[test]
fn slow_reader_gets_all_replies_and_does_not_delay_other_clients() {
    let Some((_servers, door)) = open(2, |proxy| proxy) else {
        return;
    };
    let mut talker = door.talk();
    let value = "v".repeat(1000);
    talker.ask(&format!("SET k {value}"));
    let mut stream = connect(&door);
    let get = request(&["GET", "k"]);
    stream.write_all(&get.repeat(3000)).unwrap();
    let expected = bulk(&value).repeat(3000);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 20_000];
        while bytes.len() < expected.len() {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0);
            bytes.extend_from_slice(&piece[..read]);
            sleep(Duration::from_millis(5));
        }
        assert!(bytes == expected);
    });
    while !reader.is_finished() {
        assert_eq!(talker.ask("GET k"), value);
    }
    reader.join().unwrap();
}

#[test]
fn subscriber_that_does_not_read_is_disconnected_at_the_pub_sub_output_limit() {
    let limit = OutputLimit::new(8 << 20, 4 << 20, Duration::from_secs(60));
    let Some((_servers, door)) = open(2, |proxy| proxy.with_pub_sub_output_limit(limit)) else {
        return;
    };
    for resp3 in [false, true] {
        let mut stream = connect(&door);
        if resp3 {
            stream.write_all(&request(&["HELLO", "3"])).unwrap();
        }
        stream.write_all(&request(&["SUBSCRIBE", "news"])).unwrap();
        let mut talker = door.talk();
        until("it listens", || {
            talker.ask("CLIENT LIST TYPE pubsub").contains("sub=1")
        });
        let message = "m".repeat(1 << 20);
        let mut most = 0;
        for _ in 0..60 {
            talker.ask(&format!("PUBLISH news {message}"));
            most = most.max(door.proxy.memory_used());
        }
        until("it is disconnected", || door.proxy.client_count() == 1);
        // Beside the limit: one message, and the one that the publisher sends.
        assert!(most < 24 << 20, "{most} bytes were held");
        drop(talker);
        until("all have gone", || door.proxy.client_count() == 0);
    }
}

#[test]
fn client_beyond_the_soft_output_limit_for_too_long_is_disconnected() {
    let limit = OutputLimit::new(0, 1 << 20, Duration::from_secs(1));
    let Some((_servers, door)) = open(1, |proxy| proxy.with_output_limit(limit)) else {
        return;
    };
    let mut talker = door.talk();
    let value = "v".repeat(1 << 20);
    assert_eq!(talker.ask(&format!("SET k {value}")), "+OK");
    let mut stream = connect(&door);
    stream
        .write_all(&request(&["GET", "k"]).repeat(20))
        .unwrap();
    until("it is disconnected", || door.proxy.client_count() == 1);
    assert_eq!(talker.ask("PING"), "+PONG");
}

#[test]
fn client_beyond_the_query_limit_is_disconnected() {
    let Some((_servers, door)) = open(1, |proxy| proxy.with_query_limit(4 << 20)) else {
        return;
    };
    let mut talker = door.talk();
    talker.ask(&format!("SET k {}", "v".repeat(100_000)));
    let get = request(&["GET", "k"]).repeat(1000);
    // One request of its own that is too large, a flood without reading, and an array without end.
    let begun = b"*1000000\r\n".to_vec();
    let floods = [
        (Vec::new(), request(&["ECHO", &"x".repeat(1 << 20)])),
        (Vec::new(), get),
        (begun, b"$10\r\n0123456789\r\n".repeat(10_000)),
    ];
    for (begin, again) in floods {
        let mut stream = connect(&door);
        stream.write_all(&begin).unwrap();
        let mut most = 0;
        let end = Instant::now() + PATIENCE;
        while stream.write_all(&again).is_ok() {
            most = most.max(door.proxy.memory_used());
            assert!(Instant::now() < end, "it is not cut off");
        }
        assert!(most < 64 << 20, "{most} bytes were held");
        assert_eq!(talker.ask("PING"), "+PONG");
    }
}

#[test]
fn memory_limit_of_the_proxy_disconnects_the_largest_clients() {
    let Some((_servers, door)) = open(2, |proxy| proxy.with_memory_limit(96 << 20)) else {
        return;
    };
    let mut talker = door.talk();
    let value = "v".repeat(3 << 20);
    for key in 0..5 {
        assert_eq!(talker.ask(&format!("SET k{key} {value}")), "+OK");
    }
    let gets: Vec<u8> = (0..5)
        .flat_map(|key| request(&["GET", &format!("k{key}")]))
        .collect();
    let mut unread: Vec<TcpStream> = Vec::new();
    for _ in 0..30 {
        let mut stream = connect(&door);
        stream.write_all(&gets).unwrap();
        unread.push(stream);
        assert_eq!(talker.ask("PING"), "+PONG");
    }
    until("some are disconnected", || {
        door.proxy.evicted_client_count() > 0
    });
    until("the others fit", || door.proxy.memory_used() <= 100 << 20);
    // Who reads is served all the same.
    assert_eq!(talker.ask("GET k1"), value);
    drop(unread);
    until("all have gone", || door.proxy.client_count() == 1);
    until("nothing is held", || door.proxy.memory_used() < 1 << 20);
}

#[test]
fn queued_commands_of_multi_count_towards_the_memory_limit() {
    let Some((_servers, door)) = open(1, |proxy| proxy.with_memory_limit(32 << 20)) else {
        return;
    };
    let mut stream = connect(&door);
    stream.write_all(&request(&["MULTI"])).unwrap();
    let set = request(&["SET", "k", &"v".repeat(1 << 20)]);
    let end = Instant::now() + PATIENCE;
    let mut piece = [0; 4096];
    while stream.write_all(&set).is_ok() && stream.read(&mut piece).is_ok_and(|read| read > 0) {
        assert!(Instant::now() < end, "it is not cut off");
    }
    assert_eq!(door.proxy.evicted_client_count(), 1);
}

#[test]
fn unauthenticated_clients_have_small_request_limits() {
    let Some((_servers, door)) = open(1, |proxy| proxy.with_password("secret")) else {
        return;
    };
    let arguments = b"*11\r\n".to_vec();
    let bulk = b"*2\r\n$4\r\nECHO\r\n$16385\r\n".to_vec();
    let whole = request(&["ECHO", &"x".repeat(16_385)]);
    let many = request(&["MGET"; 11]);
    let too_many = "-ERR Protocol error: unauthenticated multibulk length";
    let too_large = "-ERR Protocol error: unauthenticated bulk length";
    let cases = [
        (arguments, too_many),
        (bulk, too_large),
        (whole, too_large),
        (many, too_many),
    ];
    for (bytes, expected) in cases {
        let mut talker = door.talk();
        talker.write(&bytes);
        assert_eq!(talker.hear(), expected);
        assert!(talker.is_hung_up_on());
    }
    let mut talker = door.talk();
    assert_eq!(talker.ask("AUTH secret"), "+OK");
    assert_eq!(
        talker.ask(&format!("ECHO {}", "x".repeat(20_000))).len(),
        20_000
    );
}

#[test]
fn idle_timeout_disconnects_clients_but_not_subscribers_or_blpop() {
    let timeout = Duration::from_millis(500);
    let Some((_servers, door)) = open(1, |proxy| proxy.with_idle_timeout(timeout)) else {
        return;
    };
    let (mut silent, mut partial) = (door.talk(), door.talk());
    let (mut subscriber, mut blocked) = (door.talk(), door.talk());
    assert_eq!(subscriber.ask("SUBSCRIBE news"), "*3 subscribe news :1");
    blocked.say("BLPOP list 2");
    partial.write(b"*2\r\n$3\r\nGET\r\n");
    assert!(silent.is_hung_up_on() && partial.is_hung_up_on());
    assert_eq!(blocked.hear(), "*-1");
    assert_eq!(subscriber.ask("PING"), "*2 pong ");
}

#[test]
fn client_that_closes_without_reading_is_removed_at_once() {
    let Some((_servers, door)) = open(2, |proxy| proxy) else {
        return;
    };
    let mut talker = door.talk();
    talker.ask(&format!("SET k {}", "v".repeat(5 << 20)));
    for requests in [
        request(&["GET", "k"]).repeat(20),
        request(&["BLPOP", "list", "0"]),
        request(&["SUBSCRIBE", "news"]),
        b"*3\r\n$3\r\nSET\r\n$1\r\nu\r\n$10000000\r\nxxx".to_vec(),
        b"*1".to_vec(),
    ] {
        let mut stream = connect(&door);
        stream.write_all(&requests).unwrap();
        sleep(Duration::from_millis(50));
        drop(stream);
    }
    until("all have gone", || door.proxy.client_count() == 1);
    until("nothing is held", || door.proxy.memory_used() < 1 << 20);
}

#[test]
fn requests_sent_before_a_half_close_are_answered() {
    let Some((_servers, door)) = open(2, |proxy| proxy) else {
        return;
    };
    let mut stream = connect(&door);
    let set = request(&["SET", "k", &"v".repeat(10_000)]);
    stream.write_all(&set).unwrap();
    stream
        .write_all(&request(&["GET", "k"]).repeat(2000))
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len(), 5 + 2000 * 10_010);
}

#[test]
fn proxy_processes_100000_inline_requests_in_batches() {
    let Some((_servers, door)) = open(2, |proxy| proxy) else {
        return;
    };
    let mut talker = door.talk();
    let begin = Instant::now();
    let line = b"SET k v\r\n".repeat(100_000);
    let mut stream = connect(&door);
    stream.write_all(&line).unwrap();
    let replies = read_bytes(&mut stream, 500_000);
    assert!(replies == b"+OK\r\n".repeat(100_000));
    let inline = begin.elapsed();
    let begin = Instant::now();
    let usual = request(&["SET", "k", "v"]).repeat(100_000);
    stream.write_all(&usual).unwrap();
    assert_eq!(read_bytes(&mut stream, 500_000).len(), 500_000);
    let usual = begin.elapsed();
    // One by one they took a hundred times as long.
    assert!(
        inline < usual * 10 + Duration::from_secs(1),
        "{inline:?} and {usual:?}"
    );
    assert_eq!(talker.ask("GET k"), "v");
}

/// The longest that `talker` waits for PING while `work` is done.
fn longest_wait(
    talker: &mut RawClient,
    work: impl FnOnce() + Send + 'static,
) -> (Duration, Duration) {
    let begin = Instant::now();
    let worker = thread::spawn(work);
    let mut longest = Duration::ZERO;
    while !worker.is_finished() {
        let asked = Instant::now();
        assert_eq!(talker.ask("PING"), "+PONG");
        longest = longest.max(asked.elapsed());
    }
    worker.join().unwrap();
    (longest, begin.elapsed())
}

#[test]
fn planning_a_large_command_does_not_delay_other_clients() {
    let Some((_servers, door)) = open(2, |proxy| proxy) else {
        return;
    };
    let mut talker = door.talk();
    let names: Vec<String> = (0..100_000)
        .map(|number| format!("name:{number}"))
        .collect();
    let with = |first: &str| -> Vec<u8> {
        let words = std::iter::once(first).chain(names.iter().map(String::as_str));
        request(&words.collect::<Vec<_>>())
    };
    let pairs: Vec<&str> = names.iter().flat_map(|name| [name.as_str(), "v"]).collect();
    let mset = request(&[&["MSET"], &pairs[..]].concat());
    let queue = request(&["SET", "{t}k", "v"]).repeat(20_000);
    let queue = [request(&["MULTI"]), queue, request(&["EXEC"])].concat();
    let executed = "*20000\r\n".len() + "+OK\r\n".len() * 20_000;
    let queued = "+OK\r\n".len() + "+QUEUED\r\n".len() * 20_000 + executed;
    let confirmation = |(number, name): (usize, &String)| {
        let length = name.len();
        format!("*3\r\n$9\r\nsubscribe\r\n${length}\r\n{name}\r\n:{number}\r\n").len()
    };
    let confirmed: usize = (1..).zip(&names).map(confirmation).sum();
    let cases = [
        ("MSET", mset, 5),
        ("MGET", with("MGET"), 9 + 7 * 100_000),
        ("DEL", with("DEL"), 9),
        ("MULTI", queue, queued),
        ("SUBSCRIBE", with("SUBSCRIBE"), confirmed),
        ("an unknown command", with("NOSUCH"), 100),
    ];
    for (name, bytes, replies) in cases {
        let mut stream = connect(&door);
        let work = move || {
            stream.write_all(&bytes).unwrap();
            assert!(read_bytes(&mut stream, replies).len() >= replies);
        };
        let (longest, all) = longest_wait(&mut talker, work);
        println!("{name}: {all:?} altogether, the longest wait was {longest:?}");
        // Without a turn for others it would be nearly all of the time.
        let bound = (all / 2).max(Duration::from_millis(500));
        assert!(longest < bound, "{name}: {longest:?} of {all:?}");
    }
}
