//! Appends JSON to bytes: strings, integers, and JSON texts that come from elsewhere. The counterpart of
//! [`json_input`](super::json_input). Pure, and on the path of every event, so that strings are looked through eight bytes at a
//! time.

/// Appends a number.
pub fn integer(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Whether all bytes are ASCII characters that a JSON string holds as they are.
#[inline]
pub fn is_plain(bytes: &[u8]) -> bool {
    let eight = |at: usize| bytes.get(at..at + 8).map_or(0, |b| special(word(b)) | word(b)) & TOP;
    if bytes.len() < 8 {
        return bytes.iter().all(|b| !needs_escape(b) && b.is_ascii());
    }
    // The last eight bytes overlap those before: no loop over a tail.
    let mut found = eight(bytes.len() - 8);
    let mut at = 0;
    while at + 8 < bytes.len() {
        found |= eight(at);
        at += 8;
    }
    found == 0
}

const ONES: u64 = u64::MAX / 255;
const TOP: u64 = ONES << 7;

#[inline]
fn word(eight: &[u8]) -> u64 {
    u64::from_le_bytes(eight.try_into().expect("eight bytes"))
}

#[inline]
fn needs_escape(b: &u8) -> bool {
    *b < 0x20 || *b == b'"' || *b == b'\\'
}

/// Has a top bit set where a byte needs an escape. A borrow may set one behind a real one, never without one.
#[inline]
fn special(w: u64) -> u64 {
    let below_space = w.wrapping_sub(ONES * 0x20) & !w;
    let quote = (w ^ (ONES * b'"' as u64)).wrapping_sub(ONES) & !(w ^ (ONES * b'"' as u64));
    let slash = (w ^ (ONES * b'\\' as u64)).wrapping_sub(ONES) & !(w ^ (ONES * b'\\' as u64));
    below_space | quote | slash
}

/// Appends a JSON string with its quotes.
#[inline]
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// Appends the inside of a JSON string: only what JSON demands is escaped (`"`, `\` and below U+0020).
#[inline]
pub fn escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = find_escape(&bytes[from..]) {
        out.extend_from_slice(&bytes[from..from + at]);
        escape(out, bytes[from + at]);
        from += at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cold]
fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Eight bytes at a time: almost no string has anything to escape.
#[inline]
fn find_escape(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(eight) = bytes.get(at..at + 8) {
        if special(word(eight)) & TOP != 0
            && let Some(i) = eight.iter().position(needs_escape)
        {
            return Some(at + i);
        }
        at += 8;
    }
    bytes[at..].iter().position(needs_escape).map(|i| at + i)
}

/// Appends a JSON text as it is, on one line: a raw line end can only be white space in it.
pub fn raw(out: &mut Vec<u8>, text: &[u8]) {
    let at = out.len();
    out.extend_from_slice(text);
    for byte in &mut out[at..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_equal_the_library_for_any_text() {
        let mut rng = fastrand::Rng::with_seed(3);
        let alphabet: Vec<char> = "abcdefgh \"\\\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}é日😀\u{2028}".chars().collect();
        for _ in 0..20_000 {
            let text: String = (0..rng.usize(0..40)).map(|_| alphabet[rng.usize(0..alphabet.len())]).collect();
            let mut out = Vec::new();
            string(&mut out, &text);
            assert_eq!(sonic_rs::from_slice::<String>(&out).expect("valid JSON"), text);
        }
    }
}
