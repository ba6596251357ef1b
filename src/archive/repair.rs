//! Gives changed bytes the checks and checksums of an archive, so that what is behind them is tried too.

use super::format::{CHECKED_BYTES, CHECKSUM_AT, FRAME_MAGIC, HEAD_BYTES, HEADER_BYTES, check32};
use super::format::{checksum, head, u32_at};

/// Returns the bytes with the head of an archive, and with frames that fit their checksums wherever one begins.
pub(crate) fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(start) = bytes.get_mut(..HEAD_BYTES) else {
        return bytes;
    };
    start.copy_from_slice(&head());
    let (mut at, mut archive) = (HEAD_BYTES, None);
    while bytes.len() >= at + HEADER_BYTES {
        let (header, rest) = bytes[at..].split_at_mut(HEADER_BYTES);
        if !header.starts_with(&FRAME_MAGIC) {
            at += 1;
            continue;
        }
        let stored = (u32_at(header, 28) as usize).min(rest.len());
        let payload = &rest[..stored];
        let archive = *archive.get_or_insert_with(|| check32(payload));
        header[8..12].copy_from_slice(&archive.to_le_bytes());
        header[28..32].copy_from_slice(&(stored as u32).to_le_bytes());
        let check = check32(&header[..CHECKED_BYTES]);
        header[CHECKED_BYTES..CHECKSUM_AT].copy_from_slice(&check.to_le_bytes());
        let sum = checksum(&header[..CHECKSUM_AT], payload);
        header[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
        at += HEADER_BYTES + stored;
    }
    bytes
}
