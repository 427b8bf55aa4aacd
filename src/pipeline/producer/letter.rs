//! A dead letter as a record of its topic, or as a line of the log. It does not decide which. On the producer's thread.

use crate::dead_letter::DeadLetter;
use crate::sink::{Returned, Topic};

/// Header of a dead letter that was cut: how many bytes it had.
const CUT_FROM: &str = "cut_from_bytes";
/// What it adds to a record at most.
const CUT_HEADER_BYTES: usize = 40;
/// Log lines about dead letters in ten seconds.
const LINES: u64 = 50;

/// The record for the topic of dead letters. `topic`: the topic of events that did not take it.
pub fn record(host: &str, letter: &DeadLetter, topic: Option<&str>) -> Returned {
    let header = |key: &str, value: &str| (key.to_string(), value.as_bytes().to_vec());
    let mut headers = vec![
        header("reason", letter.reason.name()),
        header("host", host),
        header("seq", &letter.seq.to_string()),
        header("detail", &letter.detail),
    ];
    headers.extend(topic.map(|topic| header("topic", topic)));
    Returned { topic: Topic::DeadLetters, key: Vec::new(), value: letter.bytes.clone(), headers }
}

/// `seq`: 0 where it is not known.
pub fn log_line(host: &str, reason: &str, seq: u64, detail: &str) {
    log::warn!(
        at_most = LINES, event = "dead_letter", host = host, seq = seq, reason = reason, error = detail;
        "dead letter: {reason}: {host} seq {seq}: {detail}"
    );
}

/// Cuts the end off a dead letter that is larger than its topic takes, by `excess` bytes. `false`: nothing would be left.
pub fn shorten(letter: &mut Returned, excess: usize) -> bool {
    let size = letter.value.len();
    let keep = size.saturating_sub(excess + CUT_HEADER_BYTES);
    if keep == 0 {
        return false;
    }
    letter.value.truncate(keep);
    if !letter.headers.iter().any(|(key, _)| key == CUT_FROM) {
        letter.headers.push((CUT_FROM.into(), size.to_string().into_bytes()));
    }
    true
}

/// The line about a dead letter that its topic does not take.
pub fn log_buried(host: &str, letter: &Returned, why: &str) {
    let header = |name: &str| {
        let found = letter.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let detail = format!("{} (not in the dead-letter topic: {why})", header("detail"));
    log_line(host, &header("reason"), header("seq").parse().unwrap_or(0), &detail);
}
