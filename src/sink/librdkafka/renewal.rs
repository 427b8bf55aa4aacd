//! A new client without a restart, when certificates, keys, CAs or secrets were renewed in their files.
//!
//! The thread `renewal` of each client runs it. It tries what was renewed with a client of its own, beside the one that runs.
//! If the brokers answer, the one that runs is retired: it takes nothing more, and is replaced once it holds nothing
//! ([`crate::sink::Sink::prepare`]). If not, it stays. How records are sent again is the producer's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};

use super::context::Context;
use super::{Librdkafka, Open};
use crate::metrics::sink::SinkMetrics;
use crate::sink::NotReady;
use crate::sink::files::{Files, Watch, read_again};
use crate::sink::kafka_options::Kafka;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);
/// A retired client that got nothing delivered for so long gives back what it has not sent.
const STILL: Duration = Duration::from_secs(5);

/// Watches the files of one client.
pub(super) struct Renewal {
    options: Kafka,
    metrics: Arc<SinkMetrics>,
    /// Gone when the client is replaced.
    producer: Weak<BaseProducer<Context>>,
    retired: Arc<AtomicBool>,
    files: Arc<Files>,
    watch: Watch,
    /// What the retired client held at the last look, and since when it is so much.
    held: (i32, Instant),
}

impl Renewal {
    /// For `open`, the client of this sink.
    pub(super) fn of(sink: &Librdkafka, open: &Open) -> Renewal {
        Renewal {
            options: sink.options.clone(),
            metrics: sink.metrics.clone(),
            producer: Arc::downgrade(&open.producer),
            retired: open.retired.clone(),
            files: sink.files.clone(),
            watch: Watch::new(sink.seen.clone()),
            held: (0, Instant::now()),
        }
    }

    /// One look. `false` when the client is gone.
    pub(super) fn turn(&mut self) -> bool {
        std::thread::sleep(LOOK);
        if self.retired.load(Ordering::Relaxed) {
            return self.producer.upgrade().is_some_and(|producer| self.drain(&producer));
        }
        if self.watch.seen(Instant::now(), self.files.look()) {
            self.renew();
        }
        self.producer.strong_count() > 0
    }

    fn renew(&mut self) {
        let (used, seen) = self.watch.both();
        let flags = self.files.changed(used, seen);
        let unreadable = seen.iter().find_map(|one| one.as_ref().err());
        match unreadable.map_or_else(|| self.attempt(), |why| Err(why.clone())) {
            Ok(()) => {
                log::info!(
                    event = "kafka_renewed", flag = flags;
                    "kafka: what {flags} has now works: a new client goes on when all that is under way is delivered"
                );
                self.held = (0, Instant::now());
                self.retired.store(true, Ordering::Relaxed);
            }
            Err(why) if self.watch.refused(Instant::now()) => log::warn!(
                event = "kafka_not_renewed", flag = flags, error = why;
                "kafka: {flags} has changed, and does not work: {why}. The client goes on with what it had, and this is tried again"
            ),
            Err(why) => log::debug!("kafka: {flags}: still {why}"),
        }
    }

    /// Whether the brokers answer a client with what the files have now. Blocks for some seconds at most.
    fn attempt(&self) -> Result<(), String> {
        let options = read_again(&self.options)?.unwrap_or_else(|| self.options.clone());
        let candidate = Librdkafka::of(options, self.metrics.clone());
        let probe = BaseProducer::from_config_and_context(&candidate.config, candidate.context(false))
            .map_err(|e| e.to_string())?;
        let answer = candidate.authorize(probe.client()).and_then(|()| candidate.metadata(&probe).map(drop));
        answer.map_err(|(NotReady::Yet(why) | NotReady::Ever(why) | NotReady::Settings(why))| why)
    }

    /// The producer waits until the client holds nothing. One that cannot deliver any more, because its login is refused,
    /// would hold its records for ever. What is on its way to a broker is left alone: it could arrive a second time, behind
    /// newer records. It comes to an end by itself, and is in the queue then, if the connection broke.
    fn drain(&mut self, producer: &BaseProducer<Context>) -> bool {
        let now = Instant::now();
        let held = producer.in_flight_count();
        if held == 0 || held != self.held.0 {
            self.held = (held, now);
        } else if now.duration_since(self.held.1) >= STILL {
            log::debug!("kafka: the client that is replaced delivers nothing: it gives back what it has queued");
            producer.purge(PurgeConfig::default().queue());
        }
        true
    }
}
