//! What a reader hands over.

use std::ops::Range;

use crate::atproto::frame::Kind;

/// Work for any worker. Each piece gives one batch, in the order in which the reader handed it over.
pub enum Work {
    /// Some frames, in the order of the wire.
    Frames(Frames),
    /// Something that the reader has to say: becomes an `info` event.
    Notice { name: &'static str, message: String },
    /// Nothing to write, only a position: where a live start began.
    Start,
}

impl Work {
    /// Frames inside.
    pub fn frames(&self) -> usize {
        match self {
            Work::Frames(frames) => frames.list.len(),
            Work::Notice { .. } | Work::Start => 0,
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Work::Frames(frames) => frames.bytes.len(),
            Work::Notice { message, .. } => message.len(),
            Work::Start => 0,
        }
    }
}

/// Frames in one buffer, so that a burst costs one allocation and one hand-over.
#[derive(Default)]
pub struct Frames {
    pub bytes: Vec<u8>,
    pub list: Vec<FrameAt>,
}

/// One of them: where it stands, and what the reader saw of it.
pub struct FrameAt {
    pub range: Range<usize>,
    pub seen: Seen,
}

/// What the reader saw.
pub enum Seen {
    /// A frame of a known kind, whose body starts at `body` inside the frame. `seq` is 0 where it has none.
    Frame { kind: Kind, body: usize, seq: u64 },
    /// A websocket text message.
    Text,
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
    /// Waits until there is room, then takes `work`. `seq` is where upstream stands once the work is delivered;
    /// `None` leaves it as it is.
    fn put(&mut self, work: Work, seq: Option<u64>) -> Result<(), Stopped>;

    /// Whether the end was asked for.
    fn stopped(&self) -> bool;
}
