//! One connection: its thread reads requests, applies them or a fault, and passes replies to a writer.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::faults::Fault;
use super::protocol::{Ended, Reply, Requests};
use super::received::ReceivedCommand;
use super::session::Session;
use super::shared::{Run, Shared, lock};

/// Interval at which a blocked command checks that its client is still connected.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Serves one connection until it ends or its node stops.
pub(super) fn serve(shared: &Shared, run: &Run, id: u64, stream: &TcpStream) -> io::Result<()> {
    // Without it a `Trickle` or half a reply might be joined with what follows.
    let _ = stream.set_nodelay(true);
    let (writer, replies) = mpsc::channel();
    let output = stream.try_clone()?;
    let mut connection = Connection {
        shared,
        run,
        stream,
        session: shared.begin_session(id, writer.clone()),
        writer,
        mute: false,
    };
    thread::scope(|scope| {
        // Replies wait in memory, not in the reading thread: a client may send a whole pipeline before it
        // reads any.
        scope.spawn(move || write_all(output, &replies));
        connection.serve();
        // The writer ends with the last sender.
        drop(connection);
    });
    Ok(())
}

/// Writes replies until the last sender is gone or the client is.
fn write_all(mut output: TcpStream, replies: &Receiver<Vec<u8>>) {
    while let Ok(mut bytes) = replies.recv() {
        // Whatever is ready goes out at once, as a server writes its output buffer.
        replies.try_iter().for_each(|more| bytes.extend(more));
        if output.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// What follows a command.
#[derive(PartialEq, Eq)]
enum Next {
    /// The connection is closed.
    Close,
    /// The next request is read.
    Continue,
}

/// The reading half of a connection.
struct Connection<'a> {
    shared: &'a Shared,
    run: &'a Run,
    stream: &'a TcpStream,
    /// The state that commands see.
    session: Session,
    /// The queue of bytes to be written.
    writer: Sender<Vec<u8>>,
    /// Silent for good: requests are read and recorded, nothing else.
    mute: bool,
}

impl Connection<'_> {
    /// Handles requests until the client closes, sends a malformed one, or a fault ends the connection.
    fn serve(&mut self) {
        let mut requests = Requests::new(self.stream);
        loop {
            match requests.next() {
                Ok(args) => {
                    if self.handle(args) == Next::Close || self.session.closing {
                        return;
                    }
                }
                Err(Ended::Closed) => return,
                Err(Ended::Protocol(text)) => {
                    let reply = Reply::Error(text);
                    return self.send(reply.encode(self.session.protocol));
                }
            }
        }
    }

    /// Records one command, and applies it or the fault injected into it.
    fn handle(&mut self, args: Vec<Vec<u8>>) -> Next {
        let command = ReceivedCommand::new(self.session.id, args);
        // Recorded before it is applied, so that a test sees the command even if it never ends.
        let fault = self.shared.note(&command, self.mute);
        // Read and recorded all the same: a client that writes must not be blocked by a full socket.
        if self.mute {
            return Next::Continue;
        }
        let Some(fault) = fault else {
            self.apply(command.args(), Connection::send);
            return Next::Continue;
        };
        let mut reply = Vec::new();
        if fault.applies() {
            self.apply(command.args(), |_, bytes| reply = bytes);
        }
        self.fail(&command.name(), fault, reply)
    }

    /// Applies a command, waits as long as it blocks, and passes its reply on.
    fn apply(&mut self, args: &[Vec<u8>], reply: impl FnOnce(&Self, Vec<u8>)) {
        let mut deadline = None;
        let mut database = lock(&self.shared.database);
        loop {
            let answer = self.session.execute(&mut database, args);
            let waiting = self.session.waiting.take();
            let now = Instant::now();
            if let Some(timeout) = waiting {
                // The first deadline counts: a command that is woken and finds nothing waits for the rest of
                // its time.
                deadline =
                    deadline.or_else(|| timeout.and_then(|timeout| now.checked_add(timeout)));
            }
            if waiting.is_none() || deadline.is_some_and(|deadline| deadline <= now) {
                // Still under the lock, so that no published message overtakes the reply to its SUBSCRIBE.
                reply(self, answer.encode(self.session.protocol));
                break;
            }
            let left = deadline.map_or(POLL_INTERVAL, |deadline| POLL_INTERVAL.min(deadline - now));
            // The wait releases the lock and takes it again; it is dropped once more, since `is_abandoned`
            // reads from the socket.
            drop(self.shared.wait_for_change(database, left));
            // A client that is gone must not take what others wait for.
            if self.run.is_stopped() || self.is_abandoned() {
                self.session.closing = true;
                return;
            }
            database = lock(&self.shared.database);
        }
        drop(database);
        // Any command may have changed what a blocked one waits for; that is not found out more precisely.
        self.shared.announce_change();
    }

    /// Injects a fault. `reply` is that of the command, if it was applied.
    fn fail(&mut self, name: &str, fault: Fault, reply: Vec<u8>) -> Next {
        match fault {
            Fault::CloseAfter | Fault::CloseBefore => return Next::Close,
            Fault::Delay(time) => {
                self.run.pause(time);
                self.send(reply);
            }
            Fault::Error(text) => self.refuse(name, text),
            Fault::Garbage(bytes) => self.send(bytes),
            Fault::HalfReplyThenClose => {
                self.send(half(reply));
                return Next::Close;
            }
            Fault::HalfReplyThenHang => {
                self.send(half(reply));
                self.mute = true;
            }
            // `HangAfter` has been applied by now; its reply is dropped.
            Fault::HangAfter | Fault::HangBefore => self.mute = true,
            Fault::Moved { slot, to } => self.refuse(name, format!("MOVED {slot} {to}")),
            Fault::Trickle(time) => {
                for byte in reply {
                    self.run.pause(time);
                    self.send(vec![byte]);
                }
            }
        }
        Next::Continue
    }

    /// Replies with an error to a command that is not applied.
    fn refuse(&mut self, name: &str, text: String) {
        self.session.refuse(name);
        self.send(Reply::Error(text).encode(self.session.protocol));
    }

    /// Queues bytes to be written.
    fn send(&self, bytes: Vec<u8>) {
        // The writer is gone when the peer is; the reader finds that out by itself.
        let _ = self.writer.send(bytes);
    }

    /// True if the client of a blocked command is gone.
    fn is_abandoned(&self) -> bool {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(1)));
        let peeked = self.stream.peek(&mut [0]);
        let _ = self.stream.set_read_timeout(None);
        match peeked {
            Ok(bytes) => bytes == 0,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.shared.end_session(self.session.id);
    }
}

/// Returns the first half of a reply.
fn half(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}
