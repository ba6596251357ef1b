//! Which script command is in a request, and which source, SHA1 or name does it carry?
//!
//! * [`ScriptCommand`]: the command, borrowed from the arguments of the request.
//! * [`Scope`]: all nodes, or the one that the user named.
//! * [`ScriptSha`]: the SHA1 that EVALSHA and SCRIPT EXISTS refer to.

use redis::Value;
use sha1::{Digest, Sha1};

/// A command that uses or changes the scripts or functions of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum ScriptCommand<'a> {
    /// EVAL, EVAL_RO: runs this source. The server keeps it for later EVALSHAs, even when the run fails.
    Eval(&'a [u8]),
    /// EVALSHA, EVALSHA_RO: runs the script with this SHA1 (40 hex digits, not yet checked), or replies
    /// NOSCRIPT.
    EvalSha(&'a [u8]),
    /// FCALL, FCALL_RO: calls this function, or replies `Function not found`.
    Call(&'a [u8]),
    /// SCRIPT LOAD: keeps this source without running it.
    ScriptLoad(&'a [u8]),
    /// SCRIPT EXISTS: these SHA1s, in hex digits.
    ScriptExists(&'a [&'a [u8]]),
    /// SCRIPT FLUSH.
    ScriptFlush,
    /// FUNCTION LOAD, with or without REPLACE: the code of a library. The code is the last argument in either
    /// form.
    FunctionLoad(&'a [u8]),
    /// FUNCTION DELETE: the name of a library.
    FunctionDelete(&'a [u8]),
    /// FUNCTION FLUSH.
    FunctionFlush,
    /// FUNCTION RESTORE with APPEND (the default) or REPLACE: an opaque payload of FUNCTION DUMP.
    FunctionRestore(&'a [u8]),
    /// FUNCTION RESTORE with FLUSH: the payload replaces all libraries.
    FunctionFlushAndRestore(&'a [u8]),
}

impl<'a> ScriptCommand<'a> {
    /// Reads the command from the arguments of a request; `None` if it is not about scripts or functions,
    /// changes nothing (FUNCTION LIST, SCRIPT KILL), or lacks the argument that counts here.
    pub(in crate::plan) fn of(args: &'a [&'a [u8]]) -> Option<Self> {
        let is = |at: usize, word: &str| {
            args.get(at)
                .is_some_and(|arg: &&[u8]| arg.eq_ignore_ascii_case(word.as_bytes()))
        };
        let first = *args.get(1)?;
        if is(0, "EVALSHA") || is(0, "EVALSHA_RO") {
            return Some(Self::EvalSha(first));
        }
        if is(0, "EVAL") || is(0, "EVAL_RO") {
            return Some(Self::Eval(first));
        }
        if is(0, "FCALL") || is(0, "FCALL_RO") {
            return Some(Self::Call(first));
        }
        let second = args.get(2).copied();
        if is(0, "SCRIPT") {
            return match () {
                () if is(1, "LOAD") => second.map(Self::ScriptLoad),
                () if is(1, "EXISTS") => Some(Self::ScriptExists(&args[2..])),
                () if is(1, "FLUSH") => Some(Self::ScriptFlush),
                () => None,
            };
        }
        if is(0, "FUNCTION") {
            return match () {
                () if is(1, "LOAD") => args.last().copied().map(Self::FunctionLoad),
                () if is(1, "DELETE") => second.map(Self::FunctionDelete),
                () if is(1, "FLUSH") => Some(Self::FunctionFlush),
                () if is(1, "RESTORE") && is(3, "FLUSH") => {
                    second.map(Self::FunctionFlushAndRestore)
                }
                () if is(1, "RESTORE") => second.map(Self::FunctionRestore),
                () => None,
            };
        }
        None
    }

    /// True for SCRIPT EXISTS sent to every node: its reply is completed from the cache.
    pub(in crate::plan) fn is_exists_on_all(&self, scope: Scope) -> bool {
        matches!(self, Self::ScriptExists(_)) && scope == Scope::AllNodes
    }

    /// True if the command took effect, judging by its reply.
    ///
    /// A script is recorded unless it failed to compile: a runtime error does not change what its SHA1 refers
    /// to, and the server keeps the source. Every other command takes effect only without an error.
    pub(in crate::plan) fn succeeded(&self, answer: &Value) -> bool {
        match (self, answer) {
            (Self::Eval(_) | Self::ScriptLoad(_), Value::ServerError(error)) => !error
                .details()
                .is_some_and(|text| text.contains("Error compiling script")),
            (_, Value::ServerError(_)) => false,
            _ => true,
        }
    }
}

/// The nodes that a request was meant for, and with them what the cache may conclude from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All nodes of the client, or the node of its keys: a library loaded so belongs on every node.
    AllNodes,
    /// One node, named by the user. Scripts are recorded all the same, because a SHA1 means one source
    /// everywhere; libraries and flushes are not, because they are not meant for the other nodes.
    OneNode,
}

/// SHA1 of a script's source, as binary, so that capital and small digits compare equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::plan) struct ScriptSha([u8; 20]);

impl ScriptSha {
    /// Returns the SHA1 of this source.
    pub(in crate::plan) fn of(source: &[u8]) -> Self {
        Self(Sha1::digest(source).into())
    }

    /// Parses 40 hex digits of either case, as the server does; `None` for anything else.
    pub(in crate::plan) fn parse(text: &[u8]) -> Option<Self> {
        let mut sha = [0; 20];
        // `chunks_exact` below would drop an odd digit, and `zip` any surplus: only the exact length is a
        // SHA1.
        if text.len() != 2 * sha.len() {
            return None;
        }
        for (byte, pair) in sha.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(sha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ScriptSha {
        /// Its 40 digits.
        pub(in crate::plan::scripts) fn hex(self) -> String {
            self.0.iter().map(|byte| format!("{byte:02x}")).collect()
        }
    }

    fn of(words: &[&str]) -> String {
        let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        format!("{:?}", ScriptCommand::of(&args).map(Some))
            .split('(')
            .nth(2)
            .unwrap_or("None")
            .trim_end_matches(')')
            .to_owned()
    }

    #[test]
    fn every_script_and_function_command_is_recognized_in_any_case() {
        for (words, concern) in [
            (&["eval", "s", "0"][..], "Eval"),
            (&["EVAL_RO", "s", "0"], "Eval"),
            (&["evalsha", "s", "0"], "EvalSha"),
            (&["EVALSHA_ro", "s", "0"], "EvalSha"),
            (&["FCALL", "f", "0"], "Call"),
            (&["Fcall_Ro", "f", "0"], "Call"),
            (&["script", "load", "s"], "ScriptLoad"),
            (&["SCRIPT", "EXISTS", "a", "b"], "ScriptExists"),
            (&["SCRIPT", "FLUSH", "ASYNC"], "ScriptFlush"),
            (&["FUNCTION", "LOAD", "s"], "FunctionLoad"),
            (&["FUNCTION", "LOAD", "REPLACE", "s"], "FunctionLoad"),
            (&["FUNCTION", "DELETE", "l"], "FunctionDelete"),
            (&["FUNCTION", "FLUSH"], "FunctionFlush"),
            (&["FUNCTION", "RESTORE", "p"], "FunctionRestore"),
            (&["FUNCTION", "RESTORE", "p", "append"], "FunctionRestore"),
            (
                &["FUNCTION", "RESTORE", "p", "flush"],
                "FunctionFlushAndRestore",
            ),
            (&["FUNCTION", "LIST"], "None"),
            (&["SCRIPT", "KILL"], "None"),
            (&["GET", "k"], "None"),
            (&["EVAL"], "None"),
        ] {
            assert_eq!(of(words), concern, "{words:?}");
        }
    }

    #[test]
    fn script_sha_matches_the_sha1_of_the_server() {
        let digits = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(ScriptSha::parse(digits), Some(ScriptSha::of(b"return 1")));
        assert_eq!(
            ScriptSha::parse(&digits.to_ascii_uppercase()),
            ScriptSha::parse(digits)
        );
        for wrong in [
            &digits[1..],
            b"",
            b"+0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        ] {
            assert_eq!(ScriptSha::parse(wrong), None);
        }
    }
}
