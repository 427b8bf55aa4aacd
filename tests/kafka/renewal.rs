//! Passwords and CAs that are renewed in their files while events flow: the same process goes on with them, nothing is lost,
//! and the order stays.

use std::path::Path;
use std::time::Duration;

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::oracle::{Traffic, compare};
use crate::own_broker::Broker;
use crate::support::kafka_script::{port_of_broker, script};
use crate::support::*;
use crate::{CA, SASL, SOON, SSL};

/// Frames a second.
const RATE: f64 = 2_000.0;
/// The messages that tell what became of a renewed file.
const WORKS: &str = " has now works: ";
const NOT: &str = " has changed, and does not work: ";

struct Flowing {
    traffic: Traffic,
    frames: u64,
    relay: Relay,
    bridge: Bridge,
}

impl Flowing {
    fn start(frames: u64, broker: &str, topic: &str, more: &[&str]) -> Flowing {
        let traffic = Traffic::network(59, 60, 3_000);
        let config =
            RelayConfig { rate: RATE, from_start: true, ..RelayConfig::looped(traffic.frames.clone(), frames) };
        let relay = Relay::start(config).expect("a relay");
        let (url, state) = (relay.url(), folder("state"));
        let state = state.to_string_lossy();
        let args = ["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker, "--output-topic", topic];
        let bridge = Bridge::start(&[&args[..], &["--state-dir", &state, "--cursor", "oldest"], more].concat());
        Flowing { traffic, frames, relay, bridge }
    }

    fn count(&self, message: &str) -> usize {
        self.bridge.log().iter().filter(|line| line.contains(message)).count()
    }

    /// Waits until so many log lines have this message, while events still flow.
    fn wait(&self, message: &str, lines: usize) {
        self.bridge.wait(message, SOON, |_| self.count(message) == lines);
        assert!(
            self.bridge.metric("atkafka_last_seq_delivered") < self.frames as f64,
            "it came too late to show anything"
        );
    }

    /// What arrived in the end.
    fn verdict(self, broker: &str, topic: &str) -> crate::oracle::Verdict {
        self.bridge.wait_delivered(self.frames, SOON);
        assert_eq!(self.bridge.metric("atkafka_dead_letters"), 0.0);
        let (code, log) = self.bridge.stop();
        assert_eq!(code, Some(0), "{log:?}");
        drop(self.relay);
        compare(&self.traffic.served(1, 0..self.frames), &consume(broker, topic))
    }
}

/// Gives the user this password at the broker.
fn password(broker: &str, user: &str, password: &str) {
    script(&["password", "--port", port_of_broker(broker), user, password]);
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).expect("a file");
}

fn login<'a>(user: &'a str, file: &'a str) -> [&'a str; 6] {
    ["--sasl-mechanism", "SCRAM-SHA-256", "--sasl-username", user, "--sasl-password-file", file]
}

/// The file is away for a while, then has a password that the broker does not know yet: each is said once, and the client
/// goes on. When the broker knows it, a new client does.
#[test]
fn a_password_file_is_renewed_while_events_flow() {
    let (Some(broker), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    let (topic, user) = (unique("renewed"), unique("user"));
    crate::create_topic(&broker, &topic, 4, &[("retention.ms", "-1")]);
    let file = folder("password").join("password");
    password(&broker, &user, "first+password");
    write(&file, "first+password\n");
    let name = file.to_string_lossy();
    let run = Flowing::start(100_000, &sasl, &topic, &login(&user, &name));
    run.bridge.wait_delivered(2_000, SOON);
    std::fs::remove_file(&file).expect("removed");
    run.wait(NOT, 1);
    assert_eq!(run.count("cannot be read: "), 1, "{:?}", run.bridge.log());
    write(&file, "second+password\n");
    run.wait(NOT, 2);
    let at = run.bridge.metric("atkafka_last_seq_delivered") as u64;
    run.bridge.wait_delivered(at + 2_000, SOON);
    assert_eq!((run.count(NOT), run.count(WORKS)), (2, 0));
    password(&broker, &user, "second+password");
    run.wait(WORKS, 1);
    let at = run.bridge.metric("atkafka_last_seq_delivered") as u64;
    run.bridge.wait_delivered(at + 4_000, SOON);
    let log = run.bridge.log().join("\n");
    assert!(!log.contains("+password"), "{log}");
    assert_eq!((run.count(NOT), run.count(WORKS)), (2, 1), "{log}");
    run.verdict(&broker, &topic).once();
}

/// A password that is wrong at the start is put right in its file.
#[test]
fn a_start_with_a_wrong_password_goes_on_when_its_file_is_right() {
    let Some(sasl) = broker(SASL) else { return };
    let file = folder("password").join("password");
    write(&file, "wrong");
    let name = file.to_string_lossy();
    let topic = unique("put-right");
    let run = Flowing::start(200, &sasl, &topic, &login("atkafka", &name));
    run.bridge.wait("the login is refused", SOON, |b| {
        b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("refuses the login"))
    });
    write(&file, "secret\n");
    run.bridge.wait_delivered(200, SOON);
    assert_eq!(run.bridge.stop().0, Some(0));
}

/// Half of the file, then more CAs than before.
#[test]
fn a_ca_file_is_replaced_while_events_flow() {
    let (Some(broker), Some(ssl)) = (broker(KAFKA), broker(SSL)) else { return };
    let ca = std::fs::read(std::env::var(CA).expect(CA)).expect("the CA");
    let topic = unique("replaced");
    crate::create_topic(&broker, &topic, 4, &[("retention.ms", "-1")]);
    let file = folder("ca").join("ca.pem");
    write(&file, &ca);
    let run = Flowing::start(100_000, &ssl, &topic, &["--tls", "--tls-ca-file", &file.to_string_lossy()]);
    run.bridge.wait_delivered(2_000, SOON);
    write(&file, &ca[..ca.len() / 2]);
    run.wait(NOT, 1);
    write(&file, include_bytes!("../support/other-ca.pem"));
    run.wait(NOT, 2);
    let at = run.bridge.metric("atkafka_last_seq_delivered") as u64;
    run.bridge.wait_delivered(at + 2_000, SOON);
    write(&file, [&ca[..], include_bytes!("../support/other-ca.pem")].concat());
    run.wait(WORKS, 1);
    let at = run.bridge.metric("atkafka_last_seq_delivered") as u64;
    run.bridge.wait_delivered(at + 4_000, SOON);
    assert_eq!((run.count(NOT), run.count(WORKS)), (2, 1), "{:?}", run.bridge.log());
    run.verdict(&broker, &topic).once();
}

/// The login is refused, and all that may be in flight waits in the client: it gives it back, and a new one sends it.
#[test]
fn a_login_that_is_refused_reads_the_renewed_file() {
    if broker(KAFKA).is_none() {
        return;
    }
    // Below the ports that the system gives to clients: one that connects again and again would get its own.
    let own = Broker::start("4.3.1", 30_592, "all");
    let (broker, topic, user) = (own.address(), unique("refused"), unique("user"));
    let port: u16 = broker.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let sasl = format!("127.0.0.1:{}", port + 1);
    crate::create_topic(&broker, &topic, 4, &[("retention.ms", "-1")]);
    let file = folder("password").join("password");
    password(&broker, &user, "first+password");
    write(&file, "first+password\n");
    let name = file.to_string_lossy();
    let run = Flowing::start(60_000, &sasl, &topic, &[&login(&user, &name)[..], &["--memory-limit", "16MiB"]].concat());
    run.bridge.wait_delivered(4_000, SOON);
    // The connection that there is would stay; no other one comes about.
    password(&broker, &user, "second+password");
    own.kill();
    own.again();
    run.bridge.wait("the login is refused", SOON, |b| {
        b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("refuses the login"))
    });
    let in_flight = || run.bridge.metric("atkafka_bytes_in_flight");
    run.bridge.wait("nothing more is read", SOON, |_| {
        let before = in_flight();
        std::thread::sleep(Duration::from_secs(2));
        before > 0.0 && before == in_flight()
    });
    write(&file, "second+password\n");
    run.wait(WORKS, 1);
    assert!(!run.bridge.log().join("\n").contains("+password"));
    run.verdict(&broker, &topic).at_least_once();
}
