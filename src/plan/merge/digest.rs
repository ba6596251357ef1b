//! The digest of a dataset that lies on several servers.
//!
//! A server begins with twenty zero bytes, mixes in the number of a database that has keys, and then the digests of its
//! keys by exclusive or. So with one database the part that comes from the keys can be told from the part that does not.

use redis::Value;
use sha1::{Digest as _, Sha1};

use crate::error::Error;
use crate::plan::merge::texts::Text;
use crate::plan::merge::{Answer, unexpected};

const LENGTH: usize = 20;

type Bytes = [u8; LENGTH];

/// What one server would say that has the keys of all, in database 0.
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
        if said != [0; LENGTH] {
            is_empty = false;
            keys = xor(keys, xor(said, database));
        }
        kind.get_or_insert(text);
    }
    let all = if is_empty { keys } else { xor(keys, database) };
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(kind.map_or(Value::Nil, |kind| kind.with(hex.into_bytes())))
}

/// What database 0 brings in by having keys at all.
fn database() -> Bytes {
    let number = Sha1::digest(0_u32.to_be_bytes());
    Sha1::digest(number).into()
}

fn xor(one: Bytes, other: Bytes) -> Bytes {
    std::array::from_fn(|at| one[at] ^ other[at])
}

fn parse(hex: &[u8]) -> Option<Bytes> {
    let hex = std::str::from_utf8(hex).ok()?;
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
