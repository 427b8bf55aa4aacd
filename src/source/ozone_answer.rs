//! What answered where a PDS should: the words of an error say what it probably is, and what to change.
//!
//! Pure: an answer or an error in, a text out. Nothing of the login is repeated, whatever the server says.

use std::time::Duration;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::atproto::json_input::{self, SHALLOW};

/// Characters of what a server says.
const LONGEST: usize = 300;

/// An answer, read whole.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    /// How long the server asks to wait.
    pub wait: Option<Duration>,
    /// The `location` of a redirect.
    pub location: Option<String>,
    pub body: Vec<u8>,
}

/// The body of an XRPC error.
#[derive(Deserialize, Default)]
pub struct XrpcError {
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub message: String,
}

impl Answer {
    pub fn error(&self) -> XrpcError {
        json_input::read(&self.body, SHALLOW).unwrap_or_default()
    }

    /// Status, and what the server says. A message that has the password in it is left out.
    pub fn describe(&self, method: &str, password: &str) -> String {
        let XrpcError { error, message } = self.error();
        let said = format!("{error} {message}");
        let said = match repeats(&said, password) {
            true => "(its words are not shown: they repeat the password)".to_string(),
            false => said.chars().take(LONGEST).collect(),
        };
        format!("{method}: HTTP {} {}", self.status, said.trim()).trim_end().to_string()
    }

    /// What it is, where a PDS would not answer so; `None` where it may be a PDS.
    pub fn stranger(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(4096)]).into_owned();
        let lower = text.trim_start().to_ascii_lowercase();
        let what = match self.status {
            300..=399 => {
                let to = self.location.as_deref().unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
                // Without user and password, should it have some.
                let (scheme, rest) = to.split_once("://").unwrap_or(("", to));
                let host = rest.split('/').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
                match host {
                    "" => "a redirect to another page: is --pds-host the PDS itself?".into(),
                    host => {
                        let to: String = format!("{scheme}://{host}").chars().take(LONGEST).collect();
                        format!("a redirect to {to}: if that is the PDS, give it as --pds-host")
                    }
                }
            }
            407 => {
                "a proxy that wants a login: put user and password into HTTPS_PROXY, or the host into NO_PROXY".into()
            }
            400 if lower.contains("http request") && lower.contains("https") => {
                "a server that speaks HTTPS at this port: give --pds-host with https://".into()
            }
            _ if lower.starts_with('<') => {
                let title = between(&text, &lower, "<title>", "</title>").unwrap_or_default();
                let title: String = title.trim().chars().take(80).collect();
                let named = if title.is_empty() { String::new() } else { format!(" (\"{title}\")") };
                match self.status {
                    500.. => format!("a web page{named}: the web server in front of the PDS says that the PDS is away"),
                    _ => format!("a web page{named}: is --pds-host a PDS, and not a web site or a proxy's page?"),
                }
            }
            _ => return None,
        };
        Some(format!("HTTP {}, {what}", self.status))
    }
}

/// What `GET /` of a host tells of it.
pub fn identify(root: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(&root[..root.len().min(4096)]).to_ascii_lowercase();
    [
        ("jetstream", "it is a Jetstream, not a PDS"),
        ("personal data server", "it is a PDS, but a proxy or its version does not let logins through"),
        ("appview", "it is an AppView, not a PDS"),
        ("relay", "it is a relay, not a PDS"),
        ("firehose", "it is a relay, not a PDS"),
        ("ozone", "it is an Ozone: give the PDS that the moderator's account is on"),
    ]
    .into_iter()
    .find_map(|(word, what)| text.contains(word).then_some(what))
}

/// Why there was no answer at all, and what to do.
pub fn explain(e: &ureq::Error, pds: &str) -> String {
    let text = e.to_string();
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let https = pds.starts_with("https://");
    let advice = match e {
        ureq::Error::HostNotFound => "the name has no address: is --pds-host right, and does DNS work here?",
        _ if has(&["lookup address", "name resolution", "no address associated"]) => {
            "the name has no address: is --pds-host right, and does DNS work here?"
        }
        ureq::Error::ConnectProxyFailed(_) => "the proxy of HTTPS_PROXY or ALL_PROXY does not let it through",
        ureq::Error::Timeout(_) => "the host is away, too slow, or behind a firewall",
        ureq::Error::BodyExceedsLimit(_) => "that is no answer of a PDS: is --pds-host one?",
        _ if has(&["connection refused"]) => "is the PDS running, is the port right?",
        _ if https && has(&["wrong version number", "packet length too long", "unknown protocol", "http request"]) => {
            "the server speaks no TLS at this port: is it http://?"
        }
        _ if https && has(&["unexpected eof", "connection reset", "handshake"]) => {
            "it hung up before TLS stood: if the server speaks none at this port, give --pds-host with http://"
        }
        _ if https && has(&["certificate"]) => {
            "its certificate is not trusted or is for another name: is --pds-host right, is its CA among those of the system?"
        }
        ureq::Error::Protocol(_) | ureq::Error::Http(_) if !https => {
            "that is no HTTP: if the server speaks TLS at this port, give --pds-host with https://"
        }
        _ if !https && has(&["connection reset", "peer disconnected", "unexpected eof", "end of file"]) => {
            "it hung up: if the server speaks TLS at this port, give --pds-host with https://"
        }
        _ => return text,
    };
    format!("{text}; {advice}")
}

/// Whether `said` has the password in it, as it is or as JSON, a URL or base64 would write it.
fn repeats(said: &str, password: &str) -> bool {
    let escaped = sonic_rs::to_vec(&password).unwrap_or_default();
    let escaped = String::from_utf8_lossy(&escaped);
    let in_url: String = password
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    let base64 = BASE64.encode(password.as_bytes());
    let forms = [password, escaped.trim_matches('"'), &in_url, base64.trim_end_matches('=')];
    !password.is_empty() && forms.iter().any(|form| said.contains(form))
}

fn between<'a>(text: &'a str, lower: &str, open: &str, close: &str) -> Option<&'a str> {
    // Lower case of ASCII only: the places are the same, once both are without leading blanks.
    let text = text.trim_start();
    let start = lower.find(open)? + open.len();
    text.get(start..start + lower[start..].find(close)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into(), ..Answer::default() }
    }

    #[test]
    fn strangers_are_named() {
        let redirect = |to: &str| Answer { status: 301, location: Some(to.into()), ..Answer::default() };
        for (answer, says) in [
            (
                answer(200, "\n <!doctype html><TITLE>Wifi login</TITLE>"),
                "a web page (\"Wifi login\"): is --pds-host a PDS",
            ),
            (answer(502, "<html><head><title>502 Bad Gateway</title>"), "says that the PDS is away"),
            (answer(403, "<html>"), "HTTP 403, a web page: is"),
            (redirect("https://u:secret@pds.example.com/x?token=secret"), "a redirect to https://pds.example.com: if"),
            (redirect("/login"), "a redirect to another page"),
            (answer(407, ""), "a proxy that wants a login"),
            (answer(400, "Client sent an HTTP request to an HTTPS server.\n"), "give --pds-host with https://"),
            (answer(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title>"), "with https://"),
        ] {
            let said = answer.stranger().expect("no PDS");
            assert!(said.contains(says) && !said.contains("secret"), "{said}");
        }
        assert!(answer(400, r#"{"error":"InvalidRequest","message":"<html>"}"#).stranger().is_none());
        assert!(answer(404, "404 page not found").stranger().is_none());
    }

    #[test]
    fn hosts_are_known_by_their_first_page() {
        for (page, says) in [
            ("Welcome to Jetstream", "a Jetstream"),
            ("This is an atproto [https://atproto.com] relay instance, running the 'relay' codebase", "a relay"),
            ("This is an AT Protocol Personal Data Server (aka, an atproto PDS)", "a PDS, but"),
            ("This is an AT Protocol Application View (AppView) for the \"bsky.app\" application", "an AppView"),
        ] {
            assert!(identify(page.as_bytes()).expect("known").contains(says), "{page}");
        }
        assert_eq!(identify(b"404 page not found"), None);
    }

    #[test]
    fn no_word_of_a_server_shows_the_password() {
        let password = "pä\"ss/w ord";
        let escaped = "p\u{e4}\\\\\\\"ss/w ord";
        for echo in [r#"pä\"ss/w ord"#, escaped, "p%C3%A4%22ss%2Fw%20ord", &BASE64.encode(password.as_bytes())] {
            let body = format!(r#"{{"error":"InvalidRequest","message":"cannot read {echo} here"}}"#);
            let said = answer(400, &body).describe("createSession", password);
            assert!(said.starts_with("createSession: HTTP 400 (its words"), "{said}");
        }
        let said = answer(401, r#"{"error":"X","message":"wrong"}"#).describe("createSession", password);
        assert_eq!(said, "createSession: HTTP 401 X wrong");
    }
}
