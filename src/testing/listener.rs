//! The listening socket of a node, and the thread that accepts its connections.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::connection;
use super::shared::{Run, Shared};

/// Ports to choose from: below those that systems give to outgoing connections, so that a stopped node finds
/// its port free when it starts again.
const PORTS: std::ops::Range<u16> = 12_000..22_000;
/// Number of ports between the first choices of two processes.
const PORTS_PER_PROCESS: u32 = 64;
/// Maximum time for which a node waits for its own port to become free.
const REBIND_WITHIN: Duration = Duration::from_secs(5);

/// A listening socket, with a thread that accepts.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    /// Ends the thread, once it is woken by a connection.
    closing: Arc<AtomicBool>,
    /// Returns the threads of the connections that are still open.
    thread: JoinHandle<Vec<JoinHandle<()>>>,
}

impl Listener {
    /// Starts to accept connections.
    pub(super) fn start(
        socket: TcpListener,
        shared: Arc<Shared>,
        run: Arc<Run>,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let closing = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&closing);
        let thread = thread::Builder::new()
            .name(format!("test-node-{}", address.port()))
            .spawn(move || accept_all(&socket, &flag, &shared, &run))?;
        Ok(Self {
            address,
            closing,
            thread,
        })
    }

    /// Refuses new connections from now on. Returns the threads of the connections that were accepted.
    pub(super) fn close(self) -> Vec<JoinHandle<()>> {
        self.closing.store(true, Ordering::SeqCst);
        // `accept` has no timeout, so a connection of our own ends it. If that fails, another one has ended
        // it.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.thread.join().unwrap_or_default()
    }
}

/// Binds a free port of the loopback interface. Processes begin at different ports, so that tests in parallel
/// rarely collide.
pub(super) fn bind_free() -> io::Result<TcpListener> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = u32::from(PORTS.end - PORTS.start);
    // Processes of one test run have ids close together: their first ports do not overlap for 64 nodes each.
    let first = process::id().wrapping_mul(PORTS_PER_PROCESS) % size;
    let mut address = own_address();
    for _ in PORTS {
        // Each call goes on where the last one stopped: a port that was just closed is not taken by the next
        // node.
        let offset = (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % size;
        let port = PORTS.start + u16::try_from(offset).unwrap_or(0);
        match TcpListener::bind((address, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            // Systems without the whole of 127.0.0.0/8 have the usual address only.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                address = Ipv4Addr::LOCALHOST;
            }
            bound => return bound,
        }
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Returns an address of the loopback interface that no other process uses, where the system has that many: a
/// client of a stopped node must not reach another test's node on its port.
fn own_address() -> Ipv4Addr {
    let [high, middle, low, lowest] = process::id().to_be_bytes();
    match cfg!(target_os = "linux") && high == 0 && middle < u8::MAX - 1 {
        true => Ipv4Addr::new(127, middle + 1, low, lowest),
        false => Ipv4Addr::LOCALHOST,
    }
}

/// Binds this port, waiting for it to become free: connections of the previous run may still be closing.
pub(super) fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + REBIND_WITHIN;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            bound => return bound,
        }
    }
}

/// Accepts connections until `closing` is set, and returns the threads of those that are open.
fn accept_all(
    socket: &TcpListener,
    closing: &AtomicBool,
    shared: &Arc<Shared>,
    run: &Arc<Run>,
) -> Vec<JoinHandle<()>> {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let accepted = socket.accept();
        // After `accept`, since the connection that wakes it is not to be served.
        if closing.load(Ordering::SeqCst) {
            return threads;
        }
        // Threads that have ended need no join, and would add up in a node that lives long.
        threads.retain(|thread| !thread.is_finished());
        match accepted {
            Ok((stream, _)) => threads.extend(spawn(stream, shared, run)),
            // Out of file descriptors: they come back when connections end.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Serves a connection in a thread of its own, or closes it if that cannot be started.
fn spawn(stream: TcpStream, shared: &Arc<Shared>, run: &Arc<Run>) -> Option<JoinHandle<()>> {
    let served = Served {
        // Before the thread starts: the connection counts as open from now on, and `stop` can close it.
        id: shared.accept(stream.try_clone().ok()?),
        shared: Arc::clone(shared),
        stream,
    };
    let run = Arc::clone(run);
    let serve = move || {
        // An error here is a connection that ended before it began.
        let _ = connection::serve(&served.shared, &run, served.id, &served.stream);
    };
    thread::Builder::new().spawn(serve).ok()
}

/// A connection that is closed and removed however its thread ends, by a panic too.
struct Served {
    id: u64,
    shared: Arc<Shared>,
    stream: TcpStream,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.shared.forget(self.id);
    }
}
