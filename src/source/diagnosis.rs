//! What answered in place of the upstream that was meant: what it probably is, and what to change, in one line. On the
//! reader's thread.
//!
//! Texts of errors and answers in, a text out; only [`refused`] asks the host once more, what it is.

mod no_answer;

use std::time::Duration;

use serde::Deserialize;

use super::Host;
use super::ozone_answer::{HIDDEN, repeats};
use crate::atproto::json_input::{self, JsonValueTrait, LazyValue, SHALLOW};
use crate::atproto::{frame, json};

pub use no_answer::{http_failed, unreachable};

/// Characters of what a server says.
pub const LONGEST: usize = 300;
/// Characters of a body that is no JSON, and of a title.
const SHORT: usize = 80;
/// What a page says of itself stands at its beginning.
const LOOKED_AT: usize = 4096;
/// Levels of a message of Jetstream or Tap: the record stands inside.
const DEEPEST: usize = json::MAX_DEPTH as usize + 3;
/// One question after what a host is, to its end.
const ASKING: Duration = Duration::from_secs(3);

/// What was meant to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant {
    /// A relay or another host with a firehose.
    Relay,
    /// A Tap.
    Tap,
    /// A Jetstream.
    Jetstream,
    /// A PDS.
    Pds,
    /// A PLC directory.
    Plc,
    /// An AppView.
    AppView,
}

/// What a host is, by what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A Jetstream.
    Jetstream,
    /// A relay or another host with a firehose.
    Relay,
    /// A PDS.
    Pds,
    /// An AppView.
    AppView,
    /// An Ozone.
    Ozone,
    /// A Tap.
    Tap,
}

/// An answer, read as far as it was there.
#[derive(Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How long the server asks to wait.
    pub wait: Option<Duration>,
    /// The `location` of a redirect.
    pub location: Option<String>,
    /// Its type says that it is a web page.
    pub html: bool,
    /// As far as it was there.
    pub body: Vec<u8>,
}

/// The body of an XRPC error.
#[derive(Deserialize, Default)]
pub struct XrpcError {
    /// The name of the error; empty when absent.
    #[serde(default)]
    pub error: String,
    /// Words for people; empty when absent.
    #[serde(default)]
    pub message: String,
}

impl Meant {
    fn flag(self) -> &'static str {
        match self {
            Meant::Relay => "--relay-host",
            Meant::Tap => "--tap-host",
            Meant::Jetstream => "--jetstream-host",
            Meant::Pds => "--pds-host",
            Meant::Plc => "--plc-host",
            Meant::AppView => "--api-host",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Meant::Relay => "relay",
            Meant::Tap => "Tap",
            Meant::Jetstream => "Jetstream",
            Meant::Pds => "PDS",
            Meant::Plc => "PLC directory",
            Meant::AppView => "AppView",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Meant::Relay => "a relay or PDS",
            Meant::Tap => "a Tap",
            Meant::Jetstream => "a Jetstream",
            Meant::Pds => "a PDS",
            Meant::Plc => "a PLC directory",
            Meant::AppView => "an AppView",
        }
    }

    /// How its address begins.
    fn scheme(self, tls: bool) -> &'static str {
        match (self, tls) {
            (Meant::Pds | Meant::Plc | Meant::AppView, false) => "http://",
            (Meant::Pds | Meant::Plc | Meant::AppView, true) => "https://",
            (_, false) => "ws://",
            (_, true) => "wss://",
        }
    }
}

impl Found {
    /// As it stands in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Found::Jetstream => "a Jetstream",
            Found::Relay => "a relay",
            Found::Pds => "a PDS",
            Found::AppView => "an AppView",
            Found::Ozone => "an Ozone",
            Found::Tap => "a Tap",
        }
    }

    /// By the first page of a host, or the answer to `/health`.
    pub fn by_page(page: &[u8]) -> Option<Found> {
        let text = beginning(page).to_ascii_lowercase();
        [
            ("jetstream", Found::Jetstream),
            ("personal data server", Found::Pds),
            ("appview", Found::AppView),
            ("relay", Found::Relay),
            ("firehose", Found::Relay),
            ("ozone", Found::Ozone),
        ]
        .into_iter()
        .find_map(|(word, found)| text.contains(word).then_some(found))
    }

    /// By the first message of a connection, a text.
    pub fn by_text(text: &str) -> Option<Found> {
        let has = |key: &str| json_input::member(text, DEEPEST, key).is_some();
        match () {
            () if has("time_us") && has("did") => Some(Found::Jetstream),
            () if has("payload") && has("$type") => Some(Found::Jetstream),
            () if has("id") && has("type") => Some(Found::Tap),
            () => None,
        }
    }

    /// By the first message of a connection, a binary one.
    pub fn by_binary(message: &[u8]) -> Option<Found> {
        frame::header(message).is_ok().then_some(Found::Relay)
    }

    /// What it is, and what to do.
    pub fn in_place_of(self, meant: Meant) -> String {
        match (meant, self) {
            (Meant::Plc | Meant::AppView, found) => format!("it is {}, not {}", found.name(), meant.name()),
            (Meant::Pds, Found::Jetstream) => "it is a Jetstream, not a PDS".into(),
            (Meant::Pds, Found::Pds) => "it is a PDS, but a proxy or its version does not let logins through".into(),
            (Meant::Pds, Found::AppView) => "it is an AppView, not a PDS".into(),
            (Meant::Pds, Found::Relay) => "it is a relay, not a PDS".into(),
            (Meant::Pds, Found::Tap) => "it is a Tap, not a PDS".into(),
            (Meant::Pds, Found::Ozone) => "it is an Ozone: give the PDS that the moderator's account is on".into(),
            (Meant::Relay, Found::Relay) => "it is a relay, but a proxy or its version does not let the firehose (subscribeRepos) through".into(),
            (Meant::Relay, Found::Pds) => "it is a PDS, but a proxy or its version does not let the firehose (subscribeRepos) through".into(),
            (Meant::Tap, Found::Tap) => "it is a Tap, but a proxy does not let its /channel through".into(),
            (Meant::Relay, Found::Tap) => "it is a Tap, not a relay: `atkafka firehose tap --tap-host` reads it".into(),
            (Meant::Tap, Found::Relay | Found::Pds) => {
                "it is a relay or PDS, not a Tap: `atkafka firehose relay --relay-host` reads it".into()
            }
            (_, Found::Ozone) => format!(
                "it is an Ozone, not {}: `atkafka ozone-events` reads one, through the PDS of a moderator's account",
                meant.name()
            ),
            (Meant::Relay, Found::Jetstream) => "it is a Jetstream, whose JSON cannot be verified, not a relay or PDS: give a relay, such as wss://bsky.network, or read it with `atkafka firehose jetstream --jetstream-host`".into(),
            (Meant::Jetstream, Found::Jetstream) => "it is a Jetstream, but has not the version that was asked for: --jetstream-version auto finds one".into(),
            (Meant::Jetstream, Found::Relay | Found::Pds) => {
                "it is a relay or PDS, not a Jetstream: `atkafka firehose relay --relay-host` reads it".into()
            }
            (Meant::Jetstream, Found::Tap) => "it is a Tap, not a Jetstream: `atkafka firehose tap --tap-host` reads it".into(),
            (Meant::Tap, Found::Jetstream) => "it is a Jetstream, not a Tap: give --tap-host the address of a Tap".into(),
            (_, Found::AppView) => format!("it is an AppView, not {}", meant.name()),
        }
    }
}

impl Answer {
    /// Whether it is a web page: no answer of an API.
    pub fn is_page(&self) -> bool {
        self.html || beginning(&self.body).starts_with('<')
    }

    /// The error in its body; an empty one when there is none.
    pub fn error(&self) -> XrpcError {
        json_input::read(&self.body, SHALLOW).unwrap_or_default()
    }

    /// What it is, where what was meant would not answer so; `None` where it may be that.
    pub fn stranger(&self, meant: Meant) -> Option<String> {
        let (flag, name, short) = (meant.flag(), meant.name(), meant.short());
        let text = beginning(&self.body);
        let lower = text.to_ascii_lowercase();
        let what = match self.status {
            300..=399 => {
                let to = self.location.as_deref().unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
                // Without user and password, should it have some.
                let (scheme, rest) = to.split_once("://").unwrap_or(("", to));
                let host = rest.split('/').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
                match host {
                    "" => format!("a redirect to another page: is {flag} the {short} itself?"),
                    host => {
                        let to = clean(&format!("{scheme}://{host}"), LONGEST);
                        format!("a redirect to {to}: if that is the {short}, give it as {flag}")
                    }
                }
            }
            407 => {
                "a proxy that wants a login: put user and password into HTTPS_PROXY, or the host into NO_PROXY".into()
            }
            400 if lower.contains("http request") && lower.contains("https") => {
                format!("a server that speaks HTTPS at this port: give {flag} with {}", meant.scheme(true))
            }
            _ if self.is_page() => {
                let title = clean(between(&text, &lower, "<title>", "</title>").unwrap_or_default(), SHORT);
                let named = if title.is_empty() { String::new() } else { format!(" (\"{title}\")") };
                match self.status {
                    500.. => format!(
                        "a web page{named}: the web server in front of the {short} says that the {short} is away"
                    ),
                    _ => format!("a web page{named}: is {flag} {name}, and not a web site or a proxy's page?"),
                }
            }
            _ => return None,
        };
        Some(format!("HTTP {}, {what}", self.status))
    }
}

/// Why the host of a websocket did not take it. Where its answer does not tell what it is, it is asked.
pub fn refused(answer: &Answer, host: &Host, meant: Meant) -> String {
    if let Some(stranger) = answer.stranger(meant) {
        return stranger;
    }
    let (flag, name) = (meant.flag(), meant.name());
    let XrpcError { error, message } = answer.error();
    let said = match error.is_empty() && message.is_empty() {
        true => clean(&String::from_utf8_lossy(&answer.body), SHORT),
        false if repeats(&format!("{error} {message}"), &host.secrets()) => HIDDEN.into(),
        false => clean(&format!("{error} {message}"), LONGEST),
    };
    let said = format!("HTTP {} {said}", answer.status).trim().to_string();
    let lower = said.to_ascii_lowercase();
    let advice = match (answer.status, meant) {
        (426, _) | (400, _) if answer.status == 426 || lower.contains("upgrade") || lower.contains("websocket: ") => {
            "is there a reverse proxy in front of it that passes no websockets on? It has to pass on Upgrade and Connection".into()
        }
        (400, Meant::Relay) => "is the cursor a number?".into(),
        (400, Meant::Tap) => "is Tap in webhook mode? Unset TAP_WEBHOOK_URL there".into(),
        (401, Meant::Tap) => "Tap has an admin password: give it with --tap-password or --tap-password-file".into(),
        (401, _) => format!("it wants a login, as no relay does: is {flag} {name}?"),
        (403, _) => "it no longer lets this client or address in: a firewall, a block list?".into(),
        (502..=504, _) => format!("the server in front of the {} says that it is away", meant.short()),
        (200..=299 | 404 | 405 | 501, _) => match ask(host, meant) {
            Some(found) => found,
            None if !host.prefix.is_empty() => {
                format!("is the path {} of {flag} right? It goes before what is asked for", host.prefix)
            }
            None if meant == Meant::Relay && !error.is_empty() => format!(
                "it speaks XRPC, but has no firehose (subscribeRepos), as an AppView or an entryway: is {flag} {name}?"
            ),
            None if meant == Meant::Tap => "is this a Tap? Its usual address is ws://localhost:2480".into(),
            None => format!("is {flag} {name}?"),
        },
        _ => return said,
    };
    format!("{said}; {advice}")
}

/// What the host is by its first page, if that says it.
pub fn first_page(host: &Host) -> Option<Found> {
    let mut answer = host.client.agent(&host.url(""), ASKING, 1).get(host.url("/")).call().ok()?;
    Found::by_page(&answer.body_mut().with_config().limit(1 << 20).read_to_vec().ok()?)
}

/// What the host says of itself.
fn ask(host: &Host, meant: Meant) -> Option<String> {
    let agent = host.client.agent(&host.url(""), ASKING, 1);
    let get = |path: &str| {
        let mut answer = agent.get(host.url(path)).call().ok()?;
        let html = answer.headers().get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"text/html"));
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(1 << 20).read_to_vec().ok()?;
        Some(Answer { status, html, body, ..Answer::default() })
    };
    let root = get("/")?;
    if let Some(found) = Found::by_page(&root.body) {
        return Some(found.in_place_of(meant));
    }
    let found = match meant {
        Meant::Relay => {
            let health = get("/health")?;
            let health: Option<LazyValue<'_>> = json_input::read(&health.body, SHALLOW).ok();
            health.is_some_and(|h| h.get("status").as_str() == Some("ok")).then_some(Found::Tap)
        }
        Meant::Tap | Meant::Jetstream => {
            let firehose = get("/xrpc/com.atproto.sync.subscribeRepos")?;
            matches!(firehose.status, 400 | 426).then_some(Found::Relay)
        }
        Meant::Pds | Meant::Plc | Meant::AppView => None,
    };
    match found {
        Some(found) => Some(found.in_place_of(meant)),
        None => root.stranger(meant).map(|page| format!("its first page is {page}")),
    }
}

/// The beginning of a page, without blanks before it.
fn beginning(page: &[u8]) -> String {
    String::from_utf8_lossy(&page[..page.len().min(LOOKED_AT)]).trim_start().to_string()
}

/// One line, of so many characters at most.
fn clean(text: &str, longest: usize) -> String {
    let printed = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    printed.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(longest).collect()
}

/// `lower` is `text` in lower case, of ASCII only: the places are the same.
fn between<'a>(text: &'a str, lower: &str, open: &str, close: &str) -> Option<&'a str> {
    let start = lower.find(open)? + open.len();
    text.get(start..start + lower[start..].find(close)?)
}

#[cfg(test)]
mod tests;
