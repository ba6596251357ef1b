//! Keys of all nodes, one after another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use redis::Value;

use crate::error::{Error, ErrorKind};
use crate::sync::Shared;

/// An iterator over the keys of all nodes, made by [`ShardedClient::scan_all`](crate::ShardedClient::scan_all).
///
/// Gives what SCAN gives: every key that is there from beginning to end at least once, others perhaps. Keys of one node
/// come before those of the next.
///
/// ```no_run
/// # fn f(client: &redis_sharding::ShardedClient) -> Result<(), redis_sharding::Error> {
/// for key in client.scan_all().matching("user:*").page_size(1000) {
///     println!("{}", String::from_utf8_lossy(&key?));
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    /// Where the page in hand was asked for.
    position: ScanPosition,
    page: std::vec::IntoIter<Value>,
    next: Next,
    options: Vec<(&'static str, Vec<u8>)>,
}

/// What follows the page in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Page(u64),
    End,
}

/// Where a scan stands. Prints as text and parses back, so that it can be kept and resumed later or elsewhere, as long as
/// the topology stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    fingerprint: u64,
    cursor: u64,
}

impl Scan {
    pub(super) fn new(shared: Arc<Shared>, position: ScanPosition) -> Self {
        Self {
            shared,
            position,
            page: Vec::new().into_iter(),
            next: Next::Page(position.cursor),
            options: Vec::new(),
        }
    }

    /// Only keys that match a glob-style pattern. Defaults to all.
    #[must_use]
    pub fn matching(self, pattern: impl AsRef<[u8]>) -> Self {
        self.option("MATCH", pattern.as_ref())
    }

    /// Only keys of one type, as TYPE names it. Defaults to all.
    #[must_use]
    pub fn of_type(self, name: &str) -> Self {
        self.option("TYPE", name.as_bytes())
    }

    /// About how many keys a node looks at per request. Defaults to the server's own, 10.
    #[must_use]
    pub fn page_size(self, keys: usize) -> Self {
        self.option("COUNT", keys.to_string().as_bytes())
    }

    /// Where to resume. Keys of a page that was begun come again.
    pub fn position(&self) -> ScanPosition {
        match self.next {
            Next::Page(cursor) if self.page.len() == 0 => ScanPosition {
                cursor,
                ..self.position
            },
            _ => self.position,
        }
    }

    fn option(mut self, name: &'static str, value: &[u8]) -> Self {
        self.options.retain(|(given, _)| *given != name);
        self.options.push((name, value.to_vec()));
        self
    }

    fn load(&mut self, cursor: u64) -> Result<(), Error> {
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(cursor);
        for (name, value) in &self.options {
            cmd.arg(name).arg(value);
        }
        let reply = match self.shared.request(&cmd.get_packed_command())? {
            Value::ServerError(error) => return Err(Error::said(&error)),
            reply => reply,
        };
        let (next, page): (u64, Vec<Value>) = redis::from_redis_value(reply).map_err(|error| {
            Error::new(
                ErrorKind::Redis,
                format!("a scan's answer cannot be read: {error}"),
            )
        })?;
        self.position.cursor = cursor;
        self.next = if next == 0 {
            Next::End
        } else {
            Next::Page(next)
        };
        self.page = page.into_iter();
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<u8>, Error>;

    /// The next key; after an error, the same page is asked for again.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.page.next() {
                Some(Value::BulkString(key)) => return Some(Ok(key)),
                Some(_) => {
                    let text = "a scan's answer holds something that is not a key";
                    return Some(Err(Error::new(ErrorKind::Redis, text)));
                }
                None => {}
            }
            let Next::Page(cursor) = self.next else {
                return None;
            };
            if let Err(error) = self.load(cursor) {
                return Some(Err(error));
            }
        }
    }
}

impl ScanPosition {
    pub(super) fn start(fingerprint: u64) -> Self {
        Self {
            fingerprint,
            cursor: 0,
        }
    }

    pub(super) fn check(self, fingerprint: u64) -> Result<(), Error> {
        match self.fingerprint == fingerprint {
            true => Ok(()),
            false => Err(Error::config(
                "this scan position comes from another topology; its cursor would mean another node here: scan anew",
            )),
        }
    }
}

impl fmt::Display for ScanPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.fingerprint, self.cursor)
    }
}

impl FromStr for ScanPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (fingerprint, cursor) = text.split_once(':')?;
            Some(Self {
                fingerprint: u64::from_str_radix(fingerprint, 16).ok()?,
                cursor: cursor.parse().ok()?,
            })
        };
        parse().ok_or_else(|| Error::config("not a scan position: it reads FINGERPRINT:CURSOR"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_parses_as_it_prints() {
        let position = ScanPosition {
            fingerprint: 0xfeed,
            cursor: 42,
        };
        assert_eq!(
            position.to_string().parse::<ScanPosition>().unwrap(),
            position
        );
        assert_eq!(
            "nonsense".parse::<ScanPosition>().unwrap_err().kind(),
            ErrorKind::Config
        );
    }

    #[test]
    fn a_position_of_another_topology_is_refused() {
        assert!(ScanPosition::start(1).check(2).is_err());
        assert!(ScanPosition::start(1).check(1).is_ok());
    }
}
