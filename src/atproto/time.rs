//! Times of the network, as text and in milliseconds since 1970: mostly `2026-07-04T14:38:07.784Z`, sometimes without a
//! zone or with other decimals. Pure: what time it is says [`clock`](crate::clock).

use jiff::civil::DateTime;
use jiff::fmt::temporal::{Pieces, PiecesOffset};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// Milliseconds since 1970 of an RFC 3339 time. One without a zone is read as UTC. `None` when it is not a time.
pub fn parse_ms(text: &str) -> Option<i64> {
    if let Some(ms) = parse_common(text.as_bytes()) {
        return Some(ms);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_millisecond());
    }
    // Without a zone, or on the last day of 9999, which the library's timestamps do not have: it keeps room for any offset.
    let pieces = Pieces::parse(text).ok()?;
    let offset = match pieces.offset() {
        Some(PiecesOffset::Numeric(offset)) => offset.offset(),
        Some(PiecesOffset::Zulu) | None => Offset::UTC,
        Some(_) => return None,
    };
    let utc =
        DateTime::from_parts(pieces.date(), pieces.time()?).checked_sub(offset.duration_since(Offset::UTC)).ok()?;
    (utc.duration_since(EPOCH).as_millis()).try_into().ok()
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The common form, `YYYY-MM-DDTHH:MM:SS.mmmZ` or without the fraction: each event has one, so it does not go
/// through the general parser.
fn parse_common(t: &[u8]) -> Option<i64> {
    let millis = match t.len() {
        20 if t[19] == b'Z' => 0,
        24 if t[19] == b'.' && t[23] == b'Z' => number(&t[20..23])?,
        _ => return None,
    };
    if t[4] != b'-' || t[7] != b'-' || t[10] != b'T' || t[13] != b':' || t[16] != b':' {
        return None;
    }
    let (year, month, day) = (number(&t[..4])?, number(&t[5..7])?, number(&t[8..10])?);
    let (hour, minute, second) = (number(&t[11..13])?, number(&t[14..16])?, number(&t[17..19])?);
    // Days that a month may lack, and leap seconds, are left to the library; which has no last day of 9999, so that December is not.
    if !(1..=12).contains(&month)
        || !(1..=if month == 12 { 31 } else { 28 }).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    // Days from 1970-01-01, with years that begin in March so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + (d - b'0') as i64))
}

/// `2026-07-04T14:38:07.784Z`: always UTC, always three decimals.
pub fn format_ms(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => format!("{:.3}Z", EPOCH.saturating_add(SignedDuration::from_millis(ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_form_equals_the_library() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let ms = rng.i64(-30_000_000_000_000..200_000_000_000_000);
            let text = format_ms(ms);
            assert_eq!(text.parse::<Timestamp>().expect("RFC 3339").as_millisecond(), ms, "{text}");
            assert_eq!(parse_ms(&text), Some(ms), "{text}");
        }
    }

    #[test]
    fn odd_forms_of_the_network() {
        let want = Some(1_688_219_887_784);
        assert_eq!(parse_ms("2023-07-01T13:58:07.784Z"), want);
        assert_eq!(parse_ms("2023-07-01T13:58:07.7841234"), want, "no zone, 7 decimals");
        assert_eq!(parse_ms("2023-07-01T15:58:07.784+02:00"), want);
        assert_eq!(parse_ms("2023-07-01T13:58:07Z"), Some(1_688_219_887_000));
        let last = Some(253_402_300_799_999);
        for text in [
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.9999999",
            "9999-12-31T23:59:59.999000Z",
            "9999-12-31T22:59:59.999-01:00",
        ] {
            assert_eq!(parse_ms(text), last, "{text}");
        }
        assert_eq!(format_ms(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(parse_ms("9999-12-31T23:59:59-01:00"), None, "in UTC it has five digits");
        assert_eq!(parse_ms("2023-12-31T00:00:00Z"), Some(1_703_980_800_000));
        for bad in ["2023-12-32T00:00:00Z", "2023-11-31T00:00:00.000Z", "12:00:00", "2023-07-01"] {
            assert_eq!(parse_ms(bad), None, "{bad}");
        }
        for bad in ["", "yesterday", "2023-13-01T00:00:00Z", "2023-02-30T00:00:00.000Z", "1688219887"] {
            assert_eq!(parse_ms(bad), None, "{bad}");
        }
    }
}
