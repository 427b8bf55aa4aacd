//! The output of the [model](super): what librdkafka does in transactions, and what Kafka has then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::checkpoint::SeqPosition;
use crate::checkpoint::topic::{self, Entry, Key, Mark};
use crate::dead_letter::Reason;
use crate::pipeline::permits::Permits;
use crate::sink::transaction::{POSITION, Transactions, Trouble};
use crate::sink::{
    Delivery, End, Failure, NotReady, Outgoing, Refused, Returned, SameCluster, Sink, Start, Token, Topic, Verdict,
};

/// More calls of `poll` in one schedule, and more time, is a livelock.
const POLLS: usize = 100_000;
const LONGEST: Duration = Duration::from_secs(120);
pub(super) const PARTITIONS: usize = 3;

/// Source, ordinal of the batch, index in it.
pub(super) type Id = (usize, u64, usize);

/// What Kafka has.
#[derive(Default)]
pub(super) struct World {
    /// Every event, and whether it is one that is never taken.
    pub(super) all: BTreeMap<Id, bool>,
    /// By partition, what is committed.
    pub(super) logs: [Vec<Id>; PARTITIONS],
    pub(super) letters: Vec<Id>,
    /// Committed records of positions.
    pub(super) positions: Vec<Entry>,
    /// Whether another instance has taken over.
    pub(super) taken_over: bool,
}

/// What an open transaction has appended.
#[derive(Default)]
pub(super) struct Open {
    appended: Vec<(usize, Id, bool)>,
    positions: Vec<Entry>,
    must_abort: bool,
}

pub(super) struct Held {
    token: Token,
    topic: Topic,
    id: Id,
    bad: bool,
}

/// How often something goes wrong in one schedule, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds {
    pub(super) full: u32,
    pub(super) error: u32,
    pub(super) passing: u32,
    pub(super) again: u32,
    pub(super) lost: u32,
    pub(super) taken_over: u32,
}

/// The output: what librdkafka does in transactions.
pub(super) struct Scripted {
    pub(super) rng: fastrand::Rng,
    pub(super) odds: Odds,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) permits: Arc<Permits>,
    pub(super) stop_at: usize,
    pub(super) polls: usize,
    pub(super) began: Instant,
    pub(super) capacity: usize,
    pub(super) held: [VecDeque<Held>; PARTITIONS],
    pub(super) reports: VecDeque<Delivery>,
    pub(super) open: Option<Open>,
    pub(super) is_lost: bool,
    /// A record was sent, which is only after the positions are ours.
    pub(super) claimed: bool,
    /// The next poll gives all reports.
    pub(super) told_all: bool,
    pub(super) wake: Option<Thread>,
}

fn parse(value: &[u8]) -> (Id, bool) {
    let text = std::str::from_utf8(value).expect("our own");
    let mut words = text.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    ((number() as usize, number(), number() as usize), text.ends_with("bad"))
}

impl Scripted {
    fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.u32(0..1000) < thousandths
    }

    fn report(&mut self, held: &Held, result: Result<(), Verdict>) {
        let record = Returned { topic: held.topic, key: Vec::new(), value: Vec::new(), headers: Vec::new() };
        let failed = |verdict| Box::new(Failure { error: "scripted".into(), verdict, record });
        self.reports.push_back(Delivery { token: held.token, result: result.map_err(failed) });
    }

    /// One batch of one partition is answered.
    fn step(&mut self, partition: usize) {
        let most = self.held[partition].len().min(12);
        if most == 0 {
            return;
        }
        let size = self.rng.usize(1..=most);
        let batch: Vec<Held> = self.held[partition].drain(..size).collect();
        let never = batch.iter().any(|held| held.bad && held.topic != Topic::DeadLetters);
        let passing = self.chance(self.odds.passing);
        let open = self.open.as_mut().expect("open while it holds something");
        let verdict = match (never, passing) {
            (true, _) => Some(Verdict::Never(Reason::Refused)),
            (_, true) => Some(Verdict::Later),
            // Behind a refusal the client sends nothing more.
            _ if open.must_abort => Some(Verdict::Collateral),
            _ => None,
        };
        open.must_abort |= verdict.is_some();
        if verdict.is_none() {
            open.appended.extend(batch.iter().map(|held| (partition, held.id, held.topic == Topic::DeadLetters)));
        }
        batch.iter().for_each(|held| self.report(held, verdict.map_or(Ok(()), Err)));
    }

    /// What the client holds comes back.
    fn purge(&mut self) {
        for partition in 0..PARTITIONS {
            let all: Vec<Held> = self.held[partition].drain(..).collect();
            all.iter().for_each(|held| self.report(held, Err(Verdict::Collateral)));
        }
    }

    fn commit_open(&mut self) {
        let Open { appended, positions, .. } = self.open.take().expect("open");
        let mut world = self.world.lock().expect("no panic");
        assert!(!world.taken_over, "a fenced client commits nothing");
        for (partition, id, is_letter) in appended {
            if is_letter { world.letters.push(id) } else { world.logs[partition].push(id) }
        }
        for entry in positions {
            world.positions.retain(|other| other.key != entry.key);
            world.positions.push(entry);
        }
        world.check();
    }

    /// The client breaks; sometimes because another instance has fenced it, once the positions are ours.
    fn lose(&mut self) -> Trouble {
        self.is_lost = true;
        let fenced = self.chance(self.odds.taken_over);
        let mut world = self.world.lock().expect("no panic");
        if fenced && self.claimed {
            let mine = world.positions.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
            for key in mine {
                let value = world.positions.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone());
                world.positions.retain(|entry| entry.key != key);
                let mark = Some(Mark { run: "another".into(), number: 0 });
                world.positions.push(Entry { key, value, mark, writer: None });
            }
            world.taken_over = true;
        }
        drop(world);
        if fenced {
            // Fencing ends what is open.
            self.open = None;
        }
        Trouble::Lost("scripted".into())
    }
}

impl World {
    /// A position is committed with exactly what is before it.
    fn check(&self) {
        let reached = |source: usize| {
            let key = key(source);
            let entry = self.positions.iter().find(|entry| entry.key == key)?;
            topic::read::<SeqPosition>(&key, entry.value.as_ref()?).ok().map(|(position, _)| position.seq)
        };
        for id in self.logs.iter().flatten().chain(&self.letters) {
            assert!(Some(id.1) < reached(id.0), "{id:?} is committed, and its position is not: {:?}", reached(id.0));
        }
        let there: BTreeSet<&Id> = self.logs.iter().flatten().collect();
        for (id, bad) in &self.all {
            let is_before = reached(id.0).is_some_and(|reached| id.1 < reached);
            assert!(*bad || !is_before || there.contains(id), "{id:?} is missing below its position");
        }
    }
}

pub(super) fn key(source: usize) -> Key {
    Key { source: "relay".into(), host: format!("host-{source}"), output: "events".into(), instance: String::new() }
}

impl Sink for Scripted {
    fn prepare(&mut self, _: SameCluster<'_>, _: Start<'_>) -> Result<(), NotReady> {
        self.wake = Some(thread::current());
        assert!(!self.world.lock().expect("no panic").taken_over, "whoever has taken over is fenced");
        // Fencing ends what is open.
        self.open = None;
        self.purge();
        self.is_lost = false;
        Ok(())
    }

    fn send(&mut self, record: &Outgoing<'_>, token: Token) -> Result<(), Refused> {
        assert!(self.open.is_some() || self.is_lost, "sent outside of a transaction");
        self.claimed = true;
        if self.is_lost {
            return Err(Refused::Broken);
        }
        if self.held.iter().map(VecDeque::len).sum::<usize>() >= self.capacity || self.chance(self.odds.full) {
            return Err(Refused::Full);
        }
        if self.chance(self.odds.error) {
            return Err(Refused::Error("scripted".into()));
        }
        let (id, bad) = parse(record.value);
        let partition = record.key.first().map_or(0, |byte| usize::from(*byte) % PARTITIONS);
        self.held[partition].push_back(Held { token, topic: record.topic, id, bad });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), End> {
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Delivery>) -> Result<(), End> {
        self.polls += 1;
        assert!(self.polls < POLLS || self.began.elapsed() < LONGEST, "it goes round for ever");
        if self.polls > POLLS / 100 {
            std::thread::sleep(Duration::from_micros(100));
        }
        if self.polls == self.stop_at || (self.permits.is_idle() && self.polls > 1) {
            self.permits.close();
        }
        for _ in 0..self.rng.usize(0..4) {
            let partition = self.rng.usize(0..PARTITIONS);
            if !self.is_lost && self.open.is_some() {
                self.step(partition);
            }
        }
        // Late, but for what an abort was waited for.
        let late = if std::mem::take(&mut self.told_all) { usize::MAX } else { self.rng.usize(0..40) };
        let late = late.min(self.reports.len());
        done.extend(self.reports.drain(..late));
        self.wake.as_ref().expect("prepared").unpark();
        Ok(())
    }

    fn transactions(&mut self) -> Option<&mut dyn Transactions> {
        Some(self)
    }
}

impl Transactions for Scripted {
    fn look(&mut self, wanted: &[Key]) -> Result<Vec<Entry>, NotReady> {
        let world = self.world.lock().expect("no panic");
        Ok(world.positions.iter().filter(|entry| wanted.contains(&entry.key)).cloned().collect())
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        assert!(self.open.is_none() && self.held.iter().all(VecDeque::is_empty), "begun over another");
        if self.is_lost || self.chance(self.odds.lost) {
            return Err(self.lose());
        }
        self.open = Some(Open::default());
        Ok(())
    }

    fn save(&mut self, key: &[u8], value: Option<&[u8]>, mark: &Mark) -> Result<(), Refused> {
        if self.is_lost {
            return Err(Refused::Broken);
        }
        if self.chance(self.odds.error) {
            return Err(Refused::Full);
        }
        let entry = Entry {
            key: Key::read(key).expect("our own"),
            value: value.map(<[u8]>::to_vec),
            mark: Some(mark.clone()),
            writer: None,
        };
        self.open.as_mut().expect("open").positions.push(entry);
        self.reports.push_back(Delivery { token: POSITION, result: Ok(()) });
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Trouble> {
        if self.is_lost || self.chance(self.odds.lost) {
            return Err(self.lose());
        }
        if self.chance(self.odds.again) {
            return Err(Trouble::Again("scripted".into()));
        }
        for partition in 0..PARTITIONS {
            while !self.held[partition].is_empty() {
                self.step(partition);
            }
        }
        if self.open.as_ref().is_some_and(|open| open.must_abort) || self.chance(self.odds.passing) {
            return Err(Trouble::Abort("scripted".into()));
        }
        if self.chance(self.odds.lost) {
            // The answer is lost: it is committed, and nobody is told.
            self.commit_open();
            self.is_lost = true;
            return Err(Trouble::Lost("scripted".into()));
        }
        self.commit_open();
        if self.chance(self.odds.lost) {
            // It is committed and the answer says that it is not, nor does that of the abort.
            return Err(Trouble::Abort("scripted".into()));
        }
        Ok(())
    }

    fn abort(&mut self) -> Result<(), Trouble> {
        if self.is_lost || self.chance(self.odds.lost) {
            return Err(self.lose());
        }
        if self.chance(self.odds.again) {
            return Err(Trouble::Again("scripted".into()));
        }
        self.open = None;
        self.purge();
        self.told_all = true;
        Ok(())
    }
}
