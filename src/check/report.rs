//! Findings as lines: for people, and as JSON. Pure; `main` writes what comes out.

use serde::Serialize;

use super::{Finding, State, Tally};
use crate::config::help::paragraph;
use crate::log::plain::plain;

/// Bytes of a text: what hosts say is cut before.
const LONGEST: usize = 4096;
/// Columns of the state, and of what a line is about.
const STATE: usize = 12;
const ABOUT: usize = 12;

impl State {
    /// In lines and in JSON.
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "failed",
            State::NotChecked => "not checked",
        }
    }
}

/// A line, wrapped for a terminal of so many columns. Without a terminal it stays one line, so that it can be searched.
pub fn text(finding: &Finding, columns: Option<usize>) -> String {
    let mut out = format!("{:<STATE$}{:<ABOUT$}", finding.state.name(), finding.about);
    let text = plain(&finding.text, LONGEST);
    match columns {
        None => out + &text + "\n",
        Some(columns) => {
            let mut wrapped = String::new();
            paragraph(&mut wrapped, &text, STATE + ABOUT, columns.max(60));
            out.push_str(wrapped.trim_start());
            out
        }
    }
}

/// The last line.
pub fn summary(tally: Tally) -> String {
    match tally {
        Tally { failed: 0, warnings: 0, .. } => "\nEverything that was tried is well.\n".into(),
        Tally { failed: 0, warnings, .. } => format!("\nNothing failed; {warnings} with a warning.\n"),
        Tally { failed, warnings, .. } => format!("\n{failed} failed, {warnings} with a warning.\n"),
    }
}

#[derive(Serialize)]
struct Json<'a> {
    state: &'a str,
    about: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

/// An object of JSON and the end of its line.
pub fn json(finding: &Finding) -> String {
    let setting = finding.setting.as_ref();
    let line = Json {
        state: finding.state.name(),
        about: finding.about,
        text: &finding.text,
        flag: setting.map(|s| s.flag.as_str()),
        value: setting.map(|s| s.value.as_str()),
        from: setting.map(|s| s.from.as_str()),
    };
    let mut bytes = sonic_rs::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_wrapped_only_for_a_terminal() {
        let words = "word ".repeat(30);
        let finding = Finding { state: State::Warning, about: "retention", text: words.trim().into(), setting: None };
        let line = text(&finding, None);
        assert!(line.starts_with("warning     retention   word word") && line.matches('\n').count() == 1, "{line}");
        let wrapped = text(&finding, Some(80));
        assert!(wrapped.lines().count() > 2 && wrapped.lines().all(|l| l.len() <= 80), "{wrapped}");
        assert!(wrapped.lines().skip(1).all(|l| l.starts_with(&" ".repeat(24)) && !l.ends_with(' ')), "{wrapped}");
    }

    #[test]
    fn control_characters_stay_out_of_the_terminal() {
        let finding = Finding { state: State::Ok, about: "x", text: "a\u{1b}[31m\nb".into(), setting: None };
        assert!(!text(&finding, None).trim_end().contains(['\u{1b}', '\n']));
        assert!(!json(&finding).contains('\u{1b}'));
    }
}
