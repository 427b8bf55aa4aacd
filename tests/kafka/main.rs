//! Against real brokers: how atkafka reaches them, what it asks of them, what they refuse, and what consumers read.

mod consumers;
mod diagnosis;
mod figures;
mod held;
mod oauth;
mod options;
#[path = "../support/oracle.rs"]
mod oracle;
mod order;
#[path = "../support/own_broker.rs"]
mod own_broker;
mod refusals;
mod renewal;
mod retention;
mod routes;
#[path = "../support/mod.rs"]
mod support;

use std::ops::RangeInclusive;
use std::time::Duration;

use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// The variables that name the other listeners of the broker in `KAFKA`, and the file with their CA.
const SASL: &str = "ATKAFKA_TEST_KAFKA_SASL";
const SSL: &str = "ATKAFKA_TEST_KAFKA_SSL";
const SASL_SSL: &str = "ATKAFKA_TEST_KAFKA_SASL_SSL";
const CA: &str = "ATKAFKA_TEST_KAFKA_CA";

/// One small event per seq, each of an account of its own.
fn frames(seqs: RangeInclusive<u64>) -> Vec<Vec<u8>> {
    seqs.map(|i| identity_frame(i, &format!("did:plc:{i:024}"), A_TIME, Some("a.example"))).collect()
}

fn admin(broker: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker).create().expect("an admin client")
}

/// Creates a topic with these properties; `partitions` -1 leaves their number to the broker.
fn create_topic(broker: &str, topic: &str, partitions: i32, properties: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (key, value) in properties {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let answer = pollster::block_on(admin(broker).create_topics([&new], &options)).expect("an answer");
    answer.into_iter().for_each(|a| drop(a.expect("created")));
}
