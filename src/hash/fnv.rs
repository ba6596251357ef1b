//! FNV-1 and FNV-1a, as in <http://www.isthe.com/chongo/tech/comp/fnv/> and RFC 9923. The two differ in the
//! order of their steps: FNV-1 multiplies first, FNV-1a last.

/// FNV-1a of 32 bits.
pub(super) fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// FNV-1a of 64 bits.
pub(super) fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// FNV-1 of 32 bits.
pub(super) fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, &byte| {
        // The product first: with the other order this would be FNV-1a.
        hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    })
}

/// FNV-1 of 64 bits.
pub(super) fn fnv1_64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        })
}
