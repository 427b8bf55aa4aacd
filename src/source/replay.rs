//! The reader of recordings: files of repeated `[u32 little-endian length][frame]`, as `atkafka record` writes them, packed
//! by zstd or not. Several are one stream, in the order in which they are given.
//!
//! It knows files and the seqs in them, and nothing of connections. It runs on a reader thread, and ends with its files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::job::{Frames, Intake, Seen, Stopped, Work};
use super::resume::{Resume, Verdict};
use crate::atproto::frame::{self, Kind};
use crate::checkpoint::{Position, RelayPosition};
use crate::health::Health;
use crate::metrics::{Metrics, SourceMetrics};

/// What begins a zstd file: its magic number, which as a length would be a frame of 4 GB.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// A longer frame means that the file is no recording: relays send 5 MB at most.
const MAX_FRAME: usize = 64 << 20;
/// So many frames in a row above `to_seq` are the end of what is wanted; a few may only have a wrong seq.
const BEYOND: u32 = 100;
/// What is said of a file that ends inside a frame begins with this.
const CUT_OFF: &str = "is cut off";
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
    /// Bytes of the files that were read, as they are on the disk.
    pub bytes: AtomicU64,
    /// Bytes of all files; 0 where that is not known.
    pub total: AtomicU64,
    /// Everything was read.
    pub done: AtomicBool,
    /// It went on behind a saved position.
    pub resumed: AtomicBool,
    /// The lowest and the highest seq that were seen.
    pub seqs: Mutex<Option<(u64, u64)>>,
    failed: Mutex<Option<String>>,
}

impl Progress {
    /// `: they have seq 1 to 9`, or nothing where no frame has a seq.
    pub fn extent(&self) -> String {
        match *self.seqs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((lowest, highest)) => format!(": they have seq {lowest} to {highest}"),
            None => String::new(),
        }
    }

    /// Why it did not come to the end of the files: one line.
    pub fn failure(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The seq of the first frame that has one, which the saved position is named after: another recording at the same path
/// is another source.
pub fn first_seq(path: &Path) -> Result<Option<u64>, String> {
    let mut input = Recording::open(path, Arc::default()).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut bytes = Vec::new();
    while input.next(&mut bytes).map_err(|e| format!("{}: {e}", path.display()))? {
        if let Ok((_, body)) = frame::header(&bytes)
            && let Some(seq) = frame::seq(&bytes[body..])
        {
            return Ok(Some(seq));
        }
    }
    Ok(None)
}

/// How far a recording goes.
pub struct Extent {
    pub last_seq: Option<u64>,
    /// The frame behind so many bytes is cut off. Never for a packed file, which can only be read to its end.
    pub cut_at: Option<u64>,
}

/// Reads a whole recording.
pub fn extent(path: &Path) -> Result<Extent, String> {
    let mut input = Recording::open(path, Arc::default())?;
    let (mut bytes, mut last_seq) = (Vec::new(), None);
    loop {
        match input.next(&mut bytes) {
            Ok(true) => {}
            Ok(false) => return Ok(Extent { last_seq, cut_at: None }),
            Err(why) if input.is_packed || !why.starts_with(CUT_OFF) => return Err(why),
            Err(_) => return Ok(Extent { last_seq, cut_at: Some(input.at) }),
        }
        if let Ok((_, body)) = frame::header(&bytes) {
            last_seq = frame::seq(&bytes[body..]).or(last_seq);
        }
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
    gauges: SourceMetrics,
    metrics: Arc<Metrics>,
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
        health: &Health,
    ) -> Self {
        progress.resumed.store(saved.is_some(), Ordering::Relaxed);
        let gauges = metrics.source(name);
        gauges.connected.set(1);
        health.source(0, Ok(()));
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
            gauges,
            metrics,
        }
    }

    /// Reads to the end of the files, or until the end is asked for.
    pub fn run(mut self) {
        let files = std::mem::take(&mut self.reading.files);
        for path in &files {
            match self.file(path) {
                Ok(Wants::More) => {}
                Ok(Wants::NoMore) => break,
                Err(Failed::Stopped) => return,
                Err(Failed::File(why)) => {
                    // What came before it is whole, and is delivered.
                    *self.progress.lock() = Some(format!("{}: {why}", path.display()));
                    let _ = self.hand_over();
                    return;
                }
            }
        }
        *self.progress.seqs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.seen;
        if self.hand_over().and_then(|()| self.last_position()).is_ok() {
            self.progress.done.store(true, Ordering::Relaxed);
        }
    }

    /// The last seq may be a jump, and nothing follows that could confirm it.
    fn last_position(&mut self) -> Result<(), Stopped> {
        self.resume.settle();
        match self.resume.cursor() {
            seq if self.handed_over > 0 && seq > 0 => {
                self.intake.put(Work::Frames(Frames::default()), Some(at((seq, seq))))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, path: &Path) -> Result<Wants, Failed> {
        let mut input = Recording::open(path, self.progress.clone())?;
        let mut bytes = Vec::new();
        while input.next(&mut bytes)? {
            if self.intake.stopped() {
                return Err(Failed::Stopped);
            }
            if let Wants::NoMore = self.frame(&bytes)? {
                return Ok(Wants::NoMore);
            }
        }
        Ok(Wants::More)
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<Wants, Stopped> {
        let (kind, body) = match frame::header(bytes) {
            Ok(header) => header,
            Err(detail) => return self.keep(bytes, Seen::Bad(detail), None),
        };
        match kind {
            Kind::Error | Kind::Unknown => {
                self.metrics.received_frames.inc();
                self.metrics.unknown_frames.inc();
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
                self.metrics.received_frames.inc();
                self.metrics.repeats.inc();
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
        self.metrics.received_frames.inc_by(frames.list.len() as u64);
        self.metrics.received_bytes.inc_by(frames.bytes.len() as u64);
        self.progress.frames.fetch_add(frames.list.len() as u64, Ordering::Relaxed);
        let position = self.position.take();
        if let Some((_, reached)) = position {
            self.gauges.last_seq_received.set(reached as i64);
        }
        self.intake.put(Work::Frames(frames), position.map(at))
    }
}

/// `saved` is what a next run goes on behind, `reached` the last seq read.
fn at((saved, reached): (u64, u64)) -> Position {
    Position::Relay(RelayPosition { seq: saved, time_ms: 0 }, reached)
}

/// Whether the next frame is wanted.
enum Wants {
    More,
    NoMore,
}

enum Failed {
    Stopped,
    /// Why the file cannot be read on: one line, without its name.
    File(String),
}

impl From<Stopped> for Failed {
    fn from(_: Stopped) -> Self {
        Failed::Stopped
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Failed::File(why)
    }
}

/// One file, frame by frame.
struct Recording {
    input: Box<dyn BufRead>,
    is_packed: bool,
    /// Bytes of frames so far, unpacked: where the next frame begins.
    at: u64,
    frames: u64,
}

impl Recording {
    fn open(path: &Path, progress: Arc<Progress>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("cannot be read: {e}");
        let raw: Box<dyn Read> = match path.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => {
                let file = File::open(path).map_err(failed)?;
                if file.metadata().is_ok_and(|found| found.is_dir()) {
                    return Err("is a directory".into());
                }
                Box::new(file)
            }
        };
        let mut input = BufReader::with_capacity(256 << 10, Counted { input: raw, progress });
        let beginning = input.fill_buf().map_err(failed)?;
        if beginning.starts_with(&GZIP_MAGIC) {
            return Err("is packed by gzip: unpack it first (zstd is read as it is)".into());
        }
        let packed = beginning.starts_with(&ZSTD_MAGIC);
        let input: Box<dyn BufRead> = match packed {
            true => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(failed)?;
                // Recordings with a long window are smaller; this is what the zstd program takes at most by itself.
                decoder.window_log_max(27).map_err(failed)?;
                Box::new(BufReader::with_capacity(256 << 10, decoder))
            }
            false => Box::new(input),
        };
        Ok(Recording { input, is_packed: packed, at: 0, frames: 0 })
    }

    /// Puts the next frame into `bytes`; `false` at the end of the file. Fails with where the file is damaged.
    fn next(&mut self, bytes: &mut Vec<u8>) -> Result<bool, String> {
        let (at, frames) = (self.at, self.frames);
        let place =
            || format!("at byte {at}{}, behind {frames} whole frames", if at == 0 { "" } else { " (unpacked)" });
        let cut = |e: io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => format!("{CUT_OFF} {}", place()),
            _ => format!("cannot be read on {}: {e}", place()),
        };
        if self.input.fill_buf().map_err(cut)?.is_empty() {
            return Ok(false);
        }
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(cut)?;
        let length = u32::from_le_bytes(length) as usize;
        // No frame is empty: zeros in the middle of a file are damage.
        if length > MAX_FRAME || length == 0 {
            return Err(format!("is no recording, or damaged, {}: a frame of {length} bytes", place()));
        }
        bytes.clear();
        // Not all at once: the length may be wrong.
        let read = self.input.by_ref().take(length as u64).read_to_end(bytes).map_err(cut)?;
        if read < length {
            return Err(format!("{CUT_OFF} {}", place()));
        }
        (self.at, self.frames) = (at + 4 + length as u64, frames + 1);
        Ok(true)
    }
}

/// Counts what is read of a file.
struct Counted {
    input: Box<dyn Read>,
    progress: Arc<Progress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.progress.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
