//! What every client of HTTP and websockets here has in common: who we are, whom we trust, over which proxy, how a name
//! becomes a connection, redirects, and the waits that servers ask for. It knows no API. It runs on whichever thread
//! asks, and may block it until the timeout that was given.

pub mod dial;
pub mod proxy;

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use native_tls::TlsConnector;
use proxy::Proxies;
use ureq::config::Config;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy};

use crate::clock::now_ms;

/// The longest wait that a `Retry-After` or `RateLimit-Reset` can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// How long the address of a host is remembered.
const ADDRESS: Duration = Duration::from_secs(60);
/// A connection to one of its addresses has so long, where a request has longer.
const CONNECT: Duration = Duration::from_secs(8);
/// Bytes of the buffers of one connection, each way: most answers have 1 kB.
const BUFFER: usize = 16 << 10;

/// Who we are to servers, whom we trust, and how we get there.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// What servers are told of us: the version, and the contact that the operator gave, if any. No page is named, since
    /// there is none that they could rely on.
    pub user_agent: String,
    /// The certificates of the CAs to trust in place of the system's, as DER.
    roots: Option<Arc<[Vec<u8>]>>,
    proxies: Proxies,
}

impl Client {
    /// Trusts the system's CAs and uses no proxy. `contact` tells servers whom to write to.
    pub fn new(contact: Option<&str>) -> Client {
        let contact = contact.map(|c| format!(" ({c})")).unwrap_or_default();
        let user_agent = concat!("atkafka/", env!("CARGO_PKG_VERSION")).to_string() + &contact;
        Client { user_agent, roots: None, proxies: Proxies::default() }
    }

    /// Trusts the CAs of a PEM file, and nobody else.
    pub fn trusting(self, pem: &[u8]) -> Result<Client, String> {
        let read =
            native_tls::Certificate::stack_from_pem(pem).and_then(|all| all.iter().map(|c| c.to_der()).collect());
        let roots: Vec<Vec<u8>> = read.map_err(|e| format!("no certificates in PEM form: {e}"))?;
        if roots.is_empty() {
            return Err("no certificate in it: a PEM file has BEGIN CERTIFICATE".into());
        }
        Ok(Client { roots: Some(roots.into()), ..self })
    }

    /// Goes through these proxies.
    pub fn through(self, proxies: Proxies) -> Client {
        Client { proxies, ..self }
    }

    /// The proxy for this address, if there is one.
    pub fn proxy(&self, url: &str) -> Option<&Proxy> {
        url.parse().ok().and_then(|uri| self.proxies.of(&uri))
    }

    /// Says which proxy an address is reached through.
    pub fn announce(&self, url: &str) {
        if let Some(proxy) = self.proxy(url) {
            log::info!(event = "start", host = url; "{url}: through the proxy {}", proxy::shown(proxy));
        }
    }

    /// An agent for one host: `timeout` is that of one request, to its last byte; `connections` are kept at most. Any status
    /// is an answer, and redirects are not followed.
    pub fn agent(&self, url: &str, timeout: Duration, connections: usize) -> Agent {
        let config = self.config(timeout, connections, self.proxy(url).cloned());
        Agent::with_parts(config, DefaultConnector::default(), Remembered::default())
    }

    /// An agent that asks without a proxy, and only what `resolver` finds.
    pub fn direct(&self, timeout: Duration, resolver: impl Resolver) -> Agent {
        Agent::with_parts(self.config(timeout, 1, None), DefaultConnector::default(), resolver)
    }

    fn config(&self, timeout: Duration, connections: usize, proxy: Option<Proxy>) -> Config {
        let roots = match &self.roots {
            None => RootCerts::PlatformVerifier,
            Some(roots) => RootCerts::new_with_certs(
                &roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>(),
            ),
        };
        ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(&self.user_agent)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .tls_config(TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).build())
            .build()
    }

    /// TLS for what is no HTTP request.
    pub fn tls(&self) -> native_tls::Result<TlsConnector> {
        let mut builder = TlsConnector::builder();
        if let Some(roots) = &self.roots {
            builder.disable_built_in_roots(true);
            for der in roots.iter() {
                builder.add_root_certificate(native_tls::Certificate::from_der(der)?);
            }
        }
        builder.build()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

/// Remembers the addresses of a host: ureq asks for each request, also on a connection that it has, and the system would be
/// asked as often, each time in a thread of its own. Of several addresses the one that answers first is taken first: ureq
/// itself would wait half of the request's time for one that is dead.
#[derive(Debug, Default)]
struct Remembered {
    dns: DefaultResolver,
    known: Mutex<Vec<(String, Instant, ResolvedSocketAddrs)>>,
}

impl Resolver for Remembered {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let known = || self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fresh = |(name, at, _): &&(String, Instant, _)| name == authority && at.elapsed() < ADDRESS;
        if let Some((.., found)) = known().iter().find(fresh) {
            return Ok(found.clone());
        }
        let until = Instant::now() + timeout.not_zero().map_or(CONNECT, |left| (*left).min(CONNECT));
        let dns = NextTimeout { after: timeout.after.min(dial::DNS.into()), ..timeout };
        let found = match self.dns.resolve(uri, config, dns) {
            Err(ureq::Error::Timeout(_)) => return Err(failed("DNS gave no answer in time".into())),
            found => fastest_first(found?, until)?,
        };
        let mut known = known();
        known.retain(|(name, ..)| name != authority);
        known.push((authority.to_string(), Instant::now(), found.clone()));
        Ok(found)
    }
}

/// Tries them (RFC 8305), where there is a choice. The connection that shows it is not used: it is made once a minute.
fn fastest_first(mut found: ResolvedSocketAddrs, until: Instant) -> Result<ResolvedSocketAddrs, ureq::Error> {
    if found.len() > 1 {
        let stream = dial::race(&found, until, &|| false).map_err(failed)?;
        let place = stream.peer_addr().ok().and_then(|peer| found.iter().position(|address| *address == peer));
        found[..=place.unwrap_or(0)].rotate_right(1);
    }
    Ok(found)
}

fn failed(why: String) -> ureq::Error {
    ureq::Error::Io(std::io::Error::other(why))
}

/// What `Retry-After` asks for, or, where nothing is left, `RateLimit-Reset`.
pub fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let after = text("retry-after").and_then(retry_after);
    let reset =
        text("ratelimit-remaining").filter(|left| *left == "0").and_then(|_| text("ratelimit-reset")).and_then(|at| {
            // A PDS gives the second since 1970 at which the window begins anew; others give the seconds until then.
            let at = at.parse::<i64>().ok()?;
            let now = now_ms() / 1000;
            u64::try_from(if at > 1_000_000_000 { at - now } else { at }).ok().map(Duration::from_secs)
        });
    after.or(reset).map(|wait| wait.min(LONGEST_WAIT))
}

/// `Retry-After` in seconds or as a date; an hour at most, so that a broken server cannot silence us.
pub fn retry_after(text: &str) -> Option<Duration> {
    let seconds = match text.trim().parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_second();
            u64::try_from(at - now_ms() / 1000).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds.min(3600)))
}

/// As a part of a URL: what is not a letter, a digit or one of `-._~` is written by its bytes.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            true => out.push(b as char),
            false => drop(write!(out, "%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_names_the_operator_and_no_page() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(Client::new(None).user_agent, format!("atkafka/{version}"));
        assert_eq!(Client::new(Some("ops@example.com")).user_agent, format!("atkafka/{version} (ops@example.com)"));
    }

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        assert_eq!(retry_after("17"), Some(Duration::from_secs(17)));
        assert_eq!(retry_after("99999999"), Some(Duration::from_secs(3600)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn waits_that_servers_ask_for() {
        let headers = |pairs: &[(&'static str, String)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.insert(*name, value.parse().expect("a header"));
            }
            asked_wait(&map)
        };
        assert_eq!(headers(&[]), None);
        assert_eq!(headers(&[("retry-after", "7".into())]), Some(Duration::from_secs(7)));
        let reset = (now_ms() / 1000 + 100).to_string();
        assert_eq!(headers(&[("ratelimit-remaining", "5".into()), ("ratelimit-reset", reset.clone())]), None);
        let wait = headers(&[("ratelimit-remaining", "0".into()), ("ratelimit-reset", reset)]).expect("a wait");
        assert!((95..=100).contains(&wait.as_secs()));
        assert_eq!(headers(&[("retry-after", "99999".into())]), Some(LONGEST_WAIT));
    }
}
