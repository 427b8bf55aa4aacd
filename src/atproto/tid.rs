//! TIDs: 13 characters that hold a time (<https://atproto.com/specs/tid>). A `rev` is one. Pure.

/// Milliseconds since 1970 in a TID. `None` when it is not one.
pub fn time_ms(tid: &str) -> Option<i64> {
    let bytes = tid.as_bytes();
    // 13 characters hold 65 bits: the first may only be one of the lower half of the alphabet's first 16.
    if bytes.len() != 13 || !(b"234567abcdefghij".contains(&bytes[0])) {
        return None;
    }
    let value = bytes.iter().try_fold(0u64, |v, b| {
        let digit = match b {
            b'2'..=b'7' => b - b'2',
            b'a'..=b'z' => b - b'a' + 6,
            _ => return None,
        };
        Some((v << 5) | digit as u64)
    })?;
    // 53 bits of microseconds, then 10 of a clock id.
    Some(((value >> 10) / 1000) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_tids() {
        assert_eq!(time_ms("2222222222222"), Some(0));
        // An example of the specification.
        let ms = time_ms("3jzfcijpj2z2a").expect("a TID");
        assert_eq!(crate::atproto::time::format_ms(ms), "2023-06-30T15:03:01.887Z");
        for bad in ["", "3jzfcijpj2z2", "3jzfcijpj2z2A", "zjzfcijpj2z2a", "3jzfcijpj2z2aa", "3jzf-ijpj2z2a"] {
            assert_eq!(time_ms(bad), None, "{bad}");
        }
    }
}
