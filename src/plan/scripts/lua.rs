//! Which keys does a Lua source show literally?
//!
//! A scanner of Lua's lexical grammar (words, strings in quotes or long brackets, comments, any other byte),
//! with one rule on top: each mention of `redis` or `server` must be a call whose command and keys are
//! literals, or a harmless member. It does not understand programs and need not; it must only never miss a
//! key. What it cannot follow counts as touching anything, and the script is refused.
//!
//! ```text
//! redis.call('SET', 'k', ARGV[1])     k       SET has one key, and it is literal
//! redis.call('DEL', 'a', 'b')         a, b    all arguments are literal
//! redis.call('DEL', 'a', ARGV[1])     None    DEL may have a key that is not shown
//! redis.call('GET', 'k' .. n)         None    not a literal
//! local r = redis                     None    redis by another name
//! redis.call('TIME')                  []      touches no key
//! ```
//!
//! The grammar is that of Lua 5.1, sections 2.1 and 2.5.8 of its manual. Scanning takes time linear in the
//! length of the source.

use crate::command::{CommandTable, KeyPositions, Lookup, Route};

/// Members of `redis` besides `call` and `pcall` that a script may use: none reads or writes data. A member
/// that is not on the list, such as one of a future server, makes the script unreadable.
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

/// Globals that reach `redis` under another name (`_G['redis']`) or run a text that is computed
/// (`loadstring`).
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

/// Maximum number of digits of a number taken as a literal key. Lua's numbers are doubles, and the server
/// formats them with 17 digits: with more than 15 the digits may change.
const NUMBER_DIGITS_MAX: usize = 15;

/// Returns the keys that a script touches if its source shows them all, in their order, with repetitions;
/// `None` if it does not show them, and may touch any.
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
            // Precompiled chunks begin with ESC. Some servers load them, and nothing in them can be read.
            Token::Unreadable | Token::Other(b'\x1b') => return None,
            Token::Word(_) | Token::Text(_) | Token::Other(_) => {}
        }
    }
    Some(keys)
}

/// Reads the tokens after `redis`, and adds the keys of the call. `None` if they are not a plain call or a
/// harmless member.
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
        (Route::Any | Route::AnyFor { .. }, _) => Some(()),
        // PING goes to all nodes in the table, but touches no key.
        _ if command.name() == "PING" => Some(()),
        // The server refuses the call for its number of arguments, so it touches nothing.
        _ if call.is_whole && !command.accepts(call.args.len()) => Some(()),
        // One key at a fixed position: arguments after it need not be literals.
        (Route::Keys, Some(at)) => {
            keys.push(call.args.get(at)?);
            Some(())
        }
        // Positions that depend on the arguments (`numkeys`, all but the last) can be computed only when all
        // of them are known. A pattern, as in SORT ... BY, stands for keys that are not shown.
        (Route::Keys | Route::Split { .. }, _) if call.is_whole => {
            let mut at = KeyPositions::default();
            command.positions(&call.args, &mut at).ok()?;
            keys.extend(at.keys.iter().map(|&at| call.args[at as usize]));
            (!at.keys.is_empty() && at.patterns.is_empty()).then_some(())
        }
        _ => None,
    }
}

/// The leading arguments of a call that are literal strings or numbers, the command's name first.
struct Call<'s> {
    args: Vec<&'s [u8]>,
    /// The call has no further arguments.
    is_whole: bool,
}

impl<'s> Call<'s> {
    /// Reads from the opening parenthesis to the end of the call, or to the first argument that is not a
    /// literal. `None` if the command's name is not a literal, or there is no parenthesis (`redis.call{...}`,
    /// `redis.call = f`).
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
                    // The rest is left to the caller's loop: the argument may itself be a call of `redis`.
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
                // Only the beginning of an expression: `'a' .. b`. It is read again by the caller.
                _ => {
                    tokens.rest = before;
                    let is_whole = false;
                    return (!args.is_empty()).then_some(Self { args, is_whole });
                }
            }
        }
    }
}

/// True if a string stands for exactly the bytes written. Excluded are escapes, which are not decoded here,
/// and line ends that Lua changes in long brackets: it drops one at the beginning and turns CR LF into LF.
fn is_literal(text: &[u8]) -> bool {
    !text.starts_with(b"\n") && !text.iter().any(|byte| matches!(byte, b'\\' | b'\r'))
}

/// True if the server formats this number with the digits written: an integer that a double holds exactly,
/// without leading zeros.
fn is_plain_number(word: &[u8]) -> bool {
    word.len() <= NUMBER_DIGITS_MAX
        && word.iter().all(u8::is_ascii_digit)
        && (word == b"0" || !word.starts_with(b"0"))
}

/// True if the code of a library names this function in a string, in either case, as servers look functions
/// up.
pub(in crate::plan) fn names(code: &[u8], function: &[u8]) -> bool {
    Tokens::of(code)
        .any(|token| matches!(token, Token::Text(text) if text.eq_ignore_ascii_case(function)))
}

/// Returns the name of a library, from its first line: `#!lua name=...`, with or without quotes.
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

/// A token of Lua, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'s> {
    /// A name, keyword or number: a run of letters, digits and underscores.
    Word(&'s [u8]),
    /// A string, as written between its quotes or brackets: escapes are not decoded.
    Text(&'s [u8]),
    /// Any other byte, by itself: operators are not put together.
    Other(u8),
    /// A string or comment without an end. Nothing is read after it.
    Unreadable,
}

/// Iterates over the tokens of a source, without white space and comments.
struct Tokens<'s> {
    /// Not yet read. A reader may put it back to undo a step.
    rest: &'s [u8],
}

impl<'s> Tokens<'s> {
    fn of(source: &'s [u8]) -> Self {
        // The server cuts off a first line with `#!` before Lua sees the source.
        let rest = match source.starts_with(b"#!") {
            true => after(source, |byte| byte == b'\n'),
            false => source,
        };
        Self { rest }
    }

    /// Reads a string in quotes whose opening quote has been read. An unescaped line break ends it without a
    /// closing quote, which is an error in Lua as well.
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

    /// Reads a string in long brackets, `[[...]]` or `[==[...]==]`, whose first bracket has been read.
    /// `None`, with nothing read, if it is only a bracket, as in `t[1]`.
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

    /// Drops the rest of the source.
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
        // A step count for the fuzz targets, which hold it against the length of the source.
        #[cfg(any(test, fuzzing))]
        crate::fuzzing::steps::add(before - self.rest.len());
        token
    }
}

impl<'s> Tokens<'s> {
    /// Reads the next token; `None` at the end of the source.
    fn token(&mut self) -> Option<Token<'s>> {
        loop {
            let source = self.rest;
            let (&first, rest) = source.split_first()?;
            self.rest = rest;
            match first {
                // Lua takes a vertical tab for white space, and Rust does not.
                _ if first.is_ascii_whitespace() || first == b'\x0b' => {}
                b'-' if rest.first() == Some(&b'-') => {
                    self.rest = &rest[1..];
                    // `--[` opens a long comment only with a second bracket; `--[ x` runs to the end of the
                    // line.
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

/// True for the bytes of names and numbers. A `.` in a number ends it, so decimals are never literal keys.
fn is_of_a_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

/// The text after the first byte for which `is_end` is true; empty if there is none.
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
