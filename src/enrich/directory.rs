//! One request at a time to the PLC directory, the AppView and the hosts of `did:web`.

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::cache::Found;
use super::document::{Document, INVALID_HANDLE, checked};
use super::gate::Gate;
use super::{ABSENT, Answer, Created, Kind, Settings, Value, web_host};
use crate::atproto::json_input::{self, JsonValueTrait, LazyValue, SHALLOW};
use crate::atproto::time;
use crate::client;
use crate::metrics::{LookedUp, Metrics};

/// Profiles in one request at most: the limit of `getProfiles`.
pub const PROFILES: usize = 25;
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
const MAX_PROFILES: u64 = (PROFILES * super::document::MAX) as u64;
/// After a failure that says nothing of the account, it is asked about again so soon.
pub const AGAIN: Duration = Duration::from_secs(10);
/// Attempts of one look-up, while its deadline lasts.
const ATTEMPTS: u32 = 3;
/// Log lines about look-ups in ten seconds.
const LINES: u64 = 3;

/// Where look-ups go, each with threads of its own, so that a slow one does not hold the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desk {
    Plc,
    /// The hosts of `did:web`. Each has one account, so that one look-up an account is one connection a host, and the
    /// cache of those that failed is its breaker.
    Web,
    Profiles,
    Handles,
}

/// What a desk is asked.
pub enum Question {
    Document(Box<str>),
    Created(Box<str>),
    /// Up to [`PROFILES`] accounts.
    Profiles(Vec<Box<str>>),
    /// Whether the document's handle names the account.
    Handle(Box<str>, Arc<Document>),
}

/// What became of one account's look-up. `None`: nobody could be asked, and nothing is to be kept.
pub type Outcome = Option<Answer>;

/// Why there is no answer.
enum Trouble {
    /// The host is in trouble, or cannot be reached.
    Host(String),
    /// It asks for a pause.
    Pause(Duration),
    /// The gate is closed, for so long at least.
    Closed(Duration),
}

/// An HTTP answer that says something of the account.
enum Reply {
    Body(Vec<u8>),
    /// There is no such account.
    Absent,
}

pub struct Directory {
    settings: Settings,
    plc_agent: ureq::Agent,
    api_agent: ureq::Agent,
    web_agent: ureq::Agent,
    plc: Gate,
    api: Gate,
    /// For all hosts of `did:web` together: a name with wildcards may be one machine.
    web_rate: Gate,
    metrics: Arc<Metrics>,
}

impl Directory {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let gate = |host: &Option<String>| {
            let host = host.as_deref().unwrap_or_default();
            Gate::new(host, settings.rate, metrics.breaker(host))
        };
        let unused = metrics.breaker("");
        // A proxy would resolve the names itself, and could be had to ask the machines around it.
        let resolver = Public { all: settings.private_did_web, dns: DefaultResolver::default() };
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

    /// Whether a desk has no answer within the deadline: events need not wait for it.
    pub fn is_closed(&self, desk: Desk) -> bool {
        !self.settings.required && self.gate(desk).is_some_and(|gate| gate.is_closed(self.settings.timeout))
    }

    fn gate(&self, desk: Desk) -> Option<&Gate> {
        match desk {
            Desk::Plc => Some(&self.plc),
            Desk::Web => None,
            Desk::Profiles | Desk::Handles => Some(&self.api),
        }
    }

    /// Asks, and asks again while that may help. One outcome for each account, in the order of the question.
    pub fn ask(&self, question: &Question) -> Vec<Outcome> {
        match question {
            Question::Document(did) if web_host(did).is_some() => vec![self.web_document(did)],
            Question::Document(did) => {
                let url = format!("{}/{did}", self.settings.plc.as_deref().unwrap_or_default());
                vec![self.one(Desk::Plc, Kind::Document.metric(), &url, super::document::MAX as u64, |body| {
                    self.document(did, &body)
                })]
            }
            Question::Created(did) => {
                let url = format!("{}/{did}/log/audit", self.settings.plc.as_deref().unwrap_or_default());
                vec![self.one(Desk::Plc, Kind::Created.metric(), &url, MAX_LOG, |body| self.created(did, &body))]
            }
            Question::Profiles(dids) => self.profiles(dids),
            Question::Handle(did, document) => vec![self.handle(did, document)],
        }
    }

    /// For a question whose answer will not come. A gate that waited for it goes on.
    pub fn gave_up(&self, desk: Desk, question: &Question) -> Vec<Outcome> {
        if let Some(gate) = self.gate(desk) {
            gate.failed("a look-up panicked");
        }
        let accounts = if let Question::Profiles(dids) = question { dids.len() } else { 1 };
        vec![None; accounts]
    }

    /// One look-up at a host of ours, to its answer.
    fn one(
        &self,
        desk: Desk,
        kind: &'static str,
        url: &str,
        limit: u64,
        read: impl Fn(Vec<u8>) -> Option<Value>,
    ) -> Outcome {
        match self.insist(desk, kind, url, limit) {
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
    fn insist(&self, desk: Desk, kind: &'static str, url: &str, limit: u64) -> Result<Reply, Trouble> {
        let began = Instant::now();
        for attempt in 1.. {
            let trouble = match self.attempt(desk, kind, url, limit) {
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

    fn attempt(&self, desk: Desk, kind: &'static str, url: &str, limit: u64) -> Result<Reply, Trouble> {
        let gate = self.gate(desk);
        gate.unwrap_or(&self.web_rate).pass().map_err(Trouble::Closed)?;
        let agent = match desk {
            Desk::Plc => &self.plc_agent,
            Desk::Web => &self.web_agent,
            Desk::Profiles | Desk::Handles => &self.api_agent,
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

    fn document(&self, did: &str, body: &[u8]) -> Option<Value> {
        match Document::parse(did, body) {
            Ok(document) => Some(Value::Document(Arc::new(document))),
            Err(e) => {
                log::warn!(
                    at_most = LINES, event = "bad_document", did = did, error = e;
                    "{did}: its document cannot be used: {e}"
                );
                None
            }
        }
    }

    fn created(&self, did: &str, body: &[u8]) -> Option<Value> {
        let text = first_entry(body);
        let created = text.and_then(|text| Some(Created { ms: time::parse_ms(&text)?, text: text.into() }));
        if created.is_none() {
            log::warn!(
                at_most = LINES, event = "bad_audit_log", did = did;
                "{did}: its audit log has no time in the first entry"
            );
        }
        created.map(|created| Value::Created(Arc::new(created)))
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
        match self.attempt(Desk::Web, Kind::Document.metric(), &url, super::document::MAX as u64) {
            Ok(Reply::Body(body)) => Some(self.answer(self.document(did, &body))),
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
        let resolved = match self.insist(Desk::Handles, "handle", &url, 4 << 10) {
            Ok(Reply::Body(body)) => resolved(&body),
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
            return vec![self.one(Desk::Profiles, kind, &url, super::document::MAX as u64, |body| profile(&body))];
        }
        let actors: Vec<String> = dids.iter().map(|did| format!("actors={}", actor(did))).collect();
        let url = format!("{api}/xrpc/app.bsky.actor.getProfiles?{}", actors.join("&"));
        let all = |outcome: Outcome| dids.iter().map(|_| outcome.clone()).collect();
        let body = match self.insist(Desk::Profiles, kind, &url, MAX_PROFILES) {
            Ok(Reply::Body(body)) => body,
            // It may be for the sake of one of them.
            Ok(Reply::Absent) => return dids.iter().flat_map(|did| self.profiles(std::slice::from_ref(did))).collect(),
            Err(Trouble::Host(_)) => return all(Some(failed(AGAIN))),
            Err(_) => return all(None),
        };
        let Some(found) = many(&body) else {
            log::warn!(at_most = LINES, event = "bad_profiles"; "getProfiles: the answer has no profiles");
            return all(Some(failed(AGAIN)));
        };
        let of = |did: &str| {
            let raw = found.iter().find(|(of, _)| of == did).map(|(_, raw)| raw.as_raw_str().as_bytes());
            Some(self.answer(raw.and_then(profile)))
        };
        dids.iter().map(|did| of(did)).collect()
    }
}

/// A DID in a query: only the port of a `did:web` has something to escape.
fn actor(did: &str) -> String {
    did.replace('%', "%25")
}

/// One GET: a body of `limit` bytes at most, or the news that there is nothing, and a pause that it asked for.
fn get(agent: &ureq::Agent, url: &str, limit: u64) -> Result<(Reply, Option<Duration>), Trouble> {
    let trouble = |e: &dyn std::fmt::Display| Trouble::Host(format!("{url}: {e}"));
    let mut response = agent.get(url).call().map_err(|e| trouble(&e))?;
    let pause = client::asked_wait(response.headers());
    // Of every answer, since a connection whose answer is not read to its end cannot be used again. One byte more, so that
    // what is too long shows, and is judged by whoever reads it; the rest ends with its connection.
    // A length that is promised is taken at once, so that no buffer grows to twice of it.
    let length = response.body().content_length().unwrap_or_default().min(limit + 1);
    let mut body = Vec::with_capacity(length as usize);
    let read = response.body_mut().as_reader().take(limit + 1).read_to_end(&mut body);
    match response.status().as_u16() {
        200 => read.map(|_| (Reply::Body(body), pause)).map_err(|e| trouble(&e)),
        // An AppView says 400 of an account that it does not have, a PLC directory 410 of one that is no more.
        400 | 404 | 410 => Ok((Reply::Absent, pause)),
        429 => Err(Trouble::Pause(pause.unwrap_or(Duration::from_secs(5)))),
        status => Err(trouble(&format!("HTTP {status}"))),
    }
}

/// The account that a handle names.
fn resolved(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Resolved {
        did: String,
    }
    json_input::read::<Resolved>(body, SHALLOW).ok().map(|resolved| resolved.did)
}

/// The document while nobody can say whether its handle is right: without it, and to be asked about again soon.
pub fn unverified(document: &Document) -> Answer {
    Answer { found: Found::Value(Value::Document(Arc::new(document.with_handle(None)))), ttl: AGAIN }
}

/// That nobody could say it: asked again after `ttl`.
fn failed(ttl: Duration) -> Answer {
    Answer { found: Found::Failed, ttl }
}

/// `createdAt` of the first entry of an audit log. What stands behind it is not looked at: a long log may be cut off.
fn first_entry(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let begin = text.find('{')?;
    let entry = json_input::member(&text[begin..], 2 * SHALLOW, "createdAt")?;
    json_input::part(&entry).ok()
}

fn profile(raw: &[u8]) -> Option<Value> {
    checked(raw).ok()?;
    Some(Value::Profile(raw.into()))
}

/// The profiles of an answer, by DID.
fn many(body: &[u8]) -> Option<Vec<(String, LazyValue<'_>)>> {
    #[derive(Deserialize)]
    struct Profiles<'a> {
        #[serde(borrow)]
        profiles: Vec<LazyValue<'a>>,
    }
    let list: Profiles<'_> = json_input::read(body, 2 * SHALLOW).ok()?;
    let did = |raw: &LazyValue<'_>| raw.get("did").and_then(|did| did.as_str().map(str::to_string));
    Some(list.profiles.into_iter().filter_map(|raw| Some((did(&raw)?, raw))).collect())
}

/// Resolves names, and leaves out what is not on the public network: whoever makes a `did:web` must not make us ask the
/// machines around us.
#[derive(Debug)]
struct Public {
    all: bool,
    dns: DefaultResolver,
}

impl Resolver for Public {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.dns.resolve(uri, config, timeout)?;
        let mut public = self.empty();
        for address in found.iter().filter(|a| self.all || is_public(a.ip())) {
            public.push(*address);
        }
        if public.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(public) }
    }
}

/// Whether an address is one of the public network (the registries of special-purpose addresses, RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(ip) => {
            if let Some(v4) = ip.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            let [a, b, ..] = ip.segments();
            // Only 2000::/3 is given out; in it, documentation, and the old ways to wrap an IPv4 address.
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b == 0xdb8 || b < 0x200)) && a != 0x2002 && a != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_public_network() {
        for public in ["1.1.1.1", "198.51.99.1", "100.128.0.1", "2606:4700::1111"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
    }

    #[test]
    fn the_first_entry_of_a_log() {
        let entry = |at: &str| format!(r#"{{"did":"did:plc:a","operation":{{"createdAt":"no"}},"createdAt":"{at}"}}"#);
        let log = format!("[{},{}]", entry("2023-05-01T12:00:00.000Z"), entry("2024-05-01T12:00:00.000Z"));
        assert_eq!(first_entry(log.as_bytes()).as_deref(), Some("2023-05-01T12:00:00.000Z"));
        // Cut off behind the first one.
        assert_eq!(first_entry(&log.as_bytes()[..log.len() - 20]).as_deref(), Some("2023-05-01T12:00:00.000Z"));
        let deep = "[".repeat(1 << 20);
        for wrong in [
            &format!("\"{{\"a\":{deep}"),
            &format!("[{{\"a\":{deep}"),
            "[]",
            "",
            "[{}]",
            r#"[{"createdAt":7}]"#,
            "null",
            "{",
        ] {
            assert_eq!(first_entry(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn profiles_of_an_answer() {
        let body = br#"{"profiles":[{"did":"did:plc:a","n":12345678901234567890},{"handle":"x"},{"did":"did:plc:b"}]}"#;
        let found = many(body).expect("profiles");
        let raw: Vec<(&str, &str)> = found.iter().map(|(did, raw)| (did.as_str(), raw.as_raw_str())).collect();
        assert_eq!(
            raw,
            [("did:plc:a", r#"{"did":"did:plc:a","n":12345678901234567890}"#), ("did:plc:b", r#"{"did":"did:plc:b"}"#)]
        );
        assert_eq!(resolved(br#"{"did":"did:plc:a"}"#).as_deref(), Some("did:plc:a"));
        for wrong in ["", "<html>", "{}", "7", r#"{"did":7}"#, &format!(r#"{{"a":{}"#, "[".repeat(4000))] {
            assert_eq!(resolved(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(many(b"{}").is_none() && many(b"[").is_none());
    }
}
