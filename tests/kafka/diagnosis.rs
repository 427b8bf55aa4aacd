//! What is said when the brokers cannot be reached: one line, once, in the log and in /readyz, with what to do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atkafka_fixtures::relay::{Relay, RelayConfig};

use crate::support::*;
use crate::{CA, SASL, SASL_SSL, SOON, SSL, frames};

fn start(broker: &str, topic: &str, args: &[&str]) -> (Relay, Bridge) {
    let relay = Relay::start(RelayConfig::script(frames(1..=3))).expect("a relay");
    let (url, state) = (relay.url(), folder("state"));
    let state = state.to_string_lossy();
    let mut all = vec!["firehose", "relay", "--relay-host", &url, "--bootstrap-servers", broker];
    all.extend(["--output-topic", topic, "--state-dir", &state, "--cursor", "oldest"]);
    all.extend(args);
    (relay, Bridge::start(&all))
}

/// Lines of the log about the output.
fn said(bridge: &Bridge) -> Vec<String> {
    let ours = |l: &String| l.contains(" WARN ") && (l.contains("output: ") || l.contains("kafka: "));
    bridge.log().into_iter().filter(ours).collect()
}

/// Cannot connect: one line that begins with `at` and has all `parts`, in /readyz as well, and not again while it goes on.
fn says(broker: &str, args: &[&str], at: &str, parts: &[&str]) {
    let (_relay, bridge) = start(broker, &unique("refused"), args);
    let good = |text: &str| text.contains(&format!("output: {at}: ")) && parts.iter().all(|p| text.contains(p));
    bridge.wait(&format!("/readyz says {at}: {parts:?}"), SOON, |b| {
        b.get("/readyz").is_some_and(|(status, body)| status == 503 && good(&body))
    });
    assert_eq!(bridge.get("/healthz").map(|(s, _)| s), Some(200), "it stays, and goes on trying");
    std::thread::sleep(Duration::from_secs(4));
    let lines = said(&bridge);
    assert!(lines.len() == 1 && good(&lines[0]), "one line, once: {lines:#?}");
    println!("{}", lines[0]);
    assert!(bridge.metric("atkafka_kafka_errors") >= 1.0);
    assert!(!bridge.log_contains("librdkafka") && !bridge.log_contains("[thrd:"), "{:?}", bridge.log());
    bridge.kill();
}

#[test]
fn nothing_listens() {
    let port = format!("127.0.0.1:{}", free_port());
    says(&port, &[], &port, &["connection refused: is the broker running, is the port right?"]);
    let both = format!("{port},127.0.0.1:1");
    says(&both, &[], &format!("{port}, 127.0.0.1:1"), &["connection refused"]);
    says(&port, &["--kafka-client", "kafka"], &port, &["connection refused: is the broker running"]);
}

/// Connections are taken and nothing is said: a broker that hangs. A stop does not wait for it.
#[test]
fn servers_that_answer_nothing() {
    let listeners: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let at: Vec<String> = listeners.iter().map(|l| l.local_addr().expect("an address").to_string()).collect();
    let (_relay, bridge) = start(&at.join(","), &unique("silent"), &[]);
    let line = ": takes connections and answers nothing: does the broker hang, is the port right?";
    bridge.wait("the first is named", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(&at[0]) && body.contains(line))
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bridge.stop().0, Some(0));
    // The crate asks one after the other.
    let (_relay, bridge) = start(&at[0], &unique("silent"), &["--kafka-client", "kafka"]);
    bridge.wait("it is named", SOON, |b| b.get("/readyz").is_some_and(|(_, body)| body.contains(line)));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_name_that_does_not_resolve() {
    let at = "no-such-host.invalid:9092";
    for args in [&[][..], &["--kafka-client", "kafka"]] {
        says(
            at,
            args,
            at,
            &["the name does not resolve (", "is it written right, and does this machine's DNS know it?"],
        );
    }
}

#[test]
fn a_plain_client_at_a_tls_port() {
    let (Some(ssl), Some(sasl_ssl)) = (broker(SSL), broker(SASL_SSL)) else { return };
    for args in [&[][..], &["--kafka-client", "kafka"]] {
        says(&ssl, args, &ssl, &["the port speaks TLS", "give --tls, and --tls-ca-file"]);
    }
    says(&sasl_ssl, &[], &sasl_ssl, &["give --tls,", "it also wants a login: --sasl-mechanism (", "SCRAM-SHA-512"]);
    let login = ["--sasl-mechanism", "PLAIN", "--sasl-username", "atkafka", "--sasl-password", "secret"];
    says(&sasl_ssl, &login, &sasl_ssl, &["the port speaks TLS", "give --tls,"]);
}

#[test]
fn a_plain_client_at_a_sasl_port() {
    let (Some(sasl), Some(sasl_ssl), Some(ca)) = (broker(SASL), broker(SASL_SSL), broker(CA)) else { return };
    let parts = ["wants a login: give --sasl-mechanism (", "SCRAM-SHA-256", "--sasl-username and --sasl-password-file"];
    says(&sasl, &[], &sasl, &parts);
    says(&sasl_ssl, &["--tls", "--tls-ca-file", &ca], &sasl_ssl, &parts);
}

#[test]
fn a_tls_client_at_a_plain_port() {
    let (Some(plain), Some(sasl)) = (broker(KAFKA), broker(SASL)) else { return };
    says(&plain, &["--tls"], &plain, &["does not speak TLS: leave out --tls, or give the broker's TLS port"]);
    says(&sasl, &["--tls"], &sasl, &["does not speak TLS", "this one wants a login: --sasl-mechanism ("]);
}

#[test]
fn a_login_at_a_port_without_one() {
    let Some(plain) = broker(KAFKA) else { return };
    let login = ["--sasl-mechanism", "PLAIN", "--sasl-username", "atkafka", "--sasl-password", "secret"];
    says(&plain, &login, &plain, &["takes no login: leave out --sasl-mechanism, or give the broker's SASL port"]);
}

#[test]
fn an_unknown_ca() {
    let (Some(ssl), Some(ca)) = (broker(SSL), broker(CA)) else { return };
    let parts = ["signed by a CA that this system does not know (", "give the CA's certificate with --tls-ca-file"];
    says(&ssl, &["--tls"], &ssl, &parts);
    // Another CA than the broker's: any certificate will do.
    let other = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/other-ca.pem");
    let other = other.to_string_lossy();
    let parts = ["not signed by a CA in ", "other-ca.pem", "give --tls-ca-file the broker's CA"];
    says(&ssl, &["--tls", "--tls-ca-file", &other], &ssl, &parts);
    // The certificate is for localhost and 127.0.0.1.
    let elsewhere = ssl.replace("127.0.0.1", "127.0.0.2");
    let parts = ["is for another name (", "give --bootstrap-servers a name that is in it"];
    let proxy = Proxy::start(&elsewhere, &ssl, None);
    says(&elsewhere, &["--tls", "--tls-ca-file", &ca], &elsewhere, &parts);
    drop(proxy);
}

#[test]
fn a_wrong_password() {
    let Some(sasl) = broker(SASL) else { return };
    for name in ["PLAIN", "SCRAM-SHA-512"] {
        let args = ["--sasl-mechanism", name, "--sasl-username", "atkafka", "--sasl-password", "not-the-one"];
        let parts =
            [&format!("refuses the login of atkafka by {name} (")[..], "--sasl-username and the password right?"];
        says(&sasl, &args, &sasl, &parts);
    }
}

#[test]
fn a_mechanism_that_the_broker_does_not_take() {
    let (Some(sasl_ssl), Some(ca)) = (broker(SASL_SSL), broker(CA)) else { return };
    let (tls, protocol) = (["--tls", "--tls-ca-file", &ca], "security.protocol=sasl_ssl,sasl.mechanism=OAUTHBEARER");
    let unsecured = "enable.sasl.oauthbearer.unsecure.jwt=true,sasl.oauthbearer.config=principal=x";
    let parts = ["does not take the SASL mechanism OAUTHBEARER: give --sasl-mechanism ", "SCRAM-SHA-256"];
    let properties = ["--kafka-config", protocol, "--kafka-config", unsecured];
    says(&sasl_ssl, &[&tls[..], &properties].concat(), &sasl_ssl, &parts);
}

#[test]
fn an_advertised_address_that_cannot_be_reached() {
    let Some(plain) = broker(KAFKA) else { return };
    // The real broker, which through this proxy names port 1 as its own.
    let at = format!("127.0.0.1:{}", free_port());
    let _proxy = Proxy::start(&at, &plain, Some(1));
    let line = format!("{at} answers and sends clients on to 127.0.0.1:1 (the broker's advertised.listeners)");
    says(&at, &[], &line, &["connection refused: is that broker running, and is the address one that reaches it"]);
    let Some(old) = broker(KAFKA_39) else { return };
    let at = format!("127.0.0.1:{}", free_port());
    let _proxy = Proxy::start(&at, &old, Some(1));
    let (_relay, bridge) = start(&at, &unique("sent-on"), &["--kafka-client", "kafka"]);
    let line = format!("{at} answers and sends clients on to 127.0.0.1:1 (");
    bridge.wait("/readyz names both", SOON, |b| {
        b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(&line))
    });
    assert_eq!(said(&bridge).iter().filter(|l| l.contains(&line)).count(), 1, "{:?}", bridge.log());
}

/// While it runs: the cause is said once and stands in /readyz as long as nothing is delivered.
#[test]
fn a_broker_that_goes_away_and_comes_back() {
    let cases = [(broker(KAFKA), &[][..]), (broker(KAFKA_39), &["--kafka-client", "kafka"])];
    for (broker, args) in cases {
        let Some(broker) = broker else { return };
        let port = free_port();
        let at = format!("127.0.0.1:{port}");
        let proxy = Proxy::start(&at, &broker, Some(port));
        let (relay, bridge) = start(&at, &unique("away"), args);
        bridge.wait_delivered(3, SOON);
        // The crate says that the topic which it asked for is not there yet.
        let before = said(&bridge).len();
        drop(proxy);
        frames(4..=6).iter().for_each(|frame| assert!(relay.push(frame) > 0));
        let line = format!("{at}: connection refused: is the broker running, is the port right?");
        bridge.wait("/readyz says so", SOON, |b| {
            b.get("/readyz").is_some_and(|(status, body)| status == 503 && body.contains(&line))
        });
        std::thread::sleep(Duration::from_secs(4));
        let lines = said(&bridge);
        assert_eq!(lines.iter().filter(|l| l.contains(&line)).count(), 1, "{args:?}: once: {:#?}", bridge.log());
        assert!(lines.len() <= before + 2, "{lines:#?}");
        let _proxy = Proxy::start(&at, &broker, Some(port));
        bridge.wait_delivered(6, SOON);
        bridge.wait("ready again", SOON, |b| b.get("/readyz").is_some_and(|(status, _)| status == 200));
        assert!(bridge.log_contains("kafka: records are delivered again"), "{:#?}", bridge.log());
        assert_eq!(bridge.stop().0, Some(0));
    }
}

/// Forwards connections to a broker, until it is dropped. Where a port is given, the broker's own port in what it says of
/// itself (behind its address) becomes that one.
struct Proxy {
    at: String,
    ends: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    fn start(at: &str, broker: &str, port: Option<u16>) -> Proxy {
        let listener = TcpListener::bind(at).expect("the proxy's port");
        let (ends, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (host, real) = broker.rsplit_once(':').expect("host:port");
        let address = |port: u16| [host.as_bytes(), &u32::from(port).to_be_bytes()].concat();
        let change = port.map(|port| (address(real.parse().expect("a port")), address(port)));
        let (broker, is_over, list) = (broker.to_string(), ends.clone(), open.clone());
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(&broker) else { continue };
                let mut open = list.lock().expect("open");
                for socket in [&client, &server] {
                    open.push(socket.try_clone().expect("a socket"));
                }
                let (from, to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                std::thread::spawn(move || forward(from, to, None));
                let change = change.clone();
                std::thread::spawn(move || forward(server, client, change));
            }
        });
        Proxy { at: at.into(), ends, open, thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over.
        drop(TcpStream::connect(&self.at));
        self.thread.take().map(|t| t.join());
        for socket in self.open.lock().expect("open").iter() {
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, change: Option<(Vec<u8>, Vec<u8>)>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..n];
        if let Some((old, new)) = &change {
            let mut at = 0;
            while let Some(found) = bytes[at..].windows(old.len()).position(|w| w == old) {
                bytes[at + found..][..new.len()].copy_from_slice(new);
                at += found + new.len();
            }
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
