//! What `check` says of positions in Kafka.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::support::kafka_script::{LIMITED, Lists};
use crate::support::*;
use crate::{Report, SASL, SOON, check, check_with, create_topic, has_topic, relay};

fn with_policy(broker: &str, topic: &str, policy: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().expect("an admin client");
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("cleanup.policy", policy);
    let answer = pollster::block_on(admin.create_topics([&new], &AdminOptions::new())).expect("an answer");
    answer.into_iter().for_each(|created| drop(created.expect("created")));
}

fn of_a_broker(broker: &str) {
    let (relay, topic) = (relay(), unique("check-cursor"));
    let (url, cursors) = (relay.url(), format!("{topic}.cursor"));
    create_topic(broker, &topic, "-1");
    let base = ["firehose", "relay", "--relay-host", &url, "--cursor", "oldest", "--bootstrap-servers", broker];
    let base = [&base[..], &["--output-topic", &topic, "--delivery", "exactly-once"]].concat();
    let ask = |more: &[&str]| -> Report { check(&[&base[..], more].concat()) };
    let absent = ask(&[]);
    absent.is_well(0).says("ok", "positions", &[&cursors, "will be created, compacted, with one partition"]);
    absent.says("not checked", "identity", &["atkafka-relay-", "Write and Describe on TransactionalId"]);
    assert!(absent.texts("ok", "state").is_empty(), "no file is used: {}", absent.text);
    assert!(!has_topic(broker, &cursors));
    ask(&["--no-create-topic"]).fails("positions", &[&cursors, "--no-create-topic is given", "cleanup.policy=compact"]);
    for policy in ["delete", "compact,delete"] {
        let topic = unique("check-policy");
        with_policy(broker, &topic, policy, 1);
        ask(&["--cursor-topic", &topic]).fails("positions", &[&topic, "would be lost", "cleanup.policy=compact"]);
    }
    let many = unique("check-many");
    with_policy(broker, &many, "compact", 2);
    let shared = ["--cursor-topic", &many];
    ask(&shared).is_well(0).says("ok", "positions", &[&many, "only partition 0 is used"]);
    ask(&[&shared[..], &["--standby"]].concat()).fails("positions", &[&many, "--standby", "partitions"]);
    let bridge = Bridge::start(&base);
    bridge.wait_delivered(3, SOON);
    // Beside an instance that runs, which is not disturbed.
    ask(&[]).is_well(0).says("ok", "position", &["127.0.0.1"]);
    assert_eq!(bridge.stop().0, Some(0));
    let there = ask(&[]);
    there.is_well(0).says("ok", "positions", &[&cursors, "compacted, takes records of up to 33554432 bytes"]);
    ask(&["--instance-id", "blue"]).says("not checked", "identity", &["TransactionalId atkafka-blue"]);
    there.says("ok", "rights", &[&cursors, "Read"]).says("ok", "position", &["goes on from what was saved at 2"]);
}

#[test]
fn the_cursor_topic_is_tried() {
    for variable in [KAFKA, KAFKA_39] {
        if let Some(broker) = broker(variable) {
            of_a_broker(&broker);
        }
    }
}

#[test]
fn rights_to_the_cursor_topic_that_are_missing_are_named() {
    let (Some(broker), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    let (relay, topic) = (relay(), unique("check-rights"));
    let (url, cursors) = (relay.url(), format!("{topic}.cursor"));
    create_topic(&broker, &topic, "-1");
    with_policy(&broker, &cursors, "compact", 1);
    let mut args = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", &sasl];
    args.extend(["--sasl-mechanism", "PLAIN", "--output-topic", &topic, "--cursor-store", "kafka"]);
    let ask = || check_with(&args, &LIMITED);
    // Once there is an ACL, whatever it does not name is forbidden.
    let (lists, resource) = (Lists::of(&broker), ["--topic", &cursors]);
    lists.allow("Describe", &resource);
    ask().fails("rights", &[&cursors, "needs the right Read and Write"]);
    lists.allow("Write", &resource);
    ask().fails("rights", &[&cursors, "needs the right Read on"]).says("warning", "positions", &["DescribeConfigs"]);
    lists.allow("Read", &resource);
    ask().says("ok", "rights", &[&cursors, "Read"]).says("ok", "position", &["none is saved yet"]);
}
