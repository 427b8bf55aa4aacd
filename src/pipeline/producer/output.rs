//! What both ways to deliver do with the output alike: hand it an event or a record of our own, and tell that it is not ready.
//! On the producer's thread.

use super::Producer;
use crate::clock;
use crate::decode::batch::Batch;
use crate::event::Format;
use crate::event::osprey;
use crate::pipeline::permits::Failed;
use crate::sink::{End, NotReady, Outgoing, Refused, Returned, Sink, Token, Topic};

impl Producer {
    /// Hands the record of the batch with this index to the sink.
    pub(super) fn send_event(&mut self, batch: &mut Batch, index: usize, token: Token) -> Result<(), Refused> {
        self.with_event(batch, index, |sink, out| sink.send(out, token))
    }

    /// The record of the batch with this index, to be sent later.
    pub(super) fn kept_event(&mut self, batch: &mut Batch, index: usize) -> Returned {
        self.with_event(batch, index, |_, out| Returned::of(out))
    }

    /// Osprey's envelope gets its id here.
    fn with_event<T>(
        &mut self,
        batch: &mut Batch,
        index: usize,
        f: impl FnOnce(&mut dyn Sink, &Outgoing<'_>) -> T,
    ) -> T {
        let record = &batch.records[index];
        if self.format == Format::Osprey {
            osprey::stamp(&mut batch.bytes[record.value.clone()], self.snowflake.next(clock::now_ms()));
        }
        let bytes = &batch.bytes;
        let mut seq = itoa::Buffer::new();
        let headers = [
            ("seq", seq.format(record.seq).as_bytes()),
            ("action", record.action.name().as_bytes()),
            ("collection", &bytes[record.collection.clone()]),
        ];
        let out = Outgoing {
            topic: Topic::Events(record.topic),
            key: &bytes[record.key.clone()],
            value: &bytes[record.value.clone()],
            time_ms: record.time_ms,
            headers: if self.record_headers { &headers } else { &[] },
        };
        f(&mut *self.sink, &out)
    }

    /// What a topic is called in the log.
    pub(super) fn name(&self, topic: Topic) -> String {
        match topic {
            Topic::Events(index) => {
                let name = self.topics.get(usize::from(index)).map_or("", |topic| topic.name.as_str());
                format!("topic {name}")
            }
            Topic::DeadLetters => "the topic of dead letters".into(),
        }
    }

    /// Hands a record to the sink that came back, or that we made.
    pub(super) fn send_own(&mut self, record: &Returned, time_ms: i64, token: Token) -> Result<(), Refused> {
        let headers: Vec<(&str, &[u8])> = record.headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let out = Outgoing { topic: record.topic, key: &record.key, value: &record.value, time_ms, headers: &headers };
        self.sink.send(&out, token)
    }

    /// Everything of a source up to an event of this time (0: unknown) and seq is delivered.
    pub(super) fn has_reached(&mut self, source: usize, time_ms: i64, seq: Option<u64>) {
        let lane = &mut self.lanes[source];
        if let Some(seq) = seq {
            lane.last_seq_delivered.set(seq as i64);
        }
        if let Some(gauge) = lane.lag.as_ref().filter(|_| time_ms != 0) {
            let lag = (clock::now_ms() - time_ms) as f64 / 1000.0;
            gauge.set(lag);
            self.health.delivered(source, lag);
        }
    }

    /// Tells why the output is not ready; fails when it never will be. `said`: the reason of the attempt before, which is not
    /// logged again. Until it is ready, the reason stands in the status line and in `/readyz`.
    pub(super) fn not_ready(&mut self, why: NotReady, said: &mut Option<String>) -> Result<(), End> {
        match why {
            NotReady::Ever(reason) => Err(End::Failed(reason)),
            NotReady::Settings(reason) => {
                self.permits.fail(Failed::Settings(reason.clone()));
                Err(End::Failed(reason))
            }
            NotReady::Yet(reason) => {
                self.metrics.kafka_errors.inc();
                if said.as_ref() != Some(&reason) {
                    log::warn!(
                        event = "output_not_ready", reason = reason;
                        "output: {reason} (it is tried again until it works)"
                    );
                    *said = Some(reason.clone());
                }
                self.health.sink(Err(reason));
                Ok(())
            }
        }
    }

    /// The output is ready, after `said` where it was not.
    pub(super) fn is_ready(&self, said: Option<String>) {
        if said.is_some() {
            log::info!(event = "output_ready"; "output: connected");
        }
        self.health.sink(Ok(()));
    }
}
