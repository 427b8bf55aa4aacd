//! A record from DAG-CBOR to JSON in one pass, in the atproto data model (<https://atproto.com/specs/data-model>):
//! links become `{"$link": ...}`, bytes `{"$bytes": ...}`, integers stay exact to 64 bits, floats are refused.
//!
//! What is not encoded in the one canonical way, but has one meaning, is written all the same, and said: other consumers of the
//! network take it too, and a record that is missing in one place only is worse than an odd one.

use super::cbor::{ARRAY, BYTES, CborError, MAP, NINT, Reader, Result, SIMPLE, TAG, TEXT, UINT};
use super::cid;
use super::json_output::{integer, is_plain, string};

/// Arrays and maps inside one another. Genuine records are 17 deep at most (measured); the bound keeps the stack small.
pub const MAX_DEPTH: u32 = 128;

/// In what a record differs from the canonical encoding. A closed list: it is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Map keys are not in order.
    KeyOrder,
    /// An integer or a length is longer than needed.
    LongInteger,
    /// A link has a codec or a hash that atproto does not use.
    Link,
    /// The record's own CID does not say that it is DAG-CBOR.
    Cid,
}

impl Oddity {
    /// All of them, in the order of their numbers.
    pub const ALL: [Oddity; 4] = [Oddity::KeyOrder, Oddity::LongInteger, Oddity::Link, Oddity::Cid];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Oddity::KeyOrder => "key_order",
            Oddity::LongInteger => "long_integer",
            Oddity::Link => "link",
            Oddity::Cid => "cid",
        }
    }
}

/// Those of one record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oddities(u8);

impl Oddities {
    /// Notes one more.
    pub fn add(&mut self, oddity: Oddity) {
        self.0 |= 1 << oddity as u8;
    }

    /// Each that was noted, once.
    pub fn iter(self) -> impl Iterator<Item = Oddity> {
        Oddity::ALL.into_iter().filter(move |oddity| self.0 & (1 << *oddity as u8) != 0)
    }
}

/// What is noted while a value is written.
#[derive(Default)]
struct Notes {
    odd: Oddities,
    /// Where the keys of the maps that are open stand, so that a repeated one is found although they are not in order.
    /// `None`: out of order is an error ([`CborError::KeyOrder`]).
    keys: Option<Vec<u32>>,
}

/// Appends the JSON of one record, and says in what it is odd. A record is a map, and nothing follows it. On an error `out`
/// holds a part: the caller truncates.
pub fn record(block: &[u8], out: &mut Vec<u8>) -> Result<Oddities> {
    if Reader::new(block).peek_major()? != MAP {
        return Err(CborError::Type("a map: a record is one"));
    }
    any(block, out)
}

/// The same for a value of any kind.
pub fn any(block: &[u8], out: &mut Vec<u8>) -> Result<Oddities> {
    let start = out.len();
    match whole(block, out, Notes::default()) {
        // Rare: written again, with the keys kept.
        Err(CborError::KeyOrder) => {
            out.truncate(start);
            whole(block, out, Notes { keys: Some(Vec::new()), ..Notes::default() })
        }
        result => result,
    }
}

fn whole(block: &[u8], out: &mut Vec<u8>, mut notes: Notes) -> Result<Oddities> {
    let mut r = Reader::new(block);
    value(&mut r, out, 0, &mut notes)?;
    if !r.is_at_end() {
        return Err(CborError::Trailing);
    }
    if !r.is_shortest() {
        notes.odd.add(Oddity::LongInteger);
    }
    Ok(notes.odd)
}

fn value(r: &mut Reader<'_>, out: &mut Vec<u8>, depth: u32, notes: &mut Notes) -> Result<()> {
    match r.peek_major()? {
        TEXT => text(out, r.key()?)?,
        MAP => return map(r, out, depth, notes),
        ARRAY => {
            if depth == MAX_DEPTH {
                return Err(CborError::Depth);
            }
            out.push(b'[');
            for i in 0..r.array()? {
                if i > 0 {
                    out.push(b',');
                }
                value(r, out, depth + 1, notes)?;
            }
            out.push(b']');
        }
        UINT => integer(out, r.uint()?),
        NINT => {
            out.push(b'-');
            // CBOR has -1 - n, so that n = 2^64 - 1 needs one bit more than 64.
            match r.head()?.1.checked_add(1) {
                Some(n) => integer(out, n),
                None => out.extend_from_slice(b"18446744073709551616"),
            }
        }
        TAG => {
            let bytes = r.link()?;
            out.extend_from_slice(br#"{"$link":""#);
            match cid::check(bytes) {
                Some(cid) => out.extend_from_slice(&cid::text(cid)),
                None => {
                    notes.odd.add(Oddity::Link);
                    out.extend_from_slice(cid::any_text(bytes).ok_or(CborError::Link)?.as_bytes());
                }
            }
            out.extend_from_slice(br#""}"#);
        }
        BYTES => {
            out.extend_from_slice(br#"{"$bytes":""#);
            base64(out, r.bytes()?);
            out.extend_from_slice(br#""}"#);
        }
        SIMPLE => match r.head()?.1 {
            20 => out.extend_from_slice(b"false"),
            21 => out.extend_from_slice(b"true"),
            // head() lets only false, true and null pass.
            _ => out.extend_from_slice(b"null"),
        },
        _ => return Err(CborError::Unsupported),
    }
    Ok(())
}

/// What a map says of itself by the reserved keys of the data model.
#[derive(Default)]
struct Shape {
    blob: bool,
    reference: bool,
    size: bool,
    mime: bool,
}

fn map(r: &mut Reader<'_>, out: &mut Vec<u8>, depth: u32, notes: &mut Notes) -> Result<()> {
    if depth == MAX_DEPTH {
        return Err(CborError::Depth);
    }
    let len = r.map()?;
    out.push(b'{');
    let mut last: &[u8] = &[];
    let mut shape = Shape::default();
    let outer = notes.keys.as_ref().map_or(0, Vec::len);
    for i in 0..len {
        if let Some(keys) = &mut notes.keys {
            keys.push(r.position() as u32);
        }
        let key = r.key()?;
        if i > 0 {
            out.push(b',');
            if (key.len(), key) <= (last.len(), last) {
                out_of_order(key == last, notes)?;
            }
        }
        last = key;
        text(out, key)?;
        out.push(b':');
        reserved(r, key, len, &mut shape, notes)?;
        value(r, out, depth + 1, notes)?;
    }
    out.push(b'}');
    if let Some(keys) = &mut notes.keys {
        if !r.keys_differ(&mut keys[outer..]) {
            return Err(CborError::KeyTwice);
        }
        keys.truncate(outer);
    }
    if shape.blob && !(shape.reference && shape.size && shape.mime) {
        return Err(CborError::Type("a blob: it has a ref that is a link, a size and a mimeType"));
    }
    Ok(())
}

#[cold]
fn out_of_order(repeated: bool, notes: &mut Notes) -> Result<()> {
    if repeated {
        return Err(CborError::KeyTwice);
    }
    notes.odd.add(Oddity::KeyOrder);
    if notes.keys.is_some() { Ok(()) } else { Err(CborError::KeyOrder) }
}

/// Looks at the value of a key that the data model reserves. The value is read again by the caller.
#[inline]
fn reserved(r: &Reader<'_>, key: &[u8], len: u64, shape: &mut Shape, notes: &mut Notes) -> Result<()> {
    match key {
        b"ref" => shape.reference = r.peek_major()? == TAG,
        b"size" => shape.size = matches!(r.peek_major()?, UINT | NINT),
        b"mimeType" => shape.mime = r.peek_major()? == TEXT,
        b"$type" => {
            const WHAT: &str = "a $type: a text that is not empty";
            if r.peek_major()? != TEXT {
                return Err(CborError::Type(WHAT));
            }
            match r.clone().key()? {
                b"" => return Err(CborError::Type(WHAT)),
                name => shape.blob = name == b"blob",
            }
        }
        // In DAG-CBOR links and bytes have forms of their own. Some writers leave the JSON form in: it means the
        // same and reads the same, as long as it is well-formed.
        b"$link" => {
            if len != 1 || r.peek_major()? != TEXT || !cid::is_any_text(r.clone().text()?) {
                return Err(CborError::Type("a $link: one CID as text"));
            }
            if !cid::is_text(r.clone().text()?) {
                notes.odd.add(Oddity::Link);
            }
        }
        b"$bytes" if len != 1 || r.peek_major()? != TEXT || !is_base64(r.clone().text()?) => {
            return Err(CborError::Type("$bytes: one text in base64"));
        }
        _ => {}
    }
    Ok(())
}

fn is_base64(text: &str) -> bool {
    data_encoding::BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()).is_ok()
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let at = out.len();
    out.resize(at + data_encoding::BASE64_NOPAD.encode_len(bytes.len()), 0);
    data_encoding::BASE64_NOPAD.encode_mut(bytes, &mut out[at..]);
}

/// Appends a JSON string of bytes that are to be UTF-8. Almost all are ASCII with nothing to escape: one look says both.
#[inline]
fn text(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    if is_plain(bytes) {
        out.reserve(bytes.len() + 2);
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        string(out, std::str::from_utf8(bytes).map_err(|_| CborError::Utf8)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(cbor: &[u8]) -> Result<String> {
        let mut out = Vec::new();
        any(cbor, &mut out)?;
        Ok(String::from_utf8(out).expect("JSON is UTF-8"))
    }

    #[test]
    fn integers_are_exact_to_64_bits() {
        assert_eq!(json(b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"), Ok("18446744073709551615".into()));
        assert_eq!(json(b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff"), Ok("-18446744073709551616".into()));
        assert_eq!(json(b"\x3b\x00\x20\x00\x00\x00\x00\x00\x00"), Ok("-9007199254740993".into()));
        assert_eq!(json(b"\x20"), Ok("-1".into()));
    }

    #[test]
    fn bytes_and_depth() {
        assert_eq!(json(b"\x42\x01\x02"), Ok(r#"{"$bytes":"AQI"}"#.into()));
        let deep = |n: usize| [vec![0x81; n], vec![0x80]].concat();
        assert!(json(&deep(MAX_DEPTH as usize - 1)).is_ok());
        assert_eq!(json(&deep(MAX_DEPTH as usize)), Err(CborError::Depth));
    }

    fn odd(cbor: &[u8]) -> Result<(String, Vec<&'static str>)> {
        let mut out = b"before ".to_vec();
        let odd = any(cbor, &mut out)?;
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        let text = text.strip_prefix("before ").expect("what stood before stays").to_string();
        Ok((text, odd.iter().map(Oddity::name).collect()))
    }

    #[test]
    fn what_is_odd_and_has_one_meaning_is_written_and_said() {
        for (cbor, text, kinds) in [
            (&b"\xa2\x61a\x01\x61b\x02"[..], r#"{"a":1,"b":2}"#, &[][..]),
            (b"\xa2\x61b\x01\x61a\x02", r#"{"b":1,"a":2}"#, &["key_order"]),
            (b"\xa2\x62aa\xa2\x61d\x01\x61c\x02\x61b\x02", r#"{"aa":{"d":1,"c":2},"b":2}"#, &["key_order"]),
            (b"\x18\x01", "1", &["long_integer"]),
            (b"\x3b\0\0\0\0\0\0\0\x01", "-2", &["long_integer"]),
            (b"\x58\x01a", r#"{"$bytes":"YQ"}"#, &["long_integer"]),
            (b"\xb9\0\x01\x78\x01a\x99\0\0", r#"{"a":[]}"#, &["long_integer"]),
            (b"\xd9\0\x2a\x45\0\x01\x55\0\0", r#"{"$link":"bafkqaaa"}"#, &["long_integer", "link"]),
            (b"\xd8\x2a\x45\0\x01\x55\0\0", r#"{"$link":"bafkqaaa"}"#, &["link"]),
            (b"\xa1\x65$link\x68bafkqaaa", r#"{"$link":"bafkqaaa"}"#, &["link"]),
        ] {
            assert_eq!(odd(cbor), Ok((text.to_string(), kinds.to_vec())));
        }
    }

    #[test]
    fn a_repeated_key_is_refused_wherever_it_stands() {
        for cbor in [
            &b"\xa2\x61a\x01\x61a\x02"[..],
            b"\xa3\x61a\x01\x61b\x02\x61a\x03",
            b"\xa3\x61b\x01\x61a\x02\x61b\x03",
            b"\xa2\x61b\x01\x61a\xa2\x61c\x01\x61c\x02",
            b"\xa2\x61b\xa3\x61d\x01\x61c\x02\x61d\x03\x61a\x01",
            // Two lengths of one key.
            b"\xa2\x61a\x01\x78\x01a\x02",
            b"\xa3\x61b\x01\x78\x01a\x02\x61a\x03",
        ] {
            assert_eq!(odd(cbor), Err(CborError::KeyTwice), "{cbor:x?}");
        }
        // The same key in maps inside one another, and side by side.
        assert!(odd(b"\xa2\x61b\xa1\x61b\xa1\x61b\x01\x61a\xa1\x61b\x01").is_ok());
    }

    #[test]
    fn floats_are_refused_by_name() {
        for float in [&b"\xf9\x3c\x00"[..], b"\xfa\x3f\x80\0\0", b"\xfb\x3f\xf0\0\0\0\0\0\0"] {
            assert_eq!(json(float), Err(CborError::Float));
        }
    }
}
