//! A relay over TLS: the certificate is checked against the system's roots, and the host's name.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use atkafka_fixtures::frames;
use atkafka_fixtures::relay::{Relay, RelayConfig};
use native_tls::{Identity, TlsAcceptor};
use support::*;

const SOON: Duration = Duration::from_secs(60);

/// A CA and a certificate of it for `localhost`, made by the openssl command.
fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl runs");
        assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost\n").expect("written");
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=atkafka-test-ca");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san");
    openssl("pkcs8 -topk8 -nocrypt -in server.key -out server.pk8");
}

/// Takes TLS off in front of `relay`, for as long as the test runs.
fn terminate(dir: &Path, relay: u16) -> u16 {
    let read = |name: &str| std::fs::read(dir.join(name)).expect("made");
    let identity = Identity::from_pkcs8(&read("server.pem"), &read("server.pk8")).expect("an identity");
    let acceptor = TlsAcceptor::new(identity).expect("an acceptor");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let acceptor = acceptor.clone();
            std::thread::spawn(move || {
                let Ok(mut client) = acceptor.accept(client) else { return };
                let mut relay = TcpStream::connect(("127.0.0.1", relay)).expect("the relay");
                let short = Some(Duration::from_millis(2));
                client.get_ref().set_read_timeout(short).expect("a timeout");
                relay.set_read_timeout(short).expect("a timeout");
                while pass(&mut client, &mut relay) && pass(&mut relay, &mut client) {}
            });
        }
    });
    port
}

/// What is there goes to the other side. `false` at the end.
fn pass(from: &mut impl Read, to: &mut impl Write) -> bool {
    let mut buffer = [0; 1 << 16];
    match from.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => to.write_all(&buffer[..n]).is_ok(),
        Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn a_relay_over_tls_is_read_when_its_certificate_is_right_and_refused_when_not() {
    let dir = folder("tls");
    certificates(&dir);
    let frames = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    let total = frames.len() as u64;
    let relay = Relay::start(RelayConfig::looped(frames, total)).expect("a relay");
    let port = terminate(&dir, relay.port());
    let ca = dir.join("ca.pem");
    // Where OpenSSL looks for the system's roots.
    let env = [("SSL_CERT_FILE", ca.to_str().expect("UTF-8"))];

    let url = format!("wss://localhost:{port}");
    let bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", &url], &env);
    bridge.wait_delivered(total, SOON);
    assert_eq!(bridge.get("/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(bridge.stop().0, Some(0));

    // The certificate is not for this name, or of nobody we trust: never connected, and the reason is said.
    let by_address = format!("wss://127.0.0.1:{port}");
    for (url, env) in [(&by_address, &env[..]), (&url, &[][..])] {
        let bridge = Bridge::start_with(&["firehose", "relay", "--relay-host", url], env);
        bridge.wait("the reason", SOON, |b| {
            b.log_contains("TLS: ")
                && b.get("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("TLS: "))
        });
        assert_eq!(bridge.metric("atkafka_received_frames"), 0.0);
        assert_eq!(bridge.stop().0, Some(0));
    }
}
