//! What `DUMP` returns and `RESTORE` takes: a type, the bytes of the value as they stand in an RDB, the version, and a
//! checksum of all that.

use super::RdbError;
use super::bytes::write_string;
use super::crc64::crc64;
use super::kinds::opcode;
use super::version::RdbVersion;

/// The bytes behind the value: two of the version, eight of the checksum.
pub(crate) const FOOTER_LENGTH: usize = 10;

/// Makes the payload of a value.
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
    let truncated = || RdbError::Truncated {
        offset: payload.len() as u64,
    };
    let (summed, found) = payload.split_last_chunk().ok_or_else(truncated)?;
    let (body, version) = summed.split_last_chunk().ok_or_else(truncated)?;
    let (&value_type, value) = body.split_first().ok_or_else(truncated)?;
    let (found, computed) = (u64::from_le_bytes(*found), crc64(summed));
    if found != computed {
        return Err(RdbError::Checksum { found, computed });
    }
    let version = RdbVersion(u16::from_le_bytes(*version));
    Ok((value_type, value, version))
}

/// Makes the payload of `FUNCTION RESTORE` from the source texts of libraries.
pub(crate) fn functions_payload(sources: &[Vec<u8>], version: RdbVersion) -> Vec<u8> {
    let mut payload = Vec::new();
    for source in sources {
        payload.push(opcode::FUNCTION);
        write_string(&mut payload, source);
    }
    write_footer(&mut payload, 0, version);
    payload
}

/// Writes the footer of the payload that begins at `start`.
fn write_footer(into: &mut Vec<u8>, start: usize, version: RdbVersion) {
    into.extend_from_slice(&version.0.to_le_bytes());
    let checksum = crc64(into.get(start..).unwrap_or_default());
    into.extend_from_slice(&checksum.to_le_bytes());
}
