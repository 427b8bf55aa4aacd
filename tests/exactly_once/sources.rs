//! Exactly once from Ozone, from Jetstream and from recordings.

use std::collections::BTreeMap;
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::jetstream::{Event, Jetstream, JetstreamConfig};
use atkafka_fixtures::ozone::{Draft, IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{ONCE, Place, SOON};

#[test]
fn ozone_over_two_kills() {
    let Some(broker) = broker(KAFKA) else { return };
    let ozone = Ozone::start(OzoneConfig::default()).expect("a port");
    let place = Place::new(&broker, "once-ozone");
    let url = ozone.url();
    let source = ["ozone-events", "--pds-host", &url, "--identifier", IDENTIFIER, "--labeler-did", LABELER];
    let more = [ONCE, &["--password", PASSWORD, "--poll-interval", "100ms"]].concat();
    let mut made = 0;
    for kill in 0..3 {
        let bridge = place.start(&source, &more);
        for round in 0..20 {
            // Half of them commit late, behind newer ones.
            let late = |hidden| Draft { hidden: Duration::from_millis(hidden), ..comment("did:plc:subject", "note") };
            for i in 0..10 {
                ozone.add(&late(if i % 2 == 0 { 0 } else { 600 }));
            }
            made += 10;
            if kill < 2 && round == 15 {
                bridge.wait("some are committed", SOON, |b| b.metric("atkafka_produced_events{status=\"ok\"}") > 0.0);
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if kill < 2 {
            bridge.kill();
            continue;
        }
        bridge.wait("all", SOON, |_| place.committed().len() >= made);
        let (code, log) = bridge.stop();
        assert_eq!(code, Some(0), "{log:?}");
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for record in place.committed() {
        *counts.entry(record.json().get("id").as_u64().expect("an id")).or_default() += 1;
    }
    assert_eq!(counts.len(), made);
    assert!(counts.values().all(|n| *n == 1), "{counts:?}");
}

/// Version 1 goes back two seconds at each connection, and twenty events have one time.
#[test]
fn jetstream_of_both_versions_over_three_kills_and_drops() {
    let Some(broker) = broker(KAFKA) else { return };
    const TOTAL: usize = 9_000;
    for version in ["1", "2"] {
        let config = JetstreamConfig { drop_every: Some(2_000), ..JetstreamConfig::default() };
        let server = Jetstream::start(config).expect("a port");
        let place = Place::new(&broker, "once-jetstream");
        let url = server.url();
        let source = ["firehose", "jetstream", "--jetstream-host", &url, "--cursor", "oldest"];
        let more = [ONCE, &["--jetstream-version", version, "--commit-interval", "300ms"]].concat();
        let begin_us = atkafka::clock::now_ms() as u64 * 1_000;
        let post = |n: usize| Event::post(&format!("did:plc:account{}", n % 37), begin_us + (n / 20) as u64 * 5_000, n);
        for part in 0..4 {
            let bridge = place.start(&source, &more);
            // In the middle of a transaction, mostly.
            for n in (part * TOTAL / 4..(part + 1) * TOTAL / 4).step_by(50) {
                server.push((n..(n + 50).min((part + 1) * TOTAL / 4)).map(post));
                std::thread::sleep(Duration::from_millis(10));
            }
            let before = (part * TOTAL / 4) as f64 / 2.0;
            if part < 3 {
                bridge.wait("some are read", SOON, |b| b.metric("atkafka_handled_events") > before.min(500.0));
                bridge.kill();
                continue;
            }
            bridge.wait("all", SOON, |_| place.committed().len() >= TOTAL);
            let (code, log) = bridge.stop();
            assert_eq!(code, Some(0), "{log:?}");
        }
        let (mut seen, mut last) = (BTreeMap::<u64, usize>::new(), BTreeMap::new());
        for record in place.committed() {
            let n = record.json().pointer(sonic_rs::pointer!["operation", "record", "n"]).and_then(|n| n.as_u64());
            let n = n.expect("a post");
            *seen.entry(n).or_default() += 1;
            let before = last.insert(record.key.clone().expect("a key"), n);
            assert!(before.is_none_or(|before| before < n), "version {version}: {n} behind {before:?}");
        }
        assert_eq!(seen.len(), TOTAL, "version {version}: all are there");
        assert!(seen.values().all(|times| *times == 1), "version {version}: each once");
        assert!(server.stats().drops > 0, "connections were dropped");
    }
}

#[test]
fn a_recording_over_two_kills() {
    let Some(broker) = broker(KAFKA) else { return };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst");
    let frames = frames::read(file).expect("the fixture");
    let last = frames.iter().filter_map(|frame| frames::seq_of(frame)).max().expect("seqs");
    let source = ["firehose", "replay", "--file", file, "--rate", "400"];
    let place = Place::new(&broker, "once-replay");
    for _ in 0..2 {
        let bridge = place.start(&source, &[ONCE, &["--commit-interval", "300ms"]].concat());
        let before = place.seq().unwrap_or(0);
        bridge.wait("some are committed", SOON, |b| b.metric("atkafka_last_seq_delivered") > before as f64);
        bridge.kill();
    }
    let mut bridge = place.start(&["firehose", "replay", "--file", file], ONCE);
    assert_eq!(bridge.end(SOON).code(), Some(0), "{}", bridge.log().join("\n"));
    assert_eq!(place.seq(), Some(last));
    let alone = Place::new(&broker, "once-replay-whole");
    let mut bridge = alone.start(&["firehose", "replay", "--file", file], ONCE);
    assert_eq!(bridge.end(SOON).code(), Some(0));
    let values = |place: &Place| place.committed().into_iter().map(|a| (a.partition, a.value)).collect::<Vec<_>>();
    assert!(values(&place) == values(&alone), "the same as without a kill");
}
