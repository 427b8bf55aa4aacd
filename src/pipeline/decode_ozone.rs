//! One moderation event of Ozone to a record: as the API gave it, byte for byte.

use std::borrow::Cow;

use serde::Deserialize;

use super::batch::Batch;
use super::decode::Decoder;
use super::event_writer::EventWriter;
use crate::atproto::{json, json_input};
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{Action, Head, When};

/// What is looked at; kinds that are not known pass like the others.
#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow, default, rename = "createdAt")]
    created_at: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Typed<'a>,
    #[serde(borrow, default)]
    subject: Subject<'a>,
}

#[derive(Deserialize, Default)]
struct Typed<'a> {
    #[serde(borrow, default, rename = "$type")]
    kind: Cow<'a, str>,
}

/// `repoRef`, `messageRef` and `convoRef` have a did, `strongRef` a uri.
#[derive(Deserialize, Default)]
struct Subject<'a> {
    #[serde(borrow, default)]
    did: Cow<'a, str>,
    #[serde(borrow, default)]
    uri: Cow<'a, str>,
}

impl Subject<'_> {
    /// The account; empty when the subject names none.
    fn did(&self) -> &str {
        if !self.did.is_empty() {
            return &self.did;
        }
        let authority = self.uri.strip_prefix("at://").unwrap_or_default().split('/').next().unwrap_or_default();
        if authority.starts_with("did:") { authority } else { "" }
    }
}

impl Decoder<'_> {
    /// Appends the event. Its time was read from the page; one that is not an object of JSON is a dead letter.
    pub fn ozone(&mut self, text: &[u8], out: &mut Batch) {
        let view: View<'_> = match json_input::read(text, json::MAX_DEPTH as usize) {
            Ok(view) => view,
            Err(e) => {
                let detail = format!("not an event of Ozone: {e}");
                out.bury(DeadLetter { reason: Reason::BadFrame, detail, seq: 0, bytes: text.to_vec() });
                return;
            }
        };
        let did = view.subject.did();
        if !did.is_empty() && !self.rules.filter.did(did) {
            self.metrics.filtered.inc();
            return;
        }
        let mut text_of_arrival = String::new();
        let when = When::given(&view.created_at, out.arrived_ms, &mut text_of_arrival);
        // `tools.ozone.moderation.defs#modEventTag` -> `ozone#modEventTag`
        let kind = view.event.kind.rsplit('#').next().unwrap_or_default();
        let name = format!("ozone#{kind}");
        let head = Head { did: Some(did), when, ..Head::of(Action::Ozone) };
        let mut event = EventWriter::begin_alone(out, &self.rules, head, &name);
        json::raw(event.body(), text);
        event.finish();
        self.handled.ozone(kind);
    }
}
