//! The same for those who pass answers on unread.

use std::borrow::Cow;
use std::sync::Arc;

use redis::Value;

use crate::plan::scripts::concern::{Concern, Reach};
use crate::plan::scripts::{Notes, Remedy, ScriptMemory};
use crate::plan::{Answers, Frames, Row};
use crate::reply::Protocol;
use crate::resp;

impl ScriptMemory {
    /// Whether nothing is to be learned from this request, and the script it runs is remembered.
    pub(crate) fn is_known(&self, args: &[&[u8]]) -> bool {
        match Concern::of(args) {
            Some(Concern::EvalSha(sum)) => self.source(sum).is_some(),
            Some(concern @ Concern::Eval(_)) => !self.is_new(concern, Reach::AllNodes),
            _ => false,
        }
    }

    /// What to do about this reply: see [`remedy`](Self::remedy).
    pub(crate) fn remedy_unread(&self, args: &[&[u8]], reply: &[u8]) -> Option<Remedy> {
        match reply.first() {
            Some(b'-') => self.remedy(args, &read(reply)),
            _ => None,
        }
    }

    /// Notes what a request did by its reply. Gives the reply as the client has to see it.
    pub(crate) fn hear_unread<'b>(
        memory: &mut Arc<Self>,
        args: &[&[u8]],
        reply: &'b [u8],
        protocol: Protocol,
    ) -> Cow<'b, [u8]> {
        let asked = Concern::of(args).is_some_and(|concern| concern.is_asked_of(Reach::AllNodes));
        // Of all others only a refusal matters.
        let mut answer = match reply.first() {
            Some(b'-') => read(reply),
            _ if asked => read(reply),
            _ => Value::Okay,
        };
        Self::hear(memory, args, Reach::AllNodes, &mut answer);
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

impl Notes<'_> {
    /// Takes away the answers that belong to nobody.
    pub(crate) fn strip_unread(&self, answers: &mut Answers<Frames>) {
        let mut wanted = Frames::default();
        for number in self.ahead()..answers.values.count() {
            wanted.push(answers.values.get(number).unwrap_or_default());
        }
        answers.values = wanted;
    }

    /// Notes what the commands of a transaction did by what EXEC answered.
    pub(crate) fn settle_unread(&self, memory: &mut Arc<ScriptMemory>, exec: &[u8]) {
        self.settle(memory, &mut [read(exec)]);
    }
}

/// What cannot be read teaches nothing.
fn read(reply: &[u8]) -> Value {
    resp::read(&mut resp::Slice(reply)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    fn hear(memory: &mut Arc<ScriptMemory>, args: &[&[u8]], reply: &str) -> String {
        let told = ScriptMemory::hear_unread(memory, args, reply.as_bytes(), Protocol::Resp2);
        String::from_utf8_lossy(&told).into_owned()
    }

    #[test]
    fn a_script_is_known_once_it_was_run_or_loaded() {
        let mut memory = ScriptMemory::nothing();
        let eval: [&[u8]; 3] = [b"EVAL", b"return 1", b"0"];
        let sha: [&[u8]; 3] = [b"EVALSHA", SUM, b"0"];
        assert!(!memory.is_known(&eval) && !memory.is_known(&sha));
        hear(&mut memory, &eval, "-ERR Error compiling script\r\n");
        assert!(!memory.is_known(&sha));
        assert_eq!(hear(&mut memory, &eval, ":1\r\n"), ":1\r\n");
        assert!(memory.is_known(&eval) && memory.is_known(&sha));
        let exists: [&[u8]; 4] = [b"SCRIPT", b"EXISTS", SUM, b"x"];
        assert_eq!(
            hear(&mut memory, &exists, "*2\r\n:0\r\n:0\r\n"),
            "*2\r\n:1\r\n:0\r\n"
        );
        assert!(!memory.is_known(&[b"FCALL", b"f", b"0"]) && !memory.is_known(&exists));
    }

    #[test]
    fn a_reply_that_is_no_refusal_needs_no_remedy() {
        let mut memory = ScriptMemory::nothing();
        hear(&mut memory, &[b"SCRIPT", b"LOAD", b"return 1"], "+x\r\n");
        let sha: [&[u8]; 3] = [b"EVALSHA", SUM, b"0"];
        assert!(memory.remedy_unread(&sha, b"$-1\r\n").is_none());
        let lacking = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";
        assert!(matches!(
            memory.remedy_unread(&sha, lacking),
            Some(Remedy::Instead(_))
        ));
    }
}
