//! The client's work: what is called back for deliveries and errors, and what keeps a client going that is stuck.
//!
//! The thread `delivery` of each client runs it, for as long as the client is used or holds records. What was delivered it
//! leaves in [`Shared`] for the producer's thread, which it wakes once for many records; what a failure means for a record
//! is not known here. With few records in flight the producer's thread serves callbacks itself (see
//! [`queue`](super::queue)).

use std::ffi::CString;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};

use super::context::{Context, Shared};
use super::queue::{Queue, SETTLE};
use super::{Librdkafka, Open};
use crate::sink::diagnosis::{self, Client};
use crate::sink::locked;

/// How often it looks whether the client is stuck, whatever there is to serve.
const LOOK: Duration = Duration::from_secs(5);
/// An error that librdkafka does not explain, and that did not pass by then, is looked into.
const LOOK_INTO: Duration = Duration::from_secs(5);
/// After so long without a delivery, and again each time, the servers are named again.
const NAME_AGAIN: Duration = Duration::from_secs(15);

/// Serves one client.
pub(super) struct Serving {
    queue: Arc<Queue>,
    producer: Arc<BaseProducer<Context>>,
    shared: Arc<Shared>,
    client: Arc<Client>,
    servers: Option<CString>,
    /// When it was last looked whether the client is stuck.
    looked: Instant,
    /// Nothing was delivered since, though records are in flight.
    still: Instant,
}

impl Serving {
    /// For `open`, the client of this sink.
    pub(super) fn of(sink: &Librdkafka, open: &Open) -> Serving {
        Serving {
            queue: open.queue.clone(),
            producer: open.producer.clone(),
            shared: sink.shared.clone(),
            client: sink.client.clone(),
            servers: CString::new(sink.options.servers.join(",")).ok(),
            looked: Instant::now(),
            still: Instant::now(),
        }
    }

    /// One call. `false` when the client was replaced, and has given everything back.
    pub(super) fn turn(&mut self) -> bool {
        self.queue.wait(LOOK);
        if self.queue.serve(&self.producer) && self.producer.in_flight_count() > 0 {
            thread::sleep(SETTLE);
            self.queue.serve(&self.producer);
        }
        if !locked(&self.shared.done).is_empty() {
            self.queue.wake_taker();
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.look();
        }
        Arc::strong_count(&self.producer) > 1 || self.producer.in_flight_count() > 0
    }

    /// Whether the client is stuck, and what helps it on.
    fn look(&mut self) {
        let is_waiting = self.producer.in_flight_count() > 0;
        // Nothing is delivered, so that nothing waits for this thread while it asks.
        if is_waiting && locked(&self.shared.complaint).is_unexplained(LOOK_INTO) {
            let words = locked(&self.shared.words).clone();
            if let Some(line) = diagnosis::of(&self.client, &words, &[]).or_else(|| self.shared.last_words()) {
                self.shared.complain(&line);
            }
        }
        // A record that was taken just when the client broke is neither sent nor given back by itself.
        if is_waiting && self.producer.client().fatal_error().is_some() {
            self.producer.purge(PurgeConfig::default().queue());
        }
        if self.shared.progressed() || !is_waiting {
            self.still = Instant::now();
        } else if self.still.elapsed() >= NAME_AGAIN {
            self.still = Instant::now();
            self.name_servers();
        }
    }

    /// A cluster of one node that is just fenced answers metadata with no broker, and then librdkafka (2.12.1) has none
    /// left to ask, for ever (seen 2 times in some hundred outages). Naming the servers again is harmless where they are known.
    fn name_servers(&self) {
        let Some(servers) = &self.servers else { return };
        // SAFETY: the client lives as long as `self`, the text until the call returns, which copies it.
        unsafe { rdkafka::bindings::rd_kafka_brokers_add(self.producer.client().native_ptr(), servers.as_ptr()) };
    }
}
