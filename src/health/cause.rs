//! A reason why events do not flow, in words for `/readyz` and the log. A value: it knows nothing of where it came from.

use std::fmt;
use std::time::Instant;

/// Why events do not flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In words, without how long it has lasted.
    pub what: String,
    /// When it began. `None`: the words say how long it has lasted.
    pub since: Option<Instant>,
}

impl Cause {
    /// What is the case, and since when.
    pub(super) fn since(what: &str, since: Instant) -> Self {
        Cause { what: what.into(), since: Some(since) }
    }

    /// It speaks of a time itself.
    pub(super) fn now(what: String) -> Self {
        Cause { what, since: None }
    }

    /// The same seen from farther away.
    pub(super) fn of(&self, what: &str) -> Self {
        Cause { what: format!("{what}: {}", self.what), since: self.since }
    }

    /// ` for 25 s`, or nothing for what is new.
    pub fn age(&self) -> String {
        match self.since.map(|at| at.elapsed().as_secs_f64()) {
            Some(age @ 1.0..120.0) => format!("for {} s", age.floor()),
            Some(age @ 120.0..) => format!("for {}", human(age)),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.age() {
            age if age.is_empty() => Ok(()),
            age => write!(f, " ({age})"),
        }
    }
}

/// Seconds as people say them.
pub fn human(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Notes a cause. It began when the first one did, whatever its words are now.
pub(super) fn note(place: &mut Option<Cause>, state: Result<(), String>) {
    *place = state.err().map(|what| {
        let since = place.as_ref().and_then(|before| before.since).unwrap_or_else(Instant::now);
        Cause { what, since: Some(since) }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_as_people_say_them() {
        let said = [0.25, 119.0, 300.0, 10_800.0, 259_200.0].map(human);
        assert_eq!(said, ["0.2 s", "119.0 s", "5.0 min", "3.0 h", "3.0 days"]);
    }
}
