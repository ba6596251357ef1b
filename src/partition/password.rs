//! Does this text hold a password?
//!
//! Names, addresses and options are shown, in messages and in files. So a password in one of them is refused
//! wherever they come in, and what was refused is not repeated. Strict on purpose: what only looks like a
//! password is refused too, and the message says what to do instead.

use std::fmt;

/// The second half of a message about a text that holds a password, with the remedy.
pub(crate) const ADVICE: &str = "holds a password, or what looks like one, but is shown in messages and files: leave it out, and give the \
     password in the URL of the node or with Builder::password";

/// Texts in messages are cut to this many characters.
const SHOWN_MAX: usize = 64;

/// True if the name or the address of a node holds a password: `redis://:PASSWORD@host`,
/// `user:PASSWORD@host`, `?password=PASSWORD`.
pub(crate) fn holds_password(text: &str) -> bool {
    is_url_with_user_info(text) || is_user_info(text) || has_parameter(text)
}

/// True if an option of a placement, or its value, holds the URL of a server with its password.
///
/// The bounds of ranges are bytes of keys, and keys such as mail addresses look like a user, a password and a
/// host. So only URLs count here; the names of nodes in tables are checked when the table is made.
pub(crate) fn option_holds_password(text: &str) -> bool {
    let statements = text.lines().flat_map(|line| line.split(", "));
    let mut words = statements.flat_map(|statement| match statement.contains('"') {
        true => statement.split(is_between_words as fn(char) -> bool),
        false => statement.split(never as fn(char) -> bool),
    });
    words.any(|word| is_url_with_user_info(word) || is_url_with_parameter(word))
}

fn is_between_words(c: char) -> bool {
    c == '"' || c.is_whitespace()
}

fn never(_: char) -> bool {
    false
}

/// `scheme://user:PASSWORD@host`, also where the password has characters that a URL would not take, and where
/// only a part of it is left.
fn is_url_with_user_info(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let before_host = rest.rsplit_once('@').map(|(before, _)| before);
    // No host is called nothing, so what follows the colon is no port.
    text.contains("://:") || before_host.is_some_and(|before| before.contains(':'))
}

/// `user:PASSWORD@host`.
fn is_user_info(text: &str) -> bool {
    if text.starts_with('/') || text.contains("://") {
        return false;
    }
    let Some((user_info, host)) = text.rsplit_once('@') else {
        return false;
    };
    let Some((_, password)) = user_info.split_once(':') else {
        return false;
    };
    // `host:port@port,name`, as CLUSTER NODES writes an address.
    let port = host.split(',').next().unwrap_or_default();
    let is_address_in_cluster = port.bytes().all(|byte| byte.is_ascii_digit());
    !password.is_empty()
        && !password.starts_with(char::is_whitespace)
        && !port.is_empty()
        && !is_address_in_cluster
}

fn is_url_with_parameter(text: &str) -> bool {
    text.contains("://") && has_parameter(text)
}

/// `?password=PASSWORD` and its like, among the parameters of a URL or of a connection string.
fn has_parameter(text: &str) -> bool {
    let separates = |c: char| matches!(c, '?' | '&' | ';' | ',' | '#') || c.is_whitespace();
    text.split(separates).any(|parameter| {
        let mut parts = parameter.split('=').peekable();
        let mut found = false;
        while let Some(part) = parts.next() {
            found |=
                parts.peek().is_some_and(|value| !value.is_empty()) && is_password_parameter(part);
        }
        found
    })
}

/// True if a parameter of this name is a password.
pub(crate) fn is_password_parameter(name: &str) -> bool {
    // Longer names are none, and need not be decoded.
    let short = name.len() <= 3 * SHOWN_MAX;
    let decoded = short.then(|| url::form_urlencoded::parse(name.as_bytes()).next());
    decoded.flatten().is_some_and(|(name, _)| {
        let name = name.trim().to_ascii_lowercase();
        let exact = [
            "auth",
            "masterauth",
            "pass",
            "passwd",
            "pwd",
            "requirepass",
            "secret",
        ];
        exact.contains(&name.as_str()) || name.ends_with("password")
    })
}

/// A text of the user's in a message: in quotes and cut, or only said to be there when it may hold a
/// password.
pub(crate) struct Shown<'t>(pub(crate) &'t str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if holds_password(self.0) || option_holds_password(self.0) {
            return f.write_str("(not shown, as it may hold a password)");
        }
        match self.0.char_indices().nth(SHOWN_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}... ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_detected_in_every_form_of_url() {
        for text in [
            "redis://:SECRET@h:99999",
            "redis://user:SECRET@h",
            "redis://:SECRET",
            "redis+unix://:SECRET@/x",
            "rediss://u:a/b#c?d@h:1",
            "a=redis://:SECRET@h:1",
            "x://y=redis://:SECRET",
            "redis://:my SECRET@h:1",
            "redis:/:SECRET@h:1",
            ":SECRET@h:1",
            "user:SECRET@h",
            "user:SECRET@10.0.0.1:6379",
            "user:SECRET@/run/a.sock",
            "h:1?password=SECRET",
            "?pass=SECRET",
            "unix:///x?db=1&p%61ss=SECRET",
            "/run/a.sock?PASSWORD=SECRET",
            "h:6379,ssl=true,password=SECRET",
            "redis_password=SECRET",
            "a=pass=SECRET",
            "auth=SECRET",
        ] {
            assert!(holds_password(text), "{text}");
            let shown = Shown(text).to_string();
            assert!(!shown.contains("SECRET"), "{shown}");
        }
    }

    #[test]
    fn text_without_a_password_is_not_taken_for_one() {
        for text in [
            "",
            "a",
            "10.0.0.1:6379",
            "[::1]:6379",
            "[fe80::1%eth0]:6379",
            "/run/a:b@c.sock",
            "/run/a=b.sock",
            "redis://h:6379/0",
            "redis://u@h:1/2",
            "redis://x/0=redis://y",
            "rediss://h?protocol=resp3",
            "127.0.0.1:30001@31001",
            "127.0.0.1:30001@31001,host",
            "cache@eu",
            "cache: main@eu",
            "password",
            "password=",
            "passage=1",
            "a,weight=2",
        ] {
            assert!(!holds_password(text), "{text}");
        }
    }

    #[test]
    fn bounds_of_ranges_are_not_taken_for_passwords() {
        for text in [
            "..\"user:bob@example.org\" a, \"user:bob@example.org\".. b",
            "\"http://a:80\"..\"x@y\" a",
            "pass=1",
        ] {
            assert!(!option_holds_password(text), "{text}");
        }
        for text in [
            "redis://u:my SECRET@h",
            "0..=9 a, 10.. redis://:SECRET@h:1",
            "0..=9 a, 10.. \"redis://u:SECRET@h:1\"",
            "a\nredis://h?password=SECRET",
            "numeric \"redis://:SECRET@h:1\"",
        ] {
            assert!(option_holds_password(text), "{text}");
        }
    }

    #[test]
    fn long_text_is_shortened_in_messages() {
        let long = Shown(&"é".repeat(100)).to_string();
        assert_eq!(long, format!("\"{}\"... (200 bytes)", "é".repeat(64)));
    }
}
