//! What `DUMP` returns and `RESTORE` takes: a type, the bytes of the value as they stand in an RDB, the version, and a
//! checksum of all that.

use super::RdbError;
#[cfg(any(test, fuzzing))]
use super::bytes::{Cursor, write_string};
use super::crc64::crc64;
#[cfg(any(test, fuzzing))]
use super::kinds::opcode;
use super::version::RdbVersion;

/// The bytes behind the value: two of the version, eight of the checksum.
pub(crate) const FOOTER_LENGTH: usize = 10;

/// Makes the payload of a value.
#[cfg(any(test, fuzzing))]
pub(crate) fn payload(value_type: u8, value: &[u8], version: RdbVersion) -> Vec<u8> {
    let mut payload = Vec::with_capacity(1 + value.len() + FOOTER_LENGTH);
    write_payload(&mut payload, value_type, value, version);
    payload
}

/// Writes the payload of a value behind what a buffer has.
pub(crate) fn write_payload(into: &mut Vec<u8>, value_type: u8, value: &[u8], version: RdbVersion) {
    let start = into.len();
    into.reserve(1 + value.len() + FOOTER_LENGTH);
    into.push(value_type);
    into.extend_from_slice(value);
    write_footer(into, start, version);
}

/// Returns the type, the bytes of the value and the version of a payload whose checksum fits. The version may be any.
///
/// # Errors
///
/// If the payload is damaged or cut off.
pub(crate) fn of_dump(payload: &[u8]) -> Result<(u8, &[u8], RdbVersion), RdbError> {
    let (body, version) = split_footer(payload)?;
    let Some((&value_type, value)) = body.split_first() else {
        return Err(RdbError::Truncated { offset: 0 });
    };
    Ok((value_type, value, version))
}

/// Makes the payload of `FUNCTION RESTORE` from the source texts of libraries.
#[cfg(any(test, fuzzing))]
pub(crate) fn functions_payload(sources: &[Vec<u8>], version: RdbVersion) -> Vec<u8> {
    let mut payload = Vec::new();
    for source in sources {
        payload.push(opcode::FUNCTION);
        write_string(&mut payload, source);
    }
    write_footer(&mut payload, 0, version);
    payload
}

/// Returns the source texts in what `FUNCTION DUMP` returned.
///
/// # Errors
///
/// If the payload is damaged, cut off, or has other things.
#[cfg(any(test, fuzzing))]
pub(crate) fn functions_of_dump(payload: &[u8]) -> Result<Vec<Vec<u8>>, RdbError> {
    let (records, _) = split_footer(payload)?;
    let mut cursor = Cursor::new(records);
    let mut sources = Vec::new();
    while !cursor.is_empty() {
        if cursor.byte()? != opcode::FUNCTION {
            return Err(cursor.malformed("no library of functions").into());
        }
        sources.push(cursor.string()?.into_vec());
    }
    Ok(sources)
}

/// Returns what stands before the footer, if the checksum fits, and the version.
fn split_footer(payload: &[u8]) -> Result<(&[u8], RdbVersion), RdbError> {
    let truncated = || RdbError::Truncated {
        offset: payload.len() as u64,
    };
    let (summed, found) = payload.split_last_chunk().ok_or_else(truncated)?;
    let (body, version) = summed.split_last_chunk().ok_or_else(truncated)?;
    let (found, computed) = (u64::from_le_bytes(*found), crc64(summed));
    if found != computed {
        return Err(RdbError::Checksum { found, computed });
    }
    Ok((body, RdbVersion(u16::from_le_bytes(*version))))
}

/// Writes the footer of the payload that begins at `start`.
fn write_footer(into: &mut Vec<u8>, start: usize, version: RdbVersion) {
    into.extend_from_slice(&version.0.to_le_bytes());
    let checksum = crc64(into.get(start..).unwrap_or_default());
    into.extend_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `DUMP` of the string `text`, of Redis 7.0.
    const DUMP: &[u8] = b"\x00\x04text\x0a\x00";

    #[test]
    fn payload_is_type_value_version_and_checksum() {
        let made = payload(0, b"\x04text", RdbVersion(10));
        let (body, checksum) = made.split_last_chunk::<8>().unwrap();
        assert_eq!(body, DUMP);
        assert_eq!(u64::from_le_bytes(*checksum), crc64(DUMP));
        let mut behind = b"before".to_vec();
        write_payload(&mut behind, 0, b"\x04text", RdbVersion(10));
        assert_eq!(behind, [b"before", &made[..]].concat());
    }

    #[test]
    fn damaged_payloads_are_refused() {
        let made = payload(0, b"\x04text", RdbVersion(80));
        assert_eq!(of_dump(&made).unwrap().2, RdbVersion(80));
        for end in 0..made.len() {
            assert!(of_dump(&made[..end]).is_err(), "cut at {end}");
        }
        for at in 0..made.len() {
            let mut changed = made.clone();
            changed[at] ^= 0x10;
            let error = of_dump(&changed).unwrap_err();
            assert!(matches!(error, RdbError::Checksum { .. }), "{at}: {error}");
        }
        // A checksum of zero means that there is none in a file only.
        let unchecked = [DUMP, &[0; 8]].concat();
        assert!(of_dump(&unchecked).is_err());
    }

    #[test]
    fn libraries_of_functions_are_read_as_they_are_written() {
        for sources in [vec![], vec![b"#!lua name=a".to_vec(), vec![b'x'; 100]]] {
            let made = functions_payload(&sources, RdbVersion(11));
            assert_eq!(functions_of_dump(&made).unwrap(), sources);
        }
        let value = payload(0, b"\x04text", RdbVersion(10));
        assert!(functions_of_dump(&value).is_err());
        let nothing = functions_payload(&[], RdbVersion(10));
        assert!(of_dump(&nothing).is_err(), "no type");
    }
}
