//! What of the input goes in one round.

use super::{Gathered, Next, Request, Session, Work};
use crate::command::{Args, Lookup, PackedCommands};
use crate::front::client_command::Replies;
use crate::front::request::{Arrived, EMPTY_REQUEST, Look, announced_args, begun};
use crate::node::NodeIndex;
use crate::plan::{LARGE_BYTES, Relay, Router};

/// A round has no more than so many commands and about so many bytes; what comes behind waits for its answers.
const ROUND_COMMANDS_MAX: u32 = 4096;
const ROUND_BYTES_MAX: usize = 4 << 20;

/// A round has about so many arguments, so that nobody else waits for it long.
const ROUND_ARGS_MAX: usize = 16_384;

/// A request of more arguments is a round of its own, off the thread that serves other clients.
pub(crate) const HEAVY_ARGS_MIN: usize = 4096;

/// Requests in unusual forms are rewritten so many bytes at a time.
const REWRITTEN_BYTES_MAX: usize = 1 << 20;

/// The first round of a client has no more commands; nobody knows yet how large its replies are.
pub(super) const FIRST_ROUND_COMMANDS_MAX: u32 = 1024;

/// The replies of a round should have no more bytes: when those of the last one did, the next has fewer commands.
const ROUND_REPLY_BYTES: usize = 8 << 20;

/// Who is not let in yet may send requests of so many arguments, each of so many bytes, as on a server.
const STRANGER_ARGS_MAX: usize = 10;
const STRANGER_BYTES_MAX: usize = 16 << 10;

impl Session {
    /// Adapts the size of the next round: one of `commands` commands was answered with `bytes` bytes.
    pub(crate) fn answered(&mut self, commands: u32, bytes: usize) {
        let fitting = ROUND_REPLY_BYTES as u64 * u64::from(commands) / (bytes as u64).max(1);
        let most = u64::from(self.round_commands_max) * 2;
        if commands > 0 {
            let next = fitting.min(most).clamp(1, ROUND_COMMANDS_MAX.into());
            self.round_commands_max = next as u32;
        }
    }

    /// Takes requests from the beginning of `input` into the round, up to one that must wait for the answers of those
    /// before it.
    pub(crate) fn gather<'f>(&mut self, input: &'f [u8], relay: &mut Relay<'_, 'f>) -> Gathered {
        self.gather_up_to(HEAVY_ARGS_MIN, input, relay)
    }

    /// Takes the request with very many arguments that `input` is.
    pub(crate) fn gather_heavy<'f>(
        &mut self,
        input: &'f [u8],
        relay: &mut Relay<'_, 'f>,
    ) -> Gathered {
        self.gather_up_to(usize::MAX, input, relay)
    }

    fn gather_up_to<'f>(
        &mut self,
        args_max: usize,
        input: &'f [u8],
        relay: &mut Relay<'_, 'f>,
    ) -> Gathered {
        // Where `commands` begins.
        let mut base = 0;
        let mut commands = PackedCommands::new(input);
        let mut args = Args::new();
        let mut args_taken = 0;
        loop {
            let consumed = base + commands.offset();
            let rest = &input[consumed..];
            let (count, bytes) = relay.size();
            let is_full = count >= self.round_commands_max || bytes >= ROUND_BYTES_MAX;
            if is_full || args_taken >= ROUND_ARGS_MAX {
                return Gathered {
                    consumed,
                    next: Next::Round,
                };
            }
            if announced_args(rest).is_some_and(|count| count > args_max) {
                return self.take_heavy(relay.router(), rest, consumed);
            }
            if self.look.is_under_way() {
                return self.look_at(relay.router(), rest, consumed);
            }
            match commands.next(&mut args) {
                Ok(Some(frame)) => {
                    if !self.is_let_in
                        && let Some(why) = too_large_of_a_stranger(&args)
                    {
                        let next = self.broken(why.into());
                        return Gathered { consumed, next };
                    }
                    args_taken += args.len();
                    let request = Request {
                        frame,
                        args: &args,
                        is_last: base + commands.offset() == input.len(),
                    };
                    if let Some(next) = self.answer(request, relay) {
                        let consumed = base + commands.offset();
                        return Gathered { consumed, next };
                    }
                }
                Ok(None) => {
                    return Gathered {
                        consumed,
                        next: Next::Input(1),
                    };
                }
                Err(_) if rest.starts_with(EMPTY_REQUEST) => {
                    self.take_nothing();
                    base = consumed + EMPTY_REQUEST.len();
                    commands = PackedCommands::new(&input[base..]);
                }
                Err(_) => return self.look_at(relay.router(), rest, consumed),
            }
        }
    }

    /// An array without elements has come, or an empty line. A server skips the reply to nothing, too.
    fn take_nothing(&mut self) {
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
    }

    /// A request with very many arguments has begun: what came before it is a round.
    fn take_heavy(&mut self, router: &Router, bytes: &[u8], before: usize) -> Gathered {
        let next = match self.is_let_in {
            _ if before > 0 => Next::Round,
            false => self.broken(STRANGER_ARGS.into()),
            true => match self.look.whole_array(bytes) {
                Some(length) => Next::Heavy(length),
                None => return self.look_at(router, bytes, before),
            },
        };
        Gathered {
            consumed: before,
            next,
        }
    }

    /// What stands there instead of a whole request in the usual form.
    fn look_at(&mut self, router: &Router, bytes: &[u8], before: usize) -> Gathered {
        let (length, next) = match self.look.look(bytes) {
            Arrived::Part(_) if !self.is_let_in && has_stranger_args(bytes) => {
                (0, self.broken(STRANGER_ARGS.into()))
            }
            Arrived::Part(needed)
                if !self.is_let_in && needed > bytes.len() + STRANGER_BYTES_MAX =>
            {
                (0, self.broken(STRANGER_BYTES.into()))
            }
            Arrived::Part(needed) if needed > bytes.len() + LARGE_BYTES => {
                match self.owner_of_begun(router, bytes) {
                    Some(node) => {
                        self.look = Look::default();
                        (0, Next::Upload { node })
                    }
                    None => (0, Next::Input(needed - bytes.len())),
                }
            }
            Arrived::Part(needed) => (0, Next::Input(needed.saturating_sub(bytes.len()))),
            Arrived::Nothing(length) => {
                self.take_nothing();
                self.rewrite(bytes, length, Vec::new())
            }
            Arrived::Request { length, packed } => self.rewrite(bytes, length, packed),
            Arrived::Broken(why) => (0, self.broken(why)),
        };
        Gathered {
            consumed: before + length,
            next,
        }
    }

    /// Adds the requests behind the first `length` bytes to `packed`, which has those before, in the usual form.
    fn rewrite(&mut self, bytes: &[u8], length: usize, mut packed: Vec<u8>) -> (usize, Next) {
        let rest = self.look.normalize(&bytes[length..], REWRITTEN_BYTES_MAX);
        self.look = Look::default();
        packed.extend_from_slice(&rest.packed);
        let next = match packed.is_empty() {
            true => Next::Round,
            false => Next::Requests(packed),
        };
        (length + rest.consumed, next)
    }

    /// The end of a client whose bytes are no request. After CLIENT REPLY OFF or SKIP it is not told why.
    fn broken(&self, why: Vec<u8>) -> Next {
        match self.replies {
            Replies::On => Next::Broken(why),
            Replies::Off | Replies::SkipNext => Next::Work {
                work: Work::Close,
                silent: true,
            },
        }
    }

    /// The node of a large request that has only begun, if its bytes may go there as they come: a command with one key, which
    /// has arrived.
    fn owner_of_begun(&self, router: &Router, bytes: &[u8]) -> Option<NodeIndex> {
        let plain =
            self.transaction.is_none() && !self.only_listens() && self.replies == Replies::On;
        let (count, args) = begun(bytes).filter(|_| plain)?;
        let Lookup::Found(command) = router.find(&args) else {
            return None;
        };
        let key = args.get(command.sole_key().filter(|_| command.accepts(count))?)?;
        router.owner(key).ok()
    }
}

/// What a server says to who is not let in yet and sends a large request.
const STRANGER_ARGS: &str = "Protocol error: unauthenticated multibulk length";
const STRANGER_BYTES: &str = "Protocol error: unauthenticated bulk length";

fn too_large_of_a_stranger(args: &[&[u8]]) -> Option<&'static str> {
    if args.len() > STRANGER_ARGS_MAX {
        return Some(STRANGER_ARGS);
    }
    let is_large = args.iter().any(|arg| arg.len() > STRANGER_BYTES_MAX);
    is_large.then_some(STRANGER_BYTES)
}

/// Whether a request that has not arrived entirely says that it has too many arguments.
fn has_stranger_args(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'*') && begun(bytes).is_some_and(|(count, _)| count > STRANGER_ARGS_MAX)
}
