//! The topic of positions: whether it keeps them, whether this client may read and write it, and what it has.

use std::collections::HashMap;

use super::{HOSTS, Out, Positions, topic};
use crate::checkpoint::topic::{self as positions, Key, for_standby};
use crate::sink::kafka_options::Kafka;
use crate::sink::librdkafka::inspect::{Inspector, TopicSettings};
use crate::sink::rights::Right;

pub fn check(inspector: &Inspector, options: &Kafka, at: Positions, out: &Out) {
    let (name, keys) = (&*at.topic, &*(at.keys)());
    match inspector.topic(name) {
        None => absent(inspector, options, name, out),
        Some(shape) => {
            let settings = inspector.settings(name);
            let least = settings.as_ref().map_or(1, |settings| settings.min_in_sync);
            topic::topic(name, shape, least, inspector.brokers().len(), out);
            let partitions = shape.partitions;
            let suits = if at.standby { for_standby(name, partitions) } else { Ok(()) };
            match suits {
                Ok(()) => keeps(name, &settings, partitions, keys, out),
                Err(why) => out.failed("positions", why),
            }
            if rights(inspector, name, out) {
                saved(inspector, name, keys, out);
            }
        }
    }
    let id = positions::transactional_id(keys);
    // Whoever asks the brokers for it ends the instance that runs.
    out.not_checked(
        "identity",
        format!("{id}: the right to it shows at the start: Write and Describe on TransactionalId {id}"),
    );
}

fn absent(inspector: &Inspector, options: &Kafka, name: &str, out: &Out) {
    if !options.new_topic.create {
        return out.failed(
            "positions",
            format!(
                "{name} does not exist, or this client may not see it, and --no-create-topic is given: create it with one partition and cleanup.policy=compact, or allow Describe"
            ),
        );
    }
    match inspector.would_create(name) {
        Ok(()) => {
            out.ok("positions", format!("{name} does not exist; it will be created, compacted, with one partition"));
            out.not_checked("rights", format!("{name}: the rights to read and write show once the topic is there"));
        }
        Err(why) => out.failed(
            "positions",
            format!(
                "{name} cannot be used: {why}; create it with one partition and cleanup.policy=compact, or give this client the rights Create, Describe, Read and Write on it"
            ),
        ),
    }
}

/// Whether positions stay there.
fn keeps(name: &str, settings: &Result<TopicSettings, String>, partitions: usize, keys: &[Key], out: &Out) {
    let largest = keys.iter().map(positions::largest).max().unwrap_or(0);
    let change = |what: String| {
        format!(
            "kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {what}, or another --cursor-topic"
        )
    };
    match settings {
        Err(why) => out.warning(
            "positions",
            format!(
                "{name}: its settings cannot be read ({why}), for which it needs DescribeConfigs; make sure that it has cleanup.policy=compact, or positions are deleted after its retention time"
            ),
        ),
        Ok(settings) if settings.deletes || !settings.compacts => out.failed(
            "positions",
            format!(
                "{name}: it deletes old records, so that positions would be lost some day; {}",
                change("cleanup.policy=compact".into())
            ),
        ),
        Ok(settings) if settings.limits.bytes < largest => out.failed(
            "positions",
            format!(
                "{name}: it takes records of {} bytes, and a position of this source may have {largest}; {}",
                settings.limits.bytes,
                change(format!("max.message.bytes={largest}"))
            ),
        ),
        Ok(settings) => {
            let first = if partitions > 1 { "; only partition 0 is used" } else { "" };
            let text = format!("{name}: compacted, takes records of up to {} bytes{first}", settings.limits.bytes);
            out.ok("positions", text);
        }
    }
}

/// Whether it can be read, as far as that is known.
fn rights(inspector: &Inspector, name: &str, out: &Out) -> bool {
    match inspector.rights(name) {
        Err(why) => out.not_checked("rights", format!("{name}: {why}")),
        Ok(rights) => {
            let missing: Vec<String> = [Right::Read, Right::Write]
                .iter()
                .filter(|right| !rights.contains(right))
                .map(|right| format!("{right:?}"))
                .collect();
            if !missing.is_empty() {
                let missing = missing.join(" and ");
                out.failed("rights", format!("{name}: this client needs the right {missing} on the topic"));
                return false;
            }
            let names: Vec<String> = rights.iter().map(|right| format!("{right:?}")).collect();
            out.ok("rights", format!("{name}: {}", names.join(", ")));
        }
    }
    true
}

/// The positions that a start would go on from.
fn saved(inspector: &Inspector, name: &str, keys: &[Key], out: &Out) {
    let mut found = HashMap::new();
    let read = inspector.positions(name, &|key| keys.contains(key), &mut |_, entry| {
        let saved_at = entry.value.as_deref().map(|value| positions::saved_at(value).unwrap_or_default());
        found.insert(entry.key, saved_at);
    });
    if let Err(why) = read {
        return out.failed("position", why);
    }
    let saved_at = |key: &Key| found.get(key).cloned().flatten();
    if keys.len() > HOSTS {
        let saved = keys.iter().filter(|key| saved_at(key).is_some()).count();
        return out.ok("position", format!("of {} hosts {saved} have one in topic {name}", keys.len()));
    }
    for key in keys {
        match saved_at(key) {
            Some(at) => out.ok("position", format!("{}: goes on from what was saved at {at}", key.host)),
            None => out.ok("position", format!("{}: none is saved yet", key.host)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::check::State;
    use crate::sink::limits::Limits;

    #[test]
    fn a_topic_that_would_lose_positions_fails() {
        let key =
            |source: &str| Key { source: source.into(), host: "h".into(), output: "t".into(), instance: "".into() };
        let said = |compacts, deletes, bytes, source: &str| {
            let settings = TopicSettings {
                limits: Limits::of_bytes(bytes),
                retention_ms: None,
                retention_bytes: None,
                deletes,
                compacts,
                min_in_sync: 1,
            };
            let (findings, receiver) = bounded(8);
            let out = Out { findings, until: std::time::Instant::now() };
            keeps("t.cursor", &Ok(settings), 1, &[key(source)], &out);
            let finding = receiver.try_recv().expect("one finding");
            (finding.state, finding.text)
        };
        for (compacts, deletes, bytes, source, state, part) in [
            (true, false, 1 << 20, "relay", State::Ok, "compacted"),
            (false, true, 1 << 20, "relay", State::Failed, "cleanup.policy=compact"),
            (true, true, 1 << 20, "relay", State::Failed, "cleanup.policy=compact"),
            (true, false, 1 << 20, "ozone", State::Failed, "max.message.bytes=22504096"),
            (true, false, 32 << 20, "ozone", State::Ok, "33554432"),
        ] {
            let (found, text) = said(compacts, deletes, bytes, source);
            assert!(found == state && text.contains(part), "{compacts} {deletes} {bytes} {source}: {text}");
        }
    }
}
