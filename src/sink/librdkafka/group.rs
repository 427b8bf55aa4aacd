//! Whose turn it is, of the instances that share an identity: Kafka's group coordinator decides it, and no clock of ours.
//!
//! They are members of a consumer group on the topic of positions, and whoever is assigned its only partition has the turn.
//! The partition stays where it is while others come and go (cooperative-sticky); it moves when its owner leaves, or is not heard
//! of for the session timeout. That alone makes nobody safe: whoever gets the turn fences the one before, whose transactions fail
//! from then on. So an owner that loses the partition needs no message of it, and goes on until it is fenced. No position is read
//! here, and none committed. The producer's thread calls all of it; librdkafka's own threads send the heartbeats.

use std::ffi::CStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::bindings::{rd_kafka_mem_free, rd_kafka_memberid};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Librdkafka;
use super::context::Context;
use crate::sink::files::Seen;
use crate::sink::transaction::{Identity, Turn};
use crate::sink::{NotReady, locked};

/// Of the session timeout, between two heartbeats.
const PART: u32 = 10;
/// But no longer: by the answer to a heartbeat, members learn that another one has left.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A producer's thread that does not come round for so long hangs, and leaves the group by that. More than each of its waits.
const HANGS: Duration = Duration::from_secs(300);
/// To leave, a member waits for a rebalance that is under way, but no longer.
const FAREWELL: Duration = Duration::from_secs(2);
/// Between two questions which partitions there are.
const REFRESH_MS: &str = "5000";
/// Between two looks at the files of certificates and secrets.
const LOOK: Duration = Duration::from_secs(2);

/// The place in the group. Dropping it leaves the group, so that the next one has its turn at once.
pub(super) struct Member {
    consumer: BaseConsumer<Seat>,
    /// What the files had when it was made, and when that was last looked at.
    seen: Seen,
    looked: Instant,
    /// What went wrong last.
    trouble: Option<KafkaError>,
}

/// Callbacks of the consumer, and what they heard.
struct Seat {
    context: Context,
    turn: Mutex<Turn>,
}

impl ClientContext for Seat {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match facility {
            // It says that properties of a producer mean nothing to it.
            "CONFWARN" => log::debug!("librdkafka {facility}: {message}"),
            _ => self.context.log(level, facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ConsumerContext for Seat {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut turn = locked(&self.turn);
        match rebalance {
            Rebalance::Assign(list) if list.count() > 0 => {
                // Nothing is read there. If this fails, what comes is dropped.
                let _ = consumer.pause(list);
                *turn = Turn::Ours;
            }
            // Nothing more: what we have stays.
            Rebalance::Assign(_) if *turn == Turn::Unknown => *turn = Turn::Others,
            Rebalance::Assign(_) => {}
            Rebalance::Revoke(_) | Rebalance::Error(_) => *turn = Turn::Unknown,
        }
        log::debug!("group: {rebalance:?}: {turn:?}");
    }
}

impl Member {
    /// Takes a place in the group. Asks nobody yet.
    fn join(sink: &Librdkafka, identity: &Identity, takeover_after: Duration) -> Result<Member, NotReady> {
        let mut config = sink.config.clone();
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        config
            .set("group.id", &identity.transactional_id)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", milliseconds(takeover_after))
            .set("heartbeat.interval.ms", milliseconds(HEARTBEAT.min(takeover_after / PART)))
            .set("max.poll.interval.ms", milliseconds(HANGS.max(takeover_after)))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "latest")
            .set("statistics.interval.ms", "0")
            // Whoever assigns the partition may not know yet of a topic that was only just created, and gives it to nobody.
            .set("topic.metadata.refresh.interval.ms", REFRESH_MS)
            // With it the place would be kept for a member that has left.
            .remove("group.instance.id")
            .remove("transactional.id");
        // Before they are used, so that a change meanwhile shows.
        let seen = sink.files.look();
        let seat = Seat { context: sink.context(false), turn: Mutex::new(Turn::Unknown) };
        let consumer = BaseConsumer::from_config_and_context(&config, seat)
            .map_err(|e| NotReady::Ever(format!("no member of the group {}: {e}", identity.transactional_id)))?;
        sink.authorize(consumer.client())?;
        consumer
            .subscribe(&[&identity.cursor_topic])
            .map_err(|e| NotReady::Ever(format!("no member of the group {}: {e}", identity.transactional_id)))?;
        Ok(Member { consumer, seen, looked: Instant::now(), trouble: None })
    }

    /// Serves what has come since the last call. Hardly waits.
    fn serve(&mut self) {
        // A call without any time would give up behind the first line of a log.
        while let Some(came) = self.consumer.poll(Duration::from_millis(1)) {
            self.trouble = came.err().or(self.trouble.take());
        }
    }

    fn is_one(&self) -> bool {
        // SAFETY: the client lives until both calls are over; the text is a copy of ours, freed once, behind its last use.
        unsafe {
            let client = self.consumer.client().native_ptr();
            let id = rd_kafka_memberid(client);
            let is_one = !id.is_null() && !CStr::from_ptr(id).is_empty();
            if !id.is_null() {
                rd_kafka_mem_free(client, id.cast());
            }
            is_one
        }
    }

    fn turn(&self) -> Turn {
        let turn = *locked(&self.consumer.context().turn);
        // Without an owned partition nobody says that the group has dropped us.
        if turn == Turn::Others && !self.is_one() { Turn::Unknown } else { turn }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A consumer that is closed without a partition does not leave the group (librdkafka 2.12.1): the others would wait for
        // it at the next rebalance, until its session has ended. It leaves if it has unsubscribed before.
        self.consumer.unsubscribe();
        let until = Instant::now() + FAREWELL;
        while self.is_one() && Instant::now() < until {
            self.consumer.poll(Duration::from_millis(50));
        }
    }
}

impl Librdkafka {
    /// As [`crate::sink::transaction::Transactions::turn`].
    pub(super) fn take_turn(&mut self) -> Result<Turn, NotReady> {
        let Some(identity) = self.identity.clone() else { return Ok(Turn::Ours) };
        let Some(takeover_after) = identity.takeover_after else { return Ok(Turn::Ours) };
        if let Some(member) = &mut self.member
            && member.turn() != Turn::Ours
            && member.looked.elapsed() >= LOOK
        {
            member.looked = Instant::now();
            // Who works keeps its place: to leave is to hand over.
            if member.seen != self.files.look() {
                self.member = None;
            }
        }
        if self.member.is_none() {
            self.member = Some(self.join(&identity, takeover_after)?);
        }
        let Some(member) = &mut self.member else { return Ok(Turn::Unknown) };
        member.serve();
        let (turn, trouble) = (member.turn(), member.trouble.clone());
        let group = &identity.transactional_id;
        match (turn, trouble) {
            (Turn::Unknown, Some(KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed))) => {
                Err(NotReady::Yet(format!("no right to the consumer group {group}: it needs Read on Group {group}")))
            }
            (Turn::Unknown, Some(trouble)) => Err(self.yet(&format!("consumer group {group}: {trouble}"), &[])),
            (Turn::Unknown, None) => Ok(Turn::Unknown),
            (turn, _) => {
                member.trouble = None;
                Ok(turn)
            }
        }
    }

    fn join(&mut self, identity: &Identity, takeover_after: Duration) -> Result<Member, NotReady> {
        // Somebody who cannot take over is to learn it now. Who works already has other things to do than to ask.
        if self.open.is_none() {
            self.read_files_again();
            let asked = self.ask(&|_| Ok(()));
            self.failed = asked.is_err();
            asked?;
        }
        Member::join(self, identity, takeover_after)
    }
}
