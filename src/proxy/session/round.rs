//! What of the input goes in one round.

use super::{ClientRequest, NextStep, RoundInput, Session};
use crate::command::{Args, Lookup, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::{LARGE_BYTES, RawPipeline, Router};
use crate::proxy::action::Action;
use crate::proxy::client_command::ReplyMode;
use crate::resp::{EMPTY_REQUEST, Parsed, RequestParser, announced_args, parse_prefix};

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
const UNAUTHENTICATED_ARGS_MAX: usize = 10;
const UNAUTHENTICATED_BYTES_MAX: usize = 16 << 10;

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
    pub(crate) fn read_round<'f>(
        &mut self,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        self.read_round_up_to(HEAVY_ARGS_MIN, input, pipeline)
    }

    /// Takes the request with very many arguments that `input` is.
    pub(crate) fn read_heavy_round<'f>(
        &mut self,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        self.read_round_up_to(usize::MAX, input, pipeline)
    }

    fn read_round_up_to<'f>(
        &mut self,
        args_max: usize,
        input: &'f [u8],
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> RoundInput {
        // Where `commands` begins.
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
            if announced_args(rest).is_some_and(|count| count > args_max) {
                return self.next_heavy(pipeline.router(), rest, consumed);
            }
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
                Err(_) if rest.starts_with(EMPTY_REQUEST) => {
                    self.skip_empty();
                    base = consumed + EMPTY_REQUEST.len();
                    commands = PackedCommands::new(&input[base..]);
                }
                Err(_) => return self.next_unusual(pipeline.router(), rest, consumed),
            }
        }
    }

    /// An array without elements has come, or an empty line. A server skips the reply to nothing, too.
    fn skip_empty(&mut self) {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
    }

    /// A request with very many arguments has begun: what came before it is a round.
    fn next_heavy(&mut self, router: &Router, bytes: &[u8], before: usize) -> RoundInput {
        let next = match self.authenticated {
            _ if before > 0 => NextStep::Round,
            false => self.protocol_error(UNAUTHENTICATED_ARGS.into()),
            true => match self.parser.whole_array(bytes) {
                Some(length) => NextStep::Heavy(length),
                None => return self.next_unusual(router, bytes, before),
            },
        };
        RoundInput {
            consumed: before,
            next,
        }
    }

    /// What stands there instead of a whole request in the usual form.
    fn next_unusual(&mut self, router: &Router, bytes: &[u8], before: usize) -> RoundInput {
        let (length, next) = match self.parser.parse(bytes) {
            Parsed::Incomplete(_) if !self.authenticated && exceeds_unauthenticated_args(bytes) => {
                (0, self.protocol_error(UNAUTHENTICATED_ARGS.into()))
            }
            Parsed::Incomplete(needed)
                if !self.authenticated && needed > bytes.len() + UNAUTHENTICATED_BYTES_MAX =>
            {
                (0, self.protocol_error(UNAUTHENTICATED_BYTES.into()))
            }
            Parsed::Incomplete(needed) if needed > bytes.len() + LARGE_BYTES => {
                match self.owner_of_prefix(router, bytes) {
                    Some(node) => {
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

    /// Adds the requests behind the first `length` bytes to `packed`, which has those before, in the usual form.
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

    /// The end of a client whose bytes are no request. After CLIENT REPLY OFF or SKIP it is not told why.
    fn protocol_error(&self, why: Vec<u8>) -> NextStep {
        match self.reply_mode {
            ReplyMode::On => NextStep::Broken(why),
            ReplyMode::Off | ReplyMode::SkipNext => NextStep::Act {
                action: Action::Close,
                wants_reply: false,
            },
        }
    }

    /// The node of a large request that has only begun, if its bytes may go there as they come: a command with one key, which
    /// has arrived.
    fn owner_of_prefix(&self, router: &Router, bytes: &[u8]) -> Option<NodeIndex> {
        let plain = self.transaction.is_none()
            && !self.is_subscribed_in_resp2()
            && self.reply_mode == ReplyMode::On;
        let (count, args) = parse_prefix(bytes).filter(|_| plain)?;
        let Lookup::Found(command) = router.find(&args) else {
            return None;
        };
        let key = args.get(command.sole_key().filter(|_| command.accepts(count))?)?;
        router.owner(key).ok()
    }
}

/// What a server says to who is not let in yet and sends a large request.
const UNAUTHENTICATED_ARGS: &str = "Protocol error: unauthenticated multibulk length";
const UNAUTHENTICATED_BYTES: &str = "Protocol error: unauthenticated bulk length";

fn unauthenticated_limit(args: &[&[u8]]) -> Option<&'static str> {
    if args.len() > UNAUTHENTICATED_ARGS_MAX {
        return Some(UNAUTHENTICATED_ARGS);
    }
    let is_large = args.iter().any(|arg| arg.len() > UNAUTHENTICATED_BYTES_MAX);
    is_large.then_some(UNAUTHENTICATED_BYTES)
}

/// Whether a request that has not arrived entirely says that it has too many arguments.
fn exceeds_unauthenticated_args(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'*')
        && parse_prefix(bytes).is_some_and(|(count, _)| count > UNAUTHENTICATED_ARGS_MAX)
}
