//! The dashboard and the alerts name only metrics and labels that exist, and say what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use atkafka::dead_letter::Reason;
use serde_yaml_ng::Value;
use sonic_rs::{JsonContainerTrait, JsonValueTrait};

use crate::support::*;
use crate::{SOON, read, root, text};

/// Each metric of the program with its labels: the names that stand in src/metrics, and the labels behind each.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut source = metrics_source();
    // Lists of labels that have a name.
    while let Some((before, after)) = source.split_once(": &[&str] = ") {
        let (before, name) = before.rsplit_once("const ").expect("a constant");
        let (list, after) = after.split_once(";\n").expect("its end");
        source = format!("{before}\n{}", after.replace(&format!("{name},"), &format!("{list},")));
    }
    let is_name = |s: &str| s.starts_with("atkafka_") && s.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut last, mut in_list) = (String::new(), false);
    let mut parts = source.split('"');
    // Outside and inside of quotes in turn; `\"` is not used there.
    while let (Some(outside), Some(inside)) = (parts.next(), parts.next()) {
        let begins = outside.ends_with("&[") && !outside.ends_with("with_label_values(&[");
        in_list = begins || (in_list && outside.trim() == ",");
        if is_name(inside) {
            last = inside.to_string();
            out.insert(last.clone(), BTreeSet::new());
        } else if in_list && let Some(labels) = out.get_mut(&last) {
            labels.insert(inside.to_string());
        }
    }
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "threads", "start_time_seconds"] {
        out.insert(format!("process_{name}"), BTreeSet::new());
    }
    assert_eq!(out["atkafka_handled_events"], ["action_name", "collection"].map(String::from).into());
    assert_eq!(out["atkafka_build_info"], ["version".to_string()].into());
    assert_eq!(out["atkafka_plc_requests"], ["cached", "kind", "status"].map(String::from).into());
    assert!(out["atkafka_filtered_events"].is_empty() && out["atkafka_delivery_seconds"].is_empty(), "{out:?}");
    out
}

/// Every query of the dashboard and of the alerts, with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let dashboard: sonic_rs::Value =
        sonic_rs::from_str(&read("packaging/grafana/dashboards/atkafka.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    // A folded row holds its panels.
    for panel in panels.flat_map(|p| std::iter::once(p).chain(p["panels"].as_array().into_iter().flatten())) {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().into_iter().flatten() {
            out.push((format!("panel {title}"), target["expr"].as_str().expect("a query").to_string()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        out.push(("annotations".into(), annotation["expr"].as_str().expect("a query").to_string()));
    }
    for (name, rule) in alerts() {
        out.push((format!("alert {name}"), text(&rule["expr"])));
    }
    assert!(out.len() > 50, "{}", out.len());
    out
}

#[test]
fn panels_say_what_they_mean_and_what_is_normal() {
    let dashboard: sonic_rs::Value =
        sonic_rs::from_str(&read("packaging/grafana/dashboards/atkafka.json")).expect("JSON");
    let mut rows = 0;
    for top in dashboard["panels"].as_array().expect("panels") {
        let inner = top["panels"].as_array().into_iter().flatten();
        for panel in std::iter::once(top).chain(inner) {
            let title = panel["title"].as_str().expect("a title");
            if panel["type"] == "row" {
                assert_eq!(panel["collapsed"].as_bool(), Some(rows > 0), "{title}: all rows but the first are folded");
                rows += 1;
                continue;
            }
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.contains("Normal: ") || title == "Version", "{title}: {description}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_str(), "{title} has no unit");
        }
    }
    assert!(rows >= 5, "{rows} rows");
}

fn alerts() -> Vec<(String, Value)> {
    let all: Value = serde_yaml_ng::from_str(&read("packaging/prometheus/alerts.yml")).expect("YAML");
    let groups = all["groups"].as_sequence().expect("groups");
    let rules = groups.iter().flat_map(|g| g["rules"].as_sequence().expect("rules").clone());
    rules.map(|rule| (text(&rule["alert"]), rule)).collect()
}

/// The words of a query outside of strings, each with the character behind it.
fn words(query: &str) -> Vec<(String, char)> {
    let mut out = Vec::new();
    for (i, outside) in query.split('"').enumerate().filter(|(i, _)| i % 2 == 0) {
        let mut word = String::new();
        // The end of a part is a string, unless it is the end of the query.
        for c in outside.chars().chain([if i + 1 < query.split('"').count() { '"' } else { ' ' }]) {
            if c.is_ascii_alphanumeric() || c == '_' || c == '$' {
                word.push(c);
            } else if !word.is_empty() {
                out.push((std::mem::take(&mut word), c));
            }
        }
    }
    out
}

#[test]
fn dashboard_and_alerts_use_metrics_and_labels_that_exist() {
    let known = metrics();
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (place, query) in queries() {
        let mut labels: BTreeSet<String> = ["instance", "job"].map(String::from).into();
        let words = words(&query);
        let is_metric = |w: &str| w.starts_with("atkafka_") || w.starts_with("process_");
        for (word, _) in words.iter().filter(|(w, _)| is_metric(w)) {
            let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end));
            let name = histogram.filter(|name| name.ends_with("_seconds")).unwrap_or(word);
            match known.get(name) {
                Some(own) => labels.extend(own.iter().cloned()),
                None => wrong.push(format!("{place}: no metric {word}")),
            }
            if word.ends_with("_bucket") {
                labels.insert("le".into());
            }
            used.insert(name.to_string());
        }
        if query.contains("ALERTS") {
            labels.extend(["alertstate", "alertname"].map(String::from));
        }
        // Labels: compared with something, or listed behind `by` and `on`.
        let lists = query.match_indices(" by (").chain(query.match_indices(" on (")).map(|(at, by)| {
            let list = &query[at + by.len()..];
            list[..list.find(')').expect("closed")].split(',').map(|l| l.trim().to_string()).collect::<Vec<_>>()
        });
        let lists: Vec<String> = lists.flatten().collect();
        let compared = selectors(&query);
        for label in lists.iter().chain(&compared) {
            if !labels.contains(label) {
                wrong.push(format!("{place}: no label {label}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What the program counts is shown.
    let unused: Vec<&String> = known.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "on no panel and in no alert: {unused:?}");

    // Values, too, where the program has a closed list of them.
    let reasons = Reason::ALL.map(|r| r.name());
    for (place, query) in queries() {
        for list in query.split("reason=~\"").skip(1) {
            for reason in list[..list.find('"').expect("closed")].split('|') {
                assert!(reasons.contains(&reason), "{place}: {reason}");
            }
        }
    }
}

/// The label names in `{...}` of a query.
fn selectors(query: &str) -> Vec<String> {
    let inside = query.split('{').skip(1).filter_map(|part| part.split('}').next());
    let pairs = inside.flat_map(|list| list.split("\", ").map(str::to_string).collect::<Vec<_>>());
    pairs.filter_map(|pair| pair.split(['=', '!']).next().map(|label| label.trim().to_string())).collect()
}

#[test]
fn process_metrics_of_the_dashboard_are_in_the_answer() {
    let bridge = Bridge::start(&["firehose", "relay", "--relay-host", "ws://127.0.0.1:1"]);
    bridge.wait("metrics", SOON, |b| b.get("/metrics").is_some());
    let answer = bridge.metrics();
    for name in metrics().keys().filter(|name| name.starts_with("process_")) {
        assert!(answer.contains_key(name), "{name}");
    }
}

#[test]
fn alerts_say_what_they_mean_and_the_documents_what_to_do() {
    let document = read("docs/operating.md");
    let section = document.split("\n## Alerts\n").nth(1).expect("a section Alerts");
    let section = section.split("\n## ").next().unwrap_or_default();
    let tests = read("packaging/prometheus/alerts.test.yml");
    for (name, rule) in alerts() {
        for key in ["summary", "description", "runbook"] {
            assert!(text(&rule["annotations"][key]).len() > 10, "{name}: {key}");
        }
        assert_eq!(text(&rule["annotations"]["runbook"]), format!("docs/operating.md#{}", name.to_lowercase()));
        assert!(["warning", "critical"].contains(&text(&rule["labels"]["severity"]).as_str()), "{name}");
        assert!(section.contains(&format!("\n### {name}\n")), "{name} has no section in docs/operating.md");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} has no test");
    }
    let listed = section.lines().filter(|l| l.starts_with("### Atkafka")).count();
    assert_eq!(listed, alerts().len(), "docs/operating.md has an alert that is not there");
}

#[test]
fn alerts_fire_and_do_not_fire() {
    if Command::new("promtool").arg("--version").output().is_err() {
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "promtool is missing in CI");
        println!("skipped: promtool is not installed (make deploy-check installs it)");
        return;
    }
    let dir: PathBuf = root().join("packaging/prometheus");
    for args in
        [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"], ["check", "config", "--syntax-only"]]
    {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(&dir);
        if args[1] == "config" {
            command.arg("prometheus.yml");
        }
        let out = command.output().expect("promtool runs");
        let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(out.status.success(), "promtool {args:?}\n{said}");
    }
}
