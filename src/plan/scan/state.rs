//! A scan over all nodes, as far as it has nothing to do with how bytes move: options, position, pages.

use std::fmt;
use std::str::FromStr;

use redis::{Cmd, Value};

use crate::config::limits;
use crate::error::{Error, ErrorKind};

/// Where a scan stands. Prints as text and parses back, so that it can be kept and resumed later or elsewhere, as long as
/// the topology stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    fingerprint: u64,
    cursor: u64,
}

/// A scan under way.
#[derive(Debug)]
pub(crate) struct ScanState {
    /// Where the page in hand was asked for.
    position: ScanPosition,
    page: std::vec::IntoIter<Value>,
    next: NextPage,
    options: Vec<(&'static str, Vec<u8>)>,
    /// What is wrong with an option; given instead of any key.
    mistake: Option<Error>,
}

/// What follows the page in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextPage {
    Page(u64),
    End,
}

/// What a scan wants.
pub(crate) enum ScanStep {
    /// To give this to the user.
    Yield(Result<Vec<u8>, Error>),
    /// The answer to this.
    Fetch(Cmd),
    /// Nothing more.
    Done,
}

impl ScanState {
    pub(crate) fn new(position: ScanPosition) -> Self {
        Self {
            position,
            page: Vec::new().into_iter(),
            next: NextPage::Page(position.cursor),
            options: Vec::new(),
            mistake: None,
        }
    }

    /// Sets an option of SCAN.
    pub(crate) fn set(&mut self, name: &'static str, value: &[u8]) {
        self.options.retain(|(given, _)| *given != name);
        self.options.push((name, value.to_vec()));
    }

    /// Sets how many keys a node looks at per request.
    pub(crate) fn set_count(&mut self, keys: usize) {
        self.mistake = limits::PAGE_SIZE.check(keys).err();
        self.set("COUNT", keys.to_string().as_bytes());
    }

    /// Where to resume. Keys of a page that was begun come again.
    pub(crate) fn position(&self) -> ScanPosition {
        match self.next {
            NextPage::Page(cursor) if self.page.len() == 0 => ScanPosition {
                cursor,
                ..self.position
            },
            _ => self.position,
        }
    }

    /// The next key, or what must be asked to get one.
    pub(crate) fn next_step(&mut self) -> ScanStep {
        if let Some(mistake) = self.mistake.take() {
            self.next = NextPage::End;
            return ScanStep::Yield(Err(mistake));
        }
        match (self.page.next(), self.next) {
            (Some(Value::BulkString(key)), _) => ScanStep::Yield(Ok(key)),
            (Some(_), _) => {
                let text = "the reply to a scan holds something that is not a key";
                ScanStep::Yield(Err(Error::new(ErrorKind::Redis, text)))
            }
            (None, NextPage::End) => ScanStep::Done,
            (None, NextPage::Page(cursor)) => {
                let mut cmd = redis::cmd("SCAN");
                cmd.arg(cursor);
                for (name, value) in &self.options {
                    cmd.arg(name).arg(value);
                }
                ScanStep::Fetch(cmd)
            }
        }
    }

    /// Takes the answer to what was asked.
    pub(crate) fn answer(&mut self, answer: Value) -> Result<(), Error> {
        if let Value::ServerError(error) = &answer {
            return Err(Error::from_server(error));
        }
        let (next, page): (u64, Vec<Value>) = redis::from_redis_value(answer).map_err(|error| {
            Error::new(
                ErrorKind::Redis,
                format!("the reply to a scan cannot be read: {error}"),
            )
        })?;
        if let NextPage::Page(cursor) = self.next {
            self.position.cursor = cursor;
        }
        self.next = if next == 0 {
            NextPage::End
        } else {
            NextPage::Page(next)
        };
        self.page = page.into_iter();
        Ok(())
    }
}

impl ScanPosition {
    pub(crate) fn start(fingerprint: u64) -> Self {
        Self {
            fingerprint,
            cursor: 0,
        }
    }

    pub(crate) fn check(self, fingerprint: u64) -> Result<(), Error> {
        match self.fingerprint == fingerprint {
            true => Ok(()),
            false => Err(Error::config(
                "this scan position comes from another topology, where its cursor means another node; start a new scan",
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
        parse()
            .ok_or_else(|| Error::config("not a scan position: the format is FINGERPRINT:CURSOR"))
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
        let error = "nonsense".parse::<ScanPosition>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn a_page_size_outside_of_its_limits_is_given_as_an_error_once() {
        for size in [0, 1_000_001, usize::MAX - 1, usize::MAX] {
            let mut pages = ScanState::new(ScanPosition::start(1));
            pages.set_count(size);
            let text = format!("with_count is {size}, but must be in 1..=1000000");
            assert!(
                matches!(pages.next_step(), ScanStep::Yield(Err(error)) if error.to_string() == text)
            );
            assert!(matches!(pages.next_step(), ScanStep::Done));
        }
        for size in [1, 1_000_000] {
            let mut pages = ScanState::new(ScanPosition::start(1));
            pages.set_count(size);
            assert!(matches!(pages.next_step(), ScanStep::Fetch(_)));
        }
    }

    #[test]
    fn a_position_of_another_topology_is_refused() {
        assert!(ScanPosition::start(1).check(2).is_err());
        assert!(ScanPosition::start(1).check(1).is_ok());
    }

    #[test]
    fn a_page_that_was_begun_is_asked_for_again() {
        let mut pages = ScanState::new(ScanPosition::start(1));
        let page = |cursor: u64, keys: &[&str]| {
            let keys = keys
                .iter()
                .map(|key| Value::BulkString(key.as_bytes().to_vec()));
            let cursor = Value::BulkString(cursor.to_string().into_bytes());
            Value::Array(vec![cursor, Value::Array(keys.collect())])
        };
        pages.answer(page(7, &["a", "b"])).unwrap();
        assert!(matches!(pages.next_step(), ScanStep::Yield(Ok(key)) if key == b"a"));
        assert_eq!(pages.position().cursor, 0);
        assert!(matches!(pages.next_step(), ScanStep::Yield(Ok(key)) if key == b"b"));
        assert_eq!(pages.position().cursor, 7);
        pages.answer(page(0, &[])).unwrap();
        assert!(matches!(pages.next_step(), ScanStep::Done));
    }
}
