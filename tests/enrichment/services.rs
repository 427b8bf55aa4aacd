//! Filters by service, and the flags of look-ups.

use std::time::Duration;

use atkafka_fixtures::directory::document;
use atkafka_fixtures::network::builder::{A_TIME, Commit, Op, account_frame, record};
use ipld_core::ipld;
use sonic_rs::JsonValueTrait;

use crate::support::*;
use crate::{REV, SOON, Stage, did, events, handle, seq, start, stop, text};

#[test]
fn what_other_filters_leave_out_is_not_looked_up() {
    let stage = Stage::new();
    let like = |who: &str, seq| {
        let content = record(&ipld!({ "$type": "app.bsky.feed.like" }));
        Commit::new(who, REV).op(Op::create("app.bsky.feed.like/k", &content)).frame(seq)
    };
    let [likes, ignored, seen] = [1, 2, 3].map(did);
    stage.push(|seq| like(&likes, seq));
    stage.post(&ignored);
    stage.identity(&ignored);
    stage.push(|seq| account_frame(seq, &ignored, A_TIME, true, None));
    stage.post(&seen);
    let bridge = stage.start(&["API", "--ignored-collections", "app.bsky.feed.like", "--ignored-dids", &ignored]);
    assert_eq!(text(&events(&bridge, 1)[0], "handle"), Some(handle(&seen).as_str()));
    assert_eq!(bridge.metric("atkafka_filtered_events"), 4.0);
    let stats = stage.directory.stats();
    for request in &stats.requests {
        assert!(request.target.contains(&seen["did:plc:".len()..]), "{request:?}");
    }
    assert_eq!(stats.requests.len(), 4, "document, log, handle, profile");
    stop(bridge);
}

#[test]
fn services_are_watched_and_ignored_in_every_form_of_pattern() {
    // By seq; nobody knows of the last one.
    let hosts = [
        ("a", "https://morel.us-east.host.bsky.network"),
        ("b", "https://bsky.network"),
        ("c", "https://blacksky.app"),
        ("d", "http://localhost:2583"),
        ("e", "https://pds.example:8443"),
        ("f", "https://notbsky.network"),
        ("g", ""),
    ];
    let stage = Stage::new();
    for (n, (_, pds)) in hosts.iter().enumerate() {
        stage.directory.set_document(&did(n), &document(&did(n), &handle(&did(n)), pds));
        stage.post(&did(n));
    }
    stage.unknown(&did(6));
    let cases = [
        ("--watched-services *.bsky.network", "ag"),
        ("--watched-services bsky.network", "bg"),
        ("--watched-services https://blacksky.app", "cg"),
        ("--watched-services https://blacksky.app/", "cg"),
        ("--watched-services localhost:2583", "dg"),
        ("--watched-services pds.example:8443 --unresolved-services drop", "e"),
        ("--watched-services PDS.example:8443,blacksky.app --unresolved-services pass", "ceg"),
        ("--watched-services https://pds.example:8443,http://blacksky.app --unresolved-services drop", "e"),
        ("--ignored-services *.bsky.network", "bcdefg"),
        ("--ignored-services https://blacksky.app --ignored-services bsky.network", "adefg"),
        ("--ignored-services bsky.network --unresolved-services drop", "acdef"),
        ("--watched-services *.bsky.network,bsky.network --ignored-services morel.us-east.host.bsky.network", "bg"),
    ];
    let (relay, directory) = (&stage.relay, &stage.directory);
    let check = |(flags, wanted): (&str, &str)| {
        let bridge = start(relay, directory, &flags.split(' ').collect::<Vec<_>>());
        bridge.wait_delivered(hosts.len() as u64, SOON);
        let passed: String = events(&bridge, wanted.len()).iter().map(|e| hosts[seq(e) as usize - 1].0).collect();
        let filtered = bridge.metric("atkafka_filtered_events") as usize;
        stop(bridge);
        let right = passed == wanted && filtered == hosts.len() - wanted.len();
        (!right).then(|| format!("{flags}: {passed} instead of {wanted}, {filtered} counted"))
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let halves = cases.split_at(cases.len() / 2);
        let check = &check;
        let other = scope.spawn(move || halves.1.iter().filter_map(|case| check(*case)).collect::<Vec<_>>());
        let wrong: Vec<String> = halves.0.iter().filter_map(|case| check(*case)).collect();
        [wrong, other.join().expect("no panic")].concat()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The account here has no document anywhere, so that the real directory is not asked.
#[test]
fn service_filters_alone_write_no_metadata() {
    let stage = Stage::new();
    stage.post("did:key:zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF");
    let url = stage.relay.url();
    let watched = ["firehose", "relay", "--relay-host", &url, "--watched-services", "*.bsky.network"];
    for (policy, passed) in [("pass", 1), ("drop", 0)] {
        let bridge = Bridge::start(&[&watched[..], &["--unresolved-services", policy]].concat());
        bridge.wait_delivered(1, SOON);
        assert!(events(&bridge, passed).iter().all(|e| e.get("eventMetadata").is_none()));
        assert_eq!(bridge.metric("atkafka_filtered_events"), 1.0 - passed as f64, "{policy}");
        assert!(bridge.log_contains("https://plc.directory"), "{:?}", bridge.log());
        stop(bridge);
    }
}

#[test]
fn a_wrong_value_of_each_flag_is_one_line_that_names_it() {
    let urls =
        ["plc.directory", "ftp://plc.directory", "ws://plc.directory", "https://", "http://a:0", "https://a:99999"];
    let urls = [&urls[..], &["https://u:p@plc.directory", "https://plc.directory/?a=b"]].concat();
    let mut cases: Vec<(String, Vec<&str>)> = Vec::new();
    for (flag, values) in [
        ("--plc-host", &urls[..]),
        ("--api-host", &urls),
        ("--metadata-timeout", &["61s", "-1", "3x", "soon"]),
        ("--metadata-cache", &["0", "-5", "many", "1.5", "1000kB", "64QB"]),
        ("--metadata-ttl", &["0", "1y", "-1h"]),
        ("--lookup-concurrency", &["0", "-1", "x"]),
        ("--lookup-rate", &["0", "-1", "x"]),
        ("--metadata-required", &["maybe"]),
        ("--metadata-snapshot", &["maybe"]),
        ("--allow-private-did-web", &["maybe"]),
        ("--unresolved-services", &["keep", "pas"]),
        ("--watched-services", &["*bsky.network", "ftp://a.example", "https://a.example/path", "a:0", "https://"]),
        ("--ignored-services", &["*", "a:b", ".a"]),
    ] {
        let plc = if flag == "--plc-host" { "" } else { "--plc-host http://127.0.0.1:1" };
        let services = if flag == "--unresolved-services" { "--watched-services a.example" } else { "" };
        for value in values {
            for source in ["firehose relay", "firehose tap"] {
                // A password is not shown.
                let shown = if value.contains('@') { "https://***@plc.directory" } else { value };
                cases.push((format!("{source} {plc} {services} {flag}={value}"), vec![flag, shown]));
            }
        }
    }
    for command in ["record --output x", "ozone-events"] {
        cases.push((format!("{command} --plc-host https://plc.directory"), vec!["--plc-host"]));
    }
    let mut wrong = Vec::new();
    // For what a mistake that is not seen would start.
    let nowhere = [
        ("METRICS_LISTEN_ADDRESS", "none"),
        ("ATKAFKA_RELAY_HOST", "ws://127.0.0.1:1"),
        ("ATKAFKA_TAP_HOST", "ws://127.0.0.1:1"),
    ];
    for (line, parts) in &cases {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, out, err) = run_for(&words, &nowhere, Duration::from_secs(5));
        let one_line = err.ends_with('\n') && err.lines().count() == 1;
        if code != Some(2) || !out.is_empty() || !one_line || !parts.iter().all(|p| err.contains(p)) {
            wrong.push(format!("{line}\n    exit {code:?}, wanted 2 and {parts:?}: {err:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
