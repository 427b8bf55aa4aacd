//! The manifests start the program as they say: two pods by the settings of the ConfigMap, one at work and one in wait.

use std::collections::BTreeMap;

use atkafka_fixtures::network::builder::{A_TIME, identity_frame};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::support::*;
use crate::{SOON, dockerfile, image_env, read, text};

const SECRETS: &str = "/run/secrets/atkafka";

/// The resources of all files, by kind.
fn resources() -> BTreeMap<String, Value> {
    let text_of = |file: &str| read(format!("packaging/kubernetes/{file}"));
    let all = [text_of("atkafka.yml"), text_of("podmonitor.yml")];
    let documents = all.iter().flat_map(|text| serde_yaml_ng::Deserializer::from_str(text));
    let values = documents.map(|document| Value::deserialize(document).expect("YAML"));
    values.map(|value| (text(&value["kind"]), value)).collect()
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn the_parts_of_the_manifests_fit_one_another_and_the_image() {
    let all = resources();
    let kinds: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["ConfigMap", "Deployment", "PodDisruptionBudget", "PodMonitor"]);
    let deployment = &all["Deployment"];
    let (pod, container) = (&deployment["spec"]["template"], container(deployment));
    let labels = &pod["metadata"]["labels"];
    for selector in [&deployment["spec"], &all["PodDisruptionBudget"]["spec"], &all["PodMonitor"]["spec"]] {
        assert_eq!(selector["selector"]["matchLabels"], *labels);
    }
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], all["ConfigMap"]["metadata"]["name"]);
    assert_eq!(all["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"], container["ports"][0]["name"]);
    // As the alerts want it.
    assert_eq!(labels[text(&all["PodMonitor"]["spec"]["jobLabel"])], "atkafka");
    assert_eq!(dockerfile("EXPOSE"), [text(&container["ports"][0]["containerPort"])]);
    let security = &pod["spec"]["securityContext"];
    assert_eq!(dockerfile("USER"), [format!("{}:{}", text(&security["runAsUser"]), text(&security["runAsGroup"]))]);
    // What it writes and reads has a place: the root file system is read-only.
    let mounts = container["volumeMounts"].as_sequence().expect("mounts");
    let paths: Vec<String> = mounts.iter().map(|mount| text(&mount["mountPath"])).collect();
    assert_eq!(paths, [SECRETS, &image_env()["STATE_DIRECTORY"]]);
    let settings = all["ConfigMap"]["data"].as_mapping().expect("settings");
    let files: Vec<String> =
        settings.iter().filter(|(name, _)| text(name).ends_with("_FILE")).map(|(_, v)| text(v)).collect();
    assert!(files.len() == 2 && files.iter().all(|file| file.starts_with(SECRETS)), "{files:?}");
}

#[test]
fn two_pods_start_as_the_manifests_say_one_at_work_and_one_in_wait() {
    let (Some(_), Some(broker)) = (broker(KAFKA), broker("ATKAFKA_TEST_KAFKA_SASL_SSL")) else { return };
    let frames: Vec<_> =
        (1..=5).map(|seq| identity_frame(seq, "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", A_TIME, None)).collect();
    let relay = Relay::start(RelayConfig::script(frames)).expect("a relay");
    let secrets = folder("secrets").to_string_lossy().into_owned();
    std::fs::write(format!("{secrets}/password"), "secret\n").expect("written");
    std::fs::copy(std::env::var("ATKAFKA_TEST_KAFKA_CA").expect("a CA"), format!("{secrets}/ca.crt")).expect("copied");
    let all = resources();
    let settings = all["ConfigMap"]["data"].as_mapping().expect("settings");
    let mut env: BTreeMap<String, String> =
        settings.iter().map(|(name, value)| (text(name), text(value).replace(SECRETS, &secrets))).collect();
    // What is of this cluster.
    let (topic, relay) = (unique("kubernetes"), relay.url());
    for (name, value) in [
        ("ATKAFKA_BOOTSTRAP_SERVERS", &*broker),
        ("ATKAFKA_OUTPUT_TOPIC", &topic),
        ("ATKAFKA_INSTANCE_ID", &topic),
        ("ATKAFKA_RELAY_HOST", &relay),
        ("ATKAFKA_TOPIC_REPLICATION", "1"),
    ] {
        assert!(env.insert(name.into(), value.into()).is_some(), "{name} is not in the ConfigMap");
    }
    env.insert("ATKAFKA_CURSOR".into(), "oldest".into());
    env.insert("STATE_DIRECTORY".into(), folder("state").to_string_lossy().into_owned());
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let container = container(&all["Deployment"]);
    let args = container["args"].as_sequence().expect("arguments").iter().map(text).collect::<Vec<_>>();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let probe = |pod: &Bridge, name: &str| pod.get(&text(&container[name]["httpGet"]["path"]));

    let first = Bridge::start_with(&args, &env);
    first.wait("the readiness probe", SOON, |pod| probe(pod, "readinessProbe") == Some((200, "ok\n".into())));
    let second = Bridge::start_with(&args, &env);
    second.wait("the readiness probe", SOON, |pod| probe(pod, "readinessProbe") == Some((200, "standby\n".into())));
    for pod in [&first, &second] {
        assert_eq!(probe(pod, "livenessProbe").map(|(status, _)| status), Some(200));
    }
    first.wait_delivered(5, SOON);
    let unknown = |pod: &Bridge| pod.log().into_iter().find(|line| line.contains("no flag has this variable"));
    assert_eq!(unknown(&first), None);
    for pod in [first, second] {
        let (code, log) = pod.stop();
        assert_eq!(code, Some(0), "{}", log.join("\n"));
    }
}
