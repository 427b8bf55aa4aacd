use super::*;

fn event(text: &str) -> Box<Event<'_>> {
    match parse(text.as_bytes()) {
        Ok(Message::Event(event)) => event,
        Ok(_) => panic!("no event: {text}"),
        Err(e) => panic!("{e}: {text}"),
    }
}

/// The same commit on both wires.
const BARE: &str = r#"{"did":"did:plc:a","time_us":1783175888085434,"kind":"commit","commit":{"rev":"3k","operation":"create","collection":"a.b.c","rkey":"k","record":{ "n":1.0 },"cid":"bafy"}}"#;
const WRAPPED: &str = r#"{"$type":"message","payload":{"$type":"network.bsky.jetstream.subscribeEvents#commit","seq":7,"did":"did:plc:a","time":"2026-07-04T14:38:08.085434Z","rev":"3k","operation":"create","collection":"a.b.c","rkey":"k","record":{ "n":1.0 },"cid":"bafy","new":[]}}"#;

#[test]
fn one_commit_says_the_same_on_both_wires() {
    let (bare, wrapped) = (event(BARE), event(WRAPPED));
    for event in [&bare, &wrapped] {
        let Body::Commit(commit) = &event.body else { panic!("a commit") };
        assert_eq!((&*event.did, &*event.time), ("did:plc:a", "2026-07-04T14:38:08.085434Z"));
        assert_eq!((&*commit.rev, &*commit.collection, &*commit.rkey), ("3k", "a.b.c", "k"));
        assert_eq!(commit.record.as_ref().map(|r| r.as_raw_str()), Some(r#"{ "n":1.0 }"#), "untouched");
    }
    assert_eq!((bare.seq, bare.time_us), (None, Some(1_783_175_888_085_434)));
    assert_eq!((wrapped.seq, wrapped.time_us), (Some(7), Some(1_783_175_888_085_000)));
    assert_eq!(bare.id(), wrapped.id());
    assert_eq!(bare.id(), 1_585_619_432_411_467_605, "it is kept in state files");
}

#[test]
fn accounts_have_the_time_and_the_seq_of_the_relay() {
    let bare = r#"{"did":"did:plc:a","time_us":1783175888085434,"kind":"account","account":{"active":false,"did":"did:plc:a","seq":31,"time":"2026-07-04T14:38:07.784Z","status":"deleted"}}"#;
    let wrapped = r#"{"$type":"message","payload":{"$type":"network.bsky.jetstream.subscribeEvents#account","seq":9,"did":"did:plc:a","time":"2026-07-04T14:38:08.085434Z","account":{"active":false,"did":"did:plc:a","seq":31,"time":"2026-07-04T14:38:07.784Z","status":"deleted"}}}"#;
    let (bare, wrapped) = (event(bare), event(wrapped));
    for event in [&bare, &wrapped] {
        assert_eq!(event.time, "2026-07-04T14:38:07.784Z");
        let Body::Account(account) = &event.body else { panic!("an account") };
        assert_eq!((account.seq, account.active, account.status.as_deref()), (Some(31), Some(false), Some("deleted")));
    }
    assert_eq!((wrapped.seq, bare.id()), (Some(9), wrapped.id()));
}

#[test]
fn ids_differ_where_events_do() {
    let mut ids = vec![event(BARE).id()];
    for (from, to) in [
        ("did:plc:a", "did:plc:b"),
        ("\"3k\"", "\"3l\""),
        ("create", "update"),
        ("a.b.c", "a.b.cc"),
        ("\"k\"", "\"kk\""),
        ("bafy", "bafz"),
    ] {
        ids.push(event(&BARE.replace(from, to)).id());
    }
    ids.push(event(r#"{"did":"did:plc:a","time_us":1,"kind":"identity","identity":{"seq":1}}"#).id());
    ids.push(event(r#"{"did":"did:plc:a","time_us":1,"kind":"identity","identity":{"seq":2}}"#).id());
    ids.push(event(r#"{"did":"did:plc:a","time_us":1,"kind":"account","account":{"seq":2}}"#).id());
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn notices_errors_and_what_is_not_known() {
    let info = r#"{"$type":"message","payload":{"$type":"network.bsky.jetstream.subscribeEvents#info","name":"OutdatedCursor","message":"m"}}"#;
    assert!(
        matches!(parse(info.as_bytes()), Ok(Message::Info(Notice { name, message })) if name == "OutdatedCursor" && message == "m")
    );
    let error = br#"{"$type":"error","error":"ConsumerTooSlow","message":"m"}"#;
    assert!(matches!(parse(error), Ok(Message::Error(Notice { name, .. })) if name == "ConsumerTooSlow"));
    assert!(matches!(event(r#"{"did":"d","time_us":5,"kind":"weather"}"#).body, Body::Unknown));
    assert!(matches!(event(&WRAPPED.replace("#commit", "#weather")).body, Body::Unknown));
    for (text, place) in [
        (r#"{"did":"d","kind":"weather"}"#, (None, None)),
        (r#"{"did":"d","kind":"weather","time_us":9007199254740992}"#, (None, None)),
        (r#"{"payload":{"$type":"network.bsky.jetstream.subscribeEvents#x","seq":0,"time":"soon"}}"#, (None, None)),
    ] {
        let event = event(text);
        assert_eq!((event.seq, event.time_us), place, "{text}");
    }
    for text in [
        "",
        "{}",
        "[]",
        r#"{"kind":"commit"}"#,
        r#"{"kind":"commit","commit":{"rev":5}}"#,
        r#"{"kind":"x","time_us":-1}"#,
        r#"{"$type":"message","payload":{"$type":"com.atproto.sync.subscribeRepos#commit"}}"#,
        r#"{"$type":"message","payload":{"$type":"network.bsky.jetstream.subscribeEvents#sync"}}"#,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

/// The binary's tests hold what is still accepted: unoptimised, the parser needs a larger stack for that than a test has.
#[test]
fn a_record_may_not_be_deeper_than_on_a_relay() {
    let deep = |n: usize| BARE.replace(r#"{ "n":1.0 }"#, &format!("{}{}", "[".repeat(n), "]".repeat(n)));
    for n in [json::MAX_DEPTH as usize + 1, 300_000] {
        assert!(parse(deep(n).as_bytes()).is_err(), "{n}");
    }
}
