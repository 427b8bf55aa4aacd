//! `/metrics`, `/healthz`, `/readyz`, and the question of a container's health check. It owns the pages and asks
//! `metrics` and `health` for what is on them; nobody below knows that it exists. The thread `http` serves them.

mod connection;
mod server;

use std::io::{self, Cursor, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{HTTPVersion, Header, Response};

use crate::health::Health;
use crate::log::plain::plain;
use crate::metrics::Metrics;
use connection::Request;

/// A bound port, not answered yet.
pub struct Http(TcpListener);

/// Binds the port. A busy one is an error that says which, and how to take another.
pub fn bind(address: SocketAddr) -> Result<Http, String> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| Http(listener)))
        .map_err(|e| format!("--metrics-listen-address {address}: {e}; give another address, or none"))
}

impl Http {
    /// The address that it listens on, with the port that was taken for port 0.
    pub fn address(&self) -> String {
        self.0.local_addr().map_or_else(|e| e.to_string(), |address| address.to_string())
    }

    /// Answers for as long as the process lives.
    pub fn serve(self, metrics: Arc<Metrics>, health: Arc<Health>) {
        server::serve(&self.0, |request| answer(&request, &metrics, &health));
    }
}

/// The whole answer to a request, as it goes over the wire.
fn answer(request: &Request<'_>, metrics: &Metrics, health: &Health) -> Vec<u8> {
    let (status, kind, body) = match request {
        Request::Garbage => (400, TEXT, "this is no HTTP request\n".into()),
        Request::TooLarge => (431, TEXT, format!("the head has over {} bytes\n", connection::MAX_HEAD)),
        Request::Head { method: "GET" | "HEAD", target } => match target.split('?').next().unwrap_or_default() {
            "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", metrics.text()),
            "/healthz" => (200, TEXT, "ok\n".into()),
            "/readyz" => match health.ready() {
                Ok(()) => (200, TEXT, "ok\n".into()),
                Err(why) => (503, TEXT, format!("{}\n", plain(&why, REASONS))),
            },
            "/" => {
                (200, TEXT, concat!("atkafka ", env!("CARGO_PKG_VERSION"), "\n/metrics\n/healthz\n/readyz\n").into())
            }
            _ => (404, TEXT, "not here: /metrics, /healthz, /readyz\n".into()),
        },
        Request::Head { .. } => (405, TEXT, "only GET and HEAD\n".into()),
    };
    let mut response = Response::from_data(body.into_bytes()).with_status_code(status);
    let allow = (status == 405).then_some(("Allow", "GET, HEAD"));
    for (name, value) in [("Content-Type", kind)].into_iter().chain(allow) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let is_head = matches!(request, Request::Head { method: "HEAD", .. });
    let mut out = Cursor::new(Vec::new());
    // HTTP/1.0 has one answer a connection, and no chunks. Memory takes all of it.
    let _ = response.raw_print(&mut out, HTTPVersion(1, 0), &[], is_head, None);
    out.into_inner()
}

/// Bytes of an answer that says why we are not ready.
const REASONS: usize = 8_000;
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
