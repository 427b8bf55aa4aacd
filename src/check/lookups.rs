//! The directory and the AppView that accounts are looked up at: one question to each. On a thread of the check.

use std::time::{Duration, Instant};

use super::Out;
use crate::client::Client;
use crate::enrich::Settings;
use crate::source::diagnosis::{self, Answer, Meant};

/// One request, to its end.
const TIMEOUT: Duration = Duration::from_secs(8);
const MAX_ANSWER: u64 = 1 << 20;
/// The account that is asked about: that of the protocol, atproto.com. A directory of a network of its own does not have it,
/// and says so in its own way.
const ACCOUNT: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";

pub fn check(settings: &Settings, out: &Out) {
    let client = &settings.client;
    if let Some(plc) = &settings.plc {
        ask(client, plc, &format!("/{ACCOUNT}"), Meant::Plc, out);
    }
    if let Some(api) = &settings.api {
        ask(client, api, &format!("/xrpc/app.bsky.actor.getProfile?actor={ACCOUNT}"), Meant::AppView, out);
    }
}

fn ask(client: &Client, host: &str, path: &str, meant: Meant, out: &Out) {
    let about = if meant == Meant::Plc { "PLC" } else { "AppView" };
    let began = Instant::now();
    let agent = client.agent(host, TIMEOUT, 1);
    let failed = |e: &ureq::Error| {
        let tls = host.starts_with("https://");
        out.failed(about, format!("{host}: {}", diagnosis::http_failed(e, tls, meant)));
    };
    let mut response = match agent.get(format!("{host}{path}")).call() {
        Ok(response) => response,
        Err(e) => return failed(&e),
    };
    let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let mut answer = Answer {
        status: response.status().as_u16(),
        location: text("location").map(str::to_string),
        html: text("content-type").is_some_and(|kind| kind.starts_with("text/html")),
        ..Answer::default()
    };
    match response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec() {
        Ok(body) => answer.body = body,
        Err(e) => return failed(&e),
    }
    if let Some(stranger) = answer.stranger(meant) {
        return out.failed(about, format!("{host}: {stranger}"));
    }
    let error = answer.error();
    // What says in JSON that it does not know this account is what was meant.
    let unknown = match meant {
        Meant::Plc => matches!(answer.status, 404 | 410) && !error.message.is_empty(),
        _ => matches!(answer.status, 400 | 404) && error.error != "XRPCNotSupported" && !error.error.is_empty(),
    };
    match answer.status {
        200 => out.ok(about, format!("{host} answers in {} ms", began.elapsed().as_millis())),
        _ if unknown => {
            out.ok(about, format!("{host} answers in {} ms (and does not know {ACCOUNT})", began.elapsed().as_millis()))
        }
        429 => {
            out.warning(about, format!("{host}: HTTP 429, too many requests from this address: look-ups will be slow"))
        }
        500.. => out.failed(about, format!("{host}: HTTP {}: it is ill, or away behind a proxy", answer.status)),
        status => {
            let what = if meant == Meant::Plc { "a PLC directory" } else { "an AppView" };
            out.failed(about, format!("{host}: HTTP {status}: is it {what}?"));
        }
    }
}
