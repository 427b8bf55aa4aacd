//! The producer against a scripted sink: thousands of seeded schedules of full queues, errors, refusals for good, late, lost
//! and repeated reports, and stops at any moment. Held against what the design promises:
//!
//! - per partition, first deliveries are in the order of each source;
//! - every record is delivered or a dead letter, and only a record that the sink never takes is a dead letter;
//! - the frontier never passes a record that is neither;
//! - a topic that refuses until everything of the other one is delivered does not hold that up;
//! - all permits come back, and it ends.
//!
//! A schedule that fails prints its seed; `ATKAFKA_MODEL_SEED=N cargo test --test producer_model` runs that one alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use atkafka::checkpoint::Position;
use atkafka::dead_letter::Reason;
use atkafka::decode;
use atkafka::decode::batch::{Batch, Job, Record};
use atkafka::event::osprey::Snowflake;
use atkafka::event::{Action, Format};
use atkafka::health::Health;
use atkafka::metrics::Metrics;
use atkafka::pipeline::checkpointer::{self, Keep};
use atkafka::pipeline::inbox::inbox;
use atkafka::pipeline::permits::Permits;
use atkafka::pipeline::producer::{Lane, Letters, Producer};
use atkafka::sink::{
    Delivery, End, Failure, NotReady, Outgoing, Refused, Returned, SameCluster, Sink, Start, State, Token, Topic,
    Verdict,
};
use atkafka::source::job::Work;
use crossbeam_channel::bounded;

const SCHEDULES: u64 = 2_000;
const PARTITIONS: usize = 3;
/// Calls of `poll` in one schedule, and how long it may take: more of both is a livelock. A machine with fifty programs at
/// work gave the other threads nothing for ten seconds.
const POLLS: usize = 100_000;
const LONGEST: Duration = Duration::from_secs(60);

/// A record of the schedule: `source ordinal index`, and whether the sink never takes it.
type Id = (usize, u64, usize);

fn value(id: Id, bad: bool) -> String {
    format!("{} {} {} {}", id.0, id.1, id.2, if bad { "bad" } else { "good" })
}

fn parse(value: &[u8]) -> (Id, bool) {
    let text = std::str::from_utf8(value).expect("our own");
    let mut words = text.split(' ');
    let mut number = || words.next().and_then(|w| w.parse::<u64>().ok()).expect("a number");
    ((number() as usize, number(), number() as usize), text.ends_with("bad"))
}

/// What became of the records, shared by the sink and the test.
#[derive(Default)]
struct World {
    /// By partition, everything that was appended, with repeats.
    logs: [Vec<Id>; PARTITIONS],
    /// Reported as delivered to the producer.
    reported: BTreeSet<Id>,
    /// In the dead-letter topic.
    letters: BTreeSet<Id>,
}

struct Held {
    token: Token,
    record: Returned,
}

/// How often something goes wrong in one schedule, in thousandths.
#[derive(Debug, Clone, Copy)]
struct Odds {
    full: u32,
    error: u32,
    passing: u32,
    lost: u32,
    repeated: u32,
    retired: u32,
}

/// A sink as librdkafka is one with `enable.gapless.guarantee`: a partition takes batches in order; when one is refused, the
/// client is broken, and what it holds comes back, in any order, but for what other partitions had taken already.
struct Scripted {
    rng: fastrand::Rng,
    odds: Odds,
    world: Arc<Mutex<World>>,
    metrics: Arc<Metrics>,
    names: Vec<String>,
    all: Arc<BTreeMap<Id, bool>>,
    permits: Arc<Permits>,
    /// Close the permits at this poll.
    stop_at: usize,
    polls: usize,
    began: Instant,
    capacity: usize,
    held: [VecDeque<Held>; PARTITIONS],
    /// Reports on their way, each with its record.
    reports: VecDeque<(Id, Delivery)>,
    /// Frontiers at the last look.
    seen: Vec<i64>,
    dead_letter_topic: bool,
    broken: bool,
    /// This topic refuses everything until these, which are all of the other topic, are delivered.
    refuses: Option<(u16, Vec<Id>)>,
    /// It takes nothing more and delivers what it holds, as a client whose files were renewed.
    retired: bool,
    /// Wakes the producer, once it is prepared.
    wake: Option<Thread>,
    /// It wakes nobody: the producer has to look by itself when it was told to.
    naps: bool,
}

/// Partitions belong to two topics in turn.
fn topic_of(key: &[u8]) -> u16 {
    (usize::from(key[0]) % PARTITIONS % 2) as u16
}

impl Scripted {
    fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.u32(0..1000) < thousandths
    }

    fn append(&self, partition: usize, record: &Returned) {
        let (id, bad) = parse(&record.value);
        let mut world = self.world.lock().expect("no panic");
        match record.topic {
            Topic::Events(_) => {
                assert!(!bad, "the sink never takes {id:?}");
                world.logs[partition].push(id);
            }
            Topic::DeadLetters => drop(world.letters.insert(id)),
        }
    }

    fn report(&mut self, held: Held, result: Result<(), Verdict>) {
        let Held { token, record } = held;
        let id = parse(&record.value).0;
        if result.is_ok() && self.chance(self.odds.repeated) {
            self.reports.push_back((id, Delivery { token, result: Ok(()) }));
        }
        let result = result.map_err(|verdict| Box::new(Failure { error: "scripted".into(), verdict, record }));
        self.reports.push_back((id, Delivery { token, result }));
    }

    /// One batch of one partition.
    fn step(&mut self) {
        let partition = self.rng.usize(0..PARTITIONS);
        let Some(topic) = self.held[partition].front().map(|held| held.record.topic) else { return };
        let most = self.held[partition].iter().take_while(|held| held.record.topic == topic).count();
        let size = self.rng.usize(1..=most.min(12));
        let batch: Vec<Held> = self.held[partition].drain(..size).collect();
        let bad = |h: &Held| matches!(h.record.topic, Topic::Events(_)) && parse(&h.record.value).1;
        let verdict = if batch.iter().any(bad) {
            Some(Verdict::Never(Reason::Refused))
        } else if self.is_refused(topic) || self.chance(self.odds.passing) {
            Some(Verdict::Later)
        } else {
            None
        };
        let Some(verdict) = verdict else {
            let lost = self.chance(self.odds.lost);
            for held in batch {
                self.append(partition, &held.record);
                // An answer that is lost: appended, and yet it comes back.
                self.report(held, if lost { Err(Verdict::Later) } else { Ok(()) });
            }
            if lost {
                self.break_down(partition);
            }
            return;
        };
        for held in batch {
            self.report(held, Err(verdict));
        }
        self.break_down(partition);
    }

    fn is_refused(&mut self, topic: Topic) -> bool {
        let world = self.world.lock().expect("no panic");
        self.refuses.take_if(|(_, until)| until.iter().all(|id| world.reported.contains(id)));
        self.refuses.as_ref().is_some_and(|(refuses, _)| topic == Topic::Events(*refuses))
    }

    fn break_down(&mut self, refused: usize) {
        self.broken = true;
        for partition in 0..PARTITIONS {
            // What other partitions had on their way may still be taken.
            if partition != refused {
                while let Some(held) = self.held[partition].front()
                    && (!parse(&held.record.value).1 || held.record.topic == Topic::DeadLetters)
                    && !self.is_refused(held.record.topic)
                    && self.chance(500)
                {
                    let held = self.held[partition].pop_front().expect("a front");
                    self.append(partition, &held.record);
                    self.report(held, Ok(()));
                }
            }
            // Or be refused as well, for a record of their own.
            if partition != refused && self.chance(300) {
                let size = self.rng.usize(0..=self.held[partition].len().min(4));
                let batch: Vec<Held> = self.held[partition].drain(..size).collect();
                let bad = batch.iter().any(|h| matches!(h.record.topic, Topic::Events(_)) && parse(&h.record.value).1);
                let verdict = if bad { Verdict::Never(Reason::Refused) } else { Verdict::Collateral };
                batch.into_iter().for_each(|held| self.report(held, Err(verdict)));
            }
            let mut rest: Vec<Held> = self.held[partition].drain(..).collect();
            self.rng.shuffle(&mut rest);
            for held in rest {
                self.report(held, Err(Verdict::Collateral));
            }
        }
    }

    /// What is queued comes back; what is on its way does not.
    fn purge(&mut self) {
        for partition in 0..PARTITIONS {
            let on_its_way = self.rng.usize(0..=self.held[partition].len().min(12));
            let mut queued: Vec<Held> = self.held[partition].drain(on_its_way..).collect();
            self.rng.shuffle(&mut queued);
            queued.into_iter().for_each(|held| self.report(held, Err(Verdict::Collateral)));
        }
    }

    /// The frontier never passes a record that is neither delivered nor a dead letter.
    fn check_frontiers(&mut self) {
        let world = self.world.lock().expect("no panic");
        for (source, name) in self.names.iter().enumerate() {
            let frontier = self.metrics.pipeline.last_seq_delivered(name).get();
            if std::mem::replace(&mut self.seen[source], frontier) == frontier {
                continue;
            }
            for (id, bad) in self.all.range((source, 0, 0)..(source, frontier as u64, 0)) {
                let buried = *bad && (!self.dead_letter_topic || world.letters.contains(id));
                assert!(world.reported.contains(id) || buried, "the frontier {frontier} has passed {id:?}");
            }
        }
    }
}

impl Sink for Scripted {
    fn prepare(&mut self, _same_cluster: SameCluster<'_>, _: Start<'_>) -> Result<(), NotReady> {
        thread::current().unpark();
        self.wake = Some(thread::current());
        assert!(self.held.iter().all(VecDeque::is_empty), "made anew while it holds something");
        (self.broken, self.retired) = (false, false);
        Ok(())
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        if let Topic::Events(topic) = record.topic {
            let (id, _) = parse(record.value);
            assert_eq!(record.time_ms, 1 + id.1 as i64, "sent again, a record keeps its time");
            assert_eq!(topic, topic_of(record.key), "sent again, a record keeps its topic");
        }
        if self.state() == State::Broken {
            return Err(Refused::Broken);
        }
        if self.held.iter().map(VecDeque::len).sum::<usize>() >= self.capacity || self.chance(self.odds.full) {
            return Err(Refused::Full);
        }
        if self.chance(self.odds.error) {
            return Err(Refused::Error("scripted".into()));
        }
        let partition = record.key.first().map_or(0, |b| usize::from(*b) % PARTITIONS);
        let record = Returned {
            topic: record.topic,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            headers: Vec::new(),
        };
        self.held[partition].push_back(Held { token, record });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        self.polls += 1;
        let forever = self.polls >= POLLS && self.began.elapsed() > LONGEST;
        assert!(!forever, "it goes round for ever");
        if self.polls > POLLS / 100 {
            // The threads behind it may want the processor: on a busy machine they get none for a tenth of a second.
            std::thread::sleep(Duration::from_micros(100));
        }
        if self.polls == self.stop_at || (self.permits.is_idle() && self.polls > 1) {
            self.permits.close();
        }
        for _ in 0..self.rng.usize(0..4) {
            if !self.broken {
                self.step();
            }
        }
        self.retired |= self.chance(self.odds.retired);
        if self.retired && !self.broken && self.chance(200) {
            self.purge();
        }
        // Late: some of the reports, or none.
        for _ in 0..self.rng.usize(0..40) {
            let Some((id, report)) = self.reports.pop_front() else { break };
            if report.result.is_ok() {
                self.world.lock().expect("no panic").reported.insert(id);
            }
            done.push(report);
        }
        self.check_frontiers();
        if !self.naps {
            self.wake.as_ref().expect("prepared").unpark();
        }
        Ok(())
    }

    fn nap(&mut self) -> Option<Duration> {
        self.naps.then(|| Duration::from_micros(self.rng.u64(0..100)))
    }

    fn state(&mut self) -> State {
        if self.broken || self.retired { State::Broken } else { State::Well }
    }
}

/// One schedule, to its end. Fails with what was broken.
fn schedule(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut odd = |most: u32| if rng.bool() { 0 } else { rng.u32(0..=most) };
    // A passing error makes the producer pause, so that many of them would only take time.
    let odds =
        Odds { full: odd(300), error: odd(3), passing: odd(8), lost: odd(8), repeated: odd(200), retired: odd(20) };
    let bad_odds = if rng.bool() { 0 } else { rng.u32(1..400) };
    let (sources, dead_letter_topic) = (rng.usize(1..=2), rng.bool());
    let names: Vec<String> = (0..sources).map(|i| format!("host-{i}")).collect();
    let permits = Arc::new(Permits::new(1 << 20));
    let (metrics, health, world) =
        (Arc::new(Metrics::default()), Arc::new(Health::default()), Arc::new(Mutex::new(World::default())));

    let (mut all, mut batches) = (BTreeMap::new(), Vec::new());
    for source in 0..sources {
        for ordinal in 0..rng.u64(0..60) {
            let mut batch = Batch::answering(&Job {
                source,
                ordinal,
                work: Work::Notice { name: "scripted", message: String::new() },
                decode: decode::relay::message,
                position: Some(Position::of_seqs((ordinal + 1, ordinal + 1))),
                received: Instant::now(),
                arrived_ms: 0,
                cost: 2_000,
                room: 0,
            });
            for index in 0..rng.usize(0..5) {
                let (id, bad) = ((source, ordinal, index), rng.u32(0..1000) < bad_odds);
                all.insert(id, bad);
                let start = batch.bytes.len();
                batch.bytes.push(rng.u8(..));
                let key = start..batch.bytes.len();
                batch.bytes.extend_from_slice(value(id, bad).as_bytes());
                let value = key.end..batch.bytes.len();
                batch.records.push(Record {
                    topic: topic_of(&batch.bytes[key.clone()]),
                    collection: 0..0,
                    key,
                    value,
                    time_ms: 1 + ordinal as i64,
                    action: Action::Create,
                    seq: ordinal + 1,
                });
            }
            permits.acquire(batch.frames, batch.cost).expect("room");
            batches.push(batch);
        }
    }
    // By partition and source, what is to be there in order.
    let mut want: [BTreeMap<usize, Vec<Id>>; PARTITIONS] = Default::default();
    for batch in &batches {
        for (index, record) in batch.records.iter().enumerate() {
            let id = (batch.source, batch.ordinal, index);
            if !all[&id] {
                let partition = usize::from(batch.bytes[record.key.start]) % PARTITIONS;
                want[partition].entry(batch.source).or_default().push(id);
            }
        }
    }
    rng.shuffle(&mut batches);
    let other = |topic: u16| {
        let ids = want.iter().enumerate().filter(|(partition, _)| (partition % 2) as u16 != topic);
        ids.flat_map(|(_, ids)| ids.values().flatten().copied()).collect::<Vec<Id>>()
    };
    let refuses = (rng.u8(0..8) == 0).then(|| rng.u16(0..2)).map(|topic| (topic, other(topic)));
    let all = Arc::new(all);
    let stop_at = if rng.u32(0..4) == 0 { rng.usize(1..200) } else { usize::MAX };
    let sink = Scripted {
        odds,
        world: world.clone(),
        metrics: metrics.clone(),
        names: names.clone(),
        all: all.clone(),
        permits: permits.clone(),
        stop_at,
        polls: 0,
        began: Instant::now(),
        capacity: rng.usize(1..200),
        held: Default::default(),
        reports: VecDeque::new(),
        seen: vec![0; sources],
        dead_letter_topic,
        broken: false,
        refuses,
        retired: false,
        wake: None,
        naps: rng.bool(),
        rng,
    };
    let (beginnings_in, beginnings) = bounded(1);
    let keeps = (0..sources).map(|_| Keep::Nowhere).collect();
    let (frontier, _checkpointer) = checkpointer::new(keeps, beginnings, metrics.checkpoint.clone(), health.clone());
    let producer = Producer {
        sink: Box::new(sink),
        lanes: names.iter().map(|name| Lane::new(name, true, Arc::default(), &metrics.pipeline)).collect(),
        frontier,
        permits: permits.clone(),
        metrics: metrics.pipeline.clone(),
        health,
        format: Format::Plain,
        snowflake: Snowflake::new(0, 0),
        record_headers: false,
        topics: ["even", "odd"].map(|name| metrics.pipeline.topic(name)).into(),
        letters: if dead_letter_topic { Letters::Topic } else { Letters::Log },
    };
    let (inlet, inbox) = inbox(batches.len());
    batches.into_iter().for_each(|batch| inlet.send(batch).expect("open"));
    producer.run(&inbox, |_| {}).expect("it ends well");
    drop((inlet, beginnings_in));

    let world = world.lock().expect("no panic");
    for (log, want) in world.logs.iter().zip(&want) {
        for (source, want) in want {
            let mut met = BTreeSet::new();
            let first: Vec<Id> = log.iter().copied().filter(|id| id.0 == *source && met.insert(*id)).collect();
            assert_eq!(first[..], want[..first.len()], "first deliveries are in order");
            if stop_at == usize::MAX {
                assert_eq!(first.len(), want.len(), "every record is delivered");
            }
        }
    }
    if stop_at == usize::MAX {
        assert!(permits.is_idle(), "all permits are back");
        let bad: BTreeSet<Id> = all.iter().filter(|(_, bad)| **bad).map(|(id, _)| *id).collect();
        assert_eq!(
            metrics.pipeline.dead_letters_total(),
            bad.len() as u64,
            "one dead letter a bad record, and no other"
        );
        assert_eq!(world.letters, if dead_letter_topic { bad } else { BTreeSet::new() });
    }
}

#[test]
fn every_schedule_keeps_the_promises() {
    atkafka_fixtures::seeds::each(SCHEDULES, schedule);
}
