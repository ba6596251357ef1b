//! A TCP proxy that adds a fixed delay each way, since loopback knows no distance.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Forwards connections until it is dropped.
pub struct DelayProxy {
    addr: SocketAddr,
    closing: Arc<AtomicBool>,
}

impl DelayProxy {
    /// `delay` is for one way: a round trip takes twice as long. `upstream` is `host:port`.
    pub fn start(upstream: &str, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (addr, upstream) = (listener.local_addr()?, upstream.to_owned());
        let closing = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&closing);
        thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((client, _)) = listener.accept() {
                if flag.load(Ordering::SeqCst) {
                    break;
                }
                // A client whose server is gone is closed.
                if let Ok(server) = TcpStream::connect(&upstream) {
                    let streams = [client, server].map(Arc::new);
                    streams
                        .iter()
                        .for_each(|stream| stream.set_nodelay(true).unwrap_or_default());
                    let [client, server] = &streams;
                    forward(client, server, delay);
                    forward(server, client, delay);
                    open.extend(streams);
                }
            }
            open.iter()
                .for_each(|stream| stream.shutdown(Shutdown::Both).unwrap_or_default());
        });
        Ok(Self { addr, closing })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

/// Copies bytes one way in two threads: one notes when they came, one lets them go when their time has come.
fn forward(from: &Arc<TcpStream>, to: &Arc<TcpStream>, delay: Duration) {
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = (&*from).read(&mut buffer) {
            if sender
                .send((Instant::now() + delay, buffer[..length].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if (&*to).write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
