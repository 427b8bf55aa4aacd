//! Positions as records of a compacted Kafka topic: what a record says, and whose it is. Nothing here talks to a broker.
//!
//! Each record has a [`Mark`] in its headers: which run of atkafka wrote it, and with which of its transactions. By it a process
//! whose client broke sees whether its last transaction was committed, and whether another process has taken over.

use serde::{Deserialize, Serialize};

use super::saved::{self, Stored};
use super::{OzonePosition, Payload, Position, file_name};
use crate::atproto::json_input;

/// Bytes of a key. The longest ones have the path of a recording.
const LONGEST_KEY: usize = 16 << 10;
/// How the source is called whose positions are large.
const OZONE: &str = "ozone";

/// Which position a record holds: its key in the topic, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind of the source, such as `relay`.
    pub source: String,
    /// The host, or what else the source reads, as logs call it.
    pub host: String,
    /// The topic that has the events.
    pub output: String,
    /// Empty: the default one.
    #[serde(default)]
    pub instance: String,
}

impl Key {
    /// As it stands in the topic.
    pub fn bytes(&self) -> Vec<u8> {
        // Four texts: serde_json could not fail on them either.
        sonic_rs::to_vec(self).unwrap_or_default()
    }

    /// `None`: not a key of ours.
    pub fn read(bytes: &[u8]) -> Option<Key> {
        (bytes.len() <= LONGEST_KEY).then(|| json_input::read(bytes, json_input::SHALLOW).ok())?
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} into {}", self.source, self.host, self.output)?;
        if self.instance.is_empty() { Ok(()) } else { write!(f, ", instance {}", self.instance) }
    }
}

/// The transactional id of the process that keeps the positions of `keys`: the same for each start, and another one for each output.
pub fn transactional_id(keys: &[Key]) -> String {
    let Some(first) = keys.first() else { return "atkafka".into() };
    if !first.instance.is_empty() {
        return format!("atkafka-{}", first.instance);
    }
    let mut hosts: Vec<&str> = keys.iter().map(|key| key.host.as_str()).collect();
    hosts.sort_unstable();
    format!("atkafka-{}", file_name::of(&first.source, &hosts.join(","), &first.output))
}

/// Whether `topic`, which has so many partitions, tells instances that take turns which of them works. Fails with one line.
pub fn for_standby(topic: &str, partitions: usize) -> Result<(), String> {
    if partitions > 1 {
        // Each of two instances would get one, and take itself for the one that works.
        return Err(format!(
            "--standby: topic {topic} has {partitions} partitions, and whoever has its only one works: give another --cursor-topic, which is created with one"
        ));
    }
    Ok(())
}

/// Bytes that the value of a key may have.
pub fn largest(key: &Key) -> usize {
    /// Everything but a window.
    const HEAD: usize = 4 << 10;
    match key.source.as_str() {
        // `[milliseconds,id],` of each event.
        OZONE => HEAD + OzonePosition::MAX_WINDOW * 45,
        _ => HEAD,
    }
}

/// Who wrote a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Random, another one for each start of atkafka.
    pub run: String,
    /// Counts the transactions of the run from 0, which is the one by which it took the position over.
    pub number: u64,
}

/// The newest record of one key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which position.
    pub key: Key,
    /// The JSON of a state file. `None`: there is no position, or none any more.
    pub value: Option<Vec<u8>>,
    /// `None`: not written by atkafka.
    pub mark: Option<Mark>,
    /// The transactional id of who wrote it.
    pub writer: Option<String>,
}

/// What the topic says about a transaction of ours whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is seen.
    Committed,
    /// Nothing of it will ever be seen.
    Aborted,
    /// Somebody else has written behind us: whatever we have is no longer ours to deliver.
    TakenOver,
}

/// What became of transaction `number` of `run`, which wrote some of `keys`. `entries`: the newest committed record of each key,
/// in the order in which they were written.
pub fn outcome(entries: &[Entry], keys: &[Key], run: &str, number: u64) -> Outcome {
    let ours = |entry: &&Entry| keys.contains(&entry.key);
    let newest = entries.iter().rfind(ours);
    match newest.map(|entry| entry.mark.as_ref()) {
        // A deleted position is forgotten by Kafka after a day.
        None => Outcome::Aborted,
        Some(Some(mark)) if mark.run == run && mark.number >= number => Outcome::Committed,
        Some(Some(mark)) if mark.run == run => Outcome::Aborted,
        Some(_) => Outcome::TakenOver,
    }
}

/// The value of a record: the same JSON as in a state file.
pub fn value(key: &Key, cluster: Option<&str>, routes: &[String], position: &Position) -> Result<Vec<u8>, String> {
    match &position.payload {
        Payload::State(state) => {
            let mut text = saved::text(&key.host, &key.output, cluster, routes, state.as_ref(), position.time_ms)?;
            text.truncate(text.trim_end().len());
            Ok(text.into_bytes())
        }
        Payload::Acks(_) => Err("it is acknowledged upstream, and not saved".into()),
    }
}

/// Reads a value: the position, and the cluster that it is of. Fails with one line.
pub fn read<T: Stored>(key: &Key, value: &[u8]) -> Result<(T, Option<String>), String> {
    let saved = saved::parse::<T>(value)
        .map_err(|e| format!("the position of {key} {e}; with another --cursor-topic it starts anew"))?;
    if saved.host != key.host || saved.output != key.output {
        return Err(format!(
            "the position of {key} holds that of {} into {}: was it copied? With another --cursor-topic it starts anew",
            saved.host, saved.output
        ));
    }
    Ok((saved.position, saved.cluster))
}

/// What every value has besides the position itself.
#[derive(Deserialize)]
struct Head {
    cluster: Option<String>,
    saved_at: Option<String>,
    #[serde(default)]
    routes: Vec<String>,
}

fn head(value: &[u8]) -> Option<Head> {
    json_input::read(value, json_input::SHALLOW).ok()
}

/// The cluster that a value names.
pub fn cluster(value: &[u8]) -> Option<String> {
    head(value)?.cluster
}

/// When a value was saved, RFC 3339.
pub fn saved_at(value: &[u8]) -> Option<String> {
    head(value)?.saved_at
}

/// The routes that the events up to a value went by.
pub fn routes(value: &[u8]) -> Vec<String> {
    head(value).map(|head| head.routes).unwrap_or_default()
}

/// Whether the state file's text was saved later than the topic's value, so that somebody had gone back to files.
pub fn is_later(file: &[u8], value: &[u8]) -> bool {
    // Times of one form: they compare as texts.
    head(file).and_then(|h| h.saved_at) > head(value).and_then(|h| h.saved_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SeqPosition;

    fn key(host: &str) -> Key {
        Key { source: "relay".into(), host: host.into(), output: "events".into(), instance: String::new() }
    }

    fn entry(host: &str, run: &str, number: u64) -> Entry {
        let mark = (!run.is_empty()).then(|| Mark { run: run.into(), number });
        Entry { key: key(host), value: None, mark, writer: None }
    }

    #[test]
    fn the_newest_record_of_ours_decides() {
        let ours = [key("a"), key("b")];
        let of = |entries: &[Entry]| outcome(entries, &ours, "me", 5);
        assert_eq!(of(&[]), Outcome::Aborted);
        assert_eq!(of(&[entry("b", "me", 3), entry("a", "me", 5)]), Outcome::Committed, "only one of two moved");
        assert_eq!(of(&[entry("a", "me", 3), entry("b", "me", 4)]), Outcome::Aborted);
        assert_eq!(of(&[entry("a", "me", 4), entry("other", "you", 9)]), Outcome::Aborted, "none of our keys");
        assert_eq!(of(&[entry("a", "me", 5), entry("b", "you", 0)]), Outcome::TakenOver);
        assert_eq!(of(&[entry("a", "me", 5), entry("b", "", 0)]), Outcome::TakenOver, "written by hand");
    }

    #[test]
    fn a_value_is_the_text_of_a_state_file_and_comes_back() {
        let position = Position { time_ms: 7, ..Position::of_seqs((41, 42)) };
        let key = key("bsky.network");
        let text = value(&key, Some("c1"), &[], &position).expect("written");
        assert!(
            text.starts_with(b"{\"version\":1,\"host\":\"bsky.network\",\"output\":\"events\",\"cluster\":\"c1\",")
        );
        let (read, of) = read::<SeqPosition>(&key, &text).expect("read");
        assert_eq!((read, of.as_deref()), (SeqPosition { seq: 41, time_ms: 7 }, Some("c1")));
        assert_eq!(cluster(&text).as_deref(), Some("c1"));
        let other = Key { host: "b".into(), ..key.clone() };
        assert!(super::read::<SeqPosition>(&other, &text).expect_err("refused").contains("--cursor-topic"));
        assert!(super::read::<SeqPosition>(&key, b"{").expect_err("refused").contains("--cursor-topic"));
        assert_eq!(Key::read(&key.bytes()), Some(key));
        assert_eq!(Key::read(b"\xff"), None);
    }

    #[test]
    fn the_transactional_id_depends_on_the_set_of_hosts_or_is_the_instance() {
        assert_eq!(transactional_id(&[key("bsky.network")]), "atkafka-relay-bsky.network~events");
        assert_eq!(transactional_id(&[key("b"), key("a")]), transactional_id(&[key("a"), key("b")]));
        assert_ne!(transactional_id(&[key("a")]), transactional_id(&[key("a"), key("b")]));
        assert_eq!(transactional_id(&[Key { instance: "one".into(), ..key("a") }]), "atkafka-one");
    }

    #[test]
    fn the_later_one_of_file_and_topic_counts() {
        let at = |time: &str| format!("{{\"saved_at\":\"{time}\"}}").into_bytes();
        let (early, late) = (at("2026-11-26T00:00:00.000Z"), at("2026-11-26T00:00:00.001Z"));
        assert!(is_later(&late, &early) && !is_later(&early, &late) && !is_later(&early, &early));
    }
}
