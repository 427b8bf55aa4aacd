//! Files of frames: those that `replay` reads, and the one that `record` writes. Nothing is written here. On the thread of
//! the check that has the source.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{Out, place};
use crate::checkpoint::{SeqPosition, look};
use crate::record::Existing;
use crate::source::recording;
use crate::source::replay::Reading;

/// What recordings are called where their position is kept. `None`: one of them is a pipe, whose position is not kept.
pub fn name(files: &[PathBuf]) -> Option<String> {
    let first = files.first().filter(|_| files.iter().all(is_file))?;
    let seq = recording::first_seq(first, &AtomicBool::new(false)).ok().flatten().unwrap_or(0);
    Some(format!("{}#{seq}", first.canonicalize().unwrap_or(first.clone()).display()))
}

fn is_file(path: &PathBuf) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file())
}

/// The recordings, and the position in them, where it is not in Kafka.
pub fn read(reading: &Reading, dir: Option<PathBuf>, in_topic: bool, output: &str, out: &Out) {
    let stop = AtomicBool::new(false);
    for path in &reading.files {
        let shown = path.display();
        if !is_file(path) {
            out.not_checked("recording", format!("{shown}: a pipe gives its bytes only once"));
            continue;
        }
        match recording::first_seq(path, &stop) {
            Ok(Some(seq)) => out.ok("recording", format!("{shown}: begins with seq {seq}")),
            Ok(None) => {
                out.warning("recording", format!("{shown}: no frame with a seq at its beginning: is it a recording?"))
            }
            Err(why) => out.failed("recording", why),
        }
    }
    if in_topic {
        return;
    }
    match name(&reading.files) {
        Some(name) => place::state::<SeqPosition>(dir, "replay", &[name], output, out),
        None => out.ok("state", "the position in a pipe is not kept"),
    }
}

/// The file of `record`.
pub fn written(path: &Path, existing: Existing, out: &Out) {
    let shown = path.display();
    let there = path.exists();
    match existing {
        Existing::Refuse if there => {
            return out.failed(
                "file",
                format!(
                    "--output {shown}: is there already: --append goes on behind its last frame, --force replaces it"
                ),
            );
        }
        _ if there && !path.is_file() => out.not_checked("file", format!("--output {shown}: is not a regular file")),
        _ => {}
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match look::directory(folder) {
        Ok(found) if !found.exists => {
            out.failed("file", format!("--output {shown}: {} does not exist: create it", folder.display()));
        }
        Ok(found) => {
            let free = found.free.map_or(String::new(), |free| format!("; {} are free", place::size(free)));
            out.ok("file", format!("--output {shown} can be written{free}"));
        }
        Err(why) => out.failed("file", why.replacen("--state-dir", "--output", 1)),
    }
}
