//! What every client of HTTP and websockets here has in common: who we are, whom we trust, redirects, and the waits that
//! servers ask for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use native_tls::TlsConnector;
use ureq::Proxy;
use ureq::config::Config;
use ureq::http::HeaderMap;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::atproto::time::now_ms;

/// The longest wait that a `Retry-After` or `RateLimit-Reset` can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// Bytes of the buffers of one connection, each way: most answers have 1 kB.
const BUFFER: usize = 16 << 10;

/// Who we are to servers, and whom we trust.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// What servers are told of us: the version, and the contact that the operator gave, if any. No page is named, since
    /// there is none that they could rely on.
    pub user_agent: String,
    /// The certificates of the CAs to trust in place of the system's, as DER.
    roots: Option<Arc<[Vec<u8>]>>,
}

impl Client {
    pub fn new(contact: Option<&str>) -> Client {
        let contact = contact.map(|c| format!(" ({c})")).unwrap_or_default();
        let user_agent = concat!("atkafka/", env!("CARGO_PKG_VERSION")).to_string() + &contact;
        Client { user_agent, roots: None }
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

    /// Settings for an agent: `timeout` is that of one request, to its last byte; `connections` are kept to a host at most;
    /// the `proxy` is usually that of the environment. Any status is an answer, and redirects are not followed.
    pub fn config(&self, timeout: Duration, connections: usize, proxy: Option<Proxy>) -> Config {
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
