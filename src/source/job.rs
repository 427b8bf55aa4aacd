//! What a reader hands over, and the [`Intake`] that takes it: the whole interface between sources and the pipeline. Values
//! and a trait; which thread does the work is not known here.

use std::ops::Range;
use std::time::Instant;

use super::buffer::Buffer;
use crate::atproto::frame::Kind;
use crate::checkpoint::Position;

/// Work for any worker. Each piece gives one batch, in the order in which the reader handed it over.
pub enum Work {
    /// Some messages, in the order of the wire. The source's decoder knows what they are.
    Frames(Frames),
    /// Something that the reader has to say: becomes an `info` event.
    Notice {
        /// What kind of notice it is, such as `seq_gap`.
        name: &'static str,
        /// The same in words.
        message: String,
    },
}

impl Work {
    /// Frames inside.
    pub fn frames(&self) -> usize {
        match self {
            Work::Frames(frames) => frames.list.len(),
            Work::Notice { .. } => 0,
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Work::Frames(frames) => frames.bytes.len(),
            Work::Notice { message, .. } => message.len(),
        }
    }

    /// Whether it is done sooner than another thread is woken for it: fewer than [`FRAMES`], and less than half of [`BYTES`].
    pub fn is_little(&self) -> bool {
        self.frames() < FRAMES && self.bytes() < BYTES / 2
    }

    /// When the first message was read; `None`: just now.
    pub fn since(&self) -> Option<Instant> {
        match self {
            Work::Frames(frames) => frames.since,
            Work::Notice { .. } => None,
        }
    }
}

/// A hand-over is due at so many frames or bytes, or when the socket has nothing more.
pub const FRAMES: usize = 64;
/// The same in bytes.
pub const BYTES: usize = 128 << 10;

/// Messages in one buffer, so that a burst costs one allocation and one hand-over.
#[derive(Default)]
pub struct Frames {
    /// All messages, one after the other.
    pub bytes: Buffer,
    /// Where each of them stands.
    pub list: Vec<FrameAt>,
    /// Messages and bytes of the last hand-over: the next one will need about as much.
    usual: (usize, usize),
    /// When the first of them was read.
    since: Option<Instant>,
}

impl Frames {
    /// Whether `len` bytes more fit before a hand-over is due.
    pub fn has_room(&self, len: usize) -> bool {
        self.list.is_empty() || self.bytes.len() + len <= BYTES
    }

    /// Appends a message.
    pub fn push(&mut self, bytes: &[u8], seen: Seen) {
        if self.list.is_empty() {
            let (messages, room) = self.usual;
            self.bytes = Buffer::with_room(bytes.len().max(room));
            self.list.reserve((2 * messages).min(FRAMES));
            self.since = Some(Instant::now());
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.list.push(FrameAt { range: start..self.bytes.len(), seen });
    }

    /// Whether a hand-over is due.
    pub fn is_full(&self) -> bool {
        self.list.len() >= FRAMES
    }

    /// What is there, for a hand-over; `None` when nothing is.
    pub fn take(&mut self) -> Option<Frames> {
        if self.list.is_empty() {
            return None;
        }
        let usual = (self.list.len(), self.bytes.len());
        Some(std::mem::replace(self, Frames { usual, ..Frames::default() }))
    }
}

/// One of them: where it stands, and what the reader saw of it.
pub struct FrameAt {
    /// In [`Frames::bytes`].
    pub range: Range<usize>,
    /// What the reader saw of it.
    pub seen: Seen,
}

/// What the reader saw.
pub enum Seen {
    /// A frame of a known kind, whose body starts at `body` inside the frame. `seq` is 0 where it has none.
    Frame {
        /// What the header says.
        kind: Kind,
        /// Offset of the body in the frame.
        body: usize,
        /// The host's sequence number.
        seq: u64,
    },
    /// A websocket text message.
    Text,
    /// A websocket binary message where text is due.
    Binary,
    /// A JSON text.
    Json,
    /// The header could not be read.
    Bad(String),
    /// The header is fine, the seq is not.
    BadSeq,
}

/// The end was asked for: nothing is taken any more.
#[derive(Debug)]
pub struct Stopped;

/// Where a reader puts its work.
pub trait Intake {
    /// Waits until there is room, then takes `work`. `position` is where upstream stands once the work is delivered;
    /// `None` leaves it as it is.
    fn put(&mut self, work: Work, position: Option<Position>) -> Result<(), Stopped>;

    /// Saves where a source began, before anything behind it is delivered: returns when it is on disk.
    fn begin(&mut self, position: Position) -> Result<(), Stopped>;

    /// The source cannot go on, and neither a retry nor a new start would mend it: ends the run with `reason`.
    fn fail(&self, reason: String);

    /// Whether the end was asked for.
    fn stopped(&self) -> bool;

    /// Whether nothing is in flight.
    fn drained(&self) -> bool;
}
