//! A borrowing reader of DRISL, the deterministic profile of DAG-CBOR that the AT Protocol uses. It knows CBOR's items and
//! not what they mean in a frame or a record. Pure; workers and readers call it.
//!
//! It accepts definite lengths and no simple values but `false`, `true`, `null`. Integers and lengths that are longer than
//! needed are read, since they have one meaning, and noted ([`Reader::is_shortest`]). Floats are recognised so that the
//! caller can name them.

use std::fmt;

/// Why bytes are not DRISL, or not the atproto data model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CborError {
    /// The value goes on behind the end of the bytes.
    Truncated,
    /// Bytes follow the value.
    Trailing,
    /// An integer or a length is not in its shortest form.
    NotShortest,
    /// Indefinite length, reserved head, or a simple value other than false, true and null.
    Unsupported,
    /// A tag other than 42.
    Tag,
    /// A text string is not UTF-8.
    Utf8,
    /// A map key is not text.
    KeyNotText,
    /// Map keys are not in order (shorter first, then bytewise).
    KeyOrder,
    /// A map key is there twice: which value counts is anybody's guess.
    KeyTwice,
    /// A float, which the atproto data model refuses.
    Float,
    /// Deeper than [`super::json::MAX_DEPTH`].
    Depth,
    /// A link that is not a CID.
    Link,
    /// Not the kind of value that stands here by the schema.
    Type(&'static str),
}

impl fmt::Display for CborError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CborError::Truncated => "the bytes end inside a value",
            CborError::Trailing => "bytes follow the value",
            CborError::NotShortest => "an integer or length is not in its shortest form",
            CborError::Unsupported => "an indefinite length or a forbidden simple value",
            CborError::Tag => "a tag other than 42",
            CborError::Utf8 => "a text string that is not UTF-8",
            CborError::KeyNotText => "a map key that is not text",
            CborError::KeyOrder => "map keys out of order",
            CborError::KeyTwice => "a map key that is there twice",
            CborError::Float => "a float, which the data model does not have",
            CborError::Depth => "nested too deep",
            CborError::Link => "a link that is not a CID",
            CborError::Type(what) => return write!(f, "not {what}"),
        })
    }
}

impl std::error::Error for CborError {}

/// What reading gives, or what is wrong with the bytes.
pub type Result<T> = std::result::Result<T, CborError>;

/// Major types (RFC 8949, 3.1).
pub const UINT: u8 = 0;
/// A negative integer, as -1 - n.
pub const NINT: u8 = 1;
/// A byte string.
pub const BYTES: u8 = 2;
/// A text string, which is to be UTF-8.
pub const TEXT: u8 = 3;
/// An array.
pub const ARRAY: u8 = 4;
/// A map.
pub const MAP: u8 = 5;
/// A tag: of DAG-CBOR only 42, a link.
pub const TAG: u8 = 6;
/// False, true, null, and floats.
pub const SIMPLE: u8 = 7;

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
/// The byte of `null`.
pub const NULL: u8 = 0xf6;

/// Whether keys come in the canonical order, shorter first, then bytewise: then none is there twice.
pub struct Order<'a> {
    last: &'a [u8],
    /// Whether all keys so far came in order.
    pub kept: bool,
}

impl Default for Order<'_> {
    fn default() -> Self {
        Order { last: &[], kept: true }
    }
}

impl<'a> Order<'a> {
    /// Notes the next key, and gives it back.
    #[inline]
    pub fn see(&mut self, key: &'a [u8]) -> &'a [u8] {
        self.kept &= (key.len(), key) > (self.last.len(), self.last);
        self.last = key;
        key
    }
}

/// A position in bytes. Each method reads one thing and moves behind it.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    data: &'a [u8],
    pos: usize,
    /// An integer or a length was longer than needed.
    long: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Reader { data, pos: 0, long: false }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.pos
    }

    /// Whether nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.pos == self.data.len()
    }

    /// Whether each integer and length so far was in its shortest form.
    pub fn is_shortest(&self) -> bool {
        !self.long
    }

    /// The next byte, without moving.
    #[inline]
    pub fn peek(&self) -> Result<u8> {
        self.data.get(self.pos).copied().ok_or(CborError::Truncated)
    }

    /// The major type of the next value, without moving.
    #[inline]
    pub fn peek_major(&self) -> Result<u8> {
        Ok(self.peek()? >> 5)
    }

    /// The head of a value: major type and argument. For floats [`CborError::Float`].
    #[inline]
    pub fn head(&mut self) -> Result<(u8, u64)> {
        let first = self.peek()?;
        self.pos += 1;
        let (major, info) = (first >> 5, first & 0x1f);
        if info < 24 {
            return if major == SIMPLE && !matches!(first, FALSE | TRUE | NULL) {
                Err(CborError::Unsupported)
            } else {
                Ok((major, info as u64))
            };
        }
        if major == SIMPLE {
            return Err(if (25..=27).contains(&info) { CborError::Float } else { CborError::Unsupported });
        }
        let (width, smallest) = match info {
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(CborError::Unsupported),
        };
        let bytes = self.take(width)?;
        let value = bytes.iter().fold(0u64, |v, b| v << 8 | *b as u64);
        self.long |= value < smallest;
        Ok((major, value))
    }

    #[inline]
    fn expect(&mut self, major: u8, what: &'static str) -> Result<u64> {
        if self.peek_major()? != major {
            return Err(CborError::Type(what));
        }
        Ok(self.head()?.1)
    }

    /// The next `n` bytes.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.pos.checked_add(n).ok_or(CborError::Truncated)?;
        let out = self.data.get(self.pos..end).ok_or(CborError::Truncated)?;
        self.pos = end;
        Ok(out)
    }

    #[inline]
    fn take_len(&mut self, n: u64) -> Result<&'a [u8]> {
        self.take(usize::try_from(n).map_err(|_| CborError::Truncated)?)
    }

    /// A text string, checked to be UTF-8.
    #[inline]
    pub fn text(&mut self) -> Result<&'a str> {
        let n = self.expect(TEXT, "text")?;
        std::str::from_utf8(self.take_len(n)?).map_err(|_| CborError::Utf8)
    }

    /// The bytes of a text string, not checked: for map keys that are only compared.
    #[inline]
    pub fn key(&mut self) -> Result<&'a [u8]> {
        if self.peek_major()? != TEXT {
            return Err(CborError::KeyNotText);
        }
        let n = self.head()?.1;
        self.take_len(n)
    }

    /// Whether the keys at these positions of the same bytes all differ. Sorts them.
    pub fn keys_differ(&self, at: &mut [u32]) -> bool {
        let key = |at: &u32| Reader { pos: *at as usize, ..*self }.key().unwrap_or_default();
        at.sort_unstable_by(|a, b| key(a).cmp(key(b)));
        at.windows(2).all(|two| key(&two[0]) != key(&two[1]))
    }

    /// Passes over a map in which no key may be there twice. The maps inside are not looked at.
    pub fn skip_map(&mut self) -> Result<()> {
        let mut keys = Vec::new();
        for _ in 0..self.map()? {
            keys.push(self.pos as u32);
            self.key()?;
            self.skip()?;
        }
        if self.keys_differ(&mut keys) { Ok(()) } else { Err(CborError::KeyTwice) }
    }

    /// Reads a byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.expect(BYTES, "bytes")?;
        self.take_len(n)
    }

    /// Reads an unsigned integer.
    pub fn uint(&mut self) -> Result<u64> {
        self.expect(UINT, "an unsigned integer")
    }

    /// Reads the head of an array: the number of its items, which follow.
    pub fn array(&mut self) -> Result<u64> {
        self.expect(ARRAY, "an array")
    }

    /// Reads the head of a map: the number of its entries, which follow.
    pub fn map(&mut self) -> Result<u64> {
        self.expect(MAP, "a map")
    }

    /// Reads a boolean.
    pub fn bool(&mut self) -> Result<bool> {
        match self.take(1)? {
            [FALSE] => Ok(false),
            [TRUE] => Ok(true),
            _ => Err(CborError::Type("a boolean")),
        }
    }

    /// A link: tag 42 around a byte string that starts with 0. Gives the bytes of the CID.
    #[inline]
    pub fn link(&mut self) -> Result<&'a [u8]> {
        match self.head()? {
            (TAG, 42) => {}
            (TAG, _) => return Err(CborError::Tag),
            _ => return Err(CborError::Type("a link")),
        }
        if self.peek_major()? != BYTES {
            return Err(CborError::Link);
        }
        match self.bytes()? {
            [0, cid @ ..] => Ok(cid),
            _ => Err(CborError::Link),
        }
    }

    /// `read`, or `None` when the value is null.
    pub fn nullable<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.peek()? == NULL {
            self.pos += 1;
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Moves behind one value of any kind, without looking into strings. Floats are passed over: it is used
    /// on fields that nobody reads. Its time is linear in the bytes passed, its stack constant.
    pub fn skip(&mut self) -> Result<()> {
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            let first = self.peek()?;
            match self.head() {
                Ok((BYTES | TEXT, n)) => {
                    self.take_len(n)?;
                }
                // Saturating: a length that lies cannot overflow, it runs into the end of the bytes.
                Ok((ARRAY, n)) => left = left.saturating_add(n),
                Ok((MAP, n)) => left = left.saturating_add(n.saturating_mul(2)),
                Ok((TAG, _)) => left = left.saturating_add(1),
                Ok(_) => {}
                Err(CborError::Float) => {
                    self.take(1 << ((first & 0x1f) - 24))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_passes_each_kind_and_stops_at_the_end() {
        // {"a": [1, -1, h'00', "x", null, 1.5, 42(h'00')], "b": true} and one byte behind it
        let data = b"\xa2\x61a\x87\x01\x20\x41\x00\x61x\xf6\xfb\x3f\xf8\0\0\0\0\0\0\xd8\x2a\x41\0\x61b\xf5\x07";
        let mut r = Reader::new(data);
        r.skip().expect("one map");
        assert_eq!(r.position(), data.len() - 1);
        assert_eq!(r.uint(), Ok(7));
        assert!(r.is_at_end());
        for cut in 0..data.len() - 1 {
            assert_eq!(Reader::new(&data[..cut]).skip(), Err(CborError::Truncated), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_lie_end_in_truncated() {
        for head in [
            &b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(Reader::new(head).skip(), Err(CborError::Truncated));
        }
    }
}
