//! Single values: from the text of a flag to what it means, or one line that says what is allowed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::Client;
use crate::client::proxy::Proxies;
use crate::config::dotenv::{SMALL, Takes, limited_file, text_file};
use crate::config::{Checked, invalid};
use crate::source::Host;
use crate::source::pace::PATIENCE;
use crate::source::window::LONGEST;

/// A frame may be 5.5 MB, and each connection holds one while the others wait.
const LEAST_MEMORY: usize = 16 << 20;
/// The system's own bundle has 250 kB.
pub(crate) const CA_FILE: u64 = 4 << 20;
/// A list of two million DIDs.
const LIST_FILE: u64 = 64 << 20;

/// `500ms`, `30s`, `2m`, `1h`; a bare number means seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_millis)
}

/// Values, or `@file` with one a line; blank lines and those that start with `#` are passed over. `what` is one of them.
pub(crate) fn entries(flag: &str, given: &[String], what: &str) -> Checked<Vec<String>> {
    let mut out = Vec::new();
    for item in list(given) {
        match item.strip_prefix('@') {
            Some(path) => {
                let text = text_file(flag, path, LIST_FILE, Takes::Files)?
                    .ok_or_else(|| invalid(flag, &item, "cannot be read: no such file"))?;
                let before = out.len();
                out.extend(
                    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_string),
                );
                if out.len() == before {
                    return Err(invalid(flag, &item, &format!("the file has no {what}")));
                }
            }
            None => out.push(item),
        }
    }
    Ok(out)
}

/// A list flag: repeated, or with commas, or both.
pub(crate) fn list(given: &[String]) -> Vec<String> {
    given.iter().flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).map(str::to_string).collect()
}

/// One of `--bootstrap-servers`: `host:port`. What people write instead is answered with what to write.
pub(crate) fn server(text: &str) -> Checked<()> {
    let wrong = |allowed: String| Err(invalid("--bootstrap-servers", text, &allowed));
    let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let rest = rest.split('/').next().unwrap_or_default();
    if rest.contains('@') {
        return wrong("host:port, without a user: that is --sasl-username".into());
    }
    // More than one colon without brackets: an IPv6 address, and where it ends nobody can tell.
    if !rest.starts_with('[') && rest.matches(':').count() > 1 {
        return wrong("host:port, an IPv6 address in brackets, such as [::1]:9092".into());
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return wrong("host:port, several with commas".into());
    }
    if let Some(scheme) = scheme {
        // As brokers name their listeners.
        let flags = match scheme.to_ascii_uppercase().as_str() {
            "SSL" => " with --tls",
            "SASL_SSL" => " with --tls and --sasl-mechanism",
            "SASL_PLAINTEXT" => " with --sasl-mechanism",
            _ => "",
        };
        // What is no number may be a password, cut off at a comma.
        let port = port.and_then(|port| port.parse::<u16>().ok()).unwrap_or(9092);
        return wrong(format!("host:port and no URL: write {host}:{port}{flags}"));
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(1..)) => Ok(()),
        Some(_) => wrong("host:port, the port a number from 1 to 65535".into()),
        None => wrong(format!("host:port: write {host}:9092, or the port that the broker has")),
    }
}

/// `--kafka-config`: pairs with commas between. A piece without `=` belongs to the value before it.
pub(crate) fn properties(given: &[String]) -> Checked<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    for text in given {
        let from = out.len();
        for piece in text.split(',') {
            match (piece.split_once('='), out[from..].is_empty()) {
                (Some((key, value)), _) if !key.trim().is_empty() => out.push((key.trim().into(), value.trim().into())),
                (None, false) => {
                    if let Some((_, value)) = out.last_mut() {
                        *value += &format!(",{piece}");
                    }
                }
                // Not quoted: what is wrong here may be a password.
                _ => return Err(invalid("--kafka-config", "", "key=value is expected, several with commas")),
            }
        }
    }
    Ok(out)
}

/// `--silence`.
pub(crate) fn silence(text: Option<&str>) -> Checked<Option<Duration>> {
    let Some(text) = text else { return Ok(Some(PATIENCE)) };
    if text == "off" {
        return Ok(None);
    }
    match duration(text) {
        Some(Duration::ZERO) => Ok(None),
        Some(d) if (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&d) => Ok(Some(d)),
        _ => Err(invalid("--silence", text, "from 1s to 24h, such as 90s or 5m, or off")),
    }
}

/// `--linger`.
pub(crate) fn linger(text: Option<&str>, default: Duration) -> Checked<Duration> {
    let Some(text) = text else { return Ok(default) };
    match duration(text) {
        Some(linger) if linger <= LONGEST => Ok(linger),
        _ => Err(invalid("--linger", text, "from 0ms to 100ms, such as 10ms")),
    }
}

/// The URL of a service that is asked by HTTP, without a slash at the end.
pub(crate) fn service_url(flag: &str, url: &str) -> Checked<String> {
    let wrong = || invalid(flag, url, "a URL such as https://plc.directory or http://localhost:2582");
    let uri: tungstenite::http::Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let port = &authority.as_str()[uri.host().unwrap_or_default().len().min(authority.as_str().len())..];
    let good = matches!(uri.scheme_str(), Some("https" | "http"))
        && uri.host().is_some_and(|h| !h.is_empty())
        && !authority.as_str().contains('@')
        && uri.query().is_none()
        && (port.is_empty() || authority.port_u16().is_some_and(|p| p > 0));
    if good { Ok(url.trim_end_matches('/').to_string()) } else { Err(wrong()) }
}

/// How hosts are spoken to.
pub(crate) fn client(contact: Option<&str>, ca_file: Option<&str>, env: &HashMap<String, String>) -> Checked<Client> {
    if let Some(bad) =
        contact.filter(|c| c.is_empty() || !c.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'(' && b != b')'))
    {
        return Err(invalid("--contact", bad, "an e-mail address or a URL"));
    }
    let proxies = Proxies::from_env(|name| env.get(name).map(String::as_str));
    let client = Client::new(contact).through(proxies.map_err(|(name, allowed)| invalid(&name, "", &allowed))?);
    let Some(path) = ca_file else { return Ok(client) };
    let pem = limited_file("--ca-file", path, CA_FILE, Takes::Files)?
        .ok_or_else(|| invalid("--ca-file", path, "cannot be read: no such file"))?;
    client.trusting(&pem).map_err(|e| invalid("--ca-file", path, &e))
}

/// An upstream's URL. `http` and `https` mean the websocket of the same host; a path is a prefix and kept.
pub(crate) fn host(flag: &str, url: &str, client: &Client) -> Checked<Host> {
    const ALLOWED: &str = "a URL such as wss://bsky.network or ws://localhost:2470";
    let uri: tungstenite::http::Uri = url.parse().map_err(|_| invalid(flag, url, ALLOWED))?;
    let tls = match uri.scheme_str() {
        Some("wss" | "https") => true,
        Some("ws" | "http") => false,
        _ => return Err(invalid(flag, url, ALLOWED)),
    };
    let authority = uri.authority().ok_or_else(|| invalid(flag, url, ALLOWED))?;
    let name = uri
        .host()
        .filter(|h| !h.is_empty() && !authority.as_str().contains('@'))
        .ok_or_else(|| invalid(flag, url, ALLOWED))?;
    if uri.query().is_some() {
        return Err(invalid(flag, url, "without a query: the cursor is --cursor"));
    }
    let after_host = &authority.as_str()[name.len()..];
    if !after_host.is_empty() && authority.port_u16().is_none_or(|p| p == 0) {
        return Err(invalid(flag, url, "a port is a number from 1 to 65535"));
    }
    let default_port = if tls { 443 } else { 80 };
    let port = authority.port_u16().unwrap_or(default_port);
    let prefix = uri.path().trim_end_matches('/').trim_end_matches("/xrpc/com.atproto.sync.subscribeRepos").to_string();
    let shown_port = if port == default_port { String::new() } else { format!(":{port}") };
    Ok(Host {
        tls,
        host: name.to_string(),
        port,
        name: format!("{name}{shown_port}{prefix}"),
        prefix,
        client: client.clone(),
        authorization: None,
    })
}

pub(crate) fn listen(text: &str) -> Checked<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    // Go programs are given `:6009`.
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost:", "127.0.0.1:") };
    full.parse()
        .map(Some)
        .map_err(|_| invalid("--metrics-listen-address", text, "ip:port such as 0.0.0.0:6009, or none"))
}

pub(crate) fn memory(text: &str) -> Checked<usize> {
    let wrong = || invalid("--memory-limit", text, "at least 16MiB, as bytes or with MB, MiB, GB, GiB");
    size(text).filter(|bytes| *bytes >= LEAST_MEMORY).ok_or_else(wrong)
}

/// `64MiB`, `1GB`; a bare number means bytes.
pub(crate) fn size(text: &str) -> Option<usize> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..split].parse().ok()?;
    let unit: usize = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "kb" => 1_000,
        "m" | "mib" => 1 << 20,
        "mb" => 1_000_000,
        "g" | "gib" => 1 << 30,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

pub(crate) fn number(flag: &str, text: Option<&str>, range: std::ops::RangeInclusive<u64>) -> Checked<Option<u64>> {
    text.map(|text| match text.parse::<u64>() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ if *range.end() == u64::MAX => Err(invalid(flag, text, &format!("a number from {}", range.start()))),
        _ => Err(invalid(flag, text, &format!("a number from {} to {}", range.start(), range.end()))),
    })
    .transpose()
}

pub(crate) fn one_of<T: Copy>(flag: &str, text: Option<&str>, names: &[(&str, T)]) -> Checked<Option<T>> {
    text.map(|text| {
        names
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, value)| *value)
            .ok_or_else(|| invalid(flag, text, &names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")))
    })
    .transpose()
}

/// `value` without the user and password of a URL, so that an error can quote it.
pub(crate) fn without_user_info(value: &str) -> String {
    let (scheme, rest) = value.find("://").map_or(("", value), |at| value.split_at(at + 3));
    match rest.rsplit_once('@') {
        Some((user, host)) if !scheme.is_empty() || user.contains(':') => format!("{scheme}***@{host}"),
        Some(_) => value.to_string(),
        // A password with a comma is cut there where hosts are a list: what stands in the place of the port is not quoted.
        None if !scheme.is_empty() => {
            let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
            match authority.rsplit_once(':') {
                Some((name, port)) if !port.ends_with(']') && !port.bytes().all(|b| b.is_ascii_digit()) => {
                    format!("{scheme}{name}:***")
                }
                _ => value.to_string(),
            }
        }
        None => value.to_string(),
    }
}

/// A password, from the flag (or its variable) or from a file: blanks and line ends at the end, and a byte order mark, are
/// not part of it.
pub(crate) fn secret(
    flag: &str,
    value: &Option<String>,
    file_flag: &str,
    file: &Option<String>,
) -> Checked<Option<String>> {
    match (value, file) {
        (Some(_), Some(_)) => Err(invalid(flag, "", &format!("contradicts {file_flag}: give one of them"))),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, Some(path)) => {
            let text = text_file(file_flag, path, SMALL, Takes::Pipes)?
                .ok_or_else(|| invalid(file_flag, path, "cannot be read: no such file"))?;
            match text.trim_end() {
                "" => Err(invalid(file_flag, path, "the file is empty")),
                password => Ok(Some(password.to_string())),
            }
        }
        (None, None) => Ok(None),
    }
}

pub(crate) fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn user_info_is_never_quoted() {
        for (value, shown) in [
            ("wss://u:p@a:1/x", "wss://***@a:1/x"),
            ("wss://u:p/q@a", "wss://***@a"),
            ("u:p@a:9092", "***@a:9092"),
            ("wss://u:p", "wss://u:***"),
            ("ws://[::1]", "ws://[::1]"),
            ("ws://a:70000/x", "ws://a:70000/x"),
            ("@/nowhere", "@/nowhere"),
            ("ops@example.com", "ops@example.com"),
        ] {
            assert_eq!(without_user_info(value), shown);
        }
    }

    #[test]
    fn a_password_comes_through_a_pipe_whether_its_writer_is_quick_or_slow() {
        let read = |path: String| secret("--password", &None, "--password-file", &Some(path));
        for pause in [0, 300] {
            let (pipe, mut writer) = std::io::pipe().expect("a pipe");
            let path = format!("/dev/fd/{}", pipe.as_raw_fd());
            let writing = std::thread::spawn(move || {
                for part in ["hunter", "2\n"] {
                    std::thread::sleep(Duration::from_millis(pause));
                    writer.write_all(part.as_bytes()).expect("written");
                }
            });
            if pause == 0 {
                writing.join().expect("written");
                assert_eq!(read(path).ok().flatten().as_deref(), Some("hunter2"), "the writer is gone");
            } else {
                assert_eq!(read(path).ok().flatten().as_deref(), Some("hunter2"), "the writer pauses");
                writing.join().expect("written");
            }
        }
        let (pipe, writer) = std::io::pipe().expect("a pipe");
        drop(writer);
        assert!(read(format!("/dev/fd/{}", pipe.as_raw_fd())).is_err_and(|e| e.to_string().contains("empty")));
        assert!(read("/tmp".into()).is_err_and(|e| e.to_string().contains("not a regular file")));
    }

    #[test]
    fn a_list_of_dids_without_end_is_refused() {
        let path = std::env::temp_dir().join(format!("atkafka-dids-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("created");
        let dids = || entries("--watched-dids", &[format!("@{}", path.display())], "DID");
        std::fs::write(&path, "\u{feff}did:plc:a\n# b\n\n did:plc:c\r\n").expect("written");
        assert_eq!(dids().ok(), Some(vec!["did:plc:a".to_string(), "did:plc:c".to_string()]));
        file.set_len(LIST_FILE + 1).expect("longer");
        assert!(dids().is_err_and(|e| e.to_string().contains("more than 65536 KiB")));
        std::fs::remove_file(&path).expect("removed");
        assert!(dids().is_err_and(|e| e.to_string().contains("no such file")));
    }
}
