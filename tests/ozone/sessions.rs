//! Logins and tokens, rate limits, an Ozone that is away, and what ends a start.

use std::time::Duration;

use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, OzoneConfig, PASSWORD, RateLimit, Refusal};

use crate::support::*;
use crate::{SOON, bridge, fails, late, line_ids, start, wait_lines};

/// What the reader keeps between two logins.
const LOGIN_EVERY: Duration = Duration::from_secs(30);

#[test]
fn an_expired_token_is_renewed_and_a_refused_refresh_logs_in_again_but_not_often() {
    let ozone = start(OzoneConfig::default());
    let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
    ozone.add(&late(1, 0));
    wait_lines(&bridge, 1);
    ozone.expire_tokens();
    ozone.add(&late(2, 0));
    wait_lines(&bridge, 2);
    let stats = ozone.stats();
    assert_eq!((stats.logins.len(), stats.refreshes), (1, 1), "renewed without the password");

    ozone.refuse_refresh(true);
    ozone.expire_tokens();
    ozone.add(&late(3, 0));
    bridge.wait("a second login", SOON + LOGIN_EVERY, |_| ozone.stats().logins.len() > 1);
    wait_lines(&bridge, 3);
    let stats = ozone.stats();
    assert!(stats.refused_refreshes >= 1);
    assert_eq!(stats.logins.len(), 2);
    assert!(stats.logins[1] - stats.logins[0] >= LOGIN_EVERY, "{:?}", stats.logins[1] - stats.logins[0]);
    assert_eq!(line_ids(&bridge), [1, 2, 3]);
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    // The reader renews 60 s early, but not before half of the life is over: each 10 s.
    let ozone = start(OzoneConfig { access_life: Duration::from_secs(20), ..OzoneConfig::default() });
    let bridge = bridge(&ozone, &["--poll-interval", "500ms"]);
    bridge.wait("two renewals", SOON, |_| ozone.stats().refreshes >= 2);
    ozone.add(&late(1, 0));
    wait_lines(&bridge, 1);
    let stats = ozone.stats();
    assert_eq!(stats.logins.len(), 1);
    assert!(stats.queries.iter().all(|q| q.status == 200), "no query had to be refused first");
}

#[test]
fn rate_limits_are_waited_for_with_and_without_retry_after() {
    for retry_after in [true, false] {
        let limit = RateLimit { requests: 12, window: Duration::from_secs(6), retry_after };
        let ozone = start(OzoneConfig { rate_limit: Some(limit), ..OzoneConfig::default() });
        let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
        bridge.wait("a limit was met", SOON, |_| ozone.stats().limited >= 1);
        ozone.add(&late(1, 0));
        wait_lines(&bridge, 1);
        let stats = ozone.stats();
        assert_eq!(stats.limited, 1, "one refused request for one window, Retry-After: {retry_after}");
        assert_eq!(stats.logins.len(), 1);
        assert!(bridge.metric("atkafka_ozone_requests{method=\"queryEvents\",status=\"429\"}") >= 1.0);
    }
}

#[test]
fn an_ozone_that_is_away_is_tried_again_and_readyz_says_so() {
    let ozone = start(OzoneConfig { refuse: Some(Refusal::upstream_failure()), ..OzoneConfig::default() });
    let bridge = bridge(&ozone, &["--poll-interval", "100ms"]);
    bridge.wait("three attempts", SOON, |_| ozone.stats().queries.len() >= 3);
    let (status, body) = bridge.get("/readyz").expect("an answer");
    assert!(status == 503 && body.contains("UpstreamFailure"), "{status} {body}");
    assert_eq!(bridge.metric("atkafka_connected"), 0.0);
    ozone.refuse(None);
    ozone.add(&late(1, 0));
    wait_lines(&bridge, 1);
    ozone.answer_next([
        Refusal::new(500, "InternalServerError", "x"),
        Refusal::new(503, "", ""),
        Refusal::upstream_failure(),
    ]);
    ozone.add(&late(2, 0));
    wait_lines(&bridge, 2);
    bridge.wait("ready again", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
    assert!(bridge.metric("atkafka_reconnects") >= 5.0);
    assert_eq!(ozone.stats().logins.len(), 1, "no login for any of it");
    assert_eq!(line_ids(&bridge), [1, 2]);
}

#[test]
fn a_wrong_password_a_missing_role_and_a_wrong_labeler_end_the_start_with_a_clear_line() {
    let ozone = start(OzoneConfig::default());
    let log = fails(&ozone, &[], "wrong-password");
    assert!(log.contains("Invalid identifier or password") && log.contains("--password"), "{log}");
    assert!(!log.contains("wrong-password"), "{log}");
    assert_eq!(ozone.stats().logins.len(), 1, "one attempt");
    for more in [&[][..], &["--ozone-since", "2026-01-01T00:00:00Z"]] {
        let more = [&["--labeler-did", "did:plc:nobody"], more].concat();
        let url = ozone.url();
        let base = ["ozone-events", "--pds-host", &url, "--identifier", IDENTIFIER];
        let mut bridge = Bridge::start_with(&[&base[..], &more].concat(), &[("ATKAFKA_OZONE_PASSWORD", PASSWORD)]);
        assert_eq!(bridge.end(SOON).code(), Some(2), "{:?}", bridge.log());
        bridge.wait("the line that says why", SOON, |b| {
            b.log_contains("could not resolve proxy did") && b.log_contains("--labeler-did")
        });
    }
    ozone.refuse(Some(Refusal::no_role()));
    let logins = ozone.stats().logins.len();
    let log = fails(&ozone, &[], PASSWORD);
    assert!(log.contains("not a moderator account") && log.contains(IDENTIFIER) && log.contains(LABELER), "{log}");
    assert_eq!(ozone.stats().logins.len(), logins + 1, "no second login for a missing role");
}

#[test]
fn settings_from_the_environment_and_a_password_from_a_file_which_no_log_shows() {
    let ozone = start(OzoneConfig::default());
    ozone.add(&late(1, 0));
    let file = folder("password").join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("written");
    let (file, url) = (file.to_string_lossy().into_owned(), ozone.url());
    let account = [
        ("ATKAFKA_OZONE_PDS_HOST", url.as_str()),
        ("ATKAFKA_OZONE_IDENTIFIER", IDENTIFIER),
        ("ATKAFKA_OZONE_LABELER_DID", LABELER),
    ];
    let by_file =
        [&account[..], &[("ATKAFKA_OZONE_PASSWORD_FILE", file.as_str()), ("ATKAFKA_OZONE_POLL_INTERVAL", "100ms")]]
            .concat();
    let by_value = [&account[..], &[("ATKAFKA_OZONE_PASSWORD", PASSWORD)]].concat();
    for env in [by_file, by_value] {
        let bridge = Bridge::start_with(&["ozone-events", "--debug", "--contact", "ops@example.com"], &env);
        wait_lines(&bridge, 1);
        ozone.expire_tokens();
        bridge.wait("a renewal", SOON, |_| ozone.stats().refreshes > 0);
        let (code, log) = bridge.stop();
        assert_eq!(code, Some(0));
        let log = log.join("\n");
        assert!(!log.contains(PASSWORD) && !log.contains("eyJ"), "neither password nor token: {log}");
        assert!(log.contains(IDENTIFIER), "{log}");
    }
    let agent = ozone.stats().user_agent.unwrap_or_default();
    assert!(agent.contains("atkafka") && agent.contains("ops@example.com"), "{agent}");
}
