//! What a dedicated connection in a cluster adds to its requests, as the slot of its keys may move.
//!
//! The servers of a cluster forget a watched key without a word in one case: the key does not exist, and its slot leaves.
//! EXEC runs then, unless a command of the transaction has a key of the slot. So [`SlotGuard`] puts EXISTS of all watched
//! keys behind MULTI, which is refused once they have left, and takes its reply out of that to EXEC:
//!
//! ```text
//! user                    sent                          replies              user receives
//! WATCH a                 WATCH a                       OK                   OK
//! MULTI, PING, EXEC       MULTI, EXISTS a, PING, EXEC   ..., [0, PONG]       [PONG]
//!                                        a has left:    ..., EXECABORT       nil
//! ```
//!
//! A transaction that watches keys is never redirected: what was read before it may be out of date. If the server has
//! refused it because its slot has moved or is on its way, the reply to EXEC is nil, as if a key had changed.
//!
//! A connection to the server that *imports* the slot has ASKING in front of each command, or of each transaction.
//!
//! Requests are [extended](SlotGuard::extend) before they are sent, and what was added is taken out of the
//! [replies](SlotGuard::receive).

use std::time::Duration;

use redis::{ServerError, Value};

use crate::command::{Args, PackedCommands, write_command};
use crate::error::{is_waited_code, server_error};
use crate::partition::NodeIndex;
use crate::plan::attempts::TRANSACTION_ATTEMPTS_MAX;
use crate::plan::redirects::{ClusterReport, parse_redirect};
use crate::plan::watch::{ends_watch, is_watch};
use crate::plan::{Answers, DedicatedState, TransactionState};
use crate::topology::HostPort;
use crate::topology::cluster::ClusterMap;

/// Has a server of a cluster serve the next command although it does not own the slot yet.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Maximum number of bytes of the keys that one connection in a cluster watches, as they are sent again with each
/// transaction.
pub(crate) const WATCHED_BYTES_MAX: usize = 1 << 20;

/// The shortest and the longest pause after a refusal by a slot that moves: its user tries again at once.
const MOVING_PAUSES_MS: (u64, u64) = (2, 10);

/// What is known of the slot of a dedicated connection's keys.
#[derive(Debug, Default)]
pub(crate) struct SlotGuard {
    /// The watched keys; also those whose WATCH has failed.
    watched: Vec<Vec<u8>>,
    /// True if the server imports the slot.
    is_asking: bool,
    /// The commands of the request that has been extended and has no replies yet.
    sent: Vec<Sent>,
    /// True if its user receives the reply to EXEC alone.
    is_atomic: bool,
    /// What has become of the transaction since MULTI.
    open: OpenTransaction,
    /// The last refusal outside of a transaction.
    refusal: Option<SlotRefusal>,
    /// True once a request was refused because of the slot.
    was_refused: bool,
    /// True if a transaction has run since the last WATCH.
    has_run: bool,
    /// True if there should be a pause before the user learns of the replies.
    needs_pause: bool,
    reports: Vec<ClusterReport>,
}

/// Why a server has not served a command for keys of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum SlotRefusal {
    /// The slot has moved.
    Moved,
    /// The slot is on its way to this node, which has the keys that the server lacks. `None` if it is no node yet.
    Ask(Option<NodeIndex>),
    /// The server does not serve the slot for the time being.
    Unavailable,
}

/// A command of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Added: ASKING.
    Asking,
    /// MULTI.
    Multi,
    /// Added: EXISTS of the watched keys.
    Guard,
    /// A command within the transaction.
    Queued,
    Exec,
    /// A command outside of a transaction.
    Other,
}

/// A transaction that has begun.
#[derive(Debug, Default)]
struct OpenTransaction {
    guard: GuardState,
    /// True if a command was refused because of its slot.
    is_redirected: bool,
    /// True if a command was refused for another reason.
    has_failed: bool,
}

/// What has become of the check of the watched keys.
#[derive(Debug, Default)]
enum GuardState {
    /// No key is watched.
    #[default]
    None,
    Queued,
    /// The keys have left, or are on their way.
    Left,
    /// The server does not permit the check.
    Refused(ServerError),
}

impl SlotGuard {
    /// True if the server imports the slot.
    pub(in crate::plan) fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// For a connection to the server that imports the slot.
    pub(in crate::plan) fn set_asking(&mut self, is_asking: bool) {
        self.is_asking = is_asking;
    }

    /// True if the keys that WATCH names are too many to be sent again with each transaction.
    pub(in crate::plan) fn is_full(&self, args: &[&[u8]]) -> bool {
        let watched = self.watched.iter().map(Vec::len);
        let more = args.iter().skip(1).map(|key| key.len());
        watched.chain(more).sum::<usize>() > WATCHED_BYTES_MAX
    }

    /// The request as it is sent, with the number of its replies. `state` is that of the connection before it;
    /// `is_atomic` for a request whose user receives the reply to EXEC alone.
    pub(in crate::plan) fn extend(
        &mut self,
        packed: &[u8],
        mut state: TransactionState,
        is_atomic: bool,
    ) -> (Vec<u8>, usize) {
        self.sent.clear();
        self.refusal = None;
        self.is_atomic = is_atomic;
        let mut extended = Vec::with_capacity(packed.len());
        let mut commands = PackedCommands::new(packed);
        let mut args = Args::new();
        while let Ok(Some(frame)) = commands.next(&mut args) {
            let name = args.first().copied().unwrap_or_default();
            let next = state.after(&args);
            let sent = match (state, next) {
                (TransactionState::Idle, TransactionState::Queuing) => Sent::Multi,
                (TransactionState::Idle, TransactionState::Idle) => Sent::Other,
                (TransactionState::Queuing, TransactionState::Queuing) => Sent::Queued,
                (TransactionState::Queuing, TransactionState::Idle) => {
                    match name.eq_ignore_ascii_case(b"EXEC") {
                        true => Sent::Exec,
                        // DISCARD and RESET.
                        false => Sent::Other,
                    }
                }
            };
            // One in front of MULTI covers the transaction.
            if self.is_asking && state == TransactionState::Idle {
                extended.extend_from_slice(ASKING);
                self.sent.push(Sent::Asking);
            }
            extended.extend_from_slice(frame);
            self.sent.push(sent);
            if sent == Sent::Multi && !self.watched.is_empty() {
                self.write_check(&mut extended);
                self.sent.push(Sent::Guard);
            }
            if state == TransactionState::Idle && is_watch(name) {
                self.watch(&args[1..]);
            } else if next == TransactionState::Idle && ends_watch(name) {
                self.watched.clear();
            }
            state = next;
        }
        (extended, self.sent.len())
    }

    fn watch(&mut self, keys: &[&[u8]]) {
        self.has_run = false;
        for key in keys {
            if !self.watched.iter().any(|watched| watched == key) {
                self.watched.push(key.to_vec());
            }
        }
    }

    fn write_check(&self, out: &mut Vec<u8>) {
        let keys = self.watched.iter().map(Vec::as_slice);
        let args: Vec<&[u8]> = [&b"EXISTS"[..]].into_iter().chain(keys).collect();
        write_command(out, &args);
    }

    /// The keys are watched no longer, by a request that was not extended.
    pub(in crate::plan) fn forget(&mut self) {
        self.watched.clear();
        self.sent.clear();
        self.open = OpenTransaction::default();
    }

    /// Takes what was added out of the replies to the last request, and has a transaction fail as WATCH makes it fail
    /// if its slot has left. `node` is the node of the connection.
    pub(in crate::plan) fn receive(
        &mut self,
        map: &ClusterMap,
        node: NodeIndex,
        answers: &mut Answers,
    ) {
        let sent = std::mem::take(&mut self.sent);
        if sent.is_empty() {
            return;
        }
        let mut kept = Vec::with_capacity(answers.values.len());
        for (sent, mut reply) in sent.into_iter().zip(answers.values.drain(..)) {
            let refusal = match &reply {
                Value::ServerError(error) => self.refusal(error, map, node),
                _ => None,
            };
            let is_added = matches!(sent, Sent::Asking | Sent::Guard);
            match sent {
                Sent::Asking => {}
                Sent::Multi => self.open = OpenTransaction::default(),
                Sent::Guard => self.open.guard = GuardState::of(&reply, refusal.is_some()),
                Sent::Queued => {
                    self.open.is_redirected |= refusal.is_some();
                    self.open.has_failed |=
                        refusal.is_none() && matches!(reply, Value::ServerError(_));
                }
                Sent::Exec => {
                    let open = std::mem::take(&mut self.open);
                    reply = self.exec_reply(&open, refusal.is_some(), reply);
                    if self.is_atomic && reply == Value::Nil {
                        kept.iter_mut().for_each(hide_refusal);
                    }
                }
                Sent::Other => {
                    self.open = OpenTransaction::default();
                    self.refusal = refusal;
                }
            }
            if !is_added {
                kept.push(reply);
            }
        }
        answers.values = kept;
    }

    /// The reply to EXEC that the user receives.
    fn exec_reply(&mut self, open: &OpenTransaction, is_refused: bool, reply: Value) -> Value {
        match (reply, &open.guard) {
            (Value::Array(mut replies), GuardState::Queued) if !replies.is_empty() => {
                replies.remove(0);
                self.has_run = true;
                Value::Array(replies)
            }
            (Value::ServerError(error), GuardState::Refused(refusal))
                if error.code() == "EXECABORT" && !open.has_failed =>
            {
                let text = format!(
                    "Transaction discarded because the watched keys could not be checked with EXISTS: {} {}",
                    refusal.code(),
                    refusal.details().unwrap_or_default(),
                );
                Value::ServerError(server_error("EXECABORT", &text))
            }
            (Value::ServerError(error), GuardState::Queued | GuardState::Left) => {
                let is_left = matches!(open.guard, GuardState::Left) || open.is_redirected;
                let is_aborted = error.code() == "EXECABORT" && is_left && !open.has_failed;
                match is_refused || is_aborted {
                    true => Value::Nil,
                    false => Value::ServerError(error),
                }
            }
            (reply, _) => {
                self.has_run |= matches!(reply, Value::Array(_));
                reply
            }
        }
    }

    /// What an error says about the slot. Records it.
    fn refusal(
        &mut self,
        error: &ServerError,
        map: &ClusterMap,
        node: NodeIndex,
    ) -> Option<SlotRefusal> {
        let code = error.code();
        let redirect = || {
            let text = error.details().unwrap_or_default().as_bytes();
            let asked = || map.address(node).map(|address| address.host.clone());
            parse_redirect(text, asked)
        };
        let refusal = match code {
            "MOVED" => {
                let (slot, address) = redirect()?;
                self.reports.push(ClusterReport::Moved(slot, address));
                SlotRefusal::Moved
            }
            "ASK" => {
                let (_, address): (_, HostPort) = redirect()?;
                SlotRefusal::Ask(map.node_at(&address))
            }
            "TRYAGAIN" => SlotRefusal::Unavailable,
            _ if is_waited_code(code.as_bytes()) || code == "READONLY" => {
                self.reports.push(ClusterReport::Suspect);
                SlotRefusal::Unavailable
            }
            _ => return None,
        };
        self.was_refused = true;
        self.needs_pause = true;
        Some(refusal)
    }

    /// The refusal of the last request, if it was outside of a transaction.
    pub(in crate::plan) fn last_refusal(&self) -> Option<&SlotRefusal> {
        self.refusal.as_ref()
    }

    /// The keys are known to have moved.
    pub(in crate::plan) fn set_moved(&mut self) {
        self.was_refused = true;
    }

    /// True if another connection serves the keys better: a request was refused because of their slot.
    pub(in crate::plan) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// True if a transaction has run since the last WATCH.
    pub(in crate::plan) fn has_run(&self) -> bool {
        self.has_run
    }

    /// What the map of the cluster must learn.
    pub(in crate::plan) fn take_reports(&mut self) -> Vec<ClusterReport> {
        std::mem::take(&mut self.reports)
    }

    /// The pause before the user learns of the last replies, as they will be asked for again at once. `entropy` is a
    /// random number.
    pub(in crate::plan) fn take_pause(&mut self, entropy: u64) -> Option<Duration> {
        let (least, most) = MOVING_PAUSES_MS;
        std::mem::take(&mut self.needs_pause)
            .then(|| Duration::from_millis(least + entropy % (most - least)))
    }
}

/// Where WATCH goes, until a server has accepted it.
#[derive(Debug, Default)]
pub(crate) struct WatchRoute {
    /// The node that imports the slot, if a server has named it.
    importing: Option<NodeIndex>,
    tries: u32,
}

impl WatchRoute {
    /// The node to send it to, if `owner` has the slot by the map, and whether that node imports the slot.
    pub(crate) fn node(&self, owner: NodeIndex) -> (NodeIndex, bool) {
        (self.importing.unwrap_or(owner), self.importing.is_some())
    }

    /// True if it is to be sent again, after it was sent over a connection in this state. `left` is the time that is left.
    pub(crate) fn after(&mut self, state: &DedicatedState, left: Option<Duration>) -> bool {
        if !state.has_moved() {
            return false;
        }
        self.importing = match state.slot_refusal() {
            Some(SlotRefusal::Ask(node)) => *node,
            // Not even sent, if the map has changed.
            Some(SlotRefusal::Moved | SlotRefusal::Unavailable) | None => None,
        };
        self.tries += 1;
        self.tries < TRANSACTION_ATTEMPTS_MAX && left.is_none_or(|left| !left.is_zero())
    }
}

impl GuardState {
    fn of(reply: &Value, is_left: bool) -> Self {
        match reply {
            Value::ServerError(_) if is_left => Self::Left,
            Value::ServerError(error) => Self::Refused(error.clone()),
            _ => Self::Queued,
        }
    }
}

/// The user of an atomic pipeline would take the error of a command for the result, although the transaction was aborted.
fn hide_refusal(reply: &mut Value) {
    if matches!(reply, Value::ServerError(_)) {
        *reply = Value::SimpleString("QUEUED".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeIndex = NodeIndex::new(0);

    fn map() -> ClusterMap {
        let at = |port| HostPort {
            host: "h".into(),
            port,
        };
        ClusterMap::new(vec![at(1), at(2)], |_| Some(NODE))
    }

    fn packed(requests: &str) -> Vec<u8> {
        let mut packed = Vec::new();
        for request in requests.split("; ") {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            write_command(&mut packed, &args);
        }
        packed
    }

    fn text(packed: &[u8]) -> String {
        let (mut commands, mut args) = (PackedCommands::new(packed), Args::new());
        let mut all = Vec::new();
        while let Ok(Some(_)) = commands.next(&mut args) {
            let words = args
                .iter()
                .map(|arg| String::from_utf8_lossy(arg).into_owned());
            all.push(words.collect::<Vec<_>>().join(" "));
        }
        all.join("; ")
    }

    fn error(code: &str, text: &str) -> Value {
        Value::ServerError(server_error(code, text))
    }

    fn queued() -> Value {
        Value::SimpleString("QUEUED".into())
    }

    /// Sends requests and returns what is sent.
    fn sent(guard: &mut SlotGuard, requests: &str, is_atomic: bool) -> String {
        let (extended, count) = guard.extend(&packed(requests), TransactionState::Idle, is_atomic);
        let extended = text(&extended);
        assert_eq!(extended.split("; ").count(), count);
        extended
    }

    fn received(guard: &mut SlotGuard, replies: &[Value]) -> Vec<Value> {
        let mut answers = Answers {
            values: replies.to_vec(),
            failure: None,
        };
        guard.receive(&map(), NODE, &mut answers);
        answers.values
    }

    /// A guard of a connection that watches `a` and `b`.
    fn watching() -> SlotGuard {
        let mut guard = SlotGuard::default();
        assert_eq!(sent(&mut guard, "WATCH a b", false), "WATCH a b");
        assert_eq!(received(&mut guard, &[Value::Okay]), [Value::Okay]);
        guard
    }

    const TRANSACTION: &str = "MULTI; PING; EXEC";

    #[test]
    fn watched_keys_are_checked_behind_multi_and_the_reply_is_taken_out() {
        let mut guard = watching();
        let extended = "MULTI; EXISTS a b; PING; EXEC";
        assert_eq!(sent(&mut guard, TRANSACTION, true), extended);
        let pong = Value::SimpleString("PONG".into());
        let exec = Value::Array(vec![Value::Int(0), pong.clone()]);
        let replies = received(&mut guard, &[Value::Okay, queued(), queued(), exec]);
        assert_eq!(replies, [Value::Okay, queued(), Value::Array(vec![pong])]);
        assert!(guard.has_run() && !guard.was_refused());
        // EXEC has ended the watch.
        assert_eq!(sent(&mut guard, TRANSACTION, true), TRANSACTION);
    }

    #[test]
    fn watch_and_transaction_in_one_pipeline_are_checked_and_unwatch_ends_it() {
        let mut guard = SlotGuard::default();
        assert_eq!(
            sent(
                &mut guard,
                "WATCH a; MULTI; GET a; EXEC; MULTI; EXEC",
                false
            ),
            "WATCH a; MULTI; EXISTS a; GET a; EXEC; MULTI; EXEC"
        );
        for end in ["UNWATCH", "DISCARD", "RESET"] {
            let mut guard = watching();
            let requests = format!("{end}; MULTI; EXEC");
            assert_eq!(sent(&mut guard, &requests, false), requests);
        }
    }

    #[test]
    fn transaction_whose_slot_has_left_is_aborted_like_one_whose_key_has_changed() {
        let (moved, ask) = (error("MOVED", "7 h:2"), error("ASK", "7 h:2"));
        let discarded = error(
            "EXECABORT",
            "Transaction discarded because of previous errors.",
        );
        for replies in [
            // Told when the check is queued, or a command, or by EXEC itself.
            [Value::Okay, moved.clone(), queued(), discarded.clone()],
            [Value::Okay, ask.clone(), ask.clone(), discarded.clone()],
            [Value::Okay, queued(), ask.clone(), discarded.clone()],
            [Value::Okay, queued(), queued(), moved.clone()],
            [Value::Okay, queued(), queued(), ask.clone()],
            [Value::Okay, queued(), queued(), error("TRYAGAIN", "x")],
            [Value::Okay, queued(), queued(), error("CLUSTERDOWN", "x")],
            [Value::Okay, queued(), queued(), Value::Nil],
        ] {
            let mut guard = watching();
            sent(&mut guard, TRANSACTION, true);
            let left = received(&mut guard, &replies);
            assert_eq!(left, [Value::Okay, queued(), Value::Nil], "{replies:?}");
            assert!(!guard.has_run());
        }
    }

    #[test]
    fn transaction_that_failed_for_another_reason_keeps_its_error() {
        let discarded = error(
            "EXECABORT",
            "Transaction discarded because of previous errors.",
        );
        let wrong = error("ERR", "wrong number of arguments");
        let mut guard = watching();
        sent(&mut guard, TRANSACTION, true);
        let replies = [Value::Okay, queued(), wrong.clone(), discarded.clone()];
        let replies = self::received(&mut guard, &replies);
        assert_eq!(replies, [Value::Okay, wrong, discarded.clone()]);
        assert!(!guard.was_refused());
        // A user who may not run EXISTS must not try for ever.
        let mut guard = watching();
        sent(&mut guard, TRANSACTION, true);
        let refusal = error("NOPERM", "this user has no permissions to run 'exists'");
        let replies = [Value::Okay, refusal, queued(), discarded];
        let replies = self::received(&mut guard, &replies);
        match replies.last() {
            Some(Value::ServerError(error)) => {
                assert_eq!(error.code(), "EXECABORT");
                assert!(error.details().unwrap().contains("NOPERM"), "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn asking_goes_before_each_command_and_once_before_a_transaction() {
        let mut guard = SlotGuard::default();
        guard.set_asking(true);
        let extended = sent(&mut guard, "WATCH a; GET a; MULTI; GET a; EXEC", false);
        assert_eq!(
            extended,
            "ASKING; WATCH a; ASKING; GET a; ASKING; MULTI; EXISTS a; GET a; EXEC"
        );
        let (ok, one) = (Value::Okay, Value::Int(1));
        let exec = Value::Array(vec![one.clone(), one.clone()]);
        let replies = [
            ok.clone(),
            ok.clone(),
            ok.clone(),
            one.clone(),
            ok.clone(),
            ok.clone(),
            queued(),
            queued(),
            exec,
        ];
        let expected = [
            ok.clone(),
            one.clone(),
            ok,
            queued(),
            Value::Array(vec![one]),
        ];
        assert_eq!(received(&mut guard, &replies), expected);
    }

    #[test]
    fn refusals_outside_of_a_transaction_are_told_and_reported() {
        let node = map().node_at(&HostPort {
            host: "h".into(),
            port: 2,
        });
        for (reply, refusal, reports) in [
            (error("MOVED", "7 h:2"), SlotRefusal::Moved, 1),
            (error("ASK", "7 h:2"), SlotRefusal::Ask(node), 0),
            (error("ASK", "7 h:3"), SlotRefusal::Ask(None), 0),
            (error("TRYAGAIN", "x"), SlotRefusal::Unavailable, 0),
            (error("CLUSTERDOWN", "x"), SlotRefusal::Unavailable, 1),
        ] {
            let mut guard = SlotGuard::default();
            sent(&mut guard, "GET a", false);
            assert_eq!(received(&mut guard, std::slice::from_ref(&reply)), [reply]);
            assert_eq!(guard.last_refusal(), Some(&refusal));
            assert_eq!(guard.take_reports().len(), reports);
            assert!(guard.was_refused());
            assert!(guard.take_pause(u64::MAX).is_some() && guard.take_pause(0).is_none());
            sent(&mut guard, "MULTI", false);
            assert_eq!(guard.last_refusal(), None);
        }
    }

    #[test]
    fn watched_keys_are_limited_in_bytes() {
        let guard = watching();
        let long = vec![b'k'; WATCHED_BYTES_MAX];
        assert!(guard.is_full(&[b"WATCH", &long]));
        assert!(!guard.is_full(&[b"WATCH", &long[..100]]));
    }
}
