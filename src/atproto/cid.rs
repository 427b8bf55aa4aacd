//! CIDs: read, compared, written. Those that atproto has (DASL) are version 1, codec raw or dag-cbor, SHA-256 or BLAKE3, 32
//! bytes: these are compared and written fast. Links in records may be any others. It fetches nothing; whether a block has
//! its CID is asked here and nowhere else. Pure.

use ipld_core::cid::Cid;

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

/// Whether a CID has the form of a record's: dag-cbor under SHA-256.
pub fn is_record_form(cid: &[u8; LEN]) -> bool {
    cid[1] == DAG_CBOR && cid[2] == SHA2_256
}

/// Whether `data` hashes to `cid`. `None` when that is not SHA-256, which is all that can be said here.
pub fn hashes(cid: &[u8; LEN], data: &[u8]) -> Option<bool> {
    use sha2::{Digest, Sha256};
    (cid[2] == SHA2_256).then(|| cid[4..] == Sha256::digest(data)[..])
}

/// Unsigned LEB128 of at most 9 bytes, as multiformats has it.
#[inline]
pub fn varint(bytes: &[u8], pos: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for i in 0..9 {
        let byte = *bytes.get(*pos)?;
        *pos += 1;
        value |= ((byte & 0x7f) as u64) << (7 * i);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// How many of the first bytes are a CID, of any codec and hash.
#[inline]
pub fn len(bytes: &[u8]) -> Option<usize> {
    if bytes.len() >= LEN && check(&bytes[..LEN]).is_some() {
        return Some(LEN);
    }
    let mut pos = 0;
    if bytes.starts_with(&VERSION_0) {
        pos = 34;
    } else {
        varint(bytes, &mut pos)?; // version
        varint(bytes, &mut pos)?; // codec
        varint(bytes, &mut pos)?; // hash
        let digest = usize::try_from(varint(bytes, &mut pos)?).ok()?;
        pos = pos.checked_add(digest)?;
    }
    (pos <= bytes.len()).then_some(pos)
}

/// How a CID of version 0 begins: it is the bare SHA-256 multihash.
const VERSION_0: [u8; 2] = [SHA2_256, 32];

/// The usual text of a CID of any codec and hash: base58 for version 0, base32 for version 1. `None` when it is no CID.
pub fn any_text(bytes: &[u8]) -> Option<String> {
    if len(bytes) != Some(bytes.len()) {
        return None;
    }
    match bytes {
        [1, ..] => Some(format!("b{}", data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase())),
        [SHA2_256, 32, ..] => Cid::try_from(bytes).ok().map(|cid| cid.to_string()),
        _ => None,
    }
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

/// Whether `text` is the usual text of a CID of any codec and hash.
pub fn is_any_text(text: &str) -> bool {
    is_text(text) || Cid::try_from(text).is_ok_and(|cid| cid.to_string() == text)
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

    #[test]
    fn texts_of_any_cid() {
        // Known pairs of the CID specification's examples and of IPFS.
        for text in [
            "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n",
            "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "bafkqaaa",
            "bafkqabtimvwgy3yk",
            "bafkrgqg6spnh4wjzgvkr5lzcs5ihkoqdwvr2nzn3zvjhrhcn6anpnp5vkxpkbcpjmqvwvf5ec2sbzlq4u5ffgmtwtx2xyd5mqbyzhk7ffnbdi",
        ] {
            let Ok(cid) = Cid::try_from(text) else { continue };
            assert_eq!(any_text(&cid.to_bytes()).as_deref(), Some(text));
            assert!(is_any_text(text) && !is_text(text), "{text}");
        }
        // An identity hash may be of any length.
        let long = [&[1, RAW, 0, 100][..], &[7; 100]].concat();
        assert!(any_text(&long).is_some_and(|text| text.starts_with("bafk")));
        for bad in [&b""[..], &[1], &[1, RAW, 0x12, 32, 1, 2], &[&long[..], &[0]].concat(), &[2, RAW, 0, 0]] {
            assert_eq!(any_text(bad), None, "{bad:?}");
        }
        assert!(!is_any_text("bafk") && !is_any_text("") && !is_any_text("QmdfTbBqBPQ7"));
    }
}
