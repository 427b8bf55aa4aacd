//! One moderation event of Ozone to a record: as the API gave it, byte for byte. On the worker's thread; it knows no page
//! and no session.

use super::event_writer::EventWriter;
use super::{Batch, Workbench, unreadable};
use crate::atproto::json_output;
use crate::atproto::ozone::View;
use crate::dead_letter::Reason;
use crate::event::{Action, Head, When};
use crate::source::job::Seen;

/// Appends the event. Its time was read from the page; one that is not an object of JSON is a dead letter.
pub fn message(bench: &mut Workbench, text: &[u8], _: &Seen, out: &mut Batch) {
    let view = match View::read(text) {
        Ok(view) => view,
        Err(e) => return unreadable(text, Reason::BadFrame, format!("not an event of Ozone: {e}"), out),
    };
    let did = view.subject.did();
    if !did.is_empty() && !bench.rules.filter.did(did) {
        bench.metrics.filtered.inc();
        return;
    }
    let mut text_of_arrival = String::new();
    let when = When::given(&view.created_at, out.arrived_ms, &mut text_of_arrival);
    // `tools.ozone.moderation.defs#modEventTag` -> `ozone#modEventTag`
    let kind = view.event.kind.rsplit('#').next().unwrap_or_default();
    let name = format!("ozone#{kind}");
    let head = Head { did: Some(did), when, ..Head::of(Action::Ozone) };
    let mut event = EventWriter::begin_alone(out, &bench.rules, head, &name);
    json_output::raw(event.body(), text);
    event.finish();
    bench.handled.ozone(kind);
}
