//! Transactions of the librdkafka client.
//!
//! A client with a transactional id also fences: the broker ends what an earlier client of the same id left open, and refuses
//! everything that the earlier client still sends. It knows positions as keys and texts only. The producer's thread calls all
//! of it, or the checkpointer's where only positions are written.

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_commit_transaction, rd_kafka_error_code, rd_kafka_error_destroy, rd_kafka_error_is_fatal,
    rd_kafka_error_is_retriable, rd_kafka_error_string, rd_kafka_error_t, rd_kafka_error_txn_requires_abort,
};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use super::context::Context;
use super::{ASK, Librdkafka};
use crate::checkpoint::topic::{Entry, Key, Mark};
use crate::sink::transaction::{Identity, POSITION, TIMEOUT, Transactions, Trouble, Turn, client_memory};
use crate::sink::{NotReady, Refused, locked};

/// One call of commit or abort.
const CALL: Duration = Duration::from_millis(500);
/// Headers of a position.
pub(super) const RUN: &str = "run";
pub(super) const NUMBER: &str = "number";
pub(super) const WRITER: &str = "writer";

/// The client's settings that transactions need.
fn transactional(config: &mut ClientConfig, identity: &Identity, memory_limit: usize) {
    let timeout = TIMEOUT.as_millis().to_string();
    config
        .set("transactional.id", &identity.transactional_id)
        .set("transaction.timeout.ms", &timeout)
        // What is not delivered by then fails the transaction, and is sent again in the next one.
        .set("message.timeout.ms", &timeout)
        // The batches are kept until they are committed: what the client has is a second copy.
        .set("queue.buffering.max.kbytes", client_memory(memory_limit).div_euclid(1 << 10).to_string())
        // A refusal aborts the transaction, so that nothing can pass the refused record.
        .remove("enable.gapless.guarantee");
}

fn trouble(fatal: bool, retriable: bool, text: String) -> Trouble {
    // How long it took differs each time, and the same trouble is to be said once.
    let text = match text.rsplit_once(" (after ") {
        Some((words, took)) if took.ends_with(" ms)") => words.to_string(),
        _ => text,
    };
    match (fatal, retriable) {
        (true, _) => Trouble::Lost(text),
        (false, true) => Trouble::Again(text),
        (false, false) => Trouble::Abort(text),
    }
}

fn sort(result: Result<(), KafkaError>) -> Result<(), Trouble> {
    result.map_err(|error| match error {
        KafkaError::Transaction(e) => trouble(e.is_fatal(), e.is_retriable(), e.string()),
        other => Trouble::Abort(other.to_string()),
    })
}

/// Reads and frees an error of librdkafka.
fn taken(error: *mut rd_kafka_error_t) -> Result<(), Trouble> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until it is destroyed, once, behind the last use; its text is copied before.
    unsafe {
        let text = CStr::from_ptr(rd_kafka_error_string(error)).to_string_lossy().into_owned();
        let code = RDKafkaErrorCode::from(rd_kafka_error_code(error));
        let (fatal, retriable) = (rd_kafka_error_is_fatal(error) != 0, rd_kafka_error_is_retriable(error) != 0);
        let aborts = rd_kafka_error_txn_requires_abort(error) != 0;
        rd_kafka_error_destroy(error);
        let text = if text.is_empty() { code.to_string() } else { text };
        Err(trouble(fatal, retriable && !aborts, text))
    }
}

impl Librdkafka {
    /// The same with transactions.
    pub fn transactional(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self.with_transactions();
        self
    }

    /// Puts what transactions need into the client's settings, where there are any.
    pub(super) fn with_transactions(&mut self) {
        if let Some(identity) = &self.identity {
            transactional(&mut self.config, identity, self.options.memory_limit);
        }
    }

    fn producer(&self) -> Option<&BaseProducer<Context>> {
        self.open.as_ref().map(|open| &*open.producer)
    }

    /// Ends what an earlier client of this id left open, and fences it.
    pub(super) fn fence(&self, producer: &BaseProducer<Context>, identity: &Identity) -> Result<(), NotReady> {
        let id = &identity.transactional_id;
        match producer.init_transactions(ASK) {
            Ok(()) => Ok(()),
            Err(KafkaError::Transaction(e)) if e.code() == RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
                Err(NotReady::Yet(format!(
                    "no right to the transactional id {id}: it needs Write and Describe on TransactionalId {id}"
                )))
            }
            Err(e) => {
                let text = match &e {
                    KafkaError::Transaction(e) => e.string(),
                    other => other.to_string(),
                };
                Err(self.yet(&format!("no transaction can be begun under {id}: {text}"), &[]))
            }
        }
    }
}

impl Transactions for Librdkafka {
    fn turn(&mut self) -> Result<Turn, NotReady> {
        self.take_turn()
    }

    fn look(&mut self, wanted: &[Key]) -> Result<Vec<Entry>, NotReady> {
        self.read_positions(wanted)
    }

    fn has_open(&mut self, run: &str) -> Result<bool, NotReady> {
        self.hides_positions(run)
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        locked(&self.shared.refused).take();
        match self.producer() {
            Some(_) if self.open.as_ref().is_some_and(super::Open::is_broken) => Err(Trouble::Lost(
                "the client takes nothing any more: it broke, or its certificates were renewed".into(),
            )),
            Some(producer) => sort(producer.begin_transaction()),
            None => Err(Trouble::Lost("not connected".into())),
        }
    }

    fn save(&mut self, key: &[u8], value: Option<&[u8]>, mark: &Mark) -> Result<(), Refused> {
        let (Some(producer), Some(identity)) = (self.producer(), self.identity.as_ref()) else {
            return Err(Refused::Error("not connected".into()));
        };
        let number = mark.number.to_string();
        let headers = [(RUN, &mark.run), (NUMBER, &number), (WRITER, &identity.transactional_id)];
        let headers = headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
            all.insert(Header { key, value: Some(value.as_bytes()) })
        });
        let mut record =
            BaseRecord::with_opaque_to(&identity.cursor_topic, POSITION).partition(0).key(key).headers(headers);
        if let Some(value) = value {
            record = record.payload(value);
        }
        match producer.send(record) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Err(Refused::Full),
            Err(_) if self.open.as_ref().is_some_and(super::Open::is_broken) => Err(Refused::Broken),
            Err((error, _)) => Err(Refused::Error(error.to_string())),
        }
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        let Some(producer) = self.producer() else { return Err(Trouble::Lost("not connected".into())) };
        // The crate's own call flushes by itself before, in steps of 100 ms, which this one does without.
        // SAFETY: the client lives until the call returns, which gives null or an error that is ours.
        taken(unsafe { rd_kafka_commit_transaction(producer.client().native_ptr(), CALL.as_millis() as i32) })
    }

    fn refusal(&mut self) -> Option<String> {
        locked(&self.shared.refused).take()
    }

    fn abort(&mut self) -> Result<(), Trouble> {
        let Some(producer) = self.producer() else { return Err(Trouble::Lost("not connected".into())) };
        let result = sort(producer.abort_transaction(CALL));
        if matches!(result, Err(Trouble::Lost(_))) {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        // The same client goes on, and knows the limits of the topics only as they were when it was made.
        if result.is_ok() && self.shared.time_refused.swap(false, Ordering::Relaxed) {
            self.read_times_again();
        }
        result
    }
}
