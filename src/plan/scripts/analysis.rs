//! Where may a script go that declares no key?

use std::sync::Arc;

use crate::command::{CommandSpec, CommandTable};
use crate::error::{Error, ErrorKind, KeyText, server_error};
use crate::plan::refusal::{server_style, typed_name};
use crate::plan::scripts::ScriptCache;
use crate::plan::scripts::command::{ScriptCommand, ScriptSha};
use crate::plan::scripts::lua;
use crate::resp::canonical_integer;

impl ScriptCache {
    /// The rule for a script or function that declares no key: its text must show the keys that it touches, and it goes
    /// where they are; it may go to any node when there is none. A script goes by its sum, and a function by its name, to
    /// the text that is remembered.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when the text does not show it, and the server's own words when there is no
    /// text: `NOSCRIPT`, `ERR Function not found`.
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

/// The server's words for a number of keys that it does not take.
pub(crate) fn wrong_key_count(command: &CommandSpec, args: &[&[u8]]) -> Error {
    let concern = ScriptCommand::of(args);
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

/// The server's words, so that whoever knows them loads the script.
fn no_script() -> Error {
    const TEXT: &str = "No matching script. Please use EVAL.";
    let error = server_error("NOSCRIPT", TEXT);
    Error::new(ErrorKind::Redis, format!("NOSCRIPT: {TEXT}")).caused_by(Arc::new(error.into()))
}

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
