//! What a script's text shows.
//!
//! A small scanner of Lua's words, strings and comments. It need not understand a script, only never be deceived by
//! one: what it cannot follow may touch anything.

use crate::command::{CommandTable, KeyPositions, Lookup, Route};

/// What a script may use of `redis` besides `call` and `pcall`: nothing in it reads or writes data.
const SAFE_MEMBERS: [&str; 19] = [
    "LOG_DEBUG",
    "LOG_NOTICE",
    "LOG_VERBOSE",
    "LOG_WARNING",
    "REDIS_VERSION",
    "REDIS_VERSION_NUM",
    "REPL_ALL",
    "REPL_AOF",
    "REPL_NONE",
    "REPL_REPLICA",
    "REPL_SLAVE",
    "acl_check_cmd",
    "error_reply",
    "log",
    "register_function",
    "replicate_commands",
    "setresp",
    "sha1hex",
    "status_reply",
];

/// What leads to `redis` by another name, or runs a text that is not there to be read.
const ESCAPE_HATCHES: [&str; 9] = [
    "_ENV",
    "_G",
    "debug",
    "dofile",
    "getfenv",
    "load",
    "loadstring",
    "require",
    "setfenv",
];

/// Numbers of so many digits are exact in Lua.
const NUMBER_DIGITS_MAX: usize = 15;

/// The keys that a script touches, if its text shows them all: it calls commands by their names in quotes, with keys in
/// quotes, or about no data, such as TIME. `None` when it does not show that, and may touch anything.
pub(crate) fn keys<'s>(source: &'s [u8], commands: &CommandTable) -> Option<Vec<&'s [u8]>> {
    let mut tokens = Tokens::of(source);
    let mut keys = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(b"redis" | b"server") => add_keys(&mut tokens, commands, &mut keys)?,
            Token::Word(word)
                if ESCAPE_HATCHES
                    .iter()
                    .any(|devious| devious.as_bytes() == word) =>
            {
                return None;
            }
            // What begins with the escape is no text at all.
            Token::Unreadable | Token::Other(b'\x1b') => return None,
            Token::Word(_) | Token::Text(_) | Token::Other(_) => {}
        }
    }
    Some(keys)
}

/// Adds the keys of what stands behind `redis`.
fn add_keys<'s>(
    tokens: &mut Tokens<'s>,
    commands: &CommandTable,
    keys: &mut Vec<&'s [u8]>,
) -> Option<()> {
    let (Token::Other(b'.'), Token::Word(name)) = (tokens.next()?, tokens.next()?) else {
        return None;
    };
    if !matches!(name, b"call" | b"pcall") {
        return SAFE_MEMBERS
            .iter()
            .any(|harmless| harmless.as_bytes() == name)
            .then_some(());
    }
    let call = Call::read(tokens)?;
    let Lookup::Found(command) = commands.lookup(&call.args) else {
        return None;
    };
    match (command.route(), command.sole_key()) {
        (Route::Any, _) => Some(()),
        _ if command.name() == "PING" => Some(()),
        // The server refuses it.
        _ if call.is_whole && !command.accepts(call.args.len()) => Some(()),
        (Route::Keys, Some(at)) => {
            keys.push(call.args.get(at)?);
            Some(())
        }
        (Route::Keys | Route::Split { .. }, _) if call.is_whole => {
            let mut at = KeyPositions::default();
            command.positions(&call.args, &mut at).ok()?;
            keys.extend(at.keys.iter().map(|&at| call.args[at as usize]));
            (!at.keys.is_empty() && at.patterns.is_empty()).then_some(())
        }
        _ => None,
    }
}

/// The arguments of a call that stand there as strings or numbers.
struct Call<'s> {
    args: Vec<&'s [u8]>,
    /// These are all of them.
    is_whole: bool,
}

impl<'s> Call<'s> {
    /// Reads up to the end of the call, or to the first argument that is anything else; the name of the command is none.
    fn read(tokens: &mut Tokens<'s>) -> Option<Self> {
        let Token::Other(b'(') = tokens.next()? else {
            return None;
        };
        let mut args = Vec::new();
        loop {
            let before = tokens.rest;
            let arg = match tokens.next()? {
                Token::Text(text) if is_literal(text) => text,
                Token::Word(word) if is_plain_number(word) => word,
                _ => {
                    // Whoever goes on reads it: there may be calls in it.
                    tokens.rest = before;
                    let is_whole = false;
                    return (!args.is_empty()).then_some(Self { args, is_whole });
                }
            };
            match tokens.next()? {
                Token::Other(b',') => args.push(arg),
                Token::Other(b')') => {
                    args.push(arg);
                    let is_whole = true;
                    return Some(Self { args, is_whole });
                }
                // It is only the beginning of something longer: 'a' .. b.
                _ => {
                    tokens.rest = before;
                    let is_whole = false;
                    return (!args.is_empty()).then_some(Self { args, is_whole });
                }
            }
        }
    }
}

/// Whether a string is what stands there. What an escape stands for is not looked up; and between long brackets a line
/// break at the beginning is left out, and one with a CR becomes LF.
fn is_literal(text: &[u8]) -> bool {
    !text.starts_with(b"\n") && !text.iter().any(|byte| matches!(byte, b'\\' | b'\r'))
}

/// Whether the server makes the same digits of a number: it has no more of them than a double holds, and none too many.
fn is_plain_number(word: &[u8]) -> bool {
    word.len() <= NUMBER_DIGITS_MAX
        && word.iter().all(u8::is_ascii_digit)
        && (word == b"0" || !word.starts_with(b"0"))
}

/// Whether the code of a library names this function, which the server finds in any case.
pub(in crate::plan) fn names(code: &[u8], function: &[u8]) -> bool {
    Tokens::of(code)
        .any(|token| matches!(token, Token::Text(text) if text.eq_ignore_ascii_case(function)))
}

/// The name of a library: `#!lua name=...`.
pub(in crate::plan) fn library_name(code: &[u8]) -> Option<&[u8]> {
    let line = code.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next()?;
    let name = line
        .split(|byte| byte.is_ascii_whitespace())
        .find_map(|word| word.strip_prefix(b"name="))?;
    let quoted = |quote: &[u8]| name.strip_prefix(quote)?.strip_suffix(quote);
    let name = quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// A piece of Lua.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'s> {
    /// A name, a word of the language, or a number.
    Word(&'s [u8]),
    /// A string, as it is written between its quotes or brackets.
    Text(&'s [u8]),
    /// Any other byte.
    Other(u8),
    /// A string or comment without an end.
    Unreadable,
}

/// The pieces of a source one after another; white space and comments are left out.
struct Tokens<'s> {
    rest: &'s [u8],
}

impl<'s> Tokens<'s> {
    fn of(source: &'s [u8]) -> Self {
        // The first line may say what engine the rest is for.
        let rest = match source.starts_with(b"#!") {
            true => after(source, |byte| byte == b'\n'),
            false => source,
        };
        Self { rest }
    }

    /// A string between quotes, of which the first is read already.
    fn quoted(&mut self, quote: u8) -> Token<'s> {
        let mut at = 0;
        while let Some(&byte) = self.rest.get(at) {
            match byte {
                b'\\' => at += 2,
                b'\n' => break,
                _ if byte == quote => {
                    let text = &self.rest[..at];
                    self.rest = &self.rest[at + 1..];
                    return Token::Text(text);
                }
                _ => at += 1,
            }
        }
        self.unreadable()
    }

    /// What stands in long brackets, `[[...]]` or `[==[...]==]`, of which the first bracket is read already; `None` when
    /// it is no more than a bracket.
    fn bracketed(&mut self) -> Option<Token<'s>> {
        let level = self.rest.iter().take_while(|&&byte| byte == b'=').count();
        if self.rest.get(level) != Some(&b'[') {
            return None;
        }
        let text = &self.rest[level + 1..];
        let close = [b"]".as_slice(), &vec![b'='; level], b"]"].concat();
        let end = text.windows(close.len()).position(|bytes| bytes == close);
        let Some(end) = end else {
            return Some(self.unreadable());
        };
        self.rest = &text[end + close.len()..];
        Some(Token::Text(&text[..end]))
    }

    fn unreadable(&mut self) -> Token<'s> {
        self.rest = &[];
        Token::Unreadable
    }
}

impl<'s> Iterator for Tokens<'s> {
    type Item = Token<'s>;

    fn next(&mut self) -> Option<Token<'s>> {
        #[cfg(any(test, fuzzing))]
        let before = self.rest.len();
        let token = self.token();
        #[cfg(any(test, fuzzing))]
        crate::fuzzing::steps::add(before - self.rest.len());
        token
    }
}

impl<'s> Tokens<'s> {
    fn token(&mut self) -> Option<Token<'s>> {
        loop {
            let source = self.rest;
            let (&first, rest) = source.split_first()?;
            self.rest = rest;
            match first {
                _ if first.is_ascii_whitespace() || first == b'\x0b' => {}
                b'-' if rest.first() == Some(&b'-') => {
                    self.rest = &rest[1..];
                    let long = self.rest.strip_prefix(b"[").and_then(|rest| {
                        self.rest = rest;
                        self.bracketed()
                    });
                    match long {
                        Some(Token::Unreadable) => return long,
                        Some(_) => {}
                        None => self.rest = after(self.rest, |byte| matches!(byte, b'\n' | b'\r')),
                    }
                }
                b'"' | b'\'' => return Some(self.quoted(first)),
                b'[' => return Some(self.bracketed().unwrap_or(Token::Other(first))),
                _ if is_of_a_word(&first) => {
                    let length = source.iter().take_while(|byte| is_of_a_word(byte)).count();
                    self.rest = &source[length..];
                    return Some(Token::Word(&source[..length]));
                }
                _ => return Some(Token::Other(first)),
            }
        }
    }
}

fn is_of_a_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

fn after(text: &[u8], is_end: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().position(|&byte| is_end(byte));
    end.map_or(&[], |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> Option<Vec<String>> {
        let keys = keys(source.as_bytes(), CommandTable::built_in())?;
        let text = |key: &&[u8]| String::from_utf8_lossy(key).into_owned();
        Some(keys.iter().map(text).collect())
    }

    fn harmless(source: &str) -> bool {
        shown(source).is_some_and(|keys| keys.is_empty())
    }

    #[test]
    fn lua_analysis_finds_keys_in_quotes() {
        for (source, keys) in [
            ("return redis.call('GET', 'k')", &["k"][..]),
            ("return server.pcall('SET', \"k\", ARGV[1])", &["k"]),
            (
                "return redis.call('SET', 'k', redis.call('GET', 'l'))",
                &["k", "l"],
            ),
            (
                "redis.call('DEL', 'a', 'b') redis.call('incr', [[c]])",
                &["a", "b", "c"],
            ),
            ("return redis.pcall('blpop', 'x', 0)", &["x"]),
            ("return redis.call('object', 'encoding', 'k')", &["k"]),
            ("return redis.call('TIME', 'too', 'many')", &[]),
            ("return redis.call('lpush', 'k', unpack(ARGV))", &["k"]),
            ("return redis.call('GET')", &[]),
            (
                "return redis.call('get', 0) + redis.call('get', 123456789012345)",
                &["0", "123456789012345"],
            ),
            ("return redis.call('get', [[a\nb]])", &["a\nb"]),
        ] {
            assert_eq!(
                shown(source).as_deref(),
                Some(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()[..]),
                "{source}"
            );
        }
    }

    #[test]
    fn lua_analysis_recognizes_scripts_that_touch_no_data() {
        for source in [
            "",
            "return 1",
            "return ARGV[1] .. 'call'",
            "return redis.call('TIME')",
            "return redis.pcall( \"ping\" , ARGV[1])",
            "return server . call ( 'echo', redis.sha1hex(ARGV[1]))",
            "-- don't worry\nreturn redis.call('time') -- it's fine",
            "--[[ redis.call('set', 'k', 1) ]] return 1",
            "--[==[ ]] redis.call('set') ]==] return 1",
            "local t = {redis.call('ping'), redis.call('time')} return t[1]",
            "#!lua flags=no-writes\nreturn redis.status_reply('don\\'t')",
            "#!lua name=l\nredis.register_function('f', function(k, a) return redis.call('TIME') end)",
            "redis.log(redis.LOG_WARNING, [[redis.call('set')]]) return pcall(tonumber, 'x')",
            "return 'it\\\\' .. \"redis.call('get', 'k')\"",
        ] {
            assert!(harmless(source), "{source}");
        }
    }

    #[test]
    fn lua_analysis_rejects_scripts_that_may_touch_any_key() {
        for source in [
            "return redis.call('GET', 'k' .. 'l')",
            "return redis.call('GET', KEYS[1])",
            "return redis.call('GET', [[\nk]])",
            "return redis.call('GET', [==[\r\nk]==])",
            "return redis.call('GET', [[k\r\nl]])",
            "return redis.call('GET', 007)",
            "return redis.call('GET', 9007199254740993)",
            "return redis.call('MGET', 'a', KEYS[1])",
            "return redis.call('DEL', 'a', unpack(ARGV))",
            "return redis.call('EVAL', 'return 1', 0)",
            "return redis.call('SORT', 'k', 'BY', 'w*')",
            "return redis.call('SET', 'k', redis.call('GET', ARGV[1]))",
            "return redis.call('RANDOMKEY')",
            "return redis.call('DBSIZE')",
            "return redis.call('KEYS', '*')",
            "return redis.call('NOSUCH')",
            "return redis.call(ARGV[1])",
            "return redis.call('ti' .. 'me')",
            "return redis.call('\\103\\101\\116', 'k')",
            "return redis.call 'time'",
            "return redis.call{'time'}",
            "return redis['call']('GET', 'k')",
            "return redis['ca' .. 'll']('GET', 'k')",
            "local r = redis return r.call('GET', 'k')",
            "local f = redis.call return f('GET', 'k')",
            "return pcall(redis.call, 'GET', 'k')",
            "redis.sha1hex = redis.call",
            "return _G['re' .. 'dis'].call('GET', 'k')",
            "for k, v in pairs(_G) do end",
            "return loadstring('return re' .. 'dis.call(\"get\", \"k\")')()",
            "return load(function() end)",
            "return getfenv().redis",
            "-- don't\nredis.call('set', ARGV[1], 1) -- it's",
            "return '\\'' .. redis.call('get', ARGV[1]) .. '\\''",
            "--[[ ]] redis.call('get', ARGV[1]) --[[ ]]",
            "--[=[ ]] ]=] redis.call('get', ARGV[1])",
            "-- [[\nredis.call('get', ARGV[1]) -- ]]",
            "local a = [[ ' ]] redis.call('get', ARGV[1]) local b = [[ ' ]]",
            "return 'without an end",
            "return 'a line\nredis.call(\"get\", \"k\")'",
            "return [[ without an end",
            "--[[ without an end",
            "-- a comment\rredis.call('get', ARGV[1])",
            "\x1bLua",
            "redis",
            "redis.",
            "redis.call",
            "redis.call(",
            "redis.call('time'",
            "redis.something_new('k')",
            "return redis --[[x]] . --\n call ( --[[ ]] 'get', ARGV[1])",
        ] {
            assert_eq!(shown(source), None, "{source}");
        }
    }

    #[test]
    fn library_name_is_read_from_the_first_line() {
        let name = |code: &'static str| {
            library_name(code.as_bytes()).map(|name| name.escape_ascii().to_string())
        };
        assert_eq!(name("#!lua name=lib\nreturn"), Some("lib".into()));
        assert_eq!(name("#!LUA  name=lib\r\n"), Some("lib".into()));
        assert_eq!(name("#!lua name=\"lib\""), Some("lib".into()));
        assert_eq!(name("#!lua\nname=lib"), None);
        assert_eq!(name("#!lua name="), None);
        assert_eq!(name("return 'name=lib'"), None);
    }

    #[test]
    fn library_functions_are_found_in_its_strings() {
        let code = b"#!lua name=l\nredis.register_function('Fun', g)\nredis.register_function{function_name=\"other\"}";
        assert!(names(code, b"fun") && names(code, b"OTHER"));
        assert!(!names(code, b"g") && !names(code, b"l") && !names(code, b"fu"));
    }

    proptest::proptest! {
        #[test]
        fn lua_analysis_never_panics_on_arbitrary_text(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "redis", ".", "call", "(", ")", "'", "\"", "\\", "\n", "--", "[", "[[", "]]", "=", "time", "get", ",", "#!", "\u{e9}",
            ]), 0..24),
        ) {
            let source = pieces.concat();
            let _ = shown(&source);
            let _ = (names(source.as_bytes(), b"get"), library_name(source.as_bytes()));
        }
    }
}
