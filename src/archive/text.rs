//! The lines of manifest and totals: `word token token...`, in which a token is bare, in quotes, or `name=token`.
//!
//! Bare is what consists of printable ASCII without space and quotes. All else stands in quotes, with the escapes `\"`,
//! `\'`, `\\`, `\n`, `\r`, `\t` and `\xff`, the last for each byte of UTF-8 beyond ASCII.

use std::fmt::{self, Write};

use super::error::ArchiveError;

/// Ends the word of a line, or the name of a token, that a reader must know.
const NEEDED: char = '!';

/// A line.
pub(super) struct Statement<'t> {
    /// Which text it stands in, and its number, for errors.
    text: &'static str,
    number: usize,
    /// Its first word.
    pub(super) word: &'t str,
    /// The line as it stands.
    pub(super) line: &'t str,
    tokens: std::vec::IntoIter<Token<'t>>,
}

/// What stands between spaces.
struct Token<'t> {
    name: Option<&'t str>,
    value: String,
    /// A bare token with an equals sign is a name and a value, or one value.
    bare: Option<&'t str>,
}

/// Reads the lines of a text after its first, which must be `redis-sharding TEXT 1`. Empty lines are left out.
pub(super) fn statements<'t>(
    text: &'static str,
    lines: &'t str,
) -> Result<Vec<Statement<'t>>, ArchiveError> {
    let mut statements = Vec::new();
    let mut lines = (1..).zip(lines.split('\n'));
    let head = lines.next().map(|(_, line)| line).unwrap_or_default();
    if head != first_line(text) {
        let newer = head
            .strip_prefix("redis-sharding ")
            .and_then(|rest| rest.strip_prefix(text))
            .is_some();
        let cause = match newer {
            true => "this is another version than 1: use a newer redis-sharding".into(),
            false => format!("it must be \"{}\"", first_line(text)),
        };
        return Err(error(text, 1, cause));
    }
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let tokens = tokens(rest).map_err(|cause| error(text, number, cause.into()))?;
        statements.push(Statement {
            text,
            number,
            word,
            line,
            tokens: tokens.into_iter(),
        });
    }
    Ok(statements)
}

/// Returns the first line of a text.
pub(super) fn first_line(text: &str) -> String {
    format!("redis-sharding {text} 1")
}

/// True if a reader that does not know this word must refuse the text.
pub(super) fn is_needed(word: &str) -> bool {
    word.ends_with(NEEDED)
}

impl Statement<'_> {
    /// Takes the next token.
    pub(super) fn value(&mut self) -> Result<String, ArchiveError> {
        let token = self.tokens.next();
        let token = token.ok_or_else(|| self.error("a value is missing"))?;
        Ok(token.bare.map_or(token.value, str::to_owned))
    }

    /// Takes the next token as a number.
    pub(super) fn number<N: std::str::FromStr>(&mut self) -> Result<N, ArchiveError> {
        let value = self.value()?;
        self.parsed(&value)
    }

    /// Takes the next token, which must be `name=value`; `None` at the end of the line.
    pub(super) fn attribute(&mut self) -> Result<Option<(String, String)>, ArchiveError> {
        let Some(token) = self.tokens.next() else {
            return Ok(None);
        };
        match token.name {
            Some(name) => Ok(Some((name.to_owned(), token.value))),
            None => Err(self.error("here a name, = and a value are expected")),
        }
    }

    /// Returns a value as a number.
    pub(super) fn parsed<N: std::str::FromStr>(&self, value: &str) -> Result<N, ArchiveError> {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.error("this is not a number, or too large"))
    }

    /// Refuses a name that a later version has added as one that readers must know; ignores others.
    pub(super) fn ignore(&self, name: &str) -> Result<(), ArchiveError> {
        match is_needed(name) {
            true => Err(self.error(format!(
                "{} must be understood, and is not known: use a newer redis-sharding",
                Word(name)
            ))),
            false => Ok(()),
        }
    }

    /// An error at this line.
    pub(super) fn error(&self, cause: impl Into<String>) -> ArchiveError {
        error(self.text, self.number, cause.into())
    }
}

/// A value as a token.
pub(super) struct Word<'a>(pub(super) &'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match !self.0.is_empty() && self.0.bytes().all(is_bare) {
            true => f.write_str(self.0),
            false => write!(f, "\"{}\"", self.0.as_bytes().escape_ascii()),
        }
    }
}

/// Writes ` name=value`, if there is a value.
pub(super) fn put_attribute(line: &mut String, name: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        // Writing to a string does not fail.
        let _ = write!(line, " {name}={}", Word(&value.to_string()));
    }
}

/// Writes a line `word value`, if there is a value.
pub(super) fn put_line(text: &mut String, word: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{word} {}", Word(&value.to_string()));
    }
}

fn error(text: &'static str, line: usize, cause: String) -> ArchiveError {
    ArchiveError::Text { text, line, cause }
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"'
}

/// Cuts the rest of a line into tokens, which one space separates.
fn tokens(mut rest: &str) -> Result<Vec<Token<'_>>, &'static str> {
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        let end = rest.find([' ', '"']).unwrap_or(rest.len());
        let (bare, after) = rest.split_at(end);
        let token;
        if let Some(quoted) = after.strip_prefix('"') {
            let name = match bare.strip_suffix('=') {
                _ if bare.is_empty() => None,
                Some(name) if !name.is_empty() => Some(name),
                _ => return Err("quotes stand within a word"),
            };
            let (value, after) = unquoted(quoted)?;
            token = Token {
                name,
                value,
                bare: None,
            };
            rest = after;
        } else {
            if bare.is_empty() || !bare.bytes().all(is_bare) {
                return Err("a word is empty, or has characters that stand in quotes only");
            }
            let parts = bare.split_once('=');
            token = Token {
                name: parts.map(|(name, _)| name),
                value: parts.map_or(bare, |(_, value)| value).to_owned(),
                bare: Some(bare),
            };
            rest = after;
        }
        tokens.push(token);
        match rest.strip_prefix(' ') {
            Some(after) if !after.is_empty() => rest = after,
            None if rest.is_empty() => {}
            _ => return Err("one space must stand between words, and none at the end"),
        }
    }
    Ok(tokens)
}

/// Reads up to the closing quote; returns what follows it too.
fn unquoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes().enumerate();
    while let Some((at, byte)) = rest.next() {
        let byte = match byte {
            b'"' => {
                let value = String::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
                return Ok((value, text.get(at + 1..).unwrap_or_default()));
            }
            b'\\' => {
                let escaped = rest.next().map(|(_, byte)| byte);
                match escaped.ok_or("the quotes are not closed")? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    byte @ (b'"' | b'\'' | b'\\') => byte,
                    b'x' => {
                        let digits = text.get(at + 2..at + 4);
                        let digits =
                            digits.filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
                        let digits = digits.ok_or("two digits must follow \\x")?;
                        rest.next();
                        rest.next();
                        u8::from_str_radix(digits, 16).map_err(|_| "two digits must follow \\x")?
                    }
                    _ => return Err("the escape after \\ is unknown"),
                }
            }
            b' '..=b'~' => byte,
            _ => return Err("a character in quotes must be written as \\x and two digits"),
        };
        bytes.push(byte);
    }
    Err("the quotes are not closed")
}
