//! Patterns for the PDS of accounts, as `--watched-services` takes them. Pure.

/// One pattern of a service list: a scheme and a port count where they are given.
#[derive(Debug, Clone)]
pub struct Service {
    scheme: Option<String>,
    /// With a dot before it: every host below that name. Empty: every host.
    host: String,
    port: Option<String>,
}

impl Service {
    /// `None`: it can match nothing.
    pub fn parse(pattern: &str) -> Option<Self> {
        let pattern = pattern.to_ascii_lowercase();
        let (scheme, rest) = match pattern.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_string()), rest.strip_suffix('/').unwrap_or(rest)),
            None => (None, pattern.as_str()),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, Some(port.to_string())),
            _ => (rest, None),
        };
        let host = match host.strip_prefix('*') {
            Some(below) if below.is_empty() || below.starts_with('.') => below,
            Some(_) => return None,
            None if host.is_empty() || host.starts_with('.') => return None,
            None => host,
        };
        let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b)) && host != ".";
        let is_port = port.as_ref().is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
        let is_scheme = scheme.as_ref().is_none_or(|s| s == "https" || s == "http");
        (is_name && is_port && is_scheme).then(|| Service { scheme, host: host.into(), port })
    }

    /// Whether a PDS is meant. `pds` is `https://host` or `https://host:port`, in lower case.
    pub fn matches(&self, pds: &str) -> bool {
        let Some((scheme, rest)) = pds.split_once("://") else { return false };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !rest.ends_with(']') => (host, port),
            _ => (rest, if scheme == "https" { "443" } else { "80" }),
        };
        let same_host = if self.host.is_empty() || self.host.starts_with('.') {
            host.ends_with(&self.host)
        } else {
            host == self.host
        };
        same_host
            && self.scheme.as_ref().is_none_or(|s| s == scheme)
            && self.port.as_ref().is_none_or(|wanted| wanted == port)
    }
}
