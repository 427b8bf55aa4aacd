//! What comes out of [`Trim`], whole or cut, however the bytes arrive.

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
