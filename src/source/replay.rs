//! The reader of recordings: files of repeated `[u32 little-endian length][frame]`, as `atkafka record` writes them, packed
//! by zstd or not. Several are one stream, in the order in which they are given.
//!
//! It knows files and the seqs in them, and nothing of connections. It runs on a reader thread, and ends with its files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::link::Link;
use super::relay::MAX_MESSAGE;
use super::resume::{Resume, Verdict};
use crate::atproto::frame::{self, Kind};
use crate::checkpoint::Position;
use crate::client::dial::wait;
use crate::health::Health;
use crate::metrics::Metrics;

/// What begins a zstd file: its magic number, which as a length would be a frame of 4 GB.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// A longer frame means that the file is no recording: no longer one is taken of a relay.
const MAX_FRAME: usize = MAX_MESSAGE;
/// So many frames in a row above `to_seq` are the end of what is wanted; a few may only have a wrong seq.
const BEYOND: u32 = 100;
/// The first seq is looked for in so many frames and bytes: a small packed file may unpack to ones without a seq for hours.
const FIRST_FRAMES: u64 = 10_000;
const FIRST_BYTES: u64 = 64 << 20;
/// How long a pipe is waited for at most before the end is looked for.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How long a pause for `rate` lasts at most before the end is looked for.
const PAUSE: Duration = Duration::from_millis(200);

/// What is read of which files.
#[derive(Debug, Clone)]
pub struct Reading {
    /// `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Frames a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// The first seq that is wanted.
    pub from_seq: u64,
    /// The last seq that is wanted.
    pub to_seq: Option<u64>,
}

/// How far it is, and why it ended: written by the reader, read by whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames that were handed over.
    pub frames: AtomicU64,
    /// Everything was read.
    pub done: AtomicBool,
    /// It went on behind a saved position.
    pub resumed: AtomicBool,
    /// The lowest and the highest seq that were seen.
    seqs: OnceLock<(u64, u64)>,
    failed: OnceLock<String>,
}

impl Progress {
    /// `: they have seq 1 to 9`, or nothing where no frame has a seq.
    pub fn extent(&self) -> String {
        match self.seqs.get() {
            Some((lowest, highest)) => format!(": they have seq {lowest} to {highest}"),
            None => String::new(),
        }
    }

    /// Why it did not come to the end of the files: one line.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }
}

/// The seq of the first frame that has one, which the saved position is named after: another recording at the same path
/// is another source. `None` where the beginning of it has none, or when `stop` is set meanwhile.
pub fn first_seq(path: &Path, stop: &AtomicBool) -> Result<Option<u64>, String> {
    let stopped = || stop.load(Ordering::Relaxed);
    let find = || {
        let mut input = Recording::open(path, &stopped)?;
        while !stopped() && input.frames < FIRST_FRAMES && input.at < FIRST_BYTES {
            match input.next()? {
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

/// How far a recording goes.
pub struct Extent {
    pub last_seq: Option<u64>,
    /// The frame behind so many bytes is cut off. Never for a packed file, which can only be read to its end.
    pub cut_at: Option<u64>,
    /// `None`: nothing is in it that would say so.
    pub is_packed: Option<bool>,
}

/// Reads a whole recording. `None`: `stop` was set meanwhile.
pub fn extent(path: &Path, stop: &AtomicBool) -> Result<Option<Extent>, String> {
    let stopped = || stop.load(Ordering::Relaxed);
    let mut last_seq = None;
    let mut read = || {
        let mut input = Recording::open(path, &stopped)?;
        let cut_at = loop {
            if stopped() {
                return Err(Fault::Stopped);
            }
            match input.next() {
                Ok(Next::Frame) => last_seq = input.seq().or(last_seq),
                Ok(Next::Later) => {}
                Ok(Next::End) => break None,
                Err(Fault::CutOff(_)) if !input.is_packed => break Some(input.at),
                Err(fault) => return Err(fault),
            }
        };
        let is_packed = (input.is_packed || input.at > 0).then_some(input.is_packed);
        Ok(Extent { last_seq, cut_at, is_packed })
    };
    match read() {
        Ok(extent) => Ok(Some(extent)),
        Err(Fault::Stopped) => Ok(None),
        Err(Fault::File(why) | Fault::CutOff(why)) => Err(why),
    }
}

pub struct Replay<I> {
    reading: Reading,
    intake: I,
    resume: Resume,
    /// What a run before this one delivered, or what is not wanted: frames up to here are passed over.
    behind: u64,
    beyond: u32,
    /// The lowest and the highest seq so far.
    seen: Option<(u64, u64)>,
    frames: Frames,
    position: Option<(u64, u64)>,
    began: Instant,
    handed_over: u64,
    progress: Arc<Progress>,
    link: Link,
}

impl<I: Intake> Replay<I> {
    /// `saved` is the last seq that an earlier run delivered; it goes before `from_seq`.
    pub fn new(
        name: &str,
        reading: Reading,
        saved: Option<u64>,
        intake: I,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        progress.resumed.store(saved.is_some(), Ordering::Relaxed);
        let link = Link::new(name, 0, metrics, health);
        link.connected();
        Replay {
            behind: saved.unwrap_or(reading.from_seq.saturating_sub(1)),
            reading,
            intake,
            resume: Resume::new(saved),
            beyond: 0,
            seen: None,
            frames: Frames::default(),
            position: None,
            began: Instant::now(),
            handed_over: 0,
            progress,
            link,
        }
    }

    /// Reads to the end of the files, or until the end is asked for.
    pub fn run(mut self) {
        let files = std::mem::take(&mut self.reading.files);
        for path in &files {
            match self.file(path) {
                Ok(Wants::More) => {}
                Ok(Wants::NoMore) => break,
                Err(Fault::Stopped) => return,
                Err(Fault::File(why) | Fault::CutOff(why)) => {
                    // What came before it is whole, and is delivered.
                    // Set once: the reader ends with it.
                    let _ = self.progress.failed.set(format!("{}: {why}", path.display()));
                    let _ = self.hand_over();
                    return;
                }
            }
        }
        if let Some(seen) = self.seen {
            let _ = self.progress.seqs.set(seen);
        }
        if self.hand_over().and_then(|()| self.last_position()).is_ok() {
            self.progress.done.store(true, Ordering::Relaxed);
        }
    }

    /// The last seq may be a jump, and nothing follows that could confirm it.
    fn last_position(&mut self) -> Result<(), Stopped> {
        self.resume.settle();
        match self.resume.cursor() {
            seq if self.handed_over > 0 && seq > 0 => {
                self.intake.put(Work::Frames(Frames::default()), Some(Position::of_seqs((seq, seq))))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, path: &Path) -> Result<Wants, Fault> {
        // The file may be a pipe that has nothing for a long time.
        self.hand_over()?;
        let mut input = Recording::open(path, &|| self.intake.stopped())?;
        loop {
            let next = input.next()?;
            if let Next::Later = next {
                self.hand_over()?;
            }
            if self.intake.stopped() {
                return Err(Fault::Stopped);
            }
            match next {
                Next::Frame => {
                    if let Wants::NoMore = self.frame(&input.frame)? {
                        return Ok(Wants::NoMore);
                    }
                }
                Next::Later => {}
                Next::End => return Ok(Wants::More),
            }
        }
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<Wants, Stopped> {
        let (kind, body) = match frame::header(bytes) {
            Ok(header) => header,
            Err(detail) => return self.keep(bytes, Seen::Bad(detail), None),
        };
        match kind {
            Kind::Error | Kind::Unknown => {
                self.link.metrics.unknown_frame();
                return Ok(Wants::More);
            }
            Kind::Info => return self.keep(bytes, Seen::Frame { kind, body, seq: 0 }, None),
            Kind::Commit | Kind::Sync | Kind::Identity | Kind::Account => {}
        }
        let Some(seq) = frame::seq(&bytes[body..]) else { return self.keep(bytes, Seen::BadSeq, None) };
        self.seen = Some(self.seen.map_or((seq, seq), |(lowest, highest)| (seq.min(lowest), seq.max(highest))));
        if seq <= self.behind {
            return Ok(Wants::More);
        }
        if self.reading.to_seq.is_some_and(|to| seq > to) {
            self.beyond += 1;
            return Ok(if self.beyond >= BEYOND { Wants::NoMore } else { Wants::More });
        }
        self.beyond = 0;
        match self.resume.judge(seq) {
            Verdict::Repeat => {
                self.link.metrics.repeated_frame();
                return Ok(Wants::More);
            }
            // What is missing in a recording was missing for who made it, and is nobody's fault now.
            Verdict::New | Verdict::Gap(_) => {}
        }
        self.keep(bytes, Seen::Frame { kind, body, seq }, Some((self.resume.cursor(), seq)))
    }

    fn keep(&mut self, bytes: &[u8], seen: Seen, position: Option<(u64, u64)>) -> Result<Wants, Stopped> {
        self.wait_for_turn()?;
        if !self.frames.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.frames.push(bytes, seen);
        self.position = position.or(self.position);
        self.handed_over += 1;
        if self.frames.is_full() {
            self.hand_over()?;
        }
        Ok(Wants::More)
    }

    /// With a rate: waits until the next frame is due.
    fn wait_for_turn(&mut self) -> Result<(), Stopped> {
        let Some(rate) = self.reading.rate else { return Ok(()) };
        loop {
            let due = self.began + Duration::from_secs_f64(self.handed_over as f64 / rate);
            let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            self.hand_over()?;
            if self.intake.stopped() {
                return Err(Stopped);
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        let Some(frames) = self.frames.take() else { return Ok(()) };
        self.link.received(&frames);
        self.progress.frames.fetch_add(frames.list.len() as u64, Ordering::Relaxed);
        let position = self.position.take();
        if let Some((_, reached)) = position {
            self.link.gauges.last_seq_received.set(reached as i64);
        }
        self.intake.put(Work::Frames(frames), position.map(Position::of_seqs))
    }
}

/// Whether the next frame is wanted.
enum Wants {
    More,
    NoMore,
}

/// Why a file is not read on: one line, without its name.
enum Fault {
    Stopped,
    /// It ends inside a frame.
    CutOff(String),
    File(String),
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Fault::Stopped
    }
}

/// What `Recording::next` found.
enum Next {
    /// A frame, whole in `Recording::frame`.
    Frame,
    /// Nothing more for now: who writes the pipe pauses.
    Later,
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
struct Recording {
    input: Box<dyn BufRead>,
    is_packed: bool,
    /// The frame that is read, or was read last. It is kept over a pause in its middle.
    frame: Vec<u8>,
    part: Part,
    /// Bytes of frames so far, unpacked: where the next frame begins.
    at: u64,
    frames: u64,
}

impl Recording {
    fn open(path: &Path, stopped: &dyn Fn() -> bool) -> Result<Self, Fault> {
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
        let mut input = Patient { input: file, may_wait: !kind.is_file(), has_waited: false };
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
    fn next(&mut self) -> Result<Next, Fault> {
        if let Part::Whole = self.part {
            self.frame.clear();
            self.part = Part::Length;
        }
        let (at, frames) = (self.at, self.frames);
        let place =
            || format!("at byte {at}{}, behind {frames} whole frames", if at == 0 { "" } else { " (unpacked)" });
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

    /// The seq of the frame that was read last.
    fn seq(&self) -> Option<u64> {
        let (_, body) = frame::header(&self.frame).ok()?;
        frame::seq(&self.frame[body..])
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
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.may_wait && !self.is_ready() {
            self.has_waited = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.input.read(buffer)?;
        self.has_waited = false;
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
