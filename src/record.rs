//! `atkafka record`: frames of a live firehose into a file of repeated `[u32 little-endian length][frame]`. It takes the
//! place of the pipeline behind a relay's reader, and neither decodes nor filters. On the reader's thread.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::checkpoint::Position;
use crate::log::bar::Extent;
use crate::source::job::{Intake, Stopped, Work};
use crate::source::recording;

/// An intake that writes frames away, until enough are there.
pub struct Recorder {
    file: Shared,
    left: u64,
    stop: Arc<AtomicBool>,
}

type Shared = Arc<Mutex<State>>;

struct State {
    out: Option<Box<dyn Finish>>,
    frames: u64,
    bytes: u64,
    /// The frames, of how many.
    extent: Arc<Extent>,
    error: Option<String>,
}

/// A writer that has an end, which compression needs.
trait Finish: Write + Send {
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

impl Finish for BufWriter<File> {
    fn finish(mut self: Box<Self>) -> std::io::Result<()> {
        self.flush()?;
        self.get_ref().sync_all()
    }
}

impl Finish for zstd::Encoder<'static, BufWriter<File>> {
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        Box::new(zstd::Encoder::finish(*self)?).finish()
    }
}

/// The end of a recording that `main` keeps.
pub struct Recording(Shared);

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is not touched.
    Refuse,
    /// It is written anew.
    Replace,
    /// What follows on its last frame is added.
    Append,
}

/// Opens `path`. Up to `frames` frames go there; `stop` ends it before. With [`Existing::Append`] it also gives the last seq
/// of what is there.
pub fn new(
    path: &Path,
    existing: Existing,
    frames: u64,
    stop: Arc<AtomicBool>,
) -> Result<(Recorder, Recording, Option<u64>), String> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::AlreadyExists => format!(
            "--output {}: is there already: --append goes on behind its last frame, --force replaces it",
            path.display()
        ),
        _ => format!("--output {}: {e}", path.display()),
    };
    let opened = |out| {
        let shared =
            Arc::new(Mutex::new(State { out, frames: 0, bytes: 0, extent: Arc::new(Extent::of(frames)), error: None }));
        (Recorder { file: shared.clone(), left: frames, stop: stop.clone() }, Recording(shared))
    };
    let by_name = path.extension().is_some_and(|e| e == "zst");
    let (file, is_packed, last) = match existing {
        Existing::Refuse => (File::create_new(path).map_err(failed)?, by_name, None),
        Existing::Replace => (File::create(path).map_err(failed)?, by_name, None),
        Existing::Append if !path.exists() => (File::create_new(path).map_err(failed)?, by_name, None),
        Existing::Append => {
            let wrong = |why: String| format!("--output {}: {why}", path.display());
            if !path.is_file() {
                return Err(wrong("is not a regular file, so that nothing can be behind its last frame".into()));
            }
            let Some(there) = recording::end(path, &stop).map_err(wrong)? else {
                // Nothing is written, since nobody knows behind what.
                let (recorder, recording) = opened(None);
                return Ok((recorder, recording, None));
            };
            let file = File::options().append(true).open(path).map_err(failed)?;
            if let Some(whole) = there.cut_at {
                log::warn!(event = "position"; "{}: its last frame is cut off: it is taken away", path.display());
                file.set_len(whole).map_err(failed)?;
            }
            // As what is there is, whatever its name: a file that is half packed nobody can read.
            (file, there.is_packed.unwrap_or(by_name), there.last_seq)
        }
    };
    let file = BufWriter::new(file);
    let out: Box<dyn Finish> = match is_packed {
        true => Box::new(zstd::Encoder::new(file, 9).map_err(failed)?),
        false => Box::new(file),
    };
    let (recorder, recording) = opened(Some(out));
    Ok((recorder, recording, last))
}

impl Intake for Recorder {
    fn put(&mut self, work: Work, _position: Option<Position>) -> Result<(), Stopped> {
        let Work::Frames(frames) = work else { return Ok(()) };
        let mut state = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for at in frames.list.iter().take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
            let frame = &frames.bytes[at.range.clone()];
            let Some(out) = &mut state.out else { return Err(Stopped) };
            let written = out.write_all(&(frame.len() as u32).to_le_bytes()).and_then(|()| out.write_all(frame));
            if let Err(e) = written {
                state.error = Some(e.to_string());
                self.stop.store(true, Ordering::Relaxed);
                return Err(Stopped);
            }
            state.frames += 1;
            state.extent.add(1);
            state.bytes += frame.len() as u64;
            self.left -= 1;
        }
        if self.left == 0 {
            self.stop.store(true, Ordering::Relaxed);
            return Err(Stopped);
        }
        Ok(())
    }

    fn begin(&mut self, _position: Position) -> Result<(), Stopped> {
        Ok(())
    }

    fn fail(&self, reason: String) {
        self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).error = Some(reason);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn drained(&self) -> bool {
        true
    }
}

impl Recording {
    /// How far it is, in frames.
    pub fn extent(&self) -> Arc<Extent> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extent.clone()
    }

    /// Closes the file: what was recorded is whole. Gives frames and bytes.
    pub fn finish(self) -> Result<(u64, u64), String> {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if let Some(out) = state.out.take() {
            out.finish().map_err(|e| e.to_string())?;
        }
        Ok((state.frames, state.bytes))
    }
}
