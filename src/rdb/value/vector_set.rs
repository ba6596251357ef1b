//! Vector sets of Redis 8: values of a module that is a part of the server.
//!
//! Each `RESTORE` makes another graph of the same vectors, in another order. Read here is what stays: the vectors.
//!
//! ```text
//! 8 bytes module | number dimensions | number vectors | number configuration | number flags |
//! with a projection: number dimensions before, string matrix |
//! for each vector: string name, string attributes (if there are any in the set), string vector,
//!                  number n, n numbers: the graph, and last the scale of the vector | 0
//! ```
//!
//! A number has the byte 2 before it, a string 5.

use super::super::bytes::{Cursor, Malformed, Text};
use super::{Element, Sink};

/// The module's name and the version of its encoding, in the six and ten bits of modules' types.
const MODULE: u64 = 0xbde7_2da2_bb1e_b400;

/// Marks a number.
const NUMBER: u8 = 2;

/// Marks a string.
const STRING: u8 = 5;

/// Flag of a set whose vectors are projected to fewer dimensions.
const PROJECTED: u64 = 1;

/// True if the value of a module is a vector set.
pub(super) fn is_vector_set(value: &[u8]) -> bool {
    Cursor::new(value).length() == Ok(MODULE)
}

/// Reads a vector set, and hands out its head and its vectors.
pub(super) fn visit<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    cursor.length()?;
    let dimensions = number(cursor)?;
    let count = number(cursor)?;
    let (configuration, flags) = (number(cursor)?, number(cursor)?);
    if flags & PROJECTED == 0 {
        let numbers = [dimensions, configuration, flags, 0];
        sink(Element::VectorSet(numbers, &[]))?;
    } else {
        let numbers = [dimensions, configuration, flags, number(cursor)?];
        sink(Element::VectorSet(numbers, &string(cursor)?))?;
    }
    let has_attributes = flags & !PROJECTED != 0;
    for _ in 0..count {
        let name = string(cursor)?;
        let attributes = if has_attributes {
            Some(string(cursor)?)
        } else {
            None
        };
        let vector = string(cursor)?;
        let mut scale = 0;
        for _ in 0..number(cursor)? {
            scale = number(cursor)?;
        }
        sink(Element::Vector {
            name: &name,
            attributes: attributes.as_deref().unwrap_or_default(),
            vector: &vector,
            scale,
        })?;
    }
    match cursor.byte()? {
        0 => Ok(()),
        _ => Err(cursor.malformed("no end of a vector set").into()),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    if cursor.byte()? != NUMBER {
        return Err(cursor.malformed("no number of a vector set"));
    }
    cursor.length()
}

fn string<'b>(cursor: &mut Cursor<'b>) -> Result<Text<'b>, Malformed> {
    if cursor.byte()? != STRING {
        return Err(cursor.malformed("no string of a vector set"));
    }
    cursor.string()
}
