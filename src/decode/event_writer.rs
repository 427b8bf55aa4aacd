//! One event on its way into a batch: begun with a head, given its body, finished. It puts key, value, hole and record
//! together, and decides nothing about what passes. On the worker's thread.

use std::ops::Range;

use super::Rules;
use super::batch::{Batch, Hole, Record};
use crate::enrich::Forget;
use crate::event::{self, Action, Format, Head, When, osprey};

/// Records of this collection are what profiles are made of.
const PROFILE: &str = "app.bsky.actor.profile";

/// How far a record's timestamp may be ahead of its arrival. Brokers refuse more than an hour (the default of
/// `message.timestamp.after.max.ms`), and a host's clock, or its malice, must not stop the topic.
const AHEAD_MS: i64 = 10 * 60 * 1000;

/// One event, which is in the batch once it is finished. Dropped before, it leaves nothing.
pub struct EventWriter<'b, 'h> {
    batch: &'b mut Batch,
    format: Format,
    action: Action,
    when: When<'h>,
    seq: u64,
    key: Range<usize>,
    collection: Range<usize>,
    topic: u16,
    /// What the event says about cached metadata, where it is to have any.
    forget: Option<Forget>,
    /// Where the body begins.
    body: usize,
    /// Whether the body stands inside an object that [`event::open`] began.
    inside: bool,
    finished: bool,
}

impl<'b, 'h> EventWriter<'b, 'h> {
    /// Begins an event of the common form: what `head` says, then the body. `collection` is that of the record; empty for
    /// events that have none.
    pub fn begin(batch: &'b mut Batch, rules: &Rules, head: Head<'h>, collection: &str) -> Self {
        let mut writer = Self::at_key(batch, rules, &head, collection);
        event::open(&mut writer.batch.bytes, writer.format, &head);
        writer.body = writer.batch.bytes.len();
        writer.inside = true;
        if rules.enrich && head.did.is_some_and(|did| !did.is_empty()) {
            writer.forget = Some(match head.action {
                Action::Identity => Forget::Identity,
                _ if collection == PROFILE => Forget::Profile,
                _ => Forget::Nothing,
            });
        }
        writer
    }

    /// Begins an event that is its body alone, as upstream gave it; in Osprey's envelope it is called `name`.
    pub fn begin_alone(batch: &'b mut Batch, rules: &Rules, head: Head<'h>, name: &str) -> Self {
        let mut writer = Self::at_key(batch, rules, &head, "");
        if writer.format == Format::Osprey {
            osprey::open(&mut writer.batch.bytes, name);
        }
        writer.body = writer.batch.bytes.len();
        writer
    }

    fn at_key(batch: &'b mut Batch, rules: &Rules, head: &Head<'h>, collection: &str) -> Self {
        let topic = rules.routes.topic(head.action, collection);
        let start = batch.bytes.len();
        batch.bytes.extend_from_slice(head.did.unwrap_or_default().as_bytes());
        let key = start..batch.bytes.len();
        batch.bytes.extend_from_slice(collection.as_bytes());
        let collection = key.end..batch.bytes.len();
        EventWriter {
            format: rules.format,
            action: head.action,
            when: head.when,
            seq: head.seq.unwrap_or(0),
            key,
            collection,
            topic,
            forget: None,
            body: 0,
            inside: false,
            finished: false,
            batch,
        }
    }

    /// Where the body is appended.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.batch.bytes
    }

    /// Puts the event into the batch.
    pub fn finish(mut self) {
        match (self.inside, self.format) {
            (true, format) => event::close(&mut self.batch.bytes, format, &self.when),
            (false, Format::Osprey) => osprey::close(&mut self.batch.bytes, &self.when),
            (false, Format::Plain) => {}
        }
        let value = self.collection.end..self.batch.bytes.len();
        self.batch.records.push(Record {
            key: self.key.clone(),
            value,
            time_ms: record_time(self.when.ms, self.batch.arrived_ms),
            action: self.action,
            collection: self.collection.clone(),
            seq: self.seq,
            topic: self.topic,
        });
        if let Some(forget) = self.forget {
            let record = self.batch.records.len() - 1;
            self.batch.holes.push(Hole { record, at: self.body, time_ms: self.when.ms, forget });
        }
        self.finished = true;
    }
}

impl Drop for EventWriter<'_, '_> {
    fn drop(&mut self) {
        if !self.finished {
            self.batch.bytes.truncate(self.key.start);
        }
    }
}

/// The Kafka timestamp of an event: its time, or that of arrival where Kafka could not take it.
fn record_time(ms: i64, arrived_ms: i64) -> i64 {
    if (1..=arrived_ms + AHEAD_MS).contains(&ms) { ms } else { arrived_ms }
}
