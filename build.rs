//! Tells the tests by `cfg(recorded_data)` whether the recorded data of the real network are beside the project: whether a test is
//! ignored is decided when it is compiled. With CI=true they count as there, so that tests fail where they are missing.

use std::path::Path;

/// A part of the data, from the package's folder.
const DATA: &str = "../shared/golden/README.md";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(recorded_data)");
    println!("cargo::rerun-if-env-changed=CI");
    // A path that is not there would count as changed at each build. So data that come later need `touch build.rs`.
    println!("cargo::rerun-if-changed=build.rs");
    let there = Path::new(DATA).exists();
    if there {
        println!("cargo::rerun-if-changed={DATA}");
    }
    if there || std::env::var("CI").is_ok_and(|ci| ci == "true") {
        println!("cargo::rustc-cfg=recorded_data");
    }
}
