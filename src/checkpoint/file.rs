//! One small JSON file for each host and output, which holds the position of one in the other and is [locked](super::lock) by
//! one process. It owns the format and checks what it reads; what a position is, its source says. Opened by the main thread;
//! then the thread `checkpoint` has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::lock::Lock;
pub use super::saved::Stored;
use super::saved::{Saved, parse, text};
use super::{State, disk, file_name};

/// Bytes of a file at most. A position of Ozone takes 30 for each event of the look-back window.
pub(super) const MAX_FILE: u64 = 64 << 20;

/// The position of one host into one output, locked for as long as this value lives.
pub struct StateFile {
    path: PathBuf,
    host: String,
    output: String,
    cluster: Option<String>,
    routes: Vec<String>,
    lock: Lock,
}

impl StateFile {
    /// Opens `DIR/KIND-HOST~OUTPUT.json` and gives the position in it, if there is one. Fails with one line that says
    /// what to do when the directory cannot be written, another process has the lock, or the file cannot be read or is of
    /// another host or output.
    pub fn open<T: Stored>(dir: &Path, kind: &str, host: &str, output: &str) -> Result<(StateFile, Option<T>), String> {
        let name = file_name::of(kind, host, output);
        let path = dir.join(format!("{name}.json"));
        fs::create_dir_all(dir).map_err(|e| format!("--state-dir {}: cannot be created: {e}", dir.display()))?;
        if fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o002 != 0) {
            log::warn!(
                event = "setting", path:% = dir.display();
                "--state-dir {}: every user of this machine may write there, and so change positions: chmod o-w takes that away",
                dir.display()
            );
        }
        let lock = Lock::take(dir.join(format!("{name}.lock")))?;
        let saved = saved::<T>(&path, host, output)?;
        let (of, position) = saved.map(|s| ((s.cluster, s.routes), s.position)).unzip();
        let (cluster, routes) = of.unwrap_or_default();
        let file = StateFile { path, host: host.into(), output: output.into(), cluster, routes, lock };
        Ok((file, position))
    }

    /// The same for a file that is there already, with its text: a position that another store is to take over. Creates nothing
    /// where there is none.
    pub fn existing<T: Stored>(
        dir: &Path,
        kind: &str,
        host: &str,
        output: &str,
    ) -> Result<Option<(StateFile, Vec<u8>)>, String> {
        let path = dir.join(format!("{}.json", file_name::of(kind, host, output)));
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let (file, position) = Self::open::<T>(dir, kind, host, output)?;
        match (position, disk::read(&path, MAX_FILE)) {
            (Some(_), Ok(Some(text))) => Ok(Some((file, text.trim_ascii_end().to_vec()))),
            (_, Err(e)) => Err(format!("{}: cannot be read: {e}", path.display())),
            _ => Ok(None),
        }
    }

    /// Deletes the file of a host and an output, whatever is in it. Fails with one line, also where another process has the lock.
    pub fn delete(dir: &Path, kind: &str, host: &str, output: &str) -> Result<(), String> {
        let name = file_name::of(kind, host, output);
        let _lock = Lock::take(dir.join(format!("{name}.lock")))?;
        let path = dir.join(format!("{name}.json"));
        let deleted = fs::remove_file(&path).and_then(|()| disk::sync_directory(&path));
        deleted.map_err(|e| format!("{}: cannot be deleted: {}", path.display(), disk::explain(&e)))
    }

    /// Renames the file, since its position is kept elsewhere. Gives the new path.
    pub fn moved(&self) -> Result<PathBuf, String> {
        let moved = self.path.with_extension("json.moved");
        fs::rename(&self.path, &moved).map_err(|e| disk::explain(&e))?;
        Ok(moved)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster that the position is of, where the file says it.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The routes that events up to the saved position went by, and from now on these.
    pub fn set_routes(&mut self, routes: &[String]) -> Vec<String> {
        std::mem::replace(&mut self.routes, routes.to_vec())
    }

    /// Which cluster later saves name.
    pub fn set_cluster(&mut self, id: &str) {
        self.cluster = Some(id.into());
    }

    /// Saves a position. Fails with what went wrong and what to do about it.
    pub fn save(&mut self, state: &dyn State, time_ms: i64) -> Result<(), String> {
        self.write(state, time_ms)?;
        self.sync()
    }

    /// The second half of [`StateFile::save`]. One call serves all files of the directory that were written before.
    pub fn sync(&self) -> Result<(), String> {
        disk::sync_directory(&self.path).map_err(|e| disk::explain(&e))
    }

    /// The first half of [`StateFile::save`]: the file is replaced, and a loss of power may bring the old one back.
    pub fn write(&mut self, state: &dyn State, time_ms: i64) -> Result<(), String> {
        let bytes = text(&self.host, &self.output, self.cluster.as_deref(), &self.routes, state, time_ms)?.into_bytes();
        // What no start would read must not take the place of a position that can be read.
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!(
                "the position has {} MiB, and more than {} are not read",
                bytes.len() >> 20,
                MAX_FILE >> 20
            ));
        }
        self.lock.hold()?;
        disk::replace(&self.path, &bytes).map_err(|e| disk::explain(&e))
    }
}

/// What the file of a host and an output has. Fails with one line that says what to do.
pub(super) fn saved<T: Stored>(path: &Path, host: &str, output: &str) -> Result<Option<Saved<T>>, String> {
    match disk::read(path, MAX_FILE) {
        Ok(Some(bytes)) => {
            let saved = parse::<T>(&bytes).map_err(|e| {
                format!(
                    "{}: {e}; restore it, or delete it to start anew (events since the last save would be missing or repeated)",
                    path.display()
                )
            })?;
            if saved.host != host || saved.output != output {
                return Err(format!(
                    "{}: holds the position of {} into {}, not of {host} into {output}: was it copied or renamed? Give each pair its own file, or delete this one to start anew",
                    path.display(),
                    saved.host,
                    saved.output
                ));
            }
            Ok(Some(saved))
        }
        Ok(None) => Ok(None),
        Err(e) => {
            Err(format!("{}: cannot be read: {e}; mend its permissions, or delete it to start anew", path.display()))
        }
    }
}

#[cfg(test)]
mod tests;
