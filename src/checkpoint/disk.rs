//! Small files that are replaced whole, and survive a loss of power at any instant. Nothing here follows a link that somebody
//! put in place of a file, or waits for a pipe. It does not know what the files hold. Called by the main thread at the start
//! and by the thread `checkpoint`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Replaces a file whole: a temporary one is written and synced, and renamed over it. It is there for good after
/// [`sync_directory`], which serves all files that were replaced before.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    // What an earlier run left, or a link that somebody put there: it is not written through.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(e) = written.and_then(|()| fs::rename(&temporary, path)) {
        // A full disk is not to keep half a file too.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    Ok(())
}

/// Makes what was renamed in the directory of `path` survive a loss of power.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    directory_synced(File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all())
}

/// The content of a regular file of at most `limit` bytes; `None` where there is no such file.
pub fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    // Not blocking: a pipe in its place would hold the start up for ever.
    let file = match OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {} MiB", limit >> 20)));
    }
    Ok(Some(bytes))
}

/// Some file systems (network and FUSE ones) cannot sync a directory and say EINVAL or ENOTSUP: there is nothing more to be
/// done there, and the rename is as durable as they make it.
fn directory_synced(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// The error, and what to do about it.
pub fn explain(e: &io::Error) -> String {
    let advice = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on the volume of --state-dir",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "the user that atkafka runs as must be able to write in --state-dir"
        }
        ErrorKind::NotFound => "the directory was deleted: create it again",
        ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => {
            "a directory stands where a file of ours should: remove it"
        }
        _ => return e.to_string(),
    };
    format!("{e}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_synced_is_no_failure() {
        let error = |errno: rustix::io::Errno| Err(io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(directory_synced(error(rustix::io::Errno::INVAL)).is_ok());
        assert!(directory_synced(error(rustix::io::Errno::OPNOTSUPP)).is_ok());
        assert!(directory_synced(error(rustix::io::Errno::IO)).is_err());
        assert!(directory_synced(error(rustix::io::Errno::NOSPC)).is_err());
    }
}
