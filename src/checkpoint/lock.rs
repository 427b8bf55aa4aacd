//! The lock of a state file: a file beside it, locked for as long as the process writes the position. The directory may be one
//! that others can write, so links are not followed, pipes are not waited for, and the lock is looked at again before each
//! save. It does not know what it protects. The main thread takes it; then the thread `checkpoint` has it.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::disk::explain;

/// How often, and after which pause, a lock that another process has is tried again.
const ATTEMPTS: u32 = 5;
const INSTANT: Duration = Duration::from_millis(10);

/// Held until it is dropped.
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock. Fails, with one line that says what to do, when another process has it or the file cannot be used.
    pub fn take(path: PathBuf) -> Result<Lock, String> {
        Ok(Lock { file: locked(&path)?, path })
    }

    /// Locks again when the file was deleted or replaced: otherwise a second process could write the same position. Fails,
    /// with one line that says what to do, when that process has the lock.
    pub fn hold(&mut self) -> Result<(), String> {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let held = self.file.metadata().map_err(|e| explain(&e))?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) if same(&there, &held) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(explain(&e)),
        }
        self.file = locked(&self.path)?;
        log::warn!(
            event = "lock_file", path:% = self.path.display();
            "{}: was deleted or replaced while in use; it is there and locked again", self.path.display()
        );
        Ok(())
    }
}

/// Whether [`Lock::take`] would get the lock, without making the file. Fails as it does.
pub fn is_free(path: &Path) -> Result<(), String> {
    match open(path, false)? {
        // Shared, and let go at once: two that ask do not see one another.
        Some(file) => given(path, file.try_lock_shared()),
        None => Ok(()),
    }
}

/// Whether a process has the lock. `false` where that cannot be told.
pub fn is_taken(path: &Path) -> bool {
    match open(path, false) {
        Ok(Some(file)) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        _ => false,
    }
}

/// Opens and locks the file.
fn locked(path: &Path) -> Result<File, String> {
    let file = open(path, true)?.ok_or_else(|| format!("{}: was deleted meanwhile", path.display()))?;
    // Whoever only asks has it for an instant.
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(INSTANT),
            lock => return given(path, lock).map(|()| file),
        }
    }
    given(path, file.try_lock()).map(|()| file)
}

fn given(path: &Path, lock: Result<(), TryLockError>) -> Result<(), String> {
    lock.map_err(|e| match e {
        TryLockError::WouldBlock => format!(
            "{}: another atkafka already writes this host into this output: stop it, or give this one another output (with another --state-dir both would write every event)",
            path.display()
        ),
        TryLockError::Error(e) => format!("{}: cannot be locked: {e}", path.display()),
    })
}

/// The file of a lock. `None`: there is none, and none was to be made.
fn open(path: &Path, create: bool) -> Result<Option<File>, String> {
    let mut options = OpenOptions::new();
    // Not blocking: a pipe in its place would hold the start up for ever.
    options
        .create(create)
        .truncate(false)
        .write(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    let irregular = || format!("{}: is not a regular file: remove it", path.display());
    let file = match options.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound && !create => return Ok(None),
        Err(e) => {
            return Err(match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::LOOP) => {
                    format!("{}: is a symbolic link, which is not followed: remove it", path.display())
                }
                // A pipe that nobody reads, or a socket.
                Some(rustix::io::Errno::NXIO) => irregular(),
                _ => format!("{}: cannot be written: {}", path.display(), explain(&e)),
            });
        }
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(irregular());
    }
    Ok(Some(file))
}
