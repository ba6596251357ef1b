//! DEBUG DIGEST of a dataset that lies on several servers.
//!
//! A server starts from twenty zero bytes. For each database that has keys it mixes in the number of the
//! database, and then xors the digests of its keys. With one database the part for its number (D) and the
//! part for the keys (A, B) can be told apart:
//!
//! ```text
//! node a    A xor D
//! node b    B xor D
//! node c    0            (without keys D is missing too)
//! merged    A xor B xor D
//! ```
//!
//! Keys moved from one node to another leave the result unchanged, which makes it a check for a complete
//! move.

use redis::Value;
use sha1::{Digest as _, Sha1};

use crate::error::Error;
use crate::plan::merge::texts::Text;
use crate::plan::merge::{Answer, unexpected};

/// Length of a digest in bytes; it is printed as twice as many hex digits.
const LENGTH: usize = 20;

/// A digest in binary.
type Bytes = [u8; LENGTH];

/// Returns the digest that one server would have with the keys of all nodes in its database 0. Nodes must have
/// no keys in other databases.
pub(super) fn digest(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut kind = None;
    let mut keys = [0; LENGTH];
    let mut is_empty = true;
    let database = database();
    for answer in answers {
        let node = answer.node;
        let text = Text::read(answer)?;
        let said =
            parse(&text.bytes).ok_or_else(|| unexpected(node, "something that is not a digest"))?;
        // Zeros mean that the node has no keys; its digest then lacks the part for database 0 too.
        if said != [0; LENGTH] {
            is_empty = false;
            // A second xor removes the part for the database, and leaves the part for the keys.
            keys = xor(keys, xor(said, database));
        }
        kind.get_or_insert(text);
    }
    // The part for the database belongs into the result once, however many nodes have keys.
    let all = if is_empty { keys } else { xor(keys, database) };
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(kind.map_or(Value::Nil, |kind| kind.with(hex.into_bytes())))
}

/// The part that database 0 contributes when it has keys: the server hashes its number in network byte order,
/// and hashes the result again when it mixes it in.
fn database() -> Bytes {
    let number = Sha1::digest(0_u32.to_be_bytes());
    Sha1::digest(number).into()
}

/// Returns the exclusive or of two digests, which adds and removes parts alike.
fn xor(one: Bytes, other: Bytes) -> Bytes {
    std::array::from_fn(|at| one[at] ^ other[at])
}

/// Parses 40 hex digits. `None` for anything else.
fn parse(hex: &[u8]) -> Option<Bytes> {
    let hex = std::str::from_utf8(hex).ok()?;
    // ASCII before the slices below, which panic inside a character.
    if hex.len() != 2 * LENGTH || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::testing::answers;
    use super::*;

    fn status(hex: &str) -> Value {
        Value::SimpleString(hex.into())
    }

    #[test]
    fn debug_digest_of_empty_nodes_is_zero() {
        let zeros = "0".repeat(40);
        let merged = digest(answers([status(&zeros), status(&zeros)])).unwrap();
        assert_eq!(merged, status(&zeros));
    }

    #[test]
    fn debug_digest_of_one_node_with_keys_is_its_own() {
        let (zeros, some) = ("0".repeat(40), "0123456789abcdef0123456789abcdef01234567");
        let merged = digest(answers([status(&zeros), status(some), status(&zeros)])).unwrap();
        assert_eq!(merged, status(some));
    }

    #[test]
    fn debug_digest_refuses_malformed_replies() {
        assert!(digest(answers([status("0123")])).is_err());
        assert!(digest(answers([status(&"x".repeat(40))])).is_err());
        assert!(digest(answers([status(&"ä".repeat(20))])).is_err());
    }
}
