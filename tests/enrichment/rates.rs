//! How often, how many at once and how fast accounts are looked up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use atkafka_fixtures::directory::Kind;
use atkafka_fixtures::relay::RelayConfig;
use atkafka_fixtures::rng::Rng;
use sonic_rs::JsonValueTrait;

use crate::{
    PDS, SOON, Stage, assert_complete, did, events, everybody, handle, parts, post, relay, start, stop, sum, text,
};

#[test]
fn an_account_is_looked_up_once_however_many_events_wait() {
    let stage = Stage::new();
    stage.directory.set_latency(Duration::from_millis(400));
    stage.posts((0..200).map(|n| n % 2));
    let bridge = stage.start(&["API", "--metadata-timeout", "20s"]);
    events(&bridge, 200).iter().for_each(|e| assert_eq!(text(e, "pdsHost"), Some(PDS), "{e}"));
    for who in [did(0), did(1)] {
        let asked = [Kind::Document, Kind::AuditLog, Kind::Profile].map(|kind| stage.directory.asked(kind, &who));
        assert_eq!((asked, stage.directory.asked(Kind::Handle, &handle(&who))), ([1, 1, 1], 1));
    }
    for (kind, requests) in [("did_doc", 2.0), ("audit_log", 2.0)] {
        let of = |cached: &str| {
            let labels = [format!("kind=\"{kind}\""), format!("cached=\"{cached}\""), "status=\"ok\"".into()];
            sum(&bridge, "atkafka_plc_requests", &labels.each_ref().map(String::as_str))
        };
        assert_eq!(of("false"), requests, "{kind}: {:?}", bridge.metrics());
        assert!(of("true") <= 198.0, "{kind}");
        bridge.wait("both in the cache", SOON, |b| sum(b, "atkafka_cache_size", &[&format!("kind=\"{kind}\"")]) == 2.0);
    }
    let before = sum(&bridge, "atkafka_plc_requests", &["cached=\"true\""]);
    stage.event_of(&bridge, &did(0));
    assert!(sum(&bridge, "atkafka_plc_requests", &["cached=\"true\""]) > before, "from the cache, and counted");
    assert_eq!(stage.directory.asked(Kind::Document, &did(0)), 1);
    stop(bridge);
}

#[test]
fn requests_at_once_and_requests_a_second_have_limits() {
    let stage = Stage::new();
    stage.directory.set_latency(Duration::from_millis(5));
    let count = 100;
    stage.posts(0..count);
    let limits =
        ["--lookup-concurrency", "3", "--lookup-rate", "100", "--metadata-timeout", "50s", "--contact", "a@b.example"];
    let bridge = stage.start(&limits);
    events(&bridge, count).iter().for_each(assert_complete);
    let stats = stage.directory.stats();
    assert!(stats.most <= 3, "{} at once", stats.most);
    let times: Vec<Instant> = stats.requests.iter().map(|r| r.at).collect();
    let span = times[times.len() - 1] - times[0];
    println!("{} requests in {span:?}", times.len());
    assert_eq!(times.len(), 2 * count);
    // 200 at 100 a second; a burst of what one second allows may come first.
    assert!(span >= Duration::from_millis(900), "{span:?}");
    let agents: Vec<&str> = stats.by_user_agent.keys().map(|a| &**a).collect();
    assert!(
        matches!(agents[..], [agent] if agent.starts_with("atkafka/") && agent.contains("a@b.example")),
        "{agents:?}"
    );
    stop(bridge);
}

#[test]
fn a_small_cache_stays_small_and_every_event_is_complete() {
    let stage = Stage::new();
    // 100 accounts of 4 KiB each.
    let (limit, count) = (100.0 * 4096.0, 1_500);
    stage.posts(0..count);
    let bridge = stage.start(&["API", "--metadata-cache", "100", "--metadata-timeout", "50s"]);
    let mut highest = 0.0_f64;
    bridge.wait("all events", SOON, |b| {
        highest = highest.max(b.metric("atkafka_cache_bytes{"));
        b.lines().len() == count
    });
    println!("{highest} bytes at most");
    // Not more can be said of the samples, each of which may be taken when it has just made room.
    assert!(highest > 0.0 && highest <= limit, "{highest}");
    events(&bridge, count).iter().for_each(|e| assert_eq!(parts(e).len(), 6, "{e}"));
    stop(bridge);
}

/// The promise of the README, less its time, which a busy machine cannot keep; the figures are printed.
#[test]
fn five_thousand_accounts_at_two_thousand_events_a_second_are_each_looked_up_once() {
    let (accounts, total, rate, seed) = (5_000, 20_000, 2_000.0, 5);
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let authors: Vec<usize> = (0..total).map(|_| rng.index(accounts)).collect();
    let list: Vec<Vec<u8>> = (1..).zip(&authors).map(|(seq, n)| post(&did(*n), seq)).collect();
    let directory = everybody();
    directory.set_latency(Duration::from_millis(50));
    let relay = relay(RelayConfig { live_limit: Some(0), ..RelayConfig::script(list) });
    let bridge = start(&relay, &directory, &["--metadata-timeout", "30s"]);
    bridge.wait("connected", SOON, |b| b.metric("atkafka_connected") == 1.0);
    let began = Instant::now();
    // When everything up to a seq was seen to be delivered.
    let mut seen: Vec<(f64, u64)> = Vec::new();
    while seen.last().is_none_or(|(_, seq)| *seq < total as u64) {
        assert!(began.elapsed() < SOON, "{:?} of {total}: {}", seen.last(), bridge.log().join("\n"));
        for _ in 0..4 {
            relay.set_live_limit((began.elapsed().as_secs_f64() * rate) as u64);
            std::thread::sleep(Duration::from_millis(5));
        }
        let seq = bridge.metric("atkafka_last_seq_delivered") as u64;
        seen.push((began.elapsed().as_secs_f64(), seq));
    }
    let took = began.elapsed();
    let delay = |i: u64| seen[seen.partition_point(|(_, seq)| *seq < i)].0 - i as f64 / rate;
    let mut added: Vec<f64> = (1..=total as u64).map(delay).collect();
    added.sort_by(f64::total_cmp);
    let [half, most, all] = [total / 2, total * 99 / 100, total - 1].map(|i| added[i]);
    println!("{total} events in {took:?}; added to each: half {half:.3} s, 99 % {most:.3} s, at most {all:.3} s");
    // Ten seconds of events; a machine with other things to do may take some more.
    assert!(took < Duration::from_secs(30), "{took:?}");
    bridge.wait("all lines", SOON, |b| b.lines().len() == total);
    for (event, n) in events(&bridge, total).iter().zip(&authors) {
        assert_eq!(event["did"].as_str(), Some(did(*n).as_str()), "in order");
        assert_complete(event);
    }
    assert_eq!(bridge.metric("atkafka_metadata_missing"), 0.0);
    let stats = directory.stats();
    let distinct: BTreeSet<usize> = authors.iter().copied().collect();
    for kind in [Kind::Document, Kind::AuditLog] {
        let odd: Vec<_> = distinct.iter().map(|n| stats.of(kind, &did(*n))).filter(|n| *n != 1).collect();
        assert!(odd.is_empty(), "{kind:?}: {} accounts were not asked for once: {odd:?}", odd.len());
    }
    assert_eq!(stats.requests.len(), 2 * distinct.len());
    println!("{} accounts, at most {} requests at once, {} connections", distinct.len(), stats.most, stats.connections);
    stop(bridge);
}
