//! Why there was no answer at all: errors of connections and of the HTTP client, with what to change. Texts in, a text out.

use super::{LONGEST, Meant, clean};

/// Why there was no answer at all, and what to do. `tls`: as the address says.
pub fn unreachable(text: &str, tls: bool, meant: Meant) -> String {
    let text = clean(&tls_words(text), LONGEST);
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let (flag, short) = (meant.flag(), meant.short());
    let (plain, secure) = (meant.scheme(false), meant.scheme(true));
    let advice = match () {
        () if has(&[
            "host not found",
            "lookup address",
            "name resolution",
            "no address associated",
            "has no address",
        ]) =>
        {
            format!("the name has no address: is {flag} right, and does DNS work here?")
        }
        () if has(&["dns gave no answer"]) => "does the DNS server of this machine answer (/etc/resolv.conf)?".into(),
        () if has(&["connection refused"]) => format!("is the {short} running, is the port right?"),
        () if has(&["network is unreachable", "no route to host"]) => {
            "there is no way to it from this machine: network, firewall, VPN?".into()
        }
        () if has(&["timed out", "timeout", "in time"]) => "the host is away, too slow, or behind a firewall".into(),
        () if tls
            && has(&[
                "wrong version number",
                "packet length too long",
                "unknown protocol",
                "http request",
                "record layer failure",
            ]) =>
        {
            format!("the server speaks no TLS at this port: is it {plain}?")
        }
        () if tls && has(&["mismatch"]) => format!("its certificate is for another name: is {flag} right?"),
        () if tls && has(&["expired", "not yet valid"]) => {
            "its certificate does not hold today: it is to be renewed, or the clock of this machine is wrong".into()
        }
        () if tls && has(&["certificate"]) => {
            format!("its certificate is not trusted: is {flag} right? A CA of your own is given with --ca-file")
        }
        () if tls && has(&["unexpected eof", "connection reset", "handshake", "disconnected"]) => {
            format!(
                "it hung up before the TLS handshake was finished: if the server speaks none at this port, give {flag} with {plain}"
            )
        }
        () if !tls
            && has(&[
                "connection reset",
                "disconnected",
                "unexpected eof",
                "end of file",
                "handshake not finished",
                "hung up",
            ]) =>
        {
            format!("it hung up: if the server speaks TLS at this port, give {flag} with {secure}")
        }
        () if has(&["http version must be 1.1"]) => {
            format!("a web server of HTTP/1.0 answers, which knows no websockets: is {flag} a {}?", meant.short())
        }
        () if !tls && has(&["http", "protocol"]) => {
            format!("that is no HTTP: if the server speaks TLS at this port, give {flag} with {secure}")
        }
        () => return text,
    };
    format!("{text}; {advice}")
}

/// The same for an error of the HTTP client.
pub fn http_failed(e: &ureq::Error, tls: bool, meant: Meant) -> String {
    let text = e.to_string();
    match e {
        ureq::Error::ConnectProxyFailed(_) => {
            format!("{text}; the proxy of HTTPS_PROXY or ALL_PROXY does not let it through")
        }
        ureq::Error::BodyExceedsLimit(_) => {
            format!("{text}; that is no answer of {}: is {} one?", meant.name(), meant.flag())
        }
        // Of our request: the host gave us the token in it.
        ureq::Error::Protocol(_) if text.contains("output too small") => {
            format!("{text}; a header of the request is too long: the token that the host gave?")
        }
        _ => unreachable(&text, tls, meant),
    }
}

/// OpenSSL's reason, without numbers, functions and files.
fn tls_words(text: &str) -> String {
    let Some((before, rest)) = text.split_once("error:") else { return text.into() };
    let mut fields = rest.split(':').skip(2);
    let (Some(_function), Some(reason)) = (fields.next(), fields.next()) else { return text.into() };
    let detail = rest.rfind('(').map(|at| format!(" {}", &rest[at..])).unwrap_or_default();
    format!("{before}{reason}{detail}")
}
