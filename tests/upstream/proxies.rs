//! Everything but brokers goes through the proxy of the environment, websockets too, and this machine never does. The proxy is
//! named; its password is not.

use atkafka_fixtures::directory::Directory;
use atkafka_fixtures::frames;
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD, comment};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};

use crate::SOON;
use crate::proxy::Proxy;
use crate::support::*;

const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
/// `us@er` and `pass:wörd`, as a URL and as base64.
const USER_INFO: &str = "us%40er:pass:w%C3%B6rd@";
const LOGIN: &str = "dXNAZXI6cGFzczp3w7ZyZA==";

fn relay() -> Relay {
    let list = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    Relay::start(RelayConfig::looped(list, 50)).expect("a relay")
}

/// The same address under a name that only the proxy knows.
fn elsewhere(url: &str) -> String {
    url.replace("127.0.0.1", "host.test").replace("localhost", "host.test")
}

/// It does not stand anywhere that somebody reads.
fn hidden(bridge: &Bridge) {
    for text in [bridge.log().join("\n"), bridge.get("/metrics").map(|m| m.1).unwrap_or_default()] {
        for secret in ["pass:w", "us%40er", LOGIN] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

#[test]
fn every_source_and_look_up_goes_through_the_proxy() {
    let (relay, tap, directory) = (relay(), Tap::start(TapConfig::default()), Directory::start());
    let (tap, directory) = (tap.expect("a Tap"), directory.expect("a directory"));
    directory.make(|_| Some(("a.example".into(), "https://pds.example".into())));
    let ozone = Ozone::start(OzoneConfig::default()).expect("an Ozone");
    tap.push([TapEvent::identity(DID, r#""handle":"a.example","is_active":true,"status":"active""#)]);
    ozone.add(&comment(DID, "a note"));
    let (relay_url, tap_url, plc, pds) =
        (elsewhere(&relay.url()), elsewhere(&tap.url()), elsewhere(&directory.url()), elsewhere(&ozone.url()));
    let lines: [(&[&str], &[&str]); 3] = [
        (
            &["firehose", "relay", "--relay-host", &relay_url, "--plc-host", &plc, "--metadata-timeout", "30s"],
            &[&relay_url, &plc],
        ),
        (&["firehose", "tap", "--tap-host", &tap_url], &[&tap_url]),
        (&["ozone-events", "--identifier", IDENTIFIER, "--labeler-did", LABELER, "--pds-host", &pds], &[&pds]),
    ];
    for (line, hosts) in lines {
        let proxy = Proxy::start(Some(LOGIN));
        let url = proxy.url(USER_INFO);
        let bridge = Bridge::start_with(line, &[("HTTP_PROXY", &url), ("ATKAFKA_OZONE_PASSWORD", PASSWORD)]);
        bridge.wait("an event", SOON, |b| !b.lines().is_empty());
        for host in hosts {
            let host = host.split("//").nth(1).expect("a URL");
            assert!(proxy.targets().iter().any(|target| target == host), "{host}: {:?}", proxy.targets());
            let says = format!("{host}: through the proxy 127.0.0.1:{}", proxy.port());
            assert!(bridge.log_contains(&says), "{says}: {:?}", bridge.log());
        }
        hidden(&bridge);
        assert_eq!(bridge.stop().0, Some(0));
    }
}

#[test]
fn a_proxy_that_does_not_help_is_named() {
    let (open, closed) = (Proxy::start(None), Proxy::start(Some(LOGIN)));
    let dead = format!("http://{USER_INFO}127.0.0.1:1");
    let open = open.url(USER_INFO);
    let wrong = closed.url("us%40er:pass:wrong@");
    for (url, says) in [
        (&wrong, "HTTP 407, it wants a login: put user and password into HTTPS_PROXY"),
        (&open, "HTTP 502, it does not reach the host"),
        (
            &dead,
            "the proxy 127.0.0.1:1: 127.0.0.1:1: Connection refused (os error 111); is HTTPS_PROXY or ALL_PROXY right?",
        ),
    ] {
        let line = ["firehose", "relay", "--relay-host", "wss://host.test:1"];
        let bridge = Bridge::start_with(&line, &[("ALL_PROXY", url)]);
        bridge.wait(says, SOON, |b| b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains(says)));
        hidden(&bridge);
        assert_eq!(bridge.stop().0, Some(0));
    }
    let (code, _, err) = run(&["firehose", "relay"], &[("HTTPS_PROXY", "socks5://us:pass:w@host:1")]);
    assert!(
        code == Some(2) && err.contains("HTTPS_PROXY: ") && err.contains("SOCKS") && !err.contains("pass:w"),
        "{err}"
    );
}

#[test]
fn this_machine_and_what_is_excepted_are_reached_without_the_proxy() {
    let (relay, proxy) = (relay(), Proxy::start(None));
    let url = proxy.url("");
    let local = relay.url();
    let bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", &local], &[("ALL_PROXY", &url)]);
    bridge.wait_delivered(50, SOON);
    assert_eq!(bridge.stop().0, Some(0));
    let line = ["firehose", "relay", "--relay-host", "ws://a.host.invalid"];
    let bridge = Bridge::start_with(&line, &[("ALL_PROXY", &url), ("NO_PROXY", "other.invalid, host.invalid")]);
    bridge.wait("tried without", SOON, |b| b.log_contains("the name has no address"));
    assert_eq!(bridge.stop().0, Some(0));
    assert!(proxy.targets().is_empty(), "{:?}", proxy.targets());
}
