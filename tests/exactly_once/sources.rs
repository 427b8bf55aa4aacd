//! Exactly once from Ozone and from recordings.

use std::collections::BTreeMap;
use std::time::Duration;

use atkafka_fixtures::frames;
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
