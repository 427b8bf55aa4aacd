//! Topics that delete what is written to them.

use atkafka_fixtures::frames;

use crate::create_topic;
use crate::support::*;

#[test]
fn a_topic_that_deletes_the_events_of_a_replay_is_warned_about_once() {
    let Some(broker) = broker(KAFKA) else { return };
    let dir = folder("retention");
    let file = dir.join("recorded.bin");
    // Events of 2025.
    frames::write(&file, crate::frames(1..=50)).expect("written");
    let replay = |retention: &str| {
        let topic = unique("retention");
        create_topic(&broker, &topic, 1, &[("retention.ms", retention)]);
        let (file, state) = (file.display().to_string(), dir.join(&topic).display().to_string());
        let args = ["firehose", "replay", "--file", &file, "--bootstrap-servers", &broker, "--output-topic", &topic];
        let (code, _, log) =
            run(&[&args[..], &["--state-dir", &state, "--metrics-listen-address", "none"]].concat(), &[]);
        assert_eq!(code, Some(0), "{log}");
        log
    };
    let log = replay("3600000");
    let said: Vec<&str> = log.lines().filter(|line| line.contains("retention.ms")).collect();
    assert!(
        said.len() == 1 && said[0].contains("keeps records for 60.0 min") && said[0].contains(" days old"),
        "{log}"
    );
    assert!(!replay("-1").contains("retention.ms"));
}
