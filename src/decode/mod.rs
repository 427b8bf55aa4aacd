//! What becomes of a message: records and dead letters, in a [`Batch`].
//!
//! A decoder is a function of the type [`Decode`], one file for each kind of source, and pure but for counters: it reads no
//! clock (the time of arrival comes with the job) and knows neither sockets nor Kafka. The formats of messages are read in
//! [`atproto`](crate::atproto), the forms of events are written in [`event`]. It runs on the worker threads.

pub mod batch;
pub mod event_writer;
pub mod jetstream;
pub mod ozone;
pub mod relay;
pub mod tap;

pub use batch::Batch;

use std::sync::Arc;

use crate::atproto::car::CarIndex;
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{self, Action, Format, Head, When};
use crate::filter::Filter;
use crate::metrics::decode::{DecodeMetrics, Handled};
use crate::route::Routes;
use crate::source::job::Seen;
use event_writer::EventWriter;

/// Appends to the batch what one message gives. A source is a reader and one of these.
pub type Decode = fn(&mut Workbench, message: &[u8], seen: &Seen, out: &mut Batch);

/// What is made of each message.
#[derive(Clone)]
pub struct Rules {
    /// Which of the two forms is written.
    pub format: Format,
    /// Which events pass.
    pub filter: Filter,
    /// Which topic each event goes to.
    pub routes: Routes,
    /// Whether each record is hashed and compared with its CID.
    pub verify: bool,
    /// Whether something of the accounts is to be known: for metadata, or for the filter of services.
    pub enrich: bool,
}

/// What a worker has at hand for every decoder: the rules, the counters, and buffers that are used again.
pub struct Workbench {
    rules: Rules,
    car: CarIndex,
    metrics: Arc<DecodeMetrics>,
    handled: Handled,
}

impl Workbench {
    /// A workbench of one worker, with buffers of its own.
    pub fn new(rules: Rules, metrics: Arc<DecodeMetrics>) -> Self {
        Workbench { rules, car: CarIndex::default(), handled: Handled::new(metrics.clone()), metrics }
    }

    /// What is made of each message.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Counts the records that a batch has in the end.
    pub fn count(&mut self, batch: &Batch) {
        batch.count(&mut self.handled);
    }

    /// Appends an `info` event of our own making, at the time of arrival.
    pub fn notice(&mut self, name: &str, message: &str, out: &mut Batch) {
        let mut text = String::new();
        let head = Head { when: When::at(out.arrived_ms, &mut text), ..Head::of(Action::Info) };
        let mut event = EventWriter::begin(out, &self.rules, head, "");
        event::info(event.body(), name, message);
        event.finish();
    }
}

/// A message of which nothing can be read.
fn unreadable(message: &[u8], reason: Reason, detail: impl Into<String>, out: &mut Batch) {
    out.bury(DeadLetter { reason, detail: detail.into(), seq: 0, bytes: message.to_vec() });
}

/// At most 256 bytes, for people: a path or a DID may be megabytes.
fn short(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}
