//! `Proxy::run`, `Proxy::run_on_threads` and `Builder::proxy_on_loopback`: from the first connection to the shutdown.
#![cfg(feature = "tokio-comp")]

mod support;

use std::future::{self, Future};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use redis_sharding::proxy::Proxy;
use redis_sharding::redis::{self, Commands};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use support::local_proxy::RawClient;
use support::{Servers, builder};

/// How long anything may take here that is expected to happen.
const TIMEOUT: Duration = Duration::from_secs(30);

const NODES: usize = 2;

/// A proxy that runs on a thread of this process.
struct Running {
    address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<io::Result<()>>,
}

/// On which threads the connections are served.
#[derive(Clone, Copy, Debug)]
enum Threads {
    Own,
    More(usize),
}

impl Running {
    fn start(proxy: Proxy, threads: Threads) -> Self {
        let (shutdown, told) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                bound.send(listener.local_addr()?).unwrap();
                let shutdown = async { drop(told.await) };
                match threads {
                    Threads::Own => proxy.run(listener, shutdown).await,
                    Threads::More(threads) => {
                        proxy.run_on_threads(threads, listener, shutdown).await
                    }
                }
            })
        });
        Self {
            address: address.recv_timeout(TIMEOUT).unwrap(),
            shutdown: Some(shutdown),
            thread,
        }
    }

    fn client(&self) -> RawClient {
        RawClient::connect(&self.address.to_string())
    }

    fn begin_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    fn join(mut self) -> io::Result<()> {
        self.begin_shutdown();
        until("run returns", || self.thread.is_finished());
        self.thread.join().unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// Whether nothing listens there. A connection that the kernel accepted for a listener that is then closed is reset.
fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, TIMEOUT).is_err()
}

const WAYS: [Threads; 3] = [Threads::Own, Threads::More(1), Threads::More(3)];

#[test]
fn run_answers_requests_under_way_at_shutdown_and_closes_idle_clients_at_once() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for threads in WAYS {
        let proxy = builder(&servers).build_proxy().unwrap();
        let mut running = Running::start(proxy.clone(), threads);
        let (mut idle, mut busy) = (running.client(), running.client());
        for (client, number) in [(&mut idle, "1"), (&mut busy, "2")] {
            assert_eq!(client.ask(&format!("SET key:{number} {number}")), "+OK");
        }
        // The nodes hold writes back.
        for server in 0..NODES {
            let mut pause = redis::cmd("CLIENT");
            pause
                .arg("PAUSE")
                .arg(TIMEOUT.as_millis() as u64)
                .arg("WRITE");
            pause.exec(&mut servers.connection(server)).unwrap();
        }
        busy.say("INCR key:2");
        until("the request is under way", || {
            let blocked = (0..NODES).map(|server| {
                let info: redis::InfoDict = redis::cmd("INFO")
                    .arg("clients")
                    .query(&mut servers.connection(server))
                    .unwrap();
                info.get::<u32>("blocked_clients").unwrap()
            });
            blocked.sum::<u32>() == 1
        });

        running.begin_shutdown();
        assert!(idle.is_hung_up_on(), "{threads:?}");
        until("the port is closed", || refuses(running.address));
        until("only the busy client is left", || proxy.client_count() == 1);
        for server in 0..NODES {
            let mut unpause = redis::cmd("CLIENT");
            unpause
                .arg("UNPAUSE")
                .exec(&mut servers.connection(server))
                .unwrap();
        }
        assert_eq!(busy.hear(), ":3", "{threads:?}");
        assert!(busy.is_hung_up_on(), "{threads:?}");
        running.join().unwrap();
        assert_eq!(proxy.client_count(), 0, "{threads:?}");
    }
}

#[test]
fn run_ends_within_its_shutdown_timeout_when_a_node_is_silent() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for threads in WAYS {
        let proxy = builder(&servers)
            .response_timeout(None)
            .build_proxy()
            .unwrap()
            .with_shutdown_timeout(Duration::from_millis(100));
        let mut running = Running::start(proxy.clone(), threads);
        let mut client = running.client();
        assert_eq!(client.ask("PING"), "+PONG");
        for server in 0..NODES {
            servers.pause(server);
        }
        client.say("DBSIZE");
        until("the request has arrived", || proxy.memory_used() > 0);
        running.begin_shutdown();
        // No reply: the connection is closed.
        assert!(client.try_hear().is_err(), "{threads:?}");
        running.join().unwrap();
        for server in 0..NODES {
            servers.resume(server);
        }
    }
}

#[test]
fn run_closes_its_port_and_its_clients_when_its_future_is_dropped() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for threads in WAYS {
        let proxy = builder(&servers).build_proxy().unwrap();
        let served = proxy.clone();
        runtime().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let run: std::pin::Pin<Box<dyn Future<Output = io::Result<()>>>> = match threads {
                Threads::Own => Box::pin(served.run(listener, future::pending())),
                Threads::More(threads) => {
                    Box::pin(served.run_on_threads(threads, listener, future::pending()))
                }
            };
            let asked = tokio::task::spawn_blocking(move || {
                let mut client = RawClient::connect(&address.to_string());
                assert_eq!(client.ask("PING"), "+PONG");
                client
            });
            let mut client = tokio::select! {
                outcome = run => panic!("{threads:?} has ended: {outcome:?}"),
                client = asked => client.unwrap(),
            };
            // The future is gone now.
            let closed =
                tokio::task::spawn_blocking(move || client.is_hung_up_on() && refuses(address));
            assert!(closed.await.unwrap(), "{threads:?}");
        });
        until("the client has left", || proxy.client_count() == 0);
    }
}

#[test]
fn run_on_threads_serves_clients_on_all_threads() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let connections = || {
        let mut list = redis::cmd("CLIENT");
        let list: String = list.arg("LIST").query(&mut servers.connection(0)).unwrap();
        list.lines().count()
    };
    let before = connections();
    let running = Running::start(builder(&servers).build_proxy().unwrap(), Threads::More(3));
    let mut clients: Vec<RawClient> = (0..6).map(|_| running.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("SET key:{number} x")), "+OK");
    }
    // Each thread has a connection of its own to the node.
    assert_eq!(connections() - before, 3);
    assert_eq!(clients[0].ask("DBSIZE"), ":6");
    running.join().unwrap();
}

/// On other systems `accept` has another error for a socket that does not listen, or none.
#[cfg(target_os = "linux")]
#[test]
fn run_ends_with_an_error_when_its_socket_listens_no_more() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let reported = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reported);
    let proxy = builder(&servers)
        .build_proxy()
        .unwrap()
        .with_accept_error_handler(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    let outcome = runtime().block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = socket2::SockRef::from(&listener).try_clone().unwrap();
        let shut = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.shutdown(std::net::Shutdown::Both).unwrap();
        };
        let run = proxy.run(listener, future::pending());
        tokio::time::timeout(TIMEOUT, futures_util::future::join(run, shut)).await
    });
    let (outcome, ()) = outcome.expect("it ends");
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(reported.load(Ordering::Relaxed), 0);
}

#[test]
fn proxy_on_loopback_serves_a_redis_client_and_refuses_clients_without_its_password() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let proxy = builder(&servers).proxy_on_loopback().unwrap();
    let client = redis::Client::open(proxy.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    for number in 0..50 {
        let () = connection.set(format!("key:{number}"), number).unwrap();
    }
    let per_node: Vec<usize> = (0..NODES)
        .map(|server| {
            redis::cmd("DBSIZE")
                .query(&mut servers.connection(server))
                .unwrap()
        })
        .collect();
    assert_eq!(per_node.iter().sum::<usize>(), 50);
    assert!(per_node.iter().all(|&keys| keys > 5), "{per_node:?}");
    assert_eq!(proxy.proxy().client_count(), 1);

    let address = proxy
        .url()
        .rsplit('@')
        .next()
        .unwrap()
        .trim_end_matches('/');
    let mut stranger = RawClient::connect(address);
    assert_eq!(
        stranger.ask("GET key:1"),
        "-NOAUTH Authentication required."
    );
    assert!(stranger.ask("AUTH guess").starts_with("-WRONGPASS"));
    let other = builder(&servers).proxy_on_loopback().unwrap();
    let password = |url: &str| {
        let (user_info, _) = url
            .strip_prefix("redis://:")
            .unwrap()
            .split_once('@')
            .unwrap();
        user_info.to_owned()
    };
    assert_ne!(password(proxy.url()), password(other.url()));
    assert_eq!(password(proxy.url()).len(), 64);
    assert!(!format!("{proxy:?}").contains(&password(proxy.url())));
}

#[test]
fn proxy_on_loopback_ends_when_it_is_dropped_or_stopped() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for is_stopped in [true, false] {
        let proxy = builder(&servers).proxy_on_loopback().unwrap();
        let address: SocketAddr = {
            let address = proxy.url().rsplit('@').next().unwrap();
            address.trim_end_matches('/').parse().unwrap()
        };
        let client = redis::Client::open(proxy.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let () = connection.set("key:1", 1).unwrap();
        if is_stopped {
            proxy.stop().unwrap();
            assert!(refuses(address));
        } else {
            drop(proxy);
            until("the port is closed", || refuses(address));
        }
        let lost: redis::RedisResult<()> = connection.get("key:1");
        assert!(lost.is_err());
    }
}

#[test]
fn proxy_on_loopback_serves_async_clients_of_a_single_threaded_runtime() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    runtime().block_on(async {
        let proxy = builder(&servers).proxy_on_loopback().unwrap();
        let client = redis::Client::open(proxy.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut pipeline = redis::pipe();
        for number in 0..100 {
            pipeline.set(format!("key:{number}"), number).ignore();
        }
        pipeline.get("key:99");
        let (last,): (u32,) = pipeline.query_async(&mut connection).await.unwrap();
        assert_eq!(last, 99);
        drop(proxy);
    });
}
