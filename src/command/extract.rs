//! Where are the keys of this request, and how long may the server hold its answer?
//!
//! Options are read as the server's own parsers read them: a word is an option only where the parser expects one, and
//! it takes its arguments along. A group named `streams` or a key named `STORE` is just a name.

use std::time::Duration;

use super::{Access, ArgAt, Blocking, CommandSpec, KeyError, KeyPositions, KeySpec, Route};

/// How long the server may hold an answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most this long.
    For(Duration),
    /// Until something happens.
    Forever,
}

impl CommandSpec {
    /// Writes the positions of the request's keys into `out`, whose former content is dropped.
    ///
    /// `args` is the whole request, the name included. A command without keys leaves `out` empty.
    ///
    /// # Errors
    /// [`KeyError`] when the arguments cannot be what the command needs; the server would refuse them too. `out` is
    /// empty then.
    pub fn positions(&self, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
        out.clear();
        let found = self
            .check(args)
            .and_then(|()| self.keys.iter().try_for_each(|keys| keys.find(args, out)));
        if found.is_err() {
            out.clear();
        }
        found
    }

    /// The position of the key, for commands that have exactly one and always in the same place (GET, HSET, ...).
    ///
    /// The position is within the arguments once [`accepts`](Self::accepts) has said so.
    #[must_use]
    #[inline]
    pub fn sole_key(&self) -> Option<usize> {
        match (self.route, &*self.keys) {
            (Route::Keys, &[KeySpec::Range { first, last, .. }])
                if i32::from(first) == i32::from(last) =>
            {
                Some(usize::from(first))
            }
            _ => None,
        }
    }

    /// Whether the command takes this many arguments, its name included.
    #[must_use]
    #[inline]
    pub fn accepts(&self, args: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            args >= arity
        } else {
            args == arity
        }
    }

    /// Whether the command changes nothing and may be repeated.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.access == Access::Read
    }

    /// How long the server may hold the answer back, or `None` when it answers at once.
    ///
    /// A timeout that cannot be read is taken for [`Wait::Forever`]: the server will most likely refuse it at once, and
    /// if it does not, nobody else must be made to wait.
    #[must_use]
    pub fn wait_limit(&self, args: &[&[u8]]) -> Option<Wait> {
        match self.blocking {
            Blocking::No => None,
            Blocking::Seconds(at) => Some(seconds(args[self.timeout_at(at, args)?])),
            Blocking::Millis(at) => Some(millis(args[self.timeout_at(at, args)?])),
        }
    }

    fn check(&self, args: &[&[u8]]) -> Result<(), KeyError> {
        if !self.accepts(args.len()) {
            return Err(KeyError::Arity);
        }
        match (self.route, self.keys.first()) {
            // A part is cut out in groups of `step`: an incomplete one must not be cut.
            (Route::Split { step, tail, .. }, Some(&KeySpec::Range { first, .. })) => {
                let fixed = usize::from(first) + usize::from(tail);
                let groups = args.len().checked_sub(fixed).ok_or(KeyError::Arity)?;
                if groups.is_multiple_of(usize::from(step)) {
                    Ok(())
                } else {
                    Err(KeyError::Arity)
                }
            }
            _ => Ok(()),
        }
    }

    fn timeout_at(&self, at: ArgAt, args: &[&[u8]]) -> Option<usize> {
        let at = match at {
            ArgAt::Index(index) => usize::from(index),
            ArgAt::Last => args.len().checked_sub(1)?,
            ArgAt::AfterWord(_) if self.keys.contains(&KeySpec::Streams) => {
                StreamOptions::parse(args).block?
            }
            ArgAt::AfterWord(word) => {
                1 + args
                    .iter()
                    .skip(1)
                    .position(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))?
                    + 1
            }
        };
        (at < args.len()).then_some(at)
    }
}

impl KeySpec {
    fn find(self, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
        match self {
            KeySpec::Range { first, last, step } => range(first, last, step, args.len(), out),
            KeySpec::Counted {
                count,
                first,
                step,
                least,
            } => {
                let number = number_of_keys(count, least, args)?;
                counted(number, first, step, args.len(), out)
            }
            KeySpec::Streams => streams(args, out),
            KeySpec::GeoStore { from } => geo_store(usize::from(from), args, out),
            KeySpec::Sort { store } => sort(store, args, out),
            KeySpec::Migrate => migrate(args, out),
        }
    }
}

impl KeyPositions {
    /// Every `step`th position from `first` to below `end`.
    fn push_keys(&mut self, first: usize, end: usize, step: usize) -> Result<(), KeyError> {
        let end = u32::try_from(end).map_err(|_| KeyError::Arity)?;
        let first = u32::try_from(first).map_err(|_| KeyError::Arity)?;
        self.keys.extend((first..end).step_by(step.max(1)));
        Ok(())
    }

    fn push_key(&mut self, at: usize) -> Result<(), KeyError> {
        self.push_keys(at, at + 1, 1)
    }
}

fn range(
    first: u16,
    last: i16,
    step: u16,
    len: usize,
    out: &mut KeyPositions,
) -> Result<(), KeyError> {
    let end = if last < 0 {
        (len + 1).saturating_sub(usize::from(last.unsigned_abs()))
    } else {
        usize::from(last.unsigned_abs()) + 1
    };
    if end > len {
        return Err(KeyError::Arity);
    }
    out.push_keys(usize::from(first), end, usize::from(step))
}

fn number_of_keys(at: u16, least: u16, args: &[&[u8]]) -> Result<usize, KeyError> {
    let number = args.get(usize::from(at)).ok_or(KeyError::Arity)?;
    let number = integer(number)
        .filter(|&number| number >= i64::from(least))
        .ok_or(KeyError::Count)?;
    usize::try_from(number).map_err(|_| KeyError::Count)
}

fn counted(
    number: usize,
    first: u16,
    step: u16,
    len: usize,
    out: &mut KeyPositions,
) -> Result<(), KeyError> {
    let (first, step) = (usize::from(first), usize::from(step));
    // What belongs to the last key must be there as well.
    let end = number
        .checked_mul(step)
        .and_then(|taken| taken.checked_add(first))
        .ok_or(KeyError::Count)?;
    if number > 0 && end > len {
        return Err(KeyError::Count);
    }
    out.push_keys(first, end, step)
}

fn streams(args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    let first = StreamOptions::parse(args).first.ok_or(KeyError::Syntax)?;
    let rest = args.len() - first;
    if rest == 0 || !rest.is_multiple_of(2) {
        return Err(KeyError::Syntax);
    }
    out.push_keys(first, first + rest / 2, 1)
}

/// The options of XREAD and XREADGROUP.
struct StreamOptions {
    /// The first argument after STREAMS, if the parser gets there.
    first: Option<usize>,
    /// The milliseconds of the last BLOCK.
    block: Option<usize>,
}

impl StreamOptions {
    fn parse(args: &[&[u8]]) -> Self {
        let mut options = Self {
            first: None,
            block: None,
        };
        let mut at = 1;
        while at < args.len() {
            let word = args[at];
            at += if is(word, "BLOCK") {
                options.block = Some(at + 1);
                2
            } else if is(word, "COUNT") || is(word, "CLAIM") {
                2
            } else if is(word, "GROUP") {
                3
            } else if is(word, "NOACK") {
                1
            } else {
                options.first = is(word, "STREAMS").then_some(at + 1);
                break;
            };
        }
        options
    }
}

fn geo_store(from: usize, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    const WORDS: [&str; 6] = ["WITHDIST", "WITHHASH", "WITHCOORD", "ANY", "ASC", "DESC"];
    let mut target = None;
    let mut at = from;
    while at < args.len() {
        let word = args[at];
        let takes_one = at + 1 < args.len();
        at += if WORDS.iter().any(|known| is(word, known)) {
            1
        } else if is(word, "COUNT") && takes_one {
            2
        } else if (is(word, "STORE") || is(word, "STOREDIST")) && takes_one {
            target = Some(at + 1);
            2
        } else {
            return Err(KeyError::Syntax);
        };
    }
    target.map_or(Ok(()), |at| out.push_key(at))
}

fn sort(store: bool, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    let mut target = None;
    let mut at = 2;
    while at < args.len() {
        let word = args[at];
        let left = args.len() - at - 1;
        at += if is(word, "ASC") || is(word, "DESC") || is(word, "ALPHA") {
            1
        } else if is(word, "LIMIT") && left >= 2 {
            3
        } else if store && is(word, "STORE") && left >= 1 {
            target = Some(at + 1);
            2
        } else if (is(word, "BY") || is(word, "GET")) && left >= 1 {
            // Without a `*` nothing is looked up: `BY nosort`, `GET #`.
            if args[at + 1].contains(&b'*') {
                out.patterns
                    .push(u32::try_from(at + 1).map_err(|_| KeyError::Arity)?);
            }
            2
        } else {
            return Err(KeyError::Syntax);
        };
    }
    target.map_or(Ok(()), |at| out.push_key(at))
}

fn migrate(args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    let mut at = 6;
    while at < args.len() {
        let word = args[at];
        let left = args.len() - at - 1;
        at += if is(word, "COPY") || is(word, "REPLACE") {
            1
        } else if is(word, "AUTH") && left >= 1 {
            2
        } else if is(word, "AUTH2") && left >= 2 {
            3
        } else if is(word, "KEYS") && args[3].is_empty() && left >= 1 {
            return out.push_keys(at + 1, args.len(), 1);
        } else if is(word, "KEYS") && args[3].is_empty() {
            1
        } else {
            return Err(KeyError::Syntax);
        };
    }
    out.push_key(3)
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// An integer written as the server reads it: no plus, no leading zero, no blank.
fn integer(digits: &[u8]) -> Option<i64> {
    let (negative, magnitude) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    match magnitude {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if magnitude.len() < 20 => {}
        _ => return None,
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

fn seconds(digits: &[u8]) -> Wait {
    let number = str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    match number.map(Duration::try_from_secs_f64) {
        Some(Ok(wait)) if !wait.is_zero() => Wait::For(wait),
        _ => Wait::Forever,
    }
}

fn millis(digits: &[u8]) -> Wait {
    match integer(digits) {
        Some(wait @ 1..) => Wait::For(Duration::from_millis(wait.unsigned_abs())),
        _ => Wait::Forever,
    }
}
