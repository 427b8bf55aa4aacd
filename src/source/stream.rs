//! The frames of a firehose, from bytes to "new, a repeat, or behind a gap", and on to a hand-over.
//!
//! A value without a socket, a file or a clock, on a reader's thread: the reader of a relay and that of a recording feed
//! it, and `record` writes what comes out of it.

use super::job::{Frames, Seen};
use super::resume::{Resume, Verdict};
use crate::atproto::frame::{self, Kind};
use crate::checkpoint::Position;

/// What a message of a firehose is, as far as a reader looks.
#[derive(Debug)]
pub enum Arrival {
    /// Something that happened: `seq` is `None` where it has none that can be.
    Event {
        /// What the header says.
        kind: Kind,
        /// Offset of the body in the frame.
        body: usize,
        /// The host's sequence number.
        seq: Option<u64>,
    },
    /// The host has something to say. The body begins at this offset.
    Info(usize),
    /// An error frame. The body begins at this offset.
    Error(usize),
    /// Of a later version of the protocol, which says that such frames are to be passed over.
    Unknown,
    /// The header cannot be read, and why.
    Unreadable(String),
}

impl Arrival {
    /// Reads the header, and the seq of an event.
    pub fn of(frame: &[u8]) -> Arrival {
        match frame::header(frame) {
            Ok((kind @ (Kind::Commit | Kind::Sync | Kind::Identity | Kind::Account), body)) => {
                Arrival::Event { kind, body, seq: frame::seq(&frame[body..]) }
            }
            Ok((Kind::Info, body)) => Arrival::Info(body),
            Ok((Kind::Error, body)) => Arrival::Error(body),
            Ok((Kind::Unknown, _)) => Arrival::Unknown,
            Err(detail) => Arrival::Unreadable(detail),
        }
    }

    /// The same for a decoder; `None` for what is no event and no dead letter.
    pub fn seen(self) -> Option<Seen> {
        match self {
            Arrival::Event { kind, body, seq: Some(seq) } => Some(Seen::Frame { kind, body, seq }),
            Arrival::Event { seq: None, .. } => Some(Seen::BadSeq),
            Arrival::Info(body) => Some(Seen::Frame { kind: Kind::Info, body, seq: 0 }),
            Arrival::Unreadable(detail) => Some(Seen::Bad(detail)),
            Arrival::Error(_) | Arrival::Unknown => None,
        }
    }
}

/// Frames that wait for the next hand-over, and where the stream stands behind them.
#[derive(Default)]
pub struct Stream {
    /// Which seqs are new.
    pub resume: Resume,
    frames: Frames,
    /// What to save behind `frames`, and the last seq in them.
    reached: Option<(u64, u64)>,
}

impl Stream {
    /// Goes on behind `cursor`, when there is one.
    pub fn new(cursor: Option<u64>) -> Stream {
        Stream { resume: Resume::new(cursor), ..Stream::default() }
    }

    /// Whether the event with this seq is new.
    pub fn judge(&mut self, seq: u64) -> Verdict {
        self.resume.judge(seq)
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.frames.list.len()
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.frames.list.is_empty()
    }

    /// Whether `len` bytes more fit before a hand-over is due.
    pub fn has_room(&self, len: usize) -> bool {
        self.frames.has_room(len)
    }

    /// Adds a message. An event with a seq, which was judged before, moves the position. Whether a hand-over is due.
    pub fn push(&mut self, bytes: &[u8], seen: Seen) -> bool {
        if let Seen::Frame { seq: seq @ 1.., .. } = seen {
            self.reached = Some(self.here(seq));
        }
        self.frames.push(bytes, seen);
        self.frames.is_full()
    }

    /// Where the stream stands behind the event with this seq.
    pub fn here(&self, seq: u64) -> (u64, u64) {
        (self.resume.cursor(), seq)
    }

    /// What waits stands here, whatever its seqs say.
    pub fn stand_at(&mut self, reached: (u64, u64)) {
        self.reached = Some(reached);
    }

    /// What waits, for a hand-over: the frames, and the position behind them where they have one. `None` when nothing does.
    pub fn take(&mut self) -> Option<(Frames, Option<Position>)> {
        let frames = self.frames.take()?;
        Some((frames, self.reached.take().map(Position::of_seqs)))
    }
}
