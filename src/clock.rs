//! The time of day: the only place that reads it. Whoever decodes is given the time; everybody else may ask here.

use jiff::Timestamp;

/// Milliseconds since 1970, in UTC.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
