//! The envelope that the worker of the [Osprey](https://github.com/roostorg/osprey) rules engine reads, and the ids of its
//! actions.

use super::{When, field};
use crate::atproto::{json_output, time};

/// Where the action's id stands in an event: [`stamp`] fills it in when the order is known.
const ID_PREFIX: &[u8] = br#"{"data":{"action_id":"#;
/// Digits of an id: 19 from July 2022 until the sign bit in 2084.
const ID_LEN: usize = 19;

/// Appends the beginning; the value of `data` follows.
pub fn open(out: &mut Vec<u8>, action_name: &str) {
    out.extend_from_slice(ID_PREFIX);
    out.extend_from_slice(&[b'0'; ID_LEN]);
    field(out, b",\"action_name\":", action_name);
    out.extend_from_slice(b",\"data\":");
}

/// Appends what follows on `data`.
pub fn close(out: &mut Vec<u8>, when: &When<'_>) {
    field(out, b",\"timestamp\":", when.text);
    out.extend_from_slice(br#","secret_data":{},"encoding":"UTF8"},"send_time":"#);
    // Osprey's parser drops offsets and takes a time without a zone as local: always UTC, always with Z.
    if when.text.len() == 24 && when.text.ends_with('Z') {
        json_output::string(out, when.text);
    } else {
        json_output::string(out, &time::format_ms(when.ms));
    }
    out.push(b'}');
}

/// Writes `id` into an event that [`open`] began.
pub fn stamp(value: &mut [u8], id: u64) {
    debug_assert!(value.starts_with(ID_PREFIX), "only Osprey events are stamped");
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(id).as_bytes();
    // A clock before July 2022 gives fewer digits; JSON has no leading zeros, but blanks before a number are legal.
    let field = &mut value[ID_PREFIX.len()..ID_PREFIX.len() + ID_LEN];
    field.fill(b' ');
    field[ID_LEN - digits.len()..].copy_from_slice(digits);
}

/// Osprey's action ids: 41 bits of milliseconds since 2015, 5 of data center, 5 of worker, 12 of sequence.
///
/// They rise strictly, also when the clock steps back or more than 4096 fall into one millisecond (then they borrow
/// from the next). Taken in the order of delivery, so that each partition's ids rise too. A clock that steps back
/// over a restart of the process can repeat ids.
pub struct Snowflake {
    /// Milliseconds and sequence of the last one.
    last: u64,
    place: u64,
}

/// 2015-01-01T00:00:00Z, as Osprey has it.
const EPOCH_MS: i64 = 1_420_070_400_000;

impl Snowflake {
    /// `data_center` and `worker` from 0 to 31: two generators with the same pair can give the same id.
    pub fn new(data_center: u8, worker: u8) -> Self {
        Snowflake { last: 0, place: ((data_center as u64 & 31) << 17) | ((worker as u64 & 31) << 12) }
    }

    /// The next id, at the time `now_ms`, in milliseconds since 1970. Ids only grow, also when the clock goes back.
    pub fn next(&mut self, now_ms: i64) -> u64 {
        let now = (now_ms.saturating_sub(EPOCH_MS)).clamp(0, (1 << 41) - 1) as u64;
        self.last = (now << 12).max(self.last + 1);
        ((self.last >> 12) << 22) | self.place | (self.last & 0xfff)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Format, Head, close, identity, open};
    use super::*;

    #[test]
    fn snowflakes_rise_when_the_clock_stands_still_or_steps_back() {
        let mut ids = Snowflake::new(0, 1);
        let mut last = 0;
        for now in [1_785_000_000_000i64, 1_785_000_000_000, 1_700_000_000_000, 1_785_000_000_001] {
            for _ in 0..5000 {
                let id = ids.next(now);
                assert!(id > last);
                assert_eq!((id >> 12) & 1023, 1);
                last = id;
            }
        }
        // What Osprey reads out of it again.
        assert_eq!((Snowflake::new(0, 0).next(1_785_000_000_000) >> 22) as i64 + EPOCH_MS, 1_785_000_000_000);
    }

    #[test]
    fn an_event_has_each_field_that_is_read() {
        let mut out = Vec::new();
        let when = When { text: "2023-07-01T13:58:07.7841234", ms: 1_688_219_887_784 };
        let head = Head { action: Action::Identity, did: Some("did:plc:x"), when, seq: Some(7), rev: "", live: None };
        open(&mut out, Format::Osprey, &head);
        identity(&mut out, Some(7), Some("a.example"));
        close(&mut out, Format::Osprey, &when);
        stamp(&mut out, 1_532_000_000_000_000_001);
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            concat!(
                r#"{"data":{"action_id":1532000000000000001,"action_name":"identity","data":"#,
                r#"{"did":"did:plc:x","timestamp":"2023-07-01T13:58:07.7841234","seq":7,"identity":{"seq":7,"handle":"a.example"}},"#,
                r#""timestamp":"2023-07-01T13:58:07.7841234","secret_data":{},"encoding":"UTF8"},"send_time":"2023-07-01T13:58:07.784Z"}"#
            )
        );
    }
}
