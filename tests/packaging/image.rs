//! The image is what the compose files and the program take it for, and the workflows do what .ci/run and the make targets do.

use std::process::Command;

use serde_yaml_ng::Value;

use crate::support::*;
use crate::{dockerfile, image_env, image_health_check, read, root, text};

#[test]
fn the_image_is_what_the_compose_files_and_the_program_take_it_for() {
    let help = run(&["firehose", "relay", "--help"], &[]).1;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("(default 0.0.0.0:6009)"), "{help}");
    assert_eq!(dockerfile("EXPOSE"), ["6009"]);
    assert_eq!(dockerfile("ENTRYPOINT"), [r#"["atkafka"]"#]);
    assert_eq!(dockerfile("STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(dockerfile("USER"), ["10001:10001"]);
    assert_eq!(dockerfile("VOLUME"), [image_env()["STATE_DIRECTORY"].clone()]);
    assert_eq!(image_health_check(), ["CMD", "atkafka", "healthcheck"]);
    // What the build copies has to pass .dockerignore, and is there.
    let ignore = read(".dockerignore");
    let copied = read("Dockerfile");
    let copied = copied.lines().filter_map(|l| l.strip_prefix("COPY ")).filter(|l| !l.starts_with("--from"));
    for source in copied.flat_map(|l| l.split_whitespace().rev().skip(1)) {
        assert!(ignore.lines().any(|l| l == format!("!{source}")), "{source} is kept out by .dockerignore");
        assert!(root().join(source).exists(), "{source}");
    }
    // Cargo wants the file of each bench that Cargo.toml names, and the first layer has none of ours.
    let cargo = read("Cargo.toml");
    let benches: Vec<&str> = cargo.split("[[bench]]\nname = \"").skip(1).filter_map(|b| b.split('"').next()).collect();
    let dockerfile = read("Dockerfile");
    assert!(!benches.is_empty());
    for bench in benches {
        assert!(dockerfile.contains(&format!("benches/{bench}.rs")), "the Dockerfile makes no {bench}.rs");
    }
    // The toolchain of the build is new enough.
    let minor = |text: &str| text.split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
    let least = cargo.lines().find_map(|l| l.strip_prefix("rust-version = \"")).expect("a version");
    let image = read("Dockerfile");
    let image = image.lines().find_map(|l| l.strip_prefix("FROM rust:")?.split('-').next()).expect("a rust image");
    assert!(minor(image) >= minor(least.trim_end_matches('"')), "{image}, {least}");
}

#[test]
fn the_workflows_do_what_ci_run_and_the_make_targets_do() {
    let load = |name: &str| -> Value {
        let file = format!(".github/workflows/{name}.yml");
        assert!(read(&file).starts_with("# Not run so far"), "{file} says that it was not tried");
        serde_yaml_ng::from_str(&read(&file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    let steps = |job: &Value| -> Vec<String> {
        job["steps"].as_sequence().expect("steps").iter().filter_map(|s| Some(s["run"].as_str()?.to_string())).collect()
    };
    let (ci, release) = (load("ci"), load("release"));
    assert!(steps(&ci["jobs"]["test"]).iter().any(|run| run == ".ci/run"));
    let programs = steps(&release["jobs"]["programs"]).join("\n");
    assert!(programs.contains("make dist") && programs.contains("sha256sum") && programs.contains("cyclonedx"));
    let runners = release["jobs"]["programs"]["strategy"]["matrix"]["include"].as_sequence().expect("a matrix");
    assert_eq!(runners.iter().map(|r| text(&r["runner"])).collect::<Vec<_>>(), ["ubuntu-24.04", "ubuntu-24.04-arm"]);
    let image = release["jobs"]["image"]["steps"].as_sequence().expect("steps");
    assert!(image.iter().any(|s| s["with"]["platforms"].as_str() == Some("linux/amd64,linux/arm64")));
    // One Rust everywhere.
    let rust =
        read("Dockerfile").lines().find_map(|l| Some(l.strip_prefix("FROM rust:")?.split('-').next()?.to_string()));
    let rust = rust.expect("a rust image");
    assert_eq!(text(&ci["env"]["RUST"]), rust);
    assert_eq!(text(&release["jobs"]["programs"]["container"]), format!("rust:{rust}-bookworm"));

    match Command::new("actionlint").current_dir(root()).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(_) => println!("skipped: actionlint is not installed (make lint says how to get it)"),
    }
}
