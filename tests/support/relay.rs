//! Stands between a client and a server: counts connections, and can let them fall silent without closing them, as a
//! machine does that has vanished.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Forwards connections until it is dropped.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    /// Connections with a smaller number are silent.
    silent: AtomicUsize,
    /// Bytes that a silent connection has swallowed.
    swallowed: AtomicUsize,
    closing: AtomicBool,
}

impl Relay {
    /// In front of `host:port`.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (addr, upstream) = (listener.local_addr().unwrap(), upstream.to_owned());
        let shared = Arc::new(Shared::default());
        let relay = Self {
            addr,
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((client, _)) = listener.accept() {
                if shared.closing.load(Ordering::SeqCst) {
                    break;
                }
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    open.push(stream.try_clone().unwrap());
                }
                forward(&client, &server, number, &shared);
                forward(&server, &client, number, &shared);
            }
            for stream in open {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        relay
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// How many connections were made to it.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// From now on nothing goes through the connections that there are, either way. New ones work.
    pub fn silence(&self) {
        self.shared.silent.store(self.accepted(), Ordering::SeqCst);
    }

    /// How many bytes silent connections were sent.
    pub fn swallowed(&self) -> usize {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

fn forward(from: &TcpStream, to: &TcpStream, number: usize, shared: &Arc<Shared>) {
    let mut from = from.try_clone().unwrap();
    let mut to = to.try_clone().unwrap();
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if number < shared.silent.load(Ordering::SeqCst) {
                shared.swallowed.fetch_add(length, Ordering::SeqCst);
            } else if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        if number >= shared.silent.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        }
    });
}
