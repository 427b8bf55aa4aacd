//! `scripts/kafka.sh`: what it does with a broker, and what the user `limited` may do there.

use std::process::{Command, Stdio};

/// `scripts/kafka.sh ARGS`: what it prints.
pub fn script(args: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
    let out = Command::new(script).args(args).stdin(Stdio::null()).output().expect("scripts/kafka.sh runs");
    assert!(out.status.success(), "kafka.sh {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The port of a broker at `HOST:PORT`.
pub fn port_of_broker(broker: &str) -> &str {
    broker.rsplit_once(':').expect("a port").1
}

/// How `limited` logs in with PLAIN.
pub const LIMITED: [(&str, &str); 2] = [("ATKAFKA_SASL_USERNAME", "limited"), ("ATKAFKA_SASL_PASSWORD", "secret")];

/// What the user `limited` may do at a broker with access control lists. `resource`: as `kafka-acls.sh` takes it, such as
/// `--topic T`. Once a resource has an entry, whoever is not named in its entries may do nothing there.
pub struct Lists(String);

impl Lists {
    /// Of the broker at `HOST:PORT`, the listener without a login.
    pub fn of(broker: &str) -> Lists {
        Lists(port_of_broker(broker).into())
    }

    fn change(&self, how: &str, user: &str, operation: &str, resource: &[&str]) {
        let user = format!("User:{user}");
        let args = ["acl", "--port", &self.0, how, "--force", "--allow-principal", &user, "--operation", operation];
        script(&[&args[..], resource].concat());
    }

    /// Gives the resource an entry that is not for `limited`.
    pub fn close(&self, resource: &[&str]) {
        self.change("--add", "other", "All", resource);
    }

    pub fn allow(&self, operation: &str, resource: &[&str]) {
        self.change("--add", "limited", operation, resource);
    }

    pub fn take_away(&self, operation: &str, resource: &[&str]) {
        self.change("--remove", "limited", operation, resource);
    }
}
