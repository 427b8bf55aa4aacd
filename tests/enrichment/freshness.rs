//! What makes an answer old: identity events, profile ops, and time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atkafka_fixtures::directory::{Kind, document, profile};
use atkafka_fixtures::network::builder::{Commit, Op, record};
use atkafka_fixtures::rng::Rng;
use ipld_core::ipld;
use sonic_rs::JsonValueTrait;

use crate::{AGE, PDS, REV, SOON, Stage, did, event, events, handle, stop, text};

#[test]
fn an_identity_event_purges_document_handle_and_profile_before_it_is_enriched() {
    let stage = Stage::new();
    let (directory, who, other) = (&stage.directory, did(1), did(2));
    let bridge = stage.start(&["API", "--metadata-timeout", "10s"]);
    for who in [&who, &other] {
        assert_eq!(text(&stage.event_of(&bridge, who), "handle"), Some(handle(who).as_str()));
    }
    // A change that nobody told us of.
    directory.set_document(&who, &document(&who, "new.example", "https://new.example"));
    directory.set_handle("new.example", Some(&who));
    directory.set_profile(&who, Some(&profile(&who, "new.example", "New")));
    assert_eq!(text(&stage.event_of(&bridge, &who), "handle"), Some(handle(&who).as_str()), "from the cache");
    let seqs = [stage.identity(&who), stage.post(&who), stage.post(&who)];
    for event in seqs.map(|seq| event(&bridge, seq)) {
        assert_eq!(text(&event, "handle"), Some("new.example"), "{event}");
        assert_eq!(text(&event, "pdsHost"), Some("https://new.example"), "{event}");
        assert_eq!(event["eventMetadata"]["profile"]["displayName"].as_str(), Some("New"), "{event}");
        assert_eq!(event["eventMetadata"]["accountAge"].as_u64(), Some(AGE), "{event}");
    }
    // The handle leads elsewhere, and an #identity says so.
    directory.set_handle("new.example", Some(&other));
    let seq = stage.identity(&who);
    assert_eq!(text(&event(&bridge, seq), "handle"), Some("handle.invalid"));
    stage.event_of(&bridge, &other);
    let asked = |who: &str| [Kind::Document, Kind::AuditLog, Kind::Profile].map(|kind| directory.asked(kind, who));
    assert_eq!(asked(&who), [3, 1, 3], "the log never changes");
    assert_eq!(asked(&other), [1, 1, 1], "nobody else is asked for again");
    stop(bridge);
}

/// Both are of the time before the event, however late they come.
#[test]
fn an_answer_that_was_on_its_way_when_it_became_old_is_not_used() {
    let stage = Stage::new();
    let (directory, who, writer) = (&stage.directory, did(1), did(2));
    let bridge = stage.start(&["API", "--metadata-timeout", "20s"]);
    stage.event_of(&bridge, &writer);
    directory.set_profile(&writer, Some(&profile(&writer, &handle(&writer), "Old")));
    stage.push(|seq| profile_update(&writer, seq));
    directory.set_latency_of(&who, Duration::from_millis(1_200));
    directory.set_latency_of(&writer, Duration::from_millis(1_200));
    stage.post(&who);
    bridge.wait("both requests", SOON, |_| {
        directory.asked(Kind::Document, &who) == 1 && directory.asked(Kind::Profile, &writer) == 2
    });
    directory.set_document(&who, &document(&who, "new.example", "https://new.example"));
    directory.set_handle("new.example", Some(&who));
    directory.set_profile(&writer, Some(&profile(&writer, &handle(&writer), "New")));
    let of_who = [stage.identity(&who), stage.post(&who)];
    let of_writer = [stage.push(|seq| profile_update(&writer, seq)), stage.post(&writer)];
    for event in of_who.map(|seq| event(&bridge, seq)) {
        assert_eq!(text(&event, "pdsHost"), Some("https://new.example"), "{event}");
        assert_eq!(text(&event, "handle"), Some("new.example"), "{event}");
    }
    for event in of_writer.map(|seq| event(&bridge, seq)) {
        assert_eq!(event["eventMetadata"]["profile"]["displayName"].as_str(), Some("New"), "{event}");
    }
    // And not later, when the old answers have come as well.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(text(&stage.event_of(&bridge, &who), "pdsHost"), Some("https://new.example"));
    assert_eq!((directory.asked(Kind::Document, &who), directory.asked(Kind::Profile, &writer)), (2, 3));
    stop(bridge);
}

/// Accounts whose documents change before their #identity, at any instant of the look-ups.
#[test]
fn no_event_behind_an_identity_event_has_an_older_document() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    println!("seed {seed}");
    let (accounts, mut rng) = (8, Rng::new(seed));
    let versions: Arc<Vec<AtomicU64>> = Arc::new((0..accounts).map(|_| AtomicU64::new(1)).collect());
    let stage = Stage::new();
    let (index, known) = ((0..accounts).map(|n| (did(n), n)).collect::<HashMap<_, _>>(), versions.clone());
    stage.directory.make(move |did| {
        let version = known.get(*index.get(did)?)?.load(SeqCst);
        Some((format!("v{version}.example"), PDS.into()))
    });
    stage.directory.set_latency_between(seed, Duration::ZERO, Duration::from_millis(40));
    let bridge = stage.start(&["--metadata-timeout", "30s"]);
    let (mut told, mut due) = (vec![0; accounts], Vec::new());
    for _ in 0..1_500 {
        let n = rng.index(accounts);
        if rng.permille(150) {
            told[n] = versions[n].fetch_add(1, SeqCst) + 1;
            stage.identity(&did(n));
        } else {
            stage.post(&did(n));
        }
        due.push(told[n]);
        if rng.permille(200) {
            std::thread::sleep(Duration::from_millis(rng.below(30)));
        }
    }
    for (event, due) in events(&bridge, due.len()).iter().zip(due) {
        let version =
            text(event, "handle").and_then(|h| h.strip_prefix('v')?.strip_suffix(".example")?.parse::<u64>().ok());
        assert!(version.is_some_and(|version| version >= due), "version {due} was due: {event}");
    }
    println!("{} documents were asked for", stage.directory.stats().count(Kind::Document));
    stop(bridge);
}

fn profile_update(did: &str, seq: u64) -> Vec<u8> {
    let content = record(&ipld!({ "$type": "app.bsky.actor.profile", "displayName": "x" }));
    Commit::new(did, REV).op(Op::update("app.bsky.actor.profile/self", &content, None)).frame(seq)
}

#[test]
fn a_profile_op_purges_the_profile_and_nothing_else() {
    let stage = Stage::new();
    let (directory, who) = (&stage.directory, did(1));
    let bridge = stage.start(&["API", "--metadata-timeout", "10s"]);
    stage.event_of(&bridge, &who);
    directory.set_profile(&who, Some(&profile(&who, &handle(&who), "New")));
    directory.set_document(&who, &document(&who, "new.example", "https://new.example"));
    for (push, name) in [
        (Stage::post as fn(&Stage, &str) -> u64, handle(&who)),
        (|stage, who| stage.push(|seq| profile_update(who, seq)), "New".into()),
        (Stage::post, "New".into()),
    ] {
        let seq = push(&stage, &who);
        let event = event(&bridge, seq);
        assert_eq!(event["eventMetadata"]["profile"]["displayName"].as_str(), Some(name.as_str()), "{event}");
        assert_eq!(text(&event, "pdsHost"), Some(PDS), "the document stays: {event}");
    }
    let asked = [Kind::Document, Kind::AuditLog, Kind::Profile].map(|kind| directory.asked(kind, &who));
    assert_eq!((asked, directory.asked(Kind::Handle, &handle(&who))), ([1, 1, 2], 1));
    stop(bridge);
}

#[test]
fn a_document_is_believed_for_its_time_and_a_creation_for_good() {
    let stage = Stage::new();
    let bridge = stage.start(&["--metadata-ttl", "1s"]);
    stage.event_of(&bridge, &did(1));
    stage.directory.set_document(&did(1), &document(&did(1), "new.example", "https://new.example"));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(text(&stage.event_of(&bridge, &did(1)), "pdsHost"), Some("https://new.example"));
    assert_eq!(
        (stage.directory.asked(Kind::Document, &did(1)), stage.directory.asked(Kind::AuditLog, &did(1))),
        (2, 1)
    );
    stop(bridge);
}
