//! Where each block of a CAR stands, without copying one. It does not check what is in a block: [`cid`](super::cid) and
//! the decoder do. Pure.

use super::cbor::Reader;

/// Index of the blocks of one CAR (version 1). Reused from commit to commit, so that it does not allocate.
#[derive(Default)]
pub struct CarIndex {
    blocks: Vec<Block>,
    sorted: bool,
}

#[derive(Clone, Copy)]
struct Block {
    /// The first bytes of the digest, to compare and sort by.
    tag: u64,
    cid: u32,
    data: u32,
    end: u32,
}

impl Block {
    fn cid<'a>(&self, car: &'a [u8]) -> &'a [u8] {
        &car[self.cid as usize..self.data as usize]
    }
}

/// From so many look-ups on, sorting first is cheaper than walking the index each time, and a hostile commit of
/// thousands of ops over thousands of blocks stays linear in its bytes.
const SORT_FROM: usize = 16;

impl CarIndex {
    /// Indexes `car` for about `lookups` look-ups. What could be read stays findable also when it says that the
    /// rest could not: each op is judged by its own block.
    pub fn read(&mut self, car: &[u8], lookups: usize) -> Result<(), &'static str> {
        self.blocks.clear();
        let result = self.walk(car);
        self.sorted = lookups >= SORT_FROM;
        if self.sorted {
            // By the whole CID: nobody has checked these, and equal tags by the thousand are easily made.
            self.blocks.sort_by(|a, b| (a.tag, a.cid(car)).cmp(&(b.tag, b.cid(car))));
        }
        result
    }

    fn walk(&mut self, car: &[u8]) -> Result<(), &'static str> {
        let mut pos = 0;
        let header = section(car, &mut pos)?;
        check_header(header).ok_or("the header is not that of a CAR version 1")?;
        while pos < car.len() {
            let block = section(car, &mut pos)?;
            let cid_len = super::cid::len(block).ok_or("a block without a CID")?;
            // Only CIDs of the atproto form can be asked for; others are passed over.
            if let Some(cid) = super::cid::check(&block[..cid_len]) {
                let cid_at = (pos - block.len()) as u32;
                self.blocks.push(Block { tag: tag(cid), cid: cid_at, data: cid_at + cid_len as u32, end: pos as u32 });
            }
        }
        Ok(())
    }

    /// The block of `cid` in the same `car` that was indexed.
    pub fn get<'a>(&self, car: &'a [u8], cid: &[u8; super::cid::LEN]) -> Option<&'a [u8]> {
        let tag = tag(cid);
        let from = if self.sorted { self.blocks.partition_point(|b| (b.tag, b.cid(car)) < (tag, &cid[..])) } else { 0 };
        for block in &self.blocks[from..] {
            if block.tag == tag && block.cid(car) == cid {
                return Some(&car[block.data as usize..block.end as usize]);
            }
            if self.sorted {
                break;
            }
        }
        None
    }
}

#[inline]
fn tag(cid: &[u8; super::cid::LEN]) -> u64 {
    u64::from_le_bytes([cid[4], cid[5], cid[6], cid[7], cid[8], cid[9], cid[10], cid[11]])
}

/// The next length-prefixed section.
fn section<'a>(car: &'a [u8], pos: &mut usize) -> Result<&'a [u8], &'static str> {
    let len = super::cid::varint(car, pos).ok_or("a length that cannot be read")?;
    let end = usize::try_from(len).ok().and_then(|len| pos.checked_add(len)).ok_or("a length out of range")?;
    let out = car.get(*pos..end).ok_or("cut off inside a block")?;
    // Offsets are kept in 32 bits.
    if end > u32::MAX as usize {
        return Err("larger than 4 GiB");
    }
    *pos = end;
    Ok(out)
}

fn check_header(header: &[u8]) -> Option<()> {
    let mut r = Reader::new(header);
    let mut version = None;
    for _ in 0..r.map().ok()? {
        if r.key().ok()? == b"version" {
            version = r.uint().ok();
        } else {
            r.skip().ok()?;
        }
    }
    (version == Some(1)).then_some(())
}
