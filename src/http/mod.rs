//! The metrics port: the status page, `/status`, `/metrics`, `/healthz`, `/readyz`, and the question of a container's health
//! check. It asks `metrics` and `health` for what is on them; nobody below knows that it exists. The thread `http` serves them.

mod connection;
pub mod history;
mod page;
mod server;
pub mod status;

use std::io::{self, Cursor, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{HTTPVersion, Header, Response};

use crate::health::Health;
use crate::log::plain::plain;
use crate::metrics::Metrics;
use connection::Request;
use history::History;
use status::Process;

/// A bound port, not answered yet.
pub struct Http(TcpListener);

/// Binds the port. A busy one is an error that says which, and how to take another.
pub fn bind(address: SocketAddr) -> Result<Http, String> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| Http(listener)))
        .map_err(|e| format!("--metrics-listen-address {address}: {e}; give another address, or none"))
}

/// What the answers are made of.
pub struct Shown {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Who is connected, and what stops delivery.
    pub health: Arc<Health>,
    /// The last 15 minutes.
    pub history: Arc<History>,
    /// What does not change.
    pub process: Process,
}

impl Http {
    /// The address that it listens on, with the port that was taken for port 0.
    pub fn address(&self) -> String {
        self.0.local_addr().map_or_else(|e| e.to_string(), |address| address.to_string())
    }

    /// Answers for as long as the process lives.
    pub fn serve(self, shown: &Shown) {
        server::serve(&self.0, |request, from_here| answer(&request, from_here, shown));
    }
}

/// The whole answer to a request, as it goes over the wire. `from_here`: the connection is of this machine.
fn answer(request: &Request<'_>, from_here: bool, shown: &Shown) -> Vec<u8> {
    let (status, kind, body) = match request {
        Request::Garbage => (400, TEXT, "this is no HTTP request\n".into()),
        Request::TooLarge => (431, TEXT, format!("the head has over {} bytes\n", connection::MAX_HEAD)),
        Request::Head { method: "GET" | "HEAD", target, local } => match target.split('?').next().unwrap_or_default() {
            "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", shown.metrics.text()),
            "/healthz" => (200, TEXT, "ok\n".into()),
            "/readyz" => match shown.health.ready() {
                Ok(()) if shown.health.is_standby() => (200, TEXT, "standby\n".into()),
                Ok(()) => (200, TEXT, "ok\n".into()),
                Err(why) => (503, TEXT, format!("{}\n", plain(&why, REASONS))),
            },
            "/status" => {
                let Shown { metrics, health, history, process } = shown;
                (200, JSON, status::json(metrics, health, history, process, *local && from_here))
            }
            "/" => (200, HTML, page::PAGE.clone()),
            _ => (404, TEXT, "not here: /, /status, /metrics, /healthz, /readyz\n".into()),
        },
        Request::Head { .. } => (405, TEXT, "only GET and HEAD\n".into()),
    };
    let mut headers = vec![("Content-Type", kind), ("X-Content-Type-Options", "nosniff")];
    if status == 405 {
        headers.push(("Allow", "GET, HEAD"));
    }
    if [HTML, JSON].contains(&kind) {
        // Settings may be in it, and another look is to see other numbers.
        headers.extend([("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer")]);
    }
    if kind == HTML {
        headers.push(("Content-Security-Policy", page::POLICY.as_str()));
    }
    let mut response = Response::from_data(body.into_bytes()).with_status_code(status);
    for header in headers.into_iter().filter_map(|(name, value)| Header::from_bytes(name, value).ok()) {
        response.add_header(header);
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
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
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
