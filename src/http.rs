//! `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;

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
