//! Cuts messages over the limit short before the websocket library sees them. There the connection would end at one, and a
//! new one would meet it again: no cursor leads past a message that is no event.
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
mod tests {
    use super::*;

    /// Gives a stream in pieces of any size.
    struct Pieces {
        bytes: Vec<u8>,
        at: usize,
        rng: fastrand::Rng,
    }

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let longest = [1, 3, 50, 100_000][self.rng.usize(0..4)];
            let n = self.rng.usize(1..=longest).min(out.len()).min(self.bytes.len() - self.at);
            out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            Ok(n)
        }
    }

    fn frame(out: &mut Vec<u8>, opcode: u8, is_final: bool, payload: &[u8]) {
        let header = FrameHeader { is_final, opcode: OpCode::from(opcode), ..FrameHeader::default() };
        header.format(payload.len() as u64, out).expect("memory");
        out.extend_from_slice(payload);
    }

    /// What comes out as messages: opcode, payload, and whether it was cut, with its size.
    fn messages(trim: &Trim<Pieces>, bytes: &[u8]) -> Vec<(u8, Vec<u8>, Option<u64>)> {
        let (mut list, mut cut, mut open): (Vec<_>, _, Option<(u8, Vec<u8>)>) = (Vec::new(), None, None);
        let mut cursor = Cursor::new(bytes);
        while let Some((header, len)) = FrameHeader::parse(&mut cursor).expect("a header") {
            let start = cursor.position() as usize;
            let payload = &bytes[start..start + len as usize];
            cursor.set_position(cursor.position() + len);
            match u8::from(header.opcode) {
                10 if trim.size_in(payload).is_some() => cut = trim.size_in(payload),
                opcode @ 8.. => list.push((opcode, payload.to_vec(), None)),
                opcode => {
                    let mut message = open.take().unwrap_or((opcode, Vec::new()));
                    message.1.extend_from_slice(payload);
                    match header.is_final {
                        true => list.push((message.0, message.1, cut.take())),
                        false => open = Some(message),
                    }
                }
            }
        }
        list
    }

    #[test]
    fn every_message_comes_whole_or_cut() {
        const LIMIT: usize = 100_000;
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut wire = b"HTTP/1.1 101 x\r\nA: \r\r\n\r\n".to_vec();
            let (head, mut sent) = (wire.len(), Vec::new());
            for _ in 0..rng.usize(1..8) {
                let longest = [5, 200, 70_000, 400_000][rng.usize(0..4)];
                let payload: Vec<u8> = (0..rng.usize(0..longest)).map(|i| (i * 7 % 251) as u8).collect();
                let opcode = rng.u8(1..3);
                let mut rest = &payload[..];
                let mut first = true;
                loop {
                    let n = if rng.bool() { rest.len() } else { rng.usize(0..=rest.len()) };
                    let (piece, after) = rest.split_at(n);
                    frame(&mut wire, if first { opcode } else { 0 }, after.is_empty(), piece);
                    (rest, first) = (after, false);
                    if rest.is_empty() {
                        break;
                    }
                    if rng.u8(0..3) == 0 {
                        frame(&mut wire, 9, true, b"ping");
                        sent.push((9, b"ping".to_vec()));
                    }
                }
                sent.push((opcode, payload));
            }
            let mut trim = Trim::new(Pieces { bytes: wire.clone(), at: 0, rng: rng.clone() }, LIMIT);
            let (mut out, mut buffer) = (Vec::new(), [0; 5_000]);
            loop {
                let longest = rng.usize(1..=buffer.len());
                match trim.read(&mut buffer[..longest]) {
                    Ok(0) => break,
                    Ok(n) => out.extend_from_slice(&buffer[..n]),
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "seed {seed}"),
                }
            }
            assert_eq!(out[..head], wire[..head], "seed {seed}");
            let sort = |list: Vec<(u8, Vec<u8>, Option<u64>)>| {
                // A ping may overtake the end of a message that is cut.
                let (pings, rest): (Vec<_>, Vec<_>) = list.into_iter().partition(|m| m.0 == 9);
                (pings.len(), rest)
            };
            let (pings, came) = sort(messages(&trim, &out[head..]));
            let (pinged, sent) = sort(sent.into_iter().map(|(opcode, payload)| (opcode, payload, None)).collect());
            assert_eq!((pings, came.len()), (pinged, sent.len()), "seed {seed}");
            for ((opcode, got, cut), (as_sent, whole, _)) in came.iter().zip(&sent) {
                assert_eq!(opcode, as_sent, "seed {seed}");
                assert_eq!(cut.is_some(), whole.len() > LIMIT, "seed {seed}: {} bytes", whole.len());
                match cut {
                    None => assert!(got == whole, "seed {seed}"),
                    Some(size) => {
                        assert!(whole.starts_with(got) && got.len() <= LIMIT, "seed {seed}");
                        assert!(*size as usize > LIMIT && *size as usize <= whole.len(), "seed {seed}: {size}");
                        assert!(*opcode == 1 || got.len() >= KEEP as usize, "seed {seed}: {}", got.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_message_without_end_and_what_is_no_websocket_are_passed_on() {
        let endless = [b"\r\n\r\n".as_slice(), &[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0], &[7; 50]].concat();
        let garbage = [b"\r\n\r\n".as_slice(), &[0xff; 50]].concat();
        let compressed = [b"\r\n\r\n".as_slice(), &[0xc2, 1, 9]].concat();
        for (bytes, is) in [(endless, false), (garbage, false), (compressed, true)] {
            let mut trim = Trim::new(&bytes[..], 1_000);
            let mut out = Vec::new();
            trim.read_to_end(&mut out).expect("read");
            assert_eq!((out, trim.compressed()), (bytes, is));
        }
    }
}
