//! What has this request to do with scripts?

use redis::Value;
use sha1::{Digest, Sha1};

/// What one request has to do with scripts or functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum ScriptCommand<'a> {
    /// EVAL, EVAL_RO: runs this source, and leaves it with the server.
    Eval(&'a [u8]),
    /// EVALSHA, EVALSHA_RO: runs the source with this sum, if the server has it.
    EvalSha(&'a [u8]),
    /// FCALL, FCALL_RO: calls this function, if the server has it.
    Call(&'a [u8]),
    /// SCRIPT LOAD.
    ScriptLoad(&'a [u8]),
    /// SCRIPT EXISTS.
    ScriptExists(&'a [&'a [u8]]),
    /// SCRIPT FLUSH.
    ScriptFlush,
    /// FUNCTION LOAD, with or without REPLACE.
    FunctionLoad(&'a [u8]),
    /// FUNCTION DELETE.
    FunctionDelete(&'a [u8]),
    /// FUNCTION FLUSH.
    FunctionFlush,
    /// FUNCTION RESTORE with APPEND or REPLACE.
    FunctionRestore(&'a [u8]),
    /// FUNCTION RESTORE with FLUSH.
    FunctionFlushAndRestore(&'a [u8]),
}

impl<'a> ScriptCommand<'a> {
    /// Reads it off the arguments.
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

    /// Whether it asks all nodes what the client may know better.
    pub(in crate::plan) fn is_exists_on_all(&self, scope: Scope) -> bool {
        matches!(self, Self::ScriptExists(_)) && scope == Scope::AllNodes
    }

    /// Whether the request was carried out, by its answer. Of a script only those are left out that cannot be compiled: its
    /// sum says what it is, whatever became of it.
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

/// Which nodes a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of the client: what it changes is changed everywhere.
    AllNodes,
    /// One, because the user says so. A script is a script wherever it was run; but a library that is loaded or deleted
    /// on one node is not meant for the others.
    OneNode,
}

/// The SHA1 of a script's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::plan) struct ScriptSha([u8; 20]);

impl ScriptSha {
    /// The sum of this source.
    pub(in crate::plan) fn of(source: &[u8]) -> Self {
        Self(Sha1::digest(source).into())
    }

    /// Reads its 40 digits, capital or not, as the server does.
    pub(in crate::plan) fn parse(text: &[u8]) -> Option<Self> {
        let mut sha = [0; 20];
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
