//! Three brokers that are one cluster.

use std::path::PathBuf;

use crate::support::kafka_script::script;

/// Brokers that are one cluster. They are gone, with their data, when this is dropped.
pub struct Cluster {
    base: u16,
    dir: PathBuf,
}

impl Cluster {
    /// Three of them, with three replicas of everything. `base`: the first free port from there on is that of the first one.
    pub fn start(version: &str, base: u16, dir: PathBuf) -> Cluster {
        let free = script(&["free-port", "--port", &base.to_string()]);
        let cluster = Cluster { base: free.trim().parse().expect("a port"), dir };
        let (port, dir) = (cluster.base.to_string(), cluster.dir.join("node").to_string_lossy().into_owned());
        script(&["start", "--nodes", "3", "--version", version, "--port", &port, "--dir", &dir]);
        cluster
    }

    /// `host:port` of each.
    pub fn addresses(&self) -> String {
        [0, 10, 20].map(|more| format!("127.0.0.1:{}", self.base + more)).join(",")
    }

    /// SIGKILL for the one with this id, from 1 on.
    pub fn kill(&self, node: i32) {
        self.script("kill", node, &[]);
    }

    pub fn again(&self, node: i32) {
        self.script("start", node, &[]);
    }

    fn script(&self, command: &str, node: i32, more: &[&str]) {
        let port = (self.base + 10 * (node as u16 - 1)).to_string();
        let dir = self.dir.join(format!("node-{node}")).to_string_lossy().into_owned();
        script(&[&[command, "--port", &port, "--dir", &dir], more].concat());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (1..=3).for_each(|node| self.script("kill", node, &["--clean"]));
    }
}
