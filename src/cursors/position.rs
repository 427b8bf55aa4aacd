//! What a saved position says to people, and what a new one is. It is pure: the stores read and write the text.

use std::sync::Arc;

use crate::atproto::time;
use crate::checkpoint::file::Stored;
use crate::checkpoint::saved::{self, Saved};
use crate::checkpoint::topic::Key;
use crate::checkpoint::{OzonePosition, SeqPosition, State};
use crate::config::To;
use crate::health::human;
use crate::source::jetstream::JetstreamPosition;

/// A position, as far as people are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The last seq that is acknowledged.
    pub seq: Option<u64>,
    /// The time of the newest event up to there, in milliseconds since 1970, where it is known.
    pub time_ms: Option<i64>,
    /// When it was saved, RFC 3339; empty where there is none.
    pub saved_at: String,
    /// The Kafka cluster that has the events.
    pub cluster: Option<String>,
    /// The routes that the events went by.
    pub routes: Vec<String>,
}

impl Position {
    /// In words, with ages against the present time.
    pub fn text(&self, now_ms: i64) -> String {
        let mut parts = Vec::new();
        parts.extend(self.seq.map(|seq| format!("seq {seq}")));
        parts.extend(self.time_ms.map(|ms| format!("events up to {}", time::format_ms(ms))));
        if !self.saved_at.is_empty() {
            parts.push(format!("saved {}", ago(&self.saved_at, now_ms)));
        }
        if parts.is_empty() { "none".into() } else { parts.join(", ") }
    }
}

/// `3.0 s ago`, or the time itself where it lies ahead.
pub fn ago(saved_at: &str, now_ms: i64) -> String {
    match time::parse_ms(saved_at) {
        Some(ms) if ms <= now_ms => format!("{} ago", human((now_ms - ms) as f64 / 1_000.0)),
        _ => saved_at.to_string(),
    }
}

/// Host, output and the position that a text has. Fails with what is wrong with it, as a predicate.
pub fn read(source: &str, text: &[u8]) -> Result<(String, String, Position), String> {
    fn some(ms: i64) -> Option<i64> {
        (ms > 0).then_some(ms)
    }
    match source {
        "relay" | "replay" => of(text, |p: &SeqPosition| (Some(p.seq), some(p.time_ms))),
        "jetstream" => of(text, |p: &JetstreamPosition| (p.seq, some((p.time_us / 1_000) as i64))),
        "ozone" => of(text, |p: &OzonePosition| (None, some(p.high_water_ms))),
        _ => Err("is of a source that this atkafka does not know".into()),
    }
}

fn of<T: Stored>(
    text: &[u8],
    look: fn(&T) -> (Option<u64>, Option<i64>),
) -> Result<(String, String, Position), String> {
    let Saved { host, output, saved_at, cluster, routes, position, .. } = saved::parse::<T>(text)?;
    let (seq, time_ms) = look(&position);
    Ok((host, output, Position { seq, time_ms, saved_at, cluster, routes }))
}

/// The position of a source at `to`. Fails with one line where the source has no such position.
pub fn made(key: &Key, to: To) -> Result<Box<dyn State>, String> {
    Ok(match (key.source.as_str(), to) {
        ("relay" | "replay", To::Seq(seq)) => Box::new(SeqPosition { seq, time_ms: 0 }),
        ("jetstream", To::Seq(seq)) => {
            Box::new(JetstreamPosition { seq: Some(seq), time_us: 0, window: Arc::default() })
        }
        ("jetstream", To::Time(ms)) => {
            Box::new(JetstreamPosition { seq: None, time_us: ms as u64 * 1_000, window: Arc::default() })
        }
        ("ozone", To::Time(high_water_ms)) => Box::new(OzonePosition { high_water_ms, window: Arc::default() }),
        ("relay" | "replay", To::Time(_)) => {
            return Err(format!(
                "--to: {key}: its position is a seq: give one; or delete the position, and give the time to --cursor of the next start"
            ));
        }
        ("ozone", To::Seq(_)) => return Err(format!("--to: {key}: its position is a time: give one")),
        _ => return Err(format!("{key}: it is of a source that this atkafka does not know")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &str) -> Key {
        Key { source: source.into(), host: "h".into(), output: "t".into(), instance: String::new() }
    }

    #[test]
    fn what_is_made_is_what_the_source_reads() {
        for (source, to, seq, time_ms) in [
            ("relay", To::Seq(7), Some(7), None),
            ("replay", To::Seq(7), Some(7), None),
            ("jetstream", To::Seq(7), Some(7), None),
            ("jetstream", To::Time(1_795_687_200_123), None, Some(1_795_687_200_123)),
            ("ozone", To::Time(1_795_687_200_123), None, Some(1_795_687_200_123)),
        ] {
            let state = made(&key(source), to).expect("it has such a position");
            let routes = ["a.b.c=t2".to_string()];
            let text = saved::text("h", "t", Some("c1"), &routes, state.as_ref(), 0).expect("written");
            let (host, output, position) = read(source, text.as_bytes()).expect("read");
            assert_eq!((host.as_str(), output.as_str()), ("h", "t"));
            assert_eq!((position.seq, position.time_ms), (seq, time_ms), "{source} {to:?}");
            assert_eq!((position.cluster.as_deref(), &position.routes[..]), (Some("c1"), &routes[..]));
        }
        for (source, to, part) in [
            ("relay", To::Time(1), "its position is a seq"),
            ("ozone", To::Seq(1), "its position is a time"),
            ("tap", To::Seq(1), "does not know"),
        ] {
            assert!(made(&key(source), to).is_err_and(|e| e.contains(part)), "{source}");
        }
        assert!(read("tap", b"{}").is_err_and(|e| e.contains("does not know")));
        assert!(read("relay", b"{").is_err_and(|e| e.contains("is damaged")));
    }

    #[test]
    fn a_position_in_words() {
        let now = 1_795_687_200_000; // 2026-11-26T10:00:00Z
        let position = Position {
            seq: Some(7),
            time_ms: Some(now),
            saved_at: "2026-11-26T09:00:00.000Z".into(),
            ..Position::default()
        };
        assert_eq!(position.text(now), "seq 7, events up to 2026-11-26T10:00:00.000Z, saved 60.0 min ago");
        assert_eq!(Position::default().text(now), "none");
        assert_eq!(ago("2026-11-26T10:00:01.000Z", now), "2026-11-26T10:00:01.000Z");
    }
}
