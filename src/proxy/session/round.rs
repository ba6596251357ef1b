//! Reads one round: which requests at the beginning of the input can be sent together?
//!
//! * [`Session::read_round`]: requests in the usual form are read without copying them. It stops at the
//!   limits of a round, at a request that needs an action, and at bytes in any other form.
//! * [`Session::read_heavy_round`]: the one request with very many arguments that ended the round before.
//! * `next_unusual`: inline requests, requests split over reads, malformed ones, and large ones whose bytes
//!   are forwarded as they arrive.
//!
//! The limits of a round keep one client from occupying the thread (number of commands, of arguments) and the
//! memory (bytes of requests and of replies) that it shares with others. The limits for unauthenticated
//! clients are those of a server.

use super::{ClientRequest, NextStep, RoundInput, Session};
use crate::command::{Args, Lookup, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::{LARGE_BYTES, RawPipeline, Router};
use crate::proxy::action::Action;
use crate::proxy::client_command::ReplyMode;
use crate::resp::{EMPTY_REQUEST, Parsed, RequestParser, announced_args, parse_prefix};

/// Maximum number of commands in a round. Later requests wait for the replies of the round.
const ROUND_COMMANDS_MAX: u32 = 4096;
/// Number of bytes of requests after which a round is full. Its last request may exceed it.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// Number of arguments after which a round is full: planning takes time for each argument, during which the
/// thread serves no other client.
const ROUND_ARGS_MAX: usize = 16_384;

/// A request with more arguments than this becomes a round of its own, on a thread for blocking work: see
/// [`NextStep::Heavy`].
pub(crate) const HEAVY_ARGS_MIN: usize = 4096;

/// Maximum number of bytes of unusual requests that are rewritten at once.
const REWRITTEN_BYTES_MAX: usize = 1 << 20;

/// Maximum number of commands in a client's first round, when the size of its replies is not known yet.
pub(super) const FIRST_ROUND_COMMANDS_MAX: u32 = 1024;

/// Target for the bytes of all replies of a round. After a round with larger replies the next one has fewer
/// commands.
const ROUND_REPLY_BYTES: usize = 8 << 20;

/// Maximum number of arguments in a request before AUTH.
///
/// A server has the same limits, since CVE-2021-32675: without them, a client that does not know the password
/// could make it reserve memory for arguments that never arrive.
const UNAUTHENTICATED_ARGS_MAX: usize = 10;
/// Maximum number of bytes of an argument before AUTH.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 << 10;

impl Session {
    /// Adapts the size of the next round, after one of `commands` commands whose replies had `bytes` bytes.
    ///
    /// The replies of a round are all in memory before the first is written, so a client that pipelines large
    /// GETs gets smaller rounds.
    pub(crate) fn answered(&mut self, commands: u32, bytes: usize) {
        let fitting = ROUND_REPLY_BYTES as u64 * u64::from(commands) / (bytes as u64).max(1);
        // At most doubled: a round of small replies says little about the commands that follow.
        let most = u64::from(self.round_commands_max) * 2;
        if commands > 0 {
            let next = fitting.min(most).clamp(1, ROUND_COMMANDS_MAX.into());
            self.round_commands_max = next as u32;
        }
    }

    /// Adds requests from the beginning of `input` to the round, up to the first that must wait for the
    /// replies before it.
    ///
    /// Returns how many bytes were consumed. The caller removes them once the round has been sent, since the
    /// pipeline refers to them until then.
    pub(crate) fn read_round<'f>(
        &mut self,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        self.read_round_up_to(HEAVY_ARGS_MIN, input, pipeline)
    }

    /// Reads the request with very many arguments that is all of `input`: see [`NextStep::Heavy`].
    pub(crate) fn read_heavy_round<'f>(
        &mut self,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        self.read_round_up_to(usize::MAX, input, pipeline)
    }

    /// Reads requests of up to `args_max` arguments. A longer one ends the round before it.
    fn read_round_up_to<'f>(
        &mut self,
        args_max: usize,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        // Offset in `input` where `commands` begins. Moves behind every empty request.
        let mut base = 0;
        let mut commands = PackedCommands::new(input);
        let mut args = Args::new();
        let mut args_taken = 0;
        loop {
            let consumed = base + commands.offset();
            let rest = &input[consumed..];
            let (count, bytes) = pipeline.size();
            let is_full = count >= self.round_commands_max || bytes >= ROUND_BYTES_MAX;
            if is_full || args_taken >= ROUND_ARGS_MAX {
                return RoundInput {
                    consumed,
                    next: NextStep::Round,
                };
            }
            // Looks at the first line only, and before everything else: to parse the request is what takes
            // long.
            if announced_args(rest).is_some_and(|count| count > args_max) {
                return self.next_heavy(pipeline.router(), rest, consumed);
            }
            // Part of this request was already searched in an earlier read. To parse it from its first byte
            // after every read would take quadratic time.
            if self.parser.is_under_way() {
                return self.next_unusual(pipeline.router(), rest, consumed);
            }
            match commands.next(&mut args) {
                Ok(Some(frame)) => {
                    if !self.authenticated
                        && let Some(why) = unauthenticated_limit(&args)
                    {
                        let next = self.protocol_error(why.into());
                        return RoundInput { consumed, next };
                    }
                    // Counted before the command is looked up: refused requests cost time as well.
                    args_taken += args.len();
                    let request = ClientRequest {
                        frame,
                        args: &args,
                        is_last: base + commands.offset() == input.len(),
                    };
                    if let Some(next) = self.answer(request, pipeline) {
                        let consumed = base + commands.offset();
                        return RoundInput { consumed, next };
                    }
                }
                Ok(None) => {
                    return RoundInput {
                        consumed,
                        next: NextStep::Input(1),
                    };
                }
                // `normalize` keeps empty requests in its output. If they were unusual, all the rest would be
                // rewritten again behind each of them, in quadratic time.
                Err(_) if rest.starts_with(EMPTY_REQUEST) => {
                    self.skip_empty();
                    base = consumed + EMPTY_REQUEST.len();
                    commands = PackedCommands::new(&input[base..]);
                }
                Err(_) => return self.next_unusual(pipeline.router(), rest, consumed),
            }
        }
    }

    /// An empty request (`*0`, or an empty line) has no reply, but it ends CLIENT REPLY SKIP, as on a server.
    fn skip_empty(&mut self) {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
    }

    /// Ends the round at a request with very many arguments, which begins at `bytes`. `before` is the number
    /// of bytes before it.
    fn next_heavy(&mut self, router: &Router, bytes: &[u8], before: usize) -> RoundInput {
        let next = match self.authenticated {
            // The requests before it are a round of their own, so that their replies do not wait for it.
            _ if before > 0 => NextStep::Round,
            false => self.protocol_error(UNAUTHENTICATED_ARGS.into()),
            true => match self.parser.whole_array(bytes) {
                Some(length) => NextStep::Heavy(length),
                // It has not arrived entirely, or is malformed.
                None => return self.next_unusual(router, bytes, before),
            },
        };
        RoundInput {
            consumed: before,
            next,
        }
    }

    /// Decides how to go on at `bytes`, which do not begin with a whole request in the usual form. `before`
    /// is the number of bytes before them.
    ///
    /// Requests in another form are rewritten to the usual one and read again from there, so only one reader
    /// feeds the pipeline.
    fn next_unusual(&mut self, router: &Router, bytes: &[u8], before: usize) -> RoundInput {
        let (length, next) = match self.parser.parse(bytes) {
            // Before everything else: neither memory nor an upload for a client that has not authenticated.
            Parsed::Incomplete(_) if !self.authenticated && exceeds_unauthenticated_args(bytes) => {
                (0, self.protocol_error(UNAUTHENTICATED_ARGS.into()))
            }
            Parsed::Incomplete(needed)
                if !self.authenticated && needed > bytes.len() + UNAUTHENTICATED_BYTES_MAX =>
            {
                (0, self.protocol_error(UNAUTHENTICATED_BYTES.into()))
            }
            // A value of many megabytes is not kept in memory, if its owner is known from what has arrived.
            Parsed::Incomplete(needed) if needed > bytes.len() + LARGE_BYTES => {
                match self.owner_of_prefix(router, bytes) {
                    Some(node) => {
                        // The upload consumes the bytes that the parser remembers.
                        self.parser = RequestParser::default();
                        (0, NextStep::Upload { node })
                    }
                    None => (0, NextStep::Input(needed - bytes.len())),
                }
            }
            Parsed::Incomplete(needed) => (0, NextStep::Input(needed.saturating_sub(bytes.len()))),
            Parsed::Empty(length) => {
                self.skip_empty();
                self.rewrite(bytes, length, Vec::new())
            }
            Parsed::Request { length, packed } => self.rewrite(bytes, length, packed),
            Parsed::Invalid(why) => (0, self.protocol_error(why)),
        };
        RoundInput {
            consumed: before + length,
            next,
        }
    }

    /// Adds the requests after the first `length` bytes to `packed`, in the usual form, and returns how many
    /// bytes that consumed.
    ///
    /// One at a time would be quadratic: a megabyte of inline requests would be moved once for each of them.
    fn rewrite(&mut self, bytes: &[u8], length: usize, mut packed: Vec<u8>) -> (usize, NextStep) {
        let rest = self.parser.normalize(&bytes[length..], REWRITTEN_BYTES_MAX);
        self.parser = RequestParser::default();
        packed.extend_from_slice(&rest.packed);
        let next = match packed.is_empty() {
            true => NextStep::Round,
            false => NextStep::Requests(packed),
        };
        (length + rest.consumed, next)
    }

    /// Disconnects a client whose bytes are no request. After CLIENT REPLY OFF or SKIP without the error,
    /// since a server writes no error then either.
    fn protocol_error(&self, why: Vec<u8>) -> NextStep {
        match self.reply_mode {
            ReplyMode::On => NextStep::Broken(why),
            ReplyMode::Off | ReplyMode::SkipNext => NextStep::Act {
                action: Action::Close,
                wants_reply: false,
            },
        }
    }

    /// Returns the node of a large request that has only begun, if its bytes can be forwarded as they arrive:
    /// a command with one key, and that key has arrived.
    fn owner_of_prefix(&self, router: &Router, bytes: &[u8]) -> Option<NodeIndex> {
        // In a transaction the request must be queued, in subscribed mode it is refused, and a reply that is
        // forwarded in pieces cannot be suppressed.
        let plain = self.transaction.is_none()
            // What is forwarded cannot be planned again.
            && !router.is_moving()
            && !self.is_subscribed_in_resp2()
            && self.map_error.is_none()
            && self.reply_mode == ReplyMode::On;
        let (count, args) = parse_prefix(bytes).filter(|_| plain)?;
        let Lookup::Found(command) = router.find(&args) else {
            return None;
        };
        let key = args.get(command.sole_key().filter(|_| command.accepts(count))?)?;
        router.owner(key).ok()
    }
}

/// Error of a server for a request with too many arguments before AUTH.
const UNAUTHENTICATED_ARGS: &str = "Protocol error: unauthenticated multibulk length";
/// Error of a server for a request with a large argument before AUTH.
const UNAUTHENTICATED_BYTES: &str = "Protocol error: unauthenticated bulk length";

/// Returns the error for a whole request that exceeds what a client may send before AUTH.
fn unauthenticated_limit(args: &[&[u8]]) -> Option<&'static str> {
    if args.len() > UNAUTHENTICATED_ARGS_MAX {
        return Some(UNAUTHENTICATED_ARGS);
    }
    let is_large = args.iter().any(|arg| arg.len() > UNAUTHENTICATED_BYTES_MAX);
    is_large.then_some(UNAUTHENTICATED_BYTES)
}

/// True if a request that has not arrived entirely announces more arguments than are allowed before AUTH.
fn exceeds_unauthenticated_args(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'*')
        && parse_prefix(bytes).is_some_and(|(count, _)| count > UNAUTHENTICATED_ARGS_MAX)
}
