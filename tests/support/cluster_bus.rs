//! The network between the nodes of a Redis Cluster: one relay in front of each node's bus, which can be parted.
//!
//! A node's own connections come from an address of its own ([`source`]), by which a relay knows who speaks.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::servers::{next_port, own_address};

/// The second byte of the first node's address, above those of [`own_address`].
const FIRST_SOURCE: usize = 100;

/// Who is cut off. All nodes of a cluster share one.
#[derive(Default)]
pub struct Network {
    /// Nodes that reach each other, and nobody else.
    parted: Mutex<HashSet<usize>>,
    dropped: AtomicUsize,
}

/// In front of one node's bus, until it is dropped.
pub struct BusRelay {
    port: u16,
    closing: Arc<AtomicBool>,
}

/// The address that a node connects from. Only Linux has all of 127.0.0.0/8.
pub fn source(node: usize) -> String {
    let own = own_address();
    let (_, rest) = own[4..].split_once('.').expect("four bytes");
    format!("127.{}.{rest}", FIRST_SOURCE + node)
}

fn node_of(stream: &TcpStream) -> Option<usize> {
    let address = stream.peer_addr().ok()?.ip().to_string();
    let byte: usize = address.split('.').nth(1)?.parse().ok()?;
    byte.checked_sub(FIRST_SOURCE)
}

impl Network {
    /// These nodes hear nothing from the others any more, nor the others from them.
    pub fn part(&self, nodes: &[usize]) {
        *self.parted() = nodes.iter().copied().collect();
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        self.parted().clear();
    }

    /// How many bytes were thrown away.
    pub fn bytes_dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    fn parted(&self) -> std::sync::MutexGuard<'_, HashSet<usize>> {
        self.parted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self, from: Option<usize>, to: usize) -> bool {
        let parted = self.parted();
        from.is_some_and(|from| parted.contains(&from)) != parted.contains(&to)
    }
}

impl BusRelay {
    /// In front of the bus of a node that is not known yet; `upstream` is asked for it at each connection.
    pub fn start(
        node: usize,
        network: &Arc<Network>,
        upstream: impl Fn() -> Option<String> + Send + 'static,
    ) -> Self {
        let host = own_address();
        let (port, listener) = std::iter::repeat_with(next_port)
            .find_map(|port| Some((port, TcpListener::bind((&*host, port)).ok()?)))
            .unwrap();
        let closing = Arc::new(AtomicBool::new(false));
        let relay = Self {
            port,
            closing: Arc::clone(&closing),
        };
        let network = Arc::clone(network);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                let server = upstream().and_then(|upstream| TcpStream::connect(upstream).ok());
                let Some(server) = server else { continue };
                let link = Arc::new(Link {
                    from: node_of(&client),
                    to: node,
                    network: Arc::clone(&network),
                    lossy: AtomicBool::new(false),
                });
                link.forward(&client, &server);
                link.forward(&server, &client);
            }
        });
        relay
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for BusRelay {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((own_address(), self.port));
    }
}

/// One connection between two nodes.
struct Link {
    from: Option<usize>,
    to: usize,
    network: Arc<Network>,
    /// Bytes of it were thrown away: it is of no use afterwards.
    lossy: AtomicBool,
}

impl Link {
    fn forward(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (link, mut from, mut to) = (
            Arc::clone(self),
            from.try_clone().unwrap(),
            to.try_clone().unwrap(),
        );
        // A connection that its other end has closed may refuse it.
        let _ = to.set_nodelay(true);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if link.network.is_cut(link.from, link.to) {
                    link.lossy.store(true, Ordering::SeqCst);
                    link.network.dropped.fetch_add(count, Ordering::SeqCst);
                } else if link.lossy.load(Ordering::SeqCst)
                    || to.write_all(&buffer[..count]).is_err()
                {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}
