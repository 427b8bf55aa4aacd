//! What a topic takes: the size of a record, and the times that it may have. Values that the client reads from the broker,
//! where the right to do so is there; nothing is asked here. Pure.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::ClientContext;

use super::librdkafka::ASK;

/// A record that is written at the edge of what is taken arrives a little later.
const MARGIN_MS: i64 = 60_000;

/// What one topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `max.message.bytes`: bytes of a batch of one record.
    pub bytes: usize,
    /// `message.timestamp.before.max.ms`: so far before the broker's clock a record's time may be.
    pub before_ms: i64,
    /// `message.timestamp.after.max.ms`: so far after it.
    pub after_ms: i64,
    /// `retention.ms`: a record with an older time is deleted soon. No limit: `i64::MAX`.
    pub keeps_ms: i64,
}

impl Limits {
    /// Where they cannot be read: the broker decides.
    pub fn of_bytes(bytes: usize) -> Self {
        Limits { bytes, before_ms: i64::MAX, after_ms: i64::MAX, keeps_ms: i64::MAX }
    }

    /// The same where it refused a time, and its limits on times cannot be read: it takes the present one, that much is known.
    pub fn of_the_present(self) -> Self {
        Limits { before_ms: 0, after_ms: 0, ..self }
    }

    /// Its limits on times, before and after the broker's clock, in milliseconds.
    pub fn times(&self) -> (i64, i64) {
        (self.before_ms, self.after_ms)
    }

    /// Whether the topic deletes a record of this time soon.
    pub fn deletes(&self, time_ms: i64, now_ms: i64) -> bool {
        self.keeps_ms != i64::MAX && time_ms < now_ms.saturating_sub(self.keeps_ms)
    }

    /// The nearest time to `time_ms` that the topic takes.
    pub fn nearest(&self, time_ms: i64, now_ms: i64) -> i64 {
        // Half of a limit of seconds is still within it.
        let within = |limit: i64| match limit {
            // Kafka refuses a negative limit; another broker that has one can only mean that there is none.
            i64::MAX | ..0 => i64::MAX,
            _ => (limit - MARGIN_MS).max(limit / 2),
        };
        time_ms.clamp(now_ms.saturating_sub(within(self.before_ms)), now_ms.saturating_add(within(self.after_ms)))
    }
}

/// Why the limits of a topic cannot be read.
pub struct Unknown {
    /// The client's or the broker's words.
    pub text: String,
    /// No broker answered.
    pub is_silence: bool,
}

/// Asks the brokers for the limits of topics, in one request. The answers are in the order of the topics.
pub fn read<C: ClientContext>(
    admin: &AdminClient<C>,
    topics: &[&str],
) -> Result<Vec<Result<Limits, Unknown>>, Unknown> {
    let what: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let answers = pollster::block_on(admin.describe_configs(&what, &options))
        .map_err(|e| Unknown { text: e.to_string(), is_silence: true })?;
    let said = |text: String| Unknown { text, is_silence: false };
    let mut all: Vec<_> = answers
        .into_iter()
        .map(|answer| {
            let resource = answer.map_err(|code| said(code.to_string()))?;
            of(&resource).ok_or_else(|| said("the answer does not name it".into()))
        })
        .collect();
    // Each has one, whatever the broker does.
    all.resize_with(topics.len(), || Err(said("no answer".into())));
    Ok(all)
}

/// Asks the brokers for the settings of a topic, or of a broker.
pub(super) fn describe<C: ClientContext>(
    admin: &AdminClient<C>,
    what: &ResourceSpecifier<'_>,
) -> Result<ConfigResource, Unknown> {
    let said = |text: String| Unknown { text, is_silence: false };
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let answers = pollster::block_on(admin.describe_configs([what], &options))
        .map_err(|e| Unknown { text: e.to_string(), is_silence: true })?;
    answers.into_iter().next().ok_or_else(|| said("no answer".into()))?.map_err(|code| said(code.to_string()))
}

pub(super) fn of(resource: &ConfigResource) -> Option<Limits> {
    let text = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
    let bytes = text("max.message.bytes")?.parse().ok()?;
    if text("message.timestamp.type") == Some("LogAppendTime") {
        // The broker writes its own.
        return Some(Limits::of_bytes(bytes));
    }
    // Before Kafka 3.6 there was one for both; no limit is the greatest number.
    let both = text("message.timestamp.difference.max.ms");
    let deletes = text("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    let retention = text("retention.ms").and_then(|text| text.parse().ok()).filter(|ms| deletes && *ms >= 0);
    let ms = |name: &str| text(name).or(both).and_then(|text| text.parse().ok()).unwrap_or(i64::MAX);
    Some(Limits {
        bytes,
        before_ms: ms("message.timestamp.before.max.ms"),
        after_ms: ms("message.timestamp.after.max.ms"),
        keeps_ms: retention.unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_time_is_within_the_limits_and_else_the_events_own() {
        let now = 1_800_000_000_000;
        let hour = 3_600_000;
        let limits = Limits { before_ms: hour, after_ms: hour, keeps_ms: hour, ..Limits::of_bytes(1) };
        assert!(limits.deletes(now - hour - 1, now) && !limits.deletes(now - hour, now));
        assert!(!Limits::of_bytes(1).deletes(i64::MIN, now));
        for (time, nearest) in [
            (now, now),
            (now - hour / 2, now - hour / 2),
            (0, now - hour + MARGIN_MS),
            (now + 2 * hour, now + hour - MARGIN_MS),
            (i64::MIN, now - hour + MARGIN_MS),
            (i64::MAX, now + hour - MARGIN_MS),
        ] {
            assert_eq!(limits.nearest(time, now), nearest, "{time}");
        }
        let none = Limits::of_bytes(1);
        assert_eq!(none.nearest(1, now), 1);
        let seconds = Limits { before_ms: 10_000, after_ms: 0, ..Limits::of_bytes(1) };
        assert_eq!((seconds.nearest(0, now), seconds.nearest(now + 1, now)), (now - 5_000, now));
        for negative in [-1, i64::MIN] {
            let none = Limits { before_ms: negative, after_ms: negative, ..Limits::of_bytes(1) };
            assert_eq!((none.nearest(1, now), none.nearest(2 * now, now)), (1, 2 * now), "{negative}");
        }
    }
}
