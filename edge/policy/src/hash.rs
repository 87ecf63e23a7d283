//! Hashes that are the same in every process, so that edges agree without a word.

/// FNV-1a, then mixed: names differ in few bytes, and mostly in the last.
pub(crate) fn of_bytes(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash, 0)
}

/// The finisher of MurmurHash3 over both.
#[inline]
pub(crate) fn mix(left: u64, right: u64) -> u64 {
    let mut hash = left ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// A throw of 0..1000 for one question among several that one draw must answer.
#[inline]
pub(crate) fn permille(dice: u64, question: u64) -> u64 {
    mix(dice, question) % 1000
}
