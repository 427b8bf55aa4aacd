//! What librdkafka calls back: deliveries, logs, errors and requests for tokens. It leaves them for the producer thread.
//!
//! The thread that serves the client runs it; librdkafka's own threads only queue. It knows nothing of how a client is made.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::Message;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Headers;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::TIME_REFUSED;
use super::figures::Told;
use crate::dead_letter::Reason;
use crate::metrics::sink::SinkMetrics;
use crate::sink::complaint::Complaint;
use crate::sink::diagnosis::{self, Client, Words};
use crate::sink::oauth::{self, Tokens};
use crate::sink::{Delivery, Failure, Returned, Token, Topic, Verdict, locked};

/// Lines of librdkafka that are kept to find a cause.
const WORDS: usize = 32;

/// What the callbacks leave for the producer thread.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) done: Mutex<Vec<Delivery>>,
    /// What librdkafka said since the last success.
    pub(super) words: Mutex<Vec<Words>>,
    pub(super) complaint: Mutex<Complaint>,
    /// Why the broker takes a topic into no transaction. The client says it here only: the records come back without a reason.
    pub(super) refused: Mutex<Option<String>>,
    /// The broker refused the time of a record. Read from the log: of a record of such a batch it may only be said that it is
    /// not valid.
    pub(super) time_refused: AtomicBool,
    told: Mutex<Told>,
    /// Something is in one of the two.
    troubled: AtomicBool,
    /// A record was delivered since this was last looked at.
    progress: AtomicBool,
}

impl Shared {
    fn keep(&self, words: Words) {
        let mut all = locked(&self.words);
        if all.len() == WORDS {
            all.remove(0);
        }
        all.push(words);
        self.troubled.store(true, Ordering::Relaxed);
    }

    /// Whether a record was delivered since the last call.
    pub(super) fn progressed(&self) -> bool {
        self.progress.swap(false, Ordering::Relaxed)
    }

    fn delivered(&self) {
        self.progress.store(true, Ordering::Relaxed);
        if self.troubled.swap(false, Ordering::Relaxed) {
            locked(&self.words).clear();
            if locked(&self.complaint).delivered() {
                log::info!(event = "kafka_again"; "kafka: records are delivered again");
            }
        }
    }

    pub(super) fn complain(&self, line: &str) {
        self.troubled.store(true, Ordering::Relaxed);
        if locked(&self.complaint).cause(line) {
            log::warn!(event = "kafka_error", error = line; "kafka: {line} (it is tried again until it works)");
        }
    }

    /// The newest words, without the time that they took.
    pub(super) fn last_words(&self) -> Option<String> {
        locked(&self.words).last().map(Words::to_string)
    }
}

pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Arc<Client>,
    pub(super) tokens: Option<Arc<Tokens>>,
    /// The brokers have answered before: what is said now is no failure to start, which [`Librdkafka::prepare`] reports.
    pub(super) runs: bool,
    pub(super) metrics: Arc<SinkMetrics>,
    /// The topics of events.
    pub(super) topics: Vec<String>,
}

impl Context {
    /// An error. What is about a broker is kept, until it is clear what it means; the rest is said.
    fn report(&self, error: &str) {
        self.metrics.kafka_errors.inc();
        let Some(words) = Words::read(error) else {
            log::warn!(
                at_most = 1, event = "kafka_error", error = error;
                "kafka: {error} (it is tried again until it works)"
            );
            return;
        };
        log::debug!("librdkafka: {error}");
        if self.runs {
            match diagnosis::while_running(&self.client, &words) {
                Some(line) => self.shared.complain(&line),
                None => locked(&self.shared.complaint).begin(),
            }
        }
        self.shared.keep(words);
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// Called when most of a token's life is over. Only the client that runs serves this; the others are gone by then.
    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(tokens) = &self.tokens else {
            return Err("no --sasl-oauth-token-url is given".into());
        };
        match tokens.get() {
            Ok(oauth::Token { text, principal, ends_ms }) => {
                Ok(OAuthToken { token: text, principal_name: principal, lifetime_ms: ends_ms })
            }
            Err(why) => {
                self.metrics.kafka_errors.inc();
                self.shared.complain(&why);
                Err(why.into())
            }
        }
    }

    /// Each client has some; only those of the one that runs count.
    fn stats_raw(&self, statistics: &[u8]) {
        if self.runs {
            locked(&self.shared.told).tell(statistics, &self.metrics);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(why) = refusal(message) {
            *locked(&self.shared.refused) = Some(why);
        }
        if message.contains(TIME_REFUSED) {
            self.shared.time_refused.store(true, Ordering::Relaxed);
        }
        match level {
            // A warning at each start: that the property is experimental.
            _ if message.contains("enable.gapless.guarantee") => log::debug!("librdkafka {facility}: {message}"),
            // Told at each start behind another one, whose transactions the broker still ends.
            _ if facility == "GETPID" && message.ends_with("retrying") => log::debug!("librdkafka: {message}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => self.report(message),
            _ => {
                log::debug!("librdkafka {facility}: {message}");
                // A connection that the broker closed is no error to librdkafka, and often all that there is.
                if facility == "FAIL"
                    && let Some(words) = Words::read(message)
                {
                    self.shared.keep(words);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // It follows each failed attempt and says nothing of why: the reason came before it.
            Some(RDKafkaErrorCode::AllBrokersDown) => log::debug!("librdkafka: {error}: {reason}"),
            // Told by who asked for it.
            _ if reason.starts_with("Failed to acquire SASL OAUTHBEARER token") => log::debug!("librdkafka: {reason}"),
            // Its reason begins with the broker's name, as a line of the log does.
            _ if Words::read(reason).is_some() => self.report(reason),
            _ => self.report(&format!("{error}: {reason}")),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Token;

    fn delivery(&self, result: &DeliveryResult<'_>, token: Token) {
        let result = match result {
            Ok(_) => {
                self.shared.delivered();
                Ok(())
            }
            Err((error, message)) => {
                let headers = message.headers().into_iter().flat_map(|h| h.iter());
                let index = self.topics.iter().position(|topic| topic == message.topic());
                let record = Returned {
                    topic: index.map_or(Topic::DeadLetters, |index| Topic::Events(index as u16)),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    headers: headers.map(|h| (h.key.to_string(), h.value.unwrap_or_default().to_vec())).collect(),
                };
                let verdict = error.rdkafka_error_code().map_or(Verdict::Later, verdict);
                Err(Box::new(Failure { error: error.to_string(), verdict, record }))
            }
        };
        locked(&self.shared.done).push(Delivery { token, result });
    }
}

/// The topic, and why it is taken into no transaction: `TxnCoordinator/1: Failed to add partition "TOPIC" [0] to transaction: WHY`.
fn refusal(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Failed to add partition \"")?;
    let (topic, rest) = rest.split_once('"')?;
    let (_, why) = rest.split_once(" to transaction: ")?;
    Some(format!("topic {topic} cannot be written: {why}"))
}

/// What an error of a delivery report means.
fn verdict(code: RDKafkaErrorCode) -> Verdict {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => {
            Verdict::Never(Reason::TooLarge)
        }
        RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidTimestamp | RDKafkaErrorCode::InvalidMessage => {
            Verdict::Never(Reason::Refused)
        }
        // Once a batch is refused, the client gives back what it has not sent; what it had sent behind that batch, the broker
        // refuses for its sequence number.
        RDKafkaErrorCode::PurgeQueue
        | RDKafkaErrorCode::PurgeInflight
        | RDKafkaErrorCode::Fatal
        | RDKafkaErrorCode::GaplessGuarantee
        | RDKafkaErrorCode::OutOfOrderSequenceNumber
        | RDKafkaErrorCode::InvalidDifferentRecord => Verdict::Collateral,
        _ => Verdict::Later,
    }
}

/// Callbacks of the admin client: what they hear is reported as that of the producer is.
pub(super) struct AdminContext(pub(super) Context);

impl ClientContext for AdminContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_taken_into_no_transaction_is_named() {
        let line = "[thrd:main]: TxnCoordinator/1: Failed to add partition \"t.cursor\" [0] to transaction: Broker: No";
        assert_eq!(refusal(line), Some("topic t.cursor cannot be written: Broker: No".into()));
        assert_eq!(refusal("Failed to add partition(s) to transaction on broker TxnCoordinator/1: Broker: No"), None);
    }
}
