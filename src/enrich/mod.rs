//! Who is behind an event: the account's DID document, its age and its profile. It owns the caches of them
//! ([`Knowledge`], which workers read), decides which look-ups are made ([`lookups`]) and makes them ([`directory`]). It knows
//! neither batches nor how an event is written, and starts no thread: those of `pipeline::enricher` and `pipeline::fetcher`
//! run it.

mod answers;
pub mod cache;
pub mod directory;
pub mod document;
pub mod gate;
pub mod lookups;
mod public;
pub mod question;
mod request;
pub mod snapshot;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::metrics::enrich::{CacheHits, EnrichMetrics, LookedUp};
use cache::{Cache, Clock, Found, Weigh, block};
use document::Document;

/// What is looked up, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The PLC directory, `https://plc.directory`, without a slash at the end. `None`: no documents.
    pub plc: Option<String>,
    /// The AppView, for profiles and handles.
    pub api: Option<String>,
    /// Whether what documents say is written, or only used to filter.
    pub write_documents: bool,
    /// A look-up has so long from its start; then events go on without it.
    pub timeout: Duration,
    /// Whether events wait for the directory and the AppView, however long it takes.
    pub required: bool,
    /// Bytes of all caches together.
    pub cache: usize,
    /// How long a document is believed.
    pub ttl: Duration,
    /// Requests at once, to each of the two hosts.
    pub concurrency: usize,
    /// Requests a second, to each of the two hosts.
    pub rate: u32,
    /// Whether `did:web` of private addresses is asked, and `localhost` over plain HTTP.
    pub private_did_web: bool,
    /// Where the caches are kept over a restart.
    pub snapshot: Option<PathBuf>,
    /// How hosts are spoken to.
    pub client: Client,
}

/// What is looked up of an account, each with a cache of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The DID document, with the handle that was found to be right.
    Document,
    /// When a `did:plc` was made: the first entry of its audit log. Never changes.
    Created,
    /// The profile, as the AppView gives it.
    Profile,
}

/// What an event says about the caches: it comes before the event itself is enriched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Nothing changes.
    Nothing,
    /// The profile was written anew.
    Profile,
    /// The document changed, and with it handle and PDS; the profile holds the handle as well.
    Identity,
}

impl Forget {
    /// Whether answers of this kind are out of date.
    pub fn covers(self, kind: Kind) -> bool {
        match self {
            Forget::Nothing => false,
            Forget::Profile => kind == Kind::Profile,
            Forget::Identity => kind != Kind::Created,
        }
    }
}

/// The first entry of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// As the log has it.
    pub text: Box<str>,
    /// The same in milliseconds since 1970.
    pub ms: i64,
}

/// An answer to one look-up.
#[derive(Debug, Clone)]
pub enum Value {
    /// A DID document.
    Document(Arc<Document>),
    /// A creation time.
    Created(Arc<Created>),
    /// Raw JSON.
    Profile(Arc<[u8]>),
}

impl Value {
    /// The same in memory of this thread. What many threads allocate and one frees keeps their heaps' pages half full.
    pub fn copied(&self) -> Value {
        match self {
            Value::Document(document) => {
                Value::Document(Arc::new(Document { json: document.json[..].into(), ..Document::clone(document) }))
            }
            Value::Created(created) => Value::Created(Arc::new(Created::clone(created))),
            Value::Profile(profile) => Value::Profile(profile[..].into()),
        }
    }

    fn document(self) -> Option<Arc<Document>> {
        if let Value::Document(document) = self { Some(document) } else { None }
    }

    fn created(self) -> Option<Arc<Created>> {
        if let Value::Created(created) = self { Some(created) } else { None }
    }

    fn profile(self) -> Option<Arc<[u8]>> {
        if let Value::Profile(profile) = self { Some(profile) } else { None }
    }
}

impl Weigh for Arc<Document> {
    fn heap(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| block(text.len()));
        counted(size_of::<Document>()) + counted(self.json.len()) + text(&self.pds) + text(&self.handle)
    }
}

impl Weigh for Arc<Created> {
    fn heap(&self) -> usize {
        counted(size_of::<Created>()) + block(self.text.len())
    }
}

impl Weigh for Arc<[u8]> {
    fn heap(&self) -> usize {
        counted(self.len())
    }
}

/// What an [`Arc`] takes that holds so many bytes: they have two counters before them.
fn counted(bytes: usize) -> usize {
    block(bytes + 2 * size_of::<usize>())
}

/// What is known of an account. What was not asked for, has no answer, or was not answered in time is absent.
#[derive(Debug, Clone, Default)]
pub struct AccountData {
    /// The DID document.
    pub document: Option<Arc<Document>>,
    /// The creation time.
    pub created: Option<Arc<Created>>,
    /// The profile: raw JSON.
    pub profile: Option<Arc<[u8]>>,
}

impl AccountData {
    /// Takes over an answer.
    pub fn set(&mut self, value: Value) {
        match value {
            Value::Document(document) => self.document = Some(document),
            Value::Created(created) => self.created = Some(created),
            Value::Profile(profile) => self.profile = Some(profile),
        }
    }
}

/// What became of a look-up, as it is kept.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The answer itself.
    pub found: Found<Value>,
    /// How long it is believed.
    pub ttl: Duration,
}

/// That there is no such account is believed for so long.
pub const ABSENT: Duration = Duration::from_secs(300);
/// A profile counts followers and posts: it is believed for an hour at most.
const PROFILE: Duration = Duration::from_secs(3600);
/// A creation time never changes.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The caches.
pub struct Knowledge {
    /// What is looked up, and how.
    pub settings: Settings,
    documents: Cache<Arc<Document>>,
    created: Cache<Arc<Created>>,
    profiles: Cache<Arc<[u8]>>,
    hits: CacheHits,
}

impl Knowledge {
    /// Empty caches.
    pub fn new(settings: Settings, metrics: &EnrichMetrics) -> Self {
        let clock = Arc::new(Clock::new(settings.cache));
        let hits = CacheHits::new(metrics, &Kind::ALL.map(Kind::metric));
        Knowledge {
            settings,
            documents: Cache::new(clock.clone()),
            created: Cache::new(clock.clone()),
            profiles: Cache::new(clock),
            hits,
        }
    }

    /// Whether this kind is looked up for `did` at all.
    pub fn wants(&self, kind: Kind, did: &str) -> bool {
        match kind {
            Kind::Document => self.settings.plc.is_some() && (is_plc(did) || is_web(did)),
            // Only a PLC directory keeps a log.
            Kind::Created => self.settings.write_documents && is_plc(did),
            Kind::Profile => self.settings.api.is_some() && (is_plc(did) || is_web(did)),
        }
    }

    /// What is known of `did` now. What has to be looked up is given to `miss`.
    pub fn look(&self, did: &str, forget: Forget, now_ms: i64, mut miss: impl FnMut(Kind)) -> AccountData {
        self.forget(did, forget);
        let mut account = AccountData::default();
        for kind in Kind::ALL {
            if !self.wants(kind, did) {
                continue;
            }
            // What this event makes old is not read back, should an answer have come in meanwhile.
            match self.cached(kind, did, now_ms).filter(|_| !forget.covers(kind)) {
                Some(found) => {
                    let status = match found {
                        Found::Value(_) => LookedUp::Ok,
                        Found::Absent => LookedUp::NotFound,
                        Found::Failed => LookedUp::Error,
                    };
                    self.hits.hit(kind as usize, status);
                    if let Found::Value(value) = found {
                        account.set(value);
                    }
                }
                None => miss(kind),
            }
        }
        account
    }

    /// `None`: not known.
    pub fn cached(&self, kind: Kind, did: &str, now_ms: i64) -> Option<Found<Value>> {
        match kind {
            Kind::Document => self.documents.get(did, now_ms).map(|v| v.map(Value::Document)),
            Kind::Created => self.created.get(did, now_ms).map(|v| v.map(Value::Created)),
            Kind::Profile => self.profiles.get(did, now_ms).map(|v| v.map(Value::Profile)),
        }
    }

    /// Drops what is no longer true of `did`.
    pub fn forget(&self, did: &str, forget: Forget) {
        for kind in Kind::ALL.into_iter().filter(|kind| forget.covers(*kind)) {
            self.drop_one(kind, did);
        }
    }

    /// Drops one answer.
    pub fn drop_one(&self, kind: Kind, did: &str) {
        match kind {
            Kind::Document => self.documents.remove(did),
            Kind::Created => self.created.remove(did),
            Kind::Profile => self.profiles.remove(did),
        }
    }

    /// Keeps an answer that came at `now_ms`.
    pub fn learn(&self, kind: Kind, did: &str, answer: &Answer, now_ms: i64) {
        let until_ms = now_ms.saturating_add(answer.ttl.as_millis() as i64);
        let found = answer.found.clone();
        match kind {
            Kind::Document => self.documents.put(did, found.and_then(Value::document), until_ms),
            Kind::Created => self.created.put(did, found.and_then(Value::created), until_ms),
            Kind::Profile => self.profiles.put(did, found.and_then(Value::profile), until_ms),
        }
        self.make_room();
    }

    /// Where the caches are over their limit, each gives up the same part of what it holds.
    fn make_room(&self) {
        let (documents, created, profiles) = (self.documents.bytes(), self.created.bytes(), self.profiles.bytes());
        let (held, limit) = (documents + created + profiles, self.settings.cache);
        if held <= limit {
            return;
        }
        let part = (limit - limit / 4) as f64 / held as f64;
        let left = |bytes: usize| (bytes as f64 * part) as usize;
        self.documents.shrink(left(documents));
        self.created.shrink(left(created));
        self.profiles.shrink(left(profiles));
    }

    /// Accounts and bytes of each cache.
    pub fn sizes(&self) -> [(&'static str, usize, usize); 3] {
        [
            (Kind::Document.metric(), self.documents.len(), self.documents.bytes()),
            (Kind::Created.metric(), self.created.len(), self.created.bytes()),
            (Kind::Profile.metric(), self.profiles.len(), self.profiles.bytes()),
        ]
    }
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 3] = [Kind::Document, Kind::Created, Kind::Profile];

    /// How long an answer of this kind is believed.
    pub fn ttl(self, settings: &Settings) -> Duration {
        match self {
            Kind::Document => settings.ttl,
            Kind::Created => FOR_GOOD,
            Kind::Profile => settings.ttl.min(PROFILE),
        }
    }

    /// Its name in metrics, that of the Go program.
    pub fn metric(self) -> &'static str {
        match self {
            Kind::Document => "did_doc",
            Kind::Created => "audit_log",
            Kind::Profile => "profile",
        }
    }
}

/// Whether it can be asked for at a PLC directory. Read generously; it goes into a URL as it is.
pub fn is_plc(did: &str) -> bool {
    did.strip_prefix("did:plc:").is_some_and(|id| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// Whether it names a host. atproto knows no `did:web` with a path.
pub fn is_web(did: &str) -> bool {
    web_host(did).is_some()
}

/// The host of a `did:web`, with its port where it has one.
pub fn web_host(did: &str) -> Option<String> {
    let id = did.strip_prefix("did:web:")?;
    let (name, port) = match id.split_once("%3A").or_else(|| id.split_once("%3a")) {
        Some((name, port)) => (name, Some(port)),
        None => (id, None),
    };
    let is_name = (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.starts_with(['.', '-'])
        && !name.ends_with(['.', '-']);
    let is_port = port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0));
    (is_name && is_port).then(|| port.map_or_else(|| name.to_string(), |port| format!("{name}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dids_that_can_be_asked_for() {
        assert!(is_plc("did:plc:ewvi7nxzyoun6zhxrhs64oiz"));
        for no in ["did:plc:", "did:plc:../x", "did:plc:a/b", "did:plc:A", "did:web:a.example", "did:plc:a?b", ""] {
            assert!(!is_plc(no), "{no}");
        }
        assert_eq!(web_host("did:web:a.example").as_deref(), Some("a.example"));
        assert_eq!(web_host("did:web:localhost%3A2583").as_deref(), Some("localhost:2583"));
        for no in [
            "did:web:",
            "did:web:a.example:path",
            "did:web:a%2Fb",
            "did:web:a@b",
            "did:web:-a",
            "did:web:a%3A0",
            "did:web:a%3A+443",
        ] {
            assert!(web_host(no).is_none(), "{no}");
        }
    }
}
