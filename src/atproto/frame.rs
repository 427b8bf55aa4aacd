//! One message of `com.atproto.sync.subscribeRepos`: a header and a body, two DAG-CBOR values one behind the other
//! (<https://atproto.com/specs/event-stream>). It owns the forms of all kinds of messages, and does not judge seqs or
//! ops. Pure: readers look at headers, workers read bodies.

use std::convert::Infallible;

use serde::Deserialize;

use super::cbor::{CborError, NULL, Order, Reader, Result};

/// What the header says that the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes of records of one repository.
    Commit,
    /// A repository is declared anew.
    Sync,
    /// A handle or document may have changed.
    Identity,
    /// The hosting status of an account.
    Account,
    /// `#info`: the only one without a seq.
    Info,
    /// `op: -1`: the server closes next.
    Error,
    /// A type or op that this version does not know: passed over, by the specification.
    Unknown,
}

/// The largest seq plus one (53 bits, <https://atproto.com/specs/event-stream#sequence-numbers>).
pub const SEQ_END: u64 = 1 << 53;

#[derive(Deserialize)]
struct Header<'a> {
    op: i64,
    #[serde(borrow, default)]
    t: Option<&'a str>,
}

/// The header's kind, and where the body begins.
///
/// The header of a commit is always the same bytes, with its two keys in one order or the other: those are compared;
/// all else is decoded.
pub fn header(frame: &[u8]) -> std::result::Result<(Kind, usize), String> {
    const COMMIT: [&[u8]; 2] = [b"\xa2\x61t\x67#commit\x62op\x01", b"\xa2\x62op\x01\x61t\x67#commit"];
    for commit in COMMIT {
        if frame.starts_with(commit) {
            return Ok((Kind::Commit, commit.len()));
        }
    }
    let mut end = Reader::new(frame);
    end.skip_map().map_err(|e| format!("header: {e}"))?;
    if !end.is_shortest() {
        return Err(format!("header: {}", CborError::NotShortest));
    }
    let header: Header<'_> = decode(&frame[..end.position()]).map_err(|e| format!("header: {e}"))?;
    let kind = match (header.op, header.t) {
        (1, Some("#commit")) => Kind::Commit,
        (1, Some("#sync")) => Kind::Sync,
        (1, Some("#identity")) => Kind::Identity,
        (1, Some("#account")) => Kind::Account,
        (1, Some("#info")) => Kind::Info,
        (1, None) => return Err("header: no type".into()),
        (-1, _) => Kind::Error,
        _ => Kind::Unknown,
    };
    Ok((kind, end.position()))
}

/// The body's `seq`, found without decoding the rest. `None` when there is none in range.
pub fn seq(body: &[u8]) -> Option<u64> {
    let mut r = at(body, b"seq")?;
    r.uint().ok().filter(|seq| (1..SEQ_END).contains(seq) && r.is_shortest())
}

/// The body's `time`, as the host wrote it, found in the same way.
pub fn time(body: &[u8]) -> Option<&str> {
    at(body, b"time")?.text().ok()
}

/// The value of the first member `key`.
fn at<'a>(body: &'a [u8], key: &[u8]) -> Option<Reader<'a>> {
    let mut r = Reader::new(body);
    for _ in 0..r.map().ok()? {
        if r.key().ok()? == key {
            return Some(r);
        }
        r.skip().ok()?;
    }
    None
}

fn decode<'a, T: Deserialize<'a>>(
    body: &'a [u8],
) -> std::result::Result<T, serde_ipld_dagcbor::DecodeError<Infallible>> {
    serde_ipld_dagcbor::from_slice(body)
}

/// A body other than a commit, decoded by the library.
pub fn body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> std::result::Result<T, String> {
    Reader::new(body).skip_map().map_err(|e| e.to_string())?;
    decode(body).map_err(|e| e.to_string())
}

/// `#identity`: the account's handle or document may have changed.
#[derive(Deserialize)]
pub struct Identity<'a> {
    /// The host's sequence number.
    pub seq: u64,
    /// The account.
    pub did: &'a str,
    /// When the host says that it happened, RFC 3339.
    #[serde(borrow, default)]
    pub time: Option<&'a str>,
    /// The new handle, where the host says it.
    #[serde(borrow, default)]
    pub handle: Option<&'a str>,
}

/// `#account`: hosting status.
#[derive(Deserialize)]
pub struct Account<'a> {
    /// The host's sequence number.
    pub seq: u64,
    /// The account.
    pub did: &'a str,
    /// When the host says that it happened, RFC 3339.
    #[serde(borrow, default)]
    pub time: Option<&'a str>,
    /// Whether the account's repository can be fetched.
    pub active: bool,
    /// Why it is not active, such as `takendown`.
    #[serde(borrow, default)]
    pub status: Option<&'a str>,
}

/// `#sync`: the repository's state is declared anew; consumers fetch it again.
#[derive(Deserialize)]
pub struct Sync<'a> {
    /// The host's sequence number.
    pub seq: u64,
    /// The account.
    pub did: &'a str,
    /// The revision of the repository.
    #[serde(borrow, default)]
    pub rev: Option<&'a str>,
    /// When the host says that it happened, RFC 3339.
    #[serde(borrow, default)]
    pub time: Option<&'a str>,
    /// A CAR of the commit block alone.
    #[serde(borrow, default)]
    pub blocks: Option<&'a [u8]>,
}

/// `#info`, such as `OutdatedCursor`.
#[derive(Deserialize)]
pub struct Info<'a> {
    /// What it is about.
    pub name: &'a str,
    /// Words for people.
    #[serde(borrow, default)]
    pub message: Option<&'a str>,
}

/// The body of an error frame, such as `FutureCursor` or `ConsumerTooSlow`.
#[derive(Deserialize)]
pub struct ErrorBody<'a> {
    /// The name of the error.
    pub error: &'a str,
    /// Words for people.
    #[serde(borrow, default)]
    pub message: Option<&'a str>,
}

/// `#commit`, borrowed from its frame.
pub struct Commit<'a> {
    /// The host's sequence number.
    pub seq: u64,
    /// The account whose repository changes.
    pub repo: &'a str,
    /// Empty in commits of 2023, which had none.
    pub rev: &'a str,
    /// As the host wrote it; empty when absent.
    pub time: &'a str,
    /// Deprecated: the blocks were left out because there are too many.
    pub too_big: bool,
    /// The CAR.
    pub blocks: &'a [u8],
    ops: Reader<'a>,
    /// How many changes there are.
    pub ops_len: u64,
}

/// One change of one record.
pub struct Op<'a> {
    /// `create`, `update` or `delete`.
    pub action: &'a str,
    /// `collection/rkey`.
    pub path: &'a str,
    /// Bytes of the record's CID; absent for a delete.
    pub cid: Option<&'a [u8]>,
}

impl<'a> Commit<'a> {
    /// Decodes the body. Fields in any order, each once, unknown ones passed over.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let mut order = Order::default();
        let (mut seq, mut repo, mut ops) = (None, None, None);
        let mut commit =
            Commit { seq: 0, repo: "", rev: "", time: "", too_big: false, blocks: &[], ops: r, ops_len: 0 };
        for _ in 0..r.map()? {
            match order.see(r.key()?) {
                b"seq" => seq = Some(r.uint()?),
                b"repo" => repo = Some(r.text()?),
                b"rev" => commit.rev = r.nullable(Reader::text)?.unwrap_or(""),
                b"time" => commit.time = r.nullable(Reader::text)?.unwrap_or(""),
                b"tooBig" => commit.too_big = r.nullable(Reader::bool)?.unwrap_or(false),
                b"blocks" => commit.blocks = r.nullable(Reader::bytes)?.unwrap_or(&[]),
                b"ops" => {
                    let mut at = r;
                    ops = Some((at.array()?, at));
                    r.skip()?;
                }
                _ => r.skip()?,
            }
        }
        if !r.is_at_end() {
            return Err(CborError::Trailing);
        }
        if !r.is_shortest() {
            return Err(CborError::NotShortest);
        }
        // Keys in order cannot be there twice; those of some hosts are not in order.
        if !order.kept {
            Reader::new(body).skip_map()?;
        }
        commit.seq = seq.ok_or(CborError::Type("a commit: no seq"))?;
        commit.repo = repo.ok_or(CborError::Type("a commit: no repo"))?;
        (commit.ops_len, commit.ops) = ops.ok_or(CborError::Type("a commit: no ops"))?;
        Ok(commit)
    }

    /// The ops in order. One that does not have an op's form is an error of its own; the others follow.
    pub fn ops(&self) -> impl Iterator<Item = Result<Op<'a>>> + use<'a> {
        let mut r = self.ops;
        (0..self.ops_len).map(move |_| {
            let mut at = r;
            // parse() has passed over all of them, so that this cannot fail but on a bug.
            r.skip()?;
            op(&mut at)
        })
    }
}

fn op<'a>(r: &mut Reader<'a>) -> Result<Op<'a>> {
    let (mut action, mut path, mut cid) = (None, None, None);
    let (begin, mut order) = (*r, Order::default());
    for _ in 0..r.map()? {
        match order.see(r.key()?) {
            b"action" => action = Some(r.text()?),
            b"path" => path = Some(r.text()?),
            b"cid" => cid = if r.peek()? == NULL { r.skip().map(|()| None)? } else { Some(r.link()?) },
            _ => r.skip()?,
        }
    }
    if !order.kept {
        { begin }.skip_map()?;
    }
    Ok(Op {
        action: action.ok_or(CborError::Type("an op: no action"))?,
        path: path.ok_or(CborError::Type("an op: no path"))?,
        cid,
    })
}

/// The commit that the CAR of a `#sync` holds: the CID of its root, checked against the block's hash.
///
/// Read by iroh-car: a `#sync` is rare, and its CAR is small.
pub fn sync_commit(car: &[u8]) -> std::result::Result<String, String> {
    pollster::block_on(async {
        let mut reader = iroh_car::CarReader::new(car).await.map_err(|e| e.to_string())?;
        let root = *reader.header().roots().first().ok_or("the CAR has no root")?;
        while let Some((cid, block)) = reader.next_block().await.map_err(|e| e.to_string())? {
            if cid == root {
                let bytes = cid.to_bytes();
                let known = super::cid::check(&bytes).ok_or("the root is not an atproto CID")?;
                if super::cid::hashes(known, &block) != Some(true) {
                    return Err("the commit block does not hash to its CID".into());
                }
                return Ok(cid.to_string());
            }
        }
        Err("the root's block is not in the CAR".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_either_order_and_unknown_ones() {
        assert_eq!(header(b"\xa2\x61t\x67#commit\x62op\x01rest"), Ok((Kind::Commit, 15)));
        assert_eq!(header(b"\xa2\x62op\x01\x61t\x67#commitrest"), Ok((Kind::Commit, 15)));
        assert_eq!(header(b"\xa2\x62op\x01\x61t\x65#sync"), Ok((Kind::Sync, 13)));
        assert_eq!(header(b"\xa2\x61t\x67#handle\x62op\x01"), Ok((Kind::Unknown, 15)));
        assert_eq!(header(b"\xa1\x62op\x20"), Ok((Kind::Error, 5)));
        assert_eq!(header(b"\xa1\x62op\x07"), Ok((Kind::Unknown, 5)));
        assert_eq!(header(b"\xa3\x61t\x65#info\x61x\x01\x62op\x01"), Ok((Kind::Info, 16)), "unknown fields pass");
        // Which of two is meant, nobody can say; and what is longer than needed is no header.
        for bad in [&b"\xa2\x62op\x01\x62op\x01"[..], b"\xa2\x61x\x01\x61x\x01", b"\xa1\x62op\x18\x01"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
        for bad in [&b""[..], b"\xa1\x62op\x01", b"hello", b"\xff\xff", b"\xa2\x61t\x67#com"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_body_has_each_key_once() {
        let ok = b"\xa3\x63ops\x80\x63seq\x01\x64repo\x61a";
        assert!(Commit::parse(ok).is_ok_and(|c| (c.seq, c.repo) == (1, "a")));
        assert!(Commit::parse(b"\xa3\x64repo\x61a\x63seq\x01\x63ops\x80").is_ok(), "in any order");
        for twice in [
            &b"\xa4\x63ops\x80\x63seq\x01\x63seq\x02\x64repo\x61a"[..],
            b"\xa4\x64repo\x61a\x63ops\x80\x63seq\x01\x64repo\x61b",
            b"\xa5\x63ops\x80\x63seq\x01\x64repo\x61a\x61x\x01\x61x\x01",
        ] {
            assert_eq!(Commit::parse(twice).err(), Some(CborError::KeyTwice));
        }
        assert_eq!(Commit::parse(b"\xa3\x63ops\x80\x63seq\x18\x01\x64repo\x61a").err(), Some(CborError::NotShortest));
        assert!(body::<Identity<'_>>(b"\xa2\x63did\x61a\x63seq\x01").is_ok());
        assert!(body::<Identity<'_>>(b"\xa3\x63did\x61a\x63seq\x01\x63did\x61b").is_err());
        assert!(body::<Identity<'_>>(b"\xa4\x63did\x61a\x63seq\x01\x61x\x01\x61x\x01").is_err());
        let ops = b"\xa3\x63ops\x82\xa3\x64path\x61a\x66action\x61b\x64path\x61c\xa2\x66action\x61b\x64path\x61a\x63seq\x01\x64repo\x61a";
        let ops: Vec<_> = Commit::parse(ops).expect("a commit").ops().map(|op| op.map(|op| op.path).ok()).collect();
        assert_eq!(ops, [None, Some("a")]);
    }

    #[test]
    fn seq_is_found_behind_other_fields_and_bounded() {
        assert_eq!(seq(b"\xa2\x63ops\x81\xa0\x63seq\x18\x2a"), Some(42));
        assert_eq!(seq(b"\xa1\x63seq\x00"), None);
        assert_eq!(seq(b"\xa1\x63seq\x20"), None);
        assert_eq!(seq(b"\xa1\x63seq\x1b\x00\x20\0\0\0\0\0\0"), None, "2^53");
        assert_eq!(seq(b"\xa1\x61x\x00"), None);
    }
}
