//! What a host says that is no event: error frames, `#info`, and text. What follows from it for the relay's reader, on its
//! thread.

use super::Relay;
use crate::atproto::frame::{self, ErrorBody};
use crate::log::plain::plain;
use crate::source::diagnosis::{Found, Meant};
use crate::source::job::{Intake, Seen};
use crate::source::ozone_answer::{HIDDEN, repeats};
use crate::source::resume::Gap;
use crate::source::websocket::Ended;
use crate::source::{Host, Start};

/// Bytes of an error frame's name and of its message that are passed on.
const WORD: usize = 64;
const WORDS: usize = 500;

/// What the host says, unless it repeats the login that it was sent.
fn harmless<'t>(host: &Host, text: &'t str) -> &'t str {
    if repeats(text, &host.secrets()) { HIDDEN } else { text }
}

/// Name and message of an error frame with this body, fit for the log.
pub fn error_of(host: &Host, body: &[u8]) -> (String, String) {
    match frame::body::<ErrorBody<'_>>(body) {
        Ok(error) => {
            (plain(harmless(host, error.error), WORD), plain(harmless(host, error.message.unwrap_or_default()), WORDS))
        }
        Err(e) => ("unreadable".into(), e),
    }
}

/// A relay sends no text. What sends some may be known by it.
pub fn stranger(text: &str) -> Option<Ended> {
    let found = Found::by_text(text)?;
    Some(Ended::Lost(format!("its messages are JSON: {}", found.in_place_of(Meant::Relay))))
}

impl<I: Intake> Relay<I> {
    pub(super) fn text(&mut self, text: &str) -> Result<(), Ended> {
        self.keep(text.as_bytes(), Seen::Text)?;
        match stranger(text).filter(|_| self.endpoint.fresh == 0) {
            Some(ended) => Err(ended),
            None => Ok(()),
        }
    }

    pub(super) fn info(&mut self, body: &[u8]) {
        let Ok(info) = frame::body::<frame::Info<'_>>(body) else { return };
        let host = &self.endpoint.host.name;
        let message = harmless(&self.endpoint.host, info.message.unwrap_or_default());
        log::warn!(
            event = "info_frame", host = host, reason = info.name, error = message;
            "{host}: #info {}: {message}", info.name
        );
        if info.name == "OutdatedCursor" && !self.begins_at_time {
            self.endpoint.link.metrics.gap("outdated_cursor");
            self.endpoint.link.health.examples.gap(host, "outdated_cursor", message);
            self.stream.resume.told_outdated();
        }
    }

    pub(super) fn error_frame(&mut self, body: &[u8]) -> Result<(), Ended> {
        let metrics = &self.endpoint.link.metrics;
        metrics.received_frames.inc();
        let (name, message) = error_of(&self.endpoint.host, body);
        metrics.error_frame(&name);
        match name.as_str() {
            // Our own step, not a host that counts anew.
            "FutureCursor" if self.stepping.ask() > 0 => {
                self.stepping.unbroken()?;
                self.stepping.forget();
                Err(Ended::Lost("FutureCursor behind a message that cannot be read".into()))
            }
            "FutureCursor" => {
                let message = format!(
                    "the cursor {} is in the host's future ({message}): reading from the oldest event that it keeps",
                    self.stream.resume.cursor()
                );
                self.gap(Gap { kind: "host_reset", message }, None)?;
                self.stream.resume.reset();
                self.start = Start::At(0);
                Err(Ended::Lost("FutureCursor".into()))
            }
            "ConsumerTooSlow" => {
                let cursor = self.stream.resume.cursor();
                let message = format!("the host says so ({message}); going on behind seq {cursor}");
                Ok(self.gap(Gap { kind: "consumer_too_slow", message }, None)?)
            }
            // The host closes next, if it means it.
            _ => {
                let host = &self.endpoint.host.name;
                log::warn!(
                    event = "error_frame", host = host, reason = name, error = message;
                    "{host}: error frame {name}: {message}"
                );
                Ok(())
            }
        }
    }
}
