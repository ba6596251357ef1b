//! The crate's sources as tokens, for the tests that read them: comments are gone, and so are the unit tests.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
#[derive(Debug)]
pub struct Source {
    /// Below `src`, with slashes.
    pub path: String,
    /// Without comments and without `#[cfg(test)] mod ... { ... }`; whatever stands behind such a module is there.
    pub tokens: Vec<Token>,
}

/// A word, a literal or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    /// As it is written.
    pub text: String,
    pub line: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier, a keyword or a number.
    Word,
    /// A string or a byte string, raw or not.
    Text,
    /// A character or a lifetime.
    Quote,
    /// One other character.
    Mark,
}

impl Source {
    /// A file of this text.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            tokens: without_tests(tokens(text)),
        }
    }
}

impl Token {
    /// Whether it is this word or mark.
    pub fn is(&self, text: &str) -> bool {
        self.text == text && self.kind != Kind::Text
    }
}

/// All files under `src` but those that hold unit tests only, by path.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let source = |file: &PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        Source::new(&path.replace('\\', "/"), &fs::read_to_string(file).unwrap())
    };
    let sources: Vec<Source> = files.iter().map(source).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    let is_test = |path: &str| {
        let below = |module: &String| path.strip_prefix(module.as_str());
        tests
            .iter()
            .any(|module| below(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')))
    };
    sources
        .into_iter()
        .filter(|source| !is_test(&source.path))
        .collect()
}

/// The modules with a file or folder of their own that a file declares for tests only: their paths without `.rs`.
fn test_modules(source: &Source) -> Vec<String> {
    const DECLARATION: [&str; 10] = ["#", "[", "cfg", "(", "test", ")", "]", "mod", "*", ";"];
    let folder = source.path.trim_end_matches(".rs");
    let folder = folder.trim_end_matches("/mod");
    (0..source.tokens.len())
        .filter(|&at| follows(&source.tokens, at, &DECLARATION))
        .map(|at| format!("{folder}/{}", source.tokens[at + 8].text))
        .collect()
}

/// Whether these words and marks begin at `at`. A `*` stands for any word.
pub fn follows(tokens: &[Token], at: usize, expected: &[&str]) -> bool {
    tokens.get(at..at + expected.len()).is_some_and(|found| {
        found.iter().zip(expected).all(|(token, &text)| match text {
            "*" => token.kind == Kind::Word,
            _ => token.is(text),
        })
    })
}

/// Where the bracket that opens at `at` is closed; the end of the file, if it never is.
pub fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (number, token) in tokens.iter().enumerate().skip(at) {
        if token.kind == Kind::Mark {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return number;
            }
        }
    }
    tokens.len().saturating_sub(1)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// Cuts out the modules of unit tests, and nothing else.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if follows(&tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            let mut item = at + 7;
            while follows(&tokens, item, &["#", "["]) {
                item = closing(&tokens, item + 1) + 1;
            }
            if follows(&tokens, item, &["pub"]) {
                item += 1;
                if follows(&tokens, item, &["("]) {
                    item = closing(&tokens, item) + 1;
                }
            }
            if follows(&tokens, item, &["mod", "*", "{"]) {
                at = closing(&tokens, item + 2) + 1;
                continue;
            }
        }
        kept.push(tokens[at].clone());
        at += 1;
    }
    kept
}

/// The tokens of a text of Rust.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let literal = text_end(&chars, at);
        let (kind, end) = match chars[at] {
            c if c.is_whitespace() => (None, at + 1),
            '/' if chars.get(at + 1) == Some(&'/') => (None, line_end(&chars, at)),
            '/' if chars.get(at + 1) == Some(&'*') => (None, block_end(&chars, at)),
            '\'' => (Some(Kind::Quote), quote_end(&chars, at)),
            _ if literal.is_some() => (Some(Kind::Text), literal.unwrap_or(at + 1)),
            c if is_word(c) => (Some(Kind::Word), word_end(&chars, at)),
            _ => (Some(Kind::Mark), at + 1),
        };
        let end = end.min(chars.len());
        if let Some(kind) = kind {
            let text = chars[at..end].iter().collect();
            tokens.push(Token { kind, text, line });
        }
        line += chars[at..end].iter().filter(|&&c| c == '\n').count();
        at = end;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_end(chars: &[char], at: usize) -> usize {
    let rest = chars[at..].iter();
    at + rest.take_while(|&&c| is_word(c)).count()
}

fn line_end(chars: &[char], at: usize) -> usize {
    let rest = chars[at..].iter();
    at + rest.take_while(|&&c| c != '\n').count()
}

/// Comments may be nested.
fn block_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The end of a string that begins here, with its prefix.
fn text_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while at < start + 2 && matches!(chars.get(at), Some('b' | 'c' | 'r')) {
        at += 1;
    }
    let is_raw = at > start && chars[at - 1] == 'r';
    let hashes = match is_raw {
        true => chars[at..].iter().take_while(|&&c| c == '#').count(),
        false => 0,
    };
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if !is_raw => at += 2,
            '"' if chars[at + 1..].iter().take(hashes).all(|&c| c == '#') => {
                return Some(at + 1 + hashes);
            }
            _ => at += 1,
        }
    }
    Some(at)
}

/// The end of a character, or of a lifetime.
fn quote_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let rest = chars.get(at + 3..).unwrap_or_default().iter();
            at + 4 + rest.take_while(|&&c| c != '\'').count()
        }
        (Some(_), Some('\'')) => at + 3,
        _ => word_end(chars, at + 1),
    }
}
