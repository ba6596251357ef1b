//! Where are the keys of this request, and how long may the server hold back its reply?
//!
//! Options are parsed as the server parses them: a word is an option only where the server expects one, and
//! it takes its arguments along. A group named `streams` or a key named `STORE` is a name, not an option.
//!
//! ```text
//! GEORADIUS g 1 2 3 km COUNT 5 STORE out     g (Range), out (GeoStore)
//! XREAD COUNT 2 STREAMS s1 s2 0 0            s1, s2 (Streams)
//! ZUNION 2 a b WEIGHTS 1 2                   a, b (Counted)
//! SORT k BY w_* STORE out                    k (Range), out (Sort); pattern w_*
//! ```
//!
//! Wherever the server would refuse the request, so does this, with a [`KeyError`]: an error costs nothing, a
//! wrong position costs data.

use std::time::Duration;

use super::{
    Access, ArgAt, Blocking, BlockingTime, CommandSpec, KeyError, KeyPositions, KeySpec, Route,
};
use crate::resp::canonical_integer;

impl CommandSpec {
    /// Writes the positions of the request's keys to `out`, whose former content is dropped.
    ///
    /// `args` is the whole request, the name included. A command without keys leaves `out` empty.
    ///
    /// # Errors
    /// [`KeyError`] if the arguments do not fit the command; the server would refuse them too. `out` is empty
    /// then.
    pub fn positions(&self, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
        out.clear();
        let found = self
            .check(args)
            .and_then(|()| self.keys.iter().try_for_each(|keys| keys.find(args, out)));
        // A spec that fails late may have added keys before: the caller must not route by half of them.
        if found.is_err() {
            out.clear();
        }
        found
    }

    /// Returns the position of the key, for commands that have exactly one, always in the same place (GET,
    /// HSET, ...): the fast path, which needs no [`KeyPositions`].
    ///
    /// The position lies within the arguments if [`accepts`](Self::accepts) is true for their number.
    #[must_use]
    #[inline]
    pub fn sole_key(&self) -> Option<usize> {
        match (self.route, &*self.keys) {
            // Not for split commands, whose groups must be checked first, nor for those with an optional
            // second key.
            (Route::Keys, &[KeySpec::Range { first, last, .. }])
                if i32::from(first) == i32::from(last) =>
            {
                Some(usize::from(first))
            }
            _ => None,
        }
    }

    /// Returns where the keys of a split command begin: after its name and that of its subcommand.
    pub(crate) fn first_key(&self) -> usize {
        match self.keys.first() {
            Some(&KeySpec::Range { first, .. }) => usize::from(first),
            _ => 1,
        }
    }

    /// True if the command takes this many arguments, its name included.
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

    /// True if the command changes nothing, so that it may be sent again.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.access == Access::Read
    }

    /// Returns how long the server may hold back the reply to this request.
    ///
    /// A malformed timeout counts as [`BlockingTime::Forever`]: the server will most likely refuse it at
    /// once, and if it does not, no other request may wait behind this one.
    #[must_use]
    #[inline]
    pub fn blocking_time(&self, args: &[&[u8]]) -> BlockingTime {
        let (timeout, read): (_, fn(&[u8]) -> BlockingTime) = match self.blocking {
            Blocking::No => return BlockingTime::None,
            // A time of zero, and still a connection of its own: the command must not queue behind the script
            // that it is to kill.
            Blocking::OutOfBand => return BlockingTime::AtMost(Duration::ZERO),
            Blocking::Seconds(at) => (self.timeout_at(at, args), seconds),
            Blocking::Millis(at) => (self.timeout_at(at, args), millis),
        };
        timeout.map_or(BlockingTime::None, |at| read(args[at]))
    }

    /// Checks what holds before any key is looked for: the number of arguments, and for a split command
    /// complete groups.
    fn check(&self, args: &[&[u8]]) -> Result<(), KeyError> {
        if !self.accepts(args.len()) {
            return Err(KeyError::Arity);
        }
        match (self.route, self.keys.first()) {
            // A part is cut out in groups of `step`: an incomplete one must not be cut.
            (Route::Split { step, tail, .. }, Some(&KeySpec::Range { first, .. })) => {
                // Name, subcommand and tail belong to no group.
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

    /// Returns the position of the timeout; `None` if the request has none, and so does not wait.
    pub(super) fn timeout_at(&self, at: ArgAt, args: &[&[u8]]) -> Option<usize> {
        let at = match at {
            ArgAt::Index(index) => usize::from(index),
            ArgAt::Last => args.len().checked_sub(1)?,
            // A stream or group may be named BLOCK: only the options' own parser finds the option.
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
    /// Adds the positions of these keys.
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
    /// Adds every `step`th position from `first` to below `end`.
    fn push_keys(&mut self, first: usize, end: usize, step: usize) -> Result<(), KeyError> {
        let end = u32::try_from(end).map_err(|_| KeyError::Arity)?;
        let first = u32::try_from(first).map_err(|_| KeyError::Arity)?;
        self.keys.extend((first..end).step_by(step.max(1)));
        Ok(())
    }

    /// Adds one position.
    fn push_key(&mut self, at: usize) -> Result<(), KeyError> {
        self.push_keys(at, at + 1, 1)
    }
}

/// Adds the positions of a [`KeySpec::Range`]. A negative `last` counts from the end: -1 is the last
/// argument.
fn range(
    first: u16,
    last: i16,
    step: u16,
    len: usize,
    out: &mut KeyPositions,
) -> Result<(), KeyError> {
    // -1 is the last argument, so the first position after the keys is `len`.
    let end = if last < 0 {
        (len + 1).saturating_sub(usize::from(last.unsigned_abs()))
    } else {
        usize::from(last.unsigned_abs()) + 1
    };
    // More keys are named than there are arguments.
    if end > len {
        return Err(KeyError::Arity);
    }
    out.push_keys(usize::from(first), end, usize::from(step))
}

/// Parses the number of keys at position `at`, in the server's strict form: no sign, blanks or leading zeros.
fn number_of_keys(at: u16, least: u16, args: &[&[u8]]) -> Result<usize, KeyError> {
    let number = args.get(usize::from(at)).ok_or(KeyError::Arity)?;
    // The server reads it the same way, so what is refused here would be refused there: a count taken loosely
    // would name other keys.
    let number = canonical_integer(number)
        .filter(|&number| number >= i64::from(least))
        .ok_or(KeyError::Count)?;
    usize::try_from(number).map_err(|_| KeyError::Count)
}

/// Adds `number` keys from `first` on.
fn counted(
    number: usize,
    first: u16,
    step: u16,
    len: usize,
    out: &mut KeyPositions,
) -> Result<(), KeyError> {
    let (first, step) = (usize::from(first), usize::from(step));
    // The arguments of the last key count as well: the whole group must be there. Checked arithmetic, since
    // the number is as large as a client likes.
    let end = number
        .checked_mul(step)
        .and_then(|taken| taken.checked_add(first))
        .ok_or(KeyError::Count)?;
    if number > 0 && end > len {
        return Err(KeyError::Count);
    }
    out.push_keys(first, end, step)
}

/// Adds the keys after STREAMS: the first half of the rest, whose second half are the ids.
fn streams(args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    // Without STREAMS there is no key to route by, whatever the options say.
    let first = StreamOptions::parse(args).first.ok_or(KeyError::Syntax)?;
    let rest = args.len() - first;
    // Each key has an id. An odd number would put an id among the keys.
    if rest == 0 || !rest.is_multiple_of(2) {
        return Err(KeyError::Syntax);
    }
    out.push_keys(first, first + rest / 2, 1)
}

/// The options of XREAD and XREADGROUP.
struct StreamOptions {
    /// Position of the first argument after STREAMS, if the parser gets there.
    first: Option<usize>,
    /// Position of the milliseconds of the last BLOCK.
    block: Option<usize>,
}

impl StreamOptions {
    /// Parses options as the server does, up to STREAMS or to the first word that is not an option.
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

/// Adds the key after STORE or STOREDIST. Of several, the server takes the last.
fn geo_store(from: usize, args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    const WORDS: [&str; 6] = ["WITHDIST", "WITHHASH", "WITHCOORD", "ANY", "ASC", "DESC"];
    let mut target = None;
    let mut at = from;
    while at < args.len() {
        // Positions are those of the server's own loop, option by option; a word in the place of a value is a
        // value.
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

/// Adds the key after STORE, of several the last, and the patterns of BY and GET.
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
        // The last STORE counts, as in the server, which overwrites its own variable.
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

/// Adds the keys of MIGRATE: argument 3, or if that is empty, those after KEYS.
fn migrate(args: &[&[u8]], out: &mut KeyPositions) -> Result<(), KeyError> {
    let mut at = 6;
    while at < args.len() {
        let word = args[at];
        let left = args.len() - at - 1;
        // AUTH and AUTH2 take arguments that may be called KEYS.
        at += if is(word, "COPY") || is(word, "REPLACE") {
            1
        } else if is(word, "AUTH") && left >= 1 {
            2
        } else if is(word, "AUTH2") && left >= 2 {
            3
        // KEYS takes all that follows, so it ends the options.
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

/// True if an argument is this word, in any case.
fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// Parses a timeout in seconds; 0 is for ever, and so is everything that is not a positive time.
fn seconds(digits: &[u8]) -> BlockingTime {
    // Rust's parser accepts more than the server's (`infinity`); what it accepts in addition is not a finite
    // duration, and so for ever.
    let number = str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    match number.map(Duration::try_from_secs_f64) {
        Some(Ok(wait)) if !wait.is_zero() => BlockingTime::AtMost(wait),
        _ => BlockingTime::Forever,
    }
}

/// Parses a timeout in milliseconds; 0 is for ever, and so is everything that is not a positive integer.
fn millis(digits: &[u8]) -> BlockingTime {
    match canonical_integer(digits) {
        // A negative timeout is refused by the server; it counts as for ever until it is.
        Some(wait @ 1..) => BlockingTime::AtMost(Duration::from_millis(wait.unsigned_abs())),
        _ => BlockingTime::Forever,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CommandTable, Merge};
    use super::*;

    fn found(request: &str) -> Result<KeyPositions, KeyError> {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let spec = CommandTable::built_in()
            .find(&args)
            .expect("a known command");
        let mut positions = KeyPositions::default();
        spec.positions(&args, &mut positions).map(|()| positions)
    }

    #[track_caller]
    fn keys_are(request: &str, keys: &[&str]) {
        let positions = found(request).expect("keys");
        let found: Vec<_> = positions
            .keys
            .iter()
            .map(|&at| request.split(' ').nth(at as usize))
            .collect();
        assert_eq!(
            found,
            keys.iter().map(|&key| Some(key)).collect::<Vec<_>>(),
            "{request}"
        );
    }

    #[track_caller]
    fn patterns_are(request: &str, patterns: &[&str]) {
        let positions = found(request).expect("keys");
        let found: Vec<_> = positions
            .patterns
            .iter()
            .map(|&at| request.split(' ').nth(at as usize))
            .collect();
        assert_eq!(
            found,
            patterns
                .iter()
                .map(|&pattern| Some(pattern))
                .collect::<Vec<_>>(),
            "{request}"
        );
    }

    fn wait(request: &str) -> BlockingTime {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        CommandTable::built_in()
            .find(&args)
            .expect("a known command")
            .blocking_time(&args)
    }

    #[test]
    fn keys_of_mget_mset_and_bitop_are_found_by_range() {
        keys_are("GET k", &["k"]);
        keys_are("mget a b c", &["a", "b", "c"]);
        keys_are("MSET a 1 b 2", &["a", "b"]);
        keys_are("BLPOP a b 0", &["a", "b"]);
        keys_are("BITOP AND to a b", &["to", "a", "b"]);
        keys_are("OBJECT ENCODING k", &["k"]);
        keys_are("JSON.MGET a b $", &["a", "b"]);
        keys_are("JSON.MSET a $ 1 b $ 2", &["a", "b"]);
        keys_are("UNSUBSCRIBE", &[]);
        keys_are("DBSIZE", &[]);
    }

    #[test]
    fn keys_of_eval_zunionstore_and_blmpop_are_found_by_their_count() {
        keys_are("EVAL script 2 a b c", &["a", "b"]);
        keys_are("EVAL script 0 a", &[]);
        keys_are("ZUNIONSTORE to 2 a b WEIGHTS 1 2", &["to", "a", "b"]);
        keys_are("MSETEX 2 a 1 b 2 NX EX 10", &["a", "b"]);
        keys_are("BLMPOP 0 1 a LEFT", &["a"]);
        for wrong in [
            "3",
            "-1",
            "01",
            "+1",
            "x",
            "",
            "18446744073709551617",
            "9223372036854775807",
        ] {
            assert_eq!(
                found(&format!("EVAL script {wrong} a b")),
                Err(KeyError::Count),
                "{wrong}"
            );
        }
        assert_eq!(found("ZUNION 0 a"), Err(KeyError::Count));
        assert_eq!(found("MSETEX 2 a 1 b"), Err(KeyError::Count));
    }

    #[test]
    fn keys_of_xread_and_xreadgroup_are_found_behind_their_options() {
        keys_are("XREAD COUNT 1 BLOCK 0 STREAMS a b 0 0", &["a", "b"]);
        keys_are("XREADGROUP GROUP streams streams streams a >", &["a"]);
        keys_are(
            "XREADGROUP COUNT 2 GROUP STREAMS c NOACK STREAMS STREAMS >",
            &["STREAMS"],
        );
        keys_are("XREADGROUP GROUP g c CLAIM 10 STREAMS a >", &["a"]);
        for wrong in [
            "XREAD COUNT 1 2 STREAMS a 0",
            "XREAD STREAMS a b 0",
            "XREAD COUNT 1 STREAMS",
            "XREAD a b c",
        ] {
            assert_eq!(found(wrong), Err(KeyError::Syntax), "{wrong}");
        }
    }

    #[test]
    fn sort_and_georadius_store_into_the_key_of_their_last_store_option() {
        keys_are("SORT k", &["k"]);
        keys_are(
            "SORT k STORE a LIMIT 0 1 STORE store ALPHA",
            &["k", "store"],
        );
        keys_are("SORT k BY STORE GET STORE", &["k"]);
        keys_are("GEORADIUS g 0 0 1 m", &["g"]);
        keys_are(
            "GEORADIUS g 0 0 1 m STORE a COUNT 1 ANY STOREDIST b",
            &["g", "b"],
        );
        keys_are("GEORADIUSBYMEMBER g STORE 1 m STORE STORE", &["g", "STORE"]);
        assert_eq!(found("SORT k STORE"), Err(KeyError::Syntax));
        assert_eq!(found("SORT k LIMIT 1"), Err(KeyError::Syntax));
        assert_eq!(found("SORT_RO k STORE a"), Err(KeyError::Syntax));
        assert_eq!(found("GEORADIUS g 0 0 1 m STORE"), Err(KeyError::Syntax));
    }

    #[test]
    fn sort_by_and_get_patterns_matter_only_with_a_star() {
        patterns_are("SORT k BY nosort GET # GET w_*->f GET fixed", &["w_*->f"]);
        patterns_are("SORT_RO k BY w_* LIMIT 0 1 GET o_*", &["w_*", "o_*"]);
    }

    #[test]
    fn migrate_takes_one_key_or_those_after_the_keys_option() {
        keys_are("MIGRATE h 1 k 0 9 COPY REPLACE AUTH KEYS", &["k"]);
        keys_are(
            "MIGRATE h 1  0 9 AUTH2 KEYS KEYS KEYS KEYS a",
            &["KEYS", "a"],
        );
        keys_are("MIGRATE h 1  0 9 KEYS", &[""]);
        assert_eq!(found("MIGRATE h 1 k 0 9 KEYS a"), Err(KeyError::Syntax));
        assert_eq!(found("MIGRATE h 1 k 0 9 AUTH"), Err(KeyError::Syntax));
    }

    #[test]
    fn wrong_number_of_arguments_is_an_arity_error() {
        for wrong in [
            "GET",
            "GET a b",
            "MGET",
            "OBJECT ENCODING",
            "DBSIZE a",
            "XGROUP CREATE k g",
        ] {
            assert_eq!(found(wrong), Err(KeyError::Arity), "{wrong}");
        }
    }

    #[test]
    fn incomplete_pair_of_mset_or_json_mset_is_an_arity_error() {
        assert_eq!(found("MSET a 1 b"), Err(KeyError::Arity));
        assert_eq!(found("JSON.MSET a $ 1 b $"), Err(KeyError::Arity));
    }

    #[test]
    fn key_positions_are_empty_after_a_key_error() {
        let mut positions = KeyPositions::default();
        let table = CommandTable::built_in();
        let mut ask = |args: &[&[u8]]| {
            let result = table
                .find(args)
                .expect("a known command")
                .positions(args, &mut positions);
            (result, positions.keys.len(), positions.patterns.len())
        };
        assert_eq!(ask(&[b"SORT", b"k", b"BY", b"*"]), (Ok(()), 1, 1));
        assert_eq!(
            ask(&[b"SORT", b"k", b"BY", b"*", b"STORE"]),
            (Err(KeyError::Syntax), 0, 0)
        );
    }

    #[test]
    fn sole_key_exists_only_for_commands_with_one_key_at_a_fixed_position() {
        let sole_key = |name| {
            CommandTable::built_in()
                .by_name(name)
                .and_then(CommandSpec::sole_key)
        };
        assert_eq!(sole_key("GET"), Some(1));
        assert_eq!(sole_key("OBJECT|FREQ"), Some(2));
        for name in [
            "MGET",
            "RENAME",
            "DEL",
            "EVAL",
            "SORT",
            "GEORADIUS",
            "DBSIZE",
            "WATCH",
        ] {
            assert_eq!(sole_key(name), None, "{name}");
        }
    }

    #[test]
    fn blocking_time_of_blpop_wait_and_xread_is_read_from_the_timeout_argument() {
        let millis = |millis| BlockingTime::AtMost(Duration::from_millis(millis));
        assert_eq!(wait("GET k"), BlockingTime::None);
        assert_eq!(wait("BLPOP a b 1.5"), millis(1500));
        assert_eq!(wait("BLPOP a b 0"), BlockingTime::Forever);
        assert_eq!(wait("BLMPOP 2 1 a LEFT"), millis(2000));
        assert_eq!(wait("BLMOVE a b LEFT LEFT 0.01"), millis(10));
        assert_eq!(wait("WAIT 1 100"), millis(100));
        assert_eq!(wait("WAITAOF 1 1 0"), BlockingTime::Forever);
        assert_eq!(wait("XREAD STREAMS a 0"), BlockingTime::None);
        assert_eq!(wait("XREAD COUNT 1 block 7 STREAMS BLOCK 9"), millis(7));
        assert_eq!(
            wait("XREADGROUP GROUP BLOCK 5 STREAMS a >"),
            BlockingTime::None
        );
        assert_eq!(
            wait("XREADGROUP GROUP g c BLOCK 0 STREAMS a >"),
            BlockingTime::Forever
        );
    }

    #[test]
    fn blocking_time_with_an_invalid_timeout_is_forever() {
        for odd in ["x", "", "-1", "1e400", "NaN", "inf", "0x10"] {
            assert_eq!(
                wait(&format!("BLPOP a {odd}")),
                BlockingTime::Forever,
                "{odd}"
            );
            assert_eq!(
                wait(&format!("WAIT 1 {odd}")),
                BlockingTime::Forever,
                "{odd}"
            );
        }
        assert_eq!(wait("WAIT"), BlockingTime::None);
    }

    #[test]
    fn blocking_time_of_a_declared_command_follows_its_word() {
        let table = CommandTable::default()
            .with(
                CommandSpec::declare("MY.POP")
                    .key(1)
                    .blocking(Blocking::Millis(ArgAt::AfterWord("WAIT"))),
            )
            .expect("a good declaration");
        let limit = |args: &[&[u8]]| {
            table
                .find(args)
                .expect("it is declared")
                .blocking_time(args)
        };
        assert_eq!(
            limit(&[b"MY.POP", b"k", b"wait", b"5"]),
            BlockingTime::AtMost(Duration::from_millis(5))
        );
        assert_eq!(limit(&[b"MY.POP", b"k"]), BlockingTime::None);
        assert_eq!(limit(&[b"MY.POP", b"k", b"WAIT"]), BlockingTime::None);
    }

    #[test]
    fn missing_key_of_a_declared_command_is_a_key_error() {
        let table = CommandTable::default()
            .with(CommandSpec::declare("MY.TWO").keys(1, 2, 1))
            .and_then(|table| {
                table.with(
                    CommandSpec::declare("MY.ALL")
                        .keys(1, -1, 1)
                        .split(1, 0, Merge::Sum),
                )
            })
            .and_then(|table| table.with(CommandSpec::declare("MY.N").counted(3, 4)))
            .expect("good declarations");
        let mut positions = KeyPositions::default();
        for args in [
            &[b"MY.TWO".as_slice(), b"a"][..],
            &[b"MY.TWO"],
            &[b"MY.N", b"1", b"2"],
        ] {
            let spec = table.find(args).expect("declared");
            assert_eq!(
                spec.positions(args, &mut positions),
                Err(KeyError::Arity),
                "{args:?}"
            );
        }
        let none: &[&[u8]] = &[b"MY.ALL"];
        assert_eq!(
            table
                .find(none)
                .expect("declared")
                .positions(none, &mut positions),
            Ok(())
        );
    }

    proptest::proptest! {
        #[test]
        fn key_extraction_never_panics_and_positions_are_within_the_arguments(
            row in proptest::prelude::any::<proptest::sample::Index>(),
            rest in proptest::collection::vec(proptest::sample::select(vec![
                "", "0", "1", "2", "-1", "65535", "9223372036854775807", "STORE", "BY", "GET", "a*", "STREAMS",
                "GROUP", "BLOCK", "COUNT", "KEYS", "AUTH", "AUTH2", "LIMIT", "k",
            ]), 0..12),
        ) {
            let specs: Vec<_> = CommandTable::built_in().iter().collect();
            let spec = row.get(&specs);
            let args: Vec<&[u8]> = spec.name().split('|').chain(rest).map(str::as_bytes).collect();
            let mut positions = KeyPositions::default();
            let _ = spec.positions(&args, &mut positions);
            let _ = spec.blocking_time(&args);
            for &at in positions.keys.iter().chain(&positions.patterns) {
                proptest::prop_assert!((1..args.len()).contains(&(at as usize)));
            }
        }
    }
}
