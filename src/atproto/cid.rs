//! CIDs, only those that atproto has (DASL): version 1, codec raw or dag-cbor, SHA-256 or BLAKE3, 32 bytes.

/// Bytes of a CID: version, codec, hash, length, digest.
pub const LEN: usize = 36;
const RAW: u8 = 0x55;
const DAG_CBOR: u8 = 0x71;
const SHA2_256: u8 = 0x12;
const BLAKE3: u8 = 0x1e;

/// Characters of a CID as text: `b` and 36 bytes in base32.
pub const TEXT_LEN: usize = 59;

/// `bytes` as a CID, or `None` when it is not one that atproto allows.
#[inline]
pub fn check(bytes: &[u8]) -> Option<&[u8; LEN]> {
    match bytes {
        [1, RAW | DAG_CBOR, SHA2_256 | BLAKE3, 32, ..] => bytes.try_into().ok(),
        _ => None,
    }
}

/// Whether `data` is what `cid` names: the record form, dag-cbor under SHA-256. Other forms are never a record.
pub fn names_record(cid: &[u8; LEN], data: &[u8]) -> bool {
    use sha2::{Digest, Sha256};
    cid[1] == DAG_CBOR && cid[2] == SHA2_256 && cid[4..] == Sha256::digest(data)[..]
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Ten bits -> two characters: half the look-ups of a table of 32.
const PAIRS: [[u8; 2]; 1024] = {
    let mut table = [[0; 2]; 1024];
    let mut i = 0;
    while i < 1024 {
        table[i] = [ALPHABET[i >> 5], ALPHABET[i & 31]];
        i += 1;
    }
    table
};

/// The text form, `b` and base32 in lower case without padding.
#[inline]
pub fn text(cid: &[u8; LEN]) -> [u8; TEXT_LEN] {
    let mut out = [b'b'; TEXT_LEN];
    for (five, eight) in cid.chunks_exact(5).zip(out[1..].chunks_exact_mut(8)) {
        let v = five.iter().fold(0u64, |v, b| v << 8 | *b as u64);
        for (i, pair) in eight.chunks_exact_mut(2).enumerate() {
            pair.copy_from_slice(&PAIRS[(v >> (30 - 10 * i)) as usize & 1023]);
        }
    }
    // 36 = 7 * 5 + 1: the last byte gives two characters, its low bits padded with zero.
    out[57..].copy_from_slice(&PAIRS[(cid[LEN - 1] as usize) << 2]);
    out
}

/// Whether `text` is the text form of a CID that atproto allows.
pub fn is_text(text: &str) -> bool {
    let Some(base32) = text.strip_prefix('b') else { return false };
    let upper = base32.to_ascii_uppercase();
    base32 == base32.to_ascii_lowercase()
        && data_encoding::BASE32_NOPAD.decode(upper.as_bytes()).is_ok_and(|bytes| check(&bytes).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_equals_the_library() {
        let mut cid = [0u8; LEN];
        cid[..4].copy_from_slice(&[1, DAG_CBOR, SHA2_256, 32]);
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..1000 {
            rng.fill(&mut cid[4..]);
            let want = format!("b{}", data_encoding::BASE32_NOPAD.encode(&cid).to_ascii_lowercase());
            assert_eq!(std::str::from_utf8(&text(&cid)), Ok(want.as_str()));
            assert!(is_text(&want));
        }
        assert!(!is_text("."));
        assert!(!is_text("bafy"));
    }
}
