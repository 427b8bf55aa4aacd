//! What is at an address, by asking it: a connection, a Kafka request in plain, one over TLS. Short and without state; it
//! blocks until its [`Budget`] is spent at most, and longer only where the system's resolver hangs.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use native_tls::{Certificate, HandshakeError, TlsConnector};

/// For all that is asked at one time: who wants to stop has to wait for it.
const SPENT_AFTER: Duration = Duration::from_secs(4);
/// Of that, for a connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// With less than that left, nothing new is asked: what is not answered by then says nothing.
const LEAST: Duration = Duration::from_millis(500);
/// An answer to these requests has some hundred bytes.
const LARGEST_ANSWER: usize = 1 << 16;

const SASL_HANDSHAKE: u16 = 17;
const API_VERSIONS: u16 = 18;

/// The time for a few questions together.
#[derive(Clone, Copy)]
pub struct Budget(Instant);

impl Budget {
    pub fn new() -> Budget {
        Budget(Instant::now() + SPENT_AFTER)
    }

    pub fn is_spent(self) -> bool {
        self.0.saturating_duration_since(Instant::now()) < LEAST
    }

    fn patience(self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).clamp(LEAST, PATIENCE)
    }
}

/// What was found at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    NotResolved(String),
    Refused,
    NoConnection(String),
    /// It takes connections, and answers nothing.
    Silent,
    /// It answers, and not as Kafka does.
    NotKafka,
    Kafka {
        tls: bool,
        login: Login,
    },
    /// TLS, and then no answer to a client without a certificate: what was said.
    Tls(String),
}

/// Whether a listener of Kafka wants SASL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    None,
    /// Any of these mechanisms.
    Any(Vec<String>),
    Unknown,
}

/// Asks the address `host:port`.
pub fn look(address: &str, budget: Budget) -> Seen {
    let mut socket = match connect(address, budget) {
        Ok(socket) => socket,
        Err(seen) => return seen,
    };
    match api_versions(&mut socket) {
        Ok(_) => return Seen::Kafka { tls: false, login: login(&mut socket) },
        Err(e) if timed_out(&e) => return Seen::Silent,
        Err(_) => {}
    }
    // It closed the connection, or said something else: what a TLS port does with a request in plain.
    let socket = match connect(address, budget) {
        Ok(socket) => socket,
        Err(seen) => return seen,
    };
    let connector =
        TlsConnector::builder().danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true).build();
    let Ok(connector) = connector else { return Seen::NotKafka };
    match connector.connect(host(address), socket) {
        Ok(mut stream) => match api_versions(&mut stream) {
            Ok(_) => Seen::Kafka { tls: true, login: login(&mut stream) },
            // TLS 1.3 says only now that it wants a certificate.
            Err(e) => Seen::Tls(e.to_string()),
        },
        Err(HandshakeError::Failure(e)) if e.to_string().contains("alert") => Seen::Tls(e.to_string()),
        Err(_) => Seen::NotKafka,
    }
}

/// Why the certificate at the address is not trusted, in OpenSSL's words: by the CAs in `ca_file`, or by the system's.
pub fn distrust(address: &str, ca_file: Option<&str>, budget: Budget) -> Option<String> {
    let mut builder = TlsConnector::builder();
    if let Some(path) = ca_file {
        builder.disable_built_in_roots(true);
        for certificate in Certificate::stack_from_pem(&std::fs::read(path).ok()?).ok()? {
            builder.add_root_certificate(certificate);
        }
    }
    match builder.build().ok()?.connect(host(address), connect(address, budget).ok()?) {
        Err(HandshakeError::Failure(e)) => Some(e.to_string()),
        _ => None,
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_start_matches('[').trim_end_matches(']')
}

pub fn connect(address: &str, budget: Budget) -> Result<TcpStream, Seen> {
    let addresses = address.to_socket_addrs().map_err(|e| Seen::NotResolved(e.to_string()))?;
    let mut failed = Seen::NotResolved("no address".into());
    // A name has one or two; each may cost the whole patience.
    for address in addresses.take(3) {
        match TcpStream::connect_timeout(&address, budget.patience()) {
            Ok(socket) => {
                let patience = Some(budget.patience());
                let timeouts = socket.set_read_timeout(patience).and_then(|()| socket.set_write_timeout(patience));
                return timeouts.map(|()| socket).map_err(|e| Seen::NoConnection(e.to_string()));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => failed = Seen::Refused,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => failed = Seen::NoConnection("timed out".into()),
            Err(e) => failed = Seen::NoConnection(e.to_string()),
        }
    }
    Err(failed)
}

fn timed_out(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What one connection tells of a broker, without a login.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The newest `metadata.version` that it can have, which tells its version; brokers before 3.3 have none.
    pub level: Option<i16>,
    /// Its certificate, as DER.
    pub certificate: Option<Vec<u8>>,
}

/// Asks the address `host:port` for its certificate and features. Nobody is believed for the sake of the certificate: it is
/// only read.
pub fn facts(address: &str, tls: bool, budget: Budget) -> Facts {
    let Ok(mut socket) = connect(address, budget) else { return Facts::default() };
    if !tls {
        return Facts { level: level(&mut socket), certificate: None };
    }
    let connector =
        TlsConnector::builder().danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true).build();
    let Some(mut stream) = connector.ok().and_then(|c| c.connect(host(address), socket).ok()) else {
        return Facts::default();
    };
    let certificate = stream.peer_certificate().ok().flatten().and_then(|c| c.to_der().ok());
    Facts { level: level(&mut stream), certificate }
}

/// The newest `metadata.version` that a broker can have, by ApiVersions version 3 (KIP-584). Its tagged field 0 is a list of
/// features: name, oldest and newest version of each.
fn level(stream: &mut (impl Read + Write)) -> Option<i16> {
    const NAME: &[u8] = b"metadata.version";
    // The end of the header's tags, two names with their lengths and one, the end of the tags.
    let body = [&[0, 8][..], b"atkafka", &[2], b"0", &[0]].concat();
    let answer = ask(stream, API_VERSIONS, 3, &body).ok()?;
    let at = answer.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
    answer.get(at + 2..at + 4).map(|newest| i16::from_be_bytes([newest[0], newest[1]]))
}

/// The requests that a broker takes: number, oldest and newest version, by ApiVersions (version 0), which every broker
/// since 0.10 answers to everybody.
pub fn api_versions(stream: &mut (impl Read + Write)) -> io::Result<Vec<(i16, i16, i16)>> {
    let answer = ask(stream, API_VERSIONS, 0, &[])?;
    // error, count, then key, oldest and newest each
    let entries = answer.get(6..).unwrap_or_default();
    let int = |e: &[u8], at: usize| i16::from_be_bytes([e[at], e[at + 1]]);
    let list: Vec<_> = entries.chunks_exact(6).map(|e| (int(e, 0), int(e, 2), int(e, 4))).collect();
    if list.is_empty() { Err(io::Error::other("the answer is not one of Kafka")) } else { Ok(list) }
}

/// By a SaslHandshake for a mechanism that nobody has: a listener without SASL says that it comes out of turn, one with
/// SASL names what it has.
fn login(stream: &mut (impl Read + Write)) -> Login {
    const UNSUPPORTED_MECHANISM: i16 = 33;
    const ILLEGAL_STATE: i16 = 34;
    let Ok(answer) = ask(stream, SASL_HANDSHAKE, 1, &[0, 1, b'?']) else { return Login::Unknown };
    match answer.first_chunk().map(|code| i16::from_be_bytes(*code)) {
        Some(ILLEGAL_STATE) => Login::None,
        Some(UNSUPPORTED_MECHANISM) => {
            let mut names = Vec::new();
            let mut rest = answer.get(6..).unwrap_or_default();
            while let Some((size, tail)) = rest.split_first_chunk()
                && let Some((name, tail)) = tail.split_at_checked(u16::from_be_bytes(*size) as usize)
            {
                names.push(String::from_utf8_lossy(name).into_owned());
                rest = tail;
            }
            Login::Any(names)
        }
        _ => Login::Unknown,
    }
}

/// One request; the body of its answer.
fn ask(stream: &mut (impl Read + Write), key: u16, version: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    const CLIENT: &[u8] = b"atkafka";
    let mut request = Vec::with_capacity(32);
    request.extend((8 + 2 + CLIENT.len() as u32 + body.len() as u32).to_be_bytes());
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1u32.to_be_bytes());
    request.extend((CLIENT.len() as u16).to_be_bytes());
    request.extend(CLIENT);
    request.extend(body);
    stream.write_all(&request)?;
    stream.flush()?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = u32::from_be_bytes(size) as usize;
    if !(8..=LARGEST_ANSWER).contains(&size) {
        return Err(io::Error::other("the answer is not one of Kafka"));
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    // The correlation id, which is ours.
    if answer[..4] != [0, 0, 0, 1] {
        return Err(io::Error::other("the answer is not one of Kafka"));
    }
    Ok(answer.split_off(4))
}
