//! Delivery in transactions against a scripted output: thousands of seeded schedules of refusals, errors, commits whose answer is
//! lost, clients that break, stops, and a second instance that takes over. Held against what is promised, at each commit:
//!
//! - a partition has each event at most once, and those of a source in order;
//! - a position is committed with exactly the events up to it;
//! - an event that is never taken is one dead letter, and no other is;
//! - all permits come back, and it ends.
//!
//! A schedule that fails prints its seed; `ATKAFKA_MODEL_SEED=N cargo test --lib once::tests` runs that one alone.

mod scripted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use crossbeam_channel::bounded;

use super::*;
use crate::decode;
use crate::decode::batch::Job;
use crate::event::osprey::Snowflake;
use crate::event::{Action, Format};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pipeline::checkpointer::{self, Keep};
use crate::pipeline::inbox::inbox;
use crate::pipeline::ledger;
use crate::pipeline::permits::Permits;
use crate::pipeline::producer::{Lane, Letters};
use crate::source::job::Work;
use scripted::{Id, Odds, PARTITIONS, Scripted, World, key};

const SCHEDULES: u64 = 2_000;

/// One schedule, to its end. Fails with what was broken.
fn schedule(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut odd = |most: u32| if rng.bool() { 0 } else { rng.u32(0..=most) };
    let odds =
        Odds { full: odd(300), error: odd(3), passing: odd(10), again: odd(300), lost: odd(60), taken_over: odd(150) };
    let bad_odds = if rng.bool() { 0 } else { rng.u32(1..300) };
    let (sources, letters) = (rng.usize(1..=2), if rng.bool() { Letters::Topic } else { Letters::Log });
    let permits = Arc::new(Permits::new(1 << 20));
    let (metrics, world) = (Arc::new(Metrics::default()), Arc::new(Mutex::new(World::default())));
    let (mut all, mut batches) = (BTreeMap::new(), Vec::new());
    // By source and partition, what is to be there in order.
    let mut want: BTreeMap<(usize, usize), Vec<Id>> = BTreeMap::new();
    for source in 0..sources {
        for ordinal in 0..rng.u64(1..40) {
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
            for index in 0..rng.usize(0..6) {
                let (id, bad) = ((source, ordinal, index), rng.u32(0..1000) < bad_odds);
                let start = batch.bytes.len();
                batch.bytes.push(rng.u8(..));
                let key = start..batch.bytes.len();
                let text = format!("{source} {ordinal} {index} {}", if bad { "bad" } else { "good" });
                batch.bytes.extend_from_slice(text.as_bytes());
                let value = key.end..batch.bytes.len();
                all.insert(id, bad);
                if !bad {
                    let partition = usize::from(batch.bytes[start]) % PARTITIONS;
                    want.entry((source, partition)).or_default().push(id);
                }
                let (action, seq) = (Action::Create, ordinal + 1);
                batch.records.push(Record { topic: 0, collection: 0..0, key, value, time_ms: 1, action, seq });
            }
            permits.acquire(batch.frames, batch.cost).expect("room");
            batches.push(batch);
        }
    }
    world.lock().expect("no panic").all = all.clone();
    rng.shuffle(&mut batches);
    let stop_at = if rng.u32(0..4) == 0 { rng.usize(1..100) } else { usize::MAX };
    let (interval, bytes) = (Duration::from_micros(rng.u64(0..3_000)), rng.usize(1..200_000));
    let sink = Scripted {
        odds,
        world: world.clone(),
        permits: permits.clone(),
        stop_at,
        polls: 0,
        began: Instant::now(),
        capacity: rng.usize(1..200),
        held: Default::default(),
        reports: VecDeque::new(),
        open: None,
        is_lost: false,
        claimed: false,
        told_all: false,
        wake: None,
        rng,
    };
    let keeps = (0..sources).map(|_| Keep::Nowhere).collect();
    let (_beginnings_in, beginnings) = bounded(1);
    let (frontier, _checkpointer) =
        checkpointer::new(keeps, beginnings, metrics.checkpoint.clone(), Arc::<Health>::default());
    let name = |source: usize| format!("host-{source}");
    let producer = Producer {
        sink: Box::new(sink),
        lanes: (0..sources).map(|i| Lane::new(&name(i), true, Arc::default(), &metrics.pipeline)).collect(),
        frontier,
        permits: permits.clone(),
        metrics: metrics.pipeline.clone(),
        health: Arc::default(),
        format: Format::Plain,
        snowflake: Snowflake::new(0, 0),
        record_headers: false,
        topics: vec![metrics.pipeline.topic("events")],
        letters,
    };
    let places = (0..sources).map(|source| {
        let found: ledger::Found = Box::new(|_| Ok(()));
        Some(ledger::Place { key: key(source), file: None, found })
    });
    let mut ledger = Ledger::new("events.cursor", &[], places.collect());
    ledger.grace = Duration::ZERO;
    let (inlet, inbox) = inbox(batches.len());
    batches.into_iter().for_each(|batch| inlet.send(batch).expect("room for all"));
    let ended = Once::new(producer, ledger, interval, bytes).run(&inbox, |_| {});

    let world = world.lock().expect("no panic");
    match ended {
        Ok(()) => assert!(!world.taken_over || stop_at != usize::MAX, "ended well, though another has taken over"),
        Err(why) => assert!(world.taken_over && why.contains("fenced"), "{why}"),
    }
    let whole = !world.taken_over && stop_at == usize::MAX;
    for (partition, log) in world.logs.iter().enumerate() {
        for source in 0..sources {
            let log: Vec<Id> = log.iter().copied().filter(|id| id.0 == source).collect();
            let want = want.get(&(source, partition)).map(Vec::as_slice).unwrap_or_default();
            assert!(want.starts_with(&log), "each once, in order: {log:?} of {want:?}");
            assert!(!whole || log.len() == want.len(), "all are delivered: {log:?} of {want:?}");
        }
    }
    let bad: BTreeSet<Id> = all.iter().filter(|(_, bad)| **bad).map(|(id, _)| *id).collect();
    let buried: BTreeSet<Id> = world.letters.iter().copied().collect();
    assert_eq!(buried.len(), world.letters.len(), "each dead letter once");
    assert!(buried.is_subset(&bad), "a dead letter that is none");
    if whole {
        assert!(permits.is_idle(), "all permits are back");
        assert_eq!(metrics.pipeline.dead_letters_total(), bad.len() as u64, "one dead letter a bad record");
        assert_eq!(buried, if letters == Letters::Topic { bad } else { BTreeSet::new() });
    }
}

#[test]
fn every_schedule_of_transactions_delivers_each_event_once() {
    atkafka_fixtures::seeds::each(SCHEDULES, schedule);
}
