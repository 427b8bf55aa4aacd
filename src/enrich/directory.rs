//! Answers questions about accounts by requests to the PLC directory, the AppView and the hosts of `did:web`: which request a
//! question becomes, how often it is tried, and what its answer is worth. It owns the connections and the [gates](super::gate)
//! of the hosts, and does not know who waits. Its calls wait for the network: the threads `fetch-N` make them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers;
use super::cache::Found;
use super::document::{self, Document, INVALID_HANDLE};
use super::gate::Gate;
use super::public::Public;
use super::question::{AGAIN, Outcome, PROFILES, Provider, Question, unverified};
use super::request::{Reply, Trouble, get};
use super::{ABSENT, Answer, Kind, Settings, Value, web_host};
use crate::metrics::enrich::{EnrichMetrics, LookedUp};

/// One request, to its last byte, or the deadline where that is longer. It may outlive its look-up's: the answer is still
/// worth caching.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A host of a `did:web` is whoever's: it gets less.
const WEB_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests a second to all of them. There are some hundreds of such accounts.
const WEB_RATE: u32 = 50;
/// An audit log may have hundreds of entries of up to 10 kB; only the first one counts, so the rest need not arrive. Most logs
/// are shorter than this, so that their connection can be used again.
const MAX_LOG: u64 = 32 << 10;
const MAX_PROFILES: u64 = (PROFILES * document::MAX) as u64;
/// Attempts of one look-up, while its deadline lasts.
const ATTEMPTS: u32 = 3;
/// Lines in the log about look-ups in ten seconds.
pub(super) const LINES: u64 = 3;

/// Asks the hosts that the settings name. Shared by the threads that ask; each call is one question, to its end.
pub struct Directory {
    settings: Settings,
    plc_agent: ureq::Agent,
    api_agent: ureq::Agent,
    web_agent: ureq::Agent,
    plc: Gate,
    api: Gate,
    /// For all hosts of `did:web` together: a name with wildcards may be one machine.
    web_rate: Gate,
    metrics: Arc<EnrichMetrics>,
}

impl Directory {
    /// Connects to nobody yet.
    pub fn new(settings: Settings, metrics: Arc<EnrichMetrics>) -> Self {
        let gate = |host: &Option<String>| {
            let host = host.as_deref().unwrap_or_default();
            Gate::new(host, settings.rate, metrics.breaker(host))
        };
        let unused = metrics.breaker("");
        // A proxy would resolve the names itself, and could be had to ask the machines around it.
        let resolver = Public::new(settings.private_did_web);
        let connections = 2 * settings.concurrency;
        let agent = |host: &Option<String>| {
            let host = host.as_deref().unwrap_or_default();
            settings.client.agent(host, TIMEOUT.max(settings.timeout), connections)
        };
        Directory {
            plc: gate(&settings.plc),
            api: gate(&settings.api),
            web_rate: Gate::new("did:web", WEB_RATE, unused),
            plc_agent: agent(&settings.plc),
            api_agent: agent(&settings.api),
            web_agent: settings.client.direct(WEB_TIMEOUT, resolver),
            settings,
            metrics,
        }
    }

    /// Whether a provider has no answer within the deadline: events need not wait for it.
    pub fn is_closed(&self, provider: Provider) -> bool {
        !self.settings.required && self.gate(provider).is_some_and(|gate| gate.is_closed(self.settings.timeout))
    }

    fn gate(&self, provider: Provider) -> Option<&Gate> {
        match provider {
            Provider::Plc => Some(&self.plc),
            Provider::DidWeb => None,
            Provider::Profiles | Provider::Handles => Some(&self.api),
        }
    }

    /// Asks, and asks again while that may help. One outcome for each account, in the order of the question.
    pub fn ask(&self, question: &Question) -> Vec<Outcome> {
        match question {
            Question::Document(did) if web_host(did).is_some() => vec![self.web_document(did)],
            Question::Document(did) => {
                let url = format!("{}/{did}", self.settings.plc.as_deref().unwrap_or_default());
                vec![self.one(Provider::Plc, Kind::Document.metric(), &url, document::MAX as u64, |body| {
                    answers::document(did, &body)
                })]
            }
            Question::Created(did) => {
                let url = format!("{}/{did}/log/audit", self.settings.plc.as_deref().unwrap_or_default());
                vec![
                    self.one(Provider::Plc, Kind::Created.metric(), &url, MAX_LOG, |body| answers::created(did, &body)),
                ]
            }
            Question::Profiles(dids) => self.profiles(dids),
            Question::Handle(did, document) => vec![self.handle(did, document)],
        }
    }

    /// For a question whose answer will not come. A gate that waited for it goes on.
    pub fn gave_up(&self, provider: Provider, question: &Question) -> Vec<Outcome> {
        if let Some(gate) = self.gate(provider) {
            gate.failed("a look-up panicked");
        }
        vec![None; question.accounts()]
    }

    /// One look-up at a host of ours, to its answer.
    fn one(
        &self,
        provider: Provider,
        kind: &'static str,
        url: &str,
        limit: u64,
        read: impl Fn(Vec<u8>) -> Option<Value>,
    ) -> Outcome {
        match self.insist(provider, kind, url, limit) {
            Ok(Reply::Body(body)) => Some(self.answer(read(body))),
            Ok(Reply::Absent) => Some(self.answer(None)),
            Err(Trouble::Host(_)) => Some(failed(AGAIN)),
            Err(_) => None,
        }
    }

    /// An answer that says something of the account; without a value, that there is nothing.
    fn answer(&self, value: Option<Value>) -> Answer {
        let Some(value) = value else { return Answer { found: Found::Absent, ttl: ABSENT } };
        let kind = match &value {
            Value::Document(_) => Kind::Document,
            Value::Created(_) => Kind::Created,
            Value::Profile(_) => Kind::Profile,
        };
        Answer { found: Found::Value(value), ttl: kind.ttl(&self.settings) }
    }

    /// Attempts until there is an answer: a few within the deadline, or all that it takes where metadata is required.
    fn insist(&self, provider: Provider, kind: &'static str, url: &str, limit: u64) -> Result<Reply, Trouble> {
        let began = Instant::now();
        for attempt in 1.. {
            let trouble = match self.attempt(provider, kind, url, limit) {
                Ok(reply) => return Ok(reply),
                Err(trouble) => trouble,
            };
            let wait = match &trouble {
                Trouble::Host(reason) => {
                    log::warn!(at_most = LINES, event = "lookup_failed", error = reason; "{reason}; tried again");
                    Duration::from_millis(50 << attempt.min(5)).mul_f64(0.5 + fastrand::f64())
                }
                Trouble::Pause(wait) | Trouble::Closed(wait) => (*wait).min(Duration::from_millis(500)),
            };
            let hopeless = match &trouble {
                Trouble::Host(_) => attempt >= ATTEMPTS,
                Trouble::Pause(wait) | Trouble::Closed(wait) => began.elapsed() + *wait > self.settings.timeout,
            };
            if !self.settings.required && (hopeless || began.elapsed() + wait > self.settings.timeout) {
                return Err(trouble);
            }
            std::thread::sleep(wait);
        }
        unreachable!("attempts have no end but an answer or trouble")
    }

    fn attempt(&self, provider: Provider, kind: &'static str, url: &str, limit: u64) -> Result<Reply, Trouble> {
        let gate = self.gate(provider);
        gate.unwrap_or(&self.web_rate).pass().map_err(Trouble::Closed)?;
        let agent = match provider {
            Provider::Plc => &self.plc_agent,
            Provider::DidWeb => &self.web_agent,
            Provider::Profiles | Provider::Handles => &self.api_agent,
        };
        let result = get(agent, url, limit);
        let status = match &result {
            Ok((Reply::Body(_), _)) => LookedUp::Ok,
            Ok((Reply::Absent, _)) => LookedUp::NotFound,
            Err(_) => LookedUp::Error,
        };
        self.metrics.lookup(kind, status);
        let Some(gate) = gate else { return result.map(|(reply, _)| reply) };
        match result {
            Ok((reply, pause)) => {
                gate.answered();
                // The last one of its window: the next would be refused.
                if let Some(wait) = pause {
                    gate.pause(wait);
                }
                Ok(reply)
            }
            Err(trouble) => {
                match &trouble {
                    Trouble::Host(reason) => gate.failed(reason),
                    Trouble::Pause(wait) => gate.pause(*wait),
                    Trouble::Closed(_) => {}
                }
                Err(trouble)
            }
        }
    }

    /// One attempt: whoever made the account also chose the host, and must not hold the others' events.
    fn web_document(&self, did: &str) -> Outcome {
        let host = web_host(did).unwrap_or_default();
        let (name, has_port) = host.rsplit_once(':').map_or((host.as_str(), false), |(name, _)| (name, true));
        let plain = self.settings.private_did_web && (name == "localhost" || name == "127.0.0.1");
        // Ports are for development networks (https://atproto.com/specs/did): else anybody could have us knock at each one.
        if has_port && !self.settings.private_did_web {
            return Some(self.answer(None));
        }
        let url = format!("{}://{host}/.well-known/did.json", if plain { "http" } else { "https" });
        match self.attempt(Provider::DidWeb, Kind::Document.metric(), &url, document::MAX as u64) {
            Ok(Reply::Body(body)) => Some(self.answer(answers::document(did, &body))),
            Err(Trouble::Closed(_)) => None,
            Ok(Reply::Absent) => Some(self.answer(None)),
            Err(_) => Some(failed(ABSENT)),
        }
    }

    /// The document with what became of its handle. One that could not be verified is left out, and asked about again soon.
    fn handle(&self, did: &str, document: &Document) -> Outcome {
        let handle = document.handle.as_deref().unwrap_or_default();
        let api = self.settings.api.as_deref().unwrap_or_default();
        let url = format!("{api}/xrpc/com.atproto.identity.resolveHandle?handle={handle}");
        let resolved = match self.insist(Provider::Handles, "handle", &url, 4 << 10) {
            Ok(Reply::Body(body)) => answers::resolved(&body),
            Ok(Reply::Absent) => Some(String::new()),
            Err(_) => None,
        };
        let (handle, ttl) = match resolved {
            Some(resolved) if resolved == did => (handle, Kind::Document.ttl(&self.settings)),
            // A new handle may take a while to be known everywhere.
            Some(_) => (INVALID_HANDLE, ABSENT),
            None => return Some(unverified(document)),
        };
        let found = Found::Value(Value::Document(Arc::new(document.with_handle(Some(handle)))));
        Some(Answer { found, ttl: ttl.min(Kind::Document.ttl(&self.settings)) })
    }

    fn profiles(&self, dids: &[Box<str>]) -> Vec<Outcome> {
        let api = self.settings.api.as_deref().unwrap_or_default();
        let kind = Kind::Profile.metric();
        if let [did] = dids {
            let url = format!("{api}/xrpc/app.bsky.actor.getProfile?actor={}", actor(did));
            return vec![
                self.one(Provider::Profiles, kind, &url, document::MAX as u64, |body| answers::profile(&body)),
            ];
        }
        let actors: Vec<String> = dids.iter().map(|did| format!("actors={}", actor(did))).collect();
        let url = format!("{api}/xrpc/app.bsky.actor.getProfiles?{}", actors.join("&"));
        let all = |outcome: Outcome| dids.iter().map(|_| outcome.clone()).collect();
        let body = match self.insist(Provider::Profiles, kind, &url, MAX_PROFILES) {
            Ok(Reply::Body(body)) => body,
            // It may be for the sake of one of them.
            Ok(Reply::Absent) => return dids.iter().flat_map(|did| self.profiles(std::slice::from_ref(did))).collect(),
            Err(Trouble::Host(_)) => return all(Some(failed(AGAIN))),
            Err(_) => return all(None),
        };
        let Some(found) = answers::profiles(&body) else {
            log::warn!(at_most = LINES, event = "bad_profiles"; "getProfiles: the answer has no profiles");
            return all(Some(failed(AGAIN)));
        };
        let of = |did: &str| {
            let raw = found.iter().find(|(of, _)| of == did).map(|(_, raw)| raw.as_raw_str().as_bytes());
            Some(self.answer(raw.and_then(answers::profile)))
        };
        dids.iter().map(|did| of(did)).collect()
    }
}

/// A DID in a query: only the port of a `did:web` has something to escape.
fn actor(did: &str) -> String {
    did.replace('%', "%25")
}

/// That nobody could say it: asked again after `ttl`.
fn failed(ttl: Duration) -> Answer {
    Answer { found: Found::Failed, ttl }
}
