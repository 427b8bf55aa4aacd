//! A directory that is slow, away or ill, and how long an event waits for it.

use std::time::{Duration, Instant};

use atkafka_fixtures::directory::{How, Kind, Presence, Reply, document};
use sonic_rs::JsonValueTrait;

use crate::{PDS, SOON, Stage, assert_complete, did, event, events, missing, parts, stop, sum};

/// However many events it has: they wait for one look-up, and that has one deadline.
#[test]
fn a_slow_account_delays_the_others_by_no_more_than_the_deadline() {
    let stage = Stage::new();
    let slow = did(1);
    let bridge = stage.start(&["--metadata-timeout", "1s"]);
    let others = 2..12;
    others.clone().for_each(|n| stage.becomes_complete(&bridge, &did(n), SOON));
    let latency = Duration::from_secs(4);
    stage.directory.set_latency_of(&slow, latency);
    let (before, gone) = (stage.seq.get() as usize, missing(&bridge, "did_document"));
    let began = Instant::now();
    (0..100).for_each(|n| stage.posts([1, 2 + n % 10, 2 + (n + 5) % 10]));
    let all = events(&bridge, before + 300);
    let took = began.elapsed();
    println!("100 events of a slow account and 200 others: {took:?}");
    assert!(took < latency, "neither 100 deadlines nor its time: {took:?}");
    assert!(took >= Duration::from_millis(900), "it was waited for: {took:?}");
    for event in &all[before..] {
        if event["did"].as_str() == Some(&slow) {
            assert!(event["eventMetadata"].is_null(), "{event}");
        } else {
            assert_complete(event);
        }
    }
    assert_eq!(missing(&bridge, "did_document") - gone, 100.0);
    // Its answer comes all the same, and is kept.
    std::thread::sleep(latency.saturating_sub(began.elapsed()));
    stage.becomes_complete(&bridge, &slow, SOON);
    assert_eq!(stage.directory.asked(Kind::Document, &slow), 1, "not asked for again and again");
    stop(bridge);
}

#[test]
fn without_a_deadline_events_have_what_is_in_the_caches() {
    let stage = Stage::new();
    let bridge = stage.start(&["--metadata-timeout", "0s"]);
    stage.posts([1, 2, 3]);
    events(&bridge, 3);
    (1..4).for_each(|n| stage.becomes_complete(&bridge, &did(n), SOON));
    stop(bridge);
}

/// Byte after byte for longer than the deadline.
#[test]
fn the_deadline_counts_from_the_start_of_a_look_up() {
    let stage = Stage::new();
    let drip = Reply::new(200, document(&did(1), "a.example", PDS)).how(How::Drip(Duration::from_millis(200)));
    stage.directory.answer_about(Kind::Document, &did(1), Some(drip));
    stage.directory.answer_about(Kind::AuditLog, &did(1), Some(Reply::new(200, "[").how(How::Endless)));
    let bridge = stage.start(&["--metadata-timeout", "1s"]);
    let began = Instant::now();
    assert_eq!(parts(&stage.event_of(&bridge, &did(1))), [""; 0]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_complete(&stage.event_of(&bridge, &did(2)));
    stop(bridge);
}

#[test]
fn with_required_events_wait_for_the_directory() {
    let stage = Stage::new();
    stage.directory.set_presence(Presence::Refuses);
    stage.unknown(&did(3));
    stage.posts([1, 3, 2, 1]);
    let bridge = stage.start(&["API", "--metadata-required", "--metadata-timeout", "300ms"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(bridge.lines(), [""; 0], "nothing goes on without");
    assert!(bridge.metric("atkafka_fetch_queue") >= 3.0, "{:?}", bridge.metrics());
    stage.directory.set_presence(Presence::Hangs);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(bridge.lines(), [""; 0], "nothing goes on without");
    stage.directory.set_presence(Presence::Up);
    for (event, count) in events(&bridge, 4).iter().zip([6, 0, 6, 6]) {
        assert_eq!(parts(event).len(), count, "404 is an answer, too: {event}");
    }
    bridge.wait("an empty queue", SOON, |b| b.metric("atkafka_fetch_queue") == 0.0);
    // None of these is an answer, and each comes right in the end.
    stage.directory.answer_next(
        Some(Kind::Document),
        [
            Reply::new(500, ""),
            Reply::new(503, "<html>"),
            Reply::too_many(1),
            Reply::new(200, "{}").how(How::CutOff),
            Reply::new(0, "").how(How::Closed),
        ],
    );
    assert_eq!(parts(&stage.event_of(&bridge, &did(5))).len(), 6);
    stop(bridge);
}

/// Events of 2,000 accounts while the directory is away, and how soon it is asked again when it is back.
fn a_directory_is_away(how: Presence) {
    let stage = Stage::new();
    let bridge = stage.start(&["--metadata-timeout", "2s"]);
    assert_complete(&stage.event_of(&bridge, &did(0)));
    stage.directory.set_presence(how);
    let count = 10_000;
    let began = Instant::now();
    stage.posts((0..count).map(|n| 1 + n % 2_000));
    bridge.wait_delivered(stage.seq.get(), SOON);
    let took = began.elapsed();
    println!("{how:?}: {count} events in {took:?}, {:.0} a second", count as f64 / took.as_secs_f64());
    assert!(took < Duration::from_secs(40), "{took:?}");
    bridge.wait("an open breaker", SOON, |b| {
        stage.posts([20_000 + stage.seq.get() as usize]);
        b.metric("atkafka_breaker_open") == 1.0
    });
    // From then on only an event whose look-up is the probe has to wait.
    let quick = (0..12).filter(|n| {
        let began = Instant::now();
        stage.event_of(&bridge, &did(50_000 + n));
        began.elapsed() < Duration::from_millis(1_500)
    });
    let quick = quick.count();
    println!("{quick} of 12 events at once");
    assert!(quick >= 7, "only {quick} of 12 events had not to wait");
    let last = stage.seq.get();
    bridge.wait("each event", SOON, |b| b.lines().len() as u64 == last);
    assert!(!bridge.lines()[1..].iter().any(|l| l.contains("didDocument")), "nobody was there");
    assert!(missing(&bridge, "did_document") >= count as f64, "{:?}", bridge.metrics());
    assert!(sum(&bridge, "atkafka_plc_requests", &["status=\"error\""]) >= 10.0, "{:?}", bridge.metrics());
    println!("{} requests reached it", stage.directory.requests());
    stage.directory.set_presence(Presence::Up);
    let back = Instant::now();
    // One that nobody asked for, and then one that could not be asked for meanwhile.
    stage.becomes_complete(&bridge, &did(100_000), Duration::from_secs(30));
    println!("metadata again after {:?}", back.elapsed());
    stage.becomes_complete(&bridge, &did(1), Duration::from_secs(30).saturating_sub(back.elapsed()));
    bridge.wait("a closed breaker", SOON, |b| b.metric("atkafka_breaker_open") == 0.0);
    stop(bridge);
}

#[test]
fn a_directory_that_refuses_does_not_hold_up_events_and_is_found_again() {
    a_directory_is_away(Presence::Refuses);
}

#[test]
fn a_directory_that_never_answers_does_not_hold_up_events_and_is_found_again() {
    a_directory_is_away(Presence::Hangs);
}

/// The directory was asked and failed: that is kept for a moment, and is not the news that there is no such account.
#[test]
fn a_failure_in_the_cache_is_counted_as_one() {
    let stage = Stage::new();
    stage.directory.answer_about(Kind::AuditLog, &did(1), Some(Reply::new(500, "")));
    stage.directory.answer_about(Kind::AuditLog, &did(2), Some(Reply::unknown(&did(2))));
    let bridge = stage.start(&[]);
    for n in [1, 2] {
        let who = did(n);
        assert!(!parts(&stage.event_of(&bridge, &who)).contains(&"accountAge"));
        assert!(!parts(&stage.event_of(&bridge, &who)).contains(&"accountAge"));
    }
    let cached = |status: &str| {
        let status = format!("status=\"{status}\"");
        sum(&bridge, "atkafka_plc_requests", &["kind=\"audit_log\"", "cached=\"true\"", &status])
    };
    assert_eq!((cached("error"), cached("not_found"), cached("ok")), (1.0, 1.0, 0.0));
    stop(bridge);
}

#[test]
fn retry_after_is_honoured() {
    let stage = Stage::new();
    let bridge = stage.start(&["--metadata-timeout", "30s"]);
    assert_complete(&stage.event_of(&bridge, &did(0)));
    stage.directory.answer_next(Some(Kind::Document), [Reply::too_many(3)]);
    let seq = stage.post(&did(1));
    let at = || stage.directory.stats().requests.into_iter().find(|r| r.status == 429).map(|r| r.at);
    bridge.wait("the 429", SOON, |_| at().is_some());
    let refused = at().expect("just seen");
    // What is under way at that moment may still arrive.
    std::thread::sleep(Duration::from_millis(500).saturating_sub(refused.elapsed()));
    let asked = Instant::now();
    let more: Vec<u64> = (2..12).map(|n| stage.post(&did(n))).collect();
    for seq in more.iter().chain([&seq]) {
        assert_complete(&event(&bridge, *seq));
    }
    let next = stage.directory.stats().requests.into_iter().map(|r| r.at).find(|at| *at > asked);
    let pause = next.expect("requests") - refused;
    println!("asked again after {pause:?}");
    assert!((Duration::from_millis(2_800)..Duration::from_secs(20)).contains(&pause), "{pause:?}");
    stop(bridge);
}
