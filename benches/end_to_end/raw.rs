//! The bytes of a relay, read and not looked at: what no program that reads them can do without.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::process;
use super::tls::Front;

/// Bytes that are read at once.
const READ: usize = 32 << 10;

/// Reads to the end of the connection: what this thread used, and how long it took. With a `front` OpenSSL reads, in the way
/// that the crate native-tls does.
pub fn read(address: &str, front: Option<&Front>) -> (process::Usage, Duration) {
    let (before, began) = (process::this_thread(), Instant::now());
    let tcp = TcpStream::connect(address).expect("a relay");
    match front {
        None => all(tcp, address),
        Some(front) => {
            let ca = fs::read(front.ca()).expect("a file");
            let ca = native_tls::Certificate::from_pem(&ca).expect("a certificate");
            let connector = native_tls::TlsConnector::builder().add_root_certificate(ca).build().expect("a connector");
            all(connector.connect("localhost", tcp).expect("TLS"), address);
        }
    }
    (process::this_thread().since(&before), began.elapsed())
}

fn all(mut stream: impl Read + Write, host: &str) {
    let request = format!(
        "GET /xrpc/com.atproto.sync.subscribeRepos?cursor=0 HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a relay");
    let mut buffer = vec![0; READ];
    // An end without TLS's own word for it is an error.
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
}
