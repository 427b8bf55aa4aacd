//! Cuts messages over the limit short before the websocket library sees them. There the connection would end at one, and a
//! new one would meet it again: no cursor leads past a message that is no event. A layer between the connection and the
//! library, on the reader's thread.
//!
//! Of such a message the beginning stays, which has the seq of an honest one, and behind it goes a pong of our own, by
//! which the reader knows that the next message is not whole.

use std::io::{self, Cursor, Read, Write};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Bytes that stay of a message that is too long. Its seq stands behind its ops, of which each has about 100.
const KEEP: u64 = 64 << 10;
/// A message of more than this never ends.
const ENDLESS: u64 = 256 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 32 << 10;
/// After so many dropped bytes timers run.
const BREATHE: u64 = 1 << 20;
/// The end of the answer to the handshake.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What comes next from the other side.
#[derive(Debug)]
enum Part {
    /// The answer to the handshake; so many bytes of its end were seen.
    Handshake(usize),
    Header,
    /// So many bytes of a frame. Where the message is cut, then our pong with its size, and so many bytes that are dropped.
    Payload(u64, Option<(u64, u64)>),
    Dropped(u64),
    /// What came is no websocket: the library says why.
    Broken,
}

/// The transport with the middle of long messages taken out.
#[derive(Debug)]
pub struct Trim<S> {
    inner: S,
    limit: u64,
    part: Part,
    /// What came and was not passed on: `raw[at..end]`.
    raw: Vec<u8>,
    at: usize,
    end: usize,
    /// What is passed on before anything else.
    give: Vec<u8>,
    /// Bytes of the present message.
    message: u64,
    /// The rest of the present message is dropped.
    cutting: bool,
    /// The beginning of our pong, which the host cannot know.
    mark: [u8; 16],
    /// The first bit of the three that extensions may use was set on a message.
    compressed: bool,
}

impl<S: Read> Trim<S> {
    /// `limit`: bytes of a message that is passed on whole.
    pub fn new(inner: S, limit: usize) -> Self {
        let mut mark = [0; 16];
        fastrand::Rng::new().fill(&mut mark);
        Trim {
            inner,
            limit: limit as u64,
            part: Part::Handshake(0),
            raw: vec![0; CHUNK],
            at: 0,
            end: 0,
            give: Vec::new(),
            message: 0,
            cutting: false,
            mark,
            compressed: false,
        }
    }

    /// The size of the message that is cut behind this pong, when it is ours.
    pub fn size_in(&self, pong: &[u8]) -> Option<u64> {
        pong.strip_prefix(&self.mark)?.try_into().map(u64::from_be_bytes).ok()
    }

    /// Whether a message came that was compressed, which was not asked for.
    pub fn compressed(&self) -> bool {
        self.compressed
    }

    /// Whether a frame is passed on as it is, as nearly all are.
    fn passes(&mut self, header: &FrameHeader, payload: u64) -> bool {
        if header.mask.is_some() || header.rsv1 || header.rsv2 || header.rsv3 {
            return false;
        }
        let OpCode::Data(data) = header.opcode else { return true };
        let before = if data == Data::Continue { self.message } else { 0 };
        let message = before.saturating_add(payload);
        if self.cutting || message > self.limit {
            return false;
        }
        self.message = message;
        true
    }

    /// Reads to `out` at once, where nothing waits: what has to be looked at more closely goes to `raw`. How much was
    /// passed on; `None`: nothing, and it is not the end.
    fn straight(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        let longest = out.len().min(CHUNK);
        let n = self.inner.read(&mut out[..longest])?;
        let mut passed = 0;
        while passed < n {
            if let Part::Payload(left, None) = &mut self.part {
                let more = (*left).min((n - passed) as u64);
                *left -= more;
                passed += more as usize;
                if *left > 0 {
                    break;
                }
                self.part = Part::Header;
            }
            let mut cursor = Cursor::new(&out[passed..n]);
            match FrameHeader::parse(&mut cursor) {
                Ok(Some((header, payload))) if self.passes(&header, payload) => {
                    passed += cursor.position() as usize;
                    self.part = Part::Payload(payload, None);
                }
                _ => break,
            }
        }
        self.raw[..n - passed].copy_from_slice(&out[passed..n]);
        (self.at, self.end) = (0, n - passed);
        Ok((passed > 0 || n == 0).then_some(passed))
    }

    /// Decides on a frame whose header, `len` bytes of which the first is at `self.at`, is there.
    fn frame(&mut self, header: &FrameHeader, len: usize, payload: u64) {
        let bytes = self.at..self.at + len;
        self.at += len;
        let as_is = Part::Payload(payload, None);
        let plain = header.mask.is_none() && !(header.rsv1 || header.rsv2 || header.rsv3);
        let data = match header.opcode {
            OpCode::Data(data) if !self.passes(header, payload) => data,
            _ => {
                self.give.extend_from_slice(&self.raw[bytes]);
                self.part = as_is;
                return;
            }
        };
        self.compressed |= header.rsv1 && data != Data::Continue;
        if data != Data::Continue {
            (self.message, self.cutting) = (0, false);
        }
        let before = self.message;
        self.message = before.saturating_add(payload);
        if !plain || self.message > ENDLESS {
            self.give.extend_from_slice(&self.raw[bytes]);
            self.part = if plain { Part::Broken } else { as_is };
        } else if self.cutting {
            self.part = Part::Dropped(payload);
            self.cutting = !header.is_final;
        } else if self.message <= self.limit {
            self.give.extend_from_slice(&self.raw[bytes]);
            self.part = as_is;
        } else {
            // A text cut anywhere would be no UTF-8.
            let keep = if data == Data::Text { 0 } else { KEEP.saturating_sub(before).min(payload) };
            self.put_header(header.opcode, false, keep);
            self.part = Part::Payload(keep, Some((self.message, payload - keep)));
            self.cutting = !header.is_final;
        }
    }

    fn put_header(&mut self, opcode: OpCode, is_final: bool, len: u64) {
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        // Writing to memory does not fail.
        let _ = header.format(len, &mut self.give);
    }

    /// Ends a message behind what was kept of it.
    fn cut(&mut self, size: u64, dropped: u64) {
        self.put_header(OpCode::Control(Control::Pong), true, (self.mark.len() + size_of::<u64>()) as u64);
        self.give.extend_from_slice(&self.mark);
        self.give.extend_from_slice(&size.to_be_bytes());
        self.put_header(OpCode::Data(Data::Continue), true, 0);
        self.part = Part::Dropped(dropped);
    }

    /// Moves what is there to `out`: how much was passed on and how much dropped.
    fn pass(&mut self, out: &mut [u8]) -> (usize, u64) {
        let (mut passed, mut dropped) = (0, 0);
        loop {
            if !self.give.is_empty() {
                let n = self.give.len().min(out.len() - passed);
                out[passed..passed + n].copy_from_slice(&self.give[..n]);
                self.give.drain(..n);
                passed += n;
            }
            if passed == out.len() && !out.is_empty() {
                return (passed, dropped);
            }
            let there = &self.raw[self.at..self.end];
            let room = (out.len() - passed).min(there.len());
            let take = match &mut self.part {
                Part::Header => {
                    let mut cursor = Cursor::new(there);
                    match FrameHeader::parse(&mut cursor) {
                        Ok(Some((header, payload))) => {
                            let len = cursor.position() as usize;
                            self.frame(&header, len, payload);
                        }
                        Ok(None) => return (passed, dropped),
                        Err(_) => self.part = Part::Broken,
                    }
                    continue;
                }
                Part::Payload(0, None) | Part::Dropped(0) => {
                    self.part = Part::Header;
                    continue;
                }
                Part::Payload(0, Some((size, dropped))) => {
                    let (size, dropped) = (*size, *dropped);
                    self.cut(size, dropped);
                    continue;
                }
                _ if there.is_empty() => return (passed, dropped),
                Part::Dropped(left) => {
                    let n = (*left).min(there.len() as u64);
                    *left -= n;
                    dropped += n;
                    self.at += n as usize;
                    continue;
                }
                Part::Payload(left, _) => {
                    let n = (*left).min(room as u64);
                    *left -= n;
                    n as usize
                }
                Part::Handshake(seen) => {
                    let mut n = 0;
                    for byte in &there[..room] {
                        n += 1;
                        *seen = if *byte == HEAD_END[*seen] { *seen + 1 } else { usize::from(*byte == b'\r') };
                        if *seen == HEAD_END.len() {
                            break;
                        }
                    }
                    if *seen == HEAD_END.len() {
                        self.part = Part::Header;
                    }
                    n
                }
                Part::Broken => room,
            };
            out[passed..passed + take].copy_from_slice(&self.raw[self.at..self.at + take]);
            (passed, self.at) = (passed + take, self.at + take);
        }
    }
}

impl<S: Read> Read for Trim<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut dropped = 0;
        while !out.is_empty() {
            let waits = self.at < self.end || !self.give.is_empty();
            if !waits && matches!(self.part, Part::Header | Part::Payload(_, None)) {
                match self.straight(out)? {
                    Some(passed) => return Ok(passed),
                    None => continue,
                }
            }
            let (passed, more) = self.pass(out);
            if passed > 0 {
                return Ok(passed);
            }
            dropped += more;
            if dropped > BREATHE {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // At most a header in pieces is left.
            self.raw.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
            match self.inner.read(&mut self.raw[self.end..])? {
                0 => return Ok(0),
                n => self.end += n,
            }
        }
        Ok(0)
    }
}

impl<S: Write> Write for Trim<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
