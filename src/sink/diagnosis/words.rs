//! What librdkafka says of an address, and what it surely means. Text in, a value out: nothing is asked here, and no settings
//! are known.

use std::fmt;

use crate::sink::probe::Login;

/// What librdkafka said about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub(super) address: String,
    pub(super) text: String,
}

impl Words {
    /// From a line such as `[thrd:ssl://b:9093/bootstrap]: ssl://b:9093/bootstrap: SSL handshake failed: ...`. `None` where
    /// it is about no address.
    pub fn read(line: &str) -> Option<Words> {
        let line = match line.strip_prefix("[thrd:") {
            Some(rest) => rest.split_once("]: ")?.1,
            None => line,
        };
        let (name, text) = line.split_once(": ")?;
        let name = name.split_once("://").map_or(name, |(_, name)| name);
        // Behind the slash is the node's number, or that it is one of the servers that were given.
        let address = name.split_once('/').map_or(name, |(address, _)| address);
        let (_, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        Some(Words { address: address.into(), text: text.into() })
    }

    /// What was said, without when, in which state and how often.
    fn plain(&self) -> &str {
        self.text.rfind(" (after ").map_or(self.text.as_str(), |end| &self.text[..end])
    }

    /// What they mean, where that is sure.
    pub(super) fn cause(&self) -> Option<Cause> {
        let plain = self.plain();
        let after = |words: &str| plain.split_once(words).map(|(_, rest)| rest.trim());
        if let Some(rest) = after("Failed to resolve '") {
            let why = rest.split_once("': ").map_or(rest, |(_, why)| why);
            return Some(Cause::NotResolved(why.into()));
        }
        if plain.contains("Connect to ") {
            let why = after(" failed: ")?;
            return Some(match why.contains("refused") {
                true => Cause::Refused,
                false => Cause::NoConnection(why.into()),
            });
        }
        if plain.contains("Connection setup timed out in state CONNECT") {
            return Some(Cause::NoConnection("timed out".into()));
        }
        if let Some(list) = after("broker's supported mechanisms:") {
            let list: Vec<String> = list.split(',').map(|m| m.trim().to_string()).filter(|m| !m.is_empty()).collect();
            return Some(if list.is_empty() { Cause::NoLogin } else { Cause::Mechanism(list) });
        }
        if let Some(why) = after("SASL authentication error:") {
            return Some(Cause::Refusal(why.into()));
        }
        if plain.contains("certificate verify failed") || plain.contains("Failed to verify broker certificate") {
            return Some(Cause::Certificate(after("Failed to verify broker certificate:").unwrap_or_default().into()));
        }
        None
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.plain())
    }
}

/// Why an address is of no use to this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    NotResolved(String),
    Refused,
    NoConnection(String),
    Silent,
    NotKafka,
    /// TLS and we have none; the mechanisms, where it wants a login as well.
    WantsTls(Login),
    NoTls(Login),
    WantsLogin(Vec<String>),
    NoLogin,
    Mechanism(Vec<String>),
    /// The login was refused, in the broker's words.
    Refusal(String),
    /// The broker's certificate is refused: why, in OpenSSL's words; empty where these are not known.
    Certificate(String),
    WantsCertificate,
}
