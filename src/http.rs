//! `/metrics`, `/healthz`, `/readyz`, and the question of a container's health check.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{Header, Method, Response, Server};

use crate::health::Health;
use crate::metrics::Metrics;

/// A bound port, not answered yet.
pub struct Http(Server);

/// Binds the port. A busy one is an error that says which, and how to take another.
pub fn bind(address: SocketAddr) -> Result<Http, String> {
    Server::http(address)
        .map(Http)
        .map_err(|e| format!("--metrics-listen-address {address}: {e}; give another address, or none"))
}

impl Http {
    /// The address that it listens on, with the port that was taken for port 0.
    pub fn address(&self) -> String {
        self.0.server_addr().to_string()
    }

    /// Answers for as long as the process lives.
    pub fn serve(self, metrics: Arc<Metrics>, health: Arc<Health>) {
        for request in self.0.incoming_requests() {
            let path = request.url().split('?').next().unwrap_or_default();
            let (status, kind, body) = match (request.method(), path) {
                (Method::Get | Method::Head, "/metrics") => {
                    (200, "text/plain; version=0.0.4; charset=utf-8", metrics.text())
                }
                (Method::Get | Method::Head, "/healthz") => (200, TEXT, "ok\n".into()),
                (Method::Get | Method::Head, "/readyz") => match health.ready() {
                    Ok(()) => (200, TEXT, "ok\n".into()),
                    Err(why) => (503, TEXT, format!("{why}\n")),
                },
                (Method::Get | Method::Head, "/") => (
                    200,
                    TEXT,
                    concat!("atkafka ", env!("CARGO_PKG_VERSION"), "\n/metrics\n/healthz\n/readyz\n").into(),
                ),
                (Method::Get | Method::Head, _) => (404, TEXT, "not here: /metrics, /healthz, /readyz\n".into()),
                _ => (405, TEXT, "only GET\n".into()),
            };
            let mut response = Response::from_string(body).with_status_code(status);
            if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                response.add_header(header);
            }
            // The client may be gone: nothing to do about it.
            let _ = request.respond(response);
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
/// How long a health check waits for each step of an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// `GET path` of the program that listens at `address` of this machine. `Err` says why that is not well.
pub fn ask(mut address: SocketAddr, path: &str) -> Result<(), String> {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let answer = || -> io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&address, ANSWER)?;
        socket.set_read_timeout(Some(ANSWER))?;
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        socket.take(1 << 16).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = answer().map_err(|e| format!("http://{address}{path}: {e}"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(body.trim().to_string()) }
}
