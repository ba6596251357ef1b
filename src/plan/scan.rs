//! The cursor of a scan over all nodes.

use redis::Value;

use crate::error::{Error, ErrorKind, KeyText, server_error};
use crate::node::{NODES_MAX, NodeIndex};

/// Bits of a cursor that hold the server's own cursor; the node's position is above them.
const SERVER_BITS: u32 = u64::BITS - NODES_MAX.trailing_zeros();

/// A node, and the cursor it gave last. Zero is both the beginning and, in an answer, the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanCursor {
    pub(crate) node: NodeIndex,
    pub(crate) cursor: u64,
}

impl ScanCursor {
    /// Reads the cursor of a request. As a server's `strtoul` does it, it ends before a NUL, and is zero without digits.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        let digits = text.split(|&byte| byte == 0).next().unwrap_or_default();
        let number: u64 = match std::str::from_utf8(digits) {
            Ok("") => 0,
            Ok(digits) => digits.parse().map_err(|_| Self::invalid(text))?,
            Err(_) => return Err(Self::invalid(text)),
        };
        Ok(Self {
            node: NodeIndex::new((number >> SERVER_BITS) as u16),
            cursor: number & ((1 << SERVER_BITS) - 1),
        })
    }

    /// A server's error for a cursor it does not understand.
    pub(crate) fn invalid(text: &[u8]) -> Error {
        let error = server_error("ERR", "invalid cursor");
        Error::new(
            ErrorKind::Redis,
            format!("ERR: invalid cursor {}", KeyText(text)),
        )
        .caused_by(std::sync::Arc::new(error.into()))
    }

    /// The cursor as one number.
    fn pack(self) -> u64 {
        (self.node.get() as u64) << SERVER_BITS | self.cursor
    }

    /// The cursor after `node` answered with `cursor`: the next node's beginning when this one is through, zero when all
    /// are. `None` when the server's cursor needs the bits that hold the node.
    pub(crate) fn after(node: NodeIndex, cursor: u64, nodes: usize) -> Option<u64> {
        if cursor >> SERVER_BITS != 0 {
            return None;
        }
        let next = match (cursor, node.get() + 1 < nodes) {
            (0, false) => return Some(0),
            (0, true) => Self {
                node: NodeIndex::new(node.as_u16() + 1),
                cursor: 0,
            },
            _ => Self { node, cursor },
        };
        Some(next.pack())
    }
}

/// A node's answer to a scan step with the cursor that continues over all nodes.
pub(crate) fn continue_scan(
    answer: Value,
    node: NodeIndex,
    name: &str,
    nodes: usize,
) -> Result<Value, Error> {
    let Value::Array(mut items) = answer else {
        return Err(unreadable(name));
    };
    let cursor = match items.first() {
        Some(Value::BulkString(text)) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok()),
        Some(Value::SimpleString(text)) => text.parse().ok(),
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    let cursor: u64 = cursor.ok_or_else(|| unreadable(name))?;
    let next = ScanCursor::after(node, cursor, nodes).ok_or_else(|| {
        Error::new(
            ErrorKind::Redis,
            format!("node {name} gave the scan cursor {cursor}, which leaves no room for the node's number"),
        )
    })?;
    items[0] = Value::BulkString(next.to_string().into_bytes());
    Ok(Value::Array(items))
}

fn unreadable(name: &str) -> Error {
    Error::new(
        ErrorKind::Redis,
        format!("node {name} answered a scan with something that is not a cursor and a list"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_by_a_server() {
        let begins = |text: &[u8]| ScanCursor::parse(text).map(|at| (at.node.get(), at.cursor));
        assert_eq!(begins(b"0").ok(), Some((0, 0)));
        assert_eq!(begins(b"").ok(), Some((0, 0)));
        assert_eq!(begins(b"17\0x").ok(), Some((0, 17)));
    }

    #[test]
    fn a_scan_visits_every_node_and_ends() {
        let mut cursor = 0;
        let mut visited = Vec::new();
        loop {
            let at = ScanCursor::parse(cursor.to_string().as_bytes()).expect("our own cursor");
            visited.push((at.node.get(), at.cursor));
            let server = if at.cursor == 0 { 77 } else { 0 };
            cursor = ScanCursor::after(at.node, server, 3).expect("fits");
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(visited, [(0, 0), (0, 77), (1, 0), (1, 77), (2, 0), (2, 77)]);
    }

    #[test]
    fn a_server_cursor_that_needs_the_nodes_bits_is_an_error_not_a_wrap() {
        assert_eq!(ScanCursor::after(NodeIndex::new(0), 1 << 52, 3), None);
        assert!(ScanCursor::after(NodeIndex::new(0), (1 << 52) - 1, 3).is_some());
    }

    #[test]
    fn nonsense_is_an_invalid_cursor() {
        for text in [
            &b" 1"[..],
            b"1x",
            b"-1",
            b"x",
            b"18446744073709551616",
            b"\xff",
        ] {
            assert!(ScanCursor::parse(text).is_err(), "{text:?}");
        }
    }
}
