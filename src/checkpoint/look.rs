//! What a start would find in the state directory, looked at without making or changing anything: for `atkafka check`
//! and `atkafka cursor`.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::file::{MAX_FILE, Stored, saved};
use super::{disk, file_name, lock};

/// A directory that positions are kept in, or would be.
#[derive(Debug)]
pub struct Directory {
    /// It is there. Else a start would make it.
    pub exists: bool,
    /// Bytes that are free there; `None`: not known.
    pub free: Option<u64>,
    /// No file can be made there: the file system has no inode left.
    pub no_inode: bool,
}

/// Looks at a directory. Fails with one line where a start could not make it, or write there.
pub fn directory(dir: &Path) -> Result<Directory, String> {
    let shown = dir.display();
    let whole = std::path::absolute(dir).map_err(|e| format!("--state-dir {shown}: {e}"))?;
    let exists = fs::symlink_metadata(&whole).is_ok();
    // What is not there would be made below the nearest directory that is.
    let at = whole.ancestors().find(|at| fs::symlink_metadata(at).is_ok()).unwrap_or(Path::new("/"));
    let found = fs::metadata(at).map_err(|e| format!("--state-dir {shown}: {}: {e}", at.display()))?;
    if !found.is_dir() {
        return Err(format!("--state-dir {shown}: {} is not a directory: remove it, or give another", at.display()));
    }
    if let Err(e) = access(at, Access::WRITE_OK | Access::EXEC_OK) {
        let (e, at) = (std::io::Error::from(e), at.display());
        return Err(match exists {
            true => format!("--state-dir {shown}: {e}; the user that atkafka runs as must be able to write there"),
            false => format!(
                "--state-dir {shown}: cannot be created below {at}: {e}; create it for the user that atkafka runs as"
            ),
        });
    }
    let space = statvfs(at).ok();
    Ok(Directory {
        exists,
        free: space.as_ref().map(|space| space.f_bavail.saturating_mul(space.f_frsize)),
        // Some file systems count none.
        no_inode: space.is_some_and(|space| space.f_files > 0 && space.f_favail == 0),
    })
}

/// What is saved of one host into one output.
#[derive(Debug)]
pub struct Saved<T> {
    /// The state file, whether or not it is there.
    pub path: PathBuf,
    /// The position and when it was saved. `None`: the first start is still to come.
    pub position: Option<(T, String)>,
}

/// Looks at the position of a host. Fails with one line where a start would fail as well: another process has the lock, or
/// the file cannot be used.
pub fn position<T: Stored>(dir: &Path, kind: &str, host: &str, output: &str) -> Result<Saved<T>, String> {
    let name = file_name::of(kind, host, output);
    let path = dir.join(format!("{name}.json"));
    lock::is_free(&dir.join(format!("{name}.lock")))?;
    let position = saved::<T>(&path, host, output)?.map(|saved| (saved.position, saved.saved_at));
    Ok(Saved { path, position })
}

/// A state file, whatever is in it.
#[derive(Debug)]
pub struct Text {
    /// Where it is.
    pub path: PathBuf,
    /// The kind of its source, by its name.
    pub kind: String,
    /// Host and output, by its name; `None`: the name is cut.
    pub of: Option<(String, String)>,
    /// What is in it. Fails with why it cannot be read.
    pub text: Result<Vec<u8>, String>,
    /// A process has its lock.
    pub in_use: bool,
}

impl Text {
    /// Whether the file is where that of this host and output would be.
    pub fn is_of(&self, host: &str, output: &str) -> bool {
        self.path.file_stem().is_some_and(|stem| *stem == *file_name::of(&self.kind, host, output))
    }
}

/// Gives `found` each state file of these kinds, sorted by name. Fails with one line where the directory cannot be read; one
/// that is not there has none.
pub fn each(dir: &Path, kinds: &[&str], found: &mut dyn FnMut(Text)) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("--state-dir {}: {}", dir.display(), disk::explain(&e));
    let mut names = Vec::new();
    match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => {
            for entry in entries.map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_string));
            }
        }
    }
    names.sort();
    for name in names {
        let kind = name.split('-').next().unwrap_or_default().to_string();
        // The names of others have no `~`.
        if !kinds.contains(&kind.as_str()) || !name.contains('~') {
            continue;
        }
        let path = dir.join(format!("{name}.json"));
        let text = match disk::read(&path, MAX_FILE) {
            // It was deleted just now.
            Ok(None) => continue,
            text => text.map(Option::unwrap_or_default).map_err(|e| format!("cannot be read: {e}")),
        };
        found(Text {
            of: file_name::parts(&name).map(|(_, host, output)| (host, output)),
            in_use: lock::is_taken(&dir.join(format!("{name}.lock"))),
            path,
            kind,
            text,
        });
    }
    Ok(())
}

/// What is in a state file. Fails with why it cannot be read.
pub fn position_text(path: &Path) -> Result<Vec<u8>, String> {
    disk::read(path, MAX_FILE).map(Option::unwrap_or_default).map_err(|e| format!("cannot be read: {e}"))
}

/// Whether a process writes the position of this host into this output.
pub fn is_in_use(dir: &Path, kind: &str, host: &str, output: &str) -> bool {
    lock::is_taken(&dir.join(format!("{}.lock", file_name::of(kind, host, output))))
}
