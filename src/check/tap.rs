//! A Tap: its connection, its health, and what it says to a request for its channel. On the thread of the check that has
//! the source.
//!
//! The channel itself is not opened: what a Tap sends to somebody who does not acknowledge it comes again a minute later,
//! and from a Tap without acknowledgements never.

use std::time::Duration;

use super::{Out, host};
use crate::source::diagnosis::{self, Answer, Meant};
use crate::source::{Host, tap};

/// One request, to its end.
const TIMEOUT: Duration = Duration::from_secs(5);
pub fn check(tap: &Host, out: &Out) {
    if host::connect(tap, Meant::Tap, out).is_none() {
        return;
    }
    match tap::check(tap) {
        Ok(()) => out.ok("health", format!("{}: /health is ok", tap.name)),
        Err(why) => return out.failed("health", why),
    }
    channel(tap, out);
}

fn channel(tap: &Host, out: &Out) {
    let url = tap.url(&format!("{}/channel", tap.prefix));
    let mut request = tap.client.agent(&url, TIMEOUT, 1).get(&url);
    if let Some(authorization) = &tap.authorization {
        request = request.header("authorization", authorization);
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(e) => return out.failed("channel", format!("{url}: {}", diagnosis::http_failed(&e, tap.tls, Meant::Tap))),
    };
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(1 << 16).read_to_vec().unwrap_or_default();
    let answer = Answer { status, body, ..Answer::default() }.without(&tap.secrets());
    let said = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    match status {
        // What a server of websockets says to a request that asks for none.
        400 | 426 if !said.contains("webhook") => {
            out.ok("channel", format!("{} has one, and lets this client in", tap.name));
            out.not_checked("first frame", "the channel is not opened: what Tap sends there it would send only once");
        }
        _ => out.failed("channel", format!("{}: {}", tap.name, diagnosis::refused(&answer, tap, Meant::Tap))),
    }
}
