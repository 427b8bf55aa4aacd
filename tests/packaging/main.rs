//! What comes with the program: compose files, image, manifests, dashboard and alerts, units of systemd, and a release that is whole. They
//! do what they say and name only what is there.

mod compose;
mod dashboard;
mod image;
mod kubernetes;
mod release;
#[path = "../support/mod.rs"]
mod support;
mod systemd;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_yaml_ng::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_atkafka");
/// For everything that only has to happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the project; an absolute path is taken as it is.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => serde_yaml_ng::to_string(other).expect("a scalar").trim().to_string(),
    }
}

/// Lines of the Dockerfile's last stage that begin with `word`, without it.
fn dockerfile(word: &str) -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let last = text.rfind("\nFROM ").expect("stages");
    text[last..].lines().filter_map(|l| l.strip_prefix(word)?.strip_prefix(' ').map(str::to_string)).collect()
}

fn image_env() -> HashMap<String, String> {
    dockerfile("ENV").iter().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn image_health_check() -> Vec<String> {
    let line = dockerfile("HEALTHCHECK").pop().expect("a health check");
    let (_, list) = line.split_once("CMD ").expect("a command");
    let list: Vec<String> = sonic_rs::from_str(list).expect("in the form of a list");
    [vec!["CMD".to_string()], list].concat()
}
