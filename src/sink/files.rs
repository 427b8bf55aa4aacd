//! The files of the flags that hold certificates, keys and secrets: what is in them now, and when contents that were renewed
//! are to be tried.
//!
//! No client is known here; `librdkafka/renewal.rs` tries them. Its thread reads the files, and the producer's does while
//! the sink is made ready.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::time::{Duration, Instant};

use super::kafka_options::{Kafka, Sasl, Secret};

/// A file with all CAs of a system has a quarter of a megabyte.
const LARGEST: u64 = 4 << 20;
/// Contents that did not work are tried again after so long: the broker may learn of a password later than we do. Not sooner,
/// because a login that fails again and again may be locked.
const AGAIN: Duration = Duration::from_secs(10);

/// For each file a fingerprint of its contents, or why it cannot be read.
pub type Seen = Vec<Result<u64, String>>;

/// The files that are looked at. Pipes and terminals are not: what was read from them does not come again.
#[derive(Debug)]
pub struct Files {
    /// Each with its flag.
    files: Vec<(&'static str, String)>,
    hasher: RandomState,
}

impl Files {
    /// Those that the flags name.
    pub fn of(options: &Kafka) -> Files {
        let tls = options.tls.as_ref();
        let mut files = vec![
            ("--tls-ca-file", tls.and_then(|tls| tls.ca_file.clone())),
            ("--tls-cert-file", tls.and_then(|tls| tls.cert_file.clone())),
            ("--tls-key-file", tls.and_then(|tls| tls.key_file.clone())),
        ];
        if let Some((flag, secret)) = secret(options) {
            files.push((flag, secret.file.clone()));
        }
        let files = files.into_iter().filter_map(|(flag, path)| Some((flag, path?)));
        // One that is absent now may be there later.
        let files = files.filter(|(_, path)| std::fs::metadata(path).map_or(true, |found| found.is_file())).collect();
        Files { files, hasher: RandomState::new() }
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads them all.
    pub fn look(&self) -> Seen {
        let fingerprint = |bytes: Vec<u8>| self.hasher.hash_one(bytes);
        self.files.iter().map(|(flag, path)| read(flag, path).map(fingerprint)).collect()
    }

    /// The flags of the files that are different in the two.
    pub fn changed(&self, old: &Seen, new: &Seen) -> String {
        let flags = self.files.iter().zip(old.iter().zip(new)).filter(|(_, (old, new))| old != new);
        flags.map(|((flag, _), _)| *flag).collect::<Vec<_>>().join(", ")
    }
}

/// The secret of the options, and the flag of its file.
fn secret(options: &Kafka) -> Option<(&'static str, &Secret)> {
    match options.sasl.as_ref()? {
        Sasl::Password { password, .. } => Some(("--sasl-password-file", password)),
        Sasl::Token(oauth) => Some(("--sasl-oauth-client-secret-file", &oauth.client_secret)),
    }
}

fn read(flag: &str, path: &str) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("{flag} {path} cannot be read: {why}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    match bytes.len() as u64 {
        0 => Err(format!("{flag} {path} is empty")),
        size if size > LARGEST => Err(failed(format!("more than {} KiB", LARGEST >> 10))),
        _ => Ok(bytes),
    }
}

/// The options with the secret that its file has now. `None`: it is the same, or does not stand in a regular file. The files
/// of certificates and keys are read by librdkafka, for each client anew.
pub fn read_again(options: &Kafka) -> Result<Option<Kafka>, String> {
    let Some((flag, Secret { text: old, file: Some(path) })) = secret(options) else { return Ok(None) };
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Ok(None);
    }
    let text = String::from_utf8(read(flag, path)?).map_err(|_| format!("{flag} {path} is not UTF-8"))?;
    // As it is read at the start.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
    if text.is_empty() {
        return Err(format!("{flag} {path} is empty"));
    }
    if text == old {
        return Ok(None);
    }
    let mut options = options.clone();
    match options.sasl.as_mut() {
        Some(Sasl::Password { password, .. }) => password.text = text.into(),
        Some(Sasl::Token(oauth)) => oauth.client_secret.text = text.into(),
        None => {}
    }
    Ok(Some(options))
}

/// Says when contents are to be tried. Pure: it reads neither files nor a clock.
#[derive(Debug)]
pub struct Watch {
    /// What the client that runs was made with.
    used: Seen,
    last: Seen,
    /// What did not work, and when it was tried.
    refused: Option<(Seen, Instant)>,
}

impl Watch {
    /// `used`: what the client that runs was made with.
    pub fn new(used: Seen) -> Watch {
        Watch { last: used.clone(), used, refused: None }
    }

    /// Takes a look. `true` when these contents are to be tried: they are not those in use, and two looks agree on them, so
    /// that nobody is writing them just now.
    pub fn seen(&mut self, now: Instant, seen: Seen) -> bool {
        let settled = seen == self.last;
        self.last = seen;
        if self.last == self.used {
            self.refused = None;
            return false;
        }
        let waits =
            self.refused.as_ref().is_some_and(|(refused, at)| *refused == self.last && now.duration_since(*at) < AGAIN);
        settled && !waits
    }

    /// The last contents did not work. `true` when that is to be said: the first time for these contents.
    pub fn refused(&mut self, now: Instant) -> bool {
        let before = self.refused.replace((self.last.clone(), now));
        before.is_none_or(|(refused, _)| refused != self.last)
    }

    /// What the client that runs was made with, and what was seen last.
    pub fn both(&self) -> (&Seen, &Seen) {
        (&self.used, &self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Routes;
    use crate::sink::kafka_options::{Codec, KafkaClient, Mechanism, NewTopic, Tls};

    fn options(ca_file: &str, password_file: &str) -> Kafka {
        Kafka {
            servers: vec!["a:9093".into()],
            topics: vec!["t".into()],
            routes: Routes::default(),
            dead_letter_topic: None,
            client: KafkaClient::Librdkafka,
            codec: Codec::Lz4,
            config: Vec::new(),
            tls: Some(Tls { ca_file: Some(ca_file.into()), cert_file: None, key_file: None }),
            sasl: Some(Sasl::Password {
                mechanism: Mechanism::Plain,
                user: "me".into(),
                password: Secret { text: "s3cret".into(), file: Some(password_file.into()) },
            }),
            new_topic: NewTopic { create: true, partitions: None, replication: None },
            memory_limit: 1 << 28,
        }
    }

    #[test]
    fn secrets_are_read_as_at_the_start_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("atkafka-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("password");
        let name = path.to_string_lossy();
        // A device is not looked at.
        let options = options("/dev/null", &name);
        let files = Files::of(&options);
        assert!(files.look().len() == 1 && !files.is_empty());
        let absent = files.look();
        assert!(absent[0].as_ref().is_err_and(|why| why.starts_with("--sasl-password-file ")), "{absent:?}");
        assert!(read_again(&options).is_err());
        for (bytes, want) in [
            (&b"s3cret\n"[..], Ok(None)),
            (b"\xef\xbb\xbfs3cret \r\n", Ok(None)),
            (b"n3w s3cret\n", Ok(Some("n3w s3cret"))),
            (b"", Err("is empty")),
            (b" \n", Err("is empty")),
            (b"\xff", Err("is not UTF-8")),
        ] {
            std::fs::write(&path, bytes).expect("written");
            let result = read_again(&options);
            match (want, &result) {
                (Ok(want), Ok(found)) => {
                    let text = found.as_ref().and_then(secret).map(|(_, secret)| secret.text.as_str());
                    assert_eq!(text, want);
                }
                (Err(want), Err(why)) => assert!(why.contains(want), "{why}"),
                (want, found) => panic!("{found:?} for {want:?}"),
            }
            assert!(!format!("{result:?}").contains("s3cret"), "{result:?}");
        }
        std::fs::write(&path, "one").expect("written");
        let one = files.look();
        assert_eq!(one, files.look());
        assert!(one != absent && files.changed(&absent, &one) == "--sasl-password-file");
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn contents_count_when_two_looks_agree_and_are_said_once() {
        let mut now = Instant::now();
        let mut watch = Watch::new(vec![Ok(1), Ok(10)]);
        let look = Duration::from_secs(2);
        let mut see = |watch: &mut Watch, seen: Seen| {
            now += look;
            (watch.seen(now, seen), now)
        };
        assert!(!see(&mut watch, vec![Ok(1), Ok(10)]).0, "they are in use");
        assert!(!see(&mut watch, vec![Ok(2), Ok(10)]).0, "just written");
        assert!(!see(&mut watch, vec![Ok(2), Ok(11)]).0, "the other one follows");
        let (due, at) = see(&mut watch, vec![Ok(2), Ok(11)]);
        assert!(due && watch.refused(at), "the first time");
        let mut tries = 0;
        for _ in 0..10 {
            let (due, at) = see(&mut watch, vec![Ok(2), Ok(11)]);
            if due {
                tries += 1;
                assert!(!watch.refused(at), "it was said");
            }
        }
        assert_eq!(tries, 2, "twice in 20 seconds");
        see(&mut watch, vec![Err("gone".into()), Ok(11)]);
        let (due, at) = see(&mut watch, vec![Err("gone".into()), Ok(11)]);
        assert!(due && watch.refused(at), "something else does not work");
        assert!(!see(&mut watch, vec![Ok(1), Ok(10)]).0, "it is put back");
        assert!(!see(&mut watch, vec![Ok(1), Ok(10)]).0);
        see(&mut watch, vec![Err("gone".into()), Ok(10)]);
        let (due, at) = see(&mut watch, vec![Err("gone".into()), Ok(10)]);
        assert!(due && watch.refused(at), "gone again, said again");
    }
}
