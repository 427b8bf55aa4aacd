//! Errors that a broker gives seldom, put into its answers by a proxy: each event is seen once and in order, the position is that
//! of the last event, and the number of transactions that it takes is bounded. The faults come in an order of chance, whose
//! seed is printed; `ATKAFKA_TEST_SEED` sets it.

use std::time::{Duration, Instant};

use atkafka_fixtures::relay::{Relay, RelayConfig};
use sonic_rs::JsonValueTrait;

use crate::faults::{Fault, How, Proxy, What};
use crate::oracle::compare;
use crate::rights::with_lists;
use crate::support::kafka_script::LIMITED;
use crate::support::*;
use crate::{ONCE, Place, SOON, TRAFFIC, committed, create_topic, end, looped};

/// So many frames come at once, until a fault has struck.
const STEP: u64 = 40;
/// No more come while so many are not committed.
const BEHIND: u64 = 400;
const TOTAL: u64 = 100_000;
/// So many faults in one run.
const CHUNK: usize = 7;

const UNKNOWN_SERVER_ERROR: i16 = -1;
const REQUEST_TIMED_OUT: i16 = 7;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const UNKNOWN_PRODUCER_ID: i16 = 59;
const INVALID_RECORD: i16 = 87;
const PRODUCER_FENCED: i16 = 90;

/// The broker has carried it out, or not: both with each of these errors.
fn errors(what: What, errors: &[i16]) -> Vec<(What, How)> {
    errors.iter().flat_map(|error| [(what, How::Refused(*error)), (what, How::Denied(*error))]).collect()
}

struct Run {
    proxy: Proxy,
    relay: Relay,
    /// At the broker itself.
    place: Place,
    bridge: Bridge,
    limit: u64,
    rng: fastrand::Rng,
}

impl Run {
    fn start(broker: &str, rng: fastrand::Rng, before: &[(What, How)]) -> Run {
        let proxy = Proxy::start(broker);
        let place = Place::new(broker, "injected");
        let through = Place { broker: proxy.address(), topic: place.topic.clone(), state: place.state.clone() };
        let relay = Relay::start(RelayConfig { live_limit: Some(STEP), ..looped(TOTAL) }).expect("a relay");
        before.iter().for_each(|(what, how)| proxy.inject(Fault { what: *what, how: *how, skip: 0 }));
        let bridge = through.relay(&relay, &[ONCE, &["--commit-interval", "50ms"]].concat());
        bridge.wait_delivered(STEP, SOON);
        assert_eq!(proxy.waiting(), 0, "{:?}", proxy.struck());
        Run { proxy, relay, place, bridge, limit: STEP, rng }
    }

    /// Frames come until all faults have struck.
    fn strike(&mut self, faults: &[(What, How)]) {
        for (place, (what, how)) in faults.iter().enumerate() {
            // Those behind the first one may have one chance only.
            let skip = if place == 0 { self.rng.usize(0..3) } else { 0 };
            self.proxy.inject(Fault { what: *what, how: *how, skip });
        }
        let began = Instant::now();
        while self.proxy.waiting() > 0 {
            assert!(began.elapsed() < SOON, "{faults:?} did not strike\n{}", self.bridge.log().join("\n"));
            if self.limit < self.bridge.metric("atkafka_last_seq_delivered") as u64 + BEHIND {
                self.limit += STEP;
                self.relay.set_live_limit(self.limit);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        // Else the next one strikes while this one is dealt with.
        if self.rng.u8(0..3) > 0 {
            self.bridge.wait_delivered(self.limit, SOON);
        }
        println!("{}: {:.2} s for {faults:?}", self.place.topic, began.elapsed().as_secs_f64());
    }

    fn end(self, aborted: usize) {
        self.bridge.wait_delivered(self.limit, SOON);
        let count = self.bridge.metric("atkafka_transactions{outcome=\"aborted\"}");
        println!(
            "{} at {}: {} frames, {count} transactions aborted, {} commits, {} aborts, {} clients",
            self.place.topic,
            self.place.broker,
            self.limit,
            self.proxy.seen(What::Commit),
            self.proxy.seen(What::Abort),
            self.proxy.seen(What::InitProducerId)
        );
        assert!(count <= aborted as f64, "{count} transactions aborted\n{}", self.bridge.log().join("\n"));
        // It ends its own transaction, and does not wait until the broker does.
        assert!(!self.bridge.log_contains("hides its newest positions"), "{}", self.bridge.log().join("\n"));
        end(self.bridge, self.limit);
        compare(&TRAFFIC.served(1, 0..self.limit), &self.place.committed()).once();
        assert_eq!(self.place.seq(), Some(self.limit), "the position is that of the last event");
    }
}

/// Each of the faults strikes once, with every broker: those of `before` in their order while atkafka starts, the others in an
/// order of chance. They are divided over several runs at the same time, which wait more than they work.
fn each_once(before: &[(What, How)], faults: &[Vec<(What, How)>]) {
    let mut rng = fastrand::Rng::with_seed(atkafka_fixtures::seeds::one());
    let mut faults = faults.to_vec();
    rng.shuffle(&mut faults);
    std::thread::scope(|scope| {
        for broker in [KAFKA, KAFKA_39].into_iter().filter_map(broker) {
            for faults in faults.chunks(CHUNK) {
                let (broker, rng) = (broker.clone(), rng.fork());
                scope.spawn(move || {
                    let mut run = Run::start(&broker, rng, before);
                    faults.iter().for_each(|fault| run.strike(fault));
                    run.end(2 * faults.iter().map(Vec::len).sum::<usize>());
                });
            }
        }
    });
}

fn alone(faults: Vec<(What, How)>) -> Vec<Vec<(What, How)>> {
    faults.into_iter().map(|fault| vec![fault]).collect()
}

#[test]
fn commits_whose_answer_is_lost_count_once() {
    let lost = (What::Commit, How::CutBehind);
    let mut faults = alone(vec![lost; 4]);
    faults.push(vec![(What::Commit, How::CutBefore)]);
    // Again and again.
    faults.push(vec![lost; 4]);
    faults.push(vec![(What::Events, How::Denied(UNKNOWN_SERVER_ERROR)), (What::Abort, How::CutBehind)]);
    faults.push(vec![(What::Events, How::CutBehind), (What::Position, How::CutBehind)]);
    faults.push(vec![(What::AddPartitions, How::CutBehind)]);
    each_once(&[lost], &faults);
}

#[test]
fn transactions_that_the_broker_refuses_are_sent_again_and_seen_once() {
    let mut faults = alone(errors(What::Events, &[UNKNOWN_SERVER_ERROR, INVALID_RECORD]));
    faults.extend(alone(errors(What::Position, &[UNKNOWN_SERVER_ERROR])));
    let ids = [UNKNOWN_SERVER_ERROR, UNKNOWN_PRODUCER_ID, INVALID_PRODUCER_ID_MAPPING, INVALID_TXN_STATE];
    faults.extend(alone(errors(What::AddPartitions, &ids)));
    faults.extend(alone(errors(What::Commit, &ids)));
    faults.extend(alone(errors(What::Commit, &[REQUEST_TIMED_OUT])));
    // Committed, and the abort behind it seems to have gone well.
    for error in [UNKNOWN_PRODUCER_ID, INVALID_PRODUCER_ID_MAPPING] {
        faults.push(vec![(What::Commit, How::Denied(UNKNOWN_SERVER_ERROR)), (What::Abort, How::Denied(error))]);
    }
    each_once(&[], &faults);
}

#[test]
fn a_coordinator_that_moves_costs_nothing_but_time() {
    let moved = [COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, CONCURRENT_TRANSACTIONS];
    let mut before = errors(What::FindCoordinator, &moved[..2]);
    before.extend(errors(What::InitProducerId, &moved));
    let mut faults = alone(errors(What::Commit, &moved));
    faults.extend(alone(errors(What::AddPartitions, &moved)));
    each_once(&before, &faults);
}

#[test]
fn whoever_is_told_to_be_fenced_and_is_not_goes_on() {
    let fenced = [INVALID_PRODUCER_EPOCH, PRODUCER_FENCED];
    let mut faults = alone(errors(What::Commit, &fenced));
    faults.extend(alone(errors(What::AddPartitions, &fenced)));
    faults.extend(alone(errors(What::Events, &fenced[..1])));
    each_once(&errors(What::InitProducerId, &fenced), &faults);
}

/// While events flow, the rights to write positions, to use transactions and to write events are taken away and given back.
fn rights_come_and_go(version: &'static str, port: u16) {
    let (broker, lists, sasl) = with_lists(version, port);
    let plain = broker.address();
    let (topic, cursors) = (unique("taken"), unique("taken.cursor"));
    create_topic(&plain, &topic, 4, &[]);
    create_topic(&plain, &cursors, 1, &[("cleanup.policy", "compact")]);
    let (events, positions) = (["--topic", &topic], ["--topic", &cursors]);
    let identity = ["--transactional-id", "atkafka-", "--resource-pattern-type", "prefixed"];
    [&events[..], &positions, &identity].into_iter().for_each(|resource| lists.close(resource));
    let all = [("Write", &events[..]), ("Read", &positions), ("Write", &positions), ("Write", &identity)];
    for (operation, resource) in all {
        lists.allow(operation, resource);
    }
    let relay = Relay::start(RelayConfig { rate: 200.0, ..looped(TOTAL) }).expect("a relay");
    let url = relay.url();
    let bridge = Bridge::start_with(
        &[
            &["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--output-topic", &topic][..],
            &["--bootstrap-servers", &sasl, "--sasl-mechanism", "PLAIN", "--cursor-topic", &cursors],
            ONCE,
            &["--commit-interval", "100ms"],
        ]
        .concat(),
        &LIMITED,
    );
    let delivered = || bridge.metric("atkafka_last_seq_delivered") as u64;
    let rights = [(&positions[..], cursors.as_str()), (&identity, "ransactional"), (&events, &topic)];
    for (resource, cause) in rights {
        bridge.wait_delivered(delivered() + 200, SOON);
        lists.take_away("Write", resource);
        let began = Instant::now();
        let aborted = || bridge.metric("atkafka_transactions{outcome=\"aborted\"}");
        let before = aborted();
        let is_told = |(status, why): (u16, String)| status == 503 && why.contains(cause);
        bridge.wait("a cause", SOON, |b| b.get("/readyz").is_some_and(is_told));
        let stopped_at = delivered();
        println!("{version}, no {cause}: {:?}", bridge.get("/readyz"));
        for _ in 0..30 {
            let (status, why) = bridge.get("/readyz").expect("an answer");
            assert!(status == 503, "{status} {why}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(delivered(), stopped_at, "nothing is committed");
        lists.allow("Write", resource);
        bridge.wait_delivered(stopped_at + 600, SOON);
        bridge.wait("ready", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
        let (count, took) = (aborted() - before, began.elapsed().as_secs_f64());
        println!("{version}, no {cause}: {count} transactions aborted in {took:.1} s");
        assert!(count < 10.0 * took, "{count} transactions aborted in {took} s");
    }
    let total = relay.stats().highest_seq.expect("frames") + 100;
    relay.set_live_limit(total);
    end(bridge, total);
    compare(&TRAFFIC.served(1, 0..total), &committed(&plain, &topic)).once();
    let position = committed(&plain, &cursors).pop().expect("a position").json();
    assert_eq!(position.get("seq").as_u64(), Some(total));
}

#[test]
fn rights_that_are_taken_away_in_the_middle_and_given_back_cost_nothing_but_time() {
    if broker(KAFKA).is_some() {
        rights_come_and_go("4.3.1", 31_892);
    }
}
