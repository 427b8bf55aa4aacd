//! The settings as the status page and `check` show them: each with where it comes from, and no secret.

use super::values::{properties, without_user_info};
use super::warnings::SECRETS;
use crate::config::layers::Given;
use crate::http::status::Setting;

const HIDDEN: &str = "***";

pub(super) fn shown(given: &[Given]) -> Vec<Setting> {
    let setting = |g: &Given| Setting {
        flag: g.flag.to_string(),
        value: value(g.flag, g.value.as_deref()),
        from: g.variable.clone().unwrap_or_else(|| "flag".into()),
    };
    given.iter().map(setting).collect()
}

/// A value as it may be shown. `None`: a switch that is on.
pub(crate) fn value(flag: &str, value: Option<&str>) -> String {
    match value {
        None => "true".into(),
        Some(_) if SECRETS.contains(&flag) => HIDDEN.into(),
        // Which of librdkafka's properties hold a secret is not known for all: only the names are shown.
        Some(value) if flag == "--kafka-config" => {
            let names = properties(&[value.to_string()]).unwrap_or_default();
            names.iter().map(|(name, _)| format!("{name}={HIDDEN}")).collect::<Vec<_>>().join(",")
        }
        Some(value) => without_user_info(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let given = |flag, value: Option<&str>| Given { flag, value: value.map(Into::into), variable: None };
        let mut list: Vec<Given> = SECRETS.iter().map(|flag| given(*flag, Some("hunter2"))).collect();
        list.push(given("--kafka-config", Some("ssl.key.password=hunter2,linger.ms=5")));
        list.push(given("--plc-host", Some("https://user:hunter2@plc.example")));
        list.push(given("--tls", None));
        let shown = shown(&list);
        let text = format!("{shown:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("ssl.key.password=***,linger.ms=***") && text.contains("plc.example"), "{text}");
        assert_eq!(shown.last().map(|s| s.value.as_str()), Some("true"));
    }
}
