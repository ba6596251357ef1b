//! The script cache and replies that stay bytes.
//!
//! Only three kinds of frames are decoded: errors, since they decide whether a command took effect; the reply
//! to SCRIPT EXISTS, which is completed; and the reply to an EXEC with scripts in it. The reply to an EVAL
//! may be megabytes and says nothing about the script.

use std::borrow::Cow;
use std::sync::Arc;

use redis::Value;

use crate::plan::scripts::command::{Scope, ScriptCommand};
use crate::plan::scripts::{Recovery, ScriptCache, ScriptJournal};
use crate::plan::{Answers, RawReplies, ReplyBuffer};
use crate::resp;
use crate::resp::Protocol;

impl ScriptCache {
    /// True if the script that this request runs is remembered, so that its reply has nothing to teach. False
    /// for everything but EVAL and EVALSHA.
    pub(crate) fn is_known(&self, args: &[&[u8]]) -> bool {
        match ScriptCommand::of(args) {
            Some(ScriptCommand::EvalSha(sha)) => self.source(sha).is_some(),
            Some(concern @ ScriptCommand::Eval(_)) => !self.is_new(concern, Scope::AllNodes),
            _ => false,
        }
    }

    /// Returns the repair for this reply: see [`recovery`](Self::recovery).
    pub(crate) fn raw_recovery(&self, args: &[&[u8]], reply: &[u8]) -> Option<Recovery> {
        match reply.first() {
            Some(b'-') => self.recovery(args, &read(reply)),
            _ => None,
        }
    }

    /// Records the effect of a request, judging by its reply. Returns the reply as the client must see it:
    /// borrowed and unchanged, but for SCRIPT EXISTS.
    pub(crate) fn record_raw_reply<'b>(
        cache: &mut Arc<Self>,
        args: &[&[u8]],
        reply: &'b [u8],
        protocol: Protocol,
    ) -> Cow<'b, [u8]> {
        let asked = ScriptCommand::of(args)
            .is_some_and(|concern| concern.is_exists_on_all(Scope::AllNodes));
        // For all other commands any reply but an error means success, and `Okay` stands for it.
        let mut answer = match reply.first() {
            Some(b'-') => read(reply),
            _ if asked => read(reply),
            _ => Value::Okay,
        };
        Self::record_reply(cache, args, Scope::AllNodes, &mut answer);
        match (asked, &answer) {
            (true, Value::Array(_)) => {
                let mut out = Vec::new();
                protocol.write(&mut out, &answer);
                Cow::Owned(out)
            }
            _ => Cow::Borrowed(reply),
        }
    }
}

impl ScriptJournal<'_> {
    /// Removes the replies to preloads, before any reply is matched with its place.
    pub(crate) fn drop_raw_preloads(&self, answers: &mut Answers<RawReplies>) {
        let mut wanted = RawReplies::default();
        for number in self.preloads()..answers.values.count() {
            wanted.push(answers.values.frame(number).unwrap_or_default());
        }
        answers.values = wanted;
    }

    /// Records the effects of the commands of a transaction, judging by the reply to EXEC.
    pub(crate) fn record_raw(&self, cache: &mut Arc<ScriptCache>, exec: &[u8]) {
        self.record(cache, &mut [read(exec)]);
    }
}

/// Decodes a frame. A malformed one becomes nil, from which nothing is recorded.
fn read(reply: &[u8]) -> Value {
    resp::read(&mut resp::Slice(reply)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    fn record(cache: &mut Arc<ScriptCache>, args: &[&[u8]], reply: &str) -> String {
        let told = ScriptCache::record_raw_reply(cache, args, reply.as_bytes(), Protocol::Resp2);
        String::from_utf8_lossy(&told).into_owned()
    }

    #[test]
    fn script_is_recorded_once_eval_or_script_load_succeeded() {
        let mut cache = ScriptCache::empty();
        let eval: [&[u8]; 3] = [b"EVAL", b"return 1", b"0"];
        let sha: [&[u8]; 3] = [b"EVALSHA", SUM, b"0"];
        assert!(!cache.is_known(&eval) && !cache.is_known(&sha));
        record(&mut cache, &eval, "-ERR Error compiling script\r\n");
        assert!(!cache.is_known(&sha));
        assert_eq!(record(&mut cache, &eval, ":1\r\n"), ":1\r\n");
        assert!(cache.is_known(&eval) && cache.is_known(&sha));
        let exists: [&[u8]; 4] = [b"SCRIPT", b"EXISTS", SUM, b"x"];
        assert_eq!(
            record(&mut cache, &exists, "*2\r\n:0\r\n:0\r\n"),
            "*2\r\n:1\r\n:0\r\n"
        );
        assert!(!cache.is_known(&[b"FCALL", b"f", b"0"]) && !cache.is_known(&exists));
    }

    #[test]
    fn only_noscript_needs_script_recovery() {
        let mut cache = ScriptCache::empty();
        record(&mut cache, &[b"SCRIPT", b"LOAD", b"return 1"], "+x\r\n");
        let sha: [&[u8]; 3] = [b"EVALSHA", SUM, b"0"];
        assert!(cache.raw_recovery(&sha, b"$-1\r\n").is_none());
        let lacking = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";
        assert!(matches!(
            cache.raw_recovery(&sha, lacking),
            Some(Recovery::Resend(_))
        ));
    }
}
