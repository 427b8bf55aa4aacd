//! `--cursor`: where a first start begins. Each command with the flag reads it here. The clock is handed in.

use super::shared::values::duration;
use super::{Checked, invalid};
use crate::atproto::frame::SEQ_END;
use crate::atproto::time;
use crate::source::Start;

/// What `--cursor` takes as a seq, where the host has seqs.
pub const SEQ: &str = "a seq below 2^53";
/// Times before this one, in milliseconds since 1970, are none of the network: to a Jetstream they would be a seq.
const LEAST_TIME_MS: i64 = 1_000_000_000_000;

/// `live`, `oldest`, a time or a seq; live where there is none. `seq` says in an error which seqs are taken.
pub fn start(text: Option<&str>, seq: &str, now_ms: i64) -> Checked<Start> {
    let Some(text) = text else { return Ok(Start::Live) };
    match text {
        "live" => return Ok(Start::Live),
        "oldest" => return Ok(Start::At(0)),
        _ => {}
    }
    if let Some(ms) = past("--cursor", text, now_ms)? {
        return Ok(Start::Time(ms));
    }
    match text.parse::<u64>() {
        Ok(seq) if seq < SEQ_END => Ok(Start::At(seq)),
        _ => {
            Err(invalid("--cursor", text, &format!("live, oldest, a time (2h ago, or 2026-11-26T10:00:00Z), or {seq}")))
        }
    }
}

/// A time in the past, in milliseconds since 1970: `2h ago`, or RFC 3339. `None` when the text has neither form.
pub fn past(flag: &str, text: &str, now_ms: i64) -> Checked<Option<i64>> {
    let ms = match text.strip_suffix(" ago") {
        Some(long) => duration(long.trim_end())
            .and_then(|long| i64::try_from(long.as_millis()).ok())
            .and_then(|long| now_ms.checked_sub(long)),
        None => time::parse_ms(text),
    };
    match ms {
        Some(ms) if ms > now_ms => Err(invalid(flag, text, "a time in the past")),
        Some(ms) if ms < LEAST_TIME_MS => Err(invalid(flag, text, "a time after the year 2001")),
        ms => Ok(ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_past_has_two_forms() {
        let now = 1_795_687_200_000; // 2026-11-26T10:00:00Z
        let parsed = |text: &str| start(Some(text), SEQ, now).map_err(|e| e.to_string());
        assert_eq!(parsed("2h ago"), Ok(Start::Time(now - 7_200_000)));
        assert_eq!(parsed("90 ago"), Ok(Start::Time(now - 90_000)));
        assert_eq!(parsed("2026-11-26T10:00:00Z"), Ok(Start::Time(now)));
        assert_eq!(parsed("2026-11-26T11:30:00.5+02:00"), Ok(Start::Time(now - 1_799_500)));
        for (text, means) in [("live", Start::Live), ("oldest", Start::At(0)), ("7", Start::At(7))] {
            assert_eq!(parsed(text), Ok(means));
        }
        for other in ["ago", " ago", "2 weeks ago", "2h", "yesterday", "-2h ago", "", "-7", "9007199254740992"] {
            assert!(parsed(other).is_err_and(|e| e.contains("live, oldest, a time (2h ago,")), "{other}");
        }
        for (text, says) in
            [("2026-11-26T10:00:00.001Z", "in the past"), ("1999-01-01T00:00:00Z", "2001"), ("5000000h ago", "2001")]
        {
            assert!(parsed(text).is_err_and(|e| e.contains(says)), "{text}");
        }
    }
}
