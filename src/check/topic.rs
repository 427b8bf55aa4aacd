//! One topic: its shape, what it takes, how long it keeps it, and what this client may do with it. On the thread of the
//! check that has the output.

use super::cluster::plural;
use super::{History, Out};
use crate::sink::kafka_options::Kafka;
use crate::sink::librdkafka::inspect::{Inspector, Shape, TopicSettings};
use crate::sink::rights::Right;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A relay keeps about so much.
const RELAY_KEEPS_MS: i64 = 3 * DAY_MS;
/// The broker's default of `max.message.bytes`. The largest events are larger, and become dead letters then.
const USUAL_BYTES: usize = 1_048_588;

pub fn check(inspector: &Inspector, options: &Kafka, name: &str, history: History, out: &Out) {
    let Some(shape) = inspector.topic(name) else { return absent(inspector, options, name, out) };
    let settings = inspector.settings(name);
    let least = settings.as_ref().map_or(1, |settings| settings.min_in_sync);
    topic(name, shape, least, inspector.brokers().len(), out);
    match &settings {
        Ok(settings) => {
            limits(name, settings, out);
            retention(name, settings, history, out);
        }
        Err(why) => {
            let text = format!(
                "{name}: limits and retention cannot be read ({why}): the right DescribeConfigs on the topic lets atkafka know them"
            );
            out.warning("limits", text);
        }
    }
    rights(inspector, name, out);
}

fn absent(inspector: &Inspector, options: &Kafka, name: &str, out: &Out) {
    let new = &options.new_topic;
    if !new.create {
        let text = format!(
            "{name} does not exist, or this client may not see it, and --no-create-topic is given: create it, or allow Describe"
        );
        return out.failed("topic", text);
    }
    if let Err(why) = inspector.would_create(name) {
        let text = format!(
            "{name} cannot be used: {why}; create it, or give this client the rights Create, Describe and Write on it"
        );
        return out.failed("topic", text);
    }
    let (partitions, replication) = match (new.partitions, new.replication) {
        (Some(partitions), Some(replicas)) => (Some(i64::from(partitions)), Some(i64::from(replicas))),
        (partitions, replicas) => {
            let (by_default, replicas_by_default) = inspector.defaults();
            (partitions.map(i64::from).or(by_default), replicas.map(i64::from).or(replicas_by_default))
        }
    };
    let count = |count: Option<i64>, what: &str| match count {
        Some(count) => plural(count.max(0) as usize, what),
        None => format!("the broker's default of {what}s"),
    };
    let (partitions, replicas) = (count(partitions, "partition"), count(replication, "replica"));
    out.ok("topic", format!("{name} does not exist; it will be created, {partitions}, {replicas}"));
    out.not_checked("rights", format!("{name}: the right to write shows once the topic is there"));
}

/// What is in the way of writing, or may be soon.
pub fn topic(name: &str, shape: Shape, least: usize, brokers: usize, out: &Out) {
    let Shape { partitions, replicas, in_sync, leaderless } = shape;
    let text = format!("{name}: {}, {}", plural(partitions, "partition"), plural(replicas, "replica"));
    match shape {
        _ if leaderless > 0 => out.failed(
            "topic",
            format!("{text}; {leaderless} without a leader, where nothing can be written: which broker is away?"),
        ),
        _ if in_sync < least => out.failed(
            "topic",
            format!("{text}; only {in_sync} in sync, and min.insync.replicas is {least}: nothing can be written"),
        ),
        _ if in_sync < replicas => {
            out.warning("topic", format!("{text}; only {in_sync} in sync: is a broker away?"));
        }
        _ if replicas == 1 && brokers > 1 => {
            out.warning("topic", format!("{text}: what a broker has is lost with it; 3 replicas keep it"));
        }
        _ => out.ok("topic", text),
    }
}

fn limits(name: &str, settings: &TopicSettings, out: &Out) {
    let limits = settings.limits;
    let mut text = format!("{name}: records of up to {} bytes", limits.bytes);
    if limits.before_ms < RELAY_KEEPS_MS {
        text += &format!(", at most {} old: older ones get the nearest time that it takes", span(limits.before_ms));
    }
    match limits.bytes {
        ..USUAL_BYTES => out.warning(
            "limits",
            format!("{text}: events above that become dead letters; raise max.message.bytes (8388608 takes all)"),
        ),
        _ => out.ok("limits", text),
    }
}

fn retention(name: &str, settings: &TopicSettings, history: History, out: &Out) {
    if settings.compacts {
        let text = format!(
            "{name}: cleanup.policy has compact: Kafka keeps only the newest event of each account; set it to delete"
        );
        return out.warning("retention", text);
    }
    let bytes =
        settings.retention_bytes.map(|bytes| format!(", and over {bytes} bytes a partition")).unwrap_or_default();
    let Some(ms) = settings.retention_ms.filter(|_| settings.deletes) else {
        return match settings.retention_bytes {
            Some(bytes) => out.ok("retention", format!("{name}: deletes only over {bytes} bytes a partition")),
            None => out.ok("retention", format!("{name}: keeps everything")),
        };
    };
    let text = format!("{name}: deletes after {}{bytes}", span(ms));
    // With LogAppendTime every record is as young as its arrival.
    let history = if settings.limits.keeps_ms == i64::MAX { History::None } else { history };
    match history {
        History::All => out.warning(
            "retention",
            format!("{text}, counted from each event's own time: history older than that is deleted soon after it is written; retention.ms=-1 keeps it"),
        ),
        History::Days if ms < RELAY_KEEPS_MS => out.warning(
            "retention",
            format!("{text}, counted from each event's own time: what --cursor asks for may be older; a longer retention.ms keeps it"),
        ),
        _ if ms < DAY_MS => out.warning(
            "retention",
            format!("{text}: a consumer that is away for longer misses events; a longer retention.ms keeps them"),
        ),
        _ => out.ok("retention", text),
    }
}

fn rights(inspector: &Inspector, name: &str, out: &Out) {
    match inspector.rights(name) {
        Err(why) => out.not_checked("rights", format!("{name}: {why}")),
        Ok(rights) if !rights.contains(&Right::Write) => {
            out.failed(
                "rights",
                format!("{name}: this client may not write there: give it the right Write on the topic"),
            );
        }
        Ok(rights) => {
            let names: Vec<String> = rights.iter().map(|right| format!("{right:?}")).collect();
            out.ok("rights", format!("{name}: {}", names.join(", ")));
        }
    }
}

/// Milliseconds as people write them.
fn span(ms: i64) -> String {
    match ms {
        DAY_MS.. if ms % DAY_MS == 0 => plural((ms / DAY_MS) as usize, "day"),
        HOUR_MS.. => plural((ms / HOUR_MS) as usize, "hour"),
        60_000.. => plural((ms / 60_000) as usize, "minute"),
        _ => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::check::State;
    use crate::sink::limits::Limits;

    fn said(work: impl FnOnce(&Out)) -> (State, String) {
        let (findings, receiver) = bounded(8);
        work(&Out { findings, until: std::time::Instant::now() });
        let finding = receiver.try_recv().expect("one finding");
        (finding.state, finding.text)
    }

    #[test]
    fn retention_is_held_against_the_age_of_what_is_written() {
        let keeps = |ms: Option<i64>| TopicSettings {
            limits: Limits { keeps_ms: ms.unwrap_or(i64::MAX), ..Limits::of_bytes(USUAL_BYTES) },
            retention_ms: ms,
            retention_bytes: None,
            deletes: true,
            compacts: false,
            min_in_sync: 1,
        };
        for (ms, history, state, part) in [
            (None, History::All, State::Ok, "keeps everything"),
            (Some(7 * DAY_MS), History::None, State::Ok, "deletes after 7 days"),
            (Some(7 * DAY_MS), History::Days, State::Ok, "7 days"),
            (Some(7 * DAY_MS), History::All, State::Warning, "retention.ms=-1"),
            (Some(DAY_MS), History::Days, State::Warning, "--cursor"),
            (Some(HOUR_MS), History::None, State::Warning, "deletes after 1 hour: a consumer"),
        ] {
            let (found, text) = said(|out| retention("t", &keeps(ms), history, out));
            assert!(found == state && text.contains(part), "{ms:?} {history:?}: {found:?} {text}");
        }
        let compacted = TopicSettings { compacts: true, ..keeps(None) };
        assert_eq!(said(|out| retention("t", &compacted, History::None, out)).0, State::Warning);
    }

    #[test]
    fn a_topic_that_cannot_be_written_fails() {
        let shape = |replicas, in_sync, leaderless| Shape { partitions: 2, replicas, in_sync, leaderless };
        for (shape, least, brokers, state, part) in [
            (shape(3, 3, 0), 2, 3, State::Ok, "2 partitions, 3 replicas"),
            (shape(1, 1, 0), 1, 1, State::Ok, "1 replica"),
            (shape(1, 1, 0), 1, 3, State::Warning, "lost with it"),
            (shape(3, 2, 0), 2, 3, State::Warning, "only 2 in sync"),
            (shape(3, 1, 0), 2, 3, State::Failed, "min.insync.replicas is 2"),
            (shape(3, 3, 1), 1, 3, State::Failed, "without a leader"),
        ] {
            let (found, text) = said(|out| topic("t", shape, least, brokers, out));
            assert!(found == state && text.contains(part), "{shape:?}: {found:?} {text}");
        }
    }
}
