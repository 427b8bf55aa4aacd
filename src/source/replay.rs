//! The reader of recordings. Several files are one stream, in the order in which they are given.
//!
//! It knows which frames are wanted and how fast, and nothing of how they stand in a file (see
//! [`recording`](super::recording)). It runs on a reader thread, and ends with its files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::gaps::Gaps;
use super::job::{Frames, Intake, Stopped, Work};
use super::link::Link;
use super::recording::{Fault, Next, Recording};
use super::resume::Verdict;
use super::stream::{Arrival, Stream};
use crate::checkpoint::Position;
use crate::health::Health;
use crate::log::bar::Extent;
use crate::metrics::source::SourceMetrics;

/// So many frames in a row above `to_seq` are the end of what is wanted; a few may only have a wrong seq.
const BEYOND: u32 = 100;
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
    /// Bytes of the files that were read, of how many.
    pub extent: Arc<Extent>,
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
    pub fn seqs(&self) -> String {
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

/// The reader of recordings.
pub struct Replay<I> {
    reading: Reading,
    intake: I,
    stream: Stream,
    gaps: Gaps,
    /// What a run before this one delivered, or what is not wanted: frames up to here are passed over.
    behind: u64,
    beyond: u32,
    /// The lowest and the highest seq so far.
    seen: Option<(u64, u64)>,
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
        metrics: Arc<SourceMetrics>,
        health: Arc<Health>,
    ) -> Self {
        // Of a pipe nobody knows how much will come.
        let size =
            |file: &PathBuf| std::fs::metadata(file).ok().filter(|found| found.is_file()).map(|found| found.len());
        progress.extent.set_total(reading.files.iter().map(size).sum::<Option<u64>>().unwrap_or(0));
        progress.resumed.store(saved.is_some(), Ordering::Relaxed);
        let link = Link::new(name, 0, metrics, health);
        link.connected();
        Replay {
            behind: saved.unwrap_or(reading.from_seq.saturating_sub(1)),
            reading,
            intake,
            stream: Stream::new(saved),
            gaps: Gaps::new(Duration::ZERO),
            beyond: 0,
            seen: None,
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
        self.stream.resume.settle();
        match self.stream.resume.cursor() {
            seq if self.handed_over > 0 && seq > 0 => {
                self.intake.put(Work::Frames(Frames::default()), Some(Position::of_seqs((seq, seq))))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, path: &Path) -> Result<Wants, Fault> {
        // The file may be a pipe that has nothing for a long time.
        self.hand_over()?;
        let mut input = Recording::open(path, &|| self.intake.stopped(), &self.progress.extent)?;
        loop {
            let next = input.read_on()?;
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
        let arrival = Arrival::of(bytes);
        if let Arrival::Event { seq: Some(seq), .. } = arrival {
            self.seen = Some(self.seen.map_or((seq, seq), |(lowest, highest)| (seq.min(lowest), seq.max(highest))));
            if seq <= self.behind {
                return Ok(Wants::More);
            }
            if self.reading.to_seq.is_some_and(|to| seq > to) {
                self.beyond += 1;
                return Ok(if self.beyond >= BEYOND { Wants::NoMore } else { Wants::More });
            }
            self.beyond = 0;
            match self.stream.judge(seq) {
                Verdict::Repeat => {
                    self.link.metrics.repeated_frame();
                    return Ok(Wants::More);
                }
                Verdict::New => {}
                Verdict::Gap(gap) => {
                    if let Some(notice) = self.gaps.tell(&self.link, gap) {
                        self.hand_over()?;
                        self.intake.put(notice, None)?;
                    }
                }
            }
        }
        let Some(seen) = arrival.seen() else {
            self.link.metrics.unknown_frame();
            return Ok(Wants::More);
        };
        self.wait_for_turn()?;
        if !self.stream.has_room(bytes.len()) {
            self.hand_over()?;
        }
        self.handed_over += 1;
        if self.stream.push(bytes, seen) {
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
        let Some((frames, position)) = self.stream.take() else { return Ok(()) };
        self.link.received(&frames, position.as_ref());
        self.progress.frames.fetch_add(frames.list.len() as u64, Ordering::Relaxed);
        self.intake.put(Work::Frames(frames), position)
    }
}

/// Whether the next frame is wanted.
enum Wants {
    More,
    NoMore,
}
