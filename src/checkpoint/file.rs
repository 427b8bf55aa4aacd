//! One small JSON file per host and output. It is replaced whole, and survives a loss of power at any instant.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atproto::{json_input, time};

/// What the file holds. Unknown fields of a later version are passed over.
#[derive(Serialize, Deserialize, Debug)]
struct Saved<T> {
    version: u32,
    host: String,
    output: String,
    saved_at: String,
    #[serde(flatten)]
    position: T,
}

const VERSION: u32 = 1;

/// The position of one host into one output, locked for as long as this value lives.
pub struct StateFile {
    path: PathBuf,
    host: String,
    output: String,
    _lock: File,
}

impl StateFile {
    /// Opens `DIR/KIND-HOST~OUTPUT.json` and gives the position in it, if there is one. Fails with one line that says
    /// what to do when the directory cannot be written, another process has the lock, or the file cannot be read.
    pub fn open<T: DeserializeOwned>(
        dir: &Path,
        kind: &str,
        host: &str,
        output: &str,
    ) -> Result<(StateFile, Option<T>), String> {
        // `~` is none of the characters that a name keeps, so that no two pairs meet.
        let name = format!("{kind}-{}~{}", file_name(host), file_name(output));
        let path = dir.join(format!("{name}.json"));
        fs::create_dir_all(dir).map_err(|e| format!("--state-dir {}: cannot be created: {e}", dir.display()))?;
        let lock_path = dir.join(format!("{name}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| format!("--state-dir {}: cannot be written: {e}", dir.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "{}: another atkafka writes this host into this output; give one of them another --state-dir",
                    lock_path.display()
                ));
            }
            Err(TryLockError::Error(e)) => return Err(format!("{}: cannot be locked: {e}", lock_path.display())),
        }
        let saved = match fs::read(&path) {
            Ok(bytes) => Some(read::<T>(&bytes).map_err(|e| {
                format!(
                    "{}: {e}; restore it, or delete it to start anew (events since the last save would be missing or repeated)",
                    path.display()
                )
            })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(format!(
                    "{}: cannot be read: {e}; mend its permissions, or delete it to start anew",
                    path.display()
                ));
            }
        };
        let file = StateFile { path, host: host.into(), output: output.into(), _lock: lock };
        Ok((file, saved.map(|s| s.position)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file: a temporary one is written and synced, renamed over it, and the directory synced.
    pub fn save<T: Serialize>(&self, position: &T) -> io::Result<()> {
        let saved = Saved {
            version: VERSION,
            host: self.host.clone(),
            output: self.output.clone(),
            saved_at: time::format_ms(time::now_ms()),
            position,
        };
        let mut bytes = sonic_rs::to_vec(&saved).map_err(io::Error::other)?;
        bytes.push(b'\n');
        let temporary = self.path.with_extension("json.tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<Saved<T>, String> {
    let saved: Saved<T> = json_input::read(bytes, json_input::SHALLOW).map_err(|e| format!("is damaged ({e})"))?;
    if saved.version > VERSION {
        return Err(format!("is of version {}, written by a newer atkafka than this one", saved.version));
    }
    Ok(saved)
}

/// `text` as a part of a file name. Injective: two hosts never share a file.
fn file_name(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::RelayPosition;
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("atkafka-cursor-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn saved_positions_come_back_and_may_go_down() {
        let dir = dir("back");
        let (file, first) = StateFile::open::<RelayPosition>(&dir, "relay", "bsky.network", "events").expect("open");
        assert_eq!(first, None);
        for seq in [31_527_015_322, 7] {
            file.save(&RelayPosition { seq, time_ms: 1 }).expect("saved");
        }
        drop(file);
        let (_, again) = StateFile::open::<RelayPosition>(&dir, "relay", "bsky.network", "events").expect("open");
        assert_eq!(again.map(|p| p.seq), Some(7), "a host that was reset counts from below");
        let (_, other) = StateFile::open::<RelayPosition>(&dir, "relay", "bsky.network", "other").expect("open");
        assert_eq!(other, None, "each output has its own");
        assert!(fs::read_dir(&dir).expect("dir").all(|e| !e.expect("entry").path().ends_with(".tmp")));
    }

    #[test]
    fn a_second_instance_is_refused() {
        let dir = dir("lock");
        let held = StateFile::open::<RelayPosition>(&dir, "relay", "h", "o").expect("open");
        let error = StateFile::open::<RelayPosition>(&dir, "relay", "h", "o").err().expect("locked");
        assert!(error.contains("another atkafka"), "{error}");
        drop(held);
        assert!(StateFile::open::<RelayPosition>(&dir, "relay", "h", "o").is_ok());
    }

    #[test]
    fn a_damaged_file_is_an_error_that_says_what_to_do() {
        let dir = dir("damaged");
        let (file, _) = StateFile::open::<RelayPosition>(&dir, "relay", "h", "o").expect("open");
        let path = file.path().to_path_buf();
        drop(file);
        for bytes in [
            &b""[..],
            b"{\"version\":1,\"seq\":",
            b"{}",
            b"\xff\xfe",
            b"{\"version\":9,\"host\":\"h\",\"output\":\"o\",\"seq\":1,\"saved_at\":\"\"}",
        ] {
            fs::write(&path, bytes).expect("write");
            let error = StateFile::open::<RelayPosition>(&dir, "relay", "h", "o").err().expect("refused");
            assert!(error.contains("delete it") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn names_are_safe_and_injective() {
        assert_eq!(file_name("127.0.0.1:2470/a/../b"), "127.0.0.1%3A2470%2Fa%2F..%2Fb");
        assert_ne!(file_name("a:b"), file_name("a%3ab"));
    }
}
