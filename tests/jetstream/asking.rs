//! The wire, what is asked for, and the dictionary.

use crate::support::*;
use crate::*;

#[test]
fn version_2_is_found_and_version_1_where_there_is_no_other() {
    for (versions, packed, targets) in [
        ((true, true), false, vec!["/xrpc/network.bsky.jetstream.subscribeEvents"]),
        ((true, false), false, vec!["/xrpc/network.bsky.jetstream.subscribeEvents", "/subscribe"]),
        ((true, false), true, vec!["/xrpc/network.bsky.jetstream.getZstdDictionary", "/subscribe"]),
        (
            (true, true),
            true,
            vec!["/xrpc/network.bsky.jetstream.getZstdDictionary", "/xrpc/network.bsky.jetstream.subscribeEvents"],
        ),
    ] {
        let server = server(JetstreamConfig { versions, ..JetstreamConfig::default() });
        server.push(posts(0..3, now_us(), 1));
        let method = if packed { "zstd" } else { "none" };
        let bridge = start(&server, &["--cursor", "oldest", "--jetstream-compression", method]);
        bridge.wait("events", SOON, |b| b.lines().len() == 3);
        let stats = server.stats();
        let asked: Vec<&str> = stats.requests.iter().map(|r| r.target.split('?').next().unwrap_or_default()).collect();
        assert_eq!(asked, targets);
        let last = stats.requests.last().expect("one");
        assert_eq!(last.protocol.as_deref(), versions.1.then_some("xrpc.v1.json"));
        assert_eq!(stats.bad_frames, 0);
        assert_eq!(bridge.log_contains("it has no version 2"), !versions.1);
        // A drop asks version 1 alone.
        server.drop_connections();
        server.push(posts(3..4, now_us(), 1));
        bridge.wait("one more", SOON, |b| b.lines().len() == 4);
        assert_eq!(server.stats().requests.len(), targets.len() + 1);
        stop(bridge);
    }
    let server = server(JetstreamConfig { versions: (true, false), ..JetstreamConfig::default() });
    let bridge = start(&server, &["--jetstream-version", "2"]);
    bridge.wait("a reason", SOON, |b| b.log_contains("HTTP 404"));
    assert!(bridge.get("/readyz").is_some_and(|(status, _)| status == 503));
}

#[test]
fn a_server_that_warms_up_is_waited_for() {
    let server = server(JetstreamConfig::default());
    server.push(posts(0..3, now_us(), 1));
    server.refuse(true);
    let bridge = start(&server, &["--cursor", "oldest"]);
    bridge.wait("a reason", SOON, |b| b.log_contains("HTTP 503"));
    server.refuse(false);
    bridge.wait("events", SOON, |b| b.lines().len() == 3);
    stop(bridge);
}

#[test]
fn the_server_gets_the_filter_and_ours_stays_in_force() {
    let server = server(JetstreamConfig::default());
    let other = r#"{"rev":"3k","operation":"delete","collection":"a.b.c","rkey":"k"}"#;
    server.push(posts(0..40, now_us(), 1));
    server.push([Event::of("commit", "did:plc:account1", now_us(), other)]);
    server.push([Event::of("identity", "did:plc:account1", now_us(), r#"{"did":"did:plc:account1","seq":1}"#)]);
    let options = [
        "--cursor",
        "oldest",
        "--watched-collections",
        "app.bsky.feed.*",
        "--watched-dids",
        "did:plc:account1,did:plc:account2",
    ];
    for more in WIRES {
        let bridge = start(&server, &[&options[..], more, &["--ignored-dids", "did:plc:account2"]].concat());
        bridge.wait("what is wanted", SOON, |b| b.lines().len() == 3);
        let request = server.stats().requests.pop().expect("one");
        let (collections, dids) =
            if more == WIRES[0] { ("wantedCollections", "wantedDids") } else { ("collections", "dids") };
        assert_eq!(request.values(collections), ["app.bsky.feed.*"]);
        assert_eq!(request.values(dids), ["did:plc:account1", "did:plc:account2"]);
        let kinds: &[&str] = if more == WIRES[0] { &[] } else { &["commit", "identity", "account", "sync"] };
        assert_eq!(request.values("kinds"), kinds);
        assert_eq!(bridge.metric("atkafka_received_frames"), 5.0, "{more:?}");
        assert_eq!(bridge.metric("atkafka_filtered"), 2.0, "{more:?}");
        assert_eq!(numbers(&stop(bridge)), [1, 38]);
    }
}

#[test]
fn a_list_of_accounts_that_no_query_holds_is_told_by_a_message_or_kept_here() {
    let server = server(JetstreamConfig { longest_request: 100_000, ..JetstreamConfig::default() });
    server.push(posts(0..40, now_us(), 1));
    let list = folder("dids").join("list");
    let others: Vec<String> = (0..2_000).map(|i| format!("did:plc:{i:024}")).collect();
    std::fs::write(&list, format!("{}\ndid:plc:account1", others.join("\n"))).expect("written");
    let dids = format!("@{}", list.display());
    for more in WIRES {
        let bridge = start(&server, &[&["--cursor", "oldest", "--watched-dids", &dids], more].concat());
        bridge.wait("what is wanted", SOON, |b| b.lines().len() == 2);
        assert_eq!(bridge.metric("atkafka_received_frames"), if more == WIRES[0] { 2.0 } else { 40.0 }, "{more:?}");
        assert_eq!(server.stats().bad_frames, 0);
        stop(bridge);
    }
    // A proxy that takes no long request.
    let server = self::server(JetstreamConfig { longest_request: 500, ..JetstreamConfig::default() });
    server.push(posts(0..40, now_us(), 1));
    std::fs::write(&list, format!("{}\ndid:plc:account1", others[..50].join("\n"))).expect("written");
    let bridge = start(&server, &["--cursor", "oldest", "--watched-dids", &dids]);
    bridge.wait("what is wanted", SOON, |b| b.lines().len() == 2);
    assert!(bridge.log_contains("too long for a request"));
    stop(bridge);
}

#[test]
fn the_dictionary_is_kept_and_another_one_is_fetched_when_it_is_retired_or_damaged() {
    let server = server(JetstreamConfig::default());
    let state = folder("state");
    let fetched = || server.stats().requests.iter().filter(|r| r.target.contains("getZstdDictionary")).count();
    let options = ["--cursor", "oldest", "--jetstream-compression", "zstd"];
    let mut total = 0;
    let mut run = |due: usize, what: &str, before: &dyn Fn()| {
        server.push(posts(total..total + 10, now_us(), 1));
        total += 10;
        before();
        let bridge = start_kept(&server, &state, &options);
        bridge.wait(what, SOON, |b| b.lines().len() == 10);
        assert_eq!((fetched(), bridge.metric("atkafka_dead_letters")), (due, 0.0), "{what}");
        stop(bridge);
    };
    run(1, "the first", &|| {});
    run(1, "from the state directory", &|| {});
    run(2, "another one", &|| server.set_dictionary(dictionary(2)));
    run(3, "a damaged file", &|| {
        let file = std::fs::read_dir(&state).expect("a folder").map(|e| e.expect("an entry").path());
        let file = file.into_iter().find(|p| p.extension().is_some_and(|e| e == "zstd-dictionary")).expect("a file");
        let mut bytes = std::fs::read(&file).expect("read");
        bytes[3_000] ^= 1;
        std::fs::write(&file, bytes).expect("written");
    });
    // While it runs.
    let bridge = start_kept(&server, &state, &options);
    connected(&bridge);
    server.set_dictionary(dictionary(3));
    server.drop_connections();
    server.push(posts(total..total + 10, now_us(), 1));
    bridge.wait("a third one", SOON, |b| b.lines().len() == 10);
    assert_eq!(fetched(), 4);
    stop(bridge);
}

/// Lag and silence need no seq.
#[test]
fn lag_and_silence_are_told_on_every_wire() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..10, now_us() - HOUR, 1));
        let bridge = start(&server, &[&["--cursor", "oldest", "--silence", "3s"], more].concat());
        bridge.wait("an hour behind", SOON, |b| (3_590.0..3_700.0).contains(&b.metric("atkafka_lag_seconds")));
        let until = Instant::now() + Duration::from_secs(5);
        let mut n = 10;
        while Instant::now() < until {
            server.push(posts(n..n + 10, now_us(), 1));
            n += 10;
            std::thread::sleep(Duration::from_millis(100));
        }
        bridge.wait("up to date", SOON, |b| b.metric("atkafka_lag_seconds") < 60.0);
        bridge.wait("left", SOON, |b| b.metric("atkafka_silent_connections") >= 1.0);
        stop(bridge);
    }
}

#[test]
fn a_stranger_is_named() {
    let relay = Relay::start(RelayConfig::script(vec![])).expect("a relay");
    let bridge = Bridge::start(&["firehose", "jetstream", "--jetstream-host", &relay.url()]);
    bridge.wait("a reason", SOON, |b| b.log_contains("`atkafka firehose relay --relay-host` reads it"));
    let server = server(JetstreamConfig::default());
    server.push(posts(0..1, now_us(), 1));
    let url = format!("{}/subscribe", server.url());
    let bridge = Bridge::start(&["firehose", "tap", "--tap-host", &url]);
    bridge.wait("a reason", SOON, |b| b.log_contains("HTTP 404"));
}

#[test]
fn a_check_says_which_version_a_host_has() {
    for (versions, says) in [((true, true), "version 2"), ((true, false), "version 1")] {
        let server = server(JetstreamConfig { versions, ..JetstreamConfig::default() });
        let line =
            ["check", "firehose", "jetstream", "--jetstream-host", &server.url(), "--metrics-listen-address", "none"];
        let (code, out, err) = run(&line, &[]);
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(out.contains(&format!("is a Jetstream of {says}")), "{out}{err}");
    }
}

#[test]
fn a_first_start_begins_at_a_time_and_a_saved_position_goes_before_it() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..4, now_us() - 5 * HOUR, SECOND));
        server.push(posts(4..8, now_us() - 2 * HOUR, SECOND));
        let state = folder("state");
        let options = [&["--cursor", "3h ago"], more].concat();
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("what is newer", SOON, |b| b.lines().len() == 4);
        assert!(bridge.log_contains("asked for events since"), "{:?}", bridge.log());
        assert_eq!(bridge.metric("atkafka_gaps{"), 0.0, "{more:?}");
        assert_eq!(numbers(&stop(bridge)), [4, 5, 6, 7], "{more:?}");
        server.push(posts(8..9, now_us(), 0));
        let bridge = start_kept(&server, &state, &options);
        bridge.wait("the last", SOON, |b| b.lines().len() == 1);
        assert!(bridge.log_contains("--cursor is not used"), "{:?}", bridge.log());
        assert_eq!(numbers(&stop(bridge)), [8], "{more:?}");
    }
}

#[test]
fn a_time_before_everything_that_is_kept_is_the_oldest_and_no_gap() {
    for more in WIRES {
        let server = server(JetstreamConfig::default());
        server.push(posts(0..4, now_us() - 50 * HOUR, SECOND));
        server.push(posts(4..8, now_us() - 2 * HOUR, SECOND));
        server.forget_before(4);
        let bridge = start(&server, &[&["--cursor", "60h ago"], more].concat());
        bridge.wait("what is kept", SOON, |b| numbers(&b.lines()).len() == 4);
        assert_eq!(bridge.metric("atkafka_gaps{"), 0.0, "{more:?}");
        let lines = stop(bridge);
        assert_eq!((numbers(&lines), infos(&lines)), (vec![4, 5, 6, 7], vec![]), "{more:?}");
    }
}
