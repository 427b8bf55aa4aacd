//! A broker of a test's own, which it may kill, while the others share those of `scripts/test.sh`.

use crate::support::kafka_script::script;

/// It is gone, with its data, when this is dropped.
pub struct Broker {
    version: &'static str,
    port: String,
}

impl Broker {
    /// At the first free port from `base` on, with these listeners of `scripts/kafka.sh`: `plain` or `all`.
    pub fn start(version: &'static str, base: u16, listeners: &str) -> Broker {
        let free = script(&["free-port", "--port", &base.to_string()]);
        let broker = Broker { version, port: free.trim().into() };
        script(&["start", "--version", version, "--port", &broker.port, "--listeners", listeners]);
        broker
    }

    /// Starts it again, with the data that it had.
    pub fn again(&self) {
        script(&["start", "--version", self.version, "--port", &self.port]);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        script(&["kill", "--port", &self.port]);
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        script(&["kill", "--clean", "--port", &self.port]);
    }
}
