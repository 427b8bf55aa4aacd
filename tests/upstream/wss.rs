//! TLS to everything but brokers: the certificate is checked against the system's roots, or those of `--ca-file` in their
//! place, and the host's name.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use atkafka_fixtures::directory::{Directory, Kind};
use atkafka_fixtures::frames;
use atkafka_fixtures::ozone::{IDENTIFIER, LABELER, Ozone, OzoneConfig, PASSWORD};
use atkafka_fixtures::relay::{Relay, RelayConfig};
use atkafka_fixtures::tap::{Tap, TapConfig, TapEvent};
use native_tls::{Identity, TlsAcceptor};

use crate::SOON;
use crate::support::*;

/// A CA and a certificate of it for `localhost`, made by the openssl command.
fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl runs");
        assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost,DNS:host.test\n").expect("written");
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

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// Everything that is spoken to over TLS is refused with a private CA, and taken with `--ca-file`.
#[test]
fn a_private_ca_is_trusted_everywhere_with_ca_file_and_in_place_of_the_systems() {
    let dir = folder("tls-ca");
    certificates(&dir);
    let (ca, other) = (dir.join("ca.pem"), folder("tls-other"));
    certificates(&other);
    let other = other.join("ca.pem");
    let (ca, other) = (ca.to_str().expect("UTF-8"), other.to_str().expect("UTF-8"));

    let list = frames::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/network.bin.zst")).expect("the fixture");
    let relay = Relay::start(RelayConfig::looped(list, 200)).expect("a relay");
    let directory = Directory::start().expect("a directory");
    directory.make(|_| Some(("a.example".into(), "https://pds.example".into())));
    let ozone = Ozone::start(OzoneConfig::default()).expect("an Ozone");
    let tap = Tap::start(TapConfig::default()).expect("a Tap");
    let wss = |port| format!("wss://localhost:{}", terminate(&dir, port));
    let https = |port| format!("https://localhost:{}", terminate(&dir, port));
    let (relay_url, tap_url) = (wss(relay.port()), wss(port_of(&tap.url())));
    let (directory_url, pds_url) = (https(directory.port()), https(port_of(&ozone.url())));

    let relay_line = ["firehose", "relay", "--relay-host", &relay_url];
    let tap_line = ["firehose", "tap", "--tap-host", &tap_url];
    let login = [&["ozone-events", "--identifier", IDENTIFIER][..], &["--labeler-did", LABELER]].concat();
    let ozone_line = [&login[..], &["--pds-host", &pds_url]].concat();
    let env = [("ATKAFKA_OZONE_PASSWORD", PASSWORD)];
    let of_system = [env[0], ("SSL_CERT_FILE", ca)];
    let sources: [&[&str]; 3] = [&relay_line, &tap_line, &ozone_line];
    for line in sources {
        // Without it; and with another one, in place of the system's, which would do.
        for (more, env) in [(&[][..], &env[..]), (&["--ca-file", other], &of_system)] {
            let bridge = Bridge::start_with(&[line, more].concat(), env);
            let says = "its certificate is not trusted";
            bridge.wait(says, SOON, |b| b.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains(says)));
            assert!(bridge.log_contains("certificate verify failed"), "{:?}", bridge.log());
            assert_eq!(bridge.stop().0, Some(0));
        }
    }
    assert!(relay.stats().connections.is_empty() && ozone.stats().requests == 0);

    let with = ["--ca-file", ca];
    let enriched = ["--plc-host", &directory_url, "--api-host", &directory_url];
    let bridge = Bridge::start(
        &[&relay_line[..], &enriched, &["--metadata-timeout", "30s", "--lookup-concurrency", "2"], &with].concat(),
    );
    bridge.wait_delivered(200, SOON);
    for kind in [Kind::Document, Kind::AuditLog, Kind::Profiles] {
        assert!(directory.stats().count(kind) > 0, "{kind:?}");
    }
    assert_eq!(bridge.stop().0, Some(0));
    tap.push([TapEvent::identity(
        "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
        r#""handle":"a.example","is_active":true,"status":"active""#,
    )]);
    ozone.add(&atkafka_fixtures::ozone::comment("did:plc:ewvi7nxzyoun6zhxrhs64oiz", "a note"));
    for line in [&tap_line[..], &ozone_line] {
        let bridge = Bridge::start_with(&[line, &with[..]].concat(), &env);
        bridge.wait("its event", SOON, |b| b.lines().len() == 1);
        assert_eq!(bridge.stop().0, Some(0));
    }
    // The same through a proxy.
    let proxy = crate::proxy::Proxy::start(None);
    let through = |url: &str| url.replace("localhost", "host.test");
    let (relay_url, directory_url) = (through(&relay_url), through(&directory_url));
    let line = ["firehose", "relay", "--relay-host", &relay_url, "--plc-host", &directory_url, "--ca-file", ca];
    let line = [&line[..], &["--metadata-timeout", "30s", "--lookup-concurrency", "2"]].concat();
    let bridge = Bridge::start_with(&line, &[("HTTPS_PROXY", &proxy.url(""))]);
    bridge.wait_delivered(200, SOON);
    let targets = proxy.targets();
    for url in [&relay_url, &directory_url] {
        assert!(targets.iter().any(|target| url.ends_with(target.as_str())), "{url}: {targets:?}");
    }
    assert_eq!(bridge.stop().0, Some(0));
    // Look-ups that are refused: events go on without.
    let (plain, directory_url) = (relay.url(), directory_url.replace("host.test", "localhost"));
    // Few at a time, as above: on a busy machine hundreds of handshakes at once would end by their time.
    let line = ["firehose", "relay", "--relay-host", &plain, "--plc-host", &directory_url, "--lookup-concurrency", "2"];
    let bridge = Bridge::start(&line);
    bridge.wait("the reason", SOON, |b| b.log_contains("certificate verify failed"));
    assert_eq!(bridge.stop().0, Some(0));
}

#[test]
fn a_ca_file_without_certificates_is_refused_at_the_start() {
    let dir = folder("tls-bad");
    certificates(&dir);
    let key = dir.join("ca.key");
    for (file, says) in
        [("/nowhere", "no such file"), ("/dev/zero", "regular file"), (key.to_str().expect("UTF-8"), "PEM")]
    {
        let (code, _, err) = run(&["firehose", "relay", "--ca-file", file], &[]);
        assert!(code == Some(2) && err.contains("--ca-file") && err.contains(says), "{file}: {code:?} {err}");
    }
}
