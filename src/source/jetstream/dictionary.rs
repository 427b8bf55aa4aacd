//! The dictionary with which a server of version 2 packs its frames: from the state directory, or from the server.
//!
//! The id in a dictionary names its content. The file has a checksum before the dictionary, since a damaged one could unpack to
//! something else without an error. It runs on the reader's thread.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::os::unix::fs::OpenOptionsExt;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use crate::source::Host;
use crate::source::diagnosis::{Answer, Meant, http_failed};

const PATH: &str = "/xrpc/network.bsky.jetstream.getZstdDictionary";
/// The request for it, to its end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a dictionary at most; the server's has 64 KiB.
const MAX_DICTIONARY: u64 = 4 << 20;
/// Bytes of the checksum.
const SUM: usize = 32;

/// Why there is no dictionary.
pub enum Missing {
    /// The server has none: most likely it has no version 2.
    NotThere,
    /// One line.
    Failed(String),
}

/// The dictionary of one host.
pub struct Dictionary {
    /// Where it is kept; `None`: nowhere.
    file: Option<PathBuf>,
    held: Option<Held>,
}

struct Held {
    id: u32,
    unpack: Decompressor<'static>,
    /// It came from the server in this run.
    fresh: bool,
}

impl Dictionary {
    /// Of the host that is called `name`, kept in `dir`.
    pub fn new(dir: Option<&Path>, name: &str) -> Dictionary {
        let file = dir.map(|dir| {
            let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
            dir.join(format!("jetstream-{}.zstd-dictionary", name.chars().map(plain).take(200).collect::<String>()))
        });
        Dictionary { file, held: None }
    }

    /// The id of the dictionary to ask for, which is fetched where there is none yet.
    pub fn id(&mut self, host: &Host) -> Result<u32, Missing> {
        if let Some(held) = &self.held {
            return Ok(held.id);
        }
        let kept = self.file.as_deref().and_then(|file| read(file).ok()).and_then(|bytes| Held::new(&bytes, false));
        let held = match kept {
            Some(held) => held,
            None => {
                let bytes = fetch(host)?;
                let held = Held::new(&bytes, true)
                    .ok_or_else(|| Missing::Failed("what the host gives as its zstd dictionary is none".into()))?;
                self.keep(&bytes);
                held
            }
        };
        Ok(self.held.insert(held).id)
    }

    /// It does not fit what the server sends: the next connection fetches another. `false` where this one came from the
    /// server only now, so that another one would be the same.
    pub fn forget(&mut self) -> bool {
        match self.held.take() {
            Some(held) if held.fresh => false,
            _ => {
                // It may not be there.
                let _ = self.file.as_deref().map(fs::remove_file);
                true
            }
        }
    }

    /// Unpacks a frame of `longest` bytes at most into `out`, which is emptied before.
    pub fn unpack(&mut self, frame: &[u8], longest: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let held = self.held.as_mut().ok_or("no dictionary")?;
        out.clear();
        let size = match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
            Ok(None) => longest,
            Err(_) => return Err("not a zstd frame".into()),
        };
        if size > longest {
            return Err(format!("a zstd frame of {size} bytes, over the limit of {longest}"));
        }
        out.reserve(size);
        held.unpack.decompress_to_buffer(frame, out).map(drop).map_err(|e| format!("zstd: {e}"))
    }

    fn keep(&self, bytes: &[u8]) {
        let Some(file) = &self.file else { return };
        if let Err(e) = write(file, bytes) {
            log::warn!(
                event = "dictionary", path:% = file.display(), error:% = e;
                "{}: cannot be written: {e}; the next start fetches the zstd dictionary again", file.display()
            );
        }
    }
}

impl Held {
    fn new(bytes: &[u8], fresh: bool) -> Option<Held> {
        let id = zstd_safe::get_dict_id_from_dict(bytes)?.get();
        Some(Held { id, unpack: Decompressor::with_dictionary(bytes).ok()?, fresh })
    }
}

fn fetch(host: &Host) -> Result<Vec<u8>, Missing> {
    let failed = |why: String| Missing::Failed(format!("its zstd dictionary: {why}"));
    let url = host.url(&format!("{}{PATH}", host.prefix));
    let mut answer = host
        .client
        .agent(&url, TIMEOUT, 1)
        .get(&url)
        .call()
        .map_err(|e| failed(http_failed(&e, host.tls, Meant::Jetstream)))?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(MAX_DICTIONARY).read_to_vec();
    match (status, body) {
        (200, Ok(body)) => Ok(body),
        (200, Err(e)) => Err(failed(http_failed(&e, host.tls, Meant::Jetstream))),
        (404 | 405 | 501, _) => Err(Missing::NotThere),
        (status, body) => {
            let answer = Answer { status, body: body.unwrap_or_default(), ..Answer::default() };
            Err(failed(answer.describe("getZstdDictionary", &host.secrets())))
        }
    }
}

/// What the file has behind its checksum.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    // Neither a pipe, which would hold the start up, nor what a link points to.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32;
    let mut bytes = Vec::new();
    OpenOptions::new().read(true).custom_flags(flags).open(file)?.take(MAX_DICTIONARY).read_to_end(&mut bytes)?;
    match bytes.split_at_checked(SUM) {
        Some((sum, rest)) if *sum == *Sha256::digest(rest) => Ok(rest.to_vec()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("tmp");
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).open(&beside)?;
    out.write_all(&Sha256::digest(bytes))?;
    out.write_all(bytes)?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dictionary of the structured form, which has an id.
    fn dictionary() -> Vec<u8> {
        let samples: Vec<Vec<u8>> = (0..400u32)
            .map(|i| {
                format!(r#"{{"did":"did:plc:{i}","kind":"commit","rkey":"{}"}}"#, i.wrapping_mul(2_654_435_761))
                    .into_bytes()
            })
            .collect();
        zstd::dict::from_samples(&samples, 4_096).expect("trained")
    }

    #[test]
    fn a_kept_dictionary_is_used_and_a_damaged_one_is_not() {
        let dir = std::env::temp_dir().join(format!("atkafka-dictionary-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let bytes = dictionary();
        let mut first = Dictionary::new(Some(&dir), "host:1/a");
        let file = first.file.clone().expect("a path");
        assert!(file.ends_with("jetstream-host_1_a.zstd-dictionary"), "{}", file.display());
        first.keep(&bytes);
        assert_eq!(read(&file).ok().as_deref(), Some(&bytes[..]));
        first.held = Held::new(&bytes, false);
        let frame =
            zstd::bulk::Compressor::with_dictionary(3, &bytes).expect("packs").compress(b"{\"a\":1}").expect("packed");
        let mut out = b"before".to_vec();
        assert_eq!(first.unpack(&frame, 7, &mut out), Ok(()));
        assert_eq!(out, b"{\"a\":1}");
        assert!(first.unpack(&frame, 6, &mut out).expect_err("too long").contains("limit"));
        for damaged in [&b"nonsense"[..], b"", &frame[..frame.len() - 2]] {
            assert!(first.unpack(damaged, 1_000, &mut out).is_err(), "{damaged:?}");
        }
        let mut damaged = fs::read(&file).expect("read");
        damaged[SUM + 1_000] ^= 1;
        fs::write(&file, &damaged).expect("written");
        assert!(read(&file).is_err());
        assert!(first.forget() && !file.exists());
        first.held = Held::new(&bytes, true);
        assert!(!first.forget(), "it is the server's own");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn what_is_no_dictionary_has_no_id() {
        assert!(Held::new(b"", true).is_none() && Held::new(&[7; 70_000], true).is_none());
    }
}
