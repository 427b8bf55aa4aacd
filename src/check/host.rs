//! A host that is read from a websocket: its name, the connection, the certificate, the handshake, the first message, and
//! what it is. It takes no position and acknowledges nothing. On the thread of the check that has the source.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::x509::X509;

use super::Out;
use crate::atproto::frame;
use crate::client::{dial, proxy};
use crate::source::Host;
use crate::source::diagnosis::{self, Found, Meant};
use crate::source::jetstream::query::{Wanted, Wire};
use crate::source::socket::{Event, Request, Socket};
use crate::source::transport::{self, Open, Refused};

/// For a connection.
const CONNECT: Duration = Duration::from_secs(8);
/// A public relay sends hundreds of messages a second, a PDS may be silent for hours.
const FIRST_MESSAGE: Duration = Duration::from_secs(6);
/// Bytes of the first message: a frame has 5.5 MB at most.
const MAX_MESSAGE: usize = 8 << 20;
/// A certificate that ends so soon was not renewed in time.
const SOON_DAYS: i32 = 14;
/// Addresses that a line names.
const NAMED: usize = 3;

const SUBSCRIBE: &str = "/xrpc/com.atproto.sync.subscribeRepos";

pub fn relay(host: &Host, out: &Out) {
    let Some(open) = connect(host, Meant::Relay, out) else { return };
    let stopped = || out.is_over();
    let mut socket = match Socket::upgrade(open, host, Meant::Relay, &Request::of(SUBSCRIBE), MAX_MESSAGE, &stopped) {
        Ok(socket) => socket,
        Err(refused) => {
            return out.failed("websocket", format!("{}: {}", host.name, refused.explained(host, Meant::Relay).0));
        }
    };
    out.ok("websocket", format!("{} takes the connection for {SUBSCRIBE}", host.name));
    if first_message(&mut socket, host, out) {
        match diagnosis::first_page(host) {
            Some(found @ (Found::Relay | Found::Pds)) => {
                out.ok("host", format!("{} says that it is {}", host.name, found.name()));
            }
            _ => out.ok("host", format!("{} is a relay or a PDS, by its messages", host.name)),
        }
    }
    socket.close();
}

/// A Jetstream: whether it takes a connection on the wire that is asked for; with `None` on either. What it sends is not read.
pub fn jetstream(host: &Host, wire: Option<Wire>, out: &Out) {
    let mut refused = None;
    for wire in wire.map_or(vec![Wire::Two, Wire::One], |wire| vec![wire]) {
        let Some(open) = connect(host, Meant::Jetstream, out) else { return };
        let (path, _) = Wanted::default().ask(wire, None, None);
        match Socket::upgrade(open, host, Meant::Jetstream, &Request::of(path), MAX_MESSAGE, &|| out.is_over()) {
            Ok(socket) => {
                let version = if wire == Wire::One { 1 } else { 2 };
                out.ok("websocket", format!("{} is a Jetstream of version {version}", host.name));
                return socket.close();
            }
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        out.failed("websocket", format!("{}: {}", host.name, error.explained(host, Meant::Jetstream).0));
    }
}

/// Whether what came is of a relay or PDS.
fn first_message(socket: &mut Socket, host: &Host, out: &Out) -> bool {
    let until = (Instant::now() + FIRST_MESSAGE).min(out.until);
    let name = &host.name;
    while Instant::now() < until {
        match socket.read() {
            Event::Binary(frame) => return first_frame(&frame, name, out),
            Event::Text(text) => {
                let what = Found::by_text(&text).map(|found| found.in_place_of(Meant::Relay));
                let what = what.unwrap_or("its messages are texts, so it is neither a relay nor a PDS".into());
                out.failed("first frame", format!("{name}: {what}"));
                return false;
            }
            Event::Nothing => socket.wait(Duration::from_millis(200), None),
            Event::Control => {}
            Event::TooLong(size, _) => {
                out.warning("first frame", format!("{name}: a message of {size} bytes, over the limit: a dead letter"));
                return true;
            }
            Event::Closed(why) | Event::Broken(why) => {
                out.failed("first frame", format!("{name}: {why}; it takes the connection and then ends it"));
                return false;
            }
        }
    }
    out.warning(
        "first frame",
        format!("{name}: none in {} s: a PDS may be as quiet as that, a relay is not", FIRST_MESSAGE.as_secs()),
    );
    true
}

fn first_frame(message: &[u8], name: &str, out: &Out) -> bool {
    match frame::header(message) {
        Ok((frame::Kind::Error, _)) => {
            out.failed("first frame", format!("{name}: an error: the host does not serve its firehose to us"));
            false
        }
        Ok((kind, _)) => {
            let kind = format!("{kind:?}").to_lowercase();
            out.ok("first frame", format!("{name}: of the kind {kind}, {} bytes", message.len()));
            true
        }
        Err(why) => {
            out.failed("first frame", format!("{name}: {why}: these are no frames of a relay or PDS"));
            false
        }
    }
}

/// Name, connection and certificate. `None`: it was said what failed.
pub fn connect(host: &Host, meant: Meant, out: &Out) -> Option<Open> {
    let stopped = || out.is_over();
    let proxy = host.client.proxy(&host.url(""));
    let (name, port) = proxy.map_or((host.host.as_str(), host.port), |proxy| (proxy.host(), proxy.port()));
    let explain = |why: &str| match proxy {
        None => diagnosis::unreachable(why, host.tls, meant),
        Some(proxy) => format!("the proxy {}: {why}; is HTTPS_PROXY or ALL_PROXY right?", proxy::shown(proxy)),
    };
    let addresses = dial::resolve(name, port).map_err(|why| out.failed("DNS", explain(&why))).ok()?;
    if addresses.iter().all(|address| name.trim_matches(['[', ']']) != address.ip().to_string()) {
        out.ok("DNS", format!("{name} is {}", named(&addresses)));
    }
    let began = Instant::now();
    let socket = dial::race(&addresses, began + CONNECT, &stopped).map_err(|why| out.failed("TCP", explain(&why)));
    let socket = socket.ok()?;
    let address = socket.peer_addr().map_or(name.to_string(), |address| address.to_string());
    let by = proxy.map_or(String::new(), |proxy| format!(", the proxy {}", proxy::shown(proxy)));
    out.ok("TCP", format!("{address}{by} answers in {} ms", began.elapsed().as_millis()));
    drop(socket);
    let open = match transport::open(host, &stopped) {
        Ok(open) => open,
        Err(Refused::Host(why)) => {
            let about = if host.tls { "TLS" } else { "TCP" };
            out.failed(about, format!("{}: {}", host.name, diagnosis::unreachable(&why, host.tls, meant)));
            return None;
        }
        Err(Refused::Proxy(why)) => {
            out.failed("proxy", why);
            return None;
        }
    };
    match open.transport.certificate() {
        Some(der) => certificate(&host.name, &der, out),
        None => out.ok("TLS", format!("none: {} is spoken to in plain", host.name)),
    }
    Some(open)
}

/// When a certificate ends. Whether it is trusted has been found out before.
pub fn certificate(name: &str, der: &[u8], out: &Out) {
    let read = X509::from_der(der).and_then(|certificate| {
        let end = certificate.not_after();
        let left = Asn1Time::days_from_now(0)?.diff(end)?;
        Ok((end.to_string(), left.days))
    });
    match read {
        Err(_) => out.not_checked("TLS", format!("{name}: the end of its certificate cannot be read")),
        Ok((end, days)) if days < SOON_DAYS => out.warning(
            "TLS",
            format!("{name}: its certificate ends in {days} days ({end}): connections fail then unless it is renewed"),
        ),
        Ok((end, days)) => out.ok("TLS", format!("{name}: its certificate ends in {days} days ({end})")),
    }
}

fn named(addresses: &[SocketAddr]) -> String {
    let mut names: Vec<String> = addresses.iter().take(NAMED).map(|address| address.ip().to_string()).collect();
    if addresses.len() > NAMED {
        names.push(format!("{} more", addresses.len() - NAMED));
    }
    names.join(", ")
}
