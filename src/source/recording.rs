//! Files of recorded frames: repeated `[u32 little-endian length][frame]`, packed by zstd or not, as `atkafka record`
//! writes them. It knows bytes and frames, and nothing of which frames are wanted. On the thread of whoever reads or
//! writes: a reader's, and the main thread's at the start.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::job::Stopped;
use super::relay::MAX_MESSAGE;
use super::stream::Arrival;
use crate::client::dial::wait;
use crate::log::bar::Extent;

/// What begins a zstd file: its magic number, which as a length would be a frame of 4 GB.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// A longer frame means that the file is no recording: no longer one is taken of a relay.
const MAX_FRAME: usize = MAX_MESSAGE;
/// The first seq is looked for in so many frames and bytes: a small packed file may unpack to ones without a seq for hours.
const FIRST_FRAMES: u64 = 10_000;
const FIRST_BYTES: u64 = 64 << 20;
/// How long a pipe is waited for at most before the end is looked for.
const LOOK_UP: Duration = Duration::from_millis(100);

/// The seq of the first frame that has one, which the saved position is named after: another recording at the same path
/// is another source. `None` where the beginning of it has none, or when `stop` is set meanwhile.
pub fn first_seq(path: &Path, stop: &AtomicBool) -> Result<Option<u64>, String> {
    let stopped = || stop.load(Ordering::Relaxed);
    let find = || {
        let mut input = Recording::open(path, &stopped, &Arc::default())?;
        while !stopped() && input.frames < FIRST_FRAMES && input.at < FIRST_BYTES {
            match input.read_on()? {
                Next::Frame => {}
                Next::Later => continue,
                Next::End => break,
            }
            if let Some(seq) = input.seq() {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    };
    match find() {
        Ok(seq) => Ok(seq),
        Err(Fault::Stopped) => Ok(None),
        Err(Fault::File(why) | Fault::CutOff(why)) => Err(format!("{}: {why}", path.display())),
    }
}

/// Where a recording ends.
pub struct End {
    /// The last seq in it. `None`: no frame has one.
    pub last_seq: Option<u64>,
    /// The frame behind so many bytes is cut off. Never for a packed file, which can only be read to its end.
    pub cut_at: Option<u64>,
    /// `None`: nothing is in it that would say so.
    pub is_packed: Option<bool>,
}

/// Reads a whole recording. `None`: `stop` was set meanwhile.
pub fn end(path: &Path, stop: &AtomicBool) -> Result<Option<End>, String> {
    let stopped = || stop.load(Ordering::Relaxed);
    let mut last_seq = None;
    let mut read = || {
        let mut input = Recording::open(path, &stopped, &Arc::default())?;
        let cut_at = loop {
            if stopped() {
                return Err(Fault::Stopped);
            }
            match input.read_on() {
                Ok(Next::Frame) => last_seq = input.seq().or(last_seq),
                Ok(Next::Later) => {}
                Ok(Next::End) => break None,
                Err(Fault::CutOff(_)) if !input.is_packed => break Some(input.at),
                Err(fault) => return Err(fault),
            }
        };
        let is_packed = (input.is_packed || input.at > 0).then_some(input.is_packed);
        Ok(End { last_seq, cut_at, is_packed })
    };
    match read() {
        Ok(end) => Ok(Some(end)),
        Err(Fault::Stopped) => Ok(None),
        Err(Fault::File(why) | Fault::CutOff(why)) => Err(why),
    }
}

/// Why a file is not read on: one line, without its name.
pub enum Fault {
    /// A stop was asked for.
    Stopped,
    /// It ends inside a frame.
    CutOff(String),
    /// The file cannot be read, or is no recording.
    File(String),
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Fault::Stopped
    }
}

/// What [`Recording::read_on`] found.
pub enum Next {
    /// A frame, whole in [`Recording::frame`].
    Frame,
    /// Nothing more for now: who writes the pipe pauses.
    Later,
    /// The file is at its end.
    End,
}

/// How far the frame is read that is read now.
#[derive(Clone, Copy)]
enum Part {
    Length,
    Body(usize),
    Whole,
}

/// One file, frame by frame.
pub struct Recording {
    input: Box<dyn BufRead>,
    is_packed: bool,
    /// The frame that is read, or was read last. It is kept over a pause in its middle.
    pub frame: Vec<u8>,
    part: Part,
    /// Bytes of frames so far, unpacked: where the next frame begins.
    at: u64,
    frames: u64,
}

impl Recording {
    /// Opens a file, packed or not, or standard input for `-`. `stopped` ends the wait for a pipe; what is read is added
    /// to `extent`.
    pub fn open(path: &Path, stopped: &dyn Fn() -> bool, extent: &Arc<Extent>) -> Result<Self, Fault> {
        let failed = |e: io::Error| Fault::File(format!("cannot be read: {e}"));
        let file = match path.to_str() {
            // Not the library's: it has a buffer of its own, which nothing shows to be empty.
            Some("-") => File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?),
            _ => File::open(path).map_err(failed)?,
        };
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(Fault::File("is a directory".into()));
        }
        let mut input = Patient { input: file, may_wait: !kind.is_file(), has_waited: false, extent: extent.clone() };
        // A pipe may give single bytes.
        let (mut beginning, mut length) = ([0; ZSTD_MAGIC.len()], 0);
        while length < beginning.len() {
            if stopped() {
                return Err(Fault::Stopped);
            }
            match input.read(&mut beginning[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        if beginning.starts_with(&GZIP_MAGIC) {
            return Err(Fault::File("is packed by gzip: unpack it first (zstd is read as it is)".into()));
        }
        let is_packed = beginning == ZSTD_MAGIC;
        let input = BufReader::with_capacity(256 << 10, Cursor::new(beginning).take(length as u64).chain(input));
        let input: Box<dyn BufRead> = match is_packed {
            true => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(failed)?;
                // Recordings with a long window are smaller; this is what the zstd program takes at most by itself.
                decoder.window_log_max(27).map_err(failed)?;
                Box::new(BufReader::with_capacity(256 << 10, decoder))
            }
            false => Box::new(input),
        };
        Ok(Recording { input, is_packed, frame: Vec::new(), part: Part::Length, at: 0, frames: 0 })
    }

    /// Reads on to the end of the next frame. Fails with where the file is damaged.
    pub fn read_on(&mut self) -> Result<Next, Fault> {
        if let Part::Whole = self.part {
            self.frame.clear();
            self.part = Part::Length;
        }
        let (at, frames, is_packed) = (self.at, self.frames, self.is_packed);
        let place =
            || format!("at byte {at}{}, behind {frames} whole frames", if is_packed { " (unpacked)" } else { "" });
        let cut_off = || Fault::CutOff(format!("is cut off {}", place()));
        loop {
            let wanted = match self.part {
                Part::Length => 4,
                Part::Body(length) => length,
                Part::Whole => return Ok(Next::Frame),
            };
            // Room only for what is there: the length may be wrong.
            while self.frame.len() < wanted {
                let there = match self.input.fill_buf() {
                    Ok([]) if self.frame.is_empty() && matches!(self.part, Part::Length) => return Ok(Next::End),
                    Ok([]) => return Err(cut_off()),
                    Ok(there) => there,
                    Err(e) if is_pause(&e) => return Ok(Next::Later),
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(cut_off()),
                    Err(e) => return Err(Fault::File(format!("cannot be read on {}: {e}", place()))),
                };
                let more = there.len().min(wanted - self.frame.len());
                self.frame.extend_from_slice(&there[..more]);
                self.input.consume(more);
            }
            match self.part {
                Part::Length => {
                    let length = self.frame.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
                    // No frame is empty: zeros in the middle of a file are damage.
                    if length > MAX_FRAME || length == 0 {
                        let what = format!("is no recording, or damaged, {}: a frame of {length} bytes", place());
                        return Err(Fault::File(what));
                    }
                    self.frame.clear();
                    self.part = Part::Body(length);
                }
                Part::Body(length) => {
                    (self.at, self.frames) = (at + 4 + length as u64, frames + 1);
                    self.part = Part::Whole;
                }
                Part::Whole => {}
            }
        }
    }

    /// The seq of the event that was read last.
    fn seq(&self) -> Option<u64> {
        match Arrival::of(&self.frame) {
            Arrival::Event { seq, .. } => seq,
            _ => None,
        }
    }
}

/// A signal, or nothing there yet.
fn is_pause(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A file, or a pipe that is not waited for longer than [`LOOK_UP`]: what it gave is to be handed over meanwhile, and a stop
/// seen.
struct Patient {
    input: File,
    may_wait: bool,
    /// It had nothing when it was asked last.
    has_waited: bool,
    /// Told how many bytes were read.
    extent: Arc<Extent>,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.may_wait && !self.is_ready() {
            self.has_waited = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.input.read(buffer)?;
        self.has_waited = false;
        self.extent.add(n as u64);
        Ok(n)
    }
}

impl Patient {
    fn is_ready(&self) -> bool {
        // The first time not at all, so that what was read is handed over at once.
        let patience = if self.has_waited { LOOK_UP } else { Duration::ZERO };
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        // What cannot be waited for is read: that tells why.
        !matches!(wait(&mut fds, patience), Ok(0) | Err(Errno::INTR))
    }
}
