//! Proxies, by the variables that most programs read: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`. It chooses
//! one for an address and connects to nobody; the variables come from `main`. Pure.

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

/// What is never asked through a proxy: this machine.
const LOOPBACK: [&str; 5] = ["localhost", "*.localhost", "127.*", "[::1]", "::1"];

/// By scheme. A URL with user and password is a secret: only [`shown`] goes into logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
}

impl Proxies {
    /// The error is the name of a variable and what is allowed.
    pub fn from_env<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Result<Proxies, (String, String)> {
        let read = |name: &str| {
            let names = [name.to_string(), name.to_ascii_lowercase()];
            names.into_iter().find_map(|name| Some((variable(&name).filter(|value| !value.trim().is_empty())?, name)))
        };
        let direct = read("NO_PROXY").map(|(list, _)| list).unwrap_or_default();
        let proxy = |name: &str| {
            let Some((url, name)) = read(name).or_else(|| read("ALL_PROXY")) else { return Ok(None) };
            match proxy(url.trim(), direct) {
                // It would pass for none.
                Err(allowed) if !direct.split(',').any(|entry| entry.trim() == "*") => Err((name, allowed)),
                read => Ok(read.ok()),
            }
        };
        Ok(Proxies { http: proxy("HTTP_PROXY")?, https: proxy("HTTPS_PROXY")? })
    }

    /// The one for this address, if it is not reached without.
    pub fn of(&self, uri: &Uri) -> Option<&Proxy> {
        let proxy = match uri.scheme_str() {
            Some("https" | "wss") => self.https.as_ref(),
            _ => self.http.as_ref(),
        };
        proxy.filter(|proxy| !proxy.is_no_proxy(uri))
    }
}

/// Its name without user and password.
pub fn shown(proxy: &Proxy) -> String {
    format!("{}:{}", proxy.host(), proxy.port())
}

fn proxy(url: &str, direct: &str) -> Result<Proxy, String> {
    let allowed = || "a URL such as http://proxy.example:3128".to_string();
    let given = Proxy::new(url).map_err(|_| allowed())?;
    if !matches!(given.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(format!("{}; SOCKS is not supported; NO_PROXY=* goes without a proxy", allowed()));
    }
    let authority = given.uri().authority().map_or("", |authority| authority.as_str());
    let behind_host = &authority.rsplit('@').next().unwrap_or_default()[given.host().len()..];
    if !behind_host.is_empty() && !behind_host[1..].parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(allowed());
    }
    let mut proxy = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(user) = given.username() {
        proxy = proxy.username(user);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    for entry in LOOPBACK.into_iter().chain(direct.split(',').map(str::trim)).filter(|entry| !entry.is_empty()) {
        // As curl: a name stands for those below it as well.
        proxy = proxy.no_proxy(entry).no_proxy(&format!(".{}", entry.trim_start_matches('.')));
        if let Some(bare) = entry.strip_prefix('.') {
            proxy = proxy.no_proxy(bare);
        }
    }
    proxy.build().map_err(|_| allowed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], url: &str) -> Result<Option<String>, (String, String)> {
        let proxies = Proxies::from_env(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| *value))?;
        Ok(proxies.of(&url.parse().expect("a URL")).map(shown))
    }

    fn is(variables: &[(&str, &str)], url: &str, proxy: Option<&str>) {
        assert_eq!(of(variables, url), Ok(proxy.map(str::to_string)), "{variables:?} {url}");
    }

    #[test]
    fn by_scheme_and_not_for_what_is_excepted() {
        let both = [("HTTPS_PROXY", "http://a:1"), ("http_proxy", "b:2"), ("ALL_PROXY", "http://c:3")];
        is(&both, "wss://relay.example/x", Some("a:1"));
        is(&both, "https://plc.example", Some("a:1"));
        is(&both, "ws://relay.example:2470", Some("b:2"));
        is(&both[2..], "ws://relay.example", Some("c:3"));
        is(&[("ALL_PROXY", "")], "ws://relay.example", None);
        is(&[], "ws://relay.example", None);
        for loopback in ["localhost", "x.localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            is(&both, &format!("wss://{loopback}:1/"), None);
        }
        let mut some = both.to_vec();
        some.push(("no_proxy", " relay.example , .internal,10.0.0.7"));
        for direct in ["relay.example", "eu.relay.example", "a.internal", "internal", "10.0.0.7"] {
            is(&some, &format!("wss://{direct}"), None);
        }
        for through in ["myrelay.example", "plc.example", "10.0.0.70"] {
            is(&some, &format!("wss://{through}"), Some("a:1"));
        }
        is(&[("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "*")], "wss://relay.example", None);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_value() {
        for url in ["socks5://u:secret@a:1", "http://u:secret@", "ftp://u:secret@a", "http://u:secret@a:x"] {
            let (variable, allowed) = of(&[("https_proxy", url)], "wss://a").expect_err("refused");
            assert!(variable == "https_proxy" && allowed.contains("http://proxy.example:3128"), "{variable} {allowed}");
            assert!(!allowed.contains("secret"));
            is(&[("https_proxy", url), ("NO_PROXY", "*")], "wss://a", None);
        }
        let proxies = Proxies::from_env(|name| (name == "HTTPS_PROXY").then_some("http://us%40er:p%3Aw@a:1"));
        let proxies = proxies.expect("valid");
        let proxy = proxies.of(&Uri::from_static("wss://b")).expect("one");
        assert_eq!((proxy.username(), proxy.password()), (Some("us@er"), Some("p:w")));
        assert_eq!(shown(proxy), "a:1");
    }
}
