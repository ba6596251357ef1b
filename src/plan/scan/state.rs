//! The state of a scan over all nodes: options, the current page, and the position at which it can be
//! resumed.
//!
//! The iterators of both clients drive a [`ScanState`]:
//!
//! ```text
//! loop {
//!     match state.next_step(router) {
//!         Yield(key)   => return key,
//!         Fetch(cmd)   => state.answer(execute(cmd), router),
//!         Done         => return none,
//!     }
//! }
//! ```
//!
//! A [`ScanPosition`] is printed as `FINGERPRINT:NODE:STATE:CHECK`:
//!
//! ```text
//! 5ac1f0339c6e27b4:9f86d081884c7d65:85:1f2e
//! │                │                │  └─ check over the rest, 16 bits in hexadecimal: detects altered text
//! │                │                └──── the node's own cursor * 2 + answered, in decimal: 42, true
//! │                └───────────────────── NodeId of the node, 64 bits in hexadecimal
//! └────────────────────────────────────── fingerprint of the topology, 64 bits in hexadecimal
//! ```
//!
//! In the second pass over the nodes, which there is while a reshard moves keys, an `r` is before the state.
//!
//! Over a Redis Cluster the first two are the same for all positions, and the third is the cursor of SCAN * 2.

use std::fmt;
use std::str::FromStr;

use redis::{Cmd, Value};

use crate::error::{Error, ErrorKind};
use crate::partition::{NodeId, NodeIndex};
use crate::plan::Router;
use crate::plan::scan::cursor::{ScanCursor, first_node, mix};
use crate::topology::Topology;

/// Maximum page size of a scan (COUNT), in keys that a node examines per request.
///
/// A server is busy for the whole of a request, so a larger page would block all its other clients.
pub const SCAN_COUNT_MAX: usize = 1_000_000;

/// The position of a scan over all nodes: the current node, by its [`NodeId`], and that server's own cursor. Over a Redis
/// Cluster it is the current slot, whatever nodes there are.
///
/// It prints as text and parses back, so that a scan can be resumed later or in another process. A position
/// is refused by a client with another topology: keys that have moved to nodes already passed would be
/// missing from the rest of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    /// Fingerprint of the topology for which the position is valid; [`CLUSTER`] if that is any of a cluster.
    fingerprint: u64,
    /// The node to scan next, by its identity: indices change when nodes are added.
    node: NodeId,
    /// That node's own cursor; 0 begins its scan. Over a cluster the cursor of SCAN.
    cursor: u64,
    /// True if some node has replied to an earlier step.
    answered: bool,
    /// True in the second pass over the nodes, which there is while a reshard moves keys.
    is_second_pass: bool,
}

/// Number of times that one page is asked for again as a reshard has begun.
const PLANNED_AGAIN_MAX: usize = 3;

/// Stands before the state in the second pass over the nodes.
const SECOND_PASS: &str = "r";

/// Stands for the fingerprint in the positions of a cluster: they do not depend on who owns which slot.
const CLUSTER: u64 = u64::from_be_bytes(*b"by slots");

/// A scan under way.
#[derive(Debug)]
pub(crate) struct ScanState {
    /// The position from which the current page was fetched.
    position: ScanPosition,
    /// Keys of the current page that were not yielded yet.
    page: std::vec::IntoIter<Value>,
    /// The page after the current one.
    next: NextPage,
    /// Options of SCAN by name, each at most once.
    options: Vec<(&'static str, Vec<u8>)>,
    /// The error of an invalid option, yielded instead of any key: the setters that users call cannot fail.
    mistake: Option<Error>,
}

/// The page after the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextPage {
    /// The page at this position.
    Page(ScanPosition),
    /// Nothing: all nodes are scanned, or the scan has failed.
    End,
}

/// The next step of a scan.
pub(crate) enum ScanStep {
    /// Return this to the user.
    Yield(Result<Vec<u8>, Error>),
    /// Execute this command, and pass its reply to [`ScanState::answer`].
    Fetch(Cmd),
    /// End the iteration.
    Done,
}

impl ScanState {
    /// A scan that begins at `position`, without options.
    pub(crate) fn new(position: ScanPosition) -> Self {
        Self {
            position,
            page: Vec::new().into_iter(),
            next: NextPage::Page(position),
            options: Vec::new(),
            mistake: None,
        }
    }

    /// Sets an option of SCAN, such as MATCH, in the place of an earlier value.
    pub(crate) fn set(&mut self, name: &'static str, value: &[u8]) {
        // Servers accept an option twice and use the last one; sending it once is shorter.
        self.options.retain(|(given, _)| *given != name);
        self.options.push((name, value.to_vec()));
    }

    /// Sets the number of keys that a node examines per request (COUNT). A number outside of 1 to
    /// [`SCAN_COUNT_MAX`] is yielded as an error by the first step. Defaults to the server's own, 10.
    pub(crate) fn set_count(&mut self, keys: usize) {
        self.mistake = match (1..=SCAN_COUNT_MAX).contains(&keys) {
            true => None,
            false => Some(Error::config(format!(
                "with_count is {keys}, but must be in 1..={SCAN_COUNT_MAX}"
            ))),
        };
        self.set("COUNT", keys.to_string().as_bytes());
    }

    /// True if the page is asked for again after this error: a reshard has begun, and the scan makes two passes from now on.
    /// `number` counts the errors in turn.
    pub(crate) fn goes_on_after(&self, error: &Error, number: usize) -> bool {
        error.kind() == ErrorKind::Moving && error.is_retryable() && number <= PLANNED_AGAIN_MAX
    }

    /// The position at which a new scan can resume.
    ///
    /// In the middle of a page it is the beginning of that page, since servers have no cursor within a page:
    /// its keys are returned again. After the end of the scan it is the beginning of the last page.
    pub(crate) fn position(&self) -> ScanPosition {
        match self.next {
            NextPage::Page(position) if self.page.len() == 0 => position,
            _ => self.position,
        }
    }

    /// The next key, or the command that fetches the next page.
    ///
    /// When the position does not belong to the topology of `router`, it yields an error, and then ends.
    pub(crate) fn next_step(&mut self, router: &Router) -> ScanStep {
        // Yielded once, and nothing after it: an iterator that repeats its error would never end.
        if let Some(mistake) = self.mistake.take() {
            self.next = NextPage::End;
            return ScanStep::Yield(Err(mistake));
        }
        match (self.page.next(), self.next) {
            (Some(Value::BulkString(key)), _) => ScanStep::Yield(Ok(key)),
            (Some(_), _) => {
                let text = "the reply to SCAN contains something other than a key";
                ScanStep::Yield(Err(Error::new(ErrorKind::Redis, text)))
            }
            (None, NextPage::End) => ScanStep::Done,
            (None, NextPage::Page(position)) => {
                // Packed for this router on every page: a handle may have changed its topology since the last
                // one.
                let cursor = match position.pack(router) {
                    Ok(cursor) => cursor,
                    Err(error) => {
                        self.next = NextPage::End;
                        return ScanStep::Yield(Err(error));
                    }
                };
                let mut cmd = redis::cmd("SCAN");
                cmd.arg(cursor);
                for (name, value) in &self.options {
                    cmd.arg(name).arg(value);
                }
                ScanStep::Fetch(cmd)
            }
        }
    }

    /// Records the reply to the command of the last [`Fetch`](ScanStep::Fetch).
    ///
    /// # Errors
    ///
    /// When it is an error reply, or not the reply to a SCAN. The state is unchanged then, so the page can be
    /// fetched again.
    pub(crate) fn answer(&mut self, answer: Value, router: &Router) -> Result<(), Error> {
        if let Value::ServerError(error) = &answer {
            return Err(Error::from_server(error, None));
        }
        let (next, page): (u64, Vec<Value>) = redis::from_redis_value(answer).map_err(|error| {
            Error::new(
                ErrorKind::Redis,
                format!("the reply to SCAN cannot be decoded: {error}"),
            )
        })?;
        let next = match next {
            0 => NextPage::End,
            next => NextPage::Page(ScanPosition::unpack(next, router)?),
        };
        // Only now that the reply is known to be good: `position` is that of the page that replaces the old
        // one.
        if let NextPage::Page(position) = self.next {
            self.position = position;
        }
        self.next = next;
        self.page = page.into_iter();
        Ok(())
    }
}

impl ScanPosition {
    /// The beginning of a scan over `topology`.
    pub(crate) fn start(topology: &Topology) -> Self {
        if topology.cluster().is_some() {
            return Self::in_cluster(0);
        }
        Self {
            fingerprint: topology.fingerprint(),
            node: topology.node(first_node(topology)).id(),
            cursor: 0,
            answered: false,
            is_second_pass: false,
        }
    }

    /// The position of this cursor of SCAN over a cluster.
    fn in_cluster(cursor: u64) -> Self {
        Self {
            fingerprint: CLUSTER,
            node: NodeId::of_name("by slots"),
            cursor,
            answered: false,
            is_second_pass: false,
        }
    }

    /// The index of its node in `topology`; of any node in a cluster.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) when the position was made for another topology, even if that has the
    /// same node.
    pub(crate) fn locate(self, topology: &Topology) -> Result<NodeIndex, Error> {
        if self.is_of_former(topology) {
            return Ok(first_node(topology));
        }
        let node = match topology.cluster() {
            Some(_) if self == Self::in_cluster(self.cursor) => return Ok(first_node(topology)),
            Some(_) => None,
            None => topology.index_of_id(self.node),
        };
        node.filter(|_| self.fingerprint == topology.fingerprint())
            .ok_or_else(|| {
                Error::config(
                    "this scan position comes from another topology: keys may have moved to nodes already scanned; start a \
                     new scan",
                )
            })
    }

    /// True if the position is of the time before or during a reshard that has ended: the scan begins again, and finds
    /// each key where it stays.
    fn is_of_former(self, topology: &Topology) -> bool {
        let former = topology.former().map(Topology::fingerprint);
        former == Some(self.fingerprint) && former != Some(topology.fingerprint())
    }

    /// The packed cursor of the SCAN that continues at this position.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) when the position belongs to another topology, or its text was made up.
    fn pack(self, router: &Router) -> Result<u64, Error> {
        let node = self.locate(router.topology())?;
        if router.topology().cluster().is_some() {
            return Ok(self.cursor);
        }
        let begins_again = self.is_of_former(router.topology());
        let cursor = ScanCursor {
            node,
            cursor: if begins_again { 0 } else { self.cursor },
            answered: self.answered && !begins_again,
            is_second_pass: self.is_second_pass && !begins_again,
        };
        cursor.pack(router).ok_or_else(not_a_position)
    }

    /// The position for a packed cursor that a step over `router` has returned.
    fn unpack(cursor: u64, router: &Router) -> Result<Self, Error> {
        if router.topology().cluster().is_some() {
            return Ok(Self::in_cluster(cursor));
        }
        let cursor = ScanCursor::parse(cursor.to_string().as_bytes(), router)?;
        let topology = router.topology();
        Ok(Self {
            fingerprint: topology.fingerprint(),
            node: topology.node(cursor.node).id(),
            cursor: cursor.cursor,
            answered: cursor.answered,
            is_second_pass: cursor.is_second_pass,
        })
    }

    /// The third word of the text: the node's own cursor, with `answered` in the lowest bit.
    fn state(self) -> u64 {
        self.cursor << 1 | u64::from(self.answered)
    }

    /// The last word of the text, by which cut or altered text is recognized.
    fn check(self) -> u16 {
        // All fields are mixed in, so that no two of them can be exchanged between positions.
        let mixed = mix(mix(self.fingerprint ^ self.state()) ^ self.node.as_u64());
        let mixed = mixed.rotate_left(u32::from(self.is_second_pass) * 32);
        (mixed & u64::from(u16::MAX)) as u16
    }
}

/// Writes `FINGERPRINT:NODE:STATE:CHECK`; `NODE` is the [`NodeId`] of the node.
impl fmt::Display for ScanPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, check) = (self.state(), self.check());
        let pass = if self.is_second_pass { SECOND_PASS } else { "" };
        write!(
            f,
            "{:016x}:{}:{pass}{state}:{check:04x}",
            self.fingerprint, self.node
        )
    }
}

impl FromStr for ScanPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut words = text.split(':');
            let fingerprint = u64::from_str_radix(words.next()?, 16).ok()?;
            let node = words.next()?.parse().ok()?;
            let word = words.next()?;
            let second = word.strip_prefix(SECOND_PASS);
            let state: u64 = second.unwrap_or(word).parse().ok()?;
            let position = Self {
                fingerprint,
                node,
                cursor: state >> 1,
                answered: state & 1 == 1,
                is_second_pass: second.is_some(),
            };
            // Compared as text: this verifies the check, and also refuses other spellings (a sign, leading
            // zeros) and trailing text, so that each position has exactly one text.
            (position.to_string() == text).then_some(position)
        };
        parse().ok_or_else(not_a_position)
    }
}

/// Error for a text that no scan has printed.
fn not_a_position() -> Error {
    Error::config("not a scan position of the form FINGERPRINT:NODE:STATE:CHECK")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, Rendezvous};
    use crate::plan::SplitWrites;

    fn router(names: &[&str]) -> Router {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        let table = CommandTable::built_in();
        Router::new(
            Arc::new(topology),
            std::borrow::Cow::Borrowed(table),
            SplitWrites::Allowed,
        )
    }

    fn start(router: &Router) -> ScanPosition {
        ScanPosition::start(router.topology())
    }

    fn at(router: &Router, name: &str, cursor: u64) -> ScanPosition {
        ScanPosition {
            node: NodeId::of_name(name),
            cursor,
            answered: true,
            ..start(router)
        }
    }

    fn page(next: u64, keys: &[&str]) -> Value {
        let keys = keys
            .iter()
            .map(|key| Value::BulkString(key.as_bytes().to_vec()));
        let cursor = Value::BulkString(next.to_string().into_bytes());
        Value::Array(vec![cursor, Value::Array(keys.collect())])
    }

    #[test]
    fn scan_position_parses_as_it_prints_and_names_its_node_by_id() {
        let router = router(&["a", "b"]);
        for position in [start(&router), at(&router, "b", 0), at(&router, "b", 42)] {
            let text = position.to_string();
            assert_eq!(text.parse::<ScanPosition>().unwrap(), position);
            assert!(text.contains(&position.node.to_string()), "{text}");
        }
        assert!(at(&router, "b", 42).to_string().contains(":85:"));
    }

    #[test]
    fn altered_or_truncated_scan_position_is_refused() {
        let text = at(&router(&["a", "b"]), "b", 42).to_string();
        let mut wrong: Vec<String> = (0..text.len()).map(|end| text[..end].to_owned()).collect();
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] = if altered[at] == b'1' { b'2' } else { b'1' };
            wrong.push(String::from_utf8(altered).unwrap());
        }
        wrong.extend(["nonsense", "feed:42", ":::"].map(str::to_owned));
        wrong.extend([format!("{text}:"), format!("+{text}"), format!("{text} ")]);
        for wrong in wrong {
            let error = wrong.parse::<ScanPosition>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
        }
    }

    #[test]
    fn scan_count_out_of_bounds_is_yielded_as_one_error() {
        let router = router(&["a"]);
        for size in [0, 1_000_001, usize::MAX - 1, usize::MAX] {
            let mut pages = ScanState::new(start(&router));
            pages.set_count(size);
            let text = format!("with_count is {size}, but must be in 1..=1000000");
            assert!(
                matches!(pages.next_step(&router), ScanStep::Yield(Err(error)) if error.to_string() == text)
            );
            assert!(matches!(pages.next_step(&router), ScanStep::Done));
        }
        for size in [1, 1_000_000] {
            let mut pages = ScanState::new(start(&router));
            pages.set_count(size);
            assert!(matches!(pages.next_step(&router), ScanStep::Fetch(_)));
        }
    }

    #[test]
    fn scan_position_is_refused_after_the_list_of_nodes_changed() {
        let before = router(&["a", "b", "c"]);
        let position = at(&before, "b", 7);
        assert_eq!(position.locate(before.topology()).unwrap().get(), 1);
        for names in [
            &["x", "a", "b", "c"][..],
            &["a", "c"],
            &["c", "b", "a"],
            &["b", "a", "c"],
        ] {
            let after = router(names);
            let error = position.locate(after.topology()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{names:?}");
            // A scan under way gives the error, and nothing after it.
            let mut pages = ScanState::new(position);
            assert!(matches!(pages.next_step(&before), ScanStep::Fetch(_)));
            let ScanStep::Yield(Err(error)) = pages.next_step(&after) else {
                panic!("{names:?}: the scan goes on");
            };
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(matches!(pages.next_step(&after), ScanStep::Done));
        }
    }

    #[test]
    fn scan_position_within_a_page_repeats_that_page() {
        let router = router(&["a", "b"]);
        let mut pages = ScanState::new(start(&router));
        let next = at(&router, "b", 7);
        let cursor = next.pack(&router).unwrap();
        pages.answer(page(cursor, &["a", "b"]), &router).unwrap();
        assert!(matches!(pages.next_step(&router), ScanStep::Yield(Ok(key)) if key == b"a"));
        assert_eq!(pages.position(), start(&router));
        assert!(matches!(pages.next_step(&router), ScanStep::Yield(Ok(key)) if key == b"b"));
        assert_eq!(pages.position(), next);
        pages.answer(page(0, &[]), &router).unwrap();
        assert!(matches!(pages.next_step(&router), ScanStep::Done));
    }
}
