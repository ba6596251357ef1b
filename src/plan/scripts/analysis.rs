//! To which node may a script go that declares no keys?
//!
//! EVAL with `numkeys` 0 gives the client no key to route by, yet the script may name keys in its source:
//! `redis.call('GET', 'k')`. The rule: if the source shows every key that it touches, the script goes to
//! their node; if it shows that there are none, to any node; otherwise it is refused, since a node chosen at
//! random would read a key that lives on another one and find nothing.
//!
//! ```text
//! EVAL "return redis.call('GET', 'k')" 0          node of k
//! EVAL "return redis.call('TIME')" 0              any node
//! EVAL "return redis.call('GET', ARGV[1])" 0      refused
//! ```

use std::sync::Arc;

use crate::command::{CommandSpec, CommandTable};
use crate::error::{Error, ErrorKind, KeyText, server_error};
use crate::plan::refusal::{server_style, typed_name};
use crate::plan::scripts::ScriptCache;
use crate::plan::scripts::command::{ScriptCommand, ScriptSha};
use crate::plan::scripts::lua;
use crate::resp::canonical_integer;

impl ScriptCache {
    /// Returns the keys that a script or function without declared keys touches, all literals of its source;
    /// empty if it touches none. The source of an EVALSHA is found in the cache by its SHA1, that of an FCALL
    /// by the name of the function.
    ///
    /// A function counts as known only if none of the libraries that name it can have been replaced unseen
    /// (see [`latest_libraries_of`](Self::latest_libraries_of)). The keys of the whole library are returned,
    /// since which of its lines run in a call is not known; if several libraries name the function, those of
    /// all of them.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) if the source does not show its keys. If there is no source, the
    /// error that a server would send: `NOSCRIPT`, or `ERR Function not found` once the libraries of a node
    /// have been listed.
    pub(crate) fn literal_keys<'s>(
        &'s self,
        commands: &CommandTable,
        command: &CommandSpec,
        args: &'s [&'s [u8]],
    ) -> Result<Vec<&'s [u8]>, Error> {
        let keys = match ScriptCommand::of(args) {
            Some(ScriptCommand::Eval(source)) => lua::keys(source, commands),
            Some(ScriptCommand::EvalSha(sha)) => {
                let source = self.source(sha).ok_or_else(no_script)?;
                lua::keys(source, commands)
            }
            Some(ScriptCommand::Call(function)) => {
                let known = self.latest_libraries_of(function);
                let known = known.ok_or_else(|| may_touch_data(command, args))?;
                // Only a listing proves absence: without it another client may have loaded the library, and
                // after a FUNCTION RESTORE the cache holds a payload that it cannot read.
                if known.is_empty() && !self.has_restored() && self.has_listed_libraries() {
                    return Err(server_style(command, "Function not found"));
                }
                let keys = known.iter().map(|code| lua::keys(code, commands));
                let keys: Option<Vec<_>> = keys.collect();
                keys.filter(|keys| !keys.is_empty())
                    .map(|keys| keys.concat())
            }
            _ => None,
        };
        keys.ok_or_else(|| may_touch_data(command, args))
    }
}

/// Returns the error that a server sends for a `numkeys` argument which is not a number, negative, or larger
/// than the number of arguments that follow.
pub(crate) fn wrong_key_count(command: &CommandSpec, args: &[&[u8]]) -> Error {
    let concern = ScriptCommand::of(args);
    // A server checks the length of the SHA1 before it reads `numkeys`.
    if let Some(ScriptCommand::EvalSha(sha)) = concern
        && ScriptSha::parse(sha).is_none()
    {
        return no_script();
    }
    let number = args.get(2).and_then(|text| canonical_integer(text));
    let text = match (number, concern) {
        (Some(0..), _) => "Number of keys can't be greater than number of args",
        (Some(_), _) => "Number of keys can't be negative",
        (None, Some(ScriptCommand::Call(_))) => "Bad number of keys provided",
        (None, _) => "value is not an integer or out of range",
    };
    server_style(command, text)
}

/// The NOSCRIPT error of a server. Libraries such as redis-rs' `Script` recognise it, and load the script.
fn no_script() -> Error {
    const TEXT: &str = "No matching script. Please use EVAL.";
    let error = server_error("NOSCRIPT", TEXT);
    Error::new(ErrorKind::Redis, format!("NOSCRIPT: {TEXT}")).caused_by(Arc::new(error.into()))
}

/// The refusal of a script whose keys are not known, with the cure.
fn may_touch_data(command: &CommandSpec, args: &[&[u8]]) -> Error {
    let what = match (ScriptCommand::of(args), args.get(1)) {
        (Some(ScriptCommand::Call(_)), Some(name)) => {
            format!("{} of {}", typed_name(command), KeyText(name))
        }
        _ => typed_name(command),
    };
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "{what} declares no keys, and its source does not show which keys it touches, so no node can be chosen; \
             declare its keys, or name a node with `client.node(name)`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(cache: &ScriptCache, request: &[&str]) -> Result<Vec<String>, (ErrorKind, String)> {
        let args: Vec<&[u8]> = request.iter().map(|word| word.as_bytes()).collect();
        let commands = CommandTable::built_in();
        let command = commands.find(&args).expect("a known command");
        let verdict = cache.literal_keys(commands, command, &args);
        let text = |key: &&[u8]| String::from_utf8_lossy(key).into_owned();
        verdict
            .map(|keys| keys.iter().map(text).collect())
            .map_err(|error| (error.kind(), error.to_string()))
    }

    #[test]
    fn keys_of_eval_and_evalsha_are_read_from_the_script_text() {
        let mut cache = ScriptCache::default();
        cache.record_sent(&[b"SCRIPT", b"LOAD", b"return 1"]);
        cache.record_sent(&[b"SCRIPT", b"LOAD", b"return redis.call('GET', ARGV[1])"]);
        cache.record_sent(&[b"SCRIPT", b"LOAD", b"return redis.call('GET', 'k')"]);
        let harmful = ScriptSha::of(b"return redis.call('GET', ARGV[1])").hex();
        let plain = ScriptSha::of(b"return redis.call('GET', 'k')").hex();
        let ask = |request: &[&str]| verdict(&cache, request);
        assert_eq!(ask(&["EVAL", "return 1", "0"]), Ok(vec![]));
        assert_eq!(ask(&["EVALSHA", &plain, "0"]), Ok(vec!["k".to_owned()]));
        assert_eq!(
            ask(&["EVALSHA", &ScriptSha::of(b"return 1").hex(), "0"]),
            Ok(vec![])
        );
        let (kind, text) = ask(&["EVALSHA", &harmful, "0"]).unwrap_err();
        assert_eq!(kind, ErrorKind::Unroutable);
        assert!(
            text.starts_with("EVALSHA declares no key") && text.contains("client.node(name)"),
            "{text}"
        );
        let unknown = ask(&["EVALSHA_RO", &ScriptSha::of(b"?").hex(), "0"]).unwrap_err();
        assert_eq!(unknown.0, ErrorKind::Redis);
        assert_eq!(unknown.1, "NOSCRIPT: No matching script. Please use EVAL.");
    }

    #[test]
    fn keys_of_fcall_are_read_from_the_library_text() {
        let mut cache = ScriptCache::default();
        let library = |name: &str, function: &str, body: &str| {
            format!(
                "#!lua name={name}\nredis.register_function('{function}', function() return {body} end)"
            )
        };
        for code in [
            library("a", "clock", "redis.call('TIME')"),
            library("b", "peek", "redis.call('GET', k[1])"),
        ] {
            cache.record_sent(&[b"FUNCTION", b"LOAD", code.as_bytes()]);
        }
        assert_eq!(verdict(&cache, &["FCALL", "CLOCK", "0"]), Ok(vec![]));
        let (kind, text) = verdict(&cache, &["FCALL_RO", "peek", "0"]).unwrap_err();
        assert_eq!(kind, ErrorKind::Unroutable);
        assert!(
            text.starts_with("FCALL_RO of \"peek\" declares no key"),
            "{text}"
        );
        let unknown = verdict(&cache, &["FCALL", "other", "0"]).unwrap_err();
        assert_eq!(
            unknown.0,
            ErrorKind::Unroutable,
            "somebody else may have loaded it"
        );
        let mut cache = Arc::new(cache);
        ScriptCache::record_libraries(&mut cache, &redis::Value::Array(Vec::new()));
        let mut cache = Arc::unwrap_or_clone(cache);
        let unknown = verdict(&cache, &["FCALL", "other", "0"]).unwrap_err();
        assert_eq!(unknown.1, "ERR: Function not found (FCALL)");
        cache.record_sent(&[b"FUNCTION", b"RESTORE", b"payload"]);
        let restored = verdict(&cache, &["FCALL", "other", "0"]).unwrap_err();
        assert_eq!(restored.0, ErrorKind::Unroutable, "it may be in there");
        let replaced = verdict(&cache, &["FCALL", "clock", "0"]).unwrap_err();
        assert_eq!(replaced.0, ErrorKind::Unroutable, "it may be another now");
        let again = library("a", "clock", "redis.call('TIME')");
        cache.record_sent(&[b"FUNCTION", b"LOAD", b"REPLACE", again.as_bytes()]);
        assert_eq!(verdict(&cache, &["FCALL", "clock", "0"]), Ok(vec![]));
    }

    #[test]
    fn wrong_numkeys_of_eval_and_fcall_has_the_error_text_of_the_server() {
        let sha = ScriptSha::of(b"").hex();
        for (request, text) in [
            (
                ["EVAL", "s", "-1"],
                "ERR: Number of keys can't be negative (EVAL)",
            ),
            (
                ["EVAL", "s", "1"],
                "ERR: Number of keys can't be greater than number of args (EVAL)",
            ),
            (
                ["EVAL", "s", "+1"],
                "ERR: value is not an integer or out of range (EVAL)",
            ),
            (
                ["EVALSHA", &sha, "x"],
                "ERR: value is not an integer or out of range (EVALSHA)",
            ),
            (
                ["EVALSHA", "ffff", "x"],
                "NOSCRIPT: No matching script. Please use EVAL.",
            ),
            (
                ["FCALL", "f", "01"],
                "ERR: Bad number of keys provided (FCALL)",
            ),
            (
                ["FCALL_RO", "f", "9"],
                "ERR: Number of keys can't be greater than number of args (FCALL_RO)",
            ),
        ] {
            let args: Vec<&[u8]> = request.iter().map(|word| word.as_bytes()).collect();
            let command = CommandTable::built_in()
                .find(&args)
                .expect("a known command");
            assert_eq!(wrong_key_count(command, &args).to_string(), text);
        }
    }
}
