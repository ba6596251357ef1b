//! A TCP proxy with a switch: the network between clients and one server, which can be cut.
//!
//! ```ignore
//! let cut = Cut::start(&servers.addr(0));
//! let client = client_over(cut.url());
//! cut.set(Mode::Drop);     // nothing arrives, nobody is told
//! cut.set(Mode::Pass);     // healed: connections that lost bytes are reset
//! ```

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::servers::{next_port, own_address};

/// How often a blocked write looks whether its connection was reset.
const WRITE_CHECK: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 64 * 1024;

/// What happens to bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// A black hole: bytes are read and thrown away, new connections are accepted and get no answer. Neither end is told.
    /// A connection that has lost bytes is reset when the mode changes: the rest of its bytes would make no sense.
    Drop,
    /// Bytes are kept, and delivered when the mode changes, as TCP does after a cut that was short.
    Stall,
    /// Each chunk of bytes comes so much later.
    Delay(Duration),
    /// Connections are reset (RST), new ones as soon as they are accepted.
    Reset,
    /// Connections are reset, and the port refuses new ones, as that of a dead process.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer = 0,
    ToClient = 1,
}

/// Forwards connections until it is dropped.
pub struct Cut {
    host: String,
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    accepted: AtomicUsize,
    dropped: AtomicUsize,
    stalled: AtomicUsize,
    reset: AtomicUsize,
}

struct State {
    upstream: Option<String>,
    modes: [Mode; 2],
    listening: bool,
    closing: bool,
    pairs: Vec<Weak<Pair>>,
}

/// Both halves of a connection. Closed when the last thread that serves it has ended.
struct Pair {
    client: TcpStream,
    /// Connected to when the first bytes may pass.
    server: OnceLock<TcpStream>,
    /// Whether bytes of it were thrown away.
    lossy: AtomicBool,
    reset: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            upstream: None,
            modes: [Mode::Pass; 2],
            listening: true,
            closing: false,
            pairs: Vec::new(),
        }
    }
}

impl Cut {
    /// In front of `host:port`.
    pub fn start(upstream: &str) -> Self {
        let cut = Self::unconnected();
        cut.forward_to(upstream);
        cut
    }

    /// In front of a server that is not known yet: connections are reset until [`forward_to`](Self::forward_to).
    pub fn unconnected() -> Self {
        let host = own_address();
        // A taken port is another test's: try the next one.
        let (port, listener) = std::iter::repeat_with(next_port)
            .find_map(|port| Some((port, TcpListener::bind((&*host, port)).ok()?)))
            .unwrap();
        let shared = Arc::new(Shared::default());
        let cut = Self {
            host,
            port,
            shared: Arc::clone(&shared),
        };
        let address = cut.addr();
        thread::spawn(move || accept(listener, &address, &shared));
        cut
    }

    /// New connections go to this `host:port`.
    pub fn forward_to(&self, upstream: &str) {
        self.shared.lock().upstream = Some(upstream.to_owned());
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr())
    }

    /// From now on, in both directions. Returns when the mode is in effect.
    pub fn set(&self, mode: Mode) {
        self.change([mode; 2]);
    }

    /// From now on, in one direction.
    ///
    /// # Panics
    /// Whole connections are reset or refused, not directions.
    pub fn set_direction(&self, direction: Direction, mode: Mode) {
        assert!(!mode.ends_connections(), "{mode:?} has no direction");
        let mut modes = self.shared.lock().modes;
        assert!(!modes[0].ends_connections(), "set() another mode first");
        modes[direction as usize] = mode;
        self.change(modes);
    }

    /// Resets the connections that there are, once.
    pub fn reset_connections(&self) {
        let pairs = self.shared.lock().open();
        pairs.iter().for_each(|pair| self.shared.reset(pair));
        self.shared.changed.notify_all();
    }

    /// How many connections were made to it.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.lock().open().len()
    }

    /// How many bytes were thrown away.
    pub fn bytes_dropped(&self) -> usize {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// How many bytes were kept or delayed.
    pub fn bytes_stalled(&self) -> usize {
        self.shared.stalled.load(Ordering::SeqCst)
    }

    /// How many connections were reset by the switch.
    pub fn connections_reset(&self) -> usize {
        self.shared.reset.load(Ordering::SeqCst)
    }

    fn change(&self, modes: [Mode; 2]) {
        let mut state = self.shared.lock();
        let old = std::mem::replace(&mut state.modes, modes);
        let healed = (0..2).any(|way| old[way] == Mode::Drop && modes[way] != Mode::Drop);
        let pairs = state.open();
        drop(state);
        for pair in pairs {
            if modes[0].ends_connections() || healed && pair.lossy.load(Ordering::SeqCst) {
                self.shared.reset(&pair);
            }
        }
        self.shared.changed.notify_all();
        if modes[0] == Mode::Refuse {
            self.wake();
        }
        let listening = modes[0] != Mode::Refuse;
        let state = self.shared.lock();
        let waiting = |state: &mut State| state.listening != listening;
        drop(self.shared.changed.wait_while(state, waiting));
    }

    /// Makes the thread that accepts connections read the state.
    fn wake(&self) {
        // Refused if it does not listen: then it waits for the state.
        let _ = TcpStream::connect((&*self.host, self.port));
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.reset_connections();
        self.wake();
    }
}

impl Mode {
    fn ends_connections(self) -> bool {
        matches!(self, Mode::Reset | Mode::Refuse)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self, pair: &Pair) {
        self.reset.fetch_add(1, Ordering::SeqCst);
        pair.reset();
    }

    /// Waits, until a time if given, while bytes of this direction do not pass. False if the connection has ended.
    fn wait(&self, pair: &Pair, direction: Direction, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        loop {
            if state.closing || pair.reset.load(Ordering::SeqCst) {
                return false;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let stalled = matches!(state.modes[direction as usize], Mode::Stall | Mode::Drop);
            if !stalled && left.is_none_or(|left| left.is_zero()) {
                return true;
            }
            state = match left.filter(|left| !left.is_zero()) {
                Some(left) => self.changed.wait_timeout(state, left).unwrap().0,
                None => self.changed.wait(state).unwrap(),
            };
        }
    }

    /// Bytes or, if there are none, the end of a half. False if the connection has ended.
    fn deliver(self: &Arc<Self>, pair: &Arc<Pair>, direction: Direction, bytes: &[u8]) -> bool {
        let state = self.lock();
        let mode = state.modes[direction as usize];
        match mode {
            Mode::Pass => drop(state),
            Mode::Drop => {
                // Under the lock, so that the change of the mode that follows sees it.
                pair.lossy.store(true, Ordering::SeqCst);
                drop(state);
                self.dropped.fetch_add(bytes.len(), Ordering::SeqCst);
                // The end is not told either: the connection is reset later.
                return !bytes.is_empty() || self.wait(pair, direction, None);
            }
            Mode::Stall | Mode::Delay(_) => {
                drop(state);
                self.stalled.fetch_add(bytes.len(), Ordering::SeqCst);
                let until = match mode {
                    Mode::Delay(time) => Some(Instant::now() + time),
                    _ => None,
                };
                if !self.wait(pair, direction, until) {
                    return false;
                }
            }
            Mode::Reset | Mode::Refuse => return false,
        }
        self.connect(pair) && pair.write(direction, bytes)
    }

    /// Connects to the server, unless that is done. False if it cannot be reached.
    fn connect(self: &Arc<Self>, pair: &Arc<Pair>) -> bool {
        if pair.server.get().is_some() {
            return true;
        }
        let upstream = self.lock().upstream.clone();
        let Some(server) = upstream.and_then(|upstream| TcpStream::connect(upstream).ok()) else {
            return false;
        };
        prepare(&server);
        pair.server
            .set(server)
            .expect("one thread connects before the other starts");
        let (shared, pair) = (Arc::clone(self), Arc::clone(pair));
        thread::spawn(move || forward(&pair, Direction::ToClient, &shared));
        true
    }
}

impl State {
    fn open(&mut self) -> Vec<Arc<Pair>> {
        self.pairs.retain(|pair| pair.strong_count() > 0);
        self.pairs.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Pair {
    fn new(client: TcpStream) -> Self {
        prepare(&client);
        Self {
            client,
            server: OnceLock::new(),
            lossy: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }

    fn halves(&self) -> impl Iterator<Item = &TcpStream> {
        std::iter::once(&self.client).chain(self.server.get())
    }

    /// The half that bytes of this direction come from, and the one that they go to.
    fn ends(&self, direction: Direction) -> (&TcpStream, Option<&TcpStream>) {
        match (direction, self.server.get()) {
            (Direction::ToServer, server) => (&self.client, server),
            (Direction::ToClient, server) => (server.expect("connected"), Some(&self.client)),
        }
    }

    /// Both ends get an RST, when the threads of the connection have dropped it.
    fn reset(&self) {
        if self.reset.swap(true, Ordering::SeqCst) {
            return;
        }
        for half in self.halves() {
            // It may be closed by its other end.
            let _ = SockRef::from(half).set_linger(Some(Duration::ZERO));
            // Ends a read without a word to the other end.
            let _ = half.shutdown(Shutdown::Read);
        }
    }

    /// The end of a half if there are no bytes.
    fn write(&self, direction: Direction, mut bytes: &[u8]) -> bool {
        let mut target = self.ends(direction).1.expect("connected");
        if bytes.is_empty() {
            return target.shutdown(Shutdown::Write).is_ok();
        }
        while !bytes.is_empty() {
            match target.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            if self.reset.load(Ordering::SeqCst) {
                return false;
            }
        }
        true
    }
}

/// Accepts connections until the cut is dropped.
fn accept(listener: TcpListener, address: &str, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    loop {
        let accepted = listener.as_ref().map(TcpListener::accept);
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        if state.modes[0] == Mode::Refuse {
            drop(listener.take());
            state.listening = false;
            shared.changed.notify_all();
            let refusing = |state: &mut State| state.modes[0] == Mode::Refuse && !state.closing;
            let waited = shared.changed.wait_while(state, refusing);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            listener = Some(bind_again(address));
            shared.lock().listening = true;
            shared.changed.notify_all();
            continue;
        }
        let Some(Ok((client, _))) = accepted else {
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let pair = Arc::new(Pair::new(client));
        if state.modes[0] == Mode::Reset {
            shared.reset(&pair);
            continue;
        }
        state.pairs.push(Arc::downgrade(&pair));
        drop(state);
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(&pair, &shared));
    }
}

/// The port was ours a moment ago, and is outside of the range that the system gives away.
fn bind_again(address: &str) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap_or_default();
    stream.set_write_timeout(Some(WRITE_CHECK)).unwrap();
}

fn serve(pair: &Arc<Pair>, shared: &Arc<Shared>) {
    let mode = shared.lock().modes[Direction::ToServer as usize];
    if matches!(mode, Mode::Drop | Mode::Stall) || shared.connect(pair) {
        forward(pair, Direction::ToServer, shared);
    } else {
        pair.reset();
    }
}

/// Copies bytes one way until the connection ends.
fn forward(pair: &Arc<Pair>, direction: Direction, shared: &Arc<Shared>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let ended = loop {
        let read = pair.ends(direction).0.read(&mut buffer);
        let count = *read.as_ref().unwrap_or(&0);
        let delivered = shared.deliver(pair, direction, &buffer[..count]);
        match read {
            Ok(0) if delivered => break false,
            Ok(1..) if delivered => {}
            _ => break true,
        }
    };
    if ended {
        pair.reset();
        shared.changed.notify_all();
    }
}
