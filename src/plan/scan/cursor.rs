//! The cursor of a scan over all nodes.
//!
//! A cursor is one integer below 2^53, so that programs whose numbers are doubles (JavaScript, Lua) keep all
//! its digits:
//!
//! ```text
//!  bit 52                                                                   bit 0
//!  ┌───────────────────────────┬──────────┬─────────────────┬───────────────────┐
//!  │ the node's own cursor     │ answered │ node index      │ check             │
//!  └───────────────────────────┴──────────┴─────────────────┴───────────────────┘
//!   36 bits or more             1 bit       in base `nodes`   10 bits or more
//!
//!  payload = (cursor * 2 + answered) * nodes + node        number = payload << check bits | check
//! ```
//!
//! With more than 64 nodes the node's own cursor has fewer than 36 bits, since the check keeps its 10: 30
//! bits with the maximum number of nodes. The node index is a digit in base `nodes`, not a field of bits: it
//! takes no more room than needed.
//!
//! A server counts the buckets of its hash table from the highest bit down, so its cursor is below the size
//! of the table: 36 bits are enough for 2^36 buckets.
//!
//! While a reshard moves keys there are two passes over the nodes, and the node index goes up to twice their number: a key
//! that moves from a node that is still to be scanned to one that was scanned already is found in the second, as it moves
//! once at most. A cursor of the time before goes on in the first pass. One that is used once the reshard has ended begins again
//! with the first node: from then on each key is where it stays.
//!
//! The check covers the fingerprint of the topology and the [`NodeId`](crate::NodeId) of the node. A cursor
//! made for another list of nodes is refused, instead of continuing on whichever node has that index now and
//! silently missing keys. The check depends on nothing but the topology, so every client and proxy over the
//! same nodes accepts the cursors of the others. It detects mistakes, not forgery: it has no secret.

use redis::Value;

use crate::error::{Error, ErrorKind, KeyText, server_error};
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::topology::Topology;

/// Maximum cursor: the largest integer up to which a double represents every integer.
pub(super) const CURSOR_MAX: u64 = (1 << 53) - 1;

/// Minimum number of check bits: at worst one altered cursor in 1024 passes.
const CHECK_BITS_MIN: u32 = 10;

/// Number of bits reserved for the server's cursor before the check may take more than its minimum.
///
/// Enough for a hash table of 2^36 buckets, or of 2^22 buckets in each slot of a server in cluster mode.
const SERVER_BITS: u32 = 36;

/// A node, and the cursor that it returned last.
///
/// The number 0 stands for the beginning in a request and for the end in a reply, as with SCAN itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanCursor {
    /// The node to scan next.
    pub(crate) node: NodeIndex,
    /// The node's own cursor; 0 begins its scan.
    pub(crate) cursor: u64,
    /// True if some node has replied to an earlier step of the scan.
    pub(crate) answered: bool,
    /// True in the second pass over the nodes.
    pub(crate) is_second_pass: bool,
}

/// What the cursors of a scan are packed for.
#[derive(Clone, Copy)]
struct Course<'t> {
    topology: &'t Topology,
    /// Number of passes over the nodes.
    passes: u64,
}

impl<'t> Course<'t> {
    fn of(topology: &'t Topology) -> Self {
        Self {
            topology,
            passes: match topology.moving() {
                Some(_) => 2,
                None => 1,
            },
        }
    }

    fn nodes(self) -> u64 {
        self.topology.nodes().len() as u64
    }

    /// Number of scans of a node.
    fn places(self) -> u64 {
        self.nodes() * self.passes
    }
}

impl ScanCursor {
    /// Parses the cursor of a request.
    ///
    /// Like the server's `strtoul`, parsing ends before a NUL, and a text without digits is 0.
    ///
    /// # Errors
    ///
    /// [`Redis`](ErrorKind::Redis) with the server's `invalid cursor` when the text is not a number, or not
    /// one that `pack` made for this topology.
    pub(crate) fn parse(text: &[u8], router: &Router) -> Result<Self, Error> {
        match number_of(text) {
            // 0 begins at the first living node. It carries no check, since programs write it themselves.
            Some(0) => Ok(Self {
                node: first_node(router.topology()),
                cursor: 0,
                answered: false,
                is_second_pass: false,
            }),
            Some(number) => Self::unpack(number, router).ok_or_else(|| Self::invalid(text)),
            None => Err(Self::invalid(text)),
        }
    }

    /// The server's error for an invalid cursor.
    pub(super) fn invalid(text: &[u8]) -> Error {
        let error = server_error("ERR", "invalid cursor");
        Error::new(
            ErrorKind::Redis,
            format!(
                "ERR: invalid cursor {}: no scan over these nodes returned it; begin again with 0",
                KeyText(text)
            ),
        )
        .caused_by(std::sync::Arc::new(error.into()))
    }

    /// The cursor as one number; `None` when the node's own cursor is too large.
    ///
    /// The payload is 0 only at the beginning of a scan, so no other cursor is packed as 0, the end.
    pub(super) fn pack(self, router: &Router) -> Option<u64> {
        self.pack_for(Course::of(router.topology()))
    }

    fn pack_for(self, course: Course<'_>) -> Option<u64> {
        let bits = check_bits(course.places());
        // Where there is one pass, the second goes on as the first.
        let before = match self.is_second_pass && course.passes == 2 {
            true => course.nodes(),
            false => 0,
        };
        let payload = self
            .cursor
            .checked_mul(2)?
            .checked_add(self.answered.into())?
            .checked_mul(course.places())?
            .checked_add(before + self.node.get() as u64)?;
        // In the lowest bits: rounding to a double or cutting a digit, the usual damage, then hits the check
        // as well.
        let check = self.check(payload, course) & ((1 << bits) - 1);
        let number = payload.checked_mul(1 << bits)? | check;
        (number <= CURSOR_MAX).then_some(number)
    }

    /// The inverse of [`pack`](Self::pack); `None` for a number that `pack` did not make for this topology.
    fn unpack(number: u64, router: &Router) -> Option<Self> {
        let topology = router.topology();
        let now = Self::unpack_for(number, Course::of(topology));
        now.or_else(|| Self::unpack_for(number, Course::of(topology.moving()?.from())))
            .or_else(|| Self::unpack_former(number, topology))
    }

    /// The cursor with which a scan goes on that has begun before or during a reshard that has ended.
    fn unpack_former(number: u64, topology: &Topology) -> Option<Self> {
        let former = topology.former()?;
        let cursor = Self::unpack_for(number, Course::of(former))
            .or_else(|| Self::unpack_for(number, Course::of(former.moving()?.from())))?;
        Some(Self {
            node: first_node(topology),
            cursor: 0,
            is_second_pass: false,
            ..cursor
        })
    }

    fn unpack_for(number: u64, course: Course<'_>) -> Option<Self> {
        let payload = number >> check_bits(course.places());
        let (rest, place) = (payload / course.places(), payload % course.places());
        let cursor = Self {
            node: NodeIndex::new(u16::try_from(place % course.nodes()).ok()?),
            cursor: rest / 2,
            answered: rest % 2 == 1,
            is_second_pass: place >= course.nodes(),
        };
        // Packed again instead of comparing the check alone: numbers above `CURSOR_MAX` are refused by the
        // same rule.
        (cursor.pack_for(course) == Some(number)).then_some(cursor)
    }

    /// The check of a payload; its lowest bits become part of the cursor.
    fn check(self, payload: u64, course: Course<'_>) -> u64 {
        let topology = course.topology;
        let node = topology.node(self.node).id();
        // The fingerprint is the same before and while keys move.
        let passes = course.passes - 1;
        mix(mix(payload ^ topology.fingerprint()) ^ node.as_u64()).rotate_left(passes as u32 * 32)
    }
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of
/// the input.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Number of check bits in a cursor over `nodes` nodes: those that the other fields leave, but at least
/// [`CHECK_BITS_MIN`].
fn check_bits(nodes: u64) -> u32 {
    // Two values of `answered` per node, rounded up to whole bits.
    let rest = SERVER_BITS + (2 * nodes).next_power_of_two().ilog2();
    (CURSOR_MAX.count_ones())
        .saturating_sub(rest)
        .max(CHECK_BITS_MIN)
}

/// One step of a scan: a request to one node, and the cursor after its reply.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct CursorStep {
    /// The node that receives the request.
    pub(in crate::plan) node: NodeIndex,
    /// True if some node has replied to an earlier step.
    pub(in crate::plan) answered: bool,
    /// True in the second pass over the nodes.
    pub(in crate::plan) is_second_pass: bool,
}

impl CursorStep {
    /// The reply of the node with its cursor replaced by the one that continues over all nodes.
    ///
    /// # Errors
    ///
    /// When the reply is not that of a SCAN, or its cursor is too large to be packed.
    pub(in crate::plan) fn after_reply(
        self,
        answer: Value,
        router: &Router,
    ) -> Result<Value, Error> {
        let name = router.name(self.node);
        let Value::Array(mut items) = answer else {
            return Err(unreadable(name));
        };
        // Servers send a bulk string; compatible servers and proxies also send the other two.
        let cursor = match items.first() {
            Some(Value::BulkString(text)) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok()),
            Some(Value::SimpleString(text)) => text.parse().ok(),
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let cursor: u64 = cursor.ok_or_else(|| unreadable(name))?;
        let next = self.after(cursor, true, router).ok_or_else(|| {
            Error::new(
                ErrorKind::Redis,
                format!(
                    "node {name} returned a scan cursor that is too large to carry the node's number as well; scan \
                     that node by itself, with `client.node(name)`"
                ),
            )
            .at_node(name)
        })?;
        // The list of keys is passed on as it is, but for those that other nodes own while keys are moved.
        if let (Some(moving), Some(Value::Array(keys))) =
            (router.topology().moving(), items.get_mut(1))
        {
            keys.retain(|key| match key {
                Value::BulkString(key) => moving.shows(self.node, key),
                _ => true,
            });
        }
        items[0] = Value::BulkString(next.to_string().into_bytes());
        Ok(Value::Array(items))
    }

    /// The reply in the place of a node that cannot be reached: no keys, and the cursor of the next node.
    ///
    /// `None` when this was the last node and no other has replied either: a scan that reached no node must
    /// not look like one over empty nodes.
    pub(in crate::plan) fn skip(self, router: &Router) -> Option<Value> {
        // The rest of a node that was scanned in part is skipped too: its cursor is of no use to another
        // node.
        let next = self.after(0, self.answered, router)?;
        if next == 0 && !self.answered {
            return None;
        }
        let cursor = Value::BulkString(next.to_string().into_bytes());
        Some(Value::Array(vec![cursor, Value::Array(Vec::new())]))
    }

    /// The packed cursor after the node has returned `cursor`: the beginning of the next living node if that is
    /// 0, and 0 after the last. `None` when the cursor is too large.
    fn after(self, cursor: u64, answered: bool, router: &Router) -> Option<u64> {
        // The beginning of the first node is never returned, so a packed cursor is never mistaken for 0, the
        // end: a step either stays on its node with a cursor other than 0, or moves on to a later node.
        let topology = router.topology();
        let mut is_second_pass = self.is_second_pass;
        let node = match cursor {
            0 => match topology.next_living(Some(self.node)) {
                Some(next) => next,
                None if topology.moving().is_some() && !is_second_pass => {
                    is_second_pass = true;
                    first_node(topology)
                }
                None => return Some(0),
            },
            _ => self.node,
        };
        let next = ScanCursor {
            node,
            cursor,
            answered,
            is_second_pass,
        };
        next.pack(router)
    }
}

/// The number that a server reads in the cursor of a request.
pub(super) fn number_of(text: &[u8]) -> Option<u64> {
    let digits = text.split(|&byte| byte == 0).next().unwrap_or_default();
    match str::from_utf8(digits) {
        Ok("") => Some(0),
        Ok(digits) => digits.parse().ok(),
        Err(_) => None,
    }
}

/// The node at which a scan begins.
pub(super) fn first_node(topology: &Topology) -> NodeIndex {
    // A topology has a living node.
    topology.next_living(None).unwrap_or(NodeIndex::new(0))
}

/// Error for a reply that is not that of a SCAN.
fn unreadable(name: &str) -> Error {
    Error::new(
        ErrorKind::Redis,
        format!("node {name} replied to a scan with something other than a cursor and a list"),
    )
    .at_node(name)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::from_fn;
    use crate::partition::{NODES_MAX, NodeSpec};
    use crate::plan::SplitWrites;

    const FIRST: CursorStep = CursorStep {
        node: NodeIndex::new(0),
        answered: false,
        is_second_pass: false,
    };

    fn router(nodes: usize) -> Router {
        over((0..nodes).map(|number| format!("host:{number}")))
    }

    fn over<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Router {
        let nodes = names.into_iter().map(|name| NodeSpec::unnamed(name));
        let topology =
            Topology::new(nodes.collect(), Arc::new(from_fn("first/1", |_, _| 0))).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed)
    }

    fn page(cursor: u64) -> Value {
        let cursor = Value::BulkString(cursor.to_string().into_bytes());
        Value::Array(vec![cursor, Value::Array(Vec::new())])
    }

    fn cursor_of(page: &Value) -> u64 {
        match page {
            Value::Array(items) => redis::from_redis_value_ref(&items[0]).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn parse(cursor: u64, router: &Router) -> Option<ScanCursor> {
        ScanCursor::parse(cursor.to_string().as_bytes(), router).ok()
    }

    fn step(cursor: ScanCursor) -> CursorStep {
        CursorStep {
            node: cursor.node,
            answered: cursor.answered,
            is_second_pass: cursor.is_second_pass,
        }
    }

    #[test]
    fn scan_cursor_zero_is_parsed_as_by_a_server() {
        for text in [&b"0"[..], b"", b"00", b"0\0x", b"\0"] {
            let cursor = ScanCursor::parse(text, &router(2));
            let begins = cursor.map(|at| (at.node.get(), at.cursor));
            assert_eq!(begins.ok(), Some((0, 0)), "{text:?}");
        }
    }

    #[test]
    fn scan_that_a_reshard_has_overtaken_begins_again_with_the_first_node() {
        let (before, to) = (router(3), over(["host:0", "host:3"]));
        let made = |topology: Topology| {
            let table = Cow::Borrowed(CommandTable::built_in());
            Router::new(Arc::new(topology), table, SplitWrites::Allowed)
        };
        let view = crate::topology::ReshardView::default();
        let moving = Topology::while_moving(before.topology(), to.topology(), &view).unwrap();
        let after = made(to.topology().as_ref().clone().after(before.topology()));
        let at = |is_second_pass| ScanCursor {
            node: NodeIndex::new(2),
            cursor: 77,
            answered: true,
            is_second_pass,
        };
        let begun = at(false).pack(&before).unwrap();
        let under_way = at(true).pack(&made(moving)).unwrap();
        for cursor in [begun, under_way] {
            let first = ScanCursor {
                node: NodeIndex::new(0),
                cursor: 0,
                ..at(false)
            };
            assert_eq!(parse(cursor, &after), Some(first));
            // A client that has seen nothing of the reshard.
            assert_eq!(parse(cursor, &to), None);
        }
    }

    #[test]
    fn scan_while_keys_move_makes_two_passes_and_goes_on_from_a_cursor_of_before() {
        let (before, after) = (router(3), over(["host:0", "host:3"]));
        let view = crate::topology::ReshardView::default();
        let topology = Topology::while_moving(before.topology(), after.topology(), &view).unwrap();
        let table = Cow::Borrowed(CommandTable::built_in());
        let moving = Router::new(Arc::new(topology), table, SplitWrites::Allowed);
        let visits = |mut cursor: u64| {
            let mut visited = Vec::new();
            loop {
                let at = parse(cursor, &moving).expect("our own cursor");
                visited.push((at.node.get(), at.is_second_pass));
                assert!(visited.len() < 10);
                cursor = cursor_of(&step(at).after_reply(page(0), &moving).unwrap());
                if cursor == 0 {
                    return visited;
                }
            }
        };
        let pass = |is_second: bool| (0..4).map(move |node| (node, is_second));
        let all: Vec<(usize, bool)> = pass(false).chain(pass(true)).collect();
        assert_eq!(visits(0), all);
        // A cursor within the second node, from before the reshard.
        let at = ScanCursor {
            node: NodeIndex::new(1),
            cursor: 77,
            answered: true,
            is_second_pass: false,
        };
        let cursor = at.pack(&before).unwrap();
        assert_eq!(parse(cursor, &moving), Some(at));
        assert_eq!(visits(cursor), all[1..]);
        // The two passes cannot be confused.
        let second = ScanCursor {
            is_second_pass: true,
            ..at
        };
        assert_ne!(at.pack(&moving), second.pack(&moving));
        let packed = second.pack(&moving).unwrap();
        assert_eq!(parse(packed, &moving), Some(second));
        assert_eq!(parse(packed, &before), None);
    }

    #[test]
    fn scan_visits_every_node_and_ends() {
        let router = router(3);
        let mut cursor = 0;
        let mut visited = Vec::new();
        loop {
            let at = parse(cursor, &router).expect("our own cursor");
            visited.push((at.node.get(), at.cursor));
            let server = if at.cursor == 0 { 77 } else { 0 };
            cursor = cursor_of(&step(at).after_reply(page(server), &router).unwrap());
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(visited, [(0, 0), (0, 77), (1, 0), (1, 77), (2, 0), (2, 77)]);
    }

    #[test]
    fn scan_cursors_of_any_number_of_nodes_survive_as_doubles() {
        for (nodes, buckets) in [
            (1, 1_u64 << 36),
            (3, 1 << 36),
            (4, 1 << 36),
            (32, 1 << 36),
            (100, 1 << 35),
            (1024, 1 << 32),
            (NODES_MAX, 1 << 30),
        ] {
            let router = router(nodes);
            for node in [0, 1, nodes / 2, nodes - 1].map(|node| node.min(nodes - 1)) {
                for server in [1, 2, 77, buckets / 2, buckets - 1] {
                    let at = CursorStep {
                        node: NodeIndex::new(node as u16),
                        answered: true,
                        is_second_pass: false,
                    };
                    let cursor = cursor_of(&at.after_reply(page(server), &router).unwrap());
                    assert_eq!(cursor as f64 as u64, cursor, "{nodes} nodes, {server}");
                    let read = parse(cursor, &router).unwrap();
                    assert_eq!((read.node.get(), read.cursor), (node, server));
                }
            }
        }
    }

    #[test]
    fn scan_cursor_of_a_server_that_does_not_fit_is_an_error_that_names_the_node() {
        let router = router(4);
        let at = FIRST;
        for server in [1 << 40, 1 << 52, u64::MAX] {
            let error = at
                .after_reply(page(server), &router)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("host:0") && error.contains("client.node"),
                "{error}"
            );
        }
    }

    #[test]
    fn altered_scan_cursor_is_an_error() {
        let router = router(4);
        let mut found = 0;
        for server in 1..200_u64 {
            let given = cursor_of(&FIRST.after_reply(page(server * 8), &router).unwrap());
            // By one, by what a float loses, by a lost digit, by a flipped bit.
            for altered in [
                given + 1,
                given - 1,
                given as f32 as u64,
                given / 10,
                given ^ (1 << 13),
            ] {
                found += u32::from(altered != given && parse(altered, &router).is_some());
            }
        }
        // One in 16384 passes by chance.
        assert!(found <= 1, "{found} of 1000 altered cursors were taken");
        assert!(parse(CURSOR_MAX + 1, &router).is_none());
        assert!(parse(u64::MAX, &router).is_none());
    }

    #[test]
    fn scan_cursor_of_another_topology_is_an_error() {
        let (three, four) = (router(3), router(4));
        let taken = (1..1000_u64)
            .map(|server| cursor_of(&FIRST.after_reply(page(server), &three).unwrap()))
            .filter(|&cursor| parse(cursor, &four).is_some());
        assert!(taken.count() <= 1);
    }

    #[test]
    fn scan_cursor_is_an_error_after_the_list_of_nodes_changed() {
        let before = over(["a", "b", "c"]);
        for (what, names) in [
            ("a node inserted before", &["x", "a", "b", "c"][..]),
            ("the first node removed", &["b", "c"]),
            ("the last node removed", &["a", "b"]),
            ("reordered", &["c", "b", "a"]),
            ("rotated", &["b", "c", "a"]),
            ("one node in the place of another", &["a", "x", "c"]),
        ] {
            let after = over(names.iter().copied());
            for node in before.topology().indices() {
                let at = CursorStep {
                    node,
                    answered: true,
                    is_second_pass: false,
                };
                for server in 1..1000_u64 {
                    let cursor = cursor_of(&at.after_reply(page(server), &before).unwrap());
                    let taken = parse(cursor, &after);
                    assert_eq!(taken, None, "{what}: {cursor} of node {node:?}");
                }
            }
        }
        // Another process, with the same list.
        let again = over(["a", "b", "c"]);
        let cursor = cursor_of(&FIRST.after_reply(page(77), &before).unwrap());
        assert_eq!(parse(cursor, &again).map(|at| at.cursor), Some(77));
    }

    #[test]
    fn scan_cursor_check_covers_the_id_of_its_node() {
        let (router, payload) = (over(["a", "b"]), 12345);
        let [a, b] = [0, 1].map(|node| ScanCursor {
            is_second_pass: false,
            node: NodeIndex::new(node),
            cursor: 0,
            answered: true,
        });
        let course = Course::of(router.topology());
        assert_ne!(a.check(payload, course), b.check(payload, course));
    }

    #[test]
    fn malformed_scan_cursor_is_an_error() {
        for text in [
            &b" 1"[..],
            b"1x",
            b"-1",
            b"x",
            b"18446744073709551616",
            b"\xff",
        ] {
            assert!(ScanCursor::parse(text, &router(2)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn scan_skips_unreachable_nodes_unless_all_are() {
        let router = router(3);
        let first = FIRST;
        let at = |page: &Value| parse(cursor_of(page), &router).unwrap();
        let second = at(&first.skip(&router).unwrap());
        assert_eq!((second.node.get(), second.answered), (1, false));
        let third = at(&step(second).skip(&router).unwrap());
        assert_eq!((third.node.get(), third.answered), (2, false));
        assert_eq!(step(third).skip(&router), None, "nobody has answered");
        let third = at(&step(second).after_reply(page(0), &router).unwrap());
        assert!(third.answered);
        assert_eq!(
            step(third).skip(&router).map(|page| cursor_of(&page)),
            Some(0)
        );
    }
}
