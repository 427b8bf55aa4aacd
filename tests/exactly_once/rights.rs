//! The rights that the documents name: with each that is missing nothing is lost, it is said which, and with these alone it works.

use atkafka_fixtures::relay::Relay;

use crate::oracle::compare;
use crate::own_broker::Broker;
use crate::support::kafka_script::{LIMITED, Lists, port_of_broker};
use crate::support::*;
use crate::{SOON, TRAFFIC, committed, create_topic, looped};

const TOTAL: u64 = 3_000;

/// A broker of its own with access control lists, and its address for those that log in.
pub fn with_lists(version: &'static str, port: u16) -> (Broker, Lists, String) {
    let broker = Broker::start(version, port, "all");
    let number: u16 = port_of_broker(&broker.address()).parse().expect("a number");
    let lists = Lists::of(&broker.address());
    (broker, lists, format!("127.0.0.1:{}", number + 1))
}

fn needs_no_more(version: &'static str, port: u16) {
    let (broker, lists, sasl) = with_lists(version, port);
    let plain = broker.address();
    let (topic, cursors) = (unique("rights"), unique("rights.cursor"));
    create_topic(&plain, &topic, 2, &[]);
    create_topic(&plain, &cursors, 1, &[("cleanup.policy", "compact")]);
    let events = ["--topic", &topic];
    let positions = ["--topic", &cursors];
    let identity = ["--transactional-id", "atkafka-", "--resource-pattern-type", "prefixed"];
    for resource in [&events[..], &positions, &identity, &["--group", "*"], &["--cluster"]] {
        lists.close(resource);
    }
    lists.allow("Write", &events);

    let relay = Relay::start(looped(TOTAL)).expect("a relay");
    relay.set_live_limit(TOTAL / 2);
    let url = relay.url();
    let login = ["--bootstrap-servers", &sasl, "--sasl-mechanism", "PLAIN", "--cursor-topic", &cursors];
    let source = ["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--output-topic", &topic];
    let args = [&source[..], &login, &["--delivery", "exactly-once"]].concat();
    let without = |bridge: &Bridge, says: &str, operation: &str, resource: &[&str]| {
        bridge.wait(says, SOON, |b| b.log_contains(says));
        assert_eq!(bridge.metric("atkafka_received_frames"), 0.0, "nothing is read before");
        lists.allow(operation, resource);
    };
    let bridge = Bridge::start_with(&args, &LIMITED);
    without(&bridge, "this client may not see it (Describe), and cannot be created", "Describe", &positions);
    without(&bridge, "no right to the transactional id atkafka-relay-", "Write", &identity);
    without(&bridge, "positions cannot be written to topic", "Write", &positions);
    bridge.wait_delivered(TOTAL / 2, SOON);
    let log = bridge.log();
    let said = |part: &str| log.iter().filter(|line| line.contains(part)).count();
    assert_eq!(said("its settings cannot be read"), 1, "{log:?}");
    assert!(said("Global error") == 0 && said("WARN  output: positions cannot be written") == 1, "{log:?}");
    assert_eq!(bridge.stop().0, Some(0));
    relay.set_live_limit(TOTAL);
    let bridge = Bridge::start_with(&args, &LIMITED);
    without(&bridge, "cannot be read: Message consumption error: TopicAuthorizationFailed", "Read", &positions);
    bridge.wait_delivered(TOTAL, SOON);
    assert_eq!(bridge.stop().0, Some(0));
    compare(&TRAFFIC.served(1, 0..TOTAL), &committed(&plain, &topic)).once();

    // Those that take turns need their group besides.
    let standby = Bridge::start_with(&[&args[..], &["--standby"]].concat(), &LIMITED);
    let group = ["--group", "atkafka-", "--resource-pattern-type", "prefixed"];
    without(&standby, "no right to the consumer group atkafka-relay-", "Read", &group);
    standby.wait("it works", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(standby.stop().0, Some(0));

    // The commands about positions need the same.
    for action in [&["show"][..], &["set", "--to", "7"], &["delete"]] {
        let (code, out, err) = run(&[&["cursor"], action, &login].concat(), &LIMITED);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{action:?}: {out}");
    }
}

#[test]
fn exactly_once_needs_the_rights_of_the_documents_and_no_more() {
    if broker(KAFKA).is_some() {
        needs_no_more("4.3.1", 31_392);
        needs_no_more("3.9.1", 31_492);
    }
}
