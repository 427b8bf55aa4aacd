//! Positions as lines: a table for people, and JSON. It is pure.

use serde::Serialize;

use super::position::ago;
use super::{Found, Place};
use crate::atproto::time;
use crate::log::plain::plain;

/// Bytes of a cell.
const CELL: usize = 300;

/// A table with a line of titles; columns without anything are left out.
pub fn text(all: &[Found], now_ms: i64) -> String {
    const TITLES: [&str; 7] = ["POSITION", "INTO", "INSTANCE", "SEQ", "EVENTS UP TO", "SAVED", "IN USE"];
    let rows: Vec<[String; 7]> = all.iter().map(|found| row(found, now_ms)).collect();
    let used = |column: usize| rows.iter().any(|row| !row[column].is_empty());
    let columns: Vec<usize> = (0..TITLES.len()).filter(|column| used(*column)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([TITLES[column].len()]).max().unwrap_or(0)
    };
    let mut out = String::new();
    let mut line = |cells: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for column in &columns {
            text += &format!("{:<1$}  ", cells(*column), width(*column));
        }
        out += text.trim_end();
        out.push('\n');
    };
    line(&|column| TITLES[column].to_string());
    rows.iter().for_each(|row| line(&|column| row[column].clone()));
    out
}

fn row(found: &Found, now_ms: i64) -> [String; 7] {
    let key = &found.key;
    let cell = |text: &str| plain(text, CELL).to_string();
    let in_use = matches!(found.place, Place::File { in_use: true, .. });
    let (seq, events, saved) = match &found.position {
        Ok(position) => (
            position.seq.map_or(String::new(), |seq| seq.to_string()),
            position.time_ms.map_or(String::new(), time::format_ms),
            ago(&position.saved_at, now_ms),
        ),
        Err(why) => (String::new(), String::new(), why.clone()),
    };
    [
        cell(&format!("{}/{}", key.source, key.host)),
        cell(&key.output),
        cell(&key.instance),
        seq,
        events,
        cell(&saved),
        if in_use { "yes".into() } else { String::new() },
    ]
}

#[derive(Serialize)]
struct Json<'a> {
    source: &'a str,
    host: &'a str,
    output: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transactional_id: Option<&'a str>,
}

/// An object of JSON and the end of its line.
pub fn json(found: &Found) -> String {
    let (key, position) = (&found.key, found.position.as_ref().ok());
    let (path, in_use, topic, writer) = match &found.place {
        Place::File { path, in_use } => (Some(path.as_str()), Some(*in_use), None, None),
        Place::Record { topic, writer } => (None, None, Some(topic.as_str()), writer.as_deref()),
    };
    let line = Json {
        source: &key.source,
        host: &key.host,
        output: &key.output,
        instance: &key.instance,
        seq: position.and_then(|position| position.seq),
        time: position.and_then(|position| position.time_ms).map(time::format_ms),
        saved_at: position.map(|position| position.saved_at.as_str()),
        cluster: position.and_then(|position| position.cluster.as_deref()),
        error: found.position.as_ref().err().map(String::as_str),
        path,
        in_use,
        topic,
        transactional_id: writer,
    };
    let mut bytes = sonic_rs::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::topic::Key;
    use crate::cursors::position::Position;

    fn found(host: &str, position: Result<Position, String>) -> Found {
        let key = Key { source: "relay".into(), host: host.into(), output: "t".into(), instance: String::new() };
        Found { key, position, place: Place::File { path: "/s/f.json".into(), in_use: false } }
    }

    #[test]
    fn columns_without_anything_are_left_out_and_no_control_character_gets_through() {
        let position = Position { seq: Some(7), saved_at: "2026-11-26T10:00:00.000Z".into(), ..Position::default() };
        let all = [found("a", Ok(position)), found("b\u{1b}[31m\n", Err("is damaged (x)".into()))];
        let text = text(&all, 1_795_687_203_000);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["POSITION", "INTO", "SEQ", "SAVED"]);
        assert!(lines[1].starts_with("relay/a ") && lines[1].ends_with("t     7    3.0 s ago"), "{text}");
        assert!(lines[2].ends_with("is damaged (x)") && lines.len() == 3 && !text.contains('\u{1b}'), "{text}");
        assert!(json(&all[1]).contains("\"error\":\"is damaged (x)\"") && !json(&all[1]).contains('\u{1b}'));
    }
}
