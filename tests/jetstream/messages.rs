//! What becomes of a message.

use crate::support::*;
use crate::*;

/// The value with its members in the order of their names.
fn canonical(value: &Value) -> String {
    if let Some(object) = value.as_object() {
        let members: BTreeMap<&str, String> = object.iter().map(|(key, value)| (key, canonical(value))).collect();
        return format!("{members:?}");
    }
    match value.as_array() {
        Some(array) => format!("{:?}", array.iter().map(canonical).collect::<Vec<_>>()),
        None => value.to_string(),
    }
}

/// An event without what the wires do not have alike: the time's digits, and the seq.
fn alike(line: &str) -> String {
    let mut event = golden::parse(line);
    let object = event.as_object_mut().expect("an object");
    assert!(object.remove(&"timestamp").is_some(), "{line}");
    object.remove(&"seq");
    canonical(&event)
}

/// What production's version 1 said of 150 frames of the relay, against what relay mode makes of the frames.
#[test]
#[cfg_attr(not(recorded_data), ignore = "needs the recorded data of the real network in ../shared")]
fn each_event_of_the_recorded_window_is_that_of_relay_mode_on_every_wire() {
    let frames = golden::frames_of("corpus", &shared("data/jetstream-corpus/frames.bin.zst"));
    let relay = Relay::start(RelayConfig::script(frames)).expect("a relay");
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", &relay.url(), "--cursor", "oldest"]);
    bridge.wait("every frame", SOON, |b| b.lines().len() >= 152);
    let due: Vec<String> = stop(bridge).iter().map(|line| alike(line)).collect();
    assert_eq!(due.len(), 152);
    let text = std::fs::read_to_string(shared("data/jetstream-corpus/expected_v1.jsonl")).expect("the recording");
    let events: Vec<Event> = text.lines().map(Event::of_line).collect();
    assert_eq!(events.len(), 152);
    let server = server(JetstreamConfig::default());
    server.push(events);
    for more in WIRES {
        let bridge = start(&server, &[&["--cursor", "oldest"], more].concat());
        bridge.wait("every event", SOON, |b| b.lines().len() >= 152);
        assert_eq!(bridge.metric("atkafka_dead_letters"), 0.0);
        let lines = stop(bridge);
        let (mut have, mut want): (Vec<_>, Vec<_>) = (lines.iter().map(|line| alike(line)).collect(), due.clone());
        have.sort();
        want.sort();
        let wrong = have.iter().zip(&want).filter(|(have, want)| have != want).count();
        assert_eq!((have.len(), wrong), (152, 0), "{more:?}");
        println!("{more:?}: 152 events, 0 differences");
    }
}

#[test]
fn each_kind_becomes_its_event_and_what_is_malformed_a_dead_letter() {
    let server = server(JetstreamConfig::default());
    let us = 1_783_175_888_085_434;
    let upstream = |more: &str| format!(r#"{{"did":"did:plc:a","seq":31,"time":"2026-07-04T14:38:07.784Z"{more}}}"#);
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let deep =
        format!(r#"{{"rev":"3k","operation":"create","collection":"a.b.c","rkey":"deep","cid":"b","record":{deep}}}"#);
    server.push([Event::of("commit", "did:plc:a", us, &deep)]);
    server.push([
        Event::of("commit", "did:plc:a", us, r#"{"rev":"3k","operation":"delete","collection":"a.b.c","rkey":"k"}"#),
        Event::of("identity", "did:plc:a", us, &upstream(r#","handle":"a.example""#)),
        Event::of("account", "did:plc:a", us, &upstream(r#","active":false,"status":"takendown""#)),
        Event::of("sync", "did:plc:a", us, &upstream(r#","rev":"3l","blocks":{"$bytes":"AAAA"}"#)),
        Event::of("weather", "did:plc:a", us, "{}"),
        Event::of("commit", "did:plc:a", us, r#"{"rev":"3k","operation":"rename","collection":"a.b.c","rkey":"k"}"#),
        Event::of(
            "commit",
            "did:plc:a",
            us,
            r#"{"rev":"3k","operation":"create","collection":"a.b.c","rkey":"","cid":"b"}"#,
        ),
        Event::of(
            "commit",
            "did:plc:a",
            us,
            r#"{"rev":"3k","operation":"create","collection":"a.b.c","rkey":"k","cid":"\""}"#,
        ),
        Event::of("account", "did:plc:a", us, r#"{"did":"did:plc:a","seq":32}"#),
        Event::of("commit", "", us, r#"{"rev":"3k","operation":"delete","collection":"a.b.c","rkey":"l"}"#),
        Event::post("did:plc:a", us + 1, 7),
    ]);
    for junk in ["", "{}", "[1]", "nonsense", r#"{"kind":"commit","did":"x"}"#, r#"{"kind":"x","did":"x"}"#] {
        server.inject(11, wire::TEXT, junk.as_bytes());
    }
    server.inject(11, wire::BINARY, b"\x00\x01");
    server.inject(11, wire::TEXT, format!(r#"{{"kind":"commit","commit":{}"#, "[".repeat(300_000)).as_bytes());
    for (version, letters) in [(1, 5 + 8), (2, 5 + 8 + 1)] {
        let bridge = start(&server, &["--cursor", "oldest", "--jetstream-version", &version.to_string()]);
        bridge.wait("the last event", SOON, |b| b.lines().iter().any(|line| line.contains(r#""n":7"#)));
        assert_eq!(bridge.metric("atkafka_dead_letters"), f64::from(letters), "version {version}: {:#?}", bridge.log());
        let lines = stop(bridge);
        let (seq, time, n) = match version {
            1 => ("", "2026-07-04T14:38:08.085434Z", ["\"seq\":31,", "\"seq\":31,", ""]),
            _ => (
                "\"seq\":24590000002,",
                "2026-07-04T14:38:08.085434Z",
                ["\"seq\":24590000003,", "\"seq\":24590000004,", "\"seq\":24590000005,"],
            ),
        };
        let start = |seq: &str, time: &str| format!(r#"{{"did":"did:plc:a","timestamp":"{time}",{seq}"#);
        let relay = "2026-07-04T14:38:07.784Z";
        let mut due = vec![
            start(seq, time)
                + r#""rev":"3k","operation":{"action":"delete","collection":"a.b.c","rkey":"k","uri":"at://did:plc:a/a.b.c/k","cid":"","path":"a.b.c/k"}}"#,
            start(n[0], relay) + r#""identity":{"seq":31,"handle":"a.example"}}"#,
            start(n[1], relay) + r#""account":{"active":false,"seq":31,"status":"takendown"}}"#,
        ];
        if version == 2 {
            due.push(start(n[2], relay) + r#""rev":"3l","sync":{"seq":31,"rev":"3l"}}"#);
        }
        assert!(lines[0].contains(r#""path":"a.b.c/deep""#), "{}", lines[0]);
        assert_eq!(lines[1..=due.len()], due[..], "version {version}");
    }
}

/// Osprey's envelope, metadata, and the filter by service.
#[test]
fn what_is_known_of_accounts_stands_in_the_envelope_and_filters() {
    let directory = Directory::start().expect("a directory");
    directory.account("did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "a.example", "https://pds.example");
    directory.account("did:plc:bbbbbbbbbbbbbbbbbbbbbbbb", "b.example", "https://other.example");
    let server = server(JetstreamConfig::default());
    server.push(["a", "b"].map(|x| Event::post(&format!("did:plc:{}", x.repeat(24)), now_us(), 1)));
    for more in WIRES {
        let plc = directory.url();
        let options =
            ["--cursor", "oldest", "--osprey-compatible", "--plc-host", &plc, "--watched-services", "pds.example"];
        let bridge = start(&server, &[&options[..], more].concat());
        bridge.wait("an event", SOON, |b| !b.lines().is_empty());
        bridge.wait("a filtered one", SOON, |b| b.metric("atkafka_filtered") >= 1.0);
        let lines = stop(bridge);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let envelope = golden::parse(&lines[0]);
        assert_eq!(envelope["data"]["action_name"].as_str(), Some("operation#create"));
        let data = &envelope["data"]["data"];
        assert_eq!(data["eventMetadata"]["handle"].as_str(), Some("a.example"), "{more:?}");
        assert_eq!(data["operation"]["record"]["n"].as_u64(), Some(1));
    }
}
