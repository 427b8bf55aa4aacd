//! The caches on disk, so that a restart does not begin with all look-ups at once. One JSON object a line, zstd-compressed;
//! it may be deleted at any time.
//!
//! Written at a stop and taken once: after a kill it would bring back what `identity` events behind the cursor have made old.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::Found;
use super::document::{self, Document};
use super::{Answer, Created, Kind, Knowledge, Value};
use crate::atproto::{json_input, time};
use crate::clock;

/// A line has a document or a profile, escaped.
const LINE: u64 = 8 * document::MAX as u64;
/// The kind of the first line, which says where the answers come from.
const FROM: &str = "from";

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    kind: Cow<'a, str>,
    did: Cow<'a, str>,
    /// Until when it holds: milliseconds since 1970.
    until: i64,
    /// The document, the creation time or the profile as text; none where it is known that there is nothing.
    #[serde(default)]
    text: Option<Cow<'a, str>>,
    /// Of a document, as it was found to be.
    #[serde(default)]
    handle: Option<Cow<'a, str>>,
}

/// Writes lines up to the first failure, which it keeps: the caches are written one after the other, and what the later ones
/// write does not mend what is missing before.
struct Lines<W> {
    out: W,
    entries: usize,
    failed: Option<io::Error>,
}

impl<W: Write> Lines<W> {
    /// Whether more may follow.
    fn write(&mut self, line: &Line<'_>) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let written = sonic_rs::to_vec(line).map_err(io::Error::other).and_then(|mut text| {
            text.push(b'\n');
            self.out.write_all(&text)
        });
        self.entries += 1;
        self.failed = written.err();
        self.failed.is_none()
    }
}

impl Knowledge {
    /// Writes what still holds, beside the old file first. Gives the number of entries.
    pub fn save(&self, path: &Path) -> io::Result<usize> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = path.with_extension("new");
        let mut out = zstd::Encoder::new(BufWriter::new(File::create(&beside)?), 3)?;
        out.include_checksum(true)?;
        let now = clock::now_ms();
        let mut lines = Lines { out, entries: 0, failed: None };
        let mut write = |kind: &str, did: &str, until: i64, text: Option<&[u8]>, handle: Option<&str>| {
            lines.write(&Line {
                kind: kind.into(),
                did: did.into(),
                until,
                text: text.map(String::from_utf8_lossy),
                handle: handle.map(Into::into),
            })
        };
        write(FROM, &self.from(), 0, None, None);
        // A failure is worth nothing to the next run.
        self.documents.each(now, |did, found, until| match found {
            Found::Value(d) => write(Kind::Document.metric(), did, until, Some(&d.json), d.handle.as_deref()),
            Found::Absent => write(Kind::Document.metric(), did, until, None, None),
            Found::Failed => true,
        });
        self.created.each(now, |did, found, until| match found {
            Found::Value(c) => write(Kind::Created.metric(), did, until, Some(c.text.as_bytes()), None),
            Found::Absent => write(Kind::Created.metric(), did, until, None, None),
            Found::Failed => true,
        });
        self.profiles.each(now, |did, found, until| match found {
            Found::Value(p) => write(Kind::Profile.metric(), did, until, Some(p), None),
            Found::Absent => write(Kind::Profile.metric(), did, until, None, None),
            Found::Failed => true,
        });
        if let Some(e) = lines.failed {
            return Err(e);
        }
        lines.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(lines.entries - 1)
    }

    /// Takes over what a snapshot has and what still holds, and removes it. Gives the number of entries; 0 when there is none. A
    /// damaged one gives nothing.
    pub fn load(&self, path: &Path) -> io::Result<usize> {
        let mut file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        fs::remove_file(path)?;
        // The checksum stands at the end: without this, what is damaged would be taken over before it shows.
        io::copy(&mut zstd::Decoder::new(&file)?, &mut io::sink())?;
        file.rewind()?;
        let mut input = BufReader::new(zstd::Decoder::new(file)?);
        let (mut line, mut entries) = (Vec::new(), 0);
        (&mut input).take(LINE).read_until(b'\n', &mut line)?;
        let first = parse(&line)?;
        if first.kind != FROM || first.did != self.from() {
            log::info!(
                event = "snapshot", path:% = path.display();
                "{}: of other directories, not used", path.display()
            );
            return Ok(0);
        }
        loop {
            line.clear();
            (&mut input).take(LINE).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(entries);
            }
            entries += self.take(&line)? as usize;
        }
    }

    fn take(&self, line: &[u8]) -> io::Result<bool> {
        let line = parse(line)?;
        let now = clock::now_ms();
        let left = line.until.saturating_sub(now);
        let text = line.text.as_deref();
        let (kind, value) = match &*line.kind {
            "did_doc" => (Kind::Document, text.map(|json| self.document(&line, json)).transpose()?),
            "audit_log" => (Kind::Created, text.map(created).transpose()?),
            "profile" => (Kind::Profile, text.map(profile).transpose()?),
            _ => return Ok(false),
        };
        let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return Ok(false) };
        // A clock that was wrong then must not make an entry last for ever now.
        let ttl = Duration::from_millis(left).min(kind.ttl(&self.settings));
        let found = value.map_or(Found::Absent, Found::Value);
        self.learn(kind, &line.did, &Answer { found, ttl }, now);
        Ok(true)
    }

    /// Where the answers come from: others say other things.
    fn from(&self) -> String {
        let host = |host: &Option<String>| host.clone().unwrap_or_default();
        format!("{} {}", host(&self.settings.plc), host(&self.settings.api))
    }

    fn document(&self, line: &Line<'_>, json: &str) -> io::Result<Value> {
        let document = Document::parse(&line.did, json.as_bytes()).map_err(io::Error::other)?;
        Ok(Value::Document(Arc::new(document.with_handle(line.handle.as_deref()))))
    }
}

fn parse(line: &[u8]) -> io::Result<Line<'_>> {
    json_input::read(line, json_input::SHALLOW).map_err(|_| io::Error::other("a line is not one of ours"))
}

fn created(text: &str) -> io::Result<Value> {
    let ms = time::parse_ms(text).ok_or_else(|| io::Error::other("a creation time is not valid"))?;
    Ok(Value::Created(Arc::new(Created { text: text.into(), ms })))
}

fn profile(text: &str) -> io::Result<Value> {
    document::checked(text.as_bytes()).map_err(io::Error::other)?;
    Ok(Value::Profile(text.as_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::enrich::Settings;
    use crate::metrics::Metrics;

    fn knowledge() -> Knowledge {
        let settings = Settings {
            plc: Some("https://plc.example".into()),
            api: Some("https://api.example".into()),
            write_documents: true,
            timeout: Duration::from_secs(3),
            required: false,
            cache: 1 << 20,
            ttl: Duration::from_secs(3600),
            concurrency: 1,
            rate: 1,
            private_did_web: false,
            snapshot: None,
            client: Client::new(None),
        };
        Knowledge::new(settings, &Metrics::default().enrich)
    }

    /// A flipped byte inside of a profile decompresses, and the text is still JSON.
    #[test]
    fn of_a_damaged_snapshot_nothing_is_believed() {
        let dir = std::env::temp_dir().join(format!("atkafka-snapshot-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let (path, whole) = (dir.join("metadata.jsonl.zst"), knowledge());
        for n in 0..20 {
            let text = format!(r#"{{"displayName":"{:016x}"}}"#, fastrand::Rng::with_seed(n).u64(..));
            let until_ms = clock::now_ms() + 1_000_000;
            whole.profiles.put(&format!("did:plc:{n:024}"), Found::Value(text.into_bytes().into()), until_ms);
        }
        assert_eq!(whole.save(&path).expect("saved"), 20);
        let bytes = fs::read(&path).expect("read");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            fs::write(&path, &damaged).expect("written");
            let loaded = knowledge();
            let text = |of: &Knowledge, n| match of.profiles.get(&format!("did:plc:{n:024}"), clock::now_ms()) {
                Some(Found::Value(text)) => Some(text),
                _ => None,
            };
            match loaded.load(&path) {
                // What only says how much memory to take changes nothing.
                Ok(20) => assert!((0..20).all(|n| text(&loaded, n) == text(&whole, n)), "byte {at}"),
                _ => assert_eq!(loaded.sizes().map(|(_, entries, _)| entries), [0; 3], "byte {at}"),
            }
        }
        fs::write(&path, &bytes).expect("written");
        assert_eq!(knowledge().load(&path).expect("whole"), 20);
        let _ = fs::remove_dir_all(&dir);
    }

    /// A disk that is full once.
    struct FullOnce(u32);

    impl Write for FullOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 == 2 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_first_failure_stays_whatever_follows_it() {
        let line = Line { kind: "profile".into(), did: "did:plc:a".into(), until: 1, text: None, handle: None };
        let mut lines = Lines { out: FullOnce(0), entries: 0, failed: None };
        let more: Vec<bool> = (0..4).map(|_| lines.write(&line)).collect();
        assert_eq!(more, [true, false, false, false]);
        assert_eq!(lines.failed.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}
